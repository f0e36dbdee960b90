"""Figures that a paper published for the systems of a table, as a reference beside ours.

They come from other data and other models, so nothing is computed from both: a reader sees which rows the paper
has and how they lie to each other there.
"""

from dataclasses import dataclass, replace

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.rows import COMPARED, DOMAINS, MACRO
from espnet_llmvq.score.table import Cell, Column, cell_of


@dataclass(frozen=True)
class Published:
    """source: the paper; note: data and models; columns: what was measured; rows: {system: a cell a column}.

    A cell is a number, a text such as "inf", or None. measure: what the figures are, for the heading. Raises UserError
    for rows of another form.
    """

    source: str
    note: str
    columns: tuple[str, ...]
    rows: dict
    measure: str = COMPARED.upper()

    def __post_init__(self):
        width = len(self.columns)
        for system, row in self.rows.items():
            good = isinstance(row, list) and all(c is None or isinstance(c, int | float | str) for c in row)
            if not good or len(row) != width:
                raise UserError(f"{system} must have {width} cells, numbers, texts or null")

    def only(self, systems):
        """The same with the rows of these systems alone."""
        return replace(self, rows={name: row for name, row in self.rows.items() if name in systems})

    def sections(self, results):
        """[(title, blocks)] for RESULTS.md: our macro means by domain beside the paper's figures.

        Of the systems of `Results`, "-" where the paper has no figure; empty if it has none of them.
        """
        names = [name for name in results.systems([COMPARED]) if name in self.rows]
        columns = []
        for domain in results.domains:
            cells = [cell_of(results.index.get((name, MACRO, f"mean_{domain}", COMPARED))) for name in names]
            columns.append((Column(f"ours: {DOMAINS[domain]} macro mean"), cells))
        for i, heading in enumerate(self.columns):
            columns.append((Column(heading), [Cell(self.rows[name][i]) for name in names]))
        title = f"Published figures, another scale of data and model ({self.measure}, %): {self.source}"
        return [(title, [results.table(title, names, columns), f"{self.note}\n"])] if names else []
