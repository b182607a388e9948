"""What was requested and where it was found, so that unpickling an object opens the same model again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from vocos_onnx.messages import shown

from .bundled import BUNDLED, find_model
from .mistaken import checked_path, quantize
from .names import is_hub_id
from .onnx_file import PinnedFile


@dataclass(frozen=True)
class Wanted(os.PathLike[str]):
    """A model as ``from_pretrained`` takes it: its name, and how to get it.

    Attributes:
        name: the name of a bundled model, a path, or the id of a repository on the hub.
        key: the metadata key of its kind.
        filename: of the .onnx file in a folder or repository; None if no particular file is requested.
        revision: branch, tag or commit on the hub; None for the registry's or the newest.
        sha256: of the file, or of a checkpoint's weights; None for the registry's or any.
        precision: to which a checkpoint is converted (None: float32), and which an .onnx file must have (None: any).
        local_files_only: whether downloads are forbidden.
        cache_dir: of the hub's client.
        is_path: whether the name was given to the class itself, which also takes the path of a file.
    """

    name: str | os.PathLike[str]
    key: str
    filename: str | None = None
    revision: str | None = None
    sha256: str | None = None
    precision: str | None = None
    local_files_only: bool = False
    cache_dir: str | os.PathLike[str] | None = None
    is_path: bool = False

    @classmethod
    def of(cls, model: str | os.PathLike[str], key: str, precision: str | None = None) -> Wanted:
        """The model that an argument of VocosONNX or EncodecONNX means."""
        return model if isinstance(model, Wanted) else cls(model, key, precision=precision, is_path=True)

    def __fspath__(self) -> str:
        return os.fspath(self.name)

    def check_precision(self, found: str) -> None:
        """Raises ValueError if the precision of a model, ``found``, is not the requested one."""
        if self.precision not in (None, found):
            if str(self) in BUNDLED:
                what, remedy = str(self), f"make one with: {quantize(str(self), self.precision)}"
            else:
                what = str(self) if self.is_path else f"{self.filename or 'the .onnx file'} of {self}"
                remedy = "name another file"
            raise ValueError(
                f"precision is {self.precision!r}, and {what} is in {found}: leave precision out, or {remedy}"
            )

    def __str__(self) -> str:
        return os.fspath(self.name)


@dataclass(frozen=True)
class Origin:
    """Where a model was found.

    Attributes:
        model: the name of a bundled model, an absolute path, or the id of a repository on the hub.
        file: the .onnx file, which no longer exists if the model is not cached.
        size: of the file when it was opened, in bytes.
        modified: when the file was modified, in ns.
        wanted: reopens a model from the hub or a checkpoint, with the commit and the sha256 of the weights that were
            found; None for an .onnx file.
    """

    model: str
    file: Path
    size: int
    modified: int
    wanted: Wanted | None = None

    @classmethod
    def of(cls, given: str | os.PathLike[str], key: str, wanted: Wanted | None = None) -> Origin:
        """Returns the origin of an .onnx file, or of what it was made from. Call it after opening the file."""
        path = find_model(checked_path(given, key))
        status = path.stat()
        if wanted is not None:
            name = os.fspath(wanted.name)
            model = name if is_hub_id(wanted.name) else str(Path(name).absolute())
        else:
            bundled = next((name for name in BUNDLED if path == find_model(name)), None)
            model = bundled or str(path.absolute())
        return cls(model, path.absolute(), status.st_size, status.st_mtime_ns, wanted)

    @property
    def name(self) -> str:
        """The name to print."""
        if self.model in BUNDLED or (self.wanted is not None and is_hub_id(self.wanted.name)):
            return self.model
        return shown(Path(self.model).name)[1:-1]

    def pinned(self) -> tuple[str, str] | Wanted:
        """Returns what a pickle stores: the model and its sha256, or what reopens it.

        Raises ValueError if an .onnx file has changed since it was opened, FileNotFoundError if it is gone.
        """
        if self.wanted is not None:
            return self.wanted
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


def reopened(pinned: tuple[str, str] | Wanted, class_name: str) -> PinnedFile | Wanted:
    """Returns the model that a pickle refers to. Raises FileNotFoundError if its file does not exist."""
    if isinstance(pinned, Wanted):
        return pinned
    model, sha256 = pinned
    path = find_model(model)
    if not path.is_file():
        raise FileNotFoundError(
            f"this {class_name} was pickled with the path of its model, {path}, and there is no such file here: put it "
            f"there, or make a new object with {class_name}(PATH)"
        )
    remedy = f"it has changed since the {class_name} was pickled; make a new object with {class_name}(PATH)"
    return PinnedFile(path, sha256, remedy)
