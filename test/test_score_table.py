"""The tables of the results command against values worked out by hand."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml

from espnet_llmvq.base.environment import FILE, facts, get_commit, get_version
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import report, results, score
from espnet_llmvq.cli import show as show_result
from espnet_llmvq.cli.recipe import seeds as pool_seeds
from espnet_llmvq.experiment.table import Answers, EvalSet, read_table, run_commands
from espnet_llmvq.report import content
from espnet_llmvq.score import figure, scoring, stats
from espnet_llmvq.score.measure import METRICS, Metric
from espnet_llmvq.score.options import Statistics
from espnet_llmvq.score.results import Results
from espnet_llmvq.score.seeds import over_utterances, pooled_rows
from espnet_llmvq.score.table import Cell, Column, Row, Table, cell_of, latex_table, markdown_table, text_table

# Ten reference words a set; hypotheses with a known number of substituted words.
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WRONG = {  # system: set: number of wrong words
    "lora": {"test_id": 1, "test_a": 4, "test_b": 2},
    "ours": {"test_id": 2, "test_a": 3, "test_b": 1},
}


SYSTEMS = {
    "lora": {"label": "SLAM-ASR + LoRA", "hypotheses": "exp/lora/decode_{set}/hyp.jsonl"},
    "ours": {"label": "Soft VQ", "hypotheses": "exp/ours/decode_{set}/hyp.jsonl", "note": "steps=1200"},
}
SETS = {name: {"domain": "id" if name == "test_id" else "ood", "text": name} for name in WRONG["lora"]}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A recipe directory with two systems decoded on three sets, as a function that scores them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").write_text("t1 one two three four five, six SEVEN\n")
    for name in WRONG["lora"]:
        (tmp_path / name).write_text(f"u1 {' '.join(WORDS[:5])}\nu2 {' '.join(WORDS[5:])}\n")
        for system, wrong in WRONG.items():
            write_hypotheses(tmp_path / "exp" / system / f"decode_{name}", wrong[name])

    def score(*options, **keys):
        known = {"systems": SYSTEMS, "sets": SETS, "train_text": "train", "baseline": "lora", "seed": 3}
        write_table({key: value for key, value in (known | keys).items() if value is not None})
        results.main(["--table=table.yaml", *options])

    return score


def write_hypotheses(directory, wrong):
    """hyp.jsonl of the ten words, the first of them wrong."""
    directory.mkdir(parents=True, exist_ok=True)
    words = ["wrong"] * wrong + WORDS[wrong:]
    lines = [json.dumps({"id": u, "text": " ".join(w)}) + "\n" for u, w in (("u1", words[:5]), ("u2", words[5:]))]
    (directory / "hyp.jsonl").write_text("".join(lines))


def write_table(content, path="table.yaml"):
    with open(path, "w", encoding="utf-8") as f:
        yaml.safe_dump(content, f, sort_keys=False)


def body(text):
    """Cells of the tables in Markdown, without the rules, and without intervals."""
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = [[re.sub(r" \[.*?\]", "", c) for c in row] for row in rows]
    return [row for row in rows if row and set("".join(row)) - set("-:")]


def test_golden_table(experiment, capsys, tmp_path):
    experiment()
    printed = capsys.readouterr().out
    # means of 40, 20 and of 30, 10; 30 / 10, 20 / 20; (20 - 10) / 10, (20 - 30) / 30
    sizes = "10 (small) / 2 / 30.00"
    expected = f"""\
| system | note | test_id (ID) | test_a (OOD) | test_b (OOD) |
| words / utterances / OOV % | | {sizes} | {sizes} | {sizes} |
| normaliser | | basic | basic | basic |
| SLAM-ASR + LoRA | | **10.00** | 40.00 | 20.00 |
| Soft VQ | steps=1200 | 20.00 | **30.00** | **10.00** |
| system | note | ID macro mean | OOD macro mean | ID micro mean | OOD micro mean | OOD / ID | ID CH | OOD CH |
| normaliser | | basic | basic | basic | basic | | | |
| SLAM-ASR + LoRA | | **10.00** | 30.00 | **10.00** | 30.00 | 3.00 | | |
| Soft VQ | steps=1200 | 20.00 | **20.00** | 20.00 | **20.00** | 1.00 | +100.00 | -33.33 |
""".replace("CH", "macro mean vs lora (%)")
    assert body(printed) == body(expected)
    assert len({len(line) for line in printed.splitlines()[:6]}) == 1  # columns line up
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "".join(printed.splitlines(keepends=True)[:6]) in markdown
    for fact in ("seed: 3", "normaliser: basic", "resampled: utterance", "date: "):
        assert f"- {fact}" in markdown
    assert "- decoding: not recorded" in markdown
    assert "small, under 500 words" in markdown
    assert "test_id: only 2 utterances to resample" in markdown
    counts = [row for row in body(markdown) if row[0] == "Soft VQ" and "/" in row[1]]
    assert counts == [["Soft VQ", "2 / 0 / 0", "3 / 0 / 0", "1 / 0 / 0"]]
    compared = [row for row in body(markdown) if row[0] == "ours"]
    assert [row[:5] for row in compared][:2] == [
        ["ours", "test_id", "wer", "basic", "+10.00"],
        ["ours", "test_a", "wer", "basic", "-10.00"],
    ]
    # u1 of lora on test_a is "wrong wrong wrong wrong five": a loop; the others have 5 words
    derailed = next(row for row in body(markdown) if row[1:2] == ["test_a"] and row[0] == "SLAM-ASR + LoRA")
    assert derailed[2:] == ["1", "0", "0", "0", "0", "1", "2", "40.00", "0.00"]


def test_results_json(experiment, tmp_path):
    experiment()
    exp = tmp_path / "exp"
    rows = json.loads((exp / "results.json").read_text())
    # two systems; wer, cer, ter, seven parts, numbers and five ranges of words on three sets, two macro and two micro
    # means; one ratio
    assert len(rows) == 2 * (16 * (3 + 2 + 2) + 1)
    values = {(r["system"], r["set"], r["metric"]): r for r in rows}
    row = dict(values["ours", "mean_ood", "wer"])
    assert 0 <= row.pop("low") <= 20 <= row.pop("high") <= 40
    expected = {"system": "ours", "kind": "macro", "set": "mean_ood", "domain": "ood", "metric": "wer", "value": 20.0}
    counts = {"utterances": 4, "words": 20, "seed": 3, "normaliser": "basic", "count": None, "of": None}
    counts["rules"] = {}
    assert row == expected | counts
    assert values["lora", "test_a", "wer"]["value"] == 40
    assert [values["ours", name, "wer"]["count"] for name in ("test_a", "test_b", "micro_ood")] == [3, 1, 4]
    assert [values["ours", name, "wer"]["of"] for name in ("test_a", "test_b", "micro_ood")] == [10, 10, 20]
    assert values["lora", "mean_id", "wer"]["value"] == 10
    assert values["lora", "ood/id", "wer_ratio"]["value"] == 3
    assert values["lora", "test_id", "ter"]["normaliser"] == "none"
    # "one two three four five" has 23 characters, "six ... ten" 24. one -> wrong: +w, +r, e/g
    assert values["lora", "test_id", "cer"]["value"] == pytest.approx(100 * 3 / 47, abs=1e-4)
    lines = [line.split("\t") for line in (exp / "results.tsv").read_text().splitlines()]
    assert lines[0] == list(rows[0])
    assert [line[:5] for line in lines[1:]] == [[str(v) for v in list(r.values())[:5]] for r in rows]
    tex = (exp / "results.tex").read_text()
    assert r"\textbf{10.00}" in tex
    assert r"test\_id (ID)" in tex
    compared = json.loads((exp / "comparisons.json").read_text())
    changes = {"test_id": 10, "test_a": -10, "test_b": -10, "mean_id": 10, "mean_ood": -10}
    assert [(r["set"], r["change"]) for r in compared] == list(changes.items())
    assert [r["comparisons"] for r in compared] == [3] * 5
    assert compared[-1]["p"] is None
    assert compared[-1]["relative"] == pytest.approx(-33.3333)
    derailed = json.loads((exp / "derailments.json").read_text())
    assert len(derailed) == 2 * 3 * 6
    found = [(r["system"], r["set"], r["kind"]) for r in derailed if r["count"]]
    assert found == [("lora", "test_a", "loop"), ("lora", "test_a", "any")]


def test_micro_mean_weights_words(experiment, tmp_path):
    # test_b with one more utterance of 30 right words: 2 errors of 40; with test_a's 4 of 10
    (tmp_path / "test_b").write_text((tmp_path / "test_b").read_text() + "u3" + " so" * 30 + "\n")
    for system in WRONG:
        with (tmp_path / "exp" / system / "decode_test_b" / "hyp.jsonl").open("a") as hyp:
            hyp.write(json.dumps({"id": "u3", "text": "so " * 30}) + "\n")
    experiment()
    rows = json.loads((tmp_path / "exp" / "results.json").read_text())
    values = {(r["system"], r["set"], r["metric"]): r["value"] for r in rows}
    assert values["lora", "micro_ood", "wer"] == pytest.approx(100 * 6 / 50)
    assert values["lora", "mean_ood", "wer"] == pytest.approx((40 + 5) / 2)


def test_options_of_sets(experiment, tmp_path):
    (tmp_path / "test_a").write_text("u1 One two three four five\nu2 six seven eight nine ten\n")
    (tmp_path / "entities").write_text("u1\tn=three\tn=One\nu2\tn=ten\n")
    (tmp_path / "utt2spk").write_text("u1 s1\nu2 s1\n")
    (tmp_path / "list").write_text("five six\nnine\n")
    more = {"normaliser": "none", "entities": "entities", "utt2spk": "utt2spk", "metrics": ["bleu"]}
    sets = {**SETS, "test_a": {**SETS["test_a"], **more}, "test_b": {**SETS["test_b"], "word_list": "list"}}
    experiment(sets=sets, train_text=None)
    rows = json.loads((tmp_path / "exp" / "results.json").read_text())
    found = {(r["system"], r["set"], r["metric"]): r for r in rows}
    # lora on test_a: "wrong wrong wrong wrong five"; ours: three wrong words
    assert found["lora", "test_a", "eer"]["value"] == pytest.approx(200 / 3, abs=1e-4)
    assert found["lora", "test_a", "entity_precision"]["value"] == 100
    assert found["lora", "test_a", "wer_in"]["value"] == pytest.approx(200 / 3, abs=1e-4)
    assert found["lora", "test_a", "wer_out"]["value"] == pytest.approx(200 / 7, abs=1e-4)
    assert found["lora", "test_a", "wer"]["normaliser"] == "none"
    assert found["lora", "mean_ood", "wer"]["normaliser"] == "none+basic"
    assert found["lora", "test_a", "bleu"]["value"] > 0
    # test_b, list "nine" (in u2): right; "five six" is not in one utterance
    assert found["lora", "test_b", "wer_in"]["value"] == 0
    assert found["lora", "test_b", "wer_out"]["value"] == pytest.approx(200 / 9, abs=1e-4)
    assert ("lora", "test_id", "eer") not in found
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "3 entities (3 normalised), 3 different; 3 words inside and 7 outside" in markdown
    speakers = (tmp_path / "exp" / "details" / "lora" / "test_a" / "speakers.tsv").read_text()
    assert speakers.splitlines()[1].split("\t")[:4] == ["s1", "2", "40.00", "10"]


def test_entity_error_rates(tmp_path, monkeypatch):
    """Raw and normalised side by side, with counts: u1 misses a name in raw text by its case alone, u2 misses both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ref").write_text("u1 In New York Ann took 5 mg.\nu2 Call Dr. Lee, not Lee.\nu3 Nothing\n")
    (tmp_path / "entities").write_text("u1\tcity=New York\tname=Ann\tdose=5 mg\nu2\tname=Dr. Lee\tname=Lee\n")
    (tmp_path / "hyp_test").write_text("u1 In new york Ann took 2.5 mg.\nu2 Call Leeds\nu3 Nothing\n")
    sets = {"test": {"domain": "ood", "text": "ref", "entities": "entities"}}
    write_table({"systems": {"a": {"label": "A", "hypotheses": "hyp_{set}"}}, "sets": sets})
    results.main(["--table=table.yaml", "--out_dir=exp"])
    rows = {(r["set"], r["metric"]): r for r in json.loads((tmp_path / "exp" / "results.json").read_text())}
    for name in ("test", "micro_ood"):
        # raw: only Ann is right, 4 of 5 missed; normalised, New York is right too, and 2.5 mg is still no 5 mg
        row, normalised = rows[name, "eer"], rows[name, "eer_norm"]
        assert (row["count"], row["of"], row["value"]) == (4, 5, 80)
        assert (normalised["count"], normalised["of"], normalised["value"]) == (3, 5, 60)
        assert row["low"] <= 80 <= row["high"] and (row["normaliser"], normalised["normaliser"]) == ("none", "basic")
    text = (tmp_path / "exp" / "RESULTS.md").read_text()
    table = [row for row in body(text) if len(row) > 9 and row[1].startswith(("EER", "80"))]
    assert [row[1:5] for row in table] == [
        ["EER, raw text", "missed / entities", "EER, normalised", "missed / entities"],
        ["80.00", "4 / 5", "60.00", "3 / 5"],
    ]
    assert "5 entities (5 normalised), 5 different" in text


def test_scoring_elsewhere_gives_the_same_bytes(experiment, tmp_path, monkeypatch):
    made = json.dumps(facts(num_beams=4) | {"platform": "Elsewhere-1.0", "CPUs": 96})
    for path in (tmp_path / "exp").glob("*/decode_*"):
        (path / FILE).write_text(made)
    experiment()
    first = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "- platform: Elsewhere-1.0\n- CPUs: 96\n" in first
    assert "- num_beams: 4\n" in first
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("other"))
    monkeypatch.chdir(other)
    for name in ("RESULTS.md", "results.json"):
        (other / "exp" / name).unlink()
    monkeypatch.setattr(scoring, "get_commit", lambda path: "another")
    monkeypatch.setattr("platform.platform", lambda: "Here-2.0")
    monkeypatch.setattr("time.strftime", lambda *args: "2031-01-01")
    experiment()
    second = (other / "exp" / "RESULTS.md").read_text()
    dates = [re.search(r"- date: .*\n", text)[0] for text in (first, second)]
    assert dates[0] != dates[1]
    assert first.replace(dates[0], "") == second.replace(dates[1], "")
    for name in ("results.json", "comparisons.json", "results.tsv", "derailments.json"):
        assert (tmp_path / "exp" / name).read_bytes() == (other / "exp" / name).read_bytes()


def test_facts_that_differ_are_told_apart(experiment, tmp_path):
    for system, beams in (("lora", 1), ("ours", 4)):
        for path in (tmp_path / "exp" / system).glob("decode_*"):
            (path / FILE).write_text(json.dumps({"num_beams": beams}))
    experiment()
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "Decoding of lora on test_id, test_a, test_b:\n\n- num_beams: 1\n" in markdown
    assert "Decoding of ours on test_id, test_a, test_b:\n\n- num_beams: 4\n" in markdown
    (tmp_path / "exp" / "lora" / "decode_test_a" / FILE).write_text("no")
    with pytest.raises(UserError, match="environment.json: not a JSON object"):
        experiment()


def test_derailments_and_treatments_are_told(experiment, tmp_path):
    path = tmp_path / "exp" / "ours" / "decode_test_a" / "hyp.jsonl"
    lines = [{"id": "u1", "text": "USER: " + "so " * 20, "at_limit": True}, {"id": "u2", "text": ""}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="1 hypotheses are empty .*--empty_hyp keep"):
        experiment("--empty_hyp=error")
    experiment("--prompt=USER: {speech} ASSISTANT: {text}")
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text()
    row = next(row for row in body(markdown) if row[:2] == ["Soft VQ", "test_a"])
    # loop, empty, at_limit, length, prompt, any, utterances; 5 + 16 and 5 errors of 10 words
    assert row[2:] == ["1", "1", "1", "1", "1", "2", "2", "260.00", "-"]
    assert "- ours on test_a: 1 empty hypotheses, their words counted as deletions\n" in markdown
    table = (tmp_path / "exp" / "details" / "ours" / "test_a" / "utterances.tsv").read_text().splitlines()
    assert table[1].split("\t")[-1] == "loop,at_limit,length,prompt"


def test_show_result(experiment, capsys, tmp_path):
    experiment()
    capsys.readouterr()
    show_result.main(["exp"])
    printed = capsys.readouterr().out
    assert printed.startswith("## exp (seed 3)\n\nWord error rate (%)\n\nsystem ")
    assert "Token error rate" in printed
    assert "**" not in printed
    assert re.search(r"^lora +10\.00 \[", printed, re.MULTILINE)
    with pytest.raises(UserError, match="no such metric"):
        show_result.main(["exp", "--metric", "bleu"])
    with pytest.raises(UserError, match="nowhere/results.json: not there; score the systems first: llmvq results"):
        show_result.main(["nowhere"])


def seed_dirs(experiment, tmp_path, **keys):
    """Results of seeds 3, 4 and 5: lora on test_a has 4, 5 and 3 wrong words."""
    for seed, wrong in ((3, 4), (4, 5), (5, 3)):
        write_hypotheses(tmp_path / "exp" / "lora" / "decode_test_a", wrong)
        experiment(f"--out_dir=exp/seed{seed}", seed=seed, **keys)
    return ["exp/seed3", "exp/seed4", "exp/seed5"]


def test_pool_seeds(experiment, tmp_path):
    dirs = seed_dirs(experiment, tmp_path)
    pool_seeds.main([*dirs, "--baseline=lora"])
    rows = json.loads((tmp_path / "exp" / "seeds" / "results.json").read_text())
    row = next(r for r in rows if (r["system"], r["set"], r["metric"]) == ("lora", "test_a", "wer"))
    # 40, 50, 30: sd 10, t of 2 degrees 4.3027
    assert row["value"] == 40
    assert (row["low"], row["high"]) == pytest.approx((15.1586, 64.8414), abs=1e-3)
    assert row["seed"] == [3, 4, 5]
    compared = json.loads((tmp_path / "exp" / "seeds" / "comparisons.json").read_text())
    row = next(r for r in compared if r["set"] == "test_a")
    assert (row["change"], row["improvement"]) == (-10, pytest.approx((1 + 1 + 0.5) / 3, abs=1e-4))
    markdown = (tmp_path / "exp" / "seeds" / "RESULTS.md").read_text()
    assert "Means over 3 seeds (3, 4, 5)" in markdown
    assert "40.00 [15.16, 64.84]" in markdown
    show_result.main(["exp/seeds"])
    with pytest.raises(UserError, match=r"exp/seeds: seed is \[3, 4, 5\]: it holds no results of one seed"):
        pool_seeds.main(["exp/seeds", *dirs])


def test_pooled_seeds_over_utterances(experiment, tmp_path):
    """An utterance has the errors of all seeds: the values are the pooled ones, the intervals those of the sums."""
    dirs = seed_dirs(experiment, tmp_path)
    runs = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in dirs}
    statistics = Statistics(replicates=200, permutations=200)
    rows, compared, derailed = over_utterances(runs, "lora", statistics)
    pooled = {(r["system"], r["kind"], r["set"]): r for r in pooled_rows(runs) if r["metric"] == "wer"}
    for row in rows:
        assert row["value"] == pytest.approx(pooled[row["system"], row["kind"], row["set"]]["value"], abs=1e-3)
    row = next(r for r in rows if (r["system"], r["set"]) == ("lora", "test_a"))
    # By hand: the errors of the three files, utterance by utterance, resampled with the same draws.
    summed = 0
    for name in dirs:
        lines = [line.split("\t") for line in (tmp_path / name / "details/lora/test_a/utterances.tsv").open()]
        summed += np.array([[sum(map(int, line[4:7])), int(line[2])] for line in lines[1:]], dtype=float)
    errors, words = stats.sums(summed, 200, statistics.draw_seed, "test_a")
    low, high = stats.interval(stats.combine(lambda e, w: 100 * e / w, [errors, words]))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-3)
    change = next(r for r in compared if r["set"] == "test_a")
    assert change["change"] == -10 and change["baseline"] == "lora"
    # They differ in one utterance alone: exchanged or not, they are as far apart.
    assert (change["p"], change["p_holm"]) == (1, 1)
    # "wrong" four and five times in a row is a loop, three times is none.
    assert derailed == {(system, name): 2 * ((system, name) == ("lora", "test_a")) for system in WRONG for name in SETS}
    with pytest.raises(UserError, match="not all utterances have a speaker; pool with --resample utterance"):
        over_utterances(runs, "lora", Statistics(resample="speaker"))
    pool_seeds.main([*dirs, "--baseline=lora", "--replicates=200", "--permutations=200"])
    markdown = (tmp_path / "exp" / "seeds" / "RESULTS.md").read_text()
    assert "## Intervals and tests over utterances" in markdown and "### Derailed utterances of all seeds" in markdown
    assert (tmp_path / "exp/seeds/changes.svg").read_text().count("mean OOD") == 1
    path = tmp_path / dirs[1] / "details/lora/test_a/utterances.tsv"
    text = path.read_text()
    path.write_text(re.sub(r"^(u1\t-\t\d+\t\d+\t)\d+", r"\g<1>1", text, flags=re.M))
    with pytest.raises(UserError, match=r"lora on test_a has 40.0000 % by results.json and .* by the details"):
        pool_seeds.main([*dirs, "--baseline=lora"])
    path.write_text(text.rsplit("\n", 2)[0] + "\n")
    with pytest.raises(UserError, match="have not the same utterances; score all seeds and systems alike"):
        pool_seeds.main([*dirs, "--baseline=lora"])
    path.write_text(text.replace("\t", "\t?", 3))
    with pytest.raises(UserError, match="utterances.tsv: not what scoring writes; score again"):
        pool_seeds.main([*dirs, "--baseline=lora"])
    path.unlink()
    pool_seeds.main([*dirs, "--baseline=lora"])
    markdown = (tmp_path / "exp" / "seeds" / "RESULTS.md").read_text()
    assert "Left out: exp/seed4/details/lora/test_a/utterances.tsv is not there." in markdown


def test_figure_of_changes(tmp_path):
    """An arrow for what is far off, none for a set that a system lacks; equal rows, equal file; gone without rows."""

    def row(system, name, value, low=None, high=None, kind="set"):
        ends = {"relative": value, "relative_low": low, "relative_high": high}
        return {"system": system, "set": name, "domain": "ood", "kind": kind, **ends}

    rows = [
        row("a", "x", -2.0, -6.0, 3.0),
        row("far", "x", -85.0, -90.0, -80.0),
        row("a", "mean_ood", 30.0, 10.0, 90.0, "macro"),
    ]
    results = Results(
        [], [*rows, row("a", "micro_ood", 1.0, kind="micro")], "base", {"a": r"top $\foo$ 10", "base": "$b$"}
    )
    figure.write_changes(results, tmp_path)
    first = (tmp_path / "changes.svg").read_text()
    assert "-85 %" in first.replace("\u2212", "-") and "+30 %" not in first and r"top $\foo$ 10" in first
    assert first.count("mean OOD") == 1 and "micro" not in first and "against $b$ (%)" in first
    figure.write_changes(results, tmp_path)
    assert (tmp_path / "changes.svg").read_text() == first
    low, high = figure.limits(rows)
    assert low < -6 and 30 < high < 40
    figure.write_changes(Results([]), tmp_path)
    assert not (tmp_path / "changes.svg").exists()


def test_pooled_seeds_are_compared_with_a_system_that_has_word_errors(experiment, tmp_path):
    dirs = seed_dirs(experiment, tmp_path)
    for path in [tmp_path / name / "results.json" for name in dirs]:
        rows = json.loads(path.read_text())
        asked = {**rows[0], "system": "llm", "set": "quiz", "domain": "", "metric": "mc_text"}
        path.write_text(json.dumps([asked, *rows]))
    with pytest.raises(UserError, match="unknown baseline 'llm'"):
        pool_seeds.main([*dirs, "--baseline=llm"])
    pool_seeds.main(dirs)
    compared = json.loads((tmp_path / "exp" / "seeds" / "comparisons.json").read_text())
    assert {row["baseline"] for row in compared} == {"lora"}
    pool_seeds.main([*dirs, "--systems=llm", "--out_dir=exp/asked"])
    assert not json.loads((tmp_path / "exp" / "asked" / "comparisons.json").read_text())


def test_pool_seeds_wants_the_same_experiment(experiment, tmp_path):
    dirs = seed_dirs(experiment, tmp_path)
    with pytest.raises(UserError, match="at least two seeds"):
        pool_seeds.main(dirs[:1])
    shutil.copytree("exp/seed3", "exp/again")
    with pytest.raises(UserError, match="same seed 3"):
        pool_seeds.main(["exp/seed3", "exp/again"])
    experiment("--out_dir=exp/seed6", seed=6, systems={"lora": SYSTEMS["lora"]})
    with pytest.raises(UserError, match="differ in what they hold"):
        pool_seeds.main(["exp/seed3", "exp/seed6"])
    pool_seeds.main(["exp/seed3", "exp/seed6", "--systems=lora"])
    rows = json.loads((tmp_path / "exp" / "seeds" / "results.json").read_text())
    assert {row["system"] for row in rows} == {"lora"}
    with pytest.raises(UserError, match="unknown system in exp/seed3 'lorra'"):
        pool_seeds.main(["exp/seed3", "exp/seed6", "--systems=lorra"])
    experiment("--out_dir=exp/seed7", seed=7, normaliser="none")
    with pytest.raises(UserError, match="normaliser is none, in exp/seed3 basic"):
        pool_seeds.main(["exp/seed3", "exp/seed7"])


RULES = {
    # Of ten words of u1 and u2 that are there, one is wrong.
    "--empty_ref=drop": (["u1 {five}", "u2 {more}", "u3 "], ["u1 {five}", "u2 {wrong}", "u3 and so on"], 10),
    "--empty_ref=keep": (["u1 {five}", "u2 {more}", "u3 "], ["u1 {five}", "u2 {wrong}", "u3 and so on"], 40),
    "--missing=empty": (["u1 {five}", "u2 {more}"], ["u2 {wrong}"], 60),
    "--extra=drop": (["u1 {five}", "u2 {more}"], ["u1 {five}", "u2 {wrong}", "u3 and so on"], 10),
    "--duplicate=first": (["u1 {five}", "u2 {more}"], ["u1 {five}", "u2 {wrong}", "u1 and so on"], 10),
    "--duplicate=last": (["u1 {five}", "u2 {more}"], ["u1 {five}", "u2 {wrong}", "u1 and so on"], 60),
    "--encoding=latin-1": (["u1 {five}", "u2 {more}"], ["u1 {five}", "u2 {wrong}"], 10),
}


@pytest.mark.parametrize("option", RULES)
def test_what_reads_results_follows_their_rules(experiment, tmp_path, capsys, option):
    words = {
        "five": "caf\xe9 zwei drei vier f\xfcnf",
        "more": " ".join(WORDS[:5]),
        "wrong": " ".join(["no", *WORDS[1:5]]),
    }
    *sides, wer = RULES[option]
    coding = "latin-1" if "latin" in option else "utf-8"
    for path, lines in zip(("test_id", "hyp"), sides):
        (tmp_path / path).write_text("".join(f"{line.format(**words)}\n" for line in lines), encoding=coding)
    systems = {name: {"label": name, "hypotheses": "hyp"} for name in ("lora", "ours")}
    keys = {"sets": {"test_id": SETS["test_id"]}, "systems": systems, "train_text": None}
    with pytest.raises(UserError):
        experiment(**keys)
    for seed in (1, 2):
        experiment(option, f"--out_dir=exp/seed{seed}", seed=seed, **keys)
    found = json.loads((tmp_path / "exp/seed1/results.json").read_text())
    name, value = option.removeprefix("--").split("=")
    assert all(row["rules"] == {name: value} for row in found)
    assert found[0]["value"] == wer
    said = f"{option.replace('=', ' ')}"
    assert f"- treatment of bad input: {said}" in (tmp_path / "exp/seed1/RESULTS.md").read_text()
    report.main(["--exp_dir=exp", "--results_dir=exp/seed1", "--table=table.yaml"])
    page = (tmp_path / "exp/seed1/report/report.html").read_text()
    assert "results.json says" not in page and "Utterances of" not in page
    scored = content.score_sets(*(getattr(read_table("table.yaml"), k) for k in ("systems", "sets")), found, "none", [])
    assert [score.wer for *_, score in content.totals(scored)] == [wer, wer]
    pool_seeds.main(["exp/seed1", "exp/seed2"])
    capsys.readouterr()
    show_result.main(["exp/seed1", "exp/seeds"])
    assert capsys.readouterr().out.count(f"; scored with {said})") == 2
    # Another treatment of some seeds is no other seed.
    for row in found:
        row["rules"], row["seed"] = {"empty_hyp": "keep", "missing": "empty"}, 3
    (tmp_path / "exp/other").mkdir()
    (tmp_path / "exp/other/results.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="rules is .*; score all seeds alike"):
        pool_seeds.main(["exp/seed1", "exp/other"])


def test_results_that_do_not_name_their_rules_are_read(experiment, tmp_path):
    experiment()
    rows = json.loads((tmp_path / "exp/results.json").read_text())
    for row in rows:
        del row["rules"]
    (tmp_path / "exp/results.json").write_text(json.dumps(rows))
    show_result.main([])
    report.main(["--table=table.yaml"])
    for row in rows:
        row["rules"] = {"empty_reff": "drop"}
    (tmp_path / "exp/results.json").write_text(json.dumps(rows))
    for command in (lambda: show_result.main([]), lambda: report.main(["--table=table.yaml"])):
        with pytest.raises(UserError, match="results.json: rules.*did you mean 'empty_ref'"):
            command()


def test_alignment_of_every_utterance(experiment, tmp_path):
    experiment()
    text = (tmp_path / "exp" / "details" / "lora" / "test_id" / "result.txt").read_text()
    assert "id: (u1)\nScores: (#C #S #D #I) 4 1 0 0\n" in text
    assert "REF:  one   two three four five\nHYP:  wrong two" in text
    left = [p.name for p in (tmp_path / "exp").rglob("*.tmp")]
    assert left == []


def test_one_in_domain_set_alone(experiment, capsys):
    experiment(systems={"lora": SYSTEMS["lora"]}, sets={"test_id": SETS["test_id"]}, train_text=None)
    header, *_ = body(capsys.readouterr().out)
    assert header == ["system", "test_id (ID)"]


def test_missing_hypotheses(experiment, tmp_path):
    path = tmp_path / "exp" / "ours" / "decode_test_a" / "hyp.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(first + "\n")
    with pytest.raises(UserError, match="1 of 2 utterances of test_a have no hypothesis: u2"):
        experiment()
    path.unlink()
    with pytest.raises(UserError, match=r"exp/ours/decode_test_a/hyp.jsonl: .*decode them first"):
        experiment()
    assert not (tmp_path / "exp" / "results.json").exists()


def with_set(**keys):
    return {"sets": {**SETS, "x": {"domain": "ood", "text": "test_a", **keys}}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"baseline": "lra"}, "table.yaml: unknown baseline 'lra'.*did you mean 'lora'"),
        ({"normaliser": "basc"}, "table.yaml: unknown normaliser 'basc'.*did you mean 'basic'"),
        ({"normalizer": "basic"}, "unknown key in table.yaml 'normalizer'.*did you mean 'normaliser'"),
        ({"systems": None}, "table.yaml: no systems"),
        ({"sets": {}}, "table.yaml: no sets"),
        ({"sets": ["test_id"]}, r"table.yaml: sets is \['test_id'\]; write a line `NAME: {...}` for each"),
        ({"sets": {"x": "test_id"}}, "table.yaml: sets: x is 'test_id'; write its keys and values"),
        (with_set(domain="odd"), "domain in table.yaml: sets: x 'odd'.*did you mean 'ood'"),
        (with_set(text=None), "table.yaml: sets: x: text is None; it must be text"),
        (with_set(normalizer="basic"), "unknown key in table.yaml: sets: x 'normalizer'.*did you mean 'normaliser'"),
        (with_set(normaliser="basc"), "table.yaml: unknown normaliser 'basc'.*did you mean 'basic'"),
        (with_set(metrics=["blue"]), "unknown metric of the set x 'blue'.*did you mean 'bleu'"),
        (with_set(metrics="bleu"), "table.yaml: sets: x: metrics is 'bleu'; it must be a list"),
        ({"systems": {"x": {"label": "y"}}}, "table.yaml: systems: x: hypotheses is missing"),
        (
            {"systems": {"x": {"label": "y", "hypotheses": "z"}}},
            "table.yaml: system 'x': its hypotheses 'z' are one file",
        ),
        ({"systems": {"x": {"label": "a\nb", "hypotheses": "z{set}"}}}, r"table.yaml: system 'a\\nb': .*in one line"),
        ({"systems": {1: {"label": "y", "hypotheses": "z{set}"}}}, "table.yaml: systems: 1: name is 1; .*put quotes"),
        ({"answers": {"lora": {"label": "a", "directory": "x"}}}, "table.yaml: system 'lora' is given twice"),
        ({"answers": {"llm": {"label": "a", "directory": "x"}}}, "answers 'llm': x is no directory"),
    ],
)
def test_bad_tables(experiment, keys, message):
    with pytest.raises(UserError, match=message):
        experiment(**keys)


def test_read_table(tmp_path):
    full = {"normaliser": "none", "entities": "e=1:2", "utt2spk": "u", "word_list": "w", "metrics": ["bleu", "chrf"]}
    content = {"systems": SYSTEMS, "sets": {"a": {"domain": "id", "text": "t", **full}}, "seed": 2}
    content["answers"] = {"llm": {"label": "LLM | alone", "directory": "d"}}
    write_table(content, tmp_path / "table.yaml")
    table = read_table(tmp_path / "table.yaml")
    assert [(s.name, s.label, s.note) for s in table.systems] == [
        ("lora", "SLAM-ASR + LoRA", ""),
        ("ours", "Soft VQ", "steps=1200"),
    ]
    assert str(table.systems[0].hyp_path("test")) == "exp/lora/decode_test/hyp.jsonl"
    assert table.sets == (EvalSet("a", "id", "t", **(full | {"metrics": ("bleu", "chrf")})),)
    assert (table.baseline, table.normaliser, table.seed) == ("lora", "basic", 2)
    assert table.answers == (Answers("llm", "LLM | alone", "d"),)


def drawn(header, *rows):
    """A Table of texts."""
    return Table("", list(map(Column, header[1:])), [Row(r[0], list(map(Cell, r[1:]))) for r in rows], first=header[0])


def test_text_table():
    assert text_table(drawn(["a", "n"], ["xyz", "1"], ["y", "10"])) == "a     n\nxyz   1\ny    10\n"


def test_cells():
    def whole(row, **more):
        return cell_of(row, **more).text + cell_of(row, **more).rest

    assert whole({"value": 12.345, "low": 10, "high": 15.5}) == "12.35 [10.00, 15.50]"
    assert whole({"value": 12.345, "low": -1, "high": 15.5}, form="+.2f") == "+12.35 [-1.00, +15.50]"
    assert whole({"value": 12.345, "low": 10, "high": 15.5}, note="n") == "12.35 [10.00, 15.50], n"
    assert whole({"value": 12.0, "low": None, "high": None}) == "12.00"
    assert whole({"value": None}) == whole(None) == whole({"value": float("nan"), "low": 1, "high": 2}) == "-"
    assert whole(None, none="") == ""


def test_best_follows_the_metric_and_undefined_is_no_best():
    row = {"set": "a", "kind": "set", "domain": "id", "words": 900, "utterances": 9}
    values = {"x": 1.0, "y": None, "z": 3.0}
    for metric, best in (("bleu", "z"), ("wer", "x"), ("new", "")):
        rows = [{**row, "metric": metric, "system": s, "value": v} for s, v in values.items()]
        table = Results(rows).metric_table(metric)
        assert [(r.name, r.cells[0].text) for r in table.rows] == [("x", "1.00"), ("y", "-"), ("z", "3.00")]
        assert [r.name for r in table.rows if r.cells[0].best] == [best] * bool(best)
        shown = {"bleu": ["1.00", "-", "**3.00**"], "wer": ["**1.00**", "-", "3.00"], "new": ["1.00", "-", "3.00"]}
        assert [r[1] for r in body(markdown_table(table))[3:]] == shown[metric]


def test_latex_escapes():
    table = drawn(["a_b", "50 %"], ["x & y", "z"], ["{\\", "#$~^"])
    table.rows[0].cells[0] = Cell(1.0, 0.5, 2.0, best=True)
    text = latex_table(table, "C_1")
    assert r"a\_b & 50 \% \\" in text
    assert r"x \& y & \textbf{1.00} [0.50, 2.00] \\" in text
    assert r"\{\textbackslash{} & \#\$\textasciitilde{}\textasciicircum{} \\" in text
    assert r"\caption{C\_1}" in text


def test_commit(tmp_path):
    def git(*args):
        config = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", *config, "-C", str(tmp_path), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "a.py"
    file.write_text("1\n")
    assert get_commit(file) == "unknown"
    git("init")
    assert get_commit(file) == "unknown"
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert get_commit(file) == commit
    file.write_text("2\n")
    assert get_commit(file) == commit + "-dirty"
    assert get_version("no-such-package-here") == "not installed"


def test_markdown_rule_of_narrow_columns():
    text = markdown_table(drawn(["", "", "p"], ["", "", "1"], ["", "", ""]))
    assert [cell.strip() for cell in text.splitlines()[1].strip("|").split("|")] == ["-", "-:", "-:"]


PAPER = """\
source: arXiv 0000.00000
note: other data and models
columns: [clean, other]
rows:
  ours: [3.7, inf]
  theirs: [1, 2]
  lora: [3.14159, null]
"""


def test_published_figures_stand_beside_ours(experiment, tmp_path):
    (tmp_path / "paper.yaml").write_text(PAPER)
    experiment(published=["paper.yaml"])
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text()
    title = "## Published figures, another scale of data and model (WER, %): arXiv 0000.00000\n"
    section = markdown.partition(title)[2].partition("\n## ")[0]
    # macro means of 10 and of 40, 20; of 20 and of 30, 10. The order is the table's
    assert body(section) == [
        ["system", "ours: ID macro mean", "ours: OOD macro mean", "clean", "other"],
        ["SLAM-ASR + LoRA", "10.00", "30.00", "3.14", "-"],
        ["Soft VQ", "20.00", "20.00", "3.70", "inf"],
    ]
    assert "\nother data and models\n" in section
    (found,) = json.loads((tmp_path / "exp" / "published.json").read_text())
    assert found["rows"] == {"ours": [3.7, "inf"], "lora": [3.14159, None]}
    experiment("--out_dir=none", systems={"ours": SYSTEMS["ours"]}, baseline=None, published=["paper.yaml"])
    assert "SLAM-ASR + LoRA" not in (tmp_path / "none" / "RESULTS.md").read_text().partition(title)[2]


def test_heading_of_published_figures_says_what_they_are(experiment, tmp_path):
    (tmp_path / "paper.yaml").write_text(PAPER + "measure: TER, EER\n")
    dirs = seed_dirs(experiment, tmp_path, published=["paper.yaml"])
    pool_seeds.main([*dirs, "--baseline=lora"])
    for markdown, system in ((f"{dirs[0]}/RESULTS.md", "SLAM-ASR + LoRA"), ("exp/seeds/RESULTS.md", "lora")):
        title = "## Published figures, another scale of data and model (TER, EER, %): arXiv"
        _, found, section = (tmp_path / markdown).read_text().partition(title)
        assert found and [system, "10.00", "30.00", "3.14", "-"] in body(section)


def test_no_published_figures_no_section(experiment, tmp_path):
    (tmp_path / "paper.yaml").write_text(PAPER.replace("ours:", "mine:").replace("lora:", "laura:"))
    experiment(published=["paper.yaml"])
    assert "Published" not in (tmp_path / "exp" / "RESULTS.md").read_text()
    assert not (tmp_path / "exp" / "published.json").exists()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("source", "sorce", r"unknown key in paper.yaml 'sorce' \(did you mean 'source'\?\)"),
        ("note: other data and models\n", "", "paper.yaml: note is missing"),
        ("note:", "measure:\nnote:", "paper.yaml: measure is None; it must be text"),
        ("[1, 2]", "[1]", "paper.yaml: theirs must have 2 cells"),
        ("[1, 2]", "[1, [2]]", "paper.yaml: theirs must have 2 cells, numbers, texts or null"),
        ("[clean, other]", "clean", "paper.yaml: columns is 'clean'; it must be a list"),
    ],
)
def test_bad_published_figures(experiment, tmp_path, old, new, message):
    (tmp_path / "paper.yaml").write_text(PAPER.replace(old, new))
    with pytest.raises(UserError, match=message):
        experiment(published=["paper.yaml"])


def test_names_are_only_names(tmp_path, monkeypatch, capsys):
    """Sets called like means, labels with marks of tables, and paths with "=" and ":" go through everything."""
    monkeypatch.chdir(tmp_path)
    names = {"mean_ood": "ood", "mean_voices": "ood", "micro_x": "id", "ood/id": "ood", "a|b": "id"}
    systems = {
        "lora": {"label": "LoRA | rank 16", "hypotheses": "ex=p:1/lora/{set}/hyp.jsonl"},
        "no_lora": {"label": "x=y:z & <b>", "hypotheses": "ex=p:1/no/{set}/hyp.jsonl", "note": "a | b"},
    }
    sets, wrong = {}, {}
    for i, (name, domain) in enumerate(names.items()):
        path = tmp_path / f"te=x:{i}"
        path.mkdir()
        (path / "text").write_text(f"u1 {' '.join(WORDS[:5])}\nu2 {' '.join(WORDS[5:])}\n")
        sets[name] = {"domain": domain, "text": f"te=x:{i}/text"}
        for j, room in enumerate(("lora", "no")):
            wrong[tuple(systems)[j], name] = 10 * (i + j)
            write_hypotheses(tmp_path / "ex=p:1" / room / name, i + j)
    for seed in (1, 2):
        write_table({"systems": systems, "sets": sets, "seed": seed})
        results.main(["--table=table.yaml", f"--out_dir=seed{seed}"])
    rows = json.loads((tmp_path / "seed1" / "results.json").read_text())
    values = {(r["system"], r["kind"], r["set"]): r["value"] for r in rows if r["metric"] == "wer"}
    assert {key: values[key[0], "set", key[1]] for key in wrong} == wrong
    # of the ood sets 0, 10, 30 and of the id sets 20, 40
    assert values["lora", "macro", "mean_ood"] == pytest.approx(40 / 3, abs=1e-3)
    assert values["lora", "macro", "mean_id"] == 30
    capsys.readouterr()
    pool_seeds.main(["seed1", "seed2", "--out_dir=seeds"])
    show_result.main(["seed1"])
    shown = capsys.readouterr().out.partition("## seed1")[2]
    headings = ["mean_ood (OOD)", "mean_voices (OOD)", "micro_x (ID)", "ood/id (OOD)", "a|b (ID)"]
    assert re.split("  +", shown.splitlines()[4]) == ["system", *headings]
    for markdown, first in (("seed1", "LoRA | rank 16"), ("seeds", "lora")):
        text = (tmp_path / markdown / "RESULTS.md").read_text()
        escaped = [h.replace("|", "\\|") for h in headings]
        noted = ["note"] * (markdown == "seed1")
        for title in ("Word error rate (%)", "Character error rate (%)", "Token error rate (%): 13a tokens"):
            header, *lines = cells_of(text.partition(f"\n## {title}")[2].partition("\n## ")[0])
            assert [c for c in header if c != "note"] == ["system", *escaped]
            assert len(header) == len(["system", *noted * title.startswith("Word"), *headings])
            assert first.replace("|", "\\|") in [line[0] for line in lines]
            if title.startswith("Word"):
                shown = [c.split()[0].strip("*") for c in lines[2][1 + len(noted) :]]
                assert shown == [f"{wrong['lora', name]:.2f}" for name in names]
        header, *_ = cells_of(text.partition("\n## In domain and out")[2].partition("\n## ")[0])
        means = ["ID macro mean", "OOD macro mean", "ID micro mean", "OOD micro mean", "OOD / ID"]
        assert header[1 + len(noted) : 6 + len(noted)] == means
    tex = (tmp_path / "seed1" / "results.tex").read_text()
    assert "system & mean\\_ood (OOD) & mean\\_voices (OOD) & micro\\_x (ID) & ood/id (OOD) & a|b (ID) \\\\" in tex
    report.main(["--table=table.yaml", "--results_dir=seed1", "--exp_dir=."])
    page = (tmp_path / "seed1" / "report" / "report.html").read_text()
    heads = re.findall('<span class="label">(.*?)</span>', page.partition("<thead>")[2].partition("</thead>")[0])
    assert heads == ["System", *headings, *means]
    assert "LoRA | rank 16" in page and "x=y:z &amp; &lt;b&gt;" in page and "Numbers that disagree" not in page
    assert "among the" not in page.partition("What is missing")[2]


def cells_of(text):
    """Cells of the first table in Markdown, without its rule; an escaped mark is no border."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [row for row in rows if set("".join(row)) - set("-:")]


def test_commands_and_settings_are_named(experiment, tmp_path):
    differences = {"lora": {}, "ours": {"bridge_conf.top_k": 10, "note": "a|b"}}
    experiment("--out_dir=a b", commands=["./run.sh --stage 11"], differences=differences)
    section = (tmp_path / "a b" / "RESULTS.md").read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    assert section.startswith("\n    ./run.sh --stage 11\n    llmvq results --table=table.yaml '--out_dir=a b'\n")
    assert cells_of(section) == [
        ["system", "bridge_conf.top_k", "note"],
        ["SLAM-ASR + LoRA", "", ""],
        ["Soft VQ", "10", "a\\|b"],
    ]


def test_commands_of_a_run(tmp_path):
    log = tmp_path / "commands.log"
    assert run_commands(log) == ()
    log.write_text("./run.sh --seed 2\n./run.sh --stage 3\n./run.sh\n./run.sh --stage 11\n./run.sh --stage 11\n")
    assert run_commands(log) == ("./run.sh", "./run.sh --stage 11")
    log.write_text("./run.sh --stage 13\n")
    assert run_commands(log) == ("./run.sh --stage 13",)


@pytest.mark.parametrize("measured", ["always", "asked"])
def test_one_entry_makes_a_metric(experiment, tmp_path, monkeypatch, measured):
    """Counts and a title in METRICS, and the metric stands in all that scoring writes."""

    def first_words(sides):
        refs = sides.reference.words
        return np.array([(words[0] != refs[u][0], 1) for u, words in sides.words.items()], dtype=float)

    new = Metric("First words wrong (%)", first_words, "utterances", better="low", measured=measured, tested=True)
    monkeypatch.setitem(METRICS, "first", new)
    sets = {name: {**keys, "metrics": ["first"] * (measured == "asked")} for name, keys in SETS.items()}
    experiment(sets=sets)
    exp = tmp_path / "exp"
    rows = json.loads((exp / "results.json").read_text())
    found = {(r["system"], r["kind"], r["domain"]): r for r in rows if r["metric"] == "first" and r["set"] != "test_b"}
    row = found["lora", "set", "id"]
    assert (row["value"], row["count"], row["of"], row["normaliser"]) == (50, 1, 2, "basic")
    assert found["lora", "macro", "ood"]["value"] == found["lora", "micro", "ood"]["value"] == 50
    section = (exp / "RESULTS.md").read_text().partition("\n## First words wrong (%)\n")[2].partition("\n## ")[0]
    assert body(section)[3] == ["SLAM-ASR + LoRA", "**50.00**", "**50.00**", "**50.00**"]
    tex = (exp / "results.tex").read_text()
    assert r"\caption{First words wrong (\%), with 95 \% intervals.}" in tex
    report.main(["--table=table.yaml"])
    assert "<h3>First words wrong (%)</h3>" in (exp / "report" / "report.html").read_text()
    shown = ["--metric=first"]
    show_result.main(["exp", *shown])
    out = tmp_path / "score.json"
    score.main(["--ref=test_a", "--hyp=exp/lora/decode_test_a/hyp.jsonl", *shown, f"--json={out}"])
    assert [(e["metric"], e["value"]) for e in json.loads(out.read_text())["scores"]] == [("first", 50)]


def test_flat_and_read_only_hypotheses(experiment, tmp_path):
    """Details of each system and set have a directory of their own; where hypotheses are, nothing is written."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for system in SYSTEMS:
        for name in SETS:
            shutil.copy(f"exp/{system}/decode_{name}/hyp.jsonl", flat / f"{system}_{name}.jsonl")
    before = {p: p.read_bytes() for p in flat.iterdir()}
    flat.chmod(0o555)
    systems = {name: {**SYSTEMS[name], "hypotheses": f"flat/{name}_{{set}}.jsonl"} for name in SYSTEMS}
    systems["a/../b"] = {"label": "Odd", "hypotheses": "flat/lora_{set}.jsonl"}
    experiment("--out_dir=out", systems=systems)
    experiment("--out_dir=out", systems=systems)
    flat.chmod(0o755)
    assert {p: p.read_bytes() for p in flat.iterdir()} == before
    for system, folder in zip(systems, ("lora", "ours", "a%2F..%2Fb"), strict=True):
        for name in SETS:
            found = (tmp_path / "out" / "details" / folder / name / "hyp.trn").read_text()
            raw = (flat / f"{'lora' if '%' in folder else system}_{name}.jsonl").read_text().splitlines()
            assert found == "".join(f"{e['text']} ({e['id']})\n" for e in map(json.loads, raw))


def test_results_do_not_replace_files_of_others(experiment, tmp_path):
    """Nor a hypothesis file in the place of one of them; nothing is written before that is known."""
    (tmp_path / "out" / "details" / "lora" / "test_a").mkdir(parents=True)
    mine = tmp_path / "out" / "details" / "lora" / "test_a" / "hyp.trn"
    mine.write_text("mine\n")
    with pytest.raises(UserError, match="out/details/lora/test_a/hyp.trn: is there, and not made here; move it away"):
        experiment("--out_dir=out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [mine] and mine.read_text() == "mine\n"
    shutil.move("exp/lora/decode_test_id/hyp.jsonl", "results.json")
    alone = {"lora": {**SYSTEMS["lora"], "hypotheses": "results.json"}}
    with pytest.raises(UserError, match="results.json: would replace the input"):
        experiment("--out_dir=.", systems=alone, sets={"test_id": SETS["test_id"]})
