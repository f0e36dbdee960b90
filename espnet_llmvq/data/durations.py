"""Lengths of the utterances of a data directory."""

from concurrent.futures import ThreadPoolExecutor


def durations(data, nj=2):
    """Return {utt: seconds} of a DataDir: of its segment, or of its file, as the header tells.

    nj: threads that open files. Raises AudioError for a file that cannot be read.
    """
    if data.segments is not None:
        return {utt: end - start for utt, (_, start, end) in data.segments.items()}
    from espnet_llmvq.data.audio import info

    with ThreadPoolExecutor(nj) as pool:
        lengths = pool.map(lambda utt: info(data.wav_scp[utt]).duration, data.utts)
        return dict(zip(data.utts, lengths))
