"""Waveform -> log-mel features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .audio import Tape
from .config import MelFeatures
from .istft import Float, stft

# The front-end of HiFi-GAN and Matcha-TTS at 22,050 Hz: jik876/hifi-gan, meldataset.py; matcha/utils/audio.py.
HIFIGAN = MelFeatures(
    n_fft=1024,
    hop_length=256,
    n_mels=80,
    padding="same",
    f_min=0.0,
    f_max=8000.0,
    mel_scale="slaney",
    norm="slaney",
    clip=1e-5,
    power_offset=1e-9,
)

CHUNK = 1024  # frames transformed at once, so that memory does not grow with the length


def log_mel(audio: npt.NDArray[np.floating[Any]], sample_rate: int, mel: MelFeatures) -> Float:
    """Audio (B, N) at ``sample_rate`` -> log-mel spectrogram (B, n_mels, T), float32.

    ln(max(sqrt(|STFT|² + power_offset) · filterbank, clip)) of audio that is padded by reflection: with "center" by
    n_fft/2 on both sides, T = 1 + N // hop_length; with "same" by (n_fft - hop_length) // 2, T = N // hop_length where
    n_fft - hop_length is even. As vocos 0.1.0, ``feature_extractors.MelSpectrogramFeatures``, but computed in float64:
    float32 transforms, torch's too, are off by more than 1e-4 where a band is 80 dB under the frame's peak.

    Raises:
        ValueError: audio too short to be reflected, or for one frame.
    """
    frames = max(0, 1 + (audio.shape[-1] + 2 * _pad(mel) - mel.n_fft) // mel.hop_length)
    features = np.empty((len(audio), mel.n_mels, frames), np.float32)
    done = 0
    for block in log_mel_blocks(Tape([audio]), sample_rate, mel):
        features[:, :, done : done + block.shape[2]] = block
        done += block.shape[2]
    return features


def log_mel_blocks(audio: Tape, sample_rate: int, mel: MelFeatures, chunk: int = CHUNK) -> Iterator[Float]:
    """The same, some frames at a time (B, n_mels, t). Raises as ``log_mel``."""
    hop, pad = mel.hop_length, _pad(mel)
    bank = filterbank(sample_rate, mel)
    start = 0
    while True:
        there = audio.reach((start + chunk) * hop + mel.n_fft)
        if start == 0 and there < (shortest := max(pad + 1, mel.n_fft - 2 * pad)):
            raise ValueError(
                f"audio has {there} samples at {sample_rate} Hz, expected at least {shortest}: these mel "
                f"features reflect {pad} of them at both ends; pad it with zeros"
            )
        # what comes later makes these frames complete, and at the end there are no others
        stop = min(start + chunk, 1 + (there + 2 * pad - mel.n_fft) // hop)
        if stop <= start:
            return
        first, last = start * hop - pad, (stop - 1) * hop - pad + mel.n_fft
        # a reflection reaches back as far as the padding
        held = max(0, min(first, there - pad - 1))
        stretch = audio.cut(held, max(last, 1 - first))
        if first < 0 or last > there:
            index = np.abs(np.arange(first, last))
            stretch = stretch[:, np.where(index < there, index, 2 * (there - 1) - index) - held]
        else:
            stretch = stretch[:, first - held : last - held]
        spectrum = stft(stretch.astype(np.float64), mel.n_fft, hop)
        if mel.power_offset:
            magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + mel.power_offset)
        else:
            magnitude = np.abs(spectrum)
        features: Float = np.log(np.maximum(magnitude @ bank, mel.clip)).transpose(0, 2, 1).astype(np.float32)
        yield features
        start = stop


def _pad(mel: MelFeatures) -> int:
    return mel.n_fft // 2 if mel.padding == "center" else (mel.n_fft - mel.hop_length) // 2


@lru_cache(maxsize=8)
def filterbank(sample_rate: int, mel: MelFeatures) -> npt.NDArray[np.float64]:
    """Triangular filters (n_fft/2 + 1, n_mels), evenly spaced on the mel scale from f_min to f_max.

    Each rises from the centre of the filter before it to its own, and falls to the centre of the next one. The norm
    "slaney" divides by half the distance between those neighbours, in Hz.
    """
    low, high = (_to_mel(f, mel.mel_scale) for f in (mel.f_min, mel.f_max))
    points = _to_hz(np.linspace(low, high, mel.n_mels + 2), mel.mel_scale)
    bins = np.linspace(0, sample_rate // 2, mel.n_fft // 2 + 1)  # as torchaudio: an odd rate's half is rounded down
    rise, fall = points[1:-1] - points[:-2], points[2:] - points[1:-1]
    up = (bins[:, None] - points[:-2]) / rise
    down = (points[2:] - bins[:, None]) / fall
    bank = np.maximum(0, np.minimum(up, down))
    if mel.norm == "slaney":
        bank *= 2 / (points[2:] - points[:-2])
    bank.flags.writeable = False  # it is cached
    return bank


def mel_fault(features: npt.NDArray[np.floating[Any]], mel: MelFeatures) -> str | None:
    """Why features (C, T) or (B, C, T) are probably not those of a model, with the remedy; None where they may be.

    Natural logarithms of magnitudes are told from other scales by their range, and by how much they vary: from one
    frame to the next, over time in a band, and in all. Silence, frames of one value (as fill up a batch), and fewer
    than 50 others are never at fault. Measured on 300 recordings of speech, singing, music, rain, single sounds,
    noise and tones, as mels of 100 bands and of HiFi-GAN: of 4,001 pieces of 60 frames or more none is at fault, also
    60 dB quieter, 12 dB louder or with a clip of 1e-5; of the recordings in another scale 98 % are found.
    Not told apart: log2, and log10 of power.
    """
    x = np.asarray(np.asarray(features)[..., :_JUDGED], np.float64)
    if x.ndim == 3:
        x = x[:8].transpose(1, 0, 2).reshape(x.shape[1], -1)
    if 0 in x.shape:
        return None
    x = x[:, np.ptp(x, axis=0) > 1e-6][:, :_JUDGED]
    if x.shape[1] < _FEWEST:
        return None
    scale = "expected natural logarithms of magnitudes, as features() gives"
    low, middle, high = (float(value) for value in np.percentile(x, (0.1, 50, 99.9)))
    found = f"mels from {low:.3g} to {high:.3g}, {scale}"
    if low >= 0 and middle < 0.1 * high:
        logs = f"np.log(np.maximum(magnitudes, {mel.clip:g}))"
        halved = f"np.log(np.maximum(powers, {mel.clip**2:g})) / 2"
        if high > math.exp(_highest(mel)):  # which no magnitudes are
            return f"{found}; these look like powers: pass {halved}"
        return f"{found}; these look like magnitudes or powers: pass {logs} if they are magnitudes, {halved} if powers"
    if low < min(math.log(mel.clip), _LOWEST) - 2.5:
        return f"{found}; {_expanded(float(x.std()))}"
    if high > _highest(mel):
        return f"{found}; these look like mels of audio in the range of int16: divide that by 32768"
    x = x[:, ((x > math.log(mel.clip) + 0.1) & (x != x.min())).mean(axis=0) > 0.9]  # at the floor nothing varies
    if x.shape[1] < _FEWEST:
        return None
    mean, spread, over_time = float(x.mean()), float(x.std()), float(np.median(x.std(axis=1)))
    step = float(np.median(np.abs(np.diff(x, axis=1))))
    if spread > 2.5 and 0.5 < step < 0.5 * spread:
        return f"{found}; {_expanded(spread)}"
    if abs(mean) < 1.2 and spread < 0.5 and 0.003 < step < 0.12 and over_time > 0.4 * spread:
        return (
            f"{found}; these look scaled down: pass features / 0.1 if they are of ZipVoice, and undo the normalisation "
            "if they are of another system"
        )
    if abs(mean) < 0.05 and abs(spread - 1) < 0.05 and step < 0.25 and over_time > 0.3:
        return f"{found}; these look normalised to mean 0 and deviation 1: pass features * std + mean of that system"
    short = x.shape[1] < 3 * _FEWEST
    log10 = any(
        spread < most and least_time < over_time < most_time and 0.03 < step < most_step
        for most, least_time, most_time, most_step in _LOG10[short]
    )
    if log10 and -5 < mean < 2:
        return f"{found}; these look like log10: pass features * np.log(10), or undo the normalisation if there is one"
    return None


# How much mels in log10 vary at most, and over time from and to, and from frame to frame at most: speech more over time
# than noise of such a spread, and from frame to frame less than single sounds do in natural logarithms.
_LOG10 = {
    False: ((1.1, 0.6, 1.15, 0.2), (1.3, 0.35, 1.2, 0.163), (1.5, 0.85, 1.4, 0.145)),
    True: ((1.1, 0.65, 1.15, 0.18), (1.1, 0.35, 1.15, 0.14)),
}
_FEWEST, _JUDGED = 50, 4000  # frames
_LOWEST = math.log(1e-7)  # of the clips in use


def _expanded(spread: float) -> str:
    decibels, power = "features * (np.log(10) / 20)", "features / 2"
    if spread < 5:
        return f"these look like logarithms of power: pass {power}"
    if spread < 8:
        return f"these look like decibels or logarithms of power: pass {decibels}, or {power}"
    return f"these look like decibels: pass {decibels}"


def _highest(mel: MelFeatures) -> float:
    """What no band reaches: a full-scale sine in every band at once, and 12 dB more."""
    return math.log(mel.n_fft / 2 * _sums(mel)) + math.log(4)


@lru_cache(maxsize=8)
def _sums(mel: MelFeatures) -> float:
    """The largest sum of a band's weights at any sample rate in use; lower rates have more bins in a band."""
    rate = 2 * round(max(mel.f_max, 4000))
    return float(filterbank(rate, mel).sum(axis=0).max())


# Slaney's Auditory Toolbox: linear below 1 kHz (15 mels), above it 27 mels for each factor of 6.4.
_KNEE, _LINEAR, _LOG = 1000.0, 200 / 3, math.log(6.4) / 27


def _to_mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hz / 700)  # O'Shaughnessy, as in HTK
    return hz / _LINEAR if hz < _KNEE else _KNEE / _LINEAR + math.log(hz / _KNEE) / _LOG


def _to_hz(mels: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mels / 2595) - 1))
    return np.where(mels < _KNEE / _LINEAR, mels * _LINEAR, _KNEE * np.exp(_LOG * (mels - _KNEE / _LINEAR)))
