"""Tokens -> features: the sum of one entry from each codebook."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import _other_type
from .limits import MAX_CODEBOOKS

LAYOUTS = ("kbt", "bkt")
_SPECIAL = 4  # different values beyond a codebook that special tokens make at most


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
