"""Say of every result of a run whether it is up to date, and if not, why: what ./run.sh would make, or refuse to."""

from espnet_llmvq.cli.parser import experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, writes=False)
    parser.add_argument("--all", action="store_true", help="also what is up to date")
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.stages.status import status

    answers = status(read_experiment(args.exp))
    for result, difference in answers:
        if difference or args.all:
            print(f"{result}: {difference or 'up to date'}")
    print(f"{sum(not difference for _, difference in answers)} of {len(answers)} results are up to date")
