"""The file that an export writes: it is there only once it has been verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from vocos_onnx.io.files import check_target, whole_file
from vocos_onnx.model.onnx_file import aligned

from .errors import CheckpointError


class Target:
    """Where an export is to be written.

    Raises FileNotFoundError if its folder does not exist, FileExistsError if it exists and ``overwrite`` is false, and
    other OSErrors if it cannot be written: all before any work is done.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        self.path, self._overwrite = Path(path), overwrite
        check_target(self.path, overwrite=overwrite)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Inside it, write and verify the file of the path that it gives: it becomes the target at the end.

        After an exception, such as that of ``refused``, nothing is there, or what was there stays.
        """
        with whole_file(self.path, overwrite=self._overwrite) as written:
            yield written

    def refused(self, reason: str) -> CheckpointError:
        """What to raise of a model that did not pass its verification."""
        return CheckpointError(f"{reason}; {self.path} was not written")

    @property
    def wrote(self) -> str:
        """The last line of a report."""
        return f"wrote {self.path} ({self.path.stat().st_size / 1e6:.1f} MB)"


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model that ``onnx`` finds to be a valid one."""
    for tensor in proto.graph.initializer:
        tensor.ClearField("doc_string")  # by which ``aligned`` aligns it
    onnx.checker.check_model(proto)
    path.write_bytes(aligned(proto.SerializeToString()))
