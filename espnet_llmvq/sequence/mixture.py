"""Mix files of sequences by their share of LLM positions ([2607.01733]: ASR : interleaved : text = 1 : 1 : 1)."""

import json
import random
from dataclasses import dataclass

from espnet_llmvq.base.errors import UserError


@dataclass(frozen=True)
class Source:
    """name: prefix of its ids; share: of the positions, in proportion to the others; path, shape: sequences and their
    positions (lines `id positions`)."""

    name: str
    share: float
    path: str
    shape: str


def read_shape(path):
    """{id: positions} in the order of the file. Raises UserError with the line."""
    found = {}
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                key, _, value = line.strip().partition(" ")
                if not value.isdecimal() or int(value) < 1:
                    raise UserError(
                        f"{path}:{number}: {line.strip()!r} is not `id positions`; remove it and run stage 10 again "
                        "(7 for the encoder)"
                    )
                found[key] = int(value)
    except OSError as err:
        raise UserError(f"{path}: {err.strerror}; run llmvq stage positions (stage 10)") from None
    except UnicodeDecodeError as err:
        raise UserError(f"{path} is not UTF-8: {err}; remove it and run stage 10 again") from None
    if not found:
        raise UserError(f"{path} is empty")
    return found


def draw(lengths, budget, seed):
    """Ids whose positions come nearest to `budget`: whole passes over all ids in random order, and a part of one.

    lengths: {id: positions}. Returns [(id, pass)], pass from 1. No id comes twice before each came once.
    """
    chosen, total, number = [], 0, 0
    while True:
        number += 1
        order = sorted(lengths)
        random.Random(f"{seed} {number}").shuffle(order)
        for key in order:
            if chosen and abs(total + lengths[key] - budget) >= abs(total - budget):
                return chosen
            chosen.append((key, number))
            total += lengths[key]


def mix(sources, positions=None, seed=1):
    """Lines of a mixture in random order, and what it holds.

    sources: [`Source`]. positions: in all; None: as many as give the first source once. Draws depend on the seed
    and each source alone. Returns (iterator of (id, positions, JSON line), {name: (sequences, positions, passes)}).
    Ids are `NAME/PASS/ID`: a name has no slash, so no two are the same.
    """
    from espnet_llmvq.sequence.sequence import SequenceReader

    names = [s.name for s in sources]
    if len(set(names)) < len(names):
        raise UserError(f"two sources have one name: {' '.join(names)}")
    shapes = {s.name: read_shape(s.shape) for s in sources}
    readers = {s.name: SequenceReader(s.path) for s in sources}
    for source in sources:
        there, counted = len(readers[source.name]), len(shapes[source.name])
        if there != counted:
            raise UserError(f"{source.path} has {there} sequences, {source.shape} {counted} lines; run stage 10 again")
    shares = sum(s.share for s in sources)
    if positions is None:
        positions = sum(shapes[names[0]].values()) * shares / sources[0].share
    picked, facts = [], {}
    for source in sources:
        lengths = shapes[source.name]
        chosen = draw(lengths, positions * source.share / shares, f"{seed} {source.name}")
        total = sum(lengths[key] for key, _ in chosen)
        facts[source.name] = (len(chosen), total, total / sum(lengths.values()))
        picked += [(source, key, number) for key, number in chosen]
    random.Random(f"{seed} order").shuffle(picked)

    def lines():
        for source, key, number in picked:
            try:
                raw = json.loads(readers[source.name][key])
            except KeyError:
                raise UserError(f"{source.path} has no {key}, {source.shape} has; run stage 10 again") from None
            raw["id"] = f"{source.name}/{number}/{key}"
            yield raw["id"], shapes[source.name][key], json.dumps(raw, ensure_ascii=False)

    return lines(), facts
