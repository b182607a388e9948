"""What callers give -> numpy arrays: torch tensors, narrow float types, lists; and what to do with anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .messages import first_line, shown


class Array(Protocol):
    """A numpy array, ``Tokens``, a torch tensor: whatever gives numpy an array."""

    def __array__(self) -> npt.NDArray[Any]: ...


# what encodec's encode returns
Frames = Sequence[tuple[Array, Array | None]]


def as_array(given: Any, what: str) -> npt.NDArray[Any]:
    """An array of anything that numpy reads; of a torch tensor too that is on a GPU or has a gradient.

    bfloat16 and the types of 8 bits and fewer (of torch and ml_dtypes), which numpy's functions do not know, become
    float32, which holds all of their values.

    Raises ValueError where it is no array: a path, bytes, lists of different lengths.
    """
    if isinstance(given, str | bytes | bytearray | os.PathLike):
        raise ValueError(f"{what}: {_no_array(given)}")
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):
            given = given.detach().cpu()
            if str(given.dtype).startswith(("torch.bfloat", "torch.float8")):
                given = given.float()
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = first_line(error)
        if isinstance(given, list | tuple) and "inhomogeneous" in reason:
            reason = _differ(given)
        raise ValueError(f"{what} cannot be read as one array: {reason}") from None
    return array.astype(np.float32) if _is_narrow_float(array.dtype) else array


def _differ(given: list[Any] | tuple[Any, ...]) -> str:
    """How the items of a list differ that makes no array."""
    for i, item in enumerate(given):
        if item is None or isinstance(item, str | bytes | os.PathLike | Mapping):
            return f"item {i} of it is {shown(item)}, expected numbers as the other items are"
    return "its items have different shapes or lengths"


def _is_narrow_float(dtype: np.dtype[Any]) -> bool:
    """Of the package ml_dtypes, for which numpy has no kind."""
    return not np.issubdtype(dtype, np.number) and dtype.names is None and dtype.name.startswith(("bfloat", "float"))


def is_float(array: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def is_integer(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind in "iu"  # numpy's own hierarchy has timedelta64 among the integers


def to_floats(dtype: np.dtype[Any]) -> str:
    """What to do with features that are no floats, so that nothing of them is lost; empty where that is not known."""
    match dtype.kind:
        case "O":
            return "; if they are all numbers, pass features.astype(numpy.float32)"
        case "c":
            return "; log-mels are real, and a complex spectrum is not what the model decodes"
        case "V" if dtype.itemsize == 2 and dtype.names is None:
            return (
                "; if these are the bytes of bfloat16, as numpy saves it, pass "
                "features.view(ml_dtypes.bfloat16).astype(numpy.float32)"
            )
    return ""


def _no_array(given: Any) -> str:
    if isinstance(given, bytes | bytearray):
        return (
            f"bytes are given ({len(given)} of them), expected an array; of raw samples or codes make one with "
            "numpy.frombuffer(DATA, DTYPE), of a file in memory with load_tokens(io.BytesIO(DATA))"
        )
    return (
        f"the path {shown(os.fspath(given))} is given, expected an array: pass load_tokens({shown(os.fspath(given))})"
    )


def masked(given: Any) -> int:
    """How many of its values are masked; numpy.ma takes time to import, and is there where there is a masked array."""
    if "numpy.ma" not in sys.modules or not isinstance(given, np.ma.MaskedArray):
        return 0
    return int(np.count_nonzero(np.ma.getmaskarray(given)))


def check_order(audio: Any, sample_rate: Any, name: str = "audio") -> None:
    """Raises ValueError where audio and its sample rate are swapped."""
    if isinstance(audio, int | float | np.number) and not isinstance(sample_rate, int | float | np.number | None):
        raise ValueError(
            f"{name} is {audio}, and sample_rate is of the type {type(sample_rate).__name__}: they are swapped; "
            f"{name} comes first, and {audio} as its sample rate second"
        )
