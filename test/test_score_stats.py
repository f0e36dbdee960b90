"""Bootstrap, paired test and corrections against closed forms, enumeration and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats as reference

from espnet_llmvq.score import stats


def rate(errors, words):
    return 100 * np.asarray(errors) / words


def random_counts(seed, n=200):
    rng = np.random.default_rng(seed)
    words = rng.integers(3, 15, n)
    return np.stack([rng.binomial(words, 0.2), words], axis=1).astype(float)


def estimate(counts, seed=1, replicates=2000, stratum=""):
    return stats.combine(rate, stats.sums(counts, replicates, seed, stratum))


def test_resampled_sums_are_sums_of_drawn_units():
    # Units are powers of ten, so that a sum shows what was drawn.
    counts = np.array([[1.0, 1], [10, 1], [100, 1], [1000, 1]])
    drawn = stats.resample(counts, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 2)
    assert (drawn[:, 1] == 4).all()
    assert all(sum(map(int, str(int(total)))) == 4 for total in drawn[:, 0])
    assert len(set(drawn[:, 0])) > 20


def test_blocks_change_nothing(monkeypatch):
    counts = random_counts(0)
    whole = stats.resample(counts, 50, np.random.default_rng(0))
    exchanged = stats.permuted(counts, random_counts(1), rate, 50, 1)
    monkeypatch.setattr(stats, "BLOCK", 800)
    assert np.array_equal(stats.resample(counts, 50, np.random.default_rng(0)), whole)
    assert len(stats.permuted(counts, random_counts(1), rate, 50, 1)) == len(exchanged)


def test_mean_and_spread_are_those_of_theory():
    counts = random_counts(1, 500)
    found = estimate(counts, replicates=20000)
    ratio = counts[:, 0].sum() / counts[:, 1].sum()
    assert found.value == pytest.approx(100 * ratio)
    residual = counts[:, 0] - ratio * counts[:, 1]
    error = 100 * np.sqrt((residual**2).sum()) / counts[:, 1].sum()  # delta method
    assert found.replicates.std() == pytest.approx(error, rel=0.03)
    low, high = stats.interval(found)
    assert low == pytest.approx(found.value - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(found.value + 1.96 * error, abs=0.25 * error)


def test_influence_is_that_of_the_ratio():
    counts = random_counts(2, 30)
    ratio = counts[:, 0].sum() / counts[:, 1].sum()
    expected = 100 * (counts[:, 0] - ratio * counts[:, 1]) / (counts[:, 1].sum() - counts[:, 1])
    left_out = estimate(counts).left_out[""]
    assert np.allclose(100 * ratio - left_out, expected, rtol=1e-9)
    assert np.allclose(stats.influences(left_out), 29 / 30 * (expected - expected.mean()), rtol=1e-9)


def test_bca_is_that_of_scipy():
    data = np.random.default_rng(3).exponential(size=400)
    counts = np.stack([data, np.ones_like(data)], axis=1)
    found = stats.interval(estimate(counts, replicates=20000))
    drawn = reference.bootstrap((data,), np.mean, n_resamples=20000, method="BCa", rng=1)
    expected = drawn.confidence_interval
    width = 100 * (expected.high - expected.low)
    assert found == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.04 * width)


def test_few_units_widen_and_one_has_no_interval():
    rng = np.random.default_rng(4)
    drawn = rng.normal(size=10000)

    def width(units, skewed=False):
        made = stats.Estimate(0.0, drawn, {"": np.zeros(units)})
        low, high = stats.interval(made, skewed=skewed)
        return high - low

    assert width(10_000) == pytest.approx(2 * 1.96, rel=0.05)
    expected = 2 * reference.t.ppf(0.975, 4) * np.sqrt(5 / 4)
    assert width(5) == pytest.approx(expected, rel=0.05)
    assert np.isnan(stats.interval(estimate(random_counts(0, 1)))).all()


def test_deterministic_for_seed_and_stratum():
    counts = random_counts(5)
    assert np.array_equal(estimate(counts).replicates, estimate(counts).replicates)
    assert not np.array_equal(estimate(counts).replicates, estimate(counts, seed=2).replicates)
    other = estimate(counts, stratum="other")
    assert not np.array_equal(estimate(counts).replicates, other.replicates)


def test_pairing_cancels_what_is_shared():
    a = random_counts(6)
    b = a + [0, 0]
    b[:5, 0] += 1
    change = stats.difference(estimate(b), estimate(a))
    assert change.value == pytest.approx(100 * 5 / a[:, 1].sum())
    assert change.replicates.std() < 0.2 * estimate(a).replicates.std()
    assert stats.improvement(change) == pytest.approx(np.mean(change.replicates == 0) / 2)
    same = stats.difference(estimate(a), estimate(a))
    assert stats.interval(same) == (0, 0)
    assert stats.improvement(same) == 0.5
    assert stats.improvement(change, "high") == pytest.approx(1 - stats.improvement(change))


def test_means_of_independent_sets():
    a, b = estimate(random_counts(7), stratum="a"), estimate(random_counts(8), stratum="b")
    both = stats.mean([a, b])
    assert both.value == pytest.approx((a.value + b.value) / 2)
    assert both.left_out.keys() == {"a", "b"}
    expected = np.sqrt(a.replicates.var() + b.replicates.var()) / 2
    assert both.replicates.std() == pytest.approx(expected, rel=0.05)


def test_groups_are_speakers():
    counts = np.array([[1.0, 10], [2, 20], [4, 40]])
    assert stats.group(counts, np.array([0, 1, 0])).tolist() == [[5, 50], [2, 20]]


@pytest.mark.parametrize("scale", [1.0, 0.37])  # whole numbers, and the slower way
def test_permutation_against_enumeration(scale):
    rng = np.random.default_rng(9)
    words = rng.integers(5, 9, 10)
    a, b = (np.stack([rng.binomial(words, p), words], axis=1) * scale for p in (0.2, 0.5))
    observed = rate(*a.sum(axis=0)) - rate(*b.sum(axis=0))
    extreme = 0
    for swap in itertools.product([False, True], repeat=10):
        x, y = np.where(np.array(swap)[:, None], b, a), np.where(np.array(swap)[:, None], a, b)
        found = rate(*x.sum(axis=0)) - rate(*y.sum(axis=0))
        extreme += abs(found) >= abs(observed) - 1e-9
    drawn = stats.permuted(a, b, rate, 20000, seed=1)
    p = stats.p_value(observed, drawn)
    assert p == pytest.approx(extreme / 2**10, abs=0.01)


def test_permutation_of_equal_systems_is_no_difference():
    counts = random_counts(10)
    assert stats.p_value(0.0, stats.permuted(counts, counts, rate, 100, 1)) == 1
    assert np.isnan(stats.p_value(float("nan"), np.zeros(3)))
    assert stats.p_value(1.0, np.zeros(99)) == pytest.approx(0.01)


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made to rise
    assert stats.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.5, 0.9]) == [1, 1]
    found = stats.holm([0.01, float("nan"), 0.5])
    assert found[0] == pytest.approx(0.02)
    assert np.isnan(found[1])
    assert stats.holm([]) == []


def test_over_seeds_is_the_t_interval():
    values = [10.0, 11.0, 13.5]
    centre, low, high = stats.over_seeds(values)
    expected = reference.t.interval(0.95, 2, np.mean(values), reference.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert centre == pytest.approx(11.5)
    assert np.isnan(stats.over_seeds([3.0])[1])


def simulated(seed, n=60):
    """Two systems of one distribution that err partly together."""
    rng = np.random.default_rng(seed)
    words = rng.integers(4, 20, n)
    hard = rng.beta(1.5, 8, n)
    together = rng.binomial(words // 2, hard)
    errors = [together + rng.binomial(words - words // 2, hard) for _ in range(2)]
    return [np.stack([e, words], axis=1).astype(float) for e in errors]


@pytest.mark.slow
def test_coverage_and_false_positives():
    """bench/scoring.py has more of this; the bounds are four standard errors wide."""
    truth, covered, wrong, trials = 100 * 1.5 / 9.5, 0, 0, 600
    for trial in range(trials):
        a, b = simulated(trial)
        low, high = stats.interval(estimate(a, trial, 500))
        covered += low <= truth <= high
        observed = rate(*a.sum(axis=0)) - rate(*b.sum(axis=0))
        wrong += stats.p_value(observed, stats.permuted(a, b, rate, 999, trial)) <= 0.05
    assert 0.915 <= covered / trials <= 0.985
    assert 0.015 <= wrong / trials <= 0.086
