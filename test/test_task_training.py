"""Training with ESPnet's trainer: kills and resuming, settings, cached frames, phases."""

import json
import logging
import os
import shutil
import sys

import pytest
import torch
from conftest import LORA

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import encode
from espnet_llmvq.espnet import run as launch
from espnet_llmvq.espnet import trainer


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

    def dying(batches):
        for i, batch in enumerate(batches):
            if i == step:
                raise Killed
            yield batch

    def train_one_epoch(cls, *args, iterator, **kwargs):
        if next(epochs) == epoch:
            iterator = dying(iterator)
        return original(cls, *args, iterator=iterator, **kwargs)

    return classmethod(train_one_epoch)


def kill_while_writing(name, times):
    """A replacement of `torch.save` that dies half way through the file `name`, when it is written for the
    n-th time."""
    save, seen = torch.save, []

    def half(obj, path, *args, **kwargs):
        save(obj, path, *args, **kwargs)
        if os.path.basename(path).startswith(name):
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
    assert not (directory / "model.pth").exists() and not launch.is_done(str(directory), config)
    torch.rand(3)
    launch.train_phase(str(directory), config, 1)
    assert_same(weights(directory), weights(undisturbed))
    found, expected = weights(directory, "checkpoint.pth"), weights(undisturbed, "checkpoint.pth")
    assert_same(found["model"], expected["model"])
    assert found["schedulers"] == expected["schedulers"]
    moments, others = found["optimizers"][0]["state"], expected["optimizers"][0]["state"]
    assert moments.keys() == others.keys() and all(
        torch.equal(moments[i]["exp_avg"], others[i]["exp_avg"]) for i in others
    )
    assert sorted(p.name for p in directory.glob("*epoch.pth")) == sorted(
        p.name for p in undisturbed.glob("*epoch.pth")
    )


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


def test_finished_phase_does_nothing(config, undisturbed, capsys):
    before = {p: os.stat(p).st_mtime_ns for p in undisturbed.iterdir()}
    launch.run_phases([("phase", None, str(undisturbed), config)], 1, 1)
    assert "is trained, nothing to do" in capsys.readouterr().out
    assert before == {p: os.stat(p).st_mtime_ns for p in undisturbed.iterdir()}


def test_other_settings_are_refused(config, undisturbed):
    changed = {**config, "optim_conf": {"lr": 0.02}}
    with pytest.raises(UserError, match=r"other settings \(optim_conf: \{'lr': 0.01\} then, \{'lr': 0.02\} now\)"):
        launch.run_phases([("phase", None, str(undisturbed), changed)], 1, 1)
    with pytest.raises(UserError, match="weight_decay: None then, 1 now"):
        launch.is_done(str(undisturbed), {**config, "weight_decay": 1})


def test_phases_in_processes(settings, encoder_dir, tmp_path, capfd, monkeypatch):
    """Two phases, the second from the first; a failing one shows its log."""
    # As in a command: no handlers of pytest's, and standard error is the file that the children redirect.
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", open(2, "w", closefd=False, buffering=1))
    frozen = dict(encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, max_epoch=1)
    first = settings(**frozen, model_conf={"start_weight": 1.0, "llm_weight": 0.0}, keep_nbest_models=1)
    second = settings(**frozen, bridge="hard", freeze=["llm"], init_from=str(tmp_path / "a/model.pth"), optim="sgd",
                      optim_conf={"lr": 0.0}, scheduler=None, keep_nbest_models=1)  # fmt: skip
    jobs = [("a-b", "a", str(tmp_path / "b"), second), ("a", None, str(tmp_path / "a"), first)]
    launch.run_phases(jobs, 2, 1)
    out = capfd.readouterr().out
    assert out.index("[a] done") < out.index("[a-b] training") and "[a] epoch 1: train loss " in out
    with open(tmp_path / "b/train.log") as f:
        assert "Initialised 6 tensors" in f.read()
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert_same({n: after[n] for n in before}, before)  # learning rate 0
    assert set(after) - set(before) == {"bridge.codebook"}

    broken = {**second, "init_from": str(tmp_path / "encoder.pth")}
    torch.save({"bridge.projector.output.bias": torch.zeros(5)}, tmp_path / "encoder.pth")
    with pytest.raises(
        UserError,
        match="(?s)phase c failed: it ended with exit code 1.*does not fit the next phase: bridge.projector.output",
    ):
        launch.run_phases([("c", None, str(tmp_path / "c"), broken)], 1, 1)


def test_cached_frames_train_the_same_model(settings, encoder_dir, corpus, tmp_path):
    command = ["--encoder", encoder_dir, "--batch_seconds", "3", "--threads", "1"]
    encode.main([*command, corpus.train, str(tmp_path / "train"), corpus.valid, str(tmp_path / "valid")])
    frozen = settings(
        encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, llm_conf={"lora": LORA},
        model_conf={"drop_blank": 0.99}, optim="sgd", optim_conf={"lr": 0.1}, scheduler=None, max_epoch=2,
    )  # fmt: skip
    cached = {
        **frozen,
        "train_cache": str(tmp_path / "train/frames.scp"),
        "valid_cache": str(tmp_path / "valid/frames.scp"),
    }
    launch.train_phase(str(tmp_path / "plain"), frozen, 1)
    launch.train_phase(str(tmp_path / "cached"), cached, 1)
    found, expected = weights(tmp_path / "cached"), weights(tmp_path / "plain")
    assert found.keys() == expected.keys() and any("lora_" in n for n in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    # a cache that moved with its directory, one without an utterance, and one with useless augmentation
    with open(tmp_path / "valid/frames.scp") as f:
        assert str(tmp_path / "valid/frames.ark:") in f.readline()
    shutil.rmtree(tmp_path / "cached")
    with pytest.raises(UserError, match="no encoder frames for train"):
        launch.train_phase(str(tmp_path / "cached"), {**cached, "train_cache": cached["valid_cache"]}, 1)
    with pytest.raises(UserError, match="augment_conf has no effect on cached encoder frames"):
        launch.train_phase(str(tmp_path / "other"), {**cached, "augment_conf": {"noise_prob": 0.5}}, 1)


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
