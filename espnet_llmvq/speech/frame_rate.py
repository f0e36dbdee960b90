"""How many frames an encoder makes of speech, and how far apart, from its config alone.

Without torch: stages 9 and 10 start many short processes.
"""

import functools
import math

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_path
from espnet_llmvq.data.audio import SAMPLE_RATE

HOP_LENGTH = 128  # samples, of ESPnet's default frontend

# Convolutional input layers of ESPnet: (kernel, stride) along time.
SUBSAMPLING = {
    "linear": (),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d": ((3, 2), (3, 2)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}
# Names of the pretrained encoders, the model_type of their config.json.
PRETRAINED = ("wavlm", "whisper")


@functools.lru_cache
def described(path):
    """(config, feature extractor) of an encoder directory, without its weights. Raises UserError."""
    if not path:
        raise UserError("encoder_conf.path: name the directory or hub id of the encoder, or give --pretrained_encoder")
    check_path(path, what="encoder", remedy="give --pretrained_encoder PATH")
    local = check_path(path, "preprocessor_config.json", what="encoder", remedy="")
    from transformers import AutoConfig, AutoFeatureExtractor

    config = AutoConfig.from_pretrained(path, local_files_only=local)
    check_name(f"model_type of {path}", config.model_type, PRETRAINED)
    extractor = AutoFeatureExtractor.from_pretrained(path, local_files_only=local)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UserError(f"{path}: it was trained at {extractor.sampling_rate} Hz; audio here has {SAMPLE_RATE}")
    return config, extractor


def described_as(name, path):
    """`described`, of a directory that must hold the encoder `name`."""
    config, extractor = described(path)
    if config.model_type != name:
        raise UserError(f"{path} holds {config.model_type}, not {name}: write encoder: {config.model_type}")
    return config, extractor


def pretrained_frames(name, samples, conf):
    """Frames that the encoder `name` makes of `samples` at 16 kHz (int or tensor), at most 0 for none."""
    config, extractor = described_as(name, conf.get("path"))
    if name == "whisper":
        # Two convolutions over whole log-mel frames, both padded, the second with a stride of 2.
        return (samples // extractor.hop_length - 1) // 2 + 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        samples = (samples - kernel) // stride + 1
    return samples


def pretrained_step(name, conf):
    """Samples at 16 kHz from one frame of the encoder `name` to the next."""
    config, extractor = described_as(name, conf.get("path"))
    return 2 * extractor.hop_length if name == "whisper" else math.prod(config.conv_stride)


def frontend_frames(samples, n_fft=512, hop_length=HOP_LENGTH, center=True):
    """Number of frames of ESPnet's default frontend for `samples` (int or tensor)."""
    if center:
        # The ends are reflected, which takes more than half a window of samples.
        return ((samples + n_fft // 2 * 2 - n_fft) // hop_length + 1) * (samples > n_fft // 2)
    return (samples - n_fft) // hop_length + 1


def subsampled(frames, input_layer):
    """Number of encoder frames for `frames` feature frames (int or tensor)."""
    for kernel, stride in SUBSAMPLING[input_layer]:
        frames = (frames - kernel) // stride + 1
    return frames


def encoder_frames(samples, frontend_conf, frame_stack, encoder_conf, encoder="conformer"):
    """Encoder frames for an utterance of `samples` at 16 kHz: the one place that counts them.

    frontend_conf, encoder_conf, encoder: of the model's config. Raises UserError for an unknown input layer.
    """
    if encoder in PRETRAINED:
        return pretrained_frames(encoder, samples, encoder_conf)
    layer = encoder_conf.get("input_layer", "conv2d")
    if layer not in SUBSAMPLING:
        raise UserError(f"input_layer {layer!r}: its frame count is unknown; use one of {list(SUBSAMPLING)}")
    keys = ("n_fft", "hop_length", "center")
    frames = frontend_frames(samples, **{k: frontend_conf[k] for k in keys if k in frontend_conf})
    return subsampled((frames + frame_stack - 1) // frame_stack, layer)


def step_samples(frontend_conf, frame_stack, encoder_conf, encoder="conformer"):
    """Samples at 16 kHz from one encoder frame to the next: an encoder step."""
    if encoder in PRETRAINED:
        return pretrained_step(encoder, encoder_conf)
    hop = frontend_conf.get("hop_length", HOP_LENGTH)
    layer = encoder_conf.get("input_layer", "conv2d")
    return hop * frame_stack * math.prod(stride for _, stride in SUBSAMPLING[layer])


def piece_frames(samples, *shape):
    """Encoder frames of a piece cut out of a sound file: its steps, the last one filled up with zeros.

    shape: as `step_samples` takes it.
    """
    return -(-samples // step_samples(*shape))
