"""Sequences in ESPnet's dataset: the `sequence` data type, its preprocessing and its collate function."""

import numpy as np
import scipy.fft
import torch
from espnet2.train.dataset import DATA_TYPES

from espnet_llmvq.data.audio import read_audio
from espnet_llmvq.errors import UserError
from espnet_llmvq.model import SPEECH, TEXT
from espnet_llmvq.sequence import SAMPLE_RATE, Sequence, SequenceReader

# Registered at import time, so that spawned DDP children and data loaders see it.
DATA_TYPES.setdefault(
    "sequence",
    dict(
        func=SequenceReader,
        kwargs=[],
        help="JSON lines of speech and text spans (espnet_llmvq.sequence)\n\n"
        '   {"id": "utterance_id_a", "spans": [...]}\n   ...',
    ),
)


def encode_text(tokenizer, span, eos_id):
    """Token ids of a text span, with the end token where it asks for one."""
    ids = tokenizer.encode(span.text, add_special_tokens=False)
    return ids + [eos_id] if span.eos else ids


class FrameCache:
    """Encoder outputs computed beforehand, by utterance id: (T, D) float32.

    path: Kaldi scp of a cache written by `espnet_llmvq.bin.encode`.
    """

    def __init__(self, path):
        import kaldiio

        self.path, self.frames = path, kaldiio.load_scp(path)

    def __getitem__(self, utt):
        if utt not in self.frames:
            raise UserError(f"{self.path}: no encoder frames for {utt}; remove the cache and run stage 10")
        return self.frames[utt]


class SequencePreprocessor:
    """(id, {"sequence": JSON line}) -> arrays of the model's batch, for one sequence.

    speech: (S,) waveforms of its speech spans joined, or (T, D) cached frames; speech_lengths (n,);
    tokens (U,); layout (K, 3) of kind, length, loss.
    """

    def __init__(self, tokenizer, eos_id, cache=None, augment=None):
        self.tokenizer, self.eos_id = tokenizer, eos_id
        self.cache = FrameCache(cache) if cache else None
        self.augment = augment

    def speech(self, utt, spans):
        """The speech spans of a sequence: (list of arrays)."""
        if self.cache is not None:
            if len(spans) > 1:
                raise UserError(f"{utt}: an encoder cache holds one speech span a sequence, not {len(spans)}")
            return [np.asarray(self.cache[utt])]
        waves = []
        for span in spans:
            end = span.start + span.samples / SAMPLE_RATE
            wave = read_audio(span.audio, SAMPLE_RATE, span.start, end if span.start else None)
            if abs(len(wave) - span.samples) > 1:
                raise UserError(
                    f"{utt}: {span.audio} has {len(wave)} samples, the sequence says {span.samples}; "
                    "the audio changed: run again from stage 3"
                )
            waves.append(wave if self.augment is None else self.augment(wave))
        return waves

    def __call__(self, utt, data):
        seq = Sequence.from_json(data["sequence"])
        tokens, layout = [], []
        for span in seq.spans:
            ids = [] if span.is_speech else encode_text(self.tokenizer, span, self.eos_id)
            layout.append((SPEECH if span.is_speech else TEXT, len(ids), int(span.loss)))
            tokens += ids
        out = {
            "tokens": np.array(tokens, dtype=np.int64),
            "layout": np.array(layout, dtype=np.int64).reshape(-1, 3),
        }
        spans = [s for s in seq.spans if s.is_speech]
        if spans:
            waves = self.speech(utt, spans)
            out["speech"] = np.concatenate(waves).astype(np.float32)
            out["speech_lengths"] = np.array([len(w) for w in waves], dtype=np.int64)
        return out


def collate(batch):
    """[(id, arrays)] -> (ids, tensors of the model's batch). Speech spans are padded with zeros."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [utt for utt, _ in batch]
    out = {
        "tokens": pad([torch.from_numpy(d["tokens"]) for _, d in batch], True),
        "layout": pad([torch.from_numpy(d["layout"]) for _, d in batch], True, -1),
    }
    speech = []
    for _, d in batch:
        if "speech" in d:
            speech += torch.from_numpy(d["speech"]).split(d["speech_lengths"].tolist())
    if speech:
        out["speech"] = pad(speech, True)
        out["speech_lengths"] = torch.tensor([len(s) for s in speech])
    return ids, out


class Augmenter:
    """Training noise on waveforms: coloured Gaussian noise, gain, or neither.

    noise_prob: share of utterances with noise; snr_db: range of its level; tilt: range of the
    exponent of its power spectrum 1/f^tilt (0 white, 1 pink).
    Draws come from numpy's global generator, which ESPnet seeds by epoch and worker.
    """

    def __init__(self, noise_prob=0.0, snr_db=(5.0, 30.0), tilt=(0.0, 1.5)):
        self.noise_prob, self.snr_db, self.tilt = noise_prob, snr_db, tilt

    def __call__(self, wave):
        if np.random.rand() >= self.noise_prob:
            return wave
        # The transform of a length with large prime factors takes many times longer.
        n = scipy.fft.next_fast_len(len(wave), real=True)
        spectrum = scipy.fft.rfft(np.random.randn(n).astype(np.float32))
        frequency = np.maximum(np.arange(len(spectrum), dtype=np.float32), 1.0)
        noise = scipy.fft.irfft(spectrum * frequency ** (-np.random.uniform(*self.tilt) / 2), n)[: len(wave)]
        power = np.mean(wave**2) / 10 ** (np.random.uniform(*self.snr_db) / 10)
        return wave + (noise * np.sqrt(power / (np.mean(noise**2) + 1e-20))).astype(wave.dtype)
