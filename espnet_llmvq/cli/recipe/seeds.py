"""Pool the results of several training seeds: means, with intervals over seeds.

Reads results.json of each directory, of runs with --seed 1, 2, ..., and the published.json of the first; writes
OUT_DIR/RESULTS.md, results.json, results.tsv, comparisons.json and changes.svg. Intervals are Student's t over the
seeds' values: they tell how a new training would vary on these sets, not how other sets would. A section of RESULTS.md
has the same means with intervals and tests over utterances, from the details of each directory: how other utterances
would do with these trainings.
"""

import json
from dataclasses import replace
from pathlib import Path

from espnet_llmvq.base.errors import check_name
from espnet_llmvq.cli.parser import Parser, add_options, add_overwrite, options_of
from espnet_llmvq.score.options import Statistics


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("exp_dir", nargs="+", help="directories of results, one a seed")
    parser.add_argument("--systems", help="systems to pool, where not all have all seeds (all if not given)")
    parser.add_argument("--baseline", help="system to compare with (the first if not given)")
    add_options(parser, Statistics)
    parser.add_argument("--out_dir", default="exp/seeds", help="directory of the pooled results")
    add_overwrite(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    statistics = options_of(Statistics, args)
    if "speaker" in {resampled(name) for name in args.exp_dir}:
        statistics = replace(statistics, resample="speaker")
    from espnet_llmvq.base.config import from_mapping
    from espnet_llmvq.base.files import check_outputs
    from espnet_llmvq.score.figure import FIGURE, write_changes
    from espnet_llmvq.score.published import Published
    from espnet_llmvq.score.results import TABLES, Results, head, write_tables
    from espnet_llmvq.score.rows import COMPARED, read_rows, said_of
    from espnet_llmvq.score.seeds import check_runs, pooled_comparisons, pooled_rows

    runs = {name: read_rows(Path(name) / "results.json") for name in args.exp_dir}
    if args.systems:
        wanted = args.systems.split()
        for name, rows in runs.items():
            for system in wanted:
                check_name(f"system in {name}", system, {row["system"]: 0 for row in rows})
            runs[name] = [row for row in rows if row["system"] in wanted]
    check_runs(runs)
    inputs = [Path(name) / file for name in args.exp_dir for file in ("results.json", "published.json")]
    check_outputs([Path(args.out_dir, name) for name in (*TABLES, FIGURE)], inputs)
    rows = pooled_rows(runs, args.confidence)
    # Systems that were only asked questions are not compared.
    compared = Results(rows).systems([COMPARED])
    baseline = check_name("baseline", args.baseline or (compared or [""])[0], compared or [""])
    results = Results(rows, pooled_comparisons(runs, baseline, args.confidence), baseline)
    path = Path(args.exp_dir[0]) / "published.json"
    figures = read_rows(path, needed=()) if path.exists() else []
    figures = [from_mapping(Published, one, f"{path}, entry {i}") for i, one in enumerate(figures, 1)]
    sections = results.sections(figures)
    if compared:
        sections[2:2] = utterance_sections(runs, baseline, statistics)
    said = said_of([row for of_seed in runs.values() for row in of_seed]).removeprefix("seed ")
    note = (
        f"Means over {len(runs)} seeds ({said}) with {100 * args.confidence:g} % intervals of "
        "Student's t over seeds. Changes are paired by seed; P(better) is the share of seeds that are better.\n"
    )
    write_tables(args.out_dir, f"Results over seeds\n\n{note.rstrip()}", sections, results)
    write_changes(results, args.out_dir)
    print(f"{head(sections)}{note}written to {args.out_dir}/RESULTS.md")


def resampled(directory):
    """What the run of a directory of results resamples, as its plan says; "" without one."""
    try:
        return json.loads(Path(directory, "experiment.json").read_text(encoding="utf-8"))["options"]["resample"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def utterance_sections(runs, baseline, statistics):
    """[(title, blocks)] of RESULTS.md: the same means with intervals over utterances, tests, and derailments."""
    from espnet_llmvq.score.results import Results
    from espnet_llmvq.score.rows import COMPARED, MACRO, SET
    from espnet_llmvq.score.seeds import missing_counts, over_utterances
    from espnet_llmvq.score.table import Cell, Column, Row, Table

    title = "Intervals and tests over utterances"
    if why := missing_counts(runs):
        return [(title, [f"Left out: {why}.\n"])]
    rows, comparisons, derailed = over_utterances(runs, baseline, statistics)
    results = Results(rows, comparisons, baseline)
    names, sets = (list(dict.fromkeys(column)) for column in zip(*derailed))
    lost = [Row(system, [Cell(derailed.get((system, name)), form="d") for name in sets], system) for system in names]
    note = (
        f"The same means. Each {statistics.resample} is one unit, with the errors of all seeds: how others would do "
        f"with these trainings. P(better) is by the bootstrap. {statistics}.\n"
    )
    lost = Table("Derailed utterances of all seeds", [Column(name) for name in sets], lost)
    tables = [results.metric_table(COMPARED, (SET, MACRO)), results.comparison_table(1 - statistics.confidence), lost]
    blocks = [block for table in tables if table.rows for block in (f"### {table.title}\n", table)]
    return [(title, [note, *blocks])]
