"""Audio that arrives in blocks, and the window of it that is in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vocos_onnx.arrays import Float


class AudioWindow:
    """Audio (B, N) that arrives in blocks (B, n), read as far as it is needed.

    Each ``cut`` may start anywhere at or after the start of the previous one: earlier samples are dropped, so that
    memory does not grow with the length.
    """

    def __init__(self, blocks: Iterable[Float]):
        self._blocks = iter(blocks)
        self._audio = np.zeros((1, 0), np.float32)  # from sample ``_start`` on
        self._start = 0

    @property
    def batch(self) -> int:
        """The number of recordings; known once there are samples."""
        return len(self._audio)

    def read_until(self, samples: int) -> int:
        """Reads until there are that many samples, or to the end. Returns how many there are, fewer only at the end."""
        parts = [self._audio] if self._audio.size else []
        there = self._start + self._audio.shape[1]
        while there < samples and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            there += block.shape[1]
        if len(parts) > 1 or (parts and not self._audio.size):
            self._audio = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return there

    def cut(self, start: int, stop: int) -> Float:
        """The samples (B, stop - start), fewer at the end of the audio; drops those before ``start``."""
        assert start >= self._start
        self._audio = self._audio[:, start - self._start :]
        self._start = start
        return self._audio[:, : stop - start]
