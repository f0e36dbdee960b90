"""What a bridge does with a batch of steps, in a few numbers.

Shapes: z (N, D) projector outputs, out (N, D) LLM inputs, one row a step, padding left out; codebook (V, D).
Nothing here holds N x V numbers: the search hands over the rows it kept. Entropies are in nats.
docs/analysis.md says how to read the numbers; `collapse.py` has the limits beyond which they mean a collapse.
"""

from typing import NamedTuple

import torch

from espnet_llmvq.bridge.search import chunk_rows, chunks, inverse_norms

# Steps whose softmax over all rows is computed again for its entropy: 64 x V products a batch, a few percent
# of what the bridge itself does with a thousand steps.
ENTROPY_STEPS = 64


class TopK(NamedTuple):
    """What the search kept of each step, most similar first: rows (N, k) and their cosines (N, k).

    k is 1 where only the best row is known: hard quantization, and soft over all rows.
    """

    rows: torch.Tensor
    cosines: torch.Tensor


def rows_in_use(rows, count):
    """rows (N,) chosen among `count` -> (share of rows used, perplexity), tensors.

    The perplexity is exp of the entropy of how often each row was chosen. Neither can exceed N.
    """
    share = torch.bincount(rows, minlength=count).float() / max(len(rows), 1)
    return (share > 0).float().mean(), torch.special.entr(share).sum().exp()


def kept_entropy(cosines, temperature):
    """Mean entropy of softmax(cosines / temperature) over the kept rows: (N, k) -> a tensor, at most log k."""
    weights = (cosines.float() / temperature).softmax(-1)
    return torch.special.entr(weights).sum(-1).mean()


def full_entropy(z, codebook, temperature, chunk=0):
    """Mean entropy of softmax(cos(z, e_v) / temperature) over all rows; at most `ENTROPY_STEPS` steps, evenly
    spaced, stand for all. Chunks of the codebook, as in the operator."""
    picked = torch.linspace(0, len(z) - 1, min(len(z), ENTROPY_STEPS), device=z.device).round().long()
    unit = torch.nn.functional.normalize(z[picked].float(), dim=-1)
    highest = unit.new_full((len(unit), 1), -torch.inf)
    total, weighted = torch.zeros_like(highest), torch.zeros_like(highest)
    size = chunk_rows(len(unit), len(codebook), chunk, z.device)
    for _, part in chunks(codebook.detach(), size, unit.dtype):
        with torch.autocast(z.device.type, enabled=False):
            logits = (unit @ part.T) * (inverse_norms(part) / temperature)
        new = torch.maximum(highest, logits.amax(1, keepdim=True))
        scale, mass = (highest - new).exp(), (logits - new).exp()
        total = total * scale + mass.sum(1, keepdim=True)
        weighted = weighted * scale + (mass * logits).sum(1, keepdim=True)
        highest = new
    # H = log Z - E[logit]
    return (highest + total.log() - weighted / total).mean()


def mean_pair_cosine(out):
    """Mean cosine between the outputs (N, D) of two different steps; nan for fewer than two.

    From the sum of unit vectors: |sum u|^2 = N + sum of the cosines of all ordered pairs.
    """
    n = len(out)
    total = torch.nn.functional.normalize(out.float(), dim=-1).sum(0).square().sum()
    return (total - n) / (n * (n - 1)) if n > 1 else total.new_tensor(torch.nan)


def drift(codebook, table):
    """|E - T| / |T|, Frobenius norms, of codebook and LLM table (V, D): 0 when nothing moved."""
    moved = length = torch.zeros((), dtype=torch.float64, device=codebook.device)
    size = chunk_rows(codebook.shape[1], len(codebook), 0, codebook.device)
    for start, part in chunks(table.detach(), size, torch.float32):
        here = codebook[start : start + len(part)].detach().float()
        moved = moved + (here - part.to(here.device)).square().sum(dtype=torch.float64)
        length = length + part.square().sum(dtype=torch.float64)
    return (moved / length).sqrt().float()
