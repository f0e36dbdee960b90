"""Packing: several sequences in one row of the LLM, with attention and positions that start anew at each.

[2607.01733] packs examples into contexts of 8k tokens without leakage between them. Transformers finds the borders
itself: where there is no attention mask, a position that does not follow the one before it begins a sequence.
"""

import inspect

import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.directory import context
from espnet_llmvq.llm.ends import tried


def assign(lengths, size):
    """Rows of at most `size` positions, first fit by falling length: list of lists of sequences.

    A sequence longer than `size` has a row of its own.
    """
    rows, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[i]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(size)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def pack(inputs, labels, size, ignore):
    """Pack sequences, inputs (P_b, H) and labels (P_b,), into rows of `size` positions, or as long as the longest.

    Returns (R, P, H) inputs, (R, P) positions, (R, P) labels. The padding counts positions from 0, so it is a
    sequence of its own that no other sees. The first label of a sequence is `ignore`: alone, nothing predicts it.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = [len(x) for x in inputs]
    # All rows are padded to the longest anyway.
    rows = assign(lengths, max(size, *lengths))
    embeds = pad([torch.cat([inputs[i] for i in row]) for row in rows], True)
    targets = []
    for row in rows:
        parts = [labels[i].clone() for i in row]
        for part in parts:
            part[:1] = ignore
        targets.append(torch.cat(parts))
    positions = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    for r, row in enumerate(rows):
        ends = [lengths[i] for i in row]
        ends.append(embeds.shape[1] - sum(ends))
        positions[r] = torch.cat([torch.arange(n, device=embeds.device) for n in ends])
    return embeds, positions, pad(targets, True, ignore)


def packed_length(packing, llm):
    """Positions of a packed row, or None: model_conf.packing; true: what the context of the LLM holds."""
    if packing is None or packing is False or llm is None:
        return None
    if packing is True:
        packing = context(llm.config)
    if type(packing) is not int or packing < 1:
        raise UserError(f"model_conf.packing: {packing!r} must be a number of positions, true or null")
    return packing


def needs_gpu(llm):
    """Whether an LLM cannot run before it is on a GPU: the kernels of FlashAttention."""
    return "flash" in (llm.config._attn_implementation or "")


def takes_positions(decoder):
    """Whether a decoder is told positions. Those that are not, such as BLOOM's, go by the mask."""
    return "position_ids" in inspect.signature(decoder.forward).parameters


def check_no_leak(llm):
    """Raise UserError unless a packed sequence is what it is whatever stands before it in the row."""
    decoder = llm.get_decoder()
    if not takes_positions(decoder):
        raise UserError(
            f"model_conf.packing: {type(llm).__name__} takes no positions, so it cannot tell packed sequences apart; "
            "train without packing"
        )
    table = llm.get_input_embeddings().weight
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=table.device)
    found = []
    with tried(llm):
        # Two calls of one shape, whose sums run in one order: what does not leak is equal to the last bit.
        for first in ([5, 6, 7], [11, 12, 13]):
            embeds = table[torch.tensor([[*first, 8, 9, 10]], device=table.device) % len(table)]
            hidden = decoder(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
            found.append(hidden[:, 3:])
    if not torch.equal(*found):
        raise UserError(
            f"model_conf.packing: {type(llm).__name__} ({llm.config._attn_implementation}) lets packed sequences "
            "see each other; train without packing"
        )
