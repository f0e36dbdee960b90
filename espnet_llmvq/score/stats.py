"""Bootstrap intervals, a paired test, and its correction, on counts of resampling units.

A *unit* is what is drawn: an utterance, or a speaker with all of their utterances. All metrics are functions of counts
summed over units, so a replicate of a metric is the function of a replicate of the sums. Two systems that are resampled
with one seed and stratum get the same units: their replicates are paired. Deterministic for a seed.
"""

import zlib
from dataclasses import dataclass

import numpy as np

# Numbers in one block of drawn units: 8 bytes each, a few blocks at a time.
BLOCK = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A statistic and its bootstrap.

    value: float. replicates: (R,). left_out: {stratum: (units,)}, the value without each unit of each independently
    resampled set (the jackknife).
    """

    value: float
    replicates: np.ndarray
    left_out: dict


def generator(seed, stratum=""):
    """A NumPy generator that depends on `seed` (int, at least 0) and on a name."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(stratum.encode("utf-8"))]))


def group(counts, units):
    """(U, K) sums of counts (N, K) over the rows of each unit; units: (N,) ints below U."""
    grouped = np.zeros((int(units.max()) + 1, counts.shape[1]))
    np.add.at(grouped, units, counts)
    return grouped


def resample(counts, replicates, rng):
    """(replicates, K): sums over U units drawn from counts (U, K) with replacement."""
    n, replicated = len(counts), []
    block = max(1, BLOCK // n)
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        drawn = rng.integers(0, n, (rows, n), dtype=np.int32).astype(np.int64)
        drawn += np.arange(rows)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        replicated.append(times.astype(np.float64) @ counts)
    return np.concatenate(replicated)


def sums(counts, replicates, seed, stratum=""):
    """K Estimates: the column sums of counts (U, K).

    stratum: name of the set. Sets of different names are resampled independently.
    """
    counts = np.asarray(counts, dtype=np.float64)
    drawn, total = resample(counts, replicates, generator(seed, stratum)), counts.sum(axis=0)
    columns = zip(total, drawn.T, (total - counts).T)
    return [Estimate(float(whole), d, {stratum: rest}) for whole, d, rest in columns]


def combine(function, estimates):
    """The Estimate of `function` of the `estimates`.

    function: takes one float, or one array of any one shape, for each estimate.
    """
    left_out = {}
    for stratum, rest in {s: rest for e in estimates for s, rest in e.left_out.items()}.items():
        # A set without the stratum stays whole.
        parts = [e.left_out.get(stratum, np.full(len(rest), e.value)) for e in estimates]
        left_out[stratum] = np.asarray(function(*parts))
    replicates = np.asarray(function(*(estimate.replicates for estimate in estimates)))
    return Estimate(float(function(*(estimate.value for estimate in estimates))), replicates, left_out)


def mean(estimates):
    """The Estimate of the unweighted mean of `estimates`."""
    return combine(lambda *values: sum(values) / len(values), estimates)


def difference(a, b):
    """The Estimate of a - b; paired where both were resampled with the same units."""
    return combine(lambda x, y: x - y, [a, b])


def influences(left_out):
    """(units,) influences of the units on a value, of its values (units,) without each; 0 where there is none."""
    defined = left_out[np.isfinite(left_out)]
    n = len(defined)
    return (n - 1) / n * (defined.mean() - defined) if n else np.zeros(1)


def _correct(z, estimate, drawn):
    """Normal quantiles corrected for bias and acceleration."""
    from scipy import special

    change = np.concatenate([influences(rest) for rest in estimate.left_out.values()])
    spread = np.sum(change**2)
    acceleration = np.sum(change**3) / (6 * spread**1.5) if spread > 0 else 0.0
    tie = 1e-9 * max(1.0, abs(estimate.value))
    equal = np.mean(np.abs(drawn - estimate.value) <= tie)
    below = np.mean(drawn < estimate.value - tie) + equal / 2
    # With all replicates on one side there is nothing to correct by.
    bias = special.ndtri(below) if 0 < below < 1 else 0.0
    # Few units and a high level lead to the pole of the correction: what is at it or beyond is the outermost replicate.
    shift = bias + z
    room = 1 - acceleration * shift
    return np.where(room > 0, bias + shift / np.where(room > 0, room, 1), np.copysign(np.inf, shift))


def interval(estimate, confidence=0.95, skewed=True):
    """(low, high): the BCa interval of Efron (1987), widened for few units.

    Levels are those of Student's t with the variance's n/(n - 1), the "expanded" percentile of Hesterberg (2015),
    before bias and acceleration are corrected. skewed=False leaves that correction out: for differences of two systems,
    which hardly are skewed, it was measured to add noise. Replicates that are not defined are left out. (nan, nan)
    where the statistic itself is not defined, or there is only one unit.
    """
    from scipy import special

    value, drawn = estimate.value, estimate.replicates[np.isfinite(estimate.replicates)]
    units = sum(map(len, estimate.left_out.values()))
    free = units - len(estimate.left_out)
    if not np.isfinite(value) or not len(drawn) or free < 1:
        return float("nan"), float("nan")
    tail = special.stdtrit(free, (1 - confidence) / 2) * np.sqrt(units / free)
    z = np.array([tail, -tail])
    if skewed:
        z = _correct(z, estimate, drawn)
    low, high = np.quantile(drawn, special.ndtr(z))
    return float(low), float(high)


def improvement(change, better="low"):
    """The probability that a change is for the better, by the bootstrap.

    change: Estimate of new - old. better: "low" or "high". Replicates without a change count half.
    """
    drawn = change.replicates[np.isfinite(change.replicates)]
    if not len(drawn):
        return float("nan")
    good = drawn < 0 if better == "low" else drawn > 0
    return float(np.mean(good) + np.mean(drawn == 0) / 2)


def permuted(a, b, function, replicates, seed, stratum=""):
    """(replicates,) differences function(A) - function(B) under exchangeable systems.

    a, b: (U, K) counts of two systems on the same units. Each replicate exchanges the systems in a random half of the
    units: approximate randomisation (Noreen 1989), a matched-pairs test that assumes nothing of the counts but that,
    without a difference, either system could have made either result.
    """
    rng = generator(seed, "permuted " + stratum)
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    total = a.sum(axis=0) + b.sum(axis=0)
    change = (a - b)[np.any(a != b, axis=1)]  # units that are alike change nothing
    n, drawn = len(change), []
    if not n:
        return np.zeros(replicates)
    # Sums of whole numbers below 2**24 are exact in float32, which is faster.
    exact = np.all(change == np.round(change)) and np.all(np.abs(change).sum(axis=0) < 2**24)
    kind = np.float32 if exact else np.float64
    columns = change.astype(kind)
    block = max(1, BLOCK // n)
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        bits = np.frombuffer(rng.bytes(rows * -(-n // 8)), np.uint8).reshape(rows, -1)
        chosen = np.unpackbits(bits, axis=1, count=n).astype(kind) @ columns
        # Chosen units keep their system, the others exchange theirs: a' - b' and a' + b' give a', b'.
        shift = 2.0 * chosen.astype(np.float64) - change.sum(axis=0)
        drawn.append(function(*((total + shift) / 2).T) - function(*((total - shift) / 2).T))
    return np.concatenate(drawn)


def p_value(observed, drawn):
    """The two-sided p of an observed difference among (R,) permuted ones; never 0.

    Permuted differences that are not defined count as extreme.
    """
    if not np.isfinite(observed):
        return float("nan")
    extreme = ~(np.abs(drawn) < abs(observed) - 1e-9 * max(1.0, abs(observed)))
    return float((1 + np.sum(extreme)) / (1 + len(drawn)))


def holm(p_values):
    """The p-values corrected for their number (Holm 1979), in the same order.

    Values that are nan are no comparisons: they stay and do not count.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = [i for i in np.argsort(p) if np.isfinite(p[i])]
    corrected, largest = p.copy(), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, float(p[i]) * (len(order) - rank)))
        corrected[i] = largest
    return corrected.tolist()


def over_seeds(values, confidence=0.95):
    """(mean, low, high) of one metric's values of several training seeds, by Student's t.

    low and high are nan for a single seed.
    """
    from scipy import special

    values = np.asarray(values, dtype=np.float64)
    centre, n = float(values.mean()), len(values)
    if n < 2:
        return centre, float("nan"), float("nan")
    wide = -special.stdtrit(n - 1, (1 - confidence) / 2) * values.std(ddof=1) / np.sqrt(n)
    return centre, float(centre - wide), float(centre + wide)
