"""Texts as people have them, from public reports of this and other toolkits (docs/field_reports.md)."""

import dataclasses
from pathlib import Path

import pytest
from conftest import ENCODER

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.experiment.experiment import Experiment
from espnet_llmvq.experiment.options import Options
from espnet_llmvq.sequence.sequence import read_sequences
from espnet_llmvq.stages.sequences import check_sequences, make_sequences, sequences_made


@pytest.fixture
def long(tmp_path, llm_dir):
    """Function: an `Experiment` of a formatted training set, one of whose two transcripts has 2,280 words."""

    def make(words=2280, train="train", **more):
        room = tmp_path / "dump" / train
        room.mkdir(parents=True, exist_ok=True)
        rows = {"wav.scp": "/a.wav", "text": "one two", "utt2spk": "s", "utt2num_samples": "16000"}
        for name, value in rows.items():
            long = " ".join(["one"] * words) if name == "text" else value
            (room / name).write_text(f"a {value}\nb {long}\n")
        (room / "spk2utt").write_text("s a b\n")
        options = Options(dumpdir=str(tmp_path / "dump"), expdir=str(tmp_path / "exp"), llm=llm_dir, **more)
        return Experiment(options, (), (), (), {}, {}, ENCODER)

    return make


def test_a_transcript_longer_than_the_context(long, capsys):
    """It would have been met in training, after phase one."""
    experiment = long()
    make_sequences(experiment, ["train"])
    path = experiment.sequences("train")
    assert [seq.id for seq in read_sequences(path)] == ["a"]
    assert "dropped, longer than the context: 1" in capsys.readouterr().out
    assert Path(f"{path}.dropped.tsv").read_text().startswith("b\tlonger than the context: 2")
    make_sequences(experiment, ["train"])
    assert capsys.readouterr().out.count("up to date") == 1
    check_sequences(experiment, ["train"])
    wider = dataclasses.replace(experiment, options=dataclasses.replace(experiment.options, context="5000"))
    make_sequences(wider, ["train"])
    assert [seq.id for seq in read_sequences(path)] == ["a", "b"]
    with pytest.raises(
        UserError, match=r"1 sequences have more LLM positions than the \d+ of the context: b \(2\d\d\d\)"
    ):
        make_sequences(long(too_long="refuse"), ["train"])


def test_what_is_only_decoded_may_be_long(long):
    experiment = long(train="test")
    make_sequences(experiment, ["test"])
    assert len(list(read_sequences(experiment.sequences("test")))) == 2


def test_short_corpora_are_shared_by_runs_with_other_contexts(long):
    one, other = long(words=3), long(words=3, context="300")
    assert sequences_made(one, "train").options == sequences_made(other, "train").options
