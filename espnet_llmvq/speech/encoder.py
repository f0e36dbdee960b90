"""Speech encoder: frontend, normalisation, SpecAugment, frame stacking and an ESPnet encoder.

The frontend makes a log-mel spectrum, or is a pretrained encoder: then only what is above it is trained here.

ESPnet's convolutions see the padding of a batch; here every utterance gets what it gets alone, so that
encoder outputs can be cached and hypotheses do not depend on the batch.
"""

import contextlib
import math
from functools import partial

import torch

from espnet_llmvq.speech.frame_rate import FrameRate, is_frontend, subsampling
from espnet_llmvq.speech.frames import stack_frames, valid_mask

with contextlib.redirect_stdout(None):  # it prints that flash-attn is missing, which nothing here uses
    from espnet.nets.pytorch_backend.transformer.attention import LegacyRelPositionMultiHeadedAttention


def each_alone(module, x, lengths):
    """Run a module (x, lengths) -> (y, lengths) on every utterance of a padded batch by itself."""
    done = [module(x[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths.tolist())]
    return torch.nn.utils.rnn.pad_sequence([y[0] for y, _ in done], True), torch.cat([n for _, n in done])


@contextlib.contextmanager
def silent_padding(module, inside):
    """Give every convolution over time in `module` zeros outside the utterances, as it has at the ends of a lone one.

    inside: (B, T) bool.
    """

    def silence(_, inputs):
        return (inputs[0] * inside[:, None, :].to(inputs[0].dtype),) + tuple(inputs[1:])

    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv1d) and m.kernel_size[0] > 1]
    hooks = [convolution.register_forward_pre_hook(silence) for convolution in convolutions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class SpeechEncoder(torch.nn.Module):
    """(B, S) waveforms -> (B, T, D) encoder frames, each utterance as if alone.

    Args:
        frontend, normalize, specaug, encoder: ESPnet modules (normalize, specaug may be None).
        config: dict with what decides the number of frames, see `FrameRate`; `frame_stack` feature frames are
            concatenated before the encoder (low frame rate input).
    Attribute names are those of ESPnet's ASR model, so that its checkpoints load by name.
    """

    def __init__(self, frontend, normalize, specaug, encoder, config):
        super().__init__()
        self.frontend, self.normalize, self.specaug, self.encoder = frontend, normalize, specaug, encoder
        self.rate, self.frame_stack = FrameRate(config), config.get("frame_stack", 1)
        self.on_pretrained = is_frontend(config)
        if self.on_pretrained:
            frontend.as_frontend()
        self.centered = (config.get("frontend_conf") or {}).get("center", True)
        # Encoder input frames (after stacking) per encoder frame.
        self.stride = math.prod(stride for _, stride in subsampling(config.get("encoder_conf") or {}))
        # ESPnet's first relative positions, `rel_pos_type: legacy`, shift with the width of the batch.
        self._width_matters = any(isinstance(m, LegacyRelPositionMultiHeadedAttention) for m in encoder.modules())

    def output_size(self):
        return self.encoder.output_size()

    def features(self, speech, lengths):
        """(B, S), (B,) -> log-mel features (B, F, n_mels), (B,); or frames of the pretrained encoder."""
        if self.on_pretrained:
            return self.frontend(speech, lengths)
        with torch.autocast(speech.device.type, enabled=False):
            if self.centered:
                # In a batch the end of an utterance would reflect the padding.
                return each_alone(self.frontend, speech, lengths)
            return self.frontend(speech, lengths)

    def forward(self, speech, lengths, augment=None):
        """(B, S) float waveforms at 16 kHz, (B,) samples -> ((B, T, D), (B,) frames).

        augment: apply SpecAugment; None: in training only.
        """
        self.rate.batch(lengths)
        return self.of_features(*self.features(speech, lengths), augment)

    def cacheable(self, speech, lengths, augment=None):
        """What a cache holds of waveforms (B, S), (B,): ((B, T, D), (B,)). Of a pretrained frontend, what its frozen
        layers make: the rest is small, and hears other masks each time. Else the encoder frames."""
        return self.frontend.cacheable(speech, lengths) if self.on_pretrained else self(speech, lengths, augment)

    def from_cache(self, frames, lengths, augment=None):
        """`cacheable` frames -> encoder frames: ((B, T, D), (B,)) both."""
        if not self.on_pretrained:
            return frames, lengths
        return self.of_features(*self.frontend.from_cache(frames, lengths), augment)

    def of_features(self, x, n, augment=None):
        """Features (B, F, n_mels), (B,) -> encoder frames ((B, T, D), (B,)). augment: as `forward`."""
        frames = self.rate.of_features(n)
        if self._width_matters and len(x) > 1 and not self.training:
            return each_alone(partial(self.of_features, augment=augment), x, n)
        if self.normalize is not None:
            # ESPnet's UtteranceMVN counts the padding into the variance.
            x, n = each_alone(self.normalize, x, n)
        if self.specaug is not None and (self.training if augment is None else augment):
            # After normalisation, so that a masked value is the mean.
            x, n = self.specaug(x.clone(), n)  # it writes into what it gets, which may be a cache's
        x, n = stack_frames(x, n, self.frame_stack)
        inside = valid_mask(frames, int(frames.max()))
        # ESPnet's mask would count a frame that only partly lies inside; the longest fixes the width.
        claimed = torch.where(n == n.max(), n, (frames - 1) * self.stride + 1)
        with silent_padding(self.encoder, inside):
            out, counted, _ = self.encoder(x[:, : int(n.max())], claimed)
        if not torch.equal(counted.to(frames), frames):
            raise RuntimeError(f"encoder frames {counted.tolist()} are not as computed {frames.tolist()}")
        return out * inside[..., None], frames
