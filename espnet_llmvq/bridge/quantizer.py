"""Quantizers over the LLM's embedding table (arXiv 2506.05706, section 2).

Shapes: z (N, D) projector outputs, one row a step; codebook E (V, D); weights over rows (N, V).
Similarity is the cosine. `temperature` divides it before the softmax; the paper's letter is 1.0.
"""

import torch
import torch.nn.functional as F


def cosine(z, codebook):
    """Cosine similarity of every z (N, D) with every row (V, D): (N, V)."""
    return F.normalize(z, dim=-1) @ F.normalize(codebook, dim=-1).T


def hard_quantize(z, codebook):
    """Stage 1: output e_j, j = argmax cos(z, e_j); the gradient passes straight to z.

    Returns ((N, D) output, (N,) chosen rows).
    """
    rows = cosine(z.detach(), codebook.detach()).argmax(-1)
    # The raw row, not normalised; z + sg[q - z] in the paper's notation.
    return z + (codebook.detach()[rows] - z).detach(), rows


def top_weights(z, codebook, top_k, temperature, renormalise):
    """Weights A = softmax(cos / temperature) of the k largest rows: ((N, k) weights, (N, k) rows).

    renormalise: the kept weights sum to one (softmax over the kept similarities); otherwise they keep
    the mass they have in the softmax over all V rows.
    """
    logits = cosine(z, codebook) / temperature
    kept, rows = logits.topk(top_k, dim=-1)
    if renormalise:
        return kept.softmax(-1), rows
    return (kept - logits.logsumexp(-1, keepdim=True)).exp(), rows


def soft_quantize(z, codebook, top_k, temperature=1.0, renormalise=True):
    """Stage 2 soft: sum of the k most similar rows weighted by A. Gradients reach z and, through keys
    and values, the k kept rows of the codebook. Returns ((N, D), (N,) top row)."""
    weights, rows = top_weights(z, codebook, top_k, temperature, renormalise)
    return torch.einsum("nk,nkd->nd", weights, codebook[rows].to(weights.dtype)), rows[:, 0]


def hard_weights_quantize(z, codebook, top_k, temperature=1.0, renormalise=True):
    """Stage 2 hard (the ablation): one-hot of the argmax, straight through on the weights.

    w = A + sg[onehot(A) - A] over the k kept rows; output w E. The value is the top row; all k rows
    get gradient through A. Returns ((N, D), (N,) top row).
    """
    weights, rows = top_weights(z, codebook, top_k, temperature, renormalise)
    onehot = torch.zeros_like(weights)
    onehot[:, 0] = 1.0  # topk sorts: the first kept row is the argmax
    weights = weights + (onehot - weights).detach()
    return torch.einsum("nk,nkd->nd", weights, codebook[rows].to(weights.dtype)), rows[:, 0]
