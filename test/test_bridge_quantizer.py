"""Quantizers against a brute-force float64 reference written from the equations of arXiv 2506.05706."""

import itertools
import math

import pytest
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge, derangement
from espnet_llmvq.bridge.quantizer import hard_quantize, permuted_quantize, soft_quantize
from espnet_llmvq.speech.frames import stack_frames

N, V, D = 5, 11, 6


def draw(seed, n=N, v=V, d=D):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    e = torch.randn(v, d, generator=g, dtype=torch.float64)
    grad = torch.randn(n, d, generator=g, dtype=torch.float64)
    return z, e, grad


def cos(a, b):
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def reference_weights(z, e, k, temperature, renormalise):
    """A_t row by row: softmax over all rows, zero outside the k largest, renormalised or not."""
    rows = []
    for z_t in z:
        scores = torch.stack([cos(z_t, e_v) / temperature for e_v in e])
        a = scores.exp() / scores.exp().sum()
        order = sorted(range(len(e)), key=lambda v: -a[v].item())[:k]
        mask = torch.tensor([float(v in order) for v in range(len(e))], dtype=a.dtype)
        a = a * mask
        rows.append(a / a.sum() if renormalise else a)
    return torch.stack(rows)


def gradients(function, z, e, grad):
    z, e = z.clone().requires_grad_(), e.clone().requires_grad_()
    out = function(z, e)
    (out * grad).sum().backward()
    zero = torch.zeros_like
    return out.detach(), z.grad, e.grad if e.grad is not None else zero(e)


CASES = list(itertools.product((1, 3, V), (1.0, 0.05), (True, False)))


def straight_through(a):
    """One-hot of the largest weight; the gradient is that of the weights."""
    return a + (torch.nn.functional.one_hot(a.argmax(-1), V).to(a) - a).detach()


def assert_same_gradients(ours, want, z, e, grad):
    for a, b in zip(gradients(ours, z, e, grad), gradients(want, z, e, grad)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k,temperature,renormalise", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_soft_and_hard_weights_match_reference(k, temperature, renormalise, seed):
    options = (k, temperature, renormalise)
    for hard, of in ((False, lambda a: a), (True, straight_through)):
        ours = lambda z, e, hard=hard: soft_quantize(z, e, *options, hard=hard)[0]  # noqa: E731
        assert_same_gradients(ours, lambda z, e, of=of: of(reference_weights(z, e, *options)) @ e, *draw(seed))


def test_hard_is_nearest_row_and_straight_through():
    z, e, grad = draw(4)
    nearest = torch.stack([e[max(range(V), key=lambda v: cos(z_t, e[v]).item())] for z_t in z])
    out, z_grad, e_grad = gradients(lambda z, e: hard_quantize(z, e)[0], z, e, grad)
    torch.testing.assert_close(out, nearest)
    torch.testing.assert_close(z_grad, grad)
    assert e_grad.abs().sum() == 0


BRIDGES = [
    (Bridge, {}),
    (Bridge, {"match_norm": True}),
    (HardBridge, {}),
    (HardBridge, {"straight_through": "weights", "codebook": "trainable", "top_k": 4}),
    (SoftBridge, {"top_k": 4, "codebook": "trainable"}),
    (SoftBridge, {"top_k": "all", "temperature": "learned", "renormalise": False}),
    (SoftBridge, {"top_k": 4, "permute_codebook": 1}),
    (HardBridge, {"permute_codebook": 1}),
]


@pytest.mark.parametrize("cls,options", BRIDGES)
@pytest.mark.parametrize("stack", [1, 2, 5])
def test_padded_batch_gives_what_each_gets_alone(cls, options, stack):
    torch.manual_seed(0)
    bridge = cls(7, torch.randn(V, D), stack=stack, hidden_size=8, **options).double()
    lengths = torch.tensor([13, 4, 1])
    x = torch.randn(3, 13, 7, dtype=torch.float64)  # garbage behind the end of the shorter ones
    out, steps, _ = bridge(x, lengths)
    for i, n in enumerate(lengths.tolist()):
        alone, alone_steps, _ = bridge(x[i : i + 1, :n], lengths[i : i + 1])
        assert alone_steps.item() == steps[i].item()
        torch.testing.assert_close(out[i, : steps[i]], alone[0])
        assert out[i, steps[i] :].abs().sum() == 0


def test_stack_frames_by_hand():
    x = torch.arange(1.0, 9.0).reshape(1, 4, 2)
    out, lengths = stack_frames(x, torch.tensor([3]), 2)
    assert out.tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0]]]
    assert lengths.tolist() == [2]


@pytest.mark.parametrize(
    "cls,options,message",
    [
        (SoftBridge, {"top_k": V + 1}, f"top_k: {V + 1} is more than the {V} rows .* write 'all' to keep every row"),
        (SoftBridge, {"top_k": 0}, "1 to"),
        (SoftBridge, {"top_k": True}, "1 to"),
        (SoftBridge, {"top_k": "al"}, "1 to .* or 'all'"),
        (SoftBridge, {"temperature_rate": -1.0}, "temperature_rate: -1.0 must be 0"),
        (SoftBridge, {"permute_codebook": True}, "permute_codebook: True must be a seed"),
        (SoftBridge, {"permute_codebook": 1, "renormalise": False}, "needs renormalise: true"),
        (SoftBridge, {"temperature": 0}, "above 0"),
        (SoftBridge, {"codebook": "trainabel"}, "did you mean 'trainable'"),
        (HardBridge, {"codebook": "trainable"}, "use weights"),
    ],
)
def test_bad_options_say_what_is_right(cls, options, message):
    with pytest.raises(UserError, match=message):
        cls(4, torch.randn(V, D), **options)


def test_codebook_is_a_copy_that_trains_only_when_asked():
    table = torch.nn.Embedding(V, D)
    frozen = SoftBridge(4, table.weight, top_k=2)
    trained = SoftBridge(4, table.weight, top_k=2, codebook="trainable")
    assert not frozen.codebook.requires_grad and trained.codebook.requires_grad
    with torch.no_grad():
        trained.codebook.add_(1.0)
    assert not torch.equal(table.weight, trained.codebook)
    assert torch.equal(table.weight, frozen.codebook)


@pytest.mark.parametrize("rows", (2, 3, 800))
def test_permutation_leaves_no_row_in_its_place(rows):
    permutation = derangement(rows, 1)
    assert sorted(permutation.tolist()) == list(range(rows))
    assert not (permutation == torch.arange(rows)).any()
    assert torch.equal(permutation, derangement(rows, 1))
    assert rows < 800 or not torch.equal(permutation, derangement(rows, 2))


@pytest.mark.parametrize("k", (1, 3, V))
@pytest.mark.parametrize("hard", (True, False))
def test_permuted_matches_reference(k, hard):
    permutation = derangement(V, 5)

    def reference(z, e):
        a = reference_weights(z, e, k, 0.3, True)
        a = straight_through(a) if hard else a
        return torch.stack([sum(a_t[v] * e[permutation[v]] for v in range(V)) for a_t in a])

    assert_same_gradients(lambda z, e: permuted_quantize(z, e, permutation, k, 0.3, hard)[0], reference, *draw(7))


def test_permuting_the_codebook_itself_would_be_no_control():
    z, e, _ = draw(8)
    permutation = derangement(V, 5)
    plain = soft_quantize(z, e, 3, 0.3)[0]
    torch.testing.assert_close(soft_quantize(z, e[permutation], 3, 0.3)[0], plain)
    assert (permuted_quantize(z, e, permutation, 3, 0.3)[0] - plain).norm() > 0.1 * plain.norm()


def test_permuted_bridges_put_another_row_in_place():
    table = torch.randn(V, D)
    inputs = torch.randn(1, 9, 4), torch.tensor([9])
    outputs = {}
    for seed in (None, 5):
        torch.manual_seed(0)
        hard = HardBridge(4, table, stack=1, hidden_size=8, permute_codebook=seed)
        outputs[seed] = hard(*inputs)[0][0]
        assert list(hard.state_dict()) == list(HardBridge(4, table, stack=1, hidden_size=8).state_dict())
    row_of = torch.cdist(outputs[None], table).argmin(-1)
    torch.testing.assert_close(outputs[5], table[derangement(V, 5)[row_of]])
    (outputs[5] * torch.randn(9, D)).sum().backward()
    assert hard.projector.output.weight.grad.abs().sum() > 0 and hard.codebook.grad is None


@pytest.mark.parametrize(
    "options, first, rate",
    [
        ({"temperature": 0.2, "temperature_rate": 100.0}, 0.2, 100.0),
        ({"temperature": "learned"}, 1.0, 1.0),
        ({"temperature": "learned", "temperature_rate": 10.0}, 1.0, 10.0),
    ],
)
def test_learned_temperature(options, first, rate):
    torch.manual_seed(0)
    table = torch.randn(V, D)
    bridge = SoftBridge(4, table, top_k=3, **options)
    assert bridge.temperature.item() == pytest.approx(first)
    z, grad = torch.randn(N, D), torch.randn(N, D)
    (bridge.quantize(z)[0] * grad).sum().backward()
    # d/dshift at 0 = rate * T * d/dT, the last by central differences in float64
    up, down = (
        (reference_weights(z.double(), table.double(), 3, first + step, True) @ table.double() * grad).sum()
        for step in (1e-5, -1e-5)
    )
    want = rate * first * (up - down) / 2e-5
    assert bridge.temperature_shift.grad.item() == pytest.approx(want.item(), rel=1e-3)
    with torch.no_grad():
        bridge.temperature_shift.add_(0.01)
    assert bridge.temperature.item() == pytest.approx(first * math.exp(0.01 * rate))
