"""Models that are on the disk."""

import os
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.doctor.finding import BROKEN, MISSING, OK, Finding
from espnet_llmvq.doctor.libraries import checkout
from espnet_llmvq.models.catalogue import MODELS
from espnet_llmvq.models.get import PLACE, made


def homes():
    """Directories in which recipes look for models: MODELS, or downloads/models of the checkout and of here."""
    if given := os.environ.get("MODELS"):
        return [Path(given)]
    return list(dict.fromkeys(path.absolute() for path in (*([checkout() / PLACE] if checkout() else []), PLACE)))


def difference(name, at):
    """In words, why the directory `at` is not the model; "" if it is."""
    try:
        return made(name, at).difference()
    except (OSError, UserError) as err:  # not to be read
        return str(err)


def models():
    """`Finding`s of the models of `llmvq models list`, and of others beside them."""
    found, spots = [], homes()
    for name, model in MODELS.items():
        at = next((spot / name for spot in spots if os.path.exists(spot / name)), None)
        fix = f"llmvq models get {name} --out {(at or spots[0] / name)}" + " --accept_licence" * model.to_accept
        if at is None:
            found.append(Finding("models", name, MISSING, "", model.what, fix))
        elif said := difference(name, at):
            found.append(Finding("models", name, BROKEN, "", said, f"remove {at}, then {fix}"))
        else:
            found.append(Finding("models", name, OK, "", str(at)))
    for spot in spots:
        for path in sorted(spot.iterdir()) if os.access(spot, os.R_OK) and os.path.isdir(spot) else ():
            if path.name not in MODELS and os.path.isfile(path / "config.json"):
                found.append(Finding("models", path.name, OK, "", str(path)))
    return found
