"""Word times of transcribed speech (stage 8), by CTC with the trained encoder or by an HMM aligner.

Writes, for each set, CTM, its word times; CTM.failed, `<utt> <reason>` for each utterance that could not be aligned;
and the quality of the alignment, CTM.report.tsv and CTM.report.png. `llmvq align import` takes word times from
elsewhere.
"""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--encoder", help="experiment directory of the encoder (ctc)")
    parser.add_argument(
        "--set", dest="sets", action="append", required=True, metavar="SEQUENCES=CTM[=REFERENCE]",
        help="sequences (JSON lines) with transcripts, word times to write, and true word times (CTM) to measure the "
        "error against; repeated",
    )  # fmt: skip
    parser.add_argument(
        "--aligner", default="ctc", choices=("ctc", "hmm"),
        help="hmm: pocketsphinx with its English model, for the words of its dictionary",
    )  # fmt: skip
    parser.add_argument(
        "--boundaries", default="letters", choices=("letters", "ctc"),
        help="letters: place them by letter models fitted to this speech; ctc: where the CTC path has them (ctc)",
    )  # fmt: skip
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included (ctc)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to encode on a GPU (ctc)")
    return parser


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.aligner == "ctc" and not args.encoder:
        parser.error("--aligner ctc needs --encoder")
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.decode.align import align_sets

    sets = []
    for item in args.sets:
        sequences, _, rest = item.partition("=")
        ctm, _, reference = rest.partition("=")
        if not sequences or not ctm:
            raise UserError(f"--set {item}: expected SEQUENCES=CTM[=REFERENCE]")
        sets.append((sequences, ctm, reference or None))
    options = {name: getattr(args, name) for name in ("aligner", "boundaries", "batch_seconds", "threads", "ngpu")}
    align_sets(sets, encoder=args.encoder, **options)
