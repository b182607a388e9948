"""Tensors as they are stored in a weight file: read one at a time, by position, into memory of their own."""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_RANK = 8  # dimensions of a tensor
_MAX_ELEMENTS = 1 << 48  # of a tensor; far more than any file holds, and few enough for numpy to count
_BLOCK = 1 << 20  # bytes

# the type of a tensor -> the numpy type as which its values are read; bfloat16 is the upper half of a float32
DTYPES = {
    "float16": "f2", "bfloat16": "u2", "float32": "f4", "float64": "f8", "bool": "u1",
    "uint8": "u1", "int8": "i1", "uint16": "u2", "int16": "i2", "uint32": "u4", "int32": "i4", "uint64": "u8",
    "int64": "i8",
}  # fmt: skip


class RefusedError(ValueError):
    """A file is intact, but has unsupported content; the message continues after the path, and names the remedy."""


@dataclass(frozen=True, slots=True)
class Place:
    """A range of bytes in a file, with its CRC-32 if the file states one."""

    start: int
    size: int
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the values of a tensor are. Offset and strides count elements; ``order`` is "<" or ">", as in numpy.

    Raises ValueError if any of its values is outside its place.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    place: Place
    order: str = "<"

    def __post_init__(self) -> None:
        check_shape(self.shape)
        if self.offset < 0 or len(self.strides) != len(self.shape) or any(stride < 0 for stride in self.strides):
            raise ValueError("a tensor has a negative offset or stride, or too few strides")
        _, stop = self.span
        if stop > self.place.size:
            raise ValueError(f"a tensor ends at byte {stop} of a storage of {self.place.size}")

    @property
    def itemsize(self) -> int:
        """The size of one element in bytes."""
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def nbytes(self) -> int:
        """The bytes that all elements take in memory, counting shared bytes of the file for each element."""
        return math.prod(self.shape) * self.itemsize

    @property
    def span(self) -> tuple[int, int]:
        """The first byte of the tensor within its place, and the one after the last."""
        if not math.prod(self.shape):
            return 0, 0
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset * self.itemsize, (self.offset + reach + 1) * self.itemsize


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless this is a valid shape of a tensor."""
    if len(shape) > MAX_RANK or any(not 0 <= size <= _MAX_ELEMENTS for size in shape):
        raise ValueError("a tensor has too many dimensions, or one that is negative or too large")
    if math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"a tensor has {math.prod(shape)} elements")


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor whose last index varies fastest."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class WeightsFile:
    """An open weight file, which reads only what is requested. It is not thread-safe.

    Its methods raise ValueError if the file ends early or is damaged.
    """

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self._file, self.size = file, size
        self._intact: set[Place] = set()  # those whose CRC was found to be correct

    def read(self, start: int, size: int) -> bytes:
        """Reads ``size`` bytes from a position on."""
        return self._buffer(start, size).tobytes()

    def content(self, place: Place) -> bytes:
        """Reads all bytes of a place, and checks their CRC if there is one."""
        return self._span(place, 0, place.size).tobytes()

    def tensor(self, stored: Stored) -> npt.NDArray[Any]:
        """Reads the values of a tensor, floats of any width as float32, into an array that shares no memory."""
        start, stop = stored.span
        data = self._span(stored.place, start, stop)
        kind = np.dtype(stored.order + DTYPES[stored.dtype])
        strides = tuple(stride * kind.itemsize for stride in stored.strides)
        values: npt.NDArray[Any] = np.ndarray(stored.shape, kind, data, strides=strides if data.size else None)
        if stored.dtype == "bool":
            return values.astype(np.bool_, order="C")
        if stored.dtype == "bfloat16":
            wide = values.astype(np.uint32, order="C")
            wide <<= 16
            return wide.view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # values too large for float32 become infinite
            target = np.dtype(np.float32) if kind.kind == "f" else kind.newbyteorder("=")
            return values.astype(target, order="C", copy=False)

    def sha256(self) -> str:
        """The sha256 of the whole file, in hexadecimal digits."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def _span(self, place: Place, start: int, stop: int) -> npt.NDArray[np.uint8]:
        data = self._buffer(place.start + start, stop - start)
        if place.crc is not None and place not in self._intact:
            found = zlib.crc32(data.data) if data.size == place.size else self._crc(place)
            if found != place.crc:
                raise ValueError(f"the checksum of bytes {place.start} to {place.start + place.size} is wrong")
            self._intact.add(place)
        return data

    def _crc(self, place: Place) -> int:
        crc = 0
        for start in range(0, place.size, _BLOCK):
            crc = zlib.crc32(self._buffer(place.start + start, min(_BLOCK, place.size - start)).data, crc)
        return crc

    def _buffer(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        if start < 0 or size < 0 or start + size > self.size:
            raise ValueError(f"it ends at byte {self.size}, before byte {start + size}")
        data = np.empty(size, np.uint8)
        self._file.seek(start)
        if self._file.readinto(data.data) != size:
            raise ValueError("it ends early: it was cut while it was read")
        return data
