"""Common Voice, https://commonvoice.mozilla.org: cv-corpus-17.0-*/en/{train,dev,test,validated}.tsv and clips/."""

import dataclasses

from layout import need

from espnet_llmvq.data import manifest

PARTS = ("test", "dev", "train", "validated")
SPEAKER_DIGITS = 16  # of the 128 of a client_id; enough to tell speakers apart, and file names stay short


def home(root):
    """The folder of English: `root`, en/ in it, or cv-corpus-17.0-*/en in it."""
    found = [root, root / "en", *sorted(root.glob("cv-corpus-17.0-*/en"))]
    return next((folder for folder in found if (folder / "clips").is_dir()), root / "en")


def read(root, part, faults):
    """Items of a list, its sentences as they are. Raises UserError when the list is not there."""
    path = need(home(root) / f"{part}.tsv", "set COMMONVOICE to an unpacked cv-corpus-17.0-* (English)")
    items = []
    for item in manifest.read_common_voice(path, faults):
        if not item.speaker:
            faults.add(item.where, "no client_id (restore the list from the archive)")
        items.append(dataclasses.replace(item, speaker=item.speaker[:SPEAKER_DIGITS]))
    return items
