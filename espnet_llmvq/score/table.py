"""Tables: one model of a cell, a column and a row, written as Markdown, plain text and LaTeX; report/ has HTML."""

import math
from dataclasses import dataclass, replace

from espnet_llmvq.base.files import one_line

SMALL = 500  # words; a smaller set is marked
FEW = 20  # resampling units; intervals of fewer are too narrow


def finite(value):
    """A number if it is one that can be shown, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def number(value):
    """A number rounded to four decimals for JSON; None if there is none."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


@dataclass(frozen=True)
class Cell:
    """A number with its interval, or a text.

    value: the number in full, or the text; None where nothing is defined, shown as `none`. low, high: interval, None
    without one. form: how numbers are written, with a sign for differences. best: the best of its column. note: stands
    behind it.
    """

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    form: str = ".2f"
    best: bool = False
    none: str = "-"
    note: str = ""

    @property
    def is_number(self):
        return isinstance(self.value, int | float)

    @property
    def text(self):
        """The value as it is written."""
        return f"{self.value:{self.form}}" if self.is_number else self.none if self.value is None else self.value

    @property
    def ends(self):
        """(low, high) as they are written, () without an interval."""
        shown = self.is_number and self.low is not None and self.high is not None
        return (f"{self.low:{self.form}}", f"{self.high:{self.form}}") if shown else ()

    @property
    def interval(self):
        return f"[{', '.join(self.ends)}]" if self.ends else ""

    @property
    def rest(self):
        """What stands behind the value: interval and note."""
        return (f" {self.interval}" if self.ends else "") + (f", {self.note}" if self.note else "")


def cell_of(row, **more):
    """Cell of an entry of `results.json` (value, low, high) or None."""
    value, low, high = (finite(row.get(key)) if row else None for key in ("value", "low", "high"))
    return Cell(value, low, high, **more)


def mark_best(column, better):
    """Cells of a column, the best of several marked, once rounded as shown. better: "low", "high", or "" for none."""
    values = [float(cell.text) for cell in column if cell.is_number]
    if len(column) < 2 or not values or not better:
        return column
    best = min(values) if better == "low" else max(values)
    return [replace(cell, best=cell.is_number and float(cell.text) == best) for cell in column]


@dataclass(frozen=True)
class Column:
    """A column. heading: its first line; details: further ones, where a heading may have several.

    kind, name: what it is of: "set", with its name, or a mean ("macro", "micro") or ratio over sets; "" of others.
    small: a set of few words.
    """

    heading: str
    details: tuple = ()
    kind: str = ""
    name: str = ""
    small: bool = False


@dataclass(frozen=True)
class Row:
    """A row. label: as shown; name: of the system; note: a remark on it, in a column of its own."""

    label: str
    cells: list
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table. first: heading of the labels. lines: [(name, texts)], what is said of the columns before the rows."""

    title: str
    columns: list
    rows: list
    lines: tuple = ()
    first: str = "system"

    @property
    def has_intervals(self):
        return any(cell.ends for row in self.rows for cell in row.cells)

    def grid(self, write, plain=str, notes=True):
        """Lines of strings of equal length, the headings first. write: from a Cell to a string; plain: of all else."""
        noted = notes and any(row.note for row in self.rows)
        lines = [
            (self.first, "note", [column.heading for column in self.columns]),
            *((n, "", t) for n, t in self.lines),
        ]
        lines = [(label, note, map(plain, texts)) for label, note, texts in lines]
        lines += [(row.label, row.note, map(write, row.cells)) for row in self.rows]
        return [[plain(label), *[plain(note)] * noted, *texts] for label, note, texts in lines]


def padded(lines):
    """(widths, lines of cells of these widths): the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return widths, [[c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))] for line in lines]


def text_table(table):
    """A plain table."""
    lines = table.grid(lambda cell: cell.text + cell.rest)
    return "".join("  ".join(line).rstrip() + "\n" for line in padded(lines)[1])


def markdown_table(table):
    """A Markdown table, padded so that it also reads well as plain text; best cells are bold."""

    def plain(text):
        return text.replace("|", "\\|")

    widths, lines = padded(
        table.grid(lambda cell: plain((f"**{cell.text}**" if cell.best else cell.text) + cell.rest), plain)
    )
    # A column may be empty; its rule needs a hyphen all the same.
    rule = ["-" * max(w, 1) if i == 0 else "-" * max(w - 1, 1) + ":" for i, w in enumerate(widths)]
    return "".join("| " + " | ".join(line) + " |\n" for line in [lines[0], rule, *lines[1:]])


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{char: "\\" + char for char in "&%$#_"},
    }
)


def latex_table(table, caption):
    """A LaTeX table (package booktabs) without the notes; best cells are bold."""

    def plain(text):
        return text.translate(_LATEX)

    def write(cell):
        return (rf"\textbf{{{plain(cell.text)}}}" if cell.best else plain(cell.text)) + plain(cell.rest)

    header, *lines = [" & ".join(line) + " \\\\\n" for line in table.grid(write, plain, notes=False)]
    return (
        f"\\begin{{table}}[t]\\centering\\caption{{{plain(caption)}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}\\toprule\n{header}\\midrule\n{''.join(lines)}\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def tsv_text(header, rows):
    """Tab-separated lines; None is an empty field, white space a space."""
    return "".join("\t".join("" if v is None else one_line(str(v)) for v in row) + "\n" for row in (header, *rows))


def rows_tsv(rows):
    """Flat dicts with the same keys, one at least, as `tsv_text`."""
    return tsv_text(rows[0], (row.values() for row in rows))
