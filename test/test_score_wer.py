"""Error counts against hand counts and a brute-force Levenshtein distance."""

import random

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.wer import format_alignments, oov_rate, score_utterances, split_words, total, word_counts


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def random_set(seed, n=200):
    rng = random.Random(seed)
    vocabulary = ["a", "b", "ab", "ba", "é", "你好", "c'd"]
    return [{f"u{i}": rng.choices(vocabulary, k=rng.randint(0, 9)) for i in range(n)} for _ in range(2)]


def test_hand_counts():
    refs = {"u1": ["the", "cat", "sat", "on", "the", "mat"], "u2": ["hello", "world"]}
    hyps = {"u1": ["the", "cat", "sit", "on", "mat"], "u2": ["oh", "hello", "world"]}
    scores = score_utterances(refs, hyps)
    score = total(scores)
    # u1: sat/sit, -the; u2: +oh. Characters: a/i, "the " (4), "oh " (3) of 22 + 11.
    assert (score.substitutions, score.deletions, score.insertions) == (1, 1, 1)
    assert (score.words, sum(s.chars for s in scores), sum(s.char_errors for s in scores)) == (8, 33, 8)
    assert score.wer == pytest.approx(37.5)


def align(ref, hyp):
    (score,) = score_utterances({"": ref}, {"": hyp})
    assert (score.words, score.errors) == (len(ref), sum(op != "=" for op, _, _ in score.pairs))
    return score.pairs


def test_align():
    pairs = (("=", "a", "a"), ("S", "b", "x"), ("=", "c", "c"), ("I", "", "d"))
    assert align(["a", "b", "c"], ["a", "x", "c", "d"]) == pairs
    assert align(["a", "b"], []) == (("D", "a", ""), ("D", "b", ""))
    assert align([], []) == ()


def test_against_brute_force():
    refs, hyps = random_set(0)
    for score in score_utterances(refs, hyps):
        ref, hyp = refs[score.utt], hyps[score.utt]
        assert sum(pair[0] != "=" for pair in score.pairs) == levenshtein(ref, hyp)
        assert score.char_errors == levenshtein(" ".join(ref), " ".join(hyp))
        assert score.chars == len(" ".join(ref))
        # the alignment contains each side in order, and its labels are true
        assert [r for op, r, _ in score.pairs if op != "I"] == ref
        assert [h for op, _, h in score.pairs if op != "D"] == hyp
        assert all((op == "=") == (r == h) for op, r, h in score.pairs)


def test_total_is_sum_over_utterances_not_mean_of_rates():
    refs, hyps = random_set(1)
    scores = score_utterances(refs, hyps)
    score = total(scores)
    errors = sum(levenshtein(refs[u], hyps[u]) for u in refs)
    assert score.wer == pytest.approx(100 * errors / sum(map(len, refs.values())))
    short_long = score_utterances({"s": ["a"], "l": ["b"] * 9}, {"s": ["x"], "l": ["b"] * 9})
    assert total(short_long).wer == pytest.approx(10)  # the mean of the rates would be 50


def test_order_does_not_matter():
    refs, hyps = random_set(2)
    shuffled = list(refs)
    random.Random(0).shuffle(shuffled)
    other = score_utterances({u: refs[u] for u in shuffled}, dict(reversed(hyps.items())))
    assert total(other) == total(score_utterances(refs, hyps))


def test_empty_reference_counts_insertions():
    score = total(score_utterances({"a": [], "b": ["x"]}, {"a": ["y", "z"], "b": ["x"]}))
    assert (score.insertions, score.words, score.wer) == (2, 1, 200)
    with pytest.raises(UserError, match="no words"):
        total(score_utterances({"a": []}, {"a": ["y"]}))


def test_characters_are_code_points():
    (score,) = score_utterances({"a": ["größe", "你好"]}, {"a": ["grösse", "你"]})
    assert (score.chars, score.char_errors) == (8, 3)  # ß/s, +s, -好


def test_oov_rate_counts_tokens():
    refs = split_words({"u1": "The cat, the dog", "u2": "cat"}, lambda t: t.lower())
    known = word_counts({"t": "The cat", "u": "the"}, lambda t: t.lower())
    assert known == {"the": 2, "cat": 1}
    assert oov_rate(refs, known) == pytest.approx(40)  # "cat," and "dog" of 5
    assert oov_rate({"u": []}, {"a": 1}) == 0


def test_format_alignments():
    scores = score_utterances({"u1": ["a", "bb", "c"]}, {"u1": ["a", "x", "c", "dd"]})
    assert format_alignments(scores) == (
        "id: (u1)\nScores: (#C #S #D #I) 2 1 0 1\nREF:  a bb c **\nHYP:  a x  c dd\nEval:   S    I\n"
    )
