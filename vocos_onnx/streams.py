"""The audio of a sequence while its frames come in: what ``decode`` gives, chunk by chunk, and nothing computed twice.

Every convolution keeps the 6 frames that it still needs as its state, so that the network is as late as it sees ahead
(27 frames for the official models); the overlap-add keeps the samples that later frames add to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .arrays import EncodecFrames, Float
from .frames import Reader
from .inverse import Inverse
from .messages import first_line
from .network import Network, State
from .spans import LONGEST

_TWO_THREADS = (
    "two threads use one stream at the same time, or an iterator of push_blocks is not at its end: give each thread a "
    "stream of its own, and iterate to the end"
)


class Decoder:
    """Frames to audio, some at a time: the network step by step, and the overlap-add.

    ``lookahead``: how many later frames must be there for a frame to be emitted, at most the network's reach. Where the
    network sees further ahead than that, the sequence ends there for it.
    """

    def __init__(self, network: Network, inverse: Inverse, bandwidth_id: int | None, lookahead: int):
        self._network, self._bandwidth_id, self._lookahead = network, bandwidth_id, lookahead
        self._state = network.start(1)
        self._overlap_add = inverse.overlap_add()
        self._frames_in = self._frames_out = 0

    def push(self, features: Float) -> Float:
        """Features (1, C, t) of the next frames -> the samples (n,) that are complete with them, n >= 0."""
        reach = self._network.reach  # and so many frames is a spectrum late
        spectrum, self._state = self._step(features, None)
        blocks = [self._emit(spectrum, self._frames_in - reach)]
        self._frames_in += features.shape[2]
        if self._lookahead < reach and self._frames_in > self._lookahead:
            # as if the sequence ended here, and without keeping the state
            spectrum, _ = self._step(self._zeros(reach - self._lookahead), self._frames_in)
            blocks.append(self._emit(spectrum, self._frames_in - reach))
        return np.concatenate(blocks)

    def finish(self) -> Float:
        """The samples (n,) that are left when no frame follows."""
        if not self._frames_in:
            return np.zeros(0, np.float32)
        spectrum, _ = self._step(self._zeros(self._network.reach), self._frames_in)
        block = self._emit(spectrum, self._frames_in - self._network.reach)
        rest: Float = np.concatenate([block, self._overlap_add.finish()[0]])
        return rest

    def _step(self, features: Float, end: int | None) -> tuple[npt.NDArray[Any], State]:
        return self._network.step(features, self._bandwidth_id, self._state, self._frames_in, end)

    def _emit(self, spectrum: npt.NDArray[Any], first: int) -> Float:
        """The audio (n,) of a spectrum (1, t, F) of frames from ``first`` on, without those that are emitted already.

        ``first`` is negative at the start of the sequence, since frames before its first have no meaning.
        """
        new = spectrum[:, max(0, self._frames_out - first) :]
        if not new.shape[1]:
            return np.zeros(0, np.float32)
        self._frames_out += new.shape[1]
        audio: Float = self._overlap_add.push(new)[0]
        return audio

    def _zeros(self, frames: int) -> Float:
        return np.zeros((1, self._network.config.feature_channels, frames), np.float32)


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

    def __init__(
        self,
        reader: Reader,
        network: Network,
        inverse: Inverse,
        bandwidth_id: int | None,
        lookahead: int,
        *,
        check_mels: bool = True,
    ):
        self._reader, self._network, self._inverse = reader, network, inverse
        self._bandwidth_id, self._lookahead, self._check_mels = bandwidth_id, lookahead, check_mels
        self._lock = threading.Lock()
        self._unfinished: weakref.ref[Generator[Float, None, None]] | None = None  # of push_blocks, while it runs
        self._start()

    def _start(self) -> None:
        self._mel_check = self._reader.mel_check(one_sequence=True) if self._check_mels else None
        self._decoder: Decoder | None = None
        self._kind = self._failure = ""
        self._ended = False

    def push(self, tokens_or_features: npt.ArrayLike | EncodecFrames) -> Float:
        """The next chunk.

        Args:
            tokens_or_features: tokens (K, t) or features (C, t), as ``decode`` takes them; of the same kind and, of
                tokens, with the same number of codebooks in every chunk. An empty array (n, 0) of any kind is ignored.

        Returns:
            The audio (samples,) in float32 that is complete with it; nothing at first, while the network has not seen
            as far ahead as it looks.

        Raises:
            ValueError: as ``decode``; a chunk of another kind than those before it; after ``flush``; and, until
                ``reset``, after an error of any kind, since audio after a missing chunk would be shifted in time.
            RuntimeError: another thread is pushing, or an iterator of ``push_blocks`` is not at its end.
        """
        return np.concatenate([np.zeros(0, np.float32), *self.push_blocks(tokens_or_features)])

    def push_blocks(self, tokens_or_features: npt.ArrayLike | EncodecFrames) -> Iterator[Float]:
        """As ``push``, but the audio of a long chunk is emitted some seconds at a time.

        Raises as ``push``, at the call if the chunk is at fault. The iterator must be exhausted before the stream is
        used again: until then every other method but ``reset`` raises RuntimeError. An iterator that is dropped before
        its end, even before its first block, stops the stream, as an error does.
        """
        blocks = self._push_blocks(tokens_or_features)
        next(blocks)  # so that the chunk has its place before those that are pushed later
        self._unfinished = weakref.ref(blocks)
        return blocks

    def _push_blocks(self, chunk: npt.ArrayLike | EncodecFrames) -> Generator[Float, None, None]:
        with self._alone():
            frames = self._reader.read_chunk(chunk, self._bandwidth_id, self._mel_check)
            if frames.length:
                if self._decoder is None:
                    self._decoder = Decoder(self._network, self._inverse, frames.bandwidth_id, self._lookahead)
                    self._kind = frames.kind
                elif frames.kind != self._kind:
                    raise ValueError(
                        f"this chunk is {frames.kind}, and those before it were {self._kind}: decode them in two "
                        "streams"
                    )
            yield np.zeros(0, np.float32)  # the chunk is taken, and nothing else may come before it
            for start in range(0, frames.length, LONGEST):  # so that memory does not grow with the chunk
                assert self._decoder is not None
                yield self._decoder.push(frames.features(start, min(start + LONGEST, frames.length)))

    def flush(self) -> Float:
        """The end of the sequence: the rest of the audio (samples,). Raises as ``push``. Only ``reset`` may follow."""
        with self._alone():
            audio = np.zeros(0, np.float32) if self._decoder is None else self._decoder.finish()
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
