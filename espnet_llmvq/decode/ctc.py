"""Greedy CTC decoding of the encoder alone: the baseline every LLM row is compared with."""

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.generate import Hypothesis
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.sequence.prompt import TRANSCRIPT, separator
from espnet_llmvq.sequence.sequence import Span


def collapse(best, length, blank):
    """Greedy CTC path (T,) of `length` frames -> token ids: repeats merged, blanks removed."""
    tokens, previous = [], blank
    for token in best[:length].tolist():
        if token != blank and token != previous:
            tokens.append(token)
        previous = token
    return tokens


@torch.inference_mode()
def greedy(model, batch):
    """Transcribe an `encoded` batch with the CTC head of `model`: lists of one `Hypothesis`, without LLM score."""
    best = model.ctc(batch["speech"]).argmax(-1)
    rows = zip(best, batch["speech_lengths"].tolist())
    return [[Hypothesis(collapse(row, n, model.ctc.blank), None)] for row, n in rows]


def respeller(tokenizer, pieces, template):
    """Function from labels of a CTC head with another tokenizer, `pieces`, to ids of the LLM: of the same text, as it
    stands behind the prompt of a template."""
    space = separator(template, TRANSCRIPT)

    def respell(labels):
        text = pieces.decode(labels, skip_special_tokens=True).strip()
        return encode_text(tokenizer, Span(text=space + text), None) if text else []

    return respell


def drafts(model, batch, respell=None):
    """What the CTC head of `model` writes of an `encoded` batch, as drafts for its LLM: a list of ids for each.

    respell: `respeller`, where the head has other tokens than the LLM. Raises UserError where there is no head.
    """
    if model.ctc is None:
        raise UserError("drafts are written by a CTC head, and the encoder has none; decode with --draft none")
    found = [hypothesis.tokens for (hypothesis,) in greedy(model, batch)]
    return [respell(labels) for labels in found] if respell else found
