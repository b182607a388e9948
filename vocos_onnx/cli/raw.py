"""Reads the input of ``stream``: numbers without a header on standard input."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import wider_type
from vocos_onnx.io.audio import LOUD
from vocos_onnx.io.kinds import Kind, kind_of
from vocos_onnx.messages import in_python, in_shell, python_command

from .audio import warn_of_level
from .console import BAD_INPUT, STDIN, read_stdin

Rows = npt.NDArray[Any]  # (n, width)


def frames_before_errors(frames: Iterable[Rows], codebook_size: int | None, errors: list[Exception]) -> Iterator[Rows]:
    """Yields features (C, n), or tokens (K, n) below ``codebook_size``, up to the first bad frame."""

    def wrong(rows: Rows) -> npt.NDArray[np.bool_]:
        bad: npt.NDArray[np.bool_] = ~np.isfinite(rows)
        if codebook_size is not None:
            bad = (rows < 0) | (rows >= codebook_size)
        return np.asarray(bad.any(axis=1))

    def error(at: int, row: Rows) -> ValueError:
        if codebook_size is None:
            return ValueError(f"frame {at} holds NaN or infinite values")
        token = row[(row < 0) | (row >= codebook_size)][0]
        return ValueError(f"frame {at} holds the token {token}, expected 0 to {codebook_size - 1}")

    for rows in _before_errors(frames, wrong, error, errors):
        yield rows.T


def audio_before_errors(samples: Iterable[Rows], errors: list[Exception]) -> Iterator[Rows]:
    """Yields blocks (n,) of audio up to the first sample that is not finite. Warns once if the audio is too loud."""
    is_loud = False

    def wrong(rows: Rows) -> npt.NDArray[np.bool_]:
        return ~np.isfinite(rows[:, 0])

    def error(at: int, row: Rows) -> ValueError:
        return ValueError(f"audio holds NaN or infinity, first at sample {at}")

    for rows in _before_errors(samples, wrong, error, errors):
        if rows.dtype.kind == "f" and not is_loud and (peak := float(np.abs(rows).max())) > LOUD:
            is_loud = True
            warn_of_level(STDIN, peak)
        yield rows[:, 0]


def _before_errors(
    blocks: Iterable[Rows],
    wrong: Callable[[Rows], npt.NDArray[np.bool_]],
    error: Callable[[int, Rows], ValueError],
    errors: list[Exception],
) -> Iterator[Rows]:
    """Yields the rows up to the first that is ``wrong``.

    The error is added to the list ``errors``, so frames before it can be decoded and written first; it is raised here
    if no good row came before it. ``error`` makes the exception for a wrong row from the row's number and values.
    """
    done = 0
    try:
        for rows in blocks:
            bad = wrong(rows)
            good = int(bad.argmax()) if bad.any() else len(rows)
            if good:
                yield rows[:good]
            done += good
            if good < len(rows):
                raise error(done, rows[good])
    except BAD_INPUT as found:
        if not done:
            raise
        errors.append(found)


class RawInput:
    """The numbers on standard input as rows (n, width) of a dtype, as they arrive.

    Iteration raises ValueError if standard input is a file of a known kind, is empty, or ends within a row. For a file,
    the message gives the command that feeds its contents to ``stream`` with the same arguments. ``rate``: the expected
    sample rate of audio in Hz.
    """

    def __init__(self, args: Namespace, dtype: str, width: int, rate: int) -> None:
        self._args, self._dtype, self._width, self._rate = args, dtype, width, rate

    def __iter__(self) -> Iterator[Rows]:
        size = np.dtype(self._dtype).itemsize * self._width
        rest = b""  # bytes that are not a whole row yet
        undecided = empty = True
        for data in read_stdin():
            rest, empty = rest + data, False
            undecided = undecided and self._check(rest, ended=False)
            whole = 0 if undecided else len(rest) // size * size
            if whole:
                yield self._rows(rest[:whole])
                rest = rest[whole:]
        if undecided:
            self._check(rest, ended=True)
            if whole := len(rest) // size * size:
                yield self._rows(rest[:whole])
                rest = rest[whole:]
        if empty:
            raise ValueError(f"{STDIN} is empty or closed; expected raw {self._args.kind}")
        if rest:
            raise ValueError(f"stdin ended with {len(rest)} bytes of a frame of {size}; expected whole frames")

    def _rows(self, data: bytes) -> Rows:
        return np.frombuffer(data, self._dtype).reshape(-1, self._width)

    def _check(self, head: bytes, ended: bool) -> bool:
        """Raises ValueError if stdin begins like a file of a known kind. Returns whether more bytes are needed."""
        kind, more = kind_of(head, ended)
        if kind is not None:
            raise ValueError(f"stdin is {kind.name}, and stream {self._args.kind} takes {self._remedy(kind)}")
        return more or (self._args.kind == "tokens" and _check_width(head, ended))

    def _remedy(self, kind: Kind) -> str:
        """Returns what ``stream`` takes, and how to make that from a file of this kind."""
        args = self._args
        pcm = f"ffmpeg -v error -i in.wav -f {args.format} -ac 1 -ar {self._rate} - | vocos-onnx stream audio"
        pcm += "" if args.format == "s16le" else f" --format {args.format}"
        pcm += "" if args.rate is None else f" --rate {args.rate}"
        if args.kind == "audio":
            taken = f"raw samples ({args.format}, mono, {self._rate} Hz)"
            if kind.group == "array":
                return (
                    f'{taken}: write the array (samples,) with full scale 1 as raw numbers: python -c "import numpy, '
                    "sys; sys.stdout.buffer.write(numpy.load('audio.npy').astype('<f4').tobytes())\" | vocos-onnx "
                    "stream audio --format f32le"
                )
            if kind.group == "audio":
                return f"{taken}: convert it with: {pcm}; or copy a whole file with: vocos-onnx resynth in.wav out.wav"
            return f"{taken}, as this makes of audio: {pcm}"
        numbers, dtype = ("16-bit integers", "<i2") if args.kind == "tokens" else ("32-bit floats", "<f4")
        taken = f"raw little-endian {numbers}, frame after frame"
        if kind.group == "audio":
            return f"{taken}; raw audio goes through the codec with: {pcm}"
        ending, array = ("npz", f'["{args.kind}"]') if kind.name.startswith("a zip") else ("npy", "")
        file = _stdin_file() or f"FILE.{ending}"
        code = f'sys.stdout.buffer.write(numpy.load({in_python(file)}){array}.T.astype("{dtype}").tobytes())'
        again = f"vocos-onnx stream {args.kind}"
        again += "" if args.model is None else f" --model {in_shell(args.model)}"
        again += "" if args.bandwidth is None else f" --bandwidth {args.bandwidth:g}"
        return (
            f"{taken}: decode a file with: vocos-onnx decode {in_shell(file)} out.wav; or send its array (rows, "
            f"frames) as raw numbers: {python_command(f'import numpy, sys; {code}')} | {again}"
        )


def _stdin_file() -> str | None:
    """Returns the name of the file that is standard input, None if it is not a file."""
    with suppress(OSError, AttributeError, ValueError):
        path = Path(os.path.realpath("/dev/stdin"))
        if os.path.samestat(path.stat(), os.fstat(sys.stdin.fileno())) and path.is_file():
            return str(path)
    return None


def _check_width(head: bytes, ended: bool) -> bool:
    """Raises ValueError if tokens look like wider integers. Returns whether more bytes are needed."""
    values = np.frombuffer(head[: len(head) // 2 * 2], "<i2")
    if values[1::2].any() or not values[::2].any():
        return False
    if len(values) < 64 and not ended:
        return True
    if (name := wider_type(values)) is not None:
        zeros = "three of four" if name == "int64" else "every second one"
        raise ValueError(
            f"the numbers on stdin look like {name}: as 16-bit integers, which stream tokens takes, {zeros} of them "
            "are 0; write tokens (codebooks, frames) with tokens.T.astype(numpy.int16).tobytes()"
        )
    return False
