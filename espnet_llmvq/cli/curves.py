"""Learning curves: decode sets with systems after parts of their steps, by the checkpoints that were kept.

Writes the results after each part to RESULTS/curves/PART (such as 1_of_8), as `llmvq results` does, and beside them
CURVES.md, curves.tsv and curves.png: validation loss and word error rate over the steps.
"""

from espnet_llmvq.cli.parser import add_nj, experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, systems=True)
    parser.add_argument("--at", default="1/8 1/4 1/2 1", help="parts of the steps with the LLM")
    parser.add_argument("--sets", default="", help="sets to decode; default: the validation set")
    add_nj(parser, "systems decoded at once", default=1)
    parser.add_argument("--ngpu", type=int, default=0, help="1 to decode on a GPU")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.curves import curves, read_parts
    from espnet_llmvq.stages.decode import decoded_sets

    experiment, parts = read_experiment(args.exp), read_parts(args.at)
    sets = decoded_sets(experiment, args.sets or experiment.options.valid_set)
    systems = [system for system in experiment.select(args.systems) if args.systems or system.decode == "llm"]
    home = curves(experiment, systems, parts, sets, nj=args.nj, ngpu=args.ngpu)
    print(f"{(home / 'CURVES.md').read_text(encoding='utf-8')}\nwritten to {home}/CURVES.md")
