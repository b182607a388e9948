"""Standard streams: what is printed there, messages and warnings included, and what is read and written there."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO

from vocos_onnx.io.files import is_stdout
from vocos_onnx.messages import printable

from .progress import wipe

BAD_INPUT = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)  # errors that are one line on stderr
STDIN, STDOUT = "standard input", "standard output"


class ReaderGoneError(Exception):
    """The reader of standard output has closed it."""


# Lines of text


def print_line(stream: TextIO | None, text: str) -> None:
    """One line, in which nothing controls a terminal, and which the stream's encoding can hold. Raises OSError."""
    if stream is None or stream.closed:
        raise OSError("it is closed")
    wipe()
    line = printable(text) + "\n"
    try:
        stream.write(line)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def tell(text: str) -> None:
    """One line on stderr, if there is one: a terminal may be gone, and print(file=None) would be standard output."""
    with suppress(OSError):
        print_line(sys.stderr, f"vocos-onnx: {text}")


def warn(text: str) -> None:
    tell(f"warning: {text}")


def report_done(output: Path | None, text: str) -> None:
    """One line on what was done, but not into the output itself (None is standard output).

    The work is done, whether it can be printed or not.
    """
    stream = sys.stderr if output is None or is_stdout(output) else sys.stdout
    try:
        print_line(stream, text)
    except OSError:
        abandon(stream)


def message_of(error: Exception) -> str:
    """What the error says; of the operating system's without Python's [Errno 28]."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def complain(error: Exception) -> None:
    """One line on stderr, which names options where the message names arguments of Python."""
    text = re.sub(r"\s*[\r\n]\s*", " ", message_of(error).strip())
    text = re.sub(r"\b(bandwidth|bandwidth_id|encoder|layout)=(?=(['\w]?))", _option, text)
    text = re.sub(r", or overwrite=True|, or None for all that this process may use", "", text)
    text = re.sub(r"\bVocosONNX\('([\w.-]+)'\)", r"--model \1", text)
    tell(f"error: {text}")


def _option(argument: re.Match[str]) -> str:
    """What Python takes as encoder='e.onnx' is --encoder 'e.onnx' here."""
    return f"--{argument[1].replace('_', '-')}{' ' if argument[2] else ''}"


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Inside it Python's warnings, and those of the package's logger, are lines on stderr as all messages are."""
    handler, log = _LogHandler(logging.WARNING), logging.getLogger("vocos_onnx")
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        log.removeHandler(handler)


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    warn(" ".join(str(message).split()))


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


# Bytes


@contextmanager
def writing_stdout() -> Iterator[None]:
    """Inside it standard output is written by a command whose purpose that is.

    Raises OSError where it cannot be written, ReaderGoneError where its reader has closed it.
    """
    try:
        yield
    except BrokenPipeError:
        raise ReaderGoneError from None
    except OSError as error:
        abandon(sys.stdout)
        raise OSError(f"{STDOUT} cannot be written: {error.strerror or error}") from None


class StandardOutput:
    """Standard output as a binary file object. ``write`` and ``flush`` raise as ``writing_stdout`` does."""

    name = STDOUT

    def write(self, data: bytes) -> int:
        with writing_stdout():
            return _binary(sys.stdout).write(data)

    def flush(self) -> None:
        with writing_stdout():
            _binary(sys.stdout).flush()


def read_stdin() -> Iterator[bytes]:
    """The bytes on standard input, as they arrive. Raises OSError."""
    while True:
        try:
            data: bytes = _binary(sys.stdin).read1(1 << 16)  # type: ignore[attr-defined]
        except OSError as error:
            raise OSError(f"{STDIN} cannot be read: {error.strerror or error}") from None
        if not data:
            return
        yield data


def check_terminal(stream: TextIO | None, what: str) -> None:
    """Raises ValueError where bytes would come from a terminal, or go to one; ``what`` says which."""
    is_terminal = False
    with suppress(AttributeError, OSError, ValueError):
        is_terminal = stream is not None and os.isatty(stream.fileno())
    if is_terminal:
        name, sign = (STDIN, "<") if stream is sys.stdin else (STDOUT, ">")
        raise ValueError(f"{name} is a terminal, and {what}: use a pipe, or {sign} FILE")


def abandon(stream: TextIO | None) -> None:
    """Have what is left in its buffer lead nowhere, else Python complains when it flushes it at the end."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)


def _binary(stream: TextIO | None) -> IO[bytes]:
    binary: IO[bytes] | None = getattr(stream, "buffer", None)
    if binary is None or getattr(stream, "closed", False):
        raise OSError("it is closed")
    return binary
