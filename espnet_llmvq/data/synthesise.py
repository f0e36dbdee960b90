"""Speech synthesis: data directories spoken by espeak-ng or any other engine."""

import functools
import os
import re
import shlex
import subprocess
import zlib

import numpy as np

from espnet_llmvq.base.environment import versions
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.processes import run_jobs
from espnet_llmvq.data.audio import SAMPLE_RATE, read_audio
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.espeak import Espeak
from espnet_llmvq.data.made import MadeDir
from espnet_llmvq.data.perturb import limit_peak
from espnet_llmvq.data.tables import audio_name

RATE_WPM = (170, 200)  # drawn per utterance, both ends included
PITCH = (35, 65)  # espeak's scale, 0 to 100
VERSION = 2  # raise it when the same request would give other samples


def plan(utterances, voices, seed):
    """A voice, a rate and a pitch for every utterance of [(utt, text)].

    Voices are dealt evenly in an order drawn from `seed`; rate (words per minute) and pitch depend on `seed` and the
    utterance id. Dicts with source, utt ("<speaker>-<source>"), spk, text, voice, rate_wpm, pitch, sorted by utt.
    """
    deal = np.random.default_rng([seed, 1]).permutation(len(utterances)) % len(voices)
    jobs = []
    for (utt, text), v in zip(sorted(utterances), deal, strict=True):
        rng = np.random.default_rng([seed, zlib.crc32(utt.encode("utf-8"))])
        rate, pitch = (int(rng.integers(*bounds, endpoint=True)) for bounds in (RATE_WPM, PITCH))
        spk = re.sub(r"[^A-Za-z0-9]+", "_", voices[v]).strip("_")  # "en-us+f2" is en_us_f2
        how = {"voice": voices[v], "rate_wpm": rate, "pitch": pitch}
        jobs.append({"source": utt, "utt": f"{spk}-{utt}", "spk": spk, "text": text, **how})
    return sorted(jobs, key=lambda job: job["utt"])


_engine = functools.cache(Espeak)  # one a process


def _speak_job(job, wav):
    """Synthesise one job with espeak-ng, write `wav`, return its words."""
    samples, words = _engine().speak(job["text"], job["voice"], rate_wpm=job["rate_wpm"], pitch=job["pitch"])
    _write(wav, samples)
    return words


def _command_job(template, job, wav):
    """Synthesise one job with an outside command; its word times are not known."""
    raw = f"{wav}.raw.wav"
    command = [part.format(**job, wav=raw, rate=job["rate_wpm"]) for part in shlex.split(template)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as err:
        raise UserError(f"cannot start {command[0]!r}: {err.strerror}") from err
    if done.returncode or not os.path.exists(raw):
        raise UserError(
            f"utterance {job['utt']}: {shlex.join(command)} ended with status {done.returncode} "
            f"and {'a' if os.path.exists(raw) else 'no'} file: {done.stderr.strip()[-300:]}"
        )
    samples = limit_peak(read_audio(raw, SAMPLE_RATE))
    os.remove(raw)
    _write(wav, samples)


def _write(wav, samples):
    import soundfile

    soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16")


def synthesise(utterances, out, *, voices, seed=0, nj=2, command=None, entities=None):
    """Speak `utterances` [(utt, text)] into the data directory `out`, unless it is up to date; the jobs of `plan`.

    With espeak-ng also words.ctm. command: a template for another engine with {text} and {wav}, and optionally {voice},
    {rate}, {pitch}. entities: {utt: [(slot, value)]} for the file `entities`. Raises UserError for an unknown voice,
    repeated ids, or an engine that fails.
    """
    if not utterances:
        raise UserError(f"there is nothing to speak for {out}")
    seen = set()
    for utt, text in utterances:
        if utt in seen or not text.strip():
            raise UserError(f"utterance {utt} is {'repeated' if utt in seen else 'empty'}")
        seen.add(utt)
    if not voices:
        raise UserError("no voice is given, for example 'en-us+f2 en-gb+m1'")
    tools = versions("soxr")
    if command:
        try:
            named = "{text}" in command and "{wav}" in command
            command.format(text="", wav="", voice="", rate=0, pitch=0)
        except (KeyError, IndexError, ValueError) as err:
            raise UserError(f"the command template {command!r} is wrong: {err}") from err
        if not named:
            raise UserError(f"the command template {command!r} needs {{text}} and {{wav}}")
    else:
        engine = _engine()
        for voice in voices:
            engine.voice(voice)
        tools = {**tools, "espeak-ng": engine.version, **versions("espeakng-loader")}
    jobs = plan(utterances, voices, seed)
    names = [audio_name(job["utt"], "wav") for job in jobs]

    def build(new):
        (new / "wav").mkdir()
        work = functools.partial(_command_job, command) if command else _speak_job
        words = list(run_jobs(work, jobs, [new / "wav" / name for name in names], nj=nj, desc=os.path.basename(out)))
        extra = {}
        if not command:
            extra["words.ctm"] = {
                job["utt"]: [f"1 {start:.3f} {stop - start:.3f} {word}" for start, stop, word in spoken]
                for job, spoken in zip(jobs, words, strict=True)
            }
        if entities is not None:
            pairs = {job["utt"]: entities[job["source"]] for job in jobs}
            extra["entities"] = {utt: ["\t".join(f"{k}={v}" for k, v in found)] for utt, found in pairs.items()}
        wav_scp = {job["utt"]: os.path.join(out, "wav", name) for job, name in zip(jobs, names)}
        text, utt2spk = ({job["utt"]: job[key] for job in jobs} for key in ("text", "spk"))
        DataDir(wav_scp, text, utt2spk, None, extra).write_tables(new)

    made = MadeDir(out, request=[VERSION, command, str(out), jobs, entities], tools=tools).make(build)
    state = "" if made else ", there already"
    print(f"{out}: {len(jobs)} utterances, {len({job['spk'] for job in jobs})} speakers{state}")
    return jobs
