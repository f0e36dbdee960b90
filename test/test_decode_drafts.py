"""Decoding with drafts: texts are those of plain greedy search, whatever the drafts; passes counted by hand."""

import random
from types import SimpleNamespace

import families
import pytest
import torch
from families import Ends

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.ctc import drafts, greedy, respeller
from espnet_llmvq.decode.drafts import Place, check_cache
from espnet_llmvq.decode.generate import generate, log_probability, search
from espnet_llmvq.decode.questions import LLMAlone
from espnet_llmvq.sequence.sequence import Span

EOS = 2
LIMITS = [14, 11, 17, 6]


def spoilt(tokens, rng):
    """A text with tokens left out, put in and exchanged, a fifth in all."""
    out = []
    for token in tokens:
        change = rng.choice(["left out", "put in", "exchanged", *[""] * 12])
        out += [] if change == "left out" else [rng.randrange(4, 40)] if change == "exchanged" else [token]
        out += [rng.randrange(4, 40)] if change == "put in" else []
    return out


def kinds(texts):
    """{kind of draft: a draft for each text}"""
    rng = random.Random(1)
    return {
        "right": texts,
        "empty": [[] for _ in texts],
        "wrong": [[rng.randrange(4, 40) for _ in range(9)] for _ in texts],
        "spoilt": [spoilt(text, rng) for text in texts],
        "too long": [text + [5, 6, 7, 8] * 9 for text in texts],
        "too short": [text[:-3] for text in texts],
        "shifted": [[9, 8, *text] for text in texts],
        "without its begin": [text[2:] for text in texts],
    }


def prompts_of(llm, lengths=(3, 9, 1, 5)):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return [llm.get_input_embeddings()(torch.randint(4, 40, (n,), generator=generator)) for n in lengths]


def difference(llm, prompt, one, other):
    """Of the logits of the two tokens at which texts part."""
    same = next(i for i, pair in enumerate(zip([*one, EOS], [*other, EOS])) if pair[0] != pair[1])
    with torch.no_grad():
        embedded = llm.get_input_embeddings()(torch.tensor(one[:same], dtype=torch.long))
        logits = llm(inputs_embeds=torch.cat([prompt, embedded])[None]).logits[0, -1]
    return abs(float(logits[[*one, EOS][same]] - logits[[*other, EOS][same]]))


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "gemma3_text", "mixtral", "minicpm3", "opt", "gpt2", "bloom", "falcon"]
)
def test_texts_are_those_of_plain_greedy_search(family, monkeypatch):
    """Of LLMs with positions, without, with latent keys, with a window shorter than the text; scores too."""
    if family == "mistral":
        monkeypatch.setitem(families.FAMILIES, family, {**families.SIZES, "sliding_window": 6})
    llm = families.make(family)
    model, tokenizer, prompts = LLMAlone(llm, EOS), Ends(40, EOS, 3), prompts_of(llm)
    plain = [found for (found,) in search(model, tokenizer, prompts, LIMITS, 1)]
    drafted = []
    for kind, given in kinds([h.tokens for h in plain]).items():
        lists = search(model, tokenizer, prompts, LIMITS, drafts=given)
        for prompt, limit, h, (found, *draft), own in zip(prompts, LIMITS, plain, lists, given):
            # behind it the draft, if it is another text and was read, with the score that a pass over it gives
            assert [d.tokens for d in draft] == ([own] if own != found.tokens and len(own) <= limit else [])
            if draft:
                ((score,),) = log_probability(model, [prompt], [[own]])
                assert draft[0].llm == pytest.approx(score, abs=2e-4) and not draft[0].at_limit
                drafted.append(kind)
            if found.tokens != h.tokens:  # which floating point may do to what is nearly a tie
                gap = difference(llm, prompt, h.tokens, found.tokens)
                print(f"{family}, {kind}: {h.tokens} and {found.tokens} are {gap:.1e} apart")
                assert gap < 1e-4
                continue
            assert found.llm == pytest.approx(h.llm, abs=2e-4) and found.at_limit == h.at_limit
            assert 1 <= found.passes <= len(found.tokens) + 1 and found.accepted <= len(found.tokens) + 1
        if kind == "right":
            assert [found.passes for (found,) in lists] == [1] * 4
    assert len(set(drafted)) > 3
    # neighbours change nothing, nor do passes and accepted tokens
    alone = [search(model, tokenizer, [p], [n], drafts=[d])[0] for p, n, d in zip(prompts, LIMITS, given)]
    for (one, *_), (found, *_) in zip(alone, lists):
        assert (one.tokens, one.passes, one.accepted) == (found.tokens, found.passes, found.accepted)
        assert one.llm == pytest.approx(found.llm, abs=2e-4)


@pytest.fixture
def counting():
    """An LLM that writes the number behind the last one, ends behind 19, and thinks 30 half as probable.

    Its only layer adds nothing to the embeddings, which are one-hot. `.read`: (texts, positions) of each pass.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {**families.SIZES, "hidden_size": 40, "num_hidden_layers": 1}
    llm = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.dim() > 1:
                parameter.zero_()
        llm.model.embed_tokens.weight.copy_(torch.eye(40))
        for token in range(40):
            llm.lm_head.weight[EOS if token == 19 else (token + 1) % 40, token] = 10 / 40**0.5
            llm.lm_head.weight[30, token] = (10 - torch.tensor(2.0).log()) / 40**0.5
    read = []
    llm.get_decoder().register_forward_pre_hook(
        lambda module, args, given: read.append(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    return SimpleNamespace(llm=llm, model=LLMAlone(llm, EOS), tokenizer=Ends(40, EOS, 3), read=read)


def count(counting, given, begins=(11,), limits=(20,), **options):
    """Hypotheses after prompts of two tokens, which end in `begins`."""
    counting.read.clear()
    embed = counting.llm.get_input_embeddings()
    prompts = [embed(torch.tensor([1, begin])).detach() for begin in begins]
    return [h for (h, *_) in search(counting.model, counting.tokenizer, prompts, limits, drafts=given, **options)]


TEXT = [12, 13, 14, 15, 16, 17, 18, 19]


@pytest.mark.parametrize(
    "draft, accepted, read",
    [
        (TEXT, 9, [10]),
        ([], 1, [2, *[1] * 8]),
        ([12, 13, 14, 33, 16, 17, 18, 19], 8, [10, 5]),  # exchanged: behind 15 it goes on with 16
        ([12, 13, 33, 14, 15, 16, 17, 18, 19], 8, [11, 6]),  # put in: 14 agrees with the token behind it
        ([12, 13, 14, 16, 17, 18, 19], 7, [9, 4, 4]),  # left out: taken for exchanged, until 16 is written
        ([12, 13, 14], 4, [5, *[1] * 5]),  # too short: its end is asked for again and again
        ([*TEXT, 12, 13, 14], 8, [13]),
        ([33, 34, *TEXT], 7, [12, 5, 5, 2]),  # two too many: after two tokens it is as likely as two exchanged
        ([39, 38, 37, 36], 1, [6, 4, 3, 2, *[1] * 5]),
    ],
)
def test_passes(counting, draft, accepted, read):
    """By hand. The first reads prompt and draft; a later one the last token and what of the draft may follow."""
    (found,) = count(counting, [draft])
    assert found.tokens == TEXT and not found.at_limit
    assert [positions for _, positions in counting.read] == read
    assert (found.passes, found.accepted) == (len(read), accepted)
    own = torch.tensor([10.0, 10 - torch.tensor(2.0).log(), *[0.0] * 38]).log_softmax(0)[0]
    assert found.llm == pytest.approx(9 * float(own), abs=1e-4)


def test_what_has_ended_is_read_no_more(counting):
    """Texts of 1, 4 and 8 tokens, and the limits of two of them: each pass has the texts that go on."""
    found = count(counting, [[], [16, 33, 18, 19], []], (18, 15, 11), (20, 20, 6))
    assert [h.tokens for h in found] == [[19], [16, 17, 18, 19], [12, 13, 14, 15, 16, 17]]
    assert [h.at_limit for h in found] == [False, False, True]
    assert [h.passes for h in found] == [2, 2, 7]
    assert counting.read == [(3, 6), (3, 3), *[(1, 1)] * 5]


def test_guided(counting):
    """A draft's token stands where it is more than so many times as probable as the best one, and so does its end."""
    draft = [12, 30, 31, 32, 33]
    for accept, tokens, at_limit in ((1.0, TEXT, False), (0.51, TEXT, False), (0.49, [12, *range(30, 40)], True)):
        (found,) = count(counting, [draft], limits=(11,), draft_accept=accept)
        assert (found.tokens, found.at_limit) == (tokens, at_limit)
    assert found.passes == 7  # draft and 34, five tokens, the end
    (found,) = count(counting, [[*draft, 3, 35]], draft_accept=0.0)
    assert found.tokens == [*draft, 3, 35] and found.passes == 1 and found.accepted == 8
    # the end stands as any token does
    (found,) = count(counting, [[12, 13]], draft_accept=0.0)
    assert found.tokens == [12, 13] and not found.at_limit
    (found,) = count(counting, [draft], limits=(3,), draft_accept=0.0)
    assert found.tokens == draft[:3] and found.at_limit and found.passes == 1


def test_what_is_never_written_is_no_draft(counting):
    counting.tokenizer.all_special_ids = [EOS, 3, 13]
    counting.tokenizer.size = 38
    (found,) = count(counting, [[12, 13, 38, 3, 15, EOS, 16]], draft_accept=0.0)
    assert found.tokens == [12, 15, 16]
    (found,) = count(counting, [TEXT])
    assert not set(found.tokens) & {3, 13, 38, 39}


@pytest.mark.parametrize(
    "draft, tokens, expected, place",
    [
        ("abcdef", "abx", 3, 3),  # exchanged
        ("abcdef", "abd", 3, 4),  # c left out: d agrees
        ("abcdef", "abxc", 4, 3),  # x put in
        ("abcdef", "uvwxyzab", 8, 2),  # without its begin
        ("aaaaaa", "aab", 3, 3),  # of equals the nearest
        ("", "ab", 1, 0),
    ],
)
def test_place(draft, tokens, expected, place):
    found = Place([ord(x) for x in draft])
    tokens = [ord(x) for x in tokens]
    if len(tokens) > 1:  # what was read before is not read again
        found(tokens[:-1], expected - 1)
    assert found(tokens, expected) == place


def test_place_is_of_the_least_edit_distance():
    from rapidfuzz.distance import Levenshtein

    rng = random.Random(0)
    for _ in range(200):
        draft, tokens = ([rng.randrange(4) for _ in range(rng.randrange(low, 9))] for low in (0, 1))
        expected = rng.randrange(len(draft) + 2)
        distances = [Levenshtein.distance(tokens, draft[:k]) for k in range(len(draft) + 1)]
        ranks = [
            (distance, k == 0 or draft[k - 1] != tokens[-1], abs(k - expected)) for k, distance in enumerate(distances)
        ]
        assert ranks[Place(draft)(tokens, expected)] == min(ranks)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "mpt"])
def test_texts_end_where_the_context_of_the_llm_does(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    more = {
        "opt": dict(ffn_dim=16, word_embed_proj_dim=12),
        "llama": dict(intermediate_size=16),
        "mpt": dict(max_seq_len=32),
    }.get(kind, {})
    small = dict(num_hidden_layers=2, hidden_size=12, num_attention_heads=3, vocab_size=20, **more)
    small |= {} if kind == "mpt" else dict(max_position_embeddings=32)
    ids = dict(bos_token_id=1, eos_token_id=1, pad_token_id=1)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small, **ids)).eval()
    for parameter in llm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    llm.get_output_embeddings().weight.data[1] = 0.0  # the end is improbable
    model, tokenizer, positions = LLMAlone(llm, 1), Ends(20, 1, 1), []
    prompts, limits = [torch.randn(n, 12) for n in (28, 31, 3)], [40, 40, 20]
    plain = [h.tokens for (h,) in search(model, tokenizer, prompts, limits, 1)]
    assert list(map(len, plain)) == [4, 1, 20]
    llm.get_decoder().register_forward_hook(lambda *args: positions.append(args[2].past_key_values.get_seq_length()))
    for given in (plain, [[], [], [5] * 30], [[7, 8, *row, 9, 9, 9] for row in plain]):
        found = search(model, tokenizer, prompts, limits, drafts=given)
        assert [(h.tokens, h.at_limit) for (h, *_) in found] == [(row, True) for row in plain]
        assert max(positions) <= 32


def test_an_llm_whose_state_cannot_be_cut_back_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(UserError, match="MambaForCausalLM has read cannot be cut back; decode without drafts"):
        check_cache(MambaForCausalLM(config))


def batch_of_all(corpus, tokenizer):
    from espnet_llmvq.decode.batches import Batches

    return next(iter(Batches(corpus.train, 1000, tokenizer)))


def test_drafts_of_the_ctc_head(make_model, tokenizer, corpus):
    """Its own texts; those of a system with speech; the encoder runs once for all."""
    from espnet_llmvq.decode.generate import encoded

    model, calls = make_model(bridge_conf={"stack": 2, "hidden_size": 24}), []
    model.ctc.ctc_lo.weight.data *= 20
    model.speech_encoder.register_forward_hook(lambda *args: calls.append(1))
    ids, batch = batch_of_all(corpus, tokenizer)
    ready = encoded(model, batch)
    assert len(calls) == len(ids)
    given = drafts(model, ready)
    assert given == [h.tokens for (h,) in greedy(model, ready)] and any(given)
    plain = generate(model, tokenizer, ready, 1)
    found = generate(model, tokenizer, ready, drafts=given, draft_accept=1.0)
    assert [h.tokens for (h, *_) in found] == [h.tokens for (h,) in plain] and len(calls) == len(ids)
    assert [h.llm for (h, *_) in found] == pytest.approx([h.llm for (h,) in plain], abs=1e-3)
    model.ctc = None
    with pytest.raises(UserError, match="the encoder has none; decode with --draft none"):
        drafts(model, ready)


@pytest.mark.parametrize("template, space", [("USER:{speech} A: {text}", " "), ("{speech}{text}", "")])
def test_drafts_in_the_tokens_of_the_llm(tokenizer, template, space):
    """Spelled by the head letter by letter; behind the prompt as training tokenises it."""
    from espnet_llmvq.llm.spans import encode_text

    respell = respeller(tokenizer, tokenizer, template)
    letters = tokenizer.convert_tokens_to_ids(["▁", *"one", "▁", *"two"])
    assert respell(letters) == encode_text(tokenizer, Span(text=f"{space}one two"), None) != letters
    assert respell([]) == []
