"""Where to cut sound that is still coming: as a file is cut, by the levels that were heard so far."""

import numpy as np

from espnet_llmvq.transcribe.cut import LOUDEST, QUIETEST, decibels, frame_size, speech_limit, split

STEP = 5  # frames after which it is asked whether a segment has closed: 0.1 s
LOWEST, HIGHEST, BIN = -120.0, 40.0, 0.1  # dB; of the histogram of levels


class Heard:
    """Levels of all frames so far as a histogram, so that their number does not matter."""

    def __init__(self):
        self.counts = np.zeros(round((HIGHEST - LOWEST) / BIN) + 1, dtype=np.int64)

    def add(self, level):
        """Count levels (F,) in dB."""
        places = np.rint((np.clip(level, LOWEST, HIGHEST) - LOWEST) / BIN).astype(int)
        np.add.at(self.counts, places, 1)

    def percentile(self, share):
        """The lowest level that `share` percent of the frames do not exceed, within `BIN` dB."""
        total = self.counts.cumsum()
        return LOWEST + BIN * int(np.searchsorted(total, share / 100 * total[-1]))


class StreamCutter:
    """Cuts a stream into segments, each as soon as a pause or its length closes it.

    rate: Hz. longest, min_pause, margin: seconds, of a segment, of a pause that closes one, and of what stays of a
    pause on both sides of speech (at most half of `min_pause`). A segment that grows longer than `longest` is cut where
    it is quietest. How the stream is cut into chunks changes nothing. No more than `longest` and a chunk are kept.
    """

    def __init__(self, rate, longest, min_pause, margin):
        self.rate, self.size = rate, frame_size(rate)
        step = self.size / rate
        self.longest = max(4, int(longest / step))
        self.gap = max(1, round(min_pause / step))
        self.margin = min(round(margin / step), self.gap // 2)
        self.heard = Heard()
        self.rest = np.zeros(0, np.float32)  # what is not yet a step
        self.samples, self.level = self.rest, np.zeros(0)  # of whole frames that are in no segment yet
        self.first = 0  # frame of the stream that `samples` begin with

    def push(self, x):
        """Take samples (N,); yield (first sample, samples (S,)) of each segment that closes."""
        x, block = np.concatenate([self.rest, x]), self.size * STEP
        whole = len(x) // block * block
        self.rest = x[whole:]
        for at in range(0, whole, block):
            self._add(x[at : at + block])
            while (found := self._closed()) is not None:
                yield found

    def finish(self):
        """Yield what is still open at the end of the stream, as `push`."""
        if len(self.rest):
            self._add(self.rest)
        while (found := self._closed()) is not None:
            yield found
        speech = self._speech()
        if len(speech):
            yield self._take(max(0, speech[0] - self.margin), min(len(self.level), speech[-1] + 1 + self.margin))

    def _add(self, x):
        level = decibels(x, self.size)
        self.heard.add(level)
        self.samples, self.level = np.concatenate([self.samples, x]), np.concatenate([self.level, level])

    def _speech(self):
        """Indices of the frames that are louder than pauses."""
        limit = speech_limit(self.heard.percentile(QUIETEST), self.heard.percentile(LOUDEST))
        return np.flatnonzero(self.level > limit)

    def _closed(self):
        """The first segment that has closed, None if none has; silence before speech is forgotten."""
        speech, length = self._speech(), len(self.level)
        self._drop(max(0, (speech[0] if len(speech) else length) - self.margin))
        if not len(speech):
            return None
        speech, length = speech - speech[0] + min(speech[0], self.margin), len(self.level)
        pauses = np.flatnonzero(np.diff(np.append(speech, length)) > self.gap)
        end = speech[pauses[0]] + 1 + self.margin if len(pauses) else length
        if end > self.longest:
            return self._take(*next(split(self.level, 0, end, self.longest)))
        return self._take(0, end) if len(pauses) else None

    def _take(self, first, last):
        """(first sample in the stream, samples) of frames, which are dropped with all before them."""
        start = int(self.first + first) * self.size
        samples = self.samples[first * self.size : last * self.size].copy()
        self._drop(last)
        return start, samples

    def _drop(self, frames):
        self.samples, self.level = self.samples[frames * self.size :], self.level[frames:]
        self.first += frames
