"""Read audio files as 16 kHz mono float32, and say plainly what is wrong with broken ones."""

import os
import re
import threading
from dataclasses import dataclass

import numpy as np

from espnet_llmvq.errors import UserError

# Times in `segments` are mostly written with two decimals, so a segment may overshoot by this much.
END_TOLERANCE = 0.01  # seconds

# soundfile's names of Ogg (Opus, Vorbis) and MP3. Decoding takes longer than a small model's training step: of Opus
# some 50 seconds of speech a second.
LOSSY = ("OGG", "MP3")

_UNKNOWN_SIZE = 0x7FFFF000  # RIFF sizes from here on are what encoders write into a pipe
_MAX_OGG_PAGE = 65307  # bytes


class AudioError(UserError):
    """An audio file that cannot be used: `path`, `message` (what is wrong) and `fix`."""

    def __init__(self, path, message, fix):
        super().__init__(f"{path}: {message} ({fix})")
        self.path, self.message, self.fix = str(path), message, fix

    def __reduce__(self):  # it crosses process borders
        return AudioError, (self.path, self.message, self.fix)


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
    """Return the AudioInfo of a file without decoding it, but for an MP3 file that does not say its length.

    Raises AudioError when the file is missing, unreadable, without samples, or when its header
    promises more than the file holds.
    """
    with _open(path) as f:
        return AudioInfo(f.samplerate, f.channels, f.frames, f.format)


def check(path):
    """Return the AudioInfo of a file after checking all of it.

    Raises AudioError like `info`, and also when a compressed file cannot be decoded to its end.
    Uncompressed containers are judged by their size, without reading the samples.
    """
    import soundfile

    with _open(path) as f:
        found = AudioInfo(f.samplerate, f.channels, f.frames, f.format)
        if f.format in ("WAV", "WAVEX", "RF64", "NIST", "AIFF"):
            return found
        decoded = 0
        try:
            while block := len(f.read(1 << 18, dtype="float32", always_2d=True)):
                decoded += block
        except soundfile.SoundFileError as err:
            raise _undecodable(path, err) from err
        if decoded < found.frames:
            raise _truncated(path, f"{found.frames} samples", f"{decoded}")
        return found


def read_audio(path, rate=16000, start=0.0, end=None):
    """Return samples of a file from `start` to `end` seconds as float32 mono (N,) at `rate` Hz.

    Channels are averaged; the piece is cut first and then resampled with soxr. Full scale is 1.0.
    Raises AudioError when the file is missing, unreadable, empty or truncated, or ends before
    `end`.
    """
    import soundfile

    with _open(path) as f:
        native, frames = f.samplerate, f.frames
        first = round(start * native)
        stop = frames if end is None else round(end * native)
        if stop > frames and (stop - frames) <= END_TOLERANCE * native:
            stop = frames
        if not 0 <= first < stop <= frames:
            raise AudioError(
                path,
                f"cannot cut {start:g} to {end if end is None else format(end, 'g')} s "
                f"from a file of {frames / native:.3f} s",
                "correct the segment",
            )
        try:
            f.seek(first)
            x = f.read(stop - first, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as err:
            raise _undecodable(path, err) from err
    if len(x) < stop - first:
        raise _truncated(path, f"{stop - first} samples", f"{len(x)}")
    x = x[:, 0] if x.shape[1] == 1 else x.mean(axis=1)
    if native != rate:
        import soxr

        x = soxr.resample(x, native, rate)
        if not len(x):
            raise AudioError(path, f"no sample is left at {rate} Hz", "remove this utterance")
    return np.ascontiguousarray(x, dtype=np.float32)


def read_blocks(path, size):
    """Yield a file as float32 mono blocks (size,) at its own rate, the last one shorter.

    Channels are averaged. Raises AudioError like `read_audio`, for what is found only later when its
    block is reached, and for samples that are not finite.
    """
    import soundfile

    with _open(path) as f:
        done, frames = 0, f.frames
        while done < frames:
            try:
                x = f.read(min(size, frames - done), dtype="float32", always_2d=True)
            except soundfile.SoundFileError as err:
                raise _undecodable(path, err) from err
            if not len(x):
                raise _truncated(path, f"{frames} samples", f"{done}")
            if not np.isfinite(x).all():
                message = f"holds samples that are no numbers, after {done / f.samplerate:.1f} s"
                raise AudioError(path, message, "restore or remove it")
            done += len(x)
            yield x[:, 0] if x.shape[1] == 1 else x.mean(axis=1)


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
    """Return an open soundfile.SoundFile with at least one sample and a truthful header."""
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
            promised, ended = _promised_size(raw, size)
        if promised > size:
            raise _truncated(path, f"{promised} bytes", f"{size}")
        if not ended:
            raise AudioError(
                path, "audio file is truncated: no page ends the stream", "restore or remove it"
            )
        f = soundfile.SoundFile(path)
        if f.format == "MP3" and _Mp3.is_needed(path):
            f.close()
            f = _Mp3(path)
    except (soundfile.SoundFileError, TypeError, OSError) as err:  # TypeError: headerless .raw
        raise AudioError(path, f"cannot be read as audio: {err}", "restore or remove it") from err
    if 0 < f.frames < 1 << 62:
        return f
    frames = f.frames
    f.close()
    if frames <= 0:
        raise AudioError(path, "audio file has no samples", "restore or remove it")
    raise AudioError(path, "its header does not give its length", "encode it again into a file")


class _Mp3:
    """An MP3 file without a Xing header, which would give its length; with the methods of a SoundFile used here.

    Of such a file libsndfile guesses a length from the number of bytes and reads no further. Of a pipe it can't, and
    reads to the end. `frames` is counted.
    """

    format = "MP3"

    def __init__(self, path):
        self._path, self._file = path, self._pipe(path)
        self.samplerate, self.channels, self.frames = self._file.samplerate, self._file.channels, 0
        while block := len(self.read(1 << 18)):
            self.frames += block
        self.seek(0)

    @staticmethod
    def _pipe(path):
        import soundfile

        end, start = os.pipe()

        def feed():
            try:
                with open(path, "rb") as f, open(start, "wb", buffering=0) as out:
                    while block := f.read(1 << 16):
                        while block:
                            block = block[out.write(block) :]
            except OSError:  # nobody reads any more, or the disk fails: the decoder meets the end
                pass

        threading.Thread(target=feed, daemon=True).start()
        return soundfile.SoundFile(end, closefd=True)

    @classmethod
    def is_needed(cls, path):
        with cls._pipe(path) as f:
            return f.frames >= 1 << 62

    def seek(self, frame):
        self._file.close()
        self._file = self._pipe(self._path)
        while frame and (block := len(self.read(min(frame, 1 << 18)))):
            frame -= block

    def read(self, frames, dtype="float32", always_2d=True):
        return self._file.read(frames, dtype=dtype, always_2d=always_2d)

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _promised_size(raw, size):
    """Return (bytes the file should have, stream ended?); (0, True) where headers do not say."""
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
    """Walk the chunks to `data`; return where it should end (0 when its size is unknown)."""
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


def _nist_size(head):
    """Return header plus samples of a NIST SPHERE file in bytes, or 0 if fields are missing."""
    fields = dict(re.findall(rb"(\w+) -i (\d+)", head))
    try:
        samples = int(fields[b"sample_count"]) * int(fields[b"sample_n_bytes"])
        return int(head[8:16]) + samples * int(fields.get(b"channel_count", 1))
    except (KeyError, ValueError):
        return 0


def _ogg_size(raw, size):
    """Return (end of the last Ogg page, whether that page is marked as the last of its stream).

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


def _undecodable(path, err):
    return AudioError(path, f"audio breaks off while decoding: {err}", "restore or remove it")
