"""Greedy CTC decoding of the encoder alone: the baseline every LLM row is compared with."""

import torch

from espnet_llmvq.decode.generate import Hypothesis


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
