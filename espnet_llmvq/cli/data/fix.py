"""Repair a data directory where nothing has to be guessed; list every line that goes."""

from espnet_llmvq.cli.parser import Parser, add_checks, checks


def main(argv=None):
    parser = Parser(description=__doc__)
    add_checks(parser)
    args = parser.parse_args(argv)
    from espnet_llmvq.data.fix import fix

    return fix(args.data_dir, **checks(args))
