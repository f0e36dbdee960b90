"""Diagnostics of the bridge against closed forms and brute force in float64; collapses, made by hand."""

import itertools
import math

import pytest
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge import collapse, diagnostics
from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge

V, D = 40, 16
QUANTIZER_KEYS = {"codebook_share", "codebook_perplexity", "top_cosine", "weights_entropy"}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_entropy(z, e, temperature, k):
    """Mean entropy of the softmax over the k largest cosines, in float64."""
    values = []
    for z_n in z.double():
        cosines = torch.stack([z_n @ e_v / (z_n.norm() * e_v.norm()) for e_v in e.double()])
        logits = [c.item() / temperature for c in cosines.sort(descending=True).values[:k]]
        weights = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
        values.append(-sum(w * math.log(w) for w in weights))
    return sum(values) / len(values)


def test_rows_in_use_by_hand():
    share, perplexity = diagnostics.rows_in_use(torch.tensor([3, 3, 3]), 10)
    assert (share.item(), perplexity.item()) == pytest.approx((0.1, 1.0))
    share, perplexity = diagnostics.rows_in_use(torch.tensor([0, 2, 4, 6] * 5), 10)
    assert (share.item(), perplexity.item()) == pytest.approx((0.4, 4.0))
    _, perplexity = diagnostics.rows_in_use(torch.tensor([0, 0, 1]), 10)  # 2/3 and 1/3
    assert perplexity.item() == pytest.approx(3 / 2 ** (2 / 3))


@pytest.mark.parametrize("k", [1, 2, 10])
def test_uniform_weights_have_entropy_log_k(k):
    assert diagnostics.kept_entropy(torch.full((7, k), 0.3), 0.05).item() == pytest.approx(math.log(k), abs=1e-6)


def test_one_row_far_ahead_has_entropy_0():
    assert diagnostics.kept_entropy(torch.tensor([[0.9, 0.1, 0.0]]), 0.001).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("temperature,chunk", [(1.0, 0), (0.05, 7), (0.05, 40), (0.3, 1)])
def test_entropy_over_all_rows(temperature, chunk):
    z, e = draw(5, D).float(), draw(V, D, seed=1).float()
    found = diagnostics.full_entropy(z, e, temperature, chunk).item()
    assert found == pytest.approx(brute_entropy(z, e, temperature, V), rel=1e-5)


def test_entropy_over_all_rows_looks_at_some_steps_only():
    """Equal steps: whichever are looked at, the mean is that of one."""
    z, e = draw(1, D).float(), draw(V, D, seed=1).float()
    many = z.expand(10 * diagnostics.ENTROPY_STEPS, D)
    assert diagnostics.full_entropy(many, e, 0.1).item() == pytest.approx(brute_entropy(z, e, 0.1, V), rel=1e-5)


def test_mean_pair_cosine():
    out = draw(9, D)
    pairs = [torch.cosine_similarity(a, b, 0).item() for a, b in itertools.combinations(out, 2)]
    assert diagnostics.mean_pair_cosine(out).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert diagnostics.mean_pair_cosine(out[:1].expand(4, D)).item() == pytest.approx(1.0, abs=1e-6)
    assert diagnostics.mean_pair_cosine(torch.eye(4)).item() == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(diagnostics.mean_pair_cosine(out[:1]).item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drift(dtype):
    table = draw(700, D).to(dtype)
    codebook = SoftBridge(4, table, codebook="trainable").codebook
    assert diagnostics.drift(codebook, table).item() == 0.0  # at the start
    with torch.no_grad():
        codebook.mul_(1.25)
    assert diagnostics.drift(codebook, table).item() == pytest.approx(0.25, rel=1e-5)
    codebook = table.float()
    codebook[3] = 0.0
    expected = table[3].double().norm() / table.double().norm()
    assert diagnostics.drift(codebook, table).item() == pytest.approx(expected.item(), rel=1e-5)


BRIDGES = [
    (Bridge, {}, set()),
    (HardBridge, {}, QUANTIZER_KEYS),
    (HardBridge, {"straight_through": "weights", "top_k": 4}, QUANTIZER_KEYS),
    (SoftBridge, {"top_k": 4, "temperature": 0.1}, QUANTIZER_KEYS),
    (SoftBridge, {"top_k": 4, "renormalise": False, "output_scale": 3.0}, QUANTIZER_KEYS),
    (SoftBridge, {"top_k": "all", "temperature": "learned"}, {*QUANTIZER_KEYS, "temperature"}),
]


@pytest.mark.parametrize("cls,options,keys", BRIDGES)
def test_statistics_are_of_the_steps_inside(cls, options, keys):
    """Whatever stands behind the ends, statistics are those of the steps of all utterances."""
    torch.manual_seed(0)
    table = torch.randn(V, D)
    bridge = cls(7, table, stack=2, hidden_size=8, **options)
    lengths, x = torch.tensor([13, 4, 1]), torch.randn(3, 13, 7)
    out, steps, stats = bridge(x, lengths)
    other = torch.where(torch.arange(13)[None, :, None] < lengths[:, None, None], x, torch.full_like(x, 77.0))
    _, _, again = bridge(other, lengths)
    assert {"bridge_steps", "bridge_norm_ratio", "output_cosine", *keys} == set(stats)
    for name, value in stats.items():
        torch.testing.assert_close(value, again[name], msg=name)
    inside = torch.cat([out[i, :n] for i, n in enumerate(steps.tolist())]).double()
    assert stats["bridge_steps"].item() == len(inside) == 7 + 2 + 1
    ratio = inside.norm(dim=-1).mean() / table.double().norm(dim=-1).mean()
    assert stats["bridge_norm_ratio"].item() == pytest.approx(ratio.item(), rel=1e-5)
    if keys:
        parts = [bridge.project(x[i : i + 1, :n], lengths[i : i + 1])[0][0] for i, n in enumerate(lengths.tolist())]
        z = torch.cat(parts)
        cosines = torch.cosine_similarity(z[:, None].double(), table[None].double(), -1)
        assert stats["top_cosine"].item() == pytest.approx(cosines.amax(1).mean().item(), rel=1e-5)
        share = len(set(cosines.argmax(1).tolist())) / V
        assert stats["codebook_share"].item() == pytest.approx(share)
        k = 1 if cls is HardBridge and "top_k" not in options else bridge.top_k
        temperature = options.get("temperature", 1.0)
        temperature = 1.0 if temperature == "learned" else temperature  # what it starts with
        expected = brute_entropy(z.detach(), table, temperature, k)
        assert stats["weights_entropy"].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def healthy(rows=60, steps=200):
    """(table, z): steps near to rows of the table, of which many are in use."""
    table = draw(rows, D).float()
    z = table[torch.arange(steps) % rows] + 0.3 * draw(steps, D, seed=2).float()
    return table, z


def found_in(bridge, z):
    out, kept = bridge.quantize(z)
    stats = bridge.statistics(z, out * bridge.output_scale, kept)
    return bridge.collapse_warnings({name: float(value) for name, value in stats.items()})


@pytest.mark.parametrize(
    "cls,options",
    [
        (Bridge, {"match_norm": True}),
        (HardBridge, {}),
        (SoftBridge, {"top_k": 10, "temperature": 0.05}),
        (SoftBridge, {"top_k": 10, "temperature": 1.0}),
        (SoftBridge, {"top_k": "all", "temperature": 0.05}),
        # Flat weights only pass gradient here: the output is one row.
        (HardBridge, {"straight_through": "weights", "top_k": "all"}),
    ],
)
def test_a_healthy_bridge_raises_no_warning(cls, options):
    table, z = healthy()
    assert found_in(cls(4, table, **options), z) == []


def test_norms_off_by_ten():
    table, z = healthy()
    for scale in (0.05, 20.0):
        (text,) = found_in(Bridge(4, table, match_norm=True, output_scale=scale), z)
        assert f"{scale:.3g} times as long" in text
    assert found_in(Bridge(4, table, match_norm=True, output_scale=9.0), z) == []
    # The paper's letter: ten of many rows keep next to nothing of the softmax's mass.
    table, z = healthy(rows=3000)
    (text,) = found_in(SoftBridge(4, table, top_k=10, renormalise=False), z)
    assert "renormalise" in text


def test_a_handful_of_rows():
    table, z = healthy()
    few = table[torch.arange(200) % 3] + 0.01 * z
    (text,) = found_in(HardBridge(4, table), few)
    assert "handful" in text and "perplexity 3)" in text
    assert found_in(HardBridge(4, table), few[:10]) == []  # ten steps can be one short word


def test_all_rows_averaged():
    table, z = healthy(rows=3000)
    found = found_in(SoftBridge(4, table + 0.5, top_k="all", temperature=1.0), z + 0.5)
    assert len(found) == 2 and "all 3000 rows" in found[0] and "nearly the same" in found[1]


def test_all_steps_alike():
    table, z = healthy()
    (text,) = found_in(Bridge(4, table, match_norm=True), z[:1] + 0.01 * z)
    assert "nearly the same" in text


def test_no_numbers_no_warning():
    nan = math.nan
    assert collapse.collapse_warnings({}) == []
    assert collapse.collapse_warnings({"output_cosine": nan, "bridge_norm_ratio": nan}) == []


def test_file_of_a_training(tmp_path):
    assert collapse.read_warnings(tmp_path) == []
    collapse.write_diagnostics(tmp_path, 3, {"output_cosine": 1.0}, ["all is one"])
    assert collapse.read_warnings(tmp_path) == ["epoch 3: all is one"]
    for broken in ("{", "[]", '{"warnings": ["x"]}'):
        (tmp_path / collapse.FILE).write_text(broken)
        with pytest.raises(UserError, match="diagnostics.json: not the diagnostics"):
            collapse.read_warnings(tmp_path)


def test_warnings_of_the_log_are_shown(tmp_path, capsys):
    from espnet_llmvq.espnet.run import LogFollower

    log = tmp_path / "train.log"
    follower = LogFollower("start-soft", str(log))
    log.write_text(f"[h] 2026-01-01 (trainer:9) WARNING: {collapse.MARK}: all is one\n[h] WARNING: other\n")
    follower.report()
    assert capsys.readouterr().out == "[start-soft] warning: bridge collapse: all is one\n"


def test_results_pass_the_warnings_on(tmp_path):
    from espnet_llmvq.experiment.table import EvalSet, ResultTable, System
    from espnet_llmvq.score.scoring import collapse_notes

    systems = [
        System(name, name, f"{tmp_path}/{name}/decode_{{set}}/hyp.jsonl", model=f"{tmp_path}/{name}")
        for name in ("lora", "soft")
    ]
    (tmp_path / "soft").mkdir()
    collapse.write_diagnostics(tmp_path / "soft", 2, {}, ["all is one"])
    table = ResultTable(
        (*systems, System("theirs", "theirs", "{set}.txt")), (EvalSet("a", "id", "text"), EvalSet("b", "ood", "text"))
    )
    # once, not for each set
    assert collapse_notes(table) == ["soft: bridge collapse in training, epoch 2: all is one"]
