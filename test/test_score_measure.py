"""All metrics of a set through `evaluate`, against jiwer, sacrebleu and hand counts; `compare`."""

import json
import random

import jiwer
import pytest
import sacrebleu

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import compare
from espnet_llmvq.data.normalise import get_normaliser
from espnet_llmvq.score import sacre
from espnet_llmvq.score.files import Rules
from espnet_llmvq.score.measure import METRICS, evaluate, load_reference, ratio

VOCABULARY = "The cat, sat; on New York's mat. Don't re-do it (twice) 3.5 % über naïve".split()


@pytest.fixture
def files(tmp_path):
    """A reference of 150 random sentences, and hypotheses with errors."""
    rng = random.Random(0)
    refs = {f"u{i:03}": rng.choices(VOCABULARY, k=rng.randint(1, 12)) for i in range(150)}
    for name, p in (("ref", 0.0), ("a", 0.3), ("b", 0.1)):
        with (tmp_path / name).open("w", encoding="utf-8") as out:
            for utt, words in refs.items():
                said = [w for w in words if rng.random() >= p / 2] or words
                said = [rng.choice(VOCABULARY) if rng.random() < p else w for w in said]
                out.write(f"{utt} {' '.join(said)}\n")
    return tmp_path


def texts(path):
    return [line.split(" ", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()]


def value(evaluation, metric):
    return float(METRICS[metric].function(*evaluation.counts[metric].sum(axis=0)))


@pytest.mark.parametrize("normaliser", ["none", "basic", "whisper_basic", "softvq"])
def test_wer_and_cer_are_jiwers(files, normaliser):
    rules = Rules(empty_ref="drop", empty_hyp="keep")
    reference = load_reference(files / "ref", normaliser, rules=rules)
    found = evaluate(reference, files / "a", ["wer", "cer"], rules)
    normalise = get_normaliser(normaliser)
    pairs = zip(texts(files / "ref"), texts(files / "a"))
    pairs = [(normalise(r), normalise(h)) for r, h in pairs if normalise(r)]
    refs, hyps = map(list, zip(*pairs))
    words, chars = jiwer.process_words(refs, hyps), jiwer.process_characters(refs, hyps)
    assert value(found, "wer") == pytest.approx(100 * words.wer)
    assert value(found, "cer") == pytest.approx(100 * chars.cer)
    errors = words.substitutions + words.deletions + words.insertions
    assert found.counts["wer"].sum(axis=0).tolist() == [errors, words.hits + words.substitutions + words.deletions]
    assert found.hyps["u000"] == texts(files / "a")[0]  # raw


def test_ter_is_jiwer_on_13a_tokens(files):
    found = evaluate(load_reference(files / "ref"), files / "a", ["ter"])
    tokenise = sacrebleu.metrics.bleu._get_tokenizer("13a")()
    sides = [[tokenise(text) for text in texts(files / name)] for name in ("ref", "a")]
    assert value(found, "ter") == pytest.approx(100 * jiwer.wer(*sides))


def test_ter_by_hand(tmp_path):
    (tmp_path / "ref").write_text("u1 Hello, world.\n")  # Hello , world .
    (tmp_path / "hyp").write_text("u1 hello world.\n")
    found = evaluate(load_reference(tmp_path / "ref"), tmp_path / "hyp", ["wer", "ter"])
    assert (value(found, "wer"), value(found, "ter")) == (0, 50)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_bleu_and_chrf_are_sacrebleus(files, name):
    found = evaluate(load_reference(files / "ref"), files / "a", [name])
    refs, hyps = texts(files / "ref"), texts(files / "a")
    public = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[name]
    assert value(found, name) == pytest.approx(public(hyps, [refs]).score)
    many = sacre.from_sums(name, *(found.counts[name][:2]).T)
    assert many[1] == pytest.approx(public(hyps[1:2], [refs[1:2]]).score)


def test_ratio_of_nothing_is_undefined():
    assert ratio(1, 4) == 25
    assert ratio([1.0, 0.0], [0.0, 2.0])[1] == 0
    assert str(ratio([1.0, 0.0], [0.0, 2.0])[0]) == "nan"


def test_entities_normalised_and_raw(tmp_path):
    (tmp_path / "ref").write_text("u1 Call Dr. Smith-Jones now\nu2 Call Ann\n")
    (tmp_path / "hyp").write_text("u1 call dr smith jones now\nu2 call Ann and Ann\n")
    (tmp_path / "entities").write_text("u1\tname=Dr. Smith-Jones\nu2\tname=Ann\n")
    reference = load_reference(tmp_path / "ref", "basic", tmp_path / "entities")
    metrics = reference.metrics(["wer"])
    found = evaluate(reference, tmp_path / "hyp", metrics)
    assert (value(found, "eer"), value(found, "eer_norm")) == (50, 0)
    assert (value(found, "entity_recall"), value(found, "entity_recall_norm")) == (50, 100)
    assert value(found, "entity_precision") == 50  # Ann, and Ann once too often
    assert value(found, "entity_precision_norm") == pytest.approx(200 / 3)
    assert value(found, "entity_false") == 50  # one in two utterances
    # inside: dr smith jones, ann; all right. outside: call, now, call; "and", "ann" inserted
    assert found.counts["wer_in"].sum(axis=0).tolist() == [0, 4]
    assert found.counts["wer_out"].sum(axis=0).tolist() == [2, 3]
    assert reference.normaliser_of("eer") == "none"
    assert reference.normaliser_of("eer_norm") == "basic"


def test_word_list(tmp_path):
    (tmp_path / "ref").write_text("u1 Take Lipitor, not Zocor\n")
    (tmp_path / "hyp").write_text("u1 take lip it or not zocor zocor\n")
    (tmp_path / "list").write_text("Lipitor\nZocor\n")
    reference = load_reference(tmp_path / "ref", word_list=tmp_path / "list")
    found = evaluate(reference, tmp_path / "hyp", reference.metrics(["wer"]))
    # lipitor substituted and zocor inserted; "lip it or": two insertions outside
    assert found.counts["wer_in"].sum(axis=0).tolist() == [2, 2]
    assert found.counts["wer_out"].sum(axis=0).tolist() == [2, 2]
    (tmp_path / "list").write_text("...\n")
    with pytest.raises(UserError, match="holds no words"):
        load_reference(tmp_path / "ref", word_list=tmp_path / "list")


def test_references_without_words(tmp_path):
    (tmp_path / "ref").write_text("u1 [noise]\n")
    for empty_ref in ("keep", "drop"):
        with pytest.raises(UserError, match="hold no words with the normaliser whisper_basic"):
            load_reference(tmp_path / "ref", "whisper_basic", rules=Rules(empty_ref=empty_ref))


def test_compare_command(files, tmp_path, capsys):
    ref, a, b = (str(files / name) for name in ("ref", "a", "b"))
    out = tmp_path / "out.json"
    rules = ["--empty_ref=drop", "--empty_hyp=keep"]
    compare.main([a, b, "--ref", ref, "--json", str(out), "--show=1", *rules])
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    by_metric = {row["metric"]: row for row in found["comparisons"]}
    wer = by_metric["wer"]
    assert wer["change"] == pytest.approx(wer["b"] - wer["a"], abs=1e-3)
    assert wer["low"] < wer["change"] < wer["high"] < 0
    assert (wer["p"], wer["verdict"]) == (pytest.approx(1 / 10001, abs=1e-4), "B is better")
    assert wer["p_holm"] == pytest.approx(2 * wer["p"])
    counts = found["words"]
    reference = load_reference(ref, rules=Rules(empty_ref="drop"))
    assert sum(counts.values()) == sum(map(len, reference.words.values()))
    assert "gained most in B:\n\nA id: (" in printed
    compare.main([a, a, "--ref", ref, "--show=0", *rules])
    printed = capsys.readouterr().out
    assert "no significant difference" in printed
    assert "0 with fewer errors in B, 0 with more" in printed
