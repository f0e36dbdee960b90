"""Sizes computed without weights against those of real training steps on CPU, as torch's profiler sees them."""

import json
import os
import shutil

import pytest
import torch
from conftest import LORA

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.cli import estimate
from espnet_llmvq.espnet.task import SpeechLLMTask
from espnet_llmvq.estimate.sizing import Batch, size
from espnet_llmvq.model.losses import IGNORE, PAD, SPEECH

VOCABULARY = 600
BATCH = Batch(sequences=8, samples=48000, prompt_tokens=10, tokens=30)


@pytest.fixture(scope="module")
def llms(tmp_path_factory, llm_dir):
    """Directories of small LLMs with weights, named: tied Llama, and Qwen2 with an output layer and grouped keys."""
    import transformers

    small = dict(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    made = {}
    for name, config in (
        ("llama", transformers.LlamaConfig(**small, tie_word_embeddings=True)),
        ("qwen2", transformers.Qwen2Config(**small, num_key_value_heads=2, tie_word_embeddings=False)),
    ):
        directory = tmp_path_factory.mktemp(name)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        for file in os.listdir(llm_dir):
            if file.startswith(("tokenizer", "special")):
                shutil.copy(os.path.join(llm_dir, file), directory)
        made[name] = str(directory)
    return made


def real_model(arguments, **settings):
    torch.manual_seed(0)
    args = arguments(**settings)
    # As ESPnet's trainer puts it in place.
    model = SpeechLLMTask.build_model(args).to(dtype=getattr(torch, args.train_dtype), device="cpu")
    return model.train(), args


def real_batch(cached_frames=None):
    generator = torch.Generator().manual_seed(1)
    n, prompt, text = BATCH.sequences, BATCH.prompt_tokens, BATCH.tokens
    tokens = torch.randint(4, 100, (n, prompt + text), generator=generator)
    tokens = torch.cat([tokens[:, :prompt], torch.full((n, 1), SPEECH), tokens[:, prompt:]], 1)
    tokens[-1, -1] = PAD
    labels = tokens.masked_fill((torch.arange(tokens.shape[1]) <= prompt) | (tokens == PAD), IGNORE)
    speech = torch.randn(n, BATCH.samples, generator=generator) if cached_frames is None else cached_frames
    return dict(
        tokens=tokens, labels=labels, speech=speech, speech_lengths=torch.full((n,), speech.shape[1]),
        speech_steps=torch.zeros(n, dtype=torch.long),
    )  # fmt: skip


def held(tensors):
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def measured_peak(model, args, batch, steps=2):
    """Most bytes alive in forward and backward pass of the last of some steps, with weights, state and batch."""
    from espnet2.tasks.abs_task import optim_classes

    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim_classes[args.optim](trainable, **args.optim_conf)
    for _ in range(steps - 1):
        model(**batch)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    before = held([*model.parameters(), *model.buffers(), *state, *batch.values()])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(args.accum_grad):
            loss = model(**batch)[0].sum()
            loss.backward()
            del loss
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    assert events and now > 0
    return before + highest


FULL = {"optim": "adamw", "optim_conf": {"lr": 1e-3, "fused": True}}
CASES = {
    "none, LLM frozen": dict(llm="llama", freeze=["llm"]),
    "none, LoRA": dict(llm="qwen2", llm_conf={"lora": LORA}),
    "soft, LoRA": dict(
        llm="llama", llm_conf={"lora": LORA}, bridge="soft",
        bridge_conf={"stack": 1, "hidden_size": 96, "codebook": "trainable", "top_k": 10},
    ),
    "soft over all rows": dict(
        llm="llama", llm_conf={"lora": LORA}, bridge="soft",
        bridge_conf={"stack": 1, "hidden_size": 96, "codebook": "trainable", "top_k": "all"},
    ),
    "hard, whole LLM, accumulation": dict(
        cached=True, accum_grad=3, llm="qwen2", bridge="hard", bridge_conf={"stack": 2, "hidden_size": 96},
    ),
    "whole LLM, checkpointing": dict(llm="llama", llm_conf={"gradient_checkpointing": True}),
    "encoder trains": dict(llm="llama", llm_conf={"lora": LORA}, encoder_file=None),
    "bfloat16": dict(llm="qwen2", cached=True, llm_conf={"lora": LORA, "dtype": "bfloat16"}, autocast="bfloat16"),
    "packed": dict(llm="llama", llm_conf={"lora": LORA}, model_conf={"packing": 256}),
    "CTC encoder": dict(llm="llama", model_conf={"ctc_weight": 1.0, "llm_weight": 0.0}, encoder_file=None),
    "aligned start": dict(cached=True, llm="llama", model_conf={"start_weight": 1.0, "llm_weight": 0.0},
                          aligned_start_conf={"targets": "ctc_head"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def of_case(llms, settings, encoder_dir):
    """Function: the training config of a case, with keys laid over it."""

    def config(name, **more):
        case = {"encoder_file": os.path.join(encoder_dir, "model.pth"), "specaug": None, **FULL, **CASES[name], **more}
        return settings(**{**case, "llm": llms[case["llm"]]})

    return config


@pytest.mark.parametrize("name", CASES)
def test_within_a_fifth_of_real_training(name, of_case, arguments):
    config = of_case(name)
    cached = config.pop("cached", False)
    estimate = size(config, Batch(**{**vars(BATCH), "cached": cached}), "cpu")
    model, args = real_model(arguments, **config)
    assert estimate.weights == held([*model.parameters(), *model.buffers()])
    assert sum(total for total, _ in estimate.parts.values()) == sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(part for _, part in estimate.parts.values()) == trainable > 0
    width = model.speech_encoder.output_size()
    frames = torch.randn(BATCH.sequences, int(model.speech_encoder.rate.frames(BATCH.samples)), width)
    measured = measured_peak(model, args, real_batch(frames if cached else None))
    assert estimate.gradients == held([p.grad for p in model.parameters() if p.grad is not None])
    assert estimate.peak == pytest.approx(measured, rel=0.2)


def test_reads_config_only(tmp_path, llms, of_case):
    """Without weights and tokenizer: as many rows as the config says, and a CTC head with a blank of its own."""
    shutil.copy(os.path.join(llms["llama"], "config.json"), tmp_path)
    found = size({**of_case("none, LoRA"), "llm": str(tmp_path)}, BATCH)
    assert found.parts["CTC head"] == ((VOCABULARY + 1) * (16 + 1), 0)
    embedding, layer = VOCABULARY * 64, 4 * 64 * 64 + 3 * 64 * 160 + 2 * 64
    assert found.parts["LLM"] == (embedding + 3 * layer + 64, 0)
    assert found.parts["LoRA"][1] == 3 * 2 * 2 * LORA["r"] * 64  # of q_proj and v_proj


def test_operations_of_the_llm(of_case):
    """6 a parameter and position, as is known of transformers, and of attention what is counted by hand."""
    config = of_case("whole LLM, checkpointing", llm_conf={})
    one, two = (size(config, Batch(1, 48000, n, 30, cached=True)).flops for n in (10, 110))
    frames, width, inner, layers = 75, 64, 160, 3

    def flops(positions):
        matrices = layers * (4 * width**2 + 3 * width * inner)
        # Two products of all pairs; backwards four, and the first one again.
        return 6 * matrices * positions + layers * 7 * 2 * positions**2 * width

    assert two - one == flops(frames + 140) - flops(frames + 40)


def test_everything_frozen_is_an_error(of_case):
    with pytest.raises(UserError, match="nothing would train"):
        size(of_case("none, LLM frozen", freeze=["llm", "bridge"]), BATCH)


def test_command(tmp_path, plan, llms, of_case, capsys):
    """Sizes of a system's phases before anything is trained: the encoder's config is enough."""
    keys = ("frontend", "frontend_conf", "normalize", "frame_stack", "encoder", "encoder_conf")
    training = {"batch_type": "numel", "batch_bins": 500, "optim": "adamw", "max_epoch": 4}
    encoder = {k: of_case("CTC encoder")[k] for k in keys}
    encoder |= {"model_conf": {"ctc_weight": 1.0, "llm_weight": 0.0}, "num_iters_per_epoch": 10}
    phase = {"bridge_conf": {"stack": 1, "hidden_size": 8}, "freeze": ["llm"]}
    cards = {"phases": {"slam": {**phase, **training}}, "systems": {"slam": {"phases": ["slam"]}}}
    experiment = plan(cards, {**encoder, **training}, systems="slam", llm=llms["llama"], ngpu=2)
    experiment.write("plan.json")
    command = ["--exp", "plan.json", "--seconds", "3", "--tokens", "30", "--prompt_tokens", "10"]
    command += ["--json", "out.json", "--corpus_hours", "10"]
    estimate.main([*command, "--device_flops", "1e12", "--utilisation", "0.5"])
    assert sorted(os.listdir(tmp_path)) == [".llmvq-written", "conf", "out.json", "plan.json"]
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["phase"] for row in rows] == ["encoder", "slam"]
    projector = 2 * 16 + (16 + 1) * 8 + (8 + 1) * 64  # norm, two layers
    assert [row["trainable"] for row in rows] == [4648 + 1870, projector]
    # 75 frames and 40 tokens: the fifth utterance passes the budget of 500, two GPUs share them.
    shares = {(row["positions"], row["sequences"], row["sequences_per_gpu"]) for row in rows}
    assert shares == {(115, 5, 3)}
    assert [row["batches"] for row in rows] == [4 * 10, 4 * 10 * 3600 / 3 / 5]
    work = rows[1]["flops_per_batch"] * rows[1]["batches"]
    assert rows[1]["hours"] == pytest.approx(work / 0.5e12 / 3600)
    printed = capsys.readouterr().out
    assert "2 x 1e+12 operations/s" in printed
    assert f"| slam | {rows[1]['parameters'] / 1e6:.2f}, 0.00 |" in printed
    with pytest.raises(UserError, match="did you mean 'a100'"):
        estimate.main([*command, "--gpu", "a10"])
