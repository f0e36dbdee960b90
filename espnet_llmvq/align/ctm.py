"""CTM: word times, a line `<utt> 1 <start> <duration> <word> [<confidence>]` each, in seconds."""

import array
import bisect
import collections.abc
import math
import os
from dataclasses import dataclass, replace

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import writing

CHANNEL = "1"  # an utterance is mono


@dataclass(frozen=True)
class Word:
    """A word and when it was said. start, duration: seconds; confidence: 0..1 or None."""

    word: str
    start: float
    duration: float
    confidence: float | None = None

    @property
    def end(self) -> float:
        """Seconds."""
        return self.start + self.duration


def _number(name, value, highest=math.inf):
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and 0 <= number <= highest):
        limit = "0 or more" if highest == math.inf else f"0 to {highest:g}"
        raise ValueError(f"{name} is {value!r}; it must be a number, {limit}")
    return number


def parse_line(line):
    """(utterance, Word) of a line. Raises ValueError that says what is wrong with it."""
    fields = line.split()
    if len(fields) not in (5, 6):
        raise ValueError(f"{len(fields)} fields, expected <utt> 1 <start> <duration> <word> [<confidence>]")
    if fields[1] != CHANNEL:
        raise ValueError(f"channel is {fields[1]!r}; it must be {CHANNEL}, utterances are mono")
    start, duration = _number("start", fields[2]), _number("duration", fields[3])
    confidence = _number("confidence", fields[5], 1) if len(fields) == 6 else None
    return fields[0], Word(fields[4], start, duration, confidence)


def read_ctm(path):
    """Read {utterance: [Word, ...]}, the words of each in the order of time.

    Raises UserError with the line for anything else than a CTM line, blank lines included.
    """
    words = {}
    try:
        with open(path, "rb") as f:
            for number, line in enumerate(f, 1):
                try:
                    utt, word = parse_line(line.decode("utf-8"))
                except ValueError as err:  # UnicodeDecodeError is one
                    raise UserError(f"{path}:{number}: {err}") from None
                words.setdefault(utt, []).append(word)
    except OSError as err:
        raise UserError(f"{path}: {err.strerror}") from None
    return {utt: _by_time(found) for utt, found in words.items()}


class CtmFile(collections.abc.Mapping):
    """{utterance: [Word, ...]} of a file, as `read_ctm` has it, whose words are read when they are asked for.

    Memory is 24 bytes an utterance. The lines of an utterance must follow each other. Raises UserError as `read_ctm`,
    when it is opened.
    """

    def __init__(self, path):
        self.path, at, last = path, 0, None
        hashes, starts = array.array("q"), array.array("q")
        try:
            self.file = open(path, "rb")
        except OSError as err:
            raise UserError(f"{path}: {err.strerror}") from None
        for number, line in enumerate(self.file, 1):
            try:
                utt, _ = parse_line(line.decode("utf-8"))
            except ValueError as err:
                raise UserError(f"{path}:{number}: {err}") from None
            if utt != last:
                hashes.append(hash(utt))
                starts.append(at)
                last = utt
            at += len(line)
        order = np.argsort(np.asarray(hashes), kind="stable")
        self.hashes, self.starts = np.asarray(hashes)[order], np.asarray(starts)[order]
        self.ends = np.append(np.asarray(starts)[1:], at)[order]

    @property
    def scattered(self):
        """Whether lines of an utterance lie apart, or two have one hash: then the file cannot be read in this way."""
        return bool((self.hashes[1:] == self.hashes[:-1]).any())

    def __len__(self):
        return len(self.hashes)

    def __iter__(self):
        last = None
        with open(self.path, "rb") as f:
            for line in f:
                utt = line.split(None, 1)[0].decode("utf-8")
                if utt != last:
                    yield utt
                last = utt

    def __getitem__(self, utt):
        i = bisect.bisect_left(self.hashes, hash(utt))
        if i == len(self.hashes) or self.hashes[i] != hash(utt):
            raise KeyError(utt)
        lines = os.pread(self.file.fileno(), int(self.ends[i] - self.starts[i]), int(self.starts[i])).decode("utf-8")
        rows = [parse_line(line) for line in lines.split("\n") if line]
        if rows[0][0] != utt:
            raise KeyError(utt)
        return _by_time([word for _, word in rows])


def open_ctm(path):
    """A mapping as of `read_ctm`; it leaves the words in the file where the lines of an utterance follow each other."""
    found = CtmFile(path)
    return read_ctm(path) if found.scattered else found


def rounded(word):
    """A `Word` with the times that a file keeps, in milliseconds."""
    return replace(word, start=round(word.start, 3), duration=round(word.duration, 3))


def write_ctm(path, words):
    """Write {utterance: [Word, ...]}, utterances in C-locale order, words in the order of time.

    Times are rounded to milliseconds. Raises ValueError for a word with a blank in it.
    """
    with writing(path) as f:
        for utt in sorted(words):
            f.writelines(ctm_lines(utt, words[utt]))


def ctm_lines(utt, words):
    """Yield the lines of an utterance, its words in the order of time. Raises ValueError as `write_ctm`."""
    for w in _by_time(words):
        confidence = "" if w.confidence is None else f" {w.confidence:.3f}"
        line = f"{utt} {CHANNEL} {w.start:.3f} {w.duration:.3f} {w.word}{confidence}"
        parse_line(line)
        yield line + "\n"


def boundary_errors(reference, found):
    """Compare two {utterance: [Word, ...]}: ([start errors], [end errors], number of utterances).

    Errors are absolute and in milliseconds, one per word of the utterances that both have with the same words.
    """
    starts, ends, n = [], [], 0
    for utt, words in found.items():
        truth = reference.get(utt, [])
        if [w.word for w in words] != [w.word for w in truth]:
            continue
        n += 1
        for a, b in zip(truth, words):
            starts.append(abs(a.start - b.start) * 1000)
            ends.append(abs(a.end - b.end) * 1000)
    return starts, ends, n


def _by_time(words):
    return sorted(words, key=lambda w: (w.start, w.end))
