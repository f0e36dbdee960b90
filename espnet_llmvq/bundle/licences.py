"""Licences of what is inside a packed system: the files that came with its LLM and encoder, and what is known of them.

licences/llm/, tokenizer/, encoder/    files of their directories that are called licence, notice, terms or policy
licences/                              those that were given when it was packed, such as that of the data
"""

import os
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.hub import is_terms
from espnet_llmvq.base.made import Made
from espnet_llmvq.bundle.files import LICENCES

PARTS = {"llm": "the LLM", "tokenizer": "the tokenizer", "encoder": "the pretrained encoder"}


def collect(parts, given, out):
    """Copy licence files into OUT/licences; {part: what is recorded of its licence or ""} for the manifest.

    parts: {name as in PARTS: its directory, or its name on the hub}. given: further files. Raises UserError for one
    that is no file of text, or whose name is taken.
    """
    said = {}
    for part, source in parts.items():
        said[part] = recorded(source) if os.path.isdir(source) else of_hub(source)
        for file in sorted(Path(source).glob("*")):
            if is_terms(file.name) and file.is_file():
                add(file, Path(out, LICENCES, part, file.name))
    for file in map(Path, given):
        if not is_terms(file.name) or not file.is_file():
            raise UserError(
                f"--licence {file}: not a file of text whose name says licence, notice, terms or policy; rename it"
            )
        add(file, Path(out, LICENCES, file.name))
    return said


def of_hub(name):
    return f"of {name} on the hub"


def recorded(directory):
    """What the record of a model's directory says of its licence, "" if nothing."""
    noted = Made(directory).record()
    if not noted:
        return ""
    if hub := noted["options"].get("hub"):  # whose tables were cut here
        return of_hub(hub)
    trained_here = "llm" not in noted["inputs"] and "model" not in noted["options"]
    return noted.get("facts", {}).get("licence") or "trained from nothing by the recipe" * trained_here


def add(file, to):
    if to.exists():
        raise UserError(f"--licence {file}: two files of this name; rename one")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def files_of(names, part=None):
    """Those of relative paths that are licence files of a part of PARTS, or with None those that were given."""
    depth, start = (3, f"{LICENCES}/{part}/") if part else (2, f"{LICENCES}/")
    return [name for name in names if name.startswith(start) and len(name.split("/")) == depth]


def unknown(said, names):
    """Parts of which neither a licence file is inside nor anything is recorded."""
    return [part for part, text in said.items() if not text and not files_of(names, part)]
