"""The tables of the results command against values worked out by hand."""

import json
import subprocess

import pytest

from espnet_llmvq.bin import results
from espnet_llmvq.errors import UserError
from espnet_llmvq.score.table import parse_set, parse_system, text_table

# Ten reference words a set; hypotheses with a known number of substituted words.
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WRONG = {  # system: set: number of wrong words
    "lora": {"test_id": 1, "test_a": 4, "test_b": 2},
    "ours": {"test_id": 2, "test_a": 3, "test_b": 1},
}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A recipe directory with two systems decoded on three sets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").write_text("t1 one two three four five, six SEVEN\n")
    for name in WRONG["lora"]:
        (tmp_path / name).write_text(f"u1 {' '.join(WORDS[:5])}\nu2 {' '.join(WORDS[5:])}\n")
        for system, wrong in WRONG.items():
            words = ["wrong"] * wrong[name] + WORDS[wrong[name] :]
            path = tmp_path / "exp" / system / f"decode_{name}" / "hyp.jsonl"
            path.parent.mkdir(parents=True)
            entries = [("u1", words[:5]), ("u2", words[5:])]
            path.write_text(
                "".join(json.dumps({"id": u, "text": " ".join(w)}) + "\n" for u, w in entries)
            )
    return [
        "--system=lora|SLAM-ASR + LoRA|exp/lora/decode_{set}/hyp.jsonl",
        "--system=ours|Soft VQ|exp/ours/decode_{set}/hyp.jsonl|steps=1200",
        *["--set=test_id|id|test_id", "--set=test_a|ood|test_a", "--set=test_b|ood|test_b"],
        *["--train_text=train", "--baseline=lora", "--seed=3"],
    ]


def test_golden_table(experiment, capsys, tmp_path):
    results.main(experiment)
    printed = capsys.readouterr().out
    # means of 40, 20 and of 30, 10; (20 - 30) / 30; "eight nine ten" are 3 of 10 words
    sizes = "10 / 2 / 30.00"
    expected = f"""\
| system | note | test_id (ID) | test_a (OOD) | test_b (OOD) | ID mean | OOD mean | OOD vs |
| words / utterances / OOV % | | {sizes} | {sizes} | {sizes} | | | |
| SLAM-ASR + LoRA | | **10.00** | 40.00 | 20.00 | **10.00** | 30.00 | +0.0 |
| Soft VQ | steps=1200 | 20.00 | **30.00** | **10.00** | 20.00 | **20.00** | **-33.3** |
""".replace("OOD vs", "OOD mean vs lora (%)")

    def body(text):
        rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
        return [row for row in rows if row and set("".join(row)) - set("-:")]

    assert body(printed) == body(expected)
    assert len({len(line) for line in printed.splitlines()[:5]}) == 1  # columns line up
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "".join(printed.splitlines(keepends=True)[:5]) in markdown
    assert "- seed: 3\n" in markdown
    assert "- normaliser: basic\n" in markdown
    for fact in ("python", "torch", "espnet", "transformers", "platform", "CPUs", "commit", "date"):
        assert f"- {fact}: " in markdown
    counts = [row for row in body(markdown) if row[0] == "Soft VQ"][-1]
    assert counts == ["Soft VQ", "2 / 0 / 0", "3 / 0 / 0", "1 / 0 / 0"]


def test_results_json(experiment, tmp_path):
    results.main(experiment)
    rows = json.loads((tmp_path / "exp" / "results.json").read_text())
    assert len(rows) == 2 * 2 * (3 + 2)
    values = {(r["system"], r["set"], r["metric"]): r for r in rows}
    assert values["ours", "mean_ood", "wer"] == {
        "system": "ours",
        "set": "mean_ood",
        "domain": "ood",
        "metric": "wer",
        "value": 20.0,
        "utterances": 4,
        "words": 20,
        "seed": 3,
    }
    assert values["lora", "test_a", "wer"]["value"] == 40
    assert values["lora", "mean_id", "wer"]["value"] == 10
    # "one two three four five" has 23 characters, "six ... ten" 24. one -> wrong: +w, +r, e/g
    assert values["lora", "test_id", "cer"]["value"] == pytest.approx(100 * 3 / 47, abs=1e-4)


def test_alignment_beside_hypotheses(experiment, tmp_path):
    results.main(experiment)
    text = (tmp_path / "exp" / "lora" / "decode_test_id" / "result.txt").read_text()
    assert "id: (u1)\nScores: (#C #S #D #I) 4 1 0 0\n" in text
    assert "REF:  one   two three four five\nHYP:  wrong two" in text
    left = [p.name for p in (tmp_path / "exp").rglob("*.tmp")]
    assert left == []


def test_one_in_domain_set_alone(experiment, capsys):
    results.main([experiment[0], experiment[2]])
    header = capsys.readouterr().out.splitlines()[0]
    assert [c.strip() for c in header.split("|")[1:-1]] == ["system", "test_id (ID)", "ID mean"]


def test_missing_hypotheses(experiment, tmp_path):
    path = tmp_path / "exp" / "ours" / "decode_test_a" / "hyp.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(first + "\n")
    with pytest.raises(UserError, match="1 of 2 utterances of test_a have no hypothesis: u2"):
        results.main(experiment)
    path.unlink()
    with pytest.raises(UserError, match=r"exp/ours/decode_test_a/hyp.jsonl: .*stage 12"):
        results.main(experiment)
    assert not (tmp_path / "exp" / "results.json").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--baseline=lra", "unknown baseline 'lra'.*did you mean 'lora'"),
        ("--system=lora|again|x{set}", "'lora' is given twice"),
        ("--set=test_a|ood|x", "'test_a' is given twice"),
        ("--set=x|odd|x", "did you mean 'ood'"),
        ("--set=x|ood", "write 'name"),
        ("--system=x|y|z", "write 'name"),
    ],
)
def test_bad_options(experiment, extra, message):
    with pytest.raises(UserError, match=message):
        results.main([*experiment, extra])


def test_parse():
    system = parse_system("ctc|CTC greedy|exp/ctc/decode_ctc_{set}/hyp.jsonl|no LLM")
    assert (system.name, system.label, system.note) == ("ctc", "CTC greedy", "no LLM")
    assert str(system.hyp_path("test")) == "exp/ctc/decode_ctc_test/hyp.jsonl"
    assert parse_set("a | ood | dump/a/text").text == "dump/a/text"


def test_text_table():
    assert text_table(["a", "n"], [["xyz", 1], ["y", 10]]) == "a     n\nxyz   1\ny    10\n"


def test_commit(tmp_path):
    def git(*args):
        config = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", *config, "-C", str(tmp_path), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "a.py"
    file.write_text("1\n")
    assert results.get_commit(file) == "unknown"
    git("init")
    assert results.get_commit(file) == "unknown"
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert results.get_commit(file) == commit
    file.write_text("2\n")
    assert results.get_commit(file) == commit + "-dirty"
    assert results.get_version("no-such-package-here") == "not installed"
