"""The threads on which spans run: one pool in a process, which all models share."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

from .background import checkpoint
from .model.cpus import available_cpus

AHEAD = 4  # items for each thread that are being computed or done, and not yet returned

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Pool:
    """Threads that start when they are first needed: as many as there are CPUs, however many calls there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., Result], *given: Any) -> Future[Result]:
        """Compute it on one of the threads; on that which calls if the interpreter is about to exit."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(available_cpus(), thread_name_prefix="vocos-onnx")
            with suppress(RuntimeError):  # no thread may start any more
                return self._executor.submit(function, *given)
        future = Future[Result]()
        try:
            future.set_result(function(*given))
        except Exception as error:
            future.set_exception(error)
        return future

    def forget(self) -> None:
        """Begin anew: a forked child has the pool of its parent, but not the threads."""
        self._lock, self._executor = threading.Lock(), None


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def begin(job: Callable[[], None]) -> None:
    """Have something done on one of the threads, which raises nothing."""
    _pool.submit(job)


def on_a_worker(function: Callable[[], Result]) -> Result:
    """What a function returns, computed on one of the threads while the caller waits."""
    return _pool.submit(function).result()


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """What a function returns for each item, in the order of the items, computed on up to so many threads at once.

    While an item takes long, those after it go on, up to AHEAD for each thread; no more are taken from the iterable. An
    exception ends the iterator: it is that of the first item that has one. When the iterator ends or is closed, none of
    its items is being computed any more. For a coroutine that has been cancelled it ends between two items.
    """
    if threads == 1:
        for item in items:
            checkpoint()
            yield function(item)
        return
    source, begun = iter(items), deque[Future[Result]]()
    more = True
    try:
        while True:
            checkpoint()
            running = [future for future in begun if not future.done()]
            while more and len(running) < threads and len(begun) < AHEAD * threads:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                    break
                running.append(_pool.submit(function, item))
                begun.append(running[-1])
            if not begun:
                return
            if not begun[0].done():
                wait(running, return_when=FIRST_COMPLETED)
            else:
                yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
        wait(begun)
