"""Two processes train the same model as one on the same global batches (gloo, CPU)."""

import contextlib
import multiprocessing
import os
import random
import socket

import pytest
import torch
import yaml
from conftest import LORA

from espnet_llmvq.espnet.task import SpeechLLMTask
from espnet_llmvq.sequence.sequence import Sequence, Span, read_sequences, write_sequences


def train(directory, config, rank, port):
    """One process of two, or (rank None) the only one."""
    options = ["--config", config, "--output_dir", str(directory), "--multiprocessing_distributed", "false"]
    if rank is not None:
        options += ["--dist_backend", "gloo", "--dist_world_size", "2", "--dist_rank", str(rank)]
        options += ["--dist_master_addr", "127.0.0.1", "--dist_master_port", str(port)]
    torch.set_num_threads(1)
    SpeechLLMTask.main(cmd=options)


def free_port():
    """One that no process of tests beside this one asks for, and below those that the system gives away by itself."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20000 + 500 * worker
    for port in random.SystemRandom().sample(range(first, first + 500), 500):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port from {first} to {first + 499}")


def trained_by_one_and_by_two(room, config):
    """Checkpoints of a training in one process, and in two that share its batches."""
    path = str(room / "config.yaml")
    (room / "config.yaml").write_text(yaml.safe_dump(config))
    port, fork = free_port(), multiprocessing.get_context("fork")
    processes = [fork.Process(target=train, args=(room / "two", path, rank, port)) for rank in (0, 1)]
    for process in processes:
        process.start()
    train(room / "one", path, None, None)
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return (torch.load(room / name / "checkpoint.pth", weights_only=True) for name in ("one", "two"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "losses, accum_grad", [({}, 1), ({"start_weight": 0.5}, 1), ({"start_weight": 0.5}, 2)],
    ids=["one loss", "two losses", "two losses, accumulated"],
)  # fmt: skip
def test_two_processes_train_like_one(settings, encoder_dir, tmp_path, losses, accum_grad):
    """Batches of 4 are shared as 2 + 2, with different numbers of tokens in each half, and of each loss.

    Three batches an epoch: two accumulated make a step, and the third one of its own.
    """
    config = settings(
        encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, model_conf=losses, scheduler=None,
        accum_grad=accum_grad,
        llm_conf={"lora": {**LORA, "lora_dropout": 0.0}}, max_epoch=2, keep_nbest_models=2, min_batch_size=2,
        bridge="soft", bridge_conf={"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 10},
        optim="sgd", optim_conf={"lr": 0.05, "momentum": 0.5},
    )  # fmt: skip
    one, two = trained_by_one_and_by_two(tmp_path, config)
    used = yaml.safe_load((tmp_path / "two/config.yaml").read_text())
    assert used["distributed"] and used["dist_world_size"] == 2
    first = torch.load(tmp_path / "one/1epoch.pth", weights_only=True)
    assert one["model"].keys() == two["model"].keys() and "bridge.codebook" in one["model"]
    for name, value in one["model"].items():
        assert not torch.equal(first[name], value)
        torch.testing.assert_close(two["model"][name], value, atol=1e-6, rtol=1e-5)
    for epoch in (1, 2):
        for part in ("train", "valid"):
            a, b = (s["reporter"]["stats"][epoch][part] for s in (one, two))
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["acc"] == pytest.approx(b["acc"], abs=1e-6)
            assert ("loss_start" in a) == bool(losses)
            for name in {"loss_start", "loss_llm"} & set(a):
                assert a[name] == pytest.approx(b[name], rel=1e-5)
            assert a["total_count"] == b["total_count"]


def test_a_process_with_text_as_if_heard_alone_trains_with_one_that_has_speech(
    settings, encoder_dir, tokenizer, corpus, tmp_path
):
    """Of the first batch one process has text as if heard, the other one speech; of the others each has both or one."""
    kinds, sequences = "hshshhsshsss", list(read_sequences(corpus.train))
    for i, (kind, seq) in enumerate(zip(kinds, sequences)):
        if kind == "h":
            heard = Span(heard=[{name: 0.75, "▁": 0.25} for name in tokenizer.tokenize(seq.transcript)])
            spans = tuple(heard if span.is_speech else span for span in seq.spans)
            sequences[i] = Sequence(seq.id, spans)
    train, shape = tmp_path / "train.jsonl", tmp_path / "shape"
    write_sequences(str(train), sequences)
    shape.write_text("".join(f"{seq.id} {100 - i}\n" for i, seq in enumerate(sequences)))
    config = settings(
        encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, scheduler=None, unused_parameters=True,
        llm_conf={"lora": {**LORA, "lora_dropout": 0.0}}, max_epoch=1, keep_nbest_models=1, min_batch_size=2,
        bridge="soft", bridge_conf={"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 10},
        train_data_path_and_name_and_type=[[str(train), "sequence", "sequence"]], train_shape_file=[str(shape)],
        optim="sgd", optim_conf={"lr": 0.05, "momentum": 0.5},
    )  # fmt: skip
    one, two = trained_by_one_and_by_two(tmp_path, config)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, atol=1e-6, rtol=1e-5)
    a, b = (s["reporter"]["stats"][1]["train"] for s in (one, two))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["total_count"] == b["total_count"]
