"""The report of an experiment: one HTML page that holds all it needs and opens without a network."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from espnet_llmvq.base.config import option
from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_outputs, write_text
from espnet_llmvq.data.normalise import get_normaliser
from espnet_llmvq.report import compare, content, plots
from espnet_llmvq.report.media import Budget
from espnet_llmvq.report.page import render
from espnet_llmvq.report.training import read_training
from espnet_llmvq.score.derail import KINDS
from espnet_llmvq.score.measure import METRICS
from espnet_llmvq.score.origins import PARTS
from espnet_llmvq.score.results import PREFERRED, Results
from espnet_llmvq.score.rows import COMPARED, DOMAINS, MEANS, SET, read_rows
from espnet_llmvq.score.table import SMALL

MIB = 1 << 20


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows, beside what there is."""

    title: str = option("Report", "title of the page")
    worst: int = option(3, "worst utterances of each system and set")
    confusions: int = option(10, "most frequent confusions of each kind")
    max_media_mib: float = option(12.0, "room for figures and audio in the page")
    max_text_mib: float = option(10.0, "room for the utterances of all systems in the page, compressed")

    def __post_init__(self):
        for name in ("max_media_mib", "max_text_mib"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def write_report(exp_dir, results_dir, table=None, options=None):
    """Write RESULTS_DIR/report/report.html; its path. What is absent is listed at the page's end.

    Reads what scoring and analysis wrote to `results_dir`, logs of trainings under `exp_dir` and, with a ResultTable,
    hypotheses, references and the audio of the wav.scp beside each reference. Raises UserError for results that are not
    there, and for a baseline or normaliser that is not known.
    """
    exp_dir, results_dir, options = Path(exp_dir), Path(results_dir), options or ReportOptions()
    rows = read_rows(results_dir / "results.json")
    systems, sets = (table.systems, table.sets) if table else ((), ())
    labels, baseline = (table.labels, table.baseline) if table else ({}, "")
    results = Results(rows, labels=labels, notes={system.name: system.note for system in systems})
    names = list(dict.fromkeys(row["system"] for row in rows))
    if baseline:
        check_name("baseline", baseline, names)
    if table:
        get_normaliser(table.normaliser)
    missing = []
    try:
        markdown = (results_dir / "RESULTS.md").read_text(encoding="utf-8")
    except OSError:
        markdown = ""
        missing.append(f"{results_dir / 'RESULTS.md'} is not there, and with it the environment; score again.")
    tables = results.report_tables()
    has_intervals = any(one.has_intervals for one in tables)
    scored_sets = list(dict.fromkeys(row["set"] for row in rows if row["kind"] == SET and row["domain"]))
    if not has_intervals:
        missing.append("Intervals: the entries of results.json have no low and high.")
    if not table:
        missing.append("Errors and utterances: no systems and sets were given.")
    for kind, known, given in (("system", names, systems), ("set", scored_sets, sets)):
        absent = [name for name in known if name not in [item.name for item in given]]
        missing += [f"Utterances of {name}: not among the {kind}s given." for name in absent if table]

    path = results_dir / "report" / "report.html"
    check_outputs([path])
    scored = content.score_sets(systems, sets, rows, table.normaliser, missing) if table else []
    derailed = None
    try:
        derailed = content.derailments(results_dir / "derailments.json", scored, labels)
    except UserError as err:
        missing.append(f"Derailments: {err}")
    preferred = None
    try:
        preferred = content.preferred(results_dir / "preferred" / PREFERRED, labels)
    except UserError as err:
        missing.append(f"Words that the LLM preferred: {err}")
    budget = Budget(int(options.max_media_mib * MIB))
    figures = content.figures(results_dir, budget)
    if not figures and not budget.left_out:
        missing.append(f"Figures of the analysis: none in {results_dir}/analysis.")
    analysis, collapses = content.read_analysis(exp_dir, results_dir, labels, missing)
    worst = content.worst_utterances(scored, labels, options.worst, budget, missing)
    texts, wins = Budget(int(options.max_text_mib * MIB)), compare.wins_table(scored, labels)
    packed = [texts.take(compare.utterances(s), s.name) for s in scored] if wins else []
    missing += [
        f"Utterances of {name}, to compare: left out, as they are limited to {options.max_text_mib:g} MiB "
        "(--max_text_mib)."
        for name in texts.left_out
    ]
    missing += [
        f"{name[0].upper()}{name[1:]}: left out, as media are limited to {options.max_media_mib:g} MiB "
        "(--max_media_mib)."
        for name in budget.left_out
    ]
    training = read_training(exp_dir)
    if not training:
        missing.append(f"Training: no finished epoch is logged in {exp_dir}/*/train.log.")
    data = json.dumps(rows, indent=1, ensure_ascii=False).encode("utf-8", "replace")

    metric = COMPARED if results.has(COMPARED) else rows[0]["metric"]
    drawn = results.metric_table(metric, (SET, *MEANS))
    is_error = metric in METRICS and METRICS[metric].better == "low"
    page = render(
        title=options.title,
        systems_count=len(names),
        sets_count=len(scored_sets),
        small_set=SMALL,
        has_small=any(column.small for one in tables for column in one.columns),
        has_intervals=has_intervals,
        baseline=baseline,
        baseline_label=labels.get(baseline, baseline),
        tables=tables,
        json_uri="data:application/json;base64," + base64.b64encode(data).decode("ascii"),
        forest_title=drawn.title,
        forest_has_intervals=drawn.has_intervals,
        forest=plots.forest(drawn, 100.0 if is_error else None),
        compared=sum(len(s.refs) for s in scored),
        wins=wins,
        pairs=compare.as_script(compare.summary(scored, labels)),
        utterances=[(i, text) for i, text in enumerate(packed) if text],
        errors=content.error_rows(scored, labels),
        confusions=content.confusion_lists(scored, labels, options.confusions),
        origins=[(name, of_set, name in DOMAINS.values()) for name, of_set in results.error_tables()],
        parts=PARTS.values(),
        preferred=preferred,
        derailments=derailed,
        derailment_kinds=KINDS,
        worst=worst,
        worst_count=options.worst,
        training=[(name, plots.training_panel(losses)) for name, losses in training.items()],
        figures=figures,
        analysis=analysis,
        collapses=collapses,
        environment=content.environment(markdown),
        markdown=markdown,
        warnings=content.disagreements(scored, rows),
        missing=missing,
    )
    write_text(path, page)
    return path
