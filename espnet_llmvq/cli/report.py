"""Write the report of an experiment as one HTML page.

Reads what `llmvq results` and `llmvq analyse` wrote to RESULTS_DIR, EXP_DIR/*/train.log and diagnostics.json and, with
--table, hypotheses, references and the audio of the wav.scp beside each reference. Writes
RESULTS_DIR/report/report.html, which holds all it needs and opens without a network. What is absent
is listed at its end.
"""

from espnet_llmvq.cli.parser import Parser, add_options, add_overwrite, options_of
from espnet_llmvq.report.report import ReportOptions


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--exp", help="directory with the plan of a run (experiment.json), which says all that follows")
    parser.add_argument("--exp_dir", help="directory of the experiment (exp if not given)")
    parser.add_argument("--results_dir", help="directory that `llmvq results` wrote to (EXP_DIR if not given)")
    parser.add_argument("--table", help="YAML file of systems and sets (docs/scoring.md), for utterances and audio")
    add_options(parser, ReportOptions)
    add_overwrite(parser)
    return parser


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.exp and (args.exp_dir or args.results_dir or args.table):
        parser.error("--exp says where all is: leave out --exp_dir, --results_dir and --table")
    from espnet_llmvq.experiment.table import read_table
    from espnet_llmvq.report.report import write_report

    options = options_of(ReportOptions, args)
    if args.exp:
        from dataclasses import replace

        from espnet_llmvq.experiment.experiment import read_experiment

        experiment = read_experiment(args.exp)
        exp_dir, results_dir, table = experiment.options.expdir, experiment.results_dir, experiment.table()
        if options.title == ReportOptions.title:
            options = replace(options, title=experiment.options.title)
    else:
        exp_dir = args.exp_dir or "exp"
        results_dir = args.results_dir or exp_dir
        table = read_table(args.table) if args.table else None
    print(f"written: {write_report(exp_dir, results_dir, table, options)}")
