"""Helpers shared by the fuzzer's targets: damaged or wrong input, and checks of the audio."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.helpers import DATA

if TYPE_CHECKING:
    from vocos_onnx import VocosONNX

DOCUMENTED = (ValueError, FileNotFoundError, FloatingPointError)
Rng = np.random.Generator


@dataclass(frozen=True)
class Target:
    """One kind of input: ``run`` tries one case in an empty folder and may raise only the ``documented`` errors.

    ``weight`` sets its share of all cases. ``seconds`` limits the time of a case, and ``memory`` the address space of
    its process in bytes, including the interpreter and onnxruntime.
    """

    run: Callable[[Rng, Path], None]
    weight: float
    documented: tuple[type[Exception], ...] = ()
    seconds: float = 20
    memory: int = 2 << 30


@cache
def model(name: str) -> VocosONNX:
    from vocos_onnx import VocosONNX

    return VocosONNX(DATA / f"{name}.onnx", threads=1)


def any_array(rng: Rng, good: np.ndarray) -> Any:
    """A variant of the good array with another type, shape, order or values, or something that is no array."""
    kind = rng.integers(12)
    if kind == 0:
        return rng.choice(np.array(["", "tokens", "\x00"])).item()
    if kind == 1:
        return [None, 3, -1.5, {}, [[1, 2], [3]], object(), b"\0", [[[]]], True, np.nan][rng.integers(10)]
    shape = rng.integers(0, 5, rng.integers(0, 5)) if kind < 4 else good.shape
    array = rng.choice(good.reshape(-1), tuple(shape)) if good.size else good
    kinds = ["?", "i1", "u1", "<i2", ">i4", "<u8", "<i8", "<f2", "<f4", ">f8", "c8", "O", "U5", "M8[s]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in (4, 5):
            array = array.astype(kinds[rng.integers(len(kinds))])
    if kind in (6, 7) and array.size:
        array = array.copy()
        special = [-1, 1024, 2**31, -(2**62), np.nan, np.inf, -np.inf, 1e38, 1e-45]
        with contextlib.suppress(ValueError, OverflowError):
            array.reshape(-1)[rng.integers(array.size)] = special[rng.integers(len(special))]
    if kind == 8:
        array = array[..., ::-1][..., :: rng.integers(1, 4)]
    if kind == 9:
        array = np.asfortranarray(array)
    return array.tolist() if kind == 10 else array


def damaged(rng: Rng, data: bytes, same_size: bool = False) -> bytes:
    """Change and overwrite random bytes and, unless ``same_size``, also truncate, delete, repeat and insert some."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 30))
        match rng.integers(3, 6) if same_size else rng.integers(7):
            case 0:
                del out[at:]
            case 1:
                del out[at : at + length]
            case 2:
                out[at:at] = out[at : at + length]
            case 3:
                length = min(length, len(out) - at)
                out[at : at + length] = rng.bytes(length)
            case 4:
                out[at] ^= 1 << int(rng.integers(8))
            case 5:
                out[at] = [0, 255, 127, 128][rng.integers(4)]
            case 6:
                out[at:at] = rng.bytes(length)
    return bytes(out)


def finite(audio: np.ndarray) -> None:
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()
