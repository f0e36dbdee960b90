"""How good an alignment is: coverage, lengths of words and silences, and boundary errors where true times are known."""

from collections import Counter
from dataclasses import dataclass, field

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


@dataclass
class Quality:
    """Measures of an alignment.

    Args:
        aligned: {utterance: [`align.ctm.Word`]}.
        failed: {utterance: reason}, or "reason: detail".
        seconds: {utterance: duration} of the aligned ones.
        reference: true word times as `aligned`, or None.
        counts: of the texts' tokens, as `decode.align.transcripts` counts them, or None.
    """

    aligned: dict
    failed: dict
    seconds: dict
    reference: dict | None = None
    counts: dict | None = None
    confidence: dict = field(init=False)  # {utterance: mean confidence of its words} where there is one
    words: np.ndarray = field(init=False)  # s, of words
    pauses: np.ndarray = field(init=False)  # s, of silences between two words
    edges: np.ndarray = field(init=False)  # s, of silences before the first word and after the last
    errors: dict = field(init=False)  # {"start", "end"}: ms; empty arrays without reference
    compared: int = field(init=False)  # utterances that have the words of the reference

    def __post_init__(self):
        times = {utt: words for utt, words in self.aligned.items() if words}
        self.words = np.array([w.duration for words in times.values() for w in words])
        gaps = [b.start - a.end for words in times.values() for a, b in zip(words, words[1:])]
        ends = [t for utt, words in times.items() for t in (words[0].start, self.seconds[utt] - words[-1].end)]
        # Less than a millisecond is rounding.
        self.pauses, self.edges = (np.array([g for g in found if g >= 0.001]) for found in (gaps, ends))
        known = {u: [w.confidence for w in words if w.confidence is not None] for u, words in times.items()}
        self.confidence = {utt: float(np.mean(values)) for utt, values in known.items() if values}
        starts, stops, self.compared = boundary_errors(self.reference or {}, self.aligned)
        self.errors = {"start": np.array(starts), "end": np.array(stops)}

    def reasons(self):
        """[(reason, number of utterances)], most frequent first."""
        counts = Counter(reason.partition(": ")[0] for reason in self.failed.values())
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def low(self):
        """[(mean confidence, utterance)] below LOW, the lowest first."""
        return sorted((value, utt) for utt, value in self.confidence.items() if value < LOW)

    @property
    def unknown(self):
        """Share of the texts' tokens that are unknown, 0 without any."""
        return self.counts["unknown"] / self.counts["tokens"] if self.counts and self.counts["tokens"] else 0.0

    def boundary_rows(self):
        """[(boundary, {measure: value})] of start, end and both; empty without anything to compare."""
        if not self.compared or not len(self.errors["start"]):
            return []
        both = {**self.errors, "both": np.concatenate(list(self.errors.values()))}
        rows = []
        for name, e in both.items():
            shares = {f"within_{limit}_ms": (e <= limit).mean() for limit in LIMITS}
            rows.append((name, {"median_ms": np.median(e), "p90_ms": np.percentile(e, 90), **shares}))
        return rows

    def table(self):
        """Lines `part<TAB>item<TAB>value`; the item of a length is the lower end of its bin, in seconds."""
        rows = [("coverage", "aligned", len(self.aligned)), ("coverage", "failed", len(self.failed))]
        rows += [("failed", reason, n) for reason, n in self.reasons()]
        if self.counts:
            rows.append(("tokens", "unknown_share", f"{self.unknown:.4f}"))
        if self.confidence:
            rows.append(("confidence", "mean", f"{np.mean(list(self.confidence.values())):.3f}"))
        rows += [("low_confidence", utt, f"{value:.3f}") for value, utt in self.low()]
        for part, values in (("word", self.words), ("pause", self.pauses), ("edge_silence", self.edges)):
            # Times are whole milliseconds in a CTM, so a length on the border of a bin is in the upper one.
            bins = Counter((np.rint(values * 1000) // (BIN * 1000)).astype(int).tolist())
            rows += [(f"{part}_seconds", f"{i * BIN:.2f}", bins[i]) for i in sorted(bins)]
        for name, measures in self.boundary_rows():
            rows += [(f"{name}_error", measure, f"{value:.3f}") for measure, value in measures.items()]
        return "".join("\t".join(map(str, row)) + "\n" for row in [("part", "item", "value"), *rows])

    def summary(self):
        """Lines for the terminal."""
        total = len(self.aligned) + len(self.failed)
        lines = [f"{len(self.aligned)} of {total} utterances aligned, {len(self.failed)} failed"]
        lines += [f"  {n} failed: {reason}" for reason, n in self.reasons()]
        if self.unknown:
            lines.append(f"{self.unknown:.1%} of the texts' tokens are unknown to the tokenizer")
        lines += case_hint(self.counts)
        if self.confidence:
            low = f"; {len(self.low())} utterances below {LOW:g}, listed in the report" if self.low() else ""
            lines.append(f"mean confidence {np.mean(list(self.confidence.values())):.2f}{low}")
        if len(self.words):
            gaps = max(sum(len(words) - 1 for words in self.aligned.values()), 1)
            lines.append(
                f"{len(self.words)} words, median {np.median(self.words):.2f} s; "
                f"a pause between {len(self.pauses) / gaps:.1%} of neighbours"
            )
        for name, m in self.boundary_rows():
            shares = ", ".join(f"{m[f'within_{limit}_ms']:.1%} within {limit} ms" for limit in LIMITS)
            lines.append(
                f"word {'boundarie' if name == 'both' else name}s: error median {m['median_ms']:.0f} ms, "
                f"90th percentile {m['p90_ms']:.0f} ms; {shares}"
            )
        if self.reference is not None:
            lines.append(f"compared with the true times: {self.compared} of {len(self.aligned)} utterances")
        return "\n".join(lines)

    def draw(self, path):
        """Histograms of words, silences and, with a reference, boundary errors, as PNG, in one step."""
        from matplotlib.figure import Figure

        panels = [
            ("seconds of a word", {"words": self.words}),
            ("seconds of a silence", {"between words": self.pauses, "at the ends": self.edges}),
        ]
        if len(self.errors["start"]):
            panels.append(("boundary error (ms)", {f"word {k}s": e for k, e in self.errors.items()}))
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
            clipped = [np.minimum(v, edges[-1]) for v in groups.values()]
            axis.hist(clipped, bins=edges, histtype="step", label=labels)
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize="small")
        with writing(path, binary=True) as f:
            figure.savefig(f, format="png", dpi=150)
