"""Sound that can be transcribed: a file, or samples in memory."""

import math
import numbers
import os

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE, AudioError, AudioInfo, check_samples, mono, piece, read_audio, resample
from espnet_llmvq.transcribe.cut import BLOCK, frame_size, levels_of, read_levels

MOST_CHANNELS = 64  # more are samples: arrays of torchaudio have them last


def check_rate(rate, name):
    """Raise UserError for a sampling rate of `name` that is no number of samples a second."""
    number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not number or not math.isfinite(rate) or rate <= 0:
        raise UserError(f"{name}: a sampling rate is a number of samples a second, such as 16000, not {rate!r}")


def check_array(x, name, rate, at=0):
    """Samples (N,) or (N, channels), from sample `at` of `name` on, as float32 (N,), channels averaged.

    Raises UserError for what is not of floating point with full scale 1.0, or not of this shape.
    """
    x = np.asarray(x)
    if x.dtype.kind != "f":
        scale = f"; divide them by {-np.iinfo(x.dtype).min}" if x.dtype.kind == "i" else ""
        raise UserError(f"{name}: samples are {x.dtype}, and must be floats with full scale 1.0{scale}")
    if x.ndim not in (1, 2) or x.ndim == 2 and not 0 < x.shape[1] <= MOST_CHANNELS:
        hint = "; transpose it" if x.ndim == 2 and x.shape[1] else ""
        raise UserError(f"{name}: samples have the shape {x.shape}, and must have (N,) or (N, channels){hint}")
    x = x.reshape(len(x), -1) if len(x) else np.zeros((0, 1), np.float32)
    check_samples(x, name, at, rate)
    return mono(x.astype(np.float32, copy=False))


class FileSound:
    """A sound file that libsndfile reads."""

    def __init__(self, path):
        self.path = path

    def levels(self):
        """Its `Levels`. Raises AudioError for a file that cannot be read to its end."""
        return read_levels(self.path)

    def read(self, start, end):
        """Samples (S,) at 16 kHz from `start` to `end` seconds; end None: its end."""
        return read_audio(self.path, SAMPLE_RATE, start, end)


class ArraySound:
    """Samples (N,) or (N, channels) at `rate` Hz; `name` stands for them in messages. Raises UserError for others."""

    def __init__(self, name, samples, rate):
        check_rate(rate, name)
        self.name, self.rate, self.samples = name, rate, check_array(samples, name, rate)
        if not len(self.samples):
            raise AudioError(name, "has no samples", "leave it out")

    def levels(self):
        """Its `Levels`."""
        size = frame_size(self.rate) * BLOCK
        blocks = (self.samples[first : first + size] for first in range(0, len(self.samples), size))
        return levels_of(blocks, self.rate, len(self.samples) / self.rate)

    def read(self, start, end):
        """Samples (S,) at 16 kHz from `start` to `end` seconds, cut first and then resampled, as those of files."""
        header = AudioInfo(self.rate, 1, len(self.samples), "array")
        first, stop = piece(self.name, header, start, end)
        return np.ascontiguousarray(resample(self.samples[first:stop], self.rate, SAMPLE_RATE), dtype=np.float32)


def name_of(given, number):
    """What stands for a sound in results: its path, or "sound NUMBER"."""
    return str(given) if isinstance(given, (str, os.PathLike)) else f"sound {number}"


def sound_of(given, name):
    """A path as a `FileSound`, (samples, rate) as an `ArraySound`. Raises UserError for anything else."""
    if isinstance(given, (str, os.PathLike)):
        return FileSound(name)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return ArraySound(name, *given)
    raise UserError(f"{name}: a sound is a path or a pair (samples, rate), not {type(given).__name__}")
