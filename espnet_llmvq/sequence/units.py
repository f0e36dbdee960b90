"""Units of an aligned utterance: words, or segments between silences (and punctuation).

A unit is what an interleaved sequence holds in one modality ([2607.01733], section on interleaving).
"""

import unicodedata
from dataclasses import dataclass

from espnet_llmvq.data.audio import SAMPLE_RATE


class Dropped(Exception):
    """An utterance that cannot be interleaved. reason: what is counted; detail: of this one."""

    def __init__(self, reason, detail=""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Unit:
    """Words, as in the transcript, and the samples from the first one's start to the last one's end."""

    words: tuple
    start: int
    end: int

    @property
    def text(self):
        return " ".join(self.words)


def bare(word):
    """What two spellings of a word share: its letters, marks and digits, case folded; "" for punctuation."""
    word = unicodedata.normalize("NFC", word)
    return "".join(c for c in word if unicodedata.category(c)[0] in "LMN").casefold()


def mark_after(text):
    """What follows the last letter or digit of a text: "," of "Yes," and ". »" of "Yes. »"."""
    end = len(text)
    while end and unicodedata.category(text[end - 1])[0] not in "LMN":
        end -= 1
    return text[end:]


def timed_words(text, words, samples, tolerance=0.0, silence_words=()):
    """Join a transcript, with case and punctuation, to word times: a `Unit` for each aligned word.

    text: transcript. words: `align.ctm.Word`s in the order of time; those in `silence_words` or without letters
    and digits are skipped. samples: length of the audio. tolerance: seconds by which times may run past the audio
    or overlap; they are clipped. Words must be the same but for case and punctuation. A transcript word without
    letters and digits ("-") goes with the word before it, at the beginning with the one after it. Raises Dropped.
    """
    slack = round(tolerance * SAMPLE_RATE)
    words = [w for w in words if bare(w.word) and w.word not in silence_words]
    groups, lead = [], []
    for token in text.split():
        if bare(token):
            groups.append([*lead, token])
            lead = []
        elif groups:
            groups[-1].append(token)
        else:
            lead.append(token)
    if not groups:
        raise Dropped("no words in the transcript")
    spoken = [bare("".join(group)) for group in groups]
    aligned = [bare(w.word) for w in words]
    if spoken != aligned:
        i = next((i for i, pair in enumerate(zip(spoken, aligned)) if pair[0] != pair[1]), min(len(spoken), len(words)))
        here = repr(" ".join(groups[i])) if i < len(groups) else "nothing"
        there = repr(words[i].word) if i < len(words) else "nothing"
        raise Dropped("words differ", f"word {i + 1} is {here} in the transcript, {there} in the alignment")
    times = [[round(w.start * SAMPLE_RATE), round(w.end * SAMPLE_RATE)] for w in words]
    for i, (start, end) in enumerate(times):
        name = f"word {i + 1}, {words[i].word!r}"
        if end - samples > slack:
            seconds = f"{end / SAMPLE_RATE:.3f} s of {samples / SAMPLE_RATE:.3f} s"
            raise Dropped("alignment runs past the audio", f"{name}, ends at {seconds}")
        times[i][1] = end = min(end, samples)
        if i:
            over = times[i - 1][1] - start
            if over > slack:
                raise Dropped("alignment overlaps", f"{name}, begins {over / SAMPLE_RATE:.3f} s before the last ends")
            # The earlier word gives way.
            times[i - 1][1] = min(times[i - 1][1], start)
    for word, (start, end) in zip(words, times):
        if end <= start:
            raise Dropped("a word without duration", f"{word.word!r} at {start / SAMPLE_RATE:.3f} s")
    return [Unit(tuple(group), start, end) for group, (start, end) in zip(groups, times)]


def segments(words, silence, punctuation=""):
    """Merge words (`Unit`s) into segments.

    Cut where `silence` seconds or more lie between two words, and after a word with one of the characters of
    `punctuation` behind it, be it alone or among quotes, brackets and dashes.
    """
    found, gap = [], round(silence * SAMPLE_RATE)
    for word in words:
        last = found[-1][-1] if found else None
        if last is None or word.start - last.end >= gap or set(mark_after(last.text)) & set(punctuation):
            found.append([])
        found[-1].append(word)
    return [Unit(tuple(w for u in part for w in u.words), part[0].start, part[-1].end) for part in found]


def piece(units, i, samples, margin=0.0):
    """Samples (start, end) to cut out for unit i: its own, and up to `margin` seconds on either side.

    The margin takes no more than half of the gap to a neighbour, so no word of it comes along.
    """
    extra, unit = round(margin * SAMPLE_RATE), units[i]
    before = (unit.start - units[i - 1].end) // 2 if i else unit.start
    after = (units[i + 1].start - unit.end) // 2 if i + 1 < len(units) else samples - unit.end
    return unit.start - min(extra, before), unit.end + min(extra, after)
