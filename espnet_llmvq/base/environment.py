"""Facts of a run: versions, machine and commit. Standard library only."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

FILE = "environment.json"  # written beside hypotheses by stage 12


def get_commit(file):
    """The git commit of the checkout that holds `file`, with "-dirty" if it was changed.

    "unknown" if git does not track `file`, as for an installed package.
    """

    def git(*args):
        command = ["git", "-C", str(Path(file).parent), "-c", "core.fsmonitor=false", *args]  # may be anyone's
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(file).name)
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def get_version(package):
    """The installed version of `package` without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions(*packages):
    """{package: installed version}, for records of what was made with which tools."""
    return {package: get_version(package) for package in packages}


def facts(**more):
    """{name: str or int} of what this process runs on, and `more` facts of the caller."""
    return {
        "python": platform.python_version(),
        **versions("torch", "espnet", "transformers"),
        "platform": platform.platform(),
        "CPUs": os.cpu_count(),
        "commit": get_commit(__file__),
        **more,
    }
