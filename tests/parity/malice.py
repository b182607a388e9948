"""Checkpoints that run code where they are unpickled, or claim to be larger than they are."""

from __future__ import annotations

import io
import itertools
import json
import os
import zipfile
from typing import Any

import torch


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def zipped(value: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def deflated(value: Any, more: int) -> bytes:
    """What torch.save writes, compressed, with so many zeros after the first of its tensors."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(zipped(value))) as stored,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in stored.namelist():
            out.writestr(name, stored.read(name) + bytes(more if name.endswith("/data/0") else 0), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def safetensors_file(header: Any, body: bytes = b"", claimed: int | None = None) -> bytes:
    """A file whose header says anything, and claims to be of some size."""
    text = json.dumps(header).encode()
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + body


def _repeated(first: str, form: str) -> str:
    """Nine times the line before, on each line."""
    names = ["a", *(f"b{i}" for i in range(18))]
    lines = [f"{name}: &{name} {form % ', '.join([f'*{last}'] * 9)}" for last, name in itertools.pairwise(names)]
    return "\n".join([f"a: &a {first}", *lines])


# a few lines that stand for 10**18 values, or for themselves, or are nested without end
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
