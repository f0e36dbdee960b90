"""CONTRIBUTING.md names one place for a bridge and two for an encoder: entries there suffice to train and decode."""

import re
from pathlib import Path

import pytest
import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.bridge.bridge import BRIDGES, Bridge
from espnet_llmvq.decode.batches import Batches
from espnet_llmvq.decode.ctc import greedy
from espnet_llmvq.decode.generate import encoded, generate
from espnet_llmvq.espnet.run import train_phase
from espnet_llmvq.espnet.task import SpeechLLMTask
from espnet_llmvq.model.build import encoder_choices, load_model
from espnet_llmvq.speech.frame_rate import SUBSAMPLING


class Noisy(Bridge):
    """A continuous bridge with noise on its outputs, of a level that trains."""

    def __init__(self, input_size, embedding, level=0.1, **kwargs):
        super().__init__(input_size, embedding, **kwargs)
        self.level = torch.nn.Parameter(torch.tensor(level))

    def quantize(self, z):
        return (z + self.level * torch.randn_like(z) if self.training else z), None


class Pooled(AbsEncoder):
    """Means of five frames, and a linear layer."""

    def __init__(self, input_size, output_size=8, input_layer="mean5"):
        super().__init__()
        self.size, self.linear = output_size, torch.nn.Linear(input_size, output_size)

    def output_size(self):
        return self.size

    def forward(self, xs_pad, ilens, prev_states=None):
        pooled = torch.nn.functional.avg_pool1d(xs_pad.transpose(1, 2), 5).transpose(1, 2)
        return self.linear(pooled), ((ilens - 1) // 5 + 1).clamp(max=pooled.shape[1]), None


def trained_and_decoded(directory, config, tokenizer):
    """(model, hypotheses) of a system that ESPnet's trainer trained for an epoch."""
    SpeechLLMTask.check_config({key: config[key] for key in ("bridge", "bridge_conf", "encoder", "encoder_conf")})
    train_phase(directory, config, 1)
    model, _ = load_model(directory)
    lists = []
    for _, batch in Batches(config["valid_data_path_and_name_and_type"][0][0], 100.0, tokenizer):
        batch = encoded(model, batch)
        lists += generate(model, tokenizer, batch, 2)
        assert len(greedy(model, batch)) == len(batch["tokens"])
    return model, lists


def test_a_bridge_is_one_entry(tmp_path, settings, tokenizer, monkeypatch):
    monkeypatch.setitem(BRIDGES, "noisy", Noisy)
    conf = {"stack": 1, "hidden_size": 8, "level": 0.3}
    config = settings(bridge="noisy", bridge_conf=conf, max_epoch=1, keep_nbest_models=1)
    model, lists = trained_and_decoded(str(tmp_path / "exp"), config, tokenizer)
    assert isinstance(model.bridge, Noisy) and 0 < abs(float(model.bridge.level.detach()) - 0.3) < 0.1
    assert len(lists) == 5 and all(lists)
    with pytest.raises(UserError, match="key under bridge_conf in config 'levle'.*'level'"):
        SpeechLLMTask.check_config({"bridge": "noisy", "bridge_conf": {"levle": 1}})


def test_an_encoder_is_one_entry_and_one_for_its_input_layer(tmp_path, settings, tokenizer, monkeypatch):
    monkeypatch.setitem(encoder_choices.classes, "pooled", Pooled)
    monkeypatch.setitem(SUBSAMPLING, "mean5", ((5, 5),))
    config = settings(
        encoder="pooled", encoder_conf={"input_layer": "mean5", "output_size": 12}, frame_stack=1, max_epoch=1,
        keep_nbest_models=1, model_conf={"ctc_weight": 0.5}, specaug=None,
    )  # fmt: skip
    model, lists = trained_and_decoded(str(tmp_path / "exp"), config, tokenizer)
    assert isinstance(model.speech_encoder.encoder, Pooled) and model.speech_encoder.rate.step == 800
    assert len(lists) == 5 and all(lists)


def test_the_places_are_those_that_the_guide_names():
    root = Path(__file__).resolve().parent.parent
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for title, places in (
        ("A new bridge", {"BRIDGES": "espnet_llmvq/bridge/bridge.py"}),
        ("A new encoder", {"encoder_choices": "espnet_llmvq/model/build.py",
                           "SUBSAMPLING": "espnet_llmvq/speech/frame_rate.py"}),
    ):  # fmt: skip
        section = " ".join(text.partition(f"## {title}\n")[2].partition("\n## ")[0].split())
        for name, path in places.items():
            assert f"`{name}` in `{path}`" in section
            assert re.search(rf"^{name}\b", (root / path).read_text(encoding="utf-8"), re.M)
