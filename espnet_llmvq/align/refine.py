"""Word boundaries by letter models: fitted to the speech that is being aligned, with nothing but its transcripts.

A CTC head says in which order words come, not where they begin: its spikes are one encoder step long, and an encoder
with attention may put them anywhere in a word. So the CTC path only starts a search, as a uniform start does in HMM
training: a Gaussian for each of the `STATES` parts of each letter and one for silence, with one covariance in common,
are estimated from the current boundaries, and the most probable boundaries under them take their place (Viterbi
training; the transitions are free). Frames are 10 ms apart, whatever the encoder's step is.
"""

import contextlib
import functools
import unicodedata

import numpy as np

from espnet_llmvq.align.ctm import Word
from espnet_llmvq.data.audio import SAMPLE_RATE

STATES = 2  # of a letter; each takes at least one frame
WINDOW, HOP = 400, 160  # samples
SILENCE, UNKNOWN = 0, 1  # rows of a model: silence, and letters that it was not fitted to; 0 is silence in a path too
QUIET = 0.1  # share of an utterance's frames, the quietest, that are silence at first
SHORTEST_PAUSE = 0.06  # s; less between two words belongs to the second: the closure of a plosive, most often
FIT_SECONDS = 6000.0  # of speech that the models are fitted to, where there is more; about 100 MB of features
ITERATIONS = 8


@functools.cache
def _mfcc():
    import torchaudio

    conf = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": 40, "center": False}
    return torchaudio.transforms.MFCC(SAMPLE_RATE, 13, log_mels=True, melkwargs=conf)


def features(wave):
    """(S,) waveform at 16 kHz -> (T, 39): 13 MFCCs with first and second differences, mean 0, variance 1.

    Frame t lies around t * HOP + WINDOW / 2. Raises ValueError for less than a window.
    """
    import torch
    from torchaudio.functional import compute_deltas

    if len(wave) < WINDOW:
        raise ValueError(f"audio too short: {len(wave)} samples, a window has {WINDOW}")
    x = _mfcc()(torch.as_tensor(wave, dtype=torch.float32))
    delta = compute_deltas(x)
    x = torch.cat([x, delta, compute_deltas(delta)]).T.numpy()
    return (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)


def letters(words):
    """States of words, in their order: ([(letter, part)], (S,) index of the word of each)."""
    states, owners = [], []
    for i, word in enumerate(words):
        # A word of signs alone ("&") is spoken too, as is one thing.
        for letter in [c for c in word.casefold() if unicodedata.category(c)[0] in "LMN"] or [word]:
            states += [(letter, part) for part in range(STATES)]
            owners += [i] * STATES
    return states, np.array(owners)


def observed(words, wave):
    """Words and their (S,) waveform -> (features, states, word of each state). Raises ValueError if it is too short."""
    states, owners = letters([w.word for w in words])
    x = features(wave)
    if len(x) < len(states):
        raise ValueError(f"audio too short: {len(x)} frames of 10 ms, its letters need {len(states)}")
    return x, states, owners


def first_path(words, owners, x):
    """(T,) state + 1 of each frame: each word from halfway to its neighbours, its states of equal length."""
    centres = (np.arange(len(x)) * HOP + WINDOW / 2) / SAMPLE_RATE
    cuts = [(a.end + b.start) / 2 for a, b in zip(words, words[1:])]
    word_of = np.searchsorted(cuts, centres, side="right")
    path = np.full(len(x), SILENCE)
    for i in range(len(words)):
        frames, own = np.flatnonzero(word_of == i), np.flatnonzero(owners == i)
        path[frames] = own[np.arange(len(frames)) * len(own) // max(len(frames), 1)] + 1
    path[x[:, 0] <= np.quantile(x[:, 0], QUIET)] = SILENCE
    return path


class LetterModels:
    """Gaussians of letter parts and of silence, with one covariance.

    Args:
        examples: [((T, D) features, [state], (T,) path)]; path: index of the state + 1, or SILENCE.
    """

    def __init__(self, examples):
        known = sorted({state for _, states, _ in examples for state in states})
        self.index = {state: i for i, state in enumerate(known, UNKNOWN + 1)}
        rows = [np.array(self.labels(states))[path] for _, states, path in examples]
        size, dimensions = len(known) + 2, examples[0][0].shape[1]
        total, count = np.zeros((size, dimensions)), np.zeros(size)
        for (x, _, _), row in zip(examples, rows):
            np.add.at(total, row, x)
            count += np.bincount(row, minlength=size)
        # One more frame, at the mean of all, keeps what has few or none.
        mean = (total + total.sum(0) / count.sum()) / (count[:, None] + 1)
        covariance = 1e-3 * np.eye(dimensions)
        for (x, _, _), row in zip(examples, rows):
            rest = x - mean[row]
            covariance += rest.T @ rest / count.sum()
        self.whiten = np.linalg.cholesky(np.linalg.inv(covariance))
        self.mean = mean @ self.whiten

    def labels(self, states):
        """Rows of the model for silence and the states."""
        return [SILENCE, *(self.index.get(state, UNKNOWN) for state in states)]

    def path(self, x, states):
        """The most probable (T,) path through all `states`, with silence wherever it fits."""
        import torch
        from torchaudio.functional import forced_align

        mean = self.mean[self.labels(states)]
        scores = x @ self.whiten @ mean.T - (mean**2).sum(1) / 2
        # Each state is a token of its own, so that CTC's rules are those of a chain with silence as the blank.
        path, _ = forced_align(
            torch.as_tensor(scores, dtype=torch.float32)[None], torch.arange(1, len(states) + 1)[None], blank=SILENCE
        )
        return path[0].numpy()


def timed(words, owners, path, duration):
    """Words with the times of a path; short gaps between two of them are closed."""
    edge = (WINDOW - HOP) / 2 / SAMPLE_RATE  # from the start of a frame's window to where the frame before ends
    step = HOP / SAMPLE_RATE
    times = []
    for i in range(len(words)):
        frames = np.flatnonzero((path != SILENCE) & (owners[np.maximum(path - 1, 0)] == i))
        times.append([frames[0] * step + edge, min((frames[-1] + 1) * step + edge, duration)])
    if path[0] != SILENCE:
        times[0][0] = 0.0
    if path[-1] != SILENCE:
        times[-1][1] = duration
    for a, b in zip(times, times[1:]):
        if b[0] - a[1] < SHORTEST_PAUSE:
            b[0] = a[1]
    return [Word(w.word, start, end - start, w.confidence) for w, (start, end) in zip(words, times)]


def refine(words, load):
    """Move the word boundaries of a CTC alignment to where letter models put them.

    words: {utterance: [Word]}, as `align_words` gives them. load: function from an utterance to its (S,) waveform at
    16 kHz. Returns ({utterance: [Word]}, {utterance: reason}); confidences stay those of CTC.
    """
    from tqdm import tqdm

    utts, examples, seconds = sorted(words), [], 0.0
    # Drawn, so that the models are not those of the speakers whose names come first.
    for i in np.random.default_rng(0).permutation(len(utts)):
        if seconds >= FIT_SECONDS:
            break
        wave = load(utts[i])
        with contextlib.suppress(ValueError):  # it fails below, where it is noted
            x, states, owners = observed(words[utts[i]], wave)
            examples.append((x, states, first_path(words[utts[i]], owners, x)))
            seconds += len(wave) / SAMPLE_RATE
    if examples:
        for _ in tqdm(range(ITERATIONS), desc="fit letter models", mininterval=1):
            models = LetterModels(examples)
            examples = [(x, states, models.path(x, states)) for x, states, _ in examples]
    found, failed = {}, {}
    for utt in tqdm(utts, desc="place boundaries", unit="utt", mininterval=1):
        wave = load(utt)
        try:
            x, states, owners = observed(words[utt], wave)
        except ValueError as err:
            failed[utt] = str(err)
            continue
        found[utt] = timed(words[utt], owners, models.path(x, states), len(wave) / SAMPLE_RATE)
    return found, failed
