"""Copy text files without the lines that share words in a row with an utterance of test sets.

Case and punctuation do not count. An utterance of fewer words than N shares none. Texts have a sentence or paragraph a
line; the lines are written as they are, those that are left out are listed in OUT.dropped.tsv: file:line, set,
utterance, the first words that they share. Unchanged input is not done again.
"""

from espnet_llmvq.cli.parser import Parser, add_overwrite, positive


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="plain text files, also as .gz")
    parser.add_argument("--against", nargs="+", required=True, metavar="SET", help="data directories, or `text` files")
    parser.add_argument("--words", type=positive, default=7, metavar="N", help="in a row that a line may not share")
    parser.add_argument("--out", required=True, help="file to write")
    add_overwrite(parser)
    args = parser.parse_args(argv)
    from espnet_llmvq.data.decontaminate import decontaminate, table

    print(table(args.out, *decontaminate(args.texts, args.against, args.out, args.words)))
