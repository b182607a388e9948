"""The items of a job: a manifest or a folder, read once, with memory of a few bytes an item.

The rows of a JSONL, CSV or TSV file, or the files of a folder, are copied to an unnamed temporary file as they are
checked, so that nothing that happens to the manifest meanwhile matters. In memory stay, for each item, its place in
that file, the size and time of its input, and a digest of its id.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from vocos_onnx.io.kinds import ARRAYS, AUDIO, TOKENS
from vocos_onnx.messages import listed, shown

if TYPE_CHECKING:
    from .journal import Row

Kind = Literal["audio", "tokens"]
PATHS = ("path", "audio_filepath")  # the names of the path in a row: ours, and NeMo's
JSON, TABLES = (".jsonl", ".ndjson", ".json"), {".csv": ",", ".tsv": "\t"}
_LONGEST_LINE, _LONGEST_ID, _LONGEST_PATH = 1 << 20, 200, 4096  # bytes
_SHOWN = 10  # bad lines in a message


@dataclass(frozen=True)
class Item:
    """An item of a job, in whichever process.

    index: its place in the manifest, from 0.
    id: the name of its output without the ending.
    path: of its input, absolute.
    size: of its input in bytes, by which work is ordered; -1 if there is none.
    known: what an earlier run made of it, if that has to be checked by its sha256, because a time or size has changed.
    in_tar: whether that output is a member of a tar file, which is whole.
    """

    index: int
    id: str
    path: Path
    size: int
    known: Row | None = None
    in_tar: bool = False


class Manifest:
    """The items of a job, by their index; for any thread.

    path: of the manifest or the folder.
    kind: of all inputs: "audio", or "tokens", which are files of tokens or mels.
    dotted: the first id that holds a dot, at which webdataset ends the key; None if there is none.

    Example:
        >>> manifest = Manifest("corpus.jsonl")
        >>> len(manifest), manifest[0].id
        (10000, 'utterance-0001')
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Read a manifest or a folder.

        Args:
            path: a .jsonl (.ndjson, .json) file with one object a line, or a .csv or .tsv file with a header, that have
                ``path`` or ``audio_filepath``, and may have ``id``: else it is the file's name without its ending.
                Paths are relative to the manifest. Or a folder, whose audio or .npy and .npz files are taken, those in
                subfolders too, but for what is hidden.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is of another kind, empty, or has rows that cannot be used: unreadable ones, ids that are
                there twice or no names of files, inputs that are neither audio nor tokens, or both. The message names
                the lines. Missing inputs are no error here: they fail on their own.
        """
        self.path = Path(path)
        self.kind: Kind = "audio"
        self.dotted: str | None = None
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()  # of its position
        self._places, self._sizes, self._times = array("q"), array("q"), array("q")
        self._end = 0  # of the temporary file
        self._indices: dict[bytes, int] = {}
        self._bad: list[str] = []
        self._failures = self._rows = 0
        self._kinds: dict[str, str] = {}  # a place of each
        if self.path.is_dir():
            self._where, self._folder = "file", self.path.absolute()
            rows = _in_folder(self.path)
        else:
            self._where, self._folder = "line", self.path.absolute().parent
            rows = _in_file(self.path)
        for place, row in rows:
            self._add(place, row)
        self._indices_are_complete()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Item:
        with self._lock:
            self._file.seek(self._places[index])
            line = self._file.readline()
        id, path = json.loads(line)
        return Item(index, id, self._folder / path, self._sizes[index])

    def __iter__(self) -> Iterator[Item]:
        for index in range(len(self)):
            yield self[index]

    def find(self, id: str) -> int | None:
        """The index of an id; None if it is not there."""
        return self._indices.get(_digest(id))

    @property
    def sizes(self) -> array[int]:
        """Of the inputs in bytes; -1 where there is none."""
        return self._sizes

    def has_input(self, index: int, size: int, modified: int) -> bool:
        """Whether an input had that size and that time in ns when the manifest was read."""
        return self._sizes[index] == size and self._times[index] == modified

    def _add(self, place: str, row: Any) -> None:
        """Keep a row, or why it cannot be used."""
        self._rows += 1
        try:
            if isinstance(row, ValueError):
                raise row
            path = _path_of(row)
            id = _id_of(row, path)
            kind = _kind_of(path)
            digest = _digest(id)
            if (earlier := self._indices.get(digest)) is not None:
                first = self[earlier]
                self._file.seek(self._end)
                raise ValueError(f"the id {shown(id)} is that of {shown(_text(first.path))}, too")
        except ValueError as error:
            self._failures += 1
            if len(self._bad) < _SHOWN:
                self._bad.append(f"{place}: {error}")
            return
        self._kinds.setdefault(kind, f"{place} ({shown(path)})")
        if "." in id and self.dotted is None:
            self.dotted = id
        self._indices[digest] = len(self._places)
        self._places.append(self._end)
        self._end += self._file.write(json.dumps([id, path]).encode() + b"\n")
        try:
            found = (self._folder / path).stat()
        except (OSError, ValueError):
            size, modified = -1, -1
        else:
            size, modified = found.st_size, found.st_mtime_ns
        self._sizes.append(size)
        self._times.append(modified)

    def _indices_are_complete(self) -> None:
        """Raises ValueError if there is a row that cannot be used, or none that can."""
        name = str(self.path)
        if self._failures:
            more = f"; and {self._failures - len(self._bad)} more" if self._failures > len(self._bad) else ""
            remedy = "; a manifest can name them otherwise" if self._where == "file" else ""
            raise ValueError(
                f"{name}: {self._failures} of {self._rows} {self._where}s cannot be used: {'; '.join(self._bad)}{more}"
                f"{remedy}"
            )
        if not len(self):
            raise ValueError(
                f"the folder {name} holds no audio and no .npy or .npz files"
                if self._where == "file"
                else f"{name} holds no rows; expected one item a line"
            )
        if len(self._kinds) > 1:
            raise ValueError(
                f"{name} mixes kinds: {' and '.join(f'{kind} in {where}' for kind, where in self._kinds.items())}; "
                "write a manifest of each"
            )
        (kind,) = self._kinds
        self.kind = "audio" if kind == "audio" else "tokens"


def _in_file(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a manifest with their lines, of which some may be a ValueError."""
    if not path.exists():
        raise FileNotFoundError(f"no manifest {path}; expected a .jsonl, .csv or .tsv file, or a folder")
    ending = path.suffix.lower()
    if ending not in (*JSON, *TABLES):
        raise ValueError(
            f"{path.name!r} does not end as a manifest does: expected {', '.join((*JSON, *TABLES))}, or a folder"
        )
    with path.open("rb") as file:
        lines = _lines(file)
        yield from _table(lines, TABLES[ending], str(path)) if ending in TABLES else _objects(lines)


def _lines(file: BinaryIO) -> Iterator[str | ValueError]:
    """The lines of a file, without the mark of UTF-8 at its beginning."""
    first = True
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                pass
            yield ValueError(f"it is longer than {_LONGEST_LINE:,} bytes")
        else:
            try:
                yield line.decode("utf-8-sig" if first else "utf-8")
            except UnicodeDecodeError as error:
                yield ValueError(f"byte {error.start + 1} is not UTF-8")
        first = False


def _objects(lines: Iterable[str | ValueError]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        row: Any = line
        if isinstance(line, str):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = ValueError(f"it is no JSON ({error}); expected one object a line")
            else:
                if not isinstance(row, dict):
                    row = ValueError(f'it is {shown(row)}, expected an object such as {{"id": ..., "path": ...}}')
        yield f"line {number}", row


def _table(lines: Iterator[str | ValueError], delimiter: str, name: str) -> Iterator[tuple[str, Any]]:
    """The rows of a table. One may take several lines, in quotes; it is named by its last."""
    number = 0
    broken: ValueError | None = None

    def text() -> Iterator[str]:
        nonlocal number, broken
        for line in lines:
            number += 1
            if isinstance(line, ValueError):
                broken = line
                yield "\n"
            elif "\0" in line:
                broken = ValueError("it holds a null character")
                yield "\n"
            else:
                yield line

    reader = csv.reader(text(), delimiter=delimiter)
    header: list[str] | None = None
    while True:
        broken, row, error = None, None, None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            error = ValueError(f"it cannot be read ({problem})")
        error = broken or error
        if header is None:
            header = row or []
            if error is not None or not set(header) & set(PATHS):
                raise ValueError(
                    f"{name}: the first line has the columns {listed(header) or error or 'of nothing'}; expected "
                    "path, or audio_filepath, and possibly id"
                )
        elif error is not None:
            yield f"line {number}", error
        elif row:
            values = {key: value for key, value in zip(header, row, strict=False) if value}
            wrong = ValueError(f"it has {len(row)} columns, and the first line {len(header)}")
            yield f"line {number}", values if len(row) == len(header) else wrong


def _in_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    """The files below a folder, sorted, with their paths from there."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = os.path.relpath(place, folder)
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in (*AUDIO, *ARRAYS):  # noqa: PTH122
                found.append(name if inner == "." else os.path.join(inner, name))  # noqa: PTH118
    found.sort()
    for path in found:
        yield shown(_text(path)), {"path": path}


def _path_of(row: dict[str, Any]) -> str:
    """Raises ValueError if a row has none."""
    name = next((name for name in PATHS if name in row), None)
    if name is None:
        raise ValueError(f"it has no path, but {listed(row) or 'nothing'}; expected path or audio_filepath")
    path = row[name]
    if not isinstance(path, str) or not path or "\0" in path or len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f"its {name} is {shown(path)}, expected the name of a file")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
        raise ValueError(f"its {name} is {shown(path)}, a URL; expected a file, to which it has been downloaded")
    return path


def _id_of(row: dict[str, Any], path: str) -> str:
    """The id of a row. Raises ValueError if it cannot be the name of a file, on any system."""
    given = row.get("id")
    if given is None:
        given, what = os.path.splitext(os.path.basename(path))[0], "the id, taken from its file's name,"  # noqa: PTH119, PTH122
    else:
        what = "its id"
    id = str(given) if type(given) is int else given
    if not isinstance(id, str) or not id:
        raise ValueError(f"{what} is {shown(given)}, expected text")
    reason = ""
    if "/" in id or "\\" in id:
        reason = "holds a / or \\"
    elif ".." in id or id.startswith("."):
        reason = "holds .." if ".." in id else "begins with a dot"
    elif not id.isprintable() or id != id.strip():
        reason = "holds what no name of a file should: control characters, or spaces at its ends"
    elif len(id.encode()) > _LONGEST_ID:
        reason = f"is longer than {_LONGEST_ID} bytes"
    if reason:
        raise ValueError(f"{what} {shown(_text(id))} {reason}; it names the output, as in utterance-0017")
    return id


def _kind_of(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122
    if ending in AUDIO:
        return "audio"
    if ending in TOKENS:
        return "tokens"
    raise ValueError(
        f"{shown(_text(path))} ends neither as audio (.wav, .flac, .mp3, ...) nor as tokens or mels "
        f"({', '.join(TOKENS)})"
    )


def _digest(id: str) -> bytes:
    """Of an id as the name of a file: Windows does not tell capitals from small letters."""
    return hashlib.blake2b(os.path.normcase(id).encode(), digest_size=16).digest()


def _text(name: str | Path) -> str:
    """A name as text that can be printed, also where the system gives bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
