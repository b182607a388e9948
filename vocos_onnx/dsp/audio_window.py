"""Audio that comes in blocks, and the window of it that is in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vocos_onnx.arrays import Float


class AudioWindow:
    """Audio (B, N) that comes in blocks (B, n), read as far as it is needed.

    ``cut`` gives samples from any place on, which may not lie before that of the cut before: what lies before it is let
    go, so that memory does not grow with the length.
    """

    def __init__(self, blocks: Iterable[Float]):
        self._blocks = iter(blocks)
        self._audio = np.zeros((1, 0), np.float32)  # from sample ``_start`` on
        self._start = 0

    @property
    def batch(self) -> int:
        """How many recordings; known once there are samples."""
        return len(self._audio)

    def read_until(self, samples: int) -> int:
        """Read until there are so many samples, or the end. Returns how many there are: fewer only at the end."""
        parts = [self._audio] if self._audio.size else []
        there = self._start + self._audio.shape[1]
        while there < samples and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            there += block.shape[1]
        if len(parts) > 1 or (parts and not self._audio.size):
            self._audio = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return there

    def cut(self, start: int, stop: int) -> Float:
        """The samples (B, stop - start) from one to another, as far as they are there; those before them are let go."""
        assert start >= self._start
        self._audio = self._audio[:, start - self._start :]
        self._start = start
        return self._audio[:, : stop - start]
