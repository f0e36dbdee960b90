"""Shorten encoder output by what its CTC head says: drop blank frames, merge frames of one token."""

import torch


def valid_mask(lengths, width):
    """(B,) lengths -> (B, width) bool, True inside."""
    return torch.arange(width, device=lengths.device)[None] < lengths[:, None]


def compact(x, lengths, keep):
    """Drop frames: (B, T, D), (B,), keep (B, T) bool -> (B, T', D), (B,). One frame at least stays."""
    keep = keep & valid_mask(lengths, x.shape[1])
    keep[:, 0] |= ~keep.any(1)
    new = keep.sum(1)
    # A stable sort brings kept frames to the front in their order.
    order = keep.int().argsort(dim=1, descending=True, stable=True)[:, : int(new.max())]
    x = x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
    return x * valid_mask(new, x.shape[1])[..., None], new


def merge_runs(x, lengths, labels, keep):
    """Replace every run of frames with equal labels by the mean of its kept frames.

    x (B, T, D), lengths (B,), labels (B, T) best CTC token of each frame, keep (B, T) bool ->
    (B, S, D), (B,). A run without a kept frame goes, but still parts the runs beside it, so that a token said
    twice stays two steps. An utterance without any kept frame keeps them all.
    After Gaido et al., "CTC-based compression for direct speech translation" (EACL 2021).
    """
    inside = valid_mask(lengths, x.shape[1])
    keep = keep & inside
    keep = torch.where(keep.any(1, keepdim=True), keep, inside)
    begins = torch.ones_like(keep)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    run = begins.cumsum(1) - 1
    total = torch.zeros_like(x).scatter_add_(1, run[..., None].expand_as(x), x * keep[..., None])
    count = torch.zeros(keep.shape, dtype=x.dtype, device=x.device).scatter_add_(1, run, keep.to(x.dtype))
    return compact(total / count.clamp_min(1.0)[..., None], lengths, count > 0)


def stack_frames(x, lengths, r):
    """Concatenate r consecutive frames: (B, T, D) -> (B, ceil(T / r), r * D), lengths likewise.

    A last incomplete group is filled with zeros; so is all padding, hence each utterance gets what it
    gets alone.
    """
    b, t, d = x.shape
    x = x.masked_fill(~valid_mask(lengths, t)[..., None], 0.0)
    x = torch.nn.functional.pad(x, (0, 0, 0, -t % r))
    return x.reshape(b, -1, r * d), (lengths + r - 1) // r
