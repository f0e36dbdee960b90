"""Data as people have it, from public reports of this and other toolkits (docs/field_reports.md)."""

import json

import numpy as np
import pytest
import soundfile

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import import_ as import_data
from espnet_llmvq.cli.data import validate as validate_data
from espnet_llmvq.data import audio, importer
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.format import format_audio
from espnet_llmvq.data.shared import by_file, check_apart, in_common, overlapping, overlaps


def tone(path, seconds, rate=16000, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    n = round(seconds * rate)
    soundfile.write(path, 0.1 * np.sin(np.arange(n) * 0.05).astype(np.float32), rate, **more)
    return path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def kaldi(path, **tables):
    path.mkdir(parents=True)
    for name, content in tables.items():
        (path / name.replace("wav_scp", "wav.scp")).write_text(content)
    return path


# NeMo: offset and duration cut. FunASR: other names.
PARTS = {
    "NeMo": (
        [{"audio_filepath": "r.wav", "offset": 0.5, "duration": 1.25, "text": "a b"},
         {"audio_filepath": "r.wav", "offset": 2, "duration": 1, "text": "c", "lang": "en"}],
        {"r-0000500-0001750": (0.5, 1.75), "r-0002000-0003000": (2.0, 3.0)},
    ),
    "NeMo, by its duration alone": (
        [{"audio_filepath": "r.wav", "duration": 1.5, "text": "a"}], {"r-0000000-0001500": (0, 1.5)},
    ),
    "start and end": (
        [{"audio": "r.wav", "text": "a", "start": 0, "end": 2.0, "id": "u1"},
         {"audio": "r.wav", "text": "b", "start": "2.0", "end": "3.5", "duration": 1.5, "id": "u2"}],
        {"u1": (0, 2), "u2": (2, 3.5)},
    ),
    "from a start on": ([{"audio": "r.wav", "text": "a", "start": 3}], {"r-0003000-0004000": (3, 4)}),
    "an end alone": ([{"audio": "r.wav", "text": "a", "end": 1}], {"r-0000000-0001000": (0, 1)}),
    "offset with end": ([{"audio": "r.wav", "text": "a", "offset": 1, "end": 2}], {"r-0001000-0002000": (1, 2)}),
    "25 ms after the end": (
        [{"audio": "r.wav", "text": "a", "offset": 3, "duration": 1.025}], {"r-0003000-0004000": (3, 4)},
    ),
    "beside a whole file": (
        [{"audio_filepath": "w.wav", "duration": 2, "text": "x"},
         {"audio_filepath": "r.wav", "offset": 1, "duration": 1, "text": "a"}],
        {"w": (0, 2), "r-0001000-0002000": (1, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_files(tmp_path, name):
    rows, expected = PARTS[name]
    tone(tmp_path / "r.wav", 4)
    tone(tmp_path / "w.wav", 2)
    import_data.main([str(lines(tmp_path / "m.jsonl", *rows)), str(tmp_path / "out")])
    data = DataDir.load(tmp_path / "out")
    assert {utt: data.location(utt)[1:] for utt in data.utts} == expected
    assert list(data.text.values()) == [row["text"] for _, row in sorted(zip(expected, rows))]
    format_audio(tmp_path / "out", tmp_path / "dump", nj=1)
    samples = DataDir.load(tmp_path / "dump").samples("")
    assert samples == {utt: 16000 * (end - start) for utt, (start, end) in expected.items()}


def test_parts_in_a_table(tmp_path):
    tone(tmp_path / "r.wav", 4)
    (tmp_path / "m.csv").write_text("audio,text,start,end\nr.wav,a,0,1.5\nr.wav,b,1.5,\n")
    assert sorted(importer.read(tmp_path / "m.csv")[1].segments.values()) == [("r.wav", 0, 1.5), ("r.wav", 1.5, 4)]


WHOLE = {
    "NeMo": ({"audio_filepath": "r.wav", "duration": 4.0, "text": "a"}, "r"),
    "NeMo, a rounded duration": ({"audio_filepath": "r.wav", "duration": 3.98, "offset": None, "text": "a"}, "r"),
    "an offset of 0": ({"audio": "r.wav", "duration": 4, "offset": 0, "text": "a"}, "r"),
    "FunASR": ({"key": "utt1", "source": "r.wav", "source_len": 400, "target": "a", "target_len": 1}, "utt1"),
    "Hugging Face": ({"file_name": "r.wav", "transcription": "a"}, "r"),
    "the one channel": ({"audio": "r.wav", "text": "a", "channel": 0}, "r"),
    "other columns": ({"audio": "r.wav", "text": "a", "weekend": 1, "intent": 2, "num_frames": 400}, "r"),
    "names and numbers of segments": (
        {"audio": "r.wav", "text": "a", "segment_id": 3, "n_segments": 2, "end_of_turn": True, "sometimes": 1},
        "r",
    ),
    "dates and names": (
        {"audio": "r.wav", "text": "a", "timestamp": "2025-01-02", "segment": "Benchmark", "end": ""},
        "r",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files(tmp_path, name):
    row, utt = WHOLE[name]
    tone(tmp_path / "r.wav", 4)
    data = importer.read(lines(tmp_path / "m.jsonl", row))[1]
    assert data.segments is None and data.text == {utt: "a"}


REFUSED = {
    "start_time": ({"start_time": 1, "end_time": 2}, "'start_time' may say which part"),
    "words without a space": ({"starttime": 1, "endtime": 2}, "'starttime' may say which part"),
    "short": ({"t0": 1, "t1": 2}, "'t0' may say which part"),
    "as in STM files": ({"beg": 1.5}, "'beg' may say which part"),
    "samples by their index": ({"start_idx": 16000}, "'start_idx' may say which part"),
    "begin_time": ({"begin_time": 1}, "'begin_time' may say which part"),
    "samples, as SpeechBrain has them": ({"start": 0, "stop": 16000}, "'stop' may say which part"),
    "milliseconds": ({"startMs": 1}, "'startMs' may say which part"),
    "torchaudio": ({"frame_offset": 16000}, "'frame_offset' may say which part"),
    "a pair of times": ({"timestamp": [1.0, 2.0]}, "'timestamp' may say which part"),
    "clock times": ({"segment_from": "00:00:01.50"}, "'segment_from' may say which part"),
    "pieces": ({"segments": [{"start": 0, "end": 1}]}, "'segments' may say which part"),
    "a channel": ({"audio": "two.wav", "channel_selector": 1}, "'channel_selector' may say which part"),
    "milliseconds as seconds": ({"start": 500, "end": 1500}, "1500 s are its end, but the file has 4.000 s"),
    "after the end": ({"offset": 3, "duration": 2}, "5 s are its end, but the file has 4.000 s"),
    "two starts": ({"offset": 1, "start": 2}, "offset 1 and start 2 are not the same"),
    "a length that is no length": ({"start": 1, "end": 2, "duration": 4}, "a duration of 4 s, but from 1 to 2 s"),
    "a duration of another file": ({"duration": 3}, "a duration of 3 s, but the file has 4.000 s; where a part"),
    "no number": ({"offset": "1 s", "duration": 2}, "offset is '1 s', not a time in seconds"),
    "NaN": ({"offset": float("nan"), "duration": 2}, "offset is nan, not a time in seconds"),
    "backwards": ({"start": 2, "end": 1}, "its part from 2 to 1 s is empty"),
    "empty": ({"offset": 1, "duration": 0}, "its part from 1 to 1 s is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_are_not_understood(tmp_path, name):
    row, message = REFUSED[name]
    tone(tmp_path / "r.wav", 4)
    soundfile.write(tmp_path / "two.wav", np.zeros((64000, 2)), 16000)
    path = lines(tmp_path / "m.jsonl", {"audio": "r.wav", "text": "a", **row})
    with pytest.raises(UserError) as err:
        importer.read(path)
    assert "m.jsonl:1: " in str(err.value) and message in str(err.value)


def test_the_same_audio_twice(tmp_path, capsys):
    """Of one set it is refused unless it is said to be so, and then never in two sets."""
    rows = []
    for i in range(20):
        tone(tmp_path / f"{i}.wav", 0.5)
        rows += [{"audio": f"{i}.wav", "text": word, "id": f"{word}{i}"} for word in ("some", "other")]
    path = lines(tmp_path / "m.jsonl", *rows)
    with pytest.raises(UserError, match="m.jsonl: 20 utterances have the audio of another one: some0 and other0"):
        import_data.main([str(path), str(tmp_path / "train")])
    out = [str(tmp_path / name) for name in ("train", "valid", "test")]
    import_data.main([str(path), out[0], "--held_out", *out[1:], "--repeated_audio"])
    sets = {name: DataDir.load(name) for name in out}
    heard = [{data.wav_scp[utt] for utt in data.utts} for data in sets.values()]
    assert [len(files) for files in heard] == [16, 2, 2] and len(set.union(*heard)) == 20
    check_apart(sets)
    with pytest.raises(UserError, match="x: 4 of 4 utterances, such as other.*, have the audio of utterances of valid"):
        check_apart({"valid": sets[out[1]], "x": sets[out[1]]})
    check_apart({"y": sets[out[1]], "x": sets[out[1]]}, ["x", "y"])
    capsys.readouterr()
    assert validate_data.main([out[0]]) == 1 and "has the audio of other" in capsys.readouterr().out
    assert validate_data.main([out[0], "--repeated_audio", "true"]) == 0


def test_a_turn_within_another_is_held_out_with_it(tmp_path):
    file = tone(tmp_path / "r.wav", 60)
    utts = [f"{kind}{i:02d}" for i in range(20) for kind in "ab"]
    times = {
        utt: (3.0 * int(utt[1:]) + (utt[0] == "b"), 3.0 * int(utt[1:]) + (1.2 if utt[0] == "b" else 2)) for utt in utts
    }
    data = DataDir({"r": str(file)}, dict.fromkeys(utts, "x"), {utt: utt for utt in utts},
                   {utt: ("r", *part) for utt, part in times.items()})  # fmt: skip
    parts = importer.hold_out(data, 2)
    assert [len(part.text) for part in parts] == [32, 4, 4]
    check_apart(dict(zip("abc", parts)))


def test_audio_in_common_is_found_as_by_comparing_all():
    rng = np.random.default_rng(0)
    sets = []
    for name in "ab":
        starts, lengths = rng.integers(40, size=40), rng.choice([1, 3, 15, np.inf], size=40)
        sets.append(
            {f"{name}{i}": (str(i % 2), a, a + n) for i, (a, n) in enumerate(zip(starts.tolist(), lengths.tolist()))}
        )
    for share in (0.0, 0.5):
        for place in sets[1].values():
            brute = any(other[0] == place[0] and in_common(place[1:], other[1:], share) for other in sets[0].values())
            assert overlaps(place, by_file(sets[0]), share) == brute


def test_parts_of_one_recording_and_copies_take_no_longer():
    """Recordings of parliaments have tens of thousands of utterances; a list may have one sound file only."""
    one, other = ({f"{name}{i:05d}": ("r", 6.0 * i + at, 6.0 * i + at + 2.9) for i in range(20000)}
                  for name, at in (("a", 0), ("b", 3)))  # fmt: skip
    parts = by_file(one)
    assert not any(overlaps(place, parts) for place in other.values())
    copies = {f"c{i:05d}": ("r", 0.0, np.inf) for i in range(20000)}
    assert overlapping(copies) == [(utt, "c00000") for utt in list(copies)[1:]]


def test_much_that_shares_audio_is_not_held_out(tmp_path):
    """Windows over one recording cannot be held out of each other; a file with many texts stays in training."""

    def data(starts):
        utts = {f"u{i:03d}": ("r", float(start), start + 3.0) for i, start in enumerate(starts)}
        return DataDir({"r": "r.wav"}, dict.fromkeys(utts, "x"), {utt: utt for utt in utts}, utts)

    for starts in ([0] * 40, range(40)):
        with pytest.raises(UserError, match="40 utterances share so much audio that 2 sets cannot be held out"):
            importer.hold_out(data(starts), 2)
    parts = importer.hold_out(data([0] * 60 + [5 * i for i in range(1, 41)]), 2)
    assert [len(part.text) for part in parts] == [80, 10, 10]
    assert {f"u{i:03d}" for i in range(60)} <= set(parts[0].text)


def test_turns_that_overlap_are_no_repetition(tmp_path):
    file = tone(tmp_path / "r.wav", 4)
    room = kaldi(tmp_path / "d", wav_scp=f"r {file}\n", text="a-1 x\nb-1 y\n", utt2spk="a-1 a\nb-1 b\n",
                 spk2utt="a a-1\nb b-1\n", segments="a-1 r 0 2\nb-1 r 1.5 3\n")  # fmt: skip
    assert validate(room, repeated_audio=False) == []
    data = DataDir.load(room)
    check_apart({"a": data.subset(["a-1"]), "b": data.subset(["b-1"])})
    data.segments["b-1"] = ("r", 0.5, 1.5)
    with pytest.raises(UserError, match="b: 1 of 1 utterances, such as b-1"):
        check_apart({"a": data.subset(["a-1"]), "b": data.subset(["b-1"])})


@pytest.mark.parametrize("end, samples", [(4.0, 32000), (4.025, 32000), (4.5, 32000), (4.6, None), (9, None)])
def test_segments_that_end_after_their_file(tmp_path, capsys, end, samples):
    """As Kaldi's extract-segments, up to half a second."""
    file = tone(tmp_path / "r.wav", 4)
    room = kaldi(tmp_path / "d", wav_scp=f"r {file}\n", text="a x\nb y\n", utt2spk="a a\nb b\n",
                 spk2utt="a a\nb b\n", segments=f"a r 0 2\nb r 2 {end}\n")  # fmt: skip
    if samples is None:
        with pytest.raises(UserError, match=f"segments:2: b: .*cannot cut 2 s to {end:g} s from a file of 4.000 s"):
            format_audio(room, tmp_path / "dump", nj=1)
        return
    format_audio(room, tmp_path / "dump", nj=1)
    said = f"segments: 1 segments end up to {end - 4:.3f} s after their file, and with it here"
    assert (said in capsys.readouterr().out) == (end > 4)
    assert DataDir.load(tmp_path / "dump").samples("") == {"a": 32000, "b": samples}


# https://github.com/Plachtaa/seed-vc/pull/108: a cut file held a sample above 1e29, and the loss became NaN.
@pytest.mark.parametrize("subtype, rate", [("FLOAT", 16000), ("FLOAT", 44100), ("DOUBLE", 8000)])
@pytest.mark.parametrize("value, said", [
    (np.nan, "samples that are no numbers, after 1.500 s"), (np.inf, "samples that are no numbers, after 1.500 s"),
    (1e30, "a sample of 1e+30, far beyond full scale, at 1.500 s"), (-32768, "a sample of -32768, far beyond"),
])  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_sound(tmp_path, subtype, rate, value, said, channels):
    x = np.zeros((2 * rate, channels))
    x[3 * rate // 2, -1] = value
    soundfile.write(tmp_path / "x.wav", x, rate, subtype=subtype)
    room = kaldi(tmp_path / "d", wav_scp=f"a {tmp_path}/x.wav\n", text="a x\n", utt2spk="a a\n", spk2utt="a a\n")
    (problem,) = validate(room)
    assert problem.utt == "a" and f"x.wav: holds {said}" in problem.message
    with pytest.raises(UserError, match="x.wav: holds "):
        format_audio(room, tmp_path / "dump", nj=1)


def test_float_samples_beyond_full_scale_are_sound(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.sin(np.arange(16000)) * 3, 16000, subtype="FLOAT")
    room = kaldi(tmp_path / "d", wav_scp=f"a {tmp_path}/x.wav\n", text="a x\n", utt2spk="a a\n", spk2utt="a a\n")
    assert validate(room) == []


def wave_of(path, seconds=0.5, rate=16000):
    tone(path, seconds, rate)
    return str(path)


def test_an_audio_folder_whose_texts_have_another_name(tmp_path):
    """https://github.com/huggingface/datasets/issues/7856: only the audio was read."""
    name = "data/test/54db_00390.0_04583.0.wav"
    wave_of(tmp_path / name)
    lines(tmp_path / "metadata.jsonl", {"file_name": name, "transcript": "Ata tudoù penaos e tro ar bed ?"})
    form, data = importer.read(tmp_path)
    assert form == "audio folder of Hugging Face"
    assert data.text == {"data-test-54db_00390.0_04583.0": "Ata tudoù penaos e tro ar bed ?"}


RECORDING = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "r.wav"}], "sampling_rate": 16000,
             "num_samples": 64000, "duration": 4.0, "channel_ids": [0]}  # fmt: skip


def cut(name, start, duration, cut_start=0.0):
    spoken = {"id": name, "recording_id": "r", "start": start, "duration": duration, "channel": 0, "text": "x"}
    return {"id": name, "type": "MonoCut", "start": cut_start, "duration": 2.0, "channel": 0, "recording": RECORDING,
            "supervisions": [spoken]}  # fmt: skip


MANIFESTS = {
    # its times are of the cut: before it there is audio, before the recording none
    "https://github.com/lhotse-speech/lhotse/issues/1466": ([cut("a", -0.5, 1.0, 1.0)], {"a": (0.5, 1.5)}),
    "https://github.com/lhotse-speech/lhotse/issues/1466, before the recording": (
        [cut("a", -8.854, 8.954, 1.0)], "cuts.jsonl:1: a supervision from -7.854 to 1.1 s of a recording of 4 s",
    ),
    "https://github.com/lhotse-speech/lhotse/issues/1466, by rounding": ([cut("a", -0.005, 1.0)], {"a": (0.0, 0.995)}),
    "https://github.com/lhotse-speech/lhotse/pull/1567": ([cut("a", 1.0, 0.0)], "a: its part from 1 to 1 s is empty"),
    "https://github.com/k2-fsa/icefall/issues/1850": (
        [cut("a", 0, 1), cut("a", 1, 1)], r"cuts.jsonl:2: utterance id 'a' is that of .*cuts.jsonl:1 too",
    ),
    "https://github.com/lhotse-speech/lhotse/issues/1437": (
        [{"audio_filepath": "r.wav", "text": "efg", "offset": 0, "duration": 4.0, "sampling_rate": 16000}],
        {"r": (0.0, None)},
    ),
    "https://github.com/NVIDIA-NeMo/Speech/issues/14977": (
        [{"audio_filepath": "r.wav", "text": "x", "offset": 1, "duration": 2}], {"r-0001000-0003000": (1.0, 3.0)},
    ),
    "https://github.com/NVIDIA-NeMo/Speech/issues/15080": (
        [{"id": "t", "conversations": [{"from": "User", "value": "r.wav", "duration": 1.257, "offset": 2}]}],
        "cuts.jsonl:1: no 'audio'",
    ),
    "https://github.com/QwenAudio/Fun-ASR/issues/35": (
        [{"messages": [{"role": "user", "content": "<|startofspeech|>!r.wav<|endofspeech|>"}], "speech_length": 42}],
        "cuts.jsonl:1: no 'audio'",
    ),
    "https://github.com/QwenAudio/SenseVoice/issues/231": (
        [{"key": "BAC009S0764W0121", "source": "/Users/shixian/asr_example.wav", "source_len": 90, "target": "x"}],
        "cuts.jsonl:1: BAC009S0764W0121: no audio file /Users/shixian/asr_example.wav",
    ),
    "https://github.com/yeyupiaoling/Whisper-Finetune/issues/113": (
        [{"audio": {"path": "r.wav"}, "sentence": "x", "duration": 4}], "cuts.jsonl:1: no 'text'",
    ),
    "https://github.com/yeyupiaoling/Whisper-Finetune/issues/113, with a text": (
        [{"audio": {"path": "r.wav"}, "text": "x"}], r"cuts.jsonl:1: audio is \{'path': 'r.wav'\}, not a text",
    ),
    "https://github.com/NVIDIA-NeMo/Curator/pull/2136": (
        [{"audio": f"{name}.wav", "text": "x", "id": name} for name in ("session.1", "session_1")],
        {"session.1": (0.0, None), "session_1": (0.0, None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("report", MANIFESTS)
def test_manifests_of_reports(tmp_path, report):
    rows, expected = MANIFESTS[report]
    for name in ("r", "session.1", "session_1"):
        wave_of(tmp_path / f"{name}.wav", 4.0)
    path = lines(tmp_path / "cuts.jsonl", *rows)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            importer.read(path)
        return
    data = importer.read(path)[1]
    assert {utt: data.location(utt)[1:] for utt in data.utts} == expected
    data.write(tmp_path / "d")
    format_audio(tmp_path / "d", tmp_path / "dump", rate=8000, nj=1)
    assert len(set(DataDir.load(tmp_path / "dump").wav_scp.values())) == len(rows)


def test_lists_whose_files_are_elsewhere(tmp_path):
    """https://github.com/Mozilla-Data-Collective/datacollective-python/issues/103 and
    https://github.com/DabDans/AudioMarathon/issues/3: each missing file is named with its line.
    """
    (tmp_path / "clips").mkdir()
    (tmp_path / "hi/clips").mkdir(parents=True)
    wave_of(tmp_path / "hi/clips/common_voice_hi_1.wav")
    table = "client_id\tpath\tsentence\ns\tcommon_voice_hi_1.wav\tनमस्ते\ns\tcommon_voice_hi_2.mp3\tx\n"
    for folder, faults in ((tmp_path, 2), (tmp_path / "hi", 1)):
        (folder / "train.tsv").write_text(table)
        with pytest.raises(UserError, match="train.tsv:3: .*no audio file .*clips/common_voice_hi_2.mp3") as err:
            importer.read(folder / "train.tsv")
        assert str(err.value).count("no audio file") == faults


def test_clips_of_the_test_set_in_the_training_set(tmp_path):
    """https://github.com/espnet/espnet/pull/6131: a mistyped filter left them there."""
    (tmp_path / "clips").mkdir()
    for name, clips in (("train", range(6)), ("test", range(5, 8))):
        rows = [f"s{i}\tc{i}.wav\tx{i}\n" for i in clips]
        for i in clips:
            wave_of(tmp_path / f"clips/c{i}.wav")
        (tmp_path / f"{name}.tsv").write_text("client_id\tpath\tsentence\n" + "".join(rows))
    sets = {name: importer.read(tmp_path / f"{name}.tsv")[1] for name in ("train", "test")}
    with pytest.raises(UserError, match="test: 1 of 3 utterances, such as s5-c5, have the audio of .* train"):
        check_apart(sets)


def test_copies_on_purpose(tmp_path):
    """https://github.com/lhotse-speech/lhotse/issues/1457: to balance speakers, an utterance comes twice."""
    wave_of(tmp_path / "a.wav")
    path = lines(tmp_path / "m.jsonl", *({"audio": "a.wav", "text": "x", "id": f"a{i}"} for i in (1, 2)))
    import_data.main([str(path), str(tmp_path / "out"), "--repeated_audio"])
    assert validate(tmp_path / "out") == []
    (problem,) = validate(tmp_path / "out", repeated_audio=False)
    assert (problem.utt, problem.message) == ("a2", "has the audio of a1")


def test_a_length_that_a_pipe_could_not_write(tmp_path):
    """https://github.com/bmc0/dsp/issues/79: 0xFFFFFFFF stands for the sizes; what is there is read."""
    path = tone(tmp_path / "a.wav", 1.0)
    data = bytearray(path.read_bytes())
    for name in (b"RIFF", b"data"):
        at = data.index(name) + 4
        data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    assert audio.check(path).frames == len(audio.read_audio(path)) == 16000


def test_another_rate_is_brought_to_16_khz(tmp_path):
    """https://github.com/huggingface/audio-transformers-course/pull/205: 8 kHz, where Whisper wants 16."""
    room = kaldi(tmp_path / "d", wav_scp=f"a {wave_of(tmp_path / 'a.wav', 1.5, 8000)}\n", text="a x\n", utt2spk="a a\n",
                 spk2utt="a a\n")  # fmt: skip
    format_audio(room, tmp_path / "dump", nj=1)
    assert DataDir.load(tmp_path / "dump").samples("") == {"a": 24000}
