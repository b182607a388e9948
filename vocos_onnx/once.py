"""Warnings that are issued once per process, or once within each ``watched`` block."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_warned: set[str] = set()
_watched = False


def warn_once(kind: str, text: str) -> None:
    """Issues one warning of a kind per process, attributed to the line outside the package that called into it."""
    if not first_time(kind):
        return
    level, frame = 1, sys._getframe()
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def first_time(kind: str) -> bool:
    """Whether this is the first call for that kind in this process."""
    with _lock:
        new = kind not in _warned
        _warned.add(kind)
    return new


def has_warned(kind: str) -> bool:
    """Whether a warning of that kind has been issued."""
    return kind in _warned


def is_watched() -> bool:
    """Whether checks that may warn must run every time, rather than now and then."""
    return _watched


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collects the texts of all warnings, Python's and those of the package's logger, as if in a fresh process.

    Python's warnings are not shown; log messages still go to other handlers. It is only for a process that does one
    thing at a time.
    """
    global _warned, _watched
    texts: list[str] = []
    handler, log = _Collector(texts), logging.getLogger("vocos_onnx")
    before = _warned, _watched
    _warned, _watched = set(), True
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *where, **more: texts.append(str(message))
            yield texts
    finally:
        log.removeHandler(handler)
        _warned, _watched = before


class _Collector(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())
