"""The AN4 recipe's data preparation, on generated public layouts and on the corpus itself."""

import os
from pathlib import Path

import numpy as np
import pytest
from corpora import write_audio
from corpora.small import AN4_TRAIN, make_an4, make_so762
from recipe_modules import local_modules

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "an4" / "llmasr1"


with local_modules(RECIPE / "local") as load:
    data = load("data")


@pytest.fixture(scope="module")
def an4(tmp_path_factory):
    return make_an4(tmp_path_factory.mktemp("corpora") / "an4")


@pytest.fixture(scope="module")
def fsdd(an4):
    root = an4.parent / "fsdd"
    for digit in range(10):
        for take in (0, 4, 5, 12):
            write_audio(root / "recordings" / f"{digit}_theo_{take}.wav", rate=8000)
    return root


@pytest.fixture(scope="module")
def so762(an4):
    return make_so762(an4.parent / "so762", {"test": {"0003": ["ONE FIVE", "ONE ELEPHANT", "YES"]}})


def prepare(an4, out, *more):
    argv = ["--an4", str(an4), "--datadir", str(out), "--nj", "1", "--valid_share", "0.5"]
    data.main([*argv, "--lm_lines", "400", *more])


def test_both_transcription_formats():
    for line in ("<s> YES NO </s> (an1-x-b)", "YES NO (an1-x-b)", "  YES NO </s> (an1-x-b) "):
        assert data.parse_transcription(line, "file:1") == ("an1-x-b", ["YES", "NO"])
    for wrong in ("YES NO", "<s> </s> (an1-x-b)", "(an1-x-b)"):
        with pytest.raises(UserError, match="file:7"):
            data.parse_transcription(wrong, "file:7")


def test_sets_of_the_public_layouts(an4, fsdd, so762, tmp_path, capsys):
    out = tmp_path / "data"
    prepare(an4, out, "--fsdd", str(fsdd), "--so762", str(so762))
    sets = {p.name: DataDir.load(p) for p in out.iterdir() if p.name != "lm"}
    assert set(sets) == {"train", "valid", *(f"test{x}" for x in ("", "_noise", "_tempo", "_fsdd", "_so762"))}
    for name in sets:
        assert validate(out / name) == []
    # Training speakers are split whole, persons with two names included.
    speakers = {name: set(sets[name].utt2spk.values()) for name in ("train", "valid")}
    assert speakers["train"] | speakers["valid"] == set(AN4_TRAIN)
    assert not speakers["train"] & speakers["valid"]
    assert ("mjkl" in speakers["valid"]) == ("mjkl2" in speakers["valid"])
    both = {**sets["train"].text, **sets["valid"].text}
    expected = {f"{s}-an{30 - n}-{s}-b": w for s, ws in AN4_TRAIN.items() for n, w in enumerate(ws)}
    assert both == expected
    assert sets["test"].text["fxyz-an28-fxyz-b"] == "K I M" and len(sets["test"].text) == 5
    assert len(sets["test_noise"].text) == len(sets["test_tempo"].text) == 5
    drawn = (out / "test_tempo" / "perturbation.tsv").read_text().splitlines()[1:]
    assert {line.split("\t")[2] for line in drawn} <= {"0.75", "1.3"}
    # Takes 0 to 4 of each digit; words, not figures.
    assert len(sets["test_fsdd"].text) == 20
    assert sets["test_fsdd"].text["fsdd-theo-3-04"] == "THREE"
    assert sets["test_so762"].text == {"so762-0003-000030011": "ONE FIVE", "so762-0003-000030013": "YES"}
    log = capsys.readouterr().out
    assert "so762: 2 of 3 utterances" in log
    assert "test: 2 of 5 sentences also occur" in log
    assert "NOVEMBER" in log


def test_kaldi_folder_with_paths_from_its_parent(an4, fsdd, tmp_path):
    root = tmp_path / "digits"
    (root / "test").mkdir(parents=True)
    write_audio(root / "audio" / "a.wav")
    (root / "test" / "wav.scp").write_text("theo-1 digits/audio/a.wav\n")
    (root / "test" / "text").write_text("theo-1 five\n")
    (root / "test" / "utt2spk").write_text("theo-1 theo\n")
    (only,) = data.read_fsdd(root)
    assert only == ("theo-1", "theo", str(root / "audio" / "a.wav"), ["FIVE"])
    (root / "audio" / "a.wav").unlink()
    with pytest.raises(UserError, match="no audio file digits/audio/a.wav"):
        data.read_fsdd(root)


def test_missing_corpora_are_named(an4, tmp_path, capsys):
    prepare(an4, tmp_path / "data")
    assert not (tmp_path / "data" / "test_fsdd").exists()
    log = capsys.readouterr().out
    assert "test_fsdd: left out, as FSDD is not set" in log
    assert "test_so762: left out, as SO762 is not set" in log
    with pytest.raises(UserError, match="recordings"):
        prepare(an4, tmp_path / "other", "--fsdd", str(tmp_path))


def test_text_of_the_language_model(an4):
    train, test = data.read_an4(an4, "train"), data.read_an4(an4, "test")
    lines = data.lm_lines(train, test, 3000, np.random.default_rng(0))
    assert len(lines) == 3000
    assert lines == data.lm_lines(train, test, 3000, np.random.default_rng(0))
    assert lines != data.lm_lines(train, test, 3000, np.random.default_rng(1))
    transcripts = [" ".join(u.words) for u in train]
    assert lines[: len(train)] == transcripts
    vocabulary = {w for line in transcripts for w in line.split()}
    assert vocabulary.issuperset(w for line in lines for w in line.split())
    # Of the test sentences of three words or more, only those of train may be generated.
    generated = set(lines[len(train) :])
    for sentence in ("K I M", "ONE FIVE TWO OH SEVEN"):
        assert sentence not in generated
    assert "J O H N" in generated and len(generated) > 1500


def test_smoke_keeps_a_handful(an4, fsdd, tmp_path, capsys):
    prepare(an4, tmp_path / "data", "--fsdd", str(fsdd), "--smoke", "true")
    assert len(DataDir.load(tmp_path / "data" / "test_fsdd").text) == 8
    assert len((tmp_path / "data" / "lm" / "train.txt").read_text().splitlines()) == 300
    with pytest.raises(SystemExit):
        prepare(an4, tmp_path / "data", "--smoke", "yes")
    assert "invalid choice: 'yes' (choose from 'true', 'false')" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("AN4"), reason="set AN4 to a copy of cmusphinx/an4")
def test_real_an4():
    train, test = (data.read_an4(os.environ["AN4"], part) for part in ("train", "test"))
    assert (len(train), len(test)) == (948, 130)
    assert sum(len(u.words) for u in test) == 773
    kept, valid = data.hold_out_speakers(train, 0.08, np.random.default_rng([1, 0]))
    assert len({u.spk for u in valid}) == 6 and 0.9 <= len(kept) / len(train) <= 0.95
    assert sum(u.words in [v.words for v in train] for u in test) == 26
    lines = set(data.lm_lines(kept, test, 20000, np.random.default_rng(0)))
    seen = {" ".join(u.words) for u in kept}
    long = {" ".join(u.words) for u in test if len(u.words) >= 3}
    assert not (long & lines) - seen
