"""Runs work on threads for coroutines, while their event loop continues; cancelling the coroutine stops the work.

It supports only asyncio, which is imported when it is needed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .once import Place, waiting

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable

MOST = min(32, (os.cpu_count() or 1) + 4)  # calls in progress per process, as many as asyncio has threads of its own
IDLE = 5.0  # seconds after which an idle thread ends

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Stopped(BaseException):
    """Raised in a thread when nobody waits for its result any more."""


def checkpoint() -> None:
    """Ends the work of this thread if its coroutine has been cancelled. Called between spans."""
    job = _current.get()
    if job is not None and job.is_stopped:
        raise _Stopped


class Waiter:
    """Wakes a coroutine that awaits ``future``, from any thread; does nothing if its loop is closed by then.

    The constructor raises RuntimeError outside a coroutine of asyncio.
    """

    def __init__(self) -> None:
        import asyncio

        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "there is no running event loop of asyncio: await this within asyncio.run; with another library, such "
                "as trio, run the method without the a in front in a thread, for example by trio.to_thread.run_sync"
            ) from None
        # None once it is woken: after its loop has closed, this would be the only reference that keeps the coroutine
        self.future: asyncio.Future[None] | None = self.loop.create_future()

    def begun(self) -> asyncio.Future[None]:
        """The future to await."""
        assert self.future is not None
        return self.future


def wake_all(waiters: Sequence[Waiter]) -> None:
    """Wakes each, with one call per event loop, since each call makes a system call."""
    for loop in {waiter.loop for waiter in waiters}:
        futures = []
        for waiter in waiters:
            if waiter.loop is loop and waiter.future is not None:
                futures.append(waiter.future)
                waiter.future = None
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_set, futures)


def _set(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


async def in_background(
    function: Callable[[], Result], submit: Callable[[Callable[[], None]], object] | None = None
) -> Result:
    """Returns or raises what a function does, run on a thread while the event loop continues.

    If it is cancelled, the coroutine gets CancelledError at once; the function does not start, or ends at its next
    ``checkpoint``. ``submit`` runs the function on another thread than those that are for whole calls.
    """
    waiter = Waiter()
    job, future = _Job(function, waiter), waiter.begun()
    del function  # so that whatever it holds is freed as soon as it has run
    try:
        (submit or _threads.submit)(job)
        await future
        return job.result()
    finally:
        job.stop()
        del job


async def each(iterable: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    """The items of either kind of iterable; one that is not asynchronous is iterated on threads."""
    if hasattr(iterable, "__aiter__"):
        async for item in iterable:
            yield item
    elif isinstance(iterable, list | tuple):
        for item in iterable:
            yield item
    else:
        iterator = await in_background(partial(iter, iterable))
        while (item := await in_background(partial(next, iterator, cast(Item, _END)))) is not _END:
            yield item


_END = object()


class _Job(Generic[Result]):
    """A function that a thread runs for a coroutine."""

    def __init__(self, function: Callable[[], Result], waiter: Waiter):
        self._waiter, self.is_stopped = waiter, False
        self._function: Callable[[], Result] | None = function
        self._context = copy_context()
        self._waiting = Place.of_caller()
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None and not self.is_stopped:
            try:
                self._results.append(self._context.run(self._computed, function))
            except _Stopped:
                pass
            except BaseException as error:
                self._error = error
        del function
        wake_all([self._waiter])

    def _computed(self, function: Callable[[], Result]) -> Result:
        _current.set(self)
        waiting.set(self._waiting)
        return function()

    def result(self) -> Result:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # they would keep each other alive
        return self._results.pop()

    def stop(self) -> None:
        self.is_stopped, self._function = True, None
        self._results.clear()


_current: ContextVar[_Job[Any] | None] = ContextVar("vocos_onnx_job", default=None)


class _Threads:
    """Up to ``most`` threads, which start when they are needed and end after they have been idle for a while.

    They are daemons, unlike those of concurrent.futures: the interpreter does not wait for them when it exits.
    """

    def __init__(self, most: int):
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Starts afresh: a forked child has no threads."""
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._count = self._idle = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Queues a job. Raises RuntimeError if there is no thread and none can be started."""
        with self._changed:
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._count < self._most:
                self._count += 1
                try:
                    threading.Thread(target=self._serve, name="vocos-onnx-async", daemon=True).start()
                except RuntimeError:
                    self._count -= 1
                    if not self._count:
                        self._jobs.remove(job)
                        raise

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                there = self._changed.wait_for(lambda: self._jobs, IDLE)
                self._idle -= 1
                if not there:
                    self._count -= 1
                    return
                job = self._jobs.popleft()
            job()
            del job


_threads = _Threads(MOST)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget)
