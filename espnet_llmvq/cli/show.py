"""Print the results tables of one or several experiments, from the results.json of stage 13."""

from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.cli.parser import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("exp_dir", nargs="*", default=["exp"], help="directories of stage 13")
    parser.add_argument("--metric", action="append", help="give it again for more (wer, cer and ter if not given)")
    args = parser.parse_args(argv)
    from espnet_llmvq.score.experiment import read_rows
    from espnet_llmvq.score.measure import METRICS
    from espnet_llmvq.score.table import metric_table, question_tables, set_names, text_table

    for name in args.metric or ():
        check_name("metric", name, METRICS)
    for directory in args.exp_dir:
        path = Path(directory) / "results.json"
        rows = read_rows(path)
        shown = [m for m in args.metric or ("wer", "cer", "ter") if set_names(rows, m)]
        if not shown:
            known = ", ".join(dict.fromkeys(row["metric"] for row in rows))
            raise UserError(f"{path}: no such metric in it; it has {known}")
        seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
        print(f"## {directory} (seed {seeds})")
        for metric in shown:
            label = METRICS[metric].label
            drawn = text_table(*metric_table(rows, metric, METRICS[metric].better, bold=False))
            print(f"\n{label[0].upper()}{label[1:]}\n\n{drawn}", end="")
        for _, title, *drawn in question_tables(rows) * (args.metric is None):
            print(f"\n{title}\n\n{text_table(*drawn)}", end="")
        print()
