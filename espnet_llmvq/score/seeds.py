"""Results of several training seeds pooled: means, and intervals over seeds."""

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.stats import over_seeds
from espnet_llmvq.score.table import number

SAME = ("domain", "utterances", "words", "normaliser", "rules")


def _keyed(rows):
    return {(row["system"], row["kind"], row["set"], row["metric"]): row for row in rows}


def check_runs(runs):
    """Raise UserError unless `runs`, {name: rows}, differ in seed and in nothing else."""
    if len(runs) < 2:
        raise UserError("give the results of at least two seeds")
    first, *others = runs
    of_seed = {}
    for name, rows in runs.items():
        for seed in [row["seed"] for row in rows]:
            if not isinstance(seed, int):
                raise UserError(
                    f"{name}: seed is {seed}: it holds no results of one seed; give the directories of each"
                )
            if of_seed.setdefault(seed, name) != name:
                raise UserError(f"{name} and {of_seed[seed]} have the same seed {seed}; give each seed once")
    known = _keyed(runs[first])
    for name in others:
        own = _keyed(runs[name])
        if own.keys() != known.keys():
            what = " ".join(min(own.keys() ^ known.keys()))
            raise UserError(
                f"{name} and {first} differ in what they hold, for example {what}; score the same "
                "systems and sets with all seeds"
            )
        for key, row in own.items():
            for field in SAME:
                value, other = row.get(field), known[key].get(field)
                if value != other:
                    raise UserError(
                        f"{name}: {' '.join(key)}: {field} is {value}, in {first} {other}; score all seeds alike"
                    )


def pooled_rows(runs, confidence=0.95):
    """Rows like those of `results.json`: means over seeds, low..high by Student's t.

    runs: {name: rows of one seed}. `seed` is the list of seeds; a value that some seed lacks is
    None, and so is `count`, which is another for each seed.
    """
    tables = [_keyed(rows) for rows in runs.values()]
    pooled = []
    for key, row in tables[0].items():
        values = [table[key]["value"] for table in tables]
        pooled_value = (None, None, None) if None in values else over_seeds(values, confidence)
        pooled.append(
            {
                **row,
                **dict(zip(("value", "low", "high"), map(number, pooled_value))),
                "seed": [table[key]["seed"] for table in tables],
                "count": None,
            }
        )
    return pooled


def pooled_comparisons(runs, baseline, confidence=0.95):
    """Rows like those of `comparisons.json`: WER against the baseline, paired by seed.

    `improvement` is the share of seeds that are better; there is no p-value.
    """
    tables = [_keyed(rows) for rows in runs.values()]
    rows = []
    for (system, kind, set_name, metric), row in tables[0].items():
        if metric != "wer" or system == baseline:
            continue
        new = [table[system, kind, set_name, metric]["value"] for table in tables]
        old = [table[baseline, kind, set_name, metric]["value"] for table in tables]
        change = [a - b for a, b in zip(new, old)]
        relative = [100 * c / b for c, b in zip(change, old)] if all(old) else None
        bounds = over_seeds(change, confidence)
        more = over_seeds(relative, confidence) if relative else (None, None, None)
        better = sum((c < 0) + (c == 0) / 2 for c in change) / len(change)
        rows.append(
            {
                "system": system,
                "baseline": baseline,
                "kind": kind,
                "set": set_name,
                "domain": row["domain"],
                "metric": metric,
                "normaliser": row["normaliser"],
                **dict(zip(("change", "low", "high"), map(number, bounds))),
                **dict(zip(("relative", "relative_low", "relative_high"), map(number, more))),
                "improvement": number(better),
                "p": None,
                "p_holm": None,
                "comparisons": 0,
            }
        )
    return rows
