"""Word times from Praat's TextGrid files, long and short text form.

Praat's own rule reads both: what counts is numbers, strings in double quotes and flags in angle brackets that stand
alone; all other words are for people, and "!" begins a comment. (Praat manual, "TextGrid file formats".)
"""

import codecs
import re
from pathlib import Path

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.base.errors import UserError

_ITEM = re.compile(r'"((?:[^"]|"")*)"(?=\s|$)|(")|!.*|(\S+)')
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class _Reader:
    """Values of a TextGrid in their order; errors name file and line."""

    def __init__(self, path):
        self.path, self.line, self.values = path, 1, iter(())
        try:
            data = Path(path).read_bytes()
        except OSError as err:
            raise UserError(f"{path}: {err.strerror}") from None
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as err:
            self.line = data[: err.start].count(b"\n") + 1
            raise self.error(f"neither UTF-8 nor UTF-16 with a byte order mark: {err.reason}") from None
        self.values = self._scan(text.replace("\r\n", "\n").replace("\r", "\n"))

    def _scan(self, text):
        line, last = 1, 0
        for item in _ITEM.finditer(text):
            line += text.count("\n", last, item.start())
            last = item.start()
            string, unclosed, word = item.groups()
            if unclosed:
                self.line = line
                raise self.error("a string without its closing quote")
            if string is not None:
                yield line, string.replace('""', '"')
            elif word and word.startswith("<") and word.endswith(">"):
                yield line, word
            elif word:
                try:
                    yield line, float(word)
                except ValueError:
                    continue

    def error(self, message):
        return UserError(f"{self.path}:{self.line}: {message}")

    def next(self, kind, what):
        """The next value, which must be of a kind: float or str."""
        try:
            self.line, value = next(self.values)
        except StopIteration:
            raise self.error(f"the file ends where {what} should be") from None
        if not isinstance(value, kind):
            raise self.error(f"{what} should be here, not {value!r}")
        return value

    def count(self, what):
        value = self.next(float, what)
        if not (value >= 0 and value.is_integer()):
            raise self.error(f"{what} is {value:g}")
        return int(value)

    def tier(self):
        """(name, class, [(line, start, end, label)]) of the next tier; a point has no end."""
        kind = self.next(str, "the class of a tier")
        if kind not in ("IntervalTier", "TextTier"):
            raise self.error(f'the class of a tier is {kind!r}, neither "IntervalTier" nor "TextTier"')
        name = self.next(str, "the name of a tier")
        self.next(float, "the start of a tier")
        self.next(float, "the end of a tier")
        rows = []
        for _ in range(self.count("the number of intervals")):
            start = self.next(float, "the start of an interval")
            line = self.line
            end = self.next(float, "the end of an interval") if kind == "IntervalTier" else None
            rows.append((line, start, end, self.next(str, "the label of an interval")))
        return name, kind, rows


def read_intervals(path, tier=None):
    """The labelled intervals of a tier as [(line, start, end, label)], in the order of time; empty ones are left out.

    tier: its name; None: the only one of the file. Text files in UTF-8, or in UTF-16 with a byte order mark. Raises
    UserError, with file and line, for a file that is no TextGrid, an unknown tier, a tier of points, and an interval
    that ends before it starts or begins before the last one ends.
    """
    reader = _Reader(path)
    for expected in ("ooTextFile", "TextGrid"):
        value = reader.next(str, f'"{expected}"')
        # An older short form says "ooTextFile short".
        if value.split()[:1] != [expected]:
            raise reader.error(f'"{expected}" should be here, not {value!r}: not a TextGrid in text form')
    reader.next(float, "the start")
    reader.next(float, "the end")
    tiers = {}
    if reader.next(str, "<exists>") == "<exists>":
        for _ in range(reader.count("the number of tiers")):
            name, kind, rows = reader.tier()
            tiers.setdefault(name, (kind, rows))
    listed = ", ".join(map(repr, tiers)) or "none"
    if tier is None:
        if len(tiers) != 1:
            raise UserError(f"{path}: {len(tiers)} tiers ({listed}), not one")
        (tier,) = tiers
    if tier not in tiers:
        raise UserError(f"{path}: no tier {tier!r}; it has {listed}")
    kind, rows = tiers[tier]
    if kind != "IntervalTier":
        raise UserError(f"{path}: the tier {tier!r} has points; words need intervals")
    last = 0.0
    for reader.line, start, end, _ in rows:
        if not (0 <= start < end < float("inf")):
            raise reader.error(f"an interval from {start:g} to {end:g} s")
        if start < last - 1e-6:
            raise reader.error(f"an interval begins at {start:g} s, the one before ends at {last:g} s")
        last = end
    return [row for row in rows if row[3].strip()]


def read_textgrid(path, tier="words"):
    """The words of a tier as [Word], in the order of time. Raises UserError like `read_intervals`, and for a label of
    several words."""
    words = []
    for line, start, end, label in read_intervals(path, tier):
        if len(label.split()) > 1:
            raise UserError(f"{path}:{line}: the interval {label!r} holds several words; choose a tier of words")
        words.append(Word(label.strip(), start, end - start))
    return words


def read_textgrids(directory, tier="words"):
    """{utterance: [Word]} of all `*.TextGrid` below a directory; the name of a file is the utterance."""
    paths = sorted(p for p in Path(directory).rglob("*") if p.suffix.lower() == ".textgrid")
    if not paths:
        raise UserError(f"{directory}: no *.TextGrid in it")
    found = {}
    for path in paths:
        if path.stem in found:
            raise UserError(f"{path}: another TextGrid below {directory} has the same utterance id")
        found[path.stem] = read_textgrid(path, tier)
    return found
