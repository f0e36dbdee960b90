"""Write the report of an experiment as one HTML page (stage 15).

Reads results.json and RESULTS.md of RESULTS_DIR (stage 13), EXP_DIR/*/train.log and diagnostics.json,
RESULTS_DIR/analysis/analysis.json and RESULTS_DIR/analy*/**/*.png (stage 14) and, where systems and
sets are given, hypotheses, references and the audio of the wav.scp beside each reference. Writes
RESULTS_DIR/report/report.html, which holds all it needs and opens without a network. What is absent
is listed at its end.
"""

import base64
import json
from pathlib import Path

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import write_text
from espnet_llmvq.cli.parser import Parser
from espnet_llmvq.data.normalise import NORMALISERS, get_normaliser
from espnet_llmvq.report import content, plots, tables
from espnet_llmvq.report.media import Budget
from espnet_llmvq.report.page import render
from espnet_llmvq.report.training import read_training
from espnet_llmvq.score.experiment import read_rows
from espnet_llmvq.score.table import check_unique, parse_set, parse_system

MIB = 1 << 20


def get_parser():
    parser = Parser(description=__doc__)
    parser.add_argument("--exp_dir", default="exp", help="directory of the experiment")
    parser.add_argument("--results_dir", help="directory that stage 13 wrote to (EXP_DIR if not given)")
    parser.add_argument(
        "--system",
        default=[],
        action="append",
        metavar="NAME|LABEL|FILE[|NOTE]",
        help="a system; FILE is its hypotheses, with {set} for the set",
    )
    parser.add_argument(
        "--set",
        default=[],
        action="append",
        metavar="NAME|DOMAIN|TEXT",
        help="a test set: its name, id or ood, and its reference, with wav.scp beside it",
    )
    parser.add_argument("--baseline", help="system to be marked as the baseline")
    parser.add_argument(
        "--normaliser", default="basic", help=f"of sets whose results name none; one of {', '.join(NORMALISERS)}"
    )
    parser.add_argument("--title", default="Report", help="title of the page")
    parser.add_argument("--worst", type=int, default=3, help="worst utterances of each system and set")
    parser.add_argument("--confusions", type=int, default=10, help="most frequent confusions of each kind")
    parser.add_argument("--max_media_mib", type=float, default=12, help="room for figures and audio in the page")
    return parser


def _read_markdown(path, missing):
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        missing.append(f"{path} is not there, and with it the environment; score again (stage 13).")
        return ""


def main(argv=None):
    args = get_parser().parse_args(argv)
    exp_dir = Path(args.exp_dir)
    results_dir = Path(args.results_dir or exp_dir)
    systems = [parse_system(spec) for spec in args.system]
    sets = [parse_set(spec) for spec in args.set]
    check_unique("--system", systems)
    check_unique("--set", sets)
    get_normaliser(args.normaliser)
    rows = read_rows(results_dir / "results.json")
    names = list(dict.fromkeys(row["system"] for row in rows))
    if args.baseline:
        check_name("baseline", args.baseline, names)
    labels = {system.name: system.label for system in systems}

    missing, warnings = [], []
    markdown = _read_markdown(results_dir / "RESULTS.md", missing)
    found = tables.make_tables(rows, labels)
    main_table = next((table for table in found if table.metric == "wer"), found[0])
    if not any(table.has_intervals for table in found):
        missing.append("Intervals: the entries of results.json have no low and high.")
    if not (systems and sets):
        missing.append("Errors and utterances: no --system and --set were given.")
    else:
        scored_sets = [column.name for column in main_table.columns if not column.is_mean]
        for kind, known, given in (("system", names, systems), ("set", scored_sets, sets)):
            absent = [name for name in known if name not in [item.name for item in given]]
            missing += [f"Utterances of {name}: not among the --{kind} given." for name in absent]
    try:
        derailments = content.read_derailments(results_dir / "derailments.json")
        if derailments is None:
            missing.append(f"Derailments: {results_dir / 'derailments.json'} is not there.")
    except UserError as err:
        derailments = None
        missing.append(f"Derailments: {err}")

    scored = content.score_sets(systems, sets, rows, args.normaliser, missing)
    warnings += content.disagreements(scored, rows)
    budget = Budget(int(args.max_media_mib * MIB))
    figures = content.figures(results_dir, budget)
    if not figures and not budget.left_out:
        missing.append(f"Figures of the analysis (stage 14): none under {results_dir}/analy*/.")
    analysis, collapses = content.read_analysis(exp_dir, results_dir, labels, missing)
    worst = content.worst_utterances(scored, labels, args.worst, budget, missing)
    missing += [
        f"{name[0].upper()}{name[1:]}: left out, as media are limited to {args.max_media_mib:g} MiB (--max_media_mib)."
        for name in budget.left_out
    ]
    training = read_training(exp_dir)
    if not training:
        missing.append(f"Training: no finished epoch is logged in {exp_dir}/*/train.log.")
    data = json.dumps(rows, indent=1, ensure_ascii=False).encode("utf-8", "replace")

    path = results_dir / "report" / "report.html"
    write_text(
        path,
        render(
            title=args.title,
            systems_count=len(names),
            sets_count=sum(not column.is_mean for column in main_table.columns),
            small_set=tables.SMALL,
            has_small=any(column.small for table in found for column in table.columns),
            has_intervals=any(table.has_intervals for table in found),
            baseline=args.baseline or "",
            baseline_label=labels.get(args.baseline, args.baseline),
            tables=found,
            json_uri="data:application/json;base64," + base64.b64encode(data).decode("ascii"),
            forest_title=main_table.title,
            forest_has_intervals=main_table.has_intervals,
            forest=plots.forest(main_table),
            errors=content.error_rows(scored, labels),
            confusions=content.confusion_lists(scored, labels, args.confusions),
            derailments=derailments,
            worst=worst,
            worst_count=args.worst,
            training=[(name, plots.training_panel(losses)) for name, losses in training.items()],
            figures=figures,
            analysis=analysis,
            collapses=collapses,
            environment=tables.read_environment(markdown),
            markdown=markdown,
            warnings=warnings,
            missing=missing,
        ),
    )
    print(f"written: {path}")
