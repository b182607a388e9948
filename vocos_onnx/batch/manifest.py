"""Reads the items of a job from a manifest or a folder, once, using a few bytes of memory per item.

The rows of a JSONL, CSV or TSV file, or the names of a folder's files, are copied to an unnamed temporary file as they
are checked, so later changes to the manifest do not matter. Memory holds, for each item, its offset in that file, the
size and time of its input, its segment, and a digest of its id.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import tempfile
import threading
import unicodedata
import weakref
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

from vocos_onnx.io.audio import check_segment
from vocos_onnx.io.kinds import ARRAYS, AUDIO, TOKENS, UNREAD
from vocos_onnx.messages import SeveralLines, in_shell, listed, reading, refused, shown

if TYPE_CHECKING:
    from .journal import Row

Kind = Literal["audio", "tokens"]
Ids = Literal["name", "path"]  # what to derive the id of a row without one from
PATHS = ("path", "audio_filepath")  # names for the path in a row: ours and NeMo's
JSON, TABLES = (".jsonl", ".ndjson", ".json"), {".csv": ",", ".tsv": "\t"}
_LONGEST_LINE, _LONGEST_ID, _LONGEST_PATH = 1 << 20, 200, 4096  # bytes
_SHOWN = 10  # bad lines in a message
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.xz")
_SECONDS = ("offset", "duration")  # NeMo's names, too
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)  # on Windows


@dataclass(frozen=True)
class Item:
    """An item of a job, the same in every process.

    index: its position in the manifest, from 0.
    id: the name of its output, without the extension.
    path: absolute path of its input.
    size: size of its input in bytes, which determines the order of the work; -1 if the input does not exist.
    offset, duration: the segment of its input, in seconds; 0 and None for the whole input.
    known: the result of an earlier run, if it has to be verified by sha256 because a time or size has changed.
    in_tar: whether that output is a member of a complete tar file.
    """

    index: int
    id: str
    path: Path
    size: int
    known: Row | None = None
    in_tar: bool = False
    offset: float = 0.0
    duration: float | None = None


class Manifest:
    """The items of a job, by index. Thread-safe.

    path: path of the manifest or the folder.
    kind: kind of all inputs: "audio", or "tokens" for files of tokens or mels.
    dotted: the first id with a dot, where webdataset would end the key; None if there is none.

    Example:
        >>> manifest = Manifest("corpus.jsonl")
        >>> len(manifest), manifest[0].id
        (2, 'utterance-0001')
    """

    def __init__(self, path: str | os.PathLike[str], *, ids: Ids = "name"):
        """Read a manifest or a folder.

        Args:
            path: a .jsonl (.ndjson, .json) file with one object per line, or a .csv or .tsv file with a header, with a
                field ``path`` or ``audio_filepath`` and optionally ``id``. Paths are relative to the manifest. With
                ``offset`` and ``duration``, in seconds, an item is a segment of an audio file, as in NeMo's manifests;
                a rounded ``duration`` of the whole file means all of it. Or a folder: its audio, .npy and .npz files
                are used, including those in subfolders but not hidden ones.
            ids: how to name rows without an id and the files of a folder: "name" is the file name without its
                extension, a17; "path" is the path with _ between the folders, day1_a17. If a row has an offset, it is
                appended in milliseconds, followed by the end if the row has a duration: a17_61500_65700.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is of another kind, is empty, or has unusable rows: unreadable rows, ids that repeat
                or are not valid file names on every system, inputs that are neither audio nor tokens or a mix of both,
                or segments of tokens. The message has a line for each, up to 10. Missing inputs raise no error here;
                their items fail later.
        """
        if ids not in get_args(Ids):
            raise ValueError(f"ids is {shown(ids)}, expected {' or '.join(get_args(Ids))}")
        self.path = Path(path)
        self.kind: Kind = "audio"
        self.dotted: str | None = None
        self._ids = ids
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 closed with the object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()  # guards its position
        self._places, self._sizes, self._times = array("q"), array("q"), array("q")
        self._offsets, self._durations = array("d"), array("d")  # 0 means none
        self._end = 0  # size of the temporary file
        self._indices: dict[bytes, int] = {}
        self._checksums = array("I")  # of the ids, case and accents as given
        self._bad: list[str] = []
        self._failures = self._rows = 0
        self._collide = self._apart = False  # derived ids collide; of files in different folders
        self._kinds: dict[str, str] = {}  # with a place where each occurs
        with reading(path):
            is_folder = self.path.is_dir()
        if is_folder:
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
        return Item(
            index,
            id,
            self._folder / path,
            self._sizes[index],
            offset=self._offsets[index],
            duration=self._durations[index] or None,
        )

    def __iter__(self) -> Iterator[Item]:
        for index in range(len(self)):
            yield self[index]

    def find(self, id: str) -> int | None:
        """The index of an id; None if there is no such id."""
        index = self._indices.get(_digest(id))
        return index if index is not None and self._checksums[index] == zlib.crc32(id.encode()) else None

    @property
    def sizes(self) -> array[int]:
        """The sizes of the inputs in bytes; -1 for a missing input."""
        return self._sizes

    def has_input(
        self, index: int, size: int, modified: int, offset: float = 0.0, duration: float | None = None
    ) -> bool:
        """Whether an item has that segment, and its input had that size and time (ns) when the manifest was read."""
        return (
            self._sizes[index] == size
            and self._times[index] == modified
            and self._offsets[index] == offset
            and (self._durations[index] or None) == duration
        )

    def _add(self, place: str, row: Any) -> None:
        """Stores a row, or the reason why it cannot be used."""
        self._rows += 1
        try:
            if isinstance(row, ValueError):
                raise row
            path = _path_of(row)
            kind = _kind_of(path)
            offset, duration = _segment_of(row, kind)
            id = _id_of(row, path, self._ids, offset, duration)
            digest = _digest(id)
            if (earlier := self._indices.get(digest)) is not None:
                other = self[earlier]
                if row.get("id") is None:
                    self._collide = True
                    self._apart |= other.path.parent != (self._folder / path).parent
                raise ValueError(self._same_id(id, other))
        except ValueError as error:
            self._failures += 1
            if len(self._bad) < _SHOWN:
                self._bad.append(f"{place}: {error}")
            return
        self._kinds.setdefault(kind, place if self._where == "file" else f"{place} ({shown(path)})")
        if "." in id and self.dotted is None:
            self.dotted = id
        self._indices[digest] = len(self._places)
        self._checksums.append(zlib.crc32(id.encode()))
        self._offsets.append(offset)
        self._durations.append(duration or 0.0)
        self._places.append(self._end)
        self._file.seek(self._end)
        self._end += self._file.write(json.dumps([id, path]).encode() + b"\n")
        try:
            found = (self._folder / path).stat()
        except (OSError, ValueError):
            size, modified = -1, -1
        else:
            size, modified = found.st_size, found.st_mtime_ns
        self._sizes.append(size)
        self._times.append(modified)

    def _same_id(self, id: str, earlier: Item) -> str:
        """The message that an id clashes with that of an earlier row."""
        if id == earlier.id:
            return f"the id {shown(id)} is that of {shown(_text(earlier.path))}, too"
        if _composed(id) == _composed(earlier.id):
            return f"the id {id!a} is {earlier.id!a} with accents encoded otherwise: on macOS these are one file"
        return f"the id {shown(id)} is {shown(earlier.id)} with other capitals: on macOS and Windows these are one file"

    def _indices_are_complete(self) -> None:
        """Raises ValueError if a row cannot be used, if there are no rows, or if they mix kinds."""
        name = str(self.path)
        if self._failures:
            plural = "" if self._rows == 1 else "s"
            lines = [f"{name}: {self._failures:,} of {self._rows:,} {self._where}{plural} cannot be used:"]
            lines += [f"  {bad}" for bad in self._bad]
            if self._failures > len(self._bad):
                lines.append(f"  and {self._failures - len(self._bad):,} more")
            if self._apart and self._ids == "name":
                lines.append('  pass ids="path" for ids that begin with the folders, as in day1_a17; or write ids')
            elif self._where == "file":
                lines.append("  rename them; or write a manifest that names them otherwise, or leaves them out")
            elif self._collide:
                lines.append("  write ids that differ")
            raise SeveralLines("\n".join(lines))
        if not len(self):
            raise ValueError(
                f"the folder {name} holds no audio and no .npy or .npz files{_others_in(self.path)}"
                if self._where == "file"
                else f"{name} holds no rows; expected one item a line"
            )
        if len(self._kinds) > 1:
            remedy = "name a folder of one kind, or write a manifest" if self._where == "file" else "write a manifest"
            raise ValueError(
                f"{name} mixes kinds: {' and '.join(f'{kind} in {where}' for kind, where in self._kinds.items())}; "
                f"{remedy} of each"
            )
        (kind,) = self._kinds
        self.kind = "audio" if kind == "audio" else "tokens"


def _in_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a manifest with their line numbers; an unreadable row is a ValueError."""
    if str(path) == "-":
        raise ValueError("the manifest is -, expected a file or a folder: going on with a job needs it again")
    if not path.exists():
        raise FileNotFoundError(f"no manifest {path}; expected a .jsonl, .csv or .tsv file, or a folder")
    ending = path.suffix.lower()
    if path.name.lower().endswith(_TARS):
        raise ValueError(
            f"{path.name!r} is a tar file, which is no manifest: unpack it (mkdir FOLDER; tar -xf "
            f"{in_shell(str(path))} -C FOLDER), and name the folder"
        )
    if ending not in (*JSON, *TABLES):
        remedy = "; a file by itself is done by decode, encode or resynth" if ending in (*AUDIO, *TOKENS) else ""
        raise ValueError(
            f"{path.name!r} does not end as a manifest does: expected {', '.join((*JSON, *TABLES))}, or a folder"
            f"{remedy}"
        )
    with reading(path):
        file = path.open("rb")
    with file:
        _check_start(file.readline(_LONGEST_LINE), path)
        file.seek(0)
        lines = _lines(file)
        yield from _table(lines, TABLES[ending], str(path)) if ending in TABLES else _objects(lines)


def _check_start(first: bytes, path: Path) -> None:
    """Raises ValueError if the first line shows that the file is in an unsupported format."""
    line = first.removeprefix(b"\xef\xbb\xbf").strip()
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is in UTF-16: save it as UTF-8")
    if b"\r" in line:
        raise ValueError(
            f"{path} ends its lines with CR alone, expected LF or CR LF: make one with tr '\\r' '\\n' "
            f"< {in_shell(str(path))} > new{path.suffix}"
        )
    if path.suffix.lower() in TABLES:
        return
    if line.startswith(b"["):
        raise ValueError(f"{path} is a list: write one object a line, without the brackets and commas of a list")
    if line == b"{":
        raise ValueError(f"{path} has objects of several lines: write one object a line")


def _lines(file: BinaryIO) -> Iterator[str | ValueError]:
    """Yields the lines of a file without its UTF-8 byte order mark; an unreadable line is a ValueError."""
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
                where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                row = ValueError(f"it is no JSON ({where}); expected one object a line")
            else:
                if not isinstance(row, dict):
                    row = ValueError(f'it is {shown(row)}, expected an object such as {{"id": ..., "path": ...}}')
        yield f"line {number}", row


def _table(lines: Iterator[str | ValueError], delimiter: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a table. A quoted row may span several lines; its first line names it."""
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

    reader = csv.reader(text(), delimiter=delimiter, strict=True)  # else an open quote swallows the rows after it
    header: list[str] | None = None
    while True:
        broken, row, error, first = None, None, None, number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            error = ValueError(_unreadable(str(problem), number - first))
        error = broken or error
        if header is None:
            header = [column.strip().lower() for column in row or []]
            _check_columns(header, delimiter, error, name)
        elif error is not None:
            yield f"line {first}", error
        elif row:
            columns = "1 column" if len(row) == 1 else f"{len(row)} columns"
            wrong = ValueError(f"it has {columns}, and the first line {len(header)}")
            yield f"line {first}", _values(header, row) if len(row) == len(header) else wrong


def _unreadable(problem: str, more: int) -> str:
    """Explains csv's error about a table row that extends over ``more`` further lines."""
    if "unexpected end of data" in problem:
        return 'a quote (") opens there, and is not closed to the end of the file'
    if "field limit" in problem:
        quote = ": a quote may not be closed" if more else ""
        return f"a field is longer than {csv.field_size_limit():,} characters{quote}"
    if "expected after" in problem:
        lines = f", {more} {'lines' if more > 1 else 'line'} further down" if more else ""
        return f'a quote (") in it closes before the end of its field{lines}: double those inside, as in "a ""b"" c"'
    return f"it cannot be read ({problem})"


def _check_columns(header: list[str], delimiter: str, error: ValueError | None, name: str) -> None:
    """Raises ValueError if the first line of a table does not name the columns."""
    if error is not None:
        raise ValueError(f"{name}: line 1: {error}")
    used = [column for column in header if column in ("id", *PATHS, *_SECONDS)]
    if twice := next((column for column in used if used.count(column) > 1), None):
        raise ValueError(f"{name}: the first line has the column {twice} twice")
    if not set(header) & set(PATHS):
        words = {",": "commas", "\t": "tabs, as in .tsv", ";": "semicolons", "|": "bars"}
        found = next((each for each in words if len(header) == 1 and each in header[0]), None)
        if found is not None:
            raise ValueError(f"{name} separates its columns with {words[found]}, expected {words[delimiter]}")
        raise ValueError(
            f"{name}: the first line has the columns {listed(header) or 'of nothing'}; expected path, or "
            "audio_filepath, and possibly id, offset and duration"
        )


def _values(header: list[str], row: list[str]) -> dict[str, Any]:
    """A row of a table as a dictionary; empty columns are omitted."""
    values: dict[str, Any] = {}
    for key, text in zip(header, row, strict=True):
        if value := text.strip():
            values[key] = value
            if key in _SECONDS:
                with suppress(ValueError):
                    values[key] = float(value)
    return values


def _in_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields the files below a folder, sorted, with their relative paths.

    Links to folders elsewhere are followed, once each; links to folders that are found anyway are not.
    """

    def refuse(error: OSError) -> None:
        raise refused("read", error.filename or folder, error)

    found, top, seen = [], folder.resolve(), set[Path]()

    def is_taken(path: Path) -> bool:
        if path.name.startswith("."):
            return False
        real = path.resolve()
        if real in seen or (path.is_symlink() and (real.is_relative_to(top) or top.is_relative_to(real))):
            return False
        seen.add(real)
        return True

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in sorted(folders) if is_taken(Path(place, name))]
        inner = os.path.relpath(place, folder)
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in (*AUDIO, *ARRAYS):  # noqa: PTH122
                found.append(name if inner == "." else os.path.join(inner, name))  # noqa: PTH118
    found.sort()
    for path in found:
        yield shown(_text(path)), {"path": path}


def _others_in(folder: Path) -> str:
    """A hint, for a message, if the folder holds tar files or files that need a manifest."""
    names = [path.name.lower() for path in folder.iterdir()]
    if any(name.endswith(_TARS) for name in names):
        return "; tar files are not read: unpack them"
    if any(name.endswith((".json", ".safetensors")) for name in names):
        return "; .json and .safetensors files of tokens are taken from a manifest"
    return ""


def _path_of(row: dict[str, Any]) -> str:
    """The path of a row. Raises ValueError if it has none."""
    name = next((name for name in PATHS if name in row), None)
    if name is None:
        raise ValueError(f"it has no path, but {listed(row) or 'nothing'}; expected path or audio_filepath")
    path = row[name]
    if not isinstance(path, str) or not path or "\0" in path or len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f"its {name} is {shown(path)}, expected the name of a file")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
        raise ValueError(f"its {name} is {shown(path)}, a URL; expected a file, to which it has been downloaded")
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111 a Path would alter it


def _kind_of(path: str) -> str:
    """The kind of an input, by its extension. Raises ValueError if it is not an input."""
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122
    name = shown(_text(path))
    if ending in UNREAD:
        source = os.path.basename(path)  # noqa: PTH119
        raise ValueError(
            f"{name} ends in {ending}, which is not read; convert it: ffmpeg -i {in_shell(source)} "
            f"{in_shell(source, '.flac')}"
        )
    if ending in AUDIO:
        return "audio"
    if ending in TOKENS:
        return "tokens"
    if path.lower().endswith(_TARS):
        raise ValueError(f"{name} is a tar file: unpack it, and name the files in it")
    raise ValueError(
        f"{name} ends neither as audio (.wav, .flac, .mp3, ...) nor as tokens or mels ({', '.join(TOKENS)})"
    )


def _segment_of(row: dict[str, Any], kind: str) -> tuple[float, float | None]:
    """The offset and duration of a row, in seconds. Raises ValueError if they are not a valid segment."""
    offset, duration = row.get("offset"), row.get("duration")
    offset = 0.0 if offset is None else offset
    try:
        check_segment(offset, duration)
    except ValueError as error:
        raise ValueError(f"its {error}") from None
    if offset and kind != "audio":
        raise ValueError(f"its offset is {offset:g}, and only audio has segments: leave it out if it tells the origin")
    return float(offset), None if duration is None else float(duration)


def _id_of(row: dict[str, Any], path: str, ids: Ids, offset: float, duration: float | None) -> str:
    """The id of a row. Raises ValueError if it is not a valid file name on every system."""
    given = row.get("id")
    if given is None:
        stem = PurePath(os.path.splitext(path)[0])  # noqa: PTH122
        folders = [part for part in stem.parts[:-1] if part not in (stem.anchor, "..")]
        given, what = "_".join([*folders, stem.name]) if ids == "path" else stem.name, f"the id, taken from its {ids},"
        if row.get("offset") is not None:  # as NeMo names segments
            end = "" if duration is None else f"_{round(1000 * (offset + duration))}"
            given += f"_{round(1000 * offset)}{end}"
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
        reason = "holds what no name of a file should: control characters, spaces at its ends, or what is not UTF-8"
    elif character := next((character for character in id if character in ':*?"<>|'), None):
        reason = f"holds {character}, which no name of a file has on Windows"
    elif id.endswith("."):
        reason = "ends with a dot, which no name of a file does on Windows"
    elif _DEVICES.fullmatch(id):
        reason = "is the name of a device on Windows, and of no file"
    elif len(id.encode()) > _LONGEST_ID:
        reason = f"is longer than {_LONGEST_ID} bytes"
    if reason:
        raise ValueError(f"{what} {shown(_text(id))} {reason}; it names the output, as in utterance-0017")
    return id


def _digest(id: str) -> bytes:
    """Digest of an id as a file name: macOS and Windows file systems ignore case."""
    folded = _composed(_composed(id).lower())
    return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _composed(id: str) -> str:
    """An id with its accents composed: macOS treats é and e with a combining accent as the same."""
    return id if id.isascii() else unicodedata.normalize("NFC", id)


def _text(name: str | Path) -> str:
    """A name as printable text, even if the system returns bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
