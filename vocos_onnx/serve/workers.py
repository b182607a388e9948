"""The worker threads of the service, and the order in which requests use them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

Result = TypeVar("Result")

AGAIN = {"Retry-After": "1"}
SLICE = 0.1  # seconds that one request computes before the next takes its turn


class Workers:
    """A pool of ``count`` threads. Used from the event loop.

    Attributes:
        turns: semaphore for long requests, at most ``count`` at once. If all of them shared the workers, all of them
            would finish late.
        one_json: semaphore for reading or writing JSON, one at a time, since the objects take more memory than the
            text.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="vocos-serve")
        self.turns, self.one_json = asyncio.Semaphore(count), asyncio.Semaphore(1)
        self.waiting = 0
        """Calls that no thread computes yet."""

    async def run(self, function: Callable[..., Result], *args: Any, clock: Clock | None = None) -> Result:
        """Calls a function in a thread and returns its result. ``clock`` adds up the time that takes.

        If cancelled, it still waits for a function that has started, so the caller can then safely close its files.

        Raises HTTPException: 400 if the input is wrong, 503 if there is not enough memory.
        """
        begun = False

        def called(function: Callable[..., Result], args: tuple[Any, ...]) -> Result:
            start = time.perf_counter()
            loop.call_soon_threadsafe(begin)
            try:
                return function(*args)
            finally:
                if clock is not None:
                    clock.seconds += time.perf_counter() - start

        def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                self.waiting -= 1

        loop = asyncio.get_running_loop()
        self.waiting += 1
        future = self._pool.submit(called, function, args)
        done = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not future.cancel():
                while not done.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({done})
                if not done.cancelled():
                    done.exception()
            raise
        except (ValueError, FloatingPointError) as error:
            raise HTTPException(400, str(error)) from None
        except MemoryError:
            raise HTTPException(503, "there is not enough memory for this request", AGAIN) from None
        finally:
            begin()
            del future, done  # breaks the cycle error -> traceback -> this frame, which would delay freeing its data

    def close(self) -> None:
        """Shuts down without waiting for running calls."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Clock:
    """The time spent computing one answer."""

    def __init__(self) -> None:
        self.seconds = 0.0
