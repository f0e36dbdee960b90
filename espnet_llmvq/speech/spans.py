"""Encoding the speech spans of sequences: whole files alone, the pieces of a sequence together."""

import itertools

import torch

WHOLE = 0  # steps of a span that is a whole file: the encoder makes as many as it makes


def encode(encoder, speech, lengths, augment=None):
    """Waveforms (N, S) or cached frames (N, T, D), (N,) -> ((N, T, D), (N,) frames); no gradient if it is frozen.

    augment: as an encoder takes it.
    """
    frozen = not any(p.requires_grad for p in encoder.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        return (encoder.from_cache if speech.dim() == 3 else encoder)(speech, lengths, augment)


def groups_of(counts, steps, concatenate):
    """Lists of spans, by number, that are encoded at once: pieces that follow each other in a sequence, or each alone.

    counts: spans of each sequence; steps: of each span.
    """
    groups, at = [], 0
    for count in counts:
        for whole, run in itertools.groupby(range(at, at + count), lambda i: steps[i] == WHOLE):
            run = list(run)
            groups += [run] if concatenate and not whole else [[i] for i in run]
        at += count
    return groups


def encode_spans(encoder, speech, lengths, steps, counts, concatenate=True, augment=None):
    """Encode the N speech spans of a batch, one row each: -> ((N, T, D), (N,) frames).

    speech (N, S) waveforms or (N, T, D) cached frames, lengths (N,). steps (N,): encoder steps of a piece cut out of a
    sound file, which its samples fill; WHOLE for a whole file. counts: list of B, speech spans of each sequence.
    augment: as an encoder takes it.

    With `concatenate` all pieces of a sequence are joined, encoded at once and split again ([2607.01733], word level),
    so a piece has the frames of its own samples, in the context of the other pieces of its sequence and of no other.
    Whole files are encoded alone.
    """
    if speech.dim() == 3 or not steps.any():
        return encode(encoder, speech, lengths, augment)
    steps = steps.tolist()
    step, samples = encoder.rate.step, lengths.tolist()
    for n, count in zip(samples, steps):
        if count != WHOLE and count * step != n:
            raise RuntimeError(f"a piece of {n} samples does not fill {count} steps of {step}")
    groups = groups_of(counts, steps, concatenate)
    rows = [torch.cat([speech[i, : samples[i]] for i in group]) for group in groups]
    wanted = [[steps[i] for i in group] for group in groups]
    totals = [len(row) for row in rows]
    for i, pieces in enumerate(wanted):
        # Windows and convolutions need some samples after the last step to make a frame of it.
        while sum(pieces) > int(encoder.rate.frames(totals[i])):
            totals[i] += step
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad([torch.nn.functional.pad(row, (0, n - len(row))) for row, n in zip(rows, totals)], True)
    frames, encoded = encode(encoder, padded, lengths.new_tensor(totals), augment)
    spans = []
    for row, n, pieces in zip(frames, encoded.tolist(), wanted):
        spans += row[: sum(pieces)].split(pieces) if any(pieces) else [row[:n]]
    return pad(spans, True), lengths.new_tensor([len(span) for span in spans])
