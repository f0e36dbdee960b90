"""The soft-VQ operator against brute-force float64 autograd, written from the equations with the full matrix."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge import soft_vq as operator
from espnet_llmvq.bridge.bridge import HardBridge, SoftBridge
from espnet_llmvq.bridge.quantizer import hard_quantize
from espnet_llmvq.bridge.search import BLOCK
from espnet_llmvq.bridge.soft_vq import nearest_rows, soft_vq


def brute_force(z, e, temperature, k, renormalise, hard):
    """sum_v A_nv e_v with the whole (N, V) matrix; hard: one-hot value, straight through on A."""
    c = (z @ e.T) / (z.norm(dim=1)[:, None] * e.norm(dim=1)[None])
    a = (c / temperature).exp() / (c / temperature).exp().sum(1, keepdim=True)
    kept = torch.zeros_like(a).scatter(1, a.argsort(dim=1, descending=True, stable=True)[:, :k], 1.0)
    a = a * kept
    if renormalise:
        a = a / a.sum(1, keepdim=True)
    if hard:
        top = torch.nn.functional.one_hot(a.argmax(1), len(e)).to(a)
        a = a + (top - a).detach()
    return a @ e


def draw(seed, n, v, d, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    tensors = (torch.randn(rows, d, generator=g, dtype=torch.float64).to(dtype) for rows in (n, v, n))
    return [*tensors, torch.tensor(0.3, dtype=torch.float64)]


def ours(z, e, temperature, k, renormalise=True, hard=False, **options):
    return soft_vq(z, e, k, temperature, renormalise, hard, **options)[0]


def gradients(function, z, e, grad, temperature, *args, **kwargs):
    """[output, gradient of z, of e, of the temperature]."""
    inputs = [x.clone().requires_grad_() for x in (z, e, temperature)]
    out = function(*inputs, *args, **kwargs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def relative(ours, want):
    return ((ours.double() - want).abs().max() / want.abs().max()).item()


SWITCHES = list(itertools.product((True, False), (True, False)))  # renormalise, hard


@pytest.mark.parametrize("renormalise,hard", SWITCHES)
@pytest.mark.parametrize("seed", range(6))
def test_gradients_match_float64_autograd_on_random_shapes(renormalise, hard, seed):
    pick = torch.Generator().manual_seed(seed)
    n, v, d, some = (int(torch.randint(2, m, (), generator=pick)) for m in (8, 60, 9, 60))
    z, e, grad, t = draw(seed, n, v, d)
    for k in {1, min(some, v - 1), v}:
        want = gradients(brute_force, z, e, grad, t, k, renormalise, hard)
        for chunk in (0, 1, 7):
            got = gradients(ours, z, e, grad, t, k, renormalise, hard, chunk=chunk)
            for a, b in zip(got, want):
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("renormalise,hard", SWITCHES)
@pytest.mark.parametrize("k", (3, 1500))
def test_float32_in_blocks_of_scores(k, renormalise, hard):
    z, e, grad, t = draw(1, 6, 1500, 24, torch.float32)
    assert len(e) > 8 * BLOCK  # so that scores are pruned by block maxima
    inputs = [x.double() for x in (z, e, grad, t)]
    want = gradients(brute_force, *inputs, k, renormalise, hard)
    for chunk in (0, 700, 640, 100):
        got = gradients(ours, z, e, grad, t, k, renormalise, hard, chunk=chunk)
        assert max(relative(a, b) for a, b in zip(got, want)) < 1e-5


@pytest.mark.parametrize("hard", (True, False))
@pytest.mark.parametrize("seed", (19, 20))
def test_temperature_gradient_that_cancels_between_steps(seed, hard):
    """The gradient of one step is made to undo that of the others, but for a thousandth. Of what is left, an operator
    that is float32 throughout misses more than 1e-3."""
    z, e, grad, _ = draw(seed, 16, 1500, 64, torch.float32)
    t = torch.tensor(0.05)
    terms = []
    for i in range(len(z)):
        one = [x.double() for x in (z[i : i + 1], e, grad[i : i + 1], t)]
        terms.append(gradients(brute_force, *one, 10, True, hard)[3].item())
    last = max(range(len(z)), key=lambda i: abs(terms[i]))
    others = sum(terms) - terms[last]
    grad[last] *= -1.001 * others / terms[last]
    want = gradients(brute_force, *(x.double() for x in (z, e, grad, t)), 10, True, hard)
    assert abs(want[3].item()) < 2e-3 * abs(others)  # it does cancel
    for options in ({}, {"chunk": 300}, {"sparse": True}):
        got = gradients(ours, z, e, grad, t, 10, hard=hard, **options)
        got[2] = got[2].to_dense() if got[2].is_sparse else got[2]
        assert max(relative(a, b) for a, b in zip(got, want)) < 1e-6
    if not hard:  # as a parameter of a bridge: d/dshift at 0 is rate * T * d/dT
        bridge = SoftBridge(4, e, codebook="trainable", top_k=10, temperature=0.05, temperature_rate=5.0)
        (bridge.quantize(z)[0] * grad).sum().backward()
        assert relative(bridge.temperature_shift.grad, 5.0 * t.double() * want[3]) < 1e-6


@pytest.mark.parametrize("k,renormalise", [(2, True), (2, False), (9, True)])
def test_gradcheck(k, renormalise):
    z, e, _, t = draw(2, 3, 9, 4)
    inputs = [x.requires_grad_() for x in (z, e, t)]
    assert torch.autograd.gradcheck(lambda *x: ours(*x, k, renormalise, chunk=4), inputs)


def test_chunk_size_changes_nothing():
    z, e, grad, t = draw(3, 9, 1000, 16, torch.float32)
    results = [gradients(ours, z, e, grad, t, 5, chunk=c) for c in (0, 1000, 300, 33)]
    for result in results[1:]:
        assert torch.equal(result[0], results[0][0])
        for a, b in zip(result, results[0]):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chunk", (0, 1, 64, 300))
def test_ties_go_to_the_lowest_index(chunk):
    z, e, *_ = draw(5, 6, 40, 8, torch.float32)
    many = torch.cat([e, 2.0 * e, e] * 10)  # the same 40 directions 30 times over
    best = (z.double() @ (e / e.norm(dim=1, keepdim=True)).double().T).argmax(1)
    _, rows = nearest_rows(z, many, 3, chunk)
    assert rows.tolist() == [[b, b + 40, b + 80] for b in best.tolist()]
    _, rows = nearest_rows(z, e[:1].repeat(900, 1), 3, chunk)
    assert rows.tolist() == [[0, 1, 2]] * len(z)


def test_rows_closer_than_float32_can_tell_are_ranked_in_float64():
    z, e, *_ = draw(6, 7, 700, 16, torch.float32)
    close = e[:1] + 1e-6 * e  # cosines differ by less than the product's error
    cosine = torch.nn.functional.cosine_similarity(z.double()[:, None], close.double()[None], -1)
    cosines, rows = nearest_rows(z, close, 5, 128)
    want = cosine.topk(5, dim=1)
    assert torch.equal(rows, want.indices)
    torch.testing.assert_close(cosines.double(), want.values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("k,renormalise", [(4, True), (4, False), (300, True)])
def test_half_precision_only_stores(dtype, k, renormalise):
    z, e, grad, t = draw(7, 5, 300, 16, dtype)
    inputs = [x.double() for x in (z, e, grad, t)]
    want = gradients(brute_force, *inputs, k, renormalise, False)
    got = gradients(ours, z, e, grad, t, k, renormalise)
    assert [x.dtype for x in got[:3]] == [dtype] * 3
    assert max(relative(a, b) for a, b in zip(got, want)) < 1e-2
    mixed, rows = soft_vq(z, e.float(), k, t, renormalise)
    assert mixed.dtype == torch.float32
    assert relative(mixed, want[0]) < 1e-5
    assert torch.equal(rows, nearest_rows(z.double(), e.double(), 1)[1][:, 0])


def test_autocast_does_not_round_similarities():
    z, e, grad, t = draw(8, 5, 300, 16, torch.float32)
    plain = gradients(ours, z, e, grad, t, 4, False)
    with torch.autocast("cpu", torch.bfloat16):
        cast = gradients(ours, z, e, grad, t, 4, False)
    assert all(torch.equal(a, b) for a, b in zip(cast, plain))


@pytest.mark.parametrize("k,renormalise,hard", [(3, True, False), (50, True, False), (3, False, True)])
def test_compiled_without_graph_breaks(k, renormalise, hard):
    z, e, grad, t = draw(9, 4, 50, 8)
    call = lambda z, e, t: 2 * soft_vq(z * 3, e, k, t, renormalise, hard)[0]  # noqa: E731
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    for a, b in zip(gradients(compiled, z, e, grad, t), gradients(call, z, e, grad, t)):
        torch.testing.assert_close(a, b)


def test_operator_registration():
    z, e, _, t = draw(10, 3, 20, 4)
    inputs = [x.requires_grad_() for x in (z, e, t)]
    torch.library.opcheck(operator.soft_vq_op, (*inputs, 3, False, True, 0, False))
    torch.library.opcheck(operator.nearest_op, (z.detach(), e.detach(), 3, 0))


@pytest.mark.parametrize("hard", (True, False))
def test_sparse_gradient_holds_the_kept_rows(hard):
    z, e, grad, t = draw(11, 5, 90, 6)
    dense = gradients(ours, z, e, grad, t, 3, hard=hard)
    sparse = gradients(ours, z, e, grad, t, 3, hard=hard, sparse=True)
    kept = nearest_rows(z, e, 3)[1].unique()
    assert torch.equal(sparse[2].coalesce().indices()[0], kept)
    torch.testing.assert_close(sparse[2].to_dense(), dense[2])
    torch.testing.assert_close(sparse[1], dense[1])


@pytest.mark.parametrize("k", (3, 90))
def test_mapped_gradient_is_the_filled_one(k, monkeypatch):
    z, e, grad, t = draw(13, 5, 90, 6, torch.float32)
    filled = gradients(ours, z, e, grad, t, k)
    monkeypatch.setattr(operator, "TABLE", 0)
    mapped = gradients(ours, z, e, grad, t, k)
    assert torch.equal(filled[2], mapped[2])
    mapped[2].mul_(2.0)  # it is ordinary memory to whoever gets it
    torch.testing.assert_close(mapped[2], 2.0 * filled[2])


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns, codebooks aside."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("k,renormalise", [(3, True), (3, False), (4000, True)])
def test_no_tensor_is_as_large_as_frames_times_vocabulary(k, renormalise):
    n, v, d, chunk = 200, 4000, 4, 256
    z, e, grad, t = draw(14, n, v, d, torch.float32)
    every, t = k == v, t.float()
    with Largest() as largest:
        found = operator.search_rows(z, e, 1 if every else k, chunk, t, every)
        cosines, rows, inverse, log_total, summed = found
        saved = (rows, cosines, inverse, log_total, summed, summed)
        operator.backward(grad, z, e, t, *saved, (every, renormalise, False, chunk), False, True)
    assert largest.numel <= 3 * n * chunk < n * v / 4


def test_rows_without_direction():
    z, e, grad, t = draw(15, 4, 300, 8)
    z[1], e[7] = 0.0, 0.0
    cosines, rows = nearest_rows(z, e, 3)
    assert rows[1].tolist() == [0, 1, 2] and cosines[1].tolist() == [0, 0, 0]
    out, z_grad, e_grad, t_grad = gradients(ours, z, e, grad, t, 3)
    torch.testing.assert_close(out[1], e[:3].mean(0))
    assert z_grad[1].abs().sum() == 0
    assert all(x.isfinite().all() for x in (z_grad, e_grad, t_grad))
    out, _, e_grad, _ = gradients(ours, z, e, grad, t, 300)
    torch.testing.assert_close(out[1], e.mean(0))
    assert e_grad.isfinite().all()


def test_no_frames():
    z, e, grad, t = draw(16, 0, 300, 8)
    for k in (3, 300):
        out, z_grad, e_grad, _ = gradients(ours, z, e, grad, t, k)
        assert out.shape == z_grad.shape == (0, 8) and e_grad.abs().sum() == 0


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_values_that_are_not_finite_are_named(value):
    z, e, *_ = draw(17, 5, 300, 8, torch.float32)
    bad_z, bad_e = z.clone(), e.clone()
    bad_z[3, 2] = bad_e[33, 1] = value
    for call in (lambda z, e: soft_vq(z, e, 3), hard_quantize):
        with pytest.raises(UserError, match=r"bridge input z: NaN, Inf .* in 1 of 5 rows, the first is row 3"):
            call(bad_z, e)
        with pytest.raises(UserError, match=r"codebook: NaN, Inf .* in 1 of 300 rows, the first is row 33"):
            call(z, bad_e)


@pytest.mark.parametrize(
    "k,width,options,message",
    [
        (0, 8, {}, "top_k: 0 must be 1 to 20"),
        (21, 8, {}, "top_k: 21 must be 1 to 20"),
        (True, 8, {}, "top_k: True"),
        (3, 7, {}, r"\(5, 7\) and codebook of shape \(20, 8\).*as wide"),
        (20, 8, {"sparse": True}, "use dense"),
        (3, 8, {"sparse": True, "renormalise": False}, "use dense"),
    ],
)
def test_impossible_arguments(k, width, options, message):
    with pytest.raises(UserError, match=message):
        soft_vq(torch.randn(5, width), torch.randn(20, 8), k, **options)


def test_chunk_is_an_option_of_the_bridges():
    table = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    for cls in (HardBridge, SoftBridge):
        for bad in (0, -1, 1.5, "many"):
            with pytest.raises(UserError, match="chunk: .* above 0 or 'auto'"):
                cls(4, table, chunk=bad)
        assert cls(4, table, chunk=7).chunk == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("k,renormalise", [(3, True), (3, False), (1500, True)])
def test_cuda_gives_what_cpu_gives(k, renormalise):
    z, e, grad, t = draw(18, 6, 1500, 24, torch.float32)
    call = lambda z, e, t: soft_vq(z, e, k, t, renormalise)[0]  # noqa: E731
    for a, b in zip(gradients(call, *(x.cuda() for x in (z, e, grad, t))), gradients(call, z, e, grad, t)):
        assert relative(a.cpu(), b.double()) < 1e-5
