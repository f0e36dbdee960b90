"""How stages say what they find."""

import os

from espnet_llmvq.base.environment import versions

REMEDY = "remove {out} to make it again, or give another --expdir"


def tools(*packages):
    """Option of a `Made`: versions of the libraries that a result depends on."""
    return {"tools": versions(*packages)}


def local(name, path):
    """An LLM or encoder as input of a `Made`, {name: path}: {} for one on the hub, or none."""
    return {name: path} if os.path.isdir(path) else {}


def elsewhere(name, path):
    """The same as an option, {} for a local directory: its content counts, not how its path is written."""
    return {} if os.path.isdir(path) else {name: path}


def up_to_date(made, redo=False):
    """Whether a cheap result need not be made; says so, or why it is made again."""
    if not redo and made.fresh():
        print(f"{made.out} is up to date, nothing to do", flush=True)
        return True
    if made.record():
        print(f"{made.out} is made again: {'asked for' if redo else made.difference()}", flush=True)
    return False
