"""The same result as decoding in one piece, chunk by chunk, and nothing computed twice.

Every convolution carries the 6 frames that it still needs, so that the network is as late as it sees ahead (27 frames
for the official models); the overlap-add carries the samples that later frames add to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from .backbone import Backbone, State
from .config import ModelConfig
from .istft import Float, check_finite, imdct_frames, istft_frames, overlap_add, trim_of

BLOCK = 1500  # frames that go through the network at once, 20 s at 75 frames/s: memory does not grow beyond


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


class Decoder:
    """Features -> waveform of a batch, a stretch of frames at a time: the network and the overlap-add.

    ``lookahead``: a frame comes out when so many later ones are there. Where the network sees further ahead, the
    sequence ends there for it.
    """

    def __init__(self, backbone: Backbone, bandwidth_id: int | None, batch: int, lookahead: int | None = None):
        self._backbone, self._bandwidth_id = backbone, bandwidth_id
        self._missing = 0 if lookahead is None else backbone.delay - lookahead
        self._state = backbone.start(batch)
        self._overlap = OverlapAdd(backbone.config, batch)
        self._batch = batch
        self._taken = self._given = 0  # frames

    def push(self, features: Float) -> Float:
        """Features (B, C, t) -> audio (B, n), n >= 0."""
        spectrum, self._state = self._step(features, None)
        audio = [self._out(spectrum, self._taken - self._backbone.delay)]
        self._taken += features.shape[2]
        if self._missing and self._taken > self._backbone.delay - self._missing:
            spectrum, _ = self._step(self._zeros(self._missing), self._taken)
            audio.append(self._out(spectrum, self._taken - self._backbone.delay))
        return np.concatenate(audio, axis=1)

    def finish(self) -> Float:
        """The rest (B, n)."""
        if not self._taken:
            return np.zeros((self._batch, 0), np.float32)
        spectrum, _ = self._step(self._zeros(self._backbone.delay), self._taken)
        audio = self._out(spectrum, self._taken - self._backbone.delay)
        return np.concatenate([audio, self._overlap.finish()], axis=1)

    def _step(self, features: Float, end: int | None) -> tuple[npt.NDArray[Any], State]:
        return self._backbone.step(features, self._bandwidth_id, self._state, self._taken, end)

    def _out(self, spectrum: npt.NDArray[Any], first: int) -> Float:
        """Audio of the spectrum of frames from ``first`` on, but for those that came out before."""
        new = spectrum[:, max(0, self._given - first) :]
        if not new.shape[1]:
            return np.zeros((self._batch, 0), np.float32)
        self._given += new.shape[1]
        return self._overlap.push(new)

    def _zeros(self, frames: int) -> Float:
        return np.zeros((self._batch, self._backbone.config.feature_channels, frames), np.float32)


class Stream:
    """Audio while its tokens or features come in. Made by ``VocosONNX.stream``; for one thread at a time.

    What all ``push`` and the ``flush`` at the end return, one after the other, is what ``decode`` gives for all chunks
    in one piece, within rounding, however they are cut.
    """

    def __init__(
        self,
        read: Callable[[npt.ArrayLike], tuple[Callable[[int, int], Float], int, int | None, str]],
        decoder: Callable[[int | None], Decoder],
    ):
        self._read, self._make = read, decoder
        self._decoder: Decoder | None = None
        self._kind = ""
        self._ended = self._unfinished = False
        self._lock = threading.Lock()

    def push(self, tokens_or_features: npt.ArrayLike) -> Float:
        """The next chunk.

        Args:
            tokens_or_features: tokens (K, t) or features (C, t), t >= 1, as ``decode`` takes them; of the same kind
                and, of tokens, with the same number of codebooks in every chunk.

        Returns:
            The audio (samples,) in float32 that is complete with it; nothing at first, while the network has not seen
            as far ahead as it looks.

        Raises:
            ValueError: as ``decode``; a chunk of another kind than those before it, or after ``flush``, or after one
                that was not decoded to its end.
            RuntimeError: another thread is pushing.
        """
        return np.concatenate(list(self.push_blocks(tokens_or_features)))

    def push_blocks(self, tokens_or_features: npt.ArrayLike) -> Iterator[Float]:
        """As ``push``, but the audio of a long chunk comes some seconds at a time."""
        with self._alone():
            features_of, frames, bandwidth_id, kind = self._read(tokens_or_features)
            if self._decoder is None:
                self._decoder, self._kind = self._make(bandwidth_id), kind
            elif kind != self._kind:
                raise ValueError(f"this chunk is {kind}, and those before it were {self._kind}; make another stream")
            self._unfinished = True  # and stays so where the loop is left, by an error or by the caller
            for audio in push_in_blocks(self._decoder, features_of, frames):
                yield audio[0]
            self._unfinished = False

    def flush(self) -> Float:
        """The end of the sequence: the rest of the audio (samples,). Nothing can be pushed then. Raises as ``push``."""
        with self._alone():
            self._ended = True
            return np.zeros(0, np.float32) if self._decoder is None else self._decoder.finish()[0]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("two threads use one stream at the same time; give each its own")
        try:
            if self._ended:
                raise ValueError("the stream has ended with flush; make another one")
            if self._unfinished:
                raise ValueError(
                    "a chunk was not decoded to its end (there was an error, or push_blocks was given up), and what "
                    "follows would come at another time; make another stream"
                )
            yield
        finally:
            self._lock.release()


def push_in_blocks(decoder: Decoder, features_of: Callable[[int, int], Float], frames: int) -> Iterator[Float]:
    """Audio (B, n) as ``frames`` frames go in, a block at a time; ``features_of`` gives those from one to another."""
    for start in range(0, frames, BLOCK):
        yield decoder.push(features_of(start, min(start + BLOCK, frames)))


def decode_in_blocks(decoder: Decoder, features_of: Callable[[int, int], Float], frames: int) -> Iterator[Float]:
    """The same, and the rest at the end."""
    yield from push_in_blocks(decoder, features_of, frames)
    yield decoder.finish()
