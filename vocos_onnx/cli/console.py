"""Standard streams: the lines printed on them, messages and warnings included, and the bytes read and written."""

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
from vocos_onnx.messages import SeveralLines, of_files, printable

from .progress import wipe

BAD_INPUT = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)  # errors printed without a traceback
STDIN, STDOUT = "standard input", "standard output"


class ReaderGoneError(Exception):
    """The reader of standard output has closed it."""


# Lines of text


def print_line(stream: TextIO | None, text: str) -> None:
    """Print one line. Escapes control characters and those the stream's encoding lacks. Raises OSError."""
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
    """Print one line on stderr, if there is one: it may be gone, and print(file=None) would use standard output."""
    with suppress(OSError):
        print_line(sys.stderr, f"vocos-onnx: {text}")


def warn(text: str) -> None:
    tell(f"warning: {text}")


def report_done(output: Path | None, text: str) -> None:
    """Print one line about what was done, on stderr if the output itself goes to standard output (None).

    Since the work is done, failing to print the line is not an error.
    """
    stream = sys.stderr if output is None or is_stdout(output) else sys.stdout
    try:
        print_line(stream, text)
    except OSError:
        abandon(stream)


def message_of(error: Exception) -> str:
    """Returns the message of an error, without Python's "[Errno 28]" for errors of the operating system."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def complain(error: Exception) -> None:
    """Print an error on stderr, on one line unless it is a SeveralLines, with options in place of Python arguments."""
    text = message_of(error).strip()
    if not isinstance(error, SeveralLines):
        text = re.sub(r"\s*[\r\n]\s*", " ", text)
    first, *others = with_options(text).split("\n")
    tell(f"error: {first}")
    with suppress(OSError):
        for line in others:
            print_line(sys.stderr, line)


def with_options(text: str) -> str:
    """Rewords a message for the command line: options replace Python arguments, and "save" replaces "pass"."""
    text = text.replace("go on with resume=True", "go on with the same command and --resume")
    text = text.replace("resume=True", "--resume").replace('ids="path"', "--ids path")
    text = re.sub(r"\b(bandwidth|bandwidth_id|encoder|layout|model|provider)=(?=(['\w]?))", _option, text)
    text = re.sub(r"^(workers|gpus|format|model|encoder|key)(?= is )|\b(shard_size|mels_from)(?= is )", _option, text)
    text = re.sub(r"\bpass [^:]*=[^:]*, or (?=convert it once with: )", "", text)
    text = re.sub(r"\bpass (sample_rate|n_fft|hop_length)=(?=,|$)", _of_convert, text)
    text = text.replace("open it with EncodecONNX, or pass it as encoder=", "pass it as --encoder")
    text = text.replace("leave encoder out, for", "leave --encoder out, for")
    text = text.replace("open it with VocosONNX;", "pass it as --model;")
    text = re.sub(r", or overwrite=True|, or None for [^:;]+", "", text)
    return of_files(re.sub(r"\bVocosONNX\('([\w./-]+)'\)", r"--model \1", text))


def _option(argument: re.Match[str]) -> str:
    """Rewrites ``encoder='e.onnx'`` as ``--encoder 'e.onnx'``, and an argument ``encoder`` as ``--encoder``."""
    name, value = argument[1] or argument[2], "=" in argument[0] and argument[2]
    return f"--{name.replace('_', '-')}{' ' if value else ''}"


def _of_convert(argument: re.Match[str]) -> str:
    """Rewrites a setting of another exporter's file as an option of ``convert``, the only command that takes it."""
    return f"convert it with vocos-onnx convert and --{argument[1].replace('_', '-')} N"


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Inside it, Python's warnings and those of the package's logger are printed on stderr like all messages."""
    handler, log = _LogHandler(logging.WARNING), logging.getLogger("vocos_onnx")
    conversions, lines = logging.getLogger("vocos_onnx.conversions"), _InfoHandler(logging.INFO)
    level, propagate = conversions.level, conversions.propagate
    if not conversions.isEnabledFor(logging.INFO):  # otherwise the user's own logging already shows it
        conversions.setLevel(logging.INFO)
        conversions.propagate = False
        conversions.addHandler(lines)
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        log.removeHandler(handler)
        conversions.removeHandler(lines)
        conversions.setLevel(level)
        conversions.propagate = propagate


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    warn(with_options(" ".join(str(message).split())))


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(with_options(record.getMessage()))


class _InfoHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


# Bytes


@contextmanager
def writing_stdout() -> Iterator[None]:
    """Inside it, a command writes its result to standard output.

    Raises OSError if it cannot be written, and ReaderGoneError if its reader has closed it.
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
    """Raises ValueError if a stream of bytes is a terminal; ``what`` is the reason in the message."""
    is_terminal = False
    with suppress(AttributeError, OSError, ValueError):
        is_terminal = stream is not None and os.isatty(stream.fileno())
    if is_terminal:
        name, sign = (STDIN, "<") if stream is sys.stdin else (STDOUT, ">")
        raise ValueError(f"{name} is a terminal, and {what}: use a pipe, or {sign} FILE")


def abandon(stream: TextIO | None) -> None:
    """Discard what is left in the stream's buffer; otherwise Python reports an error when it flushes it at exit."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)


def _binary(stream: TextIO | None) -> IO[bytes]:
    binary: IO[bytes] | None = getattr(stream, "buffer", None)
    if binary is None or getattr(stream, "closed", False):
        raise OSError("it is closed")
    return binary
