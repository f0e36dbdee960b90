"""Test sets of two domains: PriMock57 (medical consultations) and MInDS-14 (banking)."""

import csv
import re
from pathlib import Path

from espnet_llmvq.align.textgrid import read_intervals
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.data import audio, importer
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.manifest import Faults, read_lines

# Marks of PriMock57's transcripts: <UNSURE>words</UNSURE>, and speech that nobody understood.
MARKS = ("<UNSURE>", "</UNSURE>", "<UNIN/>", "<INAUDIBLE_SPEECH/>")
MARK = re.compile(r"</?[A-Za-z_]+/?>")
TOO_LONG = 0.5  # seconds by which an interval may run past its recording
LFS = b"version https://git-lfs"


def read_primock(path):
    """(DataDir with segments, {utt: reason}) of PriMock57: audio/*.wav and transcripts/*.TextGrid.

    A recording holds one speaker of a consultation, who is a speaker of the set. Marks are taken out, words that they
    enclose stay, as in the scripts of the corpus; an utterance of nothing else is left out. Raises UserError with file
    and line for unknown marks, and for recordings that a side lacks.
    """
    root = Path(path).absolute()
    grids = {p.stem: p for p in sorted((root / "transcripts").glob("*.TextGrid"))}
    waves = {p.stem: p for p in sorted((root / "audio").glob("*.wav"))}
    if not grids:
        raise UserError(
            f"PRIMOCK57={path}: no transcripts/*.TextGrid; clone https://github.com/babylonhealth/primock57"
        )
    faults, reasons = Faults(), {}
    data = DataDir({}, {}, {}, {})
    for name in sorted(grids.keys() | waves.keys()):
        if name not in waves or name not in grids:
            folder, lacking = ("audio", "wav") if name not in waves else ("transcripts", "TextGrid")
            faults.add(root / folder, f"no {name}.{lacking}, which the other side has (git lfs pull)")
            continue
        wav = waves[name]
        with open(wav, "rb") as f:
            if f.read(len(LFS)) == LFS:
                faults.add(wav, "is a pointer, not the recording (git lfs install; git lfs pull)")
                continue
        length = audio.info(wav).duration
        for number, (line, start, end, label) in enumerate(read_intervals(grids[name]), 1):
            unknown = [mark for mark in MARK.findall(label) if mark not in MARKS]
            if unknown:
                faults.add(f"{grids[name]}:{line}", f"unknown mark {unknown[0]}; known: {', '.join(MARKS)}")
                continue
            utt, text = f"{name}-{number:04d}", " ".join(MARK.sub(" ", label).split())
            if not any(c.isalnum() for c in text):
                reasons[utt] = f"no words: {label.strip()}"
            elif end > length + TOO_LONG:
                reasons[utt] = f"ends at {end:.2f} s, the recording at {length:.2f} s"
            elif min(end, length) <= start:
                reasons[utt] = f"begins at {start:.2f} s, where the recording ends"
            else:
                data.wav_scp[name] = str(wav)
                data.text[utt], data.utt2spk[utt] = text, name
                data.segments[utt] = (name, start, min(end, length))
    faults.check()
    return data, reasons


def read_minds(path, locales):
    """(DataDir, {utt: reason}) of some locales of MInDS-14: text/LOCALE.csv and audio/LOCALE~INTENT/*.wav.

    Columns are the file, the transcript, its translation and the intent. Who spoke is not told, so each utterance is a
    speaker of its own. A file in place of the folder is read as any manifest with `audio` and `text`.
    """
    if Path(path).is_file():
        return importer.read(path)[1], {}
    root = Path(path).absolute()
    known = sorted(p.stem for p in (root / "text").glob("*.csv"))
    if not known:
        raise UserError(f"MINDS14={path}: no text/*.csv; unpack MInDS-14.zip there, and text.zip and audio.zip in it")
    data, faults, reasons = DataDir({}, {}, {}), Faults(), {}
    for locale in locales:
        table = root / "text" / f"{check_name('locale', locale, known)}.csv"
        rows = csv.reader((line + "\n" for line in read_lines(table)), skipinitialspace=True, strict=True)
        try:
            for fields in rows:
                where = f"{table}:{rows.line_num}"
                if len(fields) != 4:
                    faults.add(where, f"{len(fields)} fields, not file, transcript, translation, intent")
                    continue
                name, text = fields[0].strip(), " ".join(fields[1].split())
                if rows.line_num == 1 and not name.endswith(".wav"):
                    continue  # names of the columns
                utt, wav = importer.clean_id(name.removesuffix(".wav").replace("/", "-")), root / "audio" / name
                if not wav.is_file():
                    faults.add(where, f"no {wav} (unpack audio.zip)")
                elif utt in data.text or utt in reasons:
                    faults.add(where, f"{name} is there twice")
                elif not text:
                    reasons[utt] = "no transcript"
                else:
                    data.wav_scp[utt], data.text[utt], data.utt2spk[utt] = str(wav), text, utt
        except csv.Error as err:
            raise UserError(f"{table}:{rows.line_num}: {err} (a quotation mark that is not closed?)") from None
    faults.check()
    return data, reasons
