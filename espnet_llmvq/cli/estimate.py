"""Say what the training of each phase will cost: parameters, memory of a GPU, hours. No weights or data are needed."""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--exp", default="exp", help="directory or file with the plan of the run (experiment.json)")
    parser.add_argument("--seconds", type=float, default=12.3, help="speech of an utterance (LibriSpeech: 12.3)")
    parser.add_argument("--tokens", type=int, default=45, help="tokens of its transcript with the end token")
    parser.add_argument("--prompt_tokens", type=int, default=12, help="tokens of the prompt")
    parser.add_argument("--corpus_hours", type=float, help="speech of an epoch, where no positions are counted yet")
    parser.add_argument("--gpu", default="a100", help="v100, a100-40, a100, l40s, rtx4090, h100 or h200")
    parser.add_argument("--device_flops", type=float, help="of another GPU: operations a second, without sparsity")
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.3,
        help="share of them that training reaches: 0.21 to 0.46 in large trainings (2204.02311, table 3)",
    )
    parser.add_argument("--json", help="write the same to this file")
    return parser


def main(argv=None):
    args = vars(get_parser().parse_args(argv))
    import json

    from espnet_llmvq.base.files import write_text
    from espnet_llmvq.estimate.cost import Question, estimate_all, show
    from espnet_llmvq.experiment.experiment import read_experiment

    experiment, out = read_experiment(args.pop("exp")), args.pop("json")
    question = Question(**args, ngpu=experiment.options.ngpu, num_nodes=experiment.options.num_nodes)
    rows = estimate_all(experiment, question)
    print("\n".join(show(rows, question)))
    if out:
        write_text(out, json.dumps(rows, indent=1) + "\n")
