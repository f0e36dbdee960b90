"""What comes from sacrebleu: the 13a tokeniser of TER, and BLEU and chrF as sums over utterances."""

import functools


@functools.lru_cache(maxsize=None)
def _tokeniser():
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def tokens_13a(text):
    """The 13a tokens of a raw text: case kept, punctuation as tokens of its own."""
    return _tokeniser()(text).split()


@functools.lru_cache(maxsize=None)
def _metric(name):
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU, "chrf": CHRF}[name]()


def statistics(name, refs, hyps):
    """(N, K) sufficient statistics of "bleu" or "chrf" of N utterances, as lists.

    refs, hyps: lists of raw texts. The score of a set is that of the column sums.
    """
    # Not public, but what sacrebleu's own bootstrap resamples; a test compares with corpus_score.
    return _metric(name)._extract_corpus_statistics(hyps, [refs])


def from_sums(name, *sums):
    """The score, 0 to 100, of summed statistics: floats, or arrays of one shape each."""
    import numpy as np

    metric = _metric(name)

    def score(*row):
        return metric._compute_score_from_stats(list(map(int, row))).score  # sums of whole numbers are exact

    if np.ndim(sums[0]) == 0:
        return score(*sums)
    return np.array([score(*row) for row in zip(*sums)])
