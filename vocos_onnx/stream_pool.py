"""Many streams, one call of the network: chunks that several threads have pushed go through it together.

The weights pass through the caches once per call, however many frames go in. So 8 frames of one stream cost several
times as much as 8 frames of a whole input, while 8 frames of each of 32 streams cost hardly more per frame.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np

from .arrays import Float
from .background import Waiter, wake_all
from .frames import features_of
from .inverse import Inverse
from .limits import read_integer
from .mels import MelsFrom
from .messages import shown
from .model.cpus import read_threads
from .network import Network, joined, split
from .streams import Kept, Outcome, Request, Stream, Streams
from .workers import begin, on_a_worker

MOST_STREAMS = 1 << 16
FRAMES = 256  # per call if there are several streams: more are hardly cheaper, and would make the others wait


class StreamPool:
    """Many concurrent streams of one model, whose chunks share the network. Made by ``VocosONNX.stream_pool``.

    ``with`` and ``async with`` close the pool on exit.

    Each thread opens a ``Stream`` and uses it as if it were the only one. ``push`` and ``flush`` block until the audio
    is ready, and return what a stream from ``VocosONNX.stream`` would, within 1e-5 of the peak. The pool has no thread
    of its own: one of the pushing threads runs the network for every chunk that is waiting, while the other threads
    wait; chunks pushed meanwhile share the next call. If no other stream is pushing, the network runs immediately.
    Asyncio tasks use ``apush`` and ``aflush``, for which the network runs on the threads that decode spans. Threads and
    tasks may share a pool.

    Streams share a call of the network if they have the same bandwidth id; chunks of different lengths are cut to one
    length. A stream that stalls, fails or is abandoned does not hold up the others: a chunk waits for other streams at
    most ``max_wait`` seconds in all. A stream has at most one chunk waiting, so a pool of n streams holds at most n.

    A stream holds its place from ``open`` until it is flushed, closed, fails, or is garbage-collected; ``reset`` takes
    a place again. A stream that merely stalls keeps its place, since it may continue.

    Bad input stops only the stream that received it. If the network itself fails, for example for lack of memory,
    every stream with a chunk in that call gets the error; the other streams and the pool continue. On a CUDA device,
    the state of a stream stays on the device as long as its calls hold no other stream; to join others, it is copied
    to the host and back.

    A pool belongs to the process that made it: after a fork, the child gets RuntimeError. It cannot be pickled.

    Example:
        >>> with vocos.stream_pool() as pool:
        ...     def serve(chunks):  # in a thread for each listener
        ...         with pool.open(bandwidth_id=2) as stream:
        ...             for chunk in chunks:
        ...                 play(stream.push(chunk))
        ...             play(stream.flush())
    """

    def __init__(self, streams: Streams, max_streams: int, max_wait: float, threads: int | None):
        max_streams = read_integer("max_streams", max_streams, 1, MOST_STREAMS, "streams that are open at once")
        self._streams, of_network = streams, streams.network.threads
        if threads is not None:
            threads = read_threads(threads)
        side_by_side = 1 if of_network is None else threads or of_network  # off the CPU, one call at a time
        self._calls = _Calls(streams.network, streams.inverse, max_streams, _read_wait(max_wait), side_by_side)

    def open(
        self,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        lookahead: int | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
    ) -> Stream:
        """Opens another stream; takes the arguments of ``VocosONNX.stream``. May be called from any thread.

        Raises:
            ValueError: as ``VocosONNX.stream``.
            RuntimeError: the pool already has ``max_streams`` open streams, or is closed.
        """
        place = _Place(self._calls)
        return self._streams.make(place, bandwidth_id, bandwidth, lookahead, mels_from=mels_from, check=check)

    def __len__(self) -> int:
        """The number of streams that hold a place."""
        return len(self._calls)

    def close(self) -> None:
        """Closes the pool for good. Every waiting and every later ``push`` raises RuntimeError."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a StreamPool cannot be pickled or copied: its streams belong to this process")


def _read_wait(given: Any) -> float:
    try:
        seconds = math.nan if isinstance(given, bool | np.bool_ | str | bytes) else float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"max_wait is {shown(given)}, expected seconds, 0 or more: the most that a chunk waits for those of other "
            "streams; 0 waits for none"
        )
    return seconds


class _Place:
    """The place of one stream in a pool. See ``streams.Place``."""

    def __init__(self, calls: _Calls):
        self._calls = calls
        self._bandwidth_id: int | None = None
        self._over = -math.inf  # when its last step ended
        self._pauses = (math.inf, math.inf)  # seconds between its last steps; within one push they are short
        self.step_now: _Step | None = None  # until its own thread has seen that it is over

    def take(self) -> None:
        self._calls.admit(self)

    def check(self) -> None:
        self._calls.check()

    def free(self) -> None:
        self._calls.leave(self)

    def step(self, request: Request) -> Outcome:
        step = self._begun(_Step(request, None))
        try:
            self._calls.run(self, step)
            return step.outcome()
        finally:
            self._done(step)
            del step  # it would keep its error alive, and the error would keep this frame alive

    async def astep(self, request: Request) -> Outcome:
        waiter = Waiter()
        step, future = self._begun(_Step(request, waiter)), waiter.begun()
        try:
            self._calls.add(self, step)
            await future
            return step.outcome()
        finally:
            self._done(step)
            del step

    def _begun(self, step: _Step) -> _Step:
        self._bandwidth_id = step.bandwidth_id
        self._pauses = (self._pauses[1], time.monotonic() - self._over)
        self._calls.note_pauses(self, max(self._pauses))
        self.step_now = step
        return step

    def _done(self, step: _Step) -> None:
        self._calls.withdraw(step)
        self.step_now = None
        self._over = time.monotonic()

    def is_expected(self, bandwidth_id: int | None, wait: float) -> bool:
        """Whether another step may come within ``wait`` seconds of the last one; its pauses were as short before."""
        step = self.step_now
        if self._bandwidth_id != bandwidth_id:
            return False
        return time.monotonic() - self._over < wait if step is None else step.is_over


class _Step:
    """What one stream asks of the network, see ``streams.Request``; any thread may run it, over several calls.

    When frames are done, ``progress`` is replaced as a whole and nothing else changes. The thread that runs the step
    may therefore be interrupted (Ctrl-C) at any point, and another one continues from there.

    ``waiter``: wakes the coroutine that waits for the step; None if a thread waits, which may also run the step.
    """

    def __init__(self, request: Request, waiter: Waiter | None):
        self.frames, self.bandwidth_id, kept, self.first, self.end, self.skip = request
        self.progress = _Progress(0, (), kept, next(_turns))
        self.waiter = waiter
        self.error: Exception | None = None
        self.patience = math.inf  # seconds that it may still wait for other streams
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def outcome(self) -> Outcome:
        """The audio, and what to keep. Raises the step's error if it failed."""
        if self.error is None:
            return self.progress.audio, self.progress.kept
        try:
            raise self.error
        finally:
            del self  # the error and this frame would keep each other alive

    @property
    def left(self) -> int:
        """Frames that are not done yet."""
        return self.frames.length - self.progress.frames

    @property
    def is_over(self) -> bool:
        return self.error is not None or not self.left

    def sleep(self, seconds: float = -1) -> None:
        """Returns once another thread has called ``wake`` since the last ``sleep``, or after that many seconds."""
        self._asleep.acquire(timeout=seconds)

    def wake(self) -> None:
        with suppress(RuntimeError):  # two threads may release it at once
            if self._asleep.locked():
                self._asleep.release()


class _Progress(NamedTuple):
    """How far a step has come: the frames that are done, their audio, and what is kept after them.

    ``turn``: the waiting step with the lowest turn goes next. Each call gives its steps a new one.
    """

    frames: int
    audio: tuple[Float, ...]
    kept: Kept
    turn: int


_turns = itertools.count()


class _Calls:
    """Makes the calls of the network for all waiting steps.

    As many of the waiting threads lead as calls should run in parallel. Each leader makes one call, which includes its
    own step, and then another thread leads. A worker leads for the step of a coroutine. Shared data changes under
    ``_lock``, which is never held for long. A thread may be interrupted at any point; ``withdraw`` then cleans up after
    it.
    """

    def __init__(
        self, network: Network, inverse: Inverse, max_streams: int, max_wait: float, side_by_side: int
    ) -> None:
        self._network, self._inverse, self._max_streams, self._max_wait = network, inverse, max_streams, max_wait
        self._side_by_side = side_by_side  # calls that run in parallel, each on one thread
        self._process = os.getpid()
        self._lock = threading.RLock()  # reentrant, since a signal handler may close the pool
        self._closed = False
        self._places: weakref.WeakValueDictionary[int, _Place] = weakref.WeakValueDictionary()  # by id
        self._quick: set[int] = set()  # places, by id, whose last pauses were no longer than max_wait
        self._waiting: dict[_Step, None] = {}  # including those in a call
        self._leaders: dict[_Step, _Call] = {}

    def __len__(self) -> int:
        return len(self._places)

    def check(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("the pool was made in another process, before a fork: open the model again in this one")
        if self._closed:
            raise RuntimeError(_CLOSED)

    def admit(self, place: _Place) -> None:
        """Raises RuntimeError if all places are taken."""
        self.check()
        if self._has_admitted(place):
            return
        gc.collect()  # a stream abandoned in a reference cycle holds its place until then
        if not self._has_admitted(place):
            raise RuntimeError(
                f"{self._max_streams} streams are open in the pool, as many as max_streams allows: close one, or make "
                "the pool with a larger max_streams"
            )

    def _has_admitted(self, place: _Place) -> bool:
        with self._lock:
            if id(place) not in self._places and len(self._places) >= self._max_streams:
                return False
            self._places[id(place)] = place
            return True

    def note_pauses(self, place: _Place, longest: float) -> None:
        """Notes whether a stream pushes so quickly that calls should wait for it."""
        if longest <= self._max_wait:
            self._quick.add(id(place))
        else:
            self._quick.discard(id(place))

    def leave(self, place: _Place) -> None:
        """Frees a place. If its step is waiting, the step ends with an error."""
        # If nothing waits, this must not take the lock: the garbage collector may call it in a thread that is in the
        # middle of what the lock protects.
        self._places.pop(id(place), None)
        self._no_longer_awaited(place)
        step = place.step_now
        if step is not None and os.getpid() == self._process:
            with self._lock:
                _fail(step, RuntimeError("the stream was closed while its chunk was waiting in the pool"))
                _wake([step])
                self._withdraw(step)

    def close(self) -> None:
        self._closed = True
        if os.getpid() == self._process:
            with self._lock:
                for step in list(self._waiting):
                    _fail(step, RuntimeError(_CLOSED))
                self._wake()

    def add(self, place: _Place, step: _Step) -> None:
        """Queues a step, for any thread to run."""
        with self._lock:
            self.check()
            if id(place) not in self._places:
                raise RuntimeError("the stream was closed while a chunk was decoded")
            step.patience = self._max_wait
            self._waiting[step] = None
            self._no_longer_awaited(place)
            self._appoint()

    def run(self, place: _Place, step: _Step) -> None:
        """Queues a step, and returns when it is over, whichever thread ran it."""
        self.add(place, step)
        while not step.is_over:
            call = self._leaders.get(step)
            if call is not None:
                self._wait_for_others(step, call)
                self._make(step, call)
            else:
                step.sleep()

    def withdraw(self, step: _Step) -> None:
        """Removes a step that nobody waits for any longer, for whatever reason."""
        if step.is_over and step not in self._waiting and step not in self._leaders:  # the usual case
            return
        with self._lock:
            if step.waiter is not None:  # so that no worker starts it
                _fail(step, RuntimeError("the push was cancelled"))
            self._withdraw(step)

    def _withdraw(self, step: _Step) -> None:
        self._waiting.pop(step, None)
        if step in self._leaders:  # its thread was interrupted
            self._wake()
        self._appoint()

    def _appoint(self) -> None:
        """Appoints further leaders, if a call can be made and a step is waiting for one."""
        for leader in list(self._leaders):
            # its call is over, or it was interrupted or closed; a worker always finishes its call
            if leader.waiter is None and (leader.is_over or leader not in self._waiting):
                self._leaders.pop(leader, None)
        if not self._waiting:
            return
        room = self._side_by_side - len(self._leaders)
        if room <= 0 or any(call.is_wide for call in self._leaders.values()):
            return
        taken = self._taken()
        left = [step for step in list(self._waiting) if not step.is_over and step not in taken]
        for leader in sorted(left, key=_turn_of)[:room]:
            call = self._leaders[leader] = _Call()
            if leader.waiter is None:
                leader.wake()
            else:
                begin(partial(self._lead, leader, call))

    def _lead(self, leader: _Step, call: _Call) -> None:
        """Makes one call, on a worker, for the step of a coroutine and others."""
        try:
            if not leader.is_over:
                self._wait_for_others(leader, call)
                self._make(leader, call)
        except Exception as error:
            with self._lock:
                _fail(leader, error)
        finally:
            with self._lock:
                if self._leaders.get(leader) is call:  # no call was made
                    self._end(leader)

    def _wake(self) -> None:
        """Wakes those whose steps are over."""
        over = [step for step in list(self._waiting) if step.is_over]
        for step in over:
            self._waiting.pop(step, None)
        _wake(over)

    def _taken(self) -> set[_Step]:
        """The steps that are in a call or about to make one."""
        return {step for call in self._leaders.values() for step in call.steps} | self._leaders.keys()

    def _no_longer_awaited(self, place: _Place) -> None:
        for leader, call in list(self._leaders.items()):
            if call.awaited:
                call.awaited.discard(id(place))
                if not call.awaited or self._unchosen() >= call.enough:
                    leader.wake()

    def _unchosen(self) -> int:
        """Roughly how many steps are waiting and not in a call."""
        return len(self._waiting) - sum(len(call.steps) for call in list(self._leaders.values()))

    def _wait_for_others(self, leader: _Step, call: _Call) -> None:
        """Waits for the streams that are about to push, as long as every waiting step has patience."""
        with self._lock:
            if len(self._places) == 1:
                return
            taken = self._taken()
            waiting = [leader, *(step for step in list(self._waiting) if not step.is_over and step not in taken)]
            patience = min(step.patience for step in waiting)
            if patience <= 0:
                return
            call.awaited = self._expected(leader.bandwidth_id)
            # This call's share of all busy streams: the others go into the next call while this one runs.
            call.enough = -(-(len(self._waiting) + len(call.awaited)) // self._side_by_side)
            if not call.awaited or self._unchosen() >= call.enough:
                call.awaited = set()
                return
            leader.sleep(0)  # clears an earlier wake-up
            begun = time.monotonic()
        try:
            leader.sleep(patience)
        finally:
            call.awaited = set()
            waited = time.monotonic() - begun
            for step in waiting:
                step.patience -= waited

    def _expected(self, bandwidth_id: int | None) -> set[int]:
        """The places, by id, of the streams that are about to push. Returns no reference that keeps a place alive."""
        quick = [(key, self._places.get(key)) for key in list(self._quick)]
        self._quick.difference_update(key for key, place in quick if place is None)
        return {key for key, place in quick if place is not None and place.is_expected(bandwidth_id, self._max_wait)}

    def _make(self, leader: _Step, call: _Call) -> None:
        """Makes one call, for the leader's step and others."""
        with self._lock:
            if leader.is_over or self._leaders.get(leader) is not call:
                return
            steps, frames = self._chosen(leader)
            call.steps = steps
            call.is_wide = len(steps) == 1 == len(self._leaders) and self._network.threads != 1
            before = [step.progress for step in steps]
            self._appoint()
        is_alone = self._side_by_side > 1 and not call.is_wide
        compute = partial(self._computed, steps, before, frames, is_alone)
        try:
            # Parallel calls run on long-lived threads: if they ran on the pushing threads, which come and go, the
            # scheduler would often start both on one core.
            after = on_a_worker(compute) if is_alone and leader.waiter is None else compute()
        except Exception as error:
            with self._lock:
                for step in steps:
                    _fail(step, _another(error))
                self._end(leader)
            return
        with self._lock:
            for step, old, new in zip(steps, before, after, strict=True):
                if isinstance(new, Exception):
                    _fail(step, new)
                # unless it was closed meanwhile, or continued in another call because the leader's stream was closed
                elif step.progress is old and not step.is_over:
                    step.progress = new
            self._end(leader)

    def _computed(
        self, steps: list[_Step], before: list[_Progress], frames: int, alone: bool
    ) -> list[_Progress | FloatingPointError]:
        """The progress of each step after that many more frames, or the error that it gets."""
        starts = [progress.frames for progress in before]
        firsts = [step.first + a for step, a in zip(steps, starts, strict=True)]
        spectrum, state = self._network.step(
            features_of([step.frames.part(a, a + frames) for step, a in zip(steps, starts, strict=True)]),
            steps[0].bandwidth_id,
            joined([progress.kept.state for progress in before]),
            firsts,
            [step.end for step in steps],
            alone=alone,
        )
        late = [first - self._network.reach for first in firsts]
        skips = [min(frames, max(0, step.skip - a)) for step, a in zip(steps, starts, strict=True)]
        made = self._inverse.go_on_together(spectrum, [progress.kept.tail for progress in before], skips, late)
        return [
            new
            if isinstance(new, FloatingPointError)
            else _Progress(old.frames + frames, (*old.audio, new[0]), Kept(state, new[1]), next(_turns))
            for old, new, state in zip(before, made, split(state, len(steps)), strict=True)
        ]

    def _end(self, leader: _Step) -> None:
        self._wake()
        self._leaders.pop(leader, None)
        self._appoint()

    def _chosen(self, leader: _Step) -> tuple[list[_Step], int]:
        """The steps of the next call, including the leader's, and how many frames of each.

        All steps of a call must have the same length, because the state is that after the last frame, and the same
        bandwidth id. The length is chosen so that as many frames as possible go in, up to FRAMES; that keeps calls few,
        and no step waits for a long one. If calls run in parallel, each takes only its share of the steps that wait or
        are in a call: if it took all that wait, a large call would alternate with several small ones for ever.
        """
        taken = self._taken()
        same = [
            step
            for step in list(self._waiting)
            if step.bandwidth_id == leader.bandwidth_id and not step.is_over and step not in taken
        ]
        most = FRAMES if len(self._places) > 1 else leader.left
        if not same:
            return [leader], min(leader.left, most)
        group = [leader, *sorted(same, key=_turn_of)]
        lengths = sorted(min(step.left, most) for step in group)  # those from i on have lengths[i] frames or more
        frames = max(
            (min(length * (len(lengths) - i), length * (most // length)), length)
            for i, length in enumerate(lengths)
            if length <= leader.left
        )[1]
        long_enough = [step for step in group if step.left >= frames]
        share = -(-len(self._waiting) // self._side_by_side)
        return long_enough[: min(share, most // frames)], frames


class _Call:
    """A call of the network that a thread is making or about to make.

    steps: those in it, once they are chosen. is_wide: whether it runs on all threads. awaited: the places, by id, of
    the streams whose steps it waits for. enough: how many waiting steps let it begin before all of those have arrived.
    """

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.is_wide = False
        self.awaited: set[int] = set()
        self.enough = 0


def _turn_of(step: _Step) -> int:
    return step.progress.turn


def _fail(step: _Step, error: Exception) -> None:
    if not step.is_over:
        step.error = error


def _wake(steps: list[_Step]) -> None:
    for step in steps:
        step.wake()
    wake_all([step.waiter for step in steps if step.waiter is not None])


def _another(error: Exception) -> Exception:
    """A copy of an error: each thread needs its own, since raising it adds to its traceback."""
    copied: Exception
    try:
        copied = type(error)(*error.args)
    except Exception:  # its constructor takes other arguments
        copied = RuntimeError(str(error))
    copied.__cause__ = error
    return copied


_CLOSED = "the pool is closed: make another one with VocosONNX.stream_pool"
