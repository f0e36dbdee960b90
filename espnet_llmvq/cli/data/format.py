"""Write a data directory whose audio is mono at one rate, one file per utterance.

Files that are so already and that no segment cuts are referenced where they are; the others are
converted into DEST/audio, and so are Ogg and MP3, which every epoch would decode again. DEST appears
when it is complete. Unchanged input is not done again.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser

STAMP = ".format_audio.json"
WAV_HEADER = 44  # bytes before the samples of a file of data.audio.write_audio


def file_name(utt, audio_format):
    """Return the audio file name of an utterance id; "/" is escaped so that no id leaves DEST."""
    return utt.replace("%", "%25").replace("/", "%2F") + "." + audio_format


def convert(job):
    """Bring one utterance to `rate`; return (path, samples), or an error message.

    job: (path, start s, end s or None, rate Hz or None for its own, file to write, its final path).
    Runs in a worker.
    """
    from espnet_llmvq.data import audio

    path, start, end, rate, target, final = job
    try:
        found = audio.info(path)
        rate = rate or found.rate
        if end is None and found.format not in audio.LOSSY:
            if found.rate == rate and found.channels == 1:
                return os.path.abspath(path), audio.check(path).frames
        x = audio.read_audio(path, rate, start, end)
        audio.write_audio(target, x, rate)
    except audio.AudioError as err:
        return str(err)
    return final, len(x)


def _digest(source, data, options):
    """Return a hash of everything the result depends on; audio counts by path, size and mtime."""
    from espnet_llmvq.data.tables import managed_files

    h = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name in managed_files(source):
        content = (Path(source) / name).read_bytes()
        h.update(f"{name} {len(content)}\n".encode() + content)
    for wav in data.wav_scp.values():
        try:
            stat = os.stat(wav)
            mark = f"{os.path.abspath(wav)} {stat.st_size} {stat.st_mtime_ns}\n"
        except OSError:
            mark = f"{os.path.abspath(wav)} missing\n"
        h.update(mark.encode())
    return h.hexdigest()


def _is_done(dest, digest):
    """True when `dest` was written from the same input and its audio is still there in full."""
    from espnet_llmvq.data.tables import CORE, read_scp

    try:
        made = json.loads((dest / STAMP).read_text())
        # A table that is not as it was written is damaged. Earlier versions did not note how that is.
        tables = made.get("tables", {})
        if made["digest"] != digest or tables != _tables(dest, tables):
            return False
        core = [name for name in (*CORE, "utt2num_samples") if name != "segments"]
        counts = read_scp(dest / "utt2num_samples")
        return all((dest / n).is_file() for n in core) and all(
            _is_whole(path, int(counts[utt]), dest) for utt, path in read_scp(dest / "wav.scp").items()
        )
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def _tables(directory, names):
    """{name: digest} of the files of a directory."""
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}


def _is_whole(path, samples, dest):
    """Whether an audio file is there and, if it is a WAV file of `dest`, as long as it was written."""
    size = os.path.getsize(path)
    ours = Path(path).parent == dest / "audio" and path.endswith(".wav")
    return size == WAV_HEADER + 2 * samples if ours else size > 0


def format_audio(source, dest, rate=16000, nj=2, audio_format="wav"):
    """Write `dest` from `source`; return the number of utterances, or None when it was done before.

    rate: Hz, or None to leave each file its own.
    Raises UserError listing the utterances whose audio cannot be used; `dest` is not touched then.
    """
    from espnet_llmvq.base.files import check_replaceable, replace_directory, write_text
    from espnet_llmvq.base.processes import run_jobs
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.data.tables import scan

    data = DataDir.load(source)
    dest = Path(os.path.realpath(dest))
    options = {"rate": rate, "audio_format": audio_format, "dest": str(dest)}
    digest = _digest(source, data, options)
    if _is_done(dest, digest):
        return None
    inside = [w for w in data.wav_scp.values() if dest in Path(os.path.realpath(w)).parents]
    if dest == Path(os.path.realpath(source)) or inside:
        what = "source itself" if not inside else f"home of its audio {inside[0]}"
        raise UserError(f"{dest}: is the {what} (give another DEST)")
    check_replaceable(dest, STAMP)
    building = dest.with_name(dest.name + ".tmp")
    if building.exists():
        shutil.rmtree(building)
    (building / "audio").mkdir(parents=True)
    utts = data.utts
    jobs = []
    for utt in utts:
        name = file_name(utt, audio_format)
        at = data.location(utt)
        jobs.append((*at, rate, str(building / "audio" / name), str(dest / "audio" / name)))
    wav_scp, counts, errors = {}, {}, []
    if len(jobs) < 2 * nj:
        nj = 1
    chunk = max(1, min(64, len(jobs) // (4 * nj)))
    results = run_jobs(convert, jobs, nj=nj, desc="format", chunksize=chunk)
    for utt, result in zip(utts, results, strict=True):
        if isinstance(result, str):
            errors.append((utt, result))
        else:
            wav_scp[utt], counts[utt] = result
    if errors:
        shutil.rmtree(building)
        table = Path(source) / ("wav.scp" if data.segments is None else "segments")
        line = {row.key: row.line for row in scan(table)[0]}
        shown = [f"  {table}:{line[utt]}: {utt}: {why}" for utt, why in errors[:10]]
        shown += [f"  and {len(errors) - 10} more"] * (len(errors) > 10)
        head = f"audio of {len(errors)} of {len(utts)} utterances cannot be used"
        raise UserError("\n".join([f"{head} (fix_data_dir.py {source} drops them):", *shown]))
    extra = dict(data.extra)
    if data.segments is not None:
        # Recordings are gone, so tables about them would name nothing.
        extra = {name: table for name, table in extra.items() if not name.startswith("reco2")}
    extra["utt2num_samples"] = {utt: [str(n)] for utt, n in counts.items()}
    formatted = DataDir(wav_scp, data.text, data.utt2spk, None, extra)
    formatted.write(building)
    if not any((building / "audio").iterdir()):
        (building / "audio").rmdir()
    made = {"digest": digest, **options, "tables": _tables(building, formatted.files())}
    write_text(building / STAMP, json.dumps(made) + "\n")
    replace_directory(building, dest)
    return len(utts)


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--rate", type=int, default=16000, help="sampling rate in Hz")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--audio_format", choices=("wav", "flac"), default="wav", help="of converted files")
    parser.add_argument("source", metavar="SRC", help="data directory")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    if args.rate <= 0:
        raise UserError(f"--rate must be positive, not {args.rate}")
    count = format_audio(args.source, args.dest, args.rate, max(1, args.nj), args.audio_format)
    if count is None:
        print(f"{args.dest}: up to date")
    else:
        print(f"{args.dest}: {count} utterances, mono at {args.rate} Hz")
    return 0
