"""Write utt2dur, the seconds of each utterance, into a data directory, as Kaldi's get_utt2dur.sh does.

Segments give the length of theirs, other utterances the header of their file.
"""

from pathlib import Path

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--nj", type=int, default=2, help="threads that open files")
    parser.add_argument("data_dir", help="data directory")
    args = parser.parse_args(argv)
    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.data.datadir import DataDir
    from espnet_llmvq.data.durations import durations

    found = durations(DataDir.load(args.data_dir), max(1, args.nj))
    lines = [f"{utt} {round(seconds, 6)!r}\n" for utt, seconds in sorted(found.items())]
    write_text(Path(args.data_dir) / "utt2dur", "".join(lines))
    print(f"{args.data_dir}/utt2dur: {len(found)} utterances, {sum(found.values()) / 3600:.3f} h")
    return 0
