"""`DemoSystem`: a packed system that tells all that the page shows of a recording."""

import numpy as np

from espnet_llmvq.base.errors import UserError

PEAKS = 1500  # of a waveform, at most
DIGITS = 3  # of seconds, weights and cosines


def bridge_name(bridge):
    """What the page calls a bridge; None is a system without an LLM."""
    from espnet_llmvq.bridge.bridge import HardBridge, SoftBridge

    if bridge is None:
        return "no LLM"
    if isinstance(bridge, HardBridge):
        return "hard bridge"
    if isinstance(bridge, SoftBridge):
        return f"soft bridge, k={'all' if bridge.keeps_all else bridge.top_k}"
    return "continuous bridge"


def step_times(model, frames, lengths):
    """(z (S, D), out (S, D), middles (S,)) of the bridge's steps of one piece of speech.

    frames (1, T, D), lengths (1,): of the encoder. z, out: as of `Bridge.steps`. middles: seconds from the beginning of
    the frames that a step is made of to its middle.
    """
    import torch

    from espnet_llmvq.speech.frames import stack_frames

    places = torch.arange(frames.shape[1], device=frames.device, dtype=torch.float32)[None, :, None] + 0.5
    # The frames that are dropped or merged take their places along.
    short, counts = model.shorten(frames, lengths, torch.cat([frames.float(), places], -1))
    steps, _, z, out, _ = model.bridge.steps(short[..., :-1].to(frames.dtype), counts)
    stack = model.bridge.stack
    stacked, _ = stack_frames(short[..., -1:], counts, stack)
    # The last step may be filled up with zeros.
    in_each = (counts[0] - stack * torch.arange(int(steps), device=frames.device)).clamp(max=stack)
    middles = stacked[0, : int(steps)].sum(-1) / in_each * model.speech_encoder.rate.seconds
    return z, out, middles


def peaks(samples, most=PEAKS):
    """[(lowest, highest)] of up to `most` equal parts of samples (S,), to draw them."""
    edges = np.linspace(0, len(samples), min(most, len(samples)), endpoint=False).astype(int)
    low, high = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
    return [(round(float(a), DIGITS), round(float(b), DIGITS)) for a, b in zip(low, high)]


def differences(draft, text):
    """[(op, word of the draft, word of the text)] of their alignment, as of `UtteranceScore.pairs`."""
    from espnet_llmvq.score.wer import score_utterances

    (score,) = score_utterances({"": draft.split()}, {"": text.split()})
    return score.pairs


class DemoSystem:
    """A packed system. name: of its directory, unique among those of a page; label: of its manifest; bridge: in words.

    options: of `Recogniser`. Raises UserError for a directory that cannot be loaded.
    """

    def __init__(self, directory, name, **options):
        from espnet_llmvq.transcribe import Recogniser

        self.name = name
        self.recogniser = Recogniser(directory, **options)
        self.model = self.recogniser.model
        self.label = self.recogniser.manifest["label"] or self.recogniser.manifest["system"]
        self.bridge = bridge_name(self.model.bridge)

    def hear(self, path):
        """What the page shows of a sound file, as JSON takes it. Raises UserError for one that cannot be transcribed.

        duration: seconds; peaks: of the waveform; text, and segments. Of a segment: start, end, text, at_limit; words:
        [(word, start, end)], None without times; draft: text of the CTC head, None without one; differences: of draft
        and text; steps: of the bridge, [(seconds, [(token, cosine, weight or None)])], None without an LLM.
        """
        from espnet_llmvq.data.audio import SAMPLE_RATE, read_audio

        seen = {}

        def observe(_, segment, frames, lengths):
            seen[segment.start] = self._inside(segment, frames, lengths)

        timed = self.model.ctc is not None
        ((_, transcript),) = self.recogniser.transcribe([path], words=timed, observe=observe)
        if isinstance(transcript, UserError):
            raise transcript
        segments = []
        for s in transcript.segments:
            # Of silence the encoder was not asked.
            draft, steps = seen.get(s.start, ("" if timed else None, None if self.model.bridge is None else []))
            words = None
            if s.words is not None:
                words = [(w.word, round(w.start, DIGITS), round(w.end, DIGITS)) for w in s.words]
            segments.append({
                "start": round(s.start, DIGITS), "end": round(s.end, DIGITS), "text": s.text, "at_limit": s.at_limit,
                "words": words, "draft": draft, "steps": steps,
                "differences": None if draft is None else differences(draft, s.text),
            })  # fmt: skip
        drawn = peaks(read_audio(path, SAMPLE_RATE))
        return {
            "duration": round(transcript.duration, DIGITS), "peaks": drawn, "text": transcript.text,
            "segments": segments,
        }  # fmt: skip

    def _inside(self, segment, frames, lengths):
        """(draft, steps) of a segment, as `hear` has them."""
        import torch

        from espnet_llmvq.analyse.nearest import as_tokens
        from espnet_llmvq.base.files import one_line
        from espnet_llmvq.decode.ctc import greedy

        draft = steps = None
        if self.model.ctc is not None:
            ((hypothesis,),) = greedy(self.model, {"speech": frames, "speech_lengths": lengths})
            written = self.recogniser.ctc_tokenizer.decode(hypothesis.tokens, skip_special_tokens=True)
            draft = one_line(written)
        if self.model.bridge is not None:
            with torch.inference_mode():
                z, out, middles = step_times(self.model, frames, lengths)
            tokens = as_tokens(self.model, self.recogniser.tokenizer, z, out)
            steps = [
                (
                    round(segment.start + middle, DIGITS),
                    [(t, *(x and round(x, DIGITS) for x in numbers)) for t, *numbers in step],
                )
                for middle, step in zip(middles.tolist(), tokens)
            ]
        return draft, steps


def load_systems(directories, **options):
    """{name: `DemoSystem`} of packed directories, in their order. options: of each.

    Names are those of the directories, with a number where two have one. Raises UserError.
    """
    import os

    found = {}
    for directory in directories:
        base = name = os.path.basename(os.path.abspath(directory))
        number = 1
        while name in found:
            number += 1
            name = f"{base} ({number})"
        found[name] = DemoSystem(directory, name, **options)
    return found
