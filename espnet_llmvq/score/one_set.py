"""Hypothesis files of one set: their scores, their comparison with one of them, and where two of them differ."""

from pathlib import Path

from espnet_llmvq.base.files import check_outputs
from espnet_llmvq.score.compare import compare, measured, verdict
from espnet_llmvq.score.derail import derailment_rows
from espnet_llmvq.score.details import details_of, write_details
from espnet_llmvq.score.measure import METRICS, evaluate
from espnet_llmvq.score.rows import bounded
from espnet_llmvq.score.stats import holm
from espnet_llmvq.score.table import FEW, Cell, Column, Row, Table, number
from espnet_llmvq.score.wer import total


class Files:
    """Hypothesis files of one set, measured.

    names: {name: path}; metrics: names of METRICS. out_dir: write the details of each to OUT_DIR/STEM, if given.
    inputs: files that were read, which these must not replace.
    It has `measured` {name: Measured}, `scores` {name: UtteranceScores}, `entries` (value, interval and counts of each
    file and metric), `derailments` and `notes`. Raises UserError for bad input that `options` do not treat.
    """

    def __init__(self, reference, metrics, names, options, out_dir="", inputs=()):
        self.reference, self.metrics, self.statistics = reference, metrics, options.statistics
        self.measured, self.scores, self.entries, self.derailments = {}, {}, [], []
        self.notes, units, taken = list(reference.notes), reference.units(), set()
        places = {name: f"{out_dir}/{free_name(Path(path).stem, taken)}" for name, path in names.items() if out_dir}
        check_outputs([path for place in places.values() for path in details_of(place)], [*names.values(), *inputs])
        for name, path in names.items():
            one = evaluate(reference, path, metrics, options.rules, options.prompt, options.audit)
            self.notes += one.notes
            self.measured[name], self.scores[name] = measured(one, metrics, units, options.statistics), one.scores
            self.entries += [self.entry(name, metric) for metric in metrics]
            self.derailments += derailment_rows(name, "", one.derailed, list(one.hyps), one.counts["wer"])
            if out_dir:
                write_details(places[name], reference, one)

    def entry(self, name, metric):
        """What is printed of one metric of one file, as a dict."""
        row = {
            "file": name,
            "metric": metric,
            "normaliser": self.reference.normaliser_of(metric),
            **bounded(self.measured[name].estimate(metric), self.statistics.confidence),
        }
        if METRICS[metric].of:
            part, whole = self.measured[name].counts[metric].sum(axis=0)
            row |= {"count": int(part), "of": int(whole), "unit": METRICS[metric].of}
        if metric == "wer":
            counts = total(self.scores[name])
            row |= {"sub": counts.substitutions, "del": counts.deletions, "ins": counts.insertions}
            row["empty"] = sum(0 < score.words == score.count("D") == len(score.pairs) for score in self.scores[name])
        return row

    def comparisons(self, first):
        """[dict] of all files against the file `first`, in all metrics that are tested, corrected together."""
        tested = [metric for metric in self.metrics if METRICS[metric].tested]
        pairs = [(name, metric) for name in self.measured if name != first for metric in tested]
        compared = [compare(self.measured[n], self.measured[first], m, self.statistics) for n, m in pairs]
        return [
            {
                "file": name,
                "baseline": first,
                "metric": metric,
                "normaliser": self.reference.normaliser_of(metric),
                **{key: number(value) for key, value in vars(one).items()},
                "p_holm": number(p),
                "comparisons": len(pairs),
                "verdict": verdict(one, p, self.statistics.confidence, name, first),
            }
            for (name, metric), one, p in zip(pairs, compared, holm([one.p for one in compared]))
        ]

    def remarks(self):
        """Lines on derailments that occur, small sets, few resampling units, and how bad input was treated."""
        reference, units, lines = self.reference, int(self.reference.units().max()) + 1, []
        for row in self.derailments:
            if row["count"]:
                without = "none left" if row["wer_without"] is None else f"{row['wer_without']:.2f}"
                lines.append(
                    f"{row['system']}: derailed ({row['kind']}): {row['count']} of {row['utterances']} "
                    f"utterances; WER {row['wer_all']:.2f}, without them {without}"
                )
        lines += ["small: under 500 words; do not draw conclusions from this set alone"] * reference.small
        if units < FEW:
            lines.append(f"few: only {units} {reference.resample}s to resample; intervals are too narrow")
        return lines + [f"input: {note}" for note in self.notes]


def free_name(stem, taken):
    """`stem`, with a number behind it if it is in `taken`, to which the name is added."""
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def scores_table(entries):
    """Table with a row for each metric of each file."""
    rows = []
    for e in entries:
        metric = e["metric"].upper() if len(e["metric"]) == 3 else e["metric"]
        value = Cell(e["value"], e["low"], e["high"])
        of = f"{e['count']} / {e['of']} {e['unit']}" if "of" in e else ""
        if e.get("empty"):
            of += f", {e['empty']} hypotheses empty"
        ops = f"{e['sub']} / {e['del']} / {e['ins']}" if "sub" in e else ""
        texts = [metric, e["normaliser"], value.text, value.interval, of, ops]
        rows.append(Row(e["file"], [Cell(text) for text in texts]))
    headings = ("metric", "normaliser", "value", "interval", "count", "S / D / I")
    return Table("", [Column(heading) for heading in headings], rows, first="file")


def comparisons_table(rows):
    """Table of `Files.comparisons`."""
    lines = []
    for row in rows:
        change = Cell(row["change"], row["low"], row["high"], form="+.2f")
        cells = [Cell(row["metric"]), Cell(row["normaliser"]), Cell(change.text), Cell(change.interval)]
        cells += [Cell(row[key], form=".4f") for key in ("p", "p_holm")]
        lines.append(Row(row["file"], [*cells, Cell(row["improvement"], form=".3f"), Cell(row["verdict"])]))
    headings = ("metric", "normaliser", "change", "interval", "p", "p corrected", "P(better)", "verdict")
    return Table("", [Column(heading) for heading in headings], lines, first="file")


def changed(scores_a, scores_b):
    """[(errors of B - errors of A, utterance)] of two lists of UtteranceScores, in order."""
    return [(b.errors - a.errors, a.utt) for a, b in zip(scores_a, scores_b)]


def word_outcomes(scores_a, scores_b):
    """(both right, only A right, only B right, both wrong) over the reference words."""
    counts = [0, 0, 0, 0]
    for a, b in zip(scores_a, scores_b):
        right = ([p[0] == "=" for p in s.pairs if p[0] != "I"] for s in (a, b))
        for in_a, in_b in zip(*right):
            counts[2 * (not in_a) + (not in_b)] += 1
    return tuple(counts)
