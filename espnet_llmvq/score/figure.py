"""The figure of an experiment: what each system changes against the baseline, by set and domain."""

import importlib.util
from pathlib import Path

from espnet_llmvq.base.files import check_outputs, writing
from espnet_llmvq.score.rows import DOMAINS, MACRO, SET

FIGURE = "changes.svg"
MOST = 40  # per cent, where the axis ends at most: one system that is far off does not squeeze all others


def limits(rows, most=MOST):
    """(low, high) of the axis: all of the intervals of `rows`, of comparisons.json, that begin and end within `most`,
    and 0; a tenth more on each side."""
    ends = [row[key] for row in rows for key in ("relative", "relative_low", "relative_high") if row[key] is not None]
    low, high = min([-5.0, *(end for end in ends if end >= -most)]), max([5.0, *(end for end in ends if end <= most)])
    return low - (high - low) / 10, high + (high - low) / 10


def write_changes(results, out_dir):
    """Write OUT_DIR/changes.svg: the relative change of WER against the baseline, with intervals, a point for each
    system and set. Without a comparison, or matplotlib, which scoring alone does not install, there is none."""
    rows = [row for row in results.comparisons if row["relative"] is not None and row["kind"] in (SET, MACRO)]
    path = Path(out_dir, FIGURE)
    if not rows or not importlib.util.find_spec("matplotlib"):
        check_outputs([path])
        path.unlink(missing_ok=True)  # of other results
        return
    with writing(path, binary=True) as f:
        draw(f, rows, results.baseline, results.labels)


def draw(file, rows, baseline, labels):
    """Draw entries of comparisons.json as SVG to a file. What lies beyond the axis is an arrow at its edge with its
    value. labels: {system: text}."""
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    systems = list(dict.fromkeys(row["system"] for row in rows))
    places = list(dict.fromkeys((row["set"], row["domain"], row["kind"]) for row in rows))
    (low, high), colors = limits(rows), colormaps["tab20"]
    # Equal input, equal file: names of elements are drawn at random otherwise, and the date is in it.
    with rc_context({"svg.hashsalt": FIGURE, "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(8, 1.2 + 0.17 * len(places) * (len(systems) + 1)), layout="constrained")
        axis = figure.subplots()
        for i, system in enumerate(systems):
            color = colors(i % 20) if len(systems) > 10 else f"C{i}"
            found = {(row["set"], row["domain"], row["kind"]): row for row in rows if row["system"] == system}
            for at, place in enumerate(places):
                row, y = found.get(place), at + 0.8 * ((i + 0.5) / len(systems) - 0.5)
                if row is None:
                    continue
                x, ends = row["relative"], (row["relative_low"], row["relative_high"])
                if not low < x < high:
                    edge, mark, side = (low, "<", "left") if x <= low else (high, ">", "right")
                    axis.plot(edge, y, mark, color=color, clip_on=False)
                    look = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": 7, "color": color}
                    axis.annotate(f"{x:+.0f} %", (edge, y), (8 if side == "left" else -8, 0), **look)
                    continue
                if None not in ends:
                    axis.plot(ends, (y, y), color=color, linewidth=1.5)
                    for end, edge, mark in zip(ends, (low, high), "<>"):
                        if not low < end < high:
                            axis.plot(edge, y, mark, color=color, markersize=3.5, clip_on=False)
                axis.plot(x, y, "o", color=color, markersize=5 if place[2] == MACRO else 3.5)
            axis.plot([], [], "o", color=color, label=labels.get(system, system))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xlim(low, high)
        axis.set_yticks(range(len(places)), [name_of(*place) for place in places])
        axis.set_ylim(len(places) - 0.5, -0.5)
        against = labels.get(baseline, baseline)
        axis.set_xlabel(f"change of WER against {against} (%), with intervals; left is better")
        axis.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def name_of(name, domain, kind):
    """A set or mean in words."""
    return f"mean {DOMAINS.get(domain, domain)}" if kind == MACRO else f"{name} ({DOMAINS.get(domain, domain)})"
