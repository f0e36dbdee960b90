"""Run the bridge of a trained system over some utterances of a set, and keep what it made of them."""

from dataclasses import dataclass

import numpy as np

from espnet_llmvq.score.stats import generator
from espnet_llmvq.sequence.sequence import read_sequences

LEAST = 3  # utterances of a set
BATCH_SECONDS = 120.0  # audio in a batch, as in decoding


@dataclass
class Collected:
    """Steps of all utterances one after the other, and means by utterance.

    ids: U names; transcripts: U texts; counts: U steps of each. speech, text: (U, D) means of LLM inputs and of
    the LLM's embeddings of the transcript's tokens. z, out (N, D) and kept: as `Bridge.steps` returns them.
    """

    ids: list
    transcripts: list
    counts: list
    speech: np.ndarray
    text: np.ndarray
    z: object
    out: object
    kept: object

    def steps_of(self, i):
        """Slice of the steps of utterance i."""
        start = sum(self.counts[:i])
        return slice(start, start + self.counts[i])


def choose(path, limit, seed, name):
    """{id: text with loss} of at most `limit` utterances of a file of sequences, drawn at random, in its order.

    Utterances without a transcript are left out. {} if fewer than `LEAST` remain: too few for any number.
    """
    found = {}
    for seq in read_sequences(path):
        text = "".join(s.text for s in seq.spans if s.loss)  # with its leading space, as it is tokenised
        if text.strip():
            found[seq.id] = text
    if len(found) < LEAST:
        return {}
    if len(found) > limit:
        names = list(found)
        kept = sorted(generator(seed, name).permutation(len(names))[:limit])
        found = {names[i]: found[names[i]] for i in kept}
    return found


def text_means(model, tokenizer, texts):
    """(U, D) mean embedding of the tokens of each text, in the LLM's own table."""
    import torch

    from espnet_llmvq.llm.ends import token_inputs

    table = token_inputs(model.llm)
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        rows.append(table[torch.tensor(ids, device=table.device)].float().mean(0))
    return torch.stack(rows).cpu().numpy().astype(np.float64)


def collect(model, tokenizer, sequences, cache, chosen):
    """`Collected` for the utterances `chosen` ({id: text}) of a file of sequences.

    model: `SpeechLLM` in eval mode. cache: encoder frames (scp) or None.
    """
    import torch

    from espnet_llmvq.bridge.diagnostics import TopK
    from espnet_llmvq.decode.batches import Batches

    device = next(model.parameters()).device
    parts = {}
    with torch.inference_mode():
        for ids, batch in Batches(sequences, BATCH_SECONDS, tokenizer, cache=cache, only=chosen):
            frames, lengths = model.encode(batch["speech"].to(device), batch["speech_lengths"].to(device))
            counts, _, z, out, kept = model.bridge.steps(*model.shorten(frames, lengths))
            counts = counts.tolist()
            kept = [None] * len(ids) if kept is None else zip(*(x.split(counts) for x in kept))
            for utt, *found in zip(ids, z.split(counts), out.split(counts), kept):
                parts[utt] = found
        parts = [parts[utt] for utt in chosen]
        z, out, kept = zip(*parts)
        text = text_means(model, tokenizer, chosen.values())
    speech = np.stack([x.float().mean(0).cpu().numpy().astype(np.float64) for x in out])
    return Collected(
        list(chosen),
        [text.strip() for text in chosen.values()],
        [len(x) for x in out],
        speech,
        text,
        torch.cat(z),
        torch.cat(out),
        None if kept[0] is None else TopK(*(torch.cat(x) for x in zip(*kept))),
    )


def diagnose(model, found):
    """(statistics of the bridge over all steps of a set as floats, sentences on what has collapsed)."""
    import torch

    with torch.inference_mode():
        numbers = {**model.bridge.statistics(found.z, found.out, found.kept), **model.codebook_drift()}
    numbers = {name: float(value) for name, value in numbers.items()}
    return numbers, model.bridge.collapse_warnings(numbers)
