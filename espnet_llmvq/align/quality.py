"""How good an alignment is: coverage, lengths of words and silences, and boundary errors where true times are known."""

import array
from collections import Counter

import numpy as np

from espnet_llmvq.align.ctm import boundary_errors
from espnet_llmvq.base.files import writing

LIMITS = (20, 50, 100)  # ms
BIN = 0.02  # s, of the tables of lengths
LOW = 0.1  # mean confidence of an utterance below which its text is hardly what is said
OTHER_CASE = 1.5  # times as many tokens as in the other case: the tokenizer is of texts in that


def case_hint(counts):
    """[hint] where the texts of `counts` (see `Quality`) are hardly what the tokenizer was trained on, [] elsewhere."""
    if not counts or counts["tokens"] <= OTHER_CASE * counts["other"]:
        return []
    return ["in the other case (upper or lower) the texts have far fewer tokens: write them as the tokenizer's are"]


def bins_of(values, at_once=1 << 20):
    """{number of a bin of BIN seconds: values in it}; lengths are taken in whole ms."""
    bins = Counter()
    for first in range(0, len(values), at_once):
        numbers = (np.rint(values[first : first + at_once].astype(float) * 1000) // (BIN * 1000)).astype(int)
        bins.update(dict(zip(*(found.tolist() for found in np.unique(numbers, return_counts=True)))))
    return bins


class Quality:
    """Measures of an alignment, of which utterances are added one after the other.

    failed: {utterance: reason}, or "reason: detail". reference: {utterance: [`align.ctm.Word`]}, true word times, or
    None. counts: of the texts' tokens, as `decode.align.transcripts` counts them, or None.

    aligned: utterances that were added; compared: those of them that have the words of the reference. Lengths and
    errors are kept as numbers of 4 bytes, which is exact to a hundredth of a millisecond.
    """

    def __init__(self, failed, reference=None, counts=None):
        self.failed, self.reference, self.counts = failed, reference, counts
        self.aligned = self.compared = self.neighbours = 0
        self._low = []
        # s, of words, of silences between two, of silences before the first and after the last; of each utterance
        # the mean confidence of its words, where they have one; ms, of the boundaries' errors.
        names = ("words", "pauses", "edges", "confidence", "start", "end")
        self._columns = {name: array.array("f") for name in names}

    def add(self, utt, words, seconds):
        """An aligned utterance. words: its [`align.ctm.Word`]; seconds: its length."""
        column = self._columns
        self.aligned += 1
        self.neighbours += len(words) - 1
        column["words"].extend(w.duration for w in words)
        gaps = [b.start - a.end for a, b in zip(words, words[1:])]
        ends = [words[0].start, seconds - words[-1].end] if words else []
        for name, silences in (("pauses", gaps), ("edges", ends)):
            column[name].extend(s for s in silences if s >= 0.001)  # less is rounding
        if known := [w.confidence for w in words if w.confidence is not None]:
            mean = float(np.mean(known))
            column["confidence"].append(mean)
            if mean < LOW:
                self._low.append((mean, utt))
        starts, ends, same = boundary_errors(self.reference or {}, {utt: words})
        column["start"].extend(starts)
        column["end"].extend(ends)
        self.compared += same

    def of(self, name):
        """One of the columns, (N,) float32."""
        return np.asarray(self._columns[name])

    def reasons(self):
        """[(reason, number of utterances)], most frequent first."""
        counts = Counter(reason.partition(": ")[0] for reason in self.failed.values())
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def low(self):
        """[(mean confidence, utterance)] below LOW, the lowest first."""
        return sorted(self._low)

    @property
    def unknown(self):
        """Share of the texts' tokens that are unknown, 0 without any."""
        return self.counts["unknown"] / self.counts["tokens"] if self.counts and self.counts["tokens"] else 0.0

    def boundary_rows(self):
        """[(boundary, {measure: value})] of start, end and both; empty without anything to compare."""
        if not self.compared or not len(self.of("start")):
            return []
        both = {name: self.of(name) for name in ("start", "end")}
        both["both"] = np.concatenate(list(both.values()))
        rows = []
        for name, e in both.items():
            shares = {f"within_{limit}_ms": (e <= limit).mean() for limit in LIMITS}
            rows.append((name, {"median_ms": np.median(e), "p90_ms": np.percentile(e, 90), **shares}))
        return rows

    def table(self):
        """Lines `part<TAB>item<TAB>value`; the item of a length is the lower end of its bin, in seconds."""
        rows = [("coverage", "aligned", self.aligned), ("coverage", "failed", len(self.failed))]
        rows += [("failed", reason, n) for reason, n in self.reasons()]
        if self.counts:
            rows.append(("tokens", "unknown_share", f"{self.unknown:.4f}"))
        if len(self.of("confidence")):
            rows.append(("confidence", "mean", f"{self.of('confidence').mean(dtype=float):.3f}"))
        rows += [("low_confidence", utt, f"{value:.3f}") for value, utt in self.low()]
        for part, name in (("word", "words"), ("pause", "pauses"), ("edge_silence", "edges")):
            bins = bins_of(self.of(name))
            rows += [(f"{part}_seconds", f"{i * BIN:.2f}", bins[i]) for i in sorted(bins)]
        for name, measures in self.boundary_rows():
            rows += [(f"{name}_error", measure, f"{value:.3f}") for measure, value in measures.items()]
        return "".join("\t".join(map(str, row)) + "\n" for row in [("part", "item", "value"), *rows])

    def summary(self):
        """Lines for the terminal."""
        total = self.aligned + len(self.failed)
        lines = [f"{self.aligned} of {total} utterances aligned, {len(self.failed)} failed"]
        lines += [f"  {n} failed: {reason}" for reason, n in self.reasons()]
        if self.unknown:
            lines.append(f"{self.unknown:.1%} of the texts' tokens are unknown to the tokenizer")
        lines += case_hint(self.counts)
        if len(self.of("confidence")):
            low = f"; {len(self.low())} utterances below {LOW:g}, listed in the report" if self.low() else ""
            lines.append(f"mean confidence {self.of('confidence').mean(dtype=float):.2f}{low}")
        if len(words := self.of("words")):
            lines.append(
                f"{len(words)} words, median {np.median(words):.2f} s; "
                f"a pause between {len(self.of('pauses')) / max(self.neighbours, 1):.1%} of neighbours"
            )
        for name, m in self.boundary_rows():
            shares = ", ".join(f"{m[f'within_{limit}_ms']:.1%} within {limit} ms" for limit in LIMITS)
            lines.append(
                f"word {'boundarie' if name == 'both' else name}s: error median {m['median_ms']:.0f} ms, "
                f"90th percentile {m['p90_ms']:.0f} ms; {shares}"
            )
        if self.reference is not None:
            lines.append(f"compared with the true times: {self.compared} of {self.aligned} utterances")
        return "\n".join(lines)

    def draw(self, path):
        """Histograms of words, silences and, with a reference, boundary errors, as PNG, in one step."""
        from matplotlib.figure import Figure

        panels = [
            ("seconds of a word", {"words": self.of("words")}),
            ("seconds of a silence", {"between words": self.of("pauses"), "at the ends": self.of("edges")}),
        ]
        if len(self.of("start")):
            panels.append(("boundary error (ms)", {f"word {side}s": self.of(side) for side in ("start", "end")}))
        figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
        for axis, (name, groups) in zip(figure.subplots(1, len(panels)), panels):
            groups = {label: values for label, values in groups.items() if len(values)}
            axis.set_xlabel(name)
            axis.set_ylabel("count")
            if not groups:
                axis.text(0.5, 0.5, "none", ha="center", transform=axis.transAxes)
                continue
            # Few values are very large: the last bar has all that are beyond 99 %.
            top = max(np.percentile(values, 99) for values in groups.values())
            edges = np.linspace(0, max(top, 1e-3), 41)
            labels = [f"{k} ({len(v)}, median {np.median(v):.3g})" for k, v in groups.items()]
            clipped = [np.minimum(v, float(edges[-2:].mean())) for v in groups.values()]
            axis.hist(clipped, bins=edges, histtype="step", label=labels)
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize="small")
        with writing(path, binary=True) as f:
            figure.savefig(f, format="png", dpi=150)
