"""Tokens -> features: the sum of one entry from each codebook."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import masked
from .config import MAX_CODEBOOKS
from .messages import listed, shown

LAYOUTS = ("kbt", "bkt")
_SPECIAL = 4  # different values beyond a codebook that special tokens make at most
# what arrays of tokens are called here, and by Bark, VALL-E and transformers
KNOWN_NAMES = ("tokens", "codes", "fine_prompt", "audio_tokens", "audio_codes")


def unwrapped(given: Any) -> Any:
    """The array in what others return in its place, else what was given.

    That is encodec's (codes, scale) without scale, or a list of one, and transformers' (chunks, batch, codebooks,
    frames) of one chunk and one recording. Raises ValueError for more of them, for archives and iterators, and for
    masked values, which numpy would take for others; the message says what to pass.
    """
    if isinstance(given, Mapping):  # transformers' outputs and numpy's archives too
        names = [name for name in KNOWN_NAMES if name in given] or list(given)[:1]
        remedy = f": pass one of them, such as given[{shown(names[0])}]" if names else ""
        raise ValueError(f"a {type(given).__name__} was given, with the entries {listed(given) or 'none'}{remedy}")
    if isinstance(given, Iterator):
        raise ValueError(f"a {type(given).__name__} was given, expected an array; decode_stream takes chunks in turn")
    if isinstance(given, tuple) and len(given) == 2 and given[1] is None:
        given = [given]  # one of encodec's frames, without the list around it
    if _is_frames(given):
        return _of_frames(given)
    if count := masked(given):
        raise ValueError(
            f"{count} of the values are masked, and masked values cannot be decoded: cut "
            "them off first, of a 2-D array with numpy.ma.compress_cols(given)"
        )
    if getattr(given, "ndim", 0) == 4 and tuple(given.shape[:2]) == (1, 1) and "int" in str(given.dtype):
        return given[0, 0]
    return given


def _is_frames(given: Any) -> bool:
    """Whether it is what encodec's ``model.encode`` returns: a list of (codes, scale), one of each segment."""
    return isinstance(given, list | tuple) and all(
        isinstance(item, list | tuple) and len(item) == 2 and getattr(item[0], "ndim", 0) == 3
        for item in given or [None]
    )


def _of_frames(frames: Any) -> Any:
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


def read_tokens(
    tokens: npt.ArrayLike, layout: str, num_codebooks: int, codebook_size: int
) -> npt.NDArray[np.integer[Any]]:
    """Check tokens and bring them into the shape (K, B, T).

    Raises ValueError where the layout is unknown or the tokens are not integers, not 2-D or 3-D, empty, of more than
    ``num_codebooks`` codebooks, or outside 0 ... codebook_size - 1.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected 'kbt' (codebooks, batch, frames) or 'bkt'")
    codes = np.asarray(tokens)
    if codes.dtype.kind not in "iu":
        raise ValueError(_other_type(codes, codebook_size))
    if codes.ndim not in (2, 3):
        hint = ""
        if codes.ndim == 1 and codes.size:
            hint = "; of a single codebook pass tokens[None], of a single frame tokens[:, None]"
        elif codes.ndim == 4:
            meant = "tokens[0]" if len(codes) == 1 else "numpy.concatenate(tokens, axis=-1)"
            hint = f'; of (chunks, batch, codebooks, frames), as of transformers, pass {meant} with layout="bkt"'
        axes = "1 dimension" if codes.ndim == 1 else f"{codes.ndim} dimensions"
        raise ValueError(
            f"tokens have {axes}, shape {codes.shape}; expected (codebooks, frames) or (codebooks, batch, frames){hint}"
        )
    shape = codes.shape
    if codes.size == 0:
        raise ValueError(f"tokens are empty, shape {shape}; expected at least one codebook, one item and one frame")
    if codes.ndim == 2:
        codes = codes[:, None]
    elif layout == "bkt":
        codes = codes.transpose(1, 0, 2)
    if len(codes) > num_codebooks:
        hint = _other_order(shape, layout, num_codebooks)
        if not hint and len(codes) <= MAX_CODEBOOKS:
            first = first_codebooks(num_codebooks, shape, layout)
            hint = f"; if they are residual, their first {num_codebooks} can be decoded alone: pass {first}"
        raise ValueError(
            f"tokens of shape {shape} have {counted(len(codes))}, expected 1 to {num_codebooks} of them{hint}"
        )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        wrong = np.unique(codes[(codes < 0) | (codes >= codebook_size)])
        raise ValueError(
            f"tokens hold the value {low if low < 0 else high}, expected 0 to {codebook_size - 1}; "
            + (
                "special tokens (padding, end of sequence) must be cut off before decoding"
                if len(wrong) <= _SPECIAL
                else f"{len(wrong)} different values are outside: these are no tokens of this model's codec, or an "
                f"offset was added to them; pass them as their codec has them, to a model of that codec"
            )
        )
    return codes


def counted(codebooks: int) -> str:
    return "1 codebook" if codebooks == 1 else f"{codebooks} codebooks"


def first_codebooks(count: int, shape: tuple[int, ...], layout: str) -> str:
    """Python for the first codebooks of tokens of that shape."""
    return f"tokens[:, :{count}]" if len(shape) == 3 and layout == "bkt" else f"tokens[:{count}]"


def whole_numbers(array: npt.NDArray[Any], codebook_size: int) -> bool:
    """Whether an array of another type holds what may be tokens."""
    try:
        with np.errstate(invalid="ignore"):
            codes = array.astype(np.int64)
        same = array.dtype.kind in "UST" or bool((codes == array).all())
        return same and codes.size > 0 and int(codes.min()) >= 0 and int(codes.max()) < codebook_size
    except (TypeError, ValueError, OverflowError):
        return False


def _other_type(codes: npt.NDArray[Any], codebook_size: int) -> str:
    """The message for tokens that are not integers."""
    dtype = codes.dtype
    name = listed([dtype])  # of structured types it is long
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
    """What to pass in place of tokens that are not integers, where that is known."""
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
    """What to do with an array of arrays, as pandas and parquet have them; empty if it is none."""
    if array.dtype.kind != "O" or array.ndim != 1 or not array.size:
        return ""
    if not all(isinstance(row, np.ndarray | list | tuple) and getattr(row, "ndim", 1) for row in array):
        return ""
    if len({len(row) for row in array}) > 1:
        return "; it holds rows of different lengths, which are no array: cut them to one length"
    return f"; it is an array of rows: pass np.stack({name})"


def _other_order(shape: tuple[int, ...], layout: str, most: int) -> str:
    """What to pass for axes that are in another order, where that fits."""
    if len(shape) == 2 and shape[1] <= most:
        return '; they look like (frames, codebooks): pass tokens.T, of a file numpy.save("transposed.npy", tokens.T)'
    if len(shape) == 3 and shape[0] == 1 and shape[2] <= most < shape[1]:
        return "; they look like (batch, frames, codebooks): pass tokens[0].T"
    if len(shape) == 3 and 1 < shape[layout == "kbt"] <= most:  # of one item the order is hardly mistaken
        return f"; for the other order of the first two axes pass layout={'kbt' if layout == 'bkt' else 'bkt'!r}"
    if len(shape) == 3 and shape[2] <= most:  # (B, T, K) is much more frequent than (T, B, K)
        return "; they look like (batch, frames, codebooks): pass tokens.transpose(0, 2, 1) with layout='bkt'"
    return ""


def lookup(codes: npt.NDArray[np.integer[Any]], codebooks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Codes (K, B, T) and codebooks (num_codebooks, codebook_size, C) -> features (B, C, T)."""
    features = codebooks[0][codes[0]]
    for codebook, row in zip(codebooks[1:], codes[1:], strict=False):
        features += codebook[row]
    return np.ascontiguousarray(features.transpose(0, 2, 1))


def check_codebooks(codebooks: npt.NDArray[np.float32], sha256: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """The codebooks as they are. Raises ValueError where they hold NaN or infinity, or have other fingerprints.

    ``sha256`` are those that the metadata says the first 1, 2, ... codebooks have, or the last alone: encoders and
    decoders are matched, and tokens named, by what is said.
    """
    if not np.isfinite(codebooks).all():
        raise ValueError("the model's codebooks hold NaN or infinity: the file is damaged, copy or export it again")
    found = fingerprints(codebooks)[-len(sha256) :]
    if found != sha256:
        one, said = next(pair for pair in zip(found, sha256, strict=True) if pair[0] != pair[1])
        raise ValueError(
            f"the model's codebooks have the fingerprint {one}, and its metadata says {said}: the file is damaged, "
            "copy or export it again"
        )
    return codebooks


def fingerprints(codebooks: npt.NDArray[np.float32]) -> tuple[str, ...]:
    """sha256 of the first 1, 2, ... codebooks (K, size, C), as little-endian float32."""
    digest, values = hashlib.sha256(), []
    for codebook in np.ascontiguousarray(codebooks, "<f4"):
        digest.update(codebook)
        values.append(digest.hexdigest())
    return tuple(values)
