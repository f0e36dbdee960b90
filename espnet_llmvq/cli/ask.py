"""Put questions, in writing and spoken, to systems, and in writing to the LLM alone (stage 12).

Answers go to answers.jsonl in a directory KIND_FILE beside each model, for those of the LLM in EXPDIR/llm_alone.
"""

from espnet_llmvq.cli.parser import add_nj, experiment_parser


def main(argv=None):
    parser = experiment_parser(__doc__, systems=True)
    parser.add_argument("kind", nargs="?", choices=("mc", "sqa"), help="mc: multiple choice; sqa: open; default: all")
    parser.add_argument("--questions", help="JSON lines; its name names the result; default: those of the run")
    parser.add_argument("--examples", help="of multiple choice; default: those of the run, or the first --questions")
    parser.add_argument(
        "--config", help="YAML: how questions are put, keys of docs/scoring.md; default: that of the run"
    )
    parser.add_argument("--override", action="append", default=[], help="key=value laid over --config, repeated")
    parser.add_argument("--text_only", action="store_true", help="ask systems in writing only; no audio is needed")
    parser.add_argument("--batch_size", type=int, default=16, help="questions in a batch")
    add_nj(parser, "systems asked at once, in processes of their own (CPU)", default=1)
    parser.add_argument("--ngpu", type=int, default=0, help="1 to use a GPU")
    parser.add_argument("--redo", action="store_true", help="ask again what is answered")
    args = parser.parse_args(argv)
    from espnet_llmvq.base.config import read_overrides
    from espnet_llmvq.base.errors import UserError
    from espnet_llmvq.experiment.experiment import read_experiment
    from espnet_llmvq.experiment.options import pairs
    from espnet_llmvq.stages.decode import ask, question_options

    if args.questions and not args.kind:
        raise UserError("--questions FILE needs its kind: llmvq ask mc, or llmvq ask sqa")
    experiment = read_experiment(args.exp)
    asked = [(args.kind, args.questions)] if args.questions else pairs(experiment.options.questions, "questions")
    if not asked:
        print("no questions are named (--questions KIND=FILE of run.sh)")
    for kind, path in asked:
        if args.kind not in (None, kind):
            continue
        options = question_options(experiment, kind, args.config, read_overrides(args.override))
        ask(
            experiment, experiment.select(args.systems), kind, path, options, examples=args.examples, nj=args.nj,
            ngpu=args.ngpu, redo=args.redo, forms=("text",) if args.text_only else None, batch_size=args.batch_size,
        )  # fmt: skip
