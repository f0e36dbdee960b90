"""CTC with an LLM that phases of the system have trained, in full or by LoRA, as shallow-fusion LM."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import LORA

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.decode.system import load_fusion_lm, load_trained_llm
from espnet_llmvq.llm.directory import load_llm
from espnet_llmvq.llm.lora import merge_lora
from espnet_llmvq.sequence.asr import text_sequence
from espnet_llmvq.sequence.sequence import write_sequences
from espnet_llmvq.stages.decode import decode, nbest_made, search_options
from espnet_llmvq.stages.sequences import count_positions

KINDS = {"full": {}, "lora": {"lora": {**LORA, "target_modules": "all-linear"}}}


@pytest.fixture(scope="module", params=KINDS)
def phase(request, settings, encoder_dir, corpus, tmp_path_factory):
    """(kind, directory) of a phase that trains the LLM on text alone."""
    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.espnet.run import train_phase

    room = tmp_path_factory.mktemp("lm")
    path, shape, home = (str(room / name) for name in ("text.jsonl", "text_shape", "lm_text"))
    write_sequences(
        path, [text_sequence(f"t{i}", f"seven nine seven {w}") for i, w in enumerate("six two zero".split())]
    )
    config = settings(
        encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, freeze=["bridge"],
        llm_conf=KINDS[request.param], max_epoch=1, optim_conf={"lr": 0.05}, scheduler=None, num_iters_per_epoch=8,
        train_data_path_and_name_and_type=[[path, "sequence", "sequence"]], train_shape_file=[shape], batch_size=1,
    )  # fmt: skip
    count_positions([(path, shape)], config["llm"], read_config(os.path.join(corpus.dir, "encoder.yaml")), 1)
    train_phase(home, config, 1)
    return request.param, home


def saved_by_hand(kind, home, llm_dir, out):
    """A copy of the LLM's directory with the weights of a phase, from the tensors of its checkpoint."""
    shutil.copytree(llm_dir, out)
    state = torch.load(os.path.join(home, "model.pth"), weights_only=True)
    state = {name.removeprefix("llm."): value for name, value in state.items() if name.startswith("llm.")}
    llm = load_llm(llm_dir)
    weights = llm.state_dict()
    if kind == "full":
        weights = state
    else:
        scale = LORA["lora_alpha"] / LORA["r"]
        for name, a in state.items():
            if ".lora_A." in name:
                place, b = name.partition(".lora_A.")[0], state[name.replace("lora_A", "lora_B")]
                weights[f"{place}.weight"] += scale * b @ a
    llm.load_state_dict(weights)
    llm.save_pretrained(out)
    return str(out)


def lists_of(system, name):
    with open(system.hyp_path(name).parent / "nbest.jsonl", encoding="utf-8") as f:
        return [json.loads(line)["nbest"] for line in f]


def test_it_scores_as_the_same_llm_saved_by_hand(phase, llm_dir, encoder_dir, corpus, experiment_of, tmp_path):
    kind, home = phase
    saved = saved_by_hand(kind, home, llm_dir, tmp_path / "saved")
    found = {}
    for name, llm, lm in (("trained", llm_dir, home), ("saved", saved, ""), ("before", llm_dir, "")):
        experiment = experiment_of(
            tmp_path / name, {"fused": "ctc_lm"}, {"a": corpus.valid}, encoder=encoder_dir, num_beams=3, llm=llm
        )
        (system,) = experiment.systems
        system = replace(system, lm=lm, phases=("lm_text",) if lm else ())
        decode(experiment, [system], ["a"])
        found[name] = lists_of(system, "a")
    texts = {name: [[h["text"] for h in row] for row in rows] for name, rows in found.items()}
    scores = {name: [h["llm"] for row in rows for h in row] for name, rows in found.items()}
    assert texts["trained"] == texts["saved"] and len(scores["saved"]) > 5
    assert scores["trained"] == pytest.approx(scores["saved"], rel=1e-4)
    pairs = [[row[0]["llm"] for row in found[name]] for name in ("trained", "before")]
    assert max(abs(a - b) for a, b in zip(*pairs)) > 0.1  # the training has changed something


def test_its_weights_are_those_of_the_phase(phase, llm_dir, tokenizer, tmp_path):
    """In float32, LoRA within them, and the tokenizer is that of the LLM."""
    kind, home = phase
    llm, words_of = load_fusion_lm(llm_dir, tokenizer, "cpu", home)
    assert words_of is None and not llm.training and {p.dtype for p in llm.parameters()} == {torch.float32}
    truth = load_llm(saved_by_hand(kind, home, llm_dir, tmp_path / "saved"))
    ids = torch.tensor([tokenizer.encode("seven nine seven six")])
    assert torch.allclose(llm(ids).logits, truth(ids).logits, atol=1e-4)
    assert not torch.allclose(llm(ids).logits, load_llm(llm_dir)(ids).logits, atol=1e-2)
    # The text that was trained on has become likelier than one that was not.
    gain = {}
    for text in ("seven nine seven six", "one three four five"):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]])
        gain[text] = (load_llm(llm_dir)(ids, labels=ids).loss - llm(ids, labels=ids).loss).item()
    assert gain["seven nine seven six"] > max(0.1, gain["one three four five"])


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["v_proj", "embed_tokens"], ["lm_head"]])
def test_merging_changes_no_text(llm_dir, targets):
    """Tied embeddings neither, which are also the output layer."""
    torch.manual_seed(0)
    llm = load_llm(llm_dir, lora={**LORA, "target_modules": targets}).eval()
    for name, parameter in llm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(4, 24)[None]
    before = llm(ids).logits
    assert not torch.allclose(before, load_llm(llm_dir)(ids).logits, atol=1e-2)
    assert torch.allclose(merge_lora(llm)(ids).logits, before, atol=1e-4)
    assert llm.get_input_embeddings().weight.shape[0] == before.shape[-1]


def test_a_phase_without_an_llm_is_none(encoder_dir):
    with pytest.raises(UserError, match="encoder: its phase runs no LLM, so ctc_lm has none to take"):
        load_trained_llm(encoder_dir)


def test_what_it_is_made_of_is_noticed(llm_dir, encoder_dir, corpus, experiment_of, tmp_path):
    """Other weights of its LLM make its hypotheses stale, and no others."""
    home = tmp_path / "exp" / "lm_text"
    experiment = experiment_of(
        tmp_path, {"fused": "ctc_lm", "plain": "ctc_lm"}, {"a": corpus.valid}, encoder=encoder_dir
    )
    fused, plain = experiment.systems
    fused = replace(fused, lm=str(home), phases=("lm_text",))

    def made(system):
        return nbest_made(experiment, system, "a", search_options(experiment, system))

    with pytest.raises(UserError, match="lm_text/model.pth does not exist; run stage 11"):
        made(fused)
    home.mkdir()
    (home / "model.pth").write_bytes(b"weights")
    for system in (fused, plain):
        system.hyp_path("a").parent.mkdir(parents=True)
        (system.hyp_path("a").parent / "nbest.jsonl").write_text("")
        made(system).note()
        assert made(system).fresh()
    (home / "model.pth").write_bytes(b"others.")
    assert not made(fused).fresh() and made(plain).fresh()
    os.remove(experiment.encoder_file)
    with pytest.raises(UserError, match="encoder/model.pth does not exist; run stage 7"):
        made(fused)
