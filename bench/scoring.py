"""Measure scoring: coverage of intervals, false positives of the paired test, time and memory.

`python bench/scoring.py --json FILE`. About five minutes on one idle core.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from espnet_llmvq.base.files import write_text
from espnet_llmvq.score import stats
from espnet_llmvq.score.measure import ratio

# Simulated test sets: units resampled, utterances of each, share of utterances that loop.
SETS = {
    "300 utterances": (300, 1, 0.0),
    "1000 utterances, 1 % loop": (1000, 1, 0.01),
    "30 speakers of 20 utterances": (30, 20, 0.0),
    "15 speakers of 20 utterances": (15, 20, 0.0),
}
WORDS = (4, 20)  # words of an utterance, uniform, the second excluded


def draw_set(rng, units, utterances, loops, systems=1, shared=0.7):
    """Return (units, systems, 2) errors and words of a random test set.

    A unit is a speaker with an error rate from a Beta distribution; each utterance varies it.
    `shared` of the words err in all systems or in none, so that systems err together, and all
    systems have the same distribution. A looping utterance has 10 to 39 more insertions.
    """
    words = rng.integers(*WORDS, (units, utterances))
    rate = rng.beta(1.5, 10, (units, 1)) * rng.choice([0.0, 2.0], (units, utterances))
    rate = np.minimum(rate, 1.0)
    common = rng.binomial(words, shared)
    together = rng.binomial(common, rate)
    out = np.zeros((units, systems, 2))
    for system in range(systems):
        errors = together + rng.binomial(words - common, rate)
        looping = rng.random((units, utterances)) < loops
        errors = errors + looping * rng.integers(10, 40, (units, utterances))
        out[:, system] = np.stack([errors.sum(axis=1), words.sum(axis=1)], axis=1)
    return out


def true_rate(units, utterances, loops):
    """Return the error rate of the simulated population, in percent, from two million utterances."""
    drawn = draw_set(np.random.default_rng(0), 2_000_000 // utterances, utterances, loops)
    return float(ratio(*drawn[:, 0].sum(axis=0)))


def coverage(shape, trials=1000, replicates=1000):
    """Return the share of `trials` simulated sets whose 95 % interval covers the true rate."""
    truth, hits = true_rate(*shape), 0
    for trial in range(trials):
        counts = draw_set(np.random.default_rng([1, trial]), *shape)[:, 0]
        found = stats.combine(ratio, stats.sums(counts, replicates, seed=trial))
        low, high = stats.interval(found)
        hits += low <= truth <= high
    return hits / trials


def coverage_of_difference(shape, trials=1000, replicates=1000):
    """Return the share of sets whose interval of the difference of two equal systems covers 0."""
    hits = 0
    for trial in range(trials):
        counts = draw_set(np.random.default_rng([2, trial]), *shape, systems=2)
        a, b = (stats.combine(ratio, stats.sums(counts[:, i], replicates, seed=trial)) for i in (0, 1))
        low, high = stats.interval(stats.difference(a, b), skewed=False)
        hits += low <= 0 <= high
    return hits / trials


def false_positives(shape, trials=4000, replicates=1000):
    """Return the share of sets on which two equal systems differ at the 5 % level."""
    wrong = 0
    for trial in range(trials):
        counts = draw_set(np.random.default_rng([3, trial]), *shape, systems=2)
        a, b = counts[:, 0], counts[:, 1]
        observed = float(ratio(*a.sum(axis=0)) - ratio(*b.sum(axis=0)))
        drawn = stats.permuted(a, b, ratio, replicates, seed=trial)
        wrong += stats.p_value(observed, drawn) <= 0.05
    return wrong / trials


def write_corpus(directory, utterances):
    """Write ref, a and b, Kaldi texts of random words with about 10 % errors -> their paths."""
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(5000)]
    files = [directory / name for name in ("ref", "a", "b")]
    with files[0].open("w") as ref, files[1].open("w") as a, files[2].open("w") as b:
        for i in range(utterances):
            words = rng.choices(vocabulary, k=rng.randint(*WORDS))
            ref.write(f"utt{i:07d} {' '.join(words)}\n")
            for out in (a, b):
                kept = [w for w in words if rng.random() > 0.02] or words
                said = [w if rng.random() > 0.08 else rng.choice(vocabulary) for w in kept]
                out.write(f"utt{i:07d} {' '.join(said)}\n")
    return files


def time_command(utterances=100_000, more=()):
    """Return seconds and peak MiB of `bin.score` on two systems with 1,000 replicates."""
    with tempfile.TemporaryDirectory() as directory:
        ref, a, b = map(str, write_corpus(Path(directory), utterances))
        command = [sys.executable, "-m", "espnet_llmvq", "score", "--ref", ref]
        command += ["--hyp", a, "--hyp", b, "--replicates", "1000", *more]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "utterances": utterances,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_MiB": round(used.ru_maxrss / 1024),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", required=True, help="file to write")
    args = parser.parse_args()
    # First: the peak of child processes is that of the largest so far.
    speed = time_command()
    print("speed", speed, flush=True)
    result = {"cpus": os.cpu_count(), "speed": speed, "coverage": {}}
    result |= {"coverage_of_difference": {}, "false_positives": {}}
    for name, shape in SETS.items():
        result["coverage"][name] = coverage(shape)
        result["coverage_of_difference"][name] = coverage_of_difference(shape)
        result["false_positives"][name] = false_positives(shape)
        print(name, *(result[key][name] for key in list(result)[2:]), flush=True)
    write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
