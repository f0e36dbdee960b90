"""Every defect of a Kaldi data directory, and what is left without those that are dropped."""

import math
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.normalise import visible
from espnet_llmvq.data.tables import (
    CORE,
    PIPE,
    Problem,
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

    audio: also check each audio file to its end, in `nj` threads. rate: expected sampling rate in
    Hz, or None. repeated_audio: utterances may have the same audio. Raises UserError only when `path` is not a
    directory.
    """
    tables, segments, problems = inspect(path, allow_empty_text)
    if audio:
        problems += _check_audio(tables, segments, rate, nj)
    if not repeated_audio:
        problems += _check_repeated(tables, segments)
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
    problems += _check_values(tables, allow_empty_text)
    for row in tables.get("segments", ()):
        try:
            segments.setdefault(row.key, (*parse_segment(row.value), row))
        except ValueError as err:
            problems.append(row.problem(str(err), "correct it or drop it", "drop"))
    problems += _check_ids(tables, segments)
    problems += _check_speakers(tables)
    return tables, segments, problems


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


def _check_repeated(tables, segments):
    """Problems of utterances that have the same audio."""
    from espnet_llmvq.data.shared import REMEDY, repeated

    files = {row.key: (os.path.realpath(row.value), row) for row in tables.get("wav.scp", ())}
    if "segments" in tables:
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


def _check_audio(tables, segments, rate, nj):
    """Problems found by opening every file of wav.scp."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from espnet_llmvq.data import audio

    def look(row):
        try:
            return audio.check(row.value)
        except audio.AudioError as err:
            return err

    rows = [r for r in tables.get("wav.scp", ()) if r.value and not is_pipe(r.value)]
    found = {}
    with ThreadPoolExecutor(nj) as pool:
        results = tqdm(pool.map(look, rows), "audio", len(rows), unit="file", mininterval=1)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, audio.AudioError):
                or_drop = ", or drop it" if result.repair == "drop" else ""
                yield row.problem(f"{result.path}: {result.message}", result.fix + or_drop, result.repair)
                continue
            found.setdefault(row.key, result)
            if rate and result.rate != rate:
                message = f"{row.value}: {result.rate} Hz instead of {rate} Hz"
                yield row.problem(message, f"run llmvq data format --rate {rate}", "convert")
    pieces = segments.values() if "segments" in tables else [(row.key, 0.0, None, row) for row in rows]
    paths = {row.key: row.value for row in rows}
    late = []
    for rec, start, end, row in pieces:
        if rec not in found:
            continue
        try:
            audio.piece(paths[rec], found[rec], start, end, rate or audio.SAMPLE_RATE)
        except audio.AudioError as err:
            yield row.problem(f"{err.path}: {err.message}", f"{err.fix}, or drop it", err.repair)
            continue
        if end is not None and end > found[rec].duration:
            late.append(end - found[rec].duration)
    if "segments" in tables:
        if late:
            name = tables["segments"][0].file
            print(f"{name}: {len(late)} segments end up to {max(late):.3f} s after their file, and with it here")
        return
    for row in tables.get("utt2num_samples", ()):
        if row.key in found and row.value != str(found[row.key].frames):
            message = f"says {row.value!r} samples, the audio has {found[row.key].frames}"
            yield row.problem(message, "run llmvq data format again")
