"""GigaSpeech, https://github.com/SpeechColab/GigaSpeech: GigaSpeech.json with segments, audio/**/*.opus."""

import json
import re

from layout import left_out, need, seconds

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import Item

PARTS = ("test", "dev", "xs", "s", "m", "l", "xl")
MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
GARBAGE = ("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>")  # instead of words; such segments have none


def clean(text):
    """Words with punctuation, "" for a garbage segment. Raises ValueError for a tag that is neither."""
    words = []
    for word in text.split():
        if word in MARKS:
            words[-1:] = ["".join(words[-1:]) + MARKS[word]]
        elif re.fullmatch(r"<[^<>]*>", word):
            if word not in GARBAGE:
                raise ValueError(f"unknown tag {word}")
        else:
            words.append(word)
    return " ".join(words)


def load(path):
    """The metadata. Raises UserError, with the line, for what is no JSON. It is large: some ten GB of memory."""
    try:
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
    except json.JSONDecodeError as err:
        raise UserError(f"{path}:{err.lineno}: not JSON: {err.msg} (download it again)") from None
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: not UTF-8: {err} (download it again)") from None
    if not isinstance(data, dict) or not isinstance(data.get("audios"), list):
        raise UserError(f'{path}: no list "audios" (download it again)')
    return data["audios"]


def read(root, part, faults):
    """Items of the segments of a subset; each recording is a speaker of its own, as most speakers are unknown."""
    path = need(root / "GigaSpeech.json", "set GIGASPEECH to the folder that holds it and audio/")
    items, garbage, subset = [], 0, "{%s}" % part.upper()
    for audio in load(path):
        aid = audio.get("aid")
        for segment in audio.get("segments", []):
            if subset not in segment.get("subsets", []):
                continue
            sid = segment.get("sid")
            where = f"{path}: segment {sid} of {aid}"
            try:
                if not all(isinstance(name, str) for name in (sid, aid, audio.get("path"))):
                    raise ValueError("no sid, aid or path")
                if not isinstance(segment.get("text_tn"), str):
                    raise ValueError("no text_tn")
                start, end = (seconds(segment.get(f"{key}_time", "")) for key in ("begin", "end"))
                text = clean(segment["text_tn"])
            except (ValueError, TypeError) as err:
                faults.add(where, f"{err} (download GigaSpeech.json again)")
                continue
            if not text:
                garbage += 1
                continue
            span = {"recording": aid, "start": start, "end": end, "whole": False}
            items.append(Item(where, root / audio["path"], text, sid, sid, aid, **span))
    if not items and not garbage:
        faults.add(path, f"no segment of the subset {subset}")
    why = f"segments of {subset} without words ({', '.join(GARBAGE)})"
    left_out(path, garbage, len(items) + garbage, why)
    return items
