"""Any form of data as a Kaldi data directory, and parts held out of it.

Forms: a Kaldi data directory; a CSV, TSV or JSON-lines manifest, also NeMo's, FunASR's and that of an audio folder of
Hugging Face; an LJSpeech folder; a Common Voice list; a Lhotse manifest. Ids begin with their speaker, as sorting in
the C locale demands; white space in ids becomes "_".
"""

import collections
import hashlib
import math
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data import lhotse, manifest
from espnet_llmvq.data.audio import AudioError, info
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.normalise import visible
from espnet_llmvq.data.shared import overlapping, places
from espnet_llmvq.data.tables import by_speaker, scan, too_long

FORMS = (
    "a Kaldi data directory (wav.scp, text, utt2spk), a .csv, .tsv or .jsonl manifest with the columns audio and text, "
    "a manifest of NeMo (audio_filepath, text) or FunASR (source, target), an audio folder of Hugging Face "
    "(file_name, transcription), an LJSpeech folder (metadata.csv, wavs/), a Common Voice list such as train.tsv "
    "beside clips/, or a Lhotse "
    "manifest (.jsonl or .jsonl.gz: cuts, or supervisions beside recordings)"
)


UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # JSON can hold these, files cannot


# What recognisers want in front of a target text: of Qwen3-ASR, and of Whisper, SenseVoice and others.
TAGS = re.compile(r"\s*(?:language [^<>]{1,40}<asr_text>|(?:<\|[^<|>\s]+\|>\s*)+)")


def clean(text, strip_tags, counts):
    """A text without characters that cannot be seen and, if asked for, without TAGS; how many had them is counted."""
    seen = visible(text)
    counts["characters that cannot be seen, which are left out"] += seen != text
    if tags := TAGS.match(seen):
        if strip_tags:
            return seen[tags.end() :]
        counts[f"tags of a recogniser, such as {tags[0].strip()!r}; --strip_tags true leaves them out"] += 1
    return seen


def read(source, strip_tags=False):
    """(form, DataDir) of `source`, a path to any of FORMS. Audio paths are absolute; each file is there.

    Texts are as `clean` leaves them; prints how many had what.
    Raises UserError with file and line: missing columns or audio, empty texts, ids that occur twice, wrong encodings.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: not found; data is {FORMS}")
    path, counts = path.absolute(), collections.Counter()
    if path.is_dir() and (path / "wav.scp").is_file():
        form, data = "Kaldi data directory", read_kaldi(path)
        data.text = {utt: clean(text, strip_tags, counts) for utt, text in data.text.items()}
        if empty := [utt for utt, text in data.text.items() if not text.strip()]:
            raise UserError(f"{path / 'text'}: {empty[0]}: empty text (add it or remove the utterance)")
    else:
        if path.is_dir():
            path = choose_file(path)
        faults = manifest.Faults()
        form, items = read_items(path, faults)
        faults.check()
        items = [replace(item, text=clean(item.text, strip_tags, counts)) for item in items]
        data = to_data_dir(items, faults)
        faults.check()
        if not data.text:
            raise UserError(f"{path}: no utterance")
    for what, count in counts.items():
        if count:
            print(f"{source}: {count} texts have {what}", file=sys.stderr)
    return form, data


def choose_file(folder):
    """The one list in a folder. Raises UserError if there are none or several."""
    suffixes = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
    files = [f for f in sorted(folder.iterdir()) if f.name.endswith(suffixes) and f.is_file()]
    # Recordings are found beside their supervisions; cuts hold both.
    files = [f for f in files if "recordings" not in f.name or not f.name.endswith((".jsonl", ".jsonl.gz"))]
    if not files:
        raise UserError(f"{folder}: holds no data in a known form; data is {FORMS}")
    if len(files) > 1:
        raise UserError(f"{folder}: name one of its lists: {', '.join(f.name for f in files)}")
    return files[0]


def read_items(path, faults):
    """(form, Items) of a file."""
    name = path.name.removesuffix(".gz")
    lines = name.endswith((".jsonl", ".json"))
    if not lines and not name.endswith((".csv", ".tsv")):
        raise UserError(f"{path}: no known form; data is {FORMS}")
    first = manifest.first_object(path) if lines else manifest.table_columns(path)
    form, _ = manifest.form_of(first)
    if form and form != "manifest":
        return form, manifest.read_manifest(path, faults)
    if lines and "audio" not in first:
        if "recording_id" in first:
            return "Lhotse supervisions", lhotse.read_lhotse(lhotse.partner(path), path, faults)
        if "type" in first or "supervisions" in first:
            return "Lhotse cuts", lhotse.read_cuts(path, faults)
        if "sources" in first:
            raise UserError(f"{path}: holds recordings without texts; name the supervisions beside it")
    if not lines and not form:
        line = manifest.read_lines(path)[0]
        if (path.parent / "clips").is_dir() and manifest.header(line, manifest.COMMON_VOICE):
            return "Common Voice list", manifest.read_common_voice(path, faults)
        if (path.parent / "wavs").is_dir() and "|" in line:
            return "LJSpeech folder", manifest.read_ljspeech(path, faults)
    return ("JSON-lines" if lines else name[-3:].upper()) + " manifest", manifest.read_manifest(path, faults)


def clean_id(text):
    """An id without white space."""
    return "_".join(text.split())


def id_of(item):
    """The utterance id: speaker in front, else from the audio path."""
    utt = item.utt
    if not utt:
        name = os.path.basename(item.name) if os.path.isabs(item.name) else item.name
        parts = os.path.splitext(name)[0].split("/")
        utt = "-".join(part for part in parts if part not in ("", ".", "..")) or "-"
        if not item.whole:  # as Kaldi's recipes name segments, in milliseconds
            utt += f"-{1000 * item.start:07.0f}-{1000 * item.end:07.0f}"
    utt, speaker = clean_id(utt), clean_id(item.speaker)
    return utt if not speaker or utt.startswith(speaker) else f"{speaker}-{utt}"


def duration_of(item, faults):
    """Length of an Item's file in seconds; infinite for one that cannot be read, which is added to `faults`."""
    try:
        return info(item.audio).duration
    except AudioError as err:
        faults.add(item.where, str(err))
        return math.inf


def to_data_dir(items, faults):
    """The DataDir of Items and add what is wrong with them to `faults`."""
    data, first, segmented = DataDir({}, {}, {}), {}, any(not item.whole for item in items)
    segments, entities, missing = {}, {}, {}
    for item in items:
        utt, text = id_of(item), " ".join(item.text.split())
        if utt in first:
            hint = "" if item.utt else "; give each its own in a column id"
            faults.add(item.where, f"utterance id {utt!r} is that of {first[utt]} too{hint}")
            continue
        first[utt] = item.where
        if UNWRITABLE.search(utt + text + str(item.audio)):
            faults.add(item.where, f"{utt!r}: a character that is none (NUL, half of a surrogate pair)")
            continue
        if wrong := too_long(utt):
            faults.add(item.where, f"{utt}: {wrong} (give it a shorter id)")
        if not text:
            faults.add(item.where, f"{utt}: empty text (add it or remove the line)")
        path = str(item.audio)
        if path not in missing:
            missing[path] = not os.path.isfile(path) or re.search(r"[\r\n]|\|$|^\||\s$", path)
        if missing[path]:
            faults.add(item.where, f"{utt}: no audio file {path} (correct the path or remove the line)")
        absent = [value for _, value in item.entities if value not in text]
        if absent:
            faults.add(item.where, f"{utt}: the text has no entity {absent[0]!r}; write it as the text does")
        if item.entities:
            entities[utt] = ["\t".join(f"{slot}={value}" for slot, value in item.entities)]
        recording = clean_id(item.recording) if segmented else utt
        if segmented:
            end = item.end or duration_of(item, faults)
            segments[utt] = (recording, item.start, end)
            if not 0 <= item.start < end:
                faults.add(item.where, f"{utt}: its part from {item.start:g} to {end:g} s is empty")
        if data.wav_scp.setdefault(recording, path) != path:
            faults.add(item.where, f"recording {recording!r} is another file than before")
        data.text[utt] = text
        # Kaldi's habit: who is not known is a speaker of his own.
        data.utt2spk[utt] = clean_id(item.speaker) or utt
    if segmented:
        data.segments = segments
    if entities:
        data.extra["entities"] = entities
    return data


def read_kaldi(path):
    """The DataDir of a Kaldi data directory with absolute audio paths. Raises UserError like `read`."""
    data, faults = DataDir.load(path), manifest.Faults()
    for row in scan(path / "text")[0]:
        if not row.value.strip():
            faults.add(f"{path / 'text'}:{row.line}", f"{row.key}: empty text (add it or remove the utterance)")
    for row in scan(path / "wav.scp")[0]:
        found = lhotse.find_audio(row.value, path)
        if not os.path.isfile(found):
            where = "" if Path(row.value).is_absolute() else f", from {path} or a folder above it"
            faults.add(f"{path / 'wav.scp'}:{row.line}", f"{row.key}: no audio file {row.value}{where}")
        data.wav_scp[row.key] = str(found)
    faults.check()
    return data


def merged(groups, pairs):
    """{name: utterances}: `groups`, {name: utterances}, of which those of a pair of utterances are one."""
    found = {name: list(utts) for name, utts in groups.items()}
    home = {utt: name for name, utts in groups.items() for utt in utts}
    for utt, other in pairs:
        if (gone := home[utt]) != (name := home[other]):
            home.update(dict.fromkeys(found[gone], name))
            found[name] += found.pop(gone)
    return found


def hold_out(data, parts, share=0.1, most=1000):
    """Split a DataDir: return [rest, part, ...] with `share` of the utterances, or `most`, in each of `parts` parts.

    Where no speaker has more than `share` of the utterances, the parts are whole speakers, so that none is in two of
    them; else single utterances. What shares audio stays together, and with the rest where it is much. Who
    goes where follows from hashes of the ids alone: not from order or machine.
    Raises UserError if there are too few utterances.
    """
    total = len(data.text)
    need = min(most, math.ceil(share * total))
    if total <= parts * need:
        raise UserError(f"{total} utterances are too few to hold {parts} sets out of them")
    shared = overlapping(places(data))
    groups = merged(by_speaker(data.utt2spk), shared)
    if max(map(len, groups.values())) > share * total:
        groups = merged({utt: [utt] for utt in data.text}, shared)
    queue = sorted(
        groups, key=lambda name: (len(groups[name]) <= share * total, hashlib.sha256(name.encode()).digest())
    )
    found = []
    for _ in range(parts):
        utts = []
        while len(utts) < need and queue:
            utts += groups[queue.pop()]
        found.append(utts)
    rest = [utt for name in queue for utt in groups[name]]
    if not rest:
        raise UserError(f"{total} utterances share so much audio that {parts} sets cannot be held out; give sets apart")
    return [data.subset(utts) for utts in (rest, *found)]
