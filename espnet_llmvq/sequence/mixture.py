"""Mix files of sequences by their share of LLM positions ([2607.01733]: ASR : interleaved : text = 1 : 1 : 1)."""

import array
import bisect
import json
import random
from dataclasses import dataclass

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.sequence.shape import Shape


@dataclass(frozen=True)
class Source:
    """name: prefix of its ids; share: of the positions, in proportion to the others; path, shape: sequences and their
    positions (lines `id positions`)."""

    name: str
    share: float
    path: str
    shape: str


def draw(lengths, budget, seed):
    """Sequences whose positions come nearest to `budget`: whole passes over all in random order, and a part of one.

    lengths: (N,) positions, in the order of ids. Returns two arrays of numbers: which sequences, and in which pass of
    each, from 1. No sequence comes twice before each came once.
    """
    lengths = array.array("I", lengths.astype(np.uint32).tobytes())  # whose elements are Python's numbers
    chosen, passes, total, number = array.array("I"), array.array("I"), 0, 0
    while True:
        number += 1
        order = array.array("I", range(len(lengths)))
        random.Random(f"{seed} {number}").shuffle(order)
        for i in order:
            if chosen and abs(total + lengths[i] - budget) >= abs(total - budget):
                return chosen, passes
            chosen.append(i)
            passes.append(number)
            total += lengths[i]


def mix(sources, positions=None, seed=1):
    """Lines of a mixture in random order, and what it holds.

    sources: [`Source`]. positions: in all; None: as many as give the first source once. Draws depend on the seed
    and each source alone. Returns (iterator of (id, positions, JSON line), {name: (sequences, positions, passes)}).
    Ids are `NAME/PASS/ID`: a name has no slash, so no two are the same. Memory: some 30 bytes a sequence of a source,
    beside the maps of their indices, and 16 a line of the mixture.
    """
    from espnet_llmvq.sequence.sequence import SequenceReader

    names = [s.name for s in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources have one name: {' '.join(names)}")
    shapes = [Shape(s.shape) for s in sources]
    readers = [SequenceReader(s.path) for s in sources]
    for source, shape, reader in zip(sources, shapes, readers):
        there, counted = len(reader), len(shape)
        if there != counted:
            raise UserError(f"{source.path} has {there} sequences, {source.shape} {counted} lines; run stage 10 again")
    shares = sum(s.share for s in sources)
    if positions is None:
        positions = int(shapes[0].lengths.sum()) * shares / sources[0].share
    picked, facts, first = [], {}, [0]
    for source, shape in zip(sources, shapes):
        order = shape.by_id()
        lengths = shape.lengths[order]
        chosen, passes = draw(lengths, positions * source.share / shares, f"{seed} {source.name}")
        total = int(lengths[chosen].sum())
        facts[source.name] = (len(chosen), total, total / int(lengths.sum()))
        picked.append((order[chosen], passes))
        first.append(first[-1] + len(chosen))
    mixed = array.array("I", range(first[-1]))
    random.Random(f"{seed} order").shuffle(mixed)

    def lines():
        for at in mixed:
            n = bisect.bisect_right(first, at) - 1
            source, shape, (rows, passes) = sources[n], shapes[n], picked[n]
            row = rows[at - first[n]]
            key = shape.id(row)
            try:
                raw = json.loads(readers[n][key])
            except KeyError:
                raise UserError(f"{source.path} has no {key}, {source.shape} has; run stage 10 again") from None
            raw["id"] = f"{source.name}/{passes[at - first[n]]}/{key}"
            yield raw["id"], int(shape.lengths[row]), json.dumps(raw, ensure_ascii=False)

    return lines(), facts
