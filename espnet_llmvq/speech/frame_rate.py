"""How many frames an encoder makes of speech, and how far apart, from its config alone.

Without torch: stages 9 and 10 start many short processes.
"""

import functools
import math

from espnet_llmvq.base.errors import UserError, check_name
from espnet_llmvq.base.files import check_path
from espnet_llmvq.base.hub import check_attention, from_pretrained
from espnet_llmvq.data.audio import SAMPLE_RATE

LAST, WEIGHTED = "last", "weighted"  # encoder_conf.layer
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


@functools.lru_cache
def described(path):
    """(config, feature extractor) of an encoder directory, without its weights. Raises UserError."""
    if not path:
        raise UserError("path of a pretrained encoder: name its directory or hub id, or give --pretrained_encoder")
    check_path(path, what="encoder", remedy="give --pretrained_encoder PATH")
    local = check_path(path, "preprocessor_config.json", what="encoder", remedy="")
    from transformers import AutoConfig, AutoFeatureExtractor

    config = from_pretrained(AutoConfig, path, local)
    check_name(f"model_type of {path}", config.model_type, PRETRAINED)
    check_attention(config)
    extractor = from_pretrained(AutoFeatureExtractor, path, local)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UserError(f"{path}: it was trained at {extractor.sampling_rate} Hz; audio here has {SAMPLE_RATE}")
    return config, extractor


def described_as(name, path):
    """`described`, of a directory that must hold the encoder `name`."""
    config, extractor = described(path)
    if config.model_type != name:
        raise UserError(f"{path} holds {config.model_type}, not {name}: write encoder: {config.model_type}")
    return config, extractor


def wavlm_windows(config, extractor):
    return list(zip(config.conv_kernel, config.conv_stride))


def whisper_windows(config, extractor):
    # Whole log-mel frames; then two convolutions, both padded, the second with a stride of 2.
    return [(extractor.hop_length, extractor.hop_length), (1, 2)]


# Pretrained encoders by the model_type of their config.json.
PRETRAINED = {"wavlm": wavlm_windows, "whisper": whisper_windows}


def is_frontend(config):
    """Whether the frontend of a config is a pretrained encoder, so that frames are cached as it makes them."""
    return config.get("frontend") in PRETRAINED


def last_state(config):
    """{"last_state": words} of a config whose frames were others before, {} of others: for records of what they are."""
    conf = config.get("encoder_conf") or {}
    if config.get("encoder") != "wavlm":
        return {}
    model = described(conf.get("path"))[0]
    changed = model.do_stable_layer_norm and conf.get("layer", LAST) in (LAST, WEIGHTED, model.num_hidden_layers)
    return {"last_state": "after the final LayerNorm"} if changed else {}


def subsampling(encoder_conf):
    """Windows of an ESPnet encoder's input layer. Raises UserError for an unknown one."""
    layer = encoder_conf.get("input_layer", "conv2d")
    if layer not in SUBSAMPLING:
        raise UserError(f"input_layer {layer!r}: its frame count is unknown; use one of {list(SUBSAMPLING)}")
    return list(SUBSAMPLING[layer])


def slid(count, windows):
    """How many windows are left of `count` (int or tensor) by (kernel, stride)s that slide one after the other."""
    for kernel, stride in windows:
        count = (count - kernel) // stride + 1
    return count


class FrameRate:
    """How many frames the encoder of a config makes of samples at 16 kHz: the one place that counts them.

    config: dict with `frontend`, `frontend_conf`, `frame_stack`, `encoder`, `encoder_conf`; others are not looked at.
    Raises UserError for an unknown input layer and an encoder directory that does not fit.

    windows: (kernel, stride) of all that slides over the samples, one after the other; after: those behind the
    frontend. more_than: samples that are still too few for a frame. step: samples from one frame to the next.
    """

    def __init__(self, config):
        name, conf = config.get("encoder", "conformer"), config.get("encoder_conf") or {}
        front, front_conf = config.get("frontend"), config.get("frontend_conf") or {}
        self.more_than, self.after = 0, [(1, config.get("frame_stack", 1))]
        if name in PRETRAINED:
            self.windows, self.after = PRETRAINED[name](*described_as(name, conf.get("path"))), []
        elif front in PRETRAINED:
            self.windows = PRETRAINED[front](*described_as(front, front_conf.get("path")))
        else:
            size, hop = front_conf.get("n_fft", 512), front_conf.get("hop_length", HOP_LENGTH)
            if front_conf.get("center", True):
                # The ends are reflected, which takes more than half a window of samples.
                self.more_than, size = size // 2, size % 2
            self.windows = [(size, hop)]
        self.after += [] if name in PRETRAINED else subsampling(conf)
        self.windows = [*self.windows, *self.after]
        self.step = math.prod(stride for _, stride in self.windows)

    @property
    def seconds(self):
        """Seconds from one frame to the next."""
        return self.step / SAMPLE_RATE

    def frames(self, samples):
        """Frames of whole speech, fewer than 1 for none. samples: int or tensor."""
        return slid(samples, self.windows) * (samples > self.more_than)

    def of_features(self, features):
        """Frames of what the frontend makes, fewer than 1 for too little. features: int or tensor."""
        return slid(features, self.after)

    def batch(self, samples):
        """Frames (B,) of waveforms of `samples` (B,). Raises UserError for one of less than a frame."""
        frames = self.frames(samples)
        if int(frames.min()) < 1:
            i = int(frames.argmin())
            raise UserError(
                f"speech {i} of the batch has {int(samples[i])} samples, less than one encoder frame; "
                "run stage 4 with a larger --min_duration"
            )
        return frames

    def piece(self, samples):
        """Frames of a piece cut out of a sound file: its steps, the last one filled up with zeros."""
        return -(-samples // self.step)
