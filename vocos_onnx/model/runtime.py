"""onnxruntime in this process: how it is imported, how it forks and how it ends."""

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
    """The module, without its telemetry, which writes into the user's home. What the user has set about that stays.

    Any distribution of it will do. Raises ImportError if there is none, or if it cannot be loaded.
    """
    imported_before = "onnxruntime" in sys.modules
    chosen = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        if imported_before and chosen == "1":  # by somebody else, before that was set
            onnxruntime.disable_telemetry_events()
        onnxruntime.InferenceSession  # noqa: B018  what a half-removed wheel leaves behind is an empty module
    except (ImportError, AttributeError) as error:
        if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
            raise ImportError(f"onnxruntime is installed, but cannot be loaded: {first_line(error)}") from error
        raise ImportError(
            "onnxruntime is not installed: pip install 'vocos-onnx[cpu]', or 'vocos-onnx[gpu]' for CUDA (not both)"
        ) from error
    return onnxruntime


@cache
def reserve_for_products() -> None:
    """Make numpy's OpenBLAS take the 32 MiB that it works in, and keeps, or raise MemoryError.

    It takes them at the first product, and without memory for them (under ulimit -v) it waits for ever (to numpy 2.3.4)
    or ends the process, with what is half-written left behind.
    """
    try:
        mmap.mmap(-1, 64 << 20).close()
    except OSError as error:
        raise MemoryError("matrix products need 64 MiB of address space; raise the limit (ulimit -v)") from error
    np.matmul(np.ones((8, 8), np.float32), np.ones((8, 8), np.float32))


class _Calls:
    """The calls of onnxruntime that are running; the end of the interpreter waits for them.

    A daemon thread that is in one while Python ends is ended there by force, which C++ takes for an error: it aborts.
    """

    def __init__(self) -> None:
        self._changed, self._running, self._ending = threading.Condition(), 0, False
        atexit.register(self._end)

    def __enter__(self) -> None:
        with self._changed:
            while self._ending and threading.current_thread() is not threading.main_thread():
                self._changed.wait()  # until there is no interpreter any more
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
        """The other threads are not there, nor what they held."""
        self._changed, self._running, self._ending = threading.Condition(), 0, False


calls = _Calls()
_live: weakref.WeakSet[Any] = weakref.WeakSet()  # the sessions of this process
_begun = threading.Event()  # set once there has been a session


def keep_in_children(session: Any) -> None:
    """A child that is forked will not destroy this session of onnxruntime."""
    _live.add(session)
    _begun.set()


def _in_forked_child() -> None:
    """In a child that was forked: let it end.

    onnxruntime's destructors, those of its sessions and those that run at exit, wait for threads that only the parent
    has, for ever. So the sessions are never destroyed here, and what is left of the exit once Python has finished, its
    atexit functions and buffers included, is skipped: on_exit calls _exit with the exit code.
    """
    calls.in_forked_child()
    if not _begun.is_set():
        return
    import ctypes

    for session in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # of glibc, as the wheels of onnxruntime are
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
