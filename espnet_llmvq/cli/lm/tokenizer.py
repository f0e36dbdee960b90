"""Train a tokenizer from plain text and write it as a Hugging Face directory."""

from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    p = Parser(description=__doc__)
    p.add_argument("--text", nargs="+", required=True, help="plain text files, one sentence a line")
    p.add_argument("--vocab_size", type=int, default=400, help="pieces, with the special tokens")
    p.add_argument("--whole_words", type=int, default=0, help="most frequent words that are one piece each")
    p.add_argument("--out", required=True, help="directory to write; kept if it is trained like this")
    p.add_argument("--reserved", nargs="*", default=[], help='further special tokens, e.g. "<N>"')
    p.add_argument("--seed", type=int, default=1, help="draws the lines of very large texts")
    args = p.parse_args(argv)

    from espnet_llmvq.llm.tokenizer import train_tokenizer

    options = {"seed": args.seed, "whole_words": args.whole_words, "reserved": args.reserved}
    if train_tokenizer(args.text, args.vocab_size, args.out, **options):
        print(f"wrote {args.out}")
    else:
        print(f"{args.out} is there already; delete it to train again")
