"""Learning rates of parts of a model."""

import argparse

import pytest
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.espnet.rates import check_scale, parameter_groups, scaled
from espnet_llmvq.espnet.task import SpeechLLMTask


def model():
    return torch.nn.ModuleDict(
        {
            "bridge": torch.nn.Linear(2, 2),
            "llm": torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)}),
        }
    )


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
    (optimizer,) = SpeechLLMTask.build_optimizers(args, model())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, **args.scheduler_conf)
    alone = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    reference = torch.optim.lr_scheduler.OneCycleLR(alone, max_lr=0.1, total_steps=10)
    for _ in range(9):
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


def test_a_name_that_matches_nothing_and_keys_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="'brigde' matches no parameter"):
        scaled(arguments(lr_scale={"brigde": 0.1}), model())
    with pytest.raises(UserError, match="lr_scale and exclude_weight_decay"):
        check_scale({"lr_scale": {"bridge": 0.1}, "exclude_weight_decay": True})
