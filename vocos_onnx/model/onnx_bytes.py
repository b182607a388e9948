"""ONNX models written as bytes: fields of Protocol Buffers (protobuf.dev/programming-guides/encoding), put together."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

ALIGNMENT = 64  # bytes, of a line of the cache
SMALL = 1024  # bytes: larger weights are aligned in the file, and used where they are when it is loaded

ByteRange = tuple[int, int]  # where the contents of a field begin and end, after its tag and length

_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # wire types
_DOC_STRING = 12  # of a tensor


def varint(number: int) -> bytes:
    """An integer in groups of 7 bits, the lowest first."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, content: bytes) -> bytes:
    """A field of a text or a message; its number is 15 or less, so that the tag has one byte."""
    return bytes([number << 3 | _BYTES]) + varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """A field of an integer of 0 or more; the number of the field is 15 or less."""
    return bytes([number << 3 | _VARINT]) + varint(value)


def padding_of(at: int, head: int, size: int) -> bytes:
    """The doc_string that aligns the values of a tensor, put in front of its other fields.

    The field of the tensor begins at the byte ``at`` of the file. Of its ``size`` other bytes, ``head`` come before the
    values.
    """
    for count in range(2 * ALIGNMENT):
        padding = field(_DOC_STRING, b" " * count)
        if (at + 1 + len(varint(len(padding) + size)) + len(padding) + head) % ALIGNMENT == 0:
            return padding
    raise AssertionError


def field_start(place: ByteRange) -> int:
    """Where a field of this kind begins, given where its contents are."""
    start, end = place
    return start - len(varint(end - start)) - 1


def fields_of(data: bytes | mmap.mmap, place: ByteRange) -> Iterator[tuple[int, int, int, int]]:
    """Of each field of a valid message: its number, where it begins, where its contents begin, and where they end."""
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
    """An integer, and where it ends."""
    number = shift = 0
    while data[at] > 0x7F:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number | data[at] << shift, at + 1
