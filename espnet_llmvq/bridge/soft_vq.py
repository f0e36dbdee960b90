"""The soft-VQ operator (arXiv 2506.05706, section 2) for real vocabularies: no N x V matrix, forward or backward.

    c_nv = cos(z_n, e_v)       l = c / temperature       A = softmax over rows
    out_n = sum of A_nv e_v over the k kept rows, A renormalised over them or not

Two kinds of cost. With k rows kept and renormalised, only they matter once they are found (`search`): one
product z E^T, and work on N k rows. With all rows, or when the kept weights keep their share of the softmax
over all rows, every row has weight and gradient: the forward pass is an online softmax over chunks of the
codebook, and the backward pass computes each chunk of scores again.

Arithmetic is float32 (float64 for float64 inputs), also under autocast and for bfloat16 tensors. What is kept of
a step (cosines, weights and their gradients, N k numbers) is float64 inside: the gradient of the temperature sums
terms of both signs that may nearly cancel between steps, and float32 would leave mostly rounding error.
Both directions are custom operators, so torch.compile takes them as they are. There is no second derivative.
docs/soft_vq_operator.md has costs and measurements.
"""

import contextlib
import functools
import mmap

import torch
import torch.nn.functional as F

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.search import (
    Search,
    check_finite,
    check_shapes,
    chunk_rows,
    chunks,
    compute_dtype,
    directions,
    inverse_norms,
)

GATHERED = 1 << 20  # values of codebook rows gathered at a time
TABLE = 1 << 24  # bytes from which a gradient gets memory of its own from the system


@contextlib.contextmanager
def plain(device):
    """No autograd, no autocast: the operators choose their own precision."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def zero_table(codebook, dtype, all_rows):
    """Zeros like the codebook for its gradient.

    On CPU a large one is mapped, not filled: the system gives memory to the pages that are written, so a
    gradient of few rows costs few rows. all_rows: everything will be written; ask for large pages.
    """
    size = codebook.numel() * dtype.itemsize
    if codebook.device.type != "cpu" or size < TABLE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(codebook.shape, dtype=dtype, device=codebook.device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE" if all_rows else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(advice)
    return torch.frombuffer(memory, dtype=dtype).view(codebook.shape)


def search_rows(z, codebook, k, chunk, temperature=None, sum_rows=False):
    """One pass over the codebook.

    Returns (cosines (N, k) in float64, rows (N, k), inverse norms (V,), and with a temperature: log of the sum
    over all rows of exp(c / temperature) (N,) in float64 and, with sum_rows, sum of A_nv e_v over all rows (N, D)).
    """
    dtype = compute_dtype(z, codebook)
    n, v = len(z), len(codebook)
    unit, inverse_z = directions(z, dtype)
    check_finite(inverse_z, "bridge input z")
    inverse = unit.new_empty(v)
    size = chunk_rows(n, v, chunk, z.device)
    search = Search(z, unit, codebook, inverse, inverse_z == 0, k, size)
    buffer = unit.new_empty(n * size)
    highest, total = unit.new_full((n,), -torch.inf), torch.zeros(n, dtype=torch.float64, device=z.device)
    summed = unit.new_zeros(n, z.shape[1] if sum_rows else 0)
    for start, part in chunks(codebook, size, dtype):
        here = inverse_norms(part)
        inverse[start : start + len(part)] = here
        scores = buffer[: n * len(part)].view(n, len(part))
        torch.mm(unit, part.T, out=scores)
        scores.mul_(here)
        largest = search.update(scores, start)
        if temperature is None:
            continue
        # Online softmax: what was summed relative to an earlier maximum is scaled to the new one.
        new = torch.maximum(highest, largest / temperature)
        scale = (highest - new).exp()
        scores.div_(temperature).sub_(new[:, None]).exp_()
        total = total * scale + scores.sum(1)
        if sum_rows:
            summed.mul_(scale[:, None]).addmm_(scores, part)
        highest = new
    check_finite(inverse, "codebook")
    cosines, rows = search.finish()
    if sum_rows:
        summed /= total[:, None]
    return cosines, rows, inverse, highest + total.log(), summed


def kept_weights(cosines, temperature, log_total, renormalise):
    """(N, k) cosines -> (N, k) weights."""
    logits = cosines / temperature
    return logits.softmax(-1) if renormalise else (logits - log_total[:, None]).exp()


def frame_blocks(n, k, d):
    """Slices of frames whose k rows are gathered together."""
    step = max(GATHERED // (k * d), 1)
    return [slice(i, i + step) for i in range(0, n, step)]


@torch.library.custom_op("espnet_llmvq::nearest_rows", mutates_args=())
def nearest_op(z: torch.Tensor, codebook: torch.Tensor, k: int, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    with plain(z.device):
        cosines, rows = search_rows(z, codebook, k, chunk)[:2]
        return cosines.to(compute_dtype(z, codebook)), rows


@nearest_op.register_fake
def _(z, codebook, k, chunk):
    shape = (z.shape[0], k)
    return z.new_empty(shape, dtype=compute_dtype(z, codebook)), z.new_empty(shape, dtype=torch.long)


@torch.library.custom_op("espnet_llmvq::soft_vq", mutates_args=())
def soft_vq_op(
    z: torch.Tensor,
    codebook: torch.Tensor,
    temperature: torch.Tensor,
    top_k: int,
    renormalise: bool,
    hard: bool,
    chunk: int,
    sparse: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns out (N, D), rows (N, k), and what the backward pass needs: cosines (N, k) in float64, inverse norms
    (V,), log of the softmax's denominator (N,) in float64, sum over all rows (N, D). With all rows kept, k is 1
    here: rows has the top row."""
    with plain(z.device):
        every = top_k == len(codebook)
        dtype = compute_dtype(z, codebook)
        cosines, rows, inverse, log_total, summed = search_rows(
            z,
            codebook,
            1 if every else top_k,
            chunk,
            temperature.to(dtype) if every or not renormalise else None,
            every,
        )
        if hard:
            out = codebook[rows[:, 0]].to(dtype)
        elif every:
            out = summed
        else:
            weights = kept_weights(cosines, temperature.double(), log_total, renormalise).to(dtype)
            out = torch.empty_like(z, dtype=dtype)
            for block in frame_blocks(*rows.shape, z.shape[1]):
                values = codebook[rows[block]].to(dtype)
                torch.bmm(weights[block, None], values, out=out[block, None])
        # Outputs of an operator must not share memory; without `hard`, the sum is the output.
        summed = summed if hard and every else summed.new_empty(0)
        out = out.to(torch.promote_types(z.dtype, codebook.dtype))
        return out, rows, cosines, inverse, log_total, summed


@soft_vq_op.register_fake
def _(z, codebook, temperature, top_k, renormalise, hard, chunk, sparse):
    n, (v, d) = z.shape[0], codebook.shape
    k, dtype = 1 if top_k == v else top_k, compute_dtype(z, codebook)
    return (
        z.new_empty((n, d), dtype=torch.promote_types(z.dtype, codebook.dtype)),
        z.new_empty((n, k), dtype=torch.long),
        z.new_empty((n, k), dtype=torch.float64),
        z.new_empty(v, dtype=dtype),
        z.new_empty(n, dtype=torch.float64),
        z.new_empty((n, d) if hard and top_k == v else 0, dtype=dtype),
    )


def kept_backward(grad, unit, codebook, temperature, cosines, rows, inverse, log_total, renormalise, hard):
    """Gradient through the kept rows; cosines, temperature and log_total in float64.

    Returns (of unit (N, D), of the temperature, weights of g (N, k), weights of unit (N, k), weights of the
    row itself (N, k): the gradient of row v is the sum over its places of w g + a unit - b e_v; and, if not
    renormalised, the gradient of log_total (N,)). Those of temperature and log_total are float64.
    """
    weights = kept_weights(cosines, temperature, log_total, renormalise)
    n, k = rows.shape
    grad_weights = torch.empty_like(weights)
    grad_unit = torch.empty_like(unit)
    keys = torch.empty_like(weights, dtype=unit.dtype)
    grad_cosines = torch.empty_like(weights)
    for block in frame_blocks(n, k, unit.shape[1]):
        values = codebook[rows[block]].to(unit.dtype)
        torch.bmm(values.double(), grad[block, :, None].double(), out=grad_weights[block, :, None])
        inner = weights[block] * grad_weights[block]
        if renormalise:
            inner = inner - weights[block] * inner.sum(1, keepdim=True)
        grad_cosines[block] = inner / temperature
        keys[block] = grad_cosines[block] * inverse[rows[block]]
        torch.bmm(keys[block, None], values, out=grad_unit[block, None])
    own = (grad_cosines * cosines * inverse[rows].square()).to(unit.dtype)
    grad_temperature = -(grad_cosines * cosines).sum() / temperature
    grad_log_total = None if renormalise else -(weights * grad_weights).sum(1)
    weights = weights.to(unit.dtype)
    if hard:
        weights = torch.zeros_like(weights)
        weights[:, 0] = 1.0
    return grad_unit, grad_temperature, weights, keys, own, grad_log_total


def row_gradient(grad, unit, codebook, rows, weights, keys, own):
    """Sum what the places of each row give: ((R,) rows in order, each once, (R, D) gradients)."""
    k = rows.shape[1]
    flat, order = rows.flatten().sort(stable=True)
    frames = order // k
    touched, counts = flat.unique_consecutive(return_counts=True)
    offsets = counts.cumsum(0) - counts

    def gather(source, scale):
        return F.embedding_bag(frames, source, offsets, mode="sum", per_sample_weights=scale.flatten()[order])

    values = gather(grad, weights) + gather(unit, keys)
    own = own.new_zeros(len(touched)).index_add_(
        0, torch.arange(len(touched), device=rows.device).repeat_interleave(counts), own.flatten()[order]
    )
    return touched, values.addcmul_(codebook[touched].to(values.dtype), own[:, None], value=-1.0)


def dense_backward(grad, unit, codebook, temperature, inverse, log_total, summed, row_sum, table, chunk):
    """Gradient through the softmax over all rows, computed again chunk by chunk.

    summed (N, D), sum of A_nv e_v: the output is that sum (all rows kept). None: only log_total matters, and
    grad is its gradient (N,). row_sum: `summed` is also what was returned, so that rows get gradient as
    values. table: (V, D) for the codebook's gradient or None.
    Returns (gradient of unit (N, D), of the temperature in float64).
    """
    n, d = unit.shape
    size = chunk_rows(n, len(codebook), chunk, unit.device)
    blocks = 2 if summed is None else 3
    buffer = unit.new_empty(blocks * n * size)
    grad, log_total = grad.to(unit.dtype), log_total.to(unit.dtype)
    left = unit if summed is None else torch.cat([grad, unit])
    right = torch.cat([unit, grad]) if row_sum else unit
    centre = None if summed is None else (grad * summed).sum(1, keepdim=True)
    grad_unit = torch.zeros_like(unit)
    grad_temperature = torch.zeros((), dtype=torch.float64, device=unit.device)
    for start, part in chunks(codebook, size, unit.dtype):
        c = len(part)
        here = inverse[start : start + c]
        # Blocks of N rows: [g E^T,] logits, probabilities. Two neighbours then make one product.
        block = buffer[: blocks * n * c].view(blocks, n, c)
        torch.mm(left, part.T, out=block[:-1].view(len(left), c))
        logits, share = block[-2], block[-1]
        logits.mul_(here / temperature)
        torch.sub(logits, log_total[:, None], out=share).exp_()
        if summed is None:
            inner = share.mul_(grad[:, None])
        else:
            inner = block[0].sub_(centre).mul_(share)
        own = logits.mul_(inner).sum(0)  # sum over frames of (gradient of c) * c
        grad_temperature -= own.sum(dtype=torch.float64)
        keys = torch.mul(inner, here / temperature, out=logits)
        grad_unit.addmm_(keys, part)
        if table is not None:
            weights = block[-2:].view(2 * n, c) if row_sum else keys
            target = table[start : start + c]
            if target.dtype == unit.dtype:
                torch.mul(part, (-own * here.square())[:, None], out=target).addmm_(weights.T, right)
            else:
                target.copy_((part * (-own * here.square())[:, None]).addmm_(weights.T, right))
    return grad_unit, grad_temperature / temperature


def backward(grad, z, codebook, temperature, rows, cosines, inverse, log_total, summed, out, options, sparse, train):
    """Gradients of (z, temperature, codebook): the last None, (V, D), or with sparse (rows, gradients)."""
    every, renormalise, hard, chunk = options
    dtype = compute_dtype(z, codebook)
    exact = temperature.double()
    unit, inverse_z = directions(z, dtype)
    grad = grad.to(dtype)
    grad_unit = torch.zeros_like(unit)
    grad_temperature = torch.zeros_like(exact)
    table = places = None
    if not every:
        kept = kept_backward(grad, unit, codebook, exact, cosines, rows, inverse, log_total, renormalise, hard)
        grad_unit, grad_temperature, *weights, grad_log_total = kept
        places = weights
    elif hard:
        one = torch.ones_like(cosines, dtype=dtype)
        places = [one, torch.zeros_like(one), torch.zeros_like(one)]
    if every or not renormalise:
        if train:
            table = zero_table(codebook, codebook.dtype, all_rows=True)
        more, more_temperature = dense_backward(
            grad if every else grad_log_total,
            unit,
            codebook,
            temperature.to(dtype),
            inverse,
            log_total,
            (summed if hard else out.to(dtype)) if every else None,
            every and not hard,
            table,
            chunk,
        )
        grad_unit, grad_temperature = grad_unit + more, grad_temperature + more_temperature
    # Only what is perpendicular to z turns it: d(z / |z|).
    along = (grad_unit * unit).sum(1, keepdim=True)
    grad_z = (grad_unit - unit * along) * inverse_z[:, None].to(dtype)
    result = None
    if train:
        result = table
        if places is not None:
            touched, values = row_gradient(grad, unit, codebook, rows, *places)
            values = values.to(codebook.dtype)
            if sparse:
                result = touched, values
            elif table is None:
                result = zero_table(codebook, codebook.dtype, all_rows=False)
                result[touched] = values
            else:
                result.index_add_(0, touched, values)
    return grad_z.to(z.dtype), grad_temperature.to(temperature.dtype), result


@torch.library.custom_op("espnet_llmvq::soft_vq_backward", mutates_args=())
def soft_vq_backward_op(
    grad: torch.Tensor,
    z: torch.Tensor,
    codebook: torch.Tensor,
    temperature: torch.Tensor,
    rows: torch.Tensor,
    cosines: torch.Tensor,
    inverse: torch.Tensor,
    log_total: torch.Tensor,
    summed: torch.Tensor,
    out: torch.Tensor,
    every: bool,
    renormalise: bool,
    hard: bool,
    chunk: int,
    train: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with plain(z.device):
        grad_z, grad_temperature, table = backward(
            grad,
            z,
            codebook,
            temperature,
            rows,
            cosines,
            inverse,
            log_total,
            summed,
            out,
            (every, renormalise, hard, chunk),
            False,
            train,
        )
    return grad_z, grad_temperature, codebook.new_empty(0) if table is None else table


@soft_vq_backward_op.register_fake
def _(grad, z, codebook, temperature, rows, cosines, inverse, log_total, summed, out, every, renormalise,
      hard, chunk, train):  # fmt: skip
    return (
        torch.empty_like(z),
        torch.empty_like(temperature),
        torch.empty_like(codebook) if train else codebook.new_empty(0),
    )


def save_for_backward(ctx, inputs, output):
    z, codebook, temperature, top_k, renormalise, hard, chunk, sparse = inputs
    out, rows, cosines, inverse, log_total, summed = output
    every = top_k == len(codebook)
    # The output is needed again only where it is the sum over all rows.
    needed = out if every and not hard else out.new_empty(0)
    ctx.save_for_backward(z, codebook, temperature, rows, cosines, inverse, log_total, summed, needed)
    ctx.options, ctx.sparse = (every, renormalise, hard, chunk), sparse
    ctx.mark_non_differentiable(rows, cosines, inverse, log_total, summed)
    ctx.set_materialize_grads(False)


def call_backward(ctx, grad, *unused):
    if grad is None:
        return (None,) * 8
    train = ctx.needs_input_grad[1]
    if ctx.sparse and train:
        tensors = ctx.saved_tensors
        with plain(tensors[0].device):
            grad_z, grad_temperature, (rows, values) = backward(grad, *tensors, ctx.options, True, True)
        with torch.sparse.check_sparse_tensor_invariants():  # cheap, and torch warns when it is not asked
            table = torch.sparse_coo_tensor(rows[None], values, tensors[1].shape, is_coalesced=True)
    else:
        grad_z, grad_temperature, table = soft_vq_backward_op(grad, *ctx.saved_tensors, *ctx.options, train)
    return grad_z, table if train else None, grad_temperature, None, None, None, None, None


soft_vq_op.register_autograd(call_backward, setup_context=save_for_backward)


# torch.compile cannot trace sparse gradients: the compiled graph ends before the call and goes on after it.
@functools.lru_cache
def _uncompiled():  # not at import: it loads the compiler, which takes a second or two
    return torch.compiler.disable(soft_vq_op)


def soft_vq(z, codebook, top_k, temperature=1.0, renormalise=True, hard=False, chunk=0, sparse=False):
    """`soft_vq_kept` for those who need the top row only: returns ((N, D), (N,) top row)."""
    out, rows, _ = soft_vq_kept(z, codebook, top_k, temperature, renormalise, hard, chunk, sparse)
    return out, rows[:, 0]


def soft_vq_kept(z, codebook, top_k, temperature=1.0, renormalise=True, hard=False, chunk=0, sparse=False):
    """Weighted sum of the top_k most similar rows of the codebook.

    Args:
        z: (N, D), float32, bfloat16, float16 or float64.
        codebook: (V, D).
        top_k: rows kept, 1..V; V keeps all.
        temperature: above 0; a number or a tensor of one, which then gets gradient.
        renormalise: kept weights sum to one. Otherwise they are shares of the softmax over all rows.
        hard: the value is the top row; gradients reach the weights as if the sum had been returned
            (straight-through on the weights).
        chunk: codebook rows at a time; 0 chooses. Without effect on the result.
        sparse: the codebook's gradient is a sparse tensor of the kept rows (for SparseAdam, SGD, Adagrad).

    Returns ((N, D) of the wider of both dtypes, (N, k) rows, most similar first, (N, k) their cosines, without
    gradient); with all rows kept, k is 1 here. A z or row of norm 0 has cosine 0 with everything and gets no
    gradient through it; ties go to the lowest index.
    Raises UserError for NaN or Inf in z or codebook, widths that differ and an impossible top_k.
    """
    check_shapes(z, codebook, top_k)
    if sparse and (top_k == len(codebook) or not renormalise):
        raise UserError("sparse: every row gets gradient with all rows kept or without renormalising; use dense")
    if not torch.is_tensor(temperature):
        temperature = torch.full((), temperature, dtype=compute_dtype(z, codebook), device=z.device)
    op = _uncompiled() if sparse else soft_vq_op
    out, rows, cosines = op(z, codebook, temperature, top_k, renormalise, hard, chunk, sparse)[:3]
    return out, rows, cosines.to(compute_dtype(z, codebook))


def nearest_rows(z, codebook, k, chunk=0):
    """The k rows of the codebook most similar to each z, without gradient.

    Returns ((N, k) cosines, larger first, (N, k) rows). Raises as `soft_vq`.
    """
    check_shapes(z, codebook, k)
    return nearest_op(z.detach(), codebook.detach(), k, chunk)
