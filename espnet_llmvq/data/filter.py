"""Formatted data directories without utterances that are too short, too long or without text."""

import os

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.data.datadir import DataDir
from espnet_llmvq.data.made import MadeDir, check_apart
from espnet_llmvq.data.normalise import visible


def filter_data(source, dest, *, min_duration=0.1, max_duration=20.0, rate=16000):
    """Make `dest` of what is left of `source`, and list the rest in dropped.tsv, unless it is up to date.

    Durations in seconds, both still allowed, rate of the audio in Hz. Whether it was made. Raises UserError if nothing
    would be left.
    """
    check_apart(dest, source)
    data = DataDir.load(source)
    dropped, samples = {}, data.samples(source)
    for utt in data.utts:
        seconds = samples[utt] / rate
        if not visible(data.text[utt]).strip():
            dropped[utt] = "empty transcript"
        elif seconds < min_duration:
            dropped[utt] = f"{seconds:.3f} s is shorter than {min_duration:g} s"
        elif seconds > max_duration:
            dropped[utt] = f"{seconds:.3f} s is longer than {max_duration:g} s"
    if len(dropped) == len(data.text):
        utt, why = next(iter(dropped.items()))
        raise UserError(f"{source}: no utterance would be left, e.g. {utt}: {why}")

    def build(new):
        data.subset(data.text.keys() - dropped.keys()).write_tables(new)
        write_text(new / "dropped.tsv", "".join(f"{utt}\t{why}\n" for utt, why in dropped.items()))

    options = {"min_duration": min_duration, "max_duration": max_duration, "rate": rate}
    if not MadeDir(dest, [source], data.wav_scp.values(), **options).make(build):
        print(f"{dest}: is filtered, nothing to do")
        return False
    count = len(data.text)
    print(f"{dest}: kept {count - len(dropped)} of {count} utterances, dropped {len(dropped)}")
    if dropped:
        print(f"dropped utterances are listed in {os.path.join(dest, 'dropped.tsv')}")
    return True
