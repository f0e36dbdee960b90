"""Greedy CTC decoding of the encoder alone: the baseline every LLM row is compared with."""

import torch


def collapse(best, length, blank):
    """Greedy CTC path (T,) of `length` frames -> token ids: repeats merged, blanks removed."""
    tokens, previous = [], blank
    for token in best[:length].tolist():
        if token != blank and token != previous:
            tokens.append(token)
        previous = token
    return tokens


@torch.inference_mode()
def greedy(model, tokenizer, batch):
    """Transcribe one batch with the CTC head of `model`: (texts, token id lists)."""
    device = next(model.parameters()).device
    frames, lengths = model.encode(batch["speech"].to(device), batch["speech_lengths"].to(device))
    best = model.ctc(frames).argmax(-1)
    tokens = [collapse(row, n, model.ctc.blank) for row, n in zip(best, lengths.tolist())]
    return [tokenizer.decode(t, skip_special_tokens=True).strip() for t in tokens], tokens
