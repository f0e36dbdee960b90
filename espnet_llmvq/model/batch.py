"""From sequences to the tensors of a batch: tokens, labels, waveforms or cached encoder frames."""

import os

import numpy as np
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE, AudioError, read_audio
from espnet_llmvq.llm.spans import at_start, begin_ids, encode_text
from espnet_llmvq.model.losses import HEARD, IGNORE, PAD, SPEECH
from espnet_llmvq.speech.spans import WHOLE


class FrameCache:
    """Encoder outputs computed beforehand, by utterance id: (T, D) float32. Of a mixture, whose ids are NAME/PASS/ID,
    by the last part.

    path: Kaldi scp of a cache written by `espnet_llmvq.cli.encode`.
    """

    def __init__(self, path):
        import kaldiio

        self.path = path
        try:
            self.frames = kaldiio.load_scp(path)
        except ValueError as err:
            raise self._damaged("a line", err) from err

    def __getitem__(self, utt):
        if utt not in self.frames:
            utt = utt.split("/", 2)[-1]
        if utt not in self.frames:
            raise UserError(f"{self.path}: no encoder frames for {utt}; remove the cache and run stage 10")
        try:
            return self.frames[utt]
        except Exception as err:  # a damaged file raises whatever its bytes lead to
            raise self._damaged(utt, err) from err

    def _damaged(self, what, err):
        return UserError(
            f"{self.path}: the encoder frames of {what} are damaged ({err}); remove {os.path.dirname(self.path)} and "
            "run stage 10"
        )


def read_wave(utt, span):
    """The samples of one speech span; of a piece nothing but the piece is kept."""
    start = span.start or 0
    # A whole file is read to its end, so that one that has grown is found out.
    end = (start + span.samples) / SAMPLE_RATE if span.is_piece else None
    try:
        wave = read_audio(span.audio, SAMPLE_RATE, start / SAMPLE_RATE, end)
    except AudioError as err:
        raise UserError(f"{utt}: {err}; a file of dump/ is made again from stage 3") from err
    if abs(len(wave) - span.samples) > 1:
        raise UserError(
            f"{utt}: {span.audio} has {len(wave)} samples, the sequence says {span.samples}; "
            "the audio changed: run again from stage 3"
        )
    # Resampling may give one sample more.
    return wave[: span.samples] if span.is_piece else wave


class SequenceArrays:
    """`Sequence` -> arrays of the model's batch.

    tokens (U,): token ids, SPEECH where a speech span stands, HEARD where text as if heard does. labels (U,): the ids
    that are learnt, IGNORE elsewhere.
    speech: (S,) waveforms of its n speech spans joined, or (T, D) cached frames; speech_lengths (n,) of each;
    speech_steps (n,): encoder steps of a piece cut out of a sound file, WHOLE for a whole file.
    heard_rows, heard_weights (T, k): of the steps of its m spans of text as if heard joined, the tokens' rows in the
    LLM's table and their weights, 0 where a step has fewer; heard_lengths (m,): steps of each.

    cache: encoder frames (scp) to read instead of audio. augment: function (S,) -> (S,) laid over waveforms.
    step: samples of an encoder step. A piece is filled up with zeros to a whole number of them; without it
    pieces are refused.
    """

    def __init__(self, tokenizer, cache=None, augment=None, step=None):
        self.tokenizer, self.eos_id = tokenizer, tokenizer.eos_token_id
        self.cache = FrameCache(cache) if cache else None
        self.augment, self.step = augment, step

    def speech(self, utt, spans, waves=None):
        """The speech spans of a sequence: list of arrays. waves: their samples, where they are not to be read."""
        if self.cache is not None:
            if len(spans) > 1 or spans[0].is_piece:
                raise UserError(
                    f"{utt}: an encoder cache holds one speech span a sequence, not {len(spans)}, and a whole "
                    "file, not a piece; train with --cache_encoder false"
                )
            return [np.asarray(self.cache[utt])]
        waves = waves or [read_wave(utt, span) for span in spans]
        if self.augment is not None:
            # The noise of a sequence has one level and one colour, as its spans are of one recording.
            noisy = self.augment(np.concatenate(waves))
            waves = np.split(noisy, np.cumsum([len(w) for w in waves])[:-1])
        return [
            np.pad(w, (0, self.steps(utt, span) * self.step - len(w))) if span.is_piece else w
            for w, span in zip(waves, spans)
        ]

    def steps(self, utt, span):
        """Encoder steps of a piece; WHOLE for a whole file, of which the encoder makes what it makes."""
        if not span.is_piece:
            return WHOLE
        if self.step is None:
            raise UserError(f"{utt}: a piece of {span.audio} cannot be read here; only whole files can")
        return -(-span.samples // self.step)

    def heard(self, utt, steps):
        """Rows and weights (T, k) of the steps of text as if heard."""
        rows = np.zeros((len(steps), max(map(len, steps))), dtype=np.int64)
        weights = np.zeros(rows.shape, dtype=np.float32)
        for i, step in enumerate(steps):
            ids = self.tokenizer.convert_tokens_to_ids(list(step))
            for name, token in zip(step, ids):
                if token is None or (token == self.tokenizer.unk_token_id and name != self.tokenizer.unk_token):
                    raise UserError(f"{utt}: {name!r} is no token of the LLM; run again from stage 9")
            rows[i, : len(ids)], weights[i, : len(ids)] = ids, list(step.values())
        return rows, weights

    def __call__(self, sequence, samples=None):
        """The arrays of a sequence. samples: of each speech span, (S,) float32 at 16 kHz; None: read from its file."""
        tokens = begin_ids(self.tokenizer, sequence.spans)
        labels = [IGNORE] * len(tokens)
        for span, first in zip(sequence.spans, at_start(sequence.spans)):
            if span.is_text:
                ids = encode_text(self.tokenizer, span, self.eos_id, first)
            else:
                ids = [SPEECH if span.is_speech else HEARD]
            tokens += ids
            labels += ids if span.loss else [IGNORE] * len(ids)
        out = {"tokens": np.array(tokens, dtype=np.int64), "labels": np.array(labels, dtype=np.int64)}
        spans = [s for s in sequence.spans if s.is_speech]
        if spans:
            out["speech_steps"] = np.array([self.steps(sequence.id, s) for s in spans], dtype=np.int64)
            waves = self.speech(sequence.id, spans, samples)
            out["speech"] = np.concatenate(waves).astype(np.float32)
            out["speech_lengths"] = np.array([len(w) for w in waves], dtype=np.int64)
        heard = [s.heard for s in sequence.spans if s.is_heard]
        if heard:
            out["heard_rows"], out["heard_weights"] = self.heard(sequence.id, sum(heard, []))
            out["heard_lengths"] = np.array([len(steps) for steps in heard], dtype=np.int64)
        return out


def batch_of(arrays, sequences):
    """(ids, tensors) of a batch of sequences. arrays: `SequenceArrays`."""
    return collate([(sequence.id, arrays(sequence)) for sequence in sequences])


def collate(batch):
    """[(id, arrays)] -> (ids, tensors of the model's batch, see `SpeechLLM.forward`). Speech is padded with zeros."""
    pad, speech, steps = torch.nn.utils.rnn.pad_sequence, [], []
    out = {
        key: pad([torch.from_numpy(d[key]) for _, d in batch], True, value)
        for key, value in (("tokens", PAD), ("labels", IGNORE))
    }
    heard = [d for _, d in batch if "heard_rows" in d]
    for _, d in batch:
        if "speech" in d:
            speech += torch.from_numpy(d["speech"]).split(d["speech_lengths"].tolist())
            steps += d["speech_steps"].tolist()
    if heard:
        out["heard_lengths"] = torch.cat([torch.from_numpy(d["heard_lengths"]) for d in heard])
        for key in ("heard_rows", "heard_weights"):
            every = [step for d in heard for step in torch.from_numpy(d[key])]
            out[key] = pad(every, True)
    if speech:
        out["speech"] = pad(speech, True)
        out["speech_lengths"] = torch.tensor([len(s) for s in speech])
        out["speech_steps"] = torch.tensor(steps)
    return [utt for utt, _ in batch], out


class Augmenter:
    """Training noise on waveforms: coloured Gaussian noise, gain, or neither.

    noise_prob: share of utterances with noise; snr_db: range of its level; tilt: range of the
    exponent of its power spectrum 1/f^tilt (0 white, 1 pink).
    Draws come from numpy's global generator, which ESPnet seeds by epoch and worker.
    """

    def __init__(self, noise_prob=0.0, snr_db=(5.0, 30.0), tilt=(0.0, 1.5)):
        self.noise_prob, self.snr_db, self.tilt = noise_prob, snr_db, tilt

    def __call__(self, wave):
        import scipy.fft

        if np.random.rand() >= self.noise_prob:
            return wave
        # The transform of a length with large prime factors takes many times longer.
        n = scipy.fft.next_fast_len(len(wave), real=True)
        spectrum = scipy.fft.rfft(np.random.randn(n).astype(np.float32))
        frequency = np.maximum(np.arange(len(spectrum), dtype=np.float32), 1.0)
        noise = scipy.fft.irfft(spectrum * frequency ** (-np.random.uniform(*self.tilt) / 2), n)[: len(wave)]
        power = np.mean(wave**2) / 10 ** (np.random.uniform(*self.snr_db) / 10)
        return wave + (noise * np.sqrt(power / (np.mean(noise**2) + 1e-20))).astype(wave.dtype)
