"""CTC scores of n-best lists."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.spans import encode_text
from espnet_llmvq.sequence.sequence import Span


@torch.inference_mode()
def ctc_log_likelihood(log_probs, candidates, blank):
    """CTC log likelihood of token id lists, summed over all their paths: a list of floats.

    log_probs: (T, V) of the CTC head. Those that no path spells, because T is too small or a token is no label of
    the head, get -inf.
    """
    scores = [float("-inf")] * len(candidates)
    possible = [i for i, row in enumerate(candidates) if all(t != blank and t < log_probs.shape[1] for t in row)]
    if not possible:
        return scores
    lengths = torch.tensor([len(candidates[i]) for i in possible])
    targets = torch.tensor([t for i in possible for t in candidates[i]], dtype=torch.long)
    # Only the columns in use are copied for each candidate: a vocabulary may have 150,000.
    labels, targets = torch.unique(targets, return_inverse=True)
    columns = log_probs[:, torch.cat([torch.tensor([blank]), labels]).to(log_probs.device)].double()
    losses = F.ctc_loss(
        columns[:, None].expand(-1, len(possible), -1).contiguous(),
        (targets + 1).to(log_probs.device),
        torch.full((len(possible),), len(log_probs)),
        lengths,
        reduction="none",
    )
    for i, loss in zip(possible, losses.tolist()):
        scores[i] = -loss
    return scores


def speller(tokenizer, pieces):
    """Function from token ids of the LLM to labels of a CTC head with another tokenizer, `pieces`; to one that the head
    does not have where these cannot spell it."""
    # Behind other text, as a tokenizer may drop the space by which a text begins.
    before = tokenizer.encode("a", add_special_tokens=False)
    begins = len(tokenizer.decode(before))

    def spell(ids):
        text = tokenizer.decode([*before, *ids], skip_special_tokens=True)[begins:]
        try:
            return encode_text(pieces, Span(text=text, loss=True, eos=True), None)[:-1]
        except UserError:  # a special token, of a tokenizer that cannot spell its name
            return [math.inf]

    return spell


@torch.inference_mode()
def add_ctc_scores(model, batch, lists, spell=None):
    """N-best lists (B lists of `Hypothesis`) of an `encoded` batch with their CTC scores filled in.

    spell: `speller`, where the head has other tokens than the LLM.
    """
    scored = []
    for frames, length, found in zip(batch["speech"], batch["speech_lengths"].tolist(), lists):
        log_probs = model.ctc(frames[None, :length])[0].float().log_softmax(-1)
        scores = ctc_log_likelihood(log_probs, [spell(h.tokens) if spell else h.tokens for h in found], model.ctc.blank)
        scored.append([replace(h, ctc=score) for h, score in zip(found, scores)])
    return scored
