"""Files -> mono waveforms of the rate that is wanted, and back."""

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

MADE_BY = "vocos-onnx"  # the comment in audio files of the commands: those may be replaced, recordings may not
LOUD = 2.0  # peak, with full scale 1, above which a codec does not keep the level
_BLOCK, _VALUES = 1 << 18, 1 << 20  # read at once: samples, and numbers in all their channels
_SLICE = 4096  # samples written at once: libvorbis takes as much room on the stack
_KINDS = {  # endings that are written: libsndfile's format and subtype of each, which tests read back
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
_RATES: dict[str, Sequence[int]] = {  # where they are fewer than those that are read
    "MPEG_LAYER_III": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "VORBIS": range(MIN_RATE, 200_001),  # libvorbis crashes beyond
    "OPUS": (8000, 12000, 16000, 24000, 48000),
    "SVX": range(MIN_RATE, 1 << 16),
    "MPC2K": range(MIN_RATE, 1 << 16),
}
_MOST = {  # bytes of which a kind can say how many they are; a margin for what is not audio
    **dict.fromkeys(("AIFF", "AU", "AVR", "MAT4", "MAT5", "MPC2K", "SVX"), (1 << 31) - (1 << 16)),
    **dict.fromkeys(("WAV", "WAVEX"), (1 << 32) - (1 << 16)),
    "VOC": (1 << 24) - 1,
}
_WALKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "AU", "CAF", "FLAC", "OGG", "MP3")  # by ``parts``
_FORKS = ("._", ".AppleDouble")  # where libsndfile looks for an SD2 of what it reads, mp3 before all
_BY_NAME = (".gsm", ".sd2", ".vox", ".vox6", ".vox8")  # without a header, or with one in another file
_CANCELLED = 1e-3  # of the channels' energy: uncorrelated ones leave a tenth and more, of up to ten of them
_PATIENCE = 5.0  # seconds in which something is to come out of a FIFO
_SEEKS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS")  # exactly; libmpg123 prints errors if it seeks
_MOST_SECONDS = 1e9
_BEFORE = 30  # s from which on Vorbis is decoded: within the last page, libsndfile finds another sample
_ROUNDED = 0.01  # s: a duration that is so much shorter than the file is that of the file, in hundredths
_OVERSHOOT = 0.5  # s by which a segment may end behind the file, as Kaldi has it

AudioFile = str | os.PathLike[str] | IO[bytes]


def load_audio(file: AudioFile, sample_rate: int) -> Float:
    """Read a file as mono audio of one sample rate.

    Everything that libsndfile reads: wav, flac, ogg, opus, mp3, aiff, ...; any sample type, rate and number of
    channels. The channels are mixed by their mean, then the result is resampled (see ``resample``) where its rate is
    another.

    What comes is all that the file holds, or an error. Several recordings of one rate in a file (chained Ogg, joined
    mp3, FLAC or WAV) come one after another; a header that was never completed, as of a stream or of a recorder that
    stopped, is no hindrance; tags and padding are passed over. A file that holds less than it promises is refused.
    PAF, PVF, IRCAM and XI promise nothing: what is cut off there, or joined to them, is not noticed. Samples that are
    damaged are noticed where the format has checksums: in FLAC and Ogg (Vorbis, Opus); WAV, mp3, ALAC have none.
    A file ``._`` or a folder ``.AppleDouble`` in the working directory is in the way of mp3 (of libsndfile, which takes
    it for a resource fork); the message names it.

    Args:
        file: a path, or a binary file object, which is read from where it stands to its end, and stays open. Pipes and
            other objects that cannot seek are first copied to a temporary file.
        sample_rate: of the result, in Hz, from 1000 to 384,000.

    Returns:
        (samples,) float32, full scale is ±1: ceil(N · sample_rate / rate) samples from a file with N of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not audio, damaged, cut off, of several sample rates, empty, or holds NaN, infinity or values
            of more than 64 times full scale; or ``file`` or ``sample_rate`` is none.
        OSError: it cannot be read.

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
    """What ``load_audio`` gives, some seconds at a time (samples,), so that memory does not grow.

    With ``offset`` and ``duration``, in seconds, it is a segment of the file: the samples from round(offset · rate) on,
    round(duration · rate) of them and at least one, with the rate of the file, and they are resampled as a file of
    these alone would be. What is before them is not decoded, but of mp3 and other formats in which no sample can be
    found exactly, and of Vorbis 30 s; what is behind them is not looked at. Opus is decoded from 80 ms before them on,
    as its specification has it, and may differ by 0.001 from what is decoded from the beginning of the file. The
    segment may end up to 0.5 s behind the file. A duration that is up to 10 ms shorter than the file, without an
    offset, is that of the whole file.

    Raises as ``load_audio`` does, which may be after some blocks: that a file is cut off may show only at its end.
    ValueError, too, if the offset or the duration is none, or the segment begins at the end of the file or behind it,
    or ends more than 0.5 s behind it.

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
    """What libsndfile says of a file that is open."""
    text = str(error.error_string).rstrip(".")
    return "no audio is found in it" if text.startswith("File does not exist") else text  # which it cannot know here


def _forked() -> str | None:
    """What in the working directory libsndfile takes for the resource fork of a file without a name, if it is there."""
    name = next((name for name in _FORKS if os.path.lexists(name)), None)
    return None if name is None else f"libsndfile takes {name} in the working directory for a part of it: rename that"


def check_segment(offset: Any, duration: Any) -> None:
    """Raises ValueError for an offset and a duration in seconds that no segment of a file can have."""
    for name, value, expected in (("offset", offset, "0 or more"), ("duration", duration, "more than 0")):
        if name == "duration" and value is None:
            continue
        is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not is_number or not (0 <= value <= _MOST_SECONDS) or (name == "duration" and not value):
            raise ValueError(f"{name} is {shown(value)}, expected a number of seconds, {expected}")


def expected_samples(file: AudioFile, sample_rate: int) -> int:
    """About how many samples ``load_blocks`` gives, from the headers alone; 0 where they do not say. Never raises.

    A file object is left where it stands; of one that cannot seek nothing is known.
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
    """A file that libsndfile does not read, by what it is."""


def _path_or_object(file: Any, sample_rate: Any, function: str, example: str = "") -> Path | None:
    """The path that an argument is, or None for a file object. Raises ValueError for all else, saying what to pass."""
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
            url = f"{scheme[1]}://{file[scheme.end() :]}"  # of which a Path takes a slash
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
    """The command that makes a .wav of a file, and replaces nothing."""
    if path is None:
        return f"ffmpeg {before}-i IN {options}OUT.wav"
    given = str(path)
    if not path.is_absolute() and (given.startswith("-") or ":" in given):  # which ffmpeg takes for something else
        given = f"./{given}"
    number, target = 0, "whole.wav"
    while os.path.lexists(target):
        number, target = number + 1, f"whole{number + 1}.wav"
    return f"ffmpeg {before}-i {shlex.quote(given)} {options}{target}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file by its path, or a copy of what comes out of a pipe. Raises FileNotFoundError, ValueError."""
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
    """A pipe by its name. One that no one writes to is refused, since opening it would take forever."""
    descriptor = _above_standard(str(path), os.O_RDONLY | os.O_NONBLOCK)
    pipe = os.fdopen(descriptor, "rb")
    named = not str(path).startswith(("/dev/", "/proc/"))  # standard input or <(...) of a shell: somebody has it open
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
    """What is left in a file object, as a file that begins with it: a view, or a copy of what cannot seek."""
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
        yield View(file, ((at, file.tell()),))  # type: ignore[misc]  # all of a BinaryIO that is asked for
        file.seek(0, os.SEEK_END)
        return
    with _temporary() as copy:
        while block := _bytes(file.read(1 << 20), file):
            write_all(copy, block)
        copy.seek(0)
        yield copy


@contextmanager
def _temporary() -> Iterator[Any]:
    """An unbuffered temporary file, but never as a standard stream that was closed."""
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
    """What a file object has read. Raises ValueError for text, and where there is nothing yet."""
    if isinstance(block, bytes | bytearray | memoryview):
        return block
    if block is None:
        raise ValueError(f"{name_of(file)} does not block, and has nothing to read yet; set it to block")
    raise ValueError(f"{name_of(file)} gives {type(block).__name__}, expected bytes: open it as binary")


def _streams(file: BinaryIO, path: Path | None) -> Sequence[Part | Path]:
    """The streams of a file. Where the name says more than what is in it, libsndfile opens it by that."""
    found: Sequence[Part | Path] | None = parts(file)
    if found:
        return found
    if path is not None and path.suffix.lower() in _BY_NAME and path.is_file():
        return [path]
    return [Part(((0, file.seek(0, os.SEEK_END)),), walked=False)]


@lru_cache(1)
def _streams_of(path: Path, *version: int) -> Sequence[Part | Path]:
    """The streams of a file, which are looked for once for all of its segments: that reads the file."""
    with _opened(path) as file:
        return _streams(file, path)


def _version(file: BinaryIO) -> tuple[int, int, int]:
    """What is another where a file has been replaced or written to."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def _above_standard(path: str, flags: int) -> int:
    """Open a file, but never as a standard stream that was closed: C libraries print to those by their number."""
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
        """A file that is read or written from its beginning to its end, and from which no exception gets lost.

        An exception cannot pass through libsndfile: in the callbacks, whatever is raised (by a signal handler at any
        place of theirs, too) is kept in ``error`` of the View or Sink, and raised once libsndfile has returned. The
        pointer to what libsndfile holds frees itself, once, wherever an exception comes between.
        """

        _file: Any

        def seekable(self) -> bool:
            return False  # else soundfile seeks at each read and write

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
            release.callbacks = getattr(self, "_callbacks", None)  # type: ignore[attr-defined]  # which live as long
            return pointer

        def close(self) -> None:
            if self._file is not None:
                ffi.release(self._file)
                self._file = None
            self.check()

        def check(self) -> None:
            """Raise what was kept."""
            if error := getattr(self.name, "error", None):
                raise error

        __del__ = object.__hash__  # nothing to do, in no line of Python in which an exception could get lost

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
    ) and audio.format in _WALKED:  # by its ending, or behind what else is in front
        audio.close()
        raise Incomplete(f"it is damaged: it does not begin as {audio.format} does, so that its length is unknown")
    return audio


def _mixed(
    file: BinaryIO, streams: Sequence[Part | Path], rate: int, name: str, start: int, most: int
) -> Generator[Float, None, None]:
    """The mean of the channels (n,), taken while reading, so that those of a long file never are in memory together.

    From the sample ``start`` on, with blocks of up to ``most`` samples.
    """
    before = after = 0.0  # the energy of the channels, on average, and of their mean
    left, total = start, 0  # samples to pass over, and those that there are
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
    """Go to a sample of a stream, or to one before it. Returns which; 0 where it has to be decoded up to there."""
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
    """The first ``count`` samples of a file from ``start`` on, or all if these are the whole of it but for rounding.

    Raises ValueError if there are not as many.
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
    """Blocks (n, channels) of up to ``most`` samples, from the sample ``done`` on, in memory that is used again."""
    import soundfile

    buffer = np.empty((max(1, min(most, _VALUES // audio.channels)), audio.channels), np.float32)
    while True:
        wanted = buffer[: max(1, audio.frames - done)]
        wanted.fill(0)  # whatever libsndfile makes of a damaged file, nothing else is to be found in it
        try:
            count = len(audio.read(out=wanted))
        except soundfile.LibsndfileError as error:
            audio.check()
            if isinstance(stream, Path) or not stream.samples:
                raise
            count = audio.tell() - done
            if done + count != stream.samples:  # otherwise the audio is complete, and what follows is none
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
    """The libsndfile format of a file that is to be written, after checking that it can be.

    It is that of ``format`` where it is given ("wav", "flac", "opus", ...), else of the ending of the file's name.

    Raises:
        ValueError: an ending or format that is not known, or that cannot be written so that it reads back the same; a
            file object without either.
        OSError: as ``check_target`` does.
    """
    path = _path_or_object(file, 0, "save_audio", "audio, ")
    kind = _KINDS[_ending(file, path, format)][0]
    if path is not None:
        check_target(path)
    return kind


def _ending(file: Any, path: Path | None, format: Any) -> str:
    """The key of _KINDS for a file. Raises ValueError."""
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
    """Write audio (samples,) to a file of the kind that its ending names: .wav (16-bit), .flac, .ogg, .opus, .mp3, ...

    Floats have full scale ±1, and values beyond are clipped; int16 and int32 are written as they are. The file appears
    whole or not at all.

    Args:
        file: a path, or a binary file object, into which the finished file is written where it stands; it stays open
            and need not seek.
        audio: floats, int16 or int32.
        sample_rate: of the audio, in Hz.
        format: such as "wav" or "flac", in place of the ending; needed for a file object without a name.
        overwrite: whether a file that exists is replaced.

    Raises:
        ValueError: an ending or format that is not known, a rate that its kind does not have, more than its kind can
            hold (.wav becomes RF64 beyond 4 GiB), NaN, infinity or more than 64 times full scale, another shape or
            dtype. Nothing is written then.
        FileExistsError: the file exists, and ``overwrite`` is false.
        OSError: as ``audio_format`` does; the file cannot be written, or the disk is full.

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
    """As ``save_audio``, of blocks (n,) that are written as they come. Returns the samples in all.

    The ``comment`` goes into the file where its format has room for one. The ``length`` in samples, where it is known
    before, makes a .wav of more than 4 GiB an RF64; else that is an error when so much has come.
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
    """An unbuffered file, whose bytes get to where they belong at the end, unless there was an exception."""
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
    """Write a whole file. Returns the samples."""
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
    """A file that libsndfile writes, block by block. ``samples``: how many there are so far."""

    def __init__(self, raw: io.RawIOBase, name: str, rate: int, kind: str, subtype: str, comment: str = "") -> None:
        import soundfile

        self.samples = 0
        self._sink, self._name, self._rate, self._subtype = Sink(raw, _MOST.get(kind)), name, rate, subtype
        self._file = self._attempt(_open, self._sink, "w", samplerate=rate, channels=1, format=kind, subtype=subtype)
        if comment:
            try:
                with suppress(soundfile.LibsndfileError):  # a format without
                    self._file.comment = comment
            except BaseException:
                self.abandon()
                raise

    def write(self, block: npt.ArrayLike) -> None:
        audio = _writable(as_samples(block, self._rate), self.samples)
        if self._subtype == "PCM_16" and audio.dtype not in FULL_SCALE:  # libsndfile rounds down, but for FLAC
            audio = to_int16(audio)
        if self._subtype == "DOUBLE" and audio.dtype in FULL_SCALE:  # which soundfile does not scale
            audio = audio / np.float64(FULL_SCALE[audio.dtype])
        for start in range(0, len(audio), _SLICE):
            self._attempt(self._file.write, audio[start : start + _SLICE])
        self.samples += len(audio)

    def close(self) -> None:
        self._attempt(self._file.close)

    def abandon(self) -> None:
        """Close it after an error, which is raised already."""
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
        except AssertionError:  # of soundfile, if less was written than given
            if sink.error:
                raise sink.error from None
            raise ValueError(
                f"cannot write {self._name} at {self._rate} Hz: not all of it was taken. Try .wav"
            ) from None
        if sink.error:
            raise sink.error
        return result


class AudioEncoder:
    """Audio to the bytes of a file, block by block, for what is sent while it is made.

    What has been sent cannot be changed any more: the header of FLAC says neither the length nor the checksum of the
    samples, which are optional there, and Ogg has neither. Any other format needs to go back to its header, and is
    refused. Used by one thread at a time.

    Args:
        sample_rate: of the audio, in Hz.
        format: "flac", "opus" or "ogg".
        whole: whether all bytes are kept until ``finish``, and the header is complete.

    Raises:
        ValueError: another format, or a rate that it does not have.

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
        """The next block (n,), as ``save_audio`` takes audio -> the bytes that are complete with it, perhaps none.

        Raises as ``save_audio`` does.
        """
        self._writer.write(audio)
        return b"" if self._whole else self._sent.taken()

    def finish(self) -> bytes:
        """The bytes that are left when no audio follows; nothing may be called after it."""
        self._writer.close()
        return self._sent.taken()

    def close(self) -> None:
        """Let go of it before its end."""
        self._writer.abandon()


class _Sent(io.RawIOBase):
    """A file whose beginning is gone: what is written there again is ignored."""

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
        """What has come since the last call."""
        data, self._first = bytes(self._data), self._first + len(self._data)
        self._data.clear()
        return data


def _writable(audio: npt.NDArray[Any], first: int = 0) -> npt.NDArray[Any]:
    """Audio (n,) as soundfile takes it: contiguous, in native byte order, floats within ±1. Raises ValueError."""
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
