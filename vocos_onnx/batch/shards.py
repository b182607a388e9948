"""Packs finished items into tar files for webdataset: shard k has the items k·n to (k+1)·n of the manifest.

A finished item stays a file until all items of its shard are done or have failed. Then the tar is written and the files
are deleted. A shard that changes later, because an item that had failed succeeds, is rewritten: unchanged members are
copied from the old tar, and so are those whose items fail now but were done before. Owners, modes and times are fixed,
so the same items always give the same bytes.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from vocos_onnx.io.files import whole_file

from .journal import FileState, Journal, Shard

MODE = 0o644
_BLOCK = 1 << 20  # bytes


class Member(NamedTuple):
    """A member of a tar file: its name and the file to add; None copies the member from the existing tar."""

    name: str
    file: Path | None


class Shards:
    """The tar files of a job, with ``size`` items each, written on a separate thread."""

    def __init__(self, size: int, out: Path, journal: Journal):
        self.size, self._out, self._journal = size, out, journal
        self._known: dict[int, FileState] = {}
        self._left: dict[int, int] = {}
        self._thread = ThreadPoolExecutor(1)
        self._writing: dict[Future[FileState], tuple[int, list[str], list[Member]]] = {}

    def path(self, number: int) -> Path:
        """The file of a shard, such as ``OUT/000012.tar``."""
        return self._out / f"{number:06d}.tar"

    def recall(self, shard: Shard) -> None:
        """Registers a shard that an earlier run has written."""
        self._known[shard.number] = shard.output

    def lost(self) -> list[int]:
        """The numbers of shards whose files are missing or have changed."""
        return [number for number, state in self._known.items() if not _is_same(self.path(number), state)]

    def intact(self, number: int, members: Mapping[str, str]) -> set[str]:
        """Given member names and their sha256, returns which of them a changed tar still holds intact."""
        found = {}
        with suppress(OSError, tarfile.TarError, ValueError, EOFError), tarfile.open(self.path(number), "r:") as tar:
            for entry in tar.getmembers():
                digest, data = hashlib.sha256(), tar.extractfile(entry)
                while data is not None and (block := data.read(_BLOCK)):
                    digest.update(block)
                found[entry.name] = digest.hexdigest() == members.get(entry.name)
        return {name for name, is_same in found.items() if is_same}

    def expect(self, left: npt.NDArray[np.int64]) -> None:
        """Registers the indices of the items that are still to be done."""
        numbers, counts = np.unique(left // self.size, return_counts=True)
        self._left = dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def left(self, number: int) -> int:
        """The number of items of a shard that are still to be done."""
        return self._left.get(number, 0)

    def finished(self, index: int) -> int:
        """Registers that an item is done or has failed; returns the number of its shard."""
        number = index // self.size
        self._left[number] -= 1
        return number

    def write(self, number: int, ids: list[str], members: list[Member]) -> None:
        """Starts writing a shard, which replaces an existing one."""
        self._writing[self._thread.submit(write_shard, self.path(number), members)] = (number, ids, members)

    def note_written(self, *, wait: bool = False) -> None:
        """Adds complete shards to the journal, and deletes the files of their items. Raises OSError."""
        for future in [future for future in self._writing if wait or future.done()]:
            number, ids, members = self._writing.pop(future)
            self._journal.add(Shard(number, future.result(), tuple(ids)))
            for member in members:
                if member.file is not None:
                    member.file.unlink(missing_ok=True)

    def close(self) -> None:
        """Waits for the shard being written; cancels the others."""
        self._thread.shutdown(cancel_futures=True)


def _is_same(path: Path, state: FileState) -> bool:
    if state.is_of(path):
        return True
    with suppress(OSError, ValueError):
        return FileState.of(path).sha256 == state.sha256
    return False


def write_shard(path: Path, members: Sequence[Member]) -> FileState:
    """Writes a tar file atomically, replacing an existing one.

    Raises OSError, such as for a full disk, and KeyError if the existing tar lacks a member.
    """
    with ExitStack() as stack:
        old = None
        if any(member.file is None for member in members):
            old = stack.enter_context(tarfile.open(path, "r:"))
        partial = stack.enter_context(whole_file(path))
        tar = stack.enter_context(tarfile.open(partial, "w:", format=tarfile.PAX_FORMAT))
        for name, file in members:
            if file is not None:
                with file.open("rb") as source:
                    _add(tar, name, source, file.stat().st_size)
            elif old is not None and (copied := old.extractfile(name)) is not None:
                _add(tar, name, copied, old.getmember(name).size)
    return FileState.of(path)


def _add(tar: tarfile.TarFile, name: str, source: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(name)  # no owner, time 0
    entry.size, entry.mode = size, MODE
    tar.addfile(entry, source)
