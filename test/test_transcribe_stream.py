"""Arrays and streams: cuts by hand, whatever the chunks; the text of files; a package that loads nothing."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import espnet_llmvq
from espnet_llmvq import Recogniser, Segment, Transcript, UserError
from espnet_llmvq.data.audio import read_audio
from espnet_llmvq.transcribe.sound import ArraySound, FileSound, check_array
from espnet_llmvq.transcribe.stream import BIN, Heard, StreamCutter


@pytest.fixture(scope="module")
def recogniser(packed_dir):
    return Recogniser(packed_dir)


def sound(rate, *parts, seed=0):
    """Noise (N,) float32 at `rate` Hz from (seconds, decibels) parts."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.standard_normal(round(s * rate)) * 10 ** (d / 20) for s, d in parts]).astype(np.float32)


def chunks(x, sizes):
    """x in pieces of these sizes, again and again."""
    at, sizes = 0, itertools.cycle(sizes)
    while at < len(x):
        size = next(sizes)
        yield x[at : at + size]
        at += size


def cut(x, rate, sizes=(1600,), longest=10.0, min_pause=0.4, margin=0.02):
    """[(start, end)] in seconds of the segments of a stream, and when each of them came."""
    cutter, found, heard = StreamCutter(rate, longest, min_pause, margin), [], 0
    for chunk in chunks(x, sizes):
        heard += len(chunk)
        found += [(first, samples, heard / rate) for first, samples in cutter.push(chunk)]
    found += [(first, samples, heard / rate) for first, samples in cutter.finish()]
    assert all(np.array_equal(samples, x[first : first + len(samples)]) for first, samples, _ in found)
    return [(first / rate, (first + len(samples)) / rate) for first, samples, _ in found], [at for *_, at in found]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_pauses_close_segments(rate):
    """By hand: pauses of 0.5 s and more cut, 0.3 s do not, 0.02 s stay; each comes within 0.15 s of the pause's 0.4."""
    x = sound(rate, (1.5, -70), (2, -20), (0.5, -70), (1.5, -25), (0.3, -70), (2, -20), (4, -70), (3, -30))
    found, at = cut(x, rate, (rate // 50,))
    assert np.array(found) == pytest.approx(np.array([(1.48, 3.52), (3.98, 7.82), (11.78, 14.8)]), abs=0.021)
    assert at[:2] == pytest.approx([3.5 + 0.4, 7.8 + 0.4], abs=0.15) and at[2] == pytest.approx(14.8, abs=0.001)


def test_chunks_change_nothing():
    x = sound(16000, (1, -70), (2, -20), (0.6, -70), (25, -25), (1, -60), (2, -20))
    found = cut(x, 16000)[0]
    assert len(found) > 3
    for sizes in ((31,), (777,), (16000, 5, 0, 320), (len(x),)):
        assert cut(x, 16000, sizes)[0] == found


def test_a_segment_that_grows_too_long_is_cut_where_it_is_quietest():
    """A dip of 0.2 s, too short for a pause, between half and three quarters of 10 s."""
    x = sound(16000, (5, -70), (6, -20), (0.2, -40), (6, -20), (1, -70))
    (first, second), _ = cut(x, 16000)
    assert first[0] == pytest.approx(4.98, abs=0.021) and first[1] == second[0]
    assert 11.0 <= first[1] <= 11.2 and second[1] == pytest.approx(17.22, abs=0.021)


@pytest.mark.parametrize("decibels", [-120, -60, -20])
def test_without_pauses_length_closes(decibels):
    """Nothing tells speech from a pause, so nothing is left out."""
    found, at = cut(sound(16000, (47.03, decibels)), 16000)
    assert found[0][0] == 0 and found[-1][1] == pytest.approx(47.03)
    assert all(a[1] == b[0] and a[1] - a[0] <= 10 for a, b in zip(found, found[1:]))
    assert all(late - start <= 10.2 for (start, _), late in zip(found, at))


def test_random_streams():
    """Whatever comes: in order, short enough, and all that is loud is in a segment; what is kept is bounded."""
    rng = np.random.default_rng(1)
    for seed in range(15):
        parts = [(rng.uniform(0.05, 6), rng.choice([-75, -20])) for _ in range(10)]
        x, longest, margin = sound(8000, *parts, seed=seed), rng.uniform(2, 8), rng.choice([0.0, 0.02, 0.5])
        cutter, found = StreamCutter(8000, longest, 0.4, margin), []
        for chunk in chunks(x, (800,)):
            found += [(first, first + len(samples)) for first, samples in cutter.push(chunk)]
            assert len(cutter.samples) <= 8000 * (longest + 0.2)
        found += [(first, first + len(samples)) for first, samples in cutter.finish()]
        inside = np.zeros(len(x), bool)
        for start, end in found:
            assert 0 < end - start <= longest * 8000 and not inside[start:end].any()
            inside[start:end] = True
        assert found == sorted(found)
        loud, at = np.zeros(len(x), bool), 0
        for seconds, level in parts:
            loud[at : (at := at + round(seconds * 8000))] = level > -50
        # A frame of 20 ms at an edge may be mostly pause.
        edge = np.convolve(loud, np.ones(321), "same") < 321 - 1e-6
        assert inside[loud & ~edge].all()


def test_levels_so_far():
    """Percentiles as NumPy's, within the width of a bin."""
    levels, heard = np.random.default_rng(0).normal(-50, 15, 5000), Heard()
    for part in np.split(levels, 10):
        heard.add(part)
    for share in (10, 50, 99):
        assert heard.percentile(share) == pytest.approx(np.percentile(levels, share), abs=2 * BIN)
    heard.add(np.array([-500.0, 500.0]))
    assert heard.counts.sum() == 5002


@pytest.mark.parametrize("rate, channels, kind", [(16000, 1, "f4"), (8000, 2, "f8"), (44100, 2, "f4")])
def test_an_array_is_heard_as_its_file(tmp_path, rate, channels, kind):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (rate * 3 + 7, channels))
    soundfile.write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
    array = ArraySound("sound 1", soundfile.read(tmp_path / "x.wav", dtype=kind)[0], rate)
    file = FileSound(str(tmp_path / "x.wav"))
    assert np.array_equal(array.levels().decibels, file.levels().decibels)
    assert (array.levels().step, array.levels().duration) == (file.levels().step, file.levels().duration)
    for start, end in ((0.0, None), (0.5, 1.25)):
        assert np.array_equal(array.read(start, end), file.read(start, end))


BAD = [
    (np.zeros(9, np.int16), "samples are int16, and must be floats with full scale 1.0; divide them by 32768"),
    (np.zeros((2, 900), np.float32), r"shape \(2, 900\), and must have \(N,\) or \(N, channels\); transpose it"),
    (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\), and must have \(N,\) or \(N, channels\)$"),
    (np.array([0.0, np.nan]), "samples that are no numbers, after 1.000 s"),
    (np.full(9, 3000.0), "a sample of 3000, far beyond full scale, at 0.000 s"),
    (np.array(["a"]), "samples are <U1, and must be floats"),
]


@pytest.mark.parametrize("x, message", BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_arrays_that_are_no_sound(x, message):
    with pytest.raises(UserError, match="sound 3: .*" + message):
        check_array(x, "sound 3", 1)


def test_files_and_arrays_together(recogniser, corpus):
    """Each array has the text of its file, words too; what is wrong with one is said of it alone."""
    paths = [f"{corpus.dir}/train{i:02d}.wav" for i in range(3)]
    arrays = [soundfile.read(path) for path in paths]
    bad = [arrays[0][0], ([], 16000), (arrays[0][0], 0)]
    given = [*paths, arrays[0], (np.zeros(9, np.int16), 16000), *arrays[1:], *bad]
    results = list(recogniser.transcribe(given, words=True))
    assert [name for name, _ in results] == [*paths, *(f"sound {n}" for n in range(4, 11))]
    files, (first, bad, second, third, *others) = [result for _, result in results[:3]], [r for _, r in results[3:]]
    for one, other in zip(files, (first, second, third)):
        assert one.text and one.segments == other.segments and one.duration == other.duration
    assert first.audio == "sound 4" and "sound 5: samples are int16" in str(bad)
    messages = [
        r"sound 8: a sound is a path or a pair \(samples, rate\), not ndarray", "sound 9: has no samples",
        "sound 10: a sampling rate is a number of samples a second, such as 16000, not 0",
    ]  # fmt: skip
    assert all(re.match(message, str(error)) for message, error in zip(messages, others, strict=True))
    assert recogniser(arrays[0], words=True).segments == first.segments
    with pytest.raises(UserError, match="divide them by 32768"):
        recogniser((np.zeros(9, np.int16), 16000))
    with pytest.raises(UserError, match=r"a list of sounds; for one alone: recogniser\('a.wav'\)"):
        recogniser.transcribe("a.wav")


def test_a_stream_has_the_texts_of_its_utterances(recogniser, corpus):
    """Each segment comes before the next utterance is asked for, and has the text of these samples as a recording."""
    rng, asked, parts, times, at = np.random.default_rng(0), [], [], [], 0
    for i in range(5):
        x = read_audio(f"{corpus.dir}/train{i:02d}.wav")
        parts += [0.0003 * rng.standard_normal(16000), x]
        times.append(((at + 16000) / 16000, (at + 16000 + len(x)) / 16000))
        at += 16000 + len(x)
    x = np.concatenate(parts).astype(np.float32)

    def microphone():
        for chunk in chunks(np.stack([x, x], 1), (160,)):
            asked.append(len(chunk))
            yield chunk

    found, heard = [], []
    for segment in recogniser.stream(microphone(), 16000, words=True):
        found.append(segment)
        heard.append(sum(asked) / 16000)
    assert all(isinstance(segment, Segment) and segment.text for segment in found)
    assert np.array([(s.start, s.end) for s in found]) == pytest.approx(np.array(times) + [-0.02, 0.02], abs=0.05)
    assert all(a < b for a, b in zip(heard, [start for start, _ in times[1:]]))
    for s in found:
        first, stop = round(s.start * 16000), round(s.end * 16000)
        alone = recogniser((x[first:stop], 16000), words=True)
        assert alone.text == s.text
        if s.words is not None:
            starts = [w.start - s.start for w in s.words]
            assert starts == pytest.approx([w.start for w in alone.segments[0].words])
            assert " ".join(w.word for w in s.words) == s.text


def test_a_stream_without_speech_has_no_text(recogniser):
    silence = np.zeros(16000 * 3, np.float32)
    assert list(recogniser.stream([silence], 16000)) == []
    assert list(recogniser.stream([], 16000)) == list(recogniser.stream([silence[:0], silence[:1]], 96000)) == []


def test_a_stream_that_is_no_sound(recogniser):
    """The place is that of the stream; the rate is asked before anything is heard."""
    good = np.zeros(16000, np.float32)
    with pytest.raises(UserError, match="stream: holds samples that are no numbers, after 1.500 s"):
        list(recogniser.stream([good, np.where(np.arange(16000) == 8000, np.nan, 0.0)], 16000))
    with pytest.raises(UserError, match="stream: samples are int16"):
        list(recogniser.stream([good, np.zeros(9, np.int16)], 16000))
    for rate in (0, -1.0, float("nan"), "16000", True):
        with pytest.raises(UserError, match="stream: a sampling rate is a number"):
            recogniser.stream([good], rate)


def test_importing_the_package_loads_nothing():
    """Not even NumPy; and a class without its heavy libraries."""
    code = (
        "import sys, espnet_llmvq\n"
        "new = {m for m in sys.modules if m.startswith('espnet_llmvq.')} | {'numpy', 'torch'} & set(sys.modules)\n"
        "assert not new, new\n"
        "assert set(espnet_llmvq.__all__) <= set(dir(espnet_llmvq))\n"
        "from espnet_llmvq import Recogniser, Segment, Transcript, UserError, Word\n"
        "heavy = {'torch', 'espnet2', 'transformers', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_of_the_package():
    assert {name: getattr(espnet_llmvq, name).__name__ for name in espnet_llmvq.__all__ if name != "__version__"} == {
        name: name for name in ("Recogniser", "Segment", "Transcript", "UserError", "Word")
    }
    assert espnet_llmvq.Transcript is Transcript
    with pytest.raises(AttributeError, match="module 'espnet_llmvq' has no attribute 'Transcriber'"):
        _ = espnet_llmvq.Transcriber


def test_a_library_that_is_missing_is_named(packed_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "espnet_llmvq.bundle.model", None)  # as without torch

    def find(name, *_, original=__builtins__["__import__"], **more):
        if name == "espnet_llmvq.bundle.model":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return original(name, *_, **more)

    monkeypatch.setattr("builtins.__import__", find)
    with pytest.raises(UserError, match=r"needs torch, which is not installed: pip install 'espnet_llmvq\[train\]'"):
        Recogniser(packed_dir)
