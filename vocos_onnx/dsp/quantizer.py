"""Residual vector quantisation: vectors to codes, and codes to vectors."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float


def lookup(codes: npt.NDArray[np.integer[Any]], codebooks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Codes (K, B, T) and codebooks (num_codebooks, codebook_size, C) -> features (B, C, T)."""
    features = codebooks[0][codes[0]]
    for codebook, row in zip(codebooks[1:], codes[1:], strict=False):
        features += codebook[row]
    return np.ascontiguousarray(features.transpose(0, 2, 1))


def fingerprints(codebooks: npt.NDArray[np.float32]) -> tuple[str, ...]:
    """sha256 of the first 1, 2, ... codebooks (K, size, C), as little-endian float32."""
    digest, values = hashlib.sha256(), []
    for codebook in np.ascontiguousarray(codebooks, "<f4"):
        digest.update(codebook)
        values.append(digest.hexdigest())
    return tuple(values)


_PRODUCT = 500_000  # multiplications per block of a matrix product: from 2**19 on, OpenBLAS starts a second thread


def quantize(embeddings: Float, codebooks: Float) -> npt.NDArray[np.int64]:
    """Residual vector quantisation: embeddings (B, T, C) and codebooks (K, size, C) -> codes (K, B, T).

    Each code is the entry nearest to the residual that the previous codebooks left; ties go to the first entry. Since
    |x - c|² = |x|² - 2 x·c + |c|², the nearest entry is where x·c - |c|²/2 is largest, which takes one matrix product
    per codebook.

    The product is computed in blocks small enough for OpenBLAS to stay on one thread. That is just as fast here, and
    OpenBLAS's own threads would keep spinning for a while on the cores that the network needs next: on two cores, that
    made a second of audio take twice as long.
    """
    batch, frames, channels = embeddings.shape
    count, size = batch * frames, codebooks.shape[1]
    entries = math.gcd(size, 64)
    blocks = -(-count * entries * channels // _PRODUCT)
    rows = -(-count // blocks)
    residual = np.zeros((blocks, 1, rows, channels), np.float32)
    flat = residual.reshape(-1, channels)
    flat[:count] = embeddings.reshape(-1, channels)
    scores = np.empty((blocks, rows, size // entries, entries), np.float32)
    codes = np.empty((len(codebooks), count), np.int64)
    for row, codebook in zip(codes, codebooks, strict=True):
        parts = codebook.reshape(-1, entries, channels)
        np.matmul(residual, np.ascontiguousarray(parts.transpose(0, 2, 1)), out=scores.transpose(0, 2, 1, 3))
        scores -= (parts * parts).sum(axis=2) / 2
        code = scores.reshape(-1, size).argmax(axis=1)
        row[:] = code[:count]
        flat -= codebook[code]
    return codes.reshape(len(codebooks), batch, frames)
