"""Reads audio files as mono waveforms of a given sample rate, and writes them."""

from __future__ import annotations

import io
import math
import os
import re
import select
import shlex
import stat
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float, check_order
from vocos_onnx.limits import MIN_RATE
from vocos_onnx.messages import in_python, reading, shown

from .containers import Incomplete, Part, Sink, View, foreign, parts, unreadable
from .files import check_target, name_of, whole_file, write_all
from .samples import (
    FULL_SCALE,
    TooLoud,
    as_blocks,
    as_samples,
    check_values,
    full_scale_of,
    one_channel_hint,
    read_blocks,
    read_rate,
    to_int16,
)

MADE_BY = "vocos-onnx"  # the comment in audio files that the commands write: those may be replaced, recordings may not
LOUD = 2.0  # peak, relative to full scale 1, above which a codec does not preserve the level
_BLOCK, _VALUES = 1 << 18, 1 << 20  # read at once: samples, and values over all channels
_SLICE = 4096  # samples written at once: libvorbis allocates that much on the stack
_KINDS = {  # extensions that can be written, with libsndfile's format and subtype; tests read each of them back
    "wav": ("WAV", "PCM_16"),
    "wave": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "oga": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "aif": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "snd": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "wavex": ("WAVEX", "PCM_16"),
    "avr": ("AVR", "PCM_16"),
    "ircam": ("IRCAM", "PCM_16"),
    "mat4": ("MAT4", "DOUBLE"),
    "mat5": ("MAT5", "DOUBLE"),
    "mpc2k": ("MPC2K", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "paf": ("PAF", "PCM_16"),
    "pvf": ("PVF", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
}
_USUAL = ".wav or .flac, or .ogg, .opus, .mp3, .aiff, .au, .caf, .w64 or .rf64"
_RATES: dict[str, Sequence[int]] = {  # for kinds that support fewer rates than reading does
    "MPEG_LAYER_III": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "VORBIS": range(MIN_RATE, 200_001),  # libvorbis crashes above that
    "OPUS": (8000, 12000, 16000, 24000, 48000),
    "SVX": range(MIN_RATE, 1 << 16),
    "MPC2K": range(MIN_RATE, 1 << 16),
}
_MOST = {  # the most bytes that a header of this kind can declare, less a margin for what is not audio
    **dict.fromkeys(("AIFF", "AU", "AVR", "MAT4", "MAT5", "MPC2K", "SVX"), (1 << 31) - (1 << 16)),
    **dict.fromkeys(("WAV", "WAVEX"), (1 << 32) - (1 << 16)),
    "VOC": (1 << 24) - 1,
}
_WALKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "AU", "CAF", "FLAC", "OGG", "MP3")  # by ``containers.parts``
_FORKS = ("._", ".AppleDouble")  # where libsndfile looks for an SD2 resource fork of what it reads, mp3 above all
_BY_NAME = (".gsm", ".sd2", ".vox", ".vox6", ".vox8")  # no header, or one in another file
_CANCELLED = 1e-3  # of the channels' energy: the mean of up to ten uncorrelated channels keeps a tenth or more
_PATIENCE = 5.0  # seconds to wait for data from a FIFO
_SEEKS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS")  # seek exactly; libmpg123 prints errors on seeks
_MOST_SECONDS = 1e9
_BEFORE = 30  # s of Vorbis decoded before a segment: within the last page, libsndfile seeks to a wrong sample
_ROUNDED = 0.01  # s: a duration up to this much shorter than the file means the whole file: it was given in hundredths
_OVERSHOOT = 0.5  # s by which a segment may extend past the end of the file, as in Kaldi

AudioFile = str | os.PathLike[str] | IO[bytes]


def load_audio(file: AudioFile, sample_rate: int) -> Float:
    """Read a file as mono audio of one sample rate.

    Reads everything that libsndfile reads: wav, flac, ogg, opus, mp3, aiff, ...; any sample type, sample rate and
    number of channels. The channels are averaged, and the result is resampled (see ``resample``) if its rate differs.

    Returns everything that the file holds, or raises an error. Several recordings of the same rate in one file (chained
    Ogg, joined mp3, FLAC or WAV) are returned one after another. A header that was never completed, as from a stream or
    an interrupted recorder, is accepted; tags and padding are skipped. Raises ValueError if a file holds less than its
    header promises. PAF, PVF, IRCAM and XI headers promise nothing, so truncated or appended data goes unnoticed there.
    Damaged samples are detected where the format has checksums: FLAC and Ogg (Vorbis, Opus) have them, WAV, mp3 and
    ALAC do not.
    A file ``._`` or a folder ``.AppleDouble`` in the working directory breaks the reading of mp3 (libsndfile mistakes
    it for a resource fork); the error message names it.

    Args:
        file: a path, or a binary file object, which is read from its current position to its end and left open. Pipes
            and other objects that cannot seek are first copied to a temporary file.
        sample_rate: sample rate of the result, in Hz, from 1000 to 384,000.

    Returns:
        (samples,) float32, full scale is ±1: ceil(N · sample_rate / rate) samples from a file with N of them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not audio, is damaged, truncated or empty, mixes several sample rates, or holds NaN,
            infinity or values above 64 times full scale; or if ``file`` or ``sample_rate`` is invalid.
        OSError: if the file cannot be read.

    Example:
        >>> audio = load_audio("speech.flac", 24_000)
        >>> audio = load_audio(io.BytesIO(data), 24_000)
    """
    _path_or_object(file, sample_rate, "load_audio")
    audio: Float = np.concatenate(list(load_blocks(file, sample_rate)))
    return audio


def load_blocks(
    file: AudioFile, sample_rate: int, *, offset: float = 0.0, duration: float | None = None
) -> Iterator[Float]:
    """Yields what ``load_audio`` returns, in blocks (samples,) of a few seconds, so memory use stays constant.

    With ``offset`` and ``duration``, in seconds, it reads a segment of the file: the samples from round(offset · rate)
    on, round(duration · rate) of them and at least one, where rate is that of the file. They are resampled as if the
    file held nothing else. What precedes the segment is not decoded, except in mp3 and other formats without
    sample-exact seeking, and in Vorbis for 30 s; what follows it is not read. Opus is decoded from 80 ms before the
    segment, as its specification recommends, and may differ by 0.001 from a decode from the start of the file. The
    segment may extend up to 0.5 s past the end of the file. Without an offset, a duration up to 10 ms shorter than the
    file means the whole file.

    Raises the same errors as ``load_audio``, possibly after some blocks: a truncated file may show only at its end.
    Also raises ValueError if the offset or the duration is invalid, or if the segment begins at or after the end of the
    file or extends more than 0.5 s past it.

    Example:
        >>> blocks = load_blocks("interview.flac", 24_000, offset=61.5, duration=4.2)
    """
    import soundfile  # not needed to decode, and slow to load

    path = _path_or_object(file, sample_rate, "load_blocks")
    name = path if path is not None else name_of(file)
    sample_rate = read_rate(sample_rate)
    check_segment(offset, duration)
    done = 0
    with ExitStack() as stack:
        source = stack.enter_context(_opened(path) if path is not None else _spooled(file))
        try:
            if kind := foreign(source):
                raise _Foreign(kind)
            if path is not None and path.is_file() and (offset or duration is not None):
                streams = _streams_of(path, *_version(source))
            else:
                streams = _streams(source, path)
            with _open_stream(source, streams[0]) as first:
                rate = first.samplerate
            start, count = round(offset * rate), None if duration is None else max(1, round(duration * rate))
            most = _BLOCK if count is None else min(_BLOCK, count)
            with closing(_mixed(source, streams, rate, str(name), start, most)) as mixed:
                cut = mixed if count is None else _first(mixed, count, start, rate)
                for block in read_blocks(cut, rate, sample_rate):
                    done += block.shape[1]
                    yield block[0]
        except soundfile.LibsndfileError as error:
            if path is not None and path.suffix.lower() in (".raw", ".pcm"):
                raw = f"-f s16le -ar {sample_rate} -ac 1 "
                raise ValueError(
                    f"cannot read {name} as audio: samples without a header do not say their rate, type and channels. "
                    f"If they are 16-bit, mono and of {sample_rate} Hz: {_ffmpeg(path, before=raw)}"
                ) from None
            forked = _forked()
            why = unreadable(source) or forked or _said(error)
            if source.seek(0, os.SEEK_END) and why != forked:
                why += f". It is damaged or of another kind; if ffmpeg can read it, convert it: {_ffmpeg(path)}"
            raise ValueError(f"cannot read {name} as audio: {why}") from None
        except _Foreign as error:
            convert = "" if ":" in str(error) else f", which libsndfile does not read; convert it: {_ffmpeg(path)}"
            raise ValueError(f"cannot read {name} as audio: it is {error}{convert}") from None
        except Incomplete as error:
            raise ValueError(f"{name}: {error}. If what is there will do, rewrite it: {_ffmpeg(path)}") from None
        except TooLoud as error:
            scale = f"-af volume=1/{error.full_scale} -c:a pcm_s16le "
            integers = "int16" if error.full_scale == 1 << 15 else "int32"
            remedy = f"; if it is in the range of {integers}: {_ffmpeg(path, scale)}" if error.full_scale else ""
            raise ValueError(f"{name}: {error.what}{remedy}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not done:
        raise ValueError(f"{name}: audio is empty; expected at least one sample")


def _said(error: Any) -> str:
    """Returns libsndfile's error message about an open file."""
    text = str(error.error_string).rstrip(".")
    return "no audio is found in it" if text.startswith("File does not exist") else text  # but it is open


def _forked() -> str | None:
    """If the working directory holds something that libsndfile mistakes for a resource fork, returns an error text."""
    name = next((name for name in _FORKS if os.path.lexists(name)), None)
    return None if name is None else f"libsndfile takes {name} in the working directory for a part of it: rename that"


def check_segment(offset: Any, duration: Any) -> None:
    """Raises ValueError if the offset or the duration, in seconds, is not valid for a segment of a file."""
    for name, value, expected in (("offset", offset, "0 or more"), ("duration", duration, "more than 0")):
        if name == "duration" and value is None:
            continue
        is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not is_number or not (0 <= value <= _MOST_SECONDS) or (name == "duration" and not value):
            raise ValueError(f"{name} is {shown(value)}, expected a number of seconds, {expected}")


def expected_samples(file: AudioFile, sample_rate: int) -> int:
    """Estimates from the headers alone how many samples ``load_blocks`` yields; 0 if unknown. Never raises.

    The position of a file object does not change; for one that cannot seek the result is 0.
    """
    import soundfile

    total = 0.0
    with suppress(OSError, ValueError, soundfile.LibsndfileError), ExitStack() as stack:
        path = _path_or_object(file, sample_rate, "load_audio")
        sample_rate = read_rate(sample_rate)
        if path is not None:
            if not path.is_file():
                return 0
            source: Any = stack.enter_context(path.open("rb"))
        else:
            if not _can_seek(file):
                return 0
            stack.callback(file.seek, file.tell())  # type: ignore[union-attr]
            source = stack.enter_context(_spooled(file))
        for stream in _streams(source, path):
            with _open_stream(source, stream) as audio:
                frames = stream.samples or audio.frames * stream.counted if isinstance(stream, Part) else audio.frames
                total += frames * sample_rate / audio.samplerate
    return math.ceil(total)


class _Foreign(ValueError):
    """Raised for a file that libsndfile does not read; the message says what the file is."""


def _path_or_object(file: Any, sample_rate: Any, function: str, example: str = "") -> Path | None:
    """Returns the path if the argument is one, None if it is a file object; else raises ValueError with the remedy."""
    reads, mode = ("read", "rb") if function.startswith("load") else ("write", "wb")
    path = os.fsdecode(sample_rate) if isinstance(sample_rate, str | os.PathLike) else "a.wav"
    call = f"{function}({in_python(path)}, {example}24000)"
    if isinstance(file, os.PathLike):
        file = os.fspath(file)
        file = os.fsdecode(file) if isinstance(file, bytes) else file
    if isinstance(file, str):
        if not file:
            raise ValueError(f"file is '', an empty path; expected that of an audio file: {call}")
        if (scheme := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+", file)) and not os.path.lexists(f"{scheme[1]}:"):
            url = f"{scheme[1]}://{file[scheme.end() :]}"  # a Path would drop one of the slashes
            rate = sample_rate if type(sample_rate) is int else 24_000
            remedy = f"; download it first, or pass {function}(urllib.request.urlopen({in_python(url)}), {rate})"
            remedy = remedy if url.startswith("http") and reads == "read" else ""
            raise FileNotFoundError(f"no audio file {url}: it is a URL, expected the path of a local file{remedy}")
        return Path(file)
    if isinstance(file, io.TextIOBase):
        raise ValueError(f'{name_of(file)} is open as text; open it as binary, as in open(path, "{mode}")')
    if hasattr(file, reads):
        return None
    if isinstance(file, bytes | bytearray | memoryview):
        remedy = "io.BytesIO(data) for what a file holds"
        if reads == "write":
            remedy = f'io.BytesIO() to have what a file would hold, {function}(buffer, {example}24000, format="wav")'
        raise ValueError(
            f"file is {type(file).__name__} of {len(file)}, expected a path or a binary file object: pass {remedy}, or "
            "os.fsdecode(path) for a path"
        )
    if isinstance(sample_rate, str | os.PathLike) or isinstance(file, np.ndarray | np.generic | int | float):
        what = f"an array of shape {file.shape}" if isinstance(file, np.ndarray) else shown(file)
        raise ValueError(f"file is {what}, expected a path or a binary file object first: {call}")
    several = isinstance(file, Sequence) and all(isinstance(each, str | os.PathLike) for each in file)
    if several or isinstance(file, Iterator):
        raise ValueError(
            f"file is {shown(file)}, expected one path or binary file object; call {function} once for each file"
        )
    raise ValueError(f"file is {shown(file)}, expected a path or a binary file object: {call}")


def _ffmpeg(path: Path | None, options: str = "", before: str = "") -> str:
    """Returns an ffmpeg command that converts a file to .wav without replacing any existing file."""
    if path is None:
        return f"ffmpeg {before}-i IN {options}OUT.wav"
    given = str(path)
    if not path.is_absolute() and (given.startswith("-") or ":" in given):  # ffmpeg misreads these
        given = f"./{given}"
    number, target = 0, "whole.wav"
    while os.path.lexists(target):
        number, target = number + 1, f"whole{number + 1}.wav"
    return f"ffmpeg {before}-i {shlex.quote(given)} {options}{target}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file by its path; for a pipe, gives a copy of its contents. Raises FileNotFoundError, ValueError."""
    try:
        with reading(path):
            found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise FileNotFoundError(f"no audio file {path}") from None
    if stat.S_ISFIFO(found.st_mode):
        with _open_fifo(path) as pipe, _spooled(pipe) as copy:
            yield copy
        return
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a file; expected audio such as .wav, .flac, .ogg or .mp3")
    with reading(path):
        file = open(path, "rb", opener=_above_standard)  # noqa: SIM115 closed below
    with file:
        yield file


def _open_fifo(path: Path) -> BinaryIO:
    """Opens a named pipe. Raises ValueError if nobody writes to it, since opening it would block forever."""
    descriptor = _above_standard(str(path), os.O_RDONLY | os.O_NONBLOCK)
    pipe = os.fdopen(descriptor, "rb")
    named = not str(path).startswith(("/dev/", "/proc/"))  # standard input or a shell's <(...): it has a writer already
    if named and not select.select([pipe], [], [], _PATIENCE)[0]:
        pipe.close()
        raise ValueError(
            f"{path} is not a file; expected audio such as .wav, or a pipe that is written to: nothing has come out of "
            f"this one for {_PATIENCE:g} seconds"
        )
    os.set_blocking(descriptor, True)
    return pipe


@contextmanager
def _spooled(file: Any) -> Iterator[BinaryIO]:
    """Gives the rest of a file object as a file of its own: a view, or a copy if the object cannot seek."""
    readable = getattr(file, "readable", None)
    if readable is not None and not (_can_seek(file), readable())[1]:
        raise ValueError(f'{name_of(file)} cannot be read; open it as in open(path, "rb")')
    if _can_seek(file):
        _bytes(file.read(0), file)
        at = file.tell()
        file.seek(0, os.SEEK_END)
        if 0 < file.tell() <= at:
            file.seek(at)
            raise ValueError(
                f"{name_of(file)} stands at its end (byte {at}), and nothing is left to read; rewind it with "
                "file.seek(0)"
            )
        yield View(file, ((at, file.tell()),))  # type: ignore[misc]  # it has all the methods used
        file.seek(0, os.SEEK_END)
        return
    with _temporary() as copy:
        while block := _bytes(file.read(1 << 20), file):
            write_all(copy, block)
        copy.seek(0)
        yield copy


@contextmanager
def _temporary() -> Iterator[Any]:
    """An unbuffered temporary file that never takes the descriptor of a closed standard stream."""
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            if file.fileno() > 2:
                yield file
                return


def _can_seek(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    if isinstance(file, io.IOBase) and file.closed:
        raise ValueError(f"{name_of(file)} is closed; open it again")
    return bool(seekable()) if seekable is not None else hasattr(file, "seek") and hasattr(file, "tell")


def _bytes(block: Any, file: Any) -> Any:
    """Checks what a file object has read. Raises ValueError for text, and if no data is available yet."""
    if isinstance(block, bytes | bytearray | memoryview):
        return block
    if block is None:
        raise ValueError(f"{name_of(file)} does not block, and has nothing to read yet; set it to block")
    raise ValueError(f"{name_of(file)} gives {type(block).__name__}, expected bytes: open it as binary")


def _streams(file: BinaryIO, path: Path | None) -> Sequence[Part | Path]:
    """The streams of a file. If only its name identifies the format, libsndfile opens the file by its path."""
    found: Sequence[Part | Path] | None = parts(file)
    if found:
        return found
    if path is not None and path.suffix.lower() in _BY_NAME and path.is_file():
        return [path]
    return [Part(((0, file.seek(0, os.SEEK_END)),), walked=False)]


@lru_cache(1)
def _streams_of(path: Path, *version: int) -> Sequence[Part | Path]:
    """The streams of a file, cached for all of its segments: finding them reads the whole file."""
    with _opened(path) as file:
        return _streams(file, path)


def _version(file: BinaryIO) -> tuple[int, int, int]:
    """Values that change when a file is replaced or written to."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def _above_standard(path: str, flags: int) -> int:
    """Opens a file, never with the descriptor of a closed standard stream: C libraries print to those by number."""
    opened = [os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)]
    while opened[-1] <= 2:
        opened.append(os.dup(opened[-1]))
    for low in opened[:-1]:
        os.close(low)
    return opened[-1]


@cache
def _sound_file() -> Any:
    import soundfile

    ffi, library = soundfile._ffi, soundfile._snd  # noqa: SLF001 there is no other way to libsndfile's callbacks

    class SoundFile(soundfile.SoundFile):  # type: ignore[misc]
        """A file that is read or written sequentially, and that loses no exception.

        Exceptions cannot propagate through libsndfile. Whatever is raised in a callback, by a signal handler at any
        point of it too, is kept in the ``error`` of the View or Sink and raised once libsndfile has returned. The
        handle that libsndfile returns is freed exactly once, wherever an exception interrupts.
        """

        _file: Any

        def seekable(self) -> bool:
            return False  # else soundfile seeks on each read and write

        def _init_virtual_io(self, file: View | Sink) -> Any:
            def keep(kind: Any, error: BaseException, trace: Any) -> None:
                file.error = file.error or error

            def size(_: Any) -> int:
                at = file.tell()
                end = file.seek(0, os.SEEK_END)
                file.seek(at)
                return end

            calls: dict[str, Callable[..., int]] = {
                "get_filelen": size,
                "seek": lambda offset, whence, _: file.seek(offset, whence),
                "read": lambda to, count, _: 0 if file.error else file.readinto(memoryview(ffi.buffer(to, count))),
                "write": lambda data, count, _: 0 if file.error else file.write(memoryview(ffi.buffer(data, count))),
                "tell": lambda _: file.tell(),
            }
            self._callbacks = {
                name: ffi.callback(f"sf_vio_{name}", call, error=0, onerror=keep) for name, call in calls.items()
            }
            return ffi.new("SF_VIRTUAL_IO*", self._callbacks)

        def _open(self, *args: Any) -> Any:
            release = partial(library.sf_close)
            pointer = ffi.gc(super()._open(*args), release)
            release.callbacks = getattr(self, "_callbacks", None)  # type: ignore[attr-defined]  # keeps them alive
            return pointer

        def close(self) -> None:
            if self._file is not None:
                ffi.release(self._file)
                self._file = None
            self.check()

        def check(self) -> None:
            """Raises the exception that a callback kept, if any."""
            if error := getattr(self.name, "error", None):
                raise error

        __del__ = object.__hash__  # a no-op that runs no Python code, in which an exception could get lost

    return SoundFile


def _open(source: View | Sink | Path, *args: Any, **options: Any) -> Any:
    import soundfile

    try:
        audio = _sound_file()(source, *args, **options)
    except soundfile.LibsndfileError:
        if not isinstance(source, Path) and source.error:
            raise source.error from None
        raise
    try:
        audio.check()
    except BaseException:
        with suppress(BaseException):
            audio.close()
        raise
    return audio


def _open_stream(file: BinaryIO, stream: Part | Path) -> Any:
    audio = _open(stream if isinstance(stream, Path) else View(file, stream.spans))
    if (
        isinstance(stream, Path) or not stream.walked
    ) and audio.format in _WALKED:  # opened by its extension, or something else precedes the audio
        audio.close()
        raise Incomplete(f"it is damaged: it does not begin as {audio.format} does, so that its length is unknown")
    return audio


def _mixed(
    file: BinaryIO, streams: Sequence[Part | Path], rate: int, name: str, start: int, most: int
) -> Generator[Float, None, None]:
    """Yields the mean of the channels in blocks (n,), so all channels of a long file are never in memory at once.

    Reads from the sample ``start`` on, in blocks of up to ``most`` samples.
    """
    before = after = 0.0  # average energy of the channels, and energy of their mean
    left, total = start, 0  # samples still to skip, and samples in the file
    for stream in streams:
        if left and isinstance(stream, Part) and stream.counted and stream.found:
            stream = replace(stream, spans=stream.found)
        with _open_stream(file, stream) as audio:
            if audio.samplerate != rate:
                raise Incomplete(f"it holds several recordings, of {rate} and of {audio.samplerate} Hz")
            frames = _seek(audio, stream, left)
            left -= frames
            for block in _blocks(audio, stream, frames, most):
                frames += len(block)
                passed = min(left, len(block))
                left -= passed
                block = block[passed:]
                mean = block.mean(axis=1)
                if audio.channels > 1:
                    before += float(np.vdot(block, block)) / audio.channels
                    after += float(np.vdot(mean, mean))
                yield mean
            promised = audio.frames
            if isinstance(stream, Part):
                promised = stream.most or stream.samples or (promised if stream.counted else 0)
            if frames < promised:
                raise Incomplete(f"it is truncated: its header promises {promised} samples, and it holds {frames}")
            if isinstance(stream, Part) and (behind := stream.left(audio.name.tell())):
                raise Incomplete(f"its header promises {promised} samples, and {behind} bytes of audio are behind them")
            total += frames
    if start >= total > 0:
        raise ValueError(f"its segment begins at {start / rate:.10g} s, and the file ends at {total / rate:.10g} s")
    if after < _CANCELLED * before:
        below = f"{10 * math.log10(before / after):.0f} dB below them" if after else "silence"
        warnings.warn(
            f"{name}: the channels cancel one another, so that their mean is {below}: one of them is inverted. Of the "
            "first alone ffmpeg makes a file with -af pan=mono|c0=c0",
            stacklevel=2,
        )


def _seek(audio: Any, stream: Part | Path, start: int) -> int:
    """Seeks to a sample of a stream or to an earlier one, and returns its index; 0 if everything must be decoded."""
    if not start or isinstance(stream, Path) or not stream.counted or start >= (stream.samples or audio.frames):
        return 0
    if not audio.subtype.startswith(_SEEKS) or (audio.format == "OGG" and audio.subtype.startswith("PCM_")):
        return 0
    if audio.subtype == "VORBIS":
        start = max(0, start - _BEFORE * audio.samplerate)
    audio.seek(start)
    audio.check()
    return start


def _first(blocks: Iterable[Float], count: int, start: int, rate: int) -> Iterator[Float]:
    """Yields the first ``count`` samples of the blocks; also the rest, if it is no more than a rounding error.

    Raises ValueError if more than 0.5 s are missing.
    """
    left, slack = count, 0 if start else round(_ROUNDED * rate)
    behind: list[Float] = []
    for block in blocks:
        yield block[:left]
        behind.append(block[left:])
        left -= min(left, len(block))
        if not left and (not slack or sum(map(len, behind)) > slack):
            return
    yield from behind
    if left > _OVERSHOOT * rate:
        raise ValueError(
            f"its segment ends at {(start + count) / rate:.10g} s, and the file ends at "
            f"{(start + count - left) / rate:.10g} s"
        )


def _blocks(audio: Any, stream: Part | Path, done: int, most: int) -> Iterator[Float]:
    """Yields blocks (n, channels) of up to ``most`` samples, from the sample ``done`` on, in one reused buffer."""
    import soundfile

    buffer = np.empty((max(1, min(most, _VALUES // audio.channels)), audio.channels), np.float32)
    while True:
        wanted = buffer[: max(1, audio.frames - done)]
        wanted.fill(0)  # so a damaged file never exposes old buffer contents
        try:
            count = len(audio.read(out=wanted))
        except soundfile.LibsndfileError as error:
            audio.check()
            if isinstance(stream, Path) or not stream.samples:
                raise
            count = audio.tell() - done
            if done + count != stream.samples:  # else the audio is complete, and the error is in what follows it
                raise Incomplete(
                    f"it is truncated or damaged behind sample {done + count} of the {stream.samples} that its header "
                    f"promises ({error.error_string.rstrip('.')})"
                ) from None
        audio.check()
        if isinstance(stream, Part) and stream.most is not None:
            count = min(count, stream.most - done)
        if count <= 0:
            return
        yield buffer[:count]
        done += count


def audio_format(file: AudioFile, format: str | None = None) -> str:
    """Returns the libsndfile format for a file to write, after checking that it can be written.

    The format is that of ``format`` ("wav", "flac", "opus", ...) if given, else that of the file name's extension.

    Raises:
        ValueError: if the extension or format is unknown, or cannot be written so that it reads back the same; or if a
            file object has neither.
        OSError: as ``check_target``.
    """
    path = _path_or_object(file, 0, "save_audio", "audio, ")
    kind = _KINDS[_ending(file, path, format)][0]
    if path is not None:
        check_target(path)
    return kind


def _ending(file: Any, path: Path | None, format: Any) -> str:
    """Returns the key of _KINDS for a file. Raises ValueError if there is none."""
    if format is not None:
        ending = format.lower().removeprefix(".") if isinstance(format, str) else ""
        if ending not in _KINDS:
            raise ValueError(f"format is {shown(format)}, expected {_USUAL}")
        return ending
    name = str(path) if path is not None else getattr(file, "name", None)
    ending = Path(name).suffix[1:].lower() if isinstance(name, str) else ""
    if ending in _KINDS:
        return ending
    if path is not None and path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, expected a file in it, such as {str(path / 'out.wav')!r}")
    if path is None:
        raise ValueError(f'format is missing, and {name_of(file)} has no name that tells it; pass format="wav"')
    if ending in ("m4a", "mp4", "aac", "wma", "webm", "mka", "mkv", "amr", "wv", "ape", "mp2", "ac3"):
        converted = shlex.quote(str(path if path.is_absolute() else os.curdir / path))
        raise ValueError(
            f"{path.name!r} does not end in a known kind of audio file; try .wav or .flac, then: "
            f"ffmpeg -i out.wav {converted}"
        )
    raise ValueError(f"{path.name or str(path)!r} does not end in a known kind of audio file; try {_USUAL}")


def save_audio(
    file: AudioFile, audio: npt.ArrayLike, sample_rate: int, *, format: str | None = None, overwrite: bool = True
) -> None:
    """Write audio (samples,) to a file in the format of its extension: .wav (16-bit), .flac, .ogg, .opus, .mp3, ...

    Floats have full scale ±1 and are clipped to it; int16 and int32 are written as they are. The file is written
    atomically: it appears complete or not at all.

    Args:
        file: a path, or a binary file object; the finished file is written at its current position. It stays open and
            need not be seekable.
        audio: floats, int16 or int32.
        sample_rate: sample rate of the audio, in Hz.
        format: overrides the extension, such as "wav" or "flac"; required for a file object without a name.
        overwrite: whether to replace an existing file.

    Raises:
        ValueError: if the extension or format is unknown, the format does not support the sample rate or cannot hold
            that much audio (.wav becomes RF64 above 4 GiB), or the audio holds NaN, infinity or values above 64 times
            full scale, or has another shape or dtype. Nothing is written then.
        FileExistsError: if the file exists and ``overwrite`` is false.
        OSError: as ``audio_format``, or if the file cannot be written or the disk is full.

    Example:
        >>> save_audio("speech.flac", audio, 24_000)
        >>> save_audio(buffer, audio, 24_000, format="wav")  # buffer = io.BytesIO()
    """
    path = _path_or_object(file, sample_rate, "save_audio", "audio, ")
    _ending(file, path, format)
    check_order(audio, sample_rate)
    rate = read_rate(sample_rate)
    writable = _writable(as_samples(audio, rate, "save_blocks"))
    save_blocks(file, [writable], rate, format=format, overwrite=overwrite, length=len(writable))


def save_blocks(
    file: AudioFile,
    blocks: Iterable[npt.ArrayLike],
    sample_rate: int,
    *,
    format: str | None = None,
    overwrite: bool = True,
    comment: str = "",
    length: int | None = None,
) -> int:
    """Like ``save_audio``, for blocks (n,) that are written as they arrive. Returns the total number of samples.

    The ``comment`` is stored in the file if its format has a field for one. Pass the ``length`` in samples if it is
    known in advance: a .wav of more than 4 GiB is then written as RF64. Otherwise ValueError is raised once that size
    is reached.
    """
    path = _path_or_object(file, sample_rate, "save_blocks", "blocks, ")
    ending = _ending(file, path, format)
    kind, subtype = _KINDS[ending]
    check_order(blocks, sample_rate, "blocks")
    rate = read_rate(sample_rate)
    name = path.name if path is not None else name_of(file)
    _check_kind_has(rate, ending, name)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0):
        raise ValueError(f"length is {shown(length)}, expected the number of samples, or None")
    if not isinstance(comment, str):
        raise ValueError(f"comment is {shown(comment)}, expected text: pass str(comment)")
    if kind == "WAV" and length is not None and 2 * int(length) > _MOST[kind]:
        kind = "RF64"
    blocks = as_blocks(blocks, rate)
    with _written(file, path, overwrite) as raw:
        samples = _write(raw, blocks, str(path) if path is not None else name, rate, kind, subtype, comment)
        if not samples and not raw.tell():
            raise ValueError(f"audio is empty, and .{ending} cannot hold that; expected at least one sample")
    return samples


def _check_kind_has(rate: int, ending: str, name: str) -> None:
    kind, subtype = _KINDS[ending]
    rates = _RATES.get(subtype) or _RATES.get(kind)
    if rates and rate not in rates:
        known = f"{rates[0]} to {rates[-1]}" if isinstance(rates, range) else ", ".join(map(str, rates))
        raise ValueError(f"{name}: sample_rate is {rate}, and .{ending} has {known} Hz; try .wav")
    if kind == "FLAC" and rate >= 1 << 16 and rate % 10:
        raise ValueError(f"{name}: sample_rate is {rate}, and .flac has multiples of 10 Hz above 65535 Hz; try .wav")


@contextmanager
def _written(file: Any, path: Path | None, overwrite: bool) -> Iterator[io.RawIOBase]:
    """An unbuffered file whose bytes reach their destination at the end, unless an exception is raised."""
    if path is not None:
        with (
            whole_file(path, overwrite=overwrite) as partial_file,
            open(partial_file, "wb", buffering=0, opener=_above_standard) as raw,
        ):
            yield raw
        return
    writable = getattr(file, "writable", None)
    if writable is not None and not (_can_seek(file), writable())[1]:
        raise ValueError(f'{name_of(file)} cannot be written; open it as in open(path, "wb")')
    with _temporary() as raw:
        yield raw
        raw.seek(0)
        while block := raw.read(1 << 20):
            write_all(file, block)
        if flush := getattr(file, "flush", None):
            flush()


def _write(
    raw: io.RawIOBase, blocks: Iterable[npt.ArrayLike], name: str, rate: int, kind: str, subtype: str, comment: str
) -> int:
    """Write a complete file. Returns the number of samples."""
    writer = _Writer(raw, name, rate, kind, subtype, comment)
    try:
        for block in blocks:
            writer.write(block)
    except BaseException:
        writer.abandon()
        raise
    writer.close()
    return writer.samples


class _Writer:
    """A file that libsndfile writes block by block. ``samples`` counts those written so far."""

    def __init__(self, raw: io.RawIOBase, name: str, rate: int, kind: str, subtype: str, comment: str = "") -> None:
        import soundfile

        self.samples = 0
        self._sink, self._name, self._rate, self._subtype = Sink(raw, _MOST.get(kind)), name, rate, subtype
        self._file = self._attempt(_open, self._sink, "w", samplerate=rate, channels=1, format=kind, subtype=subtype)
        if comment:
            try:
                with suppress(soundfile.LibsndfileError):  # a format without comments
                    self._file.comment = comment
            except BaseException:
                self.abandon()
                raise

    def write(self, block: npt.ArrayLike) -> None:
        audio = _writable(as_samples(block, self._rate), self.samples)
        if self._subtype == "PCM_16" and audio.dtype not in FULL_SCALE:  # libsndfile rounds down, except for FLAC
            audio = to_int16(audio)
        if self._subtype == "DOUBLE" and audio.dtype in FULL_SCALE:  # soundfile does not scale them
            audio = audio / np.float64(FULL_SCALE[audio.dtype])
        for start in range(0, len(audio), _SLICE):
            self._attempt(self._file.write, audio[start : start + _SLICE])
        self.samples += len(audio)

    def close(self) -> None:
        self._attempt(self._file.close)

    def abandon(self) -> None:
        """Close the file after an error that is already being raised."""
        with suppress(BaseException):
            self._file.close()

    def _attempt(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        import soundfile

        sink = self._sink
        try:
            result = call(*args, **options)
        except soundfile.LibsndfileError as error:
            if sink.error:
                raise sink.error from None
            raise ValueError(f"cannot write {self._name} at {self._rate} Hz: {error.error_string} Try .wav") from None
        except AssertionError:  # raised by soundfile if less was written than given
            if sink.error:
                raise sink.error from None
            raise ValueError(
                f"cannot write {self._name} at {self._rate} Hz: not all of it was taken. Try .wav"
            ) from None
        if sink.error:
            raise sink.error
        return result


class AudioEncoder:
    """Encodes audio block by block to the bytes of a file, for sending while it is still being made.

    Bytes that have been sent cannot be changed: the FLAC header therefore omits the length and the checksum of the
    samples, which are optional, and Ogg has neither. Every other format has to rewrite its header, so it raises
    ValueError. Not thread-safe: use it from one thread at a time.

    Args:
        sample_rate: sample rate of the audio, in Hz.
        format: "flac", "opus" or "ogg".
        whole: whether to keep all bytes until ``finish``, so that the header is complete.

    Raises:
        ValueError: if the format is another one, or does not support the sample rate.

    Example:
        >>> encoder = AudioEncoder(24_000, "opus")
        >>> for block in blocks:
        ...     send(encoder.encode(block))
        >>> send(encoder.finish())
    """

    def __init__(self, sample_rate: int, format: str, *, whole: bool = False) -> None:
        rate = read_rate(sample_rate)
        if format not in ("flac", "opus", "ogg", "oga"):
            raise ValueError(f"format is {shown(format)}, expected 'flac', 'opus' or 'ogg': others have to be whole")
        _check_kind_has(rate, format, "the answer")
        kind, subtype = _KINDS[format]
        self._sent, self._whole = _Sent(), whole
        self._writer = _Writer(self._sent, "the answer", rate, kind, subtype)

    def encode(self, audio: npt.ArrayLike) -> bytes:
        """Encodes the next block (n,), as ``save_audio`` takes it; returns the bytes that it completes, perhaps none.

        Raises the same errors as ``save_audio``.
        """
        self._writer.write(audio)
        return b"" if self._whole else self._sent.taken()

    def finish(self) -> bytes:
        """Ends the audio and returns the remaining bytes; no other method may be called afterwards."""
        self._writer.close()
        return self._sent.taken()

    def close(self) -> None:
        """Abandon the file before its end."""
        self._writer.abandon()


class _Sent(io.RawIOBase):
    """A file whose beginning has been sent: anything rewritten there is ignored."""

    def __init__(self) -> None:
        self._first, self._at, self._data = 0, 0, bytearray()  # the data begins at _first

    def write(self, data: Any) -> int:
        data = bytes(data)
        new = data[max(0, self._first - self._at) :]
        start = max(0, self._at - self._first)
        self._data[start : start + len(new)] = new
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._first + len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        """Returns the bytes written since the last call."""
        data, self._first = bytes(self._data), self._first + len(self._data)
        self._data.clear()
        return data


def _writable(audio: npt.NDArray[Any], first: int = 0) -> npt.NDArray[Any]:
    """Converts audio (n,) for soundfile: contiguous, native byte order, floats clipped to ±1. Raises ValueError."""
    if audio.ndim != 1:
        several = ""
        if min(audio.shape, default=0) > 1:
            several = "; write each channel to a file of its own, or np.concatenate(audio) for blocks of one recording"
        raise ValueError(f"audio has shape {audio.shape}, expected (samples,){several}{one_channel_hint(audio)}")
    if full_scale_of(audio.dtype):
        return np.ascontiguousarray(audio, audio.dtype.newbyteorder("="))
    check_values(audio, first)
    clipped: npt.NDArray[Any] = np.clip(audio, -1, 1).astype(np.float64 if audio.dtype == np.float64 else np.float32)
    return clipped
