"""Kaldi data directories: read them strictly, write them atomically, find every defect in them.

Ids are ordered as in the C locale. The byte order of UTF-8 is the order of code points, which is
how Python compares strings, so plain ``sorted`` is right.
"""

import fnmatch
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from espnet_llmvq.errors import UserError
from espnet_llmvq.write import write_text

CORE = ("wav.scp", "segments", "text", "utt2spk", "spk2utt")
# What the first field of a carried file is. Other files of a directory are left alone.
_LEVELS = {
    "utt": ("entities", "*.ctm", "text.*", "utt2*", "feats.scp", "vad.scp"),
    "spk": ("spk2*", "cmvn.scp"),
    "rec": ("reco2*",),
}
_LINE = re.compile(r"([^ \t]+)(?:[ \t]+(.*))?", re.DOTALL)


_PIPE = (
    "pipes are not supported",
    "run the command once, e.g. `COMMAND > FILE.wav`, and give FILE.wav here",
)


def _is_pipe(value):
    return value.endswith("|") or value.startswith("|")


@dataclass(frozen=True)
class Problem:
    """One defect. `line` is 0 and `utt` "-" where none applies.

    `repair` says what fix_data_dir may do: "rewrite" (nothing is lost), "drop" (the line goes, and
    with it its utterance), "convert" (left as it is; format_audio deals with it), or "hand".
    """

    file: str
    line: int
    utt: str
    message: str
    fix: str
    repair: str = "hand"

    def __str__(self):
        return f"{self.file}:{self.line}: {self.utt}: {self.message} ({self.fix})"


@dataclass(frozen=True)
class Row:
    """One line: number from 1, id, the rest without outer blanks, and the whole cleaned line."""

    line: int
    key: str
    value: str
    raw: str


def level(name):
    """Return "utt", "spk" or "rec" for the first field of an optional file, None if not carried."""
    if name in CORE:
        return None
    for found, patterns in _LEVELS.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return found
    return None


def managed_files(path):
    """Return the names of the core and optional files present in a directory, core first."""
    names = sorted(p.name for p in Path(path).iterdir() if p.is_file())
    return [n for n in CORE if n in names] + [n for n in names if level(n)]


def scan(path):
    """Return ``(rows, problems)`` of one file whose lines start with an id.

    Repeated ids are allowed in CTM files only. Defects that hit many lines at once (order, line
    ends) are reported once, at the first line. Raises UserError when the file cannot be opened.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as err:
        raise UserError(f"{path}: cannot be read: {err.strerror} (restore it)") from err
    if lines[-1] == b"":
        lines.pop()
    rows, problems, seen, style, last = [], [], {}, {}, ""

    def add(line, utt, message, fix, repair="hand"):
        problems.append(Problem(str(path), line, utt, message, fix, repair))

    for number, data in enumerate(lines, 1):
        marks = []
        if number == 1 and data.startswith(b"\xef\xbb\xbf"):
            data = data[3:]
            marks.append("starts with a byte order mark")
        if data.endswith(b"\r"):
            data = data.rstrip(b"\r")
            marks.append("ends in CR LF")
        raw = data.decode("utf-8", "replace").strip(" \t")
        key, value = _LINE.fullmatch(raw).groups() if raw else ("-", "")
        if not raw:
            marks.append("is blank")
        elif key < last:
            marks.append(f"is out of order: it sorts before {last!r}")
        for mark in marks:
            kind = mark.partition(":")[0]
            style.setdefault(kind, [number, key, mark, 0])[3] += 1
        if not raw:
            continue
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as err:
            byte = f"byte 0x{data[err.start]:02x} at column {err.start + 1}"
            add(number, key, f"not UTF-8: {byte}", "convert it, e.g. iconv -f latin1 -t utf-8")
        value = value or ""
        row = Row(number, key, value, raw)
        first = seen.setdefault(key, row)
        if first is not row and not path.name.endswith(".ctm"):
            if first.value == value:
                add(number, key, f"repeats line {first.line}", "remove one of the lines", "rewrite")
            else:
                message = f"this id has other content in line {first.line}"
                add(number, key, message, "keep the right line or rename one")
        last = max(last, key)
        rows.append(row)
    fixes = {"is out of order": "sort with LC_ALL=C sort -k1,1", "is blank": "remove the line"}
    for kind, (number, key, mark, count) in style.items():
        more = f"; so do {count - 1} more lines" if count > 1 else ""
        if mark.startswith("is") and count > 1:
            more = f"; so are {count - 1} more lines"
        fix = fixes.get(kind, "save as UTF-8 with unix line ends")
        add(number, key, f"line {mark}{more}", fix, "rewrite")
    return rows, problems


def read_scp(path, empty=False):
    """Return ``{id: rest of line}`` of a file in the order of its lines.

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
    """Return (recording, start s, end s) of a `segments` value; ValueError says what is wrong."""
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


def parse_entities(table):
    """Return {utt: [(slot, value), ...]} of {utt: "slot=value<TAB>slot=value..."}.

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


def by_speaker(utt2spk):
    """Return ``{spk: sorted utts}`` in sorted order from ``{utt: spk}``."""
    found = {}
    for utt in sorted(utt2spk):
        found.setdefault(utt2spk[utt], []).append(utt)
    return dict(sorted(found.items()))


@dataclass
class DataDir:
    """The tables of one data directory; every table of utterances has the same ids.

    `segments` is {utt: (recording, start s, end s)} or None; then `wav_scp` has utterance ids.
    `extra` is {file name: {id: [rest of line, ...]}} for the optional files.
    """

    wav_scp: dict
    text: dict
    utt2spk: dict
    segments: dict | None = None
    extra: dict = field(default_factory=dict)

    @property
    def utts(self):
        """Utterance ids in C-locale order."""
        return sorted(self.text)

    @property
    def spk2utt(self):
        """{spk: [utt, ...]}, derived from utt2spk so that they cannot disagree."""
        return by_speaker(self.utt2spk)

    @property
    def entities(self):
        """{utt: [(slot, value), ...]} of the `entities` file; UserError for an item without "="."""
        return parse_entities(
            {utt: lines[0] for utt, lines in self.extra.get("entities", {}).items()}
        )

    def location(self, utt):
        """Return (audio path, start s, end s or None) of an utterance."""
        if self.segments is None:
            return self.wav_scp[utt], 0.0, None
        rec, start, end = self.segments[utt]
        return self.wav_scp[rec], start, end

    @classmethod
    def load(cls, path, dropped=None):
        """Read a directory; audio files are not opened and empty transcripts are allowed.

        Order, repeated lines and a stale spk2utt are forgiven. Any other defect raises UserError.
        With a list `dropped`, what fix_data_dir would drop is left out, and (id, reason) appended.
        """
        tables, segments, problems = _inspect(path, allow_empty_text=True)
        forgiven = ("rewrite",) if dropped is None else ("rewrite", "drop")
        wrong = [p for p in problems if p.repair not in forgiven]
        if wrong:
            more = f"; {len(wrong) - 1} more from validate_data_dir.py {path}" * (len(wrong) > 1)
            raise UserError(f"{wrong[0]}{more}")
        drops = [p for p in problems if p.repair == "drop"]
        if drops:
            kept, gone, _ = select(path, tables, drops)
            if not kept["utt"]:
                raise UserError(f"{path}: no utterance would be left: {drops[0]}")
            dropped += gone
            for name, rows in tables.items():
                of = level(name) or ("rec" if "segments" in tables and name == "wav.scp" else "utt")
                tables[name] = [r for r in rows if name == "spk2utt" or r.key in kept[of]]
            segments = {utt: s for utt, s in segments.items() if utt in kept["utt"]}
        core = [{r.key: r.value for r in tables[n]} for n in ("wav.scp", "text", "utt2spk")]
        extra = {}
        for name in filter(level, tables):
            table = extra.setdefault(name, {})
            for row in tables[name]:
                if name.endswith(".ctm"):
                    table.setdefault(row.key, []).append(row.value)
                else:
                    table[row.key] = [row.value]
        cut = {u: s[:3] for u, s in segments.items()} if "segments" in tables else None
        return cls(*core, cut, extra)

    def subset(self, keys):
        """Return a new DataDir with these utterances; optional files and recordings follow them."""
        keys = set(keys)
        unknown = min(keys - self.text.keys(), default=None)
        if unknown is not None:
            raise UserError(f"utterance {unknown!r} is not in this data directory (correct its id)")
        segments = None
        recs = keys
        if self.segments is not None:
            segments = {u: self.segments[u] for u in self.utts if u in keys}
            recs = {segment[0] for segment in segments.values()}
        utt2spk = {u: self.utt2spk[u] for u in self.utts if u in keys}
        kept = {"utt": keys, "spk": set(utt2spk.values()), "rec": recs}
        extra = {
            name: {k: v for k, v in table.items() if k in kept[level(name)]}
            for name, table in self.extra.items()
        }
        wav_scp = {r: w for r, w in self.wav_scp.items() if r in recs}
        return DataDir(wav_scp, {u: self.text[u] for u in utt2spk}, utt2spk, segments, extra)

    def files(self):
        """Return {file name: content} as they are written."""
        tables = {
            "wav.scp": {k: [v] for k, v in self.wav_scp.items()},
            "text": {k: [v] for k, v in self.text.items()},
            "utt2spk": {k: [v] for k, v in self.utt2spk.items()},
            "spk2utt": {k: [" ".join(v)] for k, v in self.spk2utt.items()},
        }
        if self.segments is not None:
            tables["segments"] = {u: [f"{r} {s!r} {e!r}"] for u, (r, s, e) in self.segments.items()}
        tables.update(self.extra)
        content = {}
        for name, table in tables.items():
            gap = "\t" if name == "entities" else " "
            lines = [f"{k}{gap}{v}".rstrip(" \t") for k in sorted(table) for v in table[k]]
            content[name] = "".join(line + "\n" for line in lines)
        return content

    def write(self, path):
        """Write all files. A new directory appears at once; in an old one each file is replaced.

        Carried files of an old directory that this one lacks are removed; anything else stays.
        """
        path = Path(os.path.realpath(path))
        content = self.files()
        if path.exists():
            for name in managed_files(path):
                if name not in content:
                    (path / name).unlink()
            # wav.scp last: by its time later stages see whether a directory is up to date.
            for name, text in reversed(content.items()):
                write_text(path / name, text)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        for name, text in content.items():
            write_text(temporary / name, text)
        os.rename(temporary, path)


def select(path, tables, drops):
    """What is left of the tables of a directory without the Problems `drops`.

    Returns (ids kept per level, [(dropped id, reason)], number of utterances before).
    """
    path, segmented = Path(path), "segments" in tables
    core = ("text", "segments" if segmented else "wav.scp", "utt2spk")
    rec_of = {}
    if segmented:
        for row in tables["segments"]:
            try:
                rec_of[row.key] = parse_segment(row.value)[0]
            except ValueError:
                continue  # it is among the drops
    reasons, bad_recs, lines = {}, {}, []
    for p in drops:
        name = Path(p.file).name
        why = f"{p.file}:{p.line}: {p.message}"
        if name == "wav.scp" and segmented:
            bad_recs.setdefault(p.utt, why)
        elif level(name):
            lines.append((p.utt, why))
        else:
            reasons.setdefault(p.utt, why)
    for utt, rec in rec_of.items():
        if rec in bad_recs:
            reasons.setdefault(utt, f"recording {rec}: {bad_recs[rec]}")
    everyone = {row.key for name in core for row in tables[name]}
    utts = everyone - reasons.keys()
    recs = {rec_of[u] for u in utts} if segmented else utts
    for row in tables["wav.scp"] if segmented else ():
        if row.key not in recs:
            bad_recs.setdefault(row.key, f"{path / 'wav.scp'}:{row.line}: no utterance is left")
    spks = {row.value for row in tables["utt2spk"] if row.key in utts}
    kept = {"utt": utts, "spk": spks, "rec": recs}
    gone = {row.value for row in tables["utt2spk"]} - spks
    lines += [(spk, "speaker without utterances") for spk in gone]
    dropped = [*reasons.items(), *bad_recs.items(), *lines]
    return kept, sorted(set(dropped)), len(everyone)


def validate(path, audio=True, rate=None, nj=2, allow_empty_text=False):
    """Return every Problem of a data directory, ordered by file and line; empty means clean.

    audio: also check each audio file to its end, in `nj` threads. rate: expected sampling rate in
    Hz, or None. Raises UserError only when `path` is not a directory.
    """
    tables, segments, problems = _inspect(path, allow_empty_text)
    if audio:
        problems += _check_audio(Path(path), tables, segments, rate, nj)
    order = {name: i for i, name in enumerate(tables)}
    return sorted(problems, key=lambda p: (order.get(Path(p.file).name, -1), p.line, p.utt))


def _inspect(path, allow_empty_text):
    """Return ({file: rows}, {utt: (recording, start, end, row)}, problems) without the audio."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: data directory not found (correct the path)")
    tables, segments, problems = {}, {}, []
    for name in managed_files(path):
        tables[name], found = scan(path / name)
        if name == "spk2utt" and tables.get("utt2spk"):
            found = [replace(p, repair="rewrite") for p in found]  # it is rebuilt from utt2spk
        problems += found
    problems += _check_files(path, tables)
    problems += _check_values(path, tables, allow_empty_text)
    for row in tables.get("segments", ()):
        try:
            segments.setdefault(row.key, (*parse_segment(row.value), row))
        except ValueError as err:
            at = str(path / "segments"), row.line, row.key
            problems.append(Problem(*at, str(err), "correct it or drop it", "drop"))
    problems += _check_ids(path, tables, segments)
    problems += _check_speakers(path, tables)
    return tables, segments, problems


def _check_files(path, tables):
    """Problems of core files that are missing or empty."""
    for name in CORE:
        if tables.get(name) or (name == "segments" and name not in tables):
            continue
        what = "is empty" if name in tables else "is missing"
        at = str(path / name), 0, "-", f"file {what}"
        if name == "spk2utt" and tables.get("utt2spk"):
            yield Problem(*at, "make it with utt2spk_to_spk2utt.py", "rewrite")
        else:
            yield Problem(*at, "write it")


def _check_values(path, tables, allow_empty_text):
    """Problems of single lines in wav.scp, text and utt2spk."""
    for row in tables.get("wav.scp", ()):
        at = str(path / "wav.scp"), row.line, row.key
        if _is_pipe(row.value):
            yield Problem(*at, *_PIPE)
        elif not row.value:
            yield Problem(*at, "no audio path", "add the path or drop it", "drop")
    for row in tables.get("text", ()):
        if not allow_empty_text and not row.value.strip():
            at = str(path / "text"), row.line, row.key
            yield Problem(
                *at, "empty transcript", "add it, drop it, or --allow_empty_text true", "drop"
            )
    for row in tables.get("utt2spk", ()):
        fields = len(row.value.split())
        if fields != 1:
            at = str(path / "utt2spk"), row.line, row.key
            if fields == 0:
                yield Problem(*at, "no speaker", "add one or drop it", "drop")
            else:
                yield Problem(*at, f"{fields} speakers", "leave one, without blanks")


def _check_ids(path, tables, segments):
    """Problems of ids that one table has and another lacks."""
    audio = "segments" if "segments" in tables else "wav.scp"
    names = [n for n in ("text", audio, "utt2spk") if tables.get(n)]
    lines = {n: {row.key: row.line for row in reversed(tables[n])} for n in names}
    for utt in sorted(set().union(*lines.values())):
        lacking = [n for n in names if utt not in lines[n]]
        if lacking:
            here = next(n for n in names if utt in lines[n])
            message = f"not in {' and '.join(lacking)}"
            at = str(path / here), lines[here][utt], utt
            yield Problem(*at, message, "add the missing line or drop it", "drop")
    recs = {row.key: row.line for row in reversed(tables.get("wav.scp", ()))}
    if tables.get("segments") and recs:
        for utt, (rec, _, _, row) in segments.items():
            if rec not in recs:
                at = str(path / "segments"), row.line, utt
                message = f"recording {rec!r} is not in wav.scp"
                yield Problem(*at, message, "add the recording or drop it", "drop")
        # A malformed segment still names its recording; the segment itself is reported already.
        used = {row.value.split()[0] for row in tables["segments"] if row.value}
        for rec in sorted(recs.keys() - used):
            at = str(path / "wav.scp"), recs[rec], rec
            yield Problem(*at, "no segment uses this recording", "drop it", "drop")
    known = {
        "utt": set().union(*lines.values()) or None,
        "spk": {row.value for row in tables["utt2spk"]} if tables.get("utt2spk") else None,
        "rec": set(recs) or None,
    }
    what = {"utt": "utterance", "spk": "speaker", "rec": "recording"}
    for name in tables:
        ids = known.get(level(name))
        if ids is None:
            continue
        for row in tables[name]:
            if row.key not in ids:
                at = str(path / name), row.line, row.key
                yield Problem(*at, f"unknown {what[level(name)]}", "drop the line", "drop")
    if "utt2num_samples" in tables:
        counted = {row.key for row in tables["utt2num_samples"]}
        for row in tables.get("text", ()):
            if row.key not in counted:
                at = str(path / "text"), row.line, row.key
                yield Problem(*at, "not in utt2num_samples", "run format_audio.py again")


def _check_speakers(path, tables):
    """Problems where utt2spk and spk2utt disagree; utt2spk is taken to be right."""
    if not tables.get("utt2spk") or not tables.get("spk2utt"):
        return
    speaker = {row.key: row.value for row in reversed(tables["utt2spk"])}
    listed = set()
    fix = "rebuild it with utt2spk_to_spk2utt.py"
    for row in tables["spk2utt"]:
        at = str(path / "spk2utt"), row.line
        utts = row.value.split()
        for utt, count in Counter(utts).items():
            if utt not in speaker:
                yield Problem(*at, utt, "not in utt2spk", fix, "drop")
            elif speaker[utt] != row.key:
                message = f"listed under {row.key!r}, but utt2spk says {speaker[utt]!r}"
                yield Problem(*at, utt, message, fix, "rewrite")
            elif count > 1 or utt in listed:
                yield Problem(*at, utt, f"listed twice under {row.key!r}", fix, "rewrite")
            listed.add(utt)
        if not utts:
            yield Problem(*at, "-", f"speaker {row.key!r} has no utterance", fix, "rewrite")
        elif utts != sorted(utts):
            yield Problem(*at, "-", f"utterances of {row.key!r} are not sorted", fix, "rewrite")
    for row in tables["utt2spk"]:
        if row.key not in listed:
            at = str(path / "utt2spk"), row.line, row.key
            yield Problem(*at, "not in spk2utt", fix, "rewrite")


def _check_audio(path, tables, segments, rate, nj):
    """Problems found by opening every file of wav.scp."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from espnet_llmvq.data import audio

    def look(row):
        try:
            return audio.check(row.value)
        except audio.AudioError as err:
            return err

    rows = [r for r in tables.get("wav.scp", ()) if r.value and not _is_pipe(r.value)]
    found = {}
    with ThreadPoolExecutor(nj) as pool:
        results = tqdm(pool.map(look, rows), "audio", len(rows), unit="file", mininterval=1)
        for row, result in zip(rows, results, strict=True):
            at = str(path / "wav.scp"), row.line, row.key
            if isinstance(result, audio.AudioError):
                message = f"{result.path}: {result.message}"
                yield Problem(*at, message, f"{result.fix}, or drop it", "drop")
                continue
            found.setdefault(row.key, result)
            if rate and result.rate != rate:
                message = f"{row.value}: {result.rate} Hz instead of {rate} Hz"
                yield Problem(*at, message, f"run format_audio.py --rate {rate}", "convert")
    for utt, (rec, _, end, row) in segments.items():
        if rec in found and end > found[rec].duration + audio.END_TOLERANCE:
            at = str(path / "segments"), row.line, utt
            message = f"segment ends at {end:g} s, the audio at {found[rec].duration:.3f} s"
            yield Problem(*at, message, "correct it or drop it", "drop")
    if "segments" in tables:
        return
    for row in tables.get("utt2num_samples", ()):
        if row.key in found and row.value != str(found[row.key].frames):
            at = str(path / "utt2num_samples"), row.line, row.key
            message = f"says {row.value!r} samples, the audio has {found[row.key].frames}"
            yield Problem(*at, message, "run format_audio.py again")
