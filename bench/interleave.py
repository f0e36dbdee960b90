"""Encoding of word-level pieces, forward and backward, encoder and bridge: three ways to do it.

one_by_one: a call for each piece. separate: all pieces of the batch in one padded call. concatenated: the pieces of a
sequence joined, encoded at once and split again. Each in a process of its own, on the same random audio, on a GPU where
there is one. Memory is what a step adds at its peak to the resident set, or to the tensors on the GPU. `speedup` and
`memory_ratio` are of concatenated against one_by_one: times as fast, and its memory divided by the other's;
`speedup_separate` and `memory_ratio_separate` against separate.

`python bench/interleave.py --json FILE`. About a minute on an idle core.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from espnet_llmvq.base.files import write_text

WAYS = ("one_by_one", "separate", "concatenated")
ENCODER = {
    "frontend_conf": {"fs": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "center": False},
    "normalize": "utterance_mvn",
    "frame_stack": 8,
    "encoder": "conformer",
    "encoder_conf": {
        "input_layer": "linear", "output_size": 192, "attention_heads": 4, "linear_units": 640, "num_blocks": 4,
        "dropout_rate": 0.0, "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0, "cnn_module_kernel": 7,
        "pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn",
    },
}  # fmt: skip


def build(concatenate):
    """Encoder and soft bridge, as a `SpeechLLM` without LLM."""
    import torch

    from espnet_llmvq.bridge.bridge import SoftBridge
    from espnet_llmvq.model.build import DEFAULTS, build_speech_encoder
    from espnet_llmvq.model.speech_llm import SpeechLLM

    torch.manual_seed(0)
    encoder = build_speech_encoder({**DEFAULTS, **ENCODER})
    table = torch.randn(500, 192)
    bridge = SoftBridge(192, table, stack=1, hidden_size=512, codebook="trainable", top_k=10, temperature=0.05)
    encoding = "concatenated" if concatenate else "separate"
    return SpeechLLM(encoder, None, bridge, None, None, 2, llm_weight=0.0, span_encoding=encoding).train()


def pieces(step, sequences, words):
    """(tokens, speech, lengths, steps): pieces of 0.08 to 0.5 s, filled up to whole steps."""
    import torch

    from espnet_llmvq.model.losses import SPEECH

    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(1280, 8000, (sequences * words,), generator=generator)
    steps = (samples + step - 1) // step
    speech = torch.zeros(len(samples), int(steps.max()) * step)
    for row, n in zip(speech, samples.tolist()):
        row[:n] = 0.1 * torch.randn(n, generator=generator)
    return torch.full((sequences, words), SPEECH), speech, steps * step, steps


def case(way, sequences, words, repeats):
    import torch
    from soft_vq import added_memory, timed

    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    model = build(way == "concatenated").to(device)
    given = pieces(model.speech_encoder.rate.step, sequences, words)
    tokens, speech, lengths, steps = (x.to(device) for x in given)

    def step():
        model.zero_grad()
        if way == "one_by_one":
            parts = []
            for token, row, n, count in zip(tokens.flatten(), speech, lengths, steps):
                frames = model.encode_spans(token[None, None], row[None, :n], n[None], count[None])
                parts.append(model.bridge_speech(*frames)[0])
            loss = sum(part.square().sum() for part in parts)
        else:
            frames = model.encode_spans(tokens, speech, lengths, steps)
            loss = model.bridge_speech(*frames)[0].square().sum()
        loss.backward()

    step()  # loads and plans what is needed on first use
    memory, seconds = added_memory(step, cuda)
    for _ in range(repeats - 1):
        seconds = min(seconds, timed(step, cuda))
    return {"seconds": seconds, "mb": memory, "device": torch.cuda.get_device_name() if cuda else "CPU"}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the measurements to FILE")
    parser.add_argument("--sequences", type=int, default=8, help="in a batch")
    parser.add_argument("--words", type=int, default=10, help="spoken words in a sequence")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each way; the least time counts")
    parser.add_argument("--case", choices=WAYS, help="one way in this process, as JSON")
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(case(args.case, args.sequences, args.words, args.repeats)))
        return
    result, options = {"sequences": args.sequences, "words": args.words}, []
    for name in ("sequences", "words", "repeats"):
        options += [f"--{name}", str(getattr(args, name))]
    for way in WAYS:
        started = time.perf_counter()
        command = [sys.executable, os.path.abspath(__file__), "--case", way, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"{way:>12}: {result[way]['seconds']:7.3f} s a step, {result[way]['mb']:6.0f} MB "
              f"({time.perf_counter() - started:.0f} s in all)", flush=True)  # fmt: skip
    ours = result["concatenated"]
    for way, suffix in (("one_by_one", ""), ("separate", "_separate")):
        speedup, memory = result[way]["seconds"] / ours["seconds"], ours["mb"] / result[way]["mb"]
        result[f"speedup{suffix}"], result[f"memory_ratio{suffix}"] = speedup, memory
        print(f"concatenated: {speedup:.2f} times as fast as {way}, {memory:.2f} of its memory")
    if args.json:
        write_text(args.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
