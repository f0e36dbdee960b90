"""Choose hypotheses from stored n-best lists by (1 - w) * LLM + w * CTC score (end of stage 12), without decoding."""

from espnet_llmvq.cli.parser import experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, systems=True)
    parser.add_argument("--sets", default="", help="sets whose hypotheses are written; default: what the run scores")
    parser.add_argument(
        "--ctc_weight",
        help="w, from 0 (LLM alone) to 1 (CTC alone); valid: for each system the one with the fewest word errors on "
        "the validation set; default: that of the run",
    )
    parser.add_argument("--tune_only", action="store_true", help="print the WER of each weight on the validation set")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.decode import decoded_sets, rescore

    experiment = read_experiment(args.exp)
    sets = decoded_sets(experiment, args.sets)
    rescore(experiment, experiment.select(args.systems), sets, args.ctc_weight, args.tune_only)
