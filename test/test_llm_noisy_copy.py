"""Noisy copies against closed forms and enumeration."""

import collections
import itertools
import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.noisy_copy import Noise, NoisyCopy, Resegmenter

TEMPLATE = "USER: {speech} ASSISTANT: {text}"
S = "\u2581"
WORDS = "abcdefgh"
QUIET = dict(p_resegment=0, p_drop=0, p_substitute=0, p_insert=0, p_repeat=0, p_blank=0)


class Fixed(Noise):
    """Noise whose every example has the largest rates."""

    def draw(self, rng):
        return [self.p_resegment, self.p_drop, self.p_substitute, self.p_insert, self.p_repeat, self.p_blank]


@pytest.fixture(scope="module")
def tokenizer():
    special = ["<unk>", "<s>", "</s>", "<pad>", "<blank>"]
    vocab = [(p, 0.0) for p in special] + [(S + "USER:", -1.0), (S + "ASSISTANT:", -1.0)]
    vocab += [(S + w, -3.0) for w in WORDS] + [(w, -4.0) for w in WORDS] + [(S, -3.5), ("bc", -4.5)]
    t = Tokenizer(models.Unigram(vocab, unk_id=0))
    t.pre_tokenizer = pre_tokenizers.Metaspace(S, prepend_scheme="always")
    t.decoder = decoders.Metaspace(S, prepend_scheme="always")
    t.add_special_tokens(special)
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=t, extra_special_tokens=["<blank>"], **names)


def copier(tokenizer, kind=Fixed, **rates):
    return NoisyCopy(tokenizer, TEMPLATE, kind(**{**QUIET, **rates}))


def test_example_without_noise(tokenizer):
    c = copier(tokenizer)
    (tokens,) = c.encode(["abc d"])
    ids, n = c.example(tokens, np.random.default_rng(1))
    names = tokenizer.convert_ids_to_tokens(ids)
    copy = tokenizer.convert_ids_to_tokens(tokens)
    assert names == [S + "USER:", *copy, S + "ASSISTANT:", *copy, "</s>"]
    assert n == len(copy) + 1
    ids, n = c.plain(tokens)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *copy, "</s>"]
    assert n == len(copy) + 1


def test_same_generator_same_noise(tokenizer):
    c = copier(tokenizer, Noise, **{k: 0.5 for k in QUIET})
    (tokens,) = c.encode(["abc d ef gh a b"])
    first, again, other = (c.disturb(tokens, np.random.default_rng(s)) for s in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize("key", ["p_repeat", "p_insert", "p_blank"])
def test_geometric_rates(tokenizer, key):
    rate = 0.6
    c = copier(tokenizer, **{key: rate})
    tokens = tokenizer.encode("a", add_special_tokens=False) * 20000
    out = c.disturb(tokens, np.random.default_rng(1))
    extra = len(out) / len(tokens) - 1
    # mean r / (1 - r), variance r / (1 - r)^2 of a geometric count
    assert extra == pytest.approx(rate / (1 - rate), abs=4 * math.sqrt(rate) / (1 - rate) / math.sqrt(20000))
    counts = collections.Counter(out)
    if key == "p_repeat":
        assert set(counts) == set(tokens)
    elif key == "p_blank":
        assert set(counts) == {tokens[0], 4} and counts[tokens[0]] == 20000
    else:
        assert set(counts) == set(c.ordinary)


def test_drop_and_substitute(tokenizer):
    tokens = tokenizer.encode("a", add_special_tokens=False) * 20000
    kept = copier(tokenizer, p_drop=0.3).disturb(tokens, np.random.default_rng(1))
    assert len(kept) == pytest.approx(14000, abs=4 * math.sqrt(20000 * 0.21))
    c = copier(tokenizer, p_substitute=0.5)
    out = c.disturb(tokens, np.random.default_rng(1))
    assert len(out) == 20000
    same = 0.5 + 0.5 / len(c.ordinary)
    assert out.count(tokens[0]) == pytest.approx(20000 * same, abs=4 * math.sqrt(5000))


def test_ordinary_pieces(tokenizer):
    names = set(tokenizer.convert_ids_to_tokens(copier(tokenizer).ordinary))
    assert names == {*WORDS, *(S + w for w in WORDS), S, "bc"}


def test_segmentations_follow_the_model():
    scores = {S: -1.0, S + "a": -0.5, "a": -1.5, "b": -1.0, "ab": -2.0, "ba": -1.2, S + "ab": -2.5}
    word, alpha = S + "aba", 0.7
    weights = {}
    for cuts in itertools.product((0, 1), repeat=len(word) - 1):
        pieces, start = [], 0
        for end in [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]:
            pieces.append(word[start:end])
            start = end
        if all(p in scores for p in pieces):
            weights[tuple(pieces)] = math.exp(alpha * sum(scores[p] for p in pieces))
    rng = np.random.default_rng(1)
    r = Resegmenter(scores, alpha)
    n = 20000
    counts = collections.Counter(tuple(r.sample(word, rng)) for _ in range(n))
    assert set(counts) == set(weights) and len(weights) > 4
    for pieces, weight in weights.items():
        p = weight / sum(weights.values())
        assert counts[pieces] / n == pytest.approx(p, abs=4 * math.sqrt(p / n))
    assert r.sample(S + "x", rng) is None


def test_resegmenting_keeps_the_text(tokenizer):
    c = copier(tokenizer, p_resegment=0.9, resegment_alpha=0.1)
    line = "abc bc def bcbc a x b"
    (tokens,) = c.encode([line.replace("x", "é")])
    rng = np.random.default_rng(1)
    outs = [c.disturb(tokens, rng) for _ in range(50)]
    assert {tokenizer.decode(o) for o in outs} == {tokenizer.decode(tokens)}
    assert len({tuple(o) for o in outs}) > 20


def test_clean_to_noisy_examples_occur(tokenizer):
    c = NoisyCopy(tokenizer, TEMPLATE, Noise())
    (tokens,) = c.encode(["abc d ef gh"])
    rng = np.random.default_rng(1)
    outs = [c.disturb(tokens, rng) for _ in range(1000)]
    clean = sum(o == tokens for o in outs) / 1000
    assert 0.01 < clean < 0.3
    assert max(map(len, outs)) > 2 * len(tokens)


def test_limit_falls_back_to_a_clean_copy(tokenizer):
    c = copier(tokenizer, p_repeat=0.9)
    (tokens,) = c.encode(["a b c d"])
    ids, n = c.example(tokens, np.random.default_rng(1), limit=2 * len(tokens) + 3)
    assert ids[1 : 1 + len(tokens)] == tokens and len(ids) == 2 * len(tokens) + 3


def test_tokenizer_of_another_kind():
    vocab = {w: i for i, w in enumerate(["<eos>", "<unk>", "a", "b", "USER", ":", "ASSISTANT"])}
    t = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    other = PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<eos>", unk_token="<unk>")
    c = copier(other, p_resegment=0.9, p_blank=0.9)
    (tokens,) = c.encode(["a b"])
    assert c.disturb(tokens, np.random.default_rng(1)) == tokens
    assert c.plain(tokens)[0] == [0, 2, 3, 0]
    assert c.head == [4, 5] and c.middle == [6, 5]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_out_of_range(rate):
    with pytest.raises(UserError, match="noise.p_repeat"):
        Noise(p_repeat=rate)
