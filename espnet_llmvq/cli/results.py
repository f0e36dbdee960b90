"""Score all systems on all sets and write the tables of the experiment.

Writes OUT_DIR/RESULTS.md, results.json, results.tsv, results.tex, comparisons.json,
derailments.json and, with figures of papers, published.json; beside each hypothesis file ref.trn, hyp.trn,
result.txt (alignments), utterances.tsv and, with speakers, speakers.tsv.
"""

import shlex
import sys
from dataclasses import replace

from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.cli.score import add_scoring_options, scoring_options


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--table", required=True, help="YAML file of systems and sets (docs/scoring.md)")
    parser.add_argument("--out_dir", default="exp", help="directory of the results")
    add_scoring_options(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    options = scoring_options(args)
    from espnet_llmvq.experiment.table import read_table
    from espnet_llmvq.score.scoring import score_all, write_results

    table = read_table(args.table)
    words = sys.argv[1:] if argv is None else argv
    scored = score_all(replace(table, commands=(*table.commands, shlex.join(["llmvq", "results", *words]))), options)
    write_results(scored, args.out_dir)
    print(scored.head, end="")
    confidence = 100 * options.statistics.confidence
    print(f"WER in % [{confidence:g} % interval]; written to {args.out_dir}/RESULTS.md")
