"""Builds files in the format of torch.save, valid or malicious, as bytes and without torch."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STORAGES = {
    "f4": "FloatStorage", "f2": "HalfStorage", "u2": "BFloat16Storage", "f8": "DoubleStorage", "i8": "LongStorage",
    "i4": "IntStorage", "i2": "ShortStorage", "i1": "CharStorage", "u1": "ByteStorage", "?": "BoolStorage",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A global: module and name, separated by a space."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call of a global, or of anything else; BUILD then applies ``state`` to the result."""

    called: Any
    arguments: Any = ()
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    """A persistent id, which torch writes in place of a storage."""

    id: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes, copied verbatim."""

    opcodes: bytes


def pickled(value: Any) -> bytes:
    """A value as a pickle of protocol 2, whatever it calls."""
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    """The opcodes that push a value onto the stack; lists and tuples may be nested."""
    match value:
        case Raw(data):
            return data
        case Name(name):
            return b"c" + name.replace(" ", "\n", 1).encode() + b"\n"
        case Call(called, arguments, state):
            made = opcodes(called) + opcodes(arguments) + b"R"
            return made if state is None else made + opcodes(state) + b"b"
        case Persistent(id_):
            return opcodes(id_) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return (b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data))) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(text)) + text
        case bytes():
            return b"C" + bytes([len(value)]) + value
        case dict():
            return b"}(" + b"".join(opcodes(item) for pair in value.items() for item in pair) + b"u"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
    raise TypeError(value)


def storage(key: str, kind: str, count: int) -> Persistent:
    """A reference to the storage data/KEY, with its type and number of elements."""
    return Persistent(("storage", Name(f"torch {STORAGES[kind]}"), key, "cpu", count))


HOOKS = Call(Name("collections OrderedDict"))


def view(of: Any, shape: Any, strides: Any, offset: Any = 0, more: tuple[Any, ...] = ()) -> Call:
    """A tensor as a view of a storage."""
    return Call(Name("torch._utils _rebuild_tensor_v2"), (of, offset, shape, strides, False, HOOKS, *more))


def tensor(key: str, array: np.ndarray) -> Call:
    """A contiguous tensor that fills the storage data/KEY."""
    strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    return view(storage(key, array.dtype.str.lstrip("<>|").replace("b1", "?"), array.size), array.shape, strides)


def archive(
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    folder: str = "archive",
    others: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """The zip archive of a pickle and its storages, with version and byteorder; ``others`` adds or replaces members."""
    members = {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{key}": data for key, data in (storages or {}).items()}
    members |= others or {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, data in members.items():
            out.writestr(f"{folder}/{name}", data)
    return buffer.getvalue()


def saved(arrays: Mapping[str, np.ndarray], **kwargs: Any) -> bytes:
    """A state dict of these arrays as torch.save writes it; uint16 arrays become bfloat16 tensors."""
    state = {name: tensor(str(i), array) for i, (name, array) in enumerate(arrays.items())}
    storages = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    return archive(pickled(state), storages, **kwargs)


def safetensors(entries: Any, body: bytes = b"", claimed: int | None = None) -> bytes:
    """A safetensors file with any header (bytes are written verbatim) and any claimed header size."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + body


def entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
