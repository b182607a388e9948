"""Writes ONNX models as bytes: assembles fields of Protocol Buffers (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence

ALIGNMENT = 64  # bytes of a cache line
SMALL = 1024  # bytes: larger weights are aligned in the file, and used in place once it is loaded

ByteRange = tuple[int, int]  # the start and end of the contents of a field, which follow its tag and length

_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # wire types
_DOC_STRING = 12  # of a tensor
# Fields by their names in onnx.proto3, of NodeProto, AttributeProto, TensorProto, ValueInfoProto and its contents.
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 8, 20
_INT, _INTS = 2, 7  # types of attributes
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT, _INT64 = 1, 7  # types of elements
_NAME, _TYPE = 1, 2
_TENSOR_TYPE, _ELEM_TYPE, _SHAPE, _DIM, _DIM_VALUE, _DIM_PARAM = 1, 1, 2, 1, 1, 2


def varint(number: int) -> bytes:
    """Encodes an integer in groups of 7 bits, the lowest first."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, content: bytes) -> bytes:
    """A field that holds a text or a message. Its number is 15 or less, so that the tag has one byte."""
    return field_head(number, len(content)) + content


def field_head(number: int, length: int) -> bytes:
    """The tag and length of such a field, which precede its ``length`` bytes of content."""
    return bytes([number << 3 | _BYTES]) + varint(length)


def number_field(number: int, value: int) -> bytes:
    """A field that holds an integer of 0 or more; the number of the field is 15 or less."""
    return bytes([number << 3 | _VARINT]) + varint(value)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    """An operator with one output; its attributes are integers of 0 or more, or lists of them."""
    pieces = [field(_INPUT, name.encode()) for name in inputs]
    pieces += [field(_OUTPUT, output.encode()), field(_OP_TYPE, kind.encode())]
    for name, value in attributes.items():
        if isinstance(value, int):
            content = number_field(_ATTRIBUTE_INT, value)
        else:
            content = b"".join(number_field(_ATTRIBUTE_INTS, one) for one in value)
        kind_field = varint(_ATTRIBUTE_TYPE << 3 | _VARINT) + varint(_INT if isinstance(value, int) else _INTS)
        pieces.append(field(_ATTRIBUTE, field(_ATTRIBUTE_NAME, name.encode()) + content + kind_field))
    return b"".join(pieces)


def integers(name: str, values: Sequence[int]) -> bytes:
    """A tensor (n,) of integers."""
    content = struct.pack(f"<{len(values)}q", *values)
    return (
        number_field(_DIMS, len(values))
        + number_field(_DATA_TYPE, _INT64)
        + field(_TENSOR_NAME, name.encode())
        + field(_RAW_DATA, content)
    )


def floats(name: str, *shape: int | str) -> bytes:
    """An input or output of a graph, in float32."""
    sizes = [
        field(_DIM, field(_DIM_PARAM, size.encode()) if isinstance(size, str) else number_field(_DIM_VALUE, size))
        for size in shape
    ]
    kind = number_field(_ELEM_TYPE, _FLOAT) + field(_SHAPE, b"".join(sizes))
    return field(_NAME, name.encode()) + field(_TYPE, field(_TENSOR_TYPE, kind))


def padding_of(at: int, head: int, size: int) -> bytes:
    """The doc_string that, placed before the other fields of a tensor, aligns its values.

    The field of the tensor begins at byte ``at`` of the file. Of its ``size`` other bytes, ``head`` precede the values.
    """
    for count in range(2 * ALIGNMENT):
        padding = field(_DOC_STRING, b" " * count)
        if (at + 1 + len(varint(len(padding) + size)) + len(padding) + head) % ALIGNMENT == 0:
            return padding
    raise AssertionError


def field_start(place: ByteRange) -> int:
    """The start of a field with a length and a one-byte tag, given the place of its contents."""
    start, end = place
    return start - len(varint(end - start)) - 1


def fields_of(data: bytes | mmap.mmap, place: ByteRange) -> Iterator[tuple[int, int, int, int]]:
    """For each field of a valid message: its number, its start, the start of its contents, and their end."""
    at, end = place
    while at < end:
        start = at
        tag, at = _number(data, at)
        if tag & 7 == _BYTES:
            length, content = _number(data, at)
            at = content + length
        else:
            content = at
            at = _number(data, at)[1] if tag & 7 == _VARINT else at + (4 if tag & 7 == _FIXED32 else 8)
        yield tag >> 3, start, content, at


def _number(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """Reads an integer; also returns where it ends."""
    number = shift = 0
    while data[at] > 0x7F:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number | data[at] << shift, at + 1
