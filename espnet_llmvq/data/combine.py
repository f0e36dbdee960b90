"""Several data directories as one."""

import sys

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.durations import durations
from espnet_llmvq.data.made import check_apart
from espnet_llmvq.data.tables import OF_AUDIO, level


def _merge(tables, name, shared):
    """The union of [(source, table)]; ids in two tables are errors, or must agree."""
    union, origin = {}, {}
    for source, table in tables:
        for key, value in table.items():
            if key in union and not (shared and union[key] == value):
                what = "with other content in" if shared else "in"
                raise UserError(f"{source}/{name}: {key}: also {what} {origin[key]}/{name} (rename one)")
            union[key], origin[key] = value, source
    return union


def combine(sources):
    """(DataDir, left out) of ``[(name, DataDir), ...]``; speakers and recordings may be shared.

    When only some have segments, the others get one segment per whole file. Left out are optional files that a
    source lacks: [(file, source)].
    """
    text = _merge([(s, d.text) for s, d in sources], "text", shared=False)
    segmented = any(data.segments is not None for _, data in sources)
    segments = _merge([(s, _segments(d)) for s, d in sources], "segments", shared=False) if segmented else None
    extra, left_out = {}, []
    for name in sorted({name for _, data in sources for name in data.extra}):
        lacking = [s for s, data in sources if name not in data.extra]
        if lacking and name in OF_AUDIO:
            left_out.append((name, lacking[0]))
            continue
        # Kaldi's meaning of utt2uniq: an utterance that is no copy is its own original.
        own = name == "utt2uniq"
        tables = [(s, data.extra.get(name) or {utt: [utt] for utt in data.text if own}) for s, data in sources]
        extra[name] = _merge(tables, name, shared=level(name) != "utt")
    wav_scp = _merge([(s, d.wav_scp) for s, d in sources], "wav.scp", shared=segmented)
    utt2spk = _merge([(s, d.utt2spk) for s, d in sources], "utt2spk", shared=False)
    return DataDir(wav_scp, text, utt2spk, segments, extra), left_out


def _segments(data):
    """The segments of a DataDir; whole files where it has none (opens their headers)."""
    if data.segments is not None:
        return data.segments
    return {utt: (utt, 0.0, seconds) for utt, seconds in durations(data).items()}


def combine_data(sources, dest):
    """Combine the data directories `sources`, without what llmvq data fix would drop, into `dest`.

    Raises UserError for an utterance in two of them, or a speaker or recording with other content.
    """
    check_apart(dest, *sources)
    loaded = []
    for source in sources:
        dropped = []
        loaded.append((source, DataDir.load(source, dropped)))
        for key, reason in dropped:
            print(f"dropped: {key}: {reason}")
    data, left_out = combine(loaded)
    for name, source in left_out:
        print(f"{name}: not combined, because {source} has none", file=sys.stderr)
    data.write(dest)
    print(f"{dest}: {len(data.text)} utterances")
