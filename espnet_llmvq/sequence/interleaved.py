"""Interleaved sequences of speech and text from aligned utterances ([2607.01733])."""

import hashlib
from dataclasses import dataclass

from espnet_llmvq.base.config import from_mapping, read_overrides
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.sequence.sequence import Sequence, Span
from espnet_llmvq.sequence.units import Dropped, piece, segments, timed_words

LEVELS = ("word", "segment", "mixed")
CUTS = ("silence", "silence_punctuation")
SINGLE_SEGMENT = ("drop", "word")
ONE_SEGMENT = "one segment"  # why most utterances are dropped, where one is


@dataclass(frozen=True)
class Interleaving:
    """How utterances are interleaved: the keys of a config. Raises UserError for impossible values.

    level: word, segment or mixed: a draw between the two for each utterance.
    cut: segments are cut at silence, or at silence and punctuation.
    silence: seconds between two words from which on it is one. punctuation: characters that end a segment.
    ratio: [word, segment] of mixed. seed: of its draws, which depend on seed and utterance alone.
    single_segment: what becomes of an utterance of one segment, which leaves nothing to interleave: drop, or take
        it at word level.
    begin_token, segment_token: names of tokens, at the beginning and between segments (segment level only); null:
        none. end_token: the end token closes a sequence of either level. end_loss: train on it.
    margin: seconds of silence kept around a piece, at most half of the gap to the next word.
    tolerance: seconds by which word times may run past the audio or overlap.
    silence_words: entries of the CTM that are no words.
    """

    level: str = "word"
    cut: str = "silence_punctuation"
    silence: float = 0.2
    punctuation: str = ".,;:?!…"
    ratio: tuple[float, float] = (1, 1)
    seed: int = 1
    single_segment: str = "drop"
    begin_token: str | None = "<s>"
    segment_token: str | None = "<N>"
    end_token: bool = True
    end_loss: bool = False
    margin: float = 0.1
    tolerance: float = 0.02
    silence_words: tuple[str, ...] = ("<eps>", "<sil>", "<SIL>")

    def __post_init__(self):
        check_name("level", self.level, LEVELS)
        check_name("cut", self.cut, CUTS)
        check_name("single_segment", self.single_segment, SINGLE_SEGMENT)
        for key in ("silence", "margin", "tolerance"):
            if getattr(self, key) < 0:
                raise UserError(f"{key} is {getattr(self, key):g}; it must be seconds, 0 or more")
        if min(self.ratio) < 0 or sum(self.ratio) == 0:
            raise UserError(f"ratio is {list(self.ratio)}; it must be two numbers, word and segment, not both 0")
        if self.end_loss and not self.end_token:
            raise UserError("end_loss: true needs end_token: true")
        for key in ("begin_token", "segment_token"):
            if getattr(self, key) == "":
                raise UserError(f"{key} is '', which is no token; null for none")

    @classmethod
    def read(cls, values, overrides=(), where="config"):
        """From a mapping, with ["key=value", ...] laid over it. Raises UserError."""
        changed = read_overrides(overrides)
        from_mapping(cls, changed, "--override")
        return from_mapping(cls, {**values, **changed}, where)

    def level_of(self, utt):
        """`word` or `segment`, for one utterance."""
        if self.level != "mixed":
            return self.level
        word, segment = self.ratio
        digest = hashlib.blake2b(f"{self.seed} {utt}".encode(), digest_size=8).digest()
        return "word" if int.from_bytes(digest, "big") / 2**64 < word / (word + segment) else "segment"

    def segments(self, words):
        """The segments of words (`Unit`s)."""
        return segments(words, self.silence, self.punctuation if self.cut == "silence_punctuation" else "")


@dataclass(frozen=True)
class Interleaved:
    """A sequence, its level (word or segment) and its units, for statistics."""

    sequence: Sequence
    level: str
    units: list


def interleave(utt, audio, samples, text, words, options):
    """One aligned utterance as `Interleaved`.

    words: `align.ctm.Word`s; samples: length of the audio at 16 kHz. Units alternate between speech and text
    and the last one is always text, so their number says what the first one is. Loss on the text of units
    only. Raises Dropped.
    """
    aligned = timed_words(text, words, samples, options.tolerance, options.silence_words)
    if len(aligned) == 1:
        raise Dropped("one word", "which would be text alone")
    level = options.level_of(utt)
    units = aligned if level == "word" else options.segments(aligned)
    if len(units) == 1:
        if options.single_segment == "drop":
            raise Dropped(ONE_SEGMENT, "which would be text alone")
        level, units = "word", aligned
    spans = []
    if level == "segment" and options.begin_token is not None:
        spans.append(Span(text=options.begin_token, special=True))
    for i, unit in enumerate(units):
        if i and level == "segment" and options.segment_token is not None:
            spans.append(Span(text=options.segment_token, special=True))
        if (len(units) - i) % 2:
            eos = i + 1 == len(units) and options.end_loss
            # The space in front of a word belongs to it, but a text does not begin with one.
            spans.append(Span(text=(" " if i else "") + unit.text, loss=True, eos=eos))
        else:
            start, end = piece(units, i, samples, options.margin)
            spans.append(Span(audio=audio, start=start, samples=end - start, said=unit.text))
    if options.end_token and not options.end_loss:
        spans.append(Span(text="", eos=True))
    return Interleaved(Sequence(utt, tuple(spans)), level, units)
