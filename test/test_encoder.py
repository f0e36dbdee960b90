"""Speech encoder: counted frames are the real ones, and a batch changes nothing for its utterances."""

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.speech.encoder import SpeechEncoder
from espnet_llmvq.speech.frame_rate import SUBSAMPLING, FrameRate
from espnet_llmvq.speech.frontend import Frontend

MELS = 20
ENCODERS = {
    "conformer": (
        ConformerEncoder,
        dict(linear_units=12, rel_pos_type="latest", cnn_module_kernel=5, macaron_style=True),
    ),
    # ESPnet's own default, whose positions depend on the width of the batch.
    "conformer_legacy": (ConformerEncoder, dict(linear_units=12, rel_pos_type="legacy", cnn_module_kernel=5)),
    "transformer": (TransformerEncoder, dict(linear_units=12)),
    "e_branchformer": (
        EBranchformerEncoder,
        dict(cgmlp_linear_units=16, cgmlp_conv_kernel=5, merge_conv_kernel=3, use_ffn=True, macaron_ffn=True,
             linear_units=12),
    ),
}  # fmt: skip


def parts(name, input_layer, frame_stack, center=False, seed=0, **conf):
    """Frontend, normalisation and encoder of ESPnet, with random batch statistics."""
    torch.manual_seed(seed)
    cls, kwargs = ENCODERS[name]
    kwargs = dict(output_size=8, attention_heads=2, num_blocks=2, input_layer=input_layer, **kwargs, **conf)
    frontend = DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=MELS, center=center)
    encoder = cls(input_size=MELS * frame_stack, **kwargs)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    frontend_conf = {"n_fft": 512, "hop_length": 160, "center": center}
    conf = {"frontend_conf": frontend_conf, "frame_stack": frame_stack, "encoder_conf": kwargs}
    return frontend, UtteranceMVN(norm_vars=True), encoder, conf


def speech_encoder(name, input_layer, frame_stack=1, center=False, **conf):
    frontend, normalize, encoder, conf = parts(name, input_layer, frame_stack, center, **conf)
    return SpeechEncoder(frontend, normalize, None, encoder, conf).eval()


@torch.no_grad()
def espnet_alone(bare, wave, frame_stack):
    """ESPnet's own modules on one utterance without padding: (T, D)."""
    frontend, normalize, encoder, _ = bare
    encoder.eval()
    x, n = frontend(wave[None].clone(), torch.tensor([len(wave)]))
    x, n = normalize(x, n)
    x = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % frame_stack))
    x = torch.stack([torch.cat(list(group)) for group in x[0].split(frame_stack)])
    out, n, _ = encoder(x[None], torch.tensor([len(x)]))
    assert out.shape[1] == int(n)
    return out[0]


def padded(waves):
    """Waves in a batch, whose padding is loud garbage."""
    batch = 50 * torch.randn(len(waves), max(map(len, waves)))
    for row, wave in zip(batch, waves):
        row[: len(wave)] = wave
    return batch, torch.tensor([len(w) for w in waves])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "input_layer, frame_stack", [(layer, 1) for layer in SUBSAMPLING] + [("linear", 3), ("conv2d", 3)]
)
def test_batch_changes_nothing(name, input_layer, frame_stack):
    bare = parts(name, input_layer, frame_stack)
    ours = speech_encoder(name, input_layer, frame_stack)
    torch.manual_seed(1)
    # every residue of the strides (12 at most, times frame_stack), off the frame grid by some samples
    lengths = [512 + 160 * (14 * frame_stack + i) + (37 * i) % 160 for i in range(13 * frame_stack)]
    waves = [torch.randn(n) * torch.linspace(0.2, 1, n) for n in lengths]
    with torch.no_grad():
        out, frames = ours(*padded(waves))
    for i, wave in enumerate(waves):
        alone = espnet_alone(bare, wave, frame_stack)
        assert len(alone) == frames[i] == FrameRate(bare[3]).frames(len(wave))
        torch.testing.assert_close(out[i, : len(alone)], alone, atol=1e-5, rtol=1e-5)
        assert (out[i, len(alone) :] == 0).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_batch_changes_nothing_in_float64(name):
    """The same to eleven digits, so that the agreement above is no accident of a tolerance (features given)."""
    ours = speech_encoder(name, "conv2d6").double()
    torch.manual_seed(2)
    counts = torch.tensor([11, 17, 25, 40, 64])
    feats = [torch.randn(int(n), MELS, dtype=torch.float64) for n in counts]
    ours.features = lambda speech, lengths: (speech, lengths)
    ours.rate.frames = lambda lengths: (((lengths - 3) // 2 + 1) - 5) // 3 + 1
    batch = torch.nn.utils.rnn.pad_sequence(feats, True, padding_value=1e3)
    with torch.no_grad():
        out, frames = ours(batch, counts)
        for i, x in enumerate(feats):
            alone, _ = ours(x[None].clone(), counts[i : i + 1])
            torch.testing.assert_close(out[i, : frames[i]], alone[0], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("center", [False, True])
def test_features_do_not_depend_on_the_batch(center):
    """`center: true` reflects the end of an utterance; in a padded batch ESPnet would read the padding."""
    ours = speech_encoder("transformer", "linear", center=center)
    frontend = ours.frontend
    torch.manual_seed(3)
    waves = [torch.randn(n) for n in (5000, 4321, 3000, 900)]
    feats, counts = ours.features(*padded(waves))
    for i, wave in enumerate(waves):
        alone, n = frontend(wave[None].clone(), torch.tensor([len(wave)]))
        assert counts[i] == n == ours.rate.frames(len(wave))
        torch.testing.assert_close(feats[i, : int(n)], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("input_layer, frames", [("linear", 1), ("conv2d", 7), ("conv2d6", 11), ("conv2d8", 15)])
def test_shortest_speech(input_layer, frames):
    ours = speech_encoder("conformer", input_layer)
    least = 512 + 160 * (frames - 1)
    with torch.no_grad():
        assert ours(torch.randn(1, least), torch.tensor([least]))[1].tolist() == [1]
        with pytest.raises(UserError, match=rf"speech 1 of the batch has {least - 1} samples"):
            ours(torch.randn(2, 9999), torch.tensor([9999, least - 1]))


def test_shortest_speech_centred():
    ours = speech_encoder("transformer", "linear", center=True)
    with torch.no_grad():
        assert ours(torch.randn(1, 257), torch.tensor([257]))[1].tolist() == [2]
        with pytest.raises(UserError, match="speech 0 .* has 256 samples"):
            ours(torch.randn(1, 256), torch.tensor([256]))


def test_unknown_input_layer():
    with pytest.raises(UserError, match="conv1d2.*frame count is unknown.*conv2d6"):
        FrameRate({"encoder_conf": {"input_layer": "conv1d2"}})


def test_specaug_only_in_training():
    frontend, normalize, encoder, conf = parts("transformer", "linear", 1, dropout_rate=0.0)
    specaug = SpecAug(apply_time_warp=False, freq_mask_width_range=[3, 8], time_mask_width_range=[3, 8])
    ours = SpeechEncoder(frontend, normalize, specaug, encoder, conf)
    batch = padded([torch.randn(n) for n in (5000, 4000)])
    with torch.no_grad():
        ours.eval()
        assert torch.equal(ours(*batch)[0], ours(*batch)[0])
        ours.train()
        encoder.eval()
        assert not torch.equal(ours(*batch)[0], ours(*batch)[0])


OPTIONS = [
    dict(), dict(n_mels=20, n_fft=400, hop_length=160, win_length=400), dict(fmin=60, fmax=7600), dict(htk=True),
    dict(fs="8k", n_fft=256, center=False), dict(htk=True, fmin=20, fmax=4000, n_mels=40),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_the_frontend_is_that_of_espnet(options):
    """To the last bit, with tensors of the same names."""
    ours, theirs = Frontend(**options), DefaultFrontend(**options)
    assert ours.state_dict().keys() == theirs.state_dict().keys() and ours.output_size() == theirs.output_size()
    assert torch.equal(ours.logmel.melmat, theirs.logmel.melmat) and ours.logmel.melmat.any()
    waves, lengths = torch.randn(2, 4000), torch.tensor([4000, 3000])
    for one, other in zip(ours(waves, lengths), theirs(waves, lengths)):
        assert torch.equal(one, other)


def test_the_frontend_reads_one_channel():
    Frontend(frontend_conf={"use_wpe": False, "use_beamformer": False, "wtype": "blstmp"})  # ESPnet's defaults
    for options in ({"apply_stft": False}, {"frontend_conf": {"use_wpe": True}}):
        with pytest.raises(UserError, match="speech of one channel is read"):
            Frontend(**options)
