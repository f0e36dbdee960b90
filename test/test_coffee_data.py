"""Data of the recipe coffee: generated public layouts, the corpora themselves, and text clear of the test set."""

import json
import os
import random
import re
from pathlib import Path

import pytest
from corpora import write_audio
from corpora.small import make_an4, make_so762
from recipe_modules import local_modules

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.score.entities import check_entities, read_entities

LOCAL = Path(__file__).resolve().parents[1] / "egs/coffee/llmasr1/local"
SETS = ("train", "valid", "test_an4", "test_so762", "test_coffee")
TEXTS = ("lm/train.txt", "text/domain.txt", "domain_tts/text", "lm/valid_domain.txt")
SPEAKERS = {"0001": "I SEE A DOG", "0002": "IT'S NOT FISH", "0003": "WE CALL IT BEAR", "0004": "GO HOME"}
LATTE = {"coffeeDrink": "latte", "size": "twelve ounce", "milkAmount": " soy milk", "sugarAmount": "a bit of sugar"}
LABELS = {"aa-1.wav": LATTE, "bb-2.wav": {"coffeeDrink": "espresso"}}
CORPORA = {"AN4": "an4", "SO762": "so762", "KATHLEEN": "kathleen", "S2I": "s2i"}
PLACES = {n: os.environ.get(n) or os.path.join(os.environ.get("CORPORA", ""), d) for n, d in CORPORA.items()}
real = pytest.mark.skipif(
    not all(map(os.path.isdir, PLACES.values())),
    reason=f"set CORPORA, or each of {', '.join(CORPORA)}, to the corpora of egs/coffee/llmasr1/db.sh",
)


@pytest.fixture(scope="module")
def recipe():
    """local/data.py and local/orders.py, which find their neighbours by their plain names."""
    with local_modules(LOCAL) as load:
        yield load("data")


@pytest.fixture
def corpora(tmp_path):
    """The four corpora as they are published -> {option of local/data.py: directory}."""
    make_an4(tmp_path / "an4")
    said = {speaker: [sentence] for speaker, sentence in SPEAKERS.items()}
    test = {"0004": said.pop("0004")}
    make_so762(tmp_path / "so762", {"train": said, "test": test})
    (tmp_path / "kathleen" / "wavs").mkdir(parents=True)
    write_audio(tmp_path / "kathleen" / "wavs" / "a1.wav")
    (tmp_path / "kathleen" / "metadata.csv").write_text("a1|Not at this case, Tom, “he’d” said.\n")
    for name in LABELS:
        write_audio(tmp_path / "s2i" / "data" / "speech" / "clean" / name)
    labels = {name: {"intent": "orderDrink", "slots": slots} for name, slots in LABELS.items()}
    (tmp_path / "s2i" / "data" / "label").mkdir()
    (tmp_path / "s2i" / "data" / "label" / "label.json").write_text(json.dumps(labels))
    return {name: str(tmp_path / name) for name in ("an4", "so762", "kathleen", "s2i")}


def prepare(recipe, places, out, *more):
    options = [part for name, path in places.items() for part in (f"--{name}", str(path))]
    recipe.main([*options, "--datadir", str(out), "--valid_share", "0.5", *more])
    return {name: DataDir.load(out / name) for name in SETS}


def lines(path):
    found = path.read_text().splitlines()
    return [line.split(" ", 1)[1] for line in found] if path.name == "text" else found


def test_sets_of_the_public_layouts(recipe, corpora, tmp_path):
    out = tmp_path / "data"
    sets = prepare(recipe, corpora, out, "--smoke", "true")
    for name in SETS:
        assert validate(out / name) == []
        assert all(re.fullmatch(r"[a-z' ]+", text) for text in sets[name].text.values())
    speakers = {name: set(data.utt2spk.values()) for name, data in sets.items()}
    for i, name in enumerate(SETS):
        assert all(not speakers[name] & speakers[other] for other in SETS[i + 1 :])
    heard = speakers["train"] | speakers["valid"]
    assert {s for s in heard if s.startswith("so762")} == {"so762-0001", "so762-0002", "so762-0003"}
    assert any(s.startswith("so762") for s in speakers["valid"]) and "kathleen" in speakers["train"]
    assert sets["train"].text["kathleen-lj-a1"] == "not at this case tom he'd said"
    assert sets["test_so762"].text == {"so762-0004-000040011": "go home"}
    # Labels alone are published: the drink with what belongs before it, then milk and sugar.
    assert sets["test_coffee"].text == {
        "s2i-aa-1": "twelve ounce latte with soy milk and a bit of sugar",
        "s2i-bb-2": "espresso",
    }
    entities = read_entities(out / "test_coffee" / "entities")
    assert sorted(entities["s2i-aa-1"]) == [
        ("coffeeDrink", "latte"), ("milkAmount", "soy milk"), ("size", "twelve ounce"),
        ("sugarAmount", "a bit of sugar"),
    ]  # fmt: skip
    assert check_entities(entities, sets["test_coffee"].text, "entities") == entities


def test_a_second_run_touches_nothing(recipe, corpora, tmp_path):
    out = tmp_path / "data"
    prepare(recipe, corpora, out, "--smoke", "true")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    prepare(recipe, corpora, out, "--smoke", "true")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    prepare(recipe, corpora, out, "--smoke", "true", "--seed", "2")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} != before


def test_a_dev_part_is_the_validation_part(recipe, corpora, tmp_path):
    parts = {"train": ["0001", "0002"], "dev": ["0003"], "test": ["0004"]}
    make_so762(tmp_path / "parts", {part: {s: [SPEAKERS[s]] for s in speakers} for part, speakers in parts.items()})
    train, valid, test = recipe.read_so762(tmp_path / "parts", 0.5, None)
    assert [[u.spk for u in part] for part in (train, valid, test)] == [
        ["so762-0001", "so762-0002"], ["so762-0003"], ["so762-0004"],
    ]  # fmt: skip


def test_more_text_without_test_sentences(recipe, corpora, tmp_path):
    (tmp_path / "text").write_text(
        "Go home!\nGo home, Tom.\nRoom 12 is ours.\n\nYes, it’s a café.\nGo home Tom\nA fine day.\n"
    )
    prepare(recipe, corpora, tmp_path / "data", "--text", str(tmp_path / "text"), "--smoke", "true")
    assert lines(tmp_path / "data/lm/train.txt")[-2:] == ["go home tom", "a fine day"]


def test_absent_and_damaged_corpora_are_named(recipe, corpora, tmp_path):
    places = {**corpora, "kathleen": tmp_path / "none", "s2i": tmp_path / "nor"}
    with pytest.raises(UserError) as err:
        prepare(recipe, places, tmp_path / "data")
    message = str(err.value)
    assert f"KATHLEEN={tmp_path / 'none'} is no directory; set KATHLEEN to" in message
    assert f"S2I={tmp_path / 'nor'} is" in message and "AN4=" not in message and not (tmp_path / "data").exists()
    (tmp_path / "s2i" / "data" / "speech" / "clean" / "bb-2.wav").unlink()
    with pytest.raises(UserError, match=r"label.json: .*bb-2.wav is missing"):
        prepare(recipe, corpora, tmp_path / "data")
    (tmp_path / "s2i" / "data" / "label" / "label.json").write_text("{")
    with pytest.raises(UserError, match="S2I=.*label.json"):
        prepare(recipe, corpora, tmp_path / "data")


TEST = {
    "1": ("GET ME AN MEDIUM LATTE WITH MILK", ["medium", "latte", "milk"]),
    "2": ("BREW A MOCHA", ["mocha"]),
    "3": ("MAY I HAVE ESPRESSO WITH SOY MILK", ["espresso", "soy milk"]),
    "4": ("AN AMERICANO", ["americano"]),
}


@pytest.mark.parametrize(
    "sentence, expected",
    [
        # A test sentence, word by word, but for the article; also within a longer one.
        ("get me a medium latte with milk", True),
        ("hello please brew a mocha with cream", True),
        ("brew a mocha", True),
        ("brew a mochaccino", False),
        ("brew an iced mocha", False),
        # The same order in other words. One value alone is no order to hold out; more or fewer are another order.
        ("i'd like a latte with some milk make it medium", True),
        ("i'd like a mocha", False),
        ("i'd like a medium latte", False),
        ("a medium espresso with soy milk", False),
        # The longest value counts: soy milk is no milk.
        ("a medium latte with soy milk", False),
        ("an espresso with milk", False),
        ("soy milk for the espresso", True),
        # A test sentence that is a value and nothing else forbids nothing.
        ("i'd like an americano", False),
    ],
)
def test_what_counts_as_of_the_test_set(recipe, sentence, expected):
    assert recipe.orders.Orders(TEST).is_of_test(sentence) is expected


def test_drawn_sentences(recipe):
    drawer = recipe.orders.Orders({})
    found = drawer.sentences(6000, random.Random(3))
    assert found == recipe.orders.Orders({}).sentences(6000, random.Random(3))
    assert found != drawer.sentences(6000, random.Random(4))
    assert len(set(found)) == 6000 and all(re.fullmatch(r"[a-z']+( [a-z']+)*", line) for line in found)
    # Of what is on the menu, everything is said; "an" stands before vowels and nowhere else.
    padded = [f" {line} " for line in found]
    for name in ("coffeeDrink", "size", "roast", "numberOfShots", "milk", "sweet", "amount"):
        for word in drawer.words[name]:
            assert any(f" {word} " in line for line in padded), word
    after = {(a, w[0] in "aeiou") for line in found for a, w in re.findall(r"\b(an?) (\w+)", line)}
    assert after == {("a", False), ("an", True)}
    held_out = set(found[:3000])
    assert not held_out & set(drawer.sentences(3000, random.Random(3), held_out))
    with pytest.raises(UserError, match="fewer than 50 different"):
        drawer.sentences(50, random.Random(3), Everything())
    drawer.patterns = ["a {drnik}"]
    with pytest.raises(UserError, match=r"menu.txt: no class \[drnik\]"):
        drawer.draw(random.Random(1))


def same_articles(line):
    return f" {line} ".replace(" an ", " a ")


class Everything:
    def __contains__(self, item):
        return True


@real
def test_real_corpora(recipe, tmp_path):
    places = {name.lower(): path for name, path in PLACES.items()}
    options = [part for name, path in places.items() for part in (f"--{name}", path)]
    out = tmp_path / "data"
    recipe.main([*options, "--datadir", str(out)])
    sets = {name: DataDir.load(out / name) for name in SETS}
    speakers = {name: set(data.utt2spk.values()) for name, data in sets.items()}
    for i, name in enumerate(SETS):
        assert sets[name].text and all(not speakers[name] & speakers[other] for other in SETS[i + 1 :])
    assert len(sets["test_an4"].text) == 130
    orders = sets["test_coffee"].text
    entities = read_entities(out / "test_coffee" / "entities")
    assert check_entities(entities, orders, "entities") == entities and set(entities) == set(orders)
    # No text holds a test sentence, nor the very things, two or more, that a test sentence orders.
    said = [same_articles(sentence) for sentence in orders.values()]
    ordered = {frozenset(v for _, v in items) for items in entities.values() if len(items) > 1}
    values = sorted({v for items in ordered for v in items}, key=len, reverse=True)
    value = re.compile(rf"\b(?:{'|'.join(values)})\b")
    for name in TEXTS:
        found = lines(out / name)
        assert len(found) > 100
        for line in found:
            assert not any(sentence in same_articles(line) for sentence in said), (name, line)
            assert frozenset(value.findall(line)) not in ordered, (name, line)
    # The tokenizer's text, like the training speech, is without the domain's words.
    words = {w for line in lines(out / "lm/tokenizer.txt") for w in line.split()}
    assert words == {w for text in sets["train"].text.values() for w in text.split()} and "espresso" not in words
