"""Data of the recipe mini_tts/jstip1: what is said, what is only written, and what is asked."""

import collections
import json
import re
import sys
from pathlib import Path

import pytest
from recipe_modules import local_modules

from espnet_llmvq.align.ctm import read_ctm
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.score.entities import check_entities, read_entities

LOCAL = Path(__file__).resolve().parents[1] / "egs/mini_tts/jstip1/local"
TRAINING_TEXTS = ("lm/train.txt", "lm/tokenizer.txt", "text/domain.txt", "domain_tts/text", "train/text")
SPOKEN = ("train", "valid", "test_id", "test_domain")


@pytest.fixture(scope="module")
def corpus():
    """local/data.py, which finds its neighbours by their plain names."""
    with local_modules(LOCAL) as load:
        yield load("data")


@pytest.fixture(scope="module")
def smoke(corpus, tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    out = tmp_path_factory.mktemp("jstip") / "data"
    corpus.main(["--smoke", "true", "--datadir", str(out), "--nj", "1"])
    return out


def options(corpus, **changes):
    return {**vars(corpus.get_parser().parse_args([])), **changes}


@pytest.fixture(scope="module")
def drawn(corpus):
    """The texts of a full corpus."""
    return corpus.draw(options(corpus))


def table(name):
    lines = (LOCAL / name).read_text().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


ROWS = table("medical.tsv") + table("doctors.tsv")
ENTITIES = {v.lower() for row in table("medical.tsv") for v in row[:2]} | {r[0].lower() for r in table("doctors.tsv")}


def plain(text):
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def split(texts):
    """Normalised sentences."""
    return {plain(s) for text in texts for s in re.split(r"[.?!]+", text)} - {""}


def read(path):
    """Texts of a plain or of a Kaldi file."""
    lines = path.read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines] if path.name == "text" else lines


def asked(out):
    lines = [x for name in ("mc", "sqa") for x in (out / "questions" / f"{name}.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_smoke_is_valid(smoke):
    for name in (*SPOKEN, "questions/mc", "questions/sqa"):
        assert not list(validate(str(smoke / name))), name
    for name in SPOKEN:
        for utt, words in read_ctm(str(smoke / name / "words.ctm")).items():
            assert 1 <= words[-1].end <= 8, utt
    assert {plain(t) for t in read(smoke / "train/text")} <= {plain(t) for t in read(smoke / "lm/tokenizer.txt")}
    assert len(read(smoke / "text/domain.txt")) == len(read(smoke / "domain_tts/text")) == 12
    for q in asked(smoke):
        assert (smoke / "questions" / q["wav"]).is_file()


def test_nothing_of_a_test_is_training_text(smoke):
    held_out = split(t for name in ("valid", "test_id", "test_domain") for t in read(smoke / name / "text"))
    held_out |= split(t for name in ("valid", "valid_domain") for t in read(smoke / f"lm/{name}.txt"))
    held_out |= split(q["question"] for q in asked(smoke))
    assert len(held_out) > 120
    for name in TRAINING_TEXTS:
        found = split(read(smoke / name))
        assert found and not found & held_out, name


def test_nothing_of_a_full_test_is_training_text(drawn):
    sets, questions = drawn
    training = ("train", "lm/train", "lm/tokenizer", "text/domain", "domain_tts")
    texts = {name: split(text for text, _ in found) for name, found in sets.items()}
    held_out = set().union(*(found for name, found in texts.items() if name not in training))
    held_out |= split(q["question"] for found in questions.values() for q in found)
    assert len(held_out) > 1500
    for name in training:
        assert not texts[name] & held_out, name
    assert not texts["text/domain"] == texts["domain_tts"]


def test_entities_are_said_in_the_domain_alone(smoke, drawn):
    entities = read_entities(str(smoke / "test_domain/entities"))
    spoken = DataDir.load(str(smoke / "test_domain")).text
    assert sorted(entities) == sorted(spoken) and check_entities(entities, spoken, "entities") == entities
    for utt, pairs in entities.items():
        words = collections.Counter(re.findall(r"\w+", spoken[utt]))
        known = collections.Counter({w: n for w, n in words.items() if w.lower() in ENTITIES})
        assert collections.Counter(value for _, value in pairs) == known, utt
    sets, _ = drawn
    for name in ("train", "valid", "test_id", "lm/valid", "lm/tokenizer"):
        assert not ENTITIES & {w for text, _ in sets[name] for w in plain(text).split()}, name
    for name in ("test_domain", "lm/train", "text/domain", "domain_tts"):
        said = {w for text, _ in sets[name] for w in plain(text).split()}
        assert len(ENTITIES & said) >= 0.95 * len(ENTITIES), name


def test_parts_of_invented_names_are_heard(drawn):
    """Each drug and doctor is a beginning and an ending that training speech has in other names."""
    names = {w for text, _ in drawn[0]["train"] for w in re.findall(r"[A-Z][a-z]+", text)}
    for entity in [row[0] for row in ROWS]:
        cuts = range(3, len(entity) - 1)
        heard = [
            any(n.startswith(entity[:i]) for n in names) and any(n.endswith(entity[i:]) for n in names) for i in cuts
        ]
        assert any(heard), entity


def test_pauses(smoke):
    """Cut at silence alone, and at punctuation too, utterances have several segments, and not the same."""
    silence, both = [], []
    for words in read_ctm(str(smoke / "train/words.ctm")).values():
        gaps = [(b.start - a.end, a.word[-1]) for a, b in zip(words, words[1:])]
        assert all(gap >= 0.2 for gap, mark in gaps if mark in ".?!")
        silence.append(1 + sum(gap >= 0.2 for gap, _ in gaps))
        both.append(1 + sum(gap >= 0.2 or mark in ".,;:?!" for gap, mark in gaps))
    assert min(silence) >= 2 and max(both) <= 8
    assert sum(both) > 1.1 * sum(silence)


def test_questions(smoke, drawn):
    for q in asked(smoke):
        fields = {"id", "question", "answer", "wav"} | ({"choices"} if "choices" in q else set())
        assert set(q) == fields and q["question"].endswith("?")
    _, questions = drawn
    places = collections.Counter(q["answer"] for q in questions["mc"])
    assert len(questions["mc"]) >= 100 and len(questions["sqa"]) >= 100
    assert min(places[i] for i in range(4)) >= 0.15 * len(questions["mc"])
    for q in questions["mc"] + questions["sqa"]:
        assert len(set(q["choices"])) == 4
        # The longest value of the tables that the question holds; its row has one of the choices.
        value = max((v for row in ROWS for v in row if f" {plain(v)} " in f" {plain(q['question'])} "), key=len)
        rows = [{plain(v) for v in row} for row in ROWS if value in row]
        right = [i for i, choice in enumerate(q["choices"]) if any(plain(choice) in row for row in rows)]
        assert right == [q["answer"]], q


def test_facts_that_are_asked_are_told(corpus, drawn):
    """In the language model's text, in varied sentences, and never as a question."""
    lines = {plain(text) for text, _ in drawn[0]["lm/train"]}
    lines = [line for line in lines if ENTITIES & set(line.split())]
    medicine = corpus.Draw(options(corpus)).medicine
    asks = list(medicine.asks(True))
    others = {plain(w) for _, _, wordings in medicine.asks(False) for w in wordings}
    assert len(asks) >= 100
    for record, column, wordings in asks:
        names = [plain(record[k]) for k in ("drug", "condition", "doctor") if k in record]
        told = sum(plain(record[column]) in line and any(n in line for n in names) for line in lines)
        assert told >= 4, (record, column)
        assert not others & {plain(w) for w in wordings}


def test_deterministic(corpus, drawn, smoke, capsys):
    small = dict(train=60, lm_everyday=100, lm_medical=60, lm_valid=20, domain=30)
    sets, questions = corpus.draw(options(corpus, **small))
    assert (sets, questions) == corpus.draw(options(corpus, **small))
    assert corpus.draw(options(corpus, **small, seed=2))[0]["test_id"] != sets["test_id"]
    # Sizes of other sets change nothing of what is tested.
    for name in ("test_id", "test_domain", "valid"):
        assert sets[name] == drawn[0][name]
    assert questions == drawn[1]
    stamps = {p: p.stat().st_mtime_ns for p in smoke.rglob("*") if p.is_file()}
    corpus.main(["--smoke", "true", "--datadir", str(smoke), "--nj", "1"])
    assert capsys.readouterr().out.count("there already") == len(("mc", "sqa", *corpus.SPOKEN))
    assert {p: p.stat().st_mtime_ns for p in smoke.rglob("*") if p.is_file()} == stamps


def test_errors(corpus):
    with pytest.raises(UserError, match="--test must be"):
        corpus.main(["--test", "0"])
    with pytest.raises(UserError, match="--joined is a share"):
        corpus.main(["--joined", "2"])
    with pytest.raises(UserError, match="lm_everyday"):
        corpus.draw(options(corpus, lm_everyday=5))
    with pytest.raises(UserError, match="--mc 9999"):
        corpus.draw(options(corpus, mc=9999))
    with pytest.raises(UserError, match="doctors.tsv:2: 3 columns, not 1"):
        sys.modules["stories"].read_table("doctors.tsv", ("doctor",))


def test_a_word_said_again(corpus):
    """{#key} repeats what {class#key} drew, and an unknown key is an error."""
    import random

    stories = corpus.Draw(options(corpus)).dictations
    stories.stories = ["The {thing#x} is on a {#drug}, {name}. a {#x} is a owl of {name}."]
    story, entities = stories.story(random.Random(1), {"drug": "Velorin"})
    found = re.fullmatch(r"The (\w+) is on a Velorin, \w+\. (An?) \1 is an owl of \w+\.", story)
    assert found and (found[2] == "An") == (found[1][0] in "aeiou") and entities == [("drug", "Velorin")]
    stories.stories = ["The {#x} of {name} is on the {thing#x} again {soon}."]
    with pytest.raises(UserError, match="{#x} stands before"):
        stories.story(random.Random(1))
    stories.stories = ["A {thing} bites."]
    with pytest.raises(UserError, match="no pattern gives 5 to 16 different words, e.g. 'A {thing} bites"):
        stories.story(random.Random(1))
