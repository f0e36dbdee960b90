"""Drop utterances that are too short, too long or without text from a formatted data directory."""

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--min_duration", type=float, default=0.1, help="seconds, allowed itself")
    parser.add_argument("--max_duration", type=float, default=20.0, help="seconds, allowed itself")
    parser.add_argument("--rate", type=int, default=16000, help="sampling rate of SRC in Hz")
    parser.add_argument("source", metavar="SRC", help="directory written by llmvq data format")
    parser.add_argument("dest", metavar="DEST", help="directory to write")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.filter import filter_data

    filter_data(args.source, args.dest, min_duration=args.min_duration, max_duration=args.max_duration, rate=args.rate)
