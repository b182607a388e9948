"""Where the model of an object came from, so that a pickle of the object opens it again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from vocos_onnx.messages import shown

from .bundled import BUNDLED, find_model
from .mistaken import checked_path
from .onnx_file import PinnedFile


@dataclass(frozen=True)
class Origin:
    """The name of a bundled model, or an absolute path; and what the file was like when it was opened."""

    model: str
    size: int
    modified: int  # ns

    @classmethod
    def of(cls, given: str | os.PathLike[str], kind: str) -> Origin:
        """To be made once the file has been opened."""
        path = find_model(checked_path(given, kind))
        status = path.stat()
        bundled = next((name for name in BUNDLED if path == find_model(name)), None)
        return cls(bundled or str(path.absolute()), status.st_size, status.st_mtime_ns)

    @property
    def name(self) -> str:
        """In a line of text."""
        return self.model if self.model in BUNDLED else shown(Path(self.model).name)[1:-1]

    def pinned(self) -> tuple[str, str]:
        """The model and its sha256, for a pickle.

        Raises ValueError where the file has changed since it was opened, FileNotFoundError where it is gone.
        """
        path = find_model(self.model)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is gone since it was opened, and a pickle names the path: put it back")
        with path.open("rb") as file:
            digest, status = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            raise ValueError(
                f"{path} has changed since it was opened, and a pickle names the path: open the file anew, and pickle "
                "that object"
            )
        return self.model, digest


def reopened(pinned: tuple[str, str], kind: str) -> PinnedFile:
    """What a pickle names, of an object of the class ``kind``. Raises FileNotFoundError where it is not there."""
    model, sha256 = pinned
    path = find_model(model)
    if not path.is_file():
        raise FileNotFoundError(
            f"this {kind} was pickled with the path of its model, {path}, and there is no such file here: put it "
            f"there, or make a new object with {kind}(PATH)"
        )
    return PinnedFile(path, sha256, f"it has changed since the {kind} was pickled; make a new object with {kind}(PATH)")
