"""Perturbed copies of data directories: at other speeds, for training; in other conditions, for testing.

Audio goes to DEST/audio as 16-bit WAV, one file a copy (segments are cut). Each copy draws from a random generator of
its own, so the number of processes changes nothing.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from espnet_llmvq.base.environment import versions
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import write_text
from espnet_llmvq.base.processes import run_jobs
from espnet_llmvq.data.audio import SAMPLE_RATE, read_audio, write_audio
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.made import MadeDir, check_apart
from espnet_llmvq.data.perturb import NOISE_KINDS, add_noise, change_speed, change_tempo, reverberate
from espnet_llmvq.data.tables import OF_AUDIO, audio_name, level, scaled_times

COLUMNS = ("utt", "source", "tempo", "rt60_s", "noise", "snr_db")


@dataclass(frozen=True)
class Copy:
    """A perturbed copy of utterance `source`: its ids, and what is done, in order of the fields."""

    source: str
    utt: str
    spk: str
    speed: float = 1.0
    tempo: float = 1.0
    rt60_s: float | None = None
    noise: str | None = None
    snr_db: float | None = None

    @property
    def filename(self):
        return audio_name(self.utt, "wav")


def utterance_rng(seed, utt, purpose=0):
    """A Generator for one utterance, whatever the order or number of processes."""
    return np.random.default_rng([seed, zlib.crc32(utt.encode("utf-8")), purpose])


class _OtherVoices(Sequence):
    """Waveforms of utterances of `src`, read only when one is drawn."""

    def __init__(self, src, utts):
        self.src, self.utts = src, utts

    def __len__(self):
        return len(self.utts)

    def __getitem__(self, index):
        path, start, end = self.src.location(self.utts[index])
        return read_audio(path, SAMPLE_RATE, start, end)


def _write_copy(copy, location, src, folder, seed):
    """Write the audio of one Copy to `folder`; return its number of samples."""
    path, start, end = location
    x = read_audio(path, SAMPLE_RATE, start, end)
    if copy.speed != 1.0:
        x = change_speed(x, copy.speed)
    if copy.tempo != 1.0:
        x = change_tempo(x, copy.tempo, SAMPLE_RATE)
    rng = utterance_rng(seed, copy.utt, purpose=1)
    if copy.rt60_s is not None:
        x = reverberate(x, copy.rt60_s, rng, SAMPLE_RATE)
    if copy.noise is not None:
        # Only babble reads other voices, so only then is `src` sent here.
        utts = [u for u in src.utts if u != copy.source] if src else []
        x = add_noise(x, copy.snr_db, copy.noise, rng, _OtherVoices(src, utts))
    if len(x) == 0:
        raise UserError(f"{copy.source}: no samples are left at speed {copy.speed * copy.tempo:g}")
    write_audio(folder / copy.filename, x, SAMPLE_RATE)
    return len(x)


def _extra_tables(src, copies):
    """Optional files of `src` for `copies`: ids renamed, CTM times scaled, stale ones left out."""
    extra = {}
    for name, table in src.extra.items():
        if name in OF_AUDIO or level(name) == "rec":
            continue
        new = extra.setdefault(name, {})
        for copy in copies:
            old, key = copy.source, copy.utt
            if level(name) == "spk":
                old, key = src.utt2spk[copy.source], copy.spk
            if old in table:
                factor = copy.speed * copy.tempo
                scaled = name.endswith(".ctm") and factor != 1.0
                new[key] = [scaled_times(v, factor) for v in table[old]] if scaled else table[old]
    return extra


def perturb_speed(source, dest, factors, *, nj=2):
    """Make `dest` of copies of a data directory at other speeds, unless it is up to date. Whether it was made.

    Utterances and speakers of factor 0.9 get the prefix "sp0.9-"; those of 1.0 keep their names. Raises UserError for
    a factor outside 0.1 to 10, or given twice.
    """
    factors = list(map(float, factors))
    for factor in factors:
        if not 0.1 <= factor <= 10:
            raise UserError(f"speed factor {factor:g} is not within 0.1 to 10")
    if len(set(factors)) < len(factors):
        raise UserError(f"a speed factor is given twice: {factors}")
    src, copies = DataDir.load(source), []
    for factor in factors:
        prefix = "" if factor == 1.0 else f"sp{factor:g}-"
        copies += [Copy(utt, prefix + utt, prefix + src.utt2spk[utt], speed=factor) for utt in src.utts]
    return _write_copies(source, src, dest, copies, {"speed": factors}, 0, nj)


def perturb_data(source, dest, *, noise=(), snr=(5.0, 15.0), rt60=None, tempo=None, suffix="", seed=0, nj=2):
    """Make `dest` of a copy of each utterance of a data directory, unless it is up to date. Whether it was made.

    Each gets, in this order and where asked for: one of the `tempo` factors; a room that sounds for a time drawn from
    `rt60` (low, high) in s; one of the kinds of `noise`, at an SNR drawn from `snr` (low, high) in dB. suffix: put
    behind utterance ids. What was drawn is in perturbation.tsv. Raises UserError for impossible values.
    """
    for kind in noise:
        check_name("noise", kind, NOISE_KINDS)
    if not (noise or rt60 or tempo):
        raise UserError("nothing to do: give at least one of noise, rt60, tempo")
    for name, bounds in (("snr", snr if noise else None), ("rt60", rt60)):
        if bounds and bounds[0] > bounds[1]:
            raise UserError(f"{name} takes LOW HIGH, not {list(bounds)}")
    for value in (*(rt60 or ()), *(tempo or ())):
        if not 0.01 <= value <= 10:
            raise UserError(f"rt60 and tempo take values within 0.01 to 10, not {value:g}")
    src, copies = DataDir.load(source), []
    for utt in src.utts:
        rng, drawn = utterance_rng(seed, utt), {}
        if tempo:
            drawn["tempo"] = tempo[int(rng.integers(len(tempo)))]
        if rt60:
            drawn["rt60_s"] = round(float(rng.uniform(*rt60)), 3)
        if noise:
            drawn["noise"] = noise[int(rng.integers(len(noise)))]
            drawn["snr_db"] = round(float(rng.uniform(*snr)), 2)
        copies.append(Copy(utt, utt + suffix, src.utt2spk[utt], **drawn))
    rows = [COLUMNS]
    for copy in sorted(copies, key=lambda c: c.utt):
        row = (getattr(copy, column) for column in COLUMNS)
        rows.append(["-" if value is None else str(value) for value in row])
    drawn = "".join("\t".join(row) + "\n" for row in rows)
    options = {"noise": noise, "snr": snr if noise else None, "rt60": rt60, "tempo": tempo, "suffix": suffix}
    return _write_copies(source, src, dest, copies, options, seed, nj, drawn)


def _write_copies(source, src, dest, copies, options, seed, nj, drawn=None):
    """Make `dest` of Copies of the DataDir `src`, read from `source`. drawn: content of perturbation.tsv."""
    check_apart(dest, source)
    wav_scp = {c.utt: os.path.join(dest, "audio", c.filename) for c in copies}
    if len(wav_scp) < len(copies):
        raise UserError(f"{dest}: two copies would have the same id; give them other names")

    def build(new):
        (new / "audio").mkdir()
        voices = src if any(c.noise == "babble" for c in copies) else None
        work = partial(_write_copy, src=voices, folder=new / "audio", seed=seed)
        jobs = copies, [src.location(c.source) for c in copies]
        lengths = list(run_jobs(work, *jobs, nj=nj, desc=os.path.basename(dest)))
        extra = _extra_tables(src, copies)
        extra["utt2num_samples"] = {c.utt: [str(n)] for c, n in zip(copies, lengths, strict=True)}
        uniq = src.extra.get("utt2uniq", {})
        extra["utt2uniq"] = {c.utt: uniq.get(c.source, [c.source]) for c in copies}
        text = {c.utt: src.text[c.source] for c in copies}
        DataDir(wav_scp, text, {c.utt: c.spk for c in copies}, None, extra).write_tables(new)
        if drawn:
            write_text(new / "perturbation.tsv", drawn)

    options = {**options, "seed": seed, "rate": SAMPLE_RATE, "tools": versions("soxr", "scipy", "numpy")}
    made = MadeDir(dest, [source], src.wav_scp.values(), **options).make(build)
    print(f"{dest}: {len(copies)} utterances" if made else f"{dest} is there already, made with the same options")
    return made
