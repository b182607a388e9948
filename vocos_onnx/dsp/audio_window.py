"""Audio that comes in blocks, and the window of it that is being worked on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vocos_onnx.arrays import Float


class AudioWindow:
    """Audio (B, N) that comes in blocks (B, n): stretches of it, each beginning where the one before did or later."""

    def __init__(self, blocks: Iterable[Float]):
        self._blocks = iter(blocks)
        self._held = np.zeros((1, 0), np.float32)
        self._first = 0  # of the samples that are held

    def reach(self, samples: int) -> int:
        """Read until there are so many samples, or the end. Returns how many there are: fewer only at the end."""
        parts = [self._held] if self._held.size else []
        there = self._first + self._held.shape[1]
        while there < samples and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            there += block.shape[1]
        if len(parts) > 1 or (parts and not self._held.size):
            self._held = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return there

    def cut(self, start: int, stop: int) -> Float:
        """The samples (B, stop - start) from one to another, as far as they are there, and let go those before."""
        assert start >= self._first
        self._held = self._held[:, start - self._first :]
        self._first = start
        return self._held[:, : stop - start]
