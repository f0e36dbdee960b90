"""The inputs of the LLM in the order of a sequence, its next-token loss, and the means of several losses.

A batch of B sequences: tokens (B, U) are token ids, with SPEECH where a speech span stands, HEARD where text as if
heard does, and PAD behind the end; labels (B, U) are the ids that are learnt, IGNORE elsewhere.
"""

import torch
import torch.nn.functional as F

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.llm.directory import context
from espnet_llmvq.llm.ends import logits_of
from espnet_llmvq.llm.packing import pack

SPEECH, PAD, HEARD = -1, -2, -3  # in tokens; ids are 0 and more
IGNORE = -100  # in labels
# Of a statistic: the number of tokens that loss NAME is a mean over. There with several losses only.
COUNT = "count_"


def assemble(embed, tokens, labels, steps=None, step_lengths=None, heard=()):
    """Join speech steps and token embeddings in the order of the spans.

    embed: module, ids (...) -> (..., H). tokens, labels (B, U). steps (N, S, H), step_lengths (N,): of the N speech
    spans of the batch in order; None where there are none. heard: list of (T, H), of those that are text as if heard.
    Returns (list of B (P_b, H) inputs, list of B (P_b,) labels with IGNORE at speech and outside the loss).
    """
    embedded = embed(tokens.clamp(min=0))
    speech = [] if steps is None else [x[:count] for x, count in zip(steps, step_lengths.tolist())]
    spans = {SPEECH: iter(speech), HEARD: iter(heard)}
    inputs, targets = [], []
    for row, vectors, wanted in zip(tokens.tolist(), embedded, labels):
        parts, part_labels, start, end = [], [], 0, len(row) - row.count(PAD)
        for at in [i for i, token in enumerate(row) if token in spans]:
            span = next(spans[row[at]])
            parts += [vectors[start:at], span.to(vectors.dtype)]
            part_labels += [wanted[start:at], wanted.new_full((len(span),), IGNORE)]
            start = at + 1
        inputs.append(torch.cat([*parts, vectors[start:end]]))
        targets.append(torch.cat([*part_labels, wanted[start:end]]))
    return inputs, targets


def check_context(llm, inputs):
    """Raise UserError if one of the inputs (P, H) has more positions than the LLM's context."""
    longest, limit = max(map(len, inputs)), context(llm.config)
    if limit is not None and longest > limit:
        raise UserError(
            f"a sequence has {longest} LLM positions, but the LLM's context has {limit}; drop such texts "
            "(llmvq sequences make --context), and utterances by a lower --max_duration (stage 4)"
        )


def next_token_loss(llm, inputs, labels, packing=None):
    """Next-token cross-entropy over the labelled positions: (sum, number of tokens, accuracy).

    inputs, labels: of `assemble`. packing: positions of a row that holds several sequences; None: a row for each.
    """
    pad = torch.nn.utils.rnn.pad_sequence
    if packing:
        embeds, positions, labels = pack(inputs, labels, packing, IGNORE)
        where = {"position_ids": positions}
    else:
        embeds, labels = pad(inputs, True), pad(labels, True, IGNORE)
        inside = [torch.ones(len(x), dtype=torch.long, device=x.device) for x in inputs]
        where = {"attention_mask": pad(inside, True)}
    hidden = llm.get_decoder()(inputs_embeds=embeds, use_cache=False, **where).last_hidden_state
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    # Logits of labelled positions only: a row of them is the size of the vocabulary.
    logits = logits_of(llm, hidden[:, :-1][chosen]).float()
    loss = F.cross_entropy(logits, targets[chosen], reduction="sum")
    accuracy = (logits.detach().argmax(-1) == targets[chosen]).float().mean()
    return loss, int(chosen.sum()), accuracy


def global_counts(counts, device):
    """{name: count} summed over the processes of a distributed training."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return dict(counts)
    total = torch.tensor(list(counts.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return dict(zip(counts, total.tolist()))


def weighed(losses, weight, device):
    """({name: mean}, {name: count}) of {name: (sum, count)}; counts of several losses only.

    Processes of a distributed training average what they return by `weight`. With several losses each mean is
    scaled so that this average is the sum over all processes by the count over all processes.
    Batches whose gradients are accumulated count alike in ESPnet, whatever is in them.
    """
    if len(losses) < 2:
        return {name: loss / count for name, (loss, count) in losses.items()}, {}
    totals = global_counts({**{name: count for name, (_, count) in losses.items()}, "weight": weight}, device)
    total_weight = totals.pop("weight")
    return {name: loss / (totals[name] * weight / total_weight) for name, (loss, _) in losses.items()}, totals
