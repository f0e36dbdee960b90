"""A corpus is added in the places that CONTRIBUTING.md names, and these suffice."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "egs" / "TEMPLATE" / "llmasr1"
DB = """
declare -A DATA=([train]={corpus}/list.csv [test_phone]={corpus}/phone.csv)
HELD_OUT="valid test"
TEXT={corpus}/more.txt
"""
SCRIPT = """#!/usr/bin/env python3
import csv, sys
from pathlib import Path
from espnet_llmvq.data.copies import perturb_data
from espnet_llmvq.data.datadir import DataDir

corpus, out = Path({corpus!r}), Path(sys.argv[sys.argv.index("--datadir") + 1])
for name, file in (("train", "list.csv"), ("test", "phone.csv")):
    rows = {{row["audio"][:-4]: row for row in csv.DictReader(open(corpus / file))}}
    wav_scp = {{utt: str(corpus / row["audio"]) for utt, row in rows.items()}}
    text, speaker = ({{utt: row[column] for utt, row in rows.items()}} for column in ("text", "speaker"))
    DataDir(wav_scp, text, speaker).write(out / name)
perturb_data(out / "test", out / "test_noise", noise=["white"], suffix="-noise", nj=1)
"""


@pytest.fixture
def recipe(tmp_path):
    """A corpus of 20 and 3 files, and a recipe without data preparation: what it shares with the others, linked."""
    corpus, recipe = tmp_path / "corpus", tmp_path / "recipe"
    for folder in (corpus, recipe / "local", tmp_path / "bin"):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file, count in (("list.csv", 20), ("phone.csv", 3)):
        names = [f"{file[0]}{i:02d}" for i in range(count)]
        for name in names:
            soundfile.write(corpus / f"{name}.wav", 0.1 * rng.standard_normal(2000), 8000)
        rows = [f"{name}.wav,words of {name},{name}" for name in names]
        (corpus / file).write_text("\n".join(["audio,text,speaker", *rows]) + "\n")
    (corpus / "more.txt").write_text("more text\n")
    for name in ("path.sh", "utils"):
        (recipe / name).symlink_to(TEMPLATE / name)
    (tmp_path / "bin" / "llmvq").write_text(f'#!/bin/sh\nexec {sys.executable} -m espnet_llmvq "$@"\n')
    (tmp_path / "bin" / "llmvq").chmod(0o755)
    return recipe


def prepare(recipe):
    """Run stage 1; {set: DataDir}, each of which validates."""
    path = f"{recipe.parent}/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    env = {**os.environ, "MAIN_ROOT": str(ROOT), "PATH": path}
    command = ["bash", "local/data.sh", "--datadir", "data", "--nj", "1"]
    done = subprocess.run(command, cwd=recipe, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sets = [path.parent for path in (recipe / "data").glob("*/wav.scp")]
    problems = {path.name: validate(path, nj=1) for path in sets if path.name != "test_noise"}
    assert not any(problems.values()), problems
    return {path.name: DataDir.load(path) for path in sets}


def test_a_list_in_db_sh_is_all_that_a_corpus_in_a_known_form_needs(recipe):
    (recipe / "local" / "data.sh").symlink_to(TEMPLATE / "local" / "data.sh")
    (recipe / "db.sh").write_text(DB.format(corpus=recipe.parent / "corpus"))
    sets = prepare(recipe)
    sizes = {name: len(data.text) for name, data in sets.items()}
    assert sizes == {"train": 16, "valid": 2, "test": 2, "test_noise": 2, "test_phone": 3}
    assert (recipe / "data/lm/train.txt").read_text().endswith("more text\n")


def test_another_corpus_needs_a_script_of_its_own_and_no_more(recipe):
    (recipe / "local" / "data.sh").write_text('. ./path.sh\nexec python3 local/data.py "$@"\n')
    (recipe / "local" / "data.py").write_text(SCRIPT.format(corpus=str(recipe.parent / "corpus")))
    sets = prepare(recipe)
    assert {name: len(data.text) for name, data in sets.items()} == {"train": 20, "test": 3, "test_noise": 3}
    times = {p: p.stat().st_mtime_ns for p in (recipe / "data").rglob("*")}
    prepare(recipe)
    assert {p: p.stat().st_mtime_ns for p in (recipe / "data").rglob("*")} == times
