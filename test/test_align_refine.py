"""Letter models: their path against all paths of small cases, and known boundaries of made-up speech."""

import itertools

import numpy as np
import pytest

from espnet_llmvq.align import refine as module
from espnet_llmvq.align.ctm import Word
from espnet_llmvq.align.refine import HOP, SILENCE, STATES, WINDOW, LetterModels, first_path, letters, refine, timed

RATE = 16000


def test_letters_of_words():
    states, owners = letters(["Né.", "&", "2b"])
    assert [c for c, part in states if part == 0] == ["n", "é", "&", "2", "b"]
    assert [part for _, part in states] == list(range(STATES)) * 5
    assert owners.tolist() == [0] * 2 * STATES + [1] * STATES + [2] * 2 * STATES


def all_paths(frames, states):
    """Every chain through states 1..S in their order, with silence before, between and after them."""
    for path in itertools.product(range(states + 1), repeat=frames):
        runs = [state for state, _ in itertools.groupby(path) if state != SILENCE]
        if runs == list(range(1, states + 1)):
            yield path


@pytest.mark.parametrize("seed", range(6))
def test_path_is_the_best_of_all_paths(seed):
    generator = np.random.default_rng(seed)
    states = [("a", 0), ("a", 1), ("b", 0)]
    x = generator.normal(size=(40, 2)).astype(np.float32)
    models = LetterModels([(x, states, generator.integers(0, 4, 40))])
    x = generator.normal(size=(6, 2)).astype(np.float32)
    # Log density of each frame, from mean and covariance themselves.
    mean = models.mean @ np.linalg.inv(models.whiten)
    precision = models.whiten @ models.whiten.T
    rest = x[:, None] - mean[models.labels(states)]
    density = -0.5 * np.einsum("tsd,de,tse->ts", rest, precision, rest)
    best = max(all_paths(6, 3), key=lambda path: sum(density[t, k] for t, k in enumerate(path)))
    assert models.path(x, states).tolist() == list(best)


def test_models_are_the_means_of_their_frames():
    x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 4.0], [6.0, 0.0]], np.float32)
    models = LetterModels([(x, [("a", 0), ("a", 1)], np.array([0, 1, 1, 2]))])
    # Each with one frame more, at the mean of all (3, 2); rows: silence, unknown, a0, a1.
    mean = models.mean @ np.linalg.inv(models.whiten)
    np.testing.assert_allclose(mean, [[1.5, 1.5], [3, 2], [3, 3], [4.5, 1]])
    rest = x - mean[[0, 2, 2, 3]]
    covariance = np.linalg.inv(models.whiten @ models.whiten.T)
    np.testing.assert_allclose(covariance, rest.T @ rest / 4 + 1e-3 * np.eye(2))
    assert models.labels([("a", 1), ("z", 0)]) == [0, 3, 1]


def test_first_path_goes_halfway():
    # Frame centres are 12.5, 22.5 ... ms; the cut is halfway between 0.03 and 0.09 s, the quietest frame the last.
    x = np.zeros((10, 39), np.float32)
    x[:, 0] = np.arange(10, 0, -1)
    words = [Word("a", 0.01, 0.02), Word("b", 0.09, 0.01)]
    path = first_path(words, letters(["a", "b"])[1], x)
    assert path.tolist() == [1, 1, 1, 2, 2, 3, 3, 3, 4, SILENCE][: len(x)]


def test_times_of_a_path_by_hand():
    words = [Word(w, 0, 1, c) for w, c in (("a", 0.5), ("b", None), ("c", 0.25))]
    owners = np.array([0, 0, 1, 1, 2, 2])
    # Silence for 2 frames, a for 4, silence for 2, b for 3, silence for 7, c for 2 to the end.
    path = np.array([0, 0, 1, 1, 1, 2, 0, 0, 3, 4, 4, *[0] * 7, 5, 6])
    found = timed(words, owners, path, 0.222)
    # Frame t begins at 10 t + 7.5 ms: halfway between the middles of two windows of 25 ms.
    expected = [(0.0275, 0.0675), (0.0675, 0.1175), (0.1875, 0.222)]
    np.testing.assert_allclose([(w.start, w.end) for w in found], expected)
    assert [w.confidence for w in found] == [0.5, None, 0.25]


def test_speech_to_the_ends_has_no_silence_there():
    found = timed([Word("a", 0, 1)], np.array([0, 0]), np.array([1, 2, 2]), 0.05)
    assert [(w.start, w.end) for w in found] == [(0.0, 0.05)]


def spoken(words, generator):
    """A waveform in which each letter is a tone of its own for 60 to 140 ms, and [Word] with its true times."""
    pieces, times, at = [], [], 0

    def add(seconds, hertz, level):
        nonlocal at
        t = np.arange(round(seconds * RATE)) / RATE
        pieces.append(level * np.sin(2 * np.pi * hertz * t))
        at += len(t)

    for i, word in enumerate(words):
        if i in (0, 2):
            add(0.25, 100, 1e-4)
        start = at
        for letter in word:
            add(generator.uniform(0.06, 0.14), 300 * 1.35 ** "abcdefgh".index(letter), 0.3)
        times.append(Word(word, start / RATE, (at - start) / RATE))
    add(0.25, 100, 1e-4)
    wave = np.concatenate(pieces)
    return (wave + 1e-3 * generator.normal(size=len(wave))).astype(np.float32), times


def corpus(n=25):
    generator = np.random.default_rng(1)
    vocabulary = ["ab", "cad", "bed", "face", "gab", "he", "deaf", "hag"]
    waves, truth, start = {}, {}, {}
    for i in range(n):
        utt = f"u{i:02d}"
        words = generator.choice(vocabulary, 5).tolist()
        waves[utt], truth[utt] = spoken(words, generator)
        # As CTC gives them: one step of 80 ms anywhere in the word.
        start[utt] = [
            Word(w.word, 0.08 * np.floor((w.start + w.duration * generator.random()) / 0.08), 0.08, 0.5)
            for w in truth[utt]
        ]
    return waves, truth, start


def test_boundaries_of_made_up_speech_are_found():
    waves, truth, start = corpus()
    found, failed = refine(start, waves.get)
    assert not failed and found.keys() == truth.keys()

    def errors(words):
        pairs = [pair for utt in truth for pair in zip(truth[utt], words[utt])]
        return np.abs([(a.start - b.start, a.end - b.end) for a, b in pairs]) * 1000

    assert np.percentile(errors(start), 90) > 100
    assert np.median(errors(found)) < 10 and np.percentile(errors(found), 90) < 20
    assert [w.confidence for w in found["u00"]] == [0.5] * 5
    # The third word follows a silence; the others follow each other at once.
    gaps = np.array([[b.start - a.end for a, b in zip(w, w[1:])] for w in found.values()])
    assert np.all(np.abs(gaps[:, 1] - 0.25) < 0.05)
    np.testing.assert_allclose(gaps[:, [0, 2, 3]], 0, atol=1e-9)


def test_result_depends_on_neither_order_nor_repetition():
    waves, _, start = corpus(8)
    found, _ = refine(start, waves.get)
    assert refine(dict(reversed(start.items())), waves.get)[0] == found


def test_models_of_a_part_serve_all(monkeypatch):
    waves, truth, start = corpus()
    monkeypatch.setattr(module, "FIT_SECONDS", 20.0)
    found, _ = refine(start, waves.get)
    errors = [abs(a.start - b.start) for utt in truth for a, b in zip(truth[utt], found[utt])]
    assert found.keys() == truth.keys() and np.median(errors) < 0.015


def test_too_short_audio_is_noted():
    waves, _, start = corpus(4)
    waves["u00"] = waves["u00"][: WINDOW - 1]
    waves["u01"] = waves["u01"][: WINDOW + 2 * HOP]
    found, failed = refine(start, waves.get)
    assert sorted(found) == ["u02", "u03"]
    needed = len(letters([w.word for w in start["u01"]])[0])
    assert failed == {
        "u00": f"audio too short: {WINDOW - 1} samples, a window has {WINDOW}",
        "u01": f"audio too short: 3 frames of 10 ms, its letters need {needed}",
    }
    assert refine({"u00": start["u00"]}, waves.get) == ({}, {"u00": failed["u00"]})


def test_features_have_mean_0_and_variance_1():
    x = module.features(np.random.default_rng(0).normal(size=WINDOW + 99 * HOP + 7).astype(np.float32) * 0.1)
    assert x.shape == (100, 39)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-3)
