"""The threads on which spans run: one pool per process, shared by all models."""

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

AHEAD = 4  # items per thread that are being computed, or are done but not yet returned

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Pool:
    """Threads that start when they are first needed, at most one per available CPU, however many calls there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., Result], *given: Any) -> Future[Result]:
        """Runs a function on one of the threads, or on the calling thread if the interpreter is about to exit."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(available_cpus(), thread_name_prefix="vocos-onnx")
            with suppress(RuntimeError):  # threads can no longer be started
                return self._executor.submit(function, *given)
        future = Future[Result]()
        try:
            future.set_result(function(*given))
        except Exception as error:
            future.set_exception(error)
        return future

    def forget(self) -> None:
        """Starts afresh: a forked child has its parent's pool, but not the threads."""
        self._lock, self._executor = threading.Lock(), None


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def begin(job: Callable[[], None]) -> None:
    """Starts a job on one of the threads. The job must not raise."""
    _pool.submit(job)


def on_a_worker(function: Callable[[], Result]) -> Result:
    """Runs a function on one of the threads while the caller waits; returns its result."""
    return _pool.submit(function).result()


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The results of a function for each item, in order, computed on up to ``threads`` threads at once.

    While one item takes long, later ones proceed, up to AHEAD per thread; no more are taken from the iterable. An
    exception ends the iterator; it is that of the first item that raised one. Once the iterator ends or is closed, none
    of its items is being computed any more. If it runs for a coroutine that is cancelled, it ends between two items.
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
