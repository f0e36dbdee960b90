"""Sequences: JSON lines in and out, the index on disk, and sharing with workers."""

import pickle

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.sequence import prompt
from espnet_llmvq.sequence.asr import asr_sequence, text_sequence
from espnet_llmvq.sequence.sequence import Sequence, SequenceReader, Span, read_sequences, write_sequences

TEMPLATE = "USER: {speech} Transcribe speech to text. ASSISTANT: {text}"


def sequences(n):
    return [asr_sequence(f"utt{i:03d}", f"/a/{i}.wav", 100 + i, f"Überraschung {i}.", TEMPLATE) for i in range(n)]


def test_asr_sequence_follows_the_template():
    seq = asr_sequence("u", "u.wav", 16000, "Hello.", TEMPLATE)
    before, after = Span(text="USER:"), Span(text=" Transcribe speech to text. ASSISTANT:")
    speech, transcript = Span(audio="u.wav", samples=16000), Span(text=" Hello.", loss=True, eos=True)
    assert seq.spans == (before, speech, after, transcript)
    assert seq.transcript == "Hello."
    assert seq.prompt == seq.spans[:3]
    assert text_sequence("t", "Plain.").prompt == ()


@pytest.mark.parametrize("bad", ["USER: {text}", "{speech} {speech} {text}", "{text} {speech}", "{speech} {text} end"])
def test_bad_templates_are_refused(bad):
    with pytest.raises(UserError, match="prompt"):
        prompt.parse(bad)


def test_round_trip_and_random_access(tmp_path):
    path = tmp_path / "s.jsonl"
    made = sequences(50)
    assert write_sequences(path, made) == 50
    assert list(read_sequences(path)) == made
    reader = SequenceReader(path)
    assert len(reader) == 50 and list(reader) == [s.id for s in made]
    for copy in (reader, pickle.loads(pickle.dumps(reader))):
        for seq in reversed(made):
            assert Sequence.from_json(copy[seq.id]) == seq
    assert "utt999" not in reader
    with pytest.raises(KeyError):
        reader["utt999"]


def test_index_follows_a_changed_file(tmp_path):
    path = tmp_path / "s.jsonl"
    write_sequences(path, sequences(5))
    SequenceReader(path)
    lines = path.read_text(encoding="utf-8").splitlines()[::-1]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "s.jsonl.idx").unlink()
    assert Sequence.from_json(SequenceReader(path)["utt003"]).id == "utt003"


def test_errors_name_file_and_line(tmp_path):
    path = tmp_path / "s.jsonl"
    good = sequences(1)[0].to_json()
    for bad, message in (
        ("{", "s.jsonl:2"),
        ('{"id": "x", "spans": [{"txet": "a"}]}', "did you mean 'text'"),
        ('{"id": "x", "spans": [{"audio": "a.wav"}]}', "samples > 0"),
        ('{"spans": []}', "id"),
        ('{"id": 7, "spans": []}', "an id, which is text"),
        ("[1]", "an id, which is text"),
        ('{"id": "x", "spans": [{"text": 5, "loss": true}]}', "text is 5; it must be text"),
        ('{"id": "x", "spans": [{"text": "a", "loss": "no"}]}', "loss is 'no'; it must be true or false"),
    ):
        path.write_text(good + "\n" + bad + "\n", encoding="utf-8")
        with pytest.raises(UserError, match=message):
            list(read_sequences(path))
    path.write_bytes((good + "\n").encode() + b'{"id": "\xff"}\n')
    with pytest.raises(UserError, match="s.jsonl:2: not a sequence"):
        list(read_sequences(path))
    with pytest.raises(UserError, match="none.jsonl does not exist; make it with llmvq sequences make"):
        list(read_sequences(tmp_path / "none.jsonl"))


def test_duplicate_id_leaves_no_file(tmp_path):
    path = tmp_path / "s.jsonl"
    with pytest.raises(UserError, match="duplicate"):
        write_sequences(path, sequences(2) + sequences(1))
    assert not path.exists()


def test_a_span_is_speech_or_text():
    for wrong in ({}, {"text": "a", "audio": "b", "samples": 1}, {"audio": "b", "samples": 1, "loss": True}):
        with pytest.raises(ValueError):
            Span(**wrong)
