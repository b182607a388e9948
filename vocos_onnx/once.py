"""Warnings that are issued once per process, or once within each ``watched`` block."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_OF_THREADS = ("threading", "concurrent")  # what runs a function on another thread, without a line of the caller's
_lock = threading.Lock()
_warned: set[str] = set()
_watched = False


@dataclass(frozen=True)
class Place:
    """A line of a program, as warnings have it."""

    file: str
    line: int
    names: dict[str, Any]  # of its module

    @classmethod
    def of_caller(cls) -> Place:
        """The line outside of the package that has called it.

        On a thread that works for a coroutine it is the line that awaits; on a thread that was begun with a function
        of the package, in which there is none, the outermost line of the package.
        """
        inner: FrameType = sys._getframe()
        outer = inner.f_back
        while outer is not None and _top(outer) == _PACKAGE:
            inner, outer = outer, outer.f_back
        if outer is None or _top(outer) in _OF_THREADS:
            return waiting.get() or cls(inner.f_code.co_filename, inner.f_lineno, inner.f_globals)
        return cls(outer.f_code.co_filename, outer.f_lineno, outer.f_globals)


waiting: ContextVar[Place | None] = ContextVar("vocos_onnx_waiting", default=None)  # the line that awaits this work


def _top(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def warn_once(kind: str, text: str) -> None:
    """Issues one warning of a kind per process, attributed to the line outside the package that called into it."""
    if not first_time(kind):
        return
    place = Place.of_caller()
    module, seen = place.names.get("__name__"), place.names.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, UserWarning, place.file, place.line, module, seen)


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
