"""ESPnet's default frontend for one channel: short-time Fourier transform, power, log-mel spectrum.

ESPnet's own imports beamformers and asks librosa for the mel filters, and with that come scipy and numba: two seconds
at every start. The filters are computed here, the same to the last bit (Slaney's, of equal area, as librosa has them).
"""

import humanfriendly
import numpy as np
import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.layers.log_mel import LogMel
from espnet2.layers.stft import Stft

from espnet_llmvq.base.errors import UserError

# Slaney's scale: linear up to 1 kHz, logarithmic above.
HZ_PER_MEL, BREAK_HZ, LOG_STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27.0
BREAK_MEL = BREAK_HZ / HZ_PER_MEL


def to_mel(hz, htk):
    if htk:
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return BREAK_MEL + np.log(hz / BREAK_HZ) / LOG_STEP if hz >= BREAK_HZ else hz / HZ_PER_MEL


def to_hz(mels, htk):
    """(M,) -> (M,)."""
    if htk:
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    return np.where(mels >= BREAK_MEL, BREAK_HZ * np.exp(LOG_STEP * (mels - BREAK_MEL)), HZ_PER_MEL * mels)


def mel_filters(fs, n_fft, n_mels, fmin, fmax, htk):
    """(n_mels, 1 + n_fft // 2) float32: triangles between the frequencies fmin and fmax, in Hz."""
    edges = to_hz(np.linspace(to_mel(fmin, htk), to_mel(fmax, htk), n_mels + 2), htk)
    ramps = np.subtract.outer(edges, np.fft.rfftfreq(n=n_fft, d=1.0 / fs))
    widths = np.diff(edges)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters


class Filters(LogMel):
    """`LogMel` with the filters of `mel_filters`."""

    def __init__(self, **options):
        torch.nn.Module.__init__(self)
        self.mel_options, self.log_base = options, None
        self.register_buffer("melmat", torch.from_numpy(mel_filters(**options).T).float())


class Frontend(AbsFrontend):
    """(B, S) waveforms -> (B, F, n_mels). Arguments and tensors are those of ESPnet's.

    frontend_conf, apply_stft: ESPnet's way to several channels and to spectra as input; UserError if they ask for it.
    """

    def __init__(
        self, fs=16000, n_fft=512, win_length=None, hop_length=128, window="hann", center=True, normalized=False,
        onesided=True, n_mels=80, fmin=None, fmax=None, htk=False, frontend_conf=None, apply_stft=True,
    ):  # fmt: skip
        super().__init__()
        if not apply_stft or any((frontend_conf or {}).get(key) for key in ("use_wpe", "use_beamformer")):
            raise UserError("frontend_conf: speech of one channel is read; leave frontend_conf and apply_stft out")
        fs = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        self.stft = Stft(
            n_fft=n_fft, win_length=win_length, hop_length=hop_length, center=center, window=window,
            normalized=normalized, onesided=onesided,
        )  # fmt: skip
        self.n_mels = n_mels
        fmin, fmax = 0 if fmin is None else fmin, fs / 2 if fmax is None else fmax
        self.logmel = Filters(fs=fs, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk)

    def output_size(self):
        return self.n_mels

    def forward(self, input, input_lengths):
        """(B, S), (B,) samples -> ((B, F, n_mels), (B,) frames)."""
        spectrum, lengths = self.stft(input, input_lengths)
        return self.logmel(spectrum[..., 0] ** 2 + spectrum[..., 1] ** 2, lengths)
