"""The results of an experiment: rows of `results.json` and of `comparisons.json`.

Estimates of different sets are resampled independently; systems on one set are paired.
"""

import json
from pathlib import Path

from espnet_llmvq.base.config import from_mapping
from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score import stats
from espnet_llmvq.score.compare import compare, untested
from espnet_llmvq.score.files import Rules
from espnet_llmvq.score.measure import METRICS, ratio
from espnet_llmvq.score.table import number

DOMAINS = {"id": "ID", "ood": "OOD"}
COMPARED = "wer"  # what is compared with the baseline
SET, MACRO, MICRO, RATIO = "set", "macro", "micro", "ratio"  # kinds of entries
MEANS = (MACRO, MICRO)
NEEDED = ("system", "kind", "set", "domain", "metric", "value", "seed")  # in each entry of results.json

UNRECORDED = {"empty_ref": "keep", "empty_hyp": "keep"}  # rules of results that do not name theirs


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


def rules_of(row):
    """The `Rules` that an entry of `results.json` was scored by. Raises UserError for what are none."""
    return from_mapping(Rules, row.get("rules", UNRECORDED), "results.json: rules")


def said_of(rows):
    """Seeds of entries of `results.json`, and how bad input was treated if that was asked for, in words."""
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
    rules = ", ".join(filter(None, dict.fromkeys(str(rules_of(row)) for row in rows if row.get("rules"))))
    return f"seed {seeds}" + f"; scored with {rules}" * bool(rules)


def bounded(estimate, confidence, skewed=True):
    """{"value", "low", "high"} of an Estimate, for JSON."""
    low, high = stats.interval(estimate, confidence, skewed)
    return {"value": number(estimate.value), "low": number(low), "high": number(high)}


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


def result_rows(systems, sets, references, measured, seed, confidence, rules):
    """Entries of `results.json`, a flat list.

    references: {set name: Reference}; measured: {(system name, set name): Measured}. An entry is of a `kind`: of a set;
    after its sets a metric has, for each domain, "macro", the mean of its sets (`set` is then mean_DOMAIN) and, for
    ratios of counts, "micro", that of their counts (micro_DOMAIN). WER has "ratio", out of domain / in domain of macro
    means, as metric `wer_ratio` of the set `ood/id`. Utterances and words of means are those of all their sets. Values
    are in percent but for the ratio; low and high are None where there is no interval. count, of: the two counts that a
    ratio is of, such as entities missed and entities (METRICS says what is counted); None of macro means and of what is
    no ratio. rules: those of `Rules` that are not the default's.
    """
    rows = []

    def add(kind, set_name, domain, metric, estimate, members, counts=()):
        """An entry of `system`. members: sets that it is of; counts: of a ratio, its [2 Estimates] on each of them."""
        count, of = [round(sum(c.value for c in column)) for column in zip(*counts)] or (None, None)
        members = [references[s.name] for s in members]
        counted = metric.removesuffix(f"_{RATIO}")
        rows.append(
            {
                "system": system.name,
                "kind": kind,
                "set": set_name,
                "domain": domain,
                "metric": metric,
                **bounded(estimate, confidence),
                "utterances": sum(len(m.refs) for m in members),
                "words": sum(len(words) for m in members for words in m.words.values()),
                "seed": seed,
                "normaliser": "+".join(dict.fromkeys(member.normaliser_of(counted) for member in members)),
                "count": count,
                "of": of,
                "rules": rules.given,
            }
        )

    for system in systems:
        for metric in METRICS:
            having = [s for s in sets if metric in measured[system.name, s.name].counts]
            own = {s.name: measured[system.name, s.name] for s in having}
            sums = {name: one.sums[metric] for name, one in own.items() if METRICS[metric].of}
            for s in having:
                counts = [sums[s.name]] if sums else ()
                add(SET, s.name, s.domain, metric, own[s.name].estimate(metric), [s], counts)
            means = domain_means(measured, system, sets, metric)
            for domain, estimate in means.items():
                members = [s for s in having if s.domain == domain]
                add(MACRO, f"mean_{domain}", domain, metric, estimate, members)
                if sums:
                    counts = [sums[s.name] for s in members]
                    pooled = stats.combine(lambda *c: ratio(sum(c[::2]), sum(c[1::2])), sum(counts, []))
                    add(MICRO, f"micro_{domain}", domain, metric, pooled, members, counts)
            if metric == COMPARED and len(means) == 2:
                estimate = stats.combine(lambda a, b: ratio(a, b) / 100, [means["ood"], means["id"]])
                add(RATIO, "ood/id", "ood", f"{metric}_{RATIO}", estimate, having)
    return rows


def comparison_rows(systems, sets, references, measured, baseline, statistics):
    """Entries of `comparisons.json`: WER of each system against the baseline.

    baseline: name of a system. statistics: `Statistics`. For each set the change in points, its interval, the p-value,
    that value corrected for all sets and systems, and the probability of improvement; for macro means no p-value.
    `relative`: the change in percent of the baseline's value, with its interval.
    """
    rows, found = [], []
    (baseline,) = (system for system in systems if system.name == baseline)

    def add(kind, set_name, domain, members, new, old, compared):
        relative = stats.combine(lambda x, y: ratio(x, y) - 100, [new, old])
        relative = bounded(relative, statistics.confidence, skewed=False)
        rows.append(
            {
                "system": system.name,
                "baseline": baseline.name,
                "kind": kind,
                "set": set_name,
                "domain": domain,
                "metric": COMPARED,
                "normaliser": "+".join(dict.fromkeys(references[s.name].normaliser for s in members)),
                "change": number(compared.change),
                "low": number(compared.low),
                "high": number(compared.high),
                "relative": relative["value"],
                "relative_low": relative["low"],
                "relative_high": relative["high"],
                "improvement": number(compared.improvement),
            }
        )
        found.append(compared.p)

    for system in systems:
        if system.name == baseline.name:
            continue
        for s in sets:
            new, old = measured[system.name, s.name], measured[baseline.name, s.name]
            compared = compare(new, old, COMPARED, statistics, s.name)
            add(SET, s.name, s.domain, [s], new.estimate(COMPARED), old.estimate(COMPARED), compared)
        olds = domain_means(measured, baseline, sets, COMPARED)
        for domain, new in domain_means(measured, system, sets, COMPARED).items():
            compared = untested(new, olds[domain], COMPARED, statistics)
            add(MACRO, f"mean_{domain}", domain, [s for s in sets if s.domain == domain], new, olds[domain], compared)
    comparisons = sum(row["kind"] == SET for row in rows)
    for row, p, corrected in zip(rows, found, stats.holm(found)):
        row |= {"p": number(p), "p_holm": number(corrected), "comparisons": comparisons}
    return rows
