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
    from espnet_llmvq.sequence.mixture import parse_source
    from espnet_llmvq.stages.sequences import write_mixture

    if args.positions is not None and args.positions < 1:
        raise UserError(f"--positions {args.positions} must be 1 or more")
    sources = [parse_source(s) for s in args.sources]
    write_mixture(args.out, args.shape, sources, args.positions, args.seed)
