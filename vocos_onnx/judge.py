"""One warning in a process where the mels that a caller gives cannot be those that the model was trained with."""

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
_warned = False


class MelJudge:
    """Looks at the frames of one call or one stream until it has seen enough of them.

    Frames whose bands are all alike, as silence and padding are, show nothing and are passed over.
    """

    def __init__(self, mel: MelFeatures) -> None:
        self._mel = mel
        self._kept: list[Float] = []
        self._count, self._next = 0, FEWEST

    def see(self, features: Float) -> None:
        """Features (B, C, t), the next ones."""
        if _warned or self._count >= MOST:
            return
        for item in features:
            for start in range(0, item.shape[1], _STRETCH):
                stretch = item[:, start : start + _STRETCH]
                differ = stretch.max(axis=0) > stretch.min(axis=0) + 1e-6  # without a difference, which may overflow
                telling = stretch[:, differ][:, : MOST - self._count]
                self._kept.append(telling.copy())
                self._count += telling.shape[1]
                if self._count >= MOST:
                    return self._judge()
        if self._count >= self._next:
            self._judge()

    def _judge(self) -> None:
        self._next = 4 * self._count
        fault = mel_fault(np.concatenate(self._kept, axis=1), self._mel)
        if self._count >= MOST:
            self._kept.clear()
        if fault is not None:
            _warn(f"these features cannot be the mels that this model decodes: {fault}")


def _warn(text: str) -> None:
    """One warning in a process, at the line outside of the package that has called it."""
    global _warned
    with _lock:
        if _warned:
            return
        _warned = True
    level, frame = 1, sys._getframe()
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
