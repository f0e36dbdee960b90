"""Where to cut sound: at its pauses, found by the level of short frames."""

from dataclasses import dataclass

import numpy as np

from espnet_llmvq.data.audio import info, read_blocks

FRAME = 0.02  # seconds
BLOCK = 500  # frames read at once, 10 s
SMOOTH = 0.2  # seconds over which the quietest place is looked for
LOUDEST, QUIETEST = 99, 10  # percentiles of the level, for speech and for pauses
RANGE = 50.0  # dB below speech: what is quieter is as quiet
THRESHOLD = 0.3  # of the way from pauses to speech
FLAT = 6.0  # dB; with less between pauses and speech there is nothing to tell them apart


@dataclass(frozen=True)
class Levels:
    """Level of each frame of a recording. decibels (N,); step: seconds of a frame; duration: seconds."""

    decibels: np.ndarray
    step: float
    duration: float


def frame_size(rate):
    """Samples of a frame at `rate` Hz."""
    return max(1, round(FRAME * rate))


def decibels(x, size):
    """Level (F,) of the frames of `size` samples in x (N,), the last one shorter; a constant offset (DC) has none."""
    whole = len(x) // size * size
    parts = [x[:whole].reshape(-1, size).astype(np.float64)]
    parts += [x[None, whole:].astype(np.float64)] if whole < len(x) else []
    return np.concatenate([10 * np.log10(part.var(axis=1) + 1e-12) for part in parts])


def levels_of(blocks, rate, duration):
    """`Levels` of sound of `duration` seconds that comes in blocks of `BLOCK` frames at `rate` Hz."""
    size = frame_size(rate)
    level = np.concatenate([decibels(x, size) for x in blocks]).astype(np.float32)
    return Levels(level, size / rate, duration)


def read_levels(path):
    """`Levels` of a sound file, read in blocks to its end.

    Raises AudioError as `data.audio.read_blocks`: what follows may rely on the whole file.
    """
    header = info(path)
    return levels_of(read_blocks(path, frame_size(header.rate) * BLOCK), header.rate, header.duration)


def speech_limit(quiet, loud):
    """Level above which a frame is speech, of the levels of quiet and loud frames; -inf if nothing tells them apart."""
    quiet = max(quiet, loud - RANGE)
    return -np.inf if loud - quiet < FLAT else quiet + THRESHOLD * (loud - quiet)


def speech_regions(level, gap, margin):
    """[(first, last)] of frames louder than the pauses, `margin` frames more on both sides.

    Pauses shorter than `gap` frames are no cuts. All frames are one region when the level hardly changes.
    """
    speech = level > speech_limit(*np.percentile(level, [QUIETEST, LOUDEST]))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech, [0]]).astype(int))).reshape(-1, 2)
    regions = [list(edges[0])]
    for first, last in edges[1:]:
        if first - regions[-1][1] < gap:
            regions[-1][1] = last
        else:
            regions.append([first, last])
    for before, after in zip(regions, regions[1:]):
        keep = min(margin, (after[0] - before[1]) // 2)
        before[1], after[0] = before[1] + keep, after[0] - keep
    regions[0][0], regions[-1][1] = (max(0, regions[0][0] - margin), min(len(level), regions[-1][1] + margin))
    return [(int(first), int(last)) for first, last in regions]


def split(level, first, last, longest):
    """Cut frames `first` to `last` into pieces of at most `longest`, each time at the quietest place.

    No piece is shorter than a quarter of `longest`, unless all of it is.
    """
    width = max(1, round(SMOOTH / FRAME))
    while last - first > longest:
        low = first + longest // 2
        high = min(first + longest, last - longest // 4)
        around = np.convolve(level[first:last], np.ones(width) / width, "same")[low - first : high - first + 1]
        # Of equally quiet places the last: fewer pieces.
        cut = high - int(np.argmin(around[::-1]))
        yield first, cut
        first = cut
    yield first, last


def cut(levels, max_segment, min_pause, margin):
    """[(start, end)] in seconds of the segments of a recording, in order; end None: its end.

    A recording of up to `max_segment` seconds stays whole. A longer one is cut at pauses of `min_pause` seconds and
    more, and where a segment is still too long at its quietest place. `margin`
    seconds of a pause stay beside speech; what lies between segments is silence.
    """
    if levels.duration <= max_segment:
        return [(0.0, None)]
    longest = max(4, int(max_segment / levels.step))
    found = []
    for region in speech_regions(levels.decibels, max(1, round(min_pause / levels.step)), round(margin / levels.step)):
        found += split(levels.decibels, *region, longest)
    return [(first * levels.step, min(last * levels.step, levels.duration)) for first, last in found]
