"""The wheel in an environment of its own, outside of the checkout: transcribe, score, fork, doctor, the Python class.

The libraries are those of the environment that runs the tests, so nothing is downloaded.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import soundfile
from test_install import ROOT

# What runs of recipes have made here.
MADE = ("data", "data_*", "dump", "dump_*", "exp", "exp_*", "downloads", "llm", "llm_smoke")


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Runs programs of the new environment in a directory without the checkout: `outside("llmvq", ...)`."""
    room = tmp_path_factory.mktemp("outside")
    (room / "src").mkdir()
    for name, made in (("espnet_llmvq", ()), ("egs", MADE)):
        ignored = shutil.ignore_patterns("__pycache__", *made)
        shutil.copytree(ROOT / name, room / "src" / name, symlinks=True, ignore=ignored)
    for name in ("setup.py", "LICENSE"):
        shutil.copy(ROOT / name, room / "src")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "MAIN_ROOT")}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        room / "dist",
        room / "src",
    ]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        pytest.skip("no pip beside this Python")
    done = subprocess.run(build, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(room / "src")
    venv.create(room / "env", with_pip=False)
    (wheel,) = (room / "dist").iterdir()
    python = room / "env" / "bin" / "python"
    install = [*pip, "--python", python, "install", "--no-deps", "--no-index", wheel]
    done = subprocess.run(install, env=clean, capture_output=True, text=True)
    if done.returncode and "no such option: --python" in done.stderr:
        pytest.skip("pip cannot install into another environment")
    assert done.returncode == 0, done.stderr
    # A directory that a .pth file names comes last, and .pth files in it count for nothing: no editable package.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(room / "env")}))
    others = dict.fromkeys(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in others))
    (room / "here").mkdir()
    clean["PATH"] = f"{room / 'env' / 'bin'}:{clean['PATH']}"

    def run(*words, cwd=room / "here", status=0):
        command = [str(room / "env" / "bin" / words[0]) if "/" not in words[0] else words[0], *map(str, words[1:])]
        done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout

    run.room = room
    return run


@pytest.mark.slow
def test_the_package_is_that_of_the_wheel(outside):
    where = outside("python", "-c", "import espnet_llmvq; print(espnet_llmvq.__file__)").strip()
    package = Path(where).parent
    assert package.is_relative_to(outside.room / "env")
    assert (package / "py.typed").exists() and (package / "report" / "page.css").exists()
    assert outside("llmvq", "--version").strip() == outside("python", "-m", "espnet_llmvq", "--version").strip()


@pytest.mark.slow
def test_doctor(outside):
    found = json.loads(outside("llmvq", "doctor", "--json", "--extras", "train"))
    states = {f["name"].replace("_", "-"): f["state"] for f in found["findings"]}
    assert found["ok"] and states["torch"] == states["numpy"] == states["huggingface-hub"] == "ok"
    assert Path(found["installed"]).expanduser().is_relative_to(outside.room / "env")
    # Extras in metadata are those of setup.py; `recorded` read them all.
    groups = {f["group"].partition("[")[2].partition("]")[0] for f in found["findings"] if "[" in f["group"]}
    assert {"train", "models", "tts", "hmm", "dev"} <= groups


@pytest.mark.slow
def test_score(outside):
    here = outside.room / "here"
    (here / "ref").write_text("u1 one two three four\n")
    (here / "hyp").write_text("u1 one too three four\n")
    printed = outside("llmvq", "score", "--ref", "ref", "--hyp", "hyp", "--replicates", "100")
    assert "25.00" in printed and "1 / 4 words" in printed


@pytest.mark.slow
def test_transcribe(outside, packed_dir, corpus):
    """The command and the Python class have the text that the checkout has."""
    from espnet_llmvq import Recogniser

    sound = f"{corpus.dir}/train00.wav"
    text = Recogniser(packed_dir)(sound).text
    assert text and outside("llmvq", "transcribe", packed_dir, sound) == f"{text}\n"
    samples, rate = soundfile.read(sound)
    program = (
        "import sys, soundfile\n"
        "from espnet_llmvq import Recogniser\n"
        "recogniser = Recogniser(sys.argv[1])\n"
        "print(recogniser(soundfile.read(sys.argv[2])).text)\n"
    )
    assert rate == 16000 and outside("python", "-c", program, packed_dir, sound).splitlines()[-1] == text


@pytest.mark.slow
def test_fork(outside):
    """A recipe of the package, whose first stage makes its data."""
    outside("llmvq", "recipe", "fork", "mini_tts", "mine")
    mine = outside.room / "here" / "mine"
    outside(str(mine / "run.sh"), "--smoke", "--stop_stage", "1", "--nj", "1", cwd=mine)
    assert (mine / "data_smoke" / "train" / "text").stat().st_size > 0
    toolkit = (mine / "toolkit.sh").read_text()
    assert str(outside.room / "env") in toolkit and str(ROOT) not in toolkit
