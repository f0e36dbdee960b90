"""Time and memory of the soft-VQ operator, forward and backward, with trainable codebook.

Against the plain autograd expression, which holds the N x V matrix, and against the bare product z E^T
(forward only). Every case runs in a process of its own, all three on the same inputs, in turns; the least
time counts. Memory is what a call adds at its peak: resident set on CPU, allocated memory on CUDA. The error
is against the plain expression in float64 on the first frames: output, gradients of z, E and temperature,
each the largest difference over the largest value; the worst of two losses, the squared length of the output
(which is timed) and a random gradient, with which terms of both signs nearly cancel in the temperature's.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from espnet_llmvq.base.files import write_text
from espnet_llmvq.bridge.soft_vq import soft_vq

VOCABULARIES, FRAMES, WIDTH = (500, 32000, 151936), (350, 2800), 896
TOP_K = (10, "all")
TEMPERATURE = 0.05
ERROR_FRAMES = 32  # float64 autograd over a large codebook takes its time


def autograd(z, codebook, temperature, top_k):
    """The expression as one would write it."""
    weights = (F.normalize(z, dim=-1) @ F.normalize(codebook, dim=-1).T / temperature).softmax(-1)
    if top_k == len(codebook):
        return weights @ codebook
    kept, rows = weights.topk(top_k, dim=-1)
    kept = kept / kept.sum(-1, keepdim=True)
    return (kept[..., None] * codebook[rows]).sum(1)


def operator(z, codebook, temperature, top_k):
    return soft_vq(z, codebook, top_k, temperature)[0]


def step(function, inputs, top_k, grad=None):
    """Forward and backward: output and the three gradients. grad: of the output, by default of its squared length."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs, top_k)
    out.backward(2 * out.detach() if grad is None else grad.to(out.dtype))
    return [out.detach(), *(x.grad for x in inputs)]


def status(field):
    """A line of /proc/self/status in MB."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field)) / 1024


def added_memory(call, cuda):
    """MB that a call adds at its peak, and its seconds."""
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed
        except (OSError, AttributeError):
            pass
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # the peak starts from here
        before = status("VmRSS")
    seconds = timed(call, cuda)
    if cuda:
        return (torch.cuda.max_memory_allocated() - before) / 2**20, seconds
    return status("VmHWM") - before, seconds


def timed(call, cuda):
    start = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def max_rel_error(inputs, top_k, frames):
    z, *others = inputs
    part = [z[:frames], *others]
    errors = []
    for grad in (None, torch.randn(frames, WIDTH, generator=torch.Generator().manual_seed(1)).to(z.device)):
        ours = step(operator, part, top_k, grad)
        want = step(autograd, [x.double() for x in part], top_k, grad)
        errors += [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, want)]
        del ours, want
    return max(errors)


def available_mb():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) / 1024


def case(vocab, frames, top_k, repeats, error_frames):
    """Measure one case: the dict of a line of the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(frames, WIDTH, generator=generator).to(device)
    codebook = (0.02 * torch.randn(vocab, WIDTH, generator=generator)).to(device)
    inputs = [z, codebook, torch.tensor(TEMPERATURE, device=device)]
    k = vocab if top_k == "all" else top_k
    for function in (operator, autograd):  # loads what is loaded on first use
        step(function, [z[:8], codebook[:64], inputs[2]], 64 if top_k == "all" else 10)

    def ours():
        step(operator, inputs, k)

    def plain():
        step(autograd, inputs, k)

    def product():
        z @ codebook.T

    # N x V matrices and tensors of the codebook's size that are alive together, rounded up.
    needed = 4 * (7 * frames * vocab + 6 * vocab * WIDTH) / 2**20
    fits = cuda or needed < available_mb() - 1000
    ours_mb, ours_s = added_memory(ours, cuda)
    product_s = timed(product, cuda)
    autograd_mb, autograd_s = added_memory(plain, cuda) if fits else (None, None)
    for _ in range(repeats - 1):
        ours_s = min(ours_s, timed(ours, cuda))
        product_s = min(product_s, timed(product, cuda))
        if fits:
            autograd_s = min(autograd_s, timed(plain, cuda))
    return dict(
        vocab=vocab,
        dim=WIDTH,
        frames=frames,
        top_k=top_k,
        ours_s=ours_s,
        autograd_s=autograd_s,
        product_s=product_s,
        ours_mb=ours_mb,
        autograd_mb=autograd_mb,
        max_rel_error=max_rel_error(inputs, k, min(error_frames, frames)),
    )


def show(r):
    text = f"V {r['vocab']:6d}  N {r['frames']:4d}  k {r['top_k']!s:>3}: {r['ours_s']:8.3f} s, "
    text += f"{r['ours_s'] / r['product_s']:5.2f} x product, "
    if r["autograd_s"] is None:
        text += "plain autograd left out: not enough memory, "
    else:
        text += f"plain autograd {r['autograd_s'] / r['ours_s']:5.1f} x ours; "
        text += f"memory {r['ours_mb']:6.0f} MB, {r['ours_mb'] / max(r['autograd_mb'], 1e-9):4.0%} of autograd's; "
    return text + f"error {r['max_rel_error']:.1e}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the measurements to FILE")
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--top_k", nargs="+", default=TOP_K, help="numbers or 'all'")
    parser.add_argument("--repeats", type=int, help="runs of each; by default 3, for large cases 1")
    parser.add_argument("--error_frames", type=int, default=ERROR_FRAMES)
    parser.add_argument("--case", action="store_true", help="one case in this process, as JSON")
    args = parser.parse_args(argv)
    top_k = [k if k == "all" else int(k) for k in args.top_k]
    if args.case:
        result = case(args.vocab[0], args.frames[0], top_k[0], args.repeats, args.error_frames)
        print(json.dumps(result))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, D {WIDTH}")
    results = []
    for vocab in args.vocab:
        for frames in args.frames:
            for k in top_k:
                repeats = args.repeats or (3 if vocab * frames < 6 * 10**7 else 1)
                command = [sys.executable, os.path.abspath(__file__), "--case", "--vocab", str(vocab)]
                command += ["--frames", str(frames), "--top_k", str(k), "--repeats", str(repeats)]
                command += ["--error_frames", str(args.error_frames)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                results.append(json.loads(done.stdout))
                print(show(results[-1]), flush=True)
    if args.json:
        write_text(args.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
