"""`llmvq doctor` in made-up environments: what there is of metadata, programs and models is known to the last file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import packaging
import pytest
from test_install import ROOT, constrained_version

from espnet_llmvq.doctor import machine
from espnet_llmvq.doctor.finding import Finding, as_json, lines
from espnet_llmvq.doctor.libraries import build_mismatch, declared, fits, installer, known_versions, recorded
from espnet_llmvq.models.get import made

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
REQUIRED, EXTRAS = declared(ROOT / "setup.py")
TORCH = """
class version:
    cuda = "13.0"
class cuda:
    is_available = staticmethod(lambda: {there})
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda i: "Card 9000")
    @staticmethod
    def get_device_properties(i):
        class properties:
            total_memory = 80 * 2**30
        return properties
"""


def name_of(requirement):
    return packaging.requirements.Requirement(requirement).name


def put_metadata(room, name, version, more=""):
    folder = room / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")


@pytest.fixture
def world(tmp_path):
    """An environment in which all that setup.py names is there, at the versions tested together; it can be spoilt.

    `doctor(...)` runs `llmvq doctor` in it: (exit status, JSON or text, standard error).
    """
    room, programs, home = tmp_path / "site", tmp_path / "bin", tmp_path / "home"
    for folder in (room, programs, home, home / "work"):
        folder.mkdir()
    (room / "espnet_llmvq").symlink_to(ROOT / "espnet_llmvq")
    (room / "packaging").symlink_to(Path(packaging.__file__).parent)
    put_metadata(room, "espnet_llmvq", "0.1.0")
    for name in map(name_of, REQUIRED + sum(EXTRAS.values(), [])):
        put_metadata(room, name, constrained_version(name, PYTHON))
    (room / "torch.py").write_text(TORCH.format(there=True))
    for module in ("torchaudio", "espeakng_loader"):
        (room / f"{module}.py").write_text("get_library_path = lambda: 'espeak.so'\n")
    for name in machine.PROGRAMS:
        (programs / name).touch(mode=0o755)

    class World:
        pass

    world = World()
    world.room, world.programs, world.home = room, programs, home

    def doctor(*words, cwd=home / "work", **environment):
        environment = {"PATH": str(programs), "HOME": str(home), "PYTHONPATH": str(room), **environment}
        # -S: nothing of this Python's own site-packages
        command = [sys.executable, "-S", "-m", "espnet_llmvq", "doctor", *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout) if "--json" in words else done.stdout, done.stderr

    def lose(name):
        (folder,) = room.glob(f"{name.replace('-', '_')}-*.dist-info")
        shutil.rmtree(folder)

    world.doctor, world.lose = doctor, lose
    return world


def states(found):
    """{(heading, name): state}"""
    return {(finding["group"], finding["name"]): finding["state"] for finding in found["findings"]}


def test_all_is_there(world):
    """But for models; nothing fails, and the home directory is not told."""
    status, found, err = world.doctor("--json")
    assert (status, err, found["ok"], found["version"]) == (0, "", True, "0.1.0")
    judged = {key: state for key, state in states(found).items() if key[0] not in ("machine", "models")}
    assert set(judged.values()) == {"ok"}
    names = [name for _, name in judged]
    assert {*map(name_of, REQUIRED + sum(EXTRAS.values(), [])), *machine.PROGRAMS, "espeak-ng", "Python"} <= set(names)
    (gpu,) = (f for f in found["findings"] if f["name"] == "GPU")
    assert (gpu["found"], gpu["remark"]) == ("80 GiB", "Card 9000; CUDA 13.0")
    here = next(f for f in found["findings"] if f["name"] == "working directory")
    assert here["remark"] == "~/work" and str(world.home) not in json.dumps(found)
    assert all(f["fix"] for f in found["findings"] if f["state"] == "missing")


@pytest.mark.parametrize(
    "name, status", [("numpy", 1), ("torch", 1), ("whisper-normalizer", 1), ("espnet_llmvq", 1), ("pocketsphinx", 0)]
)
def test_a_library_that_is_missing(world, name, status):
    """In a checkout, where recipes run, what is optional does not fail."""
    world.lose(name)
    code, found, _ = world.doctor("--json")
    assert code == status and found["ok"] == (not status)
    missing = [f for f in found["findings"] if f["state"] == "missing" and f["group"] != "models"]
    assert [f["name"] for f in missing] == [name]
    expected = f"make -C {ROOT / 'tools'}" if status else " 'espnet_llmvq[hmm]'"
    assert missing[0]["fix"].endswith(expected)
    text = world.doctor()[1]
    assert text.endswith(f"missing: {name}\n" if status else "nothing required is missing\n")


def test_a_version_out_of_range(world):
    """It is told and does not fail; one in range that was not tested is ok, and told."""
    for name, version in (("numpy", "1.26.4"), ("tqdm", "4.66.1"), ("torch", "2.11.0+cu126")):
        world.lose(name)
        put_metadata(world.room, name, version)
    status, found, _ = world.doctor("--json")
    found = {f["name"]: f for f in found["findings"]}
    assert status == 0
    assert (found["numpy"]["state"], found["numpy"]["remark"]) == ("other", "needs numpy>=2,<3")
    expected = constrained_version("tqdm", PYTHON)
    assert (found["tqdm"]["state"], found["tqdm"]["remark"]) == ("ok", f"tested with {expected}")
    assert (found["torch"]["state"], found["torch"]["remark"]) == ("ok", "")
    assert "torch 2.11.0+cu126 and torchaudio 2.11.0 are different builds" in found["torch, torchaudio"]["remark"]


@pytest.mark.parametrize(
    "name, status", [("flock", 1), ("setsid", 1), ("bash", 1), ("git", 0), ("c++", 0), ("ffmpeg", 0)]
)
def test_a_program_that_is_not_on_path(world, name, status):
    (world.programs / name).unlink()
    code, found, _ = world.doctor("--json")
    assert code == status
    missing = [f for f in found["findings"] if f["state"] == "missing" and f["group"] == "programs"]
    assert [f["name"] for f in missing] == [name] and missing[0]["fix"]


@pytest.mark.parametrize(
    "source, said",
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "OSError: libcudart.so.13: cannot open"),
        ("import os; os.abort()", "it ended with -6"),
    ],
)
def test_a_torch_that_does_not_load(world, source, said):
    """What ends the Python that imports it does not end doctor."""
    (world.room / "torch.py").write_text(source)
    status, found, _ = world.doctor("--json")
    broken = [f for f in found["findings"] if f["state"] == "broken"]
    assert status == 1 and [f["name"] for f in broken] == ["torch, torchaudio"] and said in broken[0]["remark"]


def test_no_gpu(world):
    """The driver's program tells that there should be one."""
    (world.room / "torch.py").write_text(TORCH.format(there=False))
    status, text, _ = world.doctor()
    assert status == 0 and "CUDA 13.0 is in this build of torch, but no GPU is usable" in text
    assert "nvidia-smi" not in text
    (world.programs / "nvidia-smi").touch(mode=0o755)
    assert "  GPU: if the machine has a GPU: nvidia-smi names its driver" in world.doctor()[1]


def as_installed(world):
    """The package as a wheel leaves it: no checkout around it, its requirements in its metadata."""
    (world.room / "espnet_llmvq").unlink()
    ignored = shutil.ignore_patterns("__pycache__", "egs")
    shutil.copytree(ROOT / "espnet_llmvq", world.room / "espnet_llmvq", ignore=ignored)
    world.lose("espnet_llmvq")
    rows = [f"Requires-Dist: {requirement}\n" for requirement in REQUIRED]
    for extra, requirements in EXTRAS.items():
        rows += [f"Provides-Extra: {extra}\n"]
        rows += [f'Requires-Dist: {requirement}; extra == "{extra}"\n' for requirement in requirements]
    put_metadata(world.room, "espnet_llmvq", "0.1.0", "".join(rows))


def test_an_installed_package(world):
    """Extras and the programs of recipes are required only if one says so."""
    as_installed(world)
    world.lose("torch")
    (world.programs / "flock").unlink()
    status, found, _ = world.doctor("--json")
    missing = [f for f in found["findings"] if f["state"] == "missing" and f["group"] != "models"]
    assert status == 0 and [f["name"] for f in missing] == ["torch", "flock"]
    assert missing[0]["fix"].endswith(" 'espnet_llmvq[train]'")
    status, text, _ = world.doctor("--extras", "train tts")
    assert status == 1 and text.endswith("missing: torch\n")
    world.lose("jiwer")
    assert world.doctor("--extras", "")[0] == 1
    status, _, err = world.doctor("--extras", "trian")
    assert status == 1 and err.startswith("error: unknown extra 'trian' (did you mean 'train'?); known: demo, dev, ")
    world.lose("espnet_llmvq")
    status, text, _ = world.doctor()
    assert status == 1 and "there is no record of its installation" in text


def test_an_empty_environment(world):
    """With the standard library alone it says what is missing."""
    for folder in world.room.glob("*.dist-info"):
        shutil.rmtree(folder)
    (world.room / "packaging").unlink()
    status, found, err = world.doctor("--json")
    assert (status, err) == (1, "")
    group = "libraries of [train]: all but scoring and data"
    missing = {key for key, state in states(found).items() if state == "missing"}
    assert {("libraries", "packaging"), ("libraries", "espnet_llmvq"), (group, "torch")} <= missing


def test_places(world):
    """Where one cannot write, and room in what is there."""
    status, found, _ = world.doctor("--json", cwd="/proc", TMPDIR=str(world.home), HF_HOME="/proc/none")
    found = {f["name"]: f for f in found["findings"] if f["group"] == "places"}
    assert status == 0
    assert {name: f["state"] for name, f in found.items()} == {
        "working directory": "broken", "temporary files": "ok", "cache of the hub": "broken",
    }  # fmt: skip
    assert found["cache of the hub"]["remark"].startswith("/proc/none/hub: cannot be written to: ")
    assert found["cache of the hub"]["fix"] == "set HF_HOME to a directory where you may write"
    free = shutil.disk_usage(world.home).free / 2**30
    assert float(found["temporary files"]["found"].split()[0]) == pytest.approx(free, abs=2)


def test_models(world):
    """One that was made whole, one that was not, one that is not there, and another one."""
    home = world.home / "models"
    for name in ("whisper-tiny.en", "whisper-base", "mine"):
        (home / name).mkdir(parents=True)
        (home / name / "config.json").write_text("{}\n")
    made("whisper-tiny.en", home / "whisper-tiny.en").note(["config.json"])
    status, found, _ = world.doctor("--json", MODELS=str(home))
    found = {f["name"]: f for f in found["findings"] if f["group"] == "models"}
    assert status == 0
    assert {name: f["state"] for name, f in found.items()} == {
        "whisper-tiny.en": "ok", "whisper-base": "broken", "gemma-3-270m": "missing", "mine": "ok",
    }  # fmt: skip
    assert found["whisper-tiny.en"]["remark"] == "~/models/whisper-tiny.en"
    get = "llmvq models get {0} --out ~/models/{0}"
    assert found["gemma-3-270m"]["fix"] == get.format("gemma-3-270m") + " --accept_licence"
    assert found["whisper-base"]["fix"] == "remove ~/models/whisper-base, then " + get.format("whisper-base")


def test_memory_by_hand(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemFree: 1 kB\nMemAvailable:   6000 kB\n")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("7168000\n")
    assert machine.memory(tmp_path / "meminfo", tmp_path / "max") == (8192000, 6144000)
    assert machine.memory(tmp_path / "meminfo", tmp_path / "limit") == (7168000, 6144000)
    assert machine.memory(tmp_path / "none", tmp_path / "none") == (None, None)


def test_bf16_by_hand(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx512_bf16 amx_bf16 avx\n")
    assert machine.bf16(tmp_path / "cpuinfo") == "bfloat16: amx_bf16, avx512_bf16"
    (tmp_path / "cpuinfo").write_text("flags : fpu avx\n")
    assert machine.bf16(tmp_path / "cpuinfo") == "bfloat16: emulated: correct but slow, prefer float32"
    assert "unknown" in machine.bf16(tmp_path / "none")


@pytest.mark.parametrize("version, command", [("25.3", "-m pip install"), ("26.0.1", "uv pip install --python")])
def test_which_installer(monkeypatch, version, command):
    """pip 26 cannot install ESPnet."""
    monkeypatch.setattr("espnet_llmvq.doctor.libraries.version_of", {"pip": version}.get)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "pip")
    assert command in installer()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert installer().startswith("uv pip install --python ")


@pytest.mark.parametrize(
    "torch, torchaudio, differ",
    [
        ("2.11.0", "2.11.0", False),
        ("2.11.0+cu126", "2.11.0+cu126", False),
        ("2.11.0+cu126", "2.11.0+cpu", True),
        ("2.11.0", "2.10.0", True),
        (None, "2.10.0", False),
    ],
)
def test_builds(torch, torchaudio, differ):
    assert bool(build_mismatch(torch, torchaudio)) == differ


def test_versions_tested_together(tmp_path):
    pins = tmp_path / "constraints.txt"
    pins.write_text("# pins\ntqdm==4.70.1 ; python_version >= '3.10'\ntqdm==9 ; python_version < '3'\nPy_YAML==6\n")
    assert known_versions(pins) == {"tqdm": "4.70.1", "py-yaml": "6"}
    assert fits("2.0.0rc1", "x>=1,<3") and not fits("3.0", "x>=1,<3") and fits("2.11.0+cpu", "x==2.11.0")


def test_what_setup_declares_is_what_an_installed_package_has_recorded(monkeypatch):
    rows = [*REQUIRED, *(f"{r} ; extra == '{extra}'" for extra, more in EXTRAS.items() for r in more)]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: rows)
    assert recorded() == (REQUIRED, EXTRAS)


def test_lines_by_hand():
    found = [
        Finding("a", "one", "ok", "1.0", "", "never"),
        Finding("a", "two", "missing", "", "needs two", "get both", True),
        Finding("b", "three", "missing", "", "", "get both", True),
        Finding("b", "four", "broken", "", "odd", "mend it"),
        Finding("b", "five", "note", "5", "told"),
    ]
    assert list(lines(found)) == [
        "a", "  ok      one                    1.0", "  missing two                                  needs two",
        "b", "  missing three", "  broken  four                                 odd",
        "          five                   5             told",
        "to mend", "  two, three: get both", "if you need it", "  four: mend it", "missing: two, three",
    ]  # fmt: skip
    row = {"group": "a", "name": "one", "state": "ok", "found": "1.0", "remark": "", "fix": "never", "required": False}
    assert as_json(found[:1], "/", at="/x") == {"ok": True, "at": "/x", "findings": [row]}
    assert not as_json(found, os.path.expanduser("~"))["ok"]
