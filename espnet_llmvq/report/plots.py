"""Geometry of the plots: round ticks, where values lie; the template of the page draws them as SVG."""

import math

# Training panels, in SVG units: the size, and the frame inside it.
WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 328, 10, 176
MARKED_EPOCHS = 40  # up to here each epoch has its own mark


def ticks(low, high, most=6):
    """At most `most` round numbers, equally spaced, that enclose `low` to `high`.

    Steps are 1, 2, 2.5 or 5 times a power of ten.
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    # Through text, so that 3 * 0.1 is 0.3.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def position(value, marks, start=0.0, end=100.0):
    """Where `value` lies between `start` and `end` on the axis of `marks`, to 2 decimals."""
    share = (value - marks[0]) / (marks[-1] - marks[0])
    return round(start + share * (end - start), 2)


def _axis(marks, start=0.0, end=100.0):
    return [(position(mark, marks, start, end), f"{mark:g}") for mark in marks]


def forest(table, limit=None):
    """The forest plot of a Table: "axis", "cut" and "groups", positions in percent.

    axis: [(position, label)]. groups: [(Column, [(label, system, Cell, x, low x, high x)])], where the last two are
    None without an interval. limit: where the axis ends at most, 100 for error rates, so that one system that derails
    does not squeeze all others; what lies beyond is at its end, and `cut` says that there is such a rate.
    """
    cells = [cell for row in table.rows for cell in row.cells if cell.is_number]
    values = [v for c in cells for v in (c.value, c.low, c.high) if v is not None]
    top = max([0.0, *values])
    if limit is not None:
        top = min(top, limit)
    marks = ticks(min([0.0, *values]), top)

    def place(value):
        return position(min(value, marks[-1]), marks)

    groups = []
    for i, column in enumerate(table.columns):
        lines = []
        for row in table.rows:
            cell = row.cells[i]
            if cell.is_number:
                ends = (None, None)
                if cell.low is not None:
                    ends = (place(cell.low), place(cell.high))
                lines.append((row.label, row.name, cell, place(cell.value), *ends))
        groups.append((column, lines))
    cut = any(cell.value > marks[-1] for cell in cells)
    return {"axis": _axis(marks), "cut": cut, "groups": groups}


def bar(counts, longest):
    """[(start, width)] in percent of a bar made of `counts`, one after the other.

    longest: the sum that fills the whole width.
    """
    parts, start = [], 0.0
    for count in counts:
        width = 100.0 * count / longest if longest else 0.0
        parts.append((round(start, 2), round(width, 2)))
        start += width
    return parts


def training_panel(losses):
    """The plot of one training as a dict: axes, one path a split, and the values.

    losses: {"train": {epoch: loss}, "valid": {epoch: loss}}. Losses that are not finite leave a gap in the line.
    """
    epochs = sorted({epoch for points in losses.values() for epoch in points})
    finite = [v for points in losses.values() for v in points.values() if math.isfinite(v)]
    x_marks = ticks(epochs[0], epochs[-1])
    y_marks = ticks(min(finite), max(finite)) if finite else [0.0, 1.0]
    lines = []
    for split, points in losses.items():
        dots, path, pen = [], [], "M"
        for epoch in sorted(points):
            if not math.isfinite(points[epoch]):
                pen = "M"
                continue
            x = position(epoch, x_marks, LEFT, RIGHT)
            y = position(points[epoch], y_marks, BOTTOM, TOP)
            path.append(f"{pen}{x:g} {y:g}")
            dots.append((x, y))
            pen = "L"
        marks = dots if len(epochs) <= MARKED_EPOCHS else []
        lines.append({"split": split, "path": "".join(path), "dots": marks})
    return {
        "size": (WIDTH, HEIGHT),
        "frame": (LEFT, RIGHT, TOP, BOTTOM),
        "x": _axis(x_marks, LEFT, RIGHT),
        "y": _axis(y_marks, BOTTOM, TOP),
        "lines": lines,
        "table": [(epoch, [points.get(epoch) for points in losses.values()]) for epoch in epochs],
        "splits": list(losses),
        "last": {split: points[max(points)] for split, points in losses.items() if points},
    }
