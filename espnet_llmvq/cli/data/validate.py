"""Find every defect of a data directory; exit 1 when there is one."""

from espnet_llmvq.cli.parser import Parser


def add_check_options(parser):
    """Add the options shared with llmvq data fix: what counts as a defect."""
    true_false = ("true", "false")
    parser.add_argument("data_dir", help="data directory")
    parser.add_argument("--audio", choices=true_false, default="true", help="open and check every audio file")
    parser.add_argument("--nj", type=int, default=2, help="threads for audio")
    parser.add_argument("--allow_empty_text", choices=true_false, default="false", help="accept empty transcripts")


def main(argv=None):
    parser = Parser(description=__doc__)
    add_check_options(parser)
    parser.add_argument("--rate", type=int, help="sampling rate in Hz that the audio must have")
    parser.add_argument("--fix", choices=("true", "false"), default="false", help="repair like fix_data_dir.py")
    args = parser.parse_args(argv)
    options = {
        "audio": args.audio == "true",
        "rate": args.rate,
        "nj": max(1, args.nj),
        "allow_empty_text": args.allow_empty_text == "true",
    }
    if args.fix == "true":
        from espnet_llmvq.cli.data.fix import fix

        return fix(args.data_dir, **options)
    from espnet_llmvq.data.checks import validate

    problems = validate(args.data_dir, **options)
    for problem in problems:
        print(problem)
    if problems:
        able = sum(p.repair in ("rewrite", "drop") for p in problems)
        print(f"{args.data_dir}: problems: {len(problems)}; fix_data_dir.py can repair {able}")
        return 1
    print(f"{args.data_dir}: valid")
    return 0
