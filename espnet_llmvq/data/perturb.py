"""Perturb waveforms: speed, tempo, noise, reverberation.

Every function of waveforms takes and returns a float32 array of shape (N,) and never clips: an
output whose peak would pass 0.99 is scaled down as a whole. Random ones draw from the numpy
Generator given, so equal seeds give equal samples. scipy and soxr are imported where used.
"""

import numpy as np

from espnet_llmvq.base.errors import UserError, check_name

PEAK = 0.99
NOISE_KINDS = ("babble", "pink", "white")
BABBLE_TALKERS = 6
# A listener a metre or two from the speaker in a small room.
DIRECT_TO_REVERBERANT_DB = 0.0
FIRST_REFLECTION_S = 0.002


def limit_peak(x):
    """float32 `x` (N,), scaled down as a whole if its peak passes PEAK."""
    peak = np.max(np.abs(x), initial=0.0)
    if peak > PEAK:
        x = x * (PEAK / peak)
    return np.asarray(x, dtype=np.float32)


def rms(x):
    """Root mean square of `x` (N,), computed in float64; 0 for an empty array."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if len(x) else 0.0


def _check_positive(name, value):
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"{name} must be a positive number, not {value}")


def change_speed(x, factor):
    """Play `x` (N,) `factor` times as fast, pitch moving with it (sox ``speed``).

    Returns round(N / factor) samples. Raises UserError unless factor > 0.
    """
    import soxr

    _check_positive("speed factor", factor)
    length = round(len(x) / factor)
    if factor == 1.0 or length == 0:
        return limit_peak(x[:length])
    y = soxr.resample(np.asarray(x, dtype=np.float32), factor, 1.0, quality="HQ")
    # soxr may end a sample early or late; callers scale times by the exact factor.
    y = np.pad(y, (0, max(0, length - len(y))))[:length]
    return limit_peak(y)


def change_tempo(x, factor, rate=16000):
    """Play `x` (N,) `factor` times as fast with its pitch kept (sox ``tempo``; WSOLA).

    40 ms windows are taken every 20 ms * factor, each shifted by up to 10 ms to where it best continues the one before,
    and overlap-added every 20 ms. A phase vocoder would smear plosives over its window. `rate` in Hz. Returns round(N /
    factor) samples. Raises UserError unless factor > 0.
    """
    from scipy.signal import correlate

    _check_positive("tempo factor", factor)
    length = round(len(x) / factor)
    if factor == 1.0 or length == 0:
        return limit_peak(x[:length])
    hop = round(0.020 * rate)
    reach = round(0.010 * rate)
    window = np.hanning(2 * hop + 1)[:-1]  # periodic: two half-overlapping windows sum to one
    frames = length // hop + 2
    # The first window is centred on sample 0, so `lead` samples stand before the signal; zeros
    # behind it feed the last windows.
    lead = hop + reach
    behind = round(frames * hop * factor) + 4 * hop + 2 * reach - len(x)
    padded = np.pad(np.asarray(x, dtype=np.float64), (lead, max(behind, 0)))
    out = np.zeros((frames + 1) * hop)
    start = lead - hop
    for frame in range(frames):
        if frame:
            # Where this window begins if nothing is searched, and what would follow seamlessly.
            nominal = round(frame * hop * factor) + lead - hop
            wanted = padded[start + hop : start + 3 * hop]
            region = padded[nominal - reach : nominal + reach + 2 * hop]
            score = correlate(region, wanted, mode="valid")
            energy = np.concatenate(([0.0], np.cumsum(region**2)))
            norm = np.sqrt(np.maximum(energy[2 * hop :] - energy[: -2 * hop], 1e-12))
            start = nominal - reach + int(np.argmax(score / norm)) if wanted.any() else nominal
        out[frame * hop : (frame + 2) * hop] += window * padded[start : start + 2 * hop]
    return limit_peak(out[hop : hop + length])


def _pink(n, rng):
    """Gaussian noise (n,) whose power falls as 1/f."""
    if n < 2:
        return rng.standard_normal(n)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    bins = np.arange(len(spectrum), dtype=np.float64)
    bins[0] = np.inf
    return np.fft.irfft(spectrum / np.sqrt(bins), n=n)


def _babble(n, rng, pool):
    """Sum (n,) of up to BABBLE_TALKERS waveforms of `pool`, equally loud, from random points on."""
    chosen = rng.choice(len(pool), size=min(BABBLE_TALKERS, len(pool)), replace=False)
    total = np.zeros(n)
    for index in chosen:
        voice = np.asarray(pool[int(index)], dtype=np.float64)
        level = rms(voice)
        offset = int(rng.integers(max(1, len(voice))))
        if level > 0:
            total += np.resize(np.roll(voice, -offset), n) / level
    return total


def add_noise(x, snr_db, kind, rng, babble_pool=None):
    """Add noise to `x` (N,) so that 20 log10(RMS of speech / RMS of noise) = `snr_db`.

    kind: "white", "pink", or "babble" (sum of waveforms drawn from `babble_pool`: a sequence, lazy
    if need be, of arrays at the same rate, without `x` itself). Digital silence stays as it is.
    Raises UserError for an unknown kind, or babble without other voices.
    """
    check_name("noise", kind, NOISE_KINDS)
    x = np.asarray(x, dtype=np.float64)
    if kind == "babble":
        if babble_pool is None or len(babble_pool) == 0:
            raise UserError("babble noise is made of other utterances, but there are none")
        noise = _babble(len(x), rng, babble_pool)
    else:
        noise = _pink(len(x), rng) if kind == "pink" else rng.standard_normal(len(x))
    level, noise_level = rms(x), rms(noise)
    if level == 0 or noise_level == 0:
        return limit_peak(x)
    return limit_peak(x + noise * (level / noise_level * 10 ** (-snr_db / 20)))


def room_impulse_response(rt60_s, rng, rate=16000):
    """Synthetic response (L,) of a room, L = rt60_s * rate: direct path at sample 0, then a tail.

    The tail is Gaussian noise falling by 60 dB in `rt60_s` seconds, DIRECT_TO_REVERBERANT_DB below
    the direct path in energy.
    """
    _check_positive("rt60", rt60_s)
    t = np.arange(max(2, round(rt60_s * rate))) / rate
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s)
    tail[t < min(FIRST_REFLECTION_S, t[-1])] = 0.0
    tail *= 10 ** (-DIRECT_TO_REVERBERANT_DB / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def reverberate(x, rt60_s, rng, rate=16000):
    """Put `x` (N,) at `rate` Hz in a synthetic room whose sound falls by 60 dB in `rt60_s` seconds.

    The direct path is not delayed, the length is kept and so is the RMS. Raises UserError unless rt60_s > 0.
    """
    from scipy.signal import fftconvolve

    response = room_impulse_response(rt60_s, rng, rate)
    if len(x) == 0:
        return limit_peak(x)
    y = fftconvolve(np.asarray(x, dtype=np.float64), response)[: len(x)]
    level = rms(y)
    return limit_peak(y * (rms(x) / level) if level > 0 else y)
