"""Builds ONNX files, well-formed or not, as bytes, without a Protocol Buffers library."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

FLOAT, INT64, STRING, BOOL, DOUBLE = 1, 7, 8, 9, 11
KINDS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
# metadata of the tiny models below: 8 mels -> an MDCT of 16 bins
CONFIG: dict[str, Any] = {
    "format": 6, "sample_rate": 8000, "head": "imdct_cos", "n_fft": 32, "hop_length": 16, "padding": "center",
    "clip_audio": False, "feature_channels": 8, "num_bandwidth_ids": 0, "reach": 0, "encodec": None,
    "mel": {
        "n_fft": 64, "hop_length": 16, "n_mels": 8, "padding": "center", "f_min": 0.0, "f_max": 4000.0,
        "mel_scale": "htk", "norm": "none", "clip": 1e-7, "power_offset": 0.0,
    },
    "source": {"name": "x", "revision": "", "sha256": "", "exporter": "0"},
    "precision": "float32", "quality": None,
}  # fmt: skip


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1 if number < 0 else -1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, *values: bytes | str | int | float) -> bytes:
    """One field: a number, or a length-delimited value, given as strings and bytes to be joined."""
    if isinstance(values[0], int):
        return varint(number << 3) + varint(values[0])
    if isinstance(values[0], float):
        return varint(number << 3 | 5) + struct.pack("<f", values[0])
    pieces: list[bytes] = []
    for value in values:
        assert isinstance(value, str | bytes)
        pieces.append(value.encode() if isinstance(value, str) else value)
    data = b"".join(pieces)
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, value: Any, dims: Sequence[int] | None = None, kind: int | None = None) -> bytes:
    """A TensorProto of an array; ``dims`` and ``kind`` can declare a shape or type that does not match."""
    array = np.asarray(value)
    kind = KINDS[str(array.dtype)] if kind is None else kind
    shape = array.shape if dims is None else dims
    return b"".join(field(1, int(d)) for d in shape) + field(2, kind) + field(8, name) + field(9, array.tobytes())


def attribute(name: str, value: Any) -> bytes:
    """An AttributeProto; bytes stand for a graph, a tuple for a tensor."""
    match value:
        case int():
            return field(1, name) + field(3, value) + field(20, 2)
        case float():
            return field(1, name) + field(2, value) + field(20, 1)
        case str():
            return field(1, name) + field(4, value) + field(20, 3)
        case bytes():
            return field(1, name) + field(6, value) + field(20, 5)
        case tuple():
            return field(1, name) + field(5, tensor(*value)) + field(20, 4)
    return field(1, name) + b"".join(field(8, int(v)) for v in value) + field(20, 7)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> bytes:
    return (
        b"".join(field(1, name) for name in inputs)
        + b"".join(field(2, name) for name in outputs)
        + field(4, operator)
        + (field(7, domain) if domain else b"")
        + b"".join(field(5, attribute(name, value)) for name, value in attributes.items())
    )


def value(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> bytes:
    """A ValueInfoProto of a tensor."""
    sizes = [field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape or ()]
    of = field(1, kind) + (b"" if shape is None else field(2, *sizes, b""))
    return field(1, name) + field(2, field(1, of))


def graph(
    nodes: Sequence[bytes], tensors: Sequence[bytes] = (), inputs: Sequence[bytes] = (), outputs: Sequence[bytes] = ()
) -> bytes:
    parts = ((1, nodes), (5, tensors), (11, inputs), (12, outputs))
    return b"".join(field(n, message) for n, several in parts for message in several) + field(2, "graph")


def model(
    of: bytes,
    metadata: str | None = None,
    opsets: Sequence[tuple[str, int]] = (("", 20), ("com.microsoft", 1)),
    key: str = "vocos_onnx",
) -> bytes:
    """A ModelProto of a graph, with the given metadata or that of a tiny model."""
    text = json.dumps(CONFIG) if metadata is None else metadata
    versions = b"".join(field(8, field(1, domain), field(2, version)) for domain, version in opsets)
    return field(1, 10) + versions + field(7, of) + field(14, field(1, key), field(2, text))


FEATURES, SPECTRUM = value("features", ["batch", 8, "frames"]), value("spectrum", ["batch", "frames", 16])
WEIGHT = tensor("weight", np.ones((8, 16), np.float32))
NETWORK = (
    node("Transpose", ["features"], ["turned"], perm=[0, 2, 1]),
    node("MatMul", ["turned", "weight"], ["spectrum"]),
)


def tiny(
    nodes: Sequence[bytes] = (), tensors: Sequence[bytes] = (), last: Sequence[bytes] = NETWORK, **more: Any
) -> bytes:
    """A model of one matrix product, with extra nodes and tensors before it."""
    return model(graph([*nodes, *last], [*tensors, WEIGHT], [FEATURES], [SPECTRUM]), **more)
