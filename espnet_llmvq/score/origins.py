"""Where word errors come from: parts of the word error rate, and its rate on kinds of words.

Parts: each word error is in one of them, so they sum to the word error rate. All errors of a derailed utterance are of
its derailment (`DERAILED`). Of others, a run of errors without a right word between them sounds alike if its reference
and its hypothesis do, word boundaries aside ("for tea", "forty"); of the other runs, a substituted word may still sound
like its own. What is left is a substitution that sounds otherwise, a word left out, or one put in.

Kinds of words are those of the reference, with what became of them: numbers, and words by how often the training text
has them. Derailed utterances count, and insertions do not.
"""

import functools
import itertools
import re

from espnet_llmvq.data.normalise import get_normaliser

LETTERS = "letters"
# Part: what it is of. The first kind of derailment that an utterance has counts.
DERAILED = {"empty": ("empty",), "loop": ("loop",), "run_on": ("length", "at_limit", "prompt")}
PARTS = {
    "loop": ("loops", "errors in utterances that loop"),
    "empty": ("empty", "words of empty hypotheses"),
    "run_on": ("run-ons", "errors in utterances that are far too long, cut off at the length limit, or say the prompt"),
    "alike": ("sound alike", "wrong words that sound like what was said"),
    "other": ("sound otherwise", "other wrong words"),
    "deleted": ("left out", "other words left out"),
    "inserted": ("put in", "other words put in"),
}
SEEN = {"0": (0, 0), "1": (1, 1), "2_5": (2, 5), "6_50": (6, 50), "more": (51, None)}  # times in the training text


class Sounds:
    """How words sound: phonemes of espeak-ng in a voice, or letters.

    voice: an espeak-ng voice, or "letters". Without espeak-ng letters are taken; `name` says which were.
    """

    def __init__(self, voice="en-us"):
        self.name, self.voice, self._known, self._espeak = LETTERS, voice, {}, None
        if voice != LETTERS:
            try:
                import espeakng_loader  # noqa: F401
            except ImportError:
                return
            from espnet_llmvq.data.espeak import Espeak

            self._espeak, self.name = Espeak(), f"espeak-ng {voice}"
            self._espeak.voice(voice)

    def learn(self, words):
        """Look up those of `words` that are not known yet; together, as the engine takes a while to start."""
        new = sorted(set(words) - self._known.keys())
        found = self._espeak.pronunciations(new, self.voice) if self._espeak and new else {}
        # A word that is not spoken is compared by what is written.
        self._known |= {word: list(map(plain, found.get(word) or word)) for word in new}

    def distance(self, ref, hyp):
        """Edit distance of two lists of words that were learnt, over the longer one: 0 (the same) to 1."""
        from rapidfuzz.distance import Levenshtein

        said, heard = ([sound for word in words for sound in self._known[word]] for words in (ref, hyp))
        return Levenshtein.normalized_distance(said, heard)


def plain(sound):
    """espeak-ng's name of a phoneme without marks of variants: "t#", the flap of "forty", is "t", and "i:" is "i"."""
    return re.sub(r"(?<=.)[#:0-9]+$", "", sound)


def parts(pairs, derailed, sounds, limit):
    """{part: errors} of an utterance.

    pairs: alignment as of UtteranceScore. derailed: kinds of derailment that it has. sounds: `Sounds` that has learnt
    its wrong words; limit: the largest distance at which they sound alike.
    """
    counts = dict.fromkeys(PARTS, 0)
    for part, kinds in DERAILED.items():
        if derailed & set(kinds):
            counts[part] = sum(op != "=" for op, *_ in pairs)
            return counts
    kinds = {"S": "other", "D": "deleted", "I": "inserted"}
    for wrong, run in itertools.groupby(pairs, lambda pair: pair[0] != "="):
        run = list(run)
        if not wrong:
            continue
        ref, hyp = ([word for word in column if word] for column in list(zip(*run))[1:])
        if ref and hyp and sounds.distance(ref, hyp) <= limit:
            counts["alike"] += len(run)
            continue
        for op, said, heard in run:
            alike = op == "S" and sounds.distance([said], [heard]) <= limit
            counts["alike" if alike else kinds[op]] += 1
    return counts


def wrong_words(pairs):
    """All words of the errors of an alignment, of both sides."""
    return [word for op, *words in pairs if op != "=" for word in words if word]


def word_errors(pairs, chosen):
    """(errors, words) of the reference words of an alignment that the function `chosen` takes."""
    ops = [op for op, ref, _ in pairs if op != "I" and chosen(ref)]
    return sum(op != "=" for op in ops), len(ops)


@functools.cache
def _english():
    return get_normaliser("whisper_english")


@functools.lru_cache(100_000)
def is_number(word):
    """Whether a word is a number, in digits or in English words: Whisper's normaliser writes it with digits.

    It does so with "oh", which mostly is none, and not with "one".
    """
    return word == "one" or (word not in ("o", "oh") and bool(re.search(r"\d", _english()(word))))
