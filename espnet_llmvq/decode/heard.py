"""What the LLM gets of the words of transcribed speech: the steps of each piece, as the CTC head takes them."""

import json
from collections import Counter

from espnet_llmvq.align.ctc import align_tokens
from espnet_llmvq.base.files import writing
from espnet_llmvq.decode.align import transcripts, utterances
from espnet_llmvq.decode.batches import Batches
from espnet_llmvq.speech import spans

KEPT = 10  # tokens of a step, the likeliest
LIGHTEST = 0.01  # weight below which a token is left out


def spoken(model, tokenizer, path, *, only=None, cache=None, masked=False, seconds=120.0, failed=None):
    """Yield (utterance, words) of sequences, each of one whole sound file; a word is a list of (piece, steps).

    Each step that `model.shorten` leaves belongs to a piece of the transcript: forced alignment says which frames are a
    piece's, and those between two go with the nearer one. The weights of a step are those of the CTC head without its
    blank. model: an encoder in eval mode; tokenizer: of its CTC head. only: ids; cache: frames (scp) or None; masked:
    mask them as in training. failed: {utterance: reason} to be filled.
    """
    import torch

    wanted, failed = utterances(path), {} if failed is None else failed
    tokens = transcripts({u: wanted[u] for u in wanted if only is None or u in only}, tokenizer, failed, Counter())
    device = next(model.parameters()).device
    for utts, batch in Batches(path, seconds, tokenizer, cache=cache, only=tokens):
        with torch.inference_mode():
            speech, lengths = batch["speech"].to(device), batch["speech_lengths"].to(device)
            frames, lengths = spans.encode(model.speech_encoder, speech, lengths, masked)
            times = torch.arange(frames.shape[1], device=device).expand(len(frames), -1)[..., None]
            short, counts = model.shorten(frames, lengths, torch.cat([frames, times], -1))
            weights, labels = likeliest(model.ctc, short[..., :-1])
            log_probs = model.ctc(frames).float().log_softmax(-1).cpu()
        for i, (utt, n, count) in enumerate(zip(utts, lengths.tolist(), counts.tolist())):
            words, ids, owners = tokens[utt]
            try:
                aligned = align_tokens(log_probs[i, :n], ids, model.ctc.blank)
            except ValueError as err:
                failed[utt] = str(err)
                continue
            of_piece = [[] for _ in ids]
            borders = torch.tensor([(a[1] + b[0] + 1) // 2 for a, b in zip(aligned, aligned[1:])], device=device)
            at = torch.searchsorted(borders, short[i, :count, -1].contiguous(), right=True).tolist()
            for piece, row, heavy in zip(at, labels[i].tolist(), weights[i].tolist()):
                names = tokenizer.convert_ids_to_tokens(row)
                step = {name: round(w, 3) for name, w in zip(names, heavy) if w >= LIGHTEST}
                of_piece[piece].append(step)
            found = [[] for _ in words]
            for piece, steps, owner in zip(tokenizer.convert_ids_to_tokens(ids), of_piece, owners):
                found[owner].append((piece, steps))
            yield utt, found


def likeliest(ctc, frames):
    """(weights, labels) (.., k) of the likeliest tokens of frames (.., D) by a CTC head, its blank left out."""
    posterior = ctc(frames).float()
    posterior[..., ctc.blank] = -float("inf")
    return posterior.softmax(-1).topk(min(KEPT, posterior.shape[-1] - 1))


def write_spoken(path, found):
    """Write (utterance, words) as lines of JSON; returns how many words."""
    n = 0
    with writing(path) as f:
        for utt, words in found:
            f.write(json.dumps({"id": utt, "words": words}, ensure_ascii=False) + "\n")
            n += len(words)
    return n
