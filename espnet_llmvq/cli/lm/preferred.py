"""Count the wrong words that the LLM prefers: those that make their text likelier than the right ones would.

For each substituted word of the hypotheses of a run the LLM alone, without speech, reads the text as it is and with
that word put right. Writes RESULTS/preferred: PREFERRED.md, preferred.json, and SYSTEM/SET.tsv by utterance.
"""

from espnet_llmvq.cli.parser import experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, systems=True)
    parser.add_argument("--sets", default="", help="sets; default: the test sets")
    parser.add_argument("--ngpu", type=int, default=0, help="1 to run the LLM on a GPU")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.decode import decoded_sets
    from espnet_llmvq.stages.preferred import preferred

    experiment = read_experiment(args.exp)
    sets = decoded_sets(experiment, args.sets) if args.sets else experiment.test_names
    home = preferred(experiment, experiment.select(args.systems), sets, ngpu=args.ngpu)
    print((home / "PREFERRED.md").read_text(encoding="utf-8"), end="")
