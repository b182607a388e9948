"""Checkpoints that run code when unpickled, or claim to be larger than they are."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import zipfile
import zlib
from typing import Any

import torch


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Call:
    """Unpickling it calls a function and can set attributes of the result."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def two_directories(value: Any, shown: Any) -> bytes:
    """A zip archive with two directories: readers that trust the offset in the end record find the pickle of ``value``;
    Python's zipfile uses the directory just before the end record and finds the pickle of ``shown``."""
    files, directories = b"", []
    for content in (pickle.dumps(value, 2), pickle.dumps(shown, 2)):
        directory = b""
        for name, data in ((b"archive/data.pkl", content), (b"archive/version", b"3\n" + bytes(200))):
            head = struct.pack("<3HI3IHH", 20, 0, 0, 0x21 << 16, zlib.crc32(data), len(data), len(data), len(name), 0)
            directory += b"PK\1\2\x14\0" + head + struct.pack("<3H2I", 0, 0, 0, 0, len(files)) + name
            files += b"PK\3\4" + head + name + data
        directories.append(directory)
    first, second = directories
    # Python shifts every offset, since the directory is not where the end record says; subtract that shift
    moved = bytearray()
    for entry in (second[: 46 + 16], second[46 + 16 :]):
        (place,) = struct.unpack_from("<I", entry, 42)
        moved += entry[:42] + struct.pack("<I", place - len(first)) + entry[46:]
    assert len(first) == len(second)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(first), len(files), 0)
    return files + first + bytes(moved) + end


def zipped(value: Any) -> bytes:
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def deflated(value: Any, more: int) -> bytes:
    """The archive that torch.save writes, compressed, with ``more`` zero bytes appended to its first tensor."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(zipped(value))) as stored,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in stored.namelist():
            out.writestr(name, stored.read(name) + bytes(more if name.endswith("/data/0") else 0), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def safetensors_file(header: Any, body: bytes = b"", claimed: int | None = None) -> bytes:
    """A safetensors file with any header and any claimed header size."""
    text = json.dumps(header).encode()
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + body


def _repeated(first: str, form: str) -> str:
    """YAML in which each line refers to the previous one nine times."""
    names = ["a", *(f"b{i}" for i in range(18))]
    lines = [f"{name}: &{name} {form % ', '.join([f'*{last}'] * 9)}" for last, name in itertools.pairwise(names)]
    return "\n".join([f"a: &a {first}", *lines])


# short YAML that expands to 10**18 values, contains itself, nests too deeply, or holds oversized or invalid scalars
BOMBS = {
    "aliases": _repeated("[x]", "[%s]"),
    "merges": _repeated("{x: 1}", "{<<: [%s]}"),
    "itself": "a: &a [*a]",
    "brackets": "[" * 30_000,
    "digits": "a: " + "9" * 5000,
    "hexadecimal": "a: 0x" + "f" * 60_000,
    "long": "a: " + "x" * (1 << 20),
    "list": "a: [" + "1," * 1_000_000 + "1]",
    "date": "a: 2001-99-99",
    "tag": "a: !!timestamp x",
}
