"""Checkpoints of the task: what they hold, what may be missing, and encoders trained elsewhere."""

import argparse
import os
import shutil

import pytest
import torch
import yaml
from conftest import ENCODER, LORA
from espnet2.tasks.asr import ASRTask

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.espnet.task import SpeechLLMTask
from espnet_llmvq.model.build import load_model
from espnet_llmvq.speech.encoder import SpeechEncoder


def test_unfrozen_encoder_is_part_of_the_checkpoint(make_model):
    ours = make_model(llm_conf={"lora": LORA})
    state = ours.state_dict()
    whole = torch.nn.Module.state_dict(ours)
    assert {n for n in whole if n not in state} == {
        n for n in whole if n.startswith(("llm.", "ctc.")) and "lora_" not in n
    } - {"ctc.ctc_lo.weight", "ctc.ctc_lo.bias"}
    lacking = {n: v for n, v in state.items() if not n.startswith("speech_encoder.encoder.after_norm")}
    with pytest.raises(UserError, match=r"2 tensors missing: speech_encoder.encoder.after_norm.weight, "):
        make_model(llm_conf={"lora": LORA}).load_state_dict(lacking)


def test_frozen_encoder_is_loaded_from_its_file(make_model, encoder_dir):
    file = os.path.join(encoder_dir, "model.pth")
    ours = make_model(encoder_file=file, specaug=None)
    assert {n.split(".")[0] for n in ours.state_dict()} == {"bridge", "llm"}
    saved = torch.load(file, weights_only=True)
    own = torch.nn.Module.state_dict(ours)
    names = [n for n in own if n.startswith(("speech_encoder.", "ctc."))]
    assert len(names) > 20 and all(torch.equal(own[n], saved[n]) for n in names)
    assert not any(p.requires_grad for n, p in ours.named_parameters() if n in names)
    ours.train()
    assert not any(m.training for m in ours.speech_encoder.modules()) and ours.speech_encoder.specaug is None


def test_trained_encoder_is_part_of_the_checkpoint(make_model, encoder_dir, tmp_path):
    """With `train_encoder` it goes on from its file, into the checkpoint and into the next phase."""
    file = os.path.join(encoder_dir, "model.pth")
    saved = torch.load(file, weights_only=True)
    ours = make_model(encoder_file=file, specaug=None, train_encoder=True, freeze=["llm"])
    own = torch.nn.Module.state_dict(ours)
    encoder = {n for n in own if n.startswith("speech_encoder.")}
    assert all(torch.equal(own[n], saved[n]) for n in encoder)
    assert {n.split(".")[0] for n in ours.state_dict()} == {"bridge", "speech_encoder"}
    assert encoder < set(ours.state_dict())  # statistics of batch normalisation too
    trainable = {n.split(".")[0] for n, p in ours.named_parameters() if p.requires_grad}
    assert trainable == {"bridge", "speech_encoder"}  # not the CTC head
    ours.train()
    norms = [m for m in ours.speech_encoder.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert norms and not any(m.training for m in norms) and ours.speech_encoder.encoder.training

    with torch.no_grad():
        for p in ours.speech_encoder.parameters():
            p += 1
    path = str(tmp_path / "model.pth")
    torch.save(ours.state_dict(), path)
    following = make_model(encoder_file=file, specaug=None, train_encoder=True, init_from=path)
    found = torch.nn.Module.state_dict(following)
    moved = torch.nn.Module.state_dict(ours)
    assert all(torch.equal(found[n], moved[n]) for n in encoder)
    with pytest.raises(UserError, match=r"model.pth: the phase before trained speech_encoder \(\d+ tensors\)"):
        make_model(encoder_file=file, specaug=None, init_from=path)
    with pytest.raises(UserError, match="train_encoder is for a pretrained encoder"):
        make_model(train_encoder=True)


def test_cached_frames_are_not_of_an_encoder_that_trains(arguments, encoder_dir):
    args = arguments(encoder_file=os.path.join(encoder_dir, "model.pth"), train_encoder=True, train_cache="frames.scp")
    with pytest.raises(UserError, match="cached frames are those of the encoder before training"):
        SpeechLLMTask.build_preprocess_fn(args, True)


def test_encoder_file_that_lacks_tensors(make_model, encoder_dir, tmp_path):
    state = torch.load(os.path.join(encoder_dir, "model.pth"), weights_only=True)
    del state["speech_encoder.encoder.embed.0.weight"]
    state["ctc.ctc_lo.bias"] = state["ctc.ctc_lo.bias"][1:]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match="config.yaml does not exist"):
        make_model(encoder_file=str(tmp_path / "model.pth"))
    shutil.copy(os.path.join(encoder_dir, "config.yaml"), tmp_path)
    with pytest.raises(UserError, match="lacks 2 .*: speech_encoder.encoder.embed.0.weight, ctc.ctc_lo.bias"):
        make_model(encoder_file=str(tmp_path / "model.pth"))


def test_load_model(encoder_dir, corpus):
    """The directory of a trained phase gives the model that was saved, in eval mode."""
    model, config = load_model(encoder_dir)
    saved = torch.load(os.path.join(encoder_dir, "model.pth"), weights_only=True)
    assert set(saved) == set(model.state_dict())
    assert all(torch.equal(v, saved[n]) for n, v in model.state_dict().items())
    assert not model.training and config["frame_stack"] == 4 and model.llm is None
    with pytest.raises(UserError, match="nothing.pth does not exist"):
        load_model(encoder_dir, file="nothing.pth")


def espnet_asr(directory, tokens, **overrides):
    """An experiment directory of ESPnet's ASR task, its frontend with the default `center: true`."""
    torch.manual_seed(5)
    frontend = {**ENCODER["frontend_conf"], "center": True}
    config = {
        **ASRTask.get_default_config(), **ENCODER, "frontend_conf": frontend, "specaug": None,
        "specaug_conf": {}, "token_list": tokens, "model_conf": {"ctc_weight": 1.0}, **overrides,
    }  # fmt: skip
    del config["frame_stack"]
    args = argparse.Namespace(**config)
    model = ASRTask.build_model(args).eval()
    (directory / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), directory / "valid.loss.best.pth")
    return model, str(directory / "valid.loss.best.pth")


def test_encoder_of_espnet_asr(make_model, tmp_path):
    asr, file = espnet_asr(tmp_path, ["<blank>", "<unk>", "a", "b", "<sos/eos>"])
    # A tokenizer of its own: the CTC head does not fit the LLM's tokens.
    with pytest.raises(UserError, match=r"lacks 2 encoder tensors: ctc.ctc_lo.weight, ctc.ctc_lo.bias"):
        make_model(encoder_file=file)
    ours = make_model(encoder_file=file, ctc=False)
    assert isinstance(ours.speech_encoder, SpeechEncoder) and ours.ctc is None
    torch.manual_seed(6)
    for n in (9000, 4001):
        speech, lengths = torch.randn(1, n), torch.tensor([n])
        with torch.no_grad():
            expected, frames = asr.encode(speech.clone(), lengths)
            found, counted = ours.encode(speech, lengths)
        assert frames.tolist() == counted.tolist()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_espnet_encoders_that_ours_cannot_be(make_model, tmp_path):
    _, file = espnet_asr(
        tmp_path, ["<blank>", "a", "<sos/eos>"], preencoder="linear",
        preencoder_conf={"input_size": 20, "output_size": 20},
    )  # fmt: skip
    with pytest.raises(UserError, match="preencoder"):
        make_model(encoder_file=file, ctc=False)
    _, file = espnet_asr(tmp_path, ["<blank>", "a", "<sos/eos>"], encoder="rnn", encoder_conf={})
    with pytest.raises(UserError, match="unknown encoder of .*'rnn'"):
        make_model(encoder_file=file, ctc=False)
