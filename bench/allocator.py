"""What settings of glibc's memory (GLIBC_TUNABLES) do: a training step of a small LLM, and an encoder, on CPUs.

Random models of the sizes of Gemma 3 270M with 16,384 tokens (LoRA; 5 sequences of 180 positions) and of Whisper
base's encoder (8 s). Each measurement is a process of its own, with and without the settings in turn. CPU seconds are
those of the process (user and system), so that other work on the machine counts less; `ratio` is of their medians,
without over with.

`python bench/allocator.py --json FILE`. Three minutes on two cores.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

from espnet_llmvq.base.files import write_text

# Keep the memory of large tensors, in large pages, instead of giving it back and getting it again page by page.
SETTINGS = ":".join(
    f"glibc.malloc.{setting}" for setting in ("hugetlb=1", "mmap_threshold=8589934592", "trim_threshold=17179869184")
)
WORK = ("llm", "encoder")


def small_llm():
    """A random LLM of the size of Gemma 3 270M with 16,384 tokens, with LoRA, to be trained."""
    import peft
    import transformers

    config = transformers.Gemma3TextConfig(
        vocab_size=16384, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    return peft.get_peft_model(transformers.Gemma3ForCausalLM(config), lora).train()


def llm_step():
    import torch

    model = small_llm()
    ids = torch.randint(3, 16000, (5, 180))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported()):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

    return step


def encoder_pass():
    import torch
    import transformers

    config = transformers.WhisperConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, max_source_positions=400
    )
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    mel = torch.randn(1, 80, 800)

    @torch.inference_mode()
    def step():
        for _ in range(5):
            model(mel)

    return step


def measure(work, steps):
    """CPU seconds of a step after a first one, page faults, and peak memory in MiB, of this process."""
    import torch

    torch.set_num_threads(1)
    step = {"llm": llm_step, "encoder": encoder_pass}[work]()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    faults = after.ru_minflt - before.ru_minflt
    return {"seconds": seconds / steps, "faults": faults / steps, "peak_mib": after.ru_maxrss / 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the measurements here")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="that a process measures")
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps)))
        return
    result = {"settings": SETTINGS}
    for work in WORK:
        runs = {"without": [], "with": []}
        for _ in range(args.repeats):
            for name, found in runs.items():
                env = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
                env |= {"GLIBC_TUNABLES": SETTINGS} if name == "with" else {}
                command = [sys.executable, __file__, "--measure", work, "--steps", str(args.steps)]
                done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
        medians = {
            name: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for name, found in runs.items()
        }
        spread = {
            name: [min(r["seconds"] for r in found), max(r["seconds"] for r in found)] for name, found in runs.items()
        }
        ratio = medians["without"]["seconds"] / medians["with"]["seconds"]
        result[work] = {"medians": medians, "seconds_min_max": spread, "ratio": ratio}
        for name in runs:
            m, (low, high) = medians[name], spread[name]
            print(
                f"{work}, {name}: {m['seconds']:.2f} s of CPU a step ({low:.2f} to {high:.2f}), {m['faults']:.0f} page "
                f"faults, {m['peak_mib']:.0f} MiB at most"
            )
        print(f"{work}: {ratio:.2f} times the CPU without")
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
