"""The safetensors format: the length of the header, the header in JSON, and the values of the tensors in sequence.

The format is described at github.com/huggingface/safetensors under "Format". As that page requires, names must be
unique, and the tensors must cover all bytes after the header, without holes or overlaps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vocos_onnx.messages import shown

from .config import parse_json
from .stored import DTYPES, Place, RefusedError, Stored, WeightsFile, check_shape, row_major

_LENGTH = 8  # bytes of the length of the header
_MAX_HEADER = 1 << 20  # bytes; a tensor takes about 100
_TYPES = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool",
    "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64",
}  # fmt: skip


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes is safetensors: its header, a JSON object, begins with a brace."""
    return head[_LENGTH : _LENGTH + 1] == b"{"


def read_safetensors(file: WeightsFile) -> dict[str, Stored]:
    """Returns the names and places of the tensors, in the order of the file.

    Raises ValueError if the header breaks the rules of the format, RefusedError if a tensor has an unsupported type,
    such as float8.
    """
    length = int.from_bytes(file.read(0, _LENGTH), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"its header has {length} bytes, expected at most {_MAX_HEADER}")
    text = file.read(_LENGTH, length)
    if not text.startswith(b"{"):
        raise ValueError("its header is no JSON object")
    header = parse_json(text.decode("utf-8"))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"its __metadata__ is {shown(metadata)}, expected texts")
    found = sorted((_entry(name, entry, _LENGTH + length) for name, entry in header.items()), key=_by_place)
    at = _LENGTH + length
    for name, stored in found:
        if stored.place.start != at:
            raise ValueError(f"{shown(name)} begins at byte {stored.place.start}, expected {at}")
        at += stored.place.size
    if at != file.size:
        raise ValueError(f"its tensors end at byte {at}, and it has {file.size}")
    return dict(found)


def _by_place(found: tuple[str, Stored]) -> tuple[int, int]:
    return found[1].place.start, found[1].place.size


def _entry(name: str, entry: Any, body: int) -> tuple[str, Stored]:
    """Returns the name and place of one tensor; ``body`` is where the bytes after the header begin."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown(name)} is {shown(entry)}, expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{shown(name)} has the shape {shown(shape)} and the data_offsets {shown(offsets)}")
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise RefusedError(
            f"has the tensor {shown(name)} of type {shown(dtype)}, expected one of {', '.join(_TYPES)}: save it in one "
            "of these"
        )
    check_shape(tuple(shape))
    size, expected = offsets[1] - offsets[0], math.prod(shape) * np.dtype(DTYPES[_TYPES[dtype]]).itemsize
    if size != expected:
        raise ValueError(f"{shown(name)} has {size} bytes, and its shape {shown(shape)} takes {expected}")
    place = Place(body + offsets[0], size)
    return name, Stored(_TYPES[dtype], tuple(shape), row_major(tuple(shape)), 0, place)


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
