"""LibriSpeech, https://www.openslr.org/12: PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt, .flac files beside it.

Copies with other audio are read too. The reader of egs/librispeech/jstip1 and egs/mini_librispeech as well, so it needs
nothing else of this directory.
"""

import re

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.manifest import Item, read_lines

TRAIN_PARTS = ("train-clean-100", "train-clean-360", "train-other-500")
PARTS = (*TRAIN_PARTS, "dev-clean", "dev-other", "test-clean", "test-other")
# Of https://www.openslr.org/31, and the part whose speakers they have.
MINI_PARTS = {"train-clean-5": "train-clean-100", "dev-clean-2": "dev-clean"}
AUDIO = (".flac", ".ogg", ".opus", ".wav", ".mp3")
LINE = re.compile(r"(\d+-\d+-\d{4}) (\S.*)")


def home(root):
    """The folder that holds the parts: `root`, or LibriSpeech/ in it."""
    inner = root / "LibriSpeech"
    return inner if inner.is_dir() else root


def read(root, part, faults, most=None):
    """Items of a part; most: stop after the chapter that makes as many. Raises UserError when it is not there."""
    folder = home(root) / part
    if not folder.is_dir():
        where = f"https://www.openslr.org/{31 if part in MINI_PARTS else 12}"
        raise UserError(f"{folder}: not found; unpack {part}.tar.gz of {where}")
    items, transcripts = [], sorted(folder.glob("*/*/*.trans.txt"))
    for path in transcripts:
        speaker, chapter = path.parent.parts[-2:]
        # Of several the .flac.
        audio = {file.stem: file for file in sorted(path.parent.iterdir(), reverse=True) if file.suffix in AUDIO}
        prefix, told = f"{speaker}-{chapter}-", set()
        for number, line in enumerate(read_lines(path), 1):
            match = LINE.fullmatch(line)
            if not match or not match[1].startswith(prefix):
                faults.add(f"{path}:{number}", f"expected '{prefix}NNNN WORDS', found {line[:60]!r} (correct it)")
                continue
            utt, words = match.groups()
            told.add(utt)
            file = audio.get(utt, path.parent / f"{utt}.flac")
            items.append(Item(f"{path}:{number}", file, words, utt, utt, speaker))
        for utt in sorted(audio.keys() - told):
            faults.add(path, f"no line for {audio[utt].name} (unpack the archive again)")
        if most and len(items) >= most:
            break
    if not transcripts:
        raise UserError(f"{folder}: no SPEAKER/CHAPTER/*.trans.txt in it; unpack {part}.tar.gz again")
    return items


def read_genders(root, wanted, faults):
    """{speaker: "f" or "m"} of SPEAKERS.TXT for `wanted`, {speaker: part}; {} where there is no such file."""
    path = home(root) / "SPEAKERS.TXT"
    if not path.is_file():
        print(f"{path}: not found; data directories will have no spk2gender")
        return {}
    genders = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith(";") or not line.strip():
            continue
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) != 5 or fields[1] not in ("F", "M") or fields[2] not in PARTS:
            faults.add(f"{path}:{number}", f"expected 'ID | F or M | PART | MINUTES | NAME', found {line[:60]!r}")
            continue
        speaker, gender, part = fields[:3]
        if speaker in wanted and wanted[speaker] != part:
            faults.add(f"{path}:{number}", f"speaker {speaker} is of {part}, but lies in {wanted[speaker]} (move it)")
        genders[speaker] = gender.lower()
    for speaker in sorted(wanted.keys() - genders.keys()):
        faults.add(path, f"no line for speaker {speaker} of {wanted[speaker]} (restore it)")
    return {speaker: genders[speaker] for speaker in wanted if speaker in genders}
