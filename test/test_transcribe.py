"""Transcribing: the text of stage 12, any sound file, long recordings in blocks, formats by hand."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import transcribe as command
from espnet_llmvq.cli.parser import run
from espnet_llmvq.data.audio import AudioError, read_audio, read_blocks
from espnet_llmvq.sequence.sequence import read_sequences
from espnet_llmvq.transcribe import Segment, Transcript
from espnet_llmvq.transcribe.cut import BLOCK, Levels, cut, read_levels, split
from espnet_llmvq.transcribe.transcript import FORMATS, cues, to_json, to_srt, to_text, to_vtt


@pytest.fixture(scope="module")
def recogniser(packed_dir):
    from espnet_llmvq.transcribe import Recogniser

    return Recogniser(packed_dir)


@pytest.fixture
def wave(corpus):
    """A training utterance: (S,) float32 at 16 kHz."""
    return read_audio(f"{corpus.dir}/train00.wav")


def levels(*parts):
    """`Levels` of 20 ms frames from (seconds, decibels) parts."""
    frames = np.concatenate([np.full(round(s / 0.02), d, dtype=np.float32) for s, d in parts])
    return Levels(frames, 0.02, len(frames) * 0.02)


def test_a_short_recording_is_not_cut():
    assert cut(levels((2, -20), (1, -70), (2, -20)), 5.0, 0.4, 0.02) == [(0.0, None)]


def test_cuts_lie_in_pauses():
    """By hand: of each pause 0.2 s stay beside speech, of 0.5 s all do; 0.3 s is no pause."""
    found = cut(
        levels((3, -80), (4, -20), (0.5, -60), (2, -25), (0.3, -70), (2, -20), (6, -75), (3, -30)), 10, 0.4, 0.2
    )
    flat = np.array(found).ravel()
    assert flat == pytest.approx([2.8, 7.2, 7.3, 12.0, 17.6, 20.8], abs=1e-6)


@pytest.mark.parametrize("decibels", [-120.0, -20.0])
def test_without_pauses_pieces_are_short_enough(decibels):
    found = cut(levels((61, decibels)), 20.0, 0.4, 0.02)
    assert found[0][0] == 0 and found[-1][1] == pytest.approx(61)
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
    assert max(end - start for start, end in found) <= 20 + 1e-9


def test_random_levels():
    """Whatever the levels: in order, short enough, and every loud frame is in a segment."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = [(rng.uniform(0.05, 9), rng.choice([-80, -20]) + rng.normal()) for _ in range(12)]
        made, longest = levels(*parts), rng.uniform(2, 8)
        found = cut(made, longest, 0.4, 0.02)
        if found == [(0.0, None)]:
            assert made.duration <= longest
            continue
        assert all(0 < end - start <= longest + 1e-6 for start, end in found)
        assert all(a[1] <= b[0] + 1e-6 for a, b in zip(found, found[1:]))
        inside = np.zeros(len(made.decibels), bool)
        for start, end in found:
            inside[round(start / 0.02) : round(end / 0.02)] = True
        assert inside[made.decibels > -50].all()


def test_split_takes_the_quietest_place():
    level = np.full(1000, -20.0)
    level[700:712] = -50.0
    (first, middle), (again, last) = split(level, 0, 1000, 800)
    assert (first, last) == (0, 1000) and middle == again and 700 < middle < 712
    pieces = list(split(level, 0, 1000, 999))
    assert min(b - a for a, b in pieces) >= 999 // 4


def test_blocks_are_the_file(tmp_path):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 3))
    soundfile.write(tmp_path / "x.flac", x, 44100, subtype="PCM_16")
    blocks = list(read_blocks(tmp_path / "x.flac", 300))
    assert [len(b) for b in blocks] == [300, 300, 300, 100]
    assert np.array_equal(np.concatenate(blocks), read_audio(tmp_path / "x.flac", 44100))
    assert np.concatenate(blocks) == pytest.approx(x.mean(axis=1), abs=1e-4)


def test_levels_of_a_tone(tmp_path):
    """A sine of amplitude A has 10 log10(A^2 / 2) dB; an offset does not count."""
    t = np.arange(22050 * 2) / 22050
    soundfile.write(tmp_path / "x.wav", 0.3 + 0.1 * np.sin(2 * np.pi * 500 * t), 22050, subtype="FLOAT")
    found = read_levels(tmp_path / "x.wav")
    assert found.duration == 2.0 and found.step == 441 / 22050
    assert found.decibels == pytest.approx(np.full(100, 10 * np.log10(0.005)), abs=0.1)


def test_samples_that_are_no_numbers(tmp_path):
    x = np.zeros(20000, dtype=np.float32)
    x[16001] = np.nan
    soundfile.write(tmp_path / "x.wav", x, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"holds samples that are no numbers, after 1.000 s"):
        list(read_blocks(tmp_path / "x.wav", 16000))


def stage_12(phase, sequences, num_beams=2):
    """{path of the sound file: text}, decoded from the experiment directory as `bin.decode` does."""
    from espnet_llmvq.decode.batches import Batches
    from espnet_llmvq.decode.generate import encoded, generate
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.build import load_model

    model, config = load_model(phase)
    tokenizer = load_tokenizer(config["llm"])
    paths = {s.id: s.spans[1].audio for s in read_sequences(sequences)}
    texts = {}
    for ids, batch in Batches(sequences, 1000, tokenizer):
        lists = generate(model, tokenizer, encoded(model, batch), num_beams)
        for utt, row in zip(ids, lists):
            texts[paths[utt]] = tokenizer.decode(row[0].tokens, skip_special_tokens=True).strip()
    return texts


def test_the_text_of_stage_12(recogniser, trained_soft, corpus, packed_dir):
    """Whatever is decoded together."""
    from espnet_llmvq.transcribe import Recogniser

    texts = stage_12(trained_soft[1], corpus.train)
    assert len(set(texts.values())) > 3 and all(texts.values())
    # As packed, a recording may be cut that is longer than twice the longest of training: none is.
    assert {p: r.text for p, r in recogniser.transcribe(texts)} == texts
    assert {p: recogniser(p).text for p in texts} == texts
    small = Recogniser(packed_dir, batch_seconds=1.0)
    done = []
    assert list(small.transcribe(texts, progress=done.append)) == list(recogniser.transcribe(texts))
    assert sum(done) == pytest.approx(sum(soundfile.info(p).duration for p in texts))
    one = Recogniser(packed_dir, num_beams=1)
    assert {p: one(p).text for p in texts} == stage_12(trained_soft[1], corpus.train, 1) != texts


def test_drafts(packed_dir, trained_soft, corpus, tmp_path):
    """Exact, the text of a beam of 1; copied, that of the CTC head; from a model packed with them, too."""
    from espnet_llmvq.bundle.model import pack
    from espnet_llmvq.transcribe import Recogniser

    texts = stage_12(trained_soft[1], corpus.train, 1)
    exact = Recogniser(packed_dir, num_beams=1, draft="ctc")
    assert {p: r.text for p, r in exact.transcribe(texts)} == texts
    copied = Recogniser(packed_dir, num_beams=1, draft="ctc", draft_accept=0.0)
    assert {p: r.text for p, r in copied.transcribe(texts)} != texts
    with pytest.raises(UserError, match="draft ctc is a greedy search, but num_beams is 2; give 1"):
        Recogniser(packed_dir, draft="ctc")
    out = str(tmp_path / "packed")
    search = {"num_beams": 1, "length_penalty": 0.0, "ctc_weight": 0.0, "draft": "ctc", "draft_accept": 0.0}
    pack(trained_soft[1], out, system="soft", label="", decode="llm", search=search)
    assert list(Recogniser(out).transcribe(texts)) == list(copied.transcribe(texts))
    assert {p: r.text for p, r in Recogniser(out, draft="none").transcribe(texts)} == texts


def test_ctc_weight_chooses(packed_dir, corpus):
    """With weight 1 it is the hypothesis that the CTC head likes best."""
    from espnet_llmvq.transcribe import Recogniser

    by_ctc = Recogniser(packed_dir, num_beams=4, ctc_weight=1.0)
    by_llm = Recogniser(packed_dir, num_beams=4, ctc_weight=0.0)
    paths = [f"{corpus.dir}/train{i:02d}.wav" for i in range(12)]
    assert [by_ctc(p).text for p in paths] != [by_llm(p).text for p in paths]


def test_the_encoder_alone(trained_soft, corpus, tmp_path):
    """A packed CTC system gives the greedy text."""
    from espnet_llmvq.bundle.model import pack
    from espnet_llmvq.decode.batches import Batches
    from espnet_llmvq.decode.ctc import greedy
    from espnet_llmvq.decode.generate import encoded
    from espnet_llmvq.transcribe import Recogniser

    search = {"num_beams": 4, "length_penalty": 0.0, "ctc_weight": 0.0}
    pack(trained_soft[0], str(tmp_path / "ctc"), system="ctc", label="", decode="ctc", search=search)
    recogniser = Recogniser(tmp_path / "ctc")
    for (utt,), batch in Batches(corpus.valid, 100, recogniser.tokenizer, 1):
        ((hyp,),) = greedy(recogniser.model, encoded(recogniser.model, batch))
        text = recogniser.tokenizer.decode(hyp.tokens, skip_special_tokens=True).strip()
        assert recogniser(f"{corpus.dir}/{utt}.wav").text == text != ""


def test_rates_and_channels(recogniser, wave, tmp_path):
    """Rates and channel layouts that hold the same sound give the same text."""
    soundfile.write(tmp_path / "mono.wav", wave, 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "stereo.wav", np.stack([wave, wave], 1), 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "same.flac", wave, 16000, subtype="PCM_16")
    text = recogniser(tmp_path / "mono.wav").text
    assert text and recogniser(tmp_path / "stereo.wav").text == recogniser(tmp_path / "same.flac").text == text
    # Opposite channels cancel out: silence.
    soundfile.write(tmp_path / "opposite.wav", np.stack([wave, -wave], 1), 16000, subtype="PCM_16")
    assert recogniser(tmp_path / "opposite.wav").text == ""


def bad_files(room, wave):
    """{name: part of the error, or None for a sane transcript, "" for an empty one}."""
    t = np.arange(96000) / 96000
    rng = np.random.default_rng(0)
    sounds = {
        "silence.wav": (np.zeros(32000), 16000, ""),
        "dither.wav": (rng.integers(-1, 2, 32000) / 32768, 16000, ""),
        "dc.wav": (np.full(32000, 0.5), 16000, ""),
        "one_sample.wav": (np.array([0.5]), 16000, ""),
        "one_sample_8k.wav": (np.array([0.5]), 8000, ""),
        "short.wav": (wave[:200], 16000, ""),
        "clipped.wav": (np.clip(50 * wave, -1, 1), 16000, None),
        "low.wav": (wave[::2], 8000, None),
        "high.wav": (0.3 * np.sin(2 * np.pi * 450 * t), 96000, None),
        "one_sample_96k.wav": (np.array([0.5]), 96000, "no sample is left at 16000 Hz"),
    }
    expected = {}
    for name, (x, rate, what) in sounds.items():
        soundfile.write(room / name, x, rate, subtype="PCM_16")
        expected[name] = what
    soundfile.write(room / "nan.wav", np.full(9000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(room / "whole.wav", wave, 16000, subtype="PCM_16")
    data = (room / "whole.wav").read_bytes()
    (room / "cut.wav").write_bytes(data[: len(data) // 2])
    (room / "text.wav").write_text("this is no sound\n" * 100)
    (room / "empty.wav").write_bytes(b"")
    soundfile.write(room / "long.flac", np.tile(wave, 20), 16000, subtype="PCM_16")
    data = (room / "long.flac").read_bytes()
    (room / "half.flac").write_bytes(data[: len(data) // 2])
    os.remove(room / "long.flac")
    expected |= {"nan.wav": "samples that are no numbers", "whole.wav": None, "cut.wav": "truncated"}
    expected |= {"text.wav": "cannot be read as audio", "empty.wav": r"empty \(0 bytes\)", "": "is a directory"}
    return {**expected, "half.flac": "breaks off|truncated", "missing.wav": "audio file not found"}


def test_bad_input(recogniser, packed_dir, wave, tmp_path, capsys):
    """Each is an error or a transcript, alone and among others; what is good is written, and nothing else."""
    room = tmp_path / "audio"
    room.mkdir()
    expected = bad_files(room, wave)
    paths = [str(room / name) for name in expected]
    results = dict(recogniser.transcribe(paths, words=True))
    assert list(results) == paths
    for name, what in expected.items():
        found = results[str(room / name)]
        if what:
            assert isinstance(found, UserError) and re.search(what, str(found)), (name, found)
        else:
            assert isinstance(found, Transcript), (name, found)
            assert (found.text == "") == (what == "")
    with pytest.raises(SystemExit) as status:
        run(command.main, [packed_dir, *paths, "--format", "json", "--out_dir", str(tmp_path / "out")])
    assert status.value.code == 1
    err = capsys.readouterr().err
    bad = [name for name, what in expected.items() if what]
    assert f"error: {len(bad)} of {len(paths)} sound files could not be transcribed" in err
    assert "Traceback" not in err and all(f"error: {room / name}" in err for name in bad if name)
    assert "RTF=" in err
    good = sorted(name.replace(".wav", ".json") for name, what in expected.items() if not what)
    assert sorted(os.listdir(tmp_path / "out")) == [".llmvq-written", *good]
    for name in good:
        text = json.loads((tmp_path / "out" / name).read_text())["text"]
        assert text == results[str(room / name.replace(".json", ".wav"))].text


def test_a_segment_that_the_context_does_not_hold(packed_dir, corpus, tmp_path, capsys):
    """Its recording is an error that names it; the others are transcribed, and what is cut off is listed."""
    from espnet_llmvq.decode import generate
    from espnet_llmvq.transcribe import Recogniser

    recogniser = Recogniser(packed_dir)
    paths = [f"{corpus.dir}/train{i:02d}.wav" for i in range(3)]
    whole = [result for _, result in recogniser.transcribe(paths)]
    prompts, search = [], generate.search

    def note(model, tokenizer, inputs, *args):
        prompts.extend(len(row) for row in inputs)
        return search(model, tokenizer, inputs, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "search", note)
        list(recogniser.transcribe(paths))
    longest = max(prompts)
    assert len(prompts) == 3 and prompts.count(longest) == 1
    recogniser.model.llm.config.max_position_embeddings = longest
    for i, (path, result) in enumerate(recogniser.transcribe(paths)):
        if prompts[i] == longest:
            assert isinstance(result, UserError)
            assert re.match(rf"{path}: 0.0 to [\d.]+ s: the prompt has {longest} positions", str(result))
        else:
            assert len(result.segments) == len(whole[i].segments)
    shutil.copytree(packed_dir, tmp_path / "short")
    manifest = json.loads((tmp_path / "short/manifest.json").read_text())
    assert manifest["search"]["tokens_per_second"] >= 8
    manifest["search"]["tokens_per_second"] = 0
    (tmp_path / "short/manifest.json").write_text(json.dumps(manifest))
    cut = Recogniser(tmp_path / "short")(paths[0]).segments
    assert [s.at_limit for s in cut] == [True]
    command.main([str(tmp_path / "short"), paths[0]])
    listed = f"warning: {paths[0]}: 1 segments reached the length limit: 0.0 to {cut[0].end:.1f} s"
    assert listed in capsys.readouterr().err


@pytest.fixture
def long_file(corpus, tmp_path):
    """Three minutes at 8 kHz, stereo: (path, [(start, end)] of the utterances in it, with 1 s of noise between)."""
    rng, parts, times, at = np.random.default_rng(0), [], [], 0
    utterances = [read_audio(f"{corpus.dir}/train{i:02d}.wav", 8000) for i in range(12)]
    while at < 180 * 8000:
        x = utterances[len(times) % 12]
        times.append((at / 8000, (at + len(x)) / 8000))
        parts += [x, 0.0003 * rng.standard_normal(8000)]
        at += len(x) + 8000
    path = tmp_path / "long.wav"
    x = np.concatenate(parts)
    soundfile.write(path, np.stack([x, x], 1), 8000, subtype="PCM_16")
    return str(path), times


def test_a_long_recording_in_bounded_memory(packed_dir, long_file, monkeypatch):
    """Neither reading nor encoding ever sees more than a block or a batch; segments are where speech is."""
    from espnet_llmvq.decode import generate
    from espnet_llmvq.transcribe import Recogniser

    path, times = long_file
    read, batches = [], []
    plain_read, plain_encoded = soundfile.SoundFile.read, generate.encoded

    def spied_read(self, frames=-1, *args, **kwargs):
        x = plain_read(self, frames, *args, **kwargs)
        read.append(len(x))
        return x

    def spied_encoded(model, batch):
        batches.append(int(batch["speech_lengths"].sum()) / 16000)
        return plain_encoded(model, batch)

    monkeypatch.setattr(soundfile.SoundFile, "read", spied_read)
    monkeypatch.setattr(generate, "encoded", spied_encoded)
    recogniser = Recogniser(packed_dir, batch_seconds=10.0, margin=0.2)
    transcript = recogniser(path)
    assert max(read) == 160 * BLOCK < 180 * 8000 / 10
    assert sum(read) > 180 * 8000
    assert len(batches) > 5 and max(batches) <= 10 + recogniser.max_segment
    found = np.array([(s.start, s.end) for s in transcript.segments])
    assert len(found) == len(times)
    # 0.2 s of each pause stay, and the frames at the edges are only partly speech
    outside = np.abs(found - np.array(times) - [-0.2, 0.2])
    outside[0, 0] = 0  # the recording begins with speech
    assert outside.max() <= 0.041
    assert transcript.text and transcript.duration == pytest.approx(soundfile.info(path).duration)


def test_word_times_are_of_the_recording(packed_dir, long_file):
    """A later segment has later words, all within it."""
    from espnet_llmvq.transcribe import Recogniser

    transcript = Recogniser(packed_dir, num_beams=1)(long_file[0], words=True)
    timed = [s for s in transcript.segments if s.words]
    assert timed and timed[-1].start > 60
    assert all(s.words is None or " ".join(w.word for w in s.words) == s.text for s in transcript.segments)
    for s in timed:
        assert all(s.start <= w.start <= w.end <= s.end + 1e-6 for w in s.words)
        assert [w.start for w in s.words] == sorted(w.start for w in s.words)


WORDS = tuple(Word(w, 3600.5 + 0.5 * i, 0.4, 0.9) for i, w in enumerate("a <b> & c".split()))
MADE = Transcript("x.wav", 3700.0, (
    Segment(0.0, 2.5, "hello there"), Segment(3.0, 4.0, "", ()), Segment(3600.0, 3603.0, "a <b> & c", WORDS, True),
))  # fmt: skip


def test_formats_by_hand():
    assert tuple(FORMATS) == command.FORMATS
    assert to_text(MADE) == "hello there\na <b> & c\n"
    assert to_srt(MADE) == (
        "1\n00:00:00,000 --> 00:00:02,500\nhello there\n\n2\n01:00:00,500 --> 01:00:02,400\na <b> & c\n\n"
    )
    assert to_vtt(MADE) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nhello there\n\n01:00:00.500 --> 01:00:02.400\na &lt;b&gt; &amp; c\n\n"
    )
    assert json.loads(to_json(MADE)) == {
        "audio": "x.wav", "duration": 3700.0, "text": "hello there a <b> & c",
        "segments": [
            {"start": 0.0, "end": 2.5, "text": "hello there"},
            {"start": 3.0, "end": 4.0, "text": "", "words": []},
            {"start": 3600.0, "end": 3603.0, "text": "a <b> & c", "at_limit": True, "words": [
                {"word": w.word, "start": w.start, "end": round(w.start + 0.4, 3), "confidence": 0.9} for w in WORDS
            ]},
        ],
    }  # fmt: skip
    empty = Transcript("x.wav", 1.0, (Segment(0.0, 1.0, ""),))
    assert (to_text(empty), to_srt(empty), to_vtt(empty), empty.text) == ("", "", "WEBVTT\n\n", "")


def test_subtitles_are_short():
    """No more than two lines of 42 characters and 6 seconds; no word is lost."""
    words = tuple(Word(f"word{i}", 0.3 * i, 0.25, 1.0) for i in range(100))
    slow = tuple(Word(f"slow{i}", 100 + 2.0 * i, 1.0, 1.0) for i in range(10))
    made = Transcript("x", 200, (
        Segment(0, 40, " ".join(w.word for w in words), words),
        Segment(100, 130, " ".join(w.word for w in slow), slow),
    ))  # fmt: skip
    found = cues(made)
    for start, end, text in found:
        assert end - start <= 6 and len(text.split("\n")) <= 2 and max(map(len, text.split("\n"))) <= 42
    assert " ".join(text for *_, text in found).split() == [w.word for w in words + slow]
    assert all(a[1] <= b[0] for a, b in zip(found, found[1:]))


def test_printed(packed_dir, recogniser, corpus, capsys):
    a, b = f"{corpus.dir}/train00.wav", f"{corpus.dir}/train01.wav"
    command.main([packed_dir, a])
    assert capsys.readouterr().out == recogniser(a).text + "\n"
    command.main([packed_dir, a, b, a])
    assert capsys.readouterr().out == f"{a}\t{recogniser(a).text}\n{b}\t{recogniser(b).text}\n"
    command.main([packed_dir, a, "--format", "vtt"])
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:00.")


@pytest.mark.parametrize(
    "more, message",
    [
        (["b.wav", "--format", "srt"], "--format srt of several files needs --out_dir"),
        (["x/a.mp3", "--out_dir", "out"], "a.wav and x/a.mp3 would both be written to out/a.txt"),
        (["--out_dir", __file__], "--out_dir .*test_transcribe.py is not a directory"),
        (["--draft_accept", "1.5"], "--draft_accept 1.5: expected a number from 0 to 1"),
        (["--num_beams", "0"], "--num_beams 0: expected at least 1"),
        (["--ctc_weight", "2"], "--ctc_weight 2.0: expected a number from 0 to 1"),
        (["--max_segment", "nan"], "--max_segment nan: expected at least 1"),
    ],
)
def test_wrong_options(packed_dir, more, message):
    with pytest.raises(UserError, match=message):
        command.main([packed_dir, "a.wav", *more])


def test_a_broken_model_is_an_error_before_anything_is_read(packed_dir, tmp_path):
    broken = shutil.copytree(packed_dir, tmp_path / "model")
    os.remove(broken / "model.safetensors")
    with pytest.raises(UserError, match="lacks model.safetensors"):
        command.main([str(broken), "a.wav", "--out_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_text_is_one_line():
    """Whatever the LLM wrote, in all formats."""
    ends = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    segment = Segment(0.0, 2.0, "".join(f"a{end}" for end in ends) + "\n\nb")
    found = Transcript("x.wav", 2.0, (segment, segment))
    text = "a " * len(ends) + "b"
    assert found.text == f"{text} {text}"
    lines = {name: write(found).splitlines() for name, (_, write) in FORMATS.items()}
    assert lines["text"] == [text, text] and len(lines["json"]) == 1 and len(lines["srt"]) == 8
