"""Writes files atomically: complete or not at all, and never over a file that must not be replaced."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vocos_onnx.messages import refused, writing

_log = logging.getLogger("vocos_onnx")
_staging: dict[Path, int] = {}  # folders of unfinished files, and the processes that write them
_made: list[tuple[Path, int]] = []  # folders created for output files, and the processes that created them
STAGED = ".vocos-"  # prefix of the folders of unfinished files; a process that is killed leaves them behind
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_RENAME = {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS}


def name_of(file: Any) -> str:
    """The name of a file object, for messages."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else f"the {type(file).__name__} object"


def write_all(file: Any, data: bytes) -> None:
    """Write all data to a binary file object; a raw one may take less per call. Raises ValueError for a text file."""
    view = memoryview(data)
    while view:
        try:
            count = file.write(view)
        except TypeError as error:
            raise ValueError(f"{name_of(file)} does not take bytes ({error}); open it as binary") from None
        if count is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError(f"{name_of(file)} does not block, and cannot take all of it now; set it to block")
        view = view[len(view) if count is None else count :]  # other file objects that return None have taken it all


def check_target(path: Path, *, overwrite: bool = True) -> None:
    """Raises an OSError if no file can be written under that name.

    FileNotFoundError: the folder does not exist. PermissionError: the folder or the file is not writable.
    IsADirectoryError: the path is a folder. FileExistsError: a regular file exists and ``overwrite`` is false; devices
    and FIFOs need no protection.
    """
    with writing(path):
        if (descriptor := _descriptor(path)) is not None:
            os.fstat(descriptor)  # raises OSError if it is not open
            return
        found = _stat(path)
    if found is None:
        folder = _target(path).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder} to write {path.name} to; create it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"cannot write {path}: no permission to write to the folder {folder}")
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file")
    if stat.S_ISREG(found.st_mode) and not overwrite:
        raise FileExistsError(
            f"{path} exists, and is only replaced if you ask for that (--force or -y, or overwrite=True)"
        )
    if not os.access(path, os.W_OK):
        raise PermissionError(f"cannot write {path}: it is read-only; choose another output")


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yields a path to write to; at the end that becomes the file, unless an exception is raised.

    A symbolic link stays, and the file that it points to is written. An existing file keeps its mode. A file that
    cannot be replaced by renaming (it is mounted, or its folder is not writable) is written in place, and a warning is
    logged since that is not atomic. Devices and FIFOs are also written in place, with the finished bytes.

    Raises the same errors as ``check_target``; FileExistsError also if the file has appeared in the meantime and
    ``overwrite`` is false.
    """
    check_target(path, overwrite=overwrite)
    found = _stat(path)
    if _descriptor(path) is not None or (found is not None and not stat.S_ISREG(found.st_mode)):
        with _staged(path, None) as partial:
            yield partial
            with writing(path):
                _copy_into(partial, path)
        return
    target = _target(path)
    with _staged(path, target.parent, or_elsewhere=found is not None) as partial:
        with _naming(path):
            yield partial
        if found is not None:
            _copy_mode(found, partial)
        try:
            if overwrite:
                partial.replace(target)
            else:
                _rename_to_new(partial, target)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME or not target.is_file() or not overwrite:
                raise refused("write", path, error) from error
            _log.warning("%s cannot be replaced (%s): it is written in place, which is not atomic", path, error)
            with writing(path):
                _overwrite(partial, target)


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents where missing; at the end removes those of them that are still empty."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    _made.extend((path, os.getpid()) for path in absent)
    try:
        make_folder(folder)
        yield
    finally:
        _remove_empty(absent)
        for path in absent:
            _made.remove((path, os.getpid()))


@contextmanager
def temporary(name: str) -> Iterator[Path]:
    """A temporary file of that name, removed at the end, and also when the process is terminated."""
    with _staged(Path(name), None) as path, _naming(path):
        yield path


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """While the path is being written, adds its name to disk-full errors that name no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        raise refused("write", path, error) from error


def remove_unfinished() -> None:
    """Delete this process's staged, unfinished files. Call it only from a process that is about to end."""
    for folder, process in list(_staging.items()):
        if process == os.getpid():
            _remove(folder)
    _remove_empty([path for path, process in list(_made) if process == os.getpid()])


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes have left behind in a folder. No process may be writing to that folder."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name.startswith(STAGED):
                shutil.rmtree(path, ignore_errors=True)


def is_stdout(path: Path) -> bool:
    """Whether the path is standard output: if so, nothing else may be printed there."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


@contextmanager
def _staged(path: Path, folder: Path | None, *, or_elsewhere: bool = True) -> Iterator[Path]:
    """An empty file with the name of the output ``path``, in a folder of its own.

    That folder is created in ``folder``. Without ``folder``, or if it cannot be created there and ``or_elsewhere`` is
    true, it is created among the temporary files. It is registered before it is created, so a signal in between cannot
    leave it behind.
    """
    name_of_ours = f"{STAGED}{secrets.token_hex(8)}"
    process = os.getpid()
    staging = (folder or Path(tempfile.gettempdir())) / name_of_ours
    _staging[staging] = process
    try:
        try:
            staging.mkdir(0o700)
        except OSError as error:
            if folder is None:
                raise refused("write to the folder", staging.parent, error) from error
            if error.errno not in _CANNOT_RENAME or not or_elsewhere:
                if error.errno == errno.ENOENT and folder.is_dir():  # such as /proc
                    raise FileNotFoundError(f"cannot write {path}: the folder {folder} takes no files") from None
                raise refused("write", path, error) from error
            del _staging[staging]
            staging = Path(tempfile.gettempdir()) / name_of_ours
            _staging[staging] = process
            with writing(path):
                staging.mkdir(0o700)
        partial = staging / path.name
        partial.touch()  # with the umask's mode, which not all libraries that write the file respect
        yield partial
    finally:
        if process == os.getpid():  # not a child forked in the meantime
            _remove(staging)
        _staging.pop(staging, None)


def make_folder(folder: Path) -> None:
    """Make a folder, and its parents, where it is not there. Raises OSError with what cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOENT:  # such as in /proc: its parents would have been made
            raise FileNotFoundError(f"cannot make the folder {folder}: nothing can be made there") from None
        raise refused("make the folder", folder, error) from error


def _remove_empty(folders: list[Path]) -> None:
    """Remove the empty ones of these folders, listed from the innermost outwards."""
    for folder in folders:
        with suppress(OSError):  # it is not empty, or was never created
            folder.rmdir()


def _remove(staging: Path) -> None:
    with suppress(OSError):  # rmtree would turn a signal handler's exception into another one
        for file in staging.iterdir():
            file.unlink()
        staging.rmdir()
        return
    shutil.rmtree(staging, ignore_errors=True)


def _rename_to_new(partial: Path, target: Path) -> None:
    """Raises FileExistsError if a file of that name exists, even one created at this very moment."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise FileExistsError(f"{target} was made by something else in the meantime, and is not replaced") from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(f"{target} was made by something else in the meantime, and is not replaced") from None
        partial.replace(target)


def _copy_mode(found: os.stat_result, partial: Path) -> None:
    with suppress(PermissionError, AttributeError):  # only root may give a file away; Windows has no chown
        os.chown(partial, found.st_uid, found.st_gid)
    partial.chmod(stat.S_IMODE(found.st_mode))


def _copy_into(partial: Path, path: Path) -> None:
    descriptor = _descriptor(path)
    with partial.open("rb") as source, open(path if descriptor is None else os.dup(descriptor), "wb") as sink:  # noqa: PTH123
        shutil.copyfileobj(source, sink, 1 << 20)


def _overwrite(partial: Path, target: Path) -> None:
    """Write a file in place. Space is allocated first, so a full disk leaves the old contents intact."""
    size, before = partial.stat().st_size, target.stat().st_size
    with partial.open("rb") as source, target.open("r+b") as sink:
        if hasattr(os, "posix_fallocate") and size:
            try:
                os.posix_fallocate(sink.fileno(), 0, size)
            except OSError as error:
                sink.truncate(before)
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        shutil.copyfileobj(source, sink, 1 << 20)
        sink.truncate(size)


def _stat(path: Path) -> os.stat_result | None:
    """The stat of what the path leads to, or None if nothing is there: a link may point to a file not yet created."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _target(path: Path) -> Path:
    """The file that a symbolic link leads to; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _descriptor(path: Path) -> int | None:
    """The descriptor that a path such as /dev/stdout or /dev/fd/63 stands for: it is written to, never replaced."""
    for _ in range(40):
        if found := re.fullmatch(rf"/(?:dev|proc/self|proc/{os.getpid()})/fd/(\d+)", str(path)):
            return int(found[1])
        if not path.is_symlink():
            return None
        path = Path(os.path.normpath(path.parent / path.readlink()))
    return None
