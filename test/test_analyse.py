"""Numbers of the modality gap against brute force and closed forms; the command on tiny trained systems."""

import base64
import json
import os
import re
import shutil
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_llmvq.analyse import gap, nearest, tsne
from espnet_llmvq.analyse.collect import choose, collect, diagnose
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge
from espnet_llmvq.cli import analyse, report
from espnet_llmvq.score import stats
from espnet_llmvq.sequence.asr import asr_sequence
from espnet_llmvq.sequence.sequence import read_sequences, write_sequences


def clouds(n=12, d=5, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((n, d)) + 1.0
    return text + noise * rng.standard_normal((n, d)), text


def value_of(rows, metric):
    (row,) = [row for row in rows if row["metric"] == metric]
    return row["value"], row["low"], row["high"]


def test_identical_clouds_have_no_gap():
    _, text = clouds()
    rows = gap.gap_rows(text, text, [str(i) for i in range(len(text))])
    assert value_of(rows, "centroid_distance") == (0.0, 0.0, 0.0)
    assert value_of(rows, "cka") == pytest.approx((1.0, 1.0, 1.0))
    r1, low, high = value_of(rows, "r1")
    assert r1 == high == 100.0 and 70 < low < 100  # Wilson: 12 / (12 + 1.96^2)
    assert low == pytest.approx(100 * 12 / (12 + 1.959964**2), rel=1e-5)
    assert value_of(rows, "r1_by_chance")[0] == pytest.approx(100 / 12)


def test_centroid_distance_by_hand():
    # Scaled to length 1: (1, 0) and (0, 1) against (-1, 0) and (0, 1); the means differ by (1, 0).
    speech, text = np.array([[2.0, 0], [0, 5]]), np.array([[-0.1, 0], [0, 1]])
    estimate = gap.centroid_distance(speech, text)
    assert estimate.value == pytest.approx(1.0)
    # Two utterances drawn with replacement: difference (2, 0), (1, 0) or 0.
    assert set(np.round(estimate.replicates, 9)) == {0.0, 1.0, 2.0}
    # Opposite clouds: the most there is.
    assert gap.centroid_distance(text[:1], -text[:1]).value == pytest.approx(2.0)


def test_interval_of_the_centroid_distance_is_about_that_of_new_samples():
    """The bootstrap's spread against the spread over 300 fresh sets of utterances."""
    fresh = [gap.centroid_distance(*clouds(100, 4, 2.0, seed), 1).value for seed in range(300)]
    low, high = stats.interval(gap.centroid_distance(*clouds(100, 4, 2.0, 1000), 2000))
    assert (high - low) == pytest.approx(np.diff(np.quantile(fresh, [0.025, 0.975]))[0], rel=0.35)


def hsic_cka(x, y):
    """The definition: tr(K H L H) over the root of tr(K H K H) tr(L H L H), element by element."""
    n = len(x)
    k = np.array([[a @ b for b in x] for a in x])
    m = np.array([[a @ b for b in y] for a in y])
    h = np.eye(n) - 1 / n

    def hsic(a, b):
        return np.trace(a @ h @ b @ h)

    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def feature_cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.sum((x.T @ y) ** 2) / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


@pytest.mark.parametrize("n,d", [(12, 5), (6, 20)])
def test_cka_is_hsic_and_blind_to_rotation_shift_and_scale(n, d):
    speech, text = clouds(n, d)
    value = gap.linear_cka(speech, text)
    assert value == pytest.approx(hsic_cka(speech, text), rel=1e-10)
    assert value == pytest.approx(feature_cka(speech, text), rel=1e-10)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))
    assert gap.linear_cka(3.0 * speech @ rotation + 7.0, text) == pytest.approx(value, rel=1e-10)
    assert gap.linear_cka(text @ rotation, text) == pytest.approx(1.0)
    assert np.isnan(gap.linear_cka(np.ones_like(text), text))


def test_cka_interval_is_the_jackknife():
    from scipy.stats import t

    speech, text = clouds(15)
    left_out = [feature_cka(np.delete(speech, i, 0), np.delete(text, i, 0)) for i in range(15)]
    error = np.sqrt(14 / 15 * np.sum((left_out - np.mean(left_out)) ** 2))
    value = feature_cka(speech, text)
    low, high = gap.cka_interval(speech, text)
    assert low == pytest.approx(max(0, value - t.ppf(0.975, 14) * error))
    assert high == pytest.approx(min(1, value + t.ppf(0.975, 14) * error))


def test_grouped_jackknife_is_near_the_plain_one(monkeypatch):
    speech, text = clouds(240, noise=1.0)
    grouped = np.subtract(*gap.cka_interval(speech, text))  # 100 groups of two or three
    monkeypatch.setattr(gap, "GROUPS", 1000)
    assert grouped == pytest.approx(np.subtract(*gap.cka_interval(speech, text)), rel=0.3)


def test_cka_by_chance():
    speech, text = clouds(40, 30, 0.1)
    chance = gap.cka_by_chance(speech, text)
    assert 0.2 < chance < 0.8 * gap.linear_cka(speech, text)  # far above 0 with so many dimensions
    rng = np.random.default_rng(3)
    drawn = [feature_cka(speech, text[rng.permutation(40)]) for _ in range(50)]
    assert chance == pytest.approx(np.mean(drawn), rel=0.1)


def test_retrieval_by_hand():
    text = np.array([[1.0, 0], [0, 1], [1, 0], [-1, 0]])
    transcripts = ["a", "b", "a", "c"]
    # Nearest of a (1, 0), b (0, 1), c (-1, 0): a, a (wrong), a, c.
    speech = np.array([[9.0, 1], [2, 1], [1, 0.9], [-1, 0.5]])
    hits, candidates = gap.retrieval(speech, text, transcripts)
    assert hits.tolist() == [True, False, True, True] and candidates == 3


def test_wilson_closed_form():
    hits = np.arange(40) < 13
    p, n, z = 13 / 40, 40, 1.959963985
    centre, wide = p + z * z / 2 / n, z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    expected = [(centre - wide) / (1 + z * z / n), (centre + wide) / (1 + z * z / n)]
    assert gap.wilson(hits) == pytest.approx(expected, rel=1e-6)


def test_tsne_is_seeded_and_tells_clouds_apart():
    rng = np.random.default_rng(0)
    text = rng.standard_normal((30, 6)) + 10 * np.eye(6)[0]
    speech = rng.standard_normal((30, 6)) - 10 * np.eye(6)[0]
    first, second = tsne.embed(speech, text, 3), tsne.embed(speech, text, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    a, b = first
    assert a.shape == b.shape == (30, 2)
    spread = max(x.std(0).max() for x in first)
    assert np.linalg.norm(a.mean(0) - b.mean(0)) > 2 * spread
    assert tsne.spaced(3).tolist() == [0, 1, 2]
    assert len(set(tsne.spaced(1000))) == tsne.LIMIT


@pytest.mark.parametrize("k,renormalise", [(2, True), (7, True), (7, False), ("all", True)])
def test_nearest_tokens_of_soft(k, renormalise):
    """Against the softmax over all rows, in float64."""
    g = torch.Generator().manual_seed(0)
    table, z = torch.randn(20, 6, generator=g), torch.randn(4, 6, generator=g)
    bridge = SoftBridge(3, table, top_k=k, temperature=0.3, renormalise=renormalise)
    rows, cosines, weights = nearest.nearest(bridge, table, z, None)
    every = torch.cosine_similarity(z[:, None].double(), table[None].double(), -1)
    share = (every / 0.3).softmax(-1)
    order = every.argsort(descending=True)
    kept = torch.zeros_like(share).scatter_(1, order[:, : len(table) if k == "all" else k], 1.0)
    share = share * kept
    if renormalise:
        share = share / share.sum(1, keepdim=True)
    assert torch.equal(rows, order[:, :5])
    torch.testing.assert_close(cosines.double(), every.gather(1, order[:, :5]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.double(), share.gather(1, order[:, :5]), atol=1e-6, rtol=0)


def test_nearest_tokens_of_the_others():
    table = torch.eye(6)
    z = torch.tensor([[0.1, 0.9, 0, 0, 0, 0.3]])
    rows, _, weights = nearest.nearest(HardBridge(3, table), table, z, None, 3)
    assert rows.tolist() == [[1, 5, 0]] and weights.tolist() == [[1, 0, 0]]
    # A continuous bridge: nearest to what the LLM gets.
    rows, cosines, weights = nearest.nearest(Bridge(3, table), table, None, z.flip(1), 3)
    assert rows.tolist() == [[4, 0, 5]] and weights is None
    assert cosines[0, 0].item() == pytest.approx(0.9 / 0.91**0.5)


def test_rows_of_the_table_without_a_token_are_named_by_their_number():
    table = torch.eye(3)
    llm = types.SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding.from_pretrained(table))
    model = types.SimpleNamespace(bridge=Bridge(2, table, stack=1), llm=llm)
    tokenizer = types.SimpleNamespace(convert_ids_to_tokens=lambda ids: [["a", "b", None][i] for i in ids])
    out = torch.tensor([[0.1, 0.2, 0.9]])
    found = types.SimpleNamespace(steps_of=lambda i: slice(0, 1), z=out, out=out)
    (step,) = nearest.describe(model, tokenizer, found, 0)
    assert [token for token, _, _ in step] == ["<row 2>", "b", "a"]


def test_collected_means_are_those_of_one_at_a_time(make_model, corpus, tokenizer):
    """Batches, choice and order against each utterance through the model's own forward pass."""
    from espnet_llmvq.decode.batches import read_batches

    model = make_model(bridge="soft", bridge_conf={"stack": 2, "hidden_size": 24, "top_k": 4})
    chosen = choose(corpus.train, 7, 1, "train")
    assert len(chosen) == 7 and chosen == choose(corpus.train, 7, 1, "train")
    whole = {s.id: s for s in read_sequences(corpus.train)}
    assert list(chosen) == [utt for utt in whole if utt in chosen]
    found = collect(model, tokenizer, corpus.train, None, chosen)
    table = model.llm.get_input_embeddings().weight
    with torch.inference_mode():
        for ids, batch in read_batches(corpus.train, 100.0, model_dir(model), batch_size=1):
            if ids[0] not in chosen:
                continue
            i = found.ids.index(ids[0])
            out, steps, _ = model.bridge_speech(*model.encode(batch["speech"], batch["speech_lengths"]))
            assert found.counts[i] == steps.item()
            torch.testing.assert_close(found.out[found.steps_of(i)], out[0], atol=1e-5, rtol=1e-4)
            np.testing.assert_allclose(found.speech[i], out[0].mean(0), atol=1e-5)
            tokens = tokenizer.encode(" " + whole[ids[0]].transcript, add_special_tokens=False)
            np.testing.assert_allclose(found.text[i], table[tokens].mean(0), atol=1e-6)
    numbers, _ = diagnose(model, found)
    assert numbers["bridge_steps"] == sum(found.counts) and numbers["codebook_drift"] == 0.0


def model_dir(model):
    return model.llm.config._name_or_path


def few(path, texts):
    sequences = [asr_sequence(f"u{i}", "a.wav", 9, t, "{speech} {text}") for i, t in enumerate(texts)]
    write_sequences(str(path), sequences)
    return str(path)


def test_choice_needs_transcripts(tmp_path):
    assert choose(few(tmp_path / "a.jsonl", ["one", "", "two", ""]), 10, 1, "s") == {}
    found = choose(few(tmp_path / "b.jsonl", ["one", "", "two", "one"]), 10, 1, "s")
    assert found == {"u0": " one", "u2": " two", "u3": " one"}


OPTIONS = ["--utterances", "10", "--examples", "2"]


@pytest.fixture(scope="module")
def experiment(encoder_dir, settings, corpus, tmp_path_factory, experiment_of):
    """An experiment with a soft, a continuous and a CTC system, two sets."""
    from espnet_llmvq.espnet.run import train_phase

    room = tmp_path_factory.mktemp("analyse")
    exp = room / "exp"
    soft = {"stack": 1, "hidden_size": 24, "top_k": "all", "codebook": "trainable", "temperature": "learned"}
    for name, more in (("slam", {}), ("soft", {"bridge": "soft", "bridge_conf": soft})):
        config = settings(max_epoch=1, keep_nbest_models=1, encoder_file=f"{encoder_dir}/model.pth", **more)
        train_phase(str(exp / name), config, 1)
    hyps = exp / "slam" / "decode_a" / "hyp.jsonl"
    hyps.parent.mkdir()
    hyps.write_text("".join(json.dumps({"id": f"valid{i:02d}", "text": f"<i>{i}</i>"}) + "\n" for i in range(5)))
    return experiment_of(
        room, {"ctc": "ctc", "slam": str(exp / "slam"), "soft": str(exp / "soft")},
        {"a": corpus.valid, "b": corpus.train}, encoder=encoder_dir,
        labels={"slam": "<b>SLAM</b>", "soft": "Soft & all"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(experiment):
    analyse.main(["--exp", experiment.options.expdir, *OPTIONS])
    return Path(experiment.exp("analysis"))


def test_training_leaves_diagnostics(experiment):
    exp = Path(experiment.options.expdir)
    left = json.loads((exp / "soft" / "diagnostics.json").read_text())
    means = left["means"]
    assert left["epoch"] == 1 and 0 < means["codebook_drift"] < 1
    assert means["temperature"] == pytest.approx(1.0, abs=0.1)
    # At temperature 1 weights over all rows are nearly flat: what the paper's k = all fails by.
    assert any("weights are nearly equal over all 110 rows" in text for text in left["warnings"])
    assert "codebook_drift" not in json.loads((exp / "slam" / "diagnostics.json").read_text())["means"]


def test_files_of_the_analysis(made):
    names = {"analysis.json", "analysis.tsv", "ANALYSIS.md", "nearest.html", "nearest.tsv"}
    names |= {f"tsne_{s}.{e}" for s in "ab" for e in ("png", "tsv")} | {"made.json"}
    assert {p.name for p in made.iterdir()} == names
    content = json.loads((made / "analysis.json").read_text())
    rows = {(r["system"], r["set"], r["metric"]): r for r in content["rows"]}
    assert {k[0] for k in rows} == {"slam", "soft"} and {k[1] for k in rows} == {"a", "b"}
    for system in ("slam", "soft"):
        for metric in ("centroid_distance", "cka", "r1"):
            row = rows[system, "b", metric]
            assert row["low"] <= row["value"] <= row["high"] and row["utterances"] == 10
    assert rows["soft", "a", "weights_entropy"]["value"] > 0.9 * np.log(110)
    assert any(text.startswith("Soft & all on a: the weights are nearly equal") for text in content["warnings"])
    text = (made / "ANALYSIS.md").read_text()
    assert "## Linear CKA" in text and "chance" in text and "## Warnings" in text
    assert (made / "tsne_a.png").read_bytes().startswith(b"\x89PNG")
    lines = (made / "tsne_b.tsv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 10  # systems, modalities, utterances


def test_page_of_nearest_tokens(made):
    page = (made / "nearest.html").read_text()
    assert "&lt;b&gt;SLAM&lt;/b&gt;" in page and "&lt;i&gt;0&lt;/i&gt;" in page and "<i>" not in page
    assert "not decoded" in page  # of the soft system there are no hypotheses
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "default-src 'none'" in page
    table = [line.split("\t") for line in (made / "nearest.tsv").read_text().splitlines()]
    assert {len(line) for line in table} == {8}
    steps = {tuple(line[:4]) for line in table[1:]}
    assert len(table) - 1 == 5 * len(steps)
    weights = [float(line[7]) for line in table[1:] if line[0] == "soft"]
    assert 0 < max(weights) < 1 and {line[7] for line in table[1:] if line[0] == "slam"} == {""}


def test_nothing_is_done_twice(experiment, made, capsys):
    command = ["--exp", experiment.options.expdir, *OPTIONS]
    path = made / "analysis.json"
    before = (path.stat().st_mtime_ns, path.read_bytes())
    for touched in (experiment.sequences("a"), Path(experiment.exp("soft")) / "model.pth"):
        os.utime(touched)
    analyse.main(command)
    assert "up to date, nothing to do" in capsys.readouterr().out
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    # Again with the same seeds: the same numbers and places.
    places = (made / "tsne_a.tsv").read_bytes()
    analyse.main([*command, "--redo"])
    assert path.read_bytes() == before[1] and (made / "tsne_a.tsv").read_bytes() == places


def test_what_an_analysis_is_made_of_is_noticed(experiment, made, corpus, tmp_path, monkeypatch):
    """Another model, hypotheses or sequences, other settings, systems or sets, and a damaged file of it."""
    from espnet_llmvq.analyse import run

    class Analysed(Exception):
        pass

    def analysed(*args):
        raise Analysed

    def is_done(options, systems=experiment.systems, names="ab"):
        sets = {name: (str(tmp_path / "dump" / name / "sequences.jsonl"), None) for name in names}
        try:
            run.analyse(systems, sets, str(out), options)
        except Analysed:
            return False
        return True

    monkeypatch.setattr(run, "analyse_system", analysed)
    shutil.copytree(experiment.options.expdir, tmp_path / "exp")
    shutil.copytree(experiment.options.dumpdir, tmp_path / "dump")
    systems = tuple(
        replace(s, model=str(tmp_path / "exp" / s.name), hypotheses=f"{tmp_path}/exp/{s.name}/decode_{{set}}/hyp.jsonl")
        for s in experiment.systems
    )
    out, options = tmp_path / "exp" / "analysis", run.Analysis(utterances=10, examples=2, title="Tones")
    assert is_done(options, systems)
    for key, value in {"utterances": 9, "examples": 1, "replicates": 9, "draw_seed": 2, "title": "Other"}.items():
        assert not is_done(replace(options, **{key: value}), systems)
    assert not is_done(options, systems[:2]) and not is_done(options, systems, "a")
    assert not is_done(options, (*systems[:2], replace(systems[2], label="Other")))
    for name in ("exp/soft/model.pth", "exp/slam/decode_a/hyp.jsonl", "dump/b/sequences.jsonl",
                 "exp/analysis/nearest.html", "exp/analysis/tsne_a.png", "exp/analysis/tsne_b.tsv"):  # fmt: skip
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
        assert not is_done(options, systems), name
        (tmp_path / name).write_bytes(whole)
        assert is_done(options, systems), name
    (tmp_path / "exp/soft/decode_a").mkdir()
    (tmp_path / "exp/soft/decode_a/hyp.jsonl").write_text("")
    assert not is_done(options, systems)


def test_mistakes_are_named(experiment, corpus, tmp_path, experiment_of):
    command = ["--exp", experiment.options.expdir]
    with pytest.raises(UserError, match="did you mean 'soft'"):
        analyse.main([*command, "--systems", "sofd"])
    with pytest.raises(UserError, match="--utterances 2: at least 3"):
        analyse.main([*command, "--utterances", "2"])
    systems = {"soft": experiment.exp("soft")}
    experiment_of(tmp_path, systems, {"c": few(tmp_path / "c.jsonl", ["one", "two"])})
    command = ["--exp", str(tmp_path / "exp")]
    with pytest.raises(UserError, match="no set has 3 utterances"):
        analyse.main(command)
    (tmp_path / "exp/analysis").mkdir()
    (tmp_path / "exp/analysis/thesis.txt").write_text("x")
    with pytest.raises(
        UserError, match="analysis would be replaced, but holds other files and no made.json; remove it"
    ):
        analyse.main([*command, "--redo"])
    assert (tmp_path / "exp/analysis/thesis.txt").exists()
    experiment_of(tmp_path, {"none": str(tmp_path / "exp/none")}, {"a": corpus.valid})
    with pytest.raises(UserError, match="none/model.pth does not exist; run stage 11"):
        analyse.main(command)


def test_the_report_shows_it(experiment, made, tmp_path):
    exp = Path(experiment.options.expdir)
    row = {"system": "soft", "kind": "set", "set": "a", "domain": "id", "metric": "wer", "value": 12.0, "seed": 1}
    (exp / "results.json").write_text(json.dumps([row]))
    report.main([f"--exp_dir={exp}"])
    page = (exp / "report" / "report.html").read_text()
    assert 'id="analysis"' in page and "Linear CKA of speech and text" in page
    assert "Collapsed bridges" in page and "soft, epoch 1: the weights are nearly equal over all 110 rows" in page
    assert "Soft &amp; all on a: the weights" in page
    png = base64.b64encode((made / "tsne_a.png").read_bytes()).decode()
    assert png in page
    (made / "analysis.json").write_text("[]")
    report.main([f"--exp_dir={exp}", f"--results_dir={exp}"])
    page = (exp / "report" / "report.html").read_text()
    assert "not the numbers of an analysis; run `llmvq analyse` again" in page and 'id="analysis"' not in page
