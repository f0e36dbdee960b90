"""Make a recipe of one's own from another one, with data of one's own, in any directory.

SOURCE is the name of a recipe (mini_tts, an4) or its directory. DATA is a Kaldi data directory, a CSV, TSV or
JSON-lines manifest, an LJSpeech folder, a Common Voice list or a Lhotse manifest. Without --valid, a validation set is
held out of the training data; without --test also a test set, and its copy in rooms and noise is the other domain.
Without --train the recipe is copied as it is. See docs/fork.md.
"""

import re
import sys
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser, add_repeated_audio, add_strip_tags

# Sets and directories that recipes make themselves.
RESERVED = ("train", "valid", "lm", "tts")
RESERVED_ENDS = ("_sp", ".unfiltered")


def parse_test(spec):
    """(name, path, domain) of NAME=DATA:id or NAME=DATA:ood. Raises UserError."""
    name, equals, rest = spec.partition("=")
    path, colon, domain = rest.rpartition(":")
    if not equals or not colon or not path or domain not in ("id", "ood"):
        raise UserError(f"--test {spec} must be NAME=DATA:id (in-domain) or NAME=DATA:ood (another domain)")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name in RESERVED or name.endswith(RESERVED_ENDS):
        raise UserError(
            f"--test {spec}: a name has letters, digits, _ - ., is none of {', '.join(RESERVED)} and does not end with "
            + " or ".join(RESERVED_ENDS)
        )
    return name, path, domain


def read_arguments(args):
    """The fork.Data of the options, None without --train. Raises UserError."""
    from espnet_llmvq.experiment.fork import Data

    if not args.train:
        given = [f"--{name}" for name in ("valid", "test", "text") if getattr(args, name)]
        if given:
            raise UserError(f"{given[0]} needs --train")
        return None
    data = Data({"train": args.train}, {}, args.text or "", args.repeated_audio, args.strip_tags)
    if args.valid:
        data.paths["valid"] = args.valid
    for name, path, domain in map(parse_test, args.test):
        if name in data.domains:
            raise UserError(f"--test gives the name {name} twice")
        data.paths[name], data.domains[name] = path, domain
    return data


def main(argv=None):
    parser = Parser(description=__doc__, usage="%(prog)s SOURCE TARGET [options] | %(prog)s --changes TARGET")
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="recipe to fork")
    parser.add_argument("target", nargs="?", metavar="TARGET", help="directory to write; must not exist")
    parser.add_argument("--train", metavar="DATA", help="training data")
    parser.add_argument("--valid", metavar="DATA", help="validation data")
    parser.add_argument(
        "--test", action="append", default=[], metavar="NAME=DATA:DOMAIN",
        help="a test set; DOMAIN is id for in-domain, ood for out of domain; repeated",
    )  # fmt: skip
    parser.add_argument("--text", metavar="FILE", help="more LM text, one sentence a line")
    add_repeated_audio(parser)
    add_strip_tags(parser)
    parser.add_argument("--check", action="store_true", help="read everything, say what is there, write nothing")
    parser.add_argument("--changes", metavar="TARGET", help="show what changed upstream since this fork was made")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment import fork

    if args.changes:
        print("\n".join(fork.changes(args.changes)))
        return 0
    if not args.target:
        parser.error("give SOURCE and TARGET, or --changes TARGET")
    data = read_arguments(args)
    _, recipe = fork.find_recipe(args.source)
    fork.check_target(Path(args.target))
    options = {}
    if data:
        sets = fork.read_data(data)
        print("\n".join(fork.report(data, sets)))
        # A recipe may be anyone's: what only looks at it runs nothing of it.
        read = fork.written_options if args.check else fork.source_options
        options = fork.own_options(recipe, data, sets, read)
        print(f"tokenizer: {options['vocab_size']} pieces, {options['whole_words']} of them whole words")
    if args.check:
        print(f"nothing written; {args.target} would be a fork of {recipe}")
        return 0
    fork.make(args.source, args.target, data, options)
    print(f"{args.target}: a fork of {recipe}; next: cd {args.target} && ./run.sh --smoke", file=sys.stderr)
    return 0
