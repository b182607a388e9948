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
    """The name of a bundled model or an absolute path, and the size and time of the file when it was opened."""

    model: str
    size: int
    modified: int  # ns

    @classmethod
    def of(cls, given: str | os.PathLike[str], key: str) -> Origin:
        """Returns the origin of a model with this metadata key. Call it after opening the file."""
        path = find_model(checked_path(given, key))
        status = path.stat()
        bundled = next((name for name in BUNDLED if path == find_model(name)), None)
        return cls(bundled or str(path.absolute()), status.st_size, status.st_mtime_ns)

    @property
    def name(self) -> str:
        """The name to print."""
        return self.model if self.model in BUNDLED else shown(Path(self.model).name)[1:-1]

    def pinned(self) -> tuple[str, str]:
        """Returns the model and its sha256, for a pickle.

        Raises ValueError if the file has changed since it was opened, FileNotFoundError if it is gone.
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


def reopened(pinned: tuple[str, str], class_name: str) -> PinnedFile:
    """Returns the file that the pickle of an object names. Raises FileNotFoundError if it does not exist."""
    model, sha256 = pinned
    path = find_model(model)
    if not path.is_file():
        raise FileNotFoundError(
            f"this {class_name} was pickled with the path of its model, {path}, and there is no such file here: put it "
            f"there, or make a new object with {class_name}(PATH)"
        )
    remedy = f"it has changed since the {class_name} was pickled; make a new object with {class_name}(PATH)"
    return PinnedFile(path, sha256, remedy)
