"""Whether a file or directory is what these inputs and these options make: the one notion of "up to date".

What is made has a record: OUT.made.json beside a file, OUT/made.json in a directory. It holds the options, a mark of
each input's content, marks of what was written, and facts (versions, machine) that are told but not compared. A result
that is an input of another passes its own record on (`origin`).

    made = Made("exp/tokenizer", {"text": "data/lm/train.txt"}, vocab_size=500, tools=versions("sentencepiece"))
    if not made.fresh():          # cheap: make it again
        ...
        made.note()

    if not made.done("remove {out} to train again"):   # costly: a UserError names the first difference
        ...
"""

import contextlib
import filecmp
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import RECORD as NAME
from espnet_llmvq.base.files import (
    WRITTEN,
    beside,
    check_replaceable,
    is_record,
    read_record,
    replace_directory,
    restore_directory,
    sha256,
    under_way,
    write_json,
)

OWN = (NAME, WRITTEN)  # files that are no part of a result
SHOWN = 80  # characters of a value in a message
TOOLS = "tools"  # the option that holds versions of libraries
IGNORED = set()  # options that are not compared


def accept_versions(accept=True):
    """Take results as they are whatever versions of libraries made them, in this process."""
    (IGNORED.add if accept else IGNORED.discard)(TOOLS)


def record_file(out):
    """Where the record of `out` is."""
    out = Path(out)
    return out / NAME if out.is_dir() else out.with_name(f"{out.name}.{NAME}")


@functools.lru_cache(maxsize=4096)
def digest_of(path, size, mtime_ns):
    """Hash of a file's content, read once for each size and time of it."""
    return sha256(path)


def origin(path):
    """Hash of what the record of `path` says it was made of and gave; None without one, or of what is not finished.

    Versions of tools are left out: where they matter, the content differs.
    """
    noted = Made(path).record()
    if not (noted and noted["complete"]):
        return None
    options = {key: value for key, value in noted["options"].items() if key != TOOLS}
    made_of = [options, content(noted["inputs"]), content(noted["files"])]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def mark(path, old=None, as_input=True):
    """The mark of a file or directory, None if it is absent.

    Of a file: size, time and hash, and as an input its `origin` if it has one, so that what it was made of counts too:
    the names and lengths of sound files say little about the sound. Of a directory: its origin, with the marks of files
    that are not as its record has them; without one, {name: mark} of all files in it. old: a mark from before; where
    size and time are as they were, the content is not read again.
    """
    path, made_of = Path(path), origin(path) if as_input else None
    if path.is_dir():
        if made_of:
            changed = changed_files(path, Made(path).record())
            return {"origin": made_of} | ({"changed": changed} if changed else {})
        old = old if isinstance(old, dict) and "sha256" not in old else {}
        names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file() and p.name not in OWN)
        return {name: mark(path / name, old.get(name), as_input) for name in names}
    try:
        stat = path.stat()
    except OSError:
        return None
    found = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    known = isinstance(old, dict) and all(old.get(key) == value for key, value in found.items())
    found["sha256"] = old["sha256"] if known else digest_of(str(path), stat.st_size, stat.st_mtime_ns)
    return {**found, "origin": made_of} if made_of else found


def changed_files(out, noted):
    """{name: mark now} of files of `out` that are not as its record has them; cheap where size and time are."""
    now = {name: mark(part_of(out, name), old, as_input=False) for name, old in noted["files"].items()}
    return {name: found for name, found in now.items() if not same(noted["files"][name], found)}


def content(found):
    """A mark, or {name: mark}, without times."""
    if not isinstance(found, dict):
        return found
    return {key: content(value) for key, value in found.items() if key != "mtime_ns"}


def same(old, new):
    """Whether two marks are of equal content."""
    return content(old) == content(new)


def files_digest(paths):
    """One hash of many files by path, size and time: for audio, of which reading takes as long as making it again."""
    h = hashlib.sha256()
    for path in paths:
        try:
            stat = os.stat(path)
            h.update(f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            h.update(f"{os.path.abspath(path)} missing\n".encode("utf-8", "surrogateescape"))
    return h.hexdigest()


def part_of(out, name):
    """Path of a part of a result: of a file in a directory, of one beside a file, or "" for the file itself."""
    return os.path.join(out if os.path.isdir(out) else os.path.dirname(out), name) if name else out


def plain(value):
    """A value as JSON gives it back: tuples become lists, keys strings."""
    return json.loads(json.dumps(value, ensure_ascii=False))


def shown(value):
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def first_difference(old, new, name=""):
    """In words, the first key at which two values differ, such as "bridge_conf.top_k: 10 then, 30 now"; "" if none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            here = f"{name}.{key}" if name else key
            if key not in old or key not in new:
                then, now = (shown(d[key]) if key in d else "not there" for d in (old, new))
                return f"{here}: {then} then, {now} now"
            if found := first_difference(old[key], new[key], here):
                return found
        return ""
    return "" if old == new else f"{name}: {shown(old)} then, {shown(new)} now"


ANSWERS = None  # where `asking` collects


@contextlib.contextmanager
def asking():
    """In a `with`, find out what would be made: [(result, difference or "")] of every result that is asked for.

    Every result passes for fresh meanwhile, so that nothing is made by what asks.
    """
    global ANSWERS
    ANSWERS = []
    try:
        yield ANSWERS
    finally:
        ANSWERS = None


class Made:
    """A result, and what it is made of.

    out: file or directory, made or not. inputs: {what it is: path of a file or directory}, or paths, that its content
    follows from; one that does not exist counts as absent. options: all else that it follows from, as JSON can hold it;
    `tools` are versions of libraries (`environment.versions`), which a user may accept.
    """

    def __init__(self, out, inputs=(), **options):
        self.out = str(out)
        self.inputs = dict(inputs) if isinstance(inputs, dict) else {str(path): path for path in inputs}
        self.options = plain(options)
        self.marks = {}  # of inputs, as they were when they were first looked at

    def record(self):
        """What is noted of the result (dict), or None: not made, or the record is damaged."""
        return read_record(record_file(self.out))

    def has(self, name):
        """Whether the record names a file as made with the result."""
        return name in (self.record() or {"files": ()})["files"]

    def facts(self):
        """What `note` was told beside inputs and options; {} if nothing is noted."""
        return (self.record() or {}).get("facts", {})

    def other_options(self, noted):
        """In words, the first option that is not as `noted`; "" if none."""
        then, now = ({k: v for k, v in d.items() if k not in IGNORED} for d in (noted["options"], self.options))
        return first_difference(then, now)

    def changed(self, noted):
        """In words, the first option or input that is not as `noted`; "" if none."""
        old = noted["inputs"]
        self.marks = {name: mark(path, old.get(name)) for name, path in self.inputs.items()}
        if found := self.other_options(noted):
            return found
        for name in sorted(old.keys() | self.inputs.keys()):
            if name not in old:
                return f"{name} is a new input"
            if name not in self.inputs:
                return f"{name} is no more an input"
            if not same(old[name], self.marks[name]):
                said = name if str(self.inputs[name]) == name else f"{name} ({self.inputs[name]})"
                return f"{said} {'is not there' if self.marks[name] is None else 'has changed'}"
        return ""

    def state(self):
        """Options and the content of inputs (dict), to compare something unfinished with."""
        return {"options": self.options, "inputs": {name: content(found) for name, found in self.look().items()}}

    def look(self):
        """{name: mark} of inputs, as they were when they were first looked at: what changes while the result is made is
        then noted as it was before, and the change is seen."""
        self.marks = {name: self.marks.get(name) or mark(path) for name, path in self.inputs.items()}
        return self.marks

    def difference(self):
        """In words, why the result is not what inputs and options make; "" if it is."""
        if not os.path.exists(self.out):
            return f"{self.out} is not there"
        noted = self.record()
        if noted is None:
            return f"it is not known how {self.out} was made"
        if not noted["complete"]:
            return f"{self.out} is not finished"
        for name in changed_files(self.out, noted):
            return f"{part_of(self.out, name)} is not as it was written"
        return self.changed(noted)

    def fresh(self):
        """Whether the result is there and what inputs and options make. For cheap results: if not, make it again."""
        return self.answered(self.difference())

    def settled(self):
        """`fresh`, and nothing goes on beside the result, nor was left there by a making that was killed."""
        return self.fresh() and (ANSWERS is not None or not under_way(self.out))

    def check(self, said):
        """Raise UserError if there is a record, and the result is not what inputs and options make.

        said: the message; {out} stands for the result, {found} for the difference. Nothing is said while `asking`: that
        is answered where the result is made.
        """
        if ANSWERS is None and self.record() and (found := self.difference()):
            raise UserError(said.format(out=self.out, found=found))

    def answered(self, found):
        """Whether nothing was found; `asking` notes what was, and takes it as if there were nothing."""
        if ANSWERS is None:
            return not found
        ANSWERS.append((self.out, found))
        return True

    def done(self, remedy, options_only=False):
        """Whether a costly result is there; False also for one begun. Raises UserError if it is made of something else.

        remedy: what to do then; {out} stands for the result. options_only: inputs are not looked at, as some are still
        to be made.
        """
        if not os.path.exists(record_file(self.out)):
            if not (os.path.isdir(self.out) and os.listdir(self.out)):
                return self.answered(f"{self.out} is not there")
        noted = self.record()
        if noted and options_only:
            found = self.other_options(noted)
        else:
            found = self.changed(noted) if noted and not noted["complete"] else self.difference()
        if found and ANSWERS is None:
            accept = ", or accept it with --accept_versions true" if found.startswith(f"{TOOLS}.") else ""
            raise UserError(f"{self.out} was made otherwise ({found}); {remedy.format(out=self.out)}{accept}")
        return self.answered(found or ("" if noted["complete"] else f"{self.out} is not finished"))

    def begin(self):
        """Record what a costly result will be made of, so that its making can only be resumed with the same."""
        self.write(self.out, complete=False, files={}, facts={})

    def note(self, files=(), at=None, **facts):
        """Record that the result is complete.

        files: names in a directory, or beside a file, that must stay as they are now; the file itself always must.
        at: where the result is now, if it will be moved to its place with its record.
        """
        at = str(at or self.out)
        names = [*map(str, files)] if os.path.isdir(at) else ["", *map(str, files)]
        marks = {name: mark(part_of(at, name), as_input=False) for name in names}
        self.write(at, complete=True, files=marks, facts=plain(facts))

    def write(self, at, **rest):
        path = record_file(at)
        write_json(path, {"options": self.options, "inputs": self.look(), **rest}, known=is_record(path))

    def forget(self):
        """Before the result is made again: a killed making is then no result. That it was made here stays known."""
        if noted := self.record():
            write_json(record_file(self.out), {**noted, "complete": False}, known=True)
        elif is_record(record_file(self.out)):  # a damaged one
            record_file(self.out).unlink()

    def strangers(self):
        """Names of the files in a directory that were not made with it; of all, if its record is damaged."""
        noted = self.record() or {"files": (), "facts": {}}
        ours = {NAME, *noted["files"], *noted["facts"].get("audio", ())}
        found = (os.path.join(r, n) for r, folders, files in os.walk(self.out) for n in (*folders, *files))
        names = {os.path.relpath(path, self.out) for path in found if os.path.islink(path) or not os.path.isdir(path)}
        return sorted(names - ours)

    def check_new(self, new):
        """Raise UserError if the directory `new`, about to become `out`, is not whole. Here any is."""

    @contextlib.contextmanager
    def rebuilding(self):
        """In a `with`, a new directory to write into, and to `note` in, which then takes the place of `out`.

        What others put into that stays. Raises UserError if others made it, or put a file into it that is written now.
        """
        out = Path(os.path.realpath(self.out))
        restore_directory(out)
        check_replaceable(out, NAME)
        strangers, new = self.strangers(), beside(out, "new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield new
            for name in strangers:
                carry(out / name, new / name)
            self.check_new(new)
            replace_directory(new, out)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def carry(old, new):
    """Let a file be at `new` too. Raises UserError if there is one of other content."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(new):
        if old.is_file() and new.is_file() and not old.is_symlink() and filecmp.cmp(old, new, shallow=False):
            return
        raise UserError(f"{old} would be replaced, but was not made with its directory; move it away")
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:  # not every file system has hard links
        shutil.copy2(old, new, follow_symlinks=False)
