"""Mix files of sequences into one training set by their share of LLM positions (stage 10).

Give the first source as the one that sets the size: it comes once, unless --positions says otherwise. A source that
is too small for its share is repeated, one that is too large is drawn from. Epochs go over the same mixture.
"""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--out", required=True, help="sequences to write (JSON lines)")
    parser.add_argument("--shape", required=True, help="their LLM positions, for ESPnet's samplers")
    parser.add_argument("--positions", type=int, help="LLM positions in all; by default the first source comes once")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn and of the order")
    parser.add_argument(
        "sources", nargs="+", metavar="NAME=SHARE:SEQUENCES:SHAPE",
        help="e.g. asr=1:asr.jsonl:asr_shape; SHAPE is from llmvq sequences positions",
    )  # fmt: skip
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.base.files import writing
    from espnet_llmvq.sequence.mixture import mix, parse_source
    from espnet_llmvq.sequence.sequence import build_index

    if args.positions is not None and args.positions < 1:
        raise UserError(f"--positions {args.positions} must be 1 or more")
    lines, facts = mix([parse_source(s) for s in args.sources], args.positions, args.seed)
    # The shape appears last, when all is complete.
    with writing(args.shape) as g:
        with writing(args.out) as f:
            for key, positions, line in lines:
                f.write(line + "\n")
                g.write(f"{key} {positions}\n")
        build_index(args.out)
    total = sum(positions for _, positions, _ in facts.values())
    print(f"{args.out}: {sum(n for n, _, _ in facts.values())} sequences, {total} positions")
    for name, (n, positions, passes) in facts.items():
        print(f"  {name}: {n} sequences, {positions} positions, {100 * positions / total:.2f} %, {passes:.2f} passes")
