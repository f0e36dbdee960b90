"""Word times from elsewhere, a CTM file or a directory of TextGrid files, checked against a data directory (stage 8).

Writes the same files as `align`: OUT, a CTM file of the utterances that can be used; OUT.failed, `<utt> <reason>` for
each other one; OUT.report.tsv and OUT.report.png.
"""

from espnet_llmvq.cli.parser import Parser


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
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from espnet_llmvq.align.ctm import read_ctm, rounded
    from espnet_llmvq.align.output import write_alignment
    from espnet_llmvq.align.textgrid import read_textgrids
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.data.audio import SAMPLE_RATE
    from espnet_llmvq.sequence.corpus import NO_ALIGNMENT, joined
    from espnet_llmvq.sequence.units import Dropped, timed_words

    if bool(args.ctm) == bool(args.textgrid):
        raise UserError("give one of --ctm and --textgrid")
    reference = read_ctm(args.reference) if args.reference else None
    found = read_ctm(args.ctm) if args.ctm else read_textgrids(args.textgrid, args.tier)
    kept, dropped, seconds = {}, {}, {}
    for utt, _, samples, text, words in joined(args.data_dir, found, NO_ALIGNMENT, dropped):
        try:
            # As it will be written.
            words = [rounded(w) for w in words]
            # For its checks; case and punctuation may be written otherwise, so words stay as they are.
            timed_words(text, words, samples, args.tolerance, args.silence_words)
        except Dropped as why:
            dropped[utt] = why
            continue
        kept[utt] = [w for w in words if w.word not in args.silence_words]
        seconds[utt] = samples / SAMPLE_RATE
    write_alignment(args.out, kept, {utt: str(why) for utt, why in dropped.items()}, seconds, reference)
