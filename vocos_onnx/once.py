"""Warnings that are given once in a process."""

from __future__ import annotations

import sys
import threading
import warnings

_lock = threading.Lock()
_warned: set[str] = set()


def warn_once(kind: str, text: str) -> None:
    """One warning of a kind in a process, at the line outside of the package that has called it."""
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
    """Whether a warning of that kind has been given."""
    return kind in _warned
