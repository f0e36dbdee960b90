"""Utterances from manifests (CSV, TSV, JSON lines; ours, NeMo's, FunASR's and those of Hugging Face's audio folders),
LJSpeech folders and Common Voice folders.

A reader returns a list of `Item`s and adds what is wrong to `Faults`; audio is looked for later. Files are UTF-8,
with or without a byte order mark, with unix or Windows line ends, plain or as `.gz`.
"""

import csv
import difflib
import functools
import gzip
import json
import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from espnet_llmvq.base.errors import UserError, nearest
from espnet_llmvq.data.audio import WHOLE_S, AudioError, ends_with, info

# (form, the column of each field)
NEMO, FOLDER = "manifest of NeMo", "audio folder of Hugging Face"
COLUMNS = (
    ("manifest", {"audio": "audio", "text": "text", "id": "id"}),
    (NEMO, {"audio": "audio_filepath", "text": "text", "id": "id"}),
    ("manifest of FunASR", {"audio": "source", "text": "target", "id": "key"}),
    *(
        (FOLDER, {"audio": "file_name", "text": text, "id": "id"})
        for text in ("transcription", "transcript", "text", "sentence")
    ),
)
REQUIRED = ("audio", "text")
# Columns that say which part of the audio an utterance is, in seconds, and words of names that may mean the same.
STARTS, LENGTH, END = ("offset", "start"), "duration", "end"
CUTS = {
    "start", "starts", "begin", "begins", "beg", "end", "ends", "stop", "stops", "offset", "onset", "from", "to",
    "trim", "crop", "channel", "tstart", "tbeg", "tend", "tmin", "tmax", "xmin", "xmax", "t", "ts", "te", "stime",
    "etime", "timestamp", "timestamps", "interval", "range", "span", "bounds", "slice", "seek", "segment", "segments",
}  # fmt: skip
UNIT = re.compile("(?<=.)(?:times?|secs?|seconds|ms|samples?|frames?)$")  # of starttime, endsec
COUNTED = {"id", "index", "idx", "n", "num", "number", "count"}  # with these, segments are only named or counted
TIME = re.compile(r"[\d:.,\s]*\d[\d:.,\s]*")  # a date, a name is none
ROUNDED_S = 0.05  # a duration that differs from the file's by no more is that of the file, rounded
COMMON_VOICE = ("path", "sentence")
DELIMITERS = (",", ";", "\t", "|")
SHOWN = 5  # faults listed in one message


@dataclass(frozen=True)
class Item:
    """One utterance as its source has it.

    where: "file:line". audio: absolute path. utt, speaker: "" if the source has none; `utt` is then made from
    `name`, the audio path as the source writes it. entities: (slot, value) pairs. recording: id of the audio file
    where utterances are parts of it, from `start` to `end` seconds; `whole` if the part is all of it.
    """

    where: str
    audio: Path
    text: str
    name: str
    utt: str = ""
    speaker: str = ""
    entities: tuple = ()
    recording: str = ""
    start: float = 0.0
    end: float = 0.0
    whole: bool = True


class Faults:
    """What is wrong with a source, so that one run shows more than the first fault."""

    def __init__(self):
        self.found = []

    def add(self, where, message):
        self.found.append(f"{where}: {message}")

    def check(self):
        """Raise UserError that lists the first faults, if there are any."""
        if self.found:
            more = len(self.found) - SHOWN
            raise UserError("\n  ".join(self.found[:SHOWN] + [f"and {more} more"] * (more > 0)))


def read_lines(path):
    """The lines of a text file without their ends. Raises UserError with the line of a wrong byte."""
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as err:
        raise UserError(f"{path}: cannot be read: {getattr(err, 'strerror', None) or err}") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        what = "is UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "holds NUL bytes"
        line = 1 if what == "is UTF-16" else data[: data.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{path}:{line}: {what}, not UTF-8 text (save it as UTF-8)")
    lines = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as err:
            byte = f"byte 0x{line[err.start]:02x} at column {err.start + 1}"
            raise UserError(f"{path}:{number}: not UTF-8: {byte} (iconv -f latin1 -t utf-8 may convert it)") from None
        if "\r" in text:
            raise UserError(f"{path}:{number}: a carriage return within the line (save it with unix line ends)")
        lines.append(text)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: is empty")
    return lines


def read_json_lines(path, faults):
    """[("file:line", object)] of a JSON-lines file."""
    found = []
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as err:
            faults.add(where, f"not JSON: {err} (one object a line)")
            continue
        if isinstance(item, dict):
            found.append((where, item))
        else:
            faults.add(where, "not a JSON object (one object a line)")
    return found


def first_object(path):
    """The object in the first line of a JSON-lines file, by which its form is told; {} if there is none."""
    try:
        found = json.loads(read_lines(path)[0])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def split_fields(lines, delimiter):
    """Yield (line number, fields) of a table; a quoted field may hold the delimiter and line ends.

    Only comma and semicolon tables quote: TSV and LJSpeech texts may hold single quotation marks. Raises csv.Error.
    """
    quoting = {"strict": True} if delimiter in ",;" else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, **quoting)
    first = 1
    for fields in reader:
        if any(field.strip() for field in fields):
            yield first, [field.strip() for field in fields]
        first = reader.line_num + 1


def header(line, needed):
    """(delimiter, names) of a table's first line if it has the columns `needed`, else None."""
    for delimiter in DELIMITERS:
        try:
            names = next(split_fields([line], delimiter))[1]
        except (csv.Error, StopIteration):
            continue
        # TSV is read without quotes, but its header may have them.
        names = [name.strip('"') for name in names]
        if set(needed) <= set(names):
            return delimiter, names
    return None


def table_columns(path):
    """Names of the columns of a table in one of the forms in COLUMNS, () if it is in none."""
    line = read_lines(path)[0]
    found = (header(line, [columns[name] for name in REQUIRED]) for _, columns in COLUMNS)
    return next((names for _, names in filter(None, found)), ())


def read_table(path, needed, faults):
    """[("file:line", {column: field})] of a table with a header. Raises UserError for a bad header."""
    lines = read_lines(path)
    found = header(lines[0], needed)
    if found is None:
        names = re.split(r"[,;\t|]", lines[0])
        missing = [name for name in needed if name not in names]
        hints = "".join(f"{name}{nearest(name, names)}, " for name in missing)
        raise UserError(
            f"{path}:1: the header lacks the column {hints.rstrip(', ')}; found: {', '.join(n.strip() for n in names)}"
        )
    delimiter, names = found
    # Spreadsheets leave columns without a name.
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise UserError(f"{path}:1: the header has the column {doubled[0]!r} twice")
    rows = []
    try:
        for number, fields in split_fields(lines, delimiter):
            where = f"{path}:{number}"
            if number == 1:
                continue
            if len(fields) != len(names):
                quote = "; quote a text that holds the separator" if delimiter in ",;" else ""
                faults.add(where, f"{len(fields)} fields, but the header has {len(names)}{quote}")
                continue
            rows.append((where, dict(zip(names, fields))))
    except csv.Error as err:
        last = rows[-1][0] if rows else f"{path}:1"
        raise UserError(f"{path}: {err}, after {last} (a quotation mark that is not closed?)") from None
    return rows


def check_columns(where, names):
    """Raise UserError for a column that looks like a mistyped optional one; others are left alone."""
    for wanted in ("speaker", "entities"):
        close = [] if wanted in names else difflib.get_close_matches(wanted, names, 1, cutoff=0.8)
        if close:
            raise UserError(f"{where}: unknown column {close[0]!r} (did you mean {wanted!r}?); rename it")


def parse_entities(value):
    """((slot, value), ...) of `slot=value; slot=value` or of {slot: value or list of values}.

    Raises ValueError that says what is wrong.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = json.loads(value)
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(";") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"entities {value!r} are not slot=value; slot=value")
        pairs = [(slot, text) for slot, _, text in pairs]
    elif isinstance(value, dict):
        pairs = [(slot, v) for slot, vs in value.items() for v in (vs if isinstance(vs, list) else [vs])]
    else:
        raise ValueError("entities must be {slot: value}, or slot=value; slot=value")
    pairs = tuple(("_".join(slot.split()), " ".join(str(text).split())) for slot, text in pairs)
    if not all(slot and text and "=" not in slot for slot, text in pairs):
        raise ValueError(f"entities {value!r} have an empty slot or value")
    return pairs


def form_of(names):
    """The entry of COLUMNS that these columns are of, or (None, the columns of our own)."""
    found = ((form, columns) for form, columns in COLUMNS if {columns["audio"], columns["text"]} <= set(names))
    return next(found, (None, COLUMNS[0][1]))


@functools.cache
def cuts_of(name):
    """What words of CUTS the name of a column has: {"start"} of "start_time", "startTime" and "starttime"."""
    words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
    found = (words | {UNIT.sub("", word) for word in words}) & CUTS
    return set() if words & COUNTED and found <= {"segment", "segments"} else found


def seconds(row, key):
    """A time of a row. Raises ValueError for what is none."""
    try:
        if isinstance(row[key], bool):
            raise ValueError
        value = float(row[key])
        if not 0 <= value < math.inf:
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(f"{key} is {row[key]!r}, not a time in seconds") from None
    return value


def part_of(row, form, header):
    """(start, end, whether that is all) of the audio, in seconds: (0, 0, True) of a row that says nothing of it.

    header: function without arguments to the `AudioInfo` of the file, None for one that cannot be read. Raises
    ValueError for columns that do not agree, and for those that may cut in another way.
    """
    row = {key: value for key, value in row.items() if value not in (None, "", [])}
    known = (*STARTS, LENGTH, END)
    strange = [key for key in row if key not in known and cuts_of(key) and not isinstance(row[key], bool)]
    strange = [key for key in strange if not isinstance(row[key], str) or TIME.fullmatch(row[key])]
    times = {key: seconds(row, key) for key in known if key in row}
    audio = header() if strange or times else None
    # Of one channel there is nothing to choose.
    strange = [key for key in strange if not (audio and audio.channels == 1 and cuts_of(key) == {"channel"})]
    if strange:
        raise ValueError(
            f"{strange[0]!r} may say which part of the audio is meant: give offset and duration, or start and end, in "
            "seconds, or leave the column out"
        )
    if not times:
        return 0.0, 0.0, True
    starts, length = {times[key] for key in STARTS if key in times}, audio.duration if audio else math.inf
    if len(starts) > 1:
        raise ValueError(f"offset {times['offset']:g} and start {times['start']:g} are not the same")
    start = min(starts, default=0.0)
    end = times[END] if END in times else start + times[LENGTH] if LENGTH in times else length
    if END in times and LENGTH in times and abs(end - start - times[LENGTH]) > ROUNDED_S:
        raise ValueError(f"a duration of {times[LENGTH]:g} s, but from {start:g} to {end:g} s")
    cut = times.keys() != {LENGTH} or form == NEMO  # which cuts by the duration alone
    if end > length + ROUNDED_S and not (cut and ends_with(start, end, length)):
        raise ValueError(f"{end:g} s are its end, but the file has {length:.3f} s (times are in seconds)")
    if audio and not cut and end < length - ROUNDED_S:
        raise ValueError(
            f"a duration of {end:g} s, but the file has {length:.3f} s; where a part is meant, give its offset too"
        )
    whole = start < WHOLE_S and end > length - ROUNDED_S if audio else not cut
    return (0.0, 0.0, True) if whole else (start, min(end, length), False)


def read_manifest(path, faults):
    """Items of a CSV, TSV or JSON-lines manifest in one of the forms in COLUMNS; also speaker, entities and times."""
    path = Path(path)
    table = not path.name.removesuffix(".gz").endswith((".jsonl", ".json"))
    names = table_columns(path) if table else first_object(path)
    form, columns = form_of(names)
    needed = [columns[name] for name in REQUIRED]
    rows = read_table(path, needed, faults) if table else read_json_lines(path, faults)
    items, checked = [], set()
    headers = functools.cache(header_of)
    for where, row in rows:
        if row.keys() - checked:
            check_columns(f"{path}:1" if table else where, row)
            checked |= row.keys()
        missing = [name for name in needed if name not in row]
        if missing:
            faults.add(where, f"no {missing[0]!r}{nearest(missing[0], row)}")
            continue
        fields = {}
        for name, key in (*columns.items(), ("speaker", "speaker")):
            value = row.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and name not in REQUIRED:
                value = str(value)
            if not isinstance(value, str | None):
                faults.add(where, f"{key} is {value!r}, not a text")
                break
            fields[name] = (value or "").strip()
        else:
            if not fields["audio"]:
                faults.add(where, "no audio path")
                continue
            audio = path.parent.absolute() / fields["audio"]
            try:
                entities = parse_entities(row.get("entities") or "")
                start, end, whole = part_of(row, form, functools.partial(headers, audio))
            except ValueError as err:
                faults.add(where, str(err))
                continue
            items.append(
                Item(
                    where, audio, fields["text"], fields["audio"], fields["id"], fields["speaker"], entities,
                    fields["audio"], start, end, whole,
                )
            )  # fmt: skip
    return items


def header_of(audio):
    """The `AudioInfo` of a file, None for one that cannot be read."""
    try:
        return info(audio)
    except AudioError:
        return None


def read_ljspeech(path, faults):
    """Items of an LJSpeech folder's metadata.csv: `id|text|normalised text`, audio in wavs/. One speaker."""
    items = []
    for number, fields in split_fields(read_lines(path), "|"):
        where = f"{path}:{number}"
        if len(fields) not in (2, 3):
            faults.add(where, f"{len(fields)} fields, not id|text or id|text|normalised text")
            continue
        wavs = Path(path).parent.absolute() / "wavs"
        audio = wavs / f"{fields[0]}.wav"
        if not os.path.isfile(audio) and os.path.isfile(wavs / f"{fields[0]}.flac"):
            audio = audio.with_suffix(".flac")
        items.append(Item(where, audio, fields[-1] or fields[1], fields[0], fields[0], "lj"))
    return items


def read_common_voice(path, faults):
    """Items of a Common Voice list such as train.tsv: path (in clips/), sentence, client_id."""
    items = []
    for where, row in read_table(path, COMMON_VOICE, faults):
        name = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"
        clip = Path(path).parent.absolute() / "clips" / name
        items.append(Item(where, clip, row["sentence"], name, speaker=row.get("client_id", "")))
    return items
