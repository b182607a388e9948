"""Progress output of a run."""

from __future__ import annotations

import time
from collections.abc import Callable


class Heartbeat:
    """Prints a progress line at most every 30 s: long work is not silent, and short work prints nothing."""

    SECONDS = 30.0

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.last = report, time.perf_counter()

    def due(self) -> bool:
        """Whether the last line, or the start of the work, is 30 s ago."""
        return time.perf_counter() - self.last >= self.SECONDS

    def restart(self) -> None:
        """Restart the interval, since something else has been printed."""
        self.last = time.perf_counter()

    def __call__(self, line: str) -> None:
        """Print a line if one is due."""
        if self.due():
            self.report(line)
            self.restart()


def duration(seconds: float) -> str:
    """A readable duration of at least two of its unit, such as "90 s", "3 min" and "47 h"."""
    for name, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
