"""Command-line habits shared by every command: spelling of options and clean errors."""

import argparse
import dataclasses
import os
import sys

from espnet_llmvq.base.errors import exit_with, naming_extra, nearest
from espnet_llmvq.base.files import accept_overwriting


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Says the defaults of options that have one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser that takes ``--a-b`` for ``--a_b`` and names the nearest option on a typo."""

    also = ()  # options that belong elsewhere, for hints
    gone = {}  # {option that is no more: what is instead}

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", Formatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        fixed = []
        for i, arg in enumerate(args):
            if not arg.isprintable() and any("\udc80" <= c <= "\udcff" for c in arg):
                self.error(f"{os.fsencode(arg)!r} is not UTF-8; names, ids and texts must be")
            if arg == "--":
                fixed += args[i:]
                break
            flag, eq, value = arg.partition("=")
            if flag.startswith("--") and flag not in known and flag.replace("-", "_")[2:]:
                flag = "--" + flag[2:].replace("-", "_")
            fixed.append(flag + eq + value)
        return super().parse_known_args(fixed, namespace)

    def parse_args(self, args=None, namespace=None):
        args, extra = self.parse_known_args(args, namespace)
        if extra:
            flags = [a.partition("=")[0] for a in extra if a.startswith("-")]
            if not flags:
                self.error(f"unexpected: {' '.join(extra)}; an option takes one value, one that holds blanks is quoted")
            known = [*self._option_string_actions, *self.also]
            hints = [f"{f} ({self.gone[f]})" if f in self.gone else f"{f}{nearest(f, known)}" for f in flags]
            self.error("unknown option: " + ", ".join(hints))
        return args


def positive(text):
    """Type of an option: a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


positive.__name__ = "positive number"  # argparse puts it into its message


def experiment_parser(doc, systems=False, writes=True):
    """The `Parser` of a command that works on a planned run, with `systems` on some of its systems."""
    parser = Parser(description=doc)
    parser.add_argument("--exp", default="exp", help="directory or file with the plan of the run (experiment.json)")
    if systems:
        parser.add_argument("--systems", default="", help="of them only these")
    if writes:
        add_overwrite(parser)
    return parser


class _Overwrite(argparse.Action):
    def __call__(self, *_):
        accept_overwriting()


def add_overwrite(parser):
    """Add --overwrite to a command that writes files by names."""
    text = "replace files that are in the way, though llmvq did not write them, or not as they are"
    parser.add_argument("--overwrite", action=_Overwrite, nargs=0, default=argparse.SUPPRESS, help=text)


def add_nj(parser, help="processes", default=2):
    parser.add_argument("--nj", type=positive, default=default, help=help)


def add_checks(parser):
    """Add the arguments of `llmvq data validate` and `fix`: what counts as a defect."""
    true_false = ("true", "false")
    parser.add_argument("data_dir", help="data directory")
    parser.add_argument("--audio", choices=true_false, default="true", help="open and check every audio file")
    add_nj(parser, "threads for audio")
    parser.add_argument("--allow_empty_text", choices=true_false, default="false", help="accept empty transcripts")


def add_repeated_audio(parser):
    parser.add_argument(
        "--repeated_audio", type=switch, nargs="?", const=True, default=False, metavar="true|false",
        help="utterances may have the same audio, as several transcripts of it have",
    )  # fmt: skip


def add_strip_tags(parser):
    parser.add_argument(
        "--strip_tags", type=switch, nargs="?", const=True, default=False, metavar="true|false",
        help="leave out the tags of a recogniser in front of texts, such as language English<asr_text>",
    )  # fmt: skip


def checks(args):
    """The keyword arguments that `add_checks` asked for."""
    return {"audio": args.audio == "true", "nj": args.nj, "allow_empty_text": args.allow_empty_text == "true"}


def add_options(parser, cls):
    """Add an option for each field of a dataclass made with `base.config.option`."""
    for field in dataclasses.fields(cls):
        if "help" in field.metadata:
            choices = field.metadata["choices"]
            text = field.metadata["help"] + (f"; one of {', '.join(choices)}" if choices else "")
            kind = {"type": field.type}
            if field.type is bool:
                kind = {"type": switch, "nargs": "?", "const": True, "metavar": "true|false"}
            parser.add_argument(f"--{field.name}", default=field.default, help=text, **kind)


def switch(text):
    """Type of an option: true or false."""
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


switch.__name__ = "true or false"  # argparse puts it into its message


def options_of(cls, args, **more):
    """The dataclass of parsed options. Raises UserError for what it refuses."""
    names = [field.name for field in dataclasses.fields(cls) if "help" in field.metadata]
    return cls(**{name: getattr(args, name) for name in names}, **more)


def run(main, argv=None):
    """Call ``main(argv)``; turn a UserError, a full disk or a missing library into one clear line and exit status 1."""
    try:
        with naming_extra():
            sys.exit(main(argv))
    except BrokenPipeError:
        sys.exit(141)
    except Exception as err:
        exit_with(err)
