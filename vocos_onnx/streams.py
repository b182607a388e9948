"""The same result as decoding in one piece, chunk by chunk, and nothing computed twice.

Every convolution carries the 6 frames that it still needs, so that the network is as late as it sees ahead (27 frames
for the official models); the overlap-add carries the samples that later frames add to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .arrays import Float, Frames
from .inverse import OverlapAdd
from .messages import first_line
from .network import Backbone, State

BLOCK = 1500  # frames that go through the network at once, 20 s at 75 frames/s: memory does not grow beyond

# a chunk -> what gives its features from one frame to another, its frames, the bandwidth id, what it is in words
Read = Callable[[npt.ArrayLike | Frames], tuple[Callable[[int, int], Float], int, int | None, str]]
_TWO_THREADS = (
    "two threads use one stream at the same time, or an iterator of push_blocks is not at its end: give each thread a "
    "stream of its own, and iterate to the end"
)


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
    in one piece, within rounding, however they are cut. After ``flush``, and after any error, ``reset`` makes the
    stream a new one. A stream cannot be pickled or copied.

    Example:
        >>> stream = vocos.stream()
        >>> for chunk in chunks:
        ...     play(stream.push(chunk))
        >>> play(stream.flush())
        >>> stream.reset()  # and the next sequence
    """

    def __init__(self, read: Callable[[], Read], decoder: Callable[[int | None], Decoder]):
        self._start_reading, self._make = read, decoder
        self._lock = threading.Lock()
        self._unfinished: weakref.ref[Generator[Float, None, None]] | None = (
            None  # what push_blocks gave, while it runs
        )
        self._start()

    def _start(self) -> None:
        self._read = self._start_reading()
        self._decoder: Decoder | None = None
        self._kind = self._failure = ""
        self._ended = False

    def push(self, tokens_or_features: npt.ArrayLike | Frames) -> Float:
        """The next chunk.

        Args:
            tokens_or_features: tokens (K, t) or features (C, t), as ``decode`` takes them; of the same kind and, of
                tokens, with the same number of codebooks in every chunk. An empty one, t = 0, gives no audio.

        Returns:
            The audio (samples,) in float32 that is complete with it; nothing at first, while the network has not seen
            as far ahead as it looks.

        Raises:
            ValueError: as ``decode``; a chunk of another kind than those before it; after ``flush``; and, until
                ``reset``, after an error of any kind, since audio after a missing chunk would be shifted in time.
            RuntimeError: another thread is pushing, or an iterator of ``push_blocks`` is not at its end.
        """
        return np.concatenate(list(self._push_blocks(tokens_or_features, [None])))

    def push_blocks(self, tokens_or_features: npt.ArrayLike | Frames) -> Iterator[Float]:
        """As ``push``, but the audio of a long chunk is emitted some seconds at a time.

        Raises as ``push``, at once for a chunk that is refused. The iterator is to be exhausted before anything else is
        done with the stream: until then that raises RuntimeError. If it is dropped before its end, never begun too, the
        stream refuses what follows.
        """
        own: list[weakref.ref[Generator[Float, None, None]] | None] = []
        blocks = self._push_blocks(tokens_or_features, own)
        own.append(weakref.ref(blocks))
        next(blocks)  # so that the chunk has its place before those that are pushed later
        return blocks

    def _push_blocks(
        self, chunk: npt.ArrayLike | Frames, own: list[weakref.ref[Generator[Float, None, None]] | None]
    ) -> Generator[Float, None, None]:
        with self._alone():
            self._unfinished = own[0]
            features_of, frames, bandwidth_id, kind = self._read(chunk)
            if not frames:
                yield np.zeros(0, np.float32)
                return
            if self._decoder is None:
                self._decoder, self._kind = self._make(bandwidth_id), kind
            elif kind != self._kind:
                raise ValueError(
                    f"this chunk is {kind}, and those before it were {self._kind}: decode them in two streams"
                )
            yield np.zeros(0, np.float32)  # the chunk is taken, and nothing else may come before it
            for audio in push_in_blocks(self._decoder, features_of, frames):
                yield audio[0]

    def flush(self) -> Float:
        """The end of the sequence: the rest of the audio (samples,). Raises as ``push``. Only ``reset`` may follow."""
        with self._alone():
            audio = np.zeros(0, np.float32) if self._decoder is None else self._decoder.finish()[0]
            self._ended = True
            return audio

    def reset(self) -> None:
        """Begin anew, with the same settings, as a new stream would: after ``flush``, after an error, or at any time.

        What was pushed and has not been emitted is dropped. An iterator of ``push_blocks`` that was not exhausted ends.

        Raises RuntimeError where another thread is pushing.
        """
        unfinished = None if self._unfinished is None else self._unfinished()
        if unfinished is not None:
            try:
                unfinished.close()
            except ValueError:  # of a generator that is running
                raise RuntimeError(_TWO_THREADS) from None
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(_TWO_THREADS)
        try:
            self._start()
        finally:
            self._lock.release()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(_TWO_THREADS)
        try:
            if self._ended:
                raise ValueError("the stream has ended with flush: call reset() for another sequence")
            if self._failure:
                raise ValueError(
                    f"the stream has stopped at an earlier error ({self._failure}), and audio after it would be "
                    "shifted in time: call reset(), and begin the sequence anew"
                )
            try:
                yield
            except GeneratorExit:
                self._failure = "a chunk was not decoded to its end: push_blocks was given up"
                raise
            except BaseException as error:
                self._failure = f"{type(error).__name__}: {first_line(error)}"
                raise
        finally:
            self._unfinished = None
            self._lock.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Stream cannot be pickled or copied: it is in the middle of a sequence; make one with VocosONNX.stream "
            "where it is needed, the VocosONNX itself can be pickled"
        )


def push_in_blocks(decoder: Decoder, features_of: Callable[[int, int], Float], frames: int) -> Iterator[Float]:
    """Audio (B, n) as ``frames`` frames go in, a block at a time; ``features_of`` gives those from one to another."""
    for start in range(0, frames, BLOCK):
        yield decoder.push(features_of(start, min(start + BLOCK, frames)))


def decode_in_blocks(decoder: Decoder, features_of: Callable[[int, int], Float], frames: int) -> Iterator[Float]:
    """The same, and the rest at the end."""
    yield from push_in_blocks(decoder, features_of, frames)
    yield decoder.finish()
