"""The program ``vocos-onnx``, also ``python -m vocos_onnx``: runs the command line, and handles signals that end it.

Ctrl-C, SIGTERM and SIGHUP end it with the exit code that a shell reports for them (130, 143, 129), leaving no
half-written files and printing no traceback. The handlers are installed here, where the process is known to be the
command line and nothing else, before anything slow is imported.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> int:
    """Runs one command of the command line; returns the exit code."""
    _open_standard_streams()
    # numpy's products here are too small for threads, and OpenBLAS ends the process if it has no memory for them
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and shells' background jobs ignore it
            signal.signal(number, _stop)
    try:
        from .cli import main as run
    except (ImportError, MemoryError) as error:  # the package is incomplete, or there is no memory
        os.write(2, f"vocos-onnx: error: cannot start: {str(error) or 'not enough memory'}\n".encode(errors="replace"))
        return 2
    return run()


def _open_standard_streams() -> None:
    """Opens closed standard streams on the null device: else the next file opened would take their place.

    That file would then receive what is printed. Standard output is opened read-only, so that writing audio to it
    fails with an error.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # the terminal's encoding may not have all characters of a file name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the process immediately. An exception could be caught and lost, as in imports of numpy."""
    remove = getattr(sys.modules.get("vocos_onnx.io.files"), "remove_unfinished", None)
    if remove is not None:  # the module may not be imported yet, or only partly
        remove()
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, b"\n")  # moves below the progress bar
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
