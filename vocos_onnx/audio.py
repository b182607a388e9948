"""Files -> mono waveforms of the rate that is wanted, and back."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .files import check_target, whole_file

Float = npt.NDArray[np.float32]

MIN_RATE, MAX_RATE = 1000, 384_000
_BLOCK = 1 << 18  # samples read at once
_FULL_SCALE = {np.dtype(np.int16): 1 << 15, np.dtype(np.int32): 1 << 31}


def load_audio(path: str | os.PathLike[str], sample_rate: int) -> Float:
    """Read a file as mono audio of one sample rate.

    Everything that libsndfile reads: wav, flac, ogg, mp3, aiff, ...; any sample type, rate and number of channels. The
    channels are mixed by their mean, then the result is resampled (see ``resample``) where its rate is another. A .wav
    that was cut off is read up to there, as libsndfile does it.

    Returns:
        (samples,) float32, full scale is ±1: ceil(N · sample_rate / rate) samples from a file with N of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not audio, damaged or shorter than its header says, empty, or holds NaN or infinity.
    """
    audio: Float = np.concatenate(list(load_blocks(path, sample_rate)))
    return audio


def load_blocks(path: str | os.PathLike[str], sample_rate: int) -> Iterator[Float]:
    """What ``load_audio`` gives, some seconds at a time (samples,), so that memory does not grow. Raises as that."""
    import soundfile  # not needed to decode, and slow to load

    _check_rate(sample_rate)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no audio file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected audio such as .wav, .flac, .ogg or .mp3")
    done = 0
    try:
        with soundfile.SoundFile(path) as file:
            for block in read_blocks(_mixed(file), file.samplerate, sample_rate):
                done += block.shape[1]
                yield block[0]
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"cannot read {path} as audio: {error.error_string} It may be damaged or of another kind"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not done:
        raise ValueError(f"{path}: audio is empty; expected at least one sample")


def _mixed(file: Any) -> Iterator[Float]:
    """The mean of the channels (n,), taken while reading, so that those of a long file never are in memory together."""
    frames = 0
    for block in file.blocks(_BLOCK, dtype="float32", always_2d=True):
        frames += len(block)
        yield block.mean(axis=1)
    if frames < file.frames:
        raise ValueError(f"it is truncated: its header promises {file.frames} samples, and it holds {frames}")


def read_waveform(audio: npt.ArrayLike, sample_rate: int, to: int) -> Float:
    """Audio (N,) or (B, N) as float32 (B, ceil(N · to / sample_rate)) of the rate ``to``. Raises ValueError."""
    _check_rate(sample_rate)
    return resample(_check(np.asarray(audio)), sample_rate, to)


def read_blocks(blocks: Iterable[npt.ArrayLike], sample_rate: int, to: int) -> Iterator[Float]:
    """What ``read_waveform`` makes of the blocks (n,) of one recording in one piece, (1, m) each. Raises ValueError."""
    _check_rate(sample_rate)
    return resample_blocks(_check_blocks(blocks), sample_rate, to)


def _check_blocks(blocks: Iterable[npt.ArrayLike]) -> Iterator[Float]:
    """Blocks (n,) of one recording as float32 (1, n); empty ones are left out. Raises ValueError."""
    first = 0
    for block in blocks:
        given = np.asarray(block)
        if given.ndim != 1:
            raise ValueError(f"a block of audio has shape {given.shape}, expected (samples,)")
        if given.size:
            yield _check(given, first)
            first += given.size


def _check(given: npt.NDArray[Any], first: int = 0) -> Float:
    if given.ndim not in (1, 2):
        raise ValueError(f"audio has shape {given.shape}, expected (samples,), or (batch, samples)")
    if given.size == 0:
        raise ValueError(f"audio is empty, shape {given.shape}; expected at least one sample")
    if given.ndim == 2 and given.shape[1] <= 8 < given.shape[0]:
        raise ValueError(
            f"audio has shape {given.shape}, expected (batch, samples); it looks like (samples, channels): "
            "mix it down with audio.mean(axis=1), or pass audio.T for each channel on its own"
        )
    if given.dtype in _FULL_SCALE:
        given = given / np.float32(_FULL_SCALE[given.dtype])
    elif not np.issubdtype(given.dtype, np.floating):
        raise ValueError(
            f"audio has dtype {given.dtype}, expected floats with full scale ±1, int16 or int32; convert it"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        waveform = np.ascontiguousarray(given.reshape(-1, given.shape[-1]), np.float32)
    if not np.isfinite(waveform).all():
        bad = first + np.argmin(np.isfinite(waveform).all(axis=0))
        raise ValueError(f"audio holds NaN or infinity, first at sample {bad}; expected finite values")
    return waveform


class Tape:
    """Audio (B, N) that comes in blocks (B, n): stretches of it, each beginning where the one before did or later."""

    def __init__(self, blocks: Iterable[Float]):
        self._blocks = iter(blocks)
        self._held = np.zeros((1, 0), np.float32)
        self._first = 0  # of the samples that are held

    def reach(self, samples: int) -> int:
        """Read until there are so many samples, or the end. Returns how many there are: fewer only at the end."""
        parts = [self._held] if self._held.size else []
        there = self._first + self._held.shape[1]
        while there < samples and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            there += block.shape[1]
        if len(parts) > 1 or (parts and not self._held.size):
            self._held = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return there

    def cut(self, start: int, stop: int) -> Float:
        """The samples (B, stop - start) from one to another, as far as they are there, and let go those before."""
        assert start >= self._first
        self._held = self._held[:, start - self._first :]
        self._first = start
        return self._held[:, : stop - start]


def resample(audio: Float, rate: int, to: int) -> Float:
    """Audio (..., N) from one sample rate in Hz to another: (..., ceil(N · to / rate)) float32.

    A polyphase filter of scipy, linear phase, without delay, whose low-pass is a Kaiser-windowed sinc of 64 zero
    crossings on each side. With f the lower of the two rates: flat within 0.001 dB up to 0.45 f, and at least
    97 dB down from 0.5 f on, so that nothing folds back (measured; tests/test_audio.py). Equal rates return the audio
    as it is.
    """
    if rate == to:
        return audio
    from scipy.signal import resample_poly  # a second to load: only where it is needed

    factor = math.gcd(rate, to)
    up, down = to // factor, rate // factor
    resampled: Float = resample_poly(audio, up, down, axis=-1, window=_low_pass(max(up, down)))
    return resampled


def resample_blocks(blocks: Iterable[Float], rate: int, to: int) -> Iterator[Float]:
    """What ``resample`` makes of the blocks (B, n) in one piece, block by block."""
    if rate == to:
        yield from blocks
        return
    factor = math.gcd(rate, to)
    up, down = to // factor, rate // factor
    # the filter reaches 64 · max(up, down) of the samples between which it interpolates; whole periods of it
    context = -(-64 * max(up, down) // (up * down)) * down
    tape, start = Tape(blocks), 0
    while True:
        there = tape.reach(start + down + context)
        stop = start + (there - start - context) // down * down
        if stop <= start:  # the end
            stop = there
        if stop <= start:
            return
        before = min(start, context)
        resampled = resample(tape.cut(start - before, stop + context), rate, to)
        yield resampled[:, before // down * up :][:, : -(-(stop - start) * up // down)]
        start = stop


@lru_cache(maxsize=4)
def _low_pass(factor: int) -> Float:
    """Low-pass (128 · factor + 1,) for resampling by up or down, the larger of which is ``factor``.

    Kaiser & Schafer 1980: an attenuation of A dB takes beta = 0.1102 (A - 8.7) and a transition band of
    (A - 7.95) / (2.285 · 128 factor) rad, which for A = 100 is 0.1 π/factor: centred on 0.95, it ends at 1.
    """
    from scipy.signal import firwin

    taps: Float = firwin(128 * factor + 1, 0.95 / factor, window=("kaiser", 0.1102 * (100 - 8.7))).astype(np.float32)
    return taps


def _check_rate(sample_rate: int) -> None:
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer):
        raise ValueError(f"sample_rate is {sample_rate!r}, expected an integer in Hz")
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise ValueError(f"sample_rate is {sample_rate}, expected {MIN_RATE} to {MAX_RATE} Hz")


def audio_format(path: str | os.PathLike[str]) -> str:
    """The libsndfile format that a file's ending names, after checking that a file of that name can be written.

    Raises:
        ValueError: an ending that libsndfile does not know.
        OSError: as ``check_target`` does.
    """
    import soundfile

    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in soundfile.available_formats():
        raise ValueError(f"{path.name!r} does not end in a known kind of audio file; try .wav or .flac")
    check_target(path)
    return kind


def save_audio(
    path: str | os.PathLike[str], audio: npt.NDArray[Any], sample_rate: int, *, overwrite: bool = True
) -> None:
    """Write audio (samples,) to a file of the kind that its ending names: .wav (16-bit), .flac, .ogg, .mp3, ...

    Values beyond ±1 are clipped. The file appears whole or not at all. Raises as ``audio_format`` does, OSError
    where the folder cannot be written, and FileExistsError where the file exists and ``overwrite`` is false.
    """
    save_blocks(path, [audio], sample_rate, overwrite=overwrite)


def save_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[npt.NDArray[Any]],
    sample_rate: int,
    *,
    overwrite: bool = True,
    comment: str = "",
) -> int:
    """As ``save_audio``, of blocks (n,) that are written as they come. Returns the samples in all.

    The ``comment`` goes into the file where its format has room for one.
    """
    import soundfile

    path, samples = Path(path), 0
    kind = audio_format(path)
    with (
        whole_file(path, overwrite=overwrite) as partial,
        soundfile.SoundFile(partial, "w", samplerate=sample_rate, channels=1, format=kind) as file,
    ):
        if comment:
            with suppress(soundfile.LibsndfileError):  # a format without
                file.comment = comment
        for block in blocks:
            file.write(block)
            samples += len(block)
    return samples
