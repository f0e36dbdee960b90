"""Trim an LLM: a directory with only the tokens that given texts need, tokenizer and embedding table cut together.

Any other text can still be written, in smaller pieces. OUT/trim.json, which is printed too, says what that costs.
"""

from espnet_llmvq.cli.parser import Parser, positive


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--llm", required=True, help="causal LM: a Hugging Face directory or hub id")
    parser.add_argument("--texts", required=True, nargs="+", metavar="FILE", help="plain text, one sentence a line")
    parser.add_argument("--size", type=positive, help="keep so many tokens, the most frequent ones (all if not given)")
    parser.add_argument("--held_out", nargs="+", default=[], metavar="FILE", help="texts to measure perplexity on")
    parser.add_argument("--out", required=True, help="directory to write")
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.llm.trim import report, table, trim

    trim(args.llm, args.texts, args.out, args.size)
    print(table(report(args.llm, args.out, args.held_out)))
