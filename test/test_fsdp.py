"""Sharded training: two processes (gloo, CPU) train what one process trains, killed and resumed, by two and by one."""

import itertools
import multiprocessing
import os
import shutil
import signal
import types
from unittest import mock

import pytest
import torch
import yaml
from conftest import LORA
from test_task_ddp import free_port
from torch.distributed.tensor import DTensor

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.espnet import fsdp
from espnet_llmvq.espnet.task import SpeechLLMTask
from espnet_llmvq.sequence.sequence import Sequence, Span, read_sequences, write_sequences

SOFT = {"stack": 1, "hidden_size": 24, "codebook": "trainable", "top_k": 10}
ADAPTERS = {"lora": {**LORA, "lora_dropout": 0.0}}


def train(directory, config, rank=None, port=None, kill=None):
    """One process of two, or (rank None) the only one; the loss of each step goes to a file of the directory.

    kill: (epoch, step) at which the process kills itself.
    """
    from espnet2.train.reporter import SubReporter

    directory.mkdir(exist_ok=True)
    path = directory.parent / f"{directory.name}.{rank}.yaml"
    path.write_text(yaml.safe_dump(config))
    options = ["--config", str(path), "--output_dir", str(directory), "--resume", "true"]
    options += ["--multiprocessing_distributed", "false"]
    if rank is not None:
        options += ["--dist_backend", "gloo", "--dist_world_size", "2", "--dist_rank", str(rank)]
        options += ["--dist_master_addr", "127.0.0.1", "--dist_master_port", str(port)]
    register = SubReporter.register

    def noted(reporter, stats, weight=None):
        if reporter.key == "train" and "loss" in stats:
            step = (reporter.get_epoch(), reporter.count)
            if not rank:
                with open(directory / "losses", "a") as f:
                    f.write(f"{step[0]} {step[1]} {float(stats['loss'])!r}\n")
            if step == kill:
                os.kill(os.getpid(), signal.SIGKILL)
        register(reporter, stats, weight)

    torch.set_num_threads(1)
    with mock.patch.object(SubReporter, "register", noted):
        SpeechLLMTask.main(cmd=options)


def by_two(function, *args, **kwargs):
    """Exit statuses of two processes that call function(*args, rank, port, **kwargs)."""
    port, fork = free_port(), multiprocessing.get_context("fork")
    processes = [fork.Process(target=function, args=(*args, rank, port), kwargs=kwargs) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]


def train_by_two(directory, config, kill=None):
    """Exit statuses of two processes."""
    return by_two(train, directory, config, kill=kill)


def losses(directory):
    """{(epoch, step): loss}, of a step that was done again the last one."""
    rows = (line.split() for line in (directory / "losses").read_text().splitlines())
    return {(int(epoch), int(step)): float(loss) for epoch, step, loss in rows}


def check_same_losses(one, two, steps, **tolerance):
    one, two = losses(one), losses(two)
    assert len(one) == steps and one.keys() == two.keys()
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, **(tolerance or {"abs": 1e-5, "rel": 0}))


@pytest.fixture
def phase(settings, encoder_dir):
    """Function: `settings` of a phase on a frozen encoder."""
    encoder = os.path.join(encoder_dir, "model.pth")
    return lambda **keys: settings(encoder_file=encoder, specaug=None, min_batch_size=2, **keys)


def test_killed_resumed_and_resumed_by_one(phase, tmp_path):
    """The whole LLM trains, with checkpointing. Two processes are killed in the second epoch, two finish it, and the
    third epoch is trained by one process that shares nothing."""
    config = phase(
        llm_conf={"gradient_checkpointing": True}, bridge="soft", bridge_conf=SOFT, keep_nbest_models=3,
        max_epoch=3,
    )  # fmt: skip
    shared = {**config, "fsdp": True, "max_epoch": 2}
    assert train_by_two(tmp_path / "two", shared, kill=(2, 2)) == [-signal.SIGKILL] * 2
    assert sorted(path.name for path in (tmp_path / "two").glob("*epoch.pth")) == ["1epoch.pth"]
    assert train_by_two(tmp_path / "two", shared) == [0, 0]
    used = yaml.safe_load((tmp_path / "two/config.yaml").read_text())
    assert used["fsdp"] and used["dist_world_size"] == 2
    train(tmp_path / "two", config)
    train(tmp_path / "one", config)
    check_same_losses(tmp_path / "one", tmp_path / "two", 9)
    one, two = (torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("one", "two"))
    assert one["model"].keys() == two["model"].keys() and "bridge.codebook" in one["model"]
    of_one, of_two = (states["optimizers"][0] for states in (one, two))
    assert of_one["param_groups"] == of_two["param_groups"] and of_one["state"].keys() == of_two["state"].keys()
    for at, state in of_one["state"].items():
        assert state["step"] == of_two["state"][at]["step"] == 9
        torch.testing.assert_close(of_two["state"][at]["exp_avg"], state["exp_avg"], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("start, accum_grad", [(0.0, 1), (0.5, 2)])
def test_lora_and_a_learned_temperature(phase, tmp_path, start, accum_grad):
    """One number, which cannot be shared, among matrices that are. Two of three batches make a step."""
    soft = {**SOFT, "temperature": 0.3, "temperature_rate": 1.0}
    config = phase(
        llm_conf=ADAPTERS, bridge="soft", bridge_conf=soft, model_conf={"start_weight": start},
        accum_grad=accum_grad, max_epoch=2, grad_clip=0.01,
    )  # fmt: skip
    train(tmp_path / "one", config)
    assert train_by_two(tmp_path / "two", {**config, "fsdp": True}) == [0, 0]
    check_same_losses(tmp_path / "one", tmp_path / "two", 6)
    first, last = (
        torch.load(tmp_path / f"two/{epoch}epoch.pth", weights_only=True)["bridge.temperature_shift"]
        for epoch in (1, 2)
    )
    assert first != last


@pytest.mark.slow
def test_bfloat16(phase, tmp_path):
    """Frozen weights and autocast in bfloat16: the losses of one process but for rounding, those at first nearly."""
    llm = {**ADAPTERS, "dtype": "bfloat16", "gradient_checkpointing": True}
    config = phase(llm_conf=llm, autocast="bfloat16", max_epoch=1)
    train(tmp_path / "one", config)
    assert train_by_two(tmp_path / "two", {**config, "fsdp": True}) == [0, 0]
    check_same_losses(tmp_path / "one", tmp_path / "two", 3, rel=5e-3)


def test_processes_without_speech(phase, tokenizer, corpus, tmp_path):
    """Batches of two: speech (s), text (t) and text as if heard (h), one of each process, with LoRA in a frozen LLM."""
    kinds, spoken, sequences = "st ts hs ht sh tt ss".replace(" ", ""), iter(read_sequences(corpus.train)), []
    for i, kind in enumerate(kinds):
        sequence = next(spoken if i < 12 else iter(read_sequences(corpus.valid)))
        heard = Span(heard=[{name: 0.75, "▁": 0.25} for name in tokenizer.tokenize(sequence.transcript)])
        spans = {"s": sequence.spans, "t": (Span(text=sequence.transcript, loss=True, eos=True),)}
        spans["h"] = tuple(heard if span.is_speech else span for span in sequence.spans)
        sequences.append(Sequence(f"{kind}{i}", spans[kind]))
    train_file, shape = tmp_path / "train.jsonl", tmp_path / "shape"
    write_sequences(str(train_file), sequences)
    shape.write_text("".join(f"{sequence.id} 100\n" for sequence in sequences))
    config = phase(
        llm_conf=ADAPTERS, bridge="soft", bridge_conf=SOFT, max_epoch=1, batch_type="unsorted", batch_size=2,
        train_data_path_and_name_and_type=[[str(train_file), "sequence", "sequence"]], train_shape_file=[str(shape)],
        keep_nbest_models=1,
    )  # fmt: skip
    train(tmp_path / "one", config)
    assert train_by_two(tmp_path / "two", {**config, "fsdp": True}) == [0, 0]
    check_same_losses(tmp_path / "one", tmp_path / "two", 7)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"unused_parameters": True}, "unused_parameters do not go together"),
        ({"sharded_ddp": True}, "sharded_ddp do not go together"),
        ({"use_deepspeed": True}, "use_deepspeed do not go together"),
        ({"use_amp": True}, "autocast: bfloat16"),
        ({"optim": "adadelta"}, "adadelta"),
        ({"compile_llm": "auto"}, "compile_llm do not go together"),
        ({"model_conf": {"llm_weight": 0.0, "ctc_weight": 1.0}}, "runs none"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(keys, said):
    """Told when configs are read, before anything is trained."""
    with pytest.raises(UserError, match=f"here.*{said}|{said}.*here"):
        SpeechLLMTask.check_config({"llm": "x", "fsdp": True, **keys}, "here")
    SpeechLLMTask.check_config({"llm": "x", "fsdp": False, **keys}, "here")


def test_one_process(arguments):
    with pytest.raises(UserError, match="--ngpu 2 or more"):
        SpeechLLMTask.build_model(arguments(fsdp=True))


@pytest.fixture
def alone():
    """A group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_cpus_need_gloo(alone):
    with mock.patch.object(torch.distributed, "get_world_size", lambda: 2):
        fsdp.check_processes("gloo", 0)
        fsdp.check_processes("nccl", 2)
        with pytest.raises(UserError, match="--dist_backend gloo"):
            fsdp.check_processes("nccl", 0)


def test_batch_normalisation_that_trains(alone, make_model):
    with pytest.raises(UserError, match=r"speech_encoder\.encoder.*stage 7"):
        fsdp.shard(make_model(), 0)


def measure(out, settings, rank, port):
    """One of two processes; the first writes the most bytes that were alive in its second step."""
    from test_estimate import held, real_batch

    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = SpeechLLMTask.build_model(types.SimpleNamespace(**settings)).train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    batch = real_batch()
    for _ in range(2):
        optimizer.zero_grad()
        state = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
        state += [*model.parameters(), *model.buffers(), *batch.values()]
        before = held([t.to_local() if isinstance(t, DTensor) else t for t in state])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            model(**batch)[0].sum().backward()
        optimizer.step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    if rank == 0:
        out.write_text(str(before + max(alive)))


@pytest.mark.slow
def test_estimated_memory(arguments, llm_dir, encoder_dir, tmp_path):
    """Within a fifth of what torch's profiler sees in one of two processes that train a whole LLM."""
    import transformers
    from test_estimate import BATCH

    from espnet_llmvq.estimate.cost import sharded
    from espnet_llmvq.estimate.sizing import size

    config = transformers.LlamaConfig(
        vocab_size=600, hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    for file in os.listdir(llm_dir):
        if file.startswith(("tokenizer", "special")):
            shutil.copy(os.path.join(llm_dir, file), tmp_path / "llm")
    settings = vars(arguments(
        llm=str(tmp_path / "llm"), llm_conf={"gradient_checkpointing": True}, bridge="soft", bridge_conf=SOFT,
        encoder_file=os.path.join(encoder_dir, "model.pth"), autocast="none", fsdp=True, dist_backend="gloo",
    ))  # fmt: skip
    by_two(measure, tmp_path / "bytes", settings)
    found, measured = sharded(size(settings, BATCH, "cpu"), None, 2), int((tmp_path / "bytes").read_text())
    assert found["peak_bytes"] == pytest.approx(measured, rel=0.2)
    assert found["peak_bytes"] < size({**settings, "fsdp": False}, BATCH, "cpu").peak
