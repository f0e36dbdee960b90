"""Audio reading and llmvq data format against soundfile, soxr and hand-made broken files."""

import json
import os
import random
import shlex
import struct
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import file_name
from espnet_llmvq.data import audio, importer
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.copies import perturb_data, perturb_speed
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.fix import fix
from espnet_llmvq.data.format import format_audio
from espnet_llmvq.data.synthesise import synthesise
from espnet_llmvq.data.tables import scan


def noise(n, channels=1, seed=0):
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)
    return x[:, 0] if channels == 1 else x


FORMATS = {
    **{name: {} for name in ("a.wav", "a.flac", "a.mp3", "a.aiff")},
    "a.ogg": {"format": "OGG", "subtype": "OPUS"},
    "v.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.sph": {"format": "NIST"},
    "r.wav": {"format": "RF64"},
    "u.wav": {"subtype": "ULAW"},
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.2, 0.6, 0.97])
def test_truncated_file_is_refused_and_whole_one_read(tmp_path, name, part):
    path = tmp_path / name
    soundfile.write(path, noise(48000), 16000, **FORMATS[name])
    assert audio.check(path).frames == 48000 == audio.info(path).frames
    assert np.array_equal(audio.read_audio(path), soundfile.read(path, dtype="float32")[0])
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=name):
        audio.check(path)
    with pytest.raises(UserError, match=name):
        audio.read_audio(path)


def test_wav_with_extra_chunks_and_unknown_size(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(101), 16000, subtype="PCM_U8")
    content = path.read_bytes()
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(content[:12] + odd + content[12:] + odd)
    assert audio.check(path).frames == 101
    at = content.index(b"data") + 4
    path.write_bytes(content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :])  # written to a pipe
    assert len(audio.read_audio(path)) >= 101
    path.write_bytes(content[:at] + struct.pack("<I", 103) + content[at + 4 :])
    with pytest.raises(UserError, match="truncated"):
        audio.info(path)


def test_unusable_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not found.*relative paths start at"):
        audio.read_audio("x.wav")
    os.mkdir("d.wav")
    Path("empty.wav").write_bytes(b"")
    Path("text.wav").write_text("no audio " * 50)
    Path("bare.raw").write_bytes(b"\0" * 100)
    soundfile.write("none.wav", np.zeros(0), 16000)
    soundfile.write("a.flac", noise(4000), 16000)
    stream = bytearray(Path("a.flac").read_bytes())
    stream[21] &= 0xF0  # the 36 bits of STREAMINFO's number of samples
    stream[22:26] = bytes(4)
    Path("stream.flac").write_bytes(stream)
    reasons = {"d.wav": "directory", "empty.wav": "0 bytes", "text.wav": "cannot be read"}
    reasons |= {"bare.raw": "cannot be read", "none.wav": "no samples", "stream.flac": "length"}
    for name, reason in reasons.items():
        for read in (audio.info, audio.check, audio.read_audio):
            with pytest.raises(UserError, match=f"{name}.*{reason}") as error:
                read(name)
            assert error.value.repair == ("hand" if name == "bare.raw" else "drop")


def test_read_resamples_averages_and_cuts(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(44100, 2), 44100, subtype="FLOAT")
    x = soundfile.read(path, dtype="float32")[0]
    y = audio.read_audio(path, 16000)
    assert y.shape == (16000,) and y.dtype == np.float32 and y.flags.c_contiguous
    np.testing.assert_allclose(y, soxr.resample((x[:, 0] + x[:, 1]) / 2, 44100, 16000), atol=1e-6)
    cut = audio.read_audio(path, 44100, 0.25, 0.5)
    np.testing.assert_allclose(cut, x[11025:22050].mean(1), atol=1e-7)
    for end in (1.005, 1.025, 1.16):  # within the tolerance
        assert len(audio.read_audio(path, 44100, 0.5, end)) == 22050
    for start, end in ((0.5, 1.18), (0.5, 0.5), (1.0, None), (-0.1, 0.5), (2.0, 3.0)):
        with pytest.raises(UserError, match="cannot cut"):
            audio.read_audio(path, 44100, start, end)


def test_write_audio_rounds_and_clips(tmp_path):
    pcm = np.arange(-32768, 32768, dtype=np.int16)
    audio.write_audio(tmp_path / "a.flac", pcm / 32768, 16000)
    assert np.array_equal(soundfile.read(tmp_path / "a.flac", dtype="int16")[0], pcm)
    audio.write_audio(tmp_path / "a.wav", [1.5, -1.5, 0.6 / 32768], 16000)
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32767, -32768, 1]


def put(path, table):
    path.write_text("".join(f"{k} {v}\n" for k, v in sorted(table.items())))


def make(root, segments=None):
    """Four utterances: 16 kHz mono wav and flac, 16 kHz stereo, 22.05 kHz; or segments of them."""
    root.mkdir(parents=True)
    kinds = {"u1": ("wav", 16000, 1), "u2": ("flac", 16000, 1), "u/3": ("wav", 16000, 2), "u4": ("flac", 22050, 1)}
    wav_scp = {}
    for seed, (utt, (suffix, rate, channels)) in enumerate(kinds.items()):
        path = root / f"{utt[-1]}.{suffix}"
        soundfile.write(path, noise(rate // 5, channels, seed), rate)
        wav_scp[utt] = os.path.relpath(path)
    put(root / "wav.scp", wav_scp)
    utts = segments or kinds
    if segments:
        put(root / "segments", segments)
    put(root / "text", {u: f"say {u}" for u in utts})
    put(root / "utt2spk", {u: "s" for u in utts})
    put(root / "spk2utt", {"s": " ".join(sorted(utts))})
    (root / "entities").write_text(f"{sorted(utts)[0]}\tcity=Rome\n")
    return root


@pytest.mark.parametrize("nj, audio_format", [(2, "wav"), (1, "flac")])
def test_format_against_soxr(tmp_path, monkeypatch, capsys, nj, audio_format):
    monkeypatch.chdir(tmp_path)
    src, dst = make(tmp_path / "src"), tmp_path / "out" / "dst"

    def run():
        return format_audio(str(src), str(dst), nj=nj, audio_format=audio_format)

    assert run()
    assert validate(dst, rate=16000) == []
    data = DataDir.load(dst)
    assert data.wav_scp["u1"] == str(src / "1.wav") and data.wav_scp["u2"] == str(src / "2.flac")
    assert data.wav_scp["u/3"] == str(dst / "audio" / f"u%2F3.{audio_format}")
    assert sorted(os.listdir(dst / "audio")) == [f"u%2F3.{audio_format}", f"u4.{audio_format}"]
    assert data.extra["utt2num_samples"] == {u: ["3200"] for u in data.utts}
    assert (dst / "entities").read_bytes() == (src / "entities").read_bytes()
    stereo = soundfile.read(src / "3.wav")[0].mean(axis=1)
    slow = soxr.resample(soundfile.read(src / "4.flac", dtype="float32")[0], 22050, 16000)
    for utt, expected in (("u/3", stereo), ("u4", slow)):
        x, rate = soundfile.read(data.wav_scp[utt])
        assert rate == 16000 and soundfile.info(data.wav_scp[utt]).subtype == "PCM_16"
        assert np.abs(x - expected).max() <= 0.51 / 32768
    assert os.listdir(tmp_path / "out") == ["dst"]

    def stamps():
        return {p: p.stat().st_mtime_ns for p in dst.rglob("*")}

    before = stamps()
    capsys.readouterr()
    assert not run()
    assert "up to date" in capsys.readouterr().out and stamps() == before
    os.utime(src / "4.flac", (time.time() + 9, time.time() + 9))
    assert run()
    assert "up to date" not in capsys.readouterr().out and stamps() != before
    os.unlink(data.wav_scp["u4"])
    assert run() and os.path.exists(data.wav_scp["u4"])


def test_format_cuts_segments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cuts = {"a": "u1 0.0 0.2", "b": "u1 0.05 0.1", "c": "u4 0.1 0.2"}
    src = make(tmp_path / "src", cuts)
    for utt in ("u2", "u/3"):
        table = {r.key: r.value for r in scan(src / "wav.scp")[0] if r.key != utt}
        put(src / "wav.scp", table)
    format_audio(src, tmp_path / "dst", nj=1)
    data = DataDir.load(tmp_path / "dst")
    assert data.segments is None and data.utts == ["a", "b", "c"]
    assert validate(tmp_path / "dst", rate=16000) == []
    whole = soundfile.read(src / "1.wav", dtype="int16")[0]
    for utt, first, stop in (("a", 0, 3200), ("b", 800, 1600)):
        assert np.array_equal(soundfile.read(data.wav_scp[utt], dtype="int16")[0], whole[first:stop])
    part = soundfile.read(src / "4.flac", dtype="float32")[0][2205:4410]
    x = soundfile.read(data.wav_scp["c"])[0]
    assert np.abs(x - soxr.resample(part, 22050, 16000)).max() <= 0.51 / 32768


@pytest.mark.parametrize("name, kind", [("o.ogg", {"format": "OGG", "subtype": "OPUS"}), ("m.mp3", {})])
def test_format_decodes_what_is_slow_to_decode(tmp_path, name, kind):
    src = make(tmp_path / "src")
    soundfile.write(src / name, noise(8000), 16000, **kind)
    table = {r.key: r.value for r in scan(src / "wav.scp")[0]}
    put(src / "wav.scp", {**table, "u1": str(src / name)})
    format_audio(src, tmp_path / "dst", nj=1)
    data = DataDir.load(tmp_path / "dst")
    assert data.wav_scp["u1"] == str(tmp_path / "dst" / "audio" / "u1.wav")
    decoded = np.clip(soundfile.read(src / name)[0], -1, 1)
    x, rate = soundfile.read(data.wav_scp["u1"])
    assert rate == 16000 and np.abs(x - decoded).max() <= 1.01 / 32768


def mp3_frames(data):
    """The MPEG-2 frames of 16 kHz that `data` holds, one after another."""
    rates = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    found = []
    while data[:1] == b"\xff":
        length = 72000 * rates[data[2] >> 4] // 16000 + (data[2] >> 1 & 1)
        found.append(data[:length])
        data = data[length:]
    return found


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("tags", [(b"", b""), (b"ID3\x04\0\0\0\x08\0\0" + bytes(1 << 17), b"TAG" + bytes(125))])
def test_mp3_that_does_not_say_its_length(tmp_path, loud_first, tags):
    """As Common Voice has them: libsndfile guesses by the first frame, too many samples or too few."""
    path = tmp_path / "a.mp3"
    loudness = np.repeat([1, 0.0001] if loud_first else [0.0001, 1], 48000)
    soundfile.write(path, noise(96000) * loudness, 16000, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    said = audio.read_audio(path)
    first, *rest = mp3_frames(path.read_bytes())
    assert b"Xing" in first and len({len(frame) for frame in rest}) > 2
    path.write_bytes(tags[0] + b"".join(rest) + tags[1])
    delay = 529  # of any decoder, which libmpg123 takes away where it knows the length
    with soundfile.SoundFile(path) as f:
        assert f.frames not in (576 * len(rest), 576 * len(rest) - delay)  # else this tests nothing
    found = audio.info(path)
    assert found == audio.check(path)
    assert (found.frames, found.rate, found.format) == (576 * len(rest) - delay, 16000, "MP3")
    x = audio.read_audio(path)
    assert len(x) == found.frames
    blocks = list(audio.read_blocks(path, 5000))
    assert {len(block) for block in blocks[:-1]} == {5000}
    assert np.abs(np.concatenate(blocks) - x).max() < 1e-3
    assert np.abs(audio.read_audio(path, start=1.0, end=2.5) - x[16000:40000]).max() < 1e-3
    # The same sound as before; the encoder's own delay is known to its header alone.
    part = slice(40000, 56000)
    shifts = [n for n in range(len(x) - len(said) + 1) if np.abs(x[n:][part] - said[part]).max() < 1e-3]
    assert len(shifts) == 1 and np.abs(x[shifts[0] :][: len(said)] - said)[:95000].max() < 1e-3
    with pytest.raises(audio.AudioError, match="cannot cut"):
        audio.read_audio(path, end=found.duration + 1)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_parts_of_an_mp3_are_those_of_the_whole(tmp_path, mode, rate):
    """A frame draws on those before it, so what follows a seek was wrong for a tenth of a second and more."""
    path, n = tmp_path / "a.mp3", 150_000
    wave = 0.3 * np.sin(0.05 * np.arange(n)) + 0.1 * np.sin(0.0131 * np.arange(n) ** 1.02)
    soundfile.write(path, wave, rate, format="MP3", bitrate_mode=mode, compression_level=0.3)
    with soundfile.SoundFile(path) as f:
        whole = f.read(n, dtype="float32")  # at once
    assert np.abs(whole - wave).max() < 0.05
    parts = [(0.0, None), (0.01, 0.5), (0.5, 1.5), (1.5, 3.0)]
    for start, end in parts:
        part = slice(round(start * rate), n if end is None else round(end * rate))
        assert np.abs(audio.read_audio(path, rate, start, end) - whole[part]).max() < 1e-6
    for size in (700, 65536):
        assert np.abs(np.concatenate(list(audio.read_blocks(path, size))) - whole).max() < 1e-6


@pytest.mark.skipif("CORPORA" not in os.environ, reason="CORPORA is not set")
def test_mp3_of_common_voice():
    for path in sorted(Path(os.environ["CORPORA"], "cv100", "audio").glob("*.mp3"))[:10]:
        assert len(audio.read_audio(path, 8000)) > 4000 and audio.check(path) == audio.info(path)


def test_format_leaves_nothing_behind_when_audio_is_broken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    src, dst = make(tmp_path / "src"), tmp_path / "dst"
    format_audio(src, dst, nj=1)
    before = json.loads((dst / "made.json").read_text())
    (src / "2.flac").write_bytes((src / "2.flac").read_bytes()[:3000])
    with pytest.raises(UserError, match=r"wav.scp:3: u2: .*2.flac"):
        format_audio(src, dst, nj=1)
    assert json.loads((dst / "made.json").read_text()) == before
    with pytest.raises(UserError):
        format_audio(src, tmp_path / "other", nj=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst", "src"]


def test_format_does_not_overwrite_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    src = make(tmp_path / "src")
    with pytest.raises(UserError, match="give another DEST"):
        format_audio(src, src, nj=1)
    assert validate(src) == []


# Codecs whose files cannot be searched.
UNSEEKABLE = [
    ("WAV", "GSM610", 8000), ("AIFF", "GSM610", 8000), ("W64", "GSM610", 8000), ("WAV", "G721_32", 8000),
    ("AU", "G721_32", 8000), ("AU", "G723_24", 8000), ("AU", "G723_40", 8000), ("WAV", "NMS_ADPCM_16", 8000),
    ("WAV", "NMS_ADPCM_24", 8000), ("WAV", "NMS_ADPCM_32", 8000), ("XI", "DPCM_16", 44100),
]  # fmt: skip


def one_file(root, path):
    """A data directory of one utterance."""
    DataDir({"u": str(path)}, {"u": "say it"}, {"u": "s"}).write(root)
    return root


@pytest.mark.parametrize("form, subtype, rate", UNSEEKABLE)
def test_what_libsndfile_reads_is_read_by_all(tmp_path, form, subtype, rate, capsys):
    """Validation, formatting and repair agree; cut parts are those of the whole."""
    path, tone = tmp_path / f"a.{form.lower()}", 0.3 * np.sin(0.05 * np.arange(9600))
    soundfile.write(path, tone, rate, format=form, subtype=subtype)
    root = one_file(tmp_path / "src", path)
    assert validate(root) == []
    assert fix(root) == 0 and "nothing to repair" in capsys.readouterr().out
    assert format_audio(root, tmp_path / "dst", rate=None, nj=1)
    assert validate(tmp_path / "dst") == []
    with soundfile.SoundFile(path) as f:
        rate, whole = f.samplerate, f.read(f.frames, dtype="float32")
    assert np.array_equal(audio.read_audio(path, rate), whole)
    assert np.array_equal(audio.read_audio(path, rate, 0.05, 0.1), whole[round(0.05 * rate) : round(0.1 * rate)])
    assert np.array_equal(np.concatenate(list(audio.read_blocks(path, 700))), whole)


@pytest.mark.parametrize("subtype", ["DWVW_16", "DWVW_24"])
def test_what_libsndfile_cannot_read_is_refused_by_all(tmp_path, subtype, capsys):
    soundfile.write(tmp_path / "a.aiff", noise(9600), 8000, format="AIFF", subtype=subtype)
    root = one_file(tmp_path / "src", tmp_path / "a.aiff")
    assert ["breaks off while decoding" in p.message and p.repair for p in validate(root)] == ["drop"]
    with pytest.raises(UserError, match="llmvq data fix .* drops them.*\n.*wav.scp:1: u: .*breaks off"):
        format_audio(root, tmp_path / "dst", nj=1)
    with pytest.raises(UserError, match="no utterance would be left"):
        fix(root)


def test_a_header_that_promises_terabytes(tmp_path):
    """The file is named, and the block in which it ends; memory is taken for what is there."""
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(24000), 16000)
    data = bytearray(path.read_bytes())
    assert int.from_bytes(data[21:26], "big") & (1 << 36) - 1 == 24000  # STREAMINFO: 36 bits of total samples
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    blocks = lambda p: list(audio.read_blocks(p, 5000))  # noqa: E731
    for read, second in ((audio.check, "0.00"), (audio.read_audio, "0.00"), (blocks, "1.25")):
        with pytest.raises(audio.AudioError, match=rf"a.flac: audio breaks off while decoding, after {second} s"):
            read(path)


@pytest.mark.parametrize("frames", [90, 1 << 30, (1 << 32) - 1])
def test_an_mp3_that_promises_more_than_it_holds(tmp_path, frames):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(48000), 16000)
    data = bytearray(path.read_bytes())
    at = data.index(b"Xing") + 8
    assert int.from_bytes(data[at : at + 4], "big") < 90
    data[at : at + 4] = frames.to_bytes(4, "big")
    path.write_bytes(data)
    for read in (audio.check, audio.read_audio):
        with pytest.raises(audio.AudioError, match=r"a.mp3: audio file is truncated: .* it holds \d+ \(3.0. s\)"):
            read(path)


def sphere(coding, size=1024):
    """The beginning of a SPHERE file, its coding at the end of a header of `size` bytes."""
    lines = f"sample_count -i 900\nsample_n_bytes -i 2\nsample_coding -s{len(coding)} {coding}\nend_head\n"
    return (f"NIST_1A\n{size:7d}\n" + lines.rjust(size - 16, "\n")).encode()


FOREIGN = {
    "shorten": (b"ajkg\x02", "sph2pipe -f wav"),
    "shorten in SPHERE": (sphere("pcm,embedded-shorten-v2.00"), "sph2pipe -f wav"),
    "a long header": (sphere("ulaw,embedded-shorten-v1.09", 8192), "sph2pipe -f wav"),
    "shortpack": (sphere("pcm,embedded-shortpack-v0"), "w_decode -o pcm"),
    "m4a": (b"\0\0\0\x20ftypM4A ", "ffmpeg -i"),
    "amr": (b"#!AMR\n", "ffmpeg -i"),
    "webm": (b"\x1aE\xdf\xa3", "ffmpeg -i"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_only_needs_converting_is_never_dropped(tmp_path, name, capsys):
    """Not even beside what may be dropped; the tool that reads it is named."""
    head, tool = FOREIGN[name]
    paths = {"u": tmp_path / "a file.sph", "v": tmp_path / "none.wav", "w": tmp_path / "good.wav"}
    paths["u"].write_bytes(head.ljust(9000, b"\0"))
    soundfile.write(paths["w"], noise(800), 16000)
    table = {utt: str(path) for utt, path in paths.items()}
    DataDir(table, dict.fromkeys(table, "say it"), dict.fromkeys(table, "s")).write(tmp_path / "src")
    problem, other = validate(tmp_path / "src")
    assert (problem.utt, problem.repair, other.repair) == ("u", "hand", "drop")
    assert "is compressed with" in problem.message and f"{tool} '{paths['u']}' FILE." in problem.fix
    before = {p.name: p.read_bytes() for p in (tmp_path / "src").iterdir()}
    assert fix(tmp_path / "src") == 1 and "unchanged" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (tmp_path / "src").iterdir()} == before
    with pytest.raises(UserError) as error:
        format_audio(tmp_path / "src", tmp_path / "dst", nj=1)
    assert str(problem) in str(error.value) and "data fix" not in str(error.value)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_samples_that_are_no_numbers_are_refused_by_all(tmp_path, rate):
    """They were referenced as they are, or became full-scale clicks."""
    x = noise(3 * rate)
    x[rate + 1] = np.nan
    soundfile.write(tmp_path / "a.wav", x, rate, subtype="FLOAT")
    root = one_file(tmp_path / "src", tmp_path / "a.wav")
    assert ["that are no numbers" in p.message and p.repair for p in validate(root)] == ["drop"]
    with pytest.raises(UserError, match="that are no numbers, after .* s"):
        format_audio(root, tmp_path / "dst", nj=1)


def damaged(rng, path):
    """Write a file of any format and codec, whole or with damage anywhere; its length in seconds as it was."""
    form = rng.choice(sorted(soundfile.available_formats().keys() - {"RAW"}))
    subtype, rate = rng.choice(sorted(soundfile.available_subtypes(form))), rng.choice([8000, 16000, 22050, 48000])
    x = 0.3 * np.sin(0.05 * np.arange(rng.choice([1, 2, 9600, 30000])))
    try:
        soundfile.write(path, x, rate, format=form, subtype=subtype)
    except (soundfile.SoundFileError, ValueError):  # not at this rate
        soundfile.write(path, x, rate, format="WAV", subtype=rng.choice(["FLOAT", "PCM_24"]))
    data = bytearray(path.read_bytes())
    at, width = rng.randrange(rng.choice([64, 4000])), rng.choice([0, 1, 4, 8])
    data[at : at + width] = rng.choice([b"\xff" * width, b"\x7f" * width, bytes(width), rng.randbytes(width), b""])
    path.write_bytes(data)
    return len(x) / rate


def test_validation_formatting_and_repair_agree(tmp_path, capsys):
    """On whatever files there are, and on pieces at their ends: what is valid is formatted, what is not is not."""
    kinds = set()
    for number in range(40):
        rng = random.Random(number)
        root, good = tmp_path / f"src{number}", tmp_path / "good.wav"
        bad = tmp_path / f"bad{number}"
        seconds = damaged(rng, bad)
        soundfile.write(good, noise(1600), 16000)
        segments, recordings = None, {"a": str(good), "b": str(bad)}
        if rng.random() < 0.5:
            start = rng.choice([0.0, seconds / 3, seconds, seconds + 0.005])
            ends = (start + 1e-5, start + 1e-4, start + 0.005, seconds, seconds + 0.01, seconds + 0.0101)
            segments = {"a": ("a", 0.0, 0.1), "b": ("b", start, rng.choice([e for e in ends if e > start]))}
        DataDir(recordings, {"a": "x", "b": "y"}, {"a": "s", "b": "s"}, segments).write(root)
        problems = validate(root, nj=1)
        repairs = {problem.repair for problem in problems}
        try:
            format_audio(root, tmp_path / f"dst{number}", rate=rng.choice([None, 16000]), nj=1)
            refused = ""
        except UserError as err:
            refused = str(err)
        capsys.readouterr()
        status, said = fix(root, nj=1), capsys.readouterr().out
        assert all(str(problem) in refused for problem in problems)
        if not problems:
            assert not refused and status == 0 and "nothing to repair" in said
            assert validate(tmp_path / f"dst{number}", nj=1) == []
        elif repairs == {"drop"}:
            assert "llmvq data fix" in refused and status == 0 and "dropped: b" in said
            assert format_audio(root, tmp_path / f"dst{number}", nj=1)
        else:
            assert refused and "llmvq data fix" not in refused and status == 1 and "unchanged" in said
        kinds.add((bool(problems), segments is None))
    assert len(kinds) == 4


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_different_ids_have_different_files(tmp_path, audio_format, capsys):
    """In every command that writes audio; what is too long for a file name is an error that names the id."""
    ids = ["a/b", "a%2Fb", "a%b", "../../a", "é/ü"]
    for i in range(len(ids)):
        soundfile.write(tmp_path / f"{i}.wav", noise(4000, seed=i), 8000)
    wav_scp, same = {utt: str(tmp_path / f"{i}.wav") for i, utt in enumerate(ids)}, {utt: utt for utt in ids}
    DataDir(wav_scp, same, same).write(tmp_path / "src")
    format_audio(tmp_path / "src", tmp_path / "dump", nj=1, audio_format=audio_format)
    perturb_data(tmp_path / "src", tmp_path / "noisy", noise=["white"], nj=1)
    tone = ["-c", "import soundfile, sys; soundfile.write(sys.argv[1], [0.1] * 800, 8000)", "{wav}"]
    synthesise(
        list(same.items()), tmp_path / "tts", voices=["v"], nj=1, command=shlex.join([sys.executable, *tone, "{text}"])
    )
    for name in ("dump", "noisy", "tts"):
        found = DataDir.load(tmp_path / name).wav_scp
        assert len({os.path.realpath(path) for path in found.values()}) == len(ids) == len(found)
        assert {os.path.dirname(os.path.realpath(path)) for path in found.values()} == {
            str(tmp_path / name / ("wav" if name == "tts" else "audio"))
        }
    long = "é" * 126
    DataDir({long: wav_scp["a/b"]}, {long: "x"}, {long: "s"}).write(tmp_path / "long")
    for make in (
        lambda: format_audio(tmp_path / "long", tmp_path / "x", nj=1),
        lambda: perturb_speed(tmp_path / "long", tmp_path / "x", [0.9], nj=1),
        lambda: synthesise([(long, "Hello.")], tmp_path / "x", voices=["en-us"], nj=1),
    ):
        with pytest.raises(UserError, match=f"{long}: an id of 25. bytes makes too long a file name"):
            make()
    assert not (tmp_path / "x").exists()
    # It is told when the data is read, so that nothing has been made by then.
    assert [(p.utt, p.repair) for p in validate(tmp_path / "long")] == [(long, "hand")]
    assert fix(tmp_path / "long", nj=1) == 1
    (tmp_path / "m.csv").write_text(f"id,audio,text\n{long},0.wav,x\n")
    with pytest.raises(UserError, match="m.csv:2: é+: an id of 252 bytes makes too long a file name"):
        importer.read(tmp_path / "m.csv")


def test_the_longest_ids(tmp_path):
    utt = "é" * 125
    soundfile.write(tmp_path / "a.wav", noise(800), 8000)
    DataDir({utt: str(tmp_path / "a.wav")}, {utt: "x"}, {utt: "s"}).write(tmp_path / "src")
    assert validate(tmp_path / "src") == []
    format_audio(tmp_path / "src", tmp_path / "dump", audio_format="flac", nj=1)
    assert os.listdir(tmp_path / "dump/audio") == [f"{utt}.flac"]
    with pytest.raises(UserError, match="sp0.9-é*: an id of 256 bytes makes too long a file name"):
        perturb_speed(tmp_path / "src", tmp_path / "sp", [0.9], nj=1)
    assert not (tmp_path / "sp").exists()


def test_a_name_gives_its_id_back():
    ids = [*"ab", "a/b", "a%2Fb", "a%252Fb", "%", "/", "..", "a%", "é/%/"]
    assert [urllib.parse.unquote(file_name(utt)) for utt in ids] == ids


def test_huge_samples_are_refused(tmp_path):
    for value in (3e38, 101, -101):
        soundfile.write(tmp_path / "a.wav", np.full((100, 2), value, np.float32), 16000, subtype="FLOAT")
        with pytest.raises(UserError, match="far beyond full scale"):
            audio.read_audio(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", np.full((100, 2), 100, np.float32), 16000, subtype="FLOAT")
    assert audio.read_audio(tmp_path / "a.wav") == pytest.approx(np.full(100, 100))
