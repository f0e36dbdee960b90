"""Token ids of the spans of a sequence: one way for training, decoding, alignment and perplexity."""

import functools

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.sequence.prompt import NO_BEGIN


@functools.lru_cache
def puts_space_first(tokenizer):
    """Whether a tokenizer puts a space in front of a text: "always", "missing" (where none stands), or None.

    Those of Llama 2 and TinyLlama do one or the other, by how they were saved.
    """
    plain, spaced = (tokenizer.encode(text, add_special_tokens=False) for text in ("a", " a"))
    if "".join(tokenizer.convert_ids_to_tokens(plain)) == "a":
        return None  # though " a" may be the space and this, where texts are spelled
    if len(spaced) == len(plain) + 1 and spaced[1:] == plain:
        return "always"
    return "missing" if spaced == plain else None


@functools.lru_cache
def begin_token(tokenizer):
    """(id, name) of the token that a tokenizer puts in front of plain text, as those of Llama and Gemma do; or None."""
    plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    if len(whole) <= len(plain) or whole[: len(plain)] == plain or whole[0] not in tokenizer.all_special_ids:
        return None
    return whole[0], tokenizer.convert_ids_to_tokens(whole[0])


def begin_ids(tokenizer, spans):
    """Ids in front of the first span: the begin token of such a tokenizer, once, or none where the prompt wants none.

    An LLM that was trained with it reads texts without it badly.
    """
    begin, first = begin_token(tokenizer), spans[0] if spans else None
    if begin is None or (first and first.text and not first.loss and first.text.startswith((begin[1], NO_BEGIN))):
        return []
    return [begin[0]]


def _as_tokenized(tokenizer, span, first):
    """What of a text span is given to the tokenizer: (text, tokens of it that are not the span's, characters by which
    it begins before the span).
    """
    text, rule = span.text, puts_space_first(tokenizer)
    if first and not span.loss:
        text = text.removeprefix(NO_BEGIN)
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

    first: neither speech nor text stands before it; NO_BEGIN is dropped there. The name of a special token is that
    token in a prompt; a text with loss is data, where it is plain text, or a UserError if the tokenizer can't but make
    the token of it. Also for a special span whose text is not one token.
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
        alone &= span.is_text and (span.special or not span.text)
    return flags
