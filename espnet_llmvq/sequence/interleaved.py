"""Interleaved sequences of speech and text from aligned utterances ([2607.01733])."""

import dataclasses
import hashlib
from dataclasses import dataclass

from espnet_llmvq.base.config import read_overrides
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
    ratio: tuple = (1, 1)
    seed: int = 1
    single_segment: str = "drop"
    begin_token: str = "<s>"
    segment_token: str = "<N>"
    end_token: bool = True
    end_loss: bool = False
    margin: float = 0.1
    tolerance: float = 0.02
    silence_words: tuple = ("<eps>", "<sil>", "<SIL>")

    def __post_init__(self):
        check_name("level", self.level, LEVELS)
        check_name("cut", self.cut, CUTS)
        check_name("single_segment", self.single_segment, SINGLE_SEGMENT)
        for key in ("silence", "margin", "tolerance"):
            value = getattr(self, key)
            if type(value) not in (int, float) or not 0 <= value < float("inf"):
                raise UserError(f"{key}: {value!r} must be seconds, 0 or more")
        if not (isinstance(self.ratio, (list, tuple)) and len(self.ratio) == 2) or not (
            all(type(r) in (int, float) and r >= 0 for r in self.ratio) and sum(self.ratio) > 0
        ):
            raise UserError(f"ratio: {self.ratio!r} must be two numbers, word and segment, 0 or more, not both 0")
        for key in ("end_token", "end_loss"):
            if type(getattr(self, key)) is not bool:
                raise UserError(f"{key}: {getattr(self, key)!r} must be true or false")
        if self.end_loss and not self.end_token:
            raise UserError("end_loss: true needs end_token: true")
        if type(self.seed) is not int:
            raise UserError(f"seed: {self.seed!r} must be a whole number")
        for key in ("begin_token", "segment_token", "punctuation"):
            value = getattr(self, key)
            if not (isinstance(value, str) or (value is None and key != "punctuation")):
                raise UserError(f"{key}: {value!r} must be text; put quotes around it")
            if value == "" and key != "punctuation":
                raise UserError(f"{key}: '' is no token; null for none")
        if not isinstance(self.silence_words, (list, tuple)):
            raise UserError(f"silence_words: {self.silence_words!r} must be a list")

    @classmethod
    def from_dict(cls, values, where="config"):
        """From a mapping. Raises UserError, with the nearest valid name, for an unknown key, and for a wrong value."""
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            check_name(f"key in {where}", key, known)
        try:
            return cls(**values)
        except UserError as err:
            raise UserError(f"{where}: {err}") from None

    @classmethod
    def read(cls, values, overrides=(), where="config"):
        """From a mapping, with ["key=value", ...] laid over it. Raises UserError."""
        changed = read_overrides(overrides)
        cls.from_dict(changed, "--override")
        return cls.from_dict({**values, **changed}, where)

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
