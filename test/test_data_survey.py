"""Validation that keeps no lines finds what the checks of whole tables find, in the same order."""

import random

import numpy as np
import pytest
from test_data_utilities import damage, make

from espnet_llmvq.data.checks import inspect, survey
from espnet_llmvq.data.suspects import lacking, twice_there, union
from espnet_llmvq.data.tables import CORE, managed_files

LINES = (
    "",
    "a-1",
    "a-1 x",
    "zz-9 r1 0 1",
    "b-1 b-1",
    "sp r9",
    "\ufeffa-1 r",
    "b\u00a0c x",
    "n" * 260 + " v",
    "a-1 r0 2 1",
)


def spoil(root, rng):
    """One more defect in some table, of kinds that `damage` may lack."""
    path = root / rng.choice(managed_files(root))
    lines = path.read_text(errors="surrogateescape").split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        lines.insert(at, rng.choice(LINES))
    elif kind == 1:
        lines[at] = lines[at].partition(" ")[0]
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines[at] += " " + rng.choice(lines).partition(" ")[2]
    elif kind == 4:
        rng.shuffle(lines)
    else:
        words = lines[at].split(" ")
        rng.shuffle(words)
        lines[at] = " ".join(words)
    path.write_text("\n".join(lines), errors="surrogateescape")


@pytest.mark.parametrize("segments", [False, True])
def test_survey_against_whole_tables(tmp_path, segments):
    clean, kinds = make(tmp_path / "clean", segments), set()
    assert survey(clean, False)[1] == [] == inspect(clean, False)[2]
    content = {p.name: p.read_bytes() for p in clean.iterdir() if p.is_file()}
    content |= {
        "spk2age": b"a 3\nb 4\n",
        "reco2dur": b"r0 1\n",
        "utt2num_samples": b"a-1 5\n",
        "w.ctm": b"a-1 1 0 1 x\n",
    }
    for seed in range(300):
        rng, root = random.Random(f"{segments} {seed}"), clean
        for path in list(root.iterdir()):
            if path.is_file():
                path.unlink()
        for name, data in content.items():
            if name in CORE or name.endswith(".wav") or rng.random() < 0.5:
                (root / name).write_bytes(data)
        for _ in range(rng.randint(0, 2)):
            damage(root, rng)
        for _ in range(rng.randint(0, 3)):
            spoil(root, rng)
        for empty in (False, True):
            expected = inspect(root, empty)[2]
            assert survey(root, empty)[1] == expected, seed
            kinds |= {problem.message.split(" ")[0] + problem.repair for problem in expected}
    assert len(kinds) > 25


def test_numbers():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (rng.integers(0, 30, rng.integers(0, 20)) for _ in range(2))
        assert lacking(a, b) == set(a.tolist()) - set(b.tolist())
        assert set(twice_there(a).tolist()) == {n for n in a.tolist() if a.tolist().count(n) > 1}
        assert set(union([a, b]).tolist()) == set(a.tolist()) | set(b.tolist())
        assert union([a, a]) is a
