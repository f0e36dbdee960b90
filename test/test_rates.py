"""Learning rates of parts of a model."""

import argparse
import copy

import pytest
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.espnet.rates import ONE_RATE, check_scale, parameter_groups, scaled
from espnet_llmvq.espnet.task import SpeechLLMTask, scheduler_classes


class Model(torch.nn.ModuleDict):
    def forget_drift(self, *_):
        """It has no codebook."""


def model():
    llm = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    return Model({"bridge": torch.nn.Linear(2, 2), "llm": llm})


def arguments(**keys):
    keys = {"optim": "sgd", "optim_conf": {"lr": 0.1}, "scheduler": None, "scheduler_conf": {}, **keys}
    return argparse.Namespace(**{"exclude_weight_decay": False, "sharded_ddp": False, **keys})


def test_a_step_is_as_long_as_the_factor_says():
    m = model()
    before = {name: p.clone() for name, p in m.named_parameters()}
    args = arguments(lr_scale={"llm": 0.5, "llm.b": 0.25})
    (optimizer,) = SpeechLLMTask.build_optimizers(args, m)
    for p in m.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in m.named_parameters():
        expected = 0.1 * (0.25 if name.startswith("llm.b") else 0.5 if name.startswith("llm") else 1)
        torch.testing.assert_close(before[name] - p, torch.full_like(p, expected))


def test_onecycle_keeps_the_ratio_at_every_step_and_resumes():
    args = arguments(
        optim="adamw",
        lr_scale={"bridge": 0.1},
        scheduler="onecyclelr",
        scheduler_conf={"max_lr": 0.1, "total_steps": 10},
    )
    again = copy.deepcopy(args)
    (optimizer,) = SpeechLLMTask.build_optimizers(args, model())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, **args.scheduler_conf)
    alone = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(alone, max_lr=0.1, total_steps=10)
    for step in range(9):
        if step == 5:
            states = optimizer.state_dict(), scheduler.state_dict()
            (optimizer,) = SpeechLLMTask.build_optimizers(again, model())
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, **again.scheduler_conf)
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        whole, slow = (group["lr"] for group in optimizer.param_groups)
        assert whole == pytest.approx(alone.param_groups[0]["lr"])
        assert slow == pytest.approx(whole / 10)
        for each in (optimizer, scheduler, alone, reference):
            each.step()


def test_frozen_parameters_are_left_out_and_all_others_are_there_once():
    m = model()
    m["llm"]["a"].weight.requires_grad = False
    groups = parameter_groups(m.named_parameters(), {"llm": 0.5})
    assert [factor for factor, _ in groups] == [1, 0.5]
    assert [len(params) for _, params in groups] == [2, 3]


@pytest.mark.parametrize("factor", [0, -1, True, "0.1", None, float("inf"), float("nan")])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(UserError, match="lr_scale.bridge is"):
        check_scale({"lr_scale": {"bridge": factor}})


@pytest.mark.parametrize("scale", [["bridge"], 0.1, {"(": 0.1}, {1: 0.1}])
def test_what_is_no_mapping_of_names_is_refused(scale):
    with pytest.raises(UserError, match="must be names with factors|is no regular expression"):
        check_scale({"lr_scale": scale, "optim_conf": {"lr": 0.1}})


# What each needs to make a few steps.
SCHEDULERS = {
    "reducelronplateau": {},
    "lambdalr": {"lr_lambda": lambda step: 0.5**step},
    "steplr": {"step_size": 2},
    "multisteplr": {"milestones": [2]},
    "exponentiallr": {"gamma": 0.5},
    "cosineannealinglr": {"T_max": 20},
    "noamlr": {"model_size": 4, "warmup_steps": 3},
    "warmuplr": {"warmup_steps": 3},
    "piecewiselinearwarmuplr": {"warmup_steps_list": [0, 2, 1000], "warmup_lr_list": [0.0, 0.1, 0.1]},
    "warmupsteplr": {"warmup_steps": 3},
    "warmupreducelronplateau": {"warmup_steps": 3},
    "cycliclr": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False},
    "onecyclelr": {"max_lr": 0.1, "total_steps": 10},
    "cosineannealingwarmrestarts": {"T_0": 20},
    "cosineannealingwarmuprestarts": {"first_cycle_steps": 20, "max_lr": 0.1},
    "tristagelr": {"max_steps": 20},
    "exponentialdecaywarmup": {"max_lr": 0.1, "min_lr": 0.01, "total_steps": 20},
}


def test_all_schedulers_are_tried():
    assert SCHEDULERS.keys() == scheduler_classes.keys()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_keeps_the_ratio_or_is_refused(name):
    args = arguments(lr_scale={"bridge": 0.1}, scheduler=name, scheduler_conf=SCHEDULERS[name])
    refused = name in ONE_RATE
    if refused:
        with pytest.raises(UserError, match=f"lr_scale has no effect with scheduler {name}"):
            SpeechLLMTask.build_optimizers(args, model())
    groups, conf = scaled(args, model())
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler, kept = scheduler_classes[name](optimizer, **conf), []
    for _ in range(6):
        optimizer.step()
        scheduler.step(*([1.0] if name == "reducelronplateau" else []))
        whole, slow = (float(group["lr"]) for group in optimizer.param_groups)
        kept.append(slow == pytest.approx(whole / 10))
    assert all(kept) != refused


def test_a_name_that_matches_nothing_and_keys_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="'brigde' matches no parameter"):
        scaled(arguments(lr_scale={"brigde": 0.1}), model())
    with pytest.raises(UserError, match="lr_scale and exclude_weight_decay"):
        check_scale({"lr_scale": {"bridge": 0.1}, "exclude_weight_decay": True})
    with pytest.raises(UserError, match="lr_scale needs optim_conf.lr"):
        check_scale({"lr_scale": {"bridge": 0.1}, "optim_conf": {"weight_decay": 0.01}})
