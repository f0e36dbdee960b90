"""What the readers of corpora share: files that must be there, times, and segments that outlast their recording.

A reader is `read(root, part, faults)`: a list of `manifest.Item`s of one part of a corpus, as its public layout has
it. What is wrong with a line goes to `faults`, with the file and the line, and what was left out on purpose is told.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espnet_llmvq.base.errors import UserError

OVERSHOOT_S = 1.0  # what a segment may end after its recording; it is cut there


def need(path, what):
    """`path` as a Path if it exists. Raises UserError that says what was expected there."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: not found; {what}")
    return path


def seconds(text):
    """A time in seconds. Raises ValueError for what is none."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text!r} is no time")
    return value


def span_id(start, end):
    """Start and end in hundredths of a second, as ids of segments end."""
    return f"{round(start * 100):07d}-{round(end * 100):07d}"


def left_out(path, count, total, why):
    """Tell what a reader left out, if anything."""
    if count:
        print(f"{path}: {count} of {total} left out: {why}")


def end_with_recording(items, faults, nj):
    """Segments that end no more than OVERSHOOT_S after their recording, cut at its end; further ones are faults."""
    from espnet_llmvq.data import audio

    def length(path):
        try:
            return audio.info(path).duration
        except audio.AudioError as err:
            return err

    paths = sorted({str(item.audio) for item in items if not item.whole and item.audio.is_file()})
    with ThreadPoolExecutor(max(1, nj)) as pool:
        lengths = dict(zip(paths, pool.map(length, paths), strict=True))
    kept, cut, told = [], 0, set()
    for item in items:
        path, end = str(item.audio), lengths.get(str(item.audio))
        if isinstance(end, audio.AudioError):
            if path not in told:
                faults.add(item.where, str(end))
            told.add(path)
        elif end is not None and item.end > end + audio.END_TOLERANCE:
            if item.start >= end or item.end > end + OVERSHOOT_S:
                faults.add(item.where, f"ends at {item.end:g} s, {path} at {end:.2f} s (correct the time)")
            item, cut = dataclasses.replace(item, end=end), cut + 1
        kept.append(item)
    if cut:
        print(f"{paths[0]} and others: {cut} segments end up to {OVERSHOOT_S:g} s after their recording; cut there")
    return kept
