"""Figures that a paper published for the systems of a table, as a reference beside ours.

They come from other data and other models, so nothing is computed from both: a reader sees which rows the paper
has and how they lie to each other there.
"""

from dataclasses import dataclass, fields, replace

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.score.table import DOMAINS, cell, domains

METRIC = "wer"


@dataclass(frozen=True)
class Published:
    """source: the paper; note: data and models; columns: what was measured; rows: {system: a cell a column}.

    measure: what the paper's figures are, for the heading.
    """

    source: str
    note: str
    measure: str
    columns: tuple
    rows: dict

    def only(self, systems):
        """The same with the rows of these systems alone."""
        rows = {name: row for name, row in self.rows.items() if name in systems}
        return replace(self, rows=rows)


def make_published(data, where):
    """Published of a dict with its keys.

    A cell is a number, a text such as "inf", or None. Without `measure` the figures are WER. Raises UserError, naming
    `where`, for anything else.
    """
    keys = [field.name for field in fields(Published)]
    for key in data:
        check_name(f"key in {where}", key, keys)
    data = {"measure": METRIC.upper(), **data}
    missing = [key for key in keys if not data.get(key)]
    if missing:
        raise UserError(f"{where}: no {', '.join(missing)}")
    if not (isinstance(data["columns"], list | tuple) and isinstance(data["rows"], dict)):
        raise UserError(f"{where}: columns must be a list, and rows lists of cells by system")
    width = len(data["columns"])
    for system, row in data["rows"].items():
        good = isinstance(row, list) and all(c is None or isinstance(c, int | float | str) for c in row)
        if not good or len(row) != width:
            raise UserError(f"{where}: {system} must have {width} cells, numbers, texts or null")
    return Published(**{**data, "columns": tuple(data["columns"])})


def published_table(published, rows, labels=None):
    """(header, rows of strings): our macro means by domain beside the paper's figures, "-" where it has none.

    rows: entries of `results.json`; the order of the systems is theirs.
    """
    found = {(r["system"], r["set"]): r for r in rows if r["metric"] == METRIC}
    kinds = domains(rows)
    header = ["system", *(f"ours: {DOMAINS[kind]} macro mean" for kind in kinds)]
    lines = []
    for name in dict.fromkeys(row["system"] for row in rows):
        if name in published.rows:
            ours = [cell(found.get((name, f"mean_{kind}"))) for kind in kinds]
            theirs = ["-" if c is None else c if isinstance(c, str) else f"{c:.2f}" for c in published.rows[name]]
            lines.append([(labels or {}).get(name, name), *ours, *theirs])
    return [*header, *published.columns], lines


def sections(found, rows, render, labels=None):
    """[(title, text)] for RESULTS.md; papers without one of the systems are left out. render: of a table."""
    made = []
    for one in found:
        header, lines = published_table(one, rows, labels)
        if lines:
            text = f"{render((header, lines))}\n{one.note}\n"
            made.append((f"Published figures, another scale of data and model ({one.measure}, %): {one.source}", text))
    return made
