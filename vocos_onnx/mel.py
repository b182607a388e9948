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


def mel_fault(features: npt.NDArray[np.floating[Any]], mel: MelFeatures) -> str | None:
    """Why features (C, T) cannot be log-mels of these settings, with the remedy; None where they can be."""
    loudest = float(features.max())
    if loudest > 20 or float(features.min()) < math.log(mel.clip) - 20:
        return "they look like decibels: divide them by 20 / ln(10), which is 8.686"
    return None


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
