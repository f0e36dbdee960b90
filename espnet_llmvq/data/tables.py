"""The tables of Kaldi data directories: what they are called, their lines, and what may be wrong with one.

Ids are ordered as in the C locale. The byte order of UTF-8 is the order of code points, which is
how Python compares strings, so plain ``sorted`` is right.
"""

import fnmatch
import math
import re
from dataclasses import dataclass
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import file_name
from espnet_llmvq.base.made import NAME

CORE = ("wav.scp", "segments", "text", "utt2spk", "spk2utt")
# What the first field of a carried file is. Other files of a directory are left alone.
_LEVELS = {
    "utt": ("entities", "*.ctm", "text.*", "utt2*", "feats.scp", "vad.scp"),
    "spk": ("spk2*", "cmvn.scp"),
    "rec": ("reco2*",),
}
# Optional files that describe the audio or features of a directory: wrong for a copy, and misleading as half a table.
OF_AUDIO = ("utt2num_samples", "utt2num_frames", "utt2dur", "feats.scp", "vad.scp", "cmvn.scp")
_LINE = re.compile(r"([^ \t]+)(?:[ \t]+(.*))?", re.DOTALL)


PIPE = ("pipes are not supported", "run the command once, e.g. `COMMAND > FILE.wav`, and give FILE.wav here")


def is_pipe(value):
    return value.endswith("|") or value.startswith("|")


@dataclass(frozen=True)
class Problem:
    """One defect. `line` is 0 and `utt` "-" where none applies.

    `repair` says what llmvq data fix may do: "rewrite" (nothing is lost), "drop" (the line goes, and
    with it its utterance), "convert" (left as it is; llmvq data format deals with it), or "hand".
    """

    file: str
    line: int
    utt: str
    message: str
    fix: str
    repair: str = "hand"

    def __str__(self):
        return f"{self.file}:{self.line}: {self.utt}: {self.message} ({self.fix})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file: number from 1, id, the rest without outer blanks, and the whole cleaned line."""

    file: str
    line: int
    key: str
    value: str
    raw: str

    def problem(self, message, fix, repair="hand"):
        return Problem(self.file, self.line, self.key, message, fix, repair)


def level(name):
    """What the first field of an optional file is: "utt", "spk" or "rec"; None if it is not carried."""
    if name in CORE or name.endswith(NAME):
        return None
    for found, patterns in _LEVELS.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return found
    return None


def managed_files(path):
    """The names of the core and optional files present in a directory, core first."""
    names = sorted(p.name for p in Path(path).iterdir() if p.is_file())
    return [n for n in CORE if n in names] + [n for n in names if level(n)]


def read_lines(path):
    """Yield (row, marks, problems) of each line of a file whose lines start with an id, blank lines included.

    marks: what is unusual about the form of the line, in words; problems: of this line alone. Raises UserError when the
    file cannot be read.
    """
    file, last = str(path), ""
    try:
        with open(path, "rb") as f:
            for number, data in enumerate(f, 1):
                data, marks, problems = data.removesuffix(b"\n"), [], []
                if number == 1 and data.startswith(b"\xef\xbb\xbf"):
                    data = data[3:]
                    marks.append("starts with a byte order mark")
                if data.endswith(b"\r"):
                    data = data.rstrip(b"\r")
                    marks.append("ends in CR LF")
                raw = data.decode("utf-8", "replace").strip(" \t")
                key, value = _LINE.fullmatch(raw).groups() if raw else ("-", "")
                row = Row(file, number, key, value or "", raw)
                if not raw:
                    marks.append("is blank")
                    yield row, marks, problems
                    continue
                if key < last:
                    marks.append(f"is out of order: it sorts before {last!r}")
                else:
                    last = key
                try:
                    data.decode("utf-8")
                except UnicodeDecodeError as err:
                    byte = f"byte 0x{data[err.start]:02x} at column {err.start + 1}"
                    problems.append(row.problem(f"not UTF-8: {byte}", "convert it, e.g. iconv -f latin1 -t utf-8"))
                if b"\0" in data:
                    problems.append(row.problem("holds a NUL byte", "write the line again"))
                yield row, marks, problems
    except OSError as err:
        raise UserError(f"{path}: cannot be read: {err.strerror} (restore it)") from err


class Style:
    """Defects of form of a file, each told once however many lines have it."""

    def __init__(self):
        self.found = {}  # {kind: [first row, its mark, number of further lines]}

    def note(self, row, marks):
        for mark in marks:
            first = self.found.setdefault(mark.partition(":")[0], [row, mark, -1])
            first[2] += 1

    def problems(self):
        fixes = {"is out of order": "sort with LC_ALL=C sort -k1,1", "is blank": "remove the line"}
        for kind, (row, mark, others) in self.found.items():
            more = f"; so {'are' if mark.startswith('is') else 'do'} {others} more lines" if others else ""
            fix = fixes.get(kind, "save as UTF-8 with unix line ends")
            yield row.problem(f"line {mark}{more}", fix, "rewrite")


def may_repeat(name):
    """Whether ids may come again in a file: one of word times has a line for each word."""
    return str(name).endswith(".ctm")


def repeats(first, row):
    """The Problem of a row whose id the row `first` has too."""
    if first.value == row.value:
        return row.problem(f"repeats line {first.line}", "remove one of the lines", "rewrite")
    return row.problem(f"this id has other content in line {first.line}", "keep the right line or rename one")


def scan(path):
    """``(rows, problems)`` of one file whose lines start with an id.

    Repeated ids are allowed in CTM files only. Defects that hit many lines at once (order, line
    ends) are reported once, at the first line. Raises UserError when the file cannot be opened.
    """
    rows, problems, seen, style = [], [], {}, Style()
    for row, marks, found in read_lines(path):
        style.note(row, marks)
        if not row.raw:
            continue
        problems += found
        first = seen.setdefault(row.key, row)
        if first is not row and not may_repeat(path):
            problems.append(repeats(first, row))
        rows.append(row)
    return rows, [*problems, *style.problems()]


class Rows:
    """The rows of a file, read anew each time that they are gone through. count: how many there are."""

    def __init__(self, path, count):
        self.path, self.count = path, count

    def __len__(self):
        return self.count

    def __iter__(self):
        return (row for row, *_ in read_lines(self.path) if row.raw)


def read_scp(path, empty=False):
    """``{id: rest of line}`` of a file in the order of its lines.

    Order, blank lines and line ends are forgiven. Raises UserError with file and line for a file
    that cannot be read, invalid UTF-8, an id with two contents, or (unless `empty`) an id alone.
    """
    rows, problems = scan(path)
    for problem in sorted(problems, key=lambda p: p.line):
        if problem.repair != "rewrite":
            raise UserError(str(problem))
    for row in rows:
        if not row.value and not empty:
            raise UserError(f"{path}:{row.line}: {row.key}: nothing follows the id (complete it)")
    return {row.key: row.value for row in rows}


def parse_segment(value):
    """(recording, start s, end s) of a `segments` value; ValueError says what is wrong."""
    parts = value.split()
    if len(parts) != 3:
        raise ValueError(f"expected <utt> <recording> <start> <end>, found {len(parts) + 1} fields")
    try:
        start, end = float(parts[1]), float(parts[2])
    except ValueError:
        raise ValueError(f"start and end are not numbers: {parts[1]} {parts[2]}") from None
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0:
        raise ValueError(f"start and end are not times: {parts[1]} {parts[2]}")
    if end <= start:
        raise ValueError(f"segment ends at {end:g} s, not after its start {start:g} s")
    return parts[0], start, end


def scaled_times(value, factor=1.0):
    """A CTM line without id, ``channel start duration word...``, played `factor` times as fast.

    Raises ValueError for a line that is none.
    """
    fields = value.split()
    try:
        start, duration = (float(f) / factor for f in fields[1:3])
        if len(fields) < 4 or not (0 <= start < math.inf and 0 <= duration < math.inf):
            raise ValueError
    except ValueError:
        raise ValueError(f"{value!r} is not 'channel start duration word'") from None
    return " ".join([fields[0], f"{start:.3f}", f"{duration:.3f}", *fields[3:]])


def parse_entities(table):
    """{utt: [(slot, value), ...]} of {utt: "slot=value<TAB>slot=value..."}.

    UserError for an item without "=".
    """
    found = {}
    for utt, line in table.items():
        items = [item.strip() for item in line.split("\t") if item.strip()]
        for item in items:
            if "=" not in item:
                raise UserError(f"entities: {utt}: {item!r} is not <slot>=<value> (correct it)")
        found[utt] = [tuple(item.split("=", 1)) for item in items]
    return found


MAX_BYTES = 250  # of an id in the name of a sound file; that has 255, with ".flac"


def too_long(utt):
    """What is wrong with an id that is too long for the name of a sound file, "" if it is not."""
    length = len(file_name(utt).encode())
    return f"an id of {length} bytes makes too long a file name" if length > MAX_BYTES else ""


def audio_name(utt, suffix):
    """The name of an utterance's sound file. Raises UserError for an id that is too long for one."""
    if wrong := too_long(utt):
        raise UserError(f"{utt}: {wrong}; give it a shorter id")
    return f"{file_name(utt)}.{suffix}"


def by_speaker(utt2spk):
    """``{spk: sorted utts}`` in sorted order from ``{utt: spk}``."""
    found = {}
    for utt in sorted(utt2spk):
        found.setdefault(utt2spk[utt], []).append(utt)
    return dict(sorted(found.items()))
