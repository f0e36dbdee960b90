"""What is wrong in which utterance: worst utterances, frequent confusions, counts of errors."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

MAX_PAIRS = 250  # words of a diff
MAX_RUN = 12  # words put in one after the other; a hypothesis that loops can have thousands


def worst(scores, count):
    """{utterance: systems among whose `count` worst it is}.

    Ordered by the most errors that any system has in it.

    scores: {system: UtteranceScores of one set, the same utterances in the same order}. The worst have most word
    errors; of equal ones the first in the set. An utterance without errors is never among them.
    """
    worst_of, most = {}, {}  # most: in the order of the set
    for system, utterances in scores.items():
        counts = {score.utt: score.errors for score in utterances}
        for utt, count_here in counts.items():
            most[utt] = max(most.get(utt, 0), count_here)
        for utt in sorted(counts, key=counts.get, reverse=True)[:count]:
            if counts[utt]:
                worst_of.setdefault(utt, []).append(system)
    return {utt: worst_of[utt] for utt in sorted(most, key=most.get, reverse=True) if utt in worst_of}


def confusions(scores, count):
    """The most frequent errors of UtteranceScores: {op: [(ref word, hyp word, times)]}.

    At most `count` of each of "S", "D" and "I"; equally frequent ones in alphabetical order.
    """
    tally = Counter(pair for score in scores for pair in score.pairs if pair[0] != "=")
    ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    return {op: [(ref, hyp, times) for (kind, ref, hyp), times in ranked if kind == op][:count] for op in "SDI"}


@dataclass(frozen=True)
class Diff:
    """An alignment to be shown: the first pairs, how many were cut off, and the errors in words.

    Of a long run of words put in the first MAX_RUN are there, and one pair ("+", "", how many more).
    """

    pairs: tuple
    cut: int
    spoken: str


def _spoken(op, ref, hyp):
    words = {"S": f"“{hyp}” for “{ref}”", "D": f"“{ref}” left out", "I": f"“{hyp}” put in", "+": f"{hyp} more put in"}
    return words[op]


def make_diff(score):
    """The Diff of an UtteranceScore, with at most MAX_PAIRS words of it."""
    pairs = []
    for put_in, run in groupby(score.pairs, lambda pair: pair[0] == "I"):
        run = list(run)
        pairs += run[:MAX_RUN] if put_in else run
        if put_in and len(run) > MAX_RUN:
            pairs.append(("+", "", len(run) - MAX_RUN))
    shown = tuple(pairs[:MAX_PAIRS])
    wrong = [_spoken(*pair) for pair in shown if pair[0] != "="]
    return Diff(shown, len(pairs) - len(shown), "; ".join(wrong) or "no errors")
