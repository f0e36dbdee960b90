"""Write utt2dur, the seconds of each utterance, into a data directory, as Kaldi's get_utt2dur.sh does.

Segments give the length of theirs, other utterances the header of their file.
"""

from espnet_llmvq.cli.parser import Parser, add_nj, add_overwrite


def main(argv=None):
    parser = Parser(description=__doc__)
    add_nj(parser, "threads that open files")
    parser.add_argument("data_dir", help="data directory")
    add_overwrite(parser)
    args = parser.parse_args(argv)
    from espnet_llmvq.data.durations import write_durations

    write_durations(args.data_dir, args.nj)
