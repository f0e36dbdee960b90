"""Tokens of text spans, and how many positions of the LLM a sequence takes."""

import functools

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.speech.frame_rate import FrameRate


@functools.lru_cache
def puts_space_first(tokenizer):
    """Whether a tokenizer puts a space in front of a text: "always", "missing" (where none stands), or None.

    Those of Llama 2 and TinyLlama do one or the other, by how they were saved.
    """
    plain, spaced = (tokenizer.encode(text, add_special_tokens=False) for text in ("a", " a"))
    if len(spaced) == len(plain) + 1 and spaced[1:] == plain:
        return "always"
    return "missing" if spaced == plain else None


def _as_tokenized(tokenizer, span, first):
    """What of a text span is given to the tokenizer: (text, tokens of it that are not the span's, characters by which
    it begins before the span).
    """
    text, rule = span.text, puts_space_first(tokenizer)
    if rule and not text.startswith(" ") and not (first or span.special):
        # A line break keeps the space away, and joins with nothing; if there is a token for it.
        line_break = tokenizer.encode("\n", add_special_tokens=False)
        if tokenizer.unk_token_id not in line_break:
            return "\n" + text, len(line_break), 1
    elif text.startswith(" ") and rule == "always":
        return text[1:], 0, -1
    return text, 0, 0


def encode_text(tokenizer, span, eos_id, first=False):
    """Token ids of a text span, with the end token where it asks for one.

    first: neither speech nor text stands before it. The name of a special token is that token in a prompt; a text
    with loss is data, where it is plain text, or a UserError if the tokenizer can't but make the token of it. Also
    for a special span whose text is not one token.
    """
    (text, skip, _), plain = _as_tokenized(tokenizer, span, first), span.loss and not span.special
    # Some tokenizers make a space of the empty text.
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)[skip:] if text else []
    if span.special and (len(ids) != 1 or ids[0] == tokenizer.unk_token_id):
        raise UserError(
            f"{span.text!r} is not a token of the LLM's tokenizer; name one that is, or train the tokenizer with "
            f"--reserved {span.text!r}"
        )
    if plain and (special := set(ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}):
        name = tokenizer.convert_ids_to_tokens(min(special))
        raise UserError(f"{span.text!r} holds {name!r}, which the LLM's tokenizer keeps for itself; write it otherwise")
    return ids + [eos_id] if span.eos else ids


def text_offsets(tokenizer, span, first=False):
    """(ids, offsets) of a text span with loss: `encode_text` without an end token, and for each token its first
    character in the span and the one after its last. Raises UserError as that.
    """
    ids, (text, skip, before) = encode_text(tokenizer, span, None, first), _as_tokenized(tokenizer, span, first)
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    pairs = tokenizer(text, **options)["offset_mapping"][skip:] if text else []
    return ids, [(max(start - before, 0), max(end - before, 0)) for start, end in pairs]


def at_start(spans):
    """For each span whether neither speech nor text stands before it; special tokens may. List of bools."""
    flags, alone = [], True
    for span in spans:
        flags.append(alone)
        alone &= not span.is_speech and (span.special or not span.text)
    return flags


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
        if not span.is_speech:
            return len(encode_text(self.tokenizer, span, self.tokenizer.eos_token_id, first))
        frames = (self.rate.piece if span.is_piece else self.rate.frames)(span.samples)
        return -(-frames // self.stack)

    def upper_bound(self, sequence):
        """No fewer positions than a sequence has, without the tokenizer: of ASCII a token is a character or more.

        One more for the space that some put in front, one for the end token. None for other texts.
        """
        texts = [span.text for span in sequence.spans if not span.is_speech]
        if not all(map(str.isascii, texts)):
            return None
        return sum(len(text) + 2 for text in texts) + sum(map(self.span, filter(lambda s: s.is_speech, sequence.spans)))

    def __call__(self, sequence):
        try:
            return sum(self.span(span, first) for span, first in zip(sequence.spans, at_start(sequence.spans)))
        except UserError as err:
            raise UserError(f"{sequence.id}: {err}") from None
