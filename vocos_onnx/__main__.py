"""The program ``vocos-onnx``, also as ``python -m vocos_onnx``: the command line, and how it ends when it is told to.

Ctrl-C, SIGTERM and SIGHUP end it with the exit code that a shell gives them (130, 143, 129), with nothing half-written
left behind and no traceback. The handlers are installed here, where a process is the command line and nothing else,
before anything slow is imported.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> int:
    """Run one command of the command line; returns the exit code."""
    _open_standard_streams()
    # numpy's products here are too small for threads, and OpenBLAS ends the process where there is no memory for them
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it, and shells in the background
            signal.signal(number, _stop)
    try:
        from .cli import main as run
    except (ImportError, MemoryError) as error:  # the package is not whole, or there is no memory
        os.write(2, f"vocos-onnx: error: cannot start: {str(error) or 'not enough memory'}\n".encode(errors="replace"))
        return 2
    return run()


def _open_standard_streams() -> None:
    """What was closed leads nowhere: else the next file that is opened takes its place, and gets what is printed.

    Standard output only seems to be there: it cannot be written, so that who writes audio to it is told.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be in the terminal's encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stop(number: int, frame: FrameType | None) -> None:
    """End the process here and now. An exception would be lost wherever somebody catches it: imports of numpy do."""
    remove = getattr(sys.modules.get("vocos_onnx.io.files"), "remove_unfinished", None)
    if remove is not None:  # it may not be imported yet, or only in part
        remove()
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, b"\n")  # below the bar
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
