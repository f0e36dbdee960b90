"""Lengths of the utterances of a data directory."""

import os
from concurrent.futures import ThreadPoolExecutor

from espnet_llmvq.base.files import check_outputs, write_text


def durations(data, nj=2):
    """{utt: seconds} of a DataDir: of its segment, or of its file, as the header tells.

    nj: threads that open files. Raises AudioError for a file that cannot be read.
    """
    if data.segments is not None:
        return {utt: end - start for utt, (_, start, end) in data.segments.items()}
    from espnet_llmvq.data.audio import info

    with ThreadPoolExecutor(nj) as pool:
        lengths = pool.map(lambda utt: info(data.wav_scp[utt]).duration, data.utts)
        return dict(zip(data.utts, lengths))


def write_durations(path, nj=2):
    """Write utt2dur, the seconds of each utterance, into a data directory. Raises UserError if others wrote one."""
    from espnet_llmvq.data.datadir import DataDir

    out = os.path.join(path, "utt2dur")
    check_outputs([out])
    seconds = durations(DataDir.load(path), nj)
    write_text(out, "".join(f"{utt} {round(s, 6)!r}\n" for utt, s in sorted(seconds.items())))
    print(f"{out}: {len(seconds)} utterances, {sum(seconds.values()) / 3600:.3f} h")
