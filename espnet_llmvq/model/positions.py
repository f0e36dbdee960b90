"""How many positions of the LLM a sequence takes, and how many tokens a second of speech."""

import array

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.llm.spans import at_start, begin_ids, encode_text
from espnet_llmvq.sequence.sequence import read_sequences
from espnet_llmvq.speech.frame_rate import FrameRate

# Tokens that every text may have in a search: for a second of speech (fast English has five words), and beside that.
LEAST_RATE, FREE_TOKENS = 8.0, 8


def tokens_per_second(paths, tokenizer, share=0.99, margin=1.5):
    """Most tokens that a search should write for a second of speech, beside FREE_TOKENS: no fewer than LEAST_RATE.

    `margin` times what a `share` of the transcribed utterances in files of sequences need; an utterance has one speech
    span, a whole file. What lies above is a wrong transcript as often as quick speech.
    """
    rates = array.array("d")  # of millions of utterances
    for sequence in (sequence for path in paths for sequence in read_sequences(path)):
        speech = [span for span in sequence.spans if span.is_speech]
        if len(speech) == 1 and not speech[0].is_piece:
            texts = (span for span in sequence.spans if span.loss)
            tokens = sum(len(encode_text(tokenizer, span, tokenizer.eos_token_id)) for span in texts)
            rates.append((tokens - FREE_TOKENS) * SAMPLE_RATE / speech[0].samples)
    return max(LEAST_RATE, round(margin * float(np.quantile(rates, share)), 2)) if rates else LEAST_RATE


class Positions:
    """Counts the LLM positions of sequences: speech steps and text tokens.

    tokenizer: of the LLM; `upper_bound` needs none. config: dict, that of the encoder.
    stack: encoder frames that the bridge stacks into a step.
    """

    def __init__(self, tokenizer, config, stack=1):
        self.tokenizer, self.stack = tokenizer, stack
        self.rate = FrameRate(config)

    def span(self, span, first=False):
        """Positions of one span; first: as `encode_text` has it."""
        if span.is_heard:
            return len(span.heard)
        if span.is_text:
            return len(encode_text(self.tokenizer, span, self.tokenizer.eos_token_id, first))
        frames = (self.rate.piece if span.is_piece else self.rate.frames)(span.samples)
        return -(-frames // self.stack)

    def lets_ctc_spell(self, sequence):
        """Whether the frames of a sequence are enough for CTC to write its text, with a blank between equal tokens."""
        frames = sum(map(self.span, (span for span in sequence.spans if span.is_speech)))
        spans = zip(sequence.spans, at_start(sequence.spans))
        rows = [encode_text(self.tokenizer, span, None, first) for span, first in spans if span.loss]
        ids = [i for row in rows for i in row if i is not None]
        return len(ids) + sum(a == b for a, b in zip(ids, ids[1:])) <= frames

    def upper_bound(self, sequence):
        """No fewer positions than a sequence has, without the tokenizer: of ASCII a token is a character or more.

        One more for the space that some put in front, one for the end token, and one for a begin token. None for other
        texts.
        """
        texts = [span.text for span in sequence.spans if span.is_text]
        if not all(map(str.isascii, texts)):
            return None
        speech = sum(self.span(span) for span in sequence.spans if not span.is_text)
        return 1 + sum(len(text) + 2 for text in texts) + speech

    def __call__(self, sequence):
        try:
            begin, spans = begin_ids(self.tokenizer, sequence.spans), zip(sequence.spans, at_start(sequence.spans))
            return len(begin) + sum(self.span(span, first) for span, first in spans)
        except UserError as err:
            raise UserError(f"{sequence.id}: {err}") from None
