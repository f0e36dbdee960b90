"""The gap between speech and text: two clouds of utterance means, paired by utterance. numpy only.

Shapes: speech, text (U, D), row i of both is utterance i. docs/analysis.md has the formulae.
"""

import numpy as np

from espnet_llmvq.score import stats

CONFIDENCE = 0.95  # of intervals
GROUPS = 100  # of the jackknife
SHUFFLES = 20  # pairings at random, for the CKA that chance gives


def unit(x):
    """Rows (U, D) divided by their lengths; rows of length 0 stay."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1.0)


def centroid_distance(speech, text, replicates=1000, seed=1, name=""):
    """Distance between the centroids of both clouds, means scaled to length 1: an `Estimate`, 0 to 2.

    The modality gap of Liang et al., "Mind the gap" (NeurIPS 2022). Utterances are resampled in pairs.
    """
    difference = unit(speech) - unit(text)
    n, mean = len(difference), difference.mean(0)
    value = float(np.linalg.norm(mean))
    drawn = stats.resample(difference, replicates, stats.generator(seed, name)) / n
    rest = (n * mean - difference) / max(1, n - 1)
    return stats.Estimate(value, np.linalg.norm(drawn, axis=1), {name: np.linalg.norm(rest, axis=1)})


def gram(x):
    """Centred Gram matrix (U, U) of the rows."""
    x = x - x.mean(0)
    return x @ x.T


def centred(k):
    """A Gram matrix of rows whose centre has moved (some were left out), centred again."""
    return k - k.mean(0) - k.mean(1)[:, None] + k.mean()


def alignment(k, m):
    """<K, M> / (|K| |M|) of two centred Gram matrices; nan if one of them is zero."""
    scale = np.linalg.norm(k) * np.linalg.norm(m)
    return float((k * m).sum() / scale) if scale > 0 else float("nan")


def linear_cka(speech, text):
    """Linear CKA, 0 to 1 (Kornblith et al., "Similarity of neural network representations revisited", 2019).

    |X'Y|^2 / (|X'X| |Y'Y|) of centred X and Y, here by Gram matrices, which are small for few utterances.
    """
    return alignment(gram(speech), gram(text))


def cka_interval(speech, text, seed=1, name=""):
    """(low, high) of `linear_cka`: value +- t * standard error of the grouped jackknife, within 0 to 1.

    Not the bootstrap: an utterance drawn twice is twice the same point in both clouds, which raises the CKA of
    every replicate. The jackknife leaves out a group of utterances at a time (one, for up to `GROUPS` of them).
    """
    from scipy import special

    k, m, n = gram(speech), gram(text), len(speech)
    if n < 3:
        return float("nan"), float("nan")
    order = stats.generator(seed, "jackknife " + name).permutation(n)
    groups = np.array_split(order, min(n, GROUPS))
    values = []
    for group in groups:
        rest = np.setdiff1d(order, group)
        values.append(alignment(*(centred(x[np.ix_(rest, rest)]) for x in (k, m))))
    g = len(groups)
    error = np.sqrt((g - 1) / g * np.sum((np.array(values) - np.mean(values)) ** 2))
    wide = -special.stdtrit(g - 1, (1 - CONFIDENCE) / 2) * error
    value = alignment(k, m)
    return float(max(0.0, value - wide)), float(min(1.0, value + wide))


def cka_by_chance(speech, text, seed=1, name=""):
    """Mean CKA of the same clouds paired at random: what so few utterances in so many dimensions give."""
    k, m, rng = gram(speech), gram(text), stats.generator(seed, "shuffle " + name)
    orders = [rng.permutation(len(k)) for _ in range(SHUFFLES)]
    return float(np.mean([alignment(k, m[np.ix_(order, order)]) for order in orders]))


def retrieval(speech, text, transcripts):
    """Does the nearest text mean, by cosine, have the utterance's transcript? -> ((U,) bool, candidates).

    Equal transcripts are one candidate; of equally near ones the first counts.
    """
    places = {}
    for i, transcript in enumerate(transcripts):
        places.setdefault(transcript, i)
    candidates = np.array(list(places.values()))
    best = candidates[(unit(speech) @ unit(text[candidates]).T).argmax(1)]
    hits = [transcripts[b] == own for b, own in zip(best, transcripts)]
    return np.array(hits, dtype=bool), len(candidates)


def wilson(hits):
    """(low, high) of the share of hits (U,) bool, by Wilson (1927)."""
    from scipy.stats import binomtest

    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def gap_rows(speech, text, transcripts, replicates=1000, seed=1, name=""):
    """All numbers of one system and set: [{"metric", "value", "low", "high"}]; R@1 in percent."""
    estimate = centroid_distance(speech, text, replicates, seed, name)
    hits, candidates = retrieval(speech, text, transcripts)
    low, high = wilson(hits)
    rows = [
        ("centroid_distance", estimate.value, *stats.interval(estimate, CONFIDENCE)),
        ("cka", linear_cka(speech, text), *cka_interval(speech, text, seed, name)),
        ("cka_by_chance", cka_by_chance(speech, text, seed, name), None, None),
        ("r1", 100 * hits.mean(), 100 * low, 100 * high),
        ("r1_by_chance", 100 / candidates, None, None),
    ]
    return [dict(zip(("metric", "value", "low", "high"), row)) for row in rows]
