"""`Sequence`: an ordered list of speech and text spans, each with or without loss.

A file of sequences is JSON lines that a person can read, one sequence a line::

    {"id": "u1", "spans": [{"text": "USER:"}, {"audio": "u1.wav", "samples": 31200},
                           {"text": " ASSISTANT:"}, {"text": " Hello.", "loss": true, "eos": true}]}

`SequenceReader` finds a line by its id through an index on disk, so that memory does not grow with the
number of sequences.
"""

import array
import bisect
import collections.abc
import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field

import numpy as np

from espnet_llmvq.base.errors import UserError, nearest
from espnet_llmvq.base.files import was_written, writing


@dataclass(frozen=True)
class Span:
    """Speech (`audio` is set), text (`text` is set), or text as if heard (`heard` is set).

    audio: path of a sound file. samples: length at 16 kHz. start: first sample of a piece of the file, 0 or
        more; None: the whole file. said: the words of a piece, for people; no model reads them.
    heard: the steps that speech would have left of what is `said`, a list of {token of the LLM: weight}.
    text: as it is tokenised, leading space included. loss: its tokens are trained on.
    special: the text is the name of one token of the tokenizer, such as "<s>".
    eos: the end token follows the text, with the same loss. With it alone the text may be "".
    """

    text: str = None
    audio: str = None
    heard: list = None
    samples: int = None
    start: int = None
    said: str = None
    loss: bool = False
    special: bool = False
    eos: bool = False

    def __post_init__(self):
        for name in ("text", "audio", "said"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be text")
        for name in ("loss", "special", "eos"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if [self.text, self.audio, self.heard].count(None) != 2:
            raise ValueError("a span has either text or audio or heard")
        if self.heard is not None:
            if self.loss or self.eos or self.special or self.samples is not None or self.start is not None:
                raise ValueError("a span that is heard has no loss, no eos, no samples, no start and is not special")
            if not (isinstance(self.heard, list) and self.heard and all(map(_is_step, self.heard))):
                raise ValueError("heard must be a list of steps, each tokens with weights above 0")
        elif self.audio is not None:
            if self.loss or self.eos or self.special or not _is_count(self.samples) or self.samples == 0:
                raise ValueError("a speech span has samples > 0, no loss, no eos and is not special")
            if self.start is not None and not _is_count(self.start):
                raise ValueError(f"start is {self.start!r}; it must be a number of samples, 0 or more")
        elif self.samples is not None or self.start is not None or self.said is not None:
            raise ValueError("a text span has no samples, no start and no said")
        elif not self.text and (self.special or not self.eos):
            raise ValueError("a text span without eos must have text")

    @property
    def is_speech(self):
        return self.audio is not None

    @property
    def is_piece(self):
        """Whether it is a piece cut out of a sound file."""
        return self.start is not None

    @property
    def is_heard(self):
        return self.heard is not None

    @property
    def is_text(self):
        return self.text is not None

    def to_dict(self):
        return {k: v for k in self.__dataclass_fields__ if (v := getattr(self, k)) is not None and v is not False}


def _is_count(value):
    return type(value) is int and value >= 0


def _is_step(value):
    weights = value.values() if isinstance(value, dict) else ()
    return bool(weights) and all(type(weight) in (int, float) and weight > 0 for weight in weights)


@dataclass(frozen=True)
class Sequence:
    """A training or test example: spans in the order in which the LLM reads them.

        USER: |===== u1.wav =====|  ASSISTANT:   Hello. </s>
        text  speech, 31200 samples text         text, loss, eos

    Loss is on what is to be learnt; all before the first span with loss is the `prompt` that a decoder is given. Of
    interleaved sequences speech spans are pieces of a file, and most texts have loss:

        <s>           |== 0.3 to 0.8 s of u1.wav ==|  the world   |== 1.3 to 1.9 s ==|  </s>
        text, special speech, start 4800, 8000 samples text, loss speech, start 20800   text, eos
    """

    id: str
    spans: tuple = field(default_factory=tuple)

    def to_json(self):
        spans = [s.to_dict() for s in self.spans]
        return json.dumps({"id": self.id, "spans": spans}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line):
        """Parse one line. Raises ValueError for bad JSON, unknown keys or impossible spans."""
        raw = json.loads(line)
        if not isinstance(raw, dict) or not isinstance(raw.get("id"), str) or not isinstance(raw.get("spans"), list):
            raise ValueError("it must have an id, which is text, and a list of spans")
        known = Span.__dataclass_fields__
        for span in raw["spans"]:
            for key in span:
                if key not in known:
                    raise ValueError(f"unknown span key {key!r}{nearest(key, known)}")
        return cls(raw["id"], tuple(Span(**span) for span in raw["spans"]))

    @property
    def transcript(self):
        """The text that carries loss, as read by a person."""
        return "".join(s.text for s in self.spans if s.loss).strip()

    @property
    def prompt(self):
        """The spans before the first one with loss: what a decoder is given."""
        spans = []
        for span in self.spans:
            if span.loss:
                break
            spans.append(span)
        return tuple(spans)


def write_sequences(path, sequences):
    """Write an iterable of `Sequence` to `path` with its index; return their number.

    Memory is 16 bytes a sequence, and some 60 while the index is sorted. Raises UserError for a duplicate id. `path`
    appears complete or not at all.
    """
    places = _Places()
    with writing(path) as f:
        for seq in sequences:
            line = seq.to_json() + "\n"
            places.add(seq.id, len(line.encode()))
            f.write(line)
        f.flush()
        table = places.table()
        if key := _repeated(table, f.fileno()):
            raise UserError(f"{path}: duplicate sequence id {key}")
    _write_index(path, table)
    return len(table)


def read_sequences(path):
    """Yield every `Sequence` of a file in order. Raises UserError with file and line, and for a file that is absent."""
    try:
        f = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with llmvq sequences make (stage 9)") from None
    with f:
        for number, line in enumerate(f, 1):
            try:
                yield Sequence.from_json(line.decode("utf-8"))
            except (ValueError, KeyError, TypeError) as err:
                raise UserError(f"{path}:{number}: not a sequence: {err}") from None


def _hash(key):
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


class _Places:
    """Where lines of a file are, gathered line by line: for each the hash of its id and its length, 16 bytes."""

    def __init__(self):
        self.hashes, self.lengths = array.array("Q"), array.array("Q")

    def add(self, key, length):
        """The next line: its id, and its bytes with the line end."""
        self.hashes.append(_hash(key))
        self.lengths.append(length)

    def table(self):
        """Rows (hash of id, offset, length) sorted by hash, uint64 (N, 3); of equal hashes in the order of the file."""
        hashes, lengths = np.asarray(self.hashes), np.asarray(self.lengths)
        order = np.argsort(hashes, kind="stable")
        table = np.empty((len(hashes), 3), np.uint64)
        table[:, 0], table[:, 2] = hashes[order], lengths[order]
        table[:, 1] = (np.cumsum(lengths) - lengths)[order]
        return table


def _repeated(table, file):
    """The first id of a file that is there twice, or None. table: as of `_Places`; file: descriptor of the file.

    Only ids of equal hash are read.
    """
    at = np.flatnonzero(table[1:, 0] == table[:-1, 0])
    for i in at[np.argsort(table[at + 1, 1])]:
        one, other = (json.loads(os.pread(file, int(n), int(start)))["id"] for _, start, n in table[i : i + 2])
        if one == other:
            return one
    return None


def build_index(path):
    """Write `path`.idx, where each line is: the table of `_Places`. Raises UserError for a line that is no sequence."""
    places = _Places()
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                key = json.loads(line)["id"]
            except (ValueError, KeyError, TypeError) as err:
                raise UserError(f"{path}:{number}: not a sequence: {err}") from None
            places.add(key, len(line))
    _write_index(path, places.table())


def _write_index(path, table):
    index = f"{path}.idx"
    with writing(index, binary=True, known=was_written(index) or is_index(index)) as f:
        np.save(f, table)


def is_index(path):
    """Whether a file is an array, as an index is."""
    with contextlib.suppress(OSError), open(path, "rb") as f:
        return f.read(6) == np.lib.format.MAGIC_PREFIX
    return False


class SequenceReader(collections.abc.Mapping):
    """Map id -> JSON line of a file of sequences, read on demand through the index on disk.

    Safe to share with forked and spawned workers. Raises KeyError for an unknown id.
    """

    def __init__(self, path):
        self.path = str(path)
        if not os.path.exists(self.path):
            raise UserError(f"{self.path}: no such file of sequences")
        index = f"{self.path}.idx"
        if not os.path.exists(index) or os.path.getmtime(index) < os.path.getmtime(self.path):
            build_index(self.path)
        try:
            self._open()
        except (OSError, ValueError, EOFError):  # a damaged index
            build_index(self.path)
            self._open()

    def _open(self):
        # A plain view of the map: its elements are read in a tenth of the time.
        self.table = np.asarray(np.load(f"{self.path}.idx", mmap_mode="r"))
        self.hashes = self.table[:, 0]
        self.file = open(self.path, "rb")

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.path = state["path"]
        self._open()

    def __len__(self):
        return len(self.table)

    def __iter__(self):
        with open(self.path, encoding="utf-8") as f:
            for line in f:
                yield json.loads(line)["id"]

    def __getitem__(self, key):
        hashed = _hash(key)
        # Not np.searchsorted: that copies a column of a table, all of it for each id.
        i = bisect.bisect_left(self.hashes, hashed)
        while i < len(self.table) and self.table[i, 0] == hashed:
            # pread keeps no file position, so workers that share the descriptor do not disturb each other
            line = os.pread(self.file.fileno(), int(self.table[i, 2]), int(self.table[i, 1]))
            if json.loads(line)["id"] == key:
                return line.decode("utf-8").rstrip("\n")
            i += 1
        raise KeyError(key)
