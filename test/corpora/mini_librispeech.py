"""Corpora of egs/mini_librispeech in small: a few utterances of noise each, in public layouts where there are any.

`python -m corpora.mini_librispeech DIR`, in test/, writes them all and prints what db.sh needs.
"""

import json
import sys
from pathlib import Path

from . import write_audio
from .librispeech import LIBRISPEECH_WORDS, make_commonvoice, make_librispeech, write_text
from .small import make_an4, make_so762

TEST, VALID, TRAIN = "118 226 1970 3242 4640 7859", "669 1867 3664 5789", "19 32 1088"
PARTS = {
    "train-clean-5": {speaker: "FM"[int(speaker) % 2] for speaker in f"{TEST} {VALID} {TRAIN}".split()},
    "dev-clean-2": {"84": "F"},
}
LISTED = {"train-clean-5": "train-clean-100", "dev-clean-2": "dev-clean"}
SAID = {"0001": ["I SEE A DOG"], "0002": ["IT'S NOT FISH", "GO HOME"]}
ORDERS = {
    "aa-1.wav": {"coffeeDrink": "latte", "size": "twelve ounce", "milkAmount": "soy milk"},
    "bb-2.wav": {"coffeeDrink": "espresso"},
}
PROMPTS = {
    "alnum-1-name": "Ann Roe", "alnum-1-number": "9055598030", "alnum-1-address": "5 Oak Road 432",
    "alnum-2-name": "Zoë Li", "alnum-2-number": "0123456789", "alnum-2-address": "77 Long Hill Lane 9",
}  # fmt: skip
SHARED = " ".join(LIBRISPEECH_WORDS[4:11]).capitalize()  # seven words that are said


def make_mini_librispeech(root):
    return make_librispeech(root / "mini", PARTS, LISTED)


def make_s2i(root):
    home = root / "s2i"
    for name in ORDERS:
        write_audio(home / "data" / "speech" / "clean" / name)
    labels = {name: {"intent": "orderDrink", "slots": slots} for name, slots in ORDERS.items()}
    write_text(home / "data" / "label" / "label.json", json.dumps(labels))
    return home


def make_arctic(root):
    """An LJSpeech folder."""
    home = root / "arctic"
    for n in (1, 2):
        write_audio(home / "wavs" / f"a{n}.wav")
    write_text(home / "metadata.csv", "a1|Not at this case, Tom, “he’d” said.\na2|Lord, but I’m glad to see you.\n")
    return home


def make_alnum(root):
    """test/ with `prompt` in the place of `text`, paths from the folder above."""
    home, tables = root / "alnum", {"prompt": PROMPTS, "wav.scp": {}, "utt2spk": {}}
    for utt in PROMPTS:
        tables["wav.scp"][utt], tables["utt2spk"][utt] = f"alnum/audio/{utt}.ogg", utt.rpartition("-")[0]
        write_audio(home / "audio" / f"{utt}.ogg", format="OGG", subtype="OPUS")
    for name, table in tables.items():
        write_text(home / "test" / name, "".join(f"{utt} {table[utt]}\n" for utt in sorted(table)))
    return home


def make_fsdd(root):
    home = root / "fsdd"
    for name in ("7_jackson_0", "0_theo_4", "3_theo_5"):
        write_audio(home / "recordings" / f"{name}.wav", rate=8000)
    return home


def make_text(root):
    """Two files, and of them each one line that is read aloud in part."""
    lines = [f"The {n}th, and last, of the {name}s." for n in range(20) for name in LIBRISPEECH_WORDS]
    write_text(root / "books.txt", "".join(f"{line}\n" for line in [*lines, f"So “{SHARED}”; and so on."]))
    write_text(root / "more.txt", f"What’s this?\n{SHARED}!\n")
    return f"{root / 'books.txt'} {root / 'more.txt'}"


MAKERS = {
    "MINI_LIBRISPEECH": make_mini_librispeech, "COMMONVOICE": make_commonvoice, "S2I": make_s2i, "ARCTIC": make_arctic,
    "AN4": lambda root: make_an4(root / "an4"), "ALNUM": make_alnum, "FSDD": make_fsdd, "LM_TEXT": make_text,
    "SO762": lambda root: make_so762(root / "so762", {"train": {"0003": ["WE CALL IT BEAR"]}, "test": SAID}),
}  # fmt: skip


def main(argv):
    for name, make in MAKERS.items():
        print(f'export {name}="{make(Path(argv[0]).absolute())}"')


if __name__ == "__main__":
    main(sys.argv[1:])
