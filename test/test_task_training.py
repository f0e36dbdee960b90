"""Training with ESPnet's trainer: kills and resuming, settings, cached frames, phases."""

import argparse
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import LORA, without_last_line

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.made import Made
from espnet_llmvq.espnet import run as launch
from espnet_llmvq.espnet import trainer
from espnet_llmvq.experiment.phases import optimizer_steps
from espnet_llmvq.experiment.training import Training
from espnet_llmvq.stages import train as stage
from espnet_llmvq.stages.encoder import encode, frames_of
from espnet_llmvq.stages.sequences import sequences_made


@pytest.fixture(scope="module")
def config(settings):
    """A phase with everything random in it: dropout, LoRA dropout, SpecAugment and noise."""
    return settings(
        llm_conf={"lora": LORA},
        bridge="soft",
        bridge_conf={"stack": 1, "hidden_size": 24, "dropout_rate": 0.1, "codebook": "trainable", "top_k": 10},
        model_conf={"ctc_weight": 0.3, "drop_blank": 0.99},
        augment_conf={"noise_prob": 0.7},
    )


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "phase"
    launch.train_phase(str(directory), config, 1)
    return directory


def weights(directory, name="model.pth"):
    return torch.load(directory / name, map_location="cpu", weights_only=True)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class Toy(torch.nn.Module):
    """Its gradient is the batch: a number."""

    loss_weights = {}

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, utt_id):
        loss = self.w * x
        return loss, {"loss": loss.detach()}, torch.tensor(1.0)


@pytest.mark.parametrize(
    "accum_grad, steps", [(1, [1.0, 2.0, 4.0, 8.0, 16.0]), (2, [1.5, 6.0, 16.0]), (5, [6.2]), (7, [6.2])]
)
def test_batches_at_the_end_of_an_epoch_make_a_step_of_their_own(arguments, accum_grad, steps):
    """The mean of as many as there are, in each epoch; what is left of one would be lost by a kill."""
    from espnet2.train.distributed_utils import DistributedOption
    from espnet2.train.reporter import Reporter

    batches = [(["utt"], {"x": torch.tensor(x)}) for x in (1.0, 2.0, 4.0, 8.0, 16.0)]
    options = trainer.SpeechLLMTrainer.build_options(
        argparse.Namespace(**vars(arguments(accum_grad=accum_grad, grad_clip=100.0, output_dir="")))
    )
    model, found, reporter = Toy(), [], Reporter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: found.append(float(model.w.grad)))
    for epoch in (1, 2):
        reporter.set_epoch(epoch)
        with reporter.observe("train") as sub_reporter:
            invalid = trainer.SpeechLLMTrainer.train_one_epoch(
                model=model, optimizers=[optimizer], schedulers=[None], iterator=batches, reporter=sub_reporter,
                scaler=None, summary_writer=None, options=options, distributed_option=DistributedOption(),
            )  # fmt: skip
        assert not invalid and not model.w.grad
    assert found == pytest.approx([*steps, *steps])
    assert optimizer_steps({"max_epoch": 2, "accum_grad": accum_grad}, batches=5) == len(found)


def test_a_training_whose_gradients_are_not_finite_is_no_training(settings, tmp_path, monkeypatch):
    """ESPnet would warn, stop and average what it has: the weights of the start."""
    from espnet_llmvq.model import speech_llm

    made = speech_llm.next_token_loss

    def broken(*args):
        loss, *rest = made(*args)
        return loss * math.nan, *rest

    monkeypatch.setattr(speech_llm, "next_token_loss", broken)
    with pytest.raises(UserError, match="finite gradient"):
        launch.train_phase(str(tmp_path / "phase"), settings(max_epoch=2), 1)
    assert not (tmp_path / "phase" / "model.pth").exists()


@pytest.mark.parametrize("bad, message", [([5], ""), ([5, 8], "2 of 12 steps of epoch 1 .* u10, u11, u16, u17: more")])
def test_skipped_steps_are_counted_and_end_a_training(arguments, bad, message, caplog):
    """One of twelve steps (8 %) is said, with its utterances; two (17 %) are no training."""
    from espnet2.train.distributed_utils import DistributedOption
    from espnet2.train.reporter import Reporter

    # Two batches make a step; the first batch of step i is not finite for i in `bad`.
    x = [math.nan if i % 2 == 0 and i // 2 in bad else 1.0 for i in range(24)]
    batches = [([f"u{i}"], {"x": torch.tensor(value)}) for i, value in enumerate(x)]
    options = trainer.SpeechLLMTrainer.build_options(
        argparse.Namespace(**vars(arguments(accum_grad=2, grad_clip=100.0, output_dir="")))
    )
    model, reporter = Toy(), Reporter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    reporter.set_epoch(1)
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        with reporter.observe("train") as sub_reporter:
            trainer.SpeechLLMTrainer.train_one_epoch(
                model=model, optimizers=[optimizer], schedulers=[None], iterator=batches, reporter=sub_reporter,
                scaler=None, summary_writer=None, options=options, distributed_option=DistributedOption(),
            )  # fmt: skip
    assert f"{len(bad)} of 12 steps" in caplog.text and "u10, u11" in caplog.text
    if not message:
        assert reporter.get_value("train", "skipped_percent") == pytest.approx(100 / 12)


def test_what_is_wrong_with_a_batch_names_its_utterances(arguments):
    from espnet2.train.distributed_utils import DistributedOption
    from espnet2.train.reporter import Reporter

    from espnet_llmvq.bridge.search import check_finite

    class Broken(Toy):
        def forward(self, x, utt_id):
            check_finite(x, "bridge input z")
            return super().forward(x.sum(), utt_id)

    batches = [([name], {"x": torch.tensor([x])}) for name, x in (("good", 1.0), ("bad", math.nan))]
    options = trainer.SpeechLLMTrainer.build_options(
        argparse.Namespace(**vars(arguments(accum_grad=1, grad_clip=100.0, output_dir="")))
    )
    model, reporter = Broken(), Reporter()
    reporter.set_epoch(1)
    with pytest.raises(UserError, match=r"bridge input z: NaN.*\(in the batch of bad\)"):
        with reporter.observe("train") as sub_reporter:
            trainer.SpeechLLMTrainer.train_one_epoch(
                model=model, optimizers=[torch.optim.SGD(model.parameters(), lr=1.0)], schedulers=[None],
                iterator=batches, reporter=sub_reporter, scaler=None, summary_writer=None, options=options,
                distributed_option=DistributedOption(),
            )  # fmt: skip


def precisions(model):
    return {name: p.dtype for name, p in model.named_parameters()}


def test_a_frozen_llm_in_half_precision_is_the_same_in_training_and_decoding(config, tmp_path, monkeypatch):
    """ESPnet's trainer makes float32 of all parts; so training would have another LLM than decoding has."""
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.model.speech_llm import SpeechLLM

    forward, seen = SpeechLLM.forward, []

    def look(self, *args, **kwargs):
        result = forward(self, *args, **kwargs)
        if not self.training:
            seen.append((precisions(self), float(result[0].detach()), args, kwargs))
        return result

    half = {**config, "llm_conf": {"lora": LORA, "dtype": "bfloat16"}, "max_epoch": 1, "valid_batch_size": 5}
    with monkeypatch.context() as patch:
        patch.setattr(SpeechLLM, "forward", look)
        launch.train_phase(str(tmp_path / "phase"), half, 1)
    ((kinds, loss, args, kwargs),) = seen
    model = load_model(str(tmp_path / "phase"))[0]
    assert precisions(model) == kinds
    frozen = {n for n, p in model.named_parameters() if n.startswith("llm.") and not p.requires_grad}
    assert frozen and {n for n, dtype in kinds.items() if dtype == torch.bfloat16} == frozen
    assert set(kinds.values()) == {torch.bfloat16, torch.float32}
    with torch.no_grad():
        assert float(model(*args, **kwargs)[0]) == loss


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_that_train_are_not_in_half_precision(make_model, dtype):
    with pytest.raises(UserError, match=f"llm_conf.dtype: {dtype} is for frozen weights, and llm.* trains: .* freeze"):
        make_model(llm_conf={"dtype": dtype})
    make_model(llm_conf={"dtype": dtype}, freeze=["llm"])


def test_training_learns(undisturbed):
    stats = weights(undisturbed, "checkpoint.pth")["reporter"]["stats"]
    losses = [stats[epoch]["valid"]["loss"] for epoch in (1, 2, 3)]
    assert losses[2] < losses[0]
    assert {"loss_ctc", "loss_llm", "acc", "codebook_perplexity"} <= set(stats[3]["train"])


def test_averaged_model(undisturbed):
    """`model.pth` is the mean of the two best epochs."""
    stats = weights(undisturbed, "checkpoint.pth")["reporter"]["stats"]
    best = sorted((1, 2, 3), key=lambda epoch: stats[epoch]["valid"]["loss"])[:2]
    first, second = (weights(undisturbed, f"{epoch}epoch.pth") for epoch in best)
    for name, value in weights(undisturbed).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first[name] + second[name]) / 2)


class Killed(BaseException):
    """Like SIGKILL, nobody catches it."""


def kill_before(epoch, step):
    """A replacement of `train_one_epoch` that dies before `step` (from 0) of `epoch`."""
    original = trainer.SpeechLLMTrainer.train_one_epoch.__func__
    epochs = iter(range(1, 100))

    class Dying(list):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == step:
                    raise Killed
                yield batch

    def train_one_epoch(cls, *args, iterator, **kwargs):
        if next(epochs) == epoch:
            iterator = Dying(iterator)
        return original(cls, *args, iterator=iterator, **kwargs)

    return classmethod(train_one_epoch)


def kill_while_writing(name, times):
    """A replacement of `torch.save` that dies half way through the file `name`, when it is written for the
    n-th time."""
    save, seen = torch.save, []

    def half(obj, path, *args, **kwargs):
        save(obj, path, *args, **kwargs)
        if os.path.basename(path).removeprefix(".").startswith(name):
            seen.append(path)
            if len(seen) == times:
                os.truncate(path, os.path.getsize(path) // 2)
                raise Killed

    return half


@pytest.mark.parametrize(
    "where",
    [
        lambda: (trainer.SpeechLLMTrainer, "train_one_epoch", kill_before(2, 0)),
        lambda: (trainer.SpeechLLMTrainer, "train_one_epoch", kill_before(3, 2)),
        lambda: (torch, "save", kill_while_writing("checkpoint.pth", 2)),
        lambda: (torch, "save", kill_while_writing("2epoch.pth", 1)),
        lambda: (torch, "save", kill_while_writing("valid.loss.ave", 1)),
    ],
    ids=["between epochs", "within an epoch", "in checkpoint.pth", "in 2epoch.pth", "in the average"],
)
def test_killed_training_ends_like_an_undisturbed_one(config, undisturbed, tmp_path, monkeypatch, where):
    directory = tmp_path / "phase"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*where())
        launch.train_phase(str(directory), config, 1)
    assert not (directory / "model.pth").exists()
    torch.rand(3)
    launch.train_phase(str(directory), config, 1)
    assert_same(weights(directory), weights(undisturbed))
    found, expected = weights(directory, "checkpoint.pth"), weights(undisturbed, "checkpoint.pth")
    assert_same(found["model"], expected["model"])
    assert found["schedulers"] == expected["schedulers"]
    moments, others = found["optimizers"][0]["state"], expected["optimizers"][0]["state"]
    assert moments.keys() == others.keys()
    assert all(torch.equal(moments[i]["exp_avg"], others[i]["exp_avg"]) for i in others)
    names, expected = ({p.name for p in room.glob("*epoch.pth")} for room in (directory, undisturbed))
    assert names == expected


@pytest.fixture(scope="module")
def accumulated(config, tmp_path_factory):
    """(config, directory) of a training that accumulates, and was not disturbed."""
    accumulating = {**config, "accum_grad": 2, "scheduler_conf": {"max_lr": 0.01, "total_steps": 6}}
    directory = tmp_path_factory.mktemp("accumulated") / "phase"
    launch.train_phase(str(directory), accumulating, 1)
    return accumulating, directory


@pytest.mark.parametrize("step", [0, 1], ids=["between epochs", "within an epoch"])
def test_killed_training_with_accumulated_gradients(accumulated, tmp_path, monkeypatch, step):
    """Three batches an epoch, two in a step: none of their gradient is lost between the epochs."""
    accumulating, undisturbed = accumulated
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer.SpeechLLMTrainer, "train_one_epoch", kill_before(2, step))
        launch.train_phase(str(tmp_path / "killed"), accumulating, 1)
    launch.train_phase(str(tmp_path / "killed"), accumulating, 1)
    found, expected = (weights(path, "checkpoint.pth") for path in (tmp_path / "killed", undisturbed))
    assert_same(found["model"], expected["model"])
    assert found["schedulers"] == expected["schedulers"] and expected["schedulers"][0]["last_epoch"] == 6


def test_checkpoints_hold_no_pickled_objects(undisturbed):
    states = weights(undisturbed, "checkpoint.pth")
    assert {"model", "optimizers", "schedulers", "reporter", trainer.RANDOM_STATE} <= set(states)
    torch.manual_seed(7)
    expected = torch.rand(2)
    state = trainer.random_state()
    torch.manual_seed(7)
    trainer.set_random_state(trainer.random_state())
    assert torch.equal(torch.rand(2), expected)
    trainer.set_random_state(state)


FROM_DATA = "llm encoder_file init_from train_cache valid_cache seed ngpu".split() + [*stage.SHAPES, *stage.DATA]


@pytest.fixture(scope="module")
def experiment(settings, encoder_dir, corpus, tmp_path_factory, experiment_of):
    """An experiment of two phases, the second from the first, not trained yet, with an encoder and cached frames."""
    first = settings(
        specaug=None, max_epoch=1, model_conf={"start_weight": 1.0, "llm_weight": 0.0}, keep_nbest_models=1
    )
    second = settings(specaug=None, max_epoch=1, bridge="hard", freeze=["llm"], optim="sgd", optim_conf={"lr": 0.0},
                      scheduler=None, keep_nbest_models=1)  # fmt: skip
    first, second = ({k: v for k, v in config.items() if k not in FROM_DATA} for config in (first, second))
    room, sets = tmp_path_factory.mktemp("train"), {"train": corpus.train, "valid": corpus.valid}
    trainings = [Training("a", "phase a", first), Training("a-b", "phase b", second, "a")]
    experiment = experiment_of(room, {}, sets, encoder=encoder_dir, trainings=trainings)
    os.makedirs(experiment.exp("stats"))
    for name in sets:
        shutil.copyfile(getattr(corpus, f"{name}_shape"), experiment.positions(name))
    encode(experiment, 1)
    return experiment


@pytest.fixture(scope="module")
def phases(experiment):
    """Directories of both phases after `llmvq train`, what was printed, and the experiment."""
    import contextlib
    import io

    # As in a command: no handlers of pytest's, and standard error is the file that the children redirect.
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(logging.root, "handlers", [])
        patch.setattr(sys, "stderr", open(2, "w", closefd=False, buffering=1))
        stage.train(experiment, nj=2)
    return Path(experiment.exp("a")), Path(experiment.exp("a-b")), out.getvalue()


@pytest.fixture
def copied(phases, experiment, tmp_path):
    """The experiment after its training, as a copy whose files may be changed; they are where they were."""
    room = Path(experiment.options.expdir).parent
    shutil.copytree(room, tmp_path / "saved")
    yield experiment
    shutil.rmtree(room)
    shutil.copytree(tmp_path / "saved", room)


def test_phases_in_processes(phases, experiment, tmp_path):
    """Two phases, the second from the first."""
    first, second, out = phases
    assert out.index("[a] done") < out.index("[a-b] training") and "[a] epoch 1: train loss " in out
    assert "Initialised 6 tensors" in (second / "train.log").read_text()
    before, after = weights(first), weights(second)
    assert_same({n: after[n] for n in before}, before)  # learning rate 0
    assert set(after) - set(before) == {"bridge.codebook"}


def test_a_phase_that_fails_shows_its_log(settings, encoder_dir, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", open(2, "w", closefd=False, buffering=1))
    torch.save({"bridge.projector.output.bias": torch.zeros(5)}, tmp_path / "encoder.pth")
    broken = settings(encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, bridge="hard", freeze=["llm"],
                      init_from=str(tmp_path / "encoder.pth"))  # fmt: skip
    job = launch.Job("c", "", broken, lambda: Made(tmp_path / "c", settings=broken))
    with pytest.raises(
        UserError,
        match="(?s)phase c failed: it ended with exit code 1.*does not fit the next phase: bridge.projector.output",
    ):
        launch.run_phases([job], 1, 1, None, stage.REMEDY)


def test_what_frames_are_made_of_is_noticed(copied, capsys):
    def encoded(experiment=copied):
        capsys.readouterr()
        encode(experiment, 1)
        return {
            line.split(":")[0].split("/")[-1] for line in capsys.readouterr().out.splitlines() if ": frames of" in line
        }

    for path in (copied.sequences("train"), copied.encoder_file):
        os.utime(path)
    assert encoded() == set()
    without_last_line(copied.sequences("valid"))
    assert encoded() == {"valid"} and encoded() == set()
    disturbed = replace(copied, options=replace(copied.options, augment_cache=True))
    assert encoded(disturbed) == {"train"} and encoded(disturbed) == set()
    assert encoded(replace(disturbed, options=replace(disturbed.options, base_seed=2))) == {"train"}
    assert encoded() == {"train"}
    # The weights of a pretrained encoder are the same files whichever of its layers is taken.
    assert encoded(replace(copied, encoder={**copied.encoder, "encoder_conf": {"layer": 3}})) == {"train", "valid"}
    assert encoded() == {"train", "valid"}
    Path(copied.frames("valid"), "frames.ark").write_bytes(b"")
    assert encoded() == {"valid"}
    doubled = {name: 2 * value for name, value in weights(Path(copied.encoder_dir)).items()}
    torch.save(doubled, copied.encoder_file)
    assert encoded(replace(copied, options=replace(copied.options, cache_encoder=False))) == set()
    assert encoded() == {"train", "valid"}


def test_processes_that_share_a_model(experiment):
    """Any number of them goes on with what others began, and nothing of DistributedDataParallel is set; one alone is
    an error."""
    shared = replace(experiment.trainings[1], config={**experiment.trainings[1].config, "fsdp": True}, mixture="m")

    def settings(ngpu):
        return stage.settings_of(replace(experiment, options=replace(experiment.options, ngpu=ngpu)), shared)

    two, four = (stage.made_of(experiment, shared, settings(ngpu)).options for ngpu in (2, 4))
    assert two == four and two["settings"]["fsdp"]
    assert settings(4)["multiprocessing_distributed"] and "unused_parameters" not in settings(4)
    with pytest.raises(UserError, match="give --ngpu 2 or more"):
        settings(1)


def test_settings_of_a_phase(experiment):
    """What ESPnet gets: the config, where its data are, the phase before, and seeds of their own."""
    first, second = experiment.trainings
    found = stage.settings_of(experiment, second)
    assert found == {
        **second.config, "llm": experiment.llm, "encoder_file": experiment.encoder_file,
        "init_from": experiment.exp("a/model.pth"), "seed": 1, "ngpu": 0,
        "train_data_path_and_name_and_type": [[experiment.sequences("train"), "sequence", "sequence"]],
        "valid_data_path_and_name_and_type": [[experiment.sequences("valid"), "sequence", "sequence"]],
        "train_shape_file": [experiment.positions("train")], "valid_shape_file": [experiment.positions("valid")],
        "train_cache": frames_of(experiment, "train"), "valid_cache": frames_of(experiment, "valid"),
    }  # fmt: skip
    assert found["train_cache"] == f"{experiment.frames('train')}/frames.scp"
    assert stage.settings_of(experiment, first)["init_from"] is None
    other = replace(experiment, options=replace(experiment.options, seed=3, base_seed=2, ngpu=2))
    given = stage.settings_of(other, second)
    assert (given["seed"], given["ngpu"], given["multiprocessing_distributed"]) == (3, 2, True)
    assert "unused_parameters" not in given and "multiprocessing_distributed" not in found
    uncached = replace(experiment, options=replace(experiment.options, cache_encoder=False))
    assert stage.settings_of(uncached, second)["train_cache"] is None
    # Frames of an encoder that trains are its own, those of a mixture of many files are not cached.
    joint = replace(second, config={**second.config, "train_encoder": True})
    mixed = replace(second, mixture="m")
    for training, train, valid in ((joint, None, None), (mixed, None, found["valid_cache"])):
        given = stage.settings_of(other, training)
        assert (given["train_cache"], given["valid_cache"], given["unused_parameters"]) == (train, valid, True)
    assert given["train_shape_file"] == [experiment.exp("mixtures/m_shape")]
    assert given["train_data_path_and_name_and_type"][0][0] == experiment.exp("mixtures/m.jsonl")
    encoder = stage.settings_of(other, Training("encoder", "encoder", first.config, is_encoder=True))
    assert (encoder["seed"], encoder["encoder_file"], encoder["llm"]) == (2, None, experiment.tokenizer)
    assert encoder["train_shape_file"] == [experiment.exp("encoder_stats/train_shape")]
    assert encoder["train_cache"] is encoder["valid_cache"] is None


def test_finished_phases_do_nothing(copied, phases, capsys):
    before = {p: p.stat().st_mtime_ns for directory in phases[:2] for p in directory.iterdir()}
    for path in (copied.sequences("train"), copied.positions("valid"), copied.encoder_file, phases[0] / "model.pth"):
        os.utime(path)
        before |= {path: os.stat(path).st_mtime_ns} if path in before else {}
    stage.train(copied)
    assert capsys.readouterr().out.count("is trained, nothing to do") == 2
    assert before == {p: p.stat().st_mtime_ns for directory in phases[:2] for p in directory.iterdir()}


def changed(experiment, which, **keys):
    """The experiment with keys of the config of one of its trainings changed."""
    trainings = list(experiment.trainings)
    trainings[which] = replace(trainings[which], config={**trainings[which].config, **keys})
    return replace(experiment, trainings=tuple(trainings))


@pytest.fixture
def no_training(monkeypatch):
    """Training anything is an error."""

    def train(*_):
        pytest.fail("something is trained")

    monkeypatch.setattr(launch, "_child", train)


def test_other_settings_are_refused(copied, phases, no_training):
    """Before anything is trained, also where the phase before is trained first."""
    for which, tag, keys, difference in (
        (0, "a", {"optim_conf": {"lr": 0.02}}, "optim_conf.lr: 0.01 then, 0.02 now"),
        (1, "a-b", {"weight_decay": 1}, "weight_decay: not there then, 1 now"),
    ):
        with pytest.raises(UserError, match=rf"{tag} was made otherwise \(settings.{difference}\); remove"):
            stage.train(changed(copied, which, **keys))
    with pytest.raises(UserError, match=r"settings.seed: 1 then, 3 now.*another --expdir"):
        stage.train(replace(copied, options=replace(copied.options, seed=3)))
    shutil.rmtree(phases[0])
    with pytest.raises(UserError, match="a-b was made otherwise .*weight_decay"):
        stage.train(changed(copied, 1, weight_decay=1))
    assert not phases[0].exists()


@pytest.mark.parametrize(
    "what, said",
    [
        ("train/sequences.jsonl", "training sequences .*train/sequences.jsonl. has changed"),
        ("valid/sequences.jsonl", "validation sequences .*valid/sequences.jsonl. has changed"),
        ("train_shape", "training positions .*train_shape. has changed"),
        ("encoder/model.pth", "encoder .*encoder/model.pth. has changed"),
        ("frames/train/made.json", "training frames .*frames/train. has changed"),
        ("a/model.pth", r"a/model.pth is not as it was written"),
        ("a-b/config.yaml", r"a-b/config.yaml is not as it was written"),
        ("a-b/made.json", "it is not known how .*a-b was made"),
        ("other a", "phase before .*a/model.pth. has changed"),
    ],
)
def test_what_a_phase_is_made_of_is_refused_when_it_changed(copied, no_training, what, said):
    room = Path(copied.options.expdir).parent
    results = [stage.made_of(copied, t, stage.settings_of(copied, t)) for t in copied.trainings]
    if what == "frames/train/made.json":  # as if made of other sequences: their content is what the record says
        path = room / "exp/encoder" / what
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 1))
    elif what == "other a":
        made = stage.made_of(copied, copied.trainings[0], stage.settings_of(copied, copied.trainings[0]))
        with open(made.out + "/model.pth", "ab") as f:
            f.write(b"other")
        made.note(files=["model.pth", "config.yaml"])
    else:
        (path,) = room.rglob(what)
        path.write_bytes(path.read_bytes()[: -3 if what.endswith("made.json") else -1])
    with pytest.raises(UserError, match=f"was made otherwise .*{said}"):
        for made in results:
            made.done(stage.REMEDY)
    if "sequences" in what or "encoder" in what:  # of which the frames are made
        said = r"frames/\w+ is not of what this run has \((sequences|encoder) .*has changed\); run stage 10 again"
    with pytest.raises(UserError, match=said):
        stage.train(copied)


def test_the_same_files_under_another_spelling_are_the_same(copied, no_training, capsys):
    names = ("expdir", "dumpdir", "llm")
    paths = {name: os.path.relpath(getattr(copied.options, name)) for name in names}
    stage.train(replace(copied, options=replace(copied.options, **paths)))
    assert capsys.readouterr().out.count("is trained, nothing to do") == 2


def test_frames_that_are_no_more_read_or_were_changed_are_noticed(copied, no_training):
    with pytest.raises(UserError, match="a was made otherwise .training frames is no more an input"):
        stage.train(replace(copied, options=replace(copied.options, cache_encoder=False)))
    first = copied.trainings[0]
    made = stage.made_of(copied, first, stage.settings_of(copied, first))
    with open(os.path.join(copied.frames("train"), "frames.ark"), "ab") as f:
        f.write(b"x")
    with pytest.raises(UserError, match="a was made otherwise .training frames .*frames/train. has changed"):
        made.done(stage.REMEDY)


def test_sequences_of_another_run_are_refused(copied, no_training):
    """Of two runs that share dump/ with other prompts."""
    other = replace(copied, options=replace(copied.options, prompt="ASK: {speech} SAY: {text}"))
    for name in ("valid", "train"):
        sequences_made(copied, name).note()
        message = rf"{name}/sequences.jsonl is not what this run makes \(prompt: .* now\); run again from stage 9"
        with pytest.raises(UserError, match=message):
            stage.train(other)


def test_an_interrupted_phase_goes_on_with_the_same_only(copied, phases, monkeypatch, capsys):
    """And what follows from it waits."""
    trained = []

    def train(directory, settings, threads, distributed):
        Path(directory, "checkpoint.pth").touch()
        if not trained:
            os.kill(os.getpid(), signal.SIGKILL)
        for name in ("model.pth", "config.yaml"):
            shutil.copyfile(saved / os.path.basename(directory) / name, Path(directory, name))

    saved = Path(shutil.copytree(copied.options.expdir, phases[0].parent.parent / "before"))
    for directory in phases[:2]:
        shutil.rmtree(directory)
    monkeypatch.setattr(launch, "train_phase", train)
    with pytest.raises(UserError, match="phase a failed: it was killed by signal 9"):
        stage.train(copied)
    assert not phases[1].exists() and not json.loads((phases[0] / "made.json").read_text())["complete"]
    trained.append(True)
    with pytest.raises(UserError, match=r"a was made otherwise \(settings.weight_decay: not there then, 1 now\)"):
        stage.train(changed(copied, 0, weight_decay=1))
    whole = Path(copied.sequences("train")).read_text()
    first = copied.trainings[0]
    made = stage.made_of(copied, first, stage.settings_of(copied, first))
    without_last_line(copied.sequences("train"))
    with pytest.raises(UserError, match="training sequences .* has changed"):
        made.done(stage.REMEDY)
    with pytest.raises(UserError, match="frames/train is not of what this run has .sequences .* has changed"):
        stage.train(copied)
    encode(copied, 1)
    with pytest.raises(UserError, match="a was made otherwise .training frames .* has changed"):
        stage.train(copied)
    Path(copied.sequences("train")).write_text(whole)
    encode(copied, 1)
    capsys.readouterr()
    stage.train(copied, nj=2)
    out = capsys.readouterr().out
    assert out.index("[a] done") < out.index("[a-b] training") < out.index("[a-b] done")
    stage.train(copied)
    assert capsys.readouterr().out.count("is trained, nothing to do") == 2


def test_sequences_that_change_while_a_phase_trains_are_noticed(copied, phases, monkeypatch):
    def train(directory, settings, threads, distributed):
        without_last_line(copied.sequences("train"))
        for name in ("model.pth", "config.yaml"):
            Path(directory, name).touch()

    for directory in phases[:2]:
        shutil.rmtree(directory)
    monkeypatch.setattr(launch, "train_phase", train)
    one = replace(copied, trainings=copied.trainings[:1])
    made = stage.made_of(one, one.trainings[0], stage.settings_of(one, one.trainings[0]))
    stage.train(one)
    with pytest.raises(UserError, match="training sequences .* has changed"):
        made.done(stage.REMEDY)


def test_cached_frames_train_the_same_model(settings, encoder_dir, corpus, tmp_path, experiment_of):
    experiment = experiment_of(tmp_path, {}, {"train": corpus.train, "valid": corpus.valid}, encoder=encoder_dir)
    encode(experiment, 1, batch_seconds=3)
    scp = {name: frames_of(experiment, name) for name in ("train", "valid")}
    frozen = settings(
        encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, llm_conf={"lora": LORA},
        model_conf={"drop_blank": 0.99}, optim="sgd", optim_conf={"lr": 0.1}, scheduler=None, max_epoch=2,
    )  # fmt: skip
    cached = {**frozen, "train_cache": scp["train"], "valid_cache": scp["valid"]}
    launch.train_phase(str(tmp_path / "plain"), frozen, 1)
    launch.train_phase(str(tmp_path / "cached"), cached, 1)
    found, expected = weights(tmp_path / "cached"), weights(tmp_path / "plain")
    assert found.keys() == expected.keys() and any("lora_" in n for n in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    # a cache that moved with its directory, one without an utterance, and one with useless augmentation
    with open(scp["valid"]) as f:
        assert f"{experiment.frames('valid')}/frames.ark:" in f.readline()
    shutil.rmtree(tmp_path / "cached")
    with pytest.raises(UserError, match="no encoder frames for train"):
        launch.train_phase(str(tmp_path / "cached"), {**cached, "train_cache": cached["valid_cache"]}, 1)
    with pytest.raises(UserError, match="augment_conf has no effect on cached encoder frames"):
        launch.train_phase(str(tmp_path / "other"), {**cached, "augment_conf": {"noise_prob": 0.5}}, 1)


def test_frames_that_are_not_finite_name_their_utterance(encoder_dir, corpus, tmp_path, experiment_of, monkeypatch):
    from espnet_llmvq.speech.encoder import SpeechEncoder

    forward = SpeechEncoder.forward

    def broken(self, speech, lengths, augment=None):
        out, frames = forward(self, speech, lengths, augment)
        out = out.clone()
        out[0, 1, 0] = math.inf
        return out, frames

    experiment = experiment_of(tmp_path, {}, {"train": corpus.train, "valid": corpus.valid}, encoder=encoder_dir)
    monkeypatch.setattr(SpeechEncoder, "forward", broken)
    with pytest.raises(UserError, match=r"train\S*: \S+: the encoder's frames are not all finite"):
        encode(experiment, 1, batch_seconds=3)
    assert not os.path.exists(experiment.frames("train"))


def test_changed_audio_is_noticed(settings, corpus, tmp_path):
    with open(corpus.train) as f:
        lines = [json.loads(line) for line in f]
    lines[0]["spans"][1]["samples"] += 2
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = settings(train_data_path_and_name_and_type=[[str(tmp_path / "train.jsonl"), "sequence", "sequence"]])
    with pytest.raises(UserError, match="train00: .*the audio changed: run again from stage 3"):
        launch.train_phase(str(tmp_path / "phase"), data, 1)


def test_each_loss_is_averaged_by_its_own_count(tmp_path, settings):
    """Means of an epoch are sums over all batches by counts over all batches, which differ by the end tokens."""
    from espnet_llmvq.espnet.run import train_phase
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.batch import SequenceArrays, batch_of
    from espnet_llmvq.model.build import load_model
    from espnet_llmvq.sequence.sequence import read_sequences

    config = settings(model_conf={"ctc_weight": 0.3, "llm_weight": 2.0}, max_epoch=1, keep_nbest_models=1, batch_size=2)
    config.update(scheduler=None, valid_batch_size=2)
    train_phase(str(tmp_path / "x"), config, 1)
    model, _ = load_model(str(tmp_path / "x"))
    arrays = SequenceArrays(load_tokenizer(config["llm"]))
    sums, counts = {"ctc": 0.0, "llm": 0.0}, {"ctc": 0, "llm": 0}
    for sequence in read_sequences(config["valid_data_path_and_name_and_type"][0][0]):
        with torch.no_grad():
            _, stats, weight = model(**batch_of(arrays, [sequence])[1])
        # What CTC spells lacks the end token.
        for name, count in (("llm", int(weight)), ("ctc", int(weight) - 1)):
            sums[name] += float(stats[f"loss_{name}"]) * count
            counts[name] += count
    ctc, llm = (sums[name] / counts[name] for name in ("ctc", "llm"))
    reported = torch.load(tmp_path / "x/checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["valid"]
    assert reported["loss_ctc"] == pytest.approx(ctc, rel=1e-5) and reported["loss_llm"] == pytest.approx(llm, rel=1e-5)
    assert reported["loss"] == pytest.approx(0.3 * ctc + 2.0 * llm, rel=1e-5)
    assert not any("count" in name and "total" not in name for name in reported)
