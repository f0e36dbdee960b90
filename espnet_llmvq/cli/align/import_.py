"""Word times from elsewhere, a CTM file or a directory of TextGrid files, checked against a data directory (stage 8).

Writes the same files as `align`: OUT, a CTM file of the utterances that can be used; OUT.failed, `<utt> <reason>` for
each other one; OUT.report.tsv and OUT.report.png.
"""

from espnet_llmvq.cli.parser import Parser, add_overwrite


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="formatted data directory (16 kHz)")
    parser.add_argument("--ctm", help="word times as CTM; or --textgrid")
    parser.add_argument("--textgrid", metavar="DIR", help="directory with UTTERANCE.TextGrid files, also in folders")
    parser.add_argument("--tier", default="words", help="name of the tier with the words (--textgrid)")
    parser.add_argument(
        "--silence_words", nargs="*", default=["<eps>", "<sil>", "<SIL>", "sil", "sp"], help="entries that are no words"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="seconds by which words may overlap or run past the audio"
    )
    parser.add_argument("--out", required=True, metavar="CTM", help="word times to write")
    parser.add_argument("--reference", metavar="CTM", help="true word times, to measure the error against")
    add_overwrite(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.align.ctm import open_ctm
    from espnet_llmvq.align.output import alignment_files
    from espnet_llmvq.align.textgrid import read_textgrids
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.base.files import check_outputs
    from espnet_llmvq.sequence.word_times import import_word_times

    if bool(args.ctm) == bool(args.textgrid):
        raise UserError("give one of --ctm and --textgrid")
    check_outputs(alignment_files(args.out), [args.ctm, args.reference])
    reference = open_ctm(args.reference) if args.reference else None
    word_times = open_ctm(args.ctm) if args.ctm else read_textgrids(args.textgrid, args.tier)
    import_word_times(args.data_dir, word_times, args.out, reference, args.tolerance, args.silence_words)
