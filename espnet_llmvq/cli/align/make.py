"""Word times of transcribed speech, by an HMM aligner or, as stage 8 makes them, by CTC with a trained encoder.

Writes CTM, the word times; CTM.failed, `<utt> <reason>` for each utterance that could not be aligned; and the quality
of the alignment, CTM.report.tsv and CTM.report.png. `llmvq align import` takes word times from elsewhere.
"""

from espnet_llmvq.cli.parser import Parser, add_overwrite


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("sequences", metavar="SEQUENCES", help="sequences (JSON lines) with transcripts")
    parser.add_argument("ctm", metavar="CTM", help="word times to write")
    parser.add_argument("--reference", metavar="CTM", help="true word times, to measure the error against")
    parser.add_argument(
        "--aligner", default="ctc", choices=("ctc", "hmm"),
        help="hmm: pocketsphinx with its English model, for the words of its dictionary",
    )  # fmt: skip
    parser.add_argument("--encoder", help="experiment directory of the encoder (ctc)")
    parser.add_argument(
        "--boundaries", default="letters", choices=("letters", "ctc"),
        help="letters: place them by letter models fitted to this speech; ctc: where the CTC path has them (ctc)",
    )  # fmt: skip
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included (ctc)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to encode on a GPU (ctc)")
    add_overwrite(parser)
    return parser


def main(argv=None):
    parser = get_parser()
    options = vars(parser.parse_args(argv))
    if options["aligner"] == "ctc" and not options["encoder"]:
        parser.error("--aligner ctc needs --encoder")
    from espnet_llmvq.decode.align import align_sets

    align_sets([tuple(options.pop(name) for name in ("sequences", "ctm", "reference"))], **options)
