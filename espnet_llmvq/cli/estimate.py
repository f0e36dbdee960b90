"""Say what the training of each phase will cost: parameters, memory of a GPU, hours. No weights or data are needed."""

from espnet_llmvq.cli.parser import add_options, experiment_parser, options_of


def main(argv=None):
    from espnet_llmvq.estimate.cost import Question, estimate_all, show

    parser = experiment_parser(__doc__)
    add_options(parser, Question)
    parser.add_argument("--json", help="write the same to this file")
    args = parser.parse_args(argv)
    from espnet_llmvq.base.files import check_outputs, write_json
    from espnet_llmvq.experiment.experiment import read_experiment

    check_outputs([args.json])
    experiment = read_experiment(args.exp)
    options = experiment.options
    question = options_of(Question, args, ngpu=options.ngpu, num_nodes=options.num_nodes)
    rows = estimate_all(experiment, question)
    print("\n".join(show(rows, question)))
    if args.json:
        write_json(args.json, rows)
