"""What `compile_llm: layers` gives: training steps of a small LLM, plain and compiled, on CPUs.

A random model of the size of Gemma 3 270M with 16,384 tokens, LoRA, batches of five sequences of 120 to 180 positions.
Each measurement is a process of its own, plain and compiled in turn; the first compiled one begins with nothing
compiled, the others find it on disk, as a second training does. `ratio` is of the medians of all steps after the first
ones.

`python bench/compiled.py --json FILE`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from allocator import small_llm

from espnet_llmvq.base.files import write_text

LENGTHS = (180, 120, 150, 140, 170, 130, 160)


def measure(choice, steps):
    """Seconds until a first step of each length is done, and of each of the steps behind these."""
    import torch

    from espnet_llmvq.espnet.compiled import compile_layers

    model, seconds = small_llm(), []
    if choice != "none":
        compile_layers(model, choice)
    for length in itertools.islice(itertools.cycle(LENGTHS), len(LENGTHS) + steps):
        ids, begin = torch.randint(3, 16000, (5, length)), time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported()):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        seconds.append(time.perf_counter() - begin)
    return {"first": sum(seconds[: len(LENGTHS)]), "steps": seconds[len(LENGTHS) :]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the measurements here")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=14, help="that a process measures")
    parser.add_argument("--measure", choices=("none", "layers"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps)))
        return
    runs = {"none": [], "layers": []}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.repeats):
            for name, found in runs.items():
                command = [sys.executable, __file__, "--measure", name, "--steps", str(args.steps)]
                env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
                done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
    result = {}
    for name, found in runs.items():
        steps = [seconds for run in found for seconds in run["steps"]]
        first = [run["first"] for run in found]
        result[name] = {"median": statistics.median(steps), "min": min(steps), "max": max(steps), "first": first}
        print(
            f"{name}: {result[name]['median']:.2f} s a step ({min(steps):.2f} to {max(steps):.2f}); the first "
            f"{len(LENGTHS)} steps: {', '.join(f'{seconds:.1f} s' for seconds in first)}"
        )
    result["ratio"] = result["none"]["median"] / result["layers"]["median"]
    print(f"compiled steps are {result['ratio']:.2f} times as fast")
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
