"""The program ``vocos-onnx``, also as ``python -m vocos_onnx``: the command line, and how it ends when it is told to.

Ctrl-C, SIGTERM and SIGHUP end it with the exit code that a shell gives them (130, 143, 129), with nothing half-written
left behind and no traceback. The handlers are installed here, where a process is the command line and nothing else,
before anything slow is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> int:
    """Run one command of the command line; returns the exit code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it, and shells in the background
            signal.signal(number, _stop)
    from .cli import main as run

    return run()


def _stop(number: int, frame: FrameType | None) -> None:
    """End the process here and now. An exception would be lost wherever somebody catches it: imports of numpy do."""
    remove = getattr(sys.modules.get("vocos_onnx.files"), "remove_unfinished", None)
    if remove is not None:  # it may not be imported yet, or only in part
        remove()
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, b"\n")  # below the bar
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
