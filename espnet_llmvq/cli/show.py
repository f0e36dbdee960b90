"""Print the results tables of one or several experiments, from their results.json."""

from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("exp_dir", nargs="*", default=["exp"], help="directories of results")
    parser.add_argument("--metric", action="append", help="give it again for more (all of whole sets if not given)")
    parser.add_argument("--errors", action="store_true", help="where word errors come from, instead")
    args = parser.parse_args(argv)
    if args.errors and args.metric:
        parser.error("--errors has its own metrics: leave out --metric")
    from espnet_llmvq.score.measure import METRICS, names_of
    from espnet_llmvq.score.results import Results
    from espnet_llmvq.score.rows import read_rows, said_of
    from espnet_llmvq.score.table import text_table

    for name in args.metric or ():
        check_name("metric", name, METRICS)
    for directory in args.exp_dir:
        path = Path(directory) / "results.json"
        results = Results(read_rows(path))
        if args.errors:
            tables = [table for _, of_set in results.error_tables() for table in of_set]
            if not tables:
                raise UserError(f"{path}: does not say where errors come from; score again: llmvq results")
        else:
            tables = [results.metric_table(m) for m in args.metric or names_of("always", "asked") if results.has(m)]
            if not tables:
                known = ", ".join(dict.fromkeys(row["metric"] for row in results.rows))
                raise UserError(f"{path}: no such metric in it; it has {known}")
            tables += [table for _, table in results.question_tables()] * (args.metric is None)
        print(f"## {directory} ({said_of(results.rows)})")
        for table in tables:
            print(f"\n{table.title}\n\n{text_table(table)}", end="")
        print()
