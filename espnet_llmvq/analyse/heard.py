"""How close text as if heard comes to speech: the steps of both, piece by piece, and what the LLM makes of them."""

import random
from dataclasses import replace

from espnet_llmvq.sequence.sequence import Span, read_sequences

BATCH = 8  # sequences that the LLM reads at once


def overlap(one, other):
    """What two lists of steps share, 0 to 1: of steps in the same place the smaller of both weights of each token.

    Weights of a step count as shares of it; a step without another one in its place shares nothing.
    """
    if not one and not other:
        return 1.0
    shared = 0.0
    for a, b in zip(one, other):
        total_a, total_b = sum(a.values()), sum(b.values())
        shared += sum(min(a[token] / total_a, b[token] / total_b) for token in a.keys() & b.keys())
    return 2 * shared / (len(one) + len(other))


def is_right(piece, steps):
    """Whether a piece is the heaviest token of one of its steps."""
    return any(max(step, key=step.get) == piece for step in steps)


def compare(spoken, heard):
    """Numbers of pieces that were spoken, [(piece, steps)], and of the same as if heard: {metric: value}.

    Overlaps are means over pieces; `clear`: of pieces that are one step each, which has no other token.
    """
    n, found = len(spoken), {}
    for name, pieces in (("spoken", spoken), ("heard", heard)):
        found[f"steps_{name}"] = sum(len(steps) for _, steps in pieces) / n
        found[f"right_{name}"] = 100 * sum(is_right(*pair) for pair in pieces) / n
    found["overlap_heard"] = sum(overlap(a, b) for (_, a), (_, b) in zip(spoken, heard)) / n
    found["overlap_clear"] = sum(overlap(steps, [{piece: 1.0}]) for piece, steps in spoken) / n
    return found


def llm_loss(model, arrays, sequences):
    """Mean loss of the LLM over the tokens of sequences, in nats."""
    import torch

    from espnet_llmvq.model.batch import batch_of

    total = count = 0.0
    device = next(model.parameters()).device
    for at in range(0, len(sequences), BATCH):
        batch = batch_of(arrays, sequences[at : at + BATCH])[1]
        with torch.inference_mode():
            _, stats, weight = model(**{key: value.to(device) for key, value in batch.items()})
        total, count = total + float(stats["loss_llm"]) * float(weight), count + float(weight)
    return total / count


def closeness(model, config, sequences, cache, chosen, confusions, seed):
    """{metric: value} of the utterances `chosen` of a file of sequences; {} if none of them can be aligned.

    model, config: of `load_model`. cache: encoder frames (scp) or None. confusions: `Confusions`; seed: of its draws.
    Losses: of speech; of its own steps with the weights of the CTC head (`retold`); of text as if heard; of text that
    is spelled clearly.
    """
    from espnet_llmvq.decode.heard import spoken
    from espnet_llmvq.llm.directory import load_tokenizer
    from espnet_llmvq.model.batch import SequenceArrays

    spelling = load_tokenizer(config["ctc_tokens"] or config["llm"])
    real, simulated, texts = [], [], {"spoken": [], "retold": [], "heard": [], "clear": []}
    told = dict(spoken(model, spelling, sequences, only=chosen, cache=cache))
    for seq in read_sequences(sequences):
        if seq.id not in told:
            continue
        words = told[seq.id]
        heard = confusions.pieces(
            [tuple(piece for piece, _ in word) for word in words], random.Random(f"{seed} {seq.id}")
        )
        own = [pair for word in words for pair in word]
        variants = {
            "spoken": None,
            "retold": [step for _, steps in own for step in steps],
            "heard": [step for _, steps in heard for step in steps],
            "clear": [{piece: 1.0} for piece, _ in own],
        }
        if not variants["heard"]:
            continue
        real, simulated = real + own, simulated + heard
        for name, steps in variants.items():
            given = Span(heard=steps) if steps else None
            texts[name].append(replace(seq, spans=tuple(given or s if s.is_speech else s for s in seq.spans)))
    if not real:
        return {}
    arrays = SequenceArrays(load_tokenizer(config["llm"]), cache)
    return compare(real, simulated) | {f"loss_{name}": llm_loss(model, arrays, found) for name, found in texts.items()}
