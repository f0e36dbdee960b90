"""The results of an experiment: rows of `results.json` and of `comparisons.json`.

Estimates of different sets are resampled independently; systems on one set are paired.
"""

import json
from pathlib import Path

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score import stats
from espnet_llmvq.score.compare import compare
from espnet_llmvq.score.measure import METRICS, ratio
from espnet_llmvq.score.table import number

DOMAINS = {"id": "ID", "ood": "OOD"}
COMPARED = "wer"  # what is compared with the baseline
SET, MACRO, MICRO, RATIO = "set", "macro", "micro", "ratio"  # kinds of entries
MEANS = (MACRO, MICRO)
NEEDED = ("system", "kind", "set", "domain", "metric", "value", "seed")  # in each entry of results.json


def read_rows(path, needed=NEEDED):
    """The entries of `results.json`, or of another list of mappings with the keys `needed`. Raises UserError."""
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: not there; score the systems first: llmvq results") from None
    except ValueError:
        raise UserError(f"{path}: not JSON; score again") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: not a list of results; score again")
    seen = {}
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(key in row for key in needed):
            raise UserError(f"{path}: entry {i} lacks one of {', '.join(needed)}; score again")
        if needed == NEEDED:
            first = seen.setdefault(tuple(row[key] for key in ("system", "kind", "set", "metric")), i)
            if first != i:
                raise UserError(
                    f"{path}: entries {first} and {i} are of one system, set and metric; keep one in a file"
                )
    return rows


def _pooled(estimates):
    """Estimate of the ratio of pooled counts; estimates: [[2 Estimates] of each set]."""
    flat = [estimate for pair in estimates for estimate in pair]
    return stats.combine(lambda *counts: ratio(sum(counts[::2]), sum(counts[1::2])), flat)


def _over_zero(a, b):
    """a / b, or nan where b is 0."""
    return ratio(a, b) / 100


def domain_means(measured, system, sets, metric):
    """{domain: Estimate of the macro mean} of a system.

    measured: {(system name, set name): Measured}. Sets that lack the metric do not count.
    """
    means = {}
    for domain in DOMAINS:
        known = [measured[system.name, s.name] for s in sets if s.domain == domain]
        known = [m.estimate(metric) for m in known if metric in m.counts]
        if known:
            means[domain] = stats.mean(known)
    return means


def result_rows(systems, sets, references, measured, seed, confidence):
    """Entries of `results.json`, a flat list.

    references: {set name: Reference}; measured: {(system name, set name): Measured}. An entry is of a `kind`: of a set;
    after its sets a metric has, for each domain, "macro", the mean of its sets (`set` is then mean_DOMAIN) and, for
    ratios of counts, "micro", that of their counts (micro_DOMAIN). WER has "ratio", out of domain / in domain of macro
    means, as metric `wer_ratio` of the set `ood/id`. Utterances and words of means are those of all their sets. Values
    are in percent but for the ratio; low and high are None where there is no interval. count, of: the two counts that a
    ratio is of, such as entities missed and entities (METRICS says what is counted); None of macro means and of what is
    no ratio.
    """
    rows = []

    def add(kind, system, set_name, domain, metric, estimate, members, normalisers, counts=()):
        count, of = [round(sum(c.value for c in column)) for column in zip(*counts)] or (None, None)
        low, high = stats.interval(estimate, confidence)
        rows.append(
            {
                "system": system.name,
                "kind": kind,
                "set": set_name,
                "domain": domain,
                "metric": metric,
                "value": number(estimate.value),
                "low": number(low),
                "high": number(high),
                "utterances": sum(len(m.refs) for m in members),
                "words": sum(len(words) for m in members for words in m.words.values()),
                "seed": seed,
                "normaliser": "+".join(dict.fromkeys(normalisers)),
                "count": count,
                "of": of,
            }
        )

    for system in systems:
        for metric in METRICS:
            having = [s for s in sets if metric in measured[system.name, s.name].counts]
            for s in having:
                reference = references[s.name]
                own = measured[system.name, s.name]
                used = [reference.normaliser_of(metric)]
                counts = [own.sums[metric]] if METRICS[metric].of else ()
                add(SET, system, s.name, s.domain, metric, own.estimate(metric), [reference], used, counts)
            means = domain_means(measured, system, sets, metric)
            for domain, estimate in means.items():
                members = [references[s.name] for s in having if s.domain == domain]
                used = [member.normaliser_of(metric) for member in members]
                add(MACRO, system, f"mean_{domain}", domain, metric, estimate, members, used)
                if METRICS[metric].of:
                    sums = [measured[system.name, s.name].sums[metric] for s in having if s.domain == domain]
                    add(MICRO, system, f"micro_{domain}", domain, metric, _pooled(sums), members, used, sums)
            if metric == COMPARED and len(means) == 2:
                members = [references[s.name] for s in having]
                used = [member.normaliser_of(metric) for member in members]
                estimate = stats.combine(_over_zero, [means["ood"], means["id"]])
                add(RATIO, system, "ood/id", "ood", f"{metric}_{RATIO}", estimate, members, used)
    return rows


def comparison_rows(systems, sets, references, measured, baseline, statistics):
    """Entries of `comparisons.json`: WER of each system against the baseline.

    baseline: name of a system. statistics: `Statistics`. For each set the change in points, its interval, the p-value,
    that value corrected for all sets and systems, and the probability of improvement; for macro means no p-value.
    `relative`: the change in percent of the baseline's value, with its interval.
    """
    rows, p_values, confidence = [], [], statistics.confidence
    (baseline,) = (system for system in systems if system.name == baseline)

    def add(kind, system, set_name, domain, normaliser, new, old, change, p):
        relative = stats.combine(lambda x, y: ratio(x, y) - 100, [new, old])
        low, high = stats.interval(relative, confidence, skewed=False)
        rows.append(
            {
                "system": system.name,
                "baseline": baseline.name,
                "kind": kind,
                "set": set_name,
                "domain": domain,
                "metric": COMPARED,
                "normaliser": normaliser,
                "change": number(change[0]),
                "low": number(change[1]),
                "high": number(change[2]),
                "relative": number(relative.value),
                "relative_low": number(low),
                "relative_high": number(high),
                "improvement": number(change[3]),
            }
        )
        p_values.append(p)

    for system in systems:
        if system.name == baseline.name:
            continue
        for s in sets:
            new, old = measured[system.name, s.name], measured[baseline.name, s.name]
            compared = compare(new, old, COMPARED, statistics, s.name)
            change = (compared.change, compared.low, compared.high, compared.improvement)
            estimates = new.estimate(COMPARED), old.estimate(COMPARED)
            add(SET, system, s.name, s.domain, references[s.name].normaliser, *estimates, change, compared.p)
        olds = domain_means(measured, baseline, sets, COMPARED)
        for domain, new in domain_means(measured, system, sets, COMPARED).items():
            change = stats.difference(new, olds[domain])
            bounds = stats.interval(change, confidence, skewed=False)
            used = dict.fromkeys(references[s.name].normaliser for s in sets if s.domain == domain)
            change = (change.value, *bounds, stats.improvement(change))
            add(MACRO, system, f"mean_{domain}", domain, "+".join(used), new, olds[domain], change, None)
    corrected = iter(stats.holm([p for p in p_values if p is not None]))
    number_of = sum(p is not None for p in p_values)
    for row, p in zip(rows, p_values):
        row["p"] = None if p is None else number(p)
        row["p_holm"] = None if p is None else number(next(corrected))
        row["comparisons"] = number_of
    return rows
