"""Reads arrays from files that other programs wrote: .npy, .npz, .json and .safetensors. Pickles are never loaded."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from vocos_onnx.messages import first_line, in_python, in_shell, listed, shown

from .kinds import kind_of

HEAD = 1 << 12  # bytes read to identify the kind of file
_FREE, _RATIO = 64 << 20, 200  # an array may unpack to this many bytes, or to this multiple of its compressed size
_MAX_JSON = 16 << 20  # bytes of text: an hour and a half of tokens; once parsed, up to 30 times as much memory
_MAX_AXES = 4
_END = 22  # bytes of a zip archive's end-of-directory record, without its comment
_ARRAYS = "a token file is .npy, .npz, .json or .safetensors"
_NO_OBJECTS = (
    "holds Python objects, which are never loaded since that can run programs; in the program that wrote it, save the "
    'numbers alone: numpy.save("tokens.npy", numpy.array(tokens, dtype=numpy.int64)), or, if they are mels, '
    'numpy.save("mels.npy", numpy.array(mels, dtype=numpy.float32))'
)
_SAFETENSORS = {
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}

_AUDIO = "aac aif aifc aiff amr ape au caf flac m4a mka mp3 mp4 oga ogg opus rf64 snd voc w64 wav wave weba webm wma wv"
_TORCH = ("pt", "pth", "ckpt")
_PICKLES = ("pkl", "pickle", "p", "joblib")


@dataclass(frozen=True)
class Entry:
    """An array in a file, not read yet: its size in ``bytes``, and the shape and dtype that its header claims."""

    bytes: int
    header: Callable[[], tuple[tuple[int, ...], str]]  # shape and dtype; raises ValueError if it is not an array
    read: Callable[[], npt.NDArray[Any]]


def entries(file: IO[bytes], name: str) -> Entry | dict[str, Entry]:
    """Returns the contents of a seekable file: one array, or several by name. Only the extension of ``name`` is used.

    Raises ValueError for any other kind of file; the message gives the remedy.
    """
    head = file.read(HEAD)
    size = file.seek(0, 2)
    check_kind(head, name)
    if head.startswith(b"\x93NUMPY"):
        return _numpy(lambda: _at(file, 0), size)
    if head.startswith(b"PK"):
        return _archive(file, name)
    if _is_safetensors(head):
        return _safetensors(file, size)
    file.seek(0)
    return _json(file.read(_MAX_JSON + 1))


def check_kind(head: bytes, name: str) -> None:
    """Raises ValueError unless a file with this head may hold arrays; the message says what the file is instead."""
    ending = PurePath(name).suffix[1:].lower()
    start = head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]  # after a byte order mark, UTF-16 included
    if not head:
        raise ValueError("it is empty")
    if head.startswith((b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")) or _is_safetensors(head):
        return
    if start in (b"[", b"{"):
        return
    if head.startswith(b"ECDC") or ending == "ecdc":
        wav = in_shell(name or "speech.ecdc", ".wav")
        raise ValueError(
            "it is a recording that the encodec program compressed (ECDC), which that alone unpacks: encodec "
            f"{in_shell(name or 'speech.ecdc', '.ecdc')} {wav}, and then vocos-onnx encode {wav} "
            f"{in_shell(name or 'speech.ecdc', '.npz')} makes tokens of it"
        )
    found, _ = kind_of(head, ended=True)
    if (found is not None and found.group == "audio") or ending in _AUDIO.split():
        name = name or "speech.wav"
        output = in_shell(name, "_tokens.npz" if ending == "npz" else ".npz")
        raise ValueError(f"it is audio, not tokens: vocos-onnx encode {in_shell(name)} {output} makes tokens of it")
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and ending not in _TORCH and b"\xfc\x9cF\xf9" not in head[:16]:
        raise ValueError(f"it is a pickle, and {_NO_OBJECTS}")
    if head[:1] == b"\x80" or ending in _TORCH:
        _refuse_torch(name)
    if ending in _PICKLES:
        raise ValueError(f"it is a pickle, and {_NO_OBJECTS}")
    if ending == "onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        raise ValueError(f"it is a model (ONNX), not a token file: pass it as the model; {_ARRAYS}")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is the pointer to a file of Git LFS, not the file itself: git lfs pull gets that")
    if head.startswith(b"\x1f\x8b"):
        raise ValueError(f"it is compressed by gzip: unpack it with gunzip first; {_ARRAYS}")
    if start == b"<":
        raise ValueError(f"it is a page (HTML or XML), not a token file: download the file itself; {_ARRAYS}")
    if _is_text(head):
        _refuse_text(head, name, ending)
    if ending in ("npy", "npz"):
        raise ValueError(f"it is damaged, or not .{ending} in spite of its name")
    raise ValueError(f"it is not a token file; {_ARRAYS}")


def _refuse_torch(name: str) -> NoReturn:
    name = name or "tokens.pt"
    raise ValueError(
        f"it is a file of torch, which is read with torch alone: numpy.save({in_python(f'{name}.npy')}, "
        f'torch.load({in_python(name)}, map_location="cpu", weights_only=True).numpy()) makes a .npy file of its '
        "tensor; where it holds a list or a dict, take the tensor of the codes out of that first"
    )


def _refuse_text(head: bytes, name: str, ending: str) -> NoReturn:
    named = ending in ("npy", "npz", "safetensors")
    what = f"it is text, not a .{ending} file in spite of its name" if named else "it is text"
    lines = head.decode(errors="replace").split("\n")
    words = lines[0].replace(",", " ").split()
    if not words or not all(word.lstrip("+-").isdigit() for word in words):
        raise ValueError(what if named else f"it is text, not a token file; {_ARRAYS}")
    comma = ', delimiter=","' if "," in lines[0] else ""
    name = name or "tokens.txt"
    output = f"{PurePath(name).with_suffix('')}_array.npy" if named else f"{name}.npy"
    raise ValueError(
        f"{what}: numpy.save({in_python(output)}, "
        f"numpy.loadtxt({in_python(name)}, dtype=int, ndmin=2{comma})) makes a token file of numbers "
        "with one line for each codebook"
    )


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and int.from_bytes(head[:8], "little") < 1 << 32 and head[8:9] == b"{"


def _is_text(head: bytes) -> bool:
    text = head.decode(errors="ignore")
    return len(text.encode()) > len(head) - 4 and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def _check_end(extra: int, where: str = "after its end") -> None:
    """Raises ValueError if a file is longer than it claims: anything appended to it would be lost."""
    if extra > 0:
        raise ValueError(
            f"it has {extra} bytes {where}: were several files joined together? Give each of them as a file of its own"
        )


def _at(file: IO[bytes], place: int) -> IO[bytes]:
    file.seek(place)
    return file


def _numpy(opened: Callable[[], IO[bytes]], size: int) -> Entry:
    """An array in numpy's format, ``size`` bytes long; ``opened`` returns the file positioned at its start."""

    def header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        try:
            version = np.lib.format.read_magic(file)
        except ValueError:
            raise ValueError("is no array") from None
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in reader:
            raise ValueError(f"has version {version} of numpy's format, expected 1.0 or 2.0, as plain arrays have")
        try:
            shape, _, dtype = reader[version](file)
        except Exception:  # on a damaged header numpy raises whatever its parsers raise
            raise ValueError("has a damaged header") from None
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("has a damaged header")
        return shape, dtype, file.tell()

    def described() -> tuple[tuple[int, ...], str]:
        shape, dtype, _ = header(opened())
        return shape, str(dtype)

    def read() -> npt.NDArray[Any]:
        shape, dtype, start = header(opened())
        if dtype.hasobject:
            raise ValueError(_NO_OBJECTS)
        promised, there = math.prod(shape) * dtype.itemsize, size - start
        if promised > there:
            raise ValueError(
                f"promises {shown(promised)} bytes and has {there}: it is truncated, copy or make it again"
            )
        _check_end(there - promised)
        array: npt.NDArray[Any] = np.lib.format.read_array(opened(), allow_pickle=False)
        return array

    return Entry(size, described, read)


def _archive(file: IO[bytes], name: str) -> dict[str, Entry]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise ValueError("its directory is missing: it is truncated or damaged, copy or make it again") from None
    members = archive.infolist()
    file.seek(0, 2)
    tail = _at(file, max(0, file.tell() - _END - (1 << 16))).read()
    end = tail.rfind(b"PK\5\6")  # the end-of-directory record; a comment follows it
    _check_end(len(tail) - end - _END - int.from_bytes(tail[end + 20 : end + _END], "little"))
    _check_end(min((member.header_offset for member in members), default=0), "before its start")
    if any(member.filename.rpartition("/")[2] == "data.pkl" for member in members):
        _refuse_torch(name)
    names = [member.filename.removesuffix(".npy") for member in members]
    _check_once(names)

    def entry(member: zipfile.ZipInfo) -> Entry:
        most = max(_FREE, _RATIO * member.compress_size)
        found = _numpy(lambda: archive.open(member), member.file_size)

        def read() -> npt.NDArray[Any]:
            if (reason := not_unpacked(member)) is not None:
                raise ValueError(reason)
            if member.file_size > most:
                raise ValueError(
                    f"unpacks to {member.file_size} bytes, from {member.compress_size}, expected at most {most}"
                )
            return found.read()

        return Entry(found.bytes, found.header, read)

    return {name: entry(member) for name, member in zip(names, members, strict=True)}


def not_unpacked(member: zipfile.ZipInfo) -> str | None:
    """Returns why an archive entry cannot be unpacked, whatever its size; None if it can."""
    if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return None
    method = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}.get(
        member.compress_type, f"the method {member.compress_type}"
    )
    return f"is compressed by {method}, expected stored or deflated, as numpy does it"


def _check_once(names: Sequence[str]) -> None:
    """Raises ValueError if a name occurs twice: nothing says which one is meant."""
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise ValueError(f"it has the name {shown(name)} more than once")


def _safetensors(file: IO[bytes], size: int) -> dict[str, Entry]:
    """https://github.com/huggingface/safetensors#format: a JSON header's length, the header, the tensors' bytes."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MAX_JSON):
        raise ValueError(f"its header promises {length} bytes, expected at most {min(size - 8, _MAX_JSON)}")
    described = _parse(file.read(length))
    if not isinstance(described, dict):
        raise ValueError("its header is no JSON object")
    start = 8 + length
    tensors = {name: given for name, given in described.items() if name != "__metadata__"}

    def entry(name: str, given: Any) -> Entry:
        def header() -> tuple[tuple[int, ...], str]:
            match given:
                case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(), int()]}:
                    if len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape):
                        return tuple(shape), dtype
            raise ValueError(f"is described as {shown(given)}, expected dtype, shape and data_offsets")

        def read() -> npt.NDArray[Any]:
            shape, name_of = header()
            first, last = given["data_offsets"]
            kind = np.dtype(_SAFETENSORS.get(name_of, "<u2" if name_of == "BF16" else "V1"))
            if kind.kind == "V":
                raise ValueError(f"has dtype {shown(name_of)}, expected one of {', '.join(_SAFETENSORS)}, BF16")
            if not 0 <= first <= last <= size - start or last - first != math.prod(shape) * kind.itemsize:
                raise ValueError(
                    f"of shape {shown(shape)} and dtype {name_of} lies from {shown(first)} to {shown(last)} of "
                    f"{size - start} bytes: the file is damaged, copy or make it again"
                )
            with suppress(TypeError, LookupError):  # a damaged tensor is reported when that tensor is read
                _check_end(size - start - max(given["data_offsets"][1] for given in tensors.values()))
            array = np.frombuffer(_at(file, start + first).read(last - first), kind)
            if name_of == "BF16":  # the upper half of a float32
                array = (array.astype("<u4") << 16).view("<f4")
            return array.reshape(shape)

        return Entry(size, header, read)

    return {name: entry(name, given) for name, given in tensors.items()}


def _json(text: bytes) -> Entry | dict[str, Entry]:
    if len(text) > _MAX_JSON:
        raise ValueError(f"it is JSON of more than {_MAX_JSON >> 20} MiB: save what is so long as .npy or .npz")
    given = _parse(text)

    def entry(value: Any) -> Entry:
        def header() -> tuple[tuple[int, ...], str]:
            array = read()
            return array.shape, str(array.dtype)

        def read() -> npt.NDArray[Any]:
            return np.array(value) if isinstance(value, str | int | None) else _nested(value)

        return Entry(len(value) if isinstance(value, str) else 0, header, read)

    if isinstance(given, dict):
        if given and not any(isinstance(value, list) for value in given.values()):
            keys = f"key{'s' if len(given) > 1 else ''} {listed(given)}"
            raise ValueError(f"it has the {keys} and no list; expected tokens, a list of lists of integers")
        return {name: entry(value) for name, value in given.items() if value is not None}
    if isinstance(given, list):
        return entry(given)
    raise ValueError("it is JSON, but neither a nested list of integers nor an object with one")


def _parse(text: bytes) -> Any:
    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"it holds {name}, expected integers")

    def integer(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError(f"it holds an integer of {len(digits)} digits, expected those of tokens")
        return int(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_once([name for name, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=no_constant, parse_int=integer, object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no valid JSON: {first_line(error)}") from None
    except RecursionError:
        raise ValueError(f"its lists are nested more than {_MAX_AXES} deep") from None


def _nested(value: Any) -> npt.NDArray[np.int64]:
    """Converts nested lists of integers to an array. Raises ValueError if they are ragged, too deep or not integers."""
    shape: list[int] = []
    rows = [value]
    while rows and all(isinstance(row, list) for row in rows):
        lengths = [len(row) for row in rows]
        other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        if other is not None:
            raise ValueError(
                f"is ragged: its first list has {lengths[0]} items and list {other + 1} has {lengths[other]}, expected "
                "lists of one length"
            )
        if len(shape) == _MAX_AXES:
            raise ValueError(f"is nested more than {_MAX_AXES} deep")
        shape.append(lengths[0])
        rows = list(chain.from_iterable(rows))
    wrong = next((row for row in rows if type(row) is not int), None)
    if set(map(type, rows)) - {int}:
        whole = isinstance(wrong, float) and wrong.is_integer()
        raise ValueError(f"holds {shown(wrong)}, expected integers" + (": write them without a point" if whole else ""))
    try:
        return np.array(rows, np.int64).reshape(shape)
    except OverflowError:
        worst = max(rows, key=abs)
        raise ValueError(f"holds {shown(worst)}, expected integers of tokens") from None


def names_and_shapes(found: dict[str, Entry]) -> str:
    """Lists the arrays of a file, for a message."""

    def one(name: str, entry: Entry) -> str:
        printed = name if name.isprintable() else ascii(name)
        try:
            shape, dtype = entry.header()
        except Exception:  # on a damaged archive zipfile raises whatever its parsers raise
            return f"{listed([printed])} (no array)"
        return f"{listed([printed])} {shown(shape)} {listed([dtype])}"

    first = [one(name, entry) for name, entry in list(found.items())[:10]]
    return ", ".join(first) + (f" and {len(found) - 10} more" if len(found) > 10 else "") or "nothing"
