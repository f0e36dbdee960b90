"""Libraries that are installed, against the versions that setup.py asks for and those tested together."""

import ast
import importlib.util
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

import espnet_llmvq
from espnet_llmvq.base.errors import check_name
from espnet_llmvq.doctor.finding import MISSING, OK, OTHER, Finding

NAME = "espnet_llmvq"
TRAIN = "train"
# What an extra is for; docs/install.md says more.
EXTRAS = {
    TRAIN: "all but scoring and data",
    "models": "models packed for llama.cpp",
    "demo": "the demo page",
    "tts": "synthetic speech",
    "hmm": "word alignment by HMM",
    "docs": "the documentation as a site",
    "dev": "tests",
}
NOT_MADE = ("hmm",)  # extras that `make -C tools` does not install


def checkout():
    """The directory of the checkout that the package is run from, None for an installed package."""
    root = Path(espnet_llmvq.__file__).resolve().parent.parent
    return root if (root / "setup.py").is_file() and (root / "tools" / "Makefile").is_file() else None


def declared(setup_py):
    """(required, {extra: required}), lists of requirement strings, of the constants of setup.py, which is not run."""
    constants = {}
    for node in ast.parse(Path(setup_py).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("INSTALL_REQUIRES", "EXTRAS_REQUIRE"):
                constants[name] = ast.literal_eval(node.value)
    return constants["INSTALL_REQUIRES"], constants["EXTRAS_REQUIRE"]


def recorded():
    """As `declared`, of the installed package."""
    required, extras = [], {}
    try:
        requirements = metadata.requires(NAME) or ()
    except metadata.PackageNotFoundError:
        return required, extras
    for line in requirements:
        requirement, _, marker = map(str.strip, line.partition(";"))
        extra = re.fullmatch(r"""extra == ["']([\w.-]+)["']""", marker)
        (extras.setdefault(extra[1], []) if extra else required).append(requirement)
    return required, extras


def normalised(name):
    """A name of a distribution as indices spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def known_versions(constraints_txt):
    """{normalised name: version} of the constraints that hold for this Python."""
    try:
        from packaging.markers import Marker
    except ImportError:
        return {}
    versions = {}
    for line in Path(constraints_txt).read_text(encoding="utf-8").splitlines():
        pin, _, marker = map(str.strip, line.partition(";"))
        name, equals, version = pin.partition("==")
        if equals and not name.startswith("#") and (not marker or Marker(marker).evaluate()):
            versions[normalised(name)] = version
    return versions


def version_of(name):
    """The installed version of a distribution, None if it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fits(version, requirement):
    """Whether a requirement string allows a version; True also without `packaging`, which is itself required."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def installer():
    """The words of a command that installs into this environment: its pip, or uv where pip is none that can.

    pip 26 refuses a dependency of ESPnet (docs/install.md).
    """
    pip = importlib.util.find_spec("pip") and version_of("pip")
    python = shlex.quote(sys.executable)
    if pip and int(pip.partition(".")[0]) < 26:
        return f"{python} -m pip install"
    return f"uv pip install --python {python}"


def mending(extra, root):
    """The command that installs an extra, or what is always needed (""): of a checkout, all of its environment."""
    if root and extra not in NOT_MADE:
        return f"make -C {shlex.quote(str(root / 'tools'))}"
    what = f"{NAME}[{extra}]" if extra else NAME
    return f"{installer()} {shlex.quote(what)}"


def library(group, requirement, versions, fix, required):
    """`Finding` of one requirement. versions: {normalised name: version} of what was tested together."""
    name = re.match(r"[\w.-]+", requirement)[0]
    version = version_of(name)
    if version is None:
        return Finding(group, name, MISSING, "", f"needs {requirement}", fix, required)
    if not fits(version, requirement):
        return Finding(group, name, OTHER, version, f"needs {requirement}", fix, required)
    expected = versions.get(normalised(name), version)
    remark = f"tested with {expected}" if version.partition("+")[0] != expected.partition("+")[0] else ""
    return Finding(group, name, OK, version, remark, "", required)


def build_mismatch(torch, torchaudio):
    """In words, that versions of torch and torchaudio are of different releases or builds; "" if they are not."""
    if not torch or not torchaudio or torch == torchaudio:
        return ""
    return f"torch {torch} and torchaudio {torchaudio} are different builds"


def libraries(extras):
    """`Finding`s of all libraries; those of the package and of `extras`, names of extras, are required.

    Raises UserError for an extra that there is not.
    """
    root = checkout()
    required, more = declared(root / "setup.py") if root else recorded()
    for extra in extras:
        check_name("extra", extra, more)
    versions = known_versions(root / "tools" / "constraints.txt") if root else {}
    fix = mending("", root)
    found = [library("libraries", requirement, versions, fix, True) for requirement in required]
    if version_of(NAME) is None:
        remark = "this checkout is not installed" if root else "there is no record of its installation"
        found.append(Finding("libraries", NAME, MISSING, "", remark, fix, True))
    for extra, requirements in more.items():
        group = f"libraries of [{extra}]: {EXTRAS.get(extra, '')}" + ("" if extra in extras else " (optional)")
        fix = mending(extra, root)
        found += [library(group, requirement, versions, fix, extra in extras) for requirement in requirements]
    if hint := build_mismatch(version_of("torch"), version_of("torchaudio")):
        fix = "install both from the same index (docs/install.md, GPU)"
        found.append(Finding("builds", "torch, torchaudio", OTHER, "", hint, fix))
    return found
