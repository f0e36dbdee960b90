"""`Recogniser`: a packed system that transcribes sound: files, arrays, streams."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from espnet_llmvq.base.errors import UserError, naming_extra
from espnet_llmvq.data.audio import SAMPLE_RATE, resample
from espnet_llmvq.sequence.sequence import Sequence
from espnet_llmvq.transcribe.cut import cut
from espnet_llmvq.transcribe.sound import check_array, check_rate, name_of, sound_of
from espnet_llmvq.transcribe.stream import StreamCutter
from espnet_llmvq.transcribe.transcript import Segment, Transcript

# A path, or samples of floating point, (N,) or (N, channels), full scale 1.0, and their rate in Hz.
Sound = str | os.PathLike | tuple[np.ndarray, float]

SILENCE = 4 / 32768  # peak to peak: no more than the noise of silence in 16 bits
BATCH_SIZE = 64  # segments decoded at once, at most


@dataclass
class _Recording:
    """A sound while its segments are decoded. reported: seconds that progress knows of."""

    name: str
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


class Recogniser:
    """Transcribes sound with a packed system.

        recogniser = Recogniser("DIR")
        print(recogniser("meeting.flac").text)
        for name, result in recogniser.transcribe(["a.wav", (samples, 16000)], words=True):
            print(name, result if isinstance(result, UserError) else result.text)
        for segment in recogniser.stream(chunks, 16000):
            print(f"{segment.start:.1f} to {segment.end:.1f} s: {segment.text}")

    A sound is a path, or a pair (samples, rate) as `soundfile.read` gives it: floats with full scale 1.0, of shape (N,)
    or (N, channels), and samples a second. Channels are averaged, and other rates are resampled to 16 kHz.

    Args:
        directory: of the packed system.
        device: of torch.
        num_beams, ctc_weight: of the search; None: as packed.
        max_segment: seconds up to which a recording is not cut; None: as packed. A longer one is cut at pauses of
            `min_pause` seconds and more, of which `margin` seconds stay beside speech.
        batch_seconds: audio decoded at once, of one or several sounds, padding included. It bounds the memory and
            changes no text.
        draft, draft_accept: "ctc": the LLM reads what the CTC head wrote, and searches greedily from there, see
            `decode.drafts.write`; None: as packed.
    Raises UserError for a directory that cannot be loaded, and for a library that is not installed. One Recogniser is
    for one thread at a time.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        device: str = "cpu",
        num_beams: int | None = None,
        ctc_weight: float | None = None,
        max_segment: float | None = None,
        min_pause: float = 0.4,
        margin: float = 0.02,
        batch_seconds: float = 120.0,
        draft: str | None = None,
        draft_accept: float | None = None,
    ):
        from espnet_llmvq.bundle.files import check_draft
        from espnet_llmvq.sequence import prompt
        from espnet_llmvq.sequence.asr import asr_sequence

        with naming_extra():
            from espnet_llmvq.bundle.model import load_packed
            from espnet_llmvq.model.batch import SequenceArrays

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

    def __call__(self, sound: Sound, words: bool = False) -> Transcript:
        """The `Transcript` of a sound. words: with word times. Raises UserError for one that cannot be read."""
        ((_, result),) = self.transcribe([sound], words)
        if isinstance(result, UserError):
            raise result
        return result

    def transcribe(
        self,
        sounds: Iterable[Sound],
        words: bool = False,
        progress: Callable[[float], None] = lambda seconds: None,
        observe: Callable = lambda *_: None,
    ) -> Iterator[tuple[str, Transcript | UserError]]:
        """Yield (name, `Transcript`, or the UserError that says why there is none) of each sound, in order.

        Several are decoded at once, so the first may come only when others were read. name: the path; of samples
        "sound N", counted from 1. words: with word times, by CTC forced alignment. progress: called with the seconds of
        audio newly done. observe: called for each `Segment` in which anything was heard with (name, segment, frames
        (1, T, D), their number (1,)): what the encoder made of it.
        """
        self._check_words(words)
        if isinstance(sounds, (str, os.PathLike)):
            raise UserError(f"transcribe takes a list of sounds; for one alone: recogniser({str(sounds)!r})")
        return self._transcribe(sounds, words, progress, observe)

    def stream(self, chunks: Iterable[np.ndarray], rate: float, words: bool = False) -> Iterator[Segment]:
        """Yield a `Segment` of a stream of sound each time that one has closed and has text.

        Text does not appear while one speaks: a segment is recognised once, as a whole, when a pause of `min_pause`
        seconds has closed it, or when it has grown longer than `max_segment` and is cut where it is quietest. So its
        text is as late as its own length and the computing together; afterwards nothing of it is changed, and the next
        segment knows nothing of it. Pauses are told from speech by the levels heard so far, so the cuts of the first
        seconds may be worse than those of a file; while the level hardly changes, length alone closes. What has no
        text, as silence, is left out.

        The next chunk is asked for when the text is out: a recording that must not wait has to keep what comes
        meanwhile, in a queue.

        Args:
            chunks: each of floats, (n,) or (n, channels), full scale 1.0, of any length. Their lengths change no text.
            rate: samples a second.
            words: with word times.
        Times are seconds from the beginning of the stream. Raises UserError for samples that are no sound, with their
        place, and for a segment that cannot be decoded; the stream ends with it.
        """
        self._check_words(words)
        check_rate(rate, "stream")
        return self._stream(chunks, rate, words)

    def _check_words(self, words):
        if words and self.model.ctc is None:
            raise UserError("word times need an encoder with a CTC head")

    def _stream(self, chunks, rate, words):
        recording, at = _Recording("stream"), 0
        cutter = StreamCutter(rate, self.max_segment, self.min_pause, self.margin)

        def recognised(closed):
            for first, x in closed:
                samples = as_stored(resample(x, rate, SAMPLE_RATE))
                if len(samples):
                    piece = _Piece(recording, first / rate, (first + len(x)) / rate, samples)
                    yield from (segment for segment in self._segments([piece], words) if segment.text)

        for chunk in chunks:
            x = check_array(chunk, "stream", rate, at)
            at += len(x)
            yield from recognised(cutter.push(x))
        yield from recognised(cutter.finish())

    def _transcribe(self, sounds, words, progress, observe):
        queue, batch = deque(), []
        for number, given in enumerate(sounds, 1):
            recording = _Recording(name_of(given, number))
            queue.append(recording)
            for piece in self._read(recording, given):
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

    def _read(self, recording, given):
        """Yield the `_Piece`s of a sound; what is wrong with it becomes its `error`."""
        try:
            sound = sound_of(given, recording.name)
            levels = sound.levels()
            recording.duration = levels.duration
            for start, end in cut(levels, self.max_segment, self.min_pause, self.margin):
                samples = sound.read(start, end)
                recording.pending += 1
                end = levels.duration if end is None else end
                yield _Piece(recording, start, end, as_stored(samples))
        except UserError as err:
            recording.error = err
        recording.read = True

    def _finished(self, queue, progress):
        """Take the first recordings that wait for nothing from the queue, and yield (name, result) of each."""
        while queue and queue[0].read and not queue[0].pending:
            done = queue.popleft()
            progress(done.duration - done.reported)
            result = done.error or Transcript(done.name, done.duration, tuple(done.segments))
            yield done.name, result

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

    def _segments(self, pieces, words, observe=lambda *_: None):
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
            names = [f"{p.recording.name}: {p.start:.1f} to {p.end:.1f} s" for p in (pieces[i] for i in kept)]
            for row, (i, (text, at_limit)) in enumerate(zip(kept, self._texts(batch, names))):
                times = self._words(batch, row, text, pieces[i]) if words else None
                found[i] = replace(found[i], text=text, words=times, at_limit=at_limit)
                speech, length = batch["speech"][row : row + 1], batch["speech_lengths"][row : row + 1]
                observe(pieces[i].recording.name, found[i], speech[:, : int(length)], length)
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
