"""Configs of egs/librispeech/llmasr1 against what arXiv 2506.05706 says of its training, typed here."""

import re
from pathlib import Path

import pytest
import torch

from espnet_llmvq.base.config import from_mapping, read_yaml
from espnet_llmvq.bridge.bridge import Bridge, HardBridge, SoftBridge
from espnet_llmvq.experiment.cards import read_cards
from espnet_llmvq.experiment.systems import expand, phases_of, read_phases
from espnet_llmvq.score.published import Published

RECIPE = Path(__file__).resolve().parents[1] / "egs/librispeech/llmasr1"
CARDS = {"wavlm": read_cards(RECIPE / "conf"), "whisper": read_cards(RECIPE / "conf/whisper")}
BRIDGES = {"none": Bridge, "hard": HardBridge, "soft": SoftBridge}
UTTERANCES = 281_241  # of LibriSpeech's 960 hours
STAGE = {1: {"epochs": 10, "rate": 1e-4, "batch": 32}, 2: {"epochs": 2, "rate": 1e-5, "batch": 16}}
WARMUP_STEPS = 1000
# The rows of the paper: stages of the phases, and of the last phase quantizer, kept rows and codebook.
PAPER = {
    "slam": ([1], "none", None, None),
    "lora": ([1], "none", None, None),
    "hard": ([1], "hard", None, "frozen"),
    "hard_kall": ([1, 2], "hard", "all", "trainable"),
    "hard_k100": ([1, 2], "hard", 100, "trainable"),
    "hard_k10": ([1, 2], "hard", 10, "trainable"),
    "hard_k1": ([1, 2], "hard", 1, "trainable"),
    "soft_kall": ([1, 2], "soft", "all", "trainable"),
    "soft_k100": ([1, 2], "soft", 100, "trainable"),
    "soft_k10": ([1, 2], "soft", 10, "trainable"),
    "soft_k10_frozen": ([1, 2], "soft", 10, "frozen"),
    "soft1": ([1], "soft", 10, "frozen"),
    "soft1_soft_k10": ([1, 2], "soft", 10, "trainable"),
}
OURS = {"lora_long": [1, 2], "hard_long": [1, 2], "soft_k10_literal": [1, 2], "soft_k10_sharp": [1, 2]}
# WER of WavLM on test-clean and Common Voice, of Whisper on both.
WER = {
    "slam": [3.73, 68.27, 6.06, 35.89],
    "lora": [3.78, 46.12, 7.54, 29.86],
    "hard": [7.88, 43.40, 10.07, 34.96],
    "hard_kall": [8.18, 40.64, None, None],
    "hard_k100": [5.33, 33.47, None, None],
    "hard_k10": [4.95, 32.32, None, None],
    "hard_k1": [7.16, 36.43, None, None],
    "soft_kall": ["inf", "inf", None, None],
    "soft_k100": [3.74, 29.04, None, None],
    "soft_k10": [3.91, 30.78, 5.63, 25.53],
    "soft_k10_frozen": [4.12, 31.03, None, None],
    "soft1": [5.43, 43.75, 8.68, 32.57],
    "soft1_soft_k10": [4.86, 37.06, 7.28, 30.88],
}


def configs_of(encoder, system):
    """[training config] of a system, first phase first."""
    return [phase.config for phase in phases_of(CARDS[encoder], system)]


def batch(config):
    return config["batch_size"] * config["accum_grad"]


def steps(config):
    """Optimizer steps: ESPnet spreads what is left over on the batches; what is left of these makes a step."""
    batches = UTTERANCES // config["batch_size"]
    return config["max_epoch"] * -(-batches // config["accum_grad"])


def rates(config, at):
    """Learning rates of ESPnet's scheduler at the steps `at`, counted from 1."""
    from espnet2.schedulers.piecewise_linear_warmup_lr import PiecewiseLinearWarmupLR

    assert config["scheduler"] == "piecewiselinearwarmuplr"
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=config["optim_conf"]["lr"])
    scheduler = PiecewiseLinearWarmupLR(optimizer, **config["scheduler_conf"])
    found = []
    for step in at:
        scheduler.last_epoch = step - 1
        found.append(scheduler.get_lr()[0])
    return found


@pytest.mark.parametrize("encoder", CARDS)
@pytest.mark.parametrize("system", [*PAPER, *OURS])
def test_batches_rates_and_epochs_of_both_stages(encoder, system):
    stages = PAPER[system][0] if system in PAPER else OURS[system]
    configs = configs_of(encoder, system)
    assert len(configs) == len(stages)
    for config, stage in zip(configs, stages):
        wanted = STAGE[stage]
        assert (config["max_epoch"], batch(config)) == (wanted["epochs"], wanted["batch"])
        assert "num_iters_per_epoch" not in config and config["batch_type"] == "sorted"
        assert config["optim"] == "adam" and config["optim_conf"] == {"lr": wanted["rate"]}
        last = steps(config)
        assert last > 2 * WARMUP_STEPS
        at = [1, WARMUP_STEPS // 2, WARMUP_STEPS, WARMUP_STEPS + 1, 10 * WARMUP_STEPS, last]
        parts = [1 / WARMUP_STEPS, 0.5, 1, 1, 1, 1]
        assert rates(config, at) == pytest.approx([part * wanted["rate"] for part in parts], rel=1e-9)


def test_optimizer_steps():
    """281,241 utterances are 8,788 x 32 and some, and 17,577 x 16 and some, an epoch; the rest makes a step."""
    hard, soft = configs_of("wavlm", "soft_k10")
    assert steps(hard) == 10 * 8789 and steps(soft) == 2 * 17578


@pytest.mark.parametrize("encoder", CARDS)
def test_rows_that_are_compared_see_the_same(encoder):
    def seen(system):
        keys = ("max_epoch", "batch_size", "accum_grad", "grad_clip", "optim", "optim_conf")
        keys += ("scheduler", "scheduler_conf")
        return [[config[key] for key in keys] for config in configs_of(encoder, system)]

    two_stages = ["lora_long", "hard_long", *(name for name, row in PAPER.items() if len(row[0]) == 2)]
    assert all(seen(name) == seen("soft_k10") for name in two_stages)
    assert all(seen(name) == seen("soft_k10")[:1] for name, row in PAPER.items() if len(row[0]) == 1)


@pytest.mark.parametrize("encoder", CARDS)
@pytest.mark.parametrize("system", PAPER)
def test_quantizers(encoder, system):
    _, bridge, kept, codebook = PAPER[system]
    config = configs_of(encoder, system)[-1]
    assert config["bridge"] == bridge
    assert (config["bridge_conf"].get("top_k"), config["bridge_conf"].get("codebook")) == (kept, codebook)
    for config in configs_of(encoder, system):
        assert config["bridge_conf"].get("temperature", 1.0) == 1.0  # the paper has none
        built = BRIDGES[config["bridge"]](6, torch.randn(200, 8), **config["bridge_conf"])
        assert built.stack == 5 and not getattr(built, "match_norm", False)
        kinds = [type(m).__name__ for m in (built.projector.norm, built.projector.hidden, built.projector.output)]
        assert kinds == ["Identity", "Linear", "Linear"]
        assert built.projector.hidden.in_features == 5 * 6


@pytest.mark.parametrize("encoder", CARDS)
def test_models(encoder):
    for phase in read_phases(CARDS[encoder], ["paper_a"]):
        config, name = phase.config, phase.tag.rpartition("-")[2]
        assert config["encoder"] == encoder and config["encoder_conf"]["layer"] == "last"
        assert [config[key] for key in ("frontend", "normalize", "specaug", "ctc")] == [None, None, None, False]
        # No aligned start, no blank dropping: there is no CTC head.
        assert not {"model_conf", "aligned_start_conf", "ctc_conf"} & config.keys()
        if name == "slam":
            assert config["freeze"] == ["llm"] and "llm_conf" not in config
        else:
            assert config["freeze"] == [] and config["llm_conf"]["lora"]["r"] == 32


@pytest.mark.parametrize("encoder", CARDS)
def test_groups_and_phases(encoder):
    cards = CARDS[encoder]
    assert expand(cards, ["paper_a"]) == [*PAPER, *OURS]
    whisper = expand(cards, ["paper_a_whisper"])
    assert set(whisper) - {"lora_long"} == {name for name, row in WER.items() if row[2] is not None}
    used = {phase.tag.rpartition("-")[2] for phase in read_phases(cards, ["paper_a"])}
    assert used == set(cards.names("phases")) - {"common"}


def test_the_two_encoders_differ_in_nothing_else():
    for name in CARDS["wavlm"].names("phases"):
        wavlm, whisper = (cards.phase(name) for cards in CARDS.values())
        assert {key for key in wavlm if wavlm[key] != whisper[key]} == {"encoder", "encoder_conf"}


def test_published_figures():
    path = str(RECIPE / "conf/published/soft_vq.yaml")
    assert from_mapping(Published, read_yaml(path), path).rows == WER


def test_run_decodes_and_scores_as_the_paper():
    options = dict(re.findall(r"^    --(\w+) (.+)$", (RECIPE / "run.sh").read_text(), re.MULTILINE))
    assert options["prompt"] == '"USER: {speech} Transcribe speech to text. ASSISTANT: {text}"'
    assert options["num_beams"] == "4" and options["normaliser"] == "softvq"


@pytest.mark.parametrize("system", [*PAPER, *OURS])
def test_seven_billion_parameters(system):
    """One model on several GPUs: the same effective batches, in one piece, and the same rates and epochs."""
    cards = read_cards(RECIPE / "conf/7b.yaml")
    assert len(phases_of(cards, system)) == len(configs_of("wavlm", system))
    for phase, plain in zip(phases_of(cards, system), configs_of("wavlm", system)):
        config, llm = phase.config, phase.config["llm_conf"]
        assert batch(config) == batch(plain) == config["batch_size"]
        same = ("max_epoch", "optim_conf", "scheduler_conf", "freeze", "bridge", "bridge_conf")
        assert [config.get(key) for key in same] == [plain.get(key) for key in same]
        assert config["fsdp"] and llm.get("lora") == plain.get("llm_conf", {}).get("lora")
        assert llm["gradient_checkpointing"] and llm["dtype"] == "bfloat16"


def test_the_whole_llm_of_seven_billion_parameters():
    """What trains is float32."""
    first, whole = (phase.config for phase in phases_of(read_cards(RECIPE / "conf/7b.yaml"), "whole"))
    assert first["freeze"] == ["llm"] and whole["freeze"] == [] and whole["llm_conf"]["dtype"] == "float32"
    assert "lora" not in whole["llm_conf"]
