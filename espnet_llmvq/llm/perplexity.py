"""Held-out perplexity of any causal LM: of plain text, and of transcripts after noisy copies."""

import dataclasses
import json
import math
import os

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.base.files import write_text
from espnet_llmvq.base.made import Made
from espnet_llmvq.llm.directory import context, load_llm, load_tokenizer
from espnet_llmvq.llm.noisy_copy import NoisyCopy
from espnet_llmvq.llm.tokenizer import read_lines
from espnet_llmvq.sequence.prompt import resolved

FILE = "perplexity.json"
BATCH_TOKENS = 1024  # times the vocabulary gives the memory for logits


def negative_log_likelihood(llm, examples):
    """Sum over examples (ids, n) of -log P of their last n tokens given those before, in nats."""
    import torch
    from tqdm import tqdm

    from espnet_llmvq.llm.pretrain import pad

    batches, batch = [], []
    for example in sorted(examples, key=lambda e: len(e[0])):
        if batch and (len(batch) + 1) * len(example[0]) > BATCH_TOKENS:
            batches.append(batch)
            batch = []
        batch.append(example)
    batches.append(batch)
    total = 0.0
    with torch.inference_mode():
        for batch in tqdm(batches, desc="perplexity", leave=False, disable=None):
            data = pad(batch, 0)
            logits = llm(input_ids=data["input_ids"].to(llm.device), use_cache=False).logits
            total += torch.nn.functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), data["labels"][:, 1:].flatten().to(llm.device), reduction="sum"
            ).item()
    return total


def per(units, nats):
    """Perplexity a unit; None where it is beyond all numbers, as that of a line without spaces taken as one word."""
    try:
        return math.exp(nats / units)
    except OverflowError:
        return None


def measure(model_dir, files, template, noise, seed, out_dir, ngpu=0):
    """Perplexity of a causal LM on {name: plain text file}, measured unless perplexity.json in `out_dir` has it.

    template, noise: of the copy task; an example's disturbance depends on (seed, line) alone. The end of a line counts
    as a token and as a word. Per-word values can be compared between tokenizers as long as `unknown_tokens` is 0, for
    `<unk>` hides what the word was. In the file: {..., "files": {name: {lines, words, tokens, unknown_tokens,
    text: {...}, noisy_copy: {...}}}}.
    """
    import torch

    out = os.path.join(out_dir, FILE)
    weights = sorted(os.listdir(model_dir)) if os.path.isdir(model_dir) else []
    model = {name: os.path.join(model_dir, name) for name in weights if name.endswith((".safetensors", ".bin"))}
    texts = {f"held-out text {name}": path for name, path in files.items()}
    made = Made(out, {**model, **texts}, llm=model_dir, prompt=template, noise=dataclasses.asdict(noise), seed=seed)
    if made.fresh():
        if not os.path.exists(out):  # only asked for (`base.made.asking`)
            return None
        with open(out, encoding="utf-8") as f:
            return json.load(f)
    tokenizer = load_tokenizer(model_dir)
    template = resolved(template, tokenizer)
    llm = load_llm(model_dir).eval()
    if ngpu and torch.cuda.is_available():
        llm = llm.cuda()
    copier = NoisyCopy(tokenizer, template, noise)
    report = {"prompt": template, "noise": dataclasses.asdict(noise), "seed": seed, "files": {}}
    for name, path in files.items():
        lines = read_lines([path])
        ids = copier.encode(lines)
        words = sum(len(line.split()) for line in lines) + len(lines)
        tokens = sum(map(len, ids)) + len(lines)
        unknown = tokenizer.unk_token_id
        unknowns = sum(i.count(unknown) for i in ids)
        row = {"lines": len(lines), "words": words, "tokens": tokens, "unknown_tokens": unknowns}
        rngs = (np.random.default_rng((seed, i)) for i in range(len(ids)))
        limit = context(llm.config)
        tasks = {
            "text": [copier.plain(i) for i in ids],
            "noisy_copy": [copier.example(i, rng, limit) for i, rng in zip(ids, rngs)],
        }
        for task, examples in tasks.items():
            for line, (example, _) in zip(lines, examples):
                if limit is not None and len(example) > limit:
                    raise UserError(
                        f"{path}: the line {line[:40]!r} ... has {len(example)} tokens ({task}), but the LLM's context "
                        f"has {limit}; cut it into sentences"
                    )
            nll = negative_log_likelihood(llm, examples)
            row[task] = {"nats": nll, "per_token": per(tokens, nll), "per_word": per(words, nll)}
        report["files"][name] = row
    write_text(out, json.dumps(report, indent=2))
    made.note()
    return report


def table(report):
    """The report as lines of text."""
    form = "{:<20} {:>7} {:>8} {:>5} {:>11} {:>11} {:>11} {:>11}"
    head = ("held out", "lines", "tokens", "unk", "text/token", "text/word", "copy/token", "copy/word")
    rows = [form.format(*head)]
    for name, row in report["files"].items():
        values = [row[t][k] for t in ("text", "noisy_copy") for k in ("per_token", "per_word")]
        counts = (row["lines"], row["tokens"], row["unknown_tokens"])
        rows.append(form.format(name, *counts, *("-" if v is None else f"{v:.3f}" for v in values)))
    return "\n".join(rows)
