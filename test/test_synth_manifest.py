"""A made-up data directory: its files agree with each other, with the seed and with the readers of real ones."""

import json
import os

import pytest
import soundfile

from espnet_llmvq.__main__ import main
from espnet_llmvq.align.ctm import read_ctm
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.sequence import synth_manifest as synth
from espnet_llmvq.sequence.asr import asr_sequence
from espnet_llmvq.sequence.corpus import utterances
from espnet_llmvq.sequence.interleaved import Interleaving
from espnet_llmvq.sequence.sequence import SequenceReader, read_sequences
from espnet_llmvq.sequence.shape import Shape
from espnet_llmvq.sequence.units import timed_words

TABLES = ("wav.scp", "text", "utt2spk", "spk2utt", "utt2num_samples", "words.ctm", "sequences.jsonl", synth.SHAPE)


def make(path, n, **options):
    synth.synth_manifest(str(path), n, word_times=True, **options)
    return {name: (path / name).read_text().replace(str(path), "") for name in TABLES}


def test_it_is_a_formatted_data_directory(tmp_path):
    make(tmp_path / "dest", 2500, sound_files=3)
    assert validate(tmp_path / "dest", rate=16000) == []
    data = DataDir.load(tmp_path / "dest")
    assert len(data.text) == 2500 and len(data.spk2utt) == 3
    samples = data.samples(tmp_path / "dest")
    lengths = {path: soundfile.info(path).frames for path in data.wav_scp.values()}
    assert len(lengths) == 3 and all(samples[utt] == lengths[path] for utt, path in data.wav_scp.items())
    sequences = [asr_sequence(*row, "USER: {speech} ASSISTANT: {text}") for row in utterances(tmp_path / "dest", {})]
    assert sequences == list(read_sequences(tmp_path / "dest/sequences.jsonl"))
    assert len(SequenceReader(tmp_path / "dest/sequences.jsonl")) == 2500
    shape = Shape(tmp_path / "dest" / synth.SHAPE)
    assert [shape.id(i) for i in range(len(shape))] == data.utts


def test_word_times_fit(tmp_path):
    make(tmp_path / "dest", 50)
    data, how = DataDir.load(tmp_path / "dest"), Interleaving()
    times = read_ctm(tmp_path / "dest/words.ctm")
    for utt, samples in data.samples("").items():
        assert len(timed_words(data.text[utt], times[utt], samples, how.tolerance)) == len(data.text[utt].split())


def test_the_seed_decides_and_the_first_do_not_depend_on_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "BLOCK", 20)
    monkeypatch.setattr(synth, "PER_SPEAKER", 15)
    long, same = make(tmp_path / "a", 70, seed=3), make(tmp_path / "b", 70, seed=3)
    short, other = make(tmp_path / "c", 45, seed=3), make(tmp_path / "d", 70, seed=4)
    assert long == same and all(long[name] != other[name] for name in ("text", "sequences.jsonl", synth.SHAPE))
    assert all(long[name].startswith(short[name]) for name in TABLES)
    made = [(tmp_path / room / "audio/sound000.wav").read_bytes() for room in "abd"]
    assert made[0] == made[1] != made[2]


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word, said in (("synth-manifest", "20 utterances, 2 sound files"), ("synth_manifest", "up to date")):
        with pytest.raises(SystemExit) as end:
            main(["data", word, "--utterances", "20", "--sound_files", "2", "dest"])
        assert not end.value.code and f"dest: {said}" in capsys.readouterr().out
    with open("dest/text", "a") as f:
        f.write("more\n")
    with pytest.raises(SystemExit):
        main(["data", "synth-manifest", "--utterances", "20", "--sound_files", "2", "dest"])
    assert len((tmp_path / "dest/text").read_text().splitlines()) == 20
    assert sorted(json.loads((tmp_path / "dest/made.json").read_text())["facts"]["audio"]) == [
        "audio/sound000.wav", "audio/sound001.wav",
    ]  # fmt: skip


def test_bad_requests(tmp_path):
    for n in (0, synth.MOST + 1):
        with pytest.raises(UserError, match="cannot be made; give a number from 1 to 10000000"):
            synth.synth_manifest(tmp_path / "dest", n)
    os.mkdir(tmp_path / "dest")
    (tmp_path / "dest/mine").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        synth.synth_manifest(tmp_path / "dest", 3)
    assert os.listdir(tmp_path / "dest") == ["mine"]


def test_nothing_is_left_of_a_broken_run(tmp_path, monkeypatch):
    def texts(n, seed):
        yield "one", 1
        raise OSError("no space left")

    monkeypatch.setattr(synth, "texts", texts)
    with pytest.raises(OSError):
        synth.synth_manifest(tmp_path / "dest", 3)
    assert not [name for name in os.listdir(tmp_path) if not name.startswith(".")]
