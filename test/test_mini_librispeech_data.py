"""Data of egs/mini_librispeech: split by speakers, corpora in public layouts, prompts, text; the corpora themselves."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from corpora import damage, mini_librispeech, write_audio
from recipe_modules import local_modules

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.score.measure import evaluate, load_reference

RECIPE = Path(__file__).resolve().parents[1] / "egs/mini_librispeech/llmasr1"
CORPORA = os.environ.get("CORPORA", "")
TEST_SETS = {
    "commonvoice": "test_commonvoice", "an4": "test_an4", "s2i": "test_coffee", "arctic": "test_arctic",
    "alnum": "test_alnum", "so762": "test_so762", "fsdd": "test_digits",
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe():
    """local/data.py, which finds its neighbours by their plain names."""
    with local_modules(RECIPE / "local") as load:
        yield load("data")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """{variable of db.sh in small letters: folder, or files}."""
    room = tmp_path_factory.mktemp("corpora")
    return {name.lower(): str(make(room)) for name, make in mini_librispeech.MAKERS.items()}


def arguments(roots, out, **changed):
    given = {**roots, **changed}
    texts = given.pop("lm_text", "").split()
    return [f"--{name}={path}" for name, path in given.items()] + ["--lm_text", *texts, "--datadir", str(out)]


@pytest.fixture(scope="module")
def made(recipe, roots, tmp_path_factory):
    """The data directory of a run over all corpora."""
    out = tmp_path_factory.mktemp("made") / "data"
    recipe.main(arguments(roots, out))
    return out


def lines(path):
    return path.read_text().splitlines()


def test_every_set_is_valid_with_its_audio(made):
    sets = sorted(p.name for p in made.iterdir() if p.name != "lm")
    assert sets == sorted(["train", "valid", "test_libri", "dev_clean_2", *TEST_SETS.values()])
    for name in sets:
        assert validate(made / name, nj=1) == [], name


def test_speakers_are_those_of_the_fixed_split(made):
    sets = {name: DataDir.load(made / name) for name in ("train", "valid", "test_libri", "dev_clean_2")}
    found = {name: set(data.spk2utt) for name, data in sets.items()}
    assert found == {
        "train": {"19", "32", "1088"},
        "valid": {"669", "1867", "3664", "5789"},
        "test_libri": {"118", "226", "1970", "3242", "4640", "7859"},
        "dev_clean_2": {"84"},
    }
    assert all(len(data.text) == 8 * len(found[name]) for name, data in sets.items())
    assert sets["train"].extra["spk2gender"] == {"19": ["m"], "32": ["f"], "1088": ["f"]}
    assert sets["valid"].text["669-121550-0001"] == "hoped there would be"


def test_further_sets(made):
    text = {name: DataDir.load(made / set_).text for name, set_ in TEST_SETS.items()}
    assert text["commonvoice"]["0000000000000000-common_voice_en_test0000"] == '"where\'s my hat?" he asked.'
    assert text["an4"]["fxyz-an27-fxyz-b"] == "november first" and len(text["an4"]) == 5
    assert text["s2i"] == {"s2i-aa-1": "twelve ounce latte with soy milk", "s2i-bb-2": "espresso"}
    assert text["arctic"]["kathleen-lj-a1"] == "not at this case, tom, “he’d” said."
    assert sorted(text["so762"].values()) == ["go home", "i see a dog", "it's not fish"]
    assert text["fsdd"] == {"fsdd-jackson-7-00": "seven", "fsdd-theo-0-04": "zero"}
    orders = DataDir.load(made / "test_coffee").entities
    assert orders["s2i-aa-1"] == [("coffeeDrink", "latte"), ("milkAmount", "soy milk"), ("size", "twelve ounce")]


def test_prompts_and_their_parts(made):
    data = DataDir.load(made / "test_alnum")
    assert data.text["alnum-2-name"] == "zoë li" and set(data.spk2utt) == {"alnum-1", "alnum-2"}
    assert data.entities == {
        "alnum-1-name": [("name", "ann"), ("name", "roe")],
        "alnum-1-number": [("number", "9055598030")],
        "alnum-1-address": [("street", "5 oak road"), ("unit", "432")],
        "alnum-2-name": [("name", "zoë"), ("name", "li")],
        "alnum-2-number": [("number", "0123456789")],
        "alnum-2-address": [("street", "77 long hill lane"), ("unit", "9")],
    }


def test_prompts_are_scored_by_letters_and_digits(made, tmp_path):
    """However a hypothesis groups them, or writes them in words."""
    said = {
        "alnum-1-name": "A N N R O E", "alnum-1-number": "nine zero five double five nine eight oh three zero",
        "alnum-1-address": "five Oak Road, 4 3 2.", "alnum-2-name": "Z-O-E L-Y", "alnum-2-number": "012-345-6789",
        "alnum-2-address": "77 long hill lane",
    }  # fmt: skip
    hyp = tmp_path / "hyp.txt"
    hyp.write_text("".join(f"{utt} {text}\n" for utt, text in said.items()))
    reference = load_reference(made / "test_alnum" / "text", "spelled", str(made / "test_alnum" / "entities"))
    counts = evaluate(reference, hyp, reference.metrics()).counts
    # 6 + 10 + 11 + 5 + 10 + 15 letters and digits; "Ly" for "Li", and the last "9" is not there.
    assert counts["wer"].sum(axis=0).tolist() == [2, 57]
    missed, entities = counts["eer_norm"].sum(axis=0)
    assert (missed, entities) == (2, 10)


def test_text_is_written_like_transcripts_and_free_of_the_sets(made, roots):
    train, valid = (DataDir.load(made / name) for name in ("train", "valid"))
    text, spoken = lines(made / "lm" / "train.txt"), list(train.text.values())
    assert text[: len(spoken)] == spoken and lines(made / "lm" / "valid.txt") == list(valid.text.values())
    assert text[len(spoken) :][:2] == ["the 0th and last of the hes", "the 0th and last of the hopeds"]
    assert text[-1] == "what's this" and not any(
        mini_librispeech.SHARED.lower() in line for line in text[len(spoken) :]
    )
    told = [line.split("\t")[:2] for line in lines(made / "lm" / "text.txt.dropped.tsv")]
    books, more = roots["lm_text"].split()
    places = [f"{books}:{len(lines(Path(books)))}", f"{more}:2"]
    assert {where for where, _ in told} == set(places)
    assert {Path(name).name for _, name in told} == {"train", "valid", "test_libri", "dev_clean_2"}


def test_few_utterances_of_a_test_set_are_spread_and_text_is_free_of_all(recipe, roots, made, tmp_path):
    recipe.main(arguments(roots, tmp_path / "data") + ["--test_utterances", "12"])
    for name in ("train", "valid", "test_libri", *TEST_SETS.values()):
        whole, few = (DataDir.load(where / name) for where in (made, tmp_path / "data"))
        is_test = name.startswith("test_")
        assert len(few.utts) == (min(12, len(whole.utts)) if is_test else len(whole.utts)), name
        assert few.text.items() <= whole.text.items() and validate(tmp_path / "data" / name, nj=1) == []
    # Of 48, eight a speaker: some of each.
    assert len(DataDir.load(tmp_path / "data/test_libri").spk2utt) == 6
    for name in ("train.txt", "text.txt"):
        assert lines(tmp_path / "data/lm" / name) == lines(made / "lm" / name)


def test_development_sets_are_of_what_the_test_sets_leave(recipe, roots, made, tmp_path, capsys):
    argv = arguments(roots, tmp_path / "data") + ["--test_utterances", "1", "--dev_utterances"]
    with pytest.raises(
        UserError, match="dev_coffee would need as many, test_coffee leaves 1 of 2; ask for fewer, or set"
    ):
        recipe.main([*argv, "2"])
    assert not (tmp_path / "data" / "test_coffee").exists()
    recipe.main([*argv, "1"])
    for corpus in ("coffee", "arctic", "so762"):
        whole, test, dev = (
            DataDir.load(where / name).text
            for where, name in (
                (made, f"test_{corpus}"),
                (tmp_path / "data", f"test_{corpus}"),
                (tmp_path / "data", f"dev_{corpus}"),
            )
        )
        assert len(test) == len(dev) == 1 and test.keys().isdisjoint(dev) and (test | dev).items() <= whole.items()
        assert validate(tmp_path / "data" / f"dev_{corpus}", nj=1) == []
    # Text is free of what neither has.
    assert lines(tmp_path / "data/lm/text.txt") == lines(made / "lm" / "text.txt")


def test_general_text(recipe, made):
    written = lines(made / "lm" / "train.txt")[24:]
    found = lines(made / "lm" / "general.txt")
    assert sorted(found) == sorted(
        {line for line in written if 4 <= len(line.split()) <= 40 and not re.search(r"\d", line)}
    )
    words = [f"{'a ' * n}{letter}" for n in (2, 3, 8, 9, 39, 40) for letter in "bc"]
    assert sorted(recipe.general([*words, *words, "it is 4 o'clock now"])) == sorted(words[2:10])


def test_sentences_to_be_spoken(recipe, roots, tmp_path):
    """Of 8 to 30 words without digits, none that a set says, the same each time."""
    said = mini_librispeech.SHARED
    text = tmp_path / "books.txt"
    long = " ".join(["word"] * 31)
    text.write_text(
        "One two three. The dog of the house goes home to eat! And Ann sees what he has left for her; no more.\n"
        f"In 1905 nobody saw the dog of the house again. {long}. {said} and that is all of it.\n"
    )
    wanted = {"the dog of the house goes home to eat", "and ann sees what he has left for her"}
    for name in ("a", "b"):
        recipe.main(arguments(roots, tmp_path / name) + ["--tts_from", str(text), "--tts", "2"])
        rows = [line.split(" ", 1) for line in lines(tmp_path / name / "tts_text")]
        assert {row[1] for row in rows} == wanted and [row[0] for row in rows] == ["tts00000", "tts00001"]
    assert lines(tmp_path / "a/tts_text") == lines(tmp_path / "b/tts_text")
    with pytest.raises(UserError, match="tts.txt has 2 sentences to speak, --tts asks for 3"):
        recipe.main(arguments(roots, tmp_path / "c") + ["--tts_from", str(text), "--tts", "3"])


def test_without_further_corpora_and_text_and_again(recipe, roots, tmp_path, capsys):
    mini = shutil.copytree(roots["mini_librispeech"], tmp_path / "LibriSpeech")
    shutil.rmtree(mini / "dev-clean-2")
    (mini / "SPEAKERS.TXT").unlink()
    # A copy with other audio.
    for path in mini.glob("train-clean-5/19/*/*.flac"):
        path.unlink()
        write_audio(path.with_suffix(".ogg"), format="OGG", subtype="OPUS")
    argv = ["--mini_librispeech", str(tmp_path), "--datadir", str(tmp_path / "data"), "--smoke", "true"]
    recipe.main(argv)
    log = capsys.readouterr().out
    for name, test_set in TEST_SETS.items():
        assert f"{test_set}: left out, as {name.upper()} is not set" in log
    assert "lm: 24 lines, 24 of them transcripts; 4 held out" in log
    train = DataDir.load(tmp_path / "data" / "train")
    assert [path for path in train.wav_scp.values() if path.endswith(".ogg")] == [
        f"{mini}/train-clean-5/19/121550/19-121550-{n:04d}.ogg" for n in range(8)
    ]
    assert validate(tmp_path / "data" / "train", nj=1) == [] and "spk2gender" not in train.extra
    recipe.main(argv)
    assert "train: 24 utterances, 3 speakers, 144 words, as before" in capsys.readouterr().out


MINI = "train-clean-5/118/121550/118-121550"


@pytest.mark.parametrize(
    "corpus, what, message",
    [
        ("mini_librispeech", f"{MINI}-0002.flac", f"{MINI}.trans.txt:3: 118-121550-0002: no audio file"),
        ("mini_librispeech", (f"{MINI}.trans.txt", "118-121550-0003 ", "118-"), f"{MINI}.trans.txt:4: expected '118-"),
        ("mini_librispeech", ("SPEAKERS.TXT", "118  | F", "117  | F"), "SPEAKERS.TXT: no line for speaker 118"),
        ("mini_librispeech", lambda root: shutil.rmtree(root / "train-clean-5/669"), "no speaker 669; unpack train-cl"),
        (
            "mini_librispeech",
            lambda root: shutil.rmtree(root / "train-clean-5"),
            "train-clean-5.tar.gz of https://www.o",
        ),
        ("alnum", "audio/alnum-1-name.ogg", "test/prompt: alnum-1-name: no audio file"),
        ("alnum", ("test/wav.scp", "alnum-1-name", "alnum-1-nome"), "test/prompt: alnum-1-name: not in wav.scp"),
        ("alnum", ("test/utt2spk", "alnum-2-name", "alnum-2-nome"), "test/prompt: alnum-2-name: not in utt2spk"),
        ("alnum", "test/prompt", "test/prompt: cannot be read"),
        ("commonvoice", "en/clips/common_voice_en_test0001.mp3", "en/test.tsv:3: .*: no audio file"),
        ("fsdd", lambda root: shutil.rmtree(root / "recordings"), "FSDD=.*: neither test/wav.scp nor recordings"),
    ],
)
def test_damage_is_told_with_its_place_and_leaves_nothing(recipe, roots, tmp_path, corpus, what, message):
    root = shutil.copytree(roots[corpus], tmp_path / Path(roots[corpus]).name)
    damage(root, what)
    with pytest.raises(UserError, match=message):
        recipe.main(arguments(roots, tmp_path / "data", **{corpus: root}))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"mini_librispeech": ""}, r"MINI_LIBRISPEECH is not set: write into db.sh .* or MINI_LIBRISPEECH=download"),
        ({"arctic": "nowhere"}, "ARCTIC=nowhere is no directory; set it to a voice reading Arctic prompts"),
        ({"so762": "nowhere"}, "SO762=nowhere is no directory"),
    ],
)
def test_wrong_paths(recipe, roots, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        recipe.main(arguments(roots, tmp_path / "data", **changed))
    assert not (tmp_path / "data").exists()


def test_download_of_both_parts(recipe, roots, tmp_path, monkeypatch):
    asked = []

    def fake(part, dest, url):
        asked.append((part, url))
        shutil.copytree(roots["mini_librispeech"], Path(dest) / "LibriSpeech", dirs_exist_ok=True)

    monkeypatch.setattr(recipe.download, "download", fake)
    argv = ["--mini_librispeech=download", "--downloads", str(tmp_path / "d"), "--datadir", str(tmp_path / "data")]
    recipe.main(argv)
    assert asked == [(part, "https://www.openslr.org/resources/31") for part in ("train-clean-5", "dev-clean-2")]
    assert {"train-clean-5", "dev-clean-2"} <= recipe.download.MD5.keys()
    assert (tmp_path / "data" / "dev_clean_2" / "text").is_file()


def run_options(tmp_path, **variables):
    """What run.sh gives to llmasr.sh: {option: value}."""
    room = tmp_path / "recipe"
    room.mkdir(exist_ok=True)
    for name in ("run.sh", "db.sh"):
        shutil.copy(RECIPE / name, room / name)
    (room / "path.sh").write_text("MAIN_ROOT=/toolkit\n")
    (room / "llmasr.sh").write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n")
    (room / "llmasr.sh").chmod(0o755)
    env = {"PATH": os.environ["PATH"], **{name: str(value) for name, value in variables.items()}}
    ran = subprocess.run(["./run.sh"], cwd=room, env=env, capture_output=True, text=True, check=True)
    words = ran.stdout.splitlines()
    return dict(zip(words[::2], words[1::2], strict=True))


def test_run_sh_names_the_sets_that_are_there(roots, tmp_path):
    alone = run_options(tmp_path, MINI_LIBRISPEECH=tmp_path)
    assert alone["--test_sets"] == "test_libri:id" and alone["--set_normalisers"] == ""
    assert alone["--pretrained_encoder"] == "/toolkit/downloads/models/whisper-base"
    assert alone["--llm"] == "llm/gemma" and "--llm=llm_smoke/gemma" in alone["--smoke_opts"].split()
    given = {name.upper(): path for name, path in roots.items()}
    every = run_options(tmp_path, **given, LLM="another", MODELS="/m")
    assert every["--test_sets"].split() == ["test_libri:id", "dev_clean_2:id"] + [
        f"{s}:ood" for s in TEST_SETS.values()
    ]
    assert every["--set_normalisers"] == "test_alnum=spelled" and every["--pretrained_encoder"] == "/m/whisper-base"
    assert every["--llm"] == "another" and "--llm" not in every["--smoke_opts"]


def test_corpora_names_what_is_in_it(tmp_path):
    for name in ("cv100", "fsdd"):
        (tmp_path / name).mkdir()
    found = run_options(tmp_path, CORPORA=tmp_path, FSDD="", SO762="/elsewhere")
    assert found["--test_sets"] == "test_libri:id test_commonvoice:ood test_so762:ood"


@pytest.mark.skipif(
    not os.path.isdir(f"{CORPORA}/mini_librispeech"), reason="set CORPORA to a folder with mini_librispeech"
)
def test_real_corpora(recipe, tmp_path):
    """The counts of the corpora's own list. Further sets are optional."""
    homes = {"commonvoice": "cv100", "arctic": "kathleen"}
    found = {name: f"{CORPORA}/{homes.get(name, name)}" for name in TEST_SETS}
    found = {name: path for name, path in found.items() if os.path.isdir(path)}
    recipe.main(arguments({"mini_librispeech": f"{CORPORA}/mini_librispeech", **found}, tmp_path / "data"))
    sets = {path.name: DataDir.load(path) for path in (tmp_path / "data").iterdir() if path.name != "lm"}
    counts = {name: (len(data.text), len(data.spk2utt)) for name, data in sets.items()}
    assert (counts["train"], counts["valid"], counts["test_libri"]) == ((1062, 18), (152, 4), (305, 6))
    assert set(counts) - {"train", "valid", "test_libri", "dev_clean_2"} == {TEST_SETS[name] for name in found}
    if "alnum" in found:
        parts = {slot for items in sets["test_alnum"].entities.values() for slot, _ in items}
        assert parts == {"name", "number", "street", "unit"}
        assert all(re.fullmatch("[0-9]{10}", t) for u, t in sets["test_alnum"].text.items() if u.endswith("-number"))
