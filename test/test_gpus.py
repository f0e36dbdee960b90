"""Several processes through ESPnet's launcher: gloo on CPU over a stand-in for ssh, and the command lines of Slurm."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from test_task_ddp import trained_by_one_and_by_two

from espnet_llmvq.launch.call import Resources
from espnet_llmvq.launch.config import read_config, submit_command
from espnet_llmvq.launch.slurm import Slurm

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAUNCH = [sys.executable, "-m", "espnet2.bin.launch"]


def script(path, text):
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_slurm_nodes():
    flags = submit_command(read_config(Slurm.CONFIG, "built-in"), Resources(gpu=4, num_threads=8, num_nodes=2))
    assert {"--nodes=2", "--ntasks-per-node=1", "--gres=gpu:4", "--cpus-per-task=8"} <= set(flags)


def test_launcher_finds_slurm(tmp_path):
    """One process a node by srun, with what ESPnet's trainer needs to find the others; arguments stay whole."""
    log = tmp_path / "train.log"
    environment = {**os.environ, "cuda_cmd": script(tmp_path / "submit", f'printf "%s\\n" "$@" >{tmp_path}/got')}
    wrapper = os.path.join(ROOT, "egs/TEMPLATE/llmasr1/utils/slurm.pl")
    command = [*LAUNCH, "--cmd", wrapper, "--log", str(log), "--ngpu", "4", "--num_nodes", "2"]
    command += ["--init_file_prefix", f"{tmp_path}/meeting/", "--", "python3", "-m", "espnet_llmvq", "train"]
    subprocess.run([*command, "--systems", "a b"], env=environment, check=True, capture_output=True)
    got = (tmp_path / "got").read_text().splitlines()
    assert got[:7] == ["--gpu", "4", "--num_threads", "4", "--num_nodes", "2", str(log)]
    assert got[7:13] == ["srun", "--export=ALL", "python3", "-m", "espnet_llmvq", "train"]
    assert got[13:15] == ["--systems", "a b"]
    assert got[15:21] == ["--ngpu", "4", "--multiprocessing_distributed", "true", "--dist_launcher", "slurm"]
    assert got[21] == "--dist_init_method" and got[22].startswith(f"file://{tmp_path}/meeting/")


@pytest.mark.parametrize("bridge", ["none", "hard", "soft"])
def test_names_of_statistics(bridge, make_model):
    """A process without speech gathers the same statistics as one with it."""
    conf = {"stack": 1, "hidden_size": 8}
    if bridge == "soft":
        conf |= {"top_k": 3, "temperature": "learned"}
    bridge = make_model(bridge=bridge, bridge_conf=conf).bridge
    found = bridge(torch.randn(2, 5, 16), torch.tensor([5, 4]))[2]
    assert list(found) == bridge.statistic_names()


@pytest.mark.slow
def test_two_machines_train_like_one_that_accumulates(plan, tmp_path, settings, corpus, llm_dir, encoder_dir):
    """Two phases, one step an epoch over 12 utterances of one text."""
    from espnet_llmvq.cli import train
    from espnet_llmvq.sequence.asr import asr_sequence
    from espnet_llmvq.sequence.sequence import read_sequences, write_sequences
    from espnet_llmvq.stages.sequences import count_all

    same = []
    for sequence in read_sequences(corpus.train):
        speech = next(span for span in sequence.spans if span.is_speech)
        file = (sequence.id, speech.audio, speech.samples)
        same.append(asr_sequence(*file, "one two three", "USER: {speech} ASSISTANT: {text}"))
    for name, sequences in (("train", same), ("valid", read_sequences(corpus.valid))):
        write_sequences(str(tmp_path / f"dump/{name}/sequences.jsonl"), sequences)
    of_plan = ("train_", "valid_", "llm", "encoder_file", "init_from", "seed", "ngpu")
    config = {k: v for k, v in settings().items() if not k.startswith(of_plan)}
    config |= {"specaug": None, "batch_type": "unsorted", "batch_size": 12, "max_epoch": 2, "scheduler": None}
    config |= {"scheduler_conf": {}, "optim": "sgd", "optim_conf": {"lr": 0.05}}
    soft = {"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 10}
    phases = {"first": {**config, "freeze": ["llm"]}}
    phases["second"] = {"base": "first", "bridge": "soft", "bridge_conf": soft}
    cards = {"phases": phases, "systems": {"both": {"phases": ["first", "second"]}}}
    options = {"systems": "both", "llm": llm_dir, "encoder_file": os.path.join(encoder_dir, "model.pth")}
    for name, accumulate in (("two", 1), ("one", 2)):
        experiment = plan(cards, **options, expdir=name, accumulate=accumulate)
        count_all(experiment)
        experiment.write()
    script(tmp_path / "ssh", 'shift; exec bash -c "$*"')
    (tmp_path / "env.sh").write_text(f"export PYTHONPATH={ROOT}:${{PYTHONPATH:-}} OMP_NUM_THREADS=1\n")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*LAUNCH, "--host", "one,two", "--ngpu", "0", "--envfile", str(tmp_path / "env.sh")]
    command += ["--log", str(tmp_path / "two.log"), "--init_file_prefix", f"{tmp_path}/meeting/", "--"]
    command += [sys.executable, "-m", "espnet_llmvq", "train", "--exp", "two"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    train.main(["--exp", "one"])
    for phase in ("first", "first-second"):
        directories = [tmp_path / name / phase for name in ("one", "two")]
        assert yaml.safe_load((directories[1] / "config.yaml").read_text())["dist_world_size"] == 2
        assert (directories[1] / "train.node1.log").exists() and not list(directories[1].glob("phase.node*"))
        one, two = (torch.load(d / "checkpoint.pth", weights_only=True) for d in directories)
        assert one["model"].keys() == two["model"].keys()
        for name, value in one["model"].items():
            torch.testing.assert_close(two["model"][name], value, atol=1e-6, rtol=1e-5)
        for epoch in (1, 2):
            for part in ("train", "valid"):
                a, b = (s["reporter"]["stats"][epoch][part]["loss"] for s in (one, two))
                assert a == pytest.approx(b, rel=1e-5)
        records = [json.loads((d / "made.json").read_text()) for d in directories]
        assert [r["options"]["settings"].get("accum_grad", 1) for r in records] == [2, 1]
        assert all(record["complete"] for record in records)


def test_a_process_without_speech(tmp_path, settings, corpus, llm_dir, encoder_dir):
    """A mixture's batch may give one process text alone: the same weights as in one process, and no waiting."""
    from espnet_llmvq.base.config import read_config
    from espnet_llmvq.sequence.sequence import Sequence, Span, read_sequences, write_sequences
    from espnet_llmvq.stages.sequences import count_positions

    speech = list(read_sequences(corpus.train))[:3]
    mixed = []
    for i, sequence in enumerate(speech):
        mixed += [sequence, Sequence(f"text{i}", [Span(text="one two three", loss=True, eos=True)])]
    write_sequences(str(tmp_path / "train.jsonl"), mixed)
    files = [str(tmp_path / "train.jsonl"), str(tmp_path / "train_shape")]
    count_positions([files], llm_dir, read_config(os.path.join(encoder_dir, "config.yaml")), 1)
    config = settings(
        encoder_file=os.path.join(encoder_dir, "model.pth"), specaug=None, train_encoder=True, unused_parameters=True,
        bridge="soft", bridge_conf={"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 10},
        train_data_path_and_name_and_type=[[files[0], "sequence", "sequence"]], train_shape_file=[files[1]],
        batch_type="unsorted", batch_size=2, min_batch_size=2, optim="sgd", optim_conf={"lr": 0.05}, scheduler=None,
        max_epoch=1,
    )  # fmt: skip
    one, two = trained_by_one_and_by_two(tmp_path, config)
    assert any(name.startswith("speech_encoder.") for name in one["model"])
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, atol=1e-6, rtol=1e-5)
    stats = [s["reporter"]["stats"][1]["train"] for s in (one, two)]
    assert stats[0].keys() == stats[1].keys() and stats[1]["bridge_steps"] > 0
    assert stats[0]["loss"] == pytest.approx(stats[1]["loss"], rel=1e-5)
