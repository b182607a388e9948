"""Runs the items of a job in processes on this machine: one per core, each single-threaded.

A process that dies (killed, out of memory, crashed in a C library) breaks the concurrent.futures executor, which then
ends all its processes. A new executor replaces it, and the items in progress are tried once more, one at a time, so
only the one to blame fails.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from vocos_onnx.io.files import remove_unfinished
from vocos_onnx.model.cpus import available_cpus

from .job import Settings
from .journal import Row
from .manifest import Item
from .work import Worker

_AHEAD = 4  # items per process that are in progress or queued
_PATIENCE = 2.0  # seconds for a process that is told to end to do so between two Python instructions
_MOST_DEATHS = 5  # items in a row that end their process: then the items are not to blame
_TOLD = 128 + signal.SIGTERM  # the exit code of a process that was told to end
_SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


@dataclass(frozen=True)
class Replaced:
    """Workers that died and were replaced; ``message`` says what happens to their items."""

    workers: int
    message: str


def rows(
    settings: Settings, out: Path, items: Iterable[Item], workers: int | None = None
) -> Generator[Row | Replaced, None, None]:
    """Yields the row of each item as it is done, and in between the workers that were replaced.

    Args:
        settings: the settings of the job.
        out: the output folder.
        items: consumed as needed, a few ahead.
        workers: number of processes; by default the CPUs that this process may use.

    No process is left once the iterator ends or is closed. Raises what ``Worker`` and ``Worker.do`` raise, RuntimeError
    if no process can be started or the processes keep dying, and OSError if they need too many open files.
    """
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "run was called in a daemonic process, such as a worker of multiprocessing.Pool, which cannot start "
            "processes: call it outside of the pool, which needs none (run has workers of its own), or in a process of "
            "concurrent.futures.ProcessPoolExecutor"
        )
    count = available_cpus() if workers is None else workers
    try:
        with closing(_Pool(settings, out, count)) as pool:
            yield from pool.rows(items)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise OSError(
            error.errno,
            f"{error.strerror} for {count} worker{'' if count == 1 else 's'}: raise the limit, as with ulimit -n 1024, "
            "or take fewer of them with --workers (in Python workers=)",
        ) from error


class _Pool:
    def __init__(self, settings: Settings, out: Path, count: int):
        self._job, self._count = (settings, out), count
        self._processes = _Processes(*self._job, count)
        self._running: dict[Future[Row], Item] = {}
        self._suspects: deque[Item] = deque()  # each was in progress when a process died
        self._is_broken = False  # a process has died, and nothing more can be submitted
        self._deaths = 0  # since the last item that was done
        self._has_begun = False  # whether any process has started

    def rows(self, items: Iterable[Item]) -> Iterator[Row | Replaced]:
        source = iter(items)
        while True:
            alone = bool(self._suspects) and not self._running
            if alone:
                self._submit(self._suspects.popleft())
            elif not self._suspects:
                for item in islice(source, _AHEAD * self._count - len(self._running)):
                    self._submit(item)
            if self._is_broken and not self._running:
                yield self._replaced(len(self._suspects))
            if not self._running and not self._suspects:
                return
            lost = []
            problem: Exception | None = None
            done = wait(self._running, return_when=FIRST_COMPLETED).done
            for future in [future for future in self._running if future in done]:  # in the order of the items
                item = self._running.pop(future)
                try:
                    row = future.result()
                except BrokenProcessPool:
                    lost.append(item)
                except Exception as error:  # it ends the job, but only after the finished rows are yielded
                    problem = error
                else:
                    self._deaths = 0
                    yield row
            if problem is not None:
                raise problem
            if lost:
                lost += self._running.values()  # these are lost, too
                if not alone:
                    self._suspects += lost
                yield self._replaced(0 if alone else len(lost))
                if alone:
                    yield self._failed(*lost)

    def close(self) -> None:
        self._processes.end(at_once=bool(self._running))

    def _submit(self, item: Item) -> None:
        try:
            self._running[self._processes.submit(item)] = item
        except BrokenProcessPool:  # a process has died in the meantime
            self._suspects.append(item)
            self._is_broken = True

    def _replaced(self, again: int) -> Replaced:
        """Replaces all processes after some have died; ``again`` items are tried once more."""
        self._running.clear()
        self._has_begun |= self._processes.has_begun()
        self._processes.end(at_once=True)
        ended = self._processes.ended()
        if not self._has_begun and ended and min(ended) > 0:
            raise RuntimeError(
                f"the workers end while they start (exit code {ended[0]}): a script that calls run needs "
                "if __name__ == '__main__': before that, as each worker imports the script; if it has that, what they "
                "have printed says why"
            )
        self._processes, self._is_broken = _Processes(*self._job, self._count), False
        which = "a worker" if len(ended) < 2 else f"{len(ended)} workers"
        how = sorted({f"killed by signal {-code}" if code < 0 else f"exit code {code}" for code in ended})
        items = "the item in work is" if again == 1 else f"the {again} items in work are"
        comes = f"{items} tried once more" if again else "the item in work has failed"
        message = f"{which} ended without a word ({' and '.join(how) or 'killed, or crashed'}): {comes}"
        return Replaced(max(1, len(ended)), message)

    def _failed(self, item: Item) -> Row:
        self._deaths += 1
        if self._deaths == _MOST_DEATHS:
            raise RuntimeError(
                f"the processes end at once: {_MOST_DEATHS} items in a row have ended theirs twice. There may be too "
                "little memory for so many workers"
            )
        return Row.failed(item, "its process ended twice without a word: killed, out of memory, or crashed")


def _start_tracker() -> None:
    """Starts multiprocessing's resource tracker such that it does not warn about the semaphores of a killed process."""
    if os.name != "posix":
        return
    from multiprocessing import resource_tracker

    name, before = "PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS")
    os.environ[name] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Processes:
    """An executor whose processes end when told to, and also when this process ends, however that happens.

    They hold one end of a pipe, and this process the other, which the system closes when this process ends. Each
    reports through a second pipe that it has started.
    """

    def __init__(self, settings: Settings, out: Path, count: int):
        _start_tracker()
        context = multiprocessing.get_context("spawn")
        theirs, self._ours = context.Pipe(duplex=False)
        self._begun, begun = context.Pipe(duplex=False)
        self._theirs = theirs, begun
        self._executor = ProcessPoolExecutor(count, context, _begin, (settings, out, theirs, begun))
        self._count = count
        self._started: set[BaseProcess] = set()

    def submit(self, item: Item) -> Future[Row]:
        if len(self._started) == self._count:
            return self._executor.submit(_do, item)
        before = set(multiprocessing.active_children())
        with _signals_held():  # a process that is starting would print a traceback on Ctrl-C
            future = self._executor.submit(_do, item)
        self._started |= set(multiprocessing.active_children()) - before
        return future

    def ended(self) -> list[int]:
        """The exit codes of processes that ended on their own; if there are none, that of one that was told to end.

        When one process ends, the executor tells the others to end: if all were told, somebody else told the first one.
        """
        codes = [process.exitcode for process in self._started]
        told = (-signal.SIGTERM, _TOLD)
        ended = [code for code in codes if code is not None and code not in (0, *told)]
        return ended or [-signal.SIGTERM for code in codes if code in told][:1]

    def has_begun(self) -> bool:
        """Whether any of the processes is ready to take items."""
        return self._begun.poll()

    def end(self, *, at_once: bool) -> None:
        if at_once:
            self._ours.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        for end in (self._ours, self._begun, *self._theirs):
            end.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Blocks signals, also in processes that start meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Runs in a process of the executor.

_job: tuple[Settings, Path]
_worker: Worker | None = None


def _begin(settings: Settings, out: Path, leash: Connection, begun: Connection) -> None:
    """Initializes a process. Ctrl-C reaches the whole process group, but only the parent process reacts to it."""
    global _job
    _job = (settings, out)
    for number in _SIGNALS:
        signal.signal(number, _end if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    with suppress(OSError):  # the parent process has ended, and so will this one
        begun.send_bytes(b"1")


def _do(item: Item) -> Row:
    global _worker
    if _worker is None:
        _worker = Worker(*_job)
    return _worker.do(item)


def _end_with(leash: Connection) -> None:
    with suppress(EOFError, OSError):
        leash.recv_bytes()
    # Have the working thread end the process, between two instructions: this thread could miss a file just being
    # staged.
    if hasattr(signal, "pthread_kill") and (ident := threading.main_thread().ident) is not None:
        signal.pthread_kill(ident, signal.SIGTERM)
        time.sleep(_PATIENCE)
    _end()


def _end(number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
    remove_unfinished()
    os._exit(128 + number)
