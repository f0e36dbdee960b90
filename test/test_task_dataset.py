"""From a line of JSON to the model's batch: interleaved spans, text alone, offsets into audio, noise."""

import numpy as np
import pytest
import soundfile
import torch

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.model.batch import Augmenter, SequenceArrays, batch_of
from espnet_llmvq.model.losses import IGNORE, PAD, SPEECH
from espnet_llmvq.sequence.sequence import Sequence, Span
from espnet_llmvq.speech.spans import WHOLE


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("audio") / "a.wav")
    samples = np.random.default_rng(0).integers(-9999, 9999, 16000).astype(np.int16)
    soundfile.write(path, samples, 16000)
    return path, torch.from_numpy(samples / 32768.0).float()


def test_batch_of_interleaved_and_text(wave, tokenizer):
    path, samples = wave
    pieces = [Span(audio=path, start=4000, samples=3000), Span(audio=path, start=8000, samples=2000)]
    texts = [Span(text=" one", loss=True), Span(text=" two three", loss=True, eos=True)]
    interleaved = Sequence("a", (pieces[0], texts[0], pieces[1], texts[1]))
    text = Sequence("b", (Span(text="five"), Span(text=" six", loss=True, eos=True)))
    whole = Sequence("c", (Span(text="USER:"), Span(audio=path, samples=16000), Span(text=" nine", loss=True)))
    arrays = SequenceArrays(tokenizer, step=1280)
    ids, batch = batch_of(arrays, (interleaved, text, whole))
    assert ids == ["a", "b", "c"]
    tokens = [[tokenizer.encode(s, add_special_tokens=False) for s in spans]
              for spans in ((" one", " two three"), ("five", " six"), ("USER:", " nine"))]  # fmt: skip
    (one, two), (five, six), (user, nine) = tokens
    rows = [[SPEECH, *one, SPEECH, *two, 2], [*five, *six, 2], [*user, SPEECH, *nine]]
    learnt = [[IGNORE, *one, IGNORE, *two, 2], [*[IGNORE] * len(five), *six, 2], [*[IGNORE] * (len(user) + 1), *nine]]
    for key, expected, pad in (("tokens", rows, PAD), ("labels", learnt, IGNORE)):
        longest = max(map(len, rows))
        assert batch[key].tolist() == [[*row, *[pad] * (longest - len(row))] for row in expected]
    assert batch["speech_steps"].tolist() == [3, 2, WHOLE]
    assert batch["speech_lengths"].tolist() == [3 * 1280, 2 * 1280, 16000]
    for row, expected in zip(batch["speech"], (samples[4000:7000], samples[8000:10000], samples)):
        assert torch.equal(row[: len(expected)], expected) and not row[len(expected) :].any()
    _, alone = batch_of(arrays, [text])
    assert set(alone) == {"tokens", "labels"}
    with pytest.raises(UserError, match="a piece of .*a.wav cannot be read here"):
        SequenceArrays(tokenizer)(interleaved)


def test_a_cache_holds_one_speech_span(wave, tokenizer, tmp_path):
    import kaldiio

    frames = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
    kaldiio.save_ark(str(tmp_path / "f.ark"), {"a": frames}, scp=str(tmp_path / "f.scp"))
    arrays = SequenceArrays(tokenizer, str(tmp_path / "f.scp"))
    span = Span(audio="never read", samples=5)
    data = arrays(Sequence("a", (span,)))
    assert np.array_equal(data["speech"], frames) and data["speech_lengths"].tolist() == [7]
    with pytest.raises(UserError, match="one speech span a sequence, not 2"):
        arrays(Sequence("a", (span, span)))


def test_noise_has_the_level_asked_for():
    np.random.seed(0)
    wave = np.sin(np.arange(16000, dtype=np.float32))
    for snr in (0.0, 12.0):
        noise = Augmenter(noise_prob=1.0, snr_db=(snr, snr))(wave) - wave
        assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.01)
    pink = Augmenter(noise_prob=1.0, snr_db=(0, 0), tilt=(1.0, 1.0))(np.ones(1 << 16, np.float32)) - 1
    power = np.abs(np.fft.rfft(pink)) ** 2
    # half the power an octave: the sum over an octave stays
    octaves = [power[1 << k : 2 << k].sum() for k in range(8, 15)]
    assert max(octaves) / min(octaves) < 1.3
    assert Augmenter(noise_prob=1.0)(wave).dtype == np.float32
    changed = sum(Augmenter(noise_prob=0.25)(wave) is not wave for _ in range(400))
    assert 70 <= changed <= 130
