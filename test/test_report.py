"""The parts of the report against values worked out by hand."""

import base64
import gzip
import io
import json
import math

import numpy as np
import pytest
import soundfile

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.experiment.table import EvalSet, System
from espnet_llmvq.report import compare, content, media, plots, training
from espnet_llmvq.report.page import clean
from espnet_llmvq.report.plots import position, ticks
from espnet_llmvq.report.utterances import MAX_PAIRS, MAX_RUN, confusions, make_diff, worst
from espnet_llmvq.score.derail import KINDS as KINDS_OF_DERAILMENT
from espnet_llmvq.score.results import KINDS, Results
from espnet_llmvq.score.rows import read_rows
from espnet_llmvq.score.wer import UtteranceScore, score_utterances


def row(system, set_name, value, metric="wer", kind="set", **more):
    domain = "id" if "id" in set_name else "ood"
    entry = {"system": system, "kind": kind, "set": set_name, "domain": domain, "metric": metric, "value": value}
    return {**entry, "utterances": 10, "words": 1200, "seed": 1, **more}


def scored(pairs):
    """UtteranceScores of {utterance: "reference / hypothesis"}."""
    texts = {utt: pair.split("/") for utt, pair in pairs.items()}
    return score_utterances(*({u: t[i].split() for u, t in texts.items()} for i in (0, 1)))


def test_table_by_hand():
    rows = [
        row("a", "mean_ood", 20.004, kind="macro"),
        row("a", "test_id", 10.001, low=9.0, high=11.25, normaliser="basic"),
        row("a", "test_x", 20.004, words=499),
        row("b", "mean_ood", None, kind="macro"),
        row("b", "test_id", 10.004),
        row("b", "test_x", float("nan"), words=499),
        row("a", "ood/id", 2.0, metric="wer_ratio", kind="ratio"),
        row("a", "test_id", 0.5, metric="new"),
    ]
    wer, new = Results(rows, labels={"a": "System A"}).report_tables()
    assert (wer.title, new.title) == ("Word error rate (%)", "new")
    # means last, whatever the order of the entries
    assert [c.heading for c in wer.columns] == ["test_id (ID)", "test_x (OOD)", "OOD macro mean", "OOD / ID"]
    assert [c.small for c in wer.columns] == [False, True, False, False]
    assert [c.kind for c in wer.columns] == ["set", "set", "macro", "ratio"]
    assert wer.columns[0].details == ("1,200 words", "10 utterances", "normaliser basic")
    a, b = wer.rows
    assert [(r.label, r.name) for r in (a, b)] == [("System A", "a"), ("b", "b")]
    assert [cell.text for cell in a.cells] == ["10.00", "20.00", "20.00", "2.00"]
    assert [cell.text for cell in b.cells] == ["10.00", "-", "-", "-"]
    assert a.cells[0].value == 10.001  # in full, for sorting
    # of a ratio none is the best
    assert [cell.best for cell in a.cells + b.cells] == [True, True, True, False, True, False, False, False]
    assert (a.cells[0].ends, a.cells[1].ends) == (("9.00", "11.25"), ())
    assert wer.has_intervals and not new.has_intervals
    # one row is no competition, and of an unknown metric nobody knows what is better
    assert not new.rows[0].cells[0].best


@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        ("macro", "mean_ood", "OOD macro mean"),
        ("micro", "micro_ood", "OOD micro mean"),
        ("ratio", "ood/id", "OOD / ID"),
        ("set", "mean_ood", "mean_ood (OOD)"),
        ("set", "micro_mean", "micro_mean (OOD)"),
        ("set", "ood/x", "ood/x (OOD)"),
    ],
)
def test_means_are_told_from_sets(kind, name, label):
    metric = "wer_ratio" if kind == "ratio" else "wer"
    rows = [row("a", "test_x", 1.0), row("a", name, 1.0, metric=metric, kind=kind, domain="ood")]
    table = Results(rows).metric_table("wer", KINDS)
    assert [(c.heading, c.kind, c.name) for c in table.columns[1:]] == [(label, kind, name)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not there; score the systems first: llmvq results"),
        ("{", "not JSON"),
        ("[]", "not a list of results"),
        ('[{"system": "a"}]', "entry 1 lacks one of system, kind, set"),
        (json.dumps([row("a", "x", 1), row("a", "x", 2, seed=2)]), "entries 1 and 2 are of one system, set and metric"),
    ],
)
def test_results_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"results.json: .*{message}"):
        read_rows(path)


def test_environment():
    markdown = "# Results\n\n- x: y\n\n## Environment\n\n- commit: abc\n- date: 2025-01-01 10:00 UTC\n"
    markdown += "\n## Notes\n\n- a: b\n"
    assert content.environment(markdown) == [("commit", "abc"), ("date", "2025-01-01 10:00 UTC")]
    assert content.environment("# Results\n") == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 36.3, [0, 10, 20, 30, 40]),
        (1, 1, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (0.3, 0.71, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_by_hand(low, high, expected):
    assert ticks(low, high) == expected


def test_ticks_enclose_and_are_round():
    rng = np.random.default_rng(0)
    for low, width in zip(rng.uniform(-50, 50, 200), 10 ** rng.uniform(-3, 4, 200)):
        marks = ticks(low, low + width)
        assert 2 <= len(marks) <= 6
        assert marks[0] <= low + 1e-6 * width and low + width <= marks[-1] + 1e-6 * width
        steps = np.diff(marks)
        assert np.allclose(steps, steps[0])
        mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-6


def test_position():
    assert position(25, [0, 50, 100]) == 25
    assert position(0.5, [0, 1], 200, 100) == 150


def test_forest_by_hand():
    rows = [row("a", "test_id", 25.0, low=20.0, high=31.0), row("b", "test_id", 160.0, low=90.0, high=200.0)]
    rows += [row("a", "test_x", 50.0), row("b", "test_x", None)]
    forest = plots.forest(Results(rows).metric_table("wer"), 100.0)
    assert forest["axis"] == [(x, str(x)) for x in (0, 20, 40, 60, 80, 100)]
    assert forest["cut"]
    (_, first), (_, second) = forest["groups"]
    assert [line[3:] for line in first] == [(25, 20, 31), (100, 90, 100)]
    assert [(line[0], *line[3:]) for line in second] == [("a", 50, None, None)]
    # another metric has no natural end
    table = Results([row("a", "test_id", 160.0, metric="new")]).metric_table("new")
    assert plots.forest(table)["axis"][-1] == (100, "200")
    assert not plots.forest(table)["cut"]


def test_bar():
    assert plots.bar([10, 5, 5], 40) == [(0, 25), (25, 12.5), (37.5, 12.5)]
    assert plots.bar([0, 0, 0], 0) == [(0, 0)] * 3


def test_training_panel():
    losses = {"train": {1: 4.0, 2: float("nan"), 3: 2.0, 4: 0.0}, "valid": {1: 4.0}}
    panel = plots.training_panel(losses)
    left, right, top, bottom = panel["frame"]
    train, valid = panel["lines"]
    # a loss that is not a number breaks the line; 4.0 is the top of the axis, 0.0 its bottom
    assert train["path"].count("M") == 2 and train["path"].count("L") == 1
    assert train["path"].startswith(f"M{left} {top}M")
    assert train["path"].endswith(f" {bottom}")
    assert len(train["dots"]) == 3 and len(valid["dots"]) == 1
    assert [label for _, label in panel["y"]] == ["0", "1", "2", "3", "4"]
    assert [epoch for epoch, _ in panel["table"]] == [1, 2, 3, 4]
    assert panel["table"][3][1] == [0.0, None]
    assert panel["last"] == {"train": 0.0, "valid": 4.0}
    nothing = plots.training_panel({"train": {1: float("inf")}, "valid": {}})
    assert nothing["lines"][0]["path"] == ""


def epoch_line(epoch, train, valid):
    return (
        f"[host] 2025-01-01 10:00:00,000 (trainer:353) INFO: {epoch}epoch results: [train] "
        f"iter_time=0.001, loss_ctc=12.3, ctc_loss=9.9, loss={train}, time=1 minute and 2.3 "
        f"seconds, total_count=100, gpu_max_cached_mem_GB=0.1, [valid] loss_ctc=4.5, loss={valid}, "
        "time=3 seconds, total_count=4, [att_plot] time=0 seconds\n"
    )


def test_parse_train_log(tmp_path):
    log = tmp_path / "lora" / "train.log"
    log.parent.mkdir()
    log.write_text(
        "1epoch:train:1-10batch: loss=77.0\n"
        + epoch_line(1, "1.203e+03", "1.100")
        + epoch_line(2, "9.000", "8.000")
        + epoch_line(2, "0.900", "nan")  # resumed
        + epoch_line(3, "5.000e-04", "0.7")
    )
    losses = training.parse_train_log(log)
    assert losses["train"] == {1: 1203.0, 2: 0.9, 3: 5e-4}
    assert math.isnan(losses["valid"].pop(2))
    assert losses["valid"] == {1: 1.1, 3: 0.7}
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "train.log").write_text("nothing yet\n")
    assert list(training.read_training(tmp_path)) == ["lora"]


def test_worst():
    lora = scored({"u1": "a b/a b", "u2": "a b/x y", "u3": "a/a", "u4": "a b/a"})
    ours = scored({"u1": "a b/a", "u2": "a b/a b", "u3": "a/b c d", "u4": "a b/b"})
    assert [s.errors for s in lora] == [0, 2, 0, 1]
    assert [s.errors for s in ours] == [1, 0, 3, 1]
    assert list(worst({"lora": lora, "ours": ours}, 1).items()) == [("u3", ["ours"]), ("u2", ["lora"])]
    # of the equally bad u1 and u4 of `ours`, the first; u4 is in for `lora`
    assert worst({"lora": lora, "ours": ours}, 2) == {"u3": ["ours"], "u2": ["lora"], "u1": ["ours"], "u4": ["lora"]}
    assert worst({"lora": scored({"u": "a/a"})}, 3) == {}
    assert worst({"lora": lora}, 0) == {}


def test_confusions():
    scores = scored({"u1": "a b c/a x c", "u2": "b/x", "u3": "d/e", "u4": "a/a uh", "u5": "c d/c"})
    assert confusions(scores, 10) == {"S": [("b", "x", 2), ("d", "e", 1)], "D": [("d", "", 1)], "I": [("", "uh", 1)]}
    assert confusions(scores, 1)["S"] == [("b", "x", 2)]


def test_diff():
    (score,) = scored({"u": "a b c/a x c uh"})
    diff = make_diff(score)
    assert diff.pairs == (("=", "a", "a"), ("S", "b", "x"), ("=", "c", "c"), ("I", "", "uh"))
    assert (diff.cut, diff.spoken) == (0, "“x” for “b”; “uh” put in")
    (score,) = scored({"u": "a b/a" + " uh" * 1000 + " b"})
    diff = make_diff(score)
    assert diff.pairs == (
        ("=", "a", "a"), *[("I", "", "uh")] * MAX_RUN, ("+", "", 1000 - MAX_RUN), ("=", "b", "b"),
    )  # fmt: skip
    assert diff.cut == 0 and diff.spoken.endswith(f"“uh” put in; {1000 - MAX_RUN} more put in")
    (score,) = scored({"u": "a " * 300 + "/" + "b " * 300})
    diff = make_diff(score)
    assert len(diff.pairs) == MAX_PAIRS
    assert diff.cut == 300 - MAX_PAIRS


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def written(ref, told):
    """The hypothesis that `errors_of` tells, word by word; "..." for what it leaves out."""
    words, at, found = ref.split(), 0, []
    for i in range(1, len(told or ()), 3):
        where, op, word = told[i : i + 3]
        found += words[at:where]
        at = where + (op in "SD")
        if op == "+":
            found += ["..."] * word
        elif op in "SDI":
            found += [word] * (op != "D")
        else:
            return [*found, "cut"]
    return found + words[at:]


def test_compare_by_hand():
    s = content.ScoredSet("x", "text", {"u1": "A b c", "u2": "D", "u3": "e f"})
    s.scores = {
        "one": scored({"u1": "a b c/a b c", "u2": "d/x y", "u3": "e f/e"}),
        "two": scored({"u1": "a b c/b z c", "u2": "d/d", "u3": "e f/f"}),
        "three": scored({"u1": "a b c/a b c", "u2": "d/d", "u3": "e f/e f" + " la" * 20}),
    }
    y = content.ScoredSet("y", "text", {"u1": "<script>"})
    y.scores = {"one": scored({"u1": "<script>/"}), "two": scored({"u1": "<script>/<script>"})}
    assert compare.count_wins(s.scores) == {
        "one": {"two": 1, "three": 1}, "two": {"one": 1, "three": 1}, "three": {"one": 1, "two": 1},
    }  # fmt: skip
    table = compare.wins_table([s, y], {"one": "One <1>"})
    assert [c.heading for c in table.columns] == ["One <1>", "two", "three"] == [r.label for r in table.rows]
    assert [[c.text for c in r.cells] for r in table.rows] == [["", "1", "1"], ["2", "", "1"], ["1", "1", ""]]
    assert compare.wins_table([content.ScoredSet("x", "", {}, scores={"one": s.scores["one"]})], {}) is None
    told = compare.summary([s, y], {"one": "One <1>"})
    assert told["labels"] == {"one": "One <1>", "two": "two", "three": "three"}
    assert [(of["name"], of["utterances"], of["errors"]) for of in told["sets"]] == [
        ("x", 3, {"one": 3, "two": 3, "three": 20}), ("y", 1, {"one": 1, "two": 0}),
    ]  # fmt: skip
    found = unpacked(compare.utterances(s))
    assert (found["utts"], found["refs"]) == (["u1", "u2", "u3"], ["a b c", "d", "e f"])
    assert found["errors"]["one"][0] == 0 and found["errors"]["one"][2] == [1, 1, "D", ""]
    for system, texts in {"one": ["a b c", "x y", "e"], "two": ["b z c", "d", "f"]}.items():
        assert [" ".join(written(*pair)) for pair in zip(found["refs"], found["errors"][system])] == texts
    assert written("e f", found["errors"]["three"][2]) == ["e", "f", *["la"] * 12, *["..."] * 8]
    assert "<" not in compare.as_script(told) and json.loads(compare.as_script(told)) == told


@pytest.mark.parametrize("seed", range(20))
def test_what_is_told_of_an_utterance_is_what_was_written(seed):
    draw = np.random.default_rng(seed)
    ref, hyp = (" ".join(draw.choice(["a", "b", "c", "d"], draw.integers(1, 30))) for _ in range(2))
    (score,) = scored({"u": f"{ref}/{hyp}"})
    told = compare.errors_of(score)
    assert (told[0] if told else 0) == score.errors
    said = written(ref, told)
    if "..." not in said:
        assert " ".join(said) == hyp
    (score,) = scored({"u": "a " * 300 + "/" + "b " * 300})
    assert written("a " * 300, compare.errors_of(score)) == ["b"] * MAX_PAIRS + ["cut"]


def test_a_large_set_is_small():
    """3,000 utterances of ten systems with a tenth of their words wrong: less than a megabyte."""
    draw = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    s = content.ScoredSet("x", "text", {})
    refs = [list(draw.choice(words, 20)) for _ in range(3000)]
    for system in range(10):
        # Through pairs: what is measured is their packing, not the alignment.
        scores = []
        for i, ref in enumerate(refs):
            wrong = set(np.flatnonzero(draw.random(20) < 0.1))
            pairs = tuple(("S", w, draw.choice(words)) if k in wrong else ("=", w, w) for k, w in enumerate(ref))
            scores.append(UtteranceScore(f"speaker{i % 40:02d}-{i:05d}", pairs, 80, 0))
        s.scores[str(system)] = scores
    assert len(compare.utterances(s)) < 1_000_000


def test_timed_words():
    words = [Word("one", 0.1, 0.25), Word("two", 0.5, 0.2)]
    assert content.timed("One two.", words) == [("One", 0.1, 0.35), ("two.", 0.5, 0.7)]
    assert content.timed("One two three", words) == [("one", 0.1, 0.35), ("two", 0.5, 0.7)]
    assert content.timed("One two", ()) == []


def test_error_rows():
    s = content.ScoredSet("test", "text", {})
    s.scores = {"lora": scored({"u1": "a b c d/x c d uh", "u2": "a/a"}), "ours": scored({"u1": "a b c d/", "u2": "a/"})}
    lora, ours = content.error_rows([s], {"lora": "LoRA"})
    # a, b -> x is one substitution and one deletion
    assert (lora["system"], ours["system"], lora["words"]) == ("LoRA", "ours", 5)
    assert lora["counts"] == [(1, 20.0), (1, 20.0), (1, 20.0)]
    assert (lora["wer"], ours["wer"]) == (60.0, 100.0)
    assert lora["bar"] == [(0, 20), (20, 20), (40, 20)]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """One reference and the options of two systems, one of which has hypotheses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("u1 One, two\nu2 three four\n")
    (tmp_path / "hyp_test.trn").write_text("one two (u1)\nthree for (u2)\n")
    systems = [System("lora", "LoRA", "hyp_{set}.trn"), System("ours", "Ours", "no_{set}.trn")]
    return systems, [EvalSet("test", "id", "text"), EvalSet("gone", "ood", "nowhere")]


def test_normaliser_of_the_results_wins(experiment):
    missing = []
    (found,) = content.score_sets(*experiment, [], "basic", missing)
    assert [s.errors for s in found.scores["lora"]] == [0, 1]
    assert found.refs["u1"] == "One, two"  # raw
    assert len(missing) == 2
    assert missing[0].startswith("Utterances of ours on test: no_test.trn: cannot read it")
    assert missing[1].startswith("Utterances of gone: nowhere: cannot read it")
    # what a mean of the same name says is no matter
    rows = [row("lora", "test", 50.0, normaliser="none"), row("lora", "test", 1.0, kind="macro", normaliser="softvq")]
    (found,) = content.score_sets(*experiment, rows, "basic", [])
    assert [s.errors for s in found.scores["lora"]] == [1, 1]
    with pytest.raises(UserError, match="did you mean 'basic'"):
        content.score_sets(*experiment, [row("lora", "test", 0, normaliser="basics")], "none", [])


def test_results_older_than_hypotheses_are_noticed(experiment):
    found = content.score_sets(*experiment, [], "basic", [])
    assert content.disagreements(found, [row("lora", "test", 25.0)]) == []
    assert content.disagreements(found, [row("lora", "test", 7.0, metric="cer")]) == []
    assert content.disagreements(found, [row("lora", "test", 7.0, kind="macro")]) == []
    (sentence,) = content.disagreements(found, [row("lora", "test", 24.0)])
    assert "lora on test: the hypotheses have a word error rate of 25.00, results.json says 24.00" in sentence


def test_derailments(tmp_path):
    path = tmp_path / "derailments.json"
    kinds = [*KINDS_OF_DERAILMENT, "any"]
    rows = []
    for system, name, utts in (("a", "x", {"loop": ["u1", "u2"], "length": ["u2"]}), ("a", "y", {}), ("b", "x", {})):
        utts = {**utts, "any": sorted({u for found in utts.values() for u in found})}
        for kind in kinds:
            found = utts.get(kind, [])
            entry = {"system": system, "set": name, "kind": kind, "count": len(found), "utterances": 9}
            rows.append({**entry, "wer_all": 12.5, "wer_without": None, "examples": found})
    path.write_text(json.dumps(rows))
    long = "so " * 200
    x = content.ScoredSet("x", "text", {"u1": "One", "u2": "Two"}, {"a": {"u1": long, "u2": ""}})
    table, ((label, of_kinds, examples),) = content.derailments(path, [x], {"a": "System A"})
    assert [c.heading for c in table.columns] == ["any", *(kind.replace("_", " ") for kind in KINDS_OF_DERAILMENT)]
    counts = {kind: 2 if kind == "loop" else int(kind == "length") for kind in KINDS_OF_DERAILMENT}
    assert [(r.label, [c.text for c in r.cells]) for r in table.rows] == [
        ("System A", ["2", *map(str, counts.values())]), ("b", ["0"] * 6),
    ]  # fmt: skip
    assert [r.cells[0].note for r in table.rows] == ["of 18", "of 9"]
    assert label == "System A"
    assert [c.heading for c in of_kinds.columns] == [*kinds, "utterances", "WER", "WER without any"]
    assert [(r.label, [c.text for c in r.cells]) for r in of_kinds.rows] == [
        ("x", ["2", "0", "0", "1", "0", "2", "9", "12.50", "-"])
    ]
    assert examples == [
        (["loop"], "x", "u1", "One", f"{long[:300]} … (300 more characters)"),
        (["loop", "length"], "x", "u2", "Two", ""),
    ]
    assert content.derailments(path, [], {})[1][0][2] == []  # without hypotheses no examples
    path.write_text('[{"system": "a", "loops": 2}]')
    with pytest.raises(UserError, match="derailments.json: entry 1 lacks one of system, set, kind"):
        content.derailments(path, [], {})
    path.write_text("{")
    with pytest.raises(UserError, match="derailments.json: not JSON"):
        content.derailments(path, [], {})


def wave(seconds, rate=16000):
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype("f4")


def decoded(data):
    x, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 16000 and x.ndim == 1
    return x


@pytest.mark.parametrize("mp3", [True, False])
def test_encoded_audio_is_what_was_read(tmp_path, monkeypatch, mp3):
    if not mp3:
        monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "WAV"})
    elif "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile cannot write MP3")
    stereo = np.stack([wave(2.0, 8000), wave(2.0, 8000)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000)
    kind, data = media.encode_audio(tmp_path / "a.wav", 0.5, 1.5)
    assert kind == ("audio/mpeg" if mp3 else "audio/wav")
    assert media.encode_audio(tmp_path / "a.wav", 0.5, 1.5) == (kind, data)
    x = decoded(data)
    assert abs(len(x) - 16000) <= 2400  # MP3 comes in frames, and the decoder may keep its delay
    spectrum = np.abs(np.fft.rfft(x[2000:14000] * np.hanning(12000)))
    assert abs(np.argmax(spectrum) * 16000 / 12000 - 440) < 2
    assert np.abs(x[4000:12000]).max() == pytest.approx(0.4, abs=0.04)
    assert len(data) < (8000 if mp3 else 32100)


def test_budget():
    budget = media.Budget(100)
    uri = budget.data_uri("image/png", b"\x00\x01\xff", "first")
    head, _, payload = uri.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(payload) == b"\x00\x01\xff"
    assert budget.left == 100 - len(uri)
    assert budget.data_uri("image/png", bytes(90), "large") is None
    assert budget.data_uri("image/png", b"\x01", "small") is not None  # still has room
    assert budget.left_out == ["large"]


def test_audio_locations(tmp_path):
    with pytest.raises(UserError, match="wav.scp: not there"):
        media.audio_locations(tmp_path / "text")
    (tmp_path / "wav.scp").write_text("r1 a.wav\nr2 b.wav\n")
    assert media.audio_locations(tmp_path / "text")["r2"] == ("b.wav", 0.0, None)
    (tmp_path / "segments").write_text("u1 r1 0.5 1.25\nu2 r9 0 1\n")
    assert media.audio_locations(tmp_path / "text") == {"u1": ("a.wav", 0.5, 1.25)}
    (tmp_path / "segments").write_text("u1 r1 2 1\n")
    with pytest.raises(UserError, match="segments: u1: segment ends at 1 s"):
        media.audio_locations(tmp_path / "text")


def test_figures(tmp_path):
    for name in ("analysis/gap_of_x.png", "analysis/cka.png", "report/wer.png", "analysis/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [caption for caption, _ in content.figures(tmp_path, media.Budget(1000))] == ["cka", "gap of x"]


def test_clean():
    assert clean("a\x00b\x1b\ud800\tc\n") == "a\ufffdb\ufffd\ufffd\tc\n"
    assert clean("<b> é 字") == "<b> é 字"  # escaping is not its business
    assert clean(3) == 3
