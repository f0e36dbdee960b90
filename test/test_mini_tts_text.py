"""Sentences and corpus of the mini_tts recipe."""

import random
import re
from pathlib import Path

import pytest
from recipe_modules import local_modules

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir

LOCAL = Path(__file__).resolve().parents[1] / "egs/mini_tts/llmasr1/local"
with local_modules(LOCAL) as load:
    text = load("text")


@pytest.fixture(scope="module")
def corpus():
    """local/data.py, which finds local/text.py under the name "text"."""
    with local_modules(LOCAL) as load:
        yield load("data")


@pytest.fixture(scope="module")
def domains():
    return {name: text.Generator(name) for name in ("everyday", "medical")}


def draw(generator, n, seed=1):
    return generator.distinct(n, random.Random(seed), set())


@pytest.mark.parametrize("domain", ["everyday", "medical"])
def test_sentences_look_like_sentences(domains, domain):
    found = draw(domains[domain], 3000)
    lengths = [len(sentence.split()) for sentence, _ in found]
    assert min(lengths) >= 4 and max(lengths) <= 9
    assert 6 <= sum(lengths) / len(lengths) <= 7.5
    for sentence, _ in found:
        assert re.fullmatch(r"[A-Z][A-Za-zé' ,-]*[.?!]", sentence), sentence
        assert "  " not in sentence and " ," not in sentence
        assert not re.search(r"\b(Dr|Mr|Mrs)\b|\bi\b", sentence), sentence
        assert not re.search(r"\b(\w+) \1\b", sentence), sentence


@pytest.mark.parametrize("domain", ["everyday", "medical"])
def test_every_pattern_can_be_filled(domains, domain):
    generator, patterns = domains[domain], domains[domain].patterns
    assert len(set(patterns)) == len(patterns) >= {"everyday": 100, "medical": 35}[domain]
    for pattern in patterns:
        one = text.Generator(domain)
        one.patterns = [pattern]
        assert one.sentence(random.Random(0))[0]
    generator = text.Generator(domain)
    generator.patterns = ["The {thinng} is here now."]
    with pytest.raises(UserError, match="thinng"):
        generator.sentence(random.Random(0))


def test_articles_agree_with_pronunciation():
    """Truth: whether espeak starts the word with a vowel."""
    pytest.importorskip("espeakng_loader")
    from espnet_llmvq.data.espeak import Espeak

    engine = Espeak()
    words = set()
    for name in ("core", "broad", "medical"):
        for entries in text.read_words(LOCAL / f"{name}.txt").values():
            words |= {entry.split("/")[0].split()[0] for entry in entries}
    # Other first letters never stand for a vowel sound.
    risky = sorted(w for w in words if re.match(r"[aeiou]|ho|he", w))
    assert len(risky) > 150
    for word in risky:
        vowel = engine.phonemes(word)[0][0] in "aAeEiIoO0VUu@3"
        assert text.article(word) == ("an" if vowel else "a"), word
    for domain in ("everyday", "medical"):
        for sentence, _ in draw(text.Generator(domain), 2000):
            for found, word in re.findall(r"\b([Aa]n?) (\w+)", sentence):
                assert found.lower() == text.article(word), sentence


@pytest.mark.parametrize(
    "entry, form, expected",
    [
        ("city", "pl", "cities"),
        ("boy", "pl", "boys"),
        ("knife/knives", "pl", "knives"),
        ("brush", "pl", "brushes"),
        ("living room", "pl", "living rooms"),
        ("carry", "s", "carries"),
        ("carry", "ed", "carried"),
        ("watch", "s", "watches"),
        ("drop", "ed", "dropped"),
        ("move", "ing", "moving"),
        ("fix", "ing", "fixing"),
        ("clean", "ed", "cleaned"),
        ("find/found", "ed", "found"),
        ("run/ran/running", "ing", "running"),
        ("point at", "s", "points at"),
        ("point at", "ed", "pointed at"),
        ("play", "ed", "played"),
    ],
)
def test_inflection(entry, form, expected):
    assert text.inflect(entry, form) == expected


def test_enough_distinct_sentences(domains):
    """Birthday estimate of the (effective) number of sentences from repeats among n draws."""
    n, rng = 8000, random.Random(5)
    seen = {text.normalise(domains["everyday"].sentence(rng)[0]) for _ in range(n)}
    assert n * (n - 1) / 2 / max(n - len(seen), 1) > 20_000
    tiny = text.Generator("everyday", 0.0)
    tiny.patterns = ["I see {color} on {day}."]
    with pytest.raises(UserError, match="fewer than 100"):
        draw(tiny, 100)


def test_broad_share():
    broad = {e for entries in text.read_words(LOCAL / "broad.txt").values() for e in entries}
    core = {e for entries in text.read_words(LOCAL / "core.txt").values() for e in entries}
    assert 1300 <= len(broad) <= 1700 and 450 <= len(core) <= 700
    rare = {w for w in broad - core if w.isalpha()}
    shares = []
    for share in (0.0, 0.25, 1.0):
        words = [w for s, _ in draw(text.Generator("everyday", share), 800) for w in s[:-1].split()]
        shares.append(sum(w in rare for w in words) / len(words))
    assert shares[0] < 0.01 < shares[1] < shares[2]


def test_broad_words_hold_the_clusters_of_english():
    pytest.importorskip("espeakng_loader")
    from espnet_llmvq.data.espeak import Espeak

    broad = text.read_words(LOCAL / "broad.txt")
    words = " ".join(e.split("/")[0] for entries in broad.values() for e in entries).split()
    spelled = "pl pr bl br tr dr tw cl cr gl gr fl fr thr shr sp st sk sm sn sl sw spr str scr spl squ"
    for onset in spelled.split():
        assert any(w.lower().startswith(onset) for w in words), onset
    engine = Espeak()
    phones = set().union(*(engine.phonemes(w) for w in random.Random(1).sample(words, 300)))
    consonants = "p b t d k g f v T D s z S h m n N l r w j tS dZ".split()
    assert set(consonants) - phones <= {"D"}


def test_entities(domains):
    generator = domains["medical"]
    values = {(k, v) for k in text.ENTITIES for v in generator.core[k]}
    assert 70 <= len(values) <= 100
    for pair in generator.core["treats"]:
        drug, condition = pair.split(" > ")
        assert ("drug", drug) in values and ("condition", condition) in values
    seen = set()
    for sentence, entities in draw(generator, 3000):
        for slot, value in entities:
            assert (slot, value) in values
            found = re.search(rf"\b{value}\b", sentence)
            assert found and found.start() > 0, sentence
        at = [sentence.index(value) for _, value in entities]
        assert at == sorted(at)
        seen |= set(entities)
    assert seen == values

    lists = [text.read_words(LOCAL / f"{name}.txt") for name in ("core", "broad")]
    everyday = " ".join(e for words in lists for entries in words.values() for e in entries)
    everyday += " ".join(domains["everyday"].patterns)
    everyday = f" {text.normalise(everyday.replace('/', ' ').replace('|', ' '))} "
    for _, value in values:
        assert f" {value.lower()} " not in everyday, value


SIZES = {"train": 60, "valid": 10, "test": 20, "lm_everyday": 200, "lm_medical": 80, "lm_valid": 30}
SIZES |= {"lm_valid_medical": 20, "broad_share": 0.25, "core_words": 10, "seed": 1}


def test_sets_are_disjoint_and_deterministic(corpus):
    sets = corpus.draw(SIZES)
    assert {name: len(found) for name, found in sets.items()} == {
        **{"test_id": 20, "test_voices": 20, "test_medical": 20, "valid": 10, "train": 60},
        **{"lm/train": 280, "lm/valid": 30, "lm/valid_medical": 20},
    }
    keys = {n: {re.sub(r"[^a-z ]", "", s.lower()) for s, _ in f} for n, f in sets.items()}
    assert all(len(keys[name]) == len(sets[name]) for name in sets)
    assert keys["train"] <= keys["lm/train"]
    names = [n for n in sets if n != "train"]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not keys[one] & keys[other], (one, other)
    assert not any(entities for _, entities in sets["train"])

    assert corpus.draw(SIZES) == sets
    larger = corpus.draw({**SIZES, "train": 100})
    assert larger["test_id"] == sets["test_id"] and larger["valid"] == sets["valid"]
    assert corpus.draw({**SIZES, "seed": 2})["test_id"] != sets["test_id"]
    with pytest.raises(UserError, match="lm_everyday"):
        corpus.draw({**SIZES, "lm_everyday": 50})


def test_voices_are_unseen(corpus):
    assert len(corpus.TRAIN_VOICES) >= 4 and len(corpus.TEST_VOICES) >= 4
    assert not set(corpus.TRAIN_VOICES) & {*corpus.TEST_VOICES, *corpus.MEDICAL_VOICES}


def test_corpus(corpus, tmp_path, monkeypatch, capsys):
    pytest.importorskip("espeakng_loader")
    monkeypatch.chdir(tmp_path)
    sizes = "--train 6 --valid 2 --test 4 --lm_everyday 30 --lm_medical 10 --lm_valid 5"
    options = [*sizes.split(), "--lm_valid_medical", "5", "--nj", "1"]
    corpus.main(options)
    data = tmp_path / "data"
    for name in (*corpus.SPOKEN, "test_noise"):
        assert not list(validate(f"data/{name}")), name
        assert (data / name / "words.ctm").is_file()
    entities = DataDir.load("data/test_medical").entities
    entities = entities() if callable(entities) else entities
    spoken = DataDir.load("data/test_medical").text
    assert sorted(entities) == sorted(spoken)
    assert all(value in spoken[utt] for utt, pairs in entities.items() for _, value in pairs)
    clean, noisy = DataDir.load("data/test_id"), DataDir.load("data/test_noise")
    assert {f"{utt}-noise": words for utt, words in clean.text.items()} == noisy.text
    lines = [(data / "lm" / f"{n}.txt").read_text().splitlines() for n in ("train", "valid")]
    assert [len(x) for x in lines] == [40, 5]
    assert set(DataDir.load("data/train").text.values()) <= set(lines[0])

    stamps = {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.is_file()}
    capsys.readouterr()
    corpus.main(options)
    assert capsys.readouterr().out.count("there already") == 6
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.is_file()} == stamps
    # As after a kill: what is missing, of a set or of all of them, is made again, and no more.
    lost = [data / "lm" / "valid.txt", next((data / "test_voices" / "wav").iterdir())]
    for path in lost:
        path.unlink()
    corpus.main(options)
    made = {p for p in stamps if p.stat().st_mtime_ns != stamps[p]}
    assert set(lost) <= made and {p.relative_to(data).parts[0] for p in made} == {"lm", "test_voices"}
    with pytest.raises(UserError, match="--test must be"):
        corpus.main(["--test", "0"])
