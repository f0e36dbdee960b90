"""`Transcriber`: a packed system that transcribes sound files."""

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE, read_audio
from espnet_llmvq.sequence.sequence import Sequence
from espnet_llmvq.transcribe.cut import cut, read_levels
from espnet_llmvq.transcribe.transcript import Segment, Transcript

SILENCE = 4 / 32768  # peak to peak: no more than the noise of silence in 16 bits
BATCH_SIZE = 64  # segments decoded at once, at most


@dataclass
class _Recording:
    """A file while its segments are decoded. reported: seconds that progress knows of."""

    path: str
    duration: float = 0.0
    pending: int = 0
    read: bool = False
    reported: float = 0.0
    error: UserError = None
    segments: list = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """Samples (S,) at 16 kHz of a segment."""

    recording: _Recording
    start: float
    end: float
    samples: np.ndarray


def as_stored(x):
    """Samples as data preparation stores them, in 16 bits, so that a model hears the same here and there."""
    return (np.clip(np.rint(x * 32768.0), -32768, 32767) / 32768).astype(np.float32)


class Transcriber:
    """Transcribes sound files with a packed system.

    Args:
        directory: of the packed system.
        device: of torch.
        num_beams, ctc_weight: of the search; None: as packed.
        max_segment: seconds up to which a recording is not cut; None: as packed. A longer one is cut at pauses of
            `min_pause` seconds and more, of which `margin` seconds stay beside speech.
        batch_seconds: audio decoded at once, of one or several files, padding included. It bounds the memory and
            changes no text.
        draft, draft_accept: "ctc": the LLM reads what the CTC head wrote, and searches greedily from there, see
            `decode.drafts.write`; None: as packed.
    Raises UserError for a directory that cannot be loaded.
    """

    def __init__(
        self,
        directory,
        device="cpu",
        num_beams=None,
        ctc_weight=None,
        max_segment=None,
        min_pause=0.4,
        margin=0.02,
        batch_seconds=120.0,
        draft=None,
        draft_accept=None,
    ):
        from espnet_llmvq.bundle.files import check_draft
        from espnet_llmvq.bundle.model import load_packed
        from espnet_llmvq.model.batch import SequenceArrays
        from espnet_llmvq.sequence import prompt
        from espnet_llmvq.sequence.asr import asr_sequence

        packed = load_packed(directory, device)
        self.model, self.tokenizer, self.manifest = packed.model, packed.tokenizer, packed.manifest
        self.ctc_tokenizer = packed.ctc_tokenizer
        given = {"num_beams": num_beams, "ctc_weight": ctc_weight, "draft": draft, "draft_accept": draft_accept}
        self.search = {**self.manifest["search"], **{k: v for k, v in given.items() if v is not None}}
        if self.search["ctc_weight"] and self.model.ctc is None:
            raise UserError(f"{directory}: its encoder has no CTC head; give ctc_weight 0")
        check_draft(self.search, directory)
        self.max_segment = self.manifest["max_segment"] if max_segment is None else max_segment
        self.min_pause, self.margin, self.batch_seconds = min_pause, margin, batch_seconds
        # A CTC system has no prompt, and does not look at it.
        template = self.manifest["prompt"] or "{speech}{text}"
        self._template, self._separator = template, prompt.separator(template, prompt.TRANSCRIPT)
        self._prompt = Sequence("", asr_sequence("", "-", 1, "", template).prompt)
        self._arrays = SequenceArrays(self.tokenizer)

    def __call__(self, path, words=False):
        """The `Transcript` of a sound file. words: with word times. Raises UserError for one that cannot be read."""
        ((_, result),) = self.transcribe([path], words)
        if isinstance(result, UserError):
            raise result
        return result

    def transcribe(self, paths, words=False, progress=lambda seconds: None, observe=lambda *_: None):
        """Yield (path, `Transcript`, or the UserError that says why there is none) of each file, in order.

        words: with word times, by CTC forced alignment. progress: called with the seconds of audio newly done.
        observe: called for each `Segment` in which anything was heard with (path, segment, frames (1, T, D), their
        number (1,)): what the encoder made of it.
        """
        if words and self.model.ctc is None:
            raise UserError("word times need an encoder with a CTC head")
        queue, batch = deque(), []
        for recording in map(_Recording, map(str, paths)):
            queue.append(recording)
            for piece in self._read(recording):
                if batch and not self._fits(batch, piece):
                    self._decode(batch, words, progress, observe)
                    batch = []
                    yield from self._finished(queue, progress)
                batch.append(piece)
            yield from self._finished(queue, progress)
        if batch:
            self._decode(batch, words, progress, observe)
        yield from self._finished(queue, progress)

    def _fits(self, batch, piece):
        """Whether a batch may take one more piece; padding counts."""
        longest = max(p.end - p.start for p in [*batch, piece])
        return len(batch) < BATCH_SIZE and (len(batch) + 1) * longest <= self.batch_seconds

    def _read(self, recording):
        """Yield the `_Piece`s of a file; what is wrong with it becomes its `error`."""
        try:
            levels = read_levels(recording.path)
            recording.duration = levels.duration
            for start, end in cut(levels, self.max_segment, self.min_pause, self.margin):
                samples = read_audio(recording.path, SAMPLE_RATE, start, end)
                recording.pending += 1
                end = levels.duration if end is None else end
                yield _Piece(recording, start, end, as_stored(samples))
        except UserError as err:
            recording.error = err
        recording.read = True

    def _finished(self, queue, progress):
        """Take the first recordings that wait for nothing from the queue, and yield (path, result) of each."""
        while queue and queue[0].read and not queue[0].pending:
            done = queue.popleft()
            progress(done.duration - done.reported)
            result = done.error or Transcript(done.path, done.duration, tuple(done.segments))
            yield done.path, result

    def _decode(self, pieces, words, progress, observe):
        """Decode pieces, and add their segments to their recordings; or what is wrong with one, found alone."""
        try:
            segments = self._segments(pieces, words, observe)
        except UserError as err:
            if len(pieces) > 1:
                for piece in pieces:
                    self._decode([piece], words, progress, observe)
                return
            pieces[0].recording.error, segments = err, [None]
        for piece, segment in zip(pieces, segments):
            recording = piece.recording
            recording.segments.append(segment)
            recording.pending -= 1
            progress(piece.end - recording.reported)
            recording.reported = piece.end

    def _segments(self, pieces, words, observe):
        """[`Segment`] of pieces."""
        import torch

        from espnet_llmvq.decode.generate import encoded
        from espnet_llmvq.model.batch import collate

        found = [Segment(p.start, p.end, "", () if words else None) for p in pieces]
        frames = self.model.speech_encoder.rate.frames
        audible = [i for i, p in enumerate(pieces) if np.ptp(p.samples) > SILENCE and frames(len(p.samples)) > 0]
        if not audible:
            return found
        with torch.inference_mode():
            _, batch = collate([(i, self._arrays(self._prompt, [pieces[i].samples])) for i in audible])
            batch = encoded(self.model, batch)
            keep = self._spoken(batch)
            if not keep:
                return found
            batch = {name: tensor[keep] for name, tensor in batch.items()}
            kept = [audible[row] for row in keep]
            names = [f"{p.recording.path}: {p.start:.1f} to {p.end:.1f} s" for p in (pieces[i] for i in kept)]
            for row, (i, (text, at_limit)) in enumerate(zip(kept, self._texts(batch, names))):
                times = self._words(batch, row, text, pieces[i]) if words else None
                found[i] = replace(found[i], text=text, words=times, at_limit=at_limit)
                speech, length = batch["speech"][row : row + 1], batch["speech_lengths"][row : row + 1]
                observe(pieces[i].recording.path, found[i], speech[:, : int(length)], length)
        return found

    def _spoken(self, batch):
        """Rows of an `encoded` batch in which the CTC head hears anything; all, without one.

        An LLM would make up a text for the others.
        """
        from espnet_llmvq.decode.ctc import greedy

        if self.model.ctc is None:
            return list(range(len(batch["speech"])))
        return [i for i, (hyp,) in enumerate(greedy(self.model, batch)) if hyp.tokens]

    def _texts(self, batch, names):
        """[(text, cut off by the length limit)] of an `encoded` batch of these names, decoded as test sets are."""
        from espnet_llmvq.decode.ctc import drafts, greedy, respeller
        from espnet_llmvq.decode.generate import generate
        from espnet_llmvq.decode.nbest import best
        from espnet_llmvq.decode.rescore import add_ctc_scores, speller

        weight = self.search["ctc_weight"]
        if self.manifest["decode"] == "ctc":
            lists, weight = greedy(self.model, batch), 0
        else:
            options = {k: v for k, v in self.search.items() if k not in ("ctc_weight", "draft")}
            own = self.ctc_tokenizer is self.tokenizer
            if self.search.get("draft") == "ctc":
                respell = None if own else respeller(self.tokenizer, self.ctc_tokenizer, self._template)
                options["drafts"] = drafts(self.model, batch, respell)
            lists = generate(self.model, self.tokenizer, batch, **options, names=names)
            if weight:
                spell = None if own else speller(self.tokenizer, self.ctc_tokenizer)
                lists = add_ctc_scores(self.model, batch, lists, spell)
        texts = []
        for row in lists:
            if not row:
                texts.append(("", False))
                continue
            hyp = row[best([{"llm": h.llm, "ctc": h.ctc} for h in row], weight)]
            text = self.tokenizer.decode(hyp.tokens, skip_special_tokens=True).strip()
            texts.append((text, hyp.at_limit))
        return texts

    def _words(self, batch, row, text, piece):
        """Word times of the text of a row, or None if the encoder cannot spell it within the piece."""
        from espnet_llmvq.align.ctc import align_words
        from espnet_llmvq.decode.align import word_tokens

        if not text:
            return ()
        length = int(batch["speech_lengths"][row])
        logits = self.model.ctc(batch["speech"][row : row + 1, :length])[0]
        try:
            found = align_words(
                logits.float().log_softmax(-1).cpu(),
                *word_tokens(self.ctc_tokenizer, self._separator + text, first=False),
                self.model.ctc.blank,
                self.model.speech_encoder.rate.seconds,
                piece.end - piece.start,
            )
        except ValueError:
            return None
        return tuple(replace(w, start=piece.start + w.start) for w in found)
