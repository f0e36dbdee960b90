"""A recipe of one's own, made from another one: what is copied, what is written for it, what changed upstream since.

A fork is made of copies, so nothing in it breaks when the toolkit is moved, updated or installed elsewhere. `.fork/`
keeps the files as they were upstream, to compare with.
"""

import difflib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import espnet_llmvq
from espnet_llmvq.base.environment import get_commit
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import beside, one_line
from espnet_llmvq.data.shared import by_file, check_apart, check_repeated, overlaps, places
from espnet_llmvq.experiment.options import Options
from espnet_llmvq.experiment.plan import SMOKE_LINES

RECORD = Path(".fork/fork.json")
UPSTREAM = Path(".fork/upstream")
# What runs make, and what belongs to the source alone.
MADE = re.compile(r"(data|dump|exp).*|downloads([_.-].*)?")
NOT_OURS = re.compile(r"RESULTS.*\.md|toolkit\.sh")
IGNORED = "/data*/\n/dump*/\n/exp*/\n/downloads/\n/toolkit.sh\n"
OF_CORPUS = ("db.sh", "README.md", "local/", "conf/card.md", "conf/licences/")  # not for data of one's own
# Options of run.sh that name sets or belong to their text.
OF_SETS = (
    "train_set", "valid_set", "test_sets", "align_sets", "lm_train_text", "lm_valid_text", "word_lists", "title",
    "set_normalisers", "set_metrics", "local_data_opts", "vocab_size", "whole_words", "smoke_opts", "tokenizer_text",
    "ctms", "questions", "question_examples", "questions_config",
)  # fmt: skip
MORE_DATA = ("tts_text", "texts")  # what mixtures are made of, beside the sets
DEFAULT_TESTS = "test:id test_noise:ood"


@dataclass
class Data:
    """Data of one's own: {set: path} with train and, unless held out, valid and test sets; domains of the test sets."""

    paths: dict
    domains: dict = field(default_factory=dict)
    text: str = ""
    repeated_audio: bool = False
    strip_tags: bool = False

    @property
    def held_out(self):
        """Names of the sets that are held out of train."""
        return ["valid"] * ("valid" not in self.paths) + ["test"] * (not self.domains)

    @property
    def test_sets(self):
        """As --test_sets has them."""
        pairs = [f"{name}:{domain}" for name, domain in self.domains.items()]
        return " ".join(pairs) or DEFAULT_TESTS


def egs_dir():
    """The directory of the recipes: of the checkout, or of the installed package. UserError if neither is."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "egs", package / "egs"):
        if (folder / "TEMPLATE").is_dir():
            return folder
    raise UserError(f"no recipes beside or in {package}; install the toolkit again, or give a recipe's directory")


def find_recipe(source):
    """(name to remember, directory) of a recipe given by name (mini_tts, an4/llmasr1) or directory."""
    known = {}
    for run in sorted(egs_dir().glob("*/*/run.sh")):
        corpus = run.parent.parent.name
        known[f"{corpus}/{run.parent.name}"] = run.parent
        if run.parent.name == "llmasr1":
            known[corpus] = run.parent
    if source not in known and all((Path(source) / name).is_file() for name in ("run.sh", "llmasr.sh")):
        return str(Path(source).absolute()), Path(source)
    return source, known[check_name("recipe", source, known)]


def recipe_files(recipe):
    """{relative path: path} of the files that make a recipe, links followed; nothing that its runs made."""
    found = {}
    for entry in sorted(recipe.iterdir()):
        if entry.name.startswith(".") or NOT_OURS.fullmatch(entry.name):
            continue
        if entry.is_file():
            found[entry.name] = entry
        elif entry.is_dir() and not MADE.fullmatch(entry.name):
            for folder, folders, names in os.walk(entry, followlinks=True):
                folders[:] = sorted(f for f in folders if f != "__pycache__" and not f.startswith("."))
                for path in (Path(folder) / name for name in sorted(names) if not name.startswith(".")):
                    found[str(path.relative_to(recipe))] = path
    return found


def fork_files(recipe, own_data):
    """{relative path: path} of what a fork takes from upstream; run.sh too, though `own_data` replaces it."""
    files = recipe_files(recipe)
    # llmasr.sh looks for it in a checkout, which an installed package is not.
    files.setdefault("cmd.sh", egs_dir() / "TEMPLATE" / "llmasr1" / "cmd.sh")
    if own_data:
        files = {name: path for name, path in files.items() if not name.startswith(OF_CORPUS)}
        files["local/data.sh"] = egs_dir() / "TEMPLATE" / "llmasr1" / "local" / "data.sh"
    return files


def copy_files(files, target):
    """Copy {relative path: path} into `target`, with their modes."""
    for name, path in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / name)


def source_options(recipe):
    """{option: value} that a recipe's run.sh gives to llmasr.sh: run.sh is run with a stand-in of it."""
    with tempfile.TemporaryDirectory() as room:
        room = Path(room)
        copy_files(recipe_files(recipe), room)
        write_toolkit(room)
        (room / "llmasr.sh").write_text("#!/usr/bin/env bash\nprintf '%s\\0' \"$@\" >options\n")
        done = subprocess.run(["bash", "run.sh"], cwd=room, capture_output=True, text=True)
        if done.returncode or not (room / "options").is_file():
            raise UserError(f"{recipe}/run.sh: does not call ./llmasr.sh: {done.stderr.strip()}")
        words = (room / "options").read_text(encoding="utf-8").split("\0")[:-1]
    return as_options(words, recipe)


def written_options(recipe):
    """{option: value} as a recipe's run.sh has them in its lines `opts=( ... )`, without running any of it.

    What the shell would have to work out is left out. No other file of it is looked at but llmasr.sh. Raises UserError
    if there are no such lines.
    """
    run = Path(recipe, "run.sh")
    text = run.read_text(encoding="utf-8", errors="replace")
    blocks = re.findall(r"^opts\+?=\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    try:
        words = [word for block in blocks for word in shlex.split(block, comments=True)]
    except ValueError as err:
        raise UserError(f"{run}: its opts=( ... ) cannot be read: {err}") from None
    if not words:
        raise UserError(f"{run}: has no lines opts=( ... ) to read, and --check does not run it")
    return {name: value for name, value in as_options(words, recipe).items() if not {"$", "`"} & set(value)}


def as_options(words, recipe):
    """{option: value} of the words that a recipe gives to its llmasr.sh."""
    # As utils/parse_options.sh has it: all others take no word that begins like an option.
    block = Path(recipe, "llmasr.sh").read_text(encoding="utf-8", errors="replace").partition("# end options")[0]
    valued = re.findall(r"^([a-z_0-9]+)=(?!true\b|false\b)", block, re.MULTILINE)
    options = {}
    while words:
        name, equals, value = words.pop(0).removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not equals:
            alone = not words or (name not in valued and words[0].startswith("--"))
            value = "true" if alone else words.pop(0)
        options[name] = value
    return options


def write_toolkit(target):
    """Write toolkit.sh, which tells path.sh where the toolkit and its environment are on this machine."""
    root = Path(espnet_llmvq.__file__).resolve().parent.parent
    lines = [
        "# shellcheck shell=bash disable=SC2034",
        "# Where the toolkit is on this machine; written by llmvq recipe fork, not for version control. Set",
        "# MAIN_ROOT to use another one.",
        f"MAIN_ROOT={shlex.quote(str(root))}",
    ]
    if not (root / "tools" / "activate_env.sh").is_file():
        lines.append(f"PATH={shlex.quote(str(Path(sys.executable).parent))}:${{PATH}}")
    (target / "toolkit.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- Data of one's own ---------------------------------------------------------------------------


def read_data(data):
    """{set: (form, DataDir)} of all sets, held-out ones with them. Raises UserError for bad data.

    Also when audio of the training set is in another set: its results would be worth nothing. And, unless
    `repeated_audio`, where utterances of a set have the same audio.
    """
    from espnet_llmvq.data import importer

    sets = {}
    for name, path in data.paths.items():
        try:
            sets[name] = importer.read(path, data.strip_tags)
        except UserError as err:
            raise UserError(f"{name}: {err}") from None
    if data.held_out:
        form, everything = sets["train"]
        try:
            held = importer.hold_out(everything, len(data.held_out))
        except UserError as err:
            raise UserError(f"{data.paths['train']}: {err}") from None
        for name, part in zip(("train", *data.held_out), held, strict=True):
            sets[name] = form, part
    if not data.repeated_audio:
        for name, (_, found) in sets.items():
            check_repeated(found, name)
    trained = by_file(places(sets["train"][1]))
    for name, (_, found) in sets.items():
        if name == "train" or name in data.held_out:  # whose utterances are others, though turns may overlap
            continue
        shared = [utt for utt, place in places(found).items() if overlaps(place, trained)]
        if shared:
            some = f"{len(shared)} of {len(found.text)} utterances, such as {shared[0]},"
            raise UserError(f"{name}: {some} are in the training set too")
    check_apart({name: found for name, (_, found) in sets.items()}, sets.keys() - {"train", "valid"})  # as stage 1 does
    return sets


def lm_lines(data, sets):
    """The text of tokenizer and language model, as local/data.sh writes it: training transcripts, then --text."""
    from espnet_llmvq.data.manifest import read_lines

    train = sets["train"][1]
    return [train.text[utt] for utt in train.utts] + (read_lines(data.text) if data.text else [])


def report(data, sets):
    """Lines that say what was read: utterances, speakers, words, hours; reads the header of every audio file."""
    from espnet_llmvq.data import audio

    spoken = {" ".join(text.split()).lower() for text in lm_lines(data, sets)}
    lines = []
    for name, (form, found) in sets.items():
        seconds = 0.0
        for utt in found.utts:
            path, start, end = found.location(utt)
            seconds += (audio.info(path).duration if end is None else end) - start
        words = sum(len(text.split()) for text in found.text.values())
        line = f"{name}: {len(found.text)} utterances, {len(found.spk2utt)} speakers, {words} words, "
        line += f"{seconds / 3600:.2f} h; {form}" + (", held out of train" if name in data.held_out else "")
        if found.entities:
            line += f"; {sum(map(len, found.entities.values()))} entities"
        if name != "train":
            shared = sum(text.lower() in spoken for text in found.text.values())
            line += f"; {shared} of its texts are in the LM text" * (shared > 0)
        lines.append(line)
    if data.text:
        lines.append(f"text: {len(lm_lines(data, sets)) - len(sets['train'][1].text)} lines")
    return lines


def local_path(path, target):
    """`path` as db.sh writes it: relative if it is beside or in the fork, so that both can be moved together."""
    path, target = Path(path).absolute(), Path(target).absolute()
    return os.path.relpath(path, target) if path.is_relative_to(target.parent) else str(path)


RUN_SH = """\
#!/usr/bin/env bash
# {name}: a fork of {source}.
# Options are those of llmasr.sh; --smoke for a few utterances and steps.
set -euo pipefail

opts=(
{options}
)
exec ./llmasr.sh "${{opts[@]}}" "$@"
"""
DB_SH = """\
# shellcheck shell=bash disable=SC2034
# Where the data of each set is, in any form that llmvq data import takes. Relative paths start at the recipe.
declare -A DATA=(
{paths}
)
# Sets to hold out of train.
HELD_OUT={held_out}
# More text for the tokenizer and the language model, one sentence a line; empty: transcripts alone.
TEXT={text}
"""
README = """\
# {name}

A fork of the recipe {source} of espnet_llmvq {version}, commit {commit}.

    ./run.sh --smoke     # all stages on a handful of utterances
    ./run.sh             # results in exp/RESULTS.md and exp/report/report.html
    llmvq recipe fork --changes .   # what has changed upstream since

Test sets: {test_sets}. `db.sh` says where the data is, `run.sh` holds the settings, `conf/` the
configs. Say here what the sets are, where text comes from, and what training and test share.
"""


def own_files(target, source, commit, data, options):
    """{relative path: content} of the files of a fork with data of its own."""
    paths = [f"    [{name}]={shlex.quote(local_path(p, target))}" for name, p in data.paths.items()]
    return {
        "run.sh": RUN_SH.format(
            name=one_line(target.name),
            source=one_line(source),
            options="\n".join(f"    {shlex.quote(f'--{key}')} {shlex.quote(value)}" for key, value in options.items()),
        ),
        "db.sh": DB_SH.format(
            paths="\n".join(paths),
            held_out=shlex.quote(" ".join(data.held_out)),
            text=shlex.quote(local_path(data.text, target)) if data.text else "",
        ),
        "README.md": README.format(
            name=target.name, source=source, version=espnet_llmvq.__version__, commit=commit, test_sets=data.test_sets
        ),
    }


def own_options(recipe, data, sets, read=source_options):
    """Options of run.sh: the source's, with our sets and sizes of the vocabulary that fit our text.

    read: `source_options`, or `written_options` where nothing of the source may be run.
    """
    from espnet_llmvq.llm.tokenizer import fitting_sizes

    theirs, lines = read(recipe), lm_lines(data, sets)
    if theirs.get("llm", "").startswith("llm/"):  # where a local/llm.sh writes
        raise UserError(
            f"{recipe}: its local/llm.sh makes the LLM ({theirs['llm']}) of its own texts: name one that is there, as "
            "db.sh says (LLM=PATH llmvq recipe fork ...), or fork it without --train"
        )
    more = [f"--{name}" for name in MORE_DATA if theirs.get(name)]
    if more:
        raise UserError(
            f"{recipe}: its systems need more than sets ({' and '.join(more)} of run.sh): fork it without --train and "
            "change local/data.sh, or fork another recipe"
        )
    wanted = {name: str(theirs.get(name, getattr(Options, name))) for name in ("vocab_size", "whole_words")}
    for name, value in wanted.items():
        if not re.fullmatch("[0-9]{1,6}", value):
            raise UserError(f"{recipe}/run.sh: --{name} {value}: give a whole number of at most 999,999")
    vocab_size, whole_words = fitting_sizes(lines, *map(int, wanted.values()))
    smoke_sizes = "--vocab_size {} --whole_words {}".format(*fitting_sizes(lines[:SMOKE_LINES], 160, 40))
    return {
        "train_set": "train",
        "valid_set": "valid",
        "test_sets": data.test_sets,
        **{key: value for key, value in theirs.items() if key not in OF_SETS},
        "vocab_size": str(vocab_size),
        "whole_words": str(whole_words),
        "lm_valid_text": "valid=data/lm/valid.txt",
        "smoke_opts": smoke_sizes,
        **({"repeated_audio": "true"} if data.repeated_audio else {}),
        **({"local_data_opts": "--strip_tags true"} if data.strip_tags else {}),
    }


# --- Making a fork, and looking back ---------------------------------------------------------------


def check_target(target):
    """Raise UserError if there is something at `target`, other than an empty directory."""
    empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if os.path.lexists(target) and not empty:
        raise UserError(f"{target} is there already; nothing is overwritten, so name another directory")
    if empty and os.path.samefile(target, os.curdir):
        # It would be replaced, and the shell be left in a directory that is gone.
        raise UserError(f"{target} is the current directory; name another, or go a directory up")


def make(source, target, data=None, options=None):
    """Write the fork of a recipe to `target`, which appears when it is complete.

    data: a `Data`, with the options of its run.sh (`own_options`); None: the recipe as it is, with its corpus.
    """
    target = Path(os.path.abspath(target))
    check_target(target)
    name, recipe = find_recipe(source)
    files, commit = fork_files(recipe, data is not None), get_commit(recipe / "run.sh")
    own = {}
    if data:
        own = own_files(target, source, commit, data, {**options, "title": one_line(target.name)})
    tmp = beside(target, "new")
    shutil.rmtree(tmp, ignore_errors=True)
    copy_files(files, tmp)
    copy_files(files, tmp / UPSTREAM)
    own[RECORD] = json.dumps(
        {"source": name, "version": espnet_llmvq.__version__, "commit": commit, "own_data": data is not None}, indent=1
    )
    own[".gitignore"] = IGNORED
    for file, text in own.items():
        (tmp / file).write_text(text, encoding="utf-8")
    write_toolkit(tmp)
    for script in (tmp / "run.sh", tmp / "llmasr.sh", *(tmp / "local").glob("*.sh")):
        script.chmod(0o755)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(tmp, target)


def read_record(target):
    """The record of a fork. Raises UserError if `target` is none."""
    try:
        record = json.loads((Path(target) / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in ("source", "version")):
            raise ValueError("it names no source and version")
        return record
    except (OSError, ValueError) as err:
        raise UserError(f"{target}: is no fork: {target}/{RECORD} cannot be read ({err})") from None


def changes(target):
    """Lines that say what changed upstream since `target` was forked, with diffs, and what the fork changed itself."""
    target, record = Path(target), read_record(target)
    recipe = find_recipe(record["source"])[1]
    now = fork_files(recipe, record["own_data"])
    kept = target / UPSTREAM
    then = {str(p.relative_to(kept)): p for p in sorted(kept.rglob("*")) if p.is_file()}
    lines = [
        f"forked from {record['source']} of version {record['version']}, commit {record['commit']}",
        f"upstream is now version {espnet_llmvq.__version__}, commit {get_commit(recipe / 'run.sh')}",
    ]
    count = 0
    for name in sorted(then.keys() | now.keys()):
        before = read_text(then.get(name))
        after = read_text(now.get(name))
        if before == after:
            continue
        count += 1
        what = "new" if before is None else "removed" if after is None else "changed"
        mine = read_text(target / name)
        if mine == after:
            advice = "the fork has it already"
        elif mine == before:
            advice = f"not changed in the fork: {f'copy {now[name]}' if after is not None else 'delete it'}"
        else:
            advice = "the fork has its own: merge by hand"
        lines.append(f"{name}: {what} upstream; {advice}")
        lines += difflib.unified_diff(
            (before or "").splitlines(), (after or "").splitlines(), f"then/{name}", f"now/{name}", lineterm=""
        )
    lines.append(f"{count} files differ upstream" if count else "nothing has changed upstream")
    return lines


def read_text(path):
    """The text of a file, None if it is not there."""
    return path.read_text(encoding="utf-8", errors="replace") if path and path.is_file() else None
