"""Spectra to audio."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .dsp.stft import check_finite, imdct_frames, istft_frames, overlap_add, trim_of
from .model.config import ModelConfig


class OverlapAdd:
    """Spectrum -> waveform, a stretch of frames at a time: in all what ``istft`` or ``imdct`` gives."""

    def __init__(self, config: ModelConfig, batch: int):
        self._config = config
        n_fft, hop = config.n_fft, config.hop_length
        self._trim = trim_of(n_fft, hop, config.padding)
        # held back: what later frames add to, and what the end of the sequence may cut off
        self._held = max(n_fft - hop, self._trim)
        # where in it the next frame begins; before the first frame, what is before that is not of the sequence
        self._next = self._held - (n_fft - hop)
        self._skip = self._trim + self._next
        self._audio = np.zeros((batch, self._held), np.float32)
        self._weight = np.zeros((1, self._held), np.float32)

    def push(self, spectrum: npt.NDArray[Any]) -> Float:
        """Spectrum (B, T, F) of the next frames -> the samples (B, n) that are complete."""
        frames, window = self._frames(spectrum)
        check_finite(frames, spectrum)
        audio = self._add(self._audio, frames)
        done = audio.shape[1] - self._held
        self._audio = audio[:, done:].copy()
        weight = self._weight
        if window is not None:
            weight = self._add(self._weight, np.broadcast_to(window, (1, *frames.shape[1:])))
            self._weight = weight[:, done:].copy()
        return self._finished(audio[:, :done], weight)

    def finish(self) -> Float:
        """The samples (B, n) that are left when there is no more frame."""
        return self._finished(self._audio[:, : self._held - self._trim], self._weight)

    def _add(self, held: Float, frames: npt.NDArray[np.float32]) -> Float:
        added = overlap_add(frames, self._config.hop_length, 0)
        audio = np.zeros((len(added), self._next + added.shape[1]), np.float32)
        audio[:, self._next :] = added
        audio[:, : self._held] += held
        return audio

    def _frames(self, spectrum: npt.NDArray[Any]) -> tuple[Float, Float | None]:
        if self._config.head == "istft":
            return istft_frames(spectrum, self._config.n_fft)
        return imdct_frames(spectrum), None

    def _finished(self, audio: Float, weight: Float) -> Float:
        start = min(self._skip, audio.shape[1])
        self._skip -= start
        stop = audio.shape[1]
        audio = audio[:, start:]
        if self._config.head == "istft":
            return audio / weight[:, start:stop]
        return audio.clip(-1, 1) if self._config.clip_audio else audio
