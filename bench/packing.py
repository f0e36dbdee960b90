"""Training of the LLM on a mixture: packed batches of a token budget against padded batches of fixed size.

A mixture of ASR, interleaved and text examples by equal shares of positions, as long as those of a recipe: most
utterances have 30 to 80 positions, documents up to 500. Batches are made by ESPnet's samplers, `unsorted` with
`batch_size` and `numel` with `batch_bins`. `sorted` (fixed size, of similar length) and `numel` without packing are
measured too. Positions that are no padding, per second, forward, backward and optimizer step. `speedup` is of
numel with packing against unsorted.

`python bench/packing.py --json FILE`. A few minutes on an idle core.
"""

import argparse
import json
import os
import tempfile
import time

import numpy as np

from espnet_llmvq.base.files import write_text

HIDDEN, LAYERS, VOCABULARY = 192, 4, 500


def lengths(rng, positions):
    """Positions of examples, a third of `positions` each: utterances, interleaved utterances, documents."""
    draws = (
        lambda: int(np.clip(rng.normal(50, 15), 15, 120)),
        lambda: int(np.clip(rng.normal(35, 12), 10, 100)),
        lambda: int(np.clip(rng.lognormal(3.6, 1.0), 5, 500)),
    )
    found = []
    for draw in draws:
        total = 0
        while total < positions / 3:
            found.append(draw())
            total += found[-1]
    return found


def build(packing):
    import torch
    import transformers

    from espnet_llmvq.model.speech_llm import SpeechLLM

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=2,
        intermediate_size=512, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    llm = transformers.LlamaForCausalLM(config)
    return SpeechLLM(torch.nn.Identity(), None, None, llm, None, 2, packing=packing).train()


def batches(shape, count, kind, size, bins):
    """Lists of indices of examples, by a sampler of ESPnet, in random order."""
    import random

    from espnet2.samplers.build_batch_sampler import build_batch_sampler

    sampler = build_batch_sampler(
        type=kind, batch_size=size, batch_bins=bins, shape_files=[shape], sort_in_batch="descending",
        sort_batch="ascending", drop_last=False, min_batch_size=1, fold_lengths=[], padding=True,
        utt2category_file=None,
    )  # fmt: skip
    found = [[int(key) for key in batch] for batch in sampler]
    assert sum(map(len, found)) == count
    random.Random(0).shuffle(found)
    return found


def run(model, texts, found):
    """Positions per second over all batches."""
    import torch

    from espnet_llmvq.model.losses import IGNORE, PAD

    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    start, positions = None, 0
    for batch in [found[0], *found]:
        rows = [texts[i] for i in batch]
        tokens, labels = (torch.nn.utils.rnn.pad_sequence(rows, True, value) for value in (PAD, IGNORE))
        loss = model(tokens, labels)[0]
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        if start is None:
            start = time.perf_counter()  # the first batch loads what is loaded on first use
        else:
            positions += sum(map(len, rows))
    return positions / (time.perf_counter() - start)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the measurements to FILE")
    parser.add_argument("--positions", type=int, default=30000, help="of the mixture")
    parser.add_argument("--batch_size", type=int, default=32, help="of fixed size")
    parser.add_argument("--batch_bins", type=int, default=3000, help="token budget")
    parser.add_argument("--row", type=int, default=256, help="positions of a packed row (packing)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each; the fastest counts")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    count = lengths(rng, args.positions)
    texts = [torch.from_numpy(rng.integers(5, VOCABULARY, n)) for n in count]
    result = {"examples": len(count), "positions": sum(count), "longest": max(count), "row": args.row}
    with tempfile.TemporaryDirectory() as room:
        shape = os.path.join(room, "shape")
        with open(shape, "w") as f:
            f.writelines(f"{i} {n}\n" for i, n in enumerate(count))
        ways = (
            ("fixed_unsorted", "unsorted", None), ("fixed_sorted", "sorted", None),
            ("numel", "numel", None), ("numel_packed", "numel", args.row),
        )  # fmt: skip
        made = {name: batches(shape, len(count), kind, args.batch_size, args.batch_bins) for name, kind, _ in ways}
    for name, _, _ in ways:
        padded = sum(len(batch) * max(count[i] for i in batch) for batch in made[name])
        result[name] = {"batches": len(made[name]), "padding": 1 - sum(count) / padded, "positions_per_s": 0.0}
    for _ in range(args.repeats):  # in turns, so that a busy machine slows all
        for name, _, packing in ways:
            speed = run(build(packing), texts, made[name])
            result[name]["positions_per_s"] = max(speed, result[name]["positions_per_s"])
    for name, _, _ in ways:
        r = result[name]
        print(f"{name:>15}: {r['batches']:4d} batches, {100 * r['padding']:4.1f} % padding in a batch, "
              f"{r['positions_per_s']:8.0f} positions/s", flush=True)  # fmt: skip
    result["speedup"] = result["numel_packed"]["positions_per_s"] / result["fixed_unsorted"]["positions_per_s"]
    print(f"numel with packing: {result['speedup']:.2f} times the positions per second of fixed size, unsorted")
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
