"""Combine data directories whose utterances differ into one."""

import os
import sys

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser

# Half a table of these misleads its readers, so they are combined only when every source has them.
_COMPLETE = ("utt2num_samples", "utt2num_frames", "utt2dur", "feats.scp", "vad.scp", "cmvn.scp")


def _merge(tables, name, shared):
    """Return the union of [(source, table)]; ids in two tables are errors, or must agree."""
    union, origin = {}, {}
    for source, table in tables:
        for key, value in table.items():
            if key in union and not (shared and union[key] == value):
                what = "with other content in" if shared else "in"
                raise UserError(f"{source}/{name}: {key}: also {what} {origin[key]}/{name} (rename one)")
            union[key], origin[key] = value, source
    return union


def combine(sources):
    """Return one DataDir from ``[(name, DataDir), ...]``; speakers and recordings may be shared.

    When only some have segments, the others get one segment per whole file. Returns also the
    names of optional files left out because a source lacks them.
    """
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.data.tables import level

    text = _merge([(s, d.text) for s, d in sources], "text", shared=False)
    segmented = any(data.segments is not None for _, data in sources)
    segments = None
    if segmented:
        segments = _merge([(s, _segments(d)) for s, d in sources], "segments", shared=False)
    extra, left_out = {}, []
    for name in sorted({name for _, data in sources for name in data.extra}):
        lacking = [s for s, data in sources if name not in data.extra]
        if lacking and name in _COMPLETE:
            left_out.append((name, lacking[0]))
            continue
        tables = [(s, data.extra.get(name, {})) for s, data in sources]
        if name == "utt2uniq":
            # Kaldi's meaning: an utterance that is no copy is its own original.
            tables = [(s, data.extra.get(name) or {utt: [utt] for utt in data.text}) for s, data in sources]
        extra[name] = _merge(tables, name, shared=level(name) != "utt")
    wav_scp = _merge([(s, d.wav_scp) for s, d in sources], "wav.scp", shared=segmented)
    utt2spk = _merge([(s, d.utt2spk) for s, d in sources], "utt2spk", shared=False)
    return DataDir(wav_scp, text, utt2spk, segments, extra), left_out


def _segments(data):
    """Return the segments of a DataDir; whole files where it has none (opens their headers)."""
    if data.segments is not None:
        return data.segments
    from espnet_llmvq.data.durations import durations

    return {utt: (utt, 0.0, seconds) for utt, seconds in durations(data).items()}


def _extra_lines(name, sources):
    """The lines of an unmanaged file of all sources, sorted by their first fields."""
    from espnet_llmvq.data.tables import read_scp

    tables = [(source, read_scp(os.path.join(source, name), empty=True)) for source in sources]
    lines = _merge(tables, name, shared=True).items()
    return "".join(f"{key} {value}".rstrip() + "\n" for key, value in sorted(lines))


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--extra_files", default="", help='further files to combine if all sources have them, e.g. "utt2lang notes"'
    )
    parser.add_argument(
        "--skip_fix",
        choices=("true", "false"),
        default="false",
        help="refuse a source with incomplete utterances instead of dropping them as llmvq data fix does",
    )
    parser.add_argument("dest", help="directory to write")
    parser.add_argument("sources", nargs="+", help="directories to combine")
    args = parser.parse_args(argv)
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.data.tables import CORE, level

    if os.path.realpath(args.dest) in map(os.path.realpath, args.sources):
        raise UserError(f"{args.dest}: is one of the sources (give another DEST)")
    loaded = []
    for source in args.sources:
        dropped = None if args.skip_fix == "true" else []
        loaded.append((source, DataDir.load(source, dropped)))
        for key, reason in dropped or ():
            print(f"dropped: {key}: {reason}")
    data, left_out = combine(loaded)
    more = {}
    for name in args.extra_files.split():
        if name in CORE or level(name):
            continue  # combined anyway
        lacking = [s for s in args.sources if not os.path.isfile(os.path.join(s, name))]
        if lacking:
            left_out.append((name, lacking[0]))
        else:
            more[name] = _extra_lines(name, args.sources)
    for name, source in left_out:
        print(f"{name}: not combined, because {source} has none", file=sys.stderr)
    data.write(args.dest)
    for name, text in more.items():
        write_text(os.path.join(args.dest, name), text)
    print(f"{args.dest}: {len(data.text)} utterances")
    return 0
