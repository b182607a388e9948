"""Sizes that no model comes near: a file that claims more is damaged, or crafted to exhaust memory."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .messages import shown

MIN_RATE, MAX_RATE = 1000, 384_000  # Hz, of audio that is read or written
MAX_CODEBOOKS, MAX_CODEBOOK_SIZE, MAX_N_FFT = 128, 1 << 16, 1 << 16
MAX_CHANNELS, MAX_LAYERS, MAX_BANDWIDTH_IDS = 1 << 14, 256, 1 << 12
MAX_CONTEXT = 1 << 12  # frames
MAX_OVERLAP = 64  # overlapping frames, n_fft / hop_length: usually 4, sometimes 8 or 16
MAX_KBPS = 1e6
MAX_CONFIG = 1 << 16  # bytes of the config of a checkpoint


def read_size(name: str, value: Any, most: int) -> int:
    """Reads a size from outside. Raises ValueError unless it is an integer from 1 to ``most``."""
    require(type(value) is int and value > 0, f"{name} is {shown(value)}, expected a positive integer")
    require(value <= most, f"{name} is {shown(value)}, expected at most {most}")
    return int(value)


def check_overlap(name: str, n_fft: int, hop_length: int) -> None:
    """Raises ValueError if more frames overlap than in any real model."""
    require(
        n_fft <= MAX_OVERLAP * hop_length,
        f"{name} is {n_fft}, expected at most {MAX_OVERLAP} times the hop_length, {hop_length}",
    )


def require(condition: bool, message: str) -> None:
    """Raises ValueError with that message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def read_integer(name: str, given: Any, low: int, high: int, meaning: str) -> int:
    """Reads an integer of Python, numpy or torch within a range. Raises ValueError for anything else."""
    if type(given) is int:  # the usual case, once for each chunk of a stream
        value = given
    else:
        try:
            array = np.asarray(given)
            if array.dtype == bool:
                raise TypeError
            value = operator.index(array.item() if array.size == 1 else given)  # upstream passes tensor([2])
        except TypeError:
            raise ValueError(f"{name} is {shown(given)}, expected an integer: {meaning}") from None
    if not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, expected {low} to {high}: {meaning}")
    return value
