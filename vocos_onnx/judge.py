"""Warnings that are given once in a process, as of mels that cannot be those that the model was trained with."""

from __future__ import annotations

import sys
import threading
import warnings

import numpy as np

from .config import MelFeatures
from .istft import Float
from .mel import mel_fault

FEWEST, MOST = 50, 800  # frames: before so many nothing is said, and after so many no more is looked at
_STRETCH = 1024
_lock = threading.Lock()
_warned: set[str] = set()


class MelJudge:
    """Looks at the frames of one call or one stream until it has seen enough of them.

    Frames whose bands are all alike, as silence and padding are, show nothing and are passed over. Items of a batch or
    a list are judged each on its own, and those that are too short for that together; the chunks of one sequence, as a
    stream has them, are judged together.
    """

    def __init__(self, mel: MelFeatures, one_sequence: bool) -> None:
        self._mel, self._one_sequence = mel, one_sequence
        self._kept: list[Float] = []
        self._count, self._next = 0, FEWEST

    def see(self, features: Float) -> None:
        """Features (B, C, t), the next ones."""
        for item in features:
            if "mels" in _warned:
                return
            if self._one_sequence and self._count >= MOST:
                return
            stretches = self._telling(item, MOST - (self._count if self._one_sequence else 0))
            count = sum(stretch.shape[1] for stretch in stretches)
            if not count and item.size and item.min() > _HIGHEST:
                warn_once(
                    "mels",
                    f"{_CANNOT}all values of {item.shape[1]} frames are {item.min():.3g} and more, expected natural "
                    "logarithms of magnitudes",
                )
            elif not self._one_sequence and count >= FEWEST:
                self._judge(stretches)
            elif self._count < MOST:
                self._kept += stretches
                self._count += count
                if self._count >= min(self._next, MOST):
                    self._next = 4 * self._count
                    self._judge(self._kept)
        if self._count >= MOST:
            self._kept.clear()

    @staticmethod
    def _telling(item: Float, most: int) -> list[Float]:
        """Up to so many frames of (C, t) whose bands are not all alike."""
        kept: list[Float] = []
        for start in range(0, item.shape[1], _STRETCH):
            stretch = item[:, start : start + _STRETCH]
            differ = stretch.max(axis=0) > stretch.min(axis=0) + 1e-6  # without a difference, which may overflow
            kept.append(stretch[:, differ][:, :most].copy())
            most -= kept[-1].shape[1]
            if most <= 0:
                break
        return kept

    def _judge(self, stretches: list[Float]) -> None:
        fault = mel_fault(np.concatenate(stretches, axis=1), self._mel)
        if fault is not None:
            warn_once("mels", _CANNOT + fault)


_CANNOT = "these features cannot be the mels that this model decodes: "
_HIGHEST = 20.0  # of no audio the logarithm of any magnitude is as high, and 0 is what batches are filled up with


def warn_once(kind: str, text: str) -> None:
    """One warning of a kind in a process, at the line outside of the package that has called it."""
    if not first(kind):
        return
    level, frame = 1, sys._getframe()
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def first(kind: str) -> bool:
    """Whether it is the first time in this process that this is asked for the kind."""
    with _lock:
        new = kind not in _warned
        _warned.add(kind)
    return new
