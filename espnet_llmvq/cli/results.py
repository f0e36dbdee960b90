"""Score all systems on all sets and write the tables of the experiment.

Writes OUT_DIR/RESULTS.md, ERRORS.md (where word errors come from), results.json, results.tsv, results.tex,
comparisons.json, changes.svg, derailments.json and, with figures of papers, published.json; in
OUT_DIR/details/SYSTEM/SET ref.trn, hyp.trn, result.txt (alignments), utterances.tsv and, with speakers, speakers.tsv.
"""

import shlex
import sys
from dataclasses import replace

from espnet_llmvq.cli.parser import Parser, add_overwrite
from espnet_llmvq.cli.score import add_scoring_options, scoring_options


def get_parser():
    parser = Parser(description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--exp", help="directory with the plan of a run (experiment.json)")
    group.add_argument("--table", help="YAML file of systems and sets (docs/scoring.md)")
    parser.add_argument("--out_dir", help="directory of the results; default: exp, or where those of the run go")
    add_scoring_options(parser)
    add_overwrite(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    options = scoring_options(args)
    from espnet_llmvq.experiment.table import read_table
    from espnet_llmvq.score.options import Statistics
    from espnet_llmvq.score.results import head
    from espnet_llmvq.score.scoring import score_all, write_results

    if args.exp:
        from espnet_llmvq.experiment.experiment import read_experiment

        experiment = read_experiment(args.exp)
        table, out_dir = experiment.table(), args.out_dir or experiment.results_dir
        statistics = options.statistics
        if statistics.resample == Statistics.resample:
            statistics = replace(statistics, resample=experiment.options.resample)
        options = replace(options, prompt=experiment.options.prompt, statistics=statistics)
    else:
        table, out_dir = read_table(args.table), args.out_dir or "exp"
        words = sys.argv[1:] if argv is None else argv
        table = replace(table, commands=(*table.commands, shlex.join(["llmvq", "results", *words])))
    scored = score_all(table, options, out_dir)
    write_results(scored, out_dir)
    print(head(scored.sections), end="")
    confidence = 100 * options.statistics.confidence
    print(f"WER in % [{confidence:g} % interval]; written to {out_dir}/RESULTS.md")
