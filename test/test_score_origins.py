"""Where word errors come from, by hand."""

import json

import pytest
from test_score_table import body

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import report, results
from espnet_llmvq.cli import show as show_result
from espnet_llmvq.score import origins
from espnet_llmvq.score.derail import AuditRules
from espnet_llmvq.score.origins import LETTERS, Sounds, is_number, parts
from espnet_llmvq.score.wer import score_utterances


def pairs_of(text):
    """Alignment of "reference/hypothesis"."""
    ref, hyp = text.split("/")
    return score_utterances({"u": ref.split()}, {"u": hyp.split()})[0].pairs


def parts_of(text, kinds=(), voice="en-us", limit=0.34):
    sounds, pairs = Sounds(voice), pairs_of(text)
    sounds.learn(origins.wrong_words(pairs))
    return {part: n for part, n in parts(pairs, set(kinds), sounds, limit).items() if n}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a b c/a b c", {}),
        ("over there now/over their now", {"alike": 1}),
        ("the knight slept/the night slept", {"alike": 1}),
        ("so for tea please/so forty please", {"alike": 2}),  # a substitution and a deletion, one run
        ("we saw wood/we saw iron", {"other": 1}),
        ("a cat sat/a hat sat", {"alike": 1}),  # one of three sounds differs
        ("an ox ran/an ant ran", {"other": 1}),
        ("one two three/one three", {"deleted": 1}),
        ("one three/one two three", {"inserted": 1}),
        # a run of "there" -> "their" and a word that is left out: only the first sounds alike
        ("sit there yesterday again/sit their again", {"alike": 1, "deleted": 1}),
        ("right it is wood/write it is iron", {"alike": 1, "other": 1}),
    ],
)
def test_parts(text, expected):
    pytest.importorskip("espeakng_loader")
    assert parts_of(text) == expected


def test_letters_and_limits():
    assert parts_of("over there now/over their now", voice=LETTERS) == {"other": 1}  # 2 of 5 letters
    assert parts_of("over there now/over their now", voice=LETTERS, limit=0.4) == {"alike": 1}
    assert parts_of("over there now/over theme now", voice=LETTERS) == {"alike": 1}
    assert parts_of("a b/a x", limit=0.0, voice=LETTERS) == {"other": 1}
    with pytest.raises(UserError, match="--sound_distance 1: give a share from 0 to below 1"):
        AuditRules(sound_distance=1)
    with pytest.raises(UserError, match="unknown voice 'en-uk'"):
        pytest.importorskip("espeakng_loader")
        Sounds("en-uk")


def test_without_espeak_letters_are_taken_and_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    assert Sounds().name == LETTERS
    assert parts_of("over there now/over their now") == {"other": 1}


@pytest.mark.parametrize(
    "kinds, part",
    [
        (["loop"], "loop"), (["loop", "length", "at_limit"], "loop"), (["empty", "at_limit"], "empty"),
        (["length"], "run_on"), (["at_limit"], "run_on"), (["prompt"], "run_on"),
    ],
)  # fmt: skip
def test_errors_of_derailed_utterances_are_theirs(kinds, part):
    assert parts_of("over there/over their x y", kinds, LETTERS) == {part: 3}


def test_numbers():
    numbers = "twenty 25 zero third 3rd thirties one hundred".split()
    assert [word for word in [*numbers, "oh", "o", "won", "to", "a", "point", "naïve"] if is_number(word)] == numbers


def test_every_error_is_in_one_part(tmp_path, monkeypatch, capsys):
    """Tables, report and `show` of two systems; counts by hand."""
    monkeypatch.chdir(tmp_path)
    # "the" 51 times, "cat" 50, "dog" 6, "sat" 5, "ran" 2, "three" 1
    said = "the " * 51 + "cat " * 50 + "dog " * 6 + "sat " * 5 + "ran " * 2 + "three"
    (tmp_path / "train").write_text(f"t {said}\n")
    refs = {"u1": "the cat sat", "u2": "three dog ran there", "u3": "the the cat", "u4": "zebra ran", "u5": "cat cat"}
    refs["u6"] = "sat"
    hyps = {
        "a": {
            "u1": "the hat sat",  # cat -> hat
            "u2": "tree dog there",  # three -> tree, ran left out
            "u3": "the the the the the",  # loop: cat -> the, two more
            "u4": "zero ran",  # zebra -> zero
            "u5": "",
            "u6": "sat the",
        },
        "b": refs,
    }
    lines = {name: "".join(f"{u} {t}\n" for u, t in texts.items()) for name, texts in {"ref": refs, **hyps}.items()}
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "table.yaml").write_text(
        "{systems: {a: {label: A, hypotheses: a}, b: {label: B, hypotheses: b}}, train_text: train, "
        "sets: {s: {domain: ood, text: ref}}}"
    )
    options = ["--table=table.yaml", "--empty_hyp=keep", "--voice=letters"]
    results.main(options)
    rows = json.loads((tmp_path / "exp" / "results.json").read_text())
    found = {r["metric"]: (r["count"], r["of"]) for r in rows if (r["system"], r["kind"]) == ("a", "set")}
    assert {name.removeprefix("part_"): n for name, (n, _) in found.items() if name.startswith("part_")} == {
        "loop": 3, "empty": 2, "run_on": 0, "alike": 2, "other": 1, "deleted": 1, "inserted": 1,
    }  # fmt: skip
    assert found["wer"] == (10, 15)
    assert {of for name, (_, of) in found.items() if name.startswith("part_")} == {15}
    assert found["wer_numbers"] == (1, 1)  # three
    # the: 3, right; cat: 4 of 4 wrong, dog right; sat: 2, right, ran: 1 of 2 wrong; three; zebra wrong, there right
    seen = {name.removeprefix("wer_seen_"): n for name, n in found.items() if name.startswith("wer_seen_")}
    assert seen == {"more": (0, 3), "6_50": (4, 5), "2_5": (1, 4), "1": (1, 1), "0": (1, 2)}
    assert {r["normaliser"] for r in rows if r["metric"] == "part_alike"} == {"basic; letters"}
    values = {(r["kind"], r["metric"]): r["value"] for r in rows if r["system"] == "a"}
    for kind in ("set", "macro", "micro"):
        names = [metric for of, metric in values if of == kind and metric.startswith("part_")]
        assert sum(values[kind, metric] for metric in names) == pytest.approx(values[kind, "wer"], abs=1e-3)
    markdown = (tmp_path / "exp" / "RESULTS.md").read_text().partition("\n## Where word errors come from\n")[2]
    a = ["A", "66.67", "20.00", "13.33", "0.00", "13.33", "6.67", "6.67", "6.67"]
    assert body(markdown)[2] == a
    each = body((tmp_path / "exp" / "ERRORS.md").read_text())
    assert each.count(a) == 2  # of the mean of one set, and of that
    assert each[4][0] == "system" and each[5] == ["words", "1", "2", "1", "4", "5", "3"]
    assert [cell.partition(",")[0] for cell in each[7]] == [
        "A",
        "100.00",
        "50.00",
        "100.00",
        "25.00",
        "80.00",
        "**0.00**",
    ]
    assert each[7][5] == "80.00, 4 errors"
    capsys.readouterr()
    show_result.main(["exp", "--errors"])
    printed = capsys.readouterr().out
    assert "s: parts of the WER (% of words)" in printed and "OOD: WER on kinds of words, micro mean (%)" in printed
    report.main(["--table=table.yaml"])
    page = (tmp_path / "exp" / "report" / "report.html").read_text()
    assert "LLM finds likelier" not in page
    (tmp_path / "exp" / "preferred").mkdir()
    counted = [{"system": "a", "set": "s", "value": 62.5, "low": 30.0, "high": 80.0, "count": 5, "of": 8}]
    (tmp_path / "exp" / "preferred" / "preferred.json").write_text(json.dumps(counted))
    report.main(["--table=table.yaml"])
    page = (tmp_path / "exp" / "report" / "report.html").read_text()
    assert "Substituted words that the LLM finds likelier than the right ones" in page and "5 of 8" in page
    assert "<h3>OOD: parts of the WER, macro mean (% of words)</h3>" in page and "80.00" in page
    # Results of before do not say it.
    old = [row for row in rows if row["metric"] in ("wer", "cer")]
    (tmp_path / "exp" / "results.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="results.json: does not say where errors come from; score again"):
        show_result.main(["exp", "--errors"])
    report.main(["--table=table.yaml"])
    assert "Where errors come from" not in (tmp_path / "exp" / "report" / "report.html").read_text()
