"""Check what a run is about and write it as EXPDIR/experiment.json, which all later commands read.

The options are those of run.sh.
"""

from espnet_llmvq.cli.parser import Parser


def get_parser():
    from espnet_llmvq.experiment.options import add_options

    parser = Parser(description=__doc__)
    parser.add_argument("--out", help="file to write; default: experiment.json where the results of the seed go")
    parser.add_argument(
        "--script_options", default="", help="names that run.sh takes itself, for hints at typing errors"
    )
    add_options(parser)
    return parser


def main(argv=None):
    parser = get_parser()
    known, _ = parser.parse_known_args(argv)
    parser.also = [f"--{name}" for name in known.script_options.split()]
    args = vars(parser.parse_args(argv))
    from espnet_llmvq.experiment.options import Options
    from espnet_llmvq.experiment.plan import make_plan

    out, _ = args.pop("out"), args.pop("script_options")
    experiment = make_plan(Options(**args))
    experiment.write(out)
    systems, sets = (" ".join(item.name for item in items) for items in (experiment.systems, experiment.sets))
    print(f"systems: {systems}; sets: {experiment.options.train_set} {experiment.options.valid_set} {sets}")
