"""Causal LMs of many families: a sequence without speech is to us what it is to transformers on its ids."""

from types import SimpleNamespace

import families
import pytest
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.generate import EndAtLimit, log_probability, search
from espnet_llmvq.decode.questions import LLMAlone
from espnet_llmvq.llm.directory import load_llm
from espnet_llmvq.llm.ends import logits_of, token_inputs
from espnet_llmvq.llm.trial import check_llm
from espnet_llmvq.model.losses import IGNORE, PAD, assemble, next_token_loss

EOS = 2
ROWS = [[1, 7, 9, 30, 8, 2], [1, 12, 5, 2], [1, 33, 21, 6, 6, 14, 8, 2]]
FIRST = 2  # the first label


@pytest.fixture(scope="module", params=families.FAMILIES)
def llm(request):
    return families.make(request.param)


def batch():
    """Tokens and labels of ROWS, learnt from the third token on."""
    pad = torch.nn.utils.rnn.pad_sequence
    tokens = pad([torch.tensor(row) for row in ROWS], True, PAD)
    labels = pad([torch.tensor([IGNORE] * FIRST + row[FIRST:]) for row in ROWS], True, IGNORE)
    return tokens, labels


def test_loss_and_gradients_are_those_of_the_model(llm):
    loss, count, accuracy = next_token_loss(llm, *assemble(llm.get_input_embeddings(), *batch()))
    names = [name for name, _ in llm.named_parameters()]
    found = torch.autograd.grad(loss, list(llm.parameters()), allow_unused=True)
    own, right = 0.0, []
    for row in ROWS:  # alone, without padding
        ids = torch.tensor([row])
        logits = llm(input_ids=ids, use_cache=False).logits[0, FIRST - 1 : -1]
        own = own + torch.nn.functional.cross_entropy(logits.float(), ids[0, FIRST:], reduction="sum")
        right += (logits.argmax(-1) == ids[0, FIRST:]).tolist()
    expected = torch.autograd.grad(own, list(llm.parameters()), allow_unused=True)
    torch.testing.assert_close(loss, own, rtol=1e-5, atol=1e-5)
    assert count == sum(len(row) - FIRST for row in ROWS) == len(right)
    assert float(accuracy) == pytest.approx(sum(right) / count)
    for name, ours, theirs in zip(names, found, expected):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_the_table_is_what_the_embedding_layer_gives(llm):
    table, embed = token_inputs(llm), llm.get_input_embeddings()
    with torch.no_grad():
        assert table.shape[0] == llm.config.vocab_size
        assert all(torch.equal(table[i], embed(torch.tensor([i]))[0]) for i in range(len(table)))


def test_codebook_and_norm_are_of_what_the_llm_gets(llm):
    from espnet_llmvq.bridge.bridge import BRIDGES

    table = token_inputs(llm)
    with torch.no_grad():
        norms = llm.get_input_embeddings()(torch.arange(40)).norm(dim=-1)
        bridge = BRIDGES["none"](4, table, stack=1, hidden_size=8, match_norm=True)
        steps, _, _ = bridge(torch.randn(1, 5, 4), torch.tensor([5]))
        torch.testing.assert_close(steps[0].norm(dim=-1), norms.mean().expand(5))
        hard = BRIDGES["hard"](4, table, stack=1, hidden_size=8)
        out, _, _ = hard(torch.randn(1, 5, 4), torch.tensor([5]))
    # each step is what the LLM gets for some token
    assert (out[0][:, None] - table).abs().amax(-1).min(1).values.max() < 1e-5


@torch.no_grad()
def test_log_probabilities_are_those_of_the_model(llm):
    embed = llm.get_input_embeddings()
    prompts = [embed(torch.tensor(row[:FIRST])) for row in ROWS]
    texts = [[row[FIRST:-1], row[FIRST:-2] + [4]] for row in ROWS]
    scores = log_probability(LLMAlone(llm, EOS), prompts, texts)
    for row, candidates, found in zip(ROWS, texts, scores):
        for text, score in zip(candidates, found):
            ids = torch.tensor([[*row[:FIRST], *text, EOS]])
            logits = llm(input_ids=ids).logits[0, FIRST - 1 : -1].double().log_softmax(-1)
            assert score == pytest.approx(float(logits.gather(1, ids[0, FIRST:, None]).sum()), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_those_of_generate_on_ids(llm, beams):
    limit = 6
    embed = llm.get_input_embeddings()
    prompts = [row[: n + 1] for row, n in zip(ROWS, (3, 1, 5))]
    inputs = [embed(torch.tensor(row)) for row in prompts]
    lists = search(LLMAlone(llm, EOS), families.Ends(40, EOS, 3), inputs, [limit] * 3, beams)
    for row, found in zip(prompts, lists):
        ids = torch.tensor([row])
        plain = llm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=beams, num_return_sequences=beams,
            length_penalty=0.0, do_sample=False, max_new_tokens=limit + 1, eos_token_id=EOS, pad_token_id=3,
            logits_processor=[EndAtLimit(torch.tensor([len(row) + limit]), beams, EOS)],
        )[:, len(row) :].tolist()  # fmt: skip
        assert sorted(h.tokens for h in found) == sorted(r[: r.index(EOS)] for r in plain if EOS in r)


def test_all_pass_the_trial_of_loading(llm):
    check_llm(llm, "DIR")


def test_a_model_that_is_more_than_its_parts_is_refused():
    """Something between embeddings and logits that happens for ids only, as the layers of Gemma 3n that want ids."""
    llm = families.make("llama")
    forward = llm.model.forward

    def other(input_ids=None, inputs_embeds=None, **kwargs):
        if input_ids is not None:
            inputs_embeds, input_ids = llm.model.embed_tokens(input_ids) * 2.0, None
        return forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)

    llm.model.forward = other
    with pytest.raises(UserError, match="DIR: LlamaForCausalLM, part by part"):
        check_llm(llm, "DIR")


def test_a_model_that_is_not_finite_in_its_precision_is_refused(tmp_path):
    """As Gemma 3 in float16, whose largest states stand at the begin token."""
    llm = families.make("llama")
    llm.model.layers[0].mlp.down_proj.weight.data *= 1e6
    llm.save_pretrained(tmp_path)
    load_llm(str(tmp_path))
    with pytest.raises(UserError, match="no finite logits in float16; set another llm_conf.dtype"):
        load_llm(str(tmp_path), dtype="float16")
    llm, forward = families.make("llama"), type(llm).forward
    llm.forward = lambda input_ids=None, **kwargs: SimpleNamespace(
        logits=forward(llm, input_ids=input_ids, **kwargs).logits
        * (torch.nan if input_ids is not None and llm.config.bos_token_id in input_ids else 1.0)
    )
    with pytest.raises(UserError, match="no finite logits in float32"):
        check_llm(llm, "DIR")


def test_the_output_end_leaves_the_model_as_it_is():
    llm = families.make("opt")
    before, decoder = dict(llm.state_dict()), llm.get_decoder()
    assert logits_of(llm, torch.randn(3, 16 if llm.model.decoder.project_out is None else 8)).shape == (3, 40)
    assert llm.get_decoder() is decoder and llm.state_dict().keys() == before.keys()
    assert llm.model.decoder is decoder
