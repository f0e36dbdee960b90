"""What a dry run says of a training: the terms of a paper, computed by hand from its configs."""

import inspect
import json
import os
import shlex
import shutil
import subprocess

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import train
from espnet_llmvq.experiment.phases import bridge_stack, describe, optimizer_steps, show, split_batches, with_schedule
from espnet_llmvq.experiment.training import Training

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "egs")
DEFAULTS = {
    "accum_grad": 1, "batch_type": "folded", "batch_size": 20, "batch_bins": 1000000, "bridge": "none",
    "bridge_conf": {}, "model_conf": {}, "llm_conf": {}, "optim": "adadelta", "optim_conf": {"rho": 0.9},
    "lr_scale": {}, "scheduler": None, "scheduler_conf": {}, "grad_clip": 5.0, "max_epoch": 40,
    "num_iters_per_epoch": None, "compile_llm": "none",
}  # fmt: skip

# The two stages of 2506.05706, section 3, as one GPU with room for 8 utterances would train them.
LETTER = {
    "common": {
        "bridge_conf": {"stack": 5, "hidden_size": 2048}, "batch_type": "unsorted", "batch_size": 8, "accum_grad": 4,
        "optim": "adam", "optim_conf": {"lr": 1e-4}, "scheduler": "warmup", "max_epoch": 10,
        "llm_conf": {"lora": {"r": 32}},
    },
    "stage1": {"base": "common", "bridge": "hard", "scheduler": "warmuplr",
                           "scheduler_conf": {"warmup_steps": 1000}},
    "stage2": {"base": "common", "bridge": "soft", "optim_conf": {"lr": 1e-5}, "accum_grad": 2,
                           "max_epoch": 2, "scheduler": None, "bridge_conf": {"top_k": 10, "codebook": "trainable"}},
}  # fmt: skip
ENCODER = {"model_conf": {"ctc_weight": 1.0, "llm_weight": 0.0}, "batch_type": "numel", "batch_bins": 600}


@pytest.fixture
def experiment(plan):
    """Function: the `Experiment` of the letter, with overrides {key: value} and options."""

    def make(overrides=None, **options):
        cards = {"phases": LETTER, "systems": {"soft_k10": {"phases": ["stage1", "stage2"]}}}
        words = (shlex.quote(f"{key}={json.dumps(value)}") for key, value in (overrides or {}).items())
        return plan(cards, ENCODER, systems="soft_k10", train_overrides=" ".join(words), **options)

    return make


def facts_of(experiment):
    return [describe(training, DEFAULTS) for training in experiment.trainings]


def test_numbers_of_a_paper(experiment):
    encoder, stage1, stage2 = facts_of(experiment())
    assert [f["phase"] for f in (encoder, stage1, stage2)] == ["encoder", "stage1", "stage1-stage2"]
    assert [f["parent"] for f in (encoder, stage1, stage2)] == [None, None, "stage1"]
    assert (stage1["effective_batch"], stage2["effective_batch"]) == (32, 16)
    assert (stage1["unit"], encoder["unit"]) == ("sequences", "LLM positions")
    assert (stage1["optim_conf"], stage2["optim_conf"]) == ({"lr": 1e-4}, {"lr": 1e-5})
    assert (stage1["max_epoch"], stage2["max_epoch"]) == (10, 2)
    assert stage1["scheduler_conf"] == {"warmup_steps": 1000} and stage2["scheduler"] is None
    assert stage2["bridge_conf"] == {"stack": 5, "hidden_size": 2048, "top_k": 10, "codebook": "trainable"}
    assert (encoder["trains"], encoder["frozen"]) == (["encoder", "CTC head"], [])
    assert (stage1["trains"], stage1["frozen"]) == (["projector", "LoRA"], ["encoder", "CTC head", "codebook", "LLM"])
    assert stage2["trains"] == ["projector", "codebook", "LoRA"]
    # The encoder's config names no optimizer: ESPnet's default, with its arguments.
    assert (encoder["optim"], encoder["optim_conf"]) == ("adadelta", {"rho": 0.9})


def test_steps_are_counted_as_training_makes_them():
    assert optimizer_steps({"max_epoch": 3, "num_iters_per_epoch": 7, "accum_grad": 2}) == 3 * 4
    assert optimizer_steps({"max_epoch": 3, "accum_grad": 2}, batches=8) == 12
    assert optimizer_steps({"max_epoch": 3}) is None


@pytest.mark.parametrize(
    "config, cut",
    [
        ({"batch_type": "numel", "batch_bins": 1000}, {"batch_bins": 334, "accum_grad": 3}),
        (
            {"batch_type": "unsorted", "batch_size": 12, "accum_grad": 2, "num_iters_per_epoch": 10},
            {"batch_size": 4, "accum_grad": 6, "num_iters_per_epoch": 30},
        ),
    ],
)
def test_batches_in_parts_are_the_same_steps(config, cut):
    assert split_batches(config, 3, "x.yaml") == {**config, **cut}
    assert optimizer_steps({"max_epoch": 2, **config}) == optimizer_steps({"max_epoch": 2, **config, **cut})


def test_batches_that_cannot_be_cut():
    with pytest.raises(UserError, match="x.yaml: batch_size 8 cannot be cut into 3 equal parts"):
        split_batches({"batch_type": "sorted", "batch_size": 8}, 3, "x.yaml")
    with pytest.raises(UserError, match="--accumulate 0"):
        split_batches({"batch_size": 8}, 0, "x.yaml")


def test_a_learning_rate_that_ends_too_soon_is_an_error(experiment):
    change = {"num_iters_per_epoch": 100, "scheduler": "onecyclelr", "max_epoch": 4, "accum_grad": 2}
    change["optim_conf"] = {"lr": 0.1}
    good = facts_of(experiment({**change, "scheduler_conf": {"total_steps": 200}}))
    assert [facts["steps"] for facts in good] == [200, 200, 200]
    with pytest.raises(UserError, match="total_steps is 199, but training takes 200 .* leave it out"):
        experiment({**change, "scheduler_conf": {"total_steps": 199}})


def test_a_schedule_follows_from_steps_and_rate(experiment):
    change = {"num_iters_per_epoch": 100, "scheduler": "onecyclelr", "max_epoch": 4, "optim_conf": {"lr": 0.1}}
    found = facts_of(experiment({**change, "scheduler_conf": {"pct_start": 0.1}}, accumulate=2))
    assert all(f["scheduler_conf"] == {"max_lr": 0.1, "total_steps": f["steps"], "pct_start": 0.1} for f in found)
    # Batches of stage 1 are 4 for a step, of stage 2 two; cut in two they are twice as many.
    assert [f["steps"] for f in found] == [400, 100, 200]
    # A schedule that goes on after the training is a choice.
    config = {**change, "scheduler_conf": {"total_steps": 1000}}
    assert with_schedule(config, "x")["scheduler_conf"] == {"max_lr": 0.1, "total_steps": 1000}
    assert with_schedule({"scheduler": "warmuplr"}, "x") == {"scheduler": "warmuplr"}
    for more, message in (
        ({"scheduler_conf": {"max_lr": 0.2}}, "x: .*max_lr is 0.2, but optim_conf.lr is 0.1: .* leave max_lr out"),
        ({"num_iters_per_epoch": None}, "x: onecyclelr needs scheduler_conf.total_steps, or num_iters_per_epoch and"),
        ({"optim_conf": {}}, "x: onecyclelr needs scheduler_conf.max_lr, or optim_conf.lr that it follows from"),
    ):
        with pytest.raises(UserError, match=message):
            with_schedule({**change, **more}, "x")


def test_onecyclelr_reads_no_rate_of_the_optimizer():
    import torch

    def rates(lr):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-4, total_steps=20)
        for _ in range(20):
            yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()

    assert list(rates(1e-3)) == list(rates(4e-4))


def test_trainings_of_other_stacks_do_not_go_together(experiment):
    from espnet_llmvq.bridge.bridge import Bridge

    trainings = experiment().trainings
    assert bridge_stack(trainings) == 5 and bridge_stack(trainings[:1]) == bridge_stack([]) == 1
    assert bridge_stack([Training("a", "a", {})]) == inspect.signature(Bridge.__init__).parameters["stack"].default
    trainings[2].config["bridge_conf"]["stack"] = 4
    message = "phase stage1 has bridge_conf.stack 5, .*phase stage2 has 4: .* give each stack its own --expdir"
    with pytest.raises(UserError, match=message):
        bridge_stack(trainings)


def test_lines(experiment):
    _, stage1, _ = experiment().trainings
    text = "\n".join(show(describe(stage1, DEFAULTS, gpus=2, batches=1000)))
    assert "8 sequences x 4 (accum_grad) = 32, shared by 2 GPUs" in text
    assert "10 epochs of 1000 batches = 2500 optimizer steps" in text
    assert "adam lr=0.0001" in text and "warmuplr warmup_steps=1000" in text and "rates" not in text
    stage1.config["lr_scale"] = {"bridge": 0.02, "llm": 0.5}
    assert "  rates      lr x 0.02 for bridge, lr x 0.5 for llm\n" in "\n".join(show(describe(stage1, DEFAULTS)))


def test_command_writes_nothing_but_the_file_asked_for(experiment, tmp_path, corpus, llm_dir, capsys):
    """The batches of an epoch are counted where positions are; every key is checked."""
    letter = {"scheduler": None, "scheduler_conf": {}, "batch_size": 4, "accum_grad": 2}
    shape = tmp_path / "exp/stats/train_shape"
    shape.parent.mkdir(parents=True)
    shutil.copy(corpus.train_shape, shape)

    def run(**overrides):
        experiment({**letter, **overrides}, llm=llm_dir, ngpu=2).write("plan.json")
        train.main(["--exp", "plan.json", "--dry_run", "--json", "facts.json"])

    run()
    assert sorted(os.listdir(tmp_path)) == [".llmvq-written", "conf", "exp", "facts.json", "plan.json"]
    assert [p for p in (tmp_path / "exp").rglob("*") if p.is_file()] == [shape]
    _, stage1, stage2 = json.loads((tmp_path / "facts.json").read_text())
    # 12 utterances are 3 batches of 4, of which 2 make a step and the third one of its own.
    assert (stage1["batches_per_epoch"], stage1["steps"], stage2["steps"], stage1["gpus"]) == (3, 20, 4, 2)
    assert "stage1-stage2" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'grad_clip'"):
        run(grad_clp=1)


@pytest.mark.slow
def test_recipe(tmp_path):
    """`run.sh --dry_run` in a recipe that has no data: nothing appears in it."""
    recipe = tmp_path / "egs" / "mini_tts" / "llmasr1"
    whole = {"symlinks": True, "ignore": shutil.ignore_patterns("__pycache__")}
    shutil.copytree(os.path.join(ROOT, "TEMPLATE"), tmp_path / "egs" / "TEMPLATE", **whole)
    shutil.copytree(os.path.join(ROOT, "mini_tts", "llmasr1"), recipe, **whole)
    before = sorted(os.listdir(recipe))
    environment = {**os.environ, "MAIN_ROOT": os.path.dirname(ROOT)}
    out = tmp_path / "plan.json"
    done = subprocess.run(
        ["./run.sh", "--dry_run", "--json", str(out), "--accumulate", "2"],
        cwd=recipe, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = {f["phase"]: f for f in json.loads(out.read_text())}
    assert sorted(os.listdir(recipe)) == before
    assert facts["encoder"]["steps"] == 2400 and facts["encoder"]["batch"] == 300
    assert facts["start-hard-soft_k10"]["steps"] == 200
    assert facts["start-hard-soft_k10"]["bridge_conf"]["top_k"] == 10
