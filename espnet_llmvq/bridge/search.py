"""Exact search for the most similar codebook rows, without an N x V matrix of similarities.

Two steps. A float32 product, chunk by chunk over the codebook, keeps a few rows more than asked for. Their
cosines are then computed again in float64, pair by pair, and decide which rows are kept and in what order.
The rounding error of the product has a bound (`product_error`); a frame whose surplus rows do not cover it is
searched again over all rows within the bound. So the result depends neither on the chunk size nor on the
order in which the product sums, and rows that are equal tie exactly: the lowest index wins.
"""

import torch

from espnet_llmvq.base.errors import UserError

ZERO_NORM = 1e-12  # a row this short has no direction: cosine 0 with everything, no gradient through it
BLOCK = 64  # scores whose maximum is looked at before they are
SCORES = {"cpu": 1 << 22, "cuda": 1 << 25}  # size of a chunk of scores with `chunk` 0 (auto)
PAIR_VALUES = 1 << 19  # size of a block of gathered rows in float64


def compute_dtype(*tensors):
    """float64 if an input is, else float32: bfloat16 and float16 only store."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def chunk_rows(frames, rows, chunk, device):
    """Codebook rows in a chunk. `chunk` 0: as many as keep frames x rows within `SCORES`."""
    if not chunk:
        chunk = SCORES.get(device.type, SCORES["cuda"]) // max(frames, 1)
        chunk = max(chunk // BLOCK * BLOCK, 4 * BLOCK)
    return min(chunk, rows)


def chunks(codebook, size, dtype):
    """Yield (first row, rows (C, D) in dtype)."""
    for start in range(0, len(codebook), size):
        yield start, codebook[start : start + size].to(dtype)


def inverse_norms(x):
    """1 / |x| of each row; 0 for a row without direction. NaN, Inf and overflow give NaN or Inf."""
    norms = torch.linalg.vector_norm(x, dim=-1)
    inverse = torch.where(norms > ZERO_NORM, norms.reciprocal(), 0.0)
    return torch.where(norms.isfinite(), inverse, torch.nan)


def directions(z, dtype):
    """z (N, D) -> (its rows divided by their norms, in dtype, 1 / |z| (N,) in float64).

    In float64 until the end: an error of |z| would be in all cosines of the step alike, and not average out.
    """
    own = z.double()
    inverse = inverse_norms(own)
    return (own * inverse[:, None]).to(dtype), inverse


def check_finite(inverse, what):
    """Raise UserError that names the first bad row, given what `inverse_norms` returned."""
    bad = inverse.isnan()
    if bad.any():
        first, count = int(bad.int().argmax()), int(bad.sum())
        raise UserError(
            f"{what}: NaN, Inf or overflow in {count} of {len(bad)} rows, the first is row {first}. "
            "Look at the loss before this step (a lower learning rate, gradient clipping) and at the input."
        )


def check_shapes(z, codebook, top_k):
    """Raise UserError unless z is (N, D), the codebook (V, D) and top_k in 1..V."""
    if z.dim() != 2 or codebook.dim() != 2 or z.shape[1] != codebook.shape[1]:
        raise UserError(
            f"z of shape {tuple(z.shape)} and codebook of shape {tuple(codebook.shape)} must be (N, D) and "
            "(V, D): the projector's output must be as wide as the codebook"
        )
    rows = len(codebook)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 0 < top_k <= rows:
        raise UserError(f"top_k: {top_k!r} must be 1 to {rows}, the rows of the codebook")


def product_error(width, dtype):
    """Bound on |computed - true| of a cosine from a product of `width` terms.

    width * u is the classical bound for the dot product, and again for the norm. TF32 and bfloat16 products,
    where torch has been told to use them for float32, round the factors first.
    """
    if dtype == torch.float64:
        return 2 * (width + 8) * 2.0**-53
    factor = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}[torch.get_float32_matmul_precision()]
    return 2 * (width + 8) * 2.0**-24 + 2 * factor


def pair_cosines(z, codebook, frames, rows):
    """cos(z[frames_i], codebook[rows_i]) in float64: (P,), (P,) -> (P,). Equal rows give equal values."""
    out = torch.empty(len(frames), dtype=torch.float64, device=z.device)
    step = max(PAIR_VALUES // z.shape[1], 1)
    for i in range(0, len(frames), step):
        a, b = z[frames[i : i + step]].double(), codebook[rows[i : i + step]].double()
        norms = [x.square().sum(-1).sqrt() for x in (a, b)]
        value = a.mul_(b).sum(-1) / (norms[0] * norms[1])
        out[i : i + step] = value.where((norms[0] > ZERO_NORM) & (norms[1] > ZERO_NORM), 0.0)
    return out


def ragged_to_padded(frames, values, rows, count):
    """Entries sorted by frame -> ((count, M) values padded with -inf, (count, M) rows padded with 0)."""
    counts = torch.bincount(frames, minlength=count)
    width = int(counts.max()) if len(frames) else 0
    at = torch.arange(len(frames), device=frames.device) - (counts.cumsum(0) - counts)[frames]
    padded = values.new_full((count, width), -torch.inf)
    index = rows.new_zeros((count, width))
    padded[frames, at], index[frames, at] = values, rows
    return padded, index


class Search:
    """Top k rows of every frame, fed with chunks of scores. k largest cosines, ties to the lowest index.

    Args:
        z: (N, D). unit: its rows divided by their norms. codebook: (V, D).
        inverse: (V,) inverse norms of the codebook's rows; filled by the caller before `finish`.
        nowhere: (N,) bool, frames of norm 0: their cosines are all 0, so rows 0..k-1 are the answer.
    """

    def __init__(self, z, unit, codebook, inverse, nowhere, k, chunk):
        self.z, self.unit, self.codebook, self.inverse, self.k = z, unit, codebook, inverse, k
        self.nowhere, self.chunk = nowhere, chunk
        self.width = min(len(codebook), k + 8 + k // 8)
        # Frames without direction look full, so that nothing is looked up for them.
        self.values = unit.new_full((len(z), self.width), -torch.inf)
        self.values[nowhere] = torch.inf
        self.rows = torch.zeros((len(z), self.width), dtype=torch.long, device=z.device)
        self.first = True

    def merge(self, values, rows):
        values, rows = torch.cat([self.values, values], 1), torch.cat([self.rows, rows], 1)
        self.values, at = values.topk(self.width, dim=1)
        self.rows = rows.gather(1, at)

    def update(self, scores, start):
        """scores (N, C) of codebook rows start..start+C. Returns (N,) the largest of each frame."""
        n, c = scores.shape
        if scores.is_cuda or c < max(4 * BLOCK, 2 * self.width):
            values, rows = scores.topk(min(self.width, c), dim=1)
            self.merge(values, rows + start)
            self.first = False
            return values[:, 0]
        # Sorting rows of scores is slow on CPU. Few blocks have a maximum above the worst row kept so far.
        blocks = c // BLOCK
        head = scores[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
        tail = scores[:, blocks * BLOCK :]
        maxima = head.amax(2)
        worst = self.values[:, -1:]
        if self.first and blocks >= self.width:
            # At least `width` scores reach the width-th largest maximum; the next value below lets it pass.
            floor = maxima.topk(self.width, dim=1).values[:, -1:]
            worst = torch.maximum(worst, floor.nextafter(torch.full_like(floor, -torch.inf)))
        self.first = False
        frames, block = (maxima > worst).nonzero(as_tuple=True)
        found = head[frames, block]
        entry, column = (found > worst[frames]).nonzero(as_tuple=True)
        values, rows = found[entry, column], block[entry] * BLOCK + column + start
        if len(entry):
            self.merge(*ragged_to_padded(frames[entry], values, rows, n))
        largest = maxima.amax(1)
        if tail.shape[1]:
            self.merge(tail, torch.arange(start + blocks * BLOCK, start + c, device=rows.device).expand(n, -1))
            largest = torch.maximum(largest, tail.amax(1))
        return largest

    def finish(self):
        """Returns ((N, k) cosines in float64, (N, k) rows), sorted: larger first, then lower index."""
        n, k = len(self.z), self.k
        rows = self.rows.sort(dim=1).values  # then a stable sort leaves ties in the order of the index
        frames = torch.arange(n, device=rows.device).repeat_interleave(self.width)
        values = pair_cosines(self.z, self.codebook, frames, rows.flatten()).view(n, self.width)
        values, at = values.sort(dim=1, descending=True, stable=True)
        values, rows = values[:, :k].contiguous(), rows.gather(1, at)[:, :k].contiguous()
        error = product_error(self.z.shape[1], self.unit.dtype)
        if self.width < len(self.codebook):
            lowest = self.values[:, k - 1] - 2 * error
            unsure = ((self.values[:, -1] >= lowest) & ~self.nowhere).nonzero().flatten()
            if len(unsure):
                values[unsure], rows[unsure] = self.again(unsure, lowest[unsure])
        values[self.nowhere] = 0.0
        rows[self.nowhere] = torch.arange(k, device=rows.device)
        return values, rows

    def again(self, frames, lowest):
        """Like `finish` for some frames, over all rows whose score is at least `lowest` (F,)."""
        count, unit = len(frames), self.unit[frames]
        values = torch.empty((count, 0), dtype=torch.float64, device=unit.device)
        rows = torch.empty((count, 0), dtype=torch.long, device=unit.device)
        for start, part in chunks(self.codebook, self.chunk, unit.dtype):
            scores = (unit @ part.T).mul_(self.inverse[start : start + len(part)])
            frame, column = (scores >= lowest[:, None]).nonzero(as_tuple=True)
            found = pair_cosines(self.z, self.codebook, frames[frame], column + start)
            found, index = ragged_to_padded(frame, found, column + start, count)
            values, rows = torch.cat([values, found], 1), torch.cat([rows, index], 1)
            values, at = values.sort(dim=1, descending=True, stable=True)
            values, rows = values[:, : self.k], rows.gather(1, at)[:, : self.k]
        return values, rows
