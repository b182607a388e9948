"""Reads and checks .onnx files before onnxruntime sees them: a file from elsewhere cannot be trusted.

The bytes that are checked are those that are hashed and loaded. Of everything that ONNX and Protocol Buffers allow, it
accepts only what the exports of vocos-onnx, and other exporters of a Vocos, write: one graph of known operators, which
holds all of its weights. A graph that takes data from other files could read any file that this process may read; other
graphs never end, or crash onnxruntime.

Protocol Buffers are decoded here (protobuf.dev/programming-guides/encoding) with the schemas of onnx.proto3; weights
are not copied. Readers disagree about duplicate fields, tags and numbers with needless bytes, and bits beyond the width
of a number. No writer produces those, so all of them are rejected.

The codebooks are not part of the network: they are an initializer that no node uses. They are read here, and
onnxruntime gets the file without them.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.messages import listed, reading, shown

from .config import ENCODER_KEY, METADATA_KEY, newer_format
from .mistaken import foreign_vocos, other_file_message
from .onnx_bytes import SMALL, ByteRange, field, field_head, field_start, fields_of, number_field, padding_of, varint
from .operators import (
    BOOL,
    DOMAINS,
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT8,
    INT32,
    INT64,
    TYPE_NAMES,
    UINT8,
    Constant,
    FormError,
    Node,
    constant_of,
    looked_up,
    output_kind,
)
from .shapes import MAX_FIXED, MAX_RANK, Known, Shape, Size, branch_shapes, elements, frames_seen, named, output_shapes

CODEBOOKS_NAME = "codebooks"  # the name of the initializer that holds them
WHOLE, STEP = "whole", "step"  # the graphs of a model: for whole sequences, and for frames that continue from a state
STATES = ("past_features", "past")  # the inputs that are the state; outputs prefixed with "next_" are the new state

MAX_SIZE = 1 << 30  # bytes; the largest known model has 54 MB, and ONNX allows at most 2 GB
MAX_NODES = 10_000  # the bundled networks have 160
_MAX_FIELDS = 1_000_000
_MAX_DEPTH = 8
_FEW = 1024  # the values of longer integer tensors are not read
_HEAD = 4096  # leading bytes from which other file formats are recognised
_MAX_NAME, _MAX_TEXT = 4096, 1 << 20  # bytes
_OPSETS = range(13, 27)  # our exports have 20, others have 13 to 20
_EXPORT = "convert the checkpoint with: vocos-onnx convert"
_FLOAT = "onnxruntime has quantised it: take the file in float32"
_QUANTIZED = (
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
)  # fmt: skip

_BRANCHES = {"then_branch", "else_branch"}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_WIRES = {"int": _VARINT, "float": _FIXED32, "double": _FIXED64}  # for these kinds; all others are bytes
_WIDTHS = {"float": 4, "double": 8}  # bytes of each number in a packed field; the width of integers varies
Buffer = bytes | mmap.mmap


class _Schema:
    """The fields of a message by their names in onnx.proto3, each with its number and kind.

    The kind of a field that may be repeated ends with a star. A field of the kind "elsewhere" takes data from other
    files; "foreign" fields exist in ONNX, but not in our models; an "entry" is skipped. Error messages call the message
    ``what``.
    """

    def __init__(self, what: str, fields: Mapping[str, tuple[int, str]]) -> None:
        self.what = what
        self.numbers = {name: number for name, (number, _) in fields.items()}
        self.kinds = {name: kind.removesuffix("*") for name, (_, kind) in fields.items()}
        # the tag of a field (its number and wire type) -> its name, its kind, and whether it may be repeated
        self.tags = {
            number << 3 | wire: (name, self.kinds[name], kind.endswith("*"))
            for name, (number, kind) in fields.items()
            for wire in _wires(kind)
        }


def _wires(kind: str) -> set[int]:
    """Returns the wire types that a field of this kind may have; repeated numbers may be packed."""
    one = kind.removesuffix("*")
    if one in ("foreign", "elsewhere", "entry"):
        return {_VARINT, _FIXED64, _BYTES, _FIXED32}
    return {_WIRES.get(one, _BYTES), *([_BYTES] if kind != one else [])}


_MODEL = _Schema("the model", {
    "ir_version": (1, "int"),
    "producer_name": (2, "name"),
    "producer_version": (3, "name"),
    "domain": (4, "name"),
    "model_version": (5, "int"),
    "doc_string": (6, "text"),
    "graph": (7, "message*"),
    "opset_import": (8, "message*"),
    "metadata_props": (14, "message*"),
    "training_info": (20, "foreign*"),
    "functions": (25, "message*"),
    "configuration": (26, "foreign*"),
})  # fmt: skip
_FUNCTION = _Schema("a function", {
    "name": (1, "name"),
    "input": (4, "name*"),
    "output": (5, "name*"),
    "attribute": (6, "name*"),
    "node": (7, "message*"),
    "doc_string": (8, "text"),
    "opset_import": (9, "message*"),
    "domain": (10, "name"),
    "attribute_proto": (11, "message*"),
    "value_info": (12, "message*"),
    "overload": (13, "name"),
    "metadata_props": (14, "message*"),
})  # fmt: skip
_GRAPH = _Schema("a graph", {
    "node": (1, "message*"),
    "name": (2, "name"),
    "initializer": (5, "message*"),
    "doc_string": (10, "text"),
    "input": (11, "message*"),
    "output": (12, "message*"),
    "value_info": (13, "message*"),
    "quantization_annotation": (14, "foreign*"),
    "sparse_initializer": (15, "foreign*"),
    "metadata_props": (16, "entry*"),
})  # fmt: skip
_NODE = _Schema("a node", {
    "input": (1, "name*"),
    "output": (2, "name*"),
    "name": (3, "name"),
    "op_type": (4, "name"),
    "attribute": (5, "message*"),
    "doc_string": (6, "text"),
    "domain": (7, "name"),
    "overload": (8, "foreign"),
    "metadata_props": (9, "entry*"),
    "device_configurations": (10, "foreign*"),
})  # fmt: skip
_ATTRIBUTE = _Schema("an attribute", {
    "name": (1, "name"),
    "f": (2, "float"),
    "i": (3, "int"),
    "s": (4, "bytes"),
    "t": (5, "message"),
    "g": (6, "message"),
    "floats": (7, "float*"),
    "ints": (8, "int*"),
    "strings": (9, "bytes*"),
    "tensors": (10, "message*"),
    "graphs": (11, "message*"),
    "doc_string": (13, "text"),
    "tp": (14, "foreign"),
    "type_protos": (15, "foreign*"),
    "type": (20, "int"),
    "ref_attr_name": (21, "foreign"),
    "sparse_tensor": (22, "foreign"),
    "sparse_tensors": (23, "foreign*"),
})  # fmt: skip
_TENSOR = _Schema("a tensor", {
    "dims": (1, "int*"),
    "data_type": (2, "int"),
    "segment": (3, "foreign"),
    "float_data": (4, "float*"),
    "int32_data": (5, "int*"),
    "string_data": (6, "foreign*"),
    "int64_data": (7, "int*"),
    "name": (8, "name"),
    "raw_data": (9, "bytes"),
    "double_data": (10, "double*"),
    "doc_string": (12, "text"),
    "external_data": (13, "elsewhere*"),
    "data_location": (14, "int"),
    "metadata_props": (16, "entry*"),
})  # fmt: skip
_VALUE = _Schema("a value", {
    "name": (1, "name"),
    "type": (2, "message"),
    "doc_string": (3, "text"),
    "metadata_props": (4, "entry*"),
})  # fmt: skip
_TYPE = _Schema("a type", {
    "tensor_type": (1, "message"),
    "sequence_type": (4, "foreign"),
    "map_type": (5, "foreign"),
    "denotation": (6, "name"),
    "opaque_type": (7, "foreign"),
    "sparse_tensor_type": (8, "foreign"),
    "optional_type": (9, "foreign"),
})  # fmt: skip
_TENSOR_TYPE = _Schema("a type", {"elem_type": (1, "int"), "shape": (2, "message")})
_SHAPE = _Schema("a shape", {"dim": (1, "message*")})
_DIMENSION = _Schema("a dimension", {"dim_value": (1, "int"), "dim_param": (2, "name"), "denotation": (3, "name")})
_OPSET = _Schema("an opset", {"domain": (1, "name"), "version": (2, "int")})
_ENTRY = _Schema("the metadata", {"key": (1, "name"), "value": (2, "text")})

# AttributeProto.AttributeType, and the field that holds the value of each
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _STRING_ATTRIBUTE, _TENSOR_ATTRIBUTE, _GRAPH_ATTRIBUTE = 1, 2, 3, 4, 5
_FLOATS_ATTRIBUTE, _INTS_ATTRIBUTE = 6, 7
_ATTRIBUTE_FIELDS = {
    _FLOAT_ATTRIBUTE: "f", _INT_ATTRIBUTE: "i", _STRING_ATTRIBUTE: "s", _TENSOR_ATTRIBUTE: "t", _GRAPH_ATTRIBUTE: "g",
    _FLOATS_ATTRIBUTE: "floats", _INTS_ATTRIBUTE: "ints",
}  # fmt: skip
# the type of a tensor's elements -> numpy's type, and the field that holds them if they are not in raw_data
_ELEMENTS: dict[int, tuple[np.dtype[Any], str]] = {
    FLOAT: (np.dtype("<f4"), "float_data"), UINT8: (np.dtype("u1"), "int32_data"), INT8: (np.dtype("i1"), "int32_data"),
    INT32: (np.dtype("<i4"), "int32_data"), INT64: (np.dtype("<i8"), "int64_data"), BOOL: (np.dtype("?"), "int32_data"),
    FLOAT16: (np.dtype("<f2"), "int32_data"), DOUBLE: (np.dtype("<f8"), "double_data"),
}  # fmt: skip
_ELSEWHERE = bytes([_TENSOR.numbers["data_location"] << 3 | _VARINT, 1])  # TensorProto.EXTERNAL
_VALUES = (_NODE.numbers["input"], _NODE.numbers["output"])
_TENSOR_DATA = {"raw_data", "float_data", "int32_data", "int64_data", "double_data"}


@dataclass(frozen=True)
class PinnedFile(os.PathLike[str]):
    """A model file that must have this sha256; ``remedy`` explains what to do if it does not."""

    path: Path
    sha256: str
    remedy: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


class Value(NamedTuple):
    """An input or output of a graph: its name, the ONNX number of its element type, and its shape."""

    name: str
    type: int
    shape: Shape


class Places(NamedTuple):
    """Where the graph of a model is, its inputs without the weights, and its outputs; and the names of its values.

    ``edits`` has replacements, tags and lengths included, for those of its fields on which onnxruntime would fail.
    """

    graph: ByteRange
    inputs: Sequence[ByteRange]
    outputs: Sequence[ByteRange]
    names: Set[str]
    edits: Mapping[ByteRange, bytes]


class ModelFile(NamedTuple):
    """A file that was read and checked.

    ``size`` is that of the file in bytes. ``graphs`` has two models, WHOLE and STEP, each with one branch in place of
    the network's ``If``; without ``has_branches`` they are the same. They lack the codebooks and the larger weights.
    The latter are in ``weights`` by name: onnxruntime uses them in place, which takes less memory and time than a model
    in one piece, and its sessions share them. ``inputs`` are those that the caller of the network provides, without the
    weights; they and the ``outputs`` are in the order of the file. ``codebooks`` is (num_codebooks, codebook_size,
    channels), or None. ``foreign`` lists the inputs and outputs of the other exporter's graph that this was made from,
    if any. ``places`` is where the parts of the graph are in ``data``, the bytes of the file.

    In a graph without our metadata, the outputs have the shapes that follow from the operators, because exporters only
    guess the shapes that they declare; onnxruntime does not see those. ``reach`` is an upper bound, from the operators
    of such a graph, on how many frames before and after a frame its output depends on. Operators that move frames
    (slices, reshapes) are not followed, so the bound must be verified by measurement. It is None if an operator depends
    on all frames or strides over them, and for graphs with our metadata, which states it.
    """

    path: Path
    size: int
    data: Buffer
    places: Places
    graphs: Mapping[str, bytes]
    has_branches: bool
    weights: Mapping[str, np.ndarray[Any, Any]]
    metadata: Mapping[str, str]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    codebooks: Float | None
    reach: int | None
    foreign: str


def read_model(
    path: Path, key: str = METADATA_KEY, *, sha256: str | None = None, remedy: str = "copy it again"
) -> ModelFile:
    """Reads and checks a model file.

    ``key`` is the metadata key of the wanted kind of model, on which the remedies in error messages depend. In files of
    format 4 the codebooks are also a graph output, in later ones they are not; both are read alike.

    Raises:
        ValueError: ``path`` is not a file, or the file is empty, too large, damaged or of another format, has another
            sha256, changes while it is read, takes data from other files, or has parts that no Vocos model has.
        OSError: the file cannot be read.
    """
    data = _read_into_pages(path)
    if sha256 is not None and (digest := hashlib.sha256(data).hexdigest()) != sha256.lower():
        raise ValueError(f"{path} has the sha256 {digest}, expected {sha256.lower()}: it is not loaded; {remedy}")
    if (other := other_file_message(path, data[:_HEAD], len(data), key)) is not None:
        raise ValueError(other)
    if data[4:8] == b"ORTM":  # these bytes are all that onnxruntime goes by
        raise ValueError(f"{path} is a model in the format of onnxruntime (.ort), not an ONNX model; {_EXPORT}")
    return parse_model(path, data)


def parse_model(path: Path, data: Buffer, *, foreign: str = "") -> ModelFile:
    """``read_model`` for the bytes of a file. ``foreign`` is stored in the result. Raises ValueError as that does."""
    check = _Check(data)
    try:
        check.model()
    except (_DamagedError, _RefusedError) as error:
        # A newer format may have parts that this version does not know, which is not damage.
        if newer := next(filter(None, map(newer_format, check.metadata.values())), None):
            raise ValueError(f"{path}: {newer}") from None
        raise _refusal(path, check, error) from None
    edits, graphs = _without_weights(check) | check.edits, {}
    for name, branch in (WHOLE, "then_branch"), (STEP, "else_branch"):
        graphs[name] = _rewritten(check, edits | _branch(check, branch))
    weights, codebooks = _arrays(check)
    return ModelFile(
        path=path,
        size=len(data),
        data=data,
        places=check.places,
        graphs=graphs,
        has_branches=check.network is not None,
        weights=weights,
        metadata=check.metadata,
        inputs=check.inputs,
        outputs=check.outputs,
        codebooks=codebooks,
        reach=None if check.reach is None else max(check.reach),
        foreign=foreign,
    )


def _refusal(path: Path, check: _Check, error: _DamagedError | _RefusedError) -> ValueError:
    if isinstance(error, _DamagedError):
        return ValueError(
            f"{path} ({len(check.data)} bytes) is truncated, damaged or not an ONNX model ({error}); copy or export it "
            "again"
        )
    # If the weights are in other files, the check ended before it read the names, and the message is about that.
    names = ([value.name for value in values] for values in (check.inputs, check.outputs))
    if (what := foreign_vocos(*names)) is not None:
        return ValueError(f"{path} {what}, and {error}")
    if check.is_foreign and [value.type for value in check.inputs] not in ([], [FLOAT]):
        inputs = listed(f"{value.name} ({TYPE_NAMES.get(value.type, value.type)})" for value in check.inputs)
        return ValueError(f"{path} takes {inputs}, where a Vocos takes mels alone, and {error}")
    return ValueError(f"{path} {error}")


def _rewritten(check: _Check, edits: Mapping[ByteRange, bytes]) -> bytes:
    """Returns the model with some fields of its graph replaced, tags and lengths included."""
    data, (at, end) = check.data, check.graph
    pieces = []
    for place in sorted(edits):
        pieces += [data[at : field_start(place)], edits[place]]
        at = place[1]
    graph = field(_MODEL.numbers["graph"], b"".join([*pieces, data[at:end]]))
    return data[: field_start(check.graph)] + graph + data[end:]


def aligned(data: bytes) -> bytes:
    """Returns the model with its larger weights and codebooks at multiples of 64 bytes, so that none has to be copied.

    A doc_string of the necessary length precedes the values of each such tensor, replacing any other doc_string.
    """
    check = _Check(data)
    check.model()
    tensors = sorted([*check.weights.values(), *([check.codebooks] if check.codebooks else [])])
    head, tail, (begin, end) = data[: field_start(check.graph)], data[check.graph[1] :], check.graph
    size, graph = 0, b"\0" * (end - begin)
    while size != len(varint(len(graph))):  # which determines where the graph begins
        size = len(varint(len(graph)))
        at, pieces, length = begin, [], len(head) + 1 + size
        for tensor in tensors:
            pieces.append(data[at : field_start(tensor.place)])
            length += len(pieces[-1])
            first, content = 0, b""  # where the values begin in the content
            for number, start, begins, stop in fields_of(data, tensor.place):
                if number == _TENSOR.numbers["doc_string"]:
                    continue
                if begins == tensor.values[0]:
                    first = len(content) + begins - start
                content += data[start:stop]
            padding = padding_of(length, first, len(content))
            pieces.append(field(_GRAPH.numbers["initializer"], padding + content))
            length += len(pieces[-1])
            at = tensor.place[1]
        graph = b"".join([*pieces, data[at:end]])
    return head + field(_MODEL.numbers["graph"], graph) + tail


def with_ends(
    file: ModelFile,
    *,
    first: Sequence[bytes],
    last: Sequence[bytes],
    initializers: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    metadata: Mapping[str, str],
    names: Mapping[str, str],
) -> bytes:
    """Returns the model with other inputs, outputs and metadata, and with nodes before and after its own.

    The parts are the contents of messages. ``names``: new names for some values of the graph's own nodes. Unchanged
    bytes are copied once, and nothing is checked.
    """
    data, places, part = memoryview(file.data), file.places, _GRAPH.numbers
    pieces: list[bytes | memoryview] = [field(part["node"], node) for node in first]
    taken = {*places.inputs, *places.outputs}
    for number, start, content, end in fields_of(file.data, places.graph):
        if (content, end) in taken:
            continue
        if (content, end) in places.edits:
            pieces.append(places.edits[content, end])
        elif number == part["node"] and names:
            pieces.append(field(number, _renamed(file.data, (content, end), names)))
        else:
            pieces.append(data[start:end])
    pieces += [field(part["node"], node) for node in last]
    for name, contents in (("initializer", initializers), ("input", inputs), ("output", outputs)):
        pieces += [field(part[name], content) for content in contents]
    model: list[bytes | memoryview] = []
    for number, start, _, end in fields_of(file.data, (0, len(data))):
        if number == _MODEL.numbers["graph"]:
            model += [field_head(number, sum(map(len, pieces))), *pieces]
        elif number != _MODEL.numbers["metadata_props"]:
            model.append(data[start:end])
    for key, value in metadata.items():
        entry = field(_ENTRY.numbers["key"], key.encode()) + field(_ENTRY.numbers["value"], value.encode())
        model.append(field(_MODEL.numbers["metadata_props"], entry))
    return b"".join(model)


def _without_weights(check: _Check) -> dict[ByteRange, bytes]:
    """Returns the edits that remove the codebooks and the larger weights; the latter are declared as external data."""
    edits = dict.fromkeys(check.codebooks_fields, b"")
    for weight in check.weights.values():
        (start, end), (first, last) = weight.place, weight.values
        tensor = check.data[start : field_start((first, last))] + check.data[last:end] + _ELSEWHERE
        edits[weight.place] = field(_GRAPH.numbers["initializer"], tensor)
    return edits


def _branch(check: _Check, branch: str) -> dict[ByteRange, bytes]:
    """Returns the edit that replaces the network's ``If`` with one of its branches, if there is an ``If``."""
    if check.network is None:
        return {}
    network, pieces = check.network, []
    result = network.branches[branch]
    graph = _Message(check, result.place, _GRAPH)
    for start, end in graph.ranges("initializer"):
        pieces.append(field(_GRAPH.numbers["initializer"], check.data[start:end]))
    nodes = graph.ranges("node")
    made = {name for node in nodes for name in _Message(check, node, _NODE).names("output")}
    # The outputs of the branch get the names of the If's outputs, since copying the spectrum would take time.
    names: dict[str, str] = {}
    copies = []
    for (inner, _, _), outer in zip(result.outputs, network.outputs, strict=True):
        if inner in made and inner not in names:
            names[inner] = outer
        else:  # a value from outside the branch, or one that it returns twice
            same = {"input": names.get(inner, inner), "output": outer, "op_type": "Identity"}
            copies.append(b"".join(field(_NODE.numbers[name], text.encode()) for name, text in same.items()))
    for content in (*[_renamed(check.data, node, names) for node in nodes], *copies):
        pieces.append(field(_GRAPH.numbers["node"], content))
    return {network.place: b"".join(pieces)}


def _renamed(data: Buffer, place: ByteRange, names: Mapping[str, str]) -> bytes:
    """Returns the contents of a node, with new names for some of its values."""
    pieces = []
    for number, start, content, end in fields_of(data, place):
        name = data[content:end].decode() if number in _VALUES else ""
        pieces.append(field(number, names[name].encode()) if name in names else data[start:end])
    return b"".join(pieces)


def _arrays(check: _Check) -> tuple[dict[str, np.ndarray[Any, Any]], Float | None]:
    """Returns the weights and the codebooks: views of the bytes of the file if all are aligned, else copies."""
    found = [*check.weights.values(), *([check.codebooks] if check.codebooks else [])]
    arrays = [tensor.array(check.data) for tensor in found]
    if not all(array.ctypes.data % 16 == 0 for array in arrays):  # the alignment of numpy's own arrays
        arrays = [array.copy() for array in arrays]
    codebooks = arrays.pop() if check.codebooks else None
    return dict(zip(check.weights, arrays, strict=True)), codebooks


def read_file(path: Path, most: int, what: str) -> bytes:
    """Returns the bytes of a file, which messages call ``what``.

    The file is not mapped into memory: if a mapped file is truncated, the processes that use it are killed.

    Raises ValueError if ``path`` is not a file, or if the file has more than ``most`` bytes or changes while it is
    read; OSError if it cannot be read.
    """
    with opened(path, most, what) as (file, size):
        data = file.read(size + 1)
        _require_all(path, len(data), size)
    return data


def _read_into_pages(path: Path) -> Buffer:
    """Returns the bytes of a model file in a mapping of their own, which returns to the system once it is unused.

    With malloc that is not certain: once blocks of many megabytes have been freed, glibc keeps smaller ones.
    """
    with opened(path, MAX_SIZE, "an .onnx file") as (file, size):
        if not size:
            raise ValueError(f"{path} is empty; copy or export it again")
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        data = mmap.mmap(-1, size, **private)
        _require_all(path, file.readinto(data) + len(file.read(1)), size)
    return data


@contextmanager
def opened(path: Path, most: int, what: str) -> Iterator[tuple[io.BufferedReader, int]]:
    """Opens a file, which messages call ``what``; yields it and its size.

    Raises ValueError as ``read_file`` does; if the file changed, then at the end of the context.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with reading(path):
        descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise ValueError(f"{path} is not a file; expected {what}")
        if before.st_size > most:
            raise ValueError(f"{path} has {before.st_size} bytes, expected at most {most} of {what}")
        yield file, before.st_size
        after = os.fstat(file.fileno())
    _require_all(path, (after.st_size, after.st_mtime_ns), (before.st_size, before.st_mtime_ns))


def _require_all(path: Path, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{path} changed while it was read; try again when nothing writes to it")


class _DamagedError(Exception):
    """The file breaks the rules of Protocol Buffers or ONNX."""


class _RefusedError(Exception):
    """The file is valid, but has parts that no Vocos model has."""


def _foreign(what: str, remedy: str = _EXPORT) -> _RefusedError:
    return _RefusedError(f"has {what}, which no model that this version reads has; {remedy}")


class _Scope(NamedTuple):
    """The values that are known at some node of a graph, by name.

    ``constants`` are those in the file; ``tables`` maps a value to the constant that it is a row of; ``kinds`` has the
    element types; ``values`` has the shapes, and the values of short integer tensors.
    """

    constants: dict[str, Constant]
    tables: dict[str, Constant]
    kinds: dict[str, int]
    values: dict[str, Known]

    def add(self, name: str, kind: int, value: Known) -> None:
        if name:
            if name in self.kinds:
                raise _DamagedError(f"the value {shown(name)} is made twice")
            self.kinds[name] = kind
            self.values[name] = value

    def within(self) -> _Scope:
        """Returns a copy for a graph within this one."""
        return _Scope(dict(self.constants), dict(self.tables), dict(self.kinds), dict(self.values))


class _Weight(NamedTuple):
    """An initializer of the graph: where the tensor is, and where its values are, laid out as in memory."""

    place: ByteRange
    values: ByteRange
    constant: Constant

    def array(self, data: Buffer) -> np.ndarray[Any, Any]:
        """Returns the values in place, possibly at an unaligned address."""
        shape = self.constant.shape
        dtype, _ = _ELEMENTS[self.constant.kind]
        return np.frombuffer(data, dtype, math.prod(shape), self.values[0]).reshape(shape)


class _Result(NamedTuple):
    """A graph: where it is, and for each output its name, its element type and what is known about it."""

    place: ByteRange
    outputs: list[tuple[str, int, Known]]


class _Choice(NamedTuple):
    """An ``If``: where its node is, its branches by the names of the attributes, and the names of its outputs."""

    place: ByteRange
    branches: Mapping[str, _Result]
    outputs: Sequence[str]


def _signed(integer: int) -> int:
    return integer - (1 << 64) if integer >> 63 else integer


class _Check:
    """Walks through the messages of one file, and collects what it finds."""

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.fields_left, self._nodes_left, self._fixed_left = _MAX_FIELDS, MAX_NODES, MAX_FIXED
        self.inputs: list[Value] = []  # without the weights
        self.outputs: list[Value] = []
        self.metadata: dict[str, str] = {}
        self.graph = (0, 0)
        self.places = Places((0, 0), (), (), frozenset(), {})
        self.network: _Choice | None = None
        self.codebooks: _Weight | None = None
        self.codebooks_fields: list[ByteRange] = []  # of the graph: their initializer, and their output in format 4
        self.weights: dict[str, _Weight] = {}  # the larger initializers by name
        # What onnxruntime gets in place of some fields of a foreign graph: outputs with their true shapes, and nothing
        # for declared shapes of inner values and for unused weights.
        self.edits: dict[ByteRange, bytes] = {}
        self._used: set[str] = set()
        self.reach: tuple[int, int] | None = None  # frames before and after one
        self._problem: _RefusedError | None = None  # the first one; data from other files raises at once

    def model(self) -> None:
        """Checks the model. Raises _DamagedError or _RefusedError."""
        model = _Message(self, (0, len(self.data)), _MODEL)
        self._metadata(model)
        if self.is_foreign:
            self.reach = 0, 0
        graphs, functions = model.ranges("graph"), model.ranges("functions")
        for graph in graphs:
            self._graph(graph, 0, _Scope({}, {}, {}, {}))
        for function in functions:
            self.note("functions of its own")
            for node in _Message(self, function, _FUNCTION).ranges("node"):
                self._node(node, 1, _Scope({}, {}, {}, {}))
        if not graphs:
            raise _DamagedError("there is no graph in it")
        if len(graphs) > 1:
            raise _DamagedError("its graph comes in several parts, as no exporter writes it")
        self.graph = graphs[0]
        if self.is_foreign:  # onnxruntime drops unused weights, and then fails if they are passed to it
            unused = self.weights.keys() - self._used - {value.name for value in self.outputs}
            self.edits.update({self.weights.pop(name).place: b"" for name in unused})
        self._opsets(model)
        if self._problem is not None:
            raise self._problem

    @property
    def is_foreign(self) -> bool:
        """Whether the file comes from another exporter."""
        return not {METADATA_KEY, ENCODER_KEY} & self.metadata.keys()

    def note(self, what: str, remedy: str = _EXPORT) -> None:
        self._problem = self._problem or _foreign(what, remedy)

    def _opsets(self, model: _Message) -> None:
        versions: dict[str, int] = {}
        for found in model.ranges("opset_import"):
            opset = _Message(self, found, _OPSET)
            domain, version = opset.name("domain"), opset.integer("version")
            domain = "" if domain == "ai.onnx" else domain
            if domain in versions:
                raise _DamagedError(f"the version of the operators of {shown(domain)} comes twice")
            versions[domain] = version
            if domain not in DOMAINS:
                self.note(f"operators of the domain {shown(domain)}")
        if versions.get("") not in _OPSETS:
            self.note(f"operators of version {shown(versions.get(''))} (not {_OPSETS[0]} to {_OPSETS[-1]})")

    def _metadata(self, model: _Message) -> None:
        for found in model.ranges("metadata_props"):
            entry = _Message(self, found, _ENTRY)
            key = entry.name("key")
            if key in self.metadata:
                raise _DamagedError(f"its metadata has {shown(key)} twice")
            self.metadata[key] = entry.name("value")
        if "ort_config" in self.metadata:
            self.note("options for onnxruntime in its metadata")

    def _graph(self, place: ByteRange, depth: int, scope: _Scope) -> _Result:
        """Checks a graph, and extends the scope, which is its own. Returns where it is and its outputs."""
        if depth > _MAX_DEPTH:
            raise _DamagedError("graphs within graphs without end")
        graph = _Message(self, place, _GRAPH)
        for tensor in graph.ranges("initializer"):
            name, constant, raw = self._tensor(tensor)
            if not depth and name == CODEBOOKS_NAME:  # no node may use them
                self._codebooks(tensor, constant)
                continue
            if not depth and raw is not None and raw[1] - raw[0] > SMALL:
                self.weights[name] = _Weight(tensor, raw, constant)
            scope.constants[name] = constant
            scope.add(name, constant.kind, Known.of(constant))
        weights, given = set(scope.constants), []
        for value in graph.ranges("input"):
            name, kind, shape = self._value(value)
            if not depth and name not in weights:
                self.inputs.append(Value(name, kind, shape or ()))
                given.append(value)
            if shape is None:
                self.note(f"the input {shown(name)} of unknown shape")
            scope.add(name, kind, Known(shape or ()))
        for node in graph.ranges("node"):
            self._node(node, depth, scope)
        outputs = [self._value(value) for value in graph.ranges("output")]
        if not depth:
            self._outputs(graph.ranges("output"), outputs, scope)
            self.places = Places(place, given, graph.ranges("output"), scope.kinds.keys(), self.edits)
        declared = [*outputs, *[self._value(value) for value in graph.ranges("value_info")]]
        if self.is_foreign and not depth:
            self.edits.update(dict.fromkeys(graph.ranges("value_info"), b""))
        else:
            for name, _, shape in declared:
                self._declared(name, shape, scope)
        if depth and graph.ranges("input"):
            self.note("a branch with inputs")
        return _Result(
            place, [(name, scope.kinds.get(name, 0), scope.values.get(name, Known(()))) for name, _, _ in outputs]
        )

    def _codebooks(self, place: ByteRange, constant: Constant) -> None:
        if self.codebooks_fields:
            raise _DamagedError(f"the value {shown(CODEBOOKS_NAME)} is made twice")
        self.codebooks_fields.append(place)
        tensor = _Message(self, place, _TENSOR)
        values = tensor.ranges("raw_data") or tensor.ranges("float_data")
        if constant.kind != FLOAT:
            self.note(f"codebooks of type {TYPE_NAMES.get(constant.kind, constant.kind)}")
        elif len(values) != 1 or not isinstance(values[0], tuple):
            self.note("codebooks whose values are not in one piece")
        else:
            self.codebooks = _Weight(place, values[0], constant)

    def _outputs(self, places: list[ByteRange], outputs: list[tuple[str, int, Shape | None]], scope: _Scope) -> None:
        for place, (name, kind, shape) in zip(places, outputs, strict=True):
            if name == CODEBOOKS_NAME and self.codebooks_fields:
                if name in scope.kinds:
                    raise _DamagedError(f"the value {shown(name)} is made twice")
                self.codebooks_fields.append(place)
                continue
            if self.is_foreign and name in scope.values:
                kind, shape = scope.kinds[name], named(scope.values[name].shape)
                self.edits[place] = field(_GRAPH.numbers["output"], _declaration(name, kind, shape))
            if shape is None:
                self.note(f"the output {shown(name)} of unknown shape")
            self.outputs.append(Value(name, kind, shape or ()))

    def _declared(self, name: str, shape: Shape | None, scope: _Scope) -> None:
        """Checks the shape that the file declares for a value: onnxruntime trusts it if it cannot infer one."""
        known = scope.values.get(name)
        if shape is None or known is None:
            return
        right = len(shape) == len(known.shape) and all(
            not isinstance(said, int) or said == size or (size is None and said <= _FEW)
            for said, size in zip(shape, known.shape, strict=True)
        )
        if not right:
            self.note(f"the value {shown(name)} of the shape {shown(known.shape)} that is said to have {shown(shape)}")

    def _node(self, place: ByteRange, depth: int, scope: _Scope) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise _foreign(f"more than {MAX_NODES} operators")
        message = _Message(self, place, _NODE)
        operator, domain = message.name("op_type"), message.name("domain")
        attributes: dict[str, Any] = {}
        for attribute in message.ranges("attribute"):
            name, value = self._attribute(attribute, depth, scope)
            if name in attributes:
                raise _DamagedError(f"an operator {shown(operator)} has the attribute {shown(name)} twice")
            attributes[name] = value
        inputs, outputs = message.names("input"), message.names("output")
        self._used.update(inputs)
        domain = "" if domain == "ai.onnx" else domain
        node = Node(operator, domain, inputs, outputs, attributes)
        made = [(0, Known(()))] * len(outputs)
        if unknown := [name for name in inputs if name and name not in scope.kinds]:
            self.note(f"an operator {shown(operator)} before what goes into it, {shown(unknown[0])}")
        elif self._problem is None:  # after a problem, what is known about the values may be wrong
            try:
                if (domain, operator) == ("", "If"):
                    made = self._if(node, place, depth, scope)
                else:
                    kind = output_kind(node, scope.constants, scope.tables, scope.kinds)
                    made = [(kind, known) for known in output_shapes(node, scope.values)]
                    self._computed([known for _, known in made])
                    self._reaches(node, scope)
            except FormError as error:
                remedy = f"{_FLOAT}, or {_EXPORT}" if operator in _QUANTIZED else _EXPORT
                self.note(f"the operator {shown(f'{domain}.{operator}' if domain else operator)}{error}", remedy)
                made = [(0, Known(()))] * len(outputs)
        for name, (kind, known) in zip(outputs, made, strict=True):
            scope.add(name, kind, known)
        scope.tables.update(looked_up(node, scope.constants, scope.tables))
        if (constant := constant_of(node, scope.constants)) is not None:
            scope.constants.update(dict.fromkeys(outputs, constant))

    def _computed(self, made: list[Known]) -> None:
        """Raises FormError if onnxruntime would compute too much while loading the file."""
        for value in made:
            if value.fixed:
                count = elements(value)
                self._fixed_left -= MAX_FIXED + 1 if count is None else count
                if self._fixed_left < 0:
                    raise FormError(f" that makes too much of weights alone, {shown(value.shape)}")

    def _reaches(self, node: Node, scope: _Scope) -> None:
        """Adds the frames that an operator depends on, before and after each frame, to the reach of the network."""
        if self.reach is not None:
            sizes = {size for value in self.inputs for size in value.shape[1:]}
            seen = frames_seen(node, scope.values, sizes if all(isinstance(size, int) for size in sizes) else set())
            self.reach = None if seen is None else (self.reach[0] + seen[0], self.reach[1] + seen[1])

    def _if(self, node: Node, place: ByteRange, depth: int, scope: _Scope) -> list[tuple[int, Known]]:
        """Returns the element type of each output and what is known about it."""
        if depth:
            self.note("an operator If within another")
        branches, nothing = node.attributes, [(0, Known(()))] * len(node.outputs)
        if branches.keys() != _BRANCHES or len(node.inputs) != 1 or not node.inputs[0]:
            self.note("an operator If with other branches or inputs")
            return nothing
        both = [result.outputs for result in branches.values() if isinstance(result, _Result)]
        if [len(outputs) for outputs in both] != 2 * [len(node.outputs)]:
            self.note("an operator If whose branches have other outputs")
            return nothing
        condition, made = scope.values[node.inputs[0]], []
        for (_, kind, then), (_, other, otherwise) in zip(*both, strict=True):
            if kind != other:
                self.note("an operator If whose branches have several types")
            made.append((kind, branch_shapes(condition, then, otherwise)))
        if "spectrum" in node.outputs:
            self.network = _Choice(place, branches, node.outputs)
        return made

    def _attribute(self, place: ByteRange, depth: int, scope: _Scope) -> tuple[str, Any]:
        """Returns the name and the value of an attribute; for a graph, the value is its _Result."""
        attribute = _Message(self, place, _ATTRIBUTE)
        name = attribute.name("name")
        value: Any = None
        for tensor in (*attribute.ranges("t"), *attribute.ranges("tensors")):
            _, value, _ = self._tensor(tensor)
        for kind_of_graph in ("g", "graphs"):
            for graph in attribute.ranges(kind_of_graph):
                if kind_of_graph == "graphs" or name not in _BRANCHES:
                    self.note(f"a graph in the attribute {shown(name)}")
                value = self._graph(graph, depth + 1, scope.within())
        kind = attribute.integer("type")
        if kind not in _ATTRIBUTE_FIELDS:
            self.note(f"the attribute {shown(name)} of type {kind}")
        elif attribute.fields() - {"name", "doc_string", "type", _ATTRIBUTE_FIELDS[kind]}:
            raise _DamagedError(f"the attribute {shown(name)} has values of several types")
        elif (name in _BRANCHES) != (kind == _GRAPH_ATTRIBUTE):
            self.note(f"the attribute {shown(name)} of type {kind}")
        elif kind == _FLOAT_ATTRIBUTE:
            return name, attribute.real("f")
        elif kind == _INT_ATTRIBUTE:
            return name, _signed(attribute.integer("i"))
        elif kind == _STRING_ATTRIBUTE:
            return name, attribute.text("s")
        elif kind not in (_TENSOR_ATTRIBUTE, _GRAPH_ATTRIBUTE):  # floats, which no operator takes, give an empty list
            return name, [_signed(value) for value in attribute.integers("ints")]
        return name, value

    def _tensor(self, place: ByteRange) -> tuple[str, Constant, ByteRange | None]:
        """Returns the name, the constant, and where its values are if they are in one piece, laid out as in memory."""
        tensor = _Message(self, place, _TENSOR)
        if tensor.integer("data_location"):
            raise _elsewhere()
        name, kind, shape = tensor.name("name"), tensor.integer("data_type"), tuple(tensor.integers("dims"))
        if kind not in _ELEMENTS:
            self.note(f"the tensor {shown(name)} of type {kind}")
            return name, Constant(kind, (), None), None
        if len(shape) > MAX_RANK or any(size > MAX_SIZE for size in shape):  # negative sizes are read as 2**63 or more
            raise _DamagedError(f"the tensor {shown(name)} is of the shape {shown(shape)}")
        count, (dtype, typed) = math.prod(shape), _ELEMENTS[kind]
        raw = tensor.ranges("raw_data")
        if tensor.fields() & _TENSOR_DATA - {"raw_data" if raw else typed}:
            raise _DamagedError(f"the tensor {shown(name)} has values of several types")
        found = (raw[0][1] - raw[0][0]) / dtype.itemsize if raw else tensor.count(typed)
        if found != count:
            raise _DamagedError(f"the tensor {shown(name)} of the shape {shown(shape)} has {found:g} values")
        values = None
        if kind == INT64 and count <= _FEW:
            if raw:
                values = tuple(np.frombuffer(self.data, "<i8", count, raw[0][0]).tolist())
            else:
                values = tuple(map(_signed, tensor.integers(typed)))
        return name, Constant(kind, shape, values), raw[0] if raw else None

    def _value(self, place: ByteRange) -> tuple[str, int, Shape | None]:
        """Returns the name, the element type (0 if it is not declared) and the shape (None if it is not declared)."""
        kind, shape = 0, None
        value = _Message(self, place, _VALUE)
        name = value.name("name")
        for found in value.ranges("type"):
            for tensor_type in _Message(self, found, _TYPE).ranges("tensor_type"):
                message = _Message(self, tensor_type, _TENSOR_TYPE)
                kind = message.integer("elem_type")
                if kind not in _ELEMENTS:
                    self.note(f"the value {shown(name)} of type {kind}")
                for dimensions in message.ranges("shape"):
                    shape = self._shape(dimensions, name)
        return name, kind, shape

    def _shape(self, place: ByteRange, name: str) -> Shape:
        """Returns the shape of the value ``name``."""
        sizes: list[Size] = []
        for found in _Message(self, place, _SHAPE).ranges("dim"):
            dimension = _Message(self, found, _DIMENSION)
            size, has = dimension.integer("dim_value"), dimension.fields()
            if size > MAX_SIZE or {"dim_value", "dim_param"} <= has:
                raise _DamagedError(f"the value {shown(name)} has a size that is none")
            sizes.append(size if "dim_value" in has else dimension.name("dim_param") or None)
        if len(sizes) > MAX_RANK:
            raise _DamagedError(f"the value {shown(name)} has {len(sizes)} dimensions")
        return tuple(sizes)


def _declaration(name: str, kind: int, shape: Shape) -> bytes:
    """Returns the contents of a value: its name, element type and shape."""
    sizes = []
    for size in shape:
        match size:
            case int():
                dimension = number_field(_DIMENSION.numbers["dim_value"], size)
            case str():
                dimension = field(_DIMENSION.numbers["dim_param"], size.encode())
            case _:
                dimension = b""
        sizes.append(field(_SHAPE.numbers["dim"], dimension))
    tensor = number_field(_TENSOR_TYPE.numbers["elem_type"], kind)
    tensor += field(_TENSOR_TYPE.numbers["shape"], b"".join(sizes))
    of = field(_TYPE.numbers["tensor_type"], tensor)
    return field(_VALUE.numbers["name"], name.encode()) + field(_VALUE.numbers["type"], of)


def _elsewhere() -> _RefusedError:
    return _RefusedError(
        "takes its weights from other files, which a model from elsewhere must not; models of vocos-onnx hold all of "
        "their own: export the checkpoint again. The package onnx makes one file of another project's model: "
        "onnx.save(onnx.load('MODEL.onnx'), 'ONE.onnx')"
    )


class _Message:
    """The fields of one message. Raises _DamagedError if they do not follow the schema."""

    def __init__(self, check: _Check, place: ByteRange, schema: _Schema) -> None:
        self._data, self._schema, self._what = check.data, schema, schema.what
        self._found: dict[str, list[Any]] = {}
        data, tags, found, (at, end) = check.data, schema.tags, self._found, place
        while at < end:
            check.fields_left -= 1
            if check.fields_left < 0:
                raise _DamagedError(f"it has more than {_MAX_FIELDS} fields")
            tag = data[at]
            if tag < 0x80:  # nearly always
                at += 1
            else:
                tag, at = self._varint(at, end, 32)
            rule = tags.get(tag)
            if rule is None:
                raise self._unknown(tag >> 3)
            name, kind, repeated = rule
            value: Any
            if tag & 7 == _BYTES and at < end and (length := data[at]) < 0x80:
                at += 1
                value = at, at + length
                at += length
                if at > end:
                    raise self._early()
            else:
                value, at = self._value(at, end, tag & 7)
            if kind in ("name", "text"):
                value = self._text(value, _MAX_NAME if kind == "name" else _MAX_TEXT)
                if kind == "name" and not value.isprintable():
                    raise _DamagedError(f"{self._what} has the name {shown(value)}, with control characters")
            elif kind == "elsewhere":
                raise _elsewhere()
            elif kind == "foreign":
                check.note(f"field {tag >> 3} in {self._what}")
                continue
            elif kind == "entry":
                continue
            if name not in found:
                found[name] = [value]
            elif repeated:
                found[name].append(value)
            else:
                raise _DamagedError(f"{self._what} has field {tag >> 3} twice")

    def _unknown(self, number: int) -> _DamagedError:
        known = number in self._schema.numbers.values()
        return _DamagedError(
            f"{self._what} has another type in field {number}" if known else
            f"{self._what} has the unknown field {number}"
        )  # fmt: skip

    def _early(self) -> _DamagedError:
        return _DamagedError(f"{self._what} ends too early")

    def fields(self) -> Set[str]:
        """Returns the names of the fields that the message has."""
        return self._found.keys()

    def name(self, field: str) -> str:
        """Returns a string, empty if the field is missing."""
        return str(next(iter(self._values(field)), ""))

    def names(self, field: str) -> list[str]:
        """Returns all strings of a field."""
        return self._values(field)

    def text(self, field: str) -> str:
        """Returns the string in a field of bytes, empty if the field is missing."""
        return next((self._text(place, _MAX_NAME) for place in self.ranges(field)), "")

    def real(self, field: str) -> float:
        """Returns a floating-point number, 0 if the field is missing."""
        return float(next(iter(self._values(field)), 0.0))

    def integer(self, field: str) -> int:
        """Returns an unsigned integer, 0 if the field is missing."""
        return int(next(iter(self._values(field)), 0))

    def ranges(self, field: str) -> list[ByteRange]:
        """Returns where the bytes of a field begin and end, for each occurrence."""
        return self._values(field)

    def _values(self, field: str) -> list[Any]:
        return self._found.get(field, [])

    def integers(self, field: str) -> list[int]:
        """Returns the unsigned integers of a repeated field, which may be packed."""
        values: list[int] = []
        for value in self._values(field):
            if not isinstance(value, tuple):
                values.append(value)
            else:
                at, end = value
                if end - at > 10 * _MAX_NAME:
                    raise _DamagedError(f"{self._what} has {end - at} bytes in field {self._schema.numbers[field]}")
                while at < end:
                    integer, at = self._varint(at, end, 64)
                    values.append(integer)
        return values

    def count(self, field: str) -> float:
        """Returns how many numbers a repeated field has; not an integer if the last one is cut off."""
        count, width = 0.0, _WIDTHS.get(self._schema.kinds[field])
        for value in self._values(field):
            if not isinstance(value, tuple):
                count += 1
                continue
            at, end = value
            if width:
                count += (end - at) / width
            elif end > at:
                last = np.frombuffer(self._data, np.uint8, end - at, at) < 0x80
                count += np.count_nonzero(last) + (0 if last[-1] else 0.5)
        return count

    def _value(self, at: int, end: int, wire: int) -> tuple[float | ByteRange, int]:
        """Returns a number, or where the bytes are; and where the next field begins."""
        if wire == _VARINT:
            return self._varint(at, end, 64)
        if wire == _BYTES:
            length, at = self._varint(at, end, 31)
        else:
            length = 4 if wire == _FIXED32 else 8
        if at + length > end:
            raise self._early()
        if wire == _BYTES:
            return (at, at + length), at + length
        (number,) = struct.unpack_from("<f" if wire == _FIXED32 else "<d", self._data, at)
        return number, at + length

    def _varint(self, at: int, end: int, bits: int) -> tuple[int, int]:
        value = shift = 0
        while at < end:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits or (shift and not byte):
                    raise _DamagedError(f"{self._what} has a number of needless or too many bits")
                return value, at
            shift += 7
            if shift >= 70:
                break
        raise _DamagedError(f"{self._what} ends within a number")

    def _text(self, place: ByteRange, longest: int) -> str:
        start, end = place
        if end - start > longest:
            raise _DamagedError(f"{self._what} has a text of {end - start} bytes, expected at most {longest}")
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            raise _DamagedError(f"{self._what} has a text that is not in UTF-8") from None
