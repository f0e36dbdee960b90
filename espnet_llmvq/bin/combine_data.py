"""Combine data directories whose utterances differ into one."""

import os
import sys

from espnet_llmvq.bin.cli import Parser, run
from espnet_llmvq.errors import UserError

# Half a table of these misleads its readers, so they are combined only when every source has them.
_COMPLETE = ("utt2num_samples", "utt2num_frames", "utt2dur", "feats.scp", "vad.scp", "cmvn.scp")


def _merge(tables, name, shared):
    """Return the union of [(source, table)]; ids in two tables are errors, or must agree."""
    union, origin = {}, {}
    for source, table in tables:
        for key, value in table.items():
            if key in union and not (shared and union[key] == value):
                what = "with other content in" if shared else "in"
                raise UserError(
                    f"{source}/{name}: {key}: also {what} {origin[key]}/{name} (rename one)"
                )
            union[key], origin[key] = value, source
    return union


def combine(sources):
    """Return one DataDir from ``[(name, DataDir), ...]``; speakers and recordings may be shared.

    When only some have segments, the others get one segment per whole file. Returns also the
    names of optional files left out because a source lacks them.
    """
    from espnet_llmvq.data.datadir import DataDir, level

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
            tables = [
                (s, data.extra.get(name) or {utt: [utt] for utt in data.text})
                for s, data in sources
            ]
        extra[name] = _merge(tables, name, shared=level(name) != "utt")
    wav_scp = _merge([(s, d.wav_scp) for s, d in sources], "wav.scp", shared=segmented)
    utt2spk = _merge([(s, d.utt2spk) for s, d in sources], "utt2spk", shared=False)
    return DataDir(wav_scp, text, utt2spk, segments, extra), left_out


def _segments(data):
    """Return the segments of a DataDir; whole files where it has none (opens their headers)."""
    if data.segments is not None:
        return data.segments
    from espnet_llmvq.data.audio import info

    return {utt: (utt, 0.0, info(wav).duration) for utt, wav in data.wav_scp.items()}


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("dest", help="directory to write")
    parser.add_argument("sources", nargs="+", help="directories to combine")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.datadir import DataDir

    if os.path.realpath(args.dest) in map(os.path.realpath, args.sources):
        raise UserError(f"{args.dest}: is one of the sources (give another DEST)")
    data, left_out = combine([(source, DataDir.load(source)) for source in args.sources])
    for name, source in left_out:
        print(f"{name}: not combined, because {source} has none", file=sys.stderr)
    data.write(args.dest)
    print(f"{args.dest}: {len(data.text)} utterances")
    return 0


if __name__ == "__main__":
    run(main)
