"""Quantizers against a brute-force float64 reference written from the equations of arXiv 2506.05706."""

import itertools

import pytest
import torch

from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge, stack_frames
from espnet_llmvq.bridge.quantizer import hard_quantize, hard_weights_quantize, soft_quantize
from espnet_llmvq.errors import UserError

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


@pytest.mark.parametrize("k,temperature,renormalise", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_soft_matches_reference(k, temperature, renormalise, seed):
    z, e, grad = draw(seed)
    ours = gradients(lambda z, e: soft_quantize(z, e, k, temperature, renormalise)[0], z, e, grad)
    want = gradients(lambda z, e: reference_weights(z, e, k, temperature, renormalise) @ e, z, e, grad)
    for a, b in zip(ours, want):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k,temperature,renormalise", CASES)
def test_hard_weights_matches_reference(k, temperature, renormalise):
    z, e, grad = draw(3)

    def reference(z, e):
        a = reference_weights(z, e, k, temperature, renormalise)
        onehot = torch.nn.functional.one_hot(a.argmax(-1), V).to(a)
        return (a + (onehot - a).detach()) @ e

    ours = gradients(lambda z, e: hard_weights_quantize(z, e, k, temperature, renormalise)[0], z, e, grad)
    want = gradients(reference, z, e, grad)
    for a, b in zip(ours, want):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_hard_is_nearest_row_and_straight_through():
    z, e, grad = draw(4)
    nearest = torch.stack([e[max(range(V), key=lambda v: cos(z_t, e[v]).item())] for z_t in z])
    out, z_grad, e_grad = gradients(lambda z, e: hard_quantize(z, e)[0], z, e, grad)
    torch.testing.assert_close(out, nearest)
    torch.testing.assert_close(z_grad, grad)
    assert e_grad.abs().sum() == 0


def test_only_kept_rows_get_gradient():
    z, e, grad = draw(5, n=1)
    _, rows = (x[0] for x in torch.nn.functional.cosine_similarity(z[:, None], e[None], -1).topk(3))
    _, _, e_grad = gradients(lambda z, e: soft_quantize(z, e, 3)[0], z, e, grad)
    assert set(e_grad.abs().sum(-1).nonzero().flatten().tolist()) == set(rows.tolist())


def test_unnormalised_shrinks_as_the_paper_read_literally():
    z, e, _ = draw(6, n=4, v=5000, d=16)
    shrunk = soft_quantize(z, e, 10, renormalise=False)[0].norm(dim=-1)
    full = soft_quantize(z, e, 10, renormalise=True)[0].norm(dim=-1)
    assert (shrunk < full / 100).all()


BRIDGES = [
    (Bridge, {}),
    (Bridge, {"match_norm": True}),
    (HardBridge, {}),
    (HardBridge, {"straight_through": "weights", "codebook": "trainable", "top_k": 4}),
    (SoftBridge, {"top_k": 4, "codebook": "trainable"}),
    (SoftBridge, {"top_k": "all", "temperature": "learned", "renormalise": False}),
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
        (SoftBridge, {"top_k": V + 1}, "'all'"),
        (SoftBridge, {"top_k": 0}, "1 to"),
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
