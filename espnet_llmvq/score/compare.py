"""Estimates of a system, and the comparison of two systems on the same units."""

from dataclasses import dataclass, replace

import numpy as np

from espnet_llmvq.score import stats
from espnet_llmvq.score.measure import METRICS


@dataclass(frozen=True)
class Measured:
    """What is kept of an Evaluation: {metric: (U, K)} counts by unit, and {metric: [K Estimates]}."""

    counts: dict
    sums: dict

    def estimate(self, metric):
        """The Estimate of a metric."""
        return stats.combine(METRICS[metric].function, self.sums[metric])


def measured(evaluation, metrics, units, statistics, stratum=""):
    """The Measured of an Evaluation. units: (N,) number of each utterance's unit.

    stratum: name of the set; all systems of a set must get the same.
    """
    counts = {metric: stats.group(evaluation.counts[metric], units) for metric in metrics}
    columns = np.concatenate([counts[metric] for metric in metrics], axis=1)
    columns = stats.sums(columns, statistics.replicates, statistics.draw_seed, stratum)
    sums, start = {}, 0
    for metric in metrics:
        sums[metric] = columns[start : start + counts[metric].shape[1]]
        start += len(sums[metric])
    return Measured(counts, sums)


@dataclass(frozen=True)
class Comparison:
    """A new system against an old one. change: value of new - old, with its interval low..high.

    p: of no difference, not corrected; improvement: probability that the new one is better.
    """

    change: float
    low: float
    high: float
    p: float
    improvement: float


def untested(new, old, metric, statistics):
    """The Comparison of two Estimates, p not defined."""
    change = stats.difference(new, old)
    bounds = stats.interval(change, statistics.confidence, skewed=False)
    return Comparison(change.value, *bounds, np.nan, stats.improvement(change, METRICS[metric].better))


def compare(new, old, metric, statistics, stratum=""):
    """The Comparison of two Measured of one set."""
    found = untested(new.estimate(metric), old.estimate(metric), metric, statistics)
    a, b, function = new.counts[metric], old.counts[metric], METRICS[metric].function
    drawn = stats.permuted(a, b, function, statistics.permutations, statistics.draw_seed, stratum)
    return replace(found, p=stats.p_value(found.change, drawn))


def verdict(comparison, p_corrected, confidence, new, old):
    """The comparison in words."""
    if not np.isfinite(comparison.change):
        return "not defined"
    if p_corrected > 1 - confidence:
        return "no significant difference"
    return f"{new if comparison.improvement > 0.5 else old} is better"
