"""Find every defect of a data directory; exit 1 when there is one."""

from espnet_llmvq.cli.parser import Parser, add_checks, add_repeated_audio, checks


def main(argv=None):
    parser = Parser(description=__doc__)
    add_checks(parser)
    parser.add_argument("--rate", type=int, help="sampling rate in Hz that the audio must have")
    parser.add_argument("--fix", choices=("true", "false"), default="false", help="repair like llmvq data fix")
    add_repeated_audio(parser)
    args = parser.parse_args(argv)
    from espnet_llmvq.data.checks import show_problems, validate
    from espnet_llmvq.data.fix import fix

    if args.fix == "true":
        return fix(args.data_dir, rate=args.rate, **checks(args))
    found = validate(args.data_dir, rate=args.rate, repeated_audio=args.repeated_audio, **checks(args))
    return show_problems(args.data_dir, found)
