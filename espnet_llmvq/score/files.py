"""Transcript files: Kaldi `text`, `.trn`, JSON lines; and writing a file in one step."""

import json
import os
import re
from pathlib import Path

from espnet_llmvq.errors import UserError, nearest

_TRN = re.compile(r"^(.*?)\s*\(([^()\s]+)\)$")


def write_text(path, text):
    """Write `text` as UTF-8 to `path` in one step, making the directory if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def _some(items):
    """Return up to ten of `items` and the number of the others."""
    items = list(items)
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(items[:10]) + more


def _lines(path):
    """Return (number, line) of the lines that are not blank; UserError if not UTF-8."""
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        raise UserError(f"{path}: cannot read it: {err.strerror}; check the path") from None
    lines, bad = [], []
    # str.splitlines would also split at characters such as U+2028.
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            utt = raw.split(maxsplit=1)[0].decode("utf-8", "backslashreplace")
            bad.append(f"line {number} ({utt[:80]})")
            continue
        if line:
            lines.append((number, line))
    if bad:
        raise UserError(
            f"{path}: not valid UTF-8: {_some(bad)}; "
            f"convert the file, for example: iconv -f latin1 -t utf-8 {path}"
        )
    return lines


def _parse_kaldi(line):
    utt, *text = line.split(maxsplit=1)
    return utt, "".join(text)


def _parse_trn(line):
    match = _TRN.match(line)
    if not match:
        raise UserError("not `words (utterance)`")
    return match[2], match[1]


def _parse_json(line):
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise UserError('not a JSON object {"id": ..., "text": ...} on one line')
    for key in ("id", "text"):
        if not isinstance(entry.get(key), str):
            raise UserError(f'no string "{key}"{nearest(key, entry)}')
    return entry["id"], entry["text"]


_PARSERS = {".trn": _parse_trn, ".jsonl": _parse_json, ".json": _parse_json}


def read_transcript(path):
    """Return {utterance: text} in the order of the file.

    The name tells the format: `*.trn` has `words (utterance)`, `*.jsonl` and `*.json` have one
    object with "id" and "text" a line, anything else has `utterance words...` as Kaldi's `text`.
    Blank lines are skipped. UserError for a file that cannot be read, is not UTF-8, has a
    malformed line, names an utterance twice, or holds nothing.
    """
    parse = _PARSERS.get(Path(path).suffix, _parse_kaldi)
    texts, first, twice = {}, {}, []
    for number, line in _lines(path):
        try:
            utt, text = parse(line)
        except UserError as err:
            raise UserError(
                f"{path}, line {number}: {err}: {line[:80]!r}; correct the line, or name the "
                "file after its format (.trn, .jsonl, otherwise Kaldi text)"
            ) from None
        if utt in texts:
            twice.append(f"{utt} (lines {first[utt]} and {number})")
            continue
        texts[utt], first[utt] = text, number
    if twice:
        raise UserError(f"{path}: utterances given twice: {_some(twice)}; keep one line of each")
    if not texts:
        raise UserError(f"{path}: holds no utterances; run the step that writes it again")
    return texts


def match_utterances(refs, hyps, ref_path, hyp_path, missing="error"):
    """Return (`hyps` restricted to and in the order of `refs`, number of missing ones).

    `missing` is "error", or "empty" to count a missing hypothesis as an empty one, that is, all
    its words as deletions. A hypothesis without a reference is always a UserError.
    """
    absent = [utt for utt in refs if utt not in hyps]
    extra = [utt for utt in hyps if utt not in refs]
    if extra:
        raise UserError(
            f"{hyp_path}: {len(extra)} utterances are not in {ref_path}: {_some(extra)}; "
            "remove them, or give the reference of this set"
        )
    if absent and missing == "error":
        raise UserError(
            f"{hyp_path}: {len(absent)} of {len(refs)} utterances of {ref_path} have no "
            f"hypothesis: {_some(absent)}; decode them, or count them as empty "
            "(espnet_llmvq.bin.score --missing empty)"
        )
    return {utt: hyps.get(utt, "") for utt in refs}, len(absent)
