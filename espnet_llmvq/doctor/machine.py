"""What the machine has: Python, processor, memory, GPU, programs, and directories that can be written to."""

import ctypes.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from espnet_llmvq.doctor.finding import BROKEN, MISSING, NOTE, OK, Finding
from espnet_llmvq.doctor.libraries import checkout, mending, version_of

PYTHONS = ((3, 10), (3, 12))  # oldest and newest; python_requires of setup.py
GIB = 2**30
TORCH_SECONDS = 300  # an import from a slow network disk takes minutes
# {program: (what needs it, how it is had, whether recipes need it)}
APT = "sudo apt-get install {}  # or your system's package of it"
PROGRAMS = {
    "bash": ("recipes", APT.format("bash"), True),
    "flock": ("recipes: one run at a time", APT.format("util-linux"), True),
    "setsid": ("recipes: a run ends with all that it started", APT.format("util-linux"), True),
    "git": ("recipe an4, which clones its corpus", APT.format("git"), False),
    "c++": ("installing ESPnet: pyworld is built from source", APT.format("g++"), False),
    "ffmpeg": ("converting what libsndfile does not read, such as AAC or AMR", APT.format("ffmpeg"), False),
    "sph2pipe": ("converting SPHERE files that are compressed with shorten", "build it from its source", False),
}
# Run by the Python that is asked about, in a process of its own: a broken build may end it.
ASK_TORCH = """
import json, torch, torchaudio
gpus = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(i)
        gpus.append([torch.cuda.get_device_name(i), of.total_memory])
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus}))
"""


def python():
    """`Finding` of this Python."""
    oldest, newest = (".".join(map(str, pair)) for pair in PYTHONS)
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    remark = f"in {sys.prefix}" if fits else f"in {sys.prefix}; {oldest} to {newest} is needed"
    fix = f"make an environment with Python {newest}: uv venv --python {newest} DIR"
    return Finding("Python", "Python", OK if fits else BROKEN, platform.python_version(), remark, fix, True)


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def bf16(cpuinfo=Path("/proc/cpuinfo")):
    """In words, which bfloat16 instructions the processor has."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"bfloat16: unknown (no {cpuinfo})"
    flags = set(re.findall(r"\b(?:amx_bf16|avx512_bf16|avx_ne_convert|bf16)\b", text))
    return f"bfloat16: {', '.join(sorted(flags)) or 'emulated: correct but slow, prefer float32'}"


def memory(meminfo=Path("/proc/meminfo"), limit=Path("/sys/fs/cgroup/memory.max")):
    """(bytes in all, bytes free) for programs, each None if the machine does not say; a container's limit counts."""
    try:
        text = meminfo.read_text(encoding="utf-8")
    except OSError:
        return None, None
    total, free = (re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE) for key in ("MemTotal", "MemAvailable"))
    total, free = (found and 1024 * int(found[1]) for found in (total, free))
    try:
        most = int(limit.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max"
        return total, free
    return min(total or most, most), min(free or most, most)


def hardware():
    """`Finding`s of processor and memory."""
    total, free = (f"{size / GIB:.1f} GiB" if size else "unknown" for size in memory())
    return [
        Finding("machine", "cores", NOTE, str(cores()), f"{platform.machine()}; {bf16()}"),
        Finding("machine", "memory", NOTE, total, f"{free} free"),
    ]


def gpus(required):
    """`Finding`s of the GPUs that torch sees, [] without torch, which is said elsewhere. required: it has to load."""
    if version_of("torch") is None:
        return []
    try:
        done = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=TORCH_SECONDS)
        found = json.loads(done.stdout.strip().splitlines()[-1]) if not done.returncode else None
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        found, said = None, f"no answer in {TORCH_SECONDS} s"
    if found is None:
        fix = "install torch and torchaudio of one version from one index (docs/install.md, GPU)"
        return [Finding("machine", "torch, torchaudio", BROKEN, "", f"they cannot be imported: {said}", fix, required)]
    if found["gpus"]:
        sizes = [(f"{name}; CUDA {found['cuda']}", f"{size / GIB:.0f} GiB") for name, size in found["gpus"]]
        return [Finding("machine", "GPU", NOTE, size, remark) for remark, size in sizes]
    remark = "this build of torch is for CPUs only"
    if found["cuda"]:
        remark = f"CUDA {found['cuda']} is in this build of torch, but no GPU is usable"
    fix = "if the machine has a GPU: nvidia-smi names its driver, docs/install.md (GPU) the build of torch for it"
    return [Finding("machine", "GPU", NOTE, "none", remark, fix if shutil.which("nvidia-smi") else "")]


def espeak():
    """`Finding` of espeak-ng, which is a library here and no program."""
    try:
        import espeakng_loader

        where = espeakng_loader.get_library_path()
    except (ImportError, OSError):
        where = ctypes.util.find_library("espeak-ng")
    state, remark = OK if where else MISSING, "synthetic speech, as in mini_tts; words that sound alike"
    return Finding("programs", "espeak-ng", state, "library" if where else "", remark, mending("tts", checkout()))


def programs(recipes):
    """`Finding`s of programs. recipes: those that recipes need are required."""
    found = []
    for name, (use, fix, needed) in PROGRAMS.items():
        where = shutil.which(name)
        found.append(Finding("programs", name, OK if where else MISSING, "", use, fix, needed and recipes))
    return [*found, espeak()]


def hub_cache():
    """Where huggingface_hub keeps what it downloads."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()


def writable(path):
    """In words, why no file can be made in a directory; "" if one can. It is tried: rights alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return ""
    except OSError as err:
        return err.strerror or str(err)


def places():
    """`Finding`s of directories in which files are made: free room, and whether one can write there."""
    found, fix = [], "set {} to a directory where you may write"
    spots = [("working directory", Path.cwd(), "run it where you may write", False)]
    try:
        spots.append(("temporary files", Path(tempfile.gettempdir()), fix.format("TMPDIR"), True))
    except OSError as err:  # none of the directories that Python tries
        found.append(Finding("places", "temporary files", BROKEN, "", str(err), fix.format("TMPDIR"), True))
    spots.append(("cache of the hub", hub_cache(), fix.format("HF_HOME"), False))
    for name, path, remedy, required in spots:
        there = next(parent for parent in (path, *path.absolute().parents) if os.path.isdir(parent))
        said = writable(there)
        free = f"{shutil.disk_usage(there).free / GIB:.0f} GiB free"
        remark = f"{path}: cannot be written to: {said}" if said else str(path)
        found.append(Finding("places", name, BROKEN if said else OK, free, remark, remedy, required))
    return found
