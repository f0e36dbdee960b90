"""Decoding: greedy CTC by hand, generation that does not depend on the batch, batches of prompts."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import without_last_line
from families import Ends

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.base.made import asking
from espnet_llmvq.decode.batches import Batches, read_batches
from espnet_llmvq.decode.choose import write_chosen
from espnet_llmvq.decode.ctc import collapse, greedy
from espnet_llmvq.decode.generate import encoded, generate, length_limit
from espnet_llmvq.model.losses import IGNORE, SPEECH, assemble
from espnet_llmvq.sequence.asr import asr_sequence
from espnet_llmvq.sequence.prompt import parse, template_of
from espnet_llmvq.sequence.sequence import Sequence, Span, read_sequences, write_sequences
from espnet_llmvq.speech.frame_rate import FrameRate

PROMPT = "USER:{speech} ASSISTANT: {text}"  # of the corpus, as sequences keep it


@pytest.mark.parametrize(
    "path, length, tokens",
    [
        ([0, 0, 0], 3, []),
        ([5, 5, 5], 3, [5]),
        ([5, 0, 5, 5, 7, 0], 6, [5, 5, 7]),
        ([5, 7, 7, 5, 0, 0, 5], 7, [5, 7, 5, 5]),
        ([5, 0, 5, 7, 7], 3, [5, 5]),
        ([0, 3], 1, []),
    ],
)
def test_collapse(path, length, tokens):
    assert collapse(torch.tensor(path), length, blank=0) == tokens


def test_greedy_reads_the_best_path(make_model, tokenizer, corpus):
    model = make_model()
    text = " seven one"
    ids = tokenizer.encode(text, add_special_tokens=False)
    (_, batch) = next(iter(Batches(corpus.valid, 100, tokenizer, 1)))
    frames, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    path = [model.ctc.blank] + [t for i in ids for t in (i, i, model.ctc.blank)]
    assert len(path) <= int(lengths[0])
    logits = torch.full((1, frames.shape[1], len(tokenizer)), -1.0)
    for t, token in enumerate(path + [model.ctc.blank] * (frames.shape[1] - len(path))):
        logits[0, t, token] = 1.0
    model.ctc.forward = lambda x: logits
    ((found,),) = greedy(model, encoded(model, batch))
    assert (found.tokens, found.llm, found.at_limit) == (ids, None, False)


def outcomes(model, tokenizer, path, batch_size, **kwargs):
    """{utterance: n-best list}, decoded in batches of `batch_size`."""
    found = {}
    for ids, batch in Batches(path, 1000, tokenizer, batch_size):
        found.update(zip(ids, generate(model, tokenizer, encoded(model, batch), **kwargs)))
    return found


def shuffled(path, out):
    sequences = list(read_sequences(path))
    random.Random(3).shuffle(sequences)
    write_sequences(out, sequences)
    return out


def biased(model, eos_bias):
    """The model with logits of the end token raised: an untrained one rarely ends before its limit."""
    head = model.llm.lm_head.forward
    model.llm.lm_head.forward = lambda x: head(x) + eos_bias * torch.nn.functional.one_hot(torch.tensor(2), 110)
    return model


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("eos_bias", [0.0, 4.0])
def test_batch_size_and_order_change_nothing(make_model, tokenizer, corpus, tmp_path, num_beams, eos_bias):
    """Whole n-best lists, scores to the last bit."""
    model = biased(make_model(bridge_conf={"stack": 2, "hidden_size": 24}), eos_bias)
    alone = outcomes(model, tokenizer, corpus.train, 1, num_beams=num_beams)
    other = shuffled(corpus.train, tmp_path / "shuffled.jsonl")
    for path, size in ((corpus.train, 3), (corpus.train, 32), (other, 5)):
        assert outcomes(model, tokenizer, path, size, num_beams=num_beams) == alone
    rate = model.speech_encoder.rate
    limits = {s.id: length_limit(rate.frames(s.spans[1].samples) * rate.seconds) for s in read_sequences(corpus.train)}
    firsts = {utt: found[0] for utt, found in alone.items()}
    assert len(set(limits.values())) > 3 and len({tuple(h.tokens) for h in firsts.values()}) > 3
    for utt, found in alone.items():
        assert 1 <= len(found) <= num_beams
        assert [h.llm for h in found] == sorted((h.llm for h in found), reverse=True)
        assert len({tuple(h.tokens) for h in found}) == len(found)
        for h in found:
            assert h.at_limit == (len(h.tokens) == limits[utt]) and len(h.tokens) <= limits[utt]
    cuts = [h.at_limit for h in firsts.values()]
    assert any(cuts) if eos_bias == 0.0 else not all(cuts)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_special_tokens_are_never_written(make_model, tokenizer, corpus, num_beams):
    """Whatever the LLM thinks of them; and rows of its table that are no tokens."""
    model = make_model(bridge_conf={"stack": 2, "hidden_size": 24})
    model.llm.resize_token_embeddings(115)
    special = torch.tensor([0, 1, 3, 4, 110, 114])
    assert set(tokenizer.all_special_ids) | {110, 114} == {*special.tolist(), tokenizer.eos_token_id}
    head = model.llm.lm_head.forward
    model.llm.lm_head.forward = lambda x: head(x).index_add(-1, special, torch.full((*x.shape[:-1], 6), 9.0))
    for found in outcomes(model, tokenizer, corpus.train, 4, num_beams=num_beams).values():
        for hypothesis in found:
            assert hypothesis.tokens and not set(hypothesis.tokens) & {0, 1, 2, 3, 4, *range(110, 115)}


@pytest.mark.parametrize("num_beams, eos_bias", [(1, 4.0), (4, 4.0), (4, 0.0)])
def test_scores_are_log_probabilities(make_model, tokenizer, corpus, num_beams, eos_bias):
    """Against a plain pass of the LLM over prompt and text in float64, cut off or not."""
    model = biased(make_model(), eos_bias)
    found = outcomes(model, tokenizer, corpus.valid, 5, num_beams=num_beams)
    assert any(h.at_limit for row in found.values() for h in row) == (eos_bias == 0.0)
    model = model.double()
    for ids, batch in Batches(corpus.valid, 1000, tokenizer, 1):
        batch["speech"] = batch["speech"].double()
        frames, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        steps = model.bridge_speech(frames, lengths)[:2]
        prompt = assemble(model.llm.get_input_embeddings(), batch["tokens"], batch["labels"], *steps)[0][0]
        for h in found[ids[0]]:
            text = torch.tensor([*h.tokens, tokenizer.eos_token_id])
            inputs = torch.cat([prompt, model.llm.get_input_embeddings()(text)])
            with torch.no_grad():
                logits = model.llm(inputs_embeds=inputs[None]).logits[0]
            log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            expected = sum(float(row[token]) for row, token in zip(log_probs, text))
            assert h.llm == pytest.approx(expected, abs=1e-3)


def test_the_search_is_of_transformers(make_model, tokenizer, corpus):
    """Texts and scores are those of its own beam search, where nothing is cut off."""
    model = biased(make_model(), 5.0)
    found = outcomes(model, tokenizer, corpus.valid, 5, num_beams=3)
    compared = 0
    for ids, batch in Batches(corpus.valid, 1000, tokenizer, 1):
        steps = model.bridge_speech(*model.encode(batch["speech"], batch["speech_lengths"]))[:2]
        prompt = assemble(model.llm.get_input_embeddings(), batch["tokens"], batch["labels"], *steps)[0][0]
        out = model.llm.generate(inputs_embeds=prompt[None], num_beams=3, num_return_sequences=3, length_penalty=0.0,
                                 attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=40,
                                 return_dict_in_generate=True, output_scores=True)  # fmt: skip
        if any(h.at_limit for h in found[ids[0]]):
            continue
        compared += 1
        texts = [row[: row.index(2)] for row in out.sequences.tolist()]
        assert [h.tokens for h in found[ids[0]]] == texts
        assert [h.llm for h in found[ids[0]]] == pytest.approx(out.sequences_scores.tolist(), abs=1e-4)
    assert compared > 1


def test_beams_share_their_prompts():
    """Bit by bit what transformers' own cache holds, while tokens are written and beams take each other's places."""
    from transformers import DynamicCache, LlamaConfig, MistralConfig

    from espnet_llmvq.llm.prompt_cache import BeamLayer, for_beams

    sizes = {"num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 3}
    generator = torch.Generator().manual_seed(0)
    caches = []
    for _ in range(2):
        generator.manual_seed(0)
        caches.append(DynamicCache(config=LlamaConfig(**sizes)))
        for layer in range(2):
            caches[-1].update(*torch.randn(2, 3, 3, 5, 4, generator=generator), layer)
    caches[0].batch_repeat_interleave(4)
    caches[1] = for_beams(caches[1], 4, room=6)
    assert all(type(layer) is BeamLayer for layer in caches[1].layers)
    for step in range(6):
        written = torch.randn(2, 2, 12, 3, 1, 4, generator=generator)
        order = torch.cat([4 * i + torch.randint(4, (4,), generator=generator) for i in range(3)])
        for cache in caches:
            assert cache.get_seq_length() == 5 + step
            for layer in range(2):
                cache.update(*written[layer], layer)
            cache.reorder_cache(order)
        for plain, ours in zip(caches[0].layers, caches[1].layers):
            assert torch.equal(plain.keys, ours.keys) and torch.equal(plain.values, ours.values)
    # Layers of another kind stay what they are.
    sliding = DynamicCache(config=MistralConfig(**sizes, sliding_window=4))
    kinds = [type(layer) for layer in sliding.layers]
    for layer in range(2):
        sliding.update(*torch.randn(2, 3, 3, 5, 4), layer)
    sliding = for_beams(sliding, 4, room=6)
    assert [type(layer) for layer in sliding.layers] == kinds and len(sliding.layers[0].keys) == 12
    assert for_beams(None, 4, room=6) is None


LLMS = {
    "gpt2": dict(n_layer=2, n_embd=12, n_head=3, n_positions=64),
    "opt": dict(num_hidden_layers=2, hidden_size=12, num_attention_heads=3, ffn_dim=16, max_position_embeddings=64,
                word_embed_proj_dim=12),
    "bloom": dict(n_layer=2, hidden_size=12, n_head=3),
    "mistral": dict(num_hidden_layers=2, hidden_size=12, num_attention_heads=3, num_key_value_heads=3,
                    intermediate_size=16, sliding_window=6),
}  # fmt: skip


@pytest.mark.parametrize("kind", LLMS)
def test_other_llms_search_as_transformers_does(kind):
    """Learned positions, positions from the mask alone, a window: texts and scores are those of plain `generate`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from espnet_llmvq.decode.generate import EndAtLimit, search
    from espnet_llmvq.decode.questions import LLMAlone

    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, vocab_size=20, bos_token_id=1, eos_token_id=1, pad_token_id=1, **LLMS[kind])
    llm = AutoModelForCausalLM.from_config(config).eval()
    for parameter in llm.parameters():  # far from the small weights of the start, where all texts are alike
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    prompts = [torch.randn(n, 12) for n in (3, 9, 1)]
    lists = search(LLMAlone(llm, 1), Ends(20, 1, 1), prompts, [8, 8, 8], 3)
    for prompt, found in zip(prompts, lists):
        plain = llm.generate(
            inputs_embeds=prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=3,
            num_return_sequences=3, length_penalty=0.0, do_sample=False, max_new_tokens=9,
            logits_processor=[EndAtLimit(torch.tensor([8]), 3, 1)],
        ).tolist()  # fmt: skip
        assert sorted(h.tokens for h in found) == sorted(row[: row.index(1)] for row in plain if 1 in row)
        for hypothesis in found:
            ids = torch.tensor([*hypothesis.tokens, 1])
            inputs = torch.cat([prompt, llm.get_input_embeddings()(ids[:-1])])
            with torch.no_grad():
                logits = llm(inputs_embeds=inputs[None]).logits[0, len(prompt) - 1 :].double().log_softmax(-1)
            assert hypothesis.llm == pytest.approx(float(logits.gather(1, ids[:, None]).sum()), abs=1e-4)


def test_quick_speech_is_not_cut_off(corpus, tokenizer, tmp_path):
    """The limit follows what the transcripts of the training need, and is no lower than it was before."""
    from espnet_llmvq.model.positions import tokens_per_second

    def file(tokens, seconds, count=200):
        text = " ".join(["one"] * tokens)
        return [asr_sequence(f"{tokens}_{i:03d}", "x.wav", 16000 * seconds, text, PROMPT) for i in range(count)]

    assert tokenizer.encode(" one one", add_special_tokens=False) == 2 * tokenizer.encode(" one")
    room = tmp_path / "s.jsonl"
    write_sequences(room, file(166, 15))  # 167 with the end
    rate = tokens_per_second([room], tokenizer)
    assert rate == pytest.approx(1.5 * (167 - 8) / 15, abs=0.01)
    assert length_limit(15) == 128 and length_limit(15, rate) == 246
    # Slow speech, what is no transcript of a whole file, and one wrong transcript of many, change nothing.
    piece = Sequence("p", (Span(audio="x.wav", samples=1600, start=0), Span(text=" one" * 50, loss=True)))
    write_sequences(room, [*file(30, 15), Sequence("t", (Span(text="one " * 99, loss=True),)), piece])
    assert tokens_per_second([room], tokenizer) == 8.0
    write_sequences(room, [*file(30, 15), *file(99, 1, 1)])
    assert tokens_per_second([room], tokenizer) == 8.0
    assert tokens_per_second([corpus.train, corpus.valid], tokenizer) >= 8.0


def test_training_keeps_the_limit_for_decoding(decoding, corpus, tokenizer, capsys):
    """In config.yaml, and in the facts of decoding; an option takes its place; what is cut off is named."""
    from espnet_llmvq.cli import decode
    from espnet_llmvq.model.positions import tokens_per_second

    path = Path(decoding.exp("slam"), "config.yaml")
    config = yaml.safe_load(path.read_text())
    assert config["tokens_per_second"] == tokens_per_second([corpus.train, corpus.valid], tokenizer)
    path.write_text(yaml.safe_dump({**config, "tokens_per_second": 1.0}))
    rate = FrameRate(config)
    for given in (0.0, 3.0):
        options = replace(decoding.options, tokens_per_second=given)
        replace(decoding, options=options).write()
        decode.main(["--exp", decoding.options.expdir, "--systems", "slam", "--sets", "a"])
        room = Path(decoding.exp("slam"), "decode_a")
        assert json.loads((room / "environment.json").read_text())["tokens_per_second"] == (given or 1.0)
        limits = {
            s.id: length_limit(rate.frames(s.spans[1].samples) * rate.seconds, given or 1.0)
            for s in read_sequences(corpus.valid)
        }
        firsts = {line["id"]: line["nbest"][0] for line in lines_of(room / "nbest.jsonl")}
        cut = [utt for utt, h in firsts.items() if len(h["tokens"]) == limits[utt]]
        assert cut and all(len(h["tokens"]) <= limits[utt] for utt, h in firsts.items())
        assert f"{len(cut)} at the length limit: {', '.join(cut)}" in capsys.readouterr().out


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "mpt"])
def test_texts_end_where_the_context_of_the_llm_does(kind, num_beams):
    """Also where neighbours in a batch go on longer; a prompt that fills the context is named."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from espnet_llmvq.decode.generate import search
    from espnet_llmvq.decode.questions import LLMAlone

    torch.manual_seed(1)
    small = dict(num_hidden_layers=2, hidden_size=12, num_attention_heads=3, max_position_embeddings=32)
    more = {
        "opt": dict(ffn_dim=16, word_embed_proj_dim=12),
        "llama": dict(intermediate_size=16),
        "mpt": dict(max_seq_len=32),
    }.get(kind, {})
    if kind == "mpt":  # its limit has another name
        del small["max_position_embeddings"]
    ids = dict(bos_token_id=1, eos_token_id=1, pad_token_id=1)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=20, **small, **more, **ids)).eval()
    for parameter in llm.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    tokenizer, model = Ends(20, 1, 1), LLMAlone(llm, 1)
    positions = []
    llm.get_decoder().register_forward_hook(
        lambda *args: positions.append(args[2].past_key_values.get_seq_length() if args[2].past_key_values else 0)
    )
    # The end is improbable, so all go to their limits.
    llm.get_output_embeddings().weight.data[1] = 0.0
    prompts, limits = [torch.randn(n, 12) for n in (28, 31, 3)], [40, 40, 20]
    lists = search(model, tokenizer, prompts, limits, num_beams)
    longest = [max(len(h.tokens) for h in found) for found in lists]
    assert longest == [4, 1, 20] and max(positions) <= 32
    for found, most in zip(lists, (4, 1, 20)):
        assert all(h.at_limit == (len(h.tokens) == most) for h in found)
    assert lists == [search(model, tokenizer, [p], [n], num_beams)[0] for p, n in zip(prompts, limits)]
    with pytest.raises(UserError, match="utt2: the prompt has 32 positions .* context of 32 holds no text"):
        search(model, tokenizer, [prompts[0], torch.randn(32, 12)], [5, 5], num_beams, names=["utt1", "utt2"])


def test_an_utterance_that_fills_the_context_is_named(make_model, tokenizer, corpus):
    model = make_model()
    ids, batch = next(iter(Batches(corpus.valid, 1000, tokenizer)))
    model.llm.config.max_position_embeddings = 6
    with pytest.raises(UserError, match=f"^{ids[0]}: the prompt has .* positions with its speech"):
        generate(model, tokenizer, encoded(model, batch), names=ids)


def test_batches_do_not_depend_on_the_order_of_the_file(corpus, tokenizer, tmp_path, llm_dir):
    first = Batches(corpus.train, 1.5, tokenizer, 4)
    path = shuffled(corpus.train, tmp_path / "shuffled.jsonl")
    second = read_batches(path, 1.5, llm_dir, batch_size=4)
    sequences = list(read_sequences(path))
    assert first.batches == second.batches and sorted(first.order) == sorted(second.order)
    assert second.order == [s.id for s in sequences]
    samples = {s.id: s.spans[1].samples for s in sequences}
    assert sorted(k for batch in first.batches for k in batch) == sorted(samples)
    for batch in first.batches:
        assert len(batch) <= 4 and (len(batch) == 1 or len(batch) * samples[batch[0]] <= 1.5 * 16000)
        assert samples[batch[0]] == max(samples[k] for k in batch)
    for (ids, a), (_, b) in zip(first, second):
        assert all(torch.equal(a[k], b[k]) for k in a)
        # the prompt ends before the transcript: "USER:", speech, " ASSISTANT:"
        prompt = [*tokenizer.encode("USER:"), SPEECH, *tokenizer.encode(" ASSISTANT:")]
        assert a["tokens"].tolist() == [prompt] * len(ids) and (a["labels"] == IGNORE).all()


def test_batches_need_one_speech_span(tmp_path, tokenizer):
    write_sequences(tmp_path / "text.jsonl", [Sequence("t1", (Span(text="one", loss=True),))])
    with pytest.raises(UserError, match="t1 has 0 speech spans"):
        Batches(tmp_path / "text.jsonl", 10, tokenizer)


@pytest.fixture(scope="module")
def trained(encoder_dir, settings, tmp_path_factory):
    """Directory of a trained phase."""
    from espnet_llmvq.espnet.run import train_phase

    phase, file = str(tmp_path_factory.mktemp("trained") / "slam"), os.path.join(encoder_dir, "model.pth")
    train_phase(phase, settings(encoder_file=file, specaug=None, freeze=["llm"], max_epoch=1), 1)
    return phase


@pytest.fixture
def decoding(trained, encoder_dir, corpus, experiment_of, tmp_path):
    """An experiment whose system `slam` is trained, and which has `ctc` and `ctc_lm` of its encoder."""
    phase = shutil.copytree(trained, tmp_path / "exp" / "slam")
    return experiment_of(
        tmp_path, {"ctc": "ctc", "slam": phase, "ctc_lm": "ctc_lm"}, {"a": corpus.valid, "b": corpus.train},
        encoder=encoder_dir, num_beams=2,
    )  # fmt: skip


def content(directory, *names):
    return {name: Path(directory, name).read_text() for name in names}


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_decode_command(decoding, corpus, capsys):
    """All kinds of systems on two sets; nothing is decoded twice."""
    from espnet_llmvq.cli import decode

    command = ["--exp", decoding.options.expdir]
    decode.main(command)
    directories = {s.name: str(s.hyp_path("NAME").parent).removesuffix("_NAME") for s in decoding.systems}
    for system, directory in directories.items():
        for name, source in (("a", corpus.valid), ("b", corpus.train)):
            lines = lines_of(f"{directory}_{name}/hyp.jsonl")
            assert [line["id"] for line in lines] == [s.id for s in read_sequences(source)]
            assert all(isinstance(line["text"], str) for line in lines)
            facts = json.loads(Path(f"{directory}_{name}/environment.json").read_text())
            assert {"torch", "espnet", "platform", "CPUs", "commit"} < facts.keys()
            assert facts.get("num_beams") == (None if system == "ctc" else 2)
            assert facts.get("lm_weight") == (0.3 if system == "ctc_lm" else None)
            assert facts.get("prompt") == (PROMPT if system == "slam" else None)
            lists = [line["nbest"] for line in lines_of(f"{directory}_{name}/nbest.jsonl")]
            assert [n[0]["text"] for n in lists] == [line["text"] for line in lines]
            assert {len(n) for n in lists} <= {1} if system == "ctc" else {1, 2}
            assert all((h["llm"] is None) == (system == "ctc") for n in lists for h in n)
            # The untrained system writes more than CTC can spell.
            assert system == "slam" or all(h["ctc"] <= 0 for n in lists for h in n)
            assert not os.path.exists(f"{directory}_{name}/.nbest.jsonl.llmvq-part")
    capsys.readouterr()
    for name in "ab":
        os.utime(decoding.sequences(name))
    decode.main(command)
    assert capsys.readouterr().out.count("nothing to do") == 3
    with pytest.raises(UserError, match="unknown system 'slan'.*did you mean 'slam'"):
        decode.main([*command, "--systems", "slan"])
    with pytest.raises(UserError, match="unknown set 'c'"):
        decode.main([*command, "--sets", "c"])
    os.remove(f"{decoding.exp('slam')}/model.pth")
    with pytest.raises(UserError, match="slam/model.pth does not exist; run stage 11"):
        decode.main(command)


def test_what_hypotheses_are_made_of_is_noticed(decoding, monkeypatch, capsys):
    """Which sets of which systems are decoded again, after a change of sequences, beam, model, encoder, LLM, file."""
    from espnet_llmvq.stages import decode as stage

    calls = []

    def as_decoded(system, work, search, *more):
        for one in work:
            calls.append((system.name, one.name, search.get("num_beams")))
            lines = [json.dumps({"id": s.id, "nbest": []}) + "\n" for s in read_sequences(one.sequences)]
            write_text(one.made.out, "".join(lines))
            one.made.note(ngpu=0)
            write_chosen(one.hypotheses, 0, "given")

    def decoded(experiment=decoding, **options):
        calls.clear()
        stage.decode(experiment, experiment.systems, experiment.test_names, **options)
        return [(system, name) for system, name, _ in calls]

    monkeypatch.setattr("espnet_llmvq.decode.system.decode_system", as_decoded)
    # Without the record of the tokenizer, which says nothing of the weights.
    llm = shutil.copytree(decoding.llm, decoding.exp("llm"), ignore=shutil.ignore_patterns("made.json"))
    own = replace(decoding, options=replace(decoding.options, llm=llm))
    everything = [(system, name) for system in ("ctc", "slam", "ctc_lm") for name in "ab"]
    assert decoded(own) == everything and decoded(own) == []
    without_last_line(own.sequences("a"))
    assert decoded(own) == [(system, "a") for system in ("ctc", "slam", "ctc_lm")]
    wider = replace(own, options=replace(own.options, num_beams=3))
    assert decoded(wider) == everything[2:] and {beam for *_, beam in calls} == {3} and decoded(wider) == []
    for path, systems in (
        (f"{own.exp('slam')}/model.pth", {"slam"}),
        (f"{llm}/model.safetensors", {"slam", "ctc_lm"}),
        (own.encoder_file, {"ctc", "slam", "ctc_lm"}),
    ):
        os.utime(path)
        assert decoded(wider) == []
        with open(path, "r+b") as f:
            f.seek(100)
            f.write(b"changed")
        assert {system for system, _ in decoded(wider)} == systems and decoded(wider) == []
    # Lists of other utterances than were written; hypotheses and facts that are gone or damaged need no decoding.
    room = own.systems[1].hyp_path("a").parent
    without_last_line(room / "nbest.jsonl")
    assert decoded(wider) == [("slam", "a")]
    whole = content(room, "hyp.jsonl", "environment.json")
    for damaged in ("", '{"num_beams": ', None):
        for name in whole:
            (room / name).unlink() if damaged is None else (room / name).write_text(damaged)
            with asking() as answers:  # which makes nothing
                assert decoded(wider) == []
            assert [out for out, why in answers if why] == [str(room / "hyp.jsonl")]
            assert decoded(wider) == [] and content(room, *whole) == whole
    assert decoded(wider, redo=True) == everything


def test_the_validation_set_is_decoded_where_a_weight_is_chosen_on_it(decoding, monkeypatch):
    """Which is where the LLM writes; the others would take their time for nothing."""
    from espnet_llmvq.stages import decode as stage

    found = {}
    for name in ("check_sequences", "check_outputs"):
        monkeypatch.setattr(stage, name, lambda *_: None)
    monkeypatch.setattr(stage, "frames_read", lambda *_: None)
    monkeypatch.setattr(stage, "nbest_made", lambda _, system, name, search: SimpleNamespace(fresh=bool, out=name))
    monkeypatch.setattr(
        "espnet_llmvq.decode.system.decode_system",
        lambda system, work, *_: found.update({system.name: [one.name for one in work]}),
    )
    valid, tests = decoding.options.valid_set, decoding.test_names
    for weight, more in (("0.3", []), ("valid", [valid])):
        chosen = replace(decoding, options=replace(decoding.options, ctc_weight=weight))
        stage.decode(chosen, chosen.systems)
        assert found == {"ctc": tests, "slam": [*tests, *more], "ctc_lm": tests}
        stage.decode(chosen, chosen.systems, [valid])
        assert found == dict.fromkeys(("ctc", "slam", "ctc_lm"), [valid])


def test_decoding_with_drafts(decoding, capsys):
    """The texts of a beam of 1, with what drafts did beside them and in the log; rows without an LLM are as before."""
    from espnet_llmvq.stages.decode import decode

    room, found = Path(decoding.exp("slam"), "decode_b"), []
    for options in ({"num_beams": 1}, {"draft": "ctc"}, {"draft": "ctc", "draft_accept": 0.0}):
        with_options = replace(decoding, options=replace(decoding.options, **options))
        capsys.readouterr()
        decode(with_options, with_options.systems, ["b"])
        log, facts = capsys.readouterr().out, json.loads((room / "environment.json").read_text())
        assert ("[ctc] all sets are decoded" in log) == bool(found)
        assert facts["num_beams"] == 1
        drafted = {"draft": "ctc", "draft_accept": 1.0, **options} if found else {}
        assert {k: v for k, v in facts.items() if k.startswith("draft")} == drafted
        lines = lines_of(room / "nbest.jsonl")
        # behind what the LLM made of a draft the draft itself, which has the LLM's and CTC's scores too
        assert {len(line["nbest"]) for line in lines} == ({2} if options == {"draft": "ctc"} else {1})
        assert all(h["llm"] < 0 and h["ctc"] <= 0 for line in lines for h in line["nbest"] if h["ctc"] is not None)
        found.append([line["nbest"][0] for line in lines])
    plain, exact, copied = found
    assert [h["text"] for h in exact] == [h["text"] for h in plain]
    assert [h["ctc"] for h in exact] == [h["ctc"] for h in plain]
    assert [h["llm"] for h in exact] == pytest.approx([h["llm"] for h in plain], abs=1e-3)
    assert all("passes" not in h for h in plain) and all(0 <= h["accepted"] <= len(h["tokens"]) + 1 for h in exact)
    ctc = lines_of(Path(decoding.encoder_dir, "decode_ctc_b/nbest.jsonl"))
    written = [line["nbest"][0]["tokens"] for line in ctc]  # of an untrained head, special tokens too
    assert [h["tokens"] for h in copied] == [[t for t in row if t > 4] for row in written]
    tokens = sum(len(h["tokens"]) + 1 for h in copied) / 12
    told = f"drafts had 100.0 % of the tokens, 1.00 passes of the LLM an utterance for {tokens:.1f} tokens"
    assert told in log and {h["passes"] for h in copied} == {1}


def test_joint_decoding(decoding, corpus, tokenizer):
    """Lists have the LLM's and CTC's scores of their texts, as found alone, and are in the order of both."""
    from espnet_llmvq.decode.batches import read_batches
    from espnet_llmvq.decode.generate import encoded, log_probability, prompt_inputs
    from espnet_llmvq.decode.rescore import ctc_log_likelihood
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.stages.decode import decode

    room = Path(decoding.exp("slam"), "decode_b")
    joint = replace(decoding, options=replace(decoding.options, num_beams=4, joint_ctc=0.25))
    decode(joint, joint.systems, ["b"])
    facts = json.loads((room / "environment.json").read_text())
    assert (facts["num_beams"], facts["joint_ctc"]) == (4, 0.25) and "tokens_per_second" not in facts
    lists = {line["id"]: line["nbest"] for line in lines_of(room / "nbest.jsonl")}
    model, config = load_model(decoding.exp("slam"))
    for ids, batch in read_batches(corpus.train, 1, config["llm"]):
        batch = encoded(model, batch)
        found = lists[ids[0]]
        assert 2 < len(found) <= 4 and len({tuple(h["tokens"]) for h in found}) == len(found)
        (llm,) = log_probability(model, prompt_inputs(model, batch), [[h["tokens"] for h in found]])
        ctc = ctc_log_likelihood(
            model.ctc(batch["speech"])[0].float().log_softmax(-1), [h["tokens"] for h in found], model.ctc.blank
        )
        assert [h["llm"] for h in found] == pytest.approx(llm, abs=1e-2)
        assert [h["ctc"] for h in found] == pytest.approx(ctc, abs=1e-2)
        ranks = [0.25 * c + 0.75 * m for c, m in zip(ctc, llm)]
        assert ranks == pytest.approx(sorted(ranks, reverse=True), abs=1e-3)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"draft": "ctc"}, {"joint_ctc": 0.5, "num_beams": 3}])
def test_the_llm_may_decode_in_16_bits(decoding, options):
    from espnet_llmvq.stages.decode import decode

    found, room = [], Path(decoding.exp("slam"), "decode_b")
    for dtype in ("float32", "bfloat16"):
        chosen = replace(decoding, options=replace(decoding.options, **options, llm_dtype=dtype))
        decode(chosen, chosen.systems, ["b"])
        facts = json.loads((room / "environment.json").read_text())
        assert facts["llm_dtype"] == dtype
        found.append([line["nbest"][0] for line in lines_of(room / "nbest.jsonl")])
    # Each score within the eight bits of a number, and not the same.
    pairs = [(a["llm"], b["llm"]) for a, b in zip(*found) if a["tokens"] == b["tokens"]]
    assert len(pairs) > len(found[0]) / 2 and [a for a, _ in pairs] != [b for _, b in pairs]
    assert all(b == pytest.approx(a, rel=0.02) for a, b in pairs)


def test_16_bits_are_for_parameters_alone(llm_dir):
    """Frequencies of positions would else be off by parts in a thousand, which tells behind some hundred positions."""
    from espnet_llmvq.decode.system import in_dtype
    from espnet_llmvq.llm.directory import load_llm

    llm = in_dtype(load_llm(llm_dir), "bfloat16")
    assert {p.dtype for p in llm.parameters()} == {torch.bfloat16}
    found = [b.dtype for name, b in llm.named_buffers() if "inv_freq" in name]
    assert found and set(found) == {torch.float32}


def test_decoding_goes_on_where_it_was(decoding, capsys, monkeypatch):
    """Unless what it is made of has changed meanwhile."""
    from espnet_llmvq.stages.decode import decode

    slam, calls = decoding.select("slam"), []
    decode(decoding, slam, ["b"], batch_size=5)
    room, names = slam[0].hyp_path("b").parent, ("hyp.jsonl", "nbest.jsonl", "environment.json")
    whole = content(room, *names)

    def killed(model, tokenizer, batch, **options):
        calls.append(len(batch["tokens"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(model, tokenizer, batch, **options)

    monkeypatch.setattr("espnet_llmvq.decode.generate.generate", killed)
    for change, batches in (
        (lambda: None, [5, 5, 5, 2]),
        (lambda: without_last_line(decoding.sequences("b")), [5] * 4),
    ):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            decode(decoding, slam, ["b"], batch_size=5, redo=True)
        change()
        capsys.readouterr()
        decode(decoding, slam, ["b"], batch_size=5)  # --redo made what was there no result
        assert calls == batches + [1] * (len(batches) == 4 and batches[-1] == 5)
        told = "5 of 12 utterances are decoded, going on" in capsys.readouterr().out
        assert told == (batches[-1] == 2) and (not told or content(room, *names) == whole)


def test_sequences_that_change_while_they_are_decoded_are_decoded_again(decoding, monkeypatch, capsys):
    from espnet_llmvq.stages.decode import decode

    def meanwhile(*args, **options):
        without_last_line(decoding.sequences("a"))
        monkeypatch.undo()
        return generate(*args, **options)

    monkeypatch.setattr("espnet_llmvq.decode.generate.generate", meanwhile)
    slam = decoding.select("slam")
    for utterances in (5, 4):
        decode(decoding, slam, ["a"])
        assert f"decode_a/hyp.jsonl: {utterances} utterances" in capsys.readouterr().out


def test_frames_of_the_frozen_encoder_are_not_those_of_a_trained_one(
    decoding, encoder_dir, settings, corpus, tmp_path, experiment_of
):
    from espnet_llmvq.espnet.run import train_phase
    from espnet_llmvq.experiment.training import Training
    from espnet_llmvq.stages.decode import decode, nbest_made
    from espnet_llmvq.stages.encoder import frames_made, frames_of

    phase, file = str(tmp_path / "exp" / "joint"), os.path.join(encoder_dir, "model.pth")
    train_phase(phase, settings(encoder_file=file, specaug=None, train_encoder=True, freeze=["llm"], max_epoch=1), 1)
    systems = {"joint": phase, "slam": decoding.exp("slam")}
    experiment = experiment_of(tmp_path, systems, {"a": corpus.valid})
    assert frames_of(experiment, "a") is None
    os.makedirs(experiment.frames("a"))
    Path(experiment.frames("a"), "frames.scp").touch()  # reading it would fail
    frames_made(experiment, "a").note(files=["frames.scp"])
    assert frames_of(experiment, "a") == f"{experiment.frames('a')}/frames.scp"
    decode(experiment, experiment.select("joint"), ["a"])
    decoded = [line["id"] for line in lines_of(f"{phase}/decode_a/hyp.jsonl")]
    assert decoded == [s.id for s in read_sequences(corpus.valid)]
    with pytest.raises(UserError, match="no encoder frames"):
        decode(experiment, experiment.select("slam"), ["a"])
    trained = replace(experiment, trainings=(Training("joint", "", {"train_encoder": True}),))
    joint, slam = (nbest_made(trained, system, "a", {}) for system in trained.systems)
    assert "frames" not in joint.inputs and slam.inputs["frames"] == experiment.frames("a")
    without_last_line(experiment.sequences("a"))
    with pytest.raises(UserError, match=r"frames/a is not of what this run has \(sequences .*changed\); run stage 10"):
        decode(experiment, experiment.select("slam"), ["a"])
    with asking() as answers:
        assert frames_of(experiment, "a") and not answers


def test_sequences_of_another_run_are_not_decoded(decoding):
    from espnet_llmvq.stages.decode import decode
    from espnet_llmvq.stages.sequences import sequences_made

    sequences_made(decoding, "a").note()
    other = replace(decoding, options=replace(decoding.options, prompt="ASK: {speech} SAY: {text}"))
    with pytest.raises(UserError, match=r"a/sequences.jsonl is not what this run makes \(prompt: .*from stage 9"):
        decode(other, other.select("slam"), ["a"])


def test_another_llm_of_the_hub_is_noticed(decoding):
    from espnet_llmvq.stages.decode import nbest_made

    (slam,) = decoding.select("slam")
    assert "llm" not in nbest_made(decoding, slam, "a", {}).options
    for name in ("owner/one", "owner/two"):
        hub = replace(decoding, options=replace(decoding.options, llm=name))
        assert nbest_made(hub, slam, "a", {}).options["llm"] == name


def test_prompt_of_the_checkpoint(decoding, corpus):
    """It is recorded in training; another one is an error, or on demand told beside the hypotheses."""
    from espnet_llmvq.stages.decode import decode

    assert yaml.safe_load(Path(decoding.exp("slam"), "config.yaml").read_text())["prompt"] == PROMPT
    os.remove(decoding.sequences("a"))
    write_sequences(decoding.sequences("a"), [asr_sequence(s.id, s.spans[1].audio, s.spans[1].samples, s.transcript,
                                              "USER: {speech} Write it down. ASSISTANT: {text}")
                                              for s in read_sequences(corpus.valid)])  # fmt: skip
    message = (
        r"dump/a/sequences.jsonl: valid00 has the prompt 'USER:{speech} Write it down. ASSISTANT: {text}', but the "
        rf"model was trained with '{PROMPT}'; .*--other_prompt"
    )
    slam = decoding.select("slam")
    with pytest.raises(UserError, match=message):
        decode(decoding, slam, ["a"])
    assert not os.path.exists(f"{decoding.exp('slam')}/decode_a")
    decode(replace(decoding, options=replace(decoding.options, other_prompt=True)), slam, ["a"])
    facts = json.loads(Path(decoding.exp("slam"), "decode_a/environment.json").read_text())
    assert facts["prompt"] == "USER:{speech} Write it down. ASSISTANT: {text}"
    assert facts["prompt of training"] == PROMPT


def test_an_llm_of_other_tokens_is_no_lm_of_the_encoder(tokenizer, tmp_path):
    from espnet_llmvq.decode.system import load_fusion_lm
    from espnet_llmvq.llm.tokenizer import train_tokenizer

    (tmp_path / "text").write_text("ten eleven twelve\n" * 20)
    train_tokenizer([str(tmp_path / "text")], 105, str(tmp_path / "llm"))
    with pytest.raises(UserError, match="llm has other tokens than the encoder's CTC head; train both with one"):
        load_fusion_lm(str(tmp_path / "llm"), tokenizer, "cpu")


@pytest.mark.parametrize(
    "template",
    ["USER: {speech} ASSISTANT: {text}", "{speech}{text}", "Say:{speech}  Now. A:{text}", "A {speech} {text}"],
)
def test_template_of_a_sequence(template):
    """It makes the same sequence again, and says what `parse` keeps."""
    made = asr_sequence("u", "u.wav", 100, "one", template)
    found = template_of(made)
    assert asr_sequence("u", "u.wav", 100, "one", found) == made and parse(found) == parse(template)
