"""The threads of the service: who computes when."""

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
SLICE = 0.1  # seconds after which it is the next one's turn


class Workers:
    """So many threads. Used from the event loop.

    Attributes:
        turns: of long requests, which would else share the workers, and all end late.
        one_json: for reading JSON, whose lists and numbers take more memory than the text.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="vocos-serve")
        self.turns, self.one_json = asyncio.Semaphore(count), asyncio.Semaphore(1)
        self.waiting = 0
        """Calls that no thread computes yet."""

    async def run(self, function: Callable[..., Result], *args: Any, clock: Clock | None = None) -> Result:
        """What a function returns, called in a thread. ``clock`` adds up how long it computes.

        When it is cancelled, it ends after the function has, so that files that this uses can be closed.

        Raises HTTPException: 400 for what is wrong with the input, 503 where there is not enough memory.
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
            del future, done  # they hold the error, and its traceback this frame: what it has would stay for long

    def close(self) -> None:
        """End without waiting for what is computed."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Clock:
    """How long was computed for one answer."""

    def __init__(self) -> None:
        self.seconds = 0.0
