"""Combine data directories whose utterances differ into one."""

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("dest", help="directory to write")
    parser.add_argument("sources", nargs="+", help="directories to combine")
    args = parser.parse_args(argv)
    from espnet_llmvq.data.combine import combine_data

    combine_data(args.sources, args.dest)
