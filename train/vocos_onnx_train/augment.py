"""Augments clean speech with what a vocoder meets in practice: quiet and narrow-band audio, tones, noise, rooms, ...

Everything here works on crops (B, N) float32 and takes its random numbers from a numpy generator. Filters act on the
spectrum of the whole crop and are circular: the caller discards the ends of a crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Double = npt.NDArray[np.float64]

LOWEST_DB = -60.0  # peak of the quietest crops, dBFS
LOW_PASS_HZ = (3400.0, 11000.0)
MIXTURE_DB, NOISE_DB = (0.0, 20.0), (5.0, 40.0)  # added sounds are this much softer than the crop
REVERB_SECONDS, REVERB_DB = (0.1, 0.7), (-20.0, 0.0)  # decay to -60 dB; energy of the tail relative to the direct sound
TONE_HZ, VOICE_HZ = (50.0, 9000.0), (70.0, 700.0)


@dataclass(frozen=True)
class Augment:
    """Shares of the crops, 0 to 1 each, to augment in each way; a crop may be augmented in several ways.

    low_pass: removes everything above a frequency of 3.4 to 11 kHz.
    quiet: sets the peak to a random level from -60 dBFS to the lower end of gain_db.
    synthetic: replaces the crop by tones, chords, sweeps, clicks or harmonic stacks with vibrato.
    mixture: adds a second crop, 0 to 20 dB softer.
    noise: adds coloured noise, 5 to 40 dB softer.
    reverb: adds the reverberation of a room, 0.1 to 0.7 s.
    """

    low_pass: float = 0.0
    quiet: float = 0.0
    synthetic: float = 0.0
    mixture: float = 0.0
    noise: float = 0.0
    reverb: float = 0.0


def drawn(rng: np.random.Generator, share: float, size: int) -> npt.NDArray[np.int64]:
    """Indices of the crops drawn from a batch, each with the probability ``share``."""
    return np.flatnonzero(rng.random(size) < share)


def changed(
    crops: Tensor, rate: int, augment: Augment, rng: np.random.Generator, others: Callable[[int], Tensor]
) -> Tensor:
    """Crops (B, N), augmented as in ``augment`` except for ``quiet``; ``others(n)`` returns n further crops."""
    crops = crops.clone()
    size, samples = crops.shape
    changes: tuple[tuple[float, Callable[[Tensor, int], Tensor]], ...] = (
        (augment.mixture, lambda x, n: mixed(x, others(n), rng.uniform(*MIXTURE_DB, n))),
        (augment.reverb, lambda x, n: reverberant(x, rate, rng)),
        (augment.noise, lambda x, n: mixed(x, coloured_noise(n, samples, rng), rng.uniform(*NOISE_DB, n))),
        (augment.synthetic, lambda x, n: torch.stack([synthetic(samples, rate, rng) for _ in range(n)])),
        (augment.low_pass, lambda x, n: low_pass(x, _log_uniform(rng, *LOW_PASS_HZ, n) / rate)),
    )
    for share, change in changes:
        rows = drawn(rng, share, size)
        if len(rows):
            index = torch.from_numpy(rows)
            crops[index] = change(crops[index].cpu(), len(rows)).to(crops.device)
    return crops / crops.abs().amax(1, keepdim=True).clamp(min=1)


def low_pass(crops: Tensor, cutoff: Double) -> Tensor:
    """Crops (B, N), low-pass filtered at ``cutoff`` (B,), in cycles per sample; the edge is a tenth of that wide."""
    frequency = torch.fft.rfftfreq(crops.shape[1])
    edge = torch.from_numpy(cutoff.astype(np.float32))[:, None]
    gain = ((1.05 - frequency / edge) * 10).clamp(0, 1)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(crops) * gain, crops.shape[1])
    return filtered


def mixed(crops: Tensor, others: Tensor, below_db: Double) -> Tensor:
    """Crops (B, N) with others added, whose rms is ``below_db`` (B,) below theirs."""
    ratio = _rms(crops) / (_rms(others) + 1e-9)
    return crops + others * ratio * torch.from_numpy(10 ** (-below_db / 20)).float()[:, None]


def coloured_noise(size: int, samples: int, rng: np.random.Generator) -> Tensor:
    """Noise (size, samples) whose power falls by 0 to 6 dB per octave, at a random slope for each row."""
    white = np.fft.rfft(rng.standard_normal((size, samples)))
    slope = rng.uniform(0, 1, (size, 1))
    return torch.from_numpy(np.fft.irfft(white / np.arange(1, white.shape[1] + 1) ** slope, samples)).float()


def reverberant(crops: Tensor, rate: int, rng: np.random.Generator) -> Tensor:
    """Crops (B, N) with reverberation: decaying noise as an impulse response."""
    size, samples = crops.shape
    seconds = rng.uniform(*REVERB_SECONDS, (size, 1))
    tail = rng.standard_normal((size, samples)) * 10 ** (-3 * np.arange(samples) / rate / seconds)
    tail[:, : rate // 500] = 0  # the first reflection arrives after 2 ms
    level = 10 ** (rng.uniform(*REVERB_DB, (size, 1)) / 20)
    tail *= level / np.sqrt((tail**2).sum(1, keepdims=True))
    tail[:, 0] = 1
    wet: Tensor = torch.fft.irfft(torch.fft.rfft(crops) * torch.fft.rfft(torch.from_numpy(tail).float()), samples)
    return wet


def synthetic(samples: int, rate: int, rng: np.random.Generator) -> Tensor:
    """A synthetic sound (samples,) with a peak of 0.7."""
    kinds = (_tones, _sweep, _clicks, _harmonics)
    sound = kinds[rng.integers(len(kinds))](samples, rate, rng)
    sound *= 0.7 / (np.abs(sound).max() + 1e-9)
    return torch.from_numpy(sound.astype(np.float32))


def _tones(samples: int, rate: int, rng: np.random.Generator) -> Double:
    """One to four steady tones."""
    time = np.arange(samples) / rate
    sound = np.zeros(samples)
    for _ in range(rng.integers(1, 5)):
        frequency = _log_uniform(rng, *TONE_HZ)
        sound += rng.uniform(0.1, 1) * np.sin(2 * np.pi * (frequency * time + rng.random()))
    return sound


def _sweep(samples: int, rate: int, rng: np.random.Generator) -> Double:
    """A logarithmic sweep between two frequencies."""
    first, last = _log_uniform(rng, *TONE_HZ), _log_uniform(rng, *TONE_HZ)
    frequency = first * (last / first) ** np.linspace(0, 1, samples)
    return np.sin(2 * np.pi * np.cumsum(frequency) / rate)


def _clicks(samples: int, rate: int, rng: np.random.Generator) -> Double:
    """Clicks at random times, 2 to 60 per second, each 1 to 20 samples long."""
    sound = np.zeros(samples)
    for start in rng.integers(0, samples, max(1, rng.poisson(rng.uniform(2, 60) * samples / rate))):
        sound[start : start + rng.integers(1, 21)] += rng.uniform(-1, 1)
    return sound


def _harmonics(samples: int, rate: int, rng: np.random.Generator) -> Double:
    """Up to 60 harmonics, below half the sample rate, of a gliding fundamental with vibrato; higher ones are softer."""
    time = np.arange(samples) / rate
    fundamental = _log_uniform(rng, *VOICE_HZ)
    vibrato = rng.uniform(0, 0.03) * np.sin(2 * np.pi * (rng.uniform(4, 7) * time + rng.random()))
    glide = rng.uniform(-0.3, 0.3) * np.linspace(0, 1, samples)
    frequency = fundamental * np.exp(vibrato + glide)
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    slope = rng.uniform(0.3, 1.5)
    count = max(1, int(min(0.48 * rate / frequency.max(), 60)))
    return sum((np.sin(k * phase + rng.uniform(0, 7)) / k**slope for k in range(1, count + 1)), np.zeros(samples))


def _log_uniform(rng: np.random.Generator, low: float, high: float, size: int | None = None) -> Double:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), size)))


def _rms(crops: Tensor) -> Tensor:
    return crops.square().mean(1, keepdim=True).sqrt()
