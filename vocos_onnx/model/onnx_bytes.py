"""ONNX models written as bytes: fields of Protocol Buffers (protobuf.dev/programming-guides/encoding), put together."""

from __future__ import annotations

ByteRange = tuple[int, int]  # where the contents of a field begin and end, after its tag and length

_BYTES = 2  # the wire type of texts and messages


def varint(number: int) -> bytes:
    """An integer in groups of 7 bits, the lowest first."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, content: bytes) -> bytes:
    """A field of a text or a message; its number is 15 or less, so that the tag has one byte."""
    return bytes([number << 3 | _BYTES]) + varint(len(content)) + content


def field_start(place: ByteRange) -> int:
    """Where a field of this kind begins, given where its contents are."""
    start, end = place
    return start - len(varint(end - start)) - 1
