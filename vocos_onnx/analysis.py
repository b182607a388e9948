"""Audio to what a model decodes, mels or tokens."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import check_order
from .io.tokens import Tokens
from .messages import shown


def check_audio(audio: Any, sample_rate: Any) -> None:
    """Raises ValueError for what is no audio, but tokens or log-mels, and where audio and its sample rate are swapped.

    By its values, where the type does not say it: whole numbers of 0 ... 1023 in up to 32 rows shorter than a second
    are tokens, and so are not the zeros of silence; rows of log-mels are as many as their bands, and lie beyond ±1.
    """
    check_order(audio, sample_rate)
    if isinstance(audio, Tokens) or (isinstance(audio, list | tuple) and any(isinstance(x, Tokens) for x in audio)):
        shape = f" of shape {audio.shape}" if isinstance(audio, Tokens) else ""
        raise ValueError(f"audio is Tokens{shape}, expected samples (N,) or (batch, N): {_TO_DECODE}")
    if isinstance(audio, list | tuple) and len(audio) > _BANDS[-1]:  # of samples
        return
    try:
        array = np.asarray(audio)
    except Exception:  # the reader of audio says why
        return
    if array.ndim != 2 or not array.size or array.dtype.kind not in "iuf" or not _is_short(array, sample_rate):
        return
    if len(array) <= 32 and float(array.min()) >= 0 and _TELLING <= float(array.max()) <= 1023:
        if array.dtype.kind != "f" or bool((array == np.rint(array)).all()):
            raise ValueError(
                f"audio has shape {array.shape} and whole numbers of {array.min():g} to {array.max():g}, which look "
                f"like tokens (codebooks, frames), expected samples (batch, N): {_TO_DECODE}"
            )
    elif len(array) in _BANDS and array.dtype.kind == "f" and np.abs(array).mean(dtype=np.float64) > 1:
        raise ValueError(
            f"audio has shape {array.shape} and values of {array.min():.3g} to {array.max():.3g}, which look like mels "
            "(bands, frames), expected samples (batch, N) within ±1: mels are decoded with vocos.decode(mels)"
        )


def checked_blocks(blocks: Any, sample_rate: Any) -> Any:
    """Blocks of audio that are checked as they come; as they are, where they are no iterable."""
    check_order(blocks, sample_rate, "blocks")
    if isinstance(blocks, Tokens) or getattr(blocks, "ndim", 0) == 2:
        check_audio(blocks, sample_rate)
    if isinstance(blocks, str | bytes | bytearray | memoryview | os.PathLike) or not isinstance(blocks, Iterable):
        return blocks  # the reader says what is wrong
    if hasattr(blocks, "ndim") or hasattr(blocks, "read"):
        return blocks
    return _checked(blocks, sample_rate)


def _checked(blocks: Iterable[Any], sample_rate: Any) -> Iterator[Any]:
    for block in blocks:
        check_audio(block, sample_rate)
        yield block


def _is_short(array: npt.NDArray[Any], sample_rate: Any) -> bool:
    try:
        return bool(array.shape[1] < sample_rate)
    except (TypeError, ValueError):
        return True


_BANDS = (64, 80, 100, 128)  # of mels, or the channels of a codec's features

_TELLING = 128  # quieter than that, what is not negative may be silence with an offset

_TO_DECODE = "tokens are decoded with vocos.decode(tokens), vocos = VocosONNX() or the model of their codec"


def read_chunk(chunk: Any) -> int:
    """Frames at once, as an integer of Python's: sums of numpy's small ones would wrap. Raises ValueError."""
    try:
        frames = 0 if isinstance(chunk, bool | np.bool_) else operator.index(chunk)
    except TypeError:
        frames = 0
    if frames < 1:
        raise ValueError(f"chunk is {shown(chunk)}, expected 1 or more frames, an integer")
    return frames


def bandwidth_index(bandwidth: float, bandwidths: tuple[float, ...]) -> int:
    """Where in the bandwidths it is. Raises ValueError, which names them all."""
    try:
        return bandwidths.index(bandwidth)
    except ValueError:
        known = ", ".join(f"{kbps:g}" for kbps in bandwidths)
        raise ValueError(f"bandwidth is {bandwidth!r}, expected one of {known} (kbps)") from None
