"""Perturbations against closed forms, and the two commands that apply them to data directories."""

import numpy as np
import pytest
import soundfile

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.data import perturb as perturb_data_dir
from espnet_llmvq.cli.data import speed as perturb_data_dir_speed
from espnet_llmvq.data import perturb
from espnet_llmvq.data.datadir import DataDir

RATE = 16000


def sine(hertz, seconds=1.0, peak=0.3):
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def loudest_hertz(x):
    x = x[len(x) // 8 : -len(x) // 8]
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), n=8 * len(x)))
    return np.argmax(spectrum) * RATE / (8 * len(x))


@pytest.mark.parametrize("factor", [0.5, 0.8, 0.9, 1.0, 1.1, 1.3, 2.0])
def test_speed_moves_length_and_pitch(factor):
    x = sine(440, 1.00137)
    y = perturb.change_speed(x, factor)
    assert y.dtype == np.float32 and y.shape == (round(len(x) / factor),)
    assert loudest_hertz(y) == pytest.approx(440 * factor, abs=1.0)
    expected = 0.3 * np.sin(2 * np.pi * 440 * factor * np.arange(len(y)) / RATE)
    inner = slice(400, len(y) - 400)
    assert np.max(np.abs(y - expected)[inner]) < 1e-3


@pytest.mark.parametrize("factor", [0.75, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("hertz", [110, 440, 1700])
def test_tempo_moves_length_but_not_pitch(factor, hertz):
    x = sine(hertz, 1.0003)
    y = perturb.change_tempo(x, factor, RATE)
    assert y.dtype == np.float32 and y.shape == (round(len(x) / factor),)
    assert loudest_hertz(y) == pytest.approx(hertz, rel=0.01)
    inner = y[1000:-1000]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_tempo_moves_events_where_they_belong():
    x = np.zeros(RATE, dtype="f4")
    for second in (0.25, 0.75):
        x[round(second * RATE) :][:800] = sine(600, 0.05)
    for factor in (0.8, 1.25):
        y = np.abs(perturb.change_tempo(x, factor, RATE)) > 0.05
        half = len(y) // 2
        for part, second, offset in ((y[:half], 0.25, 0), (y[half:], 0.75, half)):
            onset = (np.argmax(part) + offset) / RATE
            assert onset == pytest.approx(second / factor, abs=0.03)


@pytest.mark.parametrize("length", [0, 1, 7, 500])
def test_short_inputs(length):
    x = np.full(length, 0.1, dtype="f4")
    rng = np.random.default_rng(0)
    assert len(perturb.change_speed(x, 1.1)) == round(length / 1.1)
    assert len(perturb.change_tempo(x, 0.8, RATE)) == round(length / 0.8)
    assert len(perturb.add_noise(x, 10, "pink", rng)) == length
    assert len(perturb.reverberate(x, 0.3, rng, RATE)) == length


@pytest.mark.parametrize("kind", perturb.NOISE_KINDS)
@pytest.mark.parametrize("snr", [-3.0, 5.0, 20.0])
def test_noise_has_the_snr_asked(kind, snr):
    x = sine(300, 0.7, peak=0.05)
    pool = [sine(h, s) for h, s in ((500, 0.2), (900, 1.4), (1200, 0.7))]
    y = perturb.add_noise(x, snr, kind, np.random.default_rng(1), pool)
    assert y.dtype == np.float32 and y.shape == x.shape
    measured = 20 * np.log10(np.sqrt(np.mean(x**2)) / np.sqrt(np.mean((y - x) ** 2)))
    assert measured == pytest.approx(snr, abs=0.1)


def test_noise_colour():
    x = np.full(1 << 17, 1e-4, dtype="f4")
    slopes = {}
    for kind in ("white", "pink"):
        noise = perturb.add_noise(x, 0, kind, np.random.default_rng(2)) - x
        power = np.abs(np.fft.rfft(noise)) ** 2
        # Octave bands: white noise doubles its power per octave, pink keeps it.
        octaves = [power[2**k : 2 ** (k + 1)].sum() for k in range(8, 16)]
        slopes[kind] = np.polyfit(np.arange(8), 10 * np.log10(octaves), 1)[0]
    assert slopes["white"] == pytest.approx(3.01, abs=0.1)
    assert slopes["pink"] == pytest.approx(0.0, abs=0.1)


def test_nothing_clips():
    x = sine(300, 0.3, peak=1.0)
    rng = np.random.default_rng(0)
    for y in (
        perturb.add_noise(x, -10, "white", rng),
        perturb.reverberate(x, 0.5, rng, RATE),
        perturb.change_speed(x, 0.9),
        perturb.change_tempo(x, 0.9, RATE),
    ):
        assert np.max(np.abs(y)) <= 0.99 + 1e-6


@pytest.mark.parametrize("rt60", [0.2, 0.4, 0.8])
def test_reverberation_decays_as_asked(rt60):
    x = np.zeros(RATE, dtype="f4")
    x[0] = 0.5
    y = perturb.reverberate(x, rt60, np.random.default_rng(3), RATE).astype(np.float64)
    assert np.argmax(np.abs(y)) == 0  # not delayed
    assert np.sum(y**2) == pytest.approx(0.25, rel=1e-4)
    # Schroeder's backward integral of the tail, fitted between -5 and -25 dB.
    energy = np.cumsum(y[:0:-1] ** 2)[::-1]
    decibel = 10 * np.log10(energy / energy[0] + 1e-12)
    fit = (decibel < -5) & (decibel > -25)
    slope = np.polyfit(np.flatnonzero(fit) / RATE, decibel[fit], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.1)


def test_equal_seeds_give_equal_samples():
    x, pool = sine(300, 0.5), [sine(500), sine(700)]

    def draw(seed):
        rng = np.random.default_rng(seed)
        noisy = [perturb.add_noise(x, 10, kind, rng, pool) for kind in perturb.NOISE_KINDS]
        return np.concatenate([*noisy, perturb.reverberate(x, 0.3, rng, RATE)])

    assert np.array_equal(draw(5), draw(5))
    assert not np.array_equal(draw(5), draw(6))


def test_wrong_values_are_named():
    x, rng = sine(300, 0.1), np.random.default_rng(0)
    with pytest.raises(UserError, match="'pink'"):
        perturb.add_noise(x, 10, "pinkk", rng)
    with pytest.raises(UserError, match="other utterances"):
        perturb.add_noise(x, 10, "babble", rng, [])
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="positive"):
            perturb.change_speed(x, wrong)
        with pytest.raises(UserError, match="positive"):
            perturb.reverberate(x, wrong, rng, RATE)


@pytest.fixture
def source(tmp_path):
    """Two speakers; a-2 and b-1 are cut from one recording by `segments`."""
    folder = tmp_path / "src"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, hertz, seconds in (("a-rec", 300, 1.0), ("rec", 500, 3.0)):
        x = sine(hertz, seconds) + 0.001 * rng.standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{name}.wav", x, RATE, subtype="PCM_16")
    files = {
        "wav.scp": f"a-rec {folder}/a-rec.wav\nrec {folder}/rec.wav\n",
        "segments": "a-1 a-rec 0.0 1.0\na-2 rec 0.25 1.0\nb-1 rec 1.0 2.5\n",
        "text": "a-1 One, two\na-2 three\nb-1 four\n",
        "utt2spk": "a-1 a\na-2 a\nb-1 b\n",
        "spk2utt": "a a-1 a-2\nb b-1\n",
        "entities": "a-1\tsize=large\tdrink=black tea\n",
        "words.ctm": "a-1 1 0.18 0.36 One,\na-1 1 0.54 0.09 two\nb-1 1 0.9 0.3 four 0.5\n",
        "utt2dur": "a-1 1.0\na-2 0.75\nb-1 1.5\n",
        "spk2gender": "a f\nb m\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def lines(path):
    return path.read_text().splitlines()


def test_speed_of_a_data_directory(source, tmp_path):
    dest = tmp_path / "train_sp"
    argv = [str(source), "0.9", "1.0", str(dest), "--nj", "2"]
    perturb_data_dir_speed.main(argv)
    expected = {"a-1": 16000, "a-2": 12000, "b-1": 24000}
    expected |= {"sp0.9-a-1": 17778, "sp0.9-a-2": 13333, "sp0.9-b-1": 26667}
    assert lines(dest / "utt2num_samples") == [f"{u} {n}" for u, n in sorted(expected.items())]
    made = DataDir.load(dest)
    assert made.segments is None
    for utt, n in expected.items():
        info = soundfile.info(made.wav_scp[utt])
        assert (info.frames, info.samplerate, info.subtype) == (n, RATE, "PCM_16")
        original = utt.removeprefix("sp0.9-")
        assert f"{utt} {original}" in lines(dest / "utt2uniq")
    assert made.text["sp0.9-a-1"] == made.text["a-1"] == "One, two"
    assert made.utt2spk["sp0.9-b-1"] == "sp0.9-b" and made.utt2spk["b-1"] == "b"
    kept, _ = soundfile.read(made.wav_scp["b-1"], dtype="int16")
    whole, _ = soundfile.read(source / "rec.wav", dtype="int16")
    assert np.array_equal(kept, whole[RATE : RATE * 5 // 2])
    slow, _ = soundfile.read(made.wav_scp["sp0.9-a-2"])
    assert loudest_hertz(slow) == pytest.approx(450, abs=1.0)
    assert made.entities["sp0.9-a-1"] == [("size", "large"), ("drink", "black tea")]
    # Times are divided by the factor: 0.18 / 0.9 = 0.2.
    ctm = lines(dest / "words.ctm")
    assert "sp0.9-a-1 1 0.200 0.400 One," in ctm and "sp0.9-b-1 1 1.000 0.333 four 0.5" in ctm
    assert "a-1 1 0.18 0.36 One," in ctm and len(ctm) == 6
    assert not (dest / "utt2dur").exists()
    assert lines(dest / "spk2gender") == ["a f", "b m", "sp0.9-a f", "sp0.9-b m"]
    assert not dest.with_name(".train_sp.llmvq-new").exists()


def test_second_call_does_nothing_and_other_options_replace(source, tmp_path, capsys):
    dest = tmp_path / "out"
    perturb_data_dir_speed.main([str(source), "0.9", str(dest), "--nj=1"])
    before = (dest / "audio").stat().st_mtime_ns
    perturb_data_dir_speed.main([str(source), "0.9", str(dest), "--nj=2"])
    assert "already" in capsys.readouterr().out
    assert (dest / "audio").stat().st_mtime_ns == before
    perturb_data_dir_speed.main([str(source), "1.1", str(dest), "--nj=1"])
    assert DataDir.load(dest).utts == ["sp1.1-a-1", "sp1.1-a-2", "sp1.1-b-1"]
    assert len(list((dest / "audio").iterdir())) == 3


def test_noisy_version_records_what_was_drawn(source, tmp_path):
    options = ["--noise", "pink babble", "--snr", "5", "15", "--rt60", "0.2", "0.4"]
    options += ["--tempo", "0.8", "1.25", "--suffix=-noise", "--seed", "7"]
    for name, nj in (("one", "1"), ("two", "2")):
        perturb_data_dir.main([*options, "--nj", nj, str(source), str(tmp_path / name)])
    one, two = tmp_path / "one", tmp_path / "two"
    head, *rows = [line.split("\t") for line in lines(one / "perturbation.tsv")]
    assert head == ["utt", "source", "tempo", "rt60_s", "noise", "snr_db"]
    made = DataDir.load(one)
    assert [r[:2] for r in rows] == [[f"{u}-noise", u] for u in ("a-1", "a-2", "b-1")]
    seconds = {"a-1": 1.0, "a-2": 0.75, "b-1": 1.5}
    for utt, original, tempo, rt60, kind, snr in rows:
        assert float(tempo) in (0.8, 1.25) and kind in ("pink", "babble")
        assert 0.2 <= float(rt60) <= 0.4 and 5 <= float(snr) <= 15
        frames = soundfile.info(made.wav_scp[utt]).frames
        assert frames == round(seconds[original] * RATE / float(tempo))
        assert made.utt2spk[utt] == original[0]
    for wav in (one / "audio").iterdir():
        assert wav.read_bytes() == (two / "audio" / wav.name).read_bytes()
    assert lines(one / "perturbation.tsv") == lines(two / "perturbation.tsv")


def test_failure_leaves_nothing_behind(source, tmp_path):
    (source / "rec.wav").write_bytes((source / "rec.wav").read_bytes()[:5000])
    dest = tmp_path / "out"
    with pytest.raises(UserError, match="rec.wav"):
        perturb_data_dir_speed.main([str(source), "0.9", str(dest), "--nj=2"])
    assert not dest.exists() and not dest.with_name(".out.llmvq-new").exists()


def test_the_source_itself_and_an_empty_request_are_refused(source, tmp_path):
    with pytest.raises(UserError, match="is the source itself"):
        perturb_data_dir_speed.main([str(source), "0.9", str(source)])
    with pytest.raises(UserError, match="noise, rt60, tempo"):
        perturb_data_dir.main([str(source), str(tmp_path / "out")])
    with pytest.raises(UserError, match="LOW HIGH"):
        perturb_data_dir.main(["--noise=pink", "--snr", "9", "1", str(source), str(tmp_path / "out")])
