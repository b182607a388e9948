"""Lets signals end a run at a point where its state is consistent."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Stop:
    """Inside the context, SIGINT, SIGTERM and SIGHUP are recorded, and ``check`` acts on them.

    The first signal restores the previous handlers, so a second one has its usual effect.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.number = report, 0
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.number != 0

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number in (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")):
                # Ignored signals stay ignored, as under nohup and in background shells.
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        with contextlib.suppress(RuntimeError, OSError):  # a line is just being printed, or nobody reads it
            self.report(f"{signal.Signals(number).name}: stopping after this step; once more stops at once")

    def check(self) -> None:
        """Raises KeyboardInterrupt after SIGINT, and SystemExit with the shell's code after another signal."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            raise SystemExit(128 + self.number)
