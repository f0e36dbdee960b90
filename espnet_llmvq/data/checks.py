"""Every defect of a Kaldi data directory, and what is left without those that are dropped."""

import array
import bisect
import contextlib
import functools
import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.normalise import visible
from espnet_llmvq.data.suspects import Columns, suspects, twice_there
from espnet_llmvq.data.tables import (
    CORE,
    PIPE,
    Problem,
    Rows,
    is_pipe,
    level,
    managed_files,
    parse_segment,
    scaled_times,
    scan,
    too_long,
)


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


def validate(path, audio=True, rate=None, nj=2, allow_empty_text=False, repeated_audio=True):
    """Every Problem of a data directory, ordered by file and line; empty means clean.

    Memory is some 100 bytes an utterance; of a directory with segments or many problems, as much as they are.

    audio: also check each audio file to its end, in `nj` threads. rate: expected sampling rate in
    Hz, or None. repeated_audio: utterances may have the same audio. Raises UserError only when `path` is not a
    directory.
    """
    tables, problems = survey(path, allow_empty_text)
    if audio:
        problems += _check_audio(tables, rate, nj)
    if not repeated_audio:
        problems += _check_repeated(tables)
    order = {name: i for i, name in enumerate(tables)}
    return sorted(problems, key=lambda p: (order.get(Path(p.file).name, -1), p.line, p.utt))


def show_problems(path, problems):
    """Print Problems of a data directory; the exit status, 1 if there are any."""
    for problem in problems:
        print(problem)
    if problems:
        able = sum(p.repair in ("rewrite", "drop") for p in problems)
        print(f"{path}: problems: {len(problems)}; llmvq data fix can repair {able}")
        return 1
    print(f"{path}: valid")
    return 0


def inspect(path, allow_empty_text):
    """({file: rows}, {utt: (recording, start, end, row)}, problems) without the audio."""
    names, tables, found = _names(path), {}, {}
    for name in names:
        tables[name], found[name] = scan(Path(path) / name)
    problems = _of_files(path, tables, found, allow_empty_text)
    problems += _check_ids(tables, _segments(tables))
    problems += _check_speakers(tables)
    return tables, _segments(tables), problems


def survey(path, allow_empty_text):
    """({file: `Rows`}, problems) without the audio: the same problems as of `inspect`, in the same order.

    Of a line some ten bytes are kept for each table, and whole rows only of ids with which something may be wrong.
    """
    names = _names(path)
    columns = {name: Columns(Path(path) / name) for name in names}
    tables = {name: Rows(Path(path) / name, column.count) for name, column in columns.items()}
    few = suspects(tables, columns)
    found = {name: columns[name].problems(few.get(name, ())) for name in names}
    problems = _of_files(path, tables, found, allow_empty_text)
    if few:
        problems += _check_ids(few, _segments(few))
        problems += _check_speakers(few)
    return tables, problems


def _names(path):
    if not Path(path).is_dir():
        raise UserError(f"{path}: data directory not found (correct the path)")
    return managed_files(path)


def _of_files(path, tables, found, allow_empty_text):
    """Problems of single files and lines. found: {file: problems of its form}."""
    problems = []
    for name in tables:
        rebuilt = name == "spk2utt" and tables.get("utt2spk")  # from utt2spk
        problems += [replace(p, repair="rewrite") for p in found[name]] if rebuilt else found[name]
    problems += _check_files(Path(path), tables)
    problems += _check_values(tables, allow_empty_text)
    for row in tables.get("segments", ()):
        try:
            parse_segment(row.value)
        except ValueError as err:
            problems.append(row.problem(str(err), "correct it or drop it", "drop"))
    return problems


def _segments(tables):
    """{utt: (recording, start, end, row)} of the segments that can be read."""
    segments = {}
    for row in tables.get("segments", ()):
        with contextlib.suppress(ValueError):  # `_of_files` tells it
            segments.setdefault(row.key, (*parse_segment(row.value), row))
    return segments


def _check_files(path, tables):
    """Problems of core files that are missing or empty."""
    for name in CORE:
        if tables.get(name) or (name == "segments" and name not in tables):
            continue
        what = "is empty" if name in tables else "is missing"
        at = str(path / name), 0, "-"
        if (path / name).exists() and not (path / name).is_file():
            yield Problem(*at, "is no file", "move it away")
        elif name == "spk2utt" and tables.get("utt2spk"):
            yield Problem(*at, f"file {what}", "make it with llmvq data spk2utt", "rewrite")
        else:
            yield Problem(*at, f"file {what}", "write it")


def _check_values(tables, allow_empty_text):
    """Problems of single lines in wav.scp, text, utt2spk and CTM files."""
    for row in tables.get("wav.scp", ()):
        if is_pipe(row.value):
            yield row.problem(*PIPE)
        elif not row.value:
            yield row.problem("no audio path", "add the path or drop it", "drop")
    for row in tables.get("text", ()):
        if not allow_empty_text and not visible(row.value).strip():
            yield row.problem("empty transcript", "add it, drop it, or --allow_empty_text true", "drop")
    for row in tables.get("utt2spk", ()):
        fields = len(re.findall(r"[^ \t]+", row.value))
        if fields == 0:
            yield row.problem("no speaker", "add one or drop it", "drop")
        elif fields > 1:
            yield row.problem(f"{fields} speakers", "leave one, without blanks")
    for name in tables:
        for row in tables[name] if name.endswith(".ctm") else ():
            try:
                scaled_times(row.value)
            except ValueError as err:
                yield row.problem(str(err), "correct it")


def _check_ids(tables, segments):
    """Problems of ids that one table has and another lacks."""
    audio = "segments" if "segments" in tables else "wav.scp"
    rows = {n: {row.key: row for row in reversed(tables[n])} for n in ("text", audio, "utt2spk") if tables.get(n)}
    utts = set().union(*rows.values())
    for utt in sorted(utts):
        if too_long(utt):
            here = next(n for n in rows if utt in rows[n])
            yield rows[here][utt].problem(too_long(utt), "give it a shorter id")
        if utt.split() != [utt]:  # such as U+00A0, which Kaldi takes for a letter and others for the id's end
            here = next(n for n in rows if utt in rows[n])
            yield rows[here][utt].problem(f"the id {utt!r} holds white space", "give it an id without")
        lacking = [n for n in rows if utt not in rows[n]]
        if lacking:
            here = next(n for n in rows if utt in rows[n])
            message = f"not in {' and '.join(lacking)}"
            yield rows[here][utt].problem(message, "add the missing line or drop it", "drop")
    recs = {row.key: row for row in reversed(tables.get("wav.scp", ()))}
    if tables.get("segments") and recs:
        for rec, _, _, row in segments.values():
            if rec not in recs:
                yield row.problem(f"recording {rec!r} is not in wav.scp", "add the recording or drop it", "drop")
        # A malformed segment still names its recording; the segment itself is reported already.
        used = {row.value.split()[0] for row in tables["segments"] if row.value}
        for rec in sorted(recs.keys() - used):
            yield recs[rec].problem("no segment uses this recording", "drop it", "drop")
    known = {"utt": utts, "spk": {row.value for row in tables.get("utt2spk", ())}, "rec": recs}
    what = {"utt": "utterance", "spk": "speaker", "rec": "recording"}
    for name in filter(level, tables):
        ids = known[level(name)]
        for row in tables[name]:
            if ids and row.key not in ids:
                yield row.problem(f"unknown {what[level(name)]}", "drop the line", "drop")
    if "utt2num_samples" in tables:
        counted = {row.key for row in tables["utt2num_samples"]}
        for row in tables.get("text", ()):
            if row.key not in counted:
                yield row.problem("not in utt2num_samples", "run llmvq data format again")


def _check_repeated(tables):
    """Problems of utterances that have the same audio."""
    from espnet_llmvq.data.shared import REMEDY, real, repeated

    rows = tables.get("wav.scp", ())
    if "segments" not in tables:
        # The rows of those files alone that are there twice, as hashes tell.
        hashes = np.fromiter((hash(real(row.value)) for row in rows), np.int64)
        twice = twice_there(hashes)
        rows = itertools.compress(rows, np.isin(hashes, twice)) if len(twice) else ()
    files = {}
    for row in rows:
        files[row.key] = (real(row.value), row)
    if "segments" in tables:
        segments = _segments(tables)
        heard = {utt: (files[rec][0], a, b, row) for utt, (rec, a, b, row) in segments.items() if rec in files}
    else:
        heard = {utt: (path, 0.0, math.inf, row) for utt, (path, row) in files.items()}
    for utt, other in repeated({utt: place for utt, (*place, _) in sorted(heard.items())}):
        yield heard[utt][-1].problem(f"has the audio of {other}", REMEDY)


def _check_speakers(tables):
    """Problems where utt2spk and spk2utt disagree; utt2spk is taken to be right."""
    if not tables.get("utt2spk") or not tables.get("spk2utt"):
        return
    speaker = {row.key: row.value for row in reversed(tables["utt2spk"])}
    listed = set()
    fix = "rebuild it with llmvq data spk2utt"
    for row in tables["spk2utt"]:
        at, utts = (row.file, row.line), re.findall(r"[^ \t]+", row.value)
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
            yield row.problem("not in spk2utt", fix, "rewrite")


def _check_audio(tables, rate, nj):
    """Problems found by opening every file of wav.scp, each once."""
    from espnet_llmvq.data import audio

    segmented, found = "segments" in tables, {}
    hashes, frames = array.array("q"), array.array("q")  # of utterances whose audio can be read
    for row, header in _opened(tables.get("wav.scp", ()), nj):
        if isinstance(header, audio.AudioError):
            or_drop = ", or drop it" if header.repair == "drop" else ""
            yield row.problem(f"{header.path}: {header.message}", header.fix + or_drop, header.repair)
            continue
        if rate and header.rate != rate:
            message = f"{row.value}: {header.rate} Hz instead of {rate} Hz"
            yield row.problem(message, f"run llmvq data format --rate {rate}", "convert")
        if segmented:
            found.setdefault(row.key, (row.value, header))
            continue
        hashes.append(hash(row.key))
        frames.append(header.frames)
        try:
            audio.piece(row.value, header, 0.0, None, rate or audio.SAMPLE_RATE)
        except audio.AudioError as err:
            yield row.problem(f"{err.path}: {err.message}", f"{err.fix}, or drop it", err.repair)
    if segmented:
        yield from _check_pieces(tables["segments"], found, rate or audio.SAMPLE_RATE)
    elif "utt2num_samples" in tables:
        yield from _check_counts(tables["utt2num_samples"], np.asarray(hashes), np.asarray(frames))


def _opened(rows, nj, at_once=1024):
    """Yield (row, AudioInfo or AudioError) of the rows of wav.scp, in `nj` threads; a shared file is opened once."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from espnet_llmvq.data import audio

    @functools.lru_cache(1 << 12)
    def look(path):
        try:
            return audio.check(path)
        except audio.AudioError as err:
            return err

    files = iter(tqdm(rows, "audio", len(rows), unit="file", mininterval=1))
    usable = (row for row in files if row.value and not is_pipe(row.value))
    with ThreadPoolExecutor(nj) as pool:
        # A pool takes all jobs of a map at once, and would hold millions.
        while some := list(itertools.islice(usable, at_once)):
            yield from zip(some, pool.map(look, [row.value for row in some]), strict=True)


def _check_pieces(rows, found, rate):
    """Problems of segments that cannot be cut from their files. found: {recording: (path, AudioInfo)}; rate: Hz."""
    from espnet_llmvq.data import audio

    late, name = [], ""
    for rec, start, end, row in _segments({"segments": rows}).values():
        if rec not in found:
            continue
        path, header = found[rec]
        try:
            audio.piece(path, header, start, end, rate)
        except audio.AudioError as err:
            yield row.problem(f"{err.path}: {err.message}", f"{err.fix}, or drop it", err.repair)
            continue
        if end > header.duration:
            late.append(end - header.duration)
            name = row.file
    if late:
        print(f"{name}: {len(late)} segments end up to {max(late):.3f} s after their file, and with it here")


def _check_counts(rows, hashes, frames):
    """Problems of utt2num_samples. hashes, frames: (N,) of ids and of the samples of their audio."""
    order = np.argsort(hashes, kind="stable")
    hashes, frames = hashes[order], frames[order]
    for row in rows:
        i = bisect.bisect_left(hashes, hash(row.key))
        if i < len(hashes) and hashes[i] == hash(row.key) and row.value != str(frames[i]):
            message = f"says {row.value!r} samples, the audio has {frames[i]}"
            yield row.problem(message, "run llmvq data format again")
