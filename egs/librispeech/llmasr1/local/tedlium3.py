"""TED-LIUM 3, https://www.openslr.org/51: TEDLIUM_release-3/legacy/{train,dev,test}/{stm,sph}/TALK.{stm,sph}."""

import re

from layout import left_out, need, seconds, span_id

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import Item, read_lines

PARTS = ("test", "dev", "train")
IGNORED = "ignore_time_segment_in_scoring"
# What no one said: noises, unknown words, silence, and the numbers of pronunciations.
MARKS = r"\{[^}]*\}|<[^>]*>|\(\d+\)"


def clean(text):
    """Words of an STM line: no marks, and "i 'd" is one word."""
    words = re.sub(MARKS, " ", text).split()
    return re.sub(r" (?='[a-z])", "", " ".join(words))


def read(root, part, faults):
    """Items of a part of the legacy distribution, one a line of its STM files; TALK is the speaker."""
    folder = root / "legacy" / part
    stms = sorted(need(folder / "stm", "set TEDLIUM3 to an unpacked TEDLIUM_release-3").glob("*.stm"))
    if not stms:
        raise UserError(f"{folder / 'stm'}: no *.stm in it; unpack TEDLIUM_release-3.tgz again")
    items, ignored, empty = [], 0, 0
    for path in stms:
        for number, line in enumerate(read_lines(path), 1):
            where = f"{path}:{number}"
            if line.startswith(";;") or not line.strip():
                continue
            fields = line.split(maxsplit=6)
            try:
                talk, channel, _, start, end, label = fields[:6]
                start, end = seconds(start), seconds(end)
                if channel != "1" or not label.startswith("<"):
                    raise ValueError
            except ValueError:
                faults.add(where, f"expected 'TALK 1 SPEAKER START END <LABEL> WORDS', found {line[:60]!r}")
                continue
            words = fields[6] if len(fields) > 6 else ""
            if words.strip() == IGNORED:
                ignored += 1
                continue
            words = clean(words)
            if not words:
                empty += 1
                continue
            utt, audio = f"{talk}-{span_id(start, end)}", folder / "sph" / f"{talk}.sph"
            items.append(Item(where, audio, words, utt, utt, talk, (), talk, start, end, whole=False))
    left_out(folder, ignored, len(items) + ignored + empty, f"segments marked {IGNORED}")
    left_out(folder, empty, len(items) + ignored + empty, "segments without words")
    return items
