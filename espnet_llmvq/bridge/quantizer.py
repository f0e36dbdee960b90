"""Quantizers over the LLM's embedding table (arXiv 2506.05706, section 2).

Shapes: z (N, D) projector outputs, one row a step; codebook E (V, D); weights over rows (N, V).
Similarity is the cosine. `temperature` divides it before the softmax; the paper's letter is 1.0.
All go through the operator of `soft_vq.py`, which never holds N x V numbers; `chunk` is its.
"""

import torch
import torch.nn.functional as F

from espnet_llmvq.bridge.diagnostics import TopK
from espnet_llmvq.bridge.soft_vq import nearest_rows, soft_vq_kept


def cosine(z, codebook):
    """Cosine similarity of every z (N, D) with every row (V, D): (N, V) float32, under autocast too."""
    with torch.autocast(z.device.type, enabled=False):
        return F.normalize(z.float(), dim=-1) @ F.normalize(codebook.float(), dim=-1).T


def hard_quantize(z, codebook, chunk=0, permutation=None):
    """Stage 1: output e_j, j = argmax cos(z, e_j); the gradient passes straight to z.

    permutation (V,): the output is e_permutation[j] instead, see `permuted_quantize`.
    Returns ((N, D) output, TopK (the chosen row of each)).
    """
    cosines, rows = nearest_rows(z, codebook, 1, chunk)
    values = codebook.detach()[rows[:, 0] if permutation is None else permutation[rows[:, 0]]]
    # The raw row, not normalised; z + sg[q - z] in the paper's notation.
    return z + (values - z).detach(), TopK(rows, cosines)


def soft_quantize(z, codebook, top_k, temperature=1.0, renormalise=True, hard=False, chunk=0):
    """Stage 2 soft: sum of the k most similar rows weighted by A = softmax(cos / temperature).

    hard (the ablation): one-hot of the argmax, straight through on the weights, w = A + sg[onehot(A) - A] over the k
    kept rows; output w E. The value is the top row; all k rows get gradient through A.

    renormalise: the kept weights sum to one (softmax over the kept similarities); otherwise they keep the
    mass they have in the softmax over all V rows. Gradients reach z and, through keys and values, the k
    kept rows of the codebook; if not renormalised, all rows through the softmax's denominator.
    Returns ((N, D), TopK).
    """
    out, *kept = soft_vq_kept(z, codebook, top_k, temperature, renormalise, hard, chunk)
    return out, TopK(*kept)


def permuted_quantize(z, codebook, permutation, top_k, temperature=1.0, hard=False, chunk=0):
    """A control: rows are found and weighted by their own similarity, but another row's value is used.

        out_n = sum of A_nj e_permutation[j] over the k rows j that are most similar to z_n, A renormalised

    To permute the codebook itself would change nothing but the numbers of its rows, as similarity and value
    come from the same row. Here the tie between them is cut, as a permuted table does for C-Gate
    (2606.09366), and everything else is as in the quantizer: the same rows as inputs, as many of them, the
    same weights. permutation (V,) long; `hard` as in `soft_quantize`.
    The k rows of every step are gathered, N k D numbers twice: enough for a control.
    Returns ((N, D), TopK, before the permutation).
    """
    cosines, rows = nearest_rows(z, codebook, top_k, chunk)
    with torch.autocast(z.device.type, enabled=False):
        keys = F.normalize(codebook[rows], dim=-1)
        scores = (keys * F.normalize(z.to(codebook.dtype), dim=-1)[:, None]).sum(-1)
        weights = (scores / temperature).softmax(-1)
        if hard:
            top = torch.zeros_like(weights)
            top[:, 0] = 1.0
            weights = weights + (top - weights).detach()
        return (weights[..., None] * codebook[permutation[rows]]).sum(1), TopK(rows, cosines)
