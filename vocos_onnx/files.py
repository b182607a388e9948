"""Files that are written: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(path: Path) -> None:
    """Raises FileNotFoundError, PermissionError or IsADirectoryError where no file of that name can be written."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {path.parent} cannot be written, and {path.name} is to go there")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Inside it write to the path that it gives: it becomes the file at the end, unless there was an exception."""
    with tempfile.TemporaryDirectory(prefix=".vocos-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)
