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
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:  # whoever asks twice does not want to wait for what is being tidied up
            _remove_unfinished()
            os._exit(128 + received[0])
        raise KeyboardInterrupt

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it, and shells in the background
            signal.signal(number, stop)
    try:
        from .cli import main as run

        code = run()
    except KeyboardInterrupt:  # during the imports
        code = 130
    finally:
        _remove_unfinished()
    return 128 + received[0] if received else code


def _remove_unfinished() -> None:
    files = sys.modules.get("vocos_onnx.files")
    if files is not None and hasattr(files, "remove_unfinished"):  # it may not be imported yet, or only in part
        files.remove_unfinished()


if __name__ == "__main__":
    sys.exit(main())
