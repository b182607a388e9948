"""onnxruntime in this process: its import, and what it needs at a fork and at exit."""

from __future__ import annotations

import atexit
import mmap
import os
import sys
import threading
import weakref
from functools import cache
from typing import Any

import numpy as np

from vocos_onnx.messages import first_line


def import_onnxruntime() -> Any:
    """Imports onnxruntime with its telemetry, which writes into the user's home, off unless the user configured it.

    Any distribution of onnxruntime will do. Raises ImportError if none is installed, or if it cannot be loaded.
    """
    imported_before = "onnxruntime" in sys.modules
    chosen = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        if imported_before and chosen == "1":  # other code imported it before the variable was set
            onnxruntime.disable_telemetry_events()
        onnxruntime.InferenceSession  # noqa: B018  a half-removed wheel leaves an empty module behind
    except (ImportError, AttributeError) as error:
        if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
            raise ImportError(f"onnxruntime is installed, but cannot be loaded: {first_line(error)}") from error
        raise ImportError(
            "onnxruntime is not installed: pip install 'vocos-onnx[cpu]', or 'vocos-onnx[gpu]' for CUDA (not both)"
        ) from None
    return onnxruntime


@cache
def reserve_blas_memory() -> None:
    """Makes numpy's OpenBLAS allocate its 32 MiB buffer, which it keeps. Raises MemoryError if there is no room.

    OpenBLAS allocates the buffer at the first matrix product. If the address space is too small for it (ulimit -v),
    OpenBLAS hangs (up to numpy 2.3.4) or ends the process, and half-written files stay behind. So 64 MiB are mapped
    first as a test, twice the buffer, because other threads may take some of it before the product does.
    """
    try:
        mmap.mmap(-1, 64 << 20).close()
    except OSError as error:
        raise MemoryError("matrix products need 64 MiB of address space; raise the limit (ulimit -v)") from error
    np.matmul(np.ones((8, 8), np.float32), np.ones((8, 8), np.float32))


class _Calls:
    """Tracks the running calls of onnxruntime; the interpreter waits for them before it exits.

    Python kills daemon threads when it exits. If such a thread is in a call, C++ treats that as an error, and the
    process aborts.
    """

    def __init__(self) -> None:
        self._changed, self._running, self._ending = threading.Condition(), 0, False
        atexit.register(self._end)

    def __enter__(self) -> None:
        with self._changed:
            while self._ending and threading.current_thread() is not threading.main_thread():
                self._changed.wait()  # never returns: the interpreter is exiting
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._running, timeout=60)

    def in_forked_child(self) -> None:
        """Forgets the calls of other threads, which the child does not have."""
        self._changed, self._running, self._ending = threading.Condition(), 0, False


calls = _Calls()
_live: weakref.WeakSet[Any] = weakref.WeakSet()  # the sessions of this process
_begun = threading.Event()  # set once a session has been opened


def never_destroy_in_forks(session: Any) -> None:
    """Keeps this onnxruntime session alive in every process forked from this one, until that process exits."""
    _live.add(session)
    _begun.set()


def _in_forked_child() -> None:
    """Lets a forked child exit.

    onnxruntime's destructors, those of its sessions and those that run at exit, wait forever for threads that only the
    parent has. So the child never destroys the sessions. Once Python has finished, including its atexit functions and
    buffers, the rest of the exit is skipped: on_exit calls _exit with the exit code.
    """
    calls.in_forked_child()
    if not _begun.is_set():
        return
    import ctypes

    for session in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc, for which onnxruntime's wheels are built, has it
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
