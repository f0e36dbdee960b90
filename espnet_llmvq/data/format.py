"""Data directories whose audio is mono at one rate, one file an utterance.

Files that are so already and that no segment cuts are referenced where they are; the others are converted, and so are
Ogg and MP3, which every epoch would decode again.
"""

import os
from pathlib import Path

from espnet_llmvq.base.environment import versions
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.processes import run_jobs
from espnet_llmvq.data.checks import validate
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.made import MadeDir
from espnet_llmvq.data.tables import audio_name


def convert(job):
    """(path, samples) of one utterance, whose file was checked, brought to `rate`.

    job: (path, start s, end s or None, rate Hz or None for its own, file to write, its final path).
    Runs in a worker.
    """
    from espnet_llmvq.data import audio

    path, start, end, rate, target, final = job
    header = audio.info(path)
    rate = rate or header.rate
    if end is None and header.format not in audio.LOSSY and (header.rate, header.channels) == (rate, 1):
        return os.path.abspath(path), header.frames
    x = audio.read_audio(path, rate, start, end)
    audio.write_audio(target, x, rate)
    return final, len(x)


def format_audio(source, dest, *, rate=16000, nj=2, audio_format="wav"):
    """Make `dest` from `source` unless it is up to date; whether it was made.

    rate: Hz, or None to leave each file its own. audio_format: wav or flac, of the files that are written.
    Raises UserError listing the audio that cannot be used, by the check of llmvq data validate; `dest` is not touched
    then.
    """
    data, home = DataDir.load(source), Path(os.path.realpath(dest))
    inside = [w for w in data.wav_scp.values() if home in Path(os.path.realpath(w)).parents]
    if home == Path(os.path.realpath(source)) or inside:
        what = "source itself" if not inside else f"home of its audio {inside[0]}"
        raise UserError(f"{dest}: is the {what} (give another DEST)")
    names = {utt: audio_name(utt, audio_format) for utt in data.utts}

    def build(new):
        check_audio(source, rate, nj)
        (new / "audio").mkdir()
        jobs = [
            (*data.location(utt), rate, str(new / "audio" / name), str(home / "audio" / name))
            for utt, name in names.items()
        ]
        workers = nj if len(jobs) >= 2 * nj else 1
        results = run_jobs(convert, jobs, nj=workers, desc="format", chunksize=max(1, min(64, len(jobs) // (4 * nj))))
        results = dict(zip(names, results, strict=True))
        extra = dict(data.extra)
        if data.segments is not None:
            # Recordings are gone, so tables about them would name nothing.
            extra = {name: table for name, table in extra.items() if not name.startswith("reco2")}
        extra["utt2num_samples"] = {utt: [str(samples)] for utt, (_, samples) in results.items()}
        wav_scp = {utt: path for utt, (path, _) in results.items()}
        DataDir(wav_scp, data.text, data.utt2spk, None, extra).write_tables(new)
        if not any((new / "audio").iterdir()):
            (new / "audio").rmdir()

    options = {"rate": rate, "audio_format": audio_format, "home": str(home), "tools": versions("soxr")}
    made = MadeDir(dest, [source], data.wav_scp.values(), **options).make(build)
    hertz = "" if rate is None else f", mono at {rate} Hz"
    print(f"{dest}: {len(names)} utterances{hertz}" if made else f"{dest}: up to date")
    return made


def check_audio(source, rate, nj):
    """Raise UserError that lists the first of what llmvq data validate finds in a directory and format cannot use."""
    problems = validate(source, rate=rate, nj=nj, allow_empty_text=True)
    problems = [problem for problem in problems if problem.repair in ("drop", "hand")]
    if not problems:
        return
    listed = [f"  {problem}" for problem in problems[:10]]
    listed += [f"  and {len(problems) - 10} more"] * (len(problems) > 10)
    hint = f" (llmvq data fix {source} drops them)" * all(problem.repair == "drop" for problem in problems)
    raise UserError("\n".join([f"{source}: {len(problems)} sounds cannot be used{hint}:", *listed]))
