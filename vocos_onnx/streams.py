"""The audio of a sequence while its frames arrive: the output of ``decode``, chunk by chunk, computing nothing twice.

Every convolution keeps the 6 frames that it still needs as its state, so the network's output lags by as many frames as
it sees ahead (27 for the official models); the overlap-add keeps the samples that later frames add to.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from .arrays import EncodecFrames, Float
from .background import checkpoint, in_background
from .frames import Frames, Reader
from .inverse import START, Inverse, Tail
from .limits import read_integer
from .mels import MelConvention, MelsFrom
from .messages import first_line
from .network import Network, State
from .spans import LONGEST
from .workers import begin

_NOT_AT_ITS_END = "an iterator of {} is not at its end: iterate to its end before anything else, or "
_TWO_TASKS = (
    "two tasks use one stream at the same time: await one push before the next, or give each task a stream of its own"
)
_IN_USE = {  # by the method that has not ended
    "push_blocks": _NOT_AT_ITS_END.format("push_blocks") + "call reset()",
    "apush_blocks": _NOT_AT_ITS_END.format("apush_blocks") + "await its aclose(), and call reset()",
    "apush": _TWO_TASKS,
    "aflush": _TWO_TASKS,
}
_TWO_THREADS = "two threads use one stream at the same time: give each a stream of its own"
_GIVEN_UP = "a chunk was not decoded to its end: {} was given up"
_SMALL = 1 << 16  # values in a chunk that is quick enough to check on the event loop


class Kept(NamedTuple):
    """What a sequence keeps from one step to the next: the network's state and the tail of the audio."""

    state: State
    tail: Tail


class Request(NamedTuple):
    """What a sequence asks of the network in one step.

    It is ``Network.step`` for one sequence of t frames, followed by the inverse transform and the overlap-add. The
    outcome is the audio, in parts (n,), of all frames of the spectrum but the first ``skip``, and what to keep.
    """

    frames: Frames
    bandwidth_id: int | None
    kept: Kept
    first: int
    end: int | None
    skip: int


Outcome = tuple[Sequence[Float], Kept]
Steps = Generator[Request, Outcome, Float]  # requests one step after another, and returns the audio (n,) of all


class Place(Protocol):
    """Where the network runs for a stream: for that stream alone, or together with others in a pool."""

    def take(self) -> None:
        """Called before the first step of a sequence. Raises RuntimeError if there is no room."""

    def check(self) -> None:
        """Raises RuntimeError if no further step is possible, whatever the stream does."""

    def step(self, request: Request) -> Outcome:
        """Raises FloatingPointError if the audio is not finite."""

    async def astep(self, request: Request) -> Outcome:
        """The same, without blocking the event loop."""

    def free(self) -> None:
        """Called after the last step of a sequence, even if it failed; possibly more than once."""


class Alone:
    """The place of a stream that runs the network by itself."""

    def __init__(self, network: Network, inverse: Inverse):
        self._network, self._inverse = network, inverse

    def take(self) -> None:
        pass

    def check(self) -> None:
        pass

    def step(self, request: Request) -> Outcome:
        frames, bandwidth_id, kept, first, end, skip = request
        features = frames.features(0, frames.length)
        spectrum, state = self._network.step(features, bandwidth_id, kept.state, [first], [end])
        audio, tail = self._inverse.go_on(spectrum[0], kept.tail, skip, first - self._network.reach)
        return [audio], Kept(state, tail)

    async def astep(self, request: Request) -> Outcome:
        return await in_background(partial(self.step, request), begin)

    def free(self) -> None:
        pass


class Decoder:
    """Frames to audio, some at a time: determines which steps the network makes, and overlap-adds.

    ``lookahead``: how many later frames must have arrived before a frame is emitted, at most the network's reach. If
    the network sees further ahead than that, it is run as if the sequence ended there.
    """

    def __init__(self, network: Network, inverse: Inverse, bandwidth_id: int | None, lookahead: int):
        self._reach, self._channels = network.reach, network.config.feature_channels
        self._bandwidth_id, self._lookahead = bandwidth_id, lookahead
        self._inverse, self._kept = inverse, Kept(network.start(1), START)
        self._frames_in = self._frames_out = self._samples_out = 0
        self._missing = network.missing

    def push(self, frames: Frames) -> Steps:
        """The next frames -> the samples (n,) that they complete, n >= 0."""
        audio = yield from self._step(frames, None)
        self._frames_in += frames.length
        if self._lookahead < self._reach and self._frames_in > self._lookahead:
            # as if the sequence ended here, and without keeping the state
            peeked = yield from self._step(self._zeros(self._reach - self._lookahead), self._frames_in)
            audio = np.concatenate([audio, peeked])
        self._samples_out += len(audio)
        return audio

    def finish(self) -> Steps:
        """The samples (n,) that are left when no frame follows."""
        if not self._frames_in:
            return np.zeros(0, np.float32)
        if missing := self._missing(self._frames_in):
            wanted = self._inverse.config.samples(self._frames_in) - self._samples_out
            pushed = yield from self.push(self._zeros(missing))
            finished = yield from self.finish()
            return np.concatenate([pushed, finished])[:wanted]
        audio = yield from self._step(self._zeros(self._reach), self._frames_in)
        rest: Float = np.concatenate([audio, self._inverse.overlap_add(self._kept.tail).finish()[0]])
        return rest

    def _step(self, given: Frames, end: int | None) -> Steps:
        """The audio (n,) of the frames that those given complete and that have not been emitted yet.

        The spectrum lags by ``reach`` frames, so it starts with meaningless frames from before the first.
        """
        first, frames = self._frames_in - self._reach, given.length
        skip = min(frames, max(0, self._frames_out - first))
        audio, kept = yield Request(given, self._bandwidth_id, self._kept, self._frames_in, end, skip)
        self._kept = kept if end is None else Kept(self._kept.state, kept.tail)
        self._frames_out += frames - skip
        return _joined(audio)

    def _zeros(self, frames: int) -> Frames:
        return Frames(np.zeros((1, self._channels, frames), np.float32), None, None, is_batch=False)


class Stream:
    """Emits audio while tokens or features arrive. Made by ``VocosONNX.stream`` or ``StreamPool.open``.

    Use it from one thread, or one asyncio task, at a time; ``apush`` and ``aflush`` are ``push`` and ``flush`` for
    asyncio.

    The outputs of every ``push`` and of the final ``flush``, joined, are what ``decode`` returns for the joined chunks,
    within rounding, however the chunks are cut. After ``flush``, and after any error, ``reset`` starts a new sequence.
    A stream cannot be pickled or copied.

    Attributes:
        delay: frames that must follow a frame before its audio is emitted: the ``lookahead`` that the stream was made
            with.
        delay_samples: samples by which the audio lags, including those that wait for the frames that overlap them.
            After n frames, max(0, n·hop_length - delay_samples) samples have been emitted. With ``same`` padding it is
            delay·hop_length + (n_fft - hop_length) // 2, with ``center`` padding delay·hop_length + max(n_fft / 2,
            hop_length).

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
        place: Place,
        inverse: Inverse,
        bandwidth_id: int | None,
        codebooks: int | None,
        lookahead: int,
        *,
        convention: MelConvention | None = None,
        check: bool | None = None,
    ):
        self._reader, self._network, self._place, self._inverse = reader, network, place, inverse
        self._bandwidth_id, self._codebooks, self._convention, self._check = bandwidth_id, codebooks, convention, check
        self.delay = lookahead
        self.delay_samples = lookahead * reader.config.hop_length + inverse.delay
        self._lock = threading.Lock()
        self._unfinished: weakref.ref[Generator[Float, None, None]] | None = None  # of push_blocks, while it runs
        self._user = ""  # the method that holds the lock, or held it last
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._place.take()
        self._mels = self._reader.mels(self._convention, self._check, one_sequence=True)
        self._decoder: Decoder | None = None
        self._kind = self._failure = ""
        self._ended = False

    def push(self, tokens_or_features: npt.ArrayLike | EncodecFrames) -> Float:
        """Decodes the next chunk.

        Args:
            tokens_or_features: tokens (K, t) or features (C, t), as ``decode`` takes them, or (t, C) if that is the
                convention of ``mels_from``. Every chunk must be of the same kind, and tokens must always have the same
                number of codebooks. An empty array of any kind, (n, 0) or for (t, C) chunks (0, n), is ignored.

        Returns:
            The audio (samples,) in float32 that the chunk completes; empty at first, until the network has seen as far
            ahead as it looks.

        Raises:
            ValueError: as ``decode``; a chunk of another kind than those before it; any call after ``flush``; and any
                call after an error, until ``reset``, since audio after a missing chunk would be shifted in time.
            RuntimeError: another thread or task is pushing, or an iterator of ``push_blocks`` is not exhausted; the
                pool or the stream is closed, or is closed while the chunk waits in the pool.
        """
        return _joined([*self.push_blocks(tokens_or_features)])

    def push_blocks(self, tokens_or_features: npt.ArrayLike | EncodecFrames) -> Iterator[Float]:
        """``push`` that emits the audio of a long chunk some seconds at a time.

        Raises as ``push``; if the chunk is at fault, at the call itself. Exhaust the iterator before using the stream
        again: until then, every method but ``reset`` and ``close`` raises RuntimeError. Dropping the iterator early,
        even before its first block, stops the stream, as an error does.
        """
        blocks = self._push_blocks(tokens_or_features)
        next(blocks)  # claims the stream for this chunk now, before any later push
        self._unfinished = weakref.ref(blocks)
        return blocks

    def _push_blocks(self, chunk: npt.ArrayLike | EncodecFrames) -> Generator[Float, None, None]:
        with self._alone("push_blocks"):
            parts = self._parts(self._read(chunk))
            yield np.zeros(0, np.float32)  # the chunk has been accepted, and nothing may go before it
            for part in parts:
                yield self._finished(self._run(part))

    async def apush(self, tokens_or_features: npt.ArrayLike | EncodecFrames) -> Float:
        """``push`` for asyncio: the event loop continues while the network runs. Raises the same.

        In a ``StreamPool`` it occupies no thread while it waits, so one event loop can serve hundreds of streams.

        If it is cancelled, including by ``asyncio.timeout``, the task gets CancelledError at once, the chunk is lost,
        and the stream is stopped as after an error; ``reset`` starts a new sequence.

        Example:
            >>> async with asyncio.TaskGroup() as group:  # of several streams
            ...     tasks = [group.create_task(stream.apush(tokens)) for stream in streams]
        """
        with self._alone("apush"):
            parts = self._parts(await self._aread(tokens_or_features))
            return _joined([self._finished(await self._arun(part)) for part in parts])

    async def apush_blocks(self, tokens_or_features: npt.ArrayLike | EncodecFrames) -> AsyncGenerator[Float, None]:
        """``push_blocks`` for asyncio: ``async for`` over the audio of a long chunk. Starts when it is iterated."""
        with self._alone("apush_blocks"):
            for part in self._parts(await self._aread(tokens_or_features)):
                yield self._finished(await self._arun(part))

    def _read(self, chunk: npt.ArrayLike | EncodecFrames) -> Frames:
        return self._reader.read_chunk(chunk, self._bandwidth_id, self._mels, self._codebooks)

    async def _aread(self, chunk: npt.ArrayLike | EncodecFrames) -> Frames:
        if isinstance(chunk, np.ndarray) and chunk.size <= _SMALL:
            return self._read(chunk)
        return await in_background(partial(self._read, chunk))

    def _parts(self, frames: Frames) -> Iterator[Steps]:
        """The steps of a chunk, some seconds at a time, so that memory does not grow with its length."""
        if frames.length:
            if self._decoder is None:
                self._decoder = Decoder(self._network, self._inverse, frames.bandwidth_id, self.delay)
                self._kind = frames.kind
            elif frames.kind != self._kind:
                raise ValueError(
                    f"this chunk is {frames.kind}, and those before it were {self._kind}: decode them in two streams"
                )
        starts = range(0, frames.length, LONGEST)
        decoder = self._decoder
        return (decoder.push(frames.part(a, min(a + LONGEST, frames.length))) for a in starts if decoder is not None)

    def _run(self, steps: Steps) -> Float:
        """Runs the steps on the network, and returns their audio."""
        try:
            request = next(steps)
            while True:
                checkpoint()
                request = steps.send(self._place.step(request))
        except StopIteration as end:
            return cast(Float, end.value)

    async def _arun(self, steps: Steps) -> Float:
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._place.astep(request))
        except StopIteration as end:
            return cast(Float, end.value)

    def flush(self) -> Float:
        """Ends the sequence; returns the rest of the audio (samples,). Raises as ``push``. ``reset`` starts another."""
        with self._alone("flush"):
            return self._ended_with(self._run(self._rest()))

    async def aflush(self) -> Float:
        """``flush`` for asyncio. Raises the same; if it is cancelled, the stream is stopped, see ``apush``."""
        with self._alone("aflush"):
            return self._ended_with(await self._arun(self._rest()))

    def _rest(self) -> Steps:
        if self._decoder is None:
            return np.zeros(0, np.float32)
        return (yield from self._decoder.finish())

    def _ended_with(self, audio: Float) -> Float:
        self._ended, self._decoder = True, None
        self._place.free()
        return self._finished(audio)

    def _finished(self, audio: Float) -> Float:
        return audio if self._convention is None else self._convention.finished(audio)

    def reset(self) -> None:
        """Starts a new sequence with the same settings: after ``flush``, after an error, or at any other time.

        Audio of earlier chunks that has not been emitted is dropped, and an unexhausted ``push_blocks`` iterator ends.

        Raises:
            RuntimeError: another thread or task is pushing; the stream or the pool is closed; or the pool is full,
                since ``flush`` and errors free the stream's place for others.
        """
        self._check_open()
        unfinished = None if self._unfinished is None else self._unfinished()
        if unfinished is not None:
            try:
                unfinished.close()
            except ValueError:  # the generator is running
                raise RuntimeError(_TWO_THREADS) from None
        if not self._lock.acquire(blocking=False):
            raise self._in_use()
        self._user = "reset"
        try:
            self._start()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Closes the stream, from any thread, and frees its place in the pool; audio not yet emitted is lost.

        A ``push`` that is waiting in a pool raises RuntimeError, as does every later call; closing again does nothing.
        ``with`` and ``async with`` close the stream on exit.
        """
        self._closed = True
        self._place.free()
        if self._lock.acquire(blocking=False):
            self._decoder = None
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the stream is closed: make another one")
        self._place.check()

    @contextmanager
    def _alone(self, method: str) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise self._in_use()
        self._user = method
        try:
            self._check_open()
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
                self._fail(_GIVEN_UP.format(method))
                raise
            except BaseException as error:
                name, text = type(error).__name__, first_line(error)  # for CancelledError, the same
                self._fail(name if text == name else f"{name}: {text}")
                raise
        finally:
            self._unfinished = None
            self._lock.release()

    def _in_use(self) -> RuntimeError:
        """The error of a method that cannot begin because another one has not ended."""
        import inspect  # only errors need it

        blocks = None if self._unfinished is None else self._unfinished()
        if self._user == "push_blocks" and (blocks is None or inspect.getgeneratorstate(blocks) == inspect.GEN_RUNNING):
            return RuntimeError(_TWO_THREADS)
        return RuntimeError(_IN_USE.get(self._user, _TWO_THREADS))

    def _fail(self, reason: str) -> None:
        self._failure, self._decoder = reason, None
        self._place.free()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Stream cannot be pickled or copied: it is in the middle of a sequence; make one with VocosONNX.stream "
            "where it is needed, the VocosONNX itself can be pickled"
        )


def _joined(audio: Sequence[Float]) -> Float:
    """Concatenates arrays (n,); returns a single one as it is, without a copy."""
    return audio[0] if len(audio) == 1 else np.concatenate([np.zeros(0, np.float32), *audio])


@dataclass(frozen=True)
class Streams:
    """Makes the streams of one model. Raises ValueError if its network cannot be streamed."""

    reader: Reader
    network: Network
    inverse: Inverse

    def __post_init__(self) -> None:
        if not self.network.is_streamable:
            raise ValueError("this model cannot be streamed, since how far its network sees is not known: use decode")

    def make(
        self,
        place: Place,
        bandwidth_id: Any,
        bandwidth: float | None,
        lookahead: int | None,
        *,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
    ) -> Stream:
        """Makes a stream. Raises ValueError as ``VocosONNX.stream``."""
        bandwidth_id, codebooks = self.reader.bandwidths.requested(bandwidth, bandwidth_id)
        reach = self.network.reach
        if lookahead is None:
            lookahead = reach
        lookahead = read_integer("lookahead", lookahead, 0, reach, "frames; by default all that the network sees")
        if bandwidth_id is not None:
            bandwidth_id = self.reader.bandwidths.checked_id(bandwidth_id)
        convention = self.reader.convention(mels_from)
        return Stream(
            self.reader,
            self.network,
            place,
            self.inverse,
            bandwidth_id,
            codebooks,
            lookahead,
            convention=convention,
            check=check,
        )

    def alone(self) -> Place:
        """Makes a place for one stream that runs the network by itself."""
        return Alone(self.network, self.inverse)
