"""The entries of `results.json` as tables: a row for each system, a column for each set.

An entry has system, set, domain, metric, value, utterances, words and seed; optional are low and
high (an interval) and normaliser.
"""

import math
from dataclasses import dataclass

from espnet_llmvq.score.measure import METRICS
from espnet_llmvq.score.questions import TITLES as QUESTIONS
from espnet_llmvq.score.table import DOMAINS, SMALL

# Error rates in percent, where lower is better.
ERROR_RATES = {
    "wer": "Word error rate",
    "cer": "Character error rate",
    "ter": "Token error rate",
    "eer": "Entity error rate",
    "eer_norm": "Entity error rate, normalised",
}
_MEANS = {"mean": "mean", "macro": "macro mean", "micro": "micro mean"}


@dataclass(frozen=True)
class Column:
    """A set, or a mean over sets. `details` are its size and its normaliser, as text."""

    name: str
    label: str
    is_mean: bool
    small: bool
    details: tuple


@dataclass(frozen=True)
class Cell:
    """A number of the table: `value` in full, `text` as shown, both None where there is none."""

    value: float | None = None
    text: str | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False

    @property
    def interval(self):
        return "" if self.low is None else f"{self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class Table:
    """One metric. `rows` is [(system label, system name, Cells in the order of `columns`)]."""

    metric: str
    title: str
    columns: list
    rows: list

    @property
    def has_intervals(self):
        return any(cell.low is not None for _, _, cells in self.rows for cell in cells)


def _number(value):
    """Return a finite number, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def _mean_label(name, domain):
    """Return the heading of a mean, such as "OOD mean" for mean_ood; None for a set's name."""
    kind, _, rest = name.partition("_")
    if kind not in _MEANS or rest.removeprefix("mean_") != domain:
        return None
    return f"{DOMAINS.get(domain, domain)} {_MEANS[kind]}"


def _column(row):
    domain = row.get("domain") or ""
    mean = _mean_label(row["set"], domain)
    words, utterances = _number(row.get("words")), _number(row.get("utterances"))
    parts = [f"{words:,} words"] if words is not None else []
    parts += [f"{utterances:,} utterances"] if utterances is not None else []
    parts += [f"normaliser {row['normaliser']}"] if row.get("normaliser") else []
    label = mean or (f"{row['set']} ({DOMAINS.get(domain, domain)})" if domain else row["set"])
    small = mean is None and words is not None and words < SMALL
    return Column(row["set"], label, mean is not None, small, tuple(parts))


def make_tables(rows, labels):
    """Return a Table for each metric, in the order of the entries; means come last.

    labels: {system name: label}. A system with several seeds has a row for each of them. The
    lowest of each column is `best`, once rounded as shown, where lower is better and there is
    more than one row.
    """
    seeds = {}
    for row in rows:
        seeds.setdefault(row["system"], set()).add(row.get("seed"))
    tables = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        entries = [row for row in rows if row["metric"] == metric]
        columns = {}
        for row in entries:
            columns.setdefault(row["set"], _column(row))
        columns = sorted(columns.values(), key=lambda column: column.is_mean)
        found = {(row["system"], row.get("seed"), row["set"]): row for row in entries}
        lines = []
        for system, seed in dict.fromkeys((row["system"], row.get("seed")) for row in entries):
            label = labels.get(system, system)
            if len(seeds[system]) > 1:
                label += f" (seed {seed})"
            cells = [_cell(found.get((system, seed, column.name))) for column in columns]
            lines.append((label, system, cells))
        lower_is_better = metric in ERROR_RATES
        if lower_is_better and len(lines) > 1:
            _mark_best(lines)
        title = f"{ERROR_RATES[metric]} (%)" if lower_is_better else _title(metric)
        tables.append(Table(metric, title, columns, lines))
    return tables


def _title(metric):
    if metric == "wer_ratio":
        return "Word error rate, out of domain over in domain"
    if metric in QUESTIONS:
        return QUESTIONS[metric]
    if metric not in METRICS:
        return metric
    label = METRICS[metric].label
    return label[0].upper() + label[1:]


def _cell(row):
    value = _number(row["value"]) if row else None
    if value is None:
        return Cell()
    low, high = _number(row.get("low")), _number(row.get("high"))
    if low is None or high is None:
        low = high = None
    return Cell(value, f"{value:.2f}", low, high)


def _mark_best(lines):
    for i in range(len(lines[0][2])):
        shown = [float(cells[i].text) for _, _, cells in lines if cells[i].text]
        for _, _, cells in lines:
            cell = cells[i]
            if cell.text and float(cell.text) == min(shown):
                cells[i] = Cell(cell.value, cell.text, cell.low, cell.high, True)


def read_environment(markdown):
    """Return [(name, value)] of the list under "## Environment" in RESULTS.md."""
    _, _, section = f"\n{markdown}".partition("\n## Environment\n")
    facts = []
    for line in section.partition("\n## ")[0].splitlines():
        name, colon, value = line.removeprefix("- ").partition(": ")
        if line.startswith("- ") and colon:
            facts.append((name, value))
    return facts
