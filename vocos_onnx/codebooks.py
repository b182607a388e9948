"""Tokens -> features: the sum of one entry from each codebook."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

LAYOUTS = ("kbt", "bkt")


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
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"tokens have dtype {codes.dtype}, expected integers of 0 to {codebook_size - 1}; "
            "convert them with .astype(numpy.int64) if they are whole numbers"
        )
    if codes.ndim not in (2, 3):
        raise ValueError(
            f"tokens have {codes.ndim} dimensions, shape {codes.shape}; expected (codebooks, frames) or "
            "(codebooks, batch, frames)"
        )
    shape = codes.shape
    if codes.size == 0:
        raise ValueError(f"tokens are empty, shape {shape}; expected at least one codebook, one item and one frame")
    if codes.ndim == 2:
        codes = codes[:, None]
    elif layout == "bkt":
        codes = codes.transpose(1, 0, 2)
    if len(codes) > num_codebooks:
        hint = ""
        if len(shape) == 2 and shape[1] <= num_codebooks:
            hint = "; they look like (frames, codebooks): pass tokens.T"
        elif len(shape) == 3 and codes.shape[1] <= num_codebooks:
            hint = f"; for the other order of the first two axes pass layout={'kbt' if layout == 'bkt' else 'bkt'!r}"
        raise ValueError(
            f"tokens of shape {shape} have {len(codes)} codebooks, expected 1 to {num_codebooks} of them{hint}"
        )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(
            f"tokens hold the value {low if low < 0 else high}, expected 0 to {codebook_size - 1}; "
            "special tokens (padding, end of sequence) must be cut off before decoding"
        )
    return codes


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
