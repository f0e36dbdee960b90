"""Bring the table of README.md up to date with the RESULTS.md that it is taken from.

python docs/readme_table.py

The table stands between two comments, of which the first names the file and the test sets to show:

    <!-- table of egs/CORPUS/llmasr1/RESULTS.md: SET SET SET -->
    <!-- end of table -->
"""

import re
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- table of (\S+): (.+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rounded(cell):
    """A cell such as `**4.22** [3.32, 5.44]` with one decimal in place of two."""
    one = Decimal("0.1")
    return re.sub(r"\d+\.\d+", lambda number: str(Decimal(number[0]).quantize(one, ROUND_HALF_UP)), cell)


def short_table(results, sets):
    """The first table of word error rates in the text of a RESULTS.md, of these sets alone, with one decimal.

    Raises ValueError for a set that it lacks.
    """
    lines = results.partition("\n## Word error rate (%)\n")[2].strip().partition("\n\n")[0].splitlines()
    if len(lines) < 4:
        raise ValueError("there is no table under '## Word error rate (%)'")
    head, _, *rows = map(cells, lines)
    names = [column.partition(" ")[0] for column in head]
    if missing := [name for name in sets if name not in names]:
        raise ValueError(f"there is no column {', '.join(missing)}; there are {', '.join(names[1:])}")
    chosen = [names.index(name) for name in sets]
    out = [["system", *(head[i] for i in chosen)], ["---", *("---:" for _ in chosen)]]
    for row in rows:
        if row[0].startswith("words"):
            sizes = (row[i].split(" / ")[0] for i in chosen)
            out.append(["words", *sizes])
        elif row[0] != "normaliser":
            out.append([row[0], *(rounded(row[i]) for i in chosen)])
    return "".join(f"| {' | '.join(row)} |\n" for row in out)


def renewed(readme):
    """The text of README.md with the table as the file that it names has it now."""
    if not TABLE.search(readme):
        raise ValueError("README.md has no comments around its table")

    def table(found):
        results = (ROOT / found[2]).read_text(encoding="utf-8")
        return f"{found[1]}\n{short_table(results, found[3].split())}\n{found[5]}"

    return TABLE.sub(table, readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    try:
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as err:
        sys.exit(f"error: {err}")
