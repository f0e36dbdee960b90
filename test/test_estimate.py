"""Sizes computed without weights against those of real training steps on CPU, as torch's profiler sees them."""

import json
import os

import pytest
import torch
from conftest import ENCODER, LORA

from espnet_llmvq.errors import UserError
from espnet_llmvq.tasks.sizing import Batch, size
from espnet_llmvq.tasks.speech_llm import SpeechLLMTask

VOCABULARY = 600
BATCH = Batch(sequences=8, samples=48000, prompt_tokens=10, tokens=30)


@pytest.fixture(scope="module")
def llms(tmp_path_factory, llm_dir):
    """Directories of small LLMs with weights, named: tied Llama, and Qwen2 with an output layer and grouped keys."""
    import shutil

    import transformers

    small = dict(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160,
                 max_position_embeddings=512, bos_token_id=1, eos_token_id=2)  # fmt: skip
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
    return SpeechLLMTask.build_model(args).train(), args


def real_batch(cached_frames=None):
    generator = torch.Generator().manual_seed(1)
    n, prompt, text = BATCH.sequences, BATCH.prompt_tokens, BATCH.tokens
    layout = torch.tensor([[[0, prompt, 0], [1, 0, 0], [0, text, 1]]] * n)
    layout[-1, -1, 1] = text - 1
    speech = torch.randn(n, BATCH.samples, generator=generator) if cached_frames is None else cached_frames
    return dict(
        tokens=torch.randint(4, 100, (n, prompt + text), generator=generator), layout=layout, speech=speech,
        speech_lengths=torch.full((n,), speech.shape[1]),
    )  # fmt: skip


def held(tensors):
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def measured_peak(model, args, batch, steps=2):
    """Largest number of bytes alive in forward and backward pass of the last of some steps, weights and state included."""
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
    "hard, whole LLM": dict(cached=True, accum_grad=3, llm="qwen2", bridge="hard", bridge_conf={"stack": 2, "hidden_size": 96}),
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
    frames = torch.randn(BATCH.sequences, int(model.speech_encoder.frames(BATCH.samples)), width)
    measured = measured_peak(model, args, real_batch(frames if cached else None))
    print(name, "RATIO", estimate.peak / measured, estimate)
    assert estimate.peak == pytest.approx(measured, rel=0.2)
