"""Speech synthesis: word times, determinism, data directories."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import synthesise as command
from espnet_llmvq.data import espeak
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.synthesise import synthesise

TRICKY = "Well, one of the best-known cooks I have been to was 25. Is the café - open?"


@pytest.fixture(scope="module")
def engine():
    return espeak.Espeak()


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=float)))) if len(x) else 0.0


@pytest.mark.parametrize("voice", ["en-us", "en-gb+f4", "en-gb-scotland+m4", "en-029+f5"])
def test_every_token_has_one_interval(engine, voice):
    wave, words = engine.speak(TRICKY, voice)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert [w for *_, w in words] == TRICKY.split()
    times = [t for start, end, _ in words for t in (start, end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(wave) / 16000
    for start, end, word in words:
        if word == "-":
            assert start == end
        else:
            assert end - start > 0.02, word
    assert 0.02 < rms(wave) < 0.3 and np.abs(wave).max() < 1


def test_words_are_where_the_sound_is(engine):
    """Pauses after commas and full stops lie between the intervals, and are silent."""
    wave, words = engine.speak("Stop, look, and go. Nobody came.")
    gaps = [(a[1], b[0]) for a, b in zip(words, words[1:], strict=False) if b[0] - a[1] > 0.08]
    assert len(gaps) == 3  # two commas and a full stop
    for start, end in gaps:
        assert rms(wave[int(start * 16000) + 320 : int(end * 16000) - 320]) < 0.02 * rms(wave)
    for start, end, _ in words:
        assert rms(wave[int(start * 16000) : int(end * 16000)]) > 0.2 * rms(wave)


def test_phrase_of_the_dictionary_is_cut_between_its_words(engine):
    """espeak has one event for "of the": /Vv D@/, cut after two of four phonemes."""
    _, words = engine.speak("The top of the hill.")
    (_, end, of), (start, stop, the) = words[2], words[3]
    assert (of, the) == ("of", "the")
    assert end == start < stop
    assert 0.3 < (end - words[2][0]) / (stop - words[2][0]) < 0.7


def test_token_spans_by_hand():
    """Two tokens, the second of two events; then a pause; then two tokens under one event."""
    tokens = [(0, 2, "ab"), (3, 6, "c-d,"), (7, 8, "e"), (9, 11, "fg")]
    words, phones, pauses = {0: 0, 100: 3, 150: 5, 300: 7}, [0, 50, 100, 150, 300, 330, 370], [200, 400]
    events = [(at, "word", place) for at, place in words.items()] + [(at, "phone", 0) for at in phones]
    events = sorted(events + [(at, "pause", 0) for at in pauses], key=lambda event: event[0])
    spans = espeak._token_spans(tokens, events, 450, len)
    assert spans == [(0, 100), (100, 200), (300, 330), (330, 400)]


def test_same_request_same_samples(engine):
    first, words = engine.speak(TRICKY, "en-us+f2", rate_wpm=160, pitch=40)
    time.sleep(1.1)  # the engine would start its noise by the clock, in seconds
    engine.speak("Something else was said.", "en-gb-x-rp+m3", rate_wpm=190)
    again, words2 = espeak.Espeak().speak(TRICKY, "en-us+f2", rate_wpm=160, pitch=40)
    assert np.array_equal(first, again) and words == words2


def test_rate_and_voice_matter(engine):
    slow = engine.speak("We walked along the river.", rate_wpm=150)[0]
    fast = engine.speak("We walked along the river.", rate_wpm=200)[0]
    assert 1.15 < len(slow) / len(fast) < 1.5
    other = engine.speak("We walked along the river.", "en-us+f2", rate_wpm=200)[0]
    assert len(other) != len(fast) or not np.allclose(other, fast)


def test_unknown_voices(engine):
    with pytest.raises(UserError, match="did you mean 'en-gb-scotland'"):
        engine.speak("Hello.", "en-gb-scotlan")
    with pytest.raises(UserError, match="unknown variant 'f22'.*did you mean 'f2'"):
        engine.speak("Hello.", "en-us+f22")
    with pytest.raises(UserError, match="no text"):
        engine.speak("  ")


def test_long_data_path(tmp_path, monkeypatch):
    """espeak-ng itself fails when its data lie under a long path."""
    import espeakng_loader

    long = tmp_path / ("x" * 200)
    long.mkdir()
    (long / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(long / "espeak-ng-data"))
    assert len(espeak.Espeak().speak("Hello there.")[0]) > 5000


def write_text(path, n=6):
    path.write_text("".join(f"utt{i} This is sentence number {i}.\n" for i in range(n)))
    return str(path)


def files(folder):
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in ("", ".wav", ".ctm"))
    return {p.relative_to(folder): p.read_bytes() for p in found}


def test_data_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "text")
    options = ["--text", text, "--voices", "en-us+m1 en-gb", "--seed", "3"]
    stale = tmp_path / ".d.llmvq-new"
    stale.mkdir()
    command.main([*options, "--out", "d", "--nj", "2"])
    out = Path("d")
    assert not stale.exists() and not list(validate("d"))
    text = dict(line.split(" ", 1) for line in (out / "text").read_text().splitlines())
    spk = dict(line.split() for line in (out / "utt2spk").read_text().splitlines())
    assert len(text) == 6 and sorted(spk.values()) == ["en_gb"] * 3 + ["en_us_m1"] * 3
    assert all(utt.startswith(spk[utt] + "-utt") for utt in text)
    ctm = [line.split() for line in (out / "words.ctm").read_text().splitlines()]
    for utt, words in text.items():
        assert [row[4] for row in ctm if row[0] == utt] == words.split()
        info = soundfile.info(f"d/wav/{utt}.wav")
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert all(float(r[2]) + float(r[3]) <= info.duration + 2e-3 for r in ctm if r[0] == utt)

    before = (out / "text").stat().st_mtime_ns, files(out)
    command.main([*options, "--out", "d", "--nj", "1"])
    assert (out / "text").stat().st_mtime_ns == before[0]  # nothing was done
    record = (out / "made.json").read_text()
    (out / "made.json").write_text(record.replace('"command": null', '"command": "other"').replace("null", "3"))
    command.main([*options, "--out", "d", "--nj", "1"])
    assert files(out) == before[1] and (out / "text").stat().st_mtime_ns != before[0]
    monkeypatch.setattr("espnet_llmvq.data.synthesise.VERSION", 99)  # another version of the engine
    capsys.readouterr()
    command.main([*options, "--out", "d", "--nj", "1"])
    assert "there already" not in capsys.readouterr().out and files(out) == before[1]


def test_another_engine(tmp_path):
    tool = tmp_path / "tool.py"
    tool.write_text(
        "import sys, numpy, soundfile\n"
        "text, wav, pitch = sys.argv[1:]\n"
        "if 'number 1' in text: sys.exit('cannot say that')\n"
        "soundfile.write(wav, 0.1 * numpy.ones((800, 2)) * len(text.split()), 8000)\n"
    )
    template = f"{sys.executable} {tool} {{text}} {{wav}} {{pitch}}"
    synthesise([("u", 'It\'s "five" {words} here')], tmp_path / "d", voices=["v"], nj=1, command=template)
    wave, rate = soundfile.read(tmp_path / "d" / "wav" / "v-u.wav")
    assert rate == 16000 and abs(len(wave) - 1600) <= 1 and abs(np.median(wave) - 0.4) < 0.02
    assert os.listdir(tmp_path / "d" / "wav") == ["v-u.wav"]
    assert not (tmp_path / "d" / "words.ctm").exists()
    with pytest.raises(UserError, match="v-utt1: .*cannot say that"):
        synthesise([("utt1", "number 1")], tmp_path / "e", voices=["v"], nj=1, command=template)
    assert not (tmp_path / "e").exists()
    with pytest.raises(UserError, match="needs {text} and {wav}"):
        synthesise([("u", "x")], tmp_path / "f", voices=["v"], nj=1, command="tool {text}")


def test_bad_requests(tmp_path):
    with pytest.raises(UserError, match="did you mean 'f2'"):
        synthesise([("u", "Hello.")], tmp_path / "d", voices=["en-us", "en-us+f22"])
    with pytest.raises(UserError, match="u is repeated"):
        synthesise([("u", "Hello."), ("u", "Bye.")], tmp_path / "d", voices=["en-us"])
    text = tmp_path / "text"
    text.write_text("utt1 Hello.\nutt2\n")
    with pytest.raises(UserError, match="text:2"):
        command.main(["--text", str(text), "--out", str(tmp_path / "d")])
