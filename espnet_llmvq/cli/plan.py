"""Check what a run is about and write it as EXPDIR/experiment.json, which all later commands read.

The options are those of run.sh.
"""

from espnet_llmvq.cli.parser import Parser, add_options, add_overwrite, options_of

GONE = {"--conf_dir": "now --cards", "--bridge_stack": "now known from the phases"}


def main(argv=None):
    from espnet_llmvq.experiment.options import Options

    parser = Parser(description=__doc__, usage="%(prog)s [OPTION ...]")
    parser.add_argument("--out", help="file to write; default: experiment.json where the results of the seed go")
    parser.add_argument(
        "--script_options", default="", help="names that run.sh takes itself, for hints at typing errors"
    )
    add_options(parser, Options)
    add_overwrite(parser)
    known, _ = parser.parse_known_args(argv)
    parser.also = [f"--{name}" for name in known.script_options.split()]
    parser.gone = GONE
    args = parser.parse_args(argv)
    from espnet_llmvq.experiment.plan import make_plan

    experiment = make_plan(options_of(Options, args))
    experiment.write(args.out)
    systems, sets = (" ".join(item.name for item in items) for items in (experiment.systems, experiment.sets))
    print(f"systems: {systems}; sets: {experiment.options.train_set} {experiment.options.valid_set} {sets}")
