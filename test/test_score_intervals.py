"""Intervals of every metric: against scipy's BCa on the same replicates, and by how often they hold the truth."""

import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special
from scipy.stats import bootstrap

from espnet_llmvq.score import stats
from espnet_llmvq.score.files import Rules
from espnet_llmvq.score.measure import METRICS, evaluate, load_reference, names_of, ratio

SEED = 1
ORIGINS = names_of("parts", "numbers", "trained")
CITIES = "Rome Oslo Lima Cairo Paris Delhi".split()
VOCABULARY = "the cat, sat; on a mat. don't re-do it twice and go home now please".split()


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """{metric: (U, K) counts} of 300 utterances with entities, whose hypotheses err in clusters."""
    home, rng = tmp_path_factory.mktemp("population"), random.Random(SEED)
    lines = {"ref": [], "hyp": [], "entities": []}
    for i in range(300):
        words = [*rng.choices(VOCABULARY, k=rng.randint(2, 9)), *rng.sample(CITIES, rng.randint(1, 3))]
        rng.shuffle(words)
        wrong = rng.choice([0.0, 0.1, 0.4])
        heard = [rng.choice(VOCABULARY + CITIES) if rng.random() < wrong else word for word in words]
        cities = "\t".join(f"city={word}" for word in words if word in CITIES)
        for name, text in (("ref", " ".join(words)), ("hyp", " ".join(heard))):
            lines[name].append(f"u{i:03} {text}\n")
        lines["entities"].append(f"u{i:03}\t{cities}\n")
    for name, content in lines.items():
        (home / name).write_text("".join(content))
    reference = load_reference(home / "ref", entities=str(home / "entities"))
    wanted = [metric for metric in METRICS if metric not in ORIGINS]
    counts = evaluate(reference, home / "hyp", wanted, Rules(empty_hyp="keep")).counts
    return counts | origins(home, rng)


def origins(home, rng):
    """{metric: (U, K) counts} of where errors come from: three of five utterances derail, others err in all ways."""
    trained, refs, hyps = {"ox": 1, "three": 3, "seven": 30, "letter": 60}, [], []
    for i in range(300):
        words = rng.sample([*trained, "zebra"], 5) + rng.choices([*trained, "zebra"], k=rng.randint(0, 5))
        wrong = {"alike": lambda w: f"{w}s" if len(w) > 2 else "o", "other": lambda w: "wrong"}
        wrong |= {"deleted": lambda w: "", "inserted": lambda w: f"{w} put", "right": lambda w: w}
        kinds = rng.sample(list(wrong), 5) + rng.choices([*wrong, "right", "right"], k=len(words) - 5)
        heard = [
            " ".join([*words, *["go"] * rng.randint(4, 9)]), "",
            " ".join([*words, *map(str, range(14 + rng.randint(0, 9)))]),
        ]  # fmt: skip
        # Right words between the others, so that each error is a run of its own.
        refs.append(" ".join(f"{word} {word} mid" for word in words))
        heard += [" ".join(f"{wrong[kind](word)} {word} mid" for kind, word in zip(kinds, words))] * 2
        hyps.append([*[h and f"{refs[-1]} {h}" for h in heard[:3]], *heard[3:]][i % 5])
    for name, texts in (("refs", refs), ("hyps", hyps)):
        (home / name).write_text("".join(f"u{i:03} {text}\n" for i, text in enumerate(texts)))
    reference = replace(load_reference(home / "refs"), trained=Counter(trained))
    return evaluate(reference, home / "hyps", ORIGINS, Rules(empty_hyp="keep")).counts


def estimate(metric, counts, replicates, seed=SEED):
    return stats.combine(METRICS[metric].function, stats.sums(counts, replicates, seed))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("units, confidence", [(5, 0.95), (60, 0.95), (60, 0.995), (300, 0.9)])
def test_intervals_are_those_of_scipy(population, metric, units, confidence):
    counts, function = population[metric][:units], METRICS[metric].function
    found = estimate(metric, counts, 300)
    # Its levels are the normal distribution's, ours those of Student's t for so few units.
    tail = special.stdtrit(units - 1, (1 - confidence) / 2) * np.sqrt(units / (units - 1))
    expected = bootstrap(
        (np.arange(units),), lambda chosen: float(function(*counts[chosen.astype(int)].sum(axis=0))),
        vectorized=False, n_resamples=0, bootstrap_result=SimpleNamespace(bootstrap_distribution=found.replicates),
        method="BCa", confidence_level=1 - 2 * special.ndtr(tail),
    ).confidence_interval  # fmt: skip
    assert stats.interval(found, confidence) == pytest.approx((expected.low, expected.high), rel=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.995, 0.9999, 1 - 1e-12])
def test_intervals_hold_their_value_however_few_or_skewed_the_units(confidence):
    rng = np.random.default_rng(SEED)
    for units in (2, 3, 3, 4, 4, 5, 5, 20, 200):
        for loops in (0, 300):
            words = rng.integers(1, 20, units)
            errors = rng.binomial(words, 0.3)
            errors[0] += 1 + rng.poisson(loops)
            found = stats.combine(ratio, stats.sums(np.stack([errors, words], axis=1), 200, SEED))
            low, high = stats.interval(found, confidence)
            assert low <= found.value <= high
            assert low < high
            if loops and confidence > 0.995:  # beyond the pole of the correction
                assert high == pytest.approx(found.replicates.max())


def test_a_unit_that_a_value_is_not_defined_without_has_no_influence():
    counts = np.array([[1.0, 4.0], [0, 0], [0, 0]])
    found = stats.combine(ratio, stats.sums(counts, 100, SEED))
    assert np.isnan(found.left_out[""]).tolist() == [True, False, False]
    assert stats.interval(found) == (25, 25)


def test_intervals_cover_the_truth(population):
    """95 % intervals of 80 utterances, 150 times: between 88 % and 100 % is four standard errors."""
    rng, trials, covered = np.random.default_rng(SEED), 150, dict.fromkeys(METRICS, 0)
    truth = {metric: METRICS[metric].function(*counts.sum(axis=0)) for metric, counts in population.items()}
    for trial in range(trials):
        drawn = rng.integers(0, 300, 80)
        for metric, counts in population.items():
            low, high = stats.interval(estimate(metric, counts[drawn], 200, trial))
            covered[metric] += low <= truth[metric] <= high
    assert {metric: n for metric, n in covered.items() if not 0.88 * trials <= n <= trials} == {}
    assert 0.93 * trials <= np.mean(list(covered.values())) <= 0.98 * trials
