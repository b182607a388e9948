"""Checks samples from callers, and converts them to float32 at the sample rate required."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float, as_array, check_awaited, check_order, count_masked
from vocos_onnx.dsp.resample import resample, resample_blocks
from vocos_onnx.limits import MAX_RATE, MIN_RATE
from vocos_onnx.messages import in_python, shown

from .files import name_of
from .tokens import Tokens

_CHANNELS = 64  # at most, in a recording whose axes look swapped

FULL_SCALE = {np.dtype(np.int16): 1 << 15, np.dtype(np.int32): 1 << 31}

# Float mixes may reach several times full scale (20 dB over is 10 times), but nothing in use exceeds it by 36 dB. In
# the int16 range this value is 54 dB below full scale: quieter than speech in any useful recording.
_LOUDEST = 64

_BANDS = (64, 80, 100, 128)  # mel bands, or channels of a codec's features
_TELLING = 128  # below that, non-negative samples may be silence with an offset
_TO_DECODE = "tokens are decoded with vocos.decode(tokens), vocos = VocosONNX() or the model of their codec"


def read_rate(sample_rate: Any) -> int:
    """A sample rate in Hz as a Python int, whose products cannot overflow. Raises ValueError."""
    if isinstance(sample_rate, np.ndarray | list | tuple) and np.ndim(sample_rate):
        raise ValueError(
            f"sample_rate is {type(sample_rate).__name__} of length {len(sample_rate)}, expected an integer in Hz"
        )
    try:
        if isinstance(sample_rate, bool | np.bool_):
            raise TypeError
        rate = operator.index(sample_rate)
    except TypeError:
        value, hint = None, ""
        with suppress(TypeError, ValueError, OverflowError):
            value = None if np.asarray(sample_rate).dtype == np.bool_ else float(sample_rate)
        if value is not None:
            _check_rate(value, sample_rate)
            hint = f": {int(value)}, that is int(sample_rate)" if value == int(value) else ""
        raise ValueError(f"sample_rate is {shown(sample_rate)}, expected an integer in Hz{hint}") from None
    _check_rate(rate, rate)
    return rate


def _check_rate(rate: float, given: Any) -> None:
    if MIN_RATE <= rate <= MAX_RATE:
        return
    hint = f"; {rate:g} kHz is {1000 * rate:g}" if MIN_RATE <= 1000 * rate <= MAX_RATE else ""
    raise ValueError(f"sample_rate is {shown(given)}, expected {MIN_RATE} to {MAX_RATE} Hz{hint}")


def read_waveform(audio: npt.ArrayLike, sample_rate: int, to: int) -> Float:
    """Audio (N,) or (B, N) as float32 (B, ceil(N · to / sample_rate)) at the rate ``to``. Raises ValueError."""
    check_audio(audio, sample_rate)
    rate = read_rate(sample_rate)
    return resample(_check(as_samples(audio, rate)), rate, read_rate(to))


def read_blocks(blocks: Iterable[npt.ArrayLike], sample_rate: int, to: int) -> Iterator[Float]:
    """Like ``read_waveform`` on the joined blocks (n,) of one recording; yields blocks (1, m). Raises ValueError."""
    check_order(blocks, sample_rate, "blocks")
    if isinstance(blocks, Tokens) or getattr(blocks, "ndim", 0) == 2:
        check_audio(blocks, sample_rate)
    rate = read_rate(sample_rate)
    return resample_blocks(_check_blocks(as_blocks(blocks, rate), rate), rate, read_rate(to))


def as_samples(audio: Any, rate: int, blockwise: str = "resynth_stream or encode_stream") -> npt.NDArray[Any]:
    """Audio as an array. Raises ValueError if it is not samples."""
    _refuse_files(audio, rate, "audio", "load_audio")
    check_awaited(audio, "audio", "join its blocks first, as in np.concatenate([block async for block in audio])")
    expected = "expected an array of samples"
    if isinstance(audio, Iterator):
        raise ValueError(
            f"audio is {_kind(audio)}, {expected}: pass its blocks to {blockwise}, or np.concatenate(list(audio))"
        )
    if isinstance(audio, Mapping | Set) or audio is None:
        raise ValueError(f"audio is {_kind(audio)}, {expected}")
    for each in audio if isinstance(audio, list | tuple) else [audio]:
        if count := count_masked(each):
            raise ValueError(
                f"audio has {count} masked samples, which have no value; pass audio.filled(0) to "
                "have silence in their place"
            )
    try:
        array = as_array(audio, "audio")
    except ValueError as error:
        hint = "; expected (samples,): pass one recording at a time, or np.concatenate(audio) for blocks of one"
        if isinstance(audio, tuple) and any(isinstance(each, int) for each in audio):
            hint = "; pass the audio without its sample rate"
        raise ValueError(f"{error}{hint}") from None
    if array.dtype.kind == "O":
        raise ValueError(f"audio has dtype object, expected floats with full scale ±1, int16 or int32{_objects(array)}")
    return array


def _kind(given: Any) -> str:
    return "None" if given is None else f"a {type(given).__name__}"


def _objects(array: npt.NDArray[Any]) -> str:
    """What to pass instead of an object array, such as a column of arrays read from parquet."""
    shapes = {np.shape(each) for each in array.flat} if array.size else set()
    if shapes == {()}:
        numbers = all(isinstance(each, int | float | np.number) for each in array.flat)
        return "; pass audio.astype(np.float32)" if numbers else "; all of it has to be numbers"
    if len(shapes) == 1:
        return "; pass audio.flat[0]" if array.size == 1 else "; pass np.stack(audio.tolist())"
    return "; its items have different lengths: pass one recording at a time, as in audio[0]"


def as_blocks(blocks: Any, rate: int) -> Iterable[npt.ArrayLike]:
    """Returns the blocks of audio; their contents are not checked yet. Raises ValueError if they are not blocks."""
    _refuse_files(blocks, rate, "blocks", "load_blocks")
    check_awaited(blocks, "blocks", "collect them first, as in [block async for block in blocks]")
    if getattr(blocks, "ndim", 3) < 3 or not isinstance(blocks, Iterable):
        what = f"one array of shape {np.shape(blocks)}" if hasattr(blocks, "ndim") else shown(blocks)
        remedy = "pass [audio] for one array"
        if getattr(blocks, "ndim", 0) > 1:  # whose rows could be blocks, channels, or samples of all channels
            remedy = "pass list(blocks) if each row is a block, [blocks.mean(axis=1)] for (samples, channels)"
        raise ValueError(f"blocks is {what}, expected an iterable of arrays (samples,): {remedy}")
    return blocks


def _refuse_files(audio: Any, rate: int, name: str, function: str) -> None:
    if isinstance(audio, str | os.PathLike):
        path = os.fsdecode(os.fspath(audio))
        raise ValueError(
            f"{name} is the path {shown(path)}, expected samples: pass {function}({in_python(path)}, {rate})"
        )
    if isinstance(audio, bytes | bytearray | memoryview) and not getattr(audio, "ndim", 0) > 1:
        if isinstance(audio, memoryview) and audio.format not in ("b", "B", "c"):
            return
        one = "[np.frombuffer(data, np.int16)]" if name == "blocks" else "np.frombuffer(data, np.int16)"
        raise ValueError(
            f"{name} is {type(audio).__name__}, expected samples: pass {one} for 16-bit samples, or "
            f"{function}(io.BytesIO(data), {rate}) for what an audio file holds"
        )
    if hasattr(audio, "read") and not hasattr(audio, "__array__"):
        raise ValueError(f"{name} is {name_of(audio)}, expected samples: pass {function}(file, {rate})")


def _check_blocks(blocks: Iterable[npt.ArrayLike], rate: int) -> Iterator[Float]:
    """Blocks (n,) of one recording as float32 (1, n); empty ones are skipped. Raises ValueError."""
    first = 0
    for block in blocks:
        check_audio(block, rate)
        # a copy, since it is kept for a while and the caller may reuse the memory
        given = np.array(as_samples(block, rate))
        if given.ndim != 1:
            raise ValueError(f"a block of audio has shape {given.shape}, expected (samples,){one_channel_hint(given)}")
        if given.size:
            yield _check(given, first)
            first += given.size


def _check(given: npt.NDArray[Any], first: int = 0) -> Float:
    if given.ndim not in (1, 2):
        raise ValueError(
            f"audio has shape {given.shape}, expected (samples,), or (batch, samples){one_channel_hint(given)}"
        )
    if given.size == 0:
        raise ValueError(f"audio is empty, shape {given.shape}; expected at least one sample")
    if given.ndim == 2 and given.shape[1] <= _CHANNELS and given.shape[1] < given.shape[0] > 8:
        one = "pass audio[:, 0]" if given.shape[1] == 1 else f"mix it down with {_mean(given, 1)}"
        raise ValueError(
            f"audio has shape {given.shape}, expected (batch, samples); it looks like (samples, channels): "
            f"{one}, or pass audio.T for each channel on its own"
        )
    if full_scale := full_scale_of(given.dtype):
        given = given / np.float32(full_scale)
    with np.errstate(over="ignore"):  # values that overflow float32 become infinite, and raise below
        waveform = np.ascontiguousarray(given.reshape(-1, given.shape[-1]), np.float32)
    check_values(waveform, first)
    return waveform


def full_scale_of(dtype: np.dtype[Any]) -> int | None:
    """The full scale of an integer type; None for floats. Raises ValueError for a type that is not used for audio."""
    native = dtype.newbyteorder("=")
    if native in FULL_SCALE:
        return FULL_SCALE[native]
    if dtype.kind == "f":
        return None
    bits = 8 * dtype.itemsize
    if dtype.kind == "i" and bits == 8:
        remedy = "pass audio / np.float32(128)"
    elif dtype.kind == "i":
        remedy = (
            "pass audio.astype(np.int16) for samples of 16 bits, audio / 2**23 for 24, audio.astype(np.int32) for 32"
        )
    elif dtype.kind == "u":
        half = f"2.0**{bits - 1}"
        remedy = f"pass (audio - {half}) / {half} where silence is at {half}"
        if bits == 64:
            remedy = "pass audio.astype(np.int16) for samples of 16 bits, audio.astype(np.int32) for 32"
    elif dtype.kind == "c":
        remedy = "pass audio.real if that is the waveform"
    else:
        remedy = "these are no samples"
    raise ValueError(f"audio has dtype {dtype}, expected floats with full scale ±1, int16 or int32; {remedy}")


class TooLoud(ValueError):
    """Raised for floats far beyond the range of audio, such as the range of an integer type."""

    def __init__(self, peak: float, at: int):
        self.what = f"audio reaches {peak:.6g} at sample {at}, expected floats with full scale ±1 ({_LOUDEST} at most)"
        self.full_scale = 1 << 15 if peak <= 1.5 * (1 << 15) else 1 << 31  # a resampler may overshoot
        remedy = "pass audio / 32768 if it is in the range of int16"
        if self.full_scale > 1 << 15:
            remedy = "pass audio / 2**23 if it is in the range of 24 bits, audio / 2**31 in that of int32"
        if peak > 1.5 * (1 << 31):
            self.full_scale, remedy = 0, "no audio is in such a range"
        super().__init__(f"{self.what}; {remedy}")


def check_values(audio: npt.NDArray[Any], first: int) -> None:
    """Raises ValueError if some of the floats (..., n) are not finite, or are far beyond the range of audio."""
    peaks = np.array([audio.max(), -audio.min()]) if audio.size else np.zeros(1)  # max and min propagate NaN
    if np.isfinite(peaks).all():
        if peaks.max() > _LOUDEST:
            columns = np.abs(audio.reshape(-1, audio.shape[-1])).max(axis=0)
            raise TooLoud(float(peaks.max()), first + int(columns.argmax()))
        return
    finite = np.isfinite(audio.reshape(-1, audio.shape[-1])).all(axis=0)
    raise ValueError(
        f"audio holds NaN or infinity, first at sample {first + int(finite.argmin())}; expected finite values"
    )


def _mean(audio: npt.NDArray[Any], axis: int) -> str:
    """An expression that mixes the channels, with a result that is valid audio."""
    scale = FULL_SCALE.get(audio.dtype.newbyteorder("="))
    return f"(audio / {scale}).mean(axis={axis})" if scale else f"audio.mean(axis={axis})"


def one_channel_hint(audio: npt.NDArray[Any]) -> str:
    """A hint at how to get one channel from an array with another number of axes."""
    if audio.ndim < 1 or audio.size == 0:
        return ""
    if sum(size > 1 for size in audio.shape) <= 1:
        longest = max(range(audio.ndim), key=lambda axis: audio.shape[axis])
        index = ", ".join(":" if axis == longest else "0" for axis in range(audio.ndim))
        index = index.removesuffix(", :") if longest == audio.ndim - 1 else index
        return f"; pass audio[{index}]" if audio.ndim > 1 else ""
    if audio.ndim == 2:
        return f"; mix the channels: {_mean(audio, int(audio.shape[0] > audio.shape[1]))}"
    return "; pass one channel of it"


def check_audio(audio: Any, sample_rate: Any) -> None:
    """Raises ValueError for tokens or log-mels passed as audio, and if audio and its sample rate are swapped.

    Where the type does not tell, the values do: whole numbers from 0 to 1023 in up to 32 rows shorter than a second are
    tokens, unless they are too small to tell from silence; log-mels have one row for each band, and exceed ±1 on
    average.
    """
    check_order(audio, sample_rate)
    if isinstance(audio, Tokens) or (isinstance(audio, list | tuple) and any(isinstance(x, Tokens) for x in audio)):
        shape = f" of shape {audio.shape}" if isinstance(audio, Tokens) else ""
        raise ValueError(f"audio is Tokens{shape}, expected samples (N,) or (batch, N): {_TO_DECODE}")
    if isinstance(audio, list | tuple) and len(audio) > _BANDS[-1]:  # a list of samples
        return
    try:
        array = np.asarray(audio)
    except Exception:  # reading the audio will report why
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


def _is_short(array: npt.NDArray[Any], sample_rate: Any) -> bool:
    try:
        return bool(array.shape[1] < sample_rate)
    except (TypeError, ValueError):
        return True


def read_chunk(chunk: Any) -> int:
    """Frames per chunk as a Python int: sums of numpy's small integers would wrap. Raises ValueError."""
    try:
        frames = 0 if isinstance(chunk, bool | np.bool_) else operator.index(chunk)
    except TypeError:
        frames = 0
    if frames < 1:
        raise ValueError(f"chunk is {shown(chunk)}, expected 1 or more frames, an integer")
    return frames


def to_int16(audio: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    """Converts samples with full scale ±1 to 16-bit PCM: rounds to the nearest value, and clips."""
    return np.round(audio * (1 << 15)).clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)


def cut_end(blocks: Iterable[Float], most: int, length: Callable[[int], int]) -> Iterator[Float]:
    """Yields the blocks (n,) with up to ``most`` samples removed from the end.

    ``length`` is called after the last block with the number of samples in all blocks, and returns how many to keep.
    """
    tail, done = np.zeros(0, np.float32), 0  # the last samples, which may be cut; the number before them
    for block in blocks:
        tail = np.concatenate([tail, block])
        certain = max(0, len(tail) - most)
        yield tail[:certain]
        tail, done = tail[certain:], done + certain
    yield tail[: length(done + len(tail)) - done]
