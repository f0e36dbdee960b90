"""LLM positions of sequences, from a file of lines `id positions`, in columns of numbers.

Ids stay in the file until they are asked for.
"""

import array
import os

import numpy as np

from espnet_llmvq.base.errors import UserError

REMEDY = "remove it and run stage 10 again (7 for the encoder)"


class Shape:
    """The lines of such a file in their order; 16 bytes of memory a line.

    lengths: (N,) uint32, LLM positions. Raises UserError, with file and line, for a line that is none, an id that is
    there twice, and a file without lines or that is absent.
    """

    def __init__(self, path):
        self.path = str(path)
        lengths, starts, sizes = array.array("I"), array.array("Q"), array.array("I")
        hashes, ascending, last, at = array.array("q"), True, b"", 0
        try:
            # Held open, so that ids stay those of these positions if the file is replaced.
            self.file = open(path, "rb")
        except OSError as err:
            raise UserError(f"{path}: {err.strerror}; run llmvq stage positions (stage 10)") from None
        for number, line in enumerate(self.file, 1):
            key, _, value = line.strip().partition(b" ")
            try:
                key.decode("utf-8")
                count = int(value) if value.isdigit() else 0
            except UnicodeDecodeError as err:
                raise UserError(f"{path} is not UTF-8: {err}; remove it and run stage 10 again") from None
            if not (key and 1 <= count < 1 << 32):
                shown = line.decode("utf-8", "replace").strip()
                raise UserError(f"{path}:{number}: {shown!r} is not `id positions`; {REMEDY}")
            lengths.append(count)
            starts.append(at + len(line) - len(line.lstrip()))
            sizes.append(len(key))
            hashes.append(hash(key))
            ascending, last = ascending and key > last, key
            at += len(line)
        if not lengths:
            raise UserError(f"{path} is empty")
        self.lengths, self.starts, self.sizes = map(np.asarray, (lengths, starts, sizes))
        self.ascending = ascending
        if not ascending:
            self._check_repeated(np.asarray(hashes))

    def _check_repeated(self, hashes):
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        for one, other in sorted(zip(order[same].tolist(), order[same + 1].tolist()), key=lambda pair: pair[1]):
            if self.id(one) == self.id(other):
                raise UserError(f"{self.path}:{other + 1}: {self.id(other)} is there twice; {REMEDY}")

    def __len__(self):
        return len(self.lengths)

    def id(self, i):
        """The id of line i, from 0."""
        return os.pread(self.file.fileno(), int(self.sizes[i]), int(self.starts[i])).decode("utf-8")

    def by_id(self):
        """(N,) lines in the order of their ids; while they are sorted, an unsorted file takes the bytes of all ids."""
        if self.ascending:
            return np.arange(len(self), dtype=np.uint32)
        ids = np.empty(len(self), f"S{self.sizes.max()}")
        for i in range(len(self)):
            ids[i] = self.id(i).encode()
        # Of UTF-8 the order of bytes is that of characters, by which Python sorts.
        return np.argsort(ids, kind="stable").astype(np.uint32)
