"""Read audio files as 16 kHz mono float32, and say plainly what is wrong with broken ones."""

import io
import os
import re
import shlex
from dataclasses import dataclass

import numpy as np

from espnet_llmvq.base.errors import UserError

SAMPLE_RATE = 16000  # Hz, of everything after stage 3

# Times in `segments` are mostly written with two decimals: what overlaps by no more does not overlap.
END_TOLERANCE = 0.01  # seconds
# A segment may end this much after its file, with which it ends then, as for Kaldi's extract-segments --max-overshoot,
# but only by this share of it.
MAX_OVERSHOOT, OVERSHOOT_SHARE = 0.5, 0.25  # seconds
WHOLE_S = 1e-3  # a part that lacks less than this of its file is all of it

LOUDEST = 100.0  # full scale is 1.0; some float files go beyond it, but no sound is 40 dB louder

# soundfile's names of Ogg (Opus, Vorbis) and MP3. Decoding takes longer than a small model's training step: of Opus
# some 50 seconds of speech a second.
LOSSY = ("OGG", "MP3")
# Beginnings of subtypes of which the size says whether they are whole; FLOAT may hold what is no number.
_UNCOMPRESSED = ("PCM_", "ULAW", "ALAW")

# By the number in a frame's header: kbit/s of MPEG-1 and of MPEG-2 and 2.5; Hz by version.
_MP3_KBPS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

# Beginnings of files that may be whole, but that libsndfile does not read; "ftyp" stands behind 4 bytes.
_FOREIGN = {
    b"ajkg": "shorten", b"ftyp": "a codec of MPEG-4", b"#!AM": "AMR", b"\x30\x26\xb2\x75": "WMA",
    b"\x1aE\xdf\xa3": "a codec of Matroska", b"wvpk": "WavPack", b"MAC ": "Monkey's Audio",
}  # fmt: skip
# What converts them, but for ffmpeg. In SPHERE files there are also shortpack and wavpack, for which NIST has w_decode.
_COMMANDS = {
    "shorten": "sph2pipe -f wav {} FILE.wav",
    **dict.fromkeys(("shortpack", "wavpack"), "w_decode -o pcm {} FILE.sph"),
}

_MP3 = "MPEG_LAYER_III"  # a subtype, in MP3 and WAV files
_LEAD = 1 << 14  # samples of an MP3 file that are decoded before a piece of it: frames draw on up to 511 bytes before

_UNKNOWN_SIZE = 0x7FFFF000  # RIFF sizes from here on are what encoders write into a pipe
_MAX_OGG_PAGE = 65307  # bytes


class AudioError(UserError):
    """An audio file that cannot be used: `path`, `message` (what is wrong) and `fix`.

    repair: what llmvq data fix may do (`tables.Problem`): "drop", or "hand" for a file that only needs converting.
    """

    def __init__(self, path, message, fix, repair="drop"):
        super().__init__(f"{path}: {message} ({fix})")
        self.path, self.message, self.fix, self.repair = str(path), message, fix, repair

    def __reduce__(self):  # it crosses process borders
        return AudioError, (self.path, self.message, self.fix, self.repair)


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file; `frames` counts samples of one channel."""

    rate: int
    channels: int
    frames: int
    format: str

    @property
    def duration(self):
        """Length in seconds."""
        return self.frames / self.rate


def info(path):
    """The AudioInfo of a file without decoding it.

    Raises AudioError when the file is missing, unreadable, without samples, or when its header
    promises more than the file holds.
    """
    with _open(path) as f:
        return AudioInfo(f.samplerate, f.channels, f.frames, f.format)


def check(path):
    """The AudioInfo of a file after checking all of it.

    Raises AudioError like `info`, and also when a compressed file cannot be decoded to its end, or holds samples that
    are no numbers or far beyond full scale. Uncompressed integers are judged by their size, without reading them.
    """
    with _open(path) as f:
        header = AudioInfo(f.samplerate, f.channels, f.frames, f.format)
        sized = f.format in ("WAV", "WAVEX", "RF64", "NIST", "AIFF") and f.subtype.startswith(_UNCOMPRESSED)
        if not sized:
            for _ in _blocks(f, path, 0, f.frames):
                pass
        return header


def ends_with(start, end, duration):
    """Whether a piece from `start` to `end` seconds of a file ends in it, or so little later that it is cut there."""
    return end - duration <= max(END_TOLERANCE, min(MAX_OVERSHOOT, OVERSHOOT_SHARE * (end - start)))


def piece(path, header, start=0.0, end=None, rate=SAMPLE_RATE):
    """(first, stop): the samples from `start` to `end` seconds of a file with this `AudioInfo`.

    A piece that ends a little after the file (`ends_with`) ends with it. Raises AudioError where it ends later, and for
    a piece without a sample at `rate` Hz.
    """
    native, frames = header.rate, header.frames
    first, stop = round(start * native), frames if end is None else round(end * native)
    if stop > frames and ends_with(start, end, header.duration):
        stop = frames
    if not 0 <= first < stop <= frames:
        to = "its end" if end is None else f"{end:g} s"
        message = f"cannot cut {start:g} s to {to} from a file of {header.duration:.3f} s"
        raise AudioError(path, message, "correct the segment")
    if (stop - first) * rate < native / 2:
        raise AudioError(path, f"no sample is left at {rate} Hz", "remove this utterance")
    return first, stop


def read_audio(path, rate=16000, start=0.0, end=None):
    """Samples of a file from `start` to `end` seconds as float32 mono (N,) at `rate` Hz.

    Channels are averaged; the piece is cut first and then resampled with soxr. Full scale is 1.0. Raises AudioError
    when the file is missing, unreadable, empty or truncated, ends before `end`, or holds samples that are no numbers or
    far beyond full scale.
    """
    with _open(path) as f:
        header = AudioInfo(f.samplerate, f.channels, f.frames, f.format)
        x = np.concatenate(list(_blocks(f, path, *piece(path, header, start, end, rate))))
    return np.ascontiguousarray(resample(x, header.rate, rate), dtype=np.float32)


def read_blocks(path, size):
    """Yield a file as float32 mono blocks (size,) at its own rate, the last one shorter.

    Channels are averaged. Raises AudioError like `read_audio`, for what is found only later when its block is reached.
    """
    with _open(path) as f:
        yield from _blocks(f, path, 0, f.frames, size)


def _blocks(f, path, first, stop, size=1 << 16):
    """Yield the frames from `first` to `stop` of an open file as float32 mono (at most size,), all of them.

    In blocks, as a damaged header may promise any number. Raises AudioError where decoding ends before `stop`, and for
    samples as `check_samples`.
    """
    import soundfile

    at = first
    try:
        if f.subtype == _MP3:  # which decodes a little otherwise where it was not searched before
            at = max(0, first - _LEAD)
            f.seek(at)
        elif not f.seekable():  # some codecs can only be read from the beginning
            at = 0
        elif first:
            f.seek(first)
        while at < stop:
            x = f.read(min(size, stop - at), dtype="float32", always_2d=True)
            if not len(x):
                raise _truncated(path, f"{f.frames} samples", f"{at} ({at / f.samplerate:.2f} s)")
            check_samples(x, path, at, f.samplerate)
            x = mono(x)
            skip, at = max(0, first - at), at + len(x)
            if skip < len(x):
                yield x[skip:]
    except soundfile.SoundFileError as err:
        message = f"audio breaks off while decoding, after {at / f.samplerate:.2f} s: {err}"
        raise AudioError(path, message, "restore or remove it") from err


def check_samples(x, path, at, rate):
    """Raise AudioError for samples (N, channels), of a file from sample `at` on, that are no numbers or no sound."""
    good = np.abs(x) <= LOUDEST
    if good.all():
        return
    row, channel = np.argwhere(~good)[0]
    value, second = x[row, channel], f"{(at + row) / rate:.3f} s"
    if np.isfinite(value):
        fix = "if all of it is that large, divide it so that full scale is 1.0; else restore or remove it"
        raise AudioError(path, f"holds a sample of {value:g}, far beyond full scale, at {second}", fix)
    message = f"holds samples that are no numbers, after {second}" + f" ({value})"
    raise AudioError(path, message, "restore or remove it")


def mono(x):
    """The mean of channels (N, channels), (N,) float32."""
    return x[:, 0] if x.shape[1] == 1 else x.mean(axis=1, dtype=np.float64).astype(np.float32)


def resample(x, rate, wanted):
    """Samples (N,) at `rate` Hz, at `wanted` Hz, as float32 if they were."""
    if rate == wanted:
        return x
    import soxr

    return soxr.resample(x, rate, wanted)


def write_audio(path, x, rate):
    """Write float samples (N,), full scale 1.0, as 16-bit PCM; the suffix gives wav or flac.

    Samples are rounded and clipped here because libsndfile truncates them. Raises UserError when the
    file cannot be written.
    """
    import soundfile

    pcm = np.clip(np.rint(np.asarray(x, np.float64) * 32768), -32768, 32767).astype(np.int16)
    try:
        soundfile.write(os.fspath(path), pcm, rate, subtype="PCM_16")
    except soundfile.SoundFileError as err:
        # libsndfile does not tell why; it is the disk, as what is written was made here.
        raise UserError(
            f"{path}: cannot be written: {err}; if the disk is full, free some space, and run again"
        ) from err


def _open(path):
    """An open soundfile.SoundFile with at least one sample and a truthful header."""
    import soundfile

    path = os.fspath(path)
    if not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "audio file not found"
        where = "" if os.path.isabs(path) else f"; relative paths start at {os.getcwd()}"
        raise AudioError(path, what, "correct the path" + where)
    try:
        size = os.path.getsize(path)
        if size == 0:
            raise AudioError(path, "audio file is empty (0 bytes)", "restore or remove it")
        with open(path, "rb") as raw:
            if form := _foreign(raw):
                command = _COMMANDS.get(form, "ffmpeg -i {} FILE.wav").format(shlex.quote(path))
                raise AudioError(path, f"is compressed with {form}, which is not read here", f"try {command}", "hand")
            raw.seek(0)
            promised, ended = _promised_size(raw, size)
        if promised > size:
            raise _truncated(path, f"{promised} bytes", f"{size}")
        if not ended:
            raise AudioError(path, "audio file is truncated: no page ends the stream", "restore or remove it")
        f = soundfile.SoundFile(path)
        if f.format == "MP3" and (data := _mp3_with_length(path)) is not None:
            f.close()
            f = soundfile.SoundFile(io.BytesIO(data))
        if f.subtype == _MP3:
            # soundfile seeks after each read, and behind a seek some 4,000 samples lack the frames before them.
            f.seekable = lambda: False
    except TypeError as err:  # soundfile's, by the suffix .raw
        fix = "convert it to WAV with a tool that is told its rate and encoding, such as sox"
        raise AudioError(path, "cannot be read as audio: it has no header", fix, "hand") from err
    except (soundfile.SoundFileError, OSError) as err:
        raise AudioError(path, f"cannot be read as audio: {err}", "restore or remove it") from err
    if 0 < f.frames < 1 << 62:
        return f
    frames = f.frames
    f.close()
    if frames <= 0:
        raise AudioError(path, "audio file has no samples", "restore or remove it")
    raise AudioError(path, "its header does not give its length", "encode it again into a file")


def _mp3_with_length(path):
    """An MP3 file without a Xing header, with one, as bytes; None for one that has it, or is none from end to end.

    Of a file without it libsndfile guesses the length from the number of bytes and the first frame, and reads no
    further. Its frames are counted here; what stands before the first (ID3) and behind the last (tags) goes.
    """
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(data[at + 6 : at + 10], (21, 14, 7, 0)))
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
    first, count, header = at, 0, data[at : at + 4]
    if not _mp3_frame_bytes(header):
        return None
    # The frame that carries the Xing header is empty: as the first one, but without a checksum.
    mono, mpeg1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    header = bytes([header[0], header[1] | 1, *header[2:], *bytes(side)])
    if data[first + len(header) : first + len(header) + 4] in (b"Xing", b"Info"):
        return None
    while (length := _mp3_frame_bytes(data[at : at + 4])) and at + length <= len(data):
        at, count = at + length, count + 1
    if data[at : at + 3] not in (b"", b"TAG", b"APE", b"LYR") and any(data[at:]):
        return None
    header += b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return header.ljust(_mp3_frame_bytes(header), b"\0") + data[first:at]


def _mp3_frame_bytes(header):
    """Length of the MPEG layer III frame that begins with these 4 bytes; 0 if none does (ISO 11172-3, 13818-3)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in _MP3_RATES or rate == 3 or kbps in (0, 15):
        return 0
    samples, rates = (144, _MP3_KBPS[0]) if version == 3 else (72, _MP3_KBPS[1])
    return samples * 1000 * rates[kbps] // _MP3_RATES[version][rate] + (header[2] >> 1 & 1)


def _promised_size(raw, size):
    """(bytes the file should have, stream ended?); (0, True) where headers do not say."""
    head = raw.read(1024)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return _riff_size(raw, "big" if head[:4] == b"RIFX" else "little"), True
    if head[:4] == b"FORM" and len(head) >= 8:
        return 8 + int.from_bytes(head[4:8], "big"), True
    if head[:8] == b"NIST_1A\n":
        return _nist_size(head), True
    if head[:4] == b"OggS":
        return _ogg_size(raw, size)
    return 0, True


def _riff_size(raw, order):
    """Where the chunk `data` should end (0 when its size is unknown)."""
    raw.seek(12)
    size64 = None
    while len(head := raw.read(8)) == 8:
        name, length = head[:4], int.from_bytes(head[4:], order)
        if name == b"ds64":
            size64 = int.from_bytes(raw.read(16)[8:], order)
            raw.seek(length - 16 + length % 2, os.SEEK_CUR)
        elif name == b"data":
            if length == 0xFFFFFFFF and size64 is not None:
                length = size64
            elif length >= _UNKNOWN_SIZE:
                return 0
            return raw.tell() + length
        else:
            raw.seek(length + length % 2, os.SEEK_CUR)
    return 0


def _foreign(raw):
    """Name of the compression of an open file that libsndfile knows nothing of, "" if it is none of these."""
    head = raw.read(16)
    if head[:8] == b"NIST_1A\n" and head[8:16].strip().isdigit():
        found = re.search(rb"^sample_coding .*,embedded-(\w+)", raw.read(min(int(head[8:16]), 1 << 16)), re.MULTILINE)
        return found[1].decode("ascii", "replace") if found else ""
    return _FOREIGN.get(head[4:8] if head[4:8] == b"ftyp" else head[:4], "")


def _nist_size(head):
    """Header plus samples of a NIST SPHERE file in bytes, or 0 if fields are missing."""
    fields = dict(re.findall(rb"(\w+) -i (\d+)", head))
    try:
        samples = int(fields[b"sample_count"]) * int(fields[b"sample_n_bytes"])
        return int(head[8:16]) + samples * int(fields.get(b"channel_count", 1))
    except (KeyError, ValueError):
        return 0


def _ogg_size(raw, size):
    """(end of the last Ogg page, whether that page is marked as the last of its stream).

    libsndfile takes the length from the last page it finds, so a cut file looks merely shorter.
    """
    raw.seek(max(0, size - 2 * _MAX_OGG_PAGE))
    tail = raw.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return 0, False
    end = size - len(page) + 27 + page[26] + sum(page[27 : 27 + page[26]])
    return end, bool(page[5] & 4)


def _truncated(path, promised, held):
    message = f"audio file is truncated: its header promises {promised}, it holds {held}"
    return AudioError(path, message, "restore or remove it")
