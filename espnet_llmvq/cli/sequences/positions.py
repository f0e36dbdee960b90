"""Count the LLM positions (speech steps + text tokens) of sequences, for ESPnet's batch samplers (stages 7, 10)."""

from espnet_llmvq.cli.parser import Parser, positive


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--llm", required=True, help="Hugging Face directory or hub id, for its tokenizer")
    parser.add_argument("--encoder_config", required=True, help="config that shapes the encoder (YAML)")
    parser.add_argument("--stack", type=positive, default=1, help="encoder frames stacked by the bridge")
    parser.add_argument(
        "files", nargs="+", help="pairs SEQUENCES SHAPE: what to read and where to write `id positions`"
    )
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.stages.sequences import count_positions

    if len(args.files) % 2:
        raise UserError("give pairs: SEQUENCES SHAPE")
    pairs = list(zip(args.files[::2], args.files[1::2]))
    count_positions(pairs, args.llm, read_config(args.encoder_config), args.stack)
