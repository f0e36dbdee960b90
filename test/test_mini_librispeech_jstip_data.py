"""Data of egs/mini_librispeech/jstip1: domains as folders, their texts and test sets, slots that count; bad input."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from corpora import mini_librispeech, write_audio
from recipe_modules import local_modules

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir

RECIPE = Path(__file__).resolve().parents[1] / "egs/mini_librispeech/jstip1"
DOMAINS = ("coffee", "contacts", "medical")
ILLS = ("asthma", "arthritis", "anemia")
SEEN = "amoxicillin helps {} when the {} house is {}"
FILLS = [(ill, a, b) for ill in ILLS for a in ("old", "red", "new", "low") for b in ("cold", "wet", "far", "dry")]
SMALL = ["--lines", "30", "--tts", "6", "--lm_valid", "3"]
SHARED = mini_librispeech.SHARED.lower()  # seven words that training speech says


@pytest.fixture(scope="module")
def recipe():
    """A loader of the modules of local/."""
    with local_modules(RECIPE / "local") as load:
        yield load


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """{option of local/data.py: path}."""
    room = tmp_path_factory.mktemp("corpora")
    makers = mini_librispeech.MAKERS
    found = {name.lower(): str(makers[name](room)) for name in ("MINI_LIBRISPEECH", "S2I", "ALNUM")}
    turns = [SEEN.format(*fill).capitalize() + "." for fill in FILLS]
    found["medquad"], found["mts_dialog"] = str(room / "medquad.txt"), str(room / "mts.txt")
    # A paragraph; then a sentence with words of the training set, and sentences that name nothing, or are too short.
    paragraphs = [
        " ".join(turns[:24]),
        f"So {SHARED} and amoxicillin for asthma.",
        "A diagnosis is made by a doctor here.",
    ]
    Path(found["medquad"]).write_text("\n".join(paragraphs) + "\n")
    said = [f"{who}: {turn}" for who, turn in zip(["Doctor", "Patient"] * 24, turns[24:])]
    Path(found["mts_dialog"]).write_text(
        "\n".join([*said, "Doctor: Asthma?", "Patient: I take 20 mg of amoxicillin now."]) + "\n"
    )
    return found


def arguments(roots, out, domains=DOMAINS, **changed):
    given = [part for name, path in {**roots, **changed}.items() for part in (f"--{name}", str(path))]
    return [*given, "--domains", *domains, "--datadir", str(out), "--nj", "1", *SMALL]


@pytest.fixture(scope="module")
def made(recipe, roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    recipe("data").main(arguments(roots, out))
    return out


def lines(path):
    return path.read_text().splitlines()


def texts_of(made):
    """All that is written for training on, or to be spoken or measured."""
    spoken = [line.split(" ", 1)[1] for line in lines(made / "domain_tts" / "text")]
    held = [line for name in DOMAINS for line in lines(made / "domains" / name / "valid.txt")]
    return lines(made / "text" / "domain.txt") + spoken + held


def test_sets_are_valid_and_have_the_entities_that_count(made):
    for name in ("train", "valid", "test_libri", *(f"test_{name}" for name in DOMAINS)):
        assert validate(made / name, nj=1) == [], name
    assert DataDir.load(made / "test_coffee").entities["s2i-bb-2"] == [("coffeeDrink", "espresso")]
    # The number of the flat does not count.
    assert DataDir.load(made / "test_contacts").entities == {
        "alnum-1-name": [("name", "ann"), ("name", "roe")],
        "alnum-1-number": [("number", "9055598030")],
        "alnum-1-address": [("street", "5 oak road")],
        "alnum-2-name": [("name", "zoë"), ("name", "li")],
        "alnum-2-number": [("number", "0123456789")],
        "alnum-2-address": [("street", "77 long hill lane")],
    }


def test_synthetic_test_sentences_are_in_no_text(made):
    data = DataDir.load(made / "test_medical")
    every = {SEEN.format(*fill) for fill in FILLS}
    assert set(data.text.values()) <= every and len(set(data.text.values())) == len(data.text) > 0
    for utt, text in data.text.items():
        ill = text.split()[2]
        assert data.entities[utt] == [("drug", "amoxicillin"), ("condition", ill)]
    assert not set(data.text.values()) & set(texts_of(made))
    # Six voices, none of which speaks the training text.
    spoken = {spk for spk in data.utt2spk.values()}
    assert spoken and not spoken & {"en_us", "en_us_f2", "en_gb_m3", "en_gb_f4"}


def test_texts_share_no_sentence_and_none_is_said_in_a_test(made):
    texts = texts_of(made)
    assert len(texts) == len(set(texts)) == 30 + 6 + 3 * 3
    assert all(re.fullmatch("[a-z' ]+", text) for text in texts)
    assert [line.split("-")[0] for line in lines(made / "domain_tts" / "text")] == [
        n for n in DOMAINS for _ in range(2)
    ]
    assert not any(
        "diagnosis" in text or SHARED in text or "twelve ounce latte with soy milk" in text for text in texts
    )
    dropped = [row.split("\t") for row in lines(made / "domains/medical/clear.txt.dropped.tsv")]
    # The sentence that training speech says in part; others are too much like test sentences.
    told = sorted(Path(name).name for _, name, *_ in dropped)
    assert [name for name in told if name != "test_medical"] == ["dev_clean_2", "test_libri", "train", "valid"]
    words = [row.split("\t") for row in lines(made / "domains/medical/words.tsv")]
    assert words[0] == ["drug", "amoxicillin"] and sorted(word for _, word in words[1:]) == sorted(ILLS)


def test_prompt_words_come_in_turns_and_fit(recipe, made, tmp_path):
    words = lines(made / "prompt_words.txt")
    assert words[:3] == ["coffee", "mary", "amoxicillin"] and len(", ".join(words)) < 220
    choose = recipe("data").prompt_words
    assert choose([["a", "b"], ["c"], []], 99, len) == ["a", "c", "b"]
    # A space in front, four for marks: six letters of eleven.
    assert choose([["xxxxxx", "y"]], 11, len) == ["xxxxxx"] and choose([["xxxxxxx", "y"]], 11, len) == []
    assert choose([["xxx", "y", "z"]], 11, len) == ["xxx", "y"]


def test_words_are_counted_in_tokens_of_the_model(recipe, tmp_path):
    from tokenizers import Tokenizer, models

    for name in ("config.json", "tokenizer.json"):
        with pytest.raises(UserError, match=f"--whisper {tmp_path}: config.json or tokenizer.json cannot be read"):
            recipe("data").limits_of(tmp_path)
        (tmp_path / name).write_text('{"max_target_positions": 41}')
    Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).save(str(tmp_path / "tokenizer.json"))
    most, size = recipe("data").limits_of(tmp_path)
    assert (most, size("abab")) == (20, 2)


def test_entities_that_the_text_has(recipe):
    said = {"a": [("name", "Ann"), ("street", "5 oak road")], "b": [("name", "ann"), ("name", "roe")]}
    assert recipe("data").in_text(said, ["my name is ann", "zero roebuck oak road"]) == (2, 4)


def test_the_same_again_and_without_a_corpus(recipe, roots, made, tmp_path, capsys):
    recipe("data").main(arguments(roots, tmp_path / "a", ("contacts", "coffee"), s2i=""))
    assert "coffee: left out, as S2I (the coffee orders" in capsys.readouterr().out
    assert not (tmp_path / "a" / "test_coffee").exists()
    recipe("data").main(arguments(roots, tmp_path / "b", ("contacts",)))
    for name in ("text/domain.txt", "domain_tts/text", "prompt_words.txt"):
        assert lines(tmp_path / "a" / name) == lines(tmp_path / "b" / name) != lines(made / name)
    with pytest.raises(UserError, match="none of the domains coffee has its corpora"):
        recipe("data").main(arguments(roots, tmp_path / "c", ("coffee",), s2i=""))
    assert not (tmp_path / "c").exists()


def test_a_copy_without_links_is_whole(roots, tmp_path):
    """As forks are made."""
    local = shutil.copytree(RECIPE / "local", tmp_path / "local")
    with local_modules(local) as load:
        load("data").main(arguments(roots, tmp_path / "data", ("coffee",)))
    assert len(lines(tmp_path / "data/text/domain.txt")) == 30


# --- Contacts -------------------------------------------------------------------------------------------------------


def contacts(recipe, tmp_path, sentences, words="[given]\nann, bo lee\n[family]\nroe\n[street]\noak\n"):
    (tmp_path / "sentences.txt").write_text(sentences)
    (tmp_path / "words.txt").write_text(words)
    module = load_make(recipe, "contacts")
    return module.Contacts(tmp_path, random.Random(1))


def load_make(recipe, name):
    import importlib.util

    path = recipe("domain").HOME / name / "make.py"
    spec = importlib.util.spec_from_file_location(f"make_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_are_spelled_as_they_were_said(recipe, tmp_path):
    found = contacts(recipe, tmp_path, "{given} {family} {given spelled} {family spelled}\n").sentences(2)
    assert sorted(found) == ["ann roe a n n r o e", "bo lee roe b o l e e r o e"]


def test_numbers_have_as_many_digits_as_they_should(recipe, tmp_path):
    digits = {"zero", "oh", *"one two three four five six seven eight nine".split()}
    for sentence in contacts(recipe, tmp_path, "{phone} | {unit}\n").sentences(200):
        for part, count in zip(sentence.split("|"), (10, 3)):
            said = part.replace("double", "").split()
            assert len(said) + part.split().count("double") == count and set(said) <= digits


def test_every_sentence_of_contacts_can_be_drawn(recipe):
    module = load_make(recipe, "contacts")
    drawer = module.Contacts(recipe("domain").HOME / "contacts", random.Random(2))
    found = drawer.sentences(3000)
    assert all(re.fullmatch("[a-z ]+", sentence) for sentence in found)
    slots = {slot for pattern in drawer.patterns for slot in module.SLOT.findall(pattern)}
    assert {slot.removesuffix(" spelled") for slot in slots} >= {"given", "family", "phone", "house", "unit", "street"}
    assert drawer.terms()[:3] == [("name", "mary"), ("name", "smith"), ("street", "main")]


def test_names_and_streets_are_as_many_as_their_rule_says(recipe):
    """README.md: tops of lists of the US Census Bureau; five given names are in that of women and in that of men."""
    module = load_make(recipe, "contacts")
    words = module.Contacts(recipe("domain").HOME / "contacts", random.Random(1)).words
    for name, count in {"given": 500 - 5, "family": 500, "street": 100}.items():
        assert len(words[name]) == len(set(words[name])) == count
    assert words["given"][:4] == ["mary", "james", "patricia", "john"]
    assert words["family"][:4] == ["smith", "johnson", "williams", "jones"]
    assert words["street"][:3] == ["main", "second", "third"] and "twenty first" in words["street"]


@pytest.mark.parametrize(
    "sentences, words, message",
    [
        ("# none\n", "[given]\nann\n", "sentences.txt: has no sentence"),
        (
            "{given} is {age}\n",
            "[given]\nann\n",
            r"sentences.txt: '{given} is {age}': .*words.txt has no class \[age\]",
        ),
        ("{given}\n", "ann\n", "words.txt:1: a word before the first"),
        ("{given}\n", "[given]\nAnn, bo\n", r"words.txt: \[given\]: 'Ann' is not of lower case letters"),
        ("{given}\n", "[given]\n[family]\nroe\n", r"words.txt: \[given\] has no entry"),
        ("{given}\n", "[given]\nann\n", "gives fewer than 5 different sentences; lower --lines"),
    ],
)
def test_bad_lists_of_contacts(recipe, tmp_path, sentences, words, message):
    with pytest.raises(UserError, match=message):
        contacts(recipe, tmp_path, sentences, words).sentences(5)


# --- Medical --------------------------------------------------------------------------------------------------------


def test_entities_are_words_with_an_ending_in_five_sentences(recipe):
    module = load_make(recipe, "medical")
    endings, others = {"drug": ("cillin",), "condition": ("itis", "oma")}, {"coma"}
    sentences = [f"{n} penicillin" for n in range(5)] + [f"{n} colitis colitis" for n in range(4)]
    sentences += [f"{n} coma lymphomas sitting" for n in range(6)]
    assert module.terms_of(sentences, endings, others) == {"lymphomas": "condition", "penicillin": "drug"}


def test_sentences_are_of_letters_and_of_the_right_length(recipe, tmp_path):
    module = load_make(recipe, "medical")
    long = " ".join(["word"] * 26)
    (tmp_path / "text").write_text(
        f"Doctor: It’s asthma, and asthma is common. Too short. {long}.\n\nPatient: I had 3 of them in the last year.\n"
        "Is it asthma that I have then? IT'S asthma and asthma is common!\n"
    )
    assert module.sentences_of(tmp_path / "text") == [
        "it's asthma and asthma is common",
        "is it asthma that i have then",
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        ("drug cillin\ncondition itis\nillness oma\n", "endings:3: expected 'drug', 'condition' or 'not'"),
        ("drug cillin\ncondition\n", "endings:2: expected"),
        ("drug -cillin\n", "endings:1: expected"),
        ("# nothing\ndrug cillin\n", "endings: has no ending of condition"),
        ("", "endings: is empty"),
    ],
)
def test_bad_endings(recipe, tmp_path, content, message):
    (tmp_path / "endings").write_text(content)
    with pytest.raises(UserError, match=message):
        load_make(recipe, "medical").read_endings(tmp_path / "endings")


# --- A fourth domain, and bad input ---------------------------------------------------------------------------------


@pytest.fixture
def fourth(recipe, tmp_path, monkeypatch):
    """The folder of a domain of files, beside the others."""
    home = shutil.copytree(RECIPE / "local/domains", tmp_path / "domains")
    monkeypatch.setattr(recipe("domain"), "HOME", home)
    test = home / "mine" / "test"
    test.mkdir(parents=True)
    for name in ("u1", "u2"):
        write_audio(test / f"{name}.wav")
    (test / "wav.scp").write_text("u1 u1.wav\nu2 u2.wav\n")
    (test / "utt2spk").write_text("u1 u1\nu2 u2\n")
    (test / "text").write_text("u1 ann roe\nu2 goodbye\n")
    (test / "entities").write_text("u1\tname=ann\tother=roe\nu2\tother=goodbye\n")
    said = ["Call A N N R O E now", "Call A N N now, Roe."] + [f"Hello {w}" for w in "one two three six seven".split()]
    (home / "mine" / "text").write_text("\n".join([*said, said[2], ""]))
    (home / "mine" / "card.yaml").write_text(
        "speech: real\ntext: text\ntest: test\nnormaliser: spelled\nslots: [name]\nwords: words\n"
    )
    (home / "mine" / "words").write_text("name\tAnn Roe\nname\tBo\n")
    return home / "mine"


MINE = ["--lines", "2", "--tts", "2", "--lm_valid", "2"]


def test_a_fourth_domain_is_one_folder(recipe, roots, fourth, tmp_path):
    recipe("data").main([*arguments(roots, tmp_path / "data", ("mine",)), *MINE])
    assert lines(tmp_path / "data/prompt_words.txt") == ["ann roe", "bo"]
    data = DataDir.load(tmp_path / "data" / "test_mine")
    assert data.text == {"u1": "ann roe"} and data.entities == {"u1": [("name", "ann")]}
    texts = lines(tmp_path / "data/text/domain.txt") + lines(tmp_path / "data/domains/mine/valid.txt")
    texts += [line.split(" ", 1)[1] for line in lines(tmp_path / "data/domain_tts/text")]
    # Of eight lines one comes twice, and one spells a test utterance.
    assert len(set(texts)) == 6 and "call a n n r o e now" not in texts and "call a n n now roe" in texts


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("card.yaml", "speech: real\n", "mine/card.yaml: there is no make.py beside it, so it must have `text`"),
        ("card.yaml", "speech: sung\n", "card.yaml.*'sung'"),
        ("card.yaml", "speech: real\ntxt: x\n", "unknown key in .*mine/card.yaml 'txt'.*text"),
        ("card.yaml", "speech: real\nneeds: [s2o]\ntext: text\ntest: test\n", "unknown need of mine 's2o'.*s2i"),
        ("card.yaml", "speech: real\ntext: text\ntest: test\nnormaliser: spelt\n", "'spelt'.*spelled"),
        ("card.yaml", "speech: real\ntext: text\ntest: test\nslots: [street]\n", "no utterance has an entity"),
        ("words", "name\tann\nroe\n", "mine/words:2: expected slot<TAB>term, found 'roe'"),
        ("words", "", "mine/words: is empty"),
        ("text", None, "mine/text: cannot be read"),
        ("text", "", "mine/text: is empty"),
        ("text", "Hello\n", "mine: 1 sentences are left of 1, 6 are wanted"),
        ("test/entities", None, "test/entities: not found; a domain is scored by its entities"),
        ("test/text", "u1 ann roe\nu2\n", "test/text:2: u2: empty text"),
        ("test/u1.wav", None, "test/wav.scp:1: u1: no audio file"),
    ],
)  # fmt: skip
def test_bad_domains_are_told_with_their_place(recipe, roots, fourth, tmp_path, file, content, message):
    if content is None:
        (fourth / file).unlink()
    else:
        (fourth / file).write_text(content)
    with pytest.raises(UserError, match=message):
        recipe("data").main([*arguments(roots, tmp_path / "data", ("mine",)), *MINE])
    early = "sentences are left" not in message and "no utterance has" not in message
    assert not (early and (tmp_path / "data").exists())
    assert not (tmp_path / "data" / "text").exists()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"medquad": "nowhere.txt"}, "MEDQUAD=nowhere.txt does not exist; correct it, or leave it empty"),
        ({"s2i": "nowhere"}, "S2I=nowhere does not exist"),
    ],
)
def test_wrong_paths_leave_nothing(recipe, roots, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        recipe("data").main(arguments(roots, tmp_path / "data", **changed))
    assert not (tmp_path / "data").exists()


def test_errors_end_the_command(roots, tmp_path):
    argv = arguments(roots, tmp_path / "data", ("coffe",))
    ran = subprocess.run(["python3", RECIPE / "local/data.py", *argv], capture_output=True, text=True)
    assert ran.returncode == 1 and "unknown domain 'coffe' (did you mean 'coffee'?)" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- Slots that count -----------------------------------------------------------------------------------------------


def test_slots_by_recall(recipe, tmp_path, capsys):
    """Counted by hand: 2 of 4 names, 0 of 2 numbers, both sizes."""
    said = {"a": "ann roe 905", "b": "jo li small 77 small"}
    heard = {"a": "A N N, row nine oh six", "b": "jay l i small seventy six small small"}
    entities = "a\tname=ann\tname=roe\tnumber=905\nb\tname=jo\tname=li\tsize=small\tsize=small\tnumber=77\n"
    (tmp_path / "text").write_text("".join(f"{utt} {text}\n" for utt, text in said.items()))
    (tmp_path / "entities").write_text(entities)
    hyp = tmp_path / "hyp.txt"
    hyp.write_text("".join(f"{utt} {text}\n" for utt, text in heard.items()))
    argv = [str(tmp_path), str(hyp), "--normaliser", "spelled"]
    recipe("slots").main([*argv, "--least", "2"])
    assert capsys.readouterr().out.splitlines() == [
        "name: 2 of 4 (50.0 %), counts", "number: 0 of 2 (0.0 %)", "size: 2 of 2 (100.0 %)", "slots: [name]"
    ]  # fmt: skip
    recipe("slots").main(argv)
    assert "no slot counts" in capsys.readouterr().out
    assert recipe("slots").counting({"a": (10, 1), "b": (10, 6), "c": (100, 61), "d": (1000, 99)}, 10, 60, 5) == [
        "a",
        "b",
    ]
    hyp.write_text("a x\n")
    with pytest.raises(UserError, match="hyp.txt: 1 of 2 utterances of .*text have no hypothesis: b"):
        recipe("slots").main(argv)


# --- run.sh ---------------------------------------------------------------------------------------------------------


def run(tmp_path, *argv, **variables):
    """run.sh with an llmasr.sh that prints its options."""
    room = tmp_path / "recipe"
    if not room.exists():
        shutil.copytree(RECIPE, room, ignore=shutil.ignore_patterns("data*", "dump*", "exp*", "llmasr.sh", "utils"))
        (room / "path.sh").unlink()
        (room / "path.sh").write_text("MAIN_ROOT=/toolkit\n")
        (room / "llmasr.sh").write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n")
        (room / "llmasr.sh").chmod(0o755)
        for file in ("exp/encoder/model.pth", "exp/encoder/config.yaml", "llm/gemma/config.json"):
            path = tmp_path / "llmasr1" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(RECIPE.parents[2])}
    env |= {name: str(value) for name, value in variables.items()}
    return subprocess.run(["./run.sh", *argv], cwd=room, env=env, capture_output=True, text=True)


def test_run_sh_follows_the_domains(roots, tmp_path):
    ran = run(tmp_path, S2I=roots["s2i"], ALNUM=roots["alnum"], MINI_LIBRISPEECH=tmp_path)
    words = ran.stdout.splitlines()
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--test_sets"] == "test_libri:id test_coffee:ood test_contacts:ood"
    assert options["--set_normalisers"] == "test_contacts=spelled"
    assert options["--lm_valid_text"].split()[1:] == [f"{n}=data/domains/{n}/valid.txt" for n in ("coffee", "contacts")]
    assert (
        options["--encoder_file"] == "../llmasr1/exp/encoder/model.pth" and options["--llm"] == "../llmasr1/llm/gemma"
    )
    only = run(tmp_path, DOMAINS="coffee", S2I=roots["s2i"], ALNUM=roots["alnum"])
    assert "test_libri:id test_coffee:ood\n" in only.stdout
    none = run(tmp_path)
    assert none.returncode == 1 and "none of the domains 'coffee contacts medical' has its corpora" in none.stderr


def test_run_sh_without_an_encoder_says_what_to_run(roots, tmp_path):
    assert run(tmp_path, S2I=roots["s2i"]).returncode == 0
    smoke = run(tmp_path, "--smoke", S2I=roots["s2i"])
    assert smoke.returncode == 1 and "(cd ../llmasr1 && ./run.sh --smoke --stop_stage 7)" in smoke.stderr
    (tmp_path / "llmasr1/llm/gemma/config.json").unlink()
    ran = run(tmp_path, "--dry_run", S2I=roots["s2i"])
    assert ran.returncode == 1 and "../llmasr1/llm/gemma/config.json is not there; train encoder and LLM" in ran.stderr
    assert "(cd ../llmasr1 && ./run.sh --stop_stage 7); or set ENCODER and LLM" in ran.stderr
    assert run(tmp_path, "--help", S2I=roots["s2i"]).returncode == 0
    assert run(tmp_path, "--encoder_file", "other/model.pth", S2I=roots["s2i"]).returncode == 0
