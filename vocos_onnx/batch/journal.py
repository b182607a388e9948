"""Records what is done: one line of journal.jsonl per item, written only once its output exists.

::

    OUT/journal.jsonl   {"vocos-onnx batch": 1, "settings": {...}, "names": {...}, "sha256": ...}  the first line
                        {"id", "input": {...}, "output": {...}, "seconds", ...}       an item that is done
                        {"shard", "output": {...}, "ids": [...]}                      a tar file that is whole
    OUT/errors.jsonl    {"id", "path", "error"}                                       an item that has failed
    OUT/.lock           locked by the one process that works on OUT

Later lines override earlier ones. A process that is killed may leave an incomplete last line, which the next run
removes; a line that cannot be read is ignored, and its item is done again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vocos_onnx.io.files import STAGED, make_folder, whole_file, write_all
from vocos_onnx.messages import reading, refused
from vocos_onnx.version import __version__

from .job import Settings
from .manifest import Item

JOURNAL, ERRORS, LOCK = "journal.jsonl", "errors.jsonl", ".lock"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # not the fault of an item: the job stops
_KEY, _FORMAT = "vocos-onnx batch", 1
_log = logging.getLogger("vocos_onnx")


@dataclass(frozen=True)
class FileState:
    """The sha256 of a file, and its size and time, which show without reading it whether it has changed."""

    sha256: str
    size: int
    modified: int  # ns

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Reads the state of a file. Raises OSError, or ValueError if the file changes while it is read."""
        with reading(path), path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        state = cls(digest, before.st_size, before.st_mtime_ns)
        if not state.is_of(path):
            raise ValueError(f"{path} changed while it was read; run the job again")
        return state

    def is_of(self, path: Path) -> bool:
        """Whether the file has this size and modification time."""
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.modified)

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "size": self.size, "mtime_ns": self.modified}

    @classmethod
    def from_json(cls, value: Any) -> FileState:
        return cls(str(value["sha256"]), int(value["size"]), int(value["mtime_ns"]))


@dataclass(frozen=True)
class Row:
    """The result of an item: its input, its output and the seconds of audio, or else the error.

    offset, duration: the segment of the input that was used, in seconds, as in ``Item``.
    name: name of the output, a file in the items folder or a member of a tar file.
    warnings: the warnings raised for it.
    verified: whether the output already existed with the right sha256, and nothing was computed.
    """

    id: str
    path: str = ""
    input: FileState | None = None
    name: str = ""
    output: FileState | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str | None = None
    offset: float = 0.0
    duration: float | None = None
    verified: bool = False

    @classmethod
    def failed(cls, item: Item, error: str) -> Row:
        return cls(item.id, str(item.path), error=error, offset=item.offset, duration=item.duration)

    def to_json(self) -> dict[str, Any]:
        segment: dict[str, Any] = {"offset": self.offset} if self.offset else {}
        if self.duration is not None:
            segment["duration"] = self.duration
        if self.error is not None:
            return {"id": self.id, "path": self.path, **segment, "error": self.error}
        assert self.input is not None and self.output is not None
        said: dict[str, Any] = {"warnings": list(self.warnings)} if self.warnings else {}
        if self.verified:
            said["verified"] = True
        return {
            "id": self.id,
            "input": self.input.to_json(),
            **segment,
            "output": {"name": self.name, **self.output.to_json()},
            "seconds": self.seconds,
            **said,
        }

    @classmethod
    def from_json(cls, value: Any) -> Row:
        output = value["output"]
        return cls(
            str(value["id"]),
            "",
            FileState.from_json(value["input"]),
            str(output["name"]),
            FileState.from_json(output),
            float(value["seconds"]),
            tuple(map(str, value.get("warnings", ()))),
            offset=float(value.get("offset", 0)),
            duration=None if (duration := value.get("duration")) is None else float(duration),
            verified=bool(value.get("verified", False)),
        )


@dataclass(frozen=True)
class Shard:
    """A complete tar file: its number, from 0, and the ids of its members in order."""

    number: int
    output: FileState
    ids: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"shard": self.number, "output": self.output.to_json(), "ids": list(self.ids)}

    @classmethod
    def from_json(cls, value: Any) -> Shard:
        return cls(int(value["shard"]), FileState.from_json(value["output"]), tuple(map(str, value["ids"])))


class Journal:
    """The journal of an output folder, which is locked for this process until the journal is closed.

    Args:
        out: the folder, which is created if it does not exist.
        settings: the settings of the job.
        resume: whether the folder may hold a journal, which must have the same settings. A journal without entries, in
            a folder without outputs, is always started anew.

    Raises:
        ValueError: if the folder holds a job and ``resume`` is false; if that job has other settings, which the message
            lists; or if the folder holds files but no journal.
        NotADirectoryError: if ``out`` is not a folder.
        RuntimeError: if another process is working on the folder.
        OSError: if the folder cannot be written.
    """

    def __init__(self, out: Path, settings: Settings, resume: bool):
        self.out, self._path, self._settings = out, out / JOURNAL, settings
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"{out} is a file, expected a new folder for the outputs")
        _check_folder(out)
        self._errors: IO[bytes] | None = None
        with _naming(out), contextlib.ExitStack() as stack:
            make_folder(out)
            stack.enter_context(_locked(out))
            if self._path.exists() and self._path.stat().st_size:
                self._check_header(resume)
            self._file: IO[bytes] = stack.enter_context(self._path.open("ab", buffering=0))
            if not self._file.tell():
                header = {_KEY: _FORMAT, "version": __version__, "settings": settings.described()}
                self._write(self._file, {**header, "names": settings.names(), "sha256": settings.sha256})
                (out / ERRORS).unlink(missing_ok=True)
            self._earlier_errors = _whole_lines(out / ERRORS)  # bytes: errors of items that are tried again
            self._reader = stack.enter_context(self._path.open("rb"))  # for single rows
            self._stack = stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def end(self) -> None:
        """Ends the job once every item has been tried: removes the errors of earlier runs from errors.jsonl.

        Raises RuntimeError if the journal has been deleted, so the job is not mistaken for done.
        """
        if not self._path.exists():
            raise RuntimeError(f"{self._path} has been deleted while the job ran: name a new folder")
        if not self._earlier_errors:
            return
        with (self.out / ERRORS).open("rb") as file:
            file.seek(self._earlier_errors)
            first = file.read(1)
            if first:
                with whole_file(self.out / ERRORS) as partial, partial.open("wb") as new:
                    new.write(first)
                    shutil.copyfileobj(file, new)
        if not first:
            (self.out / ERRORS).unlink()
        self._earlier_errors = 0

    def close(self) -> None:
        """Release the folder."""
        self._stack.close()

    def records(self) -> Iterator[tuple[int, Row | Shard]]:
        """Yields the records of earlier runs in the order written, each with its place for ``row_at``."""
        with self._path.open("rb") as file:
            place = len(file.readline())
            for line in file:
                if (record := _record(line)) is not None:
                    yield place, record
                place += len(line)

    def row_at(self, place: int) -> Row:
        """Returns the row at a place that ``records`` has yielded."""
        self._reader.seek(place)
        row = _record(self._reader.readline())
        assert isinstance(row, Row)
        return row

    def add(self, record: Row | Shard) -> None:
        """Writes a record; that of a failed item goes to errors.jsonl. Raises OSError, such as for a full disk."""
        if isinstance(record, Row) and record.error is not None:
            if self._errors is None:
                self._errors = self._stack.enter_context((self.out / ERRORS).open("ab", buffering=0))
            self._write(self._errors, record.to_json())
        else:
            self._write(self._file, record.to_json())

    def _write(self, file: IO[bytes], value: dict[str, Any]) -> None:
        write_all(file, json.dumps(value, separators=(",", ":")).encode() + b"\n")  # unbuffered: written at once

    def _check_header(self, resume: bool) -> None:
        """Raises ValueError unless the journal has the same settings and may be resumed; cuts off a torn last line.

        Empties the journal if nothing was done, so a folder is not tied to settings that suit none of the items.
        """
        with self._path.open("rb+") as file:
            first = file.readline()
            if not first.endswith(b"\n"):  # killed before anything was done
                file.truncate(0)
                return
            try:
                header = json.loads(first)
                version, other = header[_KEY], dict(header["settings"])
                names = dict(header.get("names", {}))
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{self._path} is no journal of vocos-onnx batch: name a new folder") from None
            if version != _FORMAT:
                raise ValueError(
                    f"{self._path} has version {version} of the journal, and this vocos-onnx reads version {_FORMAT}: "
                    "go on with the vocos-onnx that wrote it, or name a new folder"
                )
            if not file.readline().endswith(b"\n") and not _holds_outputs(self.out):
                file.truncate(0)
                return
            if differences := self._settings.differences(other, names):
                raise ValueError(
                    f"{self.out} holds another job, and its items would not fit: {'; '.join(differences)}; name a new "
                    "folder, or the settings of that job"
                )
            if not resume:
                raise ValueError(
                    f"{self.out} holds a job of these settings: pass resume=True to go on with it, or name a new folder"
                )
            end = _end_of_last_line(file)
            if end < file.seek(0, os.SEEK_END):
                file.truncate(end)


def _whole_lines(path: Path) -> int:
    """Cuts off the incomplete last line of a file and returns the file's size; 0 if it does not exist."""
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        end = _end_of_last_line(file)
        file.truncate(end)
    return end


def _end_of_last_line(file: IO[bytes]) -> int:
    """The offset after the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - (1 << 16))
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _record(line: bytes) -> Row | Shard | None:
    """Parses a line; None if it cannot be read."""
    try:
        value = json.loads(line)
        return Shard.from_json(value) if "shard" in value else Row.from_json(value)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _holds_outputs(out: Path) -> bool:
    """Whether the folder holds outputs: anything but a job's own files and unfinished ones."""
    found = [path for path in out.iterdir() if path.name not in (JOURNAL, ERRORS, LOCK)]
    found += [inner for path in found if path.is_dir() for inner in path.iterdir()]
    return any(not path.is_dir() and STAGED not in str(path.relative_to(out)) for path in found)


def _check_folder(out: Path) -> None:
    """Raises ValueError if the folder holds files but no journal."""
    if out.is_dir() and not (out / JOURNAL).exists():
        held = next((path.name for path in sorted(out.iterdir()) if path.name != LOCK), None)
        if held is not None:
            raise ValueError(f"the folder {out} holds {held}, and no journal of a job: name a new or an empty folder")


@contextlib.contextmanager
def _naming(out: Path) -> Iterator[None]:
    """While the job starts, adds the folder and the remedy to errors about a full disk."""
    try:
        yield
    except OSError as error:
        worded = refused("write to the folder", out, error)
        if error.errno not in FULL:
            raise worded from error
        remedy = "name a folder elsewhere" if error.errno == errno.EROFS else "make room, and go on with resume=True"
        raise OSError(error.errno, f"{worded.strerror}. Nothing was done in this run; {remedy}") from error


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Locks the folder against other processes. The system releases the lock when the process ends."""
    with (out / LOCK).open("ab") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise RuntimeError(
                    f"another process works on {out}: wait for its end, or name another folder"
                ) from None
            _log.warning("%s cannot be locked (%s): let no other process work on it", out, error)
        yield
