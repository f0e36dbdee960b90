"""Speech encoder: frontend, normalisation, SpecAugment, frame stacking and an ESPnet encoder.

ESPnet's convolutions see the padding of a batch; here every utterance gets what it gets alone, so that
encoder outputs can be cached and hypotheses do not depend on the batch.
"""

import math
from functools import partial

import torch
from espnet.nets.pytorch_backend.transformer.attention import LegacyRelPositionMultiHeadedAttention

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.data.audio import SAMPLE_RATE
from espnet_llmvq.speech.frame_rate import SUBSAMPLING, encoder_frames, step_samples
from espnet_llmvq.speech.frames import stack_frames, valid_mask


def each_alone(module, x, lengths):
    """Run a module (x, lengths) -> (y, lengths) on every utterance of a padded batch by itself."""
    done = [module(x[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths.tolist())]
    return torch.nn.utils.rnn.pad_sequence([y[0] for y, _ in done], True), torch.cat([n for _, n in done])


class SpeechEncoder(torch.nn.Module):
    """(B, S) waveforms -> (B, T, D) encoder frames, each utterance as if alone.

    Args:
        frontend, normalize, specaug, encoder: ESPnet modules (normalize, specaug may be None).
        frame_stack: feature frames concatenated before the encoder (low frame rate input); 1 for none.
        conf: {"frontend": dict, "encoder": dict}, the configs that decide the number of frames.
    Attribute names are those of ESPnet's ASR model, so that its checkpoints load by name.
    """

    def __init__(self, frontend, normalize, specaug, encoder, frame_stack=1, conf=None):
        super().__init__()
        self.frontend, self.normalize, self.specaug = frontend, normalize, specaug
        self.encoder, self.frame_stack = encoder, frame_stack
        conf = conf or {"frontend": {}, "encoder": {}}
        self.frontend_conf, self.encoder_conf = conf["frontend"], conf["encoder"]
        self.input_layer = self.encoder_conf.get("input_layer", "conv2d")
        self._inside = None
        # ESPnet's first relative positions, `rel_pos_type: legacy`, shift with the width of the batch.
        self._width_matters = any(isinstance(m, LegacyRelPositionMultiHeadedAttention) for m in encoder.modules())
        for module in encoder.modules():
            if isinstance(module, torch.nn.Conv1d) and module.kernel_size[0] > 1:
                module.register_forward_pre_hook(self._silence_padding)

    def _silence_padding(self, module, inputs):
        """Give a convolution over time zeros outside the utterance, as it has at the ends of a lone one."""
        x = inputs[0]
        return (x * self._inside[:, None, :].to(x.dtype),) + tuple(inputs[1:])

    def output_size(self):
        return self.encoder.output_size()

    def frames(self, samples):
        """Encoder frames for a number of samples (int or tensor)."""
        return encoder_frames(samples, self.frontend_conf, self.frame_stack, self.encoder_conf)

    def stride(self):
        """Encoder input frames (after stacking) per encoder frame."""
        return math.prod(stride for _, stride in SUBSAMPLING[self.input_layer])

    def frame_seconds(self):
        """Seconds from one encoder frame to the next."""
        return self.step_samples() / SAMPLE_RATE

    def step_samples(self):
        """Samples from one encoder frame to the next."""
        return step_samples(self.frontend_conf, self.frame_stack, self.encoder_conf)

    def features(self, speech, lengths):
        """(B, S), (B,) -> log-mel features (B, F, n_mels), (B,)."""
        with torch.autocast(speech.device.type, enabled=False):
            if self.frontend_conf.get("center", True):
                # In a batch the end of an utterance would reflect the padding.
                return each_alone(self.frontend, speech, lengths)
            return self.frontend(speech, lengths)

    def forward(self, speech, lengths, augment=None):
        """(B, S) float waveforms at 16 kHz, (B,) samples -> ((B, T, D), (B,) frames).

        augment: apply SpecAugment; None: in training only.
        """
        frames = self.frames(lengths)
        if int(frames.min()) < 1:
            i = int(frames.argmin())
            raise UserError(
                f"speech {i} of the batch has {int(lengths[i])} samples, less than one encoder frame; "
                "run stage 4 with a larger --min_duration"
            )
        if self._width_matters and len(speech) > 1 and not self.training:
            return each_alone(partial(self, augment=augment), speech, lengths)
        x, n = self.features(speech, lengths)
        if self.normalize is not None:
            # ESPnet's UtteranceMVN counts the padding into the variance.
            x, n = each_alone(self.normalize, x, n)
        if self.specaug is not None and (self.training if augment is None else augment):
            # After normalisation, so that a masked value is the mean.
            x, n = self.specaug(x, n)
        x, n = stack_frames(x, n, self.frame_stack)
        self._inside = valid_mask(frames, int(frames.max()))
        # ESPnet's mask would count a frame that only partly lies inside; the longest fixes the width.
        claimed = torch.where(n == n.max(), n, (frames - 1) * self.stride() + 1)
        out, counted, _ = self.encoder(x[:, : int(n.max())], claimed)
        if not torch.equal(counted.to(frames), frames):
            raise RuntimeError(f"encoder frames {counted.tolist()} are not as computed {frames.tolist()}")
        return out * self._inside[..., None], frames
