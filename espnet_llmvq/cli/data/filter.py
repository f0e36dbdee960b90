"""Drop utterances that are too short, too long or without text from a formatted data directory."""

import os
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli.parser import Parser


def reasons(data, source, rate, shortest, longest):
    """Return {utt: reason} for the utterances of a formatted DataDir, read from `source`, to be dropped.

    rate in Hz; shortest and longest in seconds, both still allowed.
    """
    found, samples = {}, data.samples(source)
    for utt in data.utts:
        seconds = samples[utt] / rate
        if not data.text[utt].strip():
            found[utt] = "empty transcript"
        elif seconds < shortest:
            found[utt] = f"{seconds:.3f} s is shorter than {shortest:g} s"
        elif seconds > longest:
            found[utt] = f"{seconds:.3f} s is longer than {longest:g} s"
    return found


def is_new(source, dest):
    """Whether `dest` was written after `source`: audio that was made anew has tables as before, but newer ones."""
    written = [os.path.getmtime(os.path.join(path, "wav.scp")) for path in (source, dest)]
    return written[0] <= written[1]


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--min_duration", type=float, default=0.1, help="seconds, allowed itself")
    parser.add_argument("--max_duration", type=float, default=20.0, help="seconds, allowed itself")
    parser.add_argument("--rate", type=int, default=16000, help="sampling rate of SRC in Hz")
    parser.add_argument("source", metavar="SRC", help="directory written by format_audio.py")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.data.datadir import DataDir

    source, dest = args.source, args.dest
    if os.path.realpath(source) == os.path.realpath(dest):
        raise UserError(f"{dest}: is the source itself (give another DEST)")
    data = DataDir.load(source)
    dropped = reasons(data, source, args.rate, args.min_duration, args.max_duration)
    if len(dropped) == len(data.text):
        utt, why = next(iter(dropped.items()))
        raise UserError(f"{source}: no utterance would be left, e.g. {utt}: {why}")
    kept = data.subset(data.text.keys() - dropped.keys())
    listing = os.path.join(dest, "dropped.tsv")
    listed = "".join(f"{utt}\t{why}\n" for utt, why in dropped.items())
    if kept.is_in(dest) and is_new(source, dest) and Path(listing).is_file() and Path(listing).read_text() == listed:
        print(f"{dest}: is filtered, nothing to do")
        return 0
    kept.write(dest)
    write_text(listing, listed)
    count = len(data.text)
    print(f"{dest}: kept {count - len(dropped)} of {count} utterances, dropped {len(dropped)}")
    if dropped:
        print(f"dropped utterances are listed in {listing}")
    return 0
