"""Mels of other systems: whether features can be the mels that a model decodes, and what to do if they cannot."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .dsp.mel import MelFeatures, filterbank
from .once import has_warned, warn_once

_FEWEST, _MOST = 50, 800  # frames: fewer are not check_mels, and after so many no more is looked at
_BLOCK = 1024  # frames looked at in one step


class MelCheck:
    """Looks at the frames of one call or one stream until it has seen enough of them.

    Frames whose bands are all alike, as silence and padding are, show nothing and are passed over. Items of a batch or
    a list are each judged alone, and those that are too short for that together; the chunks of one sequence, as of a
    stream, are judged together.
    """

    def __init__(self, mel: MelFeatures, one_sequence: bool) -> None:
        self._mel, self._one_sequence = mel, one_sequence
        self._kept: list[Float] = []
        self._count, self._next = 0, _FEWEST

    def add(self, features: Float) -> None:
        """Features (B, C, t), the next ones."""
        for item in features:
            if has_warned("mels"):
                return
            if self._one_sequence and self._count >= _MOST:
                return
            blocks = self._telling(item, _MOST - (self._count if self._one_sequence else 0))
            count = sum(block.shape[1] for block in blocks)
            if not count and item.size and item.min() > _HIGHEST:
                warn_once(
                    "mels",
                    f"{_CANNOT}all values of {item.shape[1]} frames are {item.min():.3g} and more, expected natural "
                    "logarithms of magnitudes",
                )
            elif not self._one_sequence and count >= _FEWEST:
                self._check(blocks)
            elif self._count < _MOST:
                self._kept += blocks
                self._count += count
                if self._count >= min(self._next, _MOST):
                    self._next = 4 * self._count
                    self._check(self._kept)
        if self._count >= _MOST:
            self._kept.clear()

    @staticmethod
    def _telling(item: Float, most: int) -> list[Float]:
        """Up to so many frames of (C, t) whose bands are not all alike."""
        kept: list[Float] = []
        for start in range(0, item.shape[1], _BLOCK):
            block = item[:, start : start + _BLOCK]
            differ = block.max(axis=0) > block.min(axis=0) + 1e-6  # without a difference, which may overflow
            kept.append(block[:, differ][:, :most].copy())
            most -= kept[-1].shape[1]
            if most <= 0:
                break
        return kept

    def _check(self, blocks: list[Float]) -> None:
        fault = mel_fault(np.concatenate(blocks, axis=1), self._mel)
        if fault is not None:
            warn_once("mels", _CANNOT + fault)


_CANNOT = "these features cannot be the mels that this model decodes: "
_HIGHEST = 20.0  # of no audio the logarithm of any magnitude is as high, and 0 is what batches are filled up with


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

_JUDGED = 4000  # frames at most

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
