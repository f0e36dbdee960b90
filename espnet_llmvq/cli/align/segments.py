"""How long segments are, cut at silence against silence and punctuation: a table and a figure ([2607.01733], fig. 2).

Writes OUT.tsv, a line a segment, and OUT.png, histograms of words and seconds.
"""

from espnet_llmvq.cli.parser import Parser, add_overwrite


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="formatted data directory (16 kHz)")
    parser.add_argument("--ctm", required=True, help="word times of it")
    parser.add_argument("--cards", default="conf/systems.yaml", help="file of --form")
    parser.add_argument("--form", required=True, help="an entry of its section interleave; `cut` is without effect")
    parser.add_argument("--out", required=True, help="path of the two files, without suffix")
    add_overwrite(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.align.ctm import read_ctm
    from espnet_llmvq.base.files import check_outputs
    from espnet_llmvq.experiment.cards import read_cards
    from espnet_llmvq.experiment.systems import read_interleaving
    from espnet_llmvq.sequence.word_times import write_segment_lengths

    check_outputs([f"{args.out}.tsv", f"{args.out}.png"], [args.ctm, args.cards])
    options = read_interleaving(read_cards(args.cards), args.form)
    write_segment_lengths(args.data_dir, read_ctm(args.ctm), options, args.out)
