#!/usr/bin/env python3
"""Say what the toolkit needs, what is there, what is missing and how to get it.

Needs nothing but the standard library, so that it also answers in an empty environment.
"""

import argparse
import ast
import ctypes.util
import importlib.metadata
import platform
import re
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
SETUP = TOOLS.parent / "setup.py"
CONSTRAINTS = TOOLS / "constraints.txt"
INSTALL = "make -C tools"
TRAIN = "train"  # the extra that make installs


def packaging_modules():
    """Return packaging's (requirements, markers), from pip's copy if need be, or None."""
    try:
        from packaging import markers, requirements
    except ImportError:
        try:
            from pip._vendor.packaging import markers, requirements
        except ImportError:
            return None
    return requirements, markers


def declared_requirements(setup_py):
    """Return (required, extras) from the two constants of setup.py, without running it.

    required: list of requirement strings; extras: {name: list of requirement strings}.
    """
    constants = {}
    for node in ast.parse(Path(setup_py).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("INSTALL_REQUIRES", "EXTRAS_REQUIRE"):
                constants[name] = ast.literal_eval(node.value)
    return constants["INSTALL_REQUIRES"], constants["EXTRAS_REQUIRE"]


def tested_versions(constraints_txt):
    """Return {normalised name: version} of the constraints that hold for this Python."""
    found = packaging_modules()
    tested = {}
    for line in Path(constraints_txt).read_text(encoding="utf-8").splitlines():
        pin, _, marker = line.partition(";")
        name, equals, version = pin.strip().partition("==")
        if not equals or name.startswith("#"):
            continue
        if marker and (found is None or not found[1].Marker(marker.strip()).evaluate()):
            continue
        tested[normalised(name)] = version
    return tested


def normalised(name):
    """Return the name of a distribution as indices spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_version(name):
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine(requirement, tested):
    """Return (name, version or None, state); state is "ok", "missing" or "wrong", with a remark."""
    name = re.match(r"[\w.-]+", requirement).group()
    version = installed_version(name)
    if version is None:
        return name, None, "missing", f"needs {requirement}"
    found = packaging_modules()
    if found and version not in found[0].Requirement(requirement).specifier:
        return name, version, "wrong", f"needs {requirement}"
    expected = tested.get(normalised(name))
    differs = expected and version.partition("+")[0] != expected
    return name, version, "ok", f"tested with {expected}" if differs else ""


def print_requirements(title, requirements, tested):
    """Print one line per requirement; return the (name, version, state, remark) of each."""
    print(title)
    findings = [examine(requirement, tested) for requirement in requirements]
    for name, version, state, remark in findings:
        print(f"  {state:8}{name:22}{version or '-':14}{remark}".rstrip())
    return findings


def build_mismatch():
    """Return a hint when torch and torchaudio come from different releases or builds, else None."""
    torch, torchaudio = installed_version("torch"), installed_version("torchaudio")
    if not torch or not torchaudio or torch == torchaudio:
        return None
    return (
        f"torch {torch} and torchaudio {torchaudio} are different builds: "
        f"install both from the same index (docs/install.md)"
    )


def espeak_library():
    """Return where espeak-ng, which speaks the synthetic speech, was found, or None."""
    try:
        import espeakng_loader

        return espeakng_loader.get_library_path()
    except (ImportError, OSError):
        return ctypes.util.find_library("espeak-ng")


def bf16_on_cpu():
    """Return which bfloat16 instructions the CPU has, as words."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown (no /proc/cpuinfo)"
    flags = set(re.findall(r"\b(?:amx_bf16|avx512_bf16|avx_ne_convert|bf16)\b", cpuinfo))
    return ", ".join(sorted(flags)) or "emulated: correct but slow, prefer float32"


def print_torch():
    """Import torch and torchaudio, print what they can use; return False if either fails."""
    try:
        import torch
        import torchaudio  # noqa: F401  (espnet imports it; a wrong build fails here)
    except (ImportError, OSError) as err:
        print(f"  broken  import of torch and torchaudio: {err}")
        return False
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gib = torch.cuda.get_device_properties(i).total_memory / 2**30
            print(f"  CUDA {torch.version.cuda}: {torch.cuda.get_device_name(i)}, {gib:.0f} GiB")
    elif torch.version.cuda:
        print(f"  CUDA {torch.version.cuda} is in this build of torch, but no GPU is usable")
    else:
        print("  this build of torch is for CPUs only")
    return True


def main(argv=None, setup_py=SETUP, constraints_txt=CONSTRAINTS):
    """Print the report; return 1 if something required is missing or does not load, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", action="store_true", help="import torch to see GPUs (slow)")
    args = parser.parse_args(argv)

    tested = tested_versions(constraints_txt)
    required, extras = declared_requirements(setup_py)
    python_fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    print(f"Python {platform.python_version()} in {sys.prefix}")
    if not python_fits:
        print("  wrong: 3.10, 3.11 or 3.12 is needed")
    findings = print_requirements("required", required, tested)
    findings += print_requirements("required for all but scoring and data", extras.pop(TRAIN, []), tested)
    if installed_version("espnet_llmvq") is None:
        findings.append(("espnet_llmvq", None, "missing", ""))
        print("  missing espnet_llmvq (this checkout)")
    for extra, requirements in extras.items():
        print_requirements(f"optional: {extra}", requirements, tested)
    print("machine")
    print(f"  espeak-ng: {espeak_library() or 'not found: only speech synthesis needs it'}")
    print(f"  bfloat16 on the CPU: {bf16_on_cpu()}")
    torch_loads = print_torch() if args.torch else True
    if not args.torch:
        print("  GPU: not asked; add --torch")

    missing = [name for name, _, state, _ in findings if state == "missing"]
    wrong = [name for name, _, state, _ in findings if state == "wrong"]
    if hint := build_mismatch():
        print(f"hint: {hint}")
    if missing:
        print(f"missing: {', '.join(missing)}; get them with: {INSTALL}")
    if wrong:
        print(f"other versions than setup.py asks for: {', '.join(wrong)}; set right by: {INSTALL}")
    if missing or not python_fits or not torch_loads:
        return 1
    print("nothing required is missing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
