"""Caller input -> numpy arrays: torch tensors, narrow float types, lists; and errors with remedies for the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .messages import first_line, listed, shown

Float = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]  # called with the amount done and the total


class Array(Protocol):
    """A numpy array, ``Tokens``, a torch tensor: anything that numpy can turn into an array."""

    def __array__(self) -> npt.NDArray[Any]: ...


# what encodec's encode returns
EncodecFrames = Sequence[tuple[Array, Array | None]]


def as_array(given: Any, what: str) -> npt.NDArray[Any]:
    """Makes an array of anything that numpy reads, and of torch tensors on a GPU or with a gradient.

    bfloat16 and float types of 8 bits or fewer (of torch and ml_dtypes), which numpy's functions do not support, become
    float32, which holds all of their values.

    Raises ValueError if it cannot become an array: None, a path, bytes, lists of different lengths, a coroutine.
    """
    if isinstance(given, str | bytes | bytearray | os.PathLike):
        raise ValueError(f"{what}: {_no_array(given)}")
    check_awaited(given, what)
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):
            given = given.detach().cpu()
            if str(given.dtype).startswith(("torch.bfloat", "torch.float8")):
                given = given.float()
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = first_line(error)
        if isinstance(given, list | tuple) and "inhomogeneous" in reason:
            reason = _differences(given)
        raise ValueError(f"{what} cannot be read as one array: {reason}") from None
    if array.dtype.kind == "O" and any(value is None for value in array.flat):
        what_is = "None is given, expected an array" if given is None else "None is among the values, expected numbers"
        raise ValueError(f"{what}: {what_is}")
    return array.astype(np.float32) if _is_narrow_float(array.dtype) else array


def check_awaited(given: Any, name: str, of_blocks: str = "") -> None:
    """Raises ValueError for anything that must be awaited, or iterated with ``async for``, to get an array.

    ``of_blocks``: the remedy for asynchronous iterables, if something else takes them.
    """
    if isinstance(given, list | tuple):
        given, what = next(iter(given), None), "the first item is"
    else:
        what = "what is given is"
    if isinstance(given, np.ndarray):  # the usual case
        return
    kind = type(given).__name__
    if isinstance(given, Awaitable):
        raise ValueError(f"{name}: {what} a {kind}, whose result is not there yet: await it first")
    if isinstance(given, AsyncIterable):
        remedy = of_blocks or "collect its items first, as in [item async for item in given]"
        raise ValueError(f"{name}: {what} an asynchronous iterable ({kind}): {remedy}")


def _differences(given: list[Any] | tuple[Any, ...]) -> str:
    """How the items of a list differ, so that it cannot become an array."""
    for i, item in enumerate(given):
        if item is None or isinstance(item, str | bytes | os.PathLike | Mapping):
            return f"item {i} of it is {shown(item)}, expected numbers as the other items are"
    return "its items have different shapes or lengths"


def _is_narrow_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a float type of the package ml_dtypes, for which numpy has no kind."""
    return not np.issubdtype(dtype, np.number) and dtype.names is None and dtype.name.startswith(("bfloat", "float"))


def is_float(array: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def is_integer(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind in "iu"  # numpy's own hierarchy has timedelta64 among the integers


def float_hint(dtype: np.dtype[Any]) -> str:
    """A hint for features that are not floats: how to convert them without loss; empty if that is not known."""
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


def count_masked(given: Any) -> int:
    """How many of its values are masked. numpy.ma is slow to import, and already loaded if a masked array exists."""
    if "numpy.ma" not in sys.modules or not isinstance(given, np.ma.MaskedArray):
        return 0
    return int(np.count_nonzero(np.ma.getmaskarray(given)))


def check_order(audio: Any, sample_rate: Any, name: str = "audio") -> None:
    """Raises ValueError if audio and its sample rate are swapped."""
    if isinstance(audio, int | float | np.number) and not isinstance(sample_rate, int | float | np.number | None):
        raise ValueError(
            f"{name} is {audio}, and sample_rate is of the type {type(sample_rate).__name__}: they are swapped; "
            f"{name} comes first, and {audio} as its sample rate second"
        )


# names of token arrays here and in Bark, VALL-E and transformers
KNOWN_NAMES = ("tokens", "codes", "fine_prompt", "audio_tokens", "audio_codes")


def unwrapped(given: Any) -> Any:
    """Unwraps the array from the outputs of other packages; returns anything else as it is.

    It unwraps encodec's (codes, scale) without a scale, alone or in a list of one, and transformers' (chunks, batch,
    codebooks, frames) with one chunk and one recording. Raises ValueError if there are several, for archives and
    iterators, and for masked values, which numpy would read as ordinary ones; the message explains what to pass.
    """
    if isinstance(given, Mapping):  # includes transformers' outputs and numpy's archives
        names = [name for name in KNOWN_NAMES if name in given] or list(given)[:1]
        remedy = f": pass one of them, such as given[{shown(names[0])}]" if names else ""
        raise ValueError(f"a {type(given).__name__} was given, with the entries {listed(given) or 'none'}{remedy}")
    if isinstance(given, Iterator):
        raise ValueError(f"a {type(given).__name__} was given, expected an array; decode_stream takes chunks in turn")
    if isinstance(given, tuple) and len(given) == 2 and given[1] is None:
        given = [given]  # a single one of encodec's frames, without the list around it
    if _is_encodec_output(given):
        return _from_encodec_output(given)
    if count := count_masked(given):
        raise ValueError(
            f"{count} of the values are masked, and masked values cannot be decoded: cut "
            "them off first, of a 2-D array with numpy.ma.compress_cols(given)"
        )
    if getattr(given, "ndim", 0) == 4 and tuple(given.shape[:2]) == (1, 1) and "int" in str(given.dtype):
        return given[0, 0]
    return given


def _is_encodec_output(given: Any) -> bool:
    """Whether it is what encodec's ``model.encode`` returns: a list of (codes, scale), one per segment."""
    return isinstance(given, list | tuple) and all(
        isinstance(item, list | tuple) and len(item) == 2 and getattr(item[0], "ndim", 0) == 3
        for item in given or [None]
    )


def _from_encodec_output(frames: Any) -> Any:
    if any(scale is not None for _, scale in frames):
        raise ValueError(
            "these are encodec's (codes, scale) with scales, as its 48 kHz model makes them, which scale the audio "
            "after decoding: use its 24 kHz model, encodec.EncodecModel.encodec_model_24khz()"
        )
    if len(frames) > 1:
        raise ValueError(
            f"these are {len(frames)} segments of encodec, (codes, scale) each: pass "
            'numpy.concatenate([codes for codes, _ in given], axis=-1) with layout="bkt"'
        )
    codes = frames[0][0]
    if len(codes) != 1:
        raise ValueError(
            f'these are encodec\'s (codes, scale) of a batch of {len(codes)}: pass given[0][0] with layout="bkt"'
        )
    return codes[0]


def wider_type(numbers: npt.NDArray[np.integer[Any]]) -> str | None:
    """The type of wider integers whose bytes were read as 16-bit integers: "int32" or "int64", little-endian.

    In such data every second number, or three of every four, are 0, and others are not. Returns None for any other
    data, and for fewer than 16 numbers.
    """
    if len(numbers) < 16:
        return None
    for name, width in (("int64", 4), ("int32", 2)):
        rows = numbers[: len(numbers) // width * width].reshape(-1, width)
        if rows[:, 0].any() and not rows[:, 1:].any():
            return name
    return None


def whole_numbers(array: npt.NDArray[Any], codebook_size: int) -> bool:
    """Whether an array of another type holds values that may be tokens."""
    try:
        with np.errstate(invalid="ignore"):
            codes = array.astype(np.int64)
        same = array.dtype.kind in "UST" or bool((codes == array).all())
        return same and codes.size > 0 and int(codes.min()) >= 0 and int(codes.max()) < codebook_size
    except (TypeError, ValueError, OverflowError):
        return False


def not_tokens_message(codes: npt.NDArray[Any], codebook_size: int) -> str:
    """The message for tokens that are not integers."""
    dtype = codes.dtype
    name = listed([dtype])  # shortened, since structured types have long names
    of_others = dtype.isbuiltin == 2 and not name.startswith(("int", "uint"))  # bfloat16 and the like
    if of_others or (dtype.kind == "V" and dtype.names is None and dtype.itemsize == 2):
        as_float = "" if of_others else ".view(ml_dtypes.bfloat16)"
        what = (
            "bytes of no type, as which numpy saves bfloat16" if as_float else "a float of another package than numpy"
        )
        return (
            f"the array has dtype {name}, {what}; expected tokens, integers of 0 to {codebook_size - 1}, or features, "
            f"which are floats: pass features{as_float}.astype(np.float32)"
        )
    return f"tokens have dtype {name}, expected integers of 0 to {codebook_size - 1}{type_hint(codes, codebook_size)}"


def type_hint(codes: npt.NDArray[Any], codebook_size: int) -> str:
    """A hint for tokens that are not integers: what to pass instead; empty if that is not known."""
    dtype, hint = codes.dtype, ""
    if dtype.names:
        hint = f"; it has the fields {listed(dtype.names)}: pass tokens[{shown(dtype.names[0])}]"
    elif dtype.kind == "O" and (stacked := stack_hint(codes, "tokens")):
        hint = stacked
    elif dtype.kind == "f" and whole_numbers(codes, codebook_size):
        hint = "; these look like tokens stored as floats: pass tokens.astype(np.int64)"
    elif dtype.kind == "f":
        hint = "; floats are features, which decode takes as they are"
    elif dtype.kind in "OUSTV" and codes.ndim and whole_numbers(codes, codebook_size):
        hint = "; these are whole numbers in another type: pass tokens.astype(np.int64)"
    return hint


def stack_hint(array: npt.NDArray[Any], name: str) -> str:
    """A hint for an array of arrays, as pandas and parquet make them; empty if it is not one."""
    if array.dtype.kind != "O" or array.ndim != 1 or not array.size:
        return ""
    if not all(isinstance(row, np.ndarray | list | tuple) and getattr(row, "ndim", 1) for row in array):
        return ""
    if len({len(row) for row in array}) > 1:
        return "; it holds rows of different lengths, which are no array: cut them to one length"
    return f"; it is an array of rows: pass np.stack({name})"
