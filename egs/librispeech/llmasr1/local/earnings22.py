"""Earnings-22, https://github.com/revdotcom/speech-datasets (earnings22/): media/ID.mp3, one call a file of an hour.

The calls are cut into sentences by the word times of transcripts/force_aligned_nlp_references/ID.aligned.nlp, lines
`token|speaker|ts|endTs|punctuation|...`. Many words have no time there: where the authors' aligner found none. A
sentence is kept if its first and its last word have one, and lasts no longer than MAX_S. Parts are the calls that ESB
(arXiv 2210.13352) takes for validation and test.
"""

import re

from layout import left_out, need, seconds, span_id

from espnet_llmvq.data.manifest import Item, read_table

CALLS = {
    "test": ("4432298", "4450488", "4470290", "4479741", "4483338", "4485244"),
    "dev": ("4420696", "4448760", "4461799", "4469836", "4473238", "4482110"),
}
PARTS = tuple(CALLS)
NEEDED = ("token", "speaker", "ts", "endTs", "punctuation")
MAX_S = 30.0
UNHEARD = re.compile(r"<?(inaudible|crosstalk)>?", re.I)


def sentences(rows):
    """Cut [(where, row)] after ".", "?" and "!" and where the speaker changes: lists of the same."""
    found = []
    for where, row in rows:
        last = found[-1][-1][1] if found else None
        if last is None or last["speaker"] != row["speaker"] or last["punctuation"][-1:] in (".", "?", "!"):
            found.append([])
        found[-1].append((where, row))
    return found


def read_time(where, row, key, faults):
    """A time of a row, None where it has none; a wrong one is a fault."""
    try:
        return seconds(row[key]) if row[key] else None
    except ValueError:
        faults.add(where, f"{key} is {row[key]!r}, not a time (restore the file)")
        return None


def read(root, part, faults):
    """Items of the sentences of a part."""
    folder = root / "transcripts" / "force_aligned_nlp_references"
    need(folder, "set EARNINGS22 to the folder earnings22 of https://github.com/revdotcom/speech-datasets")
    items, timeless, unheard, total = [], 0, 0, 0
    for call in CALLS[part]:
        path = need(folder / f"{call}.aligned.nlp", "check out the whole of earnings22/transcripts")
        rows = read_table(path, NEEDED, faults)
        for where, row in rows:
            if not (row["token"] and row["speaker"]):
                faults.add(where, "no token or no speaker (restore the file)")
        for sentence in sentences(rows):
            total += 1
            where, first = sentence[0]
            if any(UNHEARD.fullmatch(row["token"]) for _, row in sentence):
                unheard += 1
                continue
            start, end = (read_time(where, first, "ts", faults), read_time(*sentence[-1], "endTs", faults))
            if start is None or end is None or not 0 < end - start <= MAX_S:
                timeless += 1
                continue
            text = " ".join(row.get("prepunctuation", "") + row["token"] + row["punctuation"] for _, row in sentence)
            speaker = f"{call}-{first['speaker']}"
            utt, audio = f"{speaker}-{span_id(start, end)}", root / "media" / f"{call}.mp3"
            items.append(Item(where, audio, text, utt, utt, speaker, (), call, start, end, whole=False))
    left_out(folder, unheard, total, "sentences with words that the transcribers could not hear")
    left_out(folder, timeless, total, f"sentences whose first or last word has no time, or of more than {MAX_S:g} s")
    return items
