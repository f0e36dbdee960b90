"""Results of several training seeds pooled: means, intervals over seeds, and over utterances."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.compare import measured
from espnet_llmvq.score.details import details_dir
from espnet_llmvq.score.rows import COMPARED, MACRO, SET, bounded, comparison_rows, domain_means
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


def read_counts(path):
    """([(utterance, speaker)], (N, 2) word errors and words, number of derailed utterances) of an utterances.tsv."""
    try:
        with open(path, encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
        units = [(row["utterance"], row["speaker"]) for row in rows]
        errors = [[int(row[kind]) for kind in ("substitutions", "deletions", "insertions")] for row in rows]
        counts = np.array([[sum(of), int(row["words"])] for of, row in zip(errors, rows)], dtype=np.float64)
        return units, counts.reshape(-1, 2), sum(bool(row["derailed"]) for row in rows)
    except OSError:
        raise UserError(f"{path}: not there; score again: llmvq results, or stage 13") from None
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path}: not what scoring writes; score again: llmvq results, or stage 13") from None


def over_utterances(runs, baseline, statistics):
    """The pooled values with intervals and tests over utterances: (rows, comparisons, {(system, set): derailed}).

    runs: {directory of the results of a seed: its rows}. An utterance is one unit, with the errors of all seeds: so
    these intervals tell how other utterances would do with these trainings. statistics: `Statistics`. rows and
    comparisons are like those of results.json and comparisons.json, of sets and macro means; derailed utterances are
    those of all seeds.
    """
    found = [row for row in next(iter(runs.values())) if row["metric"] == COMPARED and row["kind"] in (SET, MACRO)]
    of_sets = [row for row in found if row["kind"] == SET]
    sets = {row["set"]: SimpleNamespace(name=row["set"], domain=row["domain"]) for row in of_sets}
    systems = {row["system"]: SimpleNamespace(name=row["system"]) for row in of_sets}
    references = {row["set"]: SimpleNamespace(normaliser=row["normaliser"]) for row in of_sets}
    pooled, derailed, known = {}, {}, {}
    for system, name in ((systems[row["system"]], row["set"]) for row in of_sets):
        errors, lost = 0, 0
        for directory in runs:
            path = counts_file(directory, system, name)
            units, counts, derailments = read_counts(path)
            first, before = known.setdefault(name, (path, units))
            if units != before:
                raise UserError(f"{path} and {first} have not the same utterances; score all seeds and systems alike")
            errors, lost = errors + counts, lost + derailments
        of_unit, numbers = [unit[statistics.resample == "speaker"] for unit in units], {}
        if statistics.resample == "speaker" and "-" in of_unit:
            raise UserError(f"{path}: not all utterances have a speaker; pool with --resample utterance")
        of_unit = np.array([numbers.setdefault(unit, len(numbers)) for unit in of_unit])
        pooled[system.name, name] = measured(
            SimpleNamespace(counts={COMPARED: errors}), [COMPARED], of_unit, statistics, name
        )
        derailed[system.name, name] = lost
    estimates = {(SET, *key): one.estimate(COMPARED) for key, one in pooled.items()}
    for system in systems.values():
        for domain, estimate in domain_means(pooled, system, sets.values(), COMPARED).items():
            estimates[MACRO, system.name, f"mean_{domain}"] = estimate
    means, rows = {key: row["value"] for key, row in _keyed(pooled_rows(runs)).items()}, []
    for row in found:
        values = bounded(estimates[row["kind"], row["system"], row["set"]], statistics.confidence)
        mean = means[row["system"], row["kind"], row["set"], COMPARED]
        if None not in (mean, values["value"]) and abs(mean - values["value"]) > 1e-3:
            raise UserError(
                f"{' and '.join(runs)}: {row['system']} on {row['set']} has {mean:.4f} % by results.json and "
                f"{values['value']:.4f} by the details; score again: llmvq results, or stage 13"
            )
        rows.append({**row, **values, "count": None})
    comparisons = comparison_rows([*systems.values()], [*sets.values()], references, pooled, baseline, statistics)
    return rows, comparisons, derailed


def counts_file(directory, system, name):
    """Path of the counts of each utterance, of a system (with a `name`) on a set, in a directory of results."""
    return Path(details_dir(directory, system, name), "utterances.tsv")


def missing_counts(runs):
    """Why `over_utterances` cannot be: the first file that is not there, a set that a system lacks; "" if it can."""
    of_sets = [row for row in next(iter(runs.values())) if (row["metric"], row["kind"]) == (COMPARED, SET)]
    having = {(row["system"], row["set"]) for row in of_sets}
    lacking = [
        f"{s} has no {name}"
        for s in {s for s, _ in having}
        for name in {n for _, n in having}
        if (s, name) not in having
    ]
    files = [counts_file(d, SimpleNamespace(name=row["system"]), row["set"]) for d in runs for row in of_sets]
    gone = [f"{path} is not there" for path in files if not path.is_file()]
    return min([*lacking, *gone], default="")
