"""Decode sets with trained systems (stage 12): hypotheses and n-best lists in EXPDIR/PHASES/decode_SET."""

from espnet_llmvq.cli.parser import add_nj, experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, systems=True)
    parser.add_argument("--sets", default="", help="sets to decode; default: what the run scores")
    parser.add_argument("--batch_seconds", type=float, default=120.0, help="audio in a batch, padding included")
    parser.add_argument("--batch_size", type=int, default=64, help="most utterances in a batch")
    add_nj(parser, "systems decoded at once", default=1)
    parser.add_argument("--ngpu", type=int, default=0, help="1 to decode on a GPU")
    parser.add_argument("--redo", action="store_true", help="decode again what is decoded")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.decode import decode, decoded_sets

    experiment = read_experiment(args.exp)
    sets = decoded_sets(experiment, args.sets) if args.sets else None
    decode(
        experiment, experiment.select(args.systems), sets, nj=args.nj, ngpu=args.ngpu,
        redo=args.redo, batch_seconds=args.batch_seconds, batch_size=args.batch_size,
    )  # fmt: skip
