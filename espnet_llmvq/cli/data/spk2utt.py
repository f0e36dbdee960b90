"""Print the spk2utt that belongs to an utt2spk file."""

import sys

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("utt2spk", help="utt2spk file")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.tables import by_speaker, read_scp

    for spk, utts in by_speaker(read_scp(args.utt2spk)).items():
        sys.stdout.write(f"{spk} {' '.join(utts)}\n")
    return 0
