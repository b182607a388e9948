"""What is in an .onnx file, before onnxruntime reads it: a file from elsewhere is not to be trusted.

A model of vocos-onnx holds all of its weights. One that names other files to take them from could have any file read
that this process may read, so it is refused. The file is walked as Protocol Buffers are written
(protobuf.dev/programming-guides/encoding), by the numbers of onnx.proto3, and nothing of it is copied.
"""

from __future__ import annotations

import mmap
from pathlib import Path

_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\x1f\x8b": "compressed with gzip",
    b"version https://git-lfs": "a pointer of git-lfs, without what it points to",
    b"<": "a web page or XML",
    b"{": "JSON",
}
# message -> number of a field -> the message in it; a tensor's fields 13 and 14 say that its data are elsewhere
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "elsewhere"},
}
_DEEPEST = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_model_file(path: Path) -> None:
    """Raises ValueError: the file is empty, damaged, of another kind, or takes data from other files."""
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path} is empty; copy or export it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start, what in _OTHER_FILES.items():
            if data[: len(start)] == start:
                raise ValueError(
                    f"{path} is {what}, not an ONNX model, whatever its name says; nothing in it was run. Export a "
                    "checkpoint with: vocos-onnx export"
                )
        try:
            elsewhere = _refers_elsewhere(data, 0, size, "model", 0)
        except (IndexError, _DamagedError):
            raise ValueError(
                f"{path} ({size} bytes) is truncated, damaged or not an ONNX model; copy or export it again"
            ) from None
        if elsewhere:
            raise ValueError(
                f"{path} takes its weights from other files, which a model from elsewhere must not; models of "
                "vocos-onnx hold all of their own: export the checkpoint again"
            )


class _DamagedError(Exception):
    pass


def _refers_elsewhere(data: mmap.mmap, at: int, end: int, message: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise _DamagedError
    inner = _FIELDS[message]
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            if message == "tensor" and number == 14 and value:
                return True
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > end:
                raise _DamagedError
            nested = inner.get(number)
            if nested == "elsewhere" or (nested and _refers_elsewhere(data, at, at + length, nested, depth + 1)):
                return True
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _DamagedError
    if at != end:
        raise _DamagedError
    return False


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _DamagedError
