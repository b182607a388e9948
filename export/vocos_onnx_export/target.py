"""The file that an export writes: it appears only after it has been verified."""

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
    """The destination of an export.

    Before any work is done, raises FileNotFoundError if its folder does not exist, FileExistsError if it exists and
    ``overwrite`` is false, and another OSError if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        self.path, self._overwrite = Path(path), overwrite
        check_target(self.path, overwrite=overwrite)

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Yields a path; write and verify that file inside the context. At the end it becomes the target.

        After an exception, such as the one from ``refused``, nothing is written, and an existing file stays.
        """
        with whole_file(self.path, overwrite=self._overwrite) as written:
            yield written

    def refused(self, reason: str) -> CheckpointError:
        """The error to raise for a model that has failed its verification."""
        return CheckpointError(f"{reason}; {self.path} was not written")

    @property
    def wrote(self) -> str:
        """The last line of a report."""
        return f"wrote {self.path} ({self.path.stat().st_size / 1e6:.1f} MB)"


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Writes a model, after ``onnx`` has checked that it is valid."""
    for tensor in proto.graph.initializer:
        tensor.ClearField("doc_string")  # ``aligned`` uses it for padding
    onnx.checker.check_model(proto)
    path.write_bytes(aligned(proto.SerializeToString()))
