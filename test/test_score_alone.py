"""Scoring in an environment of its own: the package without its extras, so without torch and ESPnet."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # for the whole environment
HEAVY = ("torch", "torchaudio", "espnet", "espnet2", "transformers", "peft", "matplotlib", "librosa", "sklearn")


@pytest.fixture(scope="module")
def llmvq(tmp_path_factory):
    """Runs `llmvq` of a new environment in a directory; skips where its packages cannot be had."""
    room = tmp_path_factory.mktemp("alone")
    shutil.copytree(ROOT / "espnet_llmvq", room / "src" / "espnet_llmvq", ignore=shutil.ignore_patterns("__pycache__"))
    (room / "src" / "egs").mkdir()
    for name in ("setup.py", "LICENSE"):
        shutil.copy(ROOT / name, room / "src")
    bin_dir, uv = room / "env" / "bin", shutil.which("uv")
    pins = ["-c", str(ROOT / "tools" / "constraints.txt"), str(room / "src")]
    if uv:
        make = [uv, "venv", "--quiet", "--python", sys.executable, str(room / "env")]
        install = [uv, "pip", "install", "--quiet", "--python", str(bin_dir / "python"), *pins]
    else:
        make = [sys.executable, "-m", "venv", str(room / "env")]
        install = [str(bin_dir / "python"), "-m", "pip", "install", "--quiet", *pins]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for command in (make, install):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as err:
            pytest.skip(f"no environment: {err}")
        if done.returncode:
            pytest.skip(f"no environment: {done.stderr.strip().splitlines()[-1]}")
    there = "import importlib.util, sys; print([m for m in sys.argv[1:] if importlib.util.find_spec(m)])"
    found = subprocess.run([bin_dir / "python", "-c", there, *HEAVY], cwd=room, capture_output=True, text=True)
    assert found.stdout == "[]\n"

    def run(*words, status=0):
        done = subprocess.run([bin_dir / "llmvq", *words], cwd=room, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done

    run.room = room
    return run


@pytest.mark.slow
def test_scoring_needs_no_extras(llmvq):
    room = llmvq.room
    (room / "ref").write_text("u1 One two three four\nu2 five six\n")
    (room / "entities").write_text("u1\tn=two\n")
    for name, text in (("a", "one two three for"), ("b", "one too three four")):
        (room / f"{name}_test.jsonl").write_text(
            f'{{"id": "u1", "text": "{text}"}}\n{{"id": "u2", "text": "five six"}}\n'
        )
    more = ["--normaliser=whisper_basic", "--entities=entities", "--metric=wer", "--metric=ter", "--metric=bleu"]
    printed = llmvq("score", "--ref=ref", "--hyp=a_test.jsonl", "--hyp=b_test.jsonl", *more).stdout
    assert "WER" in printed and "16.67" in printed
    assert "B - A" in llmvq("compare", "a_test.jsonl", "b_test.jsonl", "--ref=ref").stdout
    systems = {name: {"label": name.upper(), "hypotheses": f"{name}_{{set}}.jsonl"} for name in "ab"}
    sets = {"test": {"domain": "id", "text": "ref", "entities": "entities", "metrics": ["bleu", "chrf"]}}
    (room / "table.yaml").write_text(yaml.safe_dump({"systems": systems, "sets": sets}))
    llmvq("results", "--table=table.yaml")
    rows = json.loads((room / "exp" / "results.json").read_text())
    assert next(r["value"] for r in rows if (r["system"], r["metric"]) == ("a", "wer")) == pytest.approx(
        100 / 6, abs=1e-3
    )
    assert "Word error rate" in llmvq("show", "exp").stdout
    llmvq("report", "--table=table.yaml")
    assert "<h3>BLEU</h3>" in (room / "exp" / "report" / "report.html").read_text()


@pytest.mark.slow
def test_data_preparation_needs_no_extras(llmvq):
    import numpy as np
    import soundfile

    data = llmvq.room / "data"
    data.mkdir()
    soundfile.write(data / "a.wav", np.zeros(16000, dtype="f4") + 0.1, 16000)
    for name, line in (("wav.scp", f"u1 {data}/a.wav"), ("text", "u1 one"), ("utt2spk", "u1 s"), ("spk2utt", "s u1")):
        (data / name).write_text(f"{line}\n")
    llmvq("data", "validate", str(data))


@pytest.mark.slow
def test_a_command_that_needs_the_extra_says_so(llmvq):
    done = llmvq("align", "make", "--aligner=hmm", "sequences.jsonl", "words.ctm", status=1)
    assert re.fullmatch(
        r"error: this needs \w+, which is not installed: pip install 'espnet_llmvq\[train\]' \(docs/install.md\)\n",
        done.stderr,
    )
