"""What callers give -> numpy arrays: torch tensors, narrow float types, lists; and what to do with anything else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from .messages import first_line, shown


def as_array(given: Any, what: str) -> npt.NDArray[Any]:
    """An array of anything that numpy reads; of a torch tensor too that is on a GPU or has a gradient.

    bfloat16 and the types of 8 bits and fewer (of torch and ml_dtypes), which numpy's functions do not know, become
    float32, which holds all of their values.

    Raises ValueError where it is no array: a path, bytes, lists of different lengths, masked values.
    """
    if isinstance(given, str | bytes | bytearray | os.PathLike):
        raise ValueError(f"{what}: {_no_array(given)}")
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):
            given = given.detach().cpu()
            if str(given.dtype).startswith(("torch.bfloat", "torch.float8")):
                given = given.float()
        if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
            raise ValueError("it is a masked array with masked values; cut them off, or fill them with .filled(VALUE)")
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = first_line(error)
        if isinstance(given, list | tuple) and "inhomogeneous" in reason:
            reason = "its items have different shapes or lengths"
        raise ValueError(f"{what} cannot be read as one array: {reason}") from None
    return array.astype(np.float32) if _is_narrow_float(array.dtype) else array


def _is_narrow_float(dtype: np.dtype[Any]) -> bool:
    """Of the package ml_dtypes, for which numpy has no kind."""
    return not np.issubdtype(dtype, np.number) and dtype.names is None and dtype.name.startswith(("bfloat", "float"))


def is_float(array: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def is_integer(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind in "iu"  # numpy's own hierarchy has timedelta64 among the integers


def convert(dtype: np.dtype[Any]) -> str:
    """How an array of neither integers nor floats becomes one of them, without losing what is in it."""
    match dtype.kind:
        case "O":
            return (
                "if it holds nothing but numbers, convert it, features with .astype(numpy.float32), tokens with "
                ".astype(numpy.int64)"
            )
        case "c":
            return "features are real: pass log-mels, not a complex spectrum"
        case "U" | "S" | "T":
            return "text is none of them: read a token file with load_tokens(PATH)"
        case "b":
            return "a mask is none of them"
        case _:
            return "convert it to one of them"


def _no_array(given: Any) -> str:
    if isinstance(given, bytes | bytearray):
        return (
            f"bytes are given ({len(given)} of them), expected an array; of raw samples or codes make one with "
            "numpy.frombuffer(DATA, DTYPE), of a file in memory with load_tokens(io.BytesIO(DATA))"
        )
    return (
        f"the path {shown(os.fspath(given))} is given, expected an array: pass load_tokens({shown(os.fspath(given))})"
    )


def check_recording(audio: Any, sample_rate: Any, to: int, *, in_blocks: bool = False) -> None:
    """Raises ValueError where audio, or an iterable of its blocks, and its rate are something else, or swapped."""
    load = f"load_{'blocks' if in_blocks else 'audio'}"
    if isinstance(audio, str | os.PathLike):
        path = shown(os.fspath(audio))
        raise ValueError(
            f"audio is the path {path}, expected an array: pass {load}({path}, {to}), and {to} as its sample rate"
        )
    if isinstance(audio, bytes | bytearray):
        raise ValueError(
            f"audio is {len(audio)} bytes, expected an array: of raw samples make one with numpy.frombuffer(DATA, "
            f"numpy.int16), of a file in memory with {load}(io.BytesIO(DATA), {to})"
        )
    if isinstance(audio, int | float | np.number) and not isinstance(sample_rate, int | float | np.number):
        raise ValueError(
            f"audio is {audio}, and sample_rate is of the type {type(sample_rate).__name__}: they are swapped; "
            "audio comes first, its sample rate second"
        )
    if in_blocks and isinstance(audio, np.ndarray) and audio.ndim < 2:
        raise ValueError(
            f"blocks is one array of shape {audio.shape}, expected an iterable of blocks (n,): pass [audio], or "
            f"load_blocks(PATH, {to})"
        )
