"""The threads on which spans run: one pool in a process, which all models share."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from .model.cpus import available_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Pool:
    """Threads that start when they are first needed: as many as there are CPUs, however many calls there are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Raises RuntimeError if the interpreter is about to exit, when no thread may start any more."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(available_cpus(), thread_name_prefix="vocos-onnx")
            return self._executor.submit(function, item)

    def forget(self) -> None:
        """Begin anew: a forked child has the pool of its parent, but not the threads."""
        self._lock, self._executor = threading.Lock(), None


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """What a function returns for each item, in the order of the items, computed on up to so many threads at once.

    So many items are taken from the iterable before the first result is. An exception ends the iterator: it is that of
    the first item that has one. When the iterator ends or is closed, none of its items is being computed any more.
    """
    if threads == 1:
        yield from map(function, items)
        return
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            try:
                running.append(_pool.submit(function, item))
            except RuntimeError:
                while running:
                    yield running.popleft().result()
                yield function(item)
                continue
            if len(running) == threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        wait(running)
