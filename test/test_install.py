"""Packaging: setup.py, its pins and tools/constraints.txt agree."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import espnet_llmvq

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12")


@pytest.fixture(scope="module")
def metadata():
    """What setup() is called with, by running setup.py with a setup() that only records."""
    source = (
        "import json, setuptools\n"
        "setuptools.setup = lambda **keywords: print(json.dumps(keywords, default=str))\n"
        "import runpy; runpy.run_path('setup.py')\n"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


def constraints():
    """Return the (name, version, Marker or None) of each line of constraints.txt."""
    found = []
    for line in (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        pin, _, marker = line.partition(" ; ")
        name, version = pin.split("==")
        found.append((canonicalize_name(name), version, Marker(marker) if marker else None))
    return found


def constrained_version(name, python):
    """Return the one version that constraints.txt allows for `python` on Linux, or None."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    versions = [
        version
        for found, version, marker in constraints()
        if found == canonicalize_name(name) and (marker is None or marker.evaluate(environment))
    ]
    assert len(versions) <= 1, f"{name} has {versions} for Python {python}"
    return versions[0] if versions else None


def test_metadata(metadata):
    assert metadata["name"] == "espnet_llmvq"
    assert metadata["version"] == espnet_llmvq.__version__
    assert metadata["python_requires"] == ">=3.10,<3.13"
    assert metadata["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    for init in (ROOT / "espnet_llmvq").rglob("__init__.py"):
        assert ".".join(init.parent.relative_to(ROOT).parts) in metadata["packages"]


def test_files_that_are_no_modules_are_declared(metadata):
    package = ROOT / "espnet_llmvq"
    others = {
        (".".join(path.parent.relative_to(ROOT).parts), path.name)
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    declared = {(room, name) for room, names in metadata["package_data"].items() for name in names}
    assert others == declared


def test_every_directory_with_modules_is_a_package():
    for module in (ROOT / "espnet_llmvq").rglob("*.py"):
        assert (module.parent / "__init__.py").exists(), f"{module.parent} would not be installed"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_satisfy_setup(metadata, python):
    requirements = metadata["install_requires"] + sum(metadata["extras_require"].values(), [])
    for requirement in map(Requirement, requirements):
        version = constrained_version(requirement.name, python)
        assert version is not None, f"{requirement} is not in constraints.txt for Python {python}"
        assert version in requirement.specifier


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_satisfy_espnet(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    for requirement in map(Requirement, importlib.metadata.requires("espnet")):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version = constrained_version(requirement.name, python)
            assert version is not None and version in requirement.specifier, requirement


def test_constraints_name_no_index():
    text = (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in text and "@" not in text
