"""The tokens nearest to each step of some utterances, beside reference and hypothesis: a page and a TSV."""

from espnet_llmvq.score.table import tsv_text

TOKENS = 5  # shown of each step


def nearest(bridge, table, z, out, count=TOKENS):
    """The `count` nearest tokens of each step: (rows (N, C), cosines (N, C), weights (N, C) or None).

    Of a quantizer: rows of its codebook nearest to z, and what weight they have in the LLM input (0: not kept).
    Of a continuous bridge: rows of the LLM's table nearest to the LLM input, which have no weight.
    """
    import torch

    from espnet_llmvq.bridge.bridge import HardBridge, QuantizingBridge
    from espnet_llmvq.bridge.soft_vq import kept_weights, nearest_rows, search_rows

    if not isinstance(bridge, QuantizingBridge):
        cosines, rows = nearest_rows(out.float(), table.float(), min(count, len(table)))
        return rows, cosines, None
    k = 1 if isinstance(bridge, HardBridge) else bridge.top_k
    # All weights come from the k kept rows, or from all rows by the softmax's denominator.
    every = k == len(bridge.codebook)
    found = min(len(bridge.codebook), count if every else max(count, k))
    cosines, rows, _, log_total, _ = search_rows(z, bridge.codebook, found, bridge.chunk, bridge.temperature)
    weights = torch.zeros_like(cosines)
    renormalise = bridge.renormalise and not every
    if isinstance(bridge, HardBridge):
        weights[:, 0] = 1.0
    else:
        kept = slice(None, None if every else k)
        weights[:, kept] = kept_weights(cosines[:, kept], bridge.temperature, log_total, renormalise)
    return rows[:, :count], cosines[:, :count], weights[:, :count]


def as_tokens(model, tokenizer, z, out):
    """The nearest tokens of steps: [[(token, cosine, weight or None), ...], ...]. z, out (N, D): of `Bridge.steps`.

    The table of a downloaded LLM may have rows that no token uses; they are named by their number.
    """
    import torch

    from espnet_llmvq.llm.ends import token_inputs

    with torch.inference_mode():
        rows, cosines, weights = nearest(model.bridge, token_inputs(model.llm), z, out)
    weights = [[None] * rows.shape[1]] * len(rows) if weights is None else weights.tolist()
    tokens = [
        [token or f"<row {row}>" for row, token in zip(step, tokenizer.convert_ids_to_tokens(step))]
        for step in rows.tolist()
    ]
    return [list(zip(*step)) for step in zip(tokens, cosines.tolist(), weights)]


def describe(model, tokenizer, found, i):
    """`as_tokens` of the steps of utterance i of `Collected`."""
    at = found.steps_of(i)
    return as_tokens(model, tokenizer, found.z[at], found.out[at])


def tsv(entries):
    """Entries of the page as lines: system, set, utterance, step, rank, token, cosine, weight."""
    lines = []
    for entry in entries:
        for system in entry["systems"]:
            for n, step in enumerate(system["steps"], 1):
                for rank, (token, cosine, weight) in enumerate(step, 1):
                    # A token may be white space, which would break the line.
                    cells = [system["name"], entry["set"], entry["utt"], n, rank, "".join(token.split()) or "?"]
                    lines.append([*cells, f"{cosine:.4f}", None if weight is None else f"{weight:.4f}"])
    return tsv_text(("system", "set", "utterance", "step", "rank", "token", "cosine", "weight"), lines)
