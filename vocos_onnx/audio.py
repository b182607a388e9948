"""Files -> mono waveforms of the rate that is wanted, and back."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .containers import Incomplete, Part, Sink, View, parts
from .files import check_target, whole_file
from .resample import Float as Float
from .resample import Tape as Tape
from .resample import resample as resample
from .resample import resample_blocks as resample_blocks

MIN_RATE, MAX_RATE = 1000, 384_000
_BLOCK, _VALUES = 1 << 18, 1 << 20  # read at once: samples, and numbers in all their channels
_SLICE = 4096  # samples written at once: libvorbis takes as much room on the stack
_RATES: dict[str, Sequence[int]] = {  # where they are fewer than those that are read
    "MP3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "OGG": range(MIN_RATE, 200_001),  # libvorbis crashes beyond
    "SVX": range(MIN_RATE, 1 << 16),
    "MPC2K": range(MIN_RATE, 1 << 16),
    "WVE": (8000,),
    "XI": (44100,),
}
_PERIODS = {"HTK": 10**7, "SDS": 10**9}  # a second in the units in which they say how long a sample takes
_MOST = {  # bytes of which a kind can say how many they are; a margin for what is not audio
    **dict.fromkeys(("AIFF", "AU", "AVR", "HTK", "MAT4", "MAT5", "MPC2K", "SVX", "WVE", "XI"), (1 << 31) - (1 << 16)),
    **dict.fromkeys(("WAV", "WAVEX"), (1 << 32) - (1 << 16)),
    "VOC": (1 << 24) - 1,
    "SDS": (1 << 21) // 40 * 127,  # samples, of which a packet holds 40
}
_WALKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "SVX", "AU", "CAF", "FLAC", "OGG", "MP3")  # by ``parts``
_FULL_SCALE = {np.dtype(np.int16): 1 << 15, np.dtype(np.int32): 1 << 31}


def load_audio(path: str | os.PathLike[str], sample_rate: int) -> Float:
    """Read a file as mono audio of one sample rate.

    Everything that libsndfile reads: wav, flac, ogg, mp3, aiff, ...; any sample type, rate and number of channels.
    The channels are mixed by their mean, then the result is resampled (see ``resample``) where its rate is another.

    What comes is all that the file holds, or an error. Several recordings of one rate in a file (chained Ogg, joined
    mp3, FLAC or WAV) come one after another; a header that was never completed, as of a stream or of a recorder that
    stopped, is no hindrance; tags and padding are passed over. A file that holds less than it promises is refused.
    PAF, PVF, IRCAM and XI promise nothing: what is cut off there, or joined to them, is not noticed.

    Returns:
        (samples,) float32, full scale is ±1: ceil(N · sample_rate / rate) samples from a file with N of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not audio, damaged, cut off, of several sample rates, empty, or holds NaN or infinity; or
            ``sample_rate`` is none.
        OSError: it cannot be read.
    """
    audio: Float = np.concatenate(list(load_blocks(path, sample_rate)))
    return audio


def load_blocks(path: str | os.PathLike[str], sample_rate: int) -> Iterator[Float]:
    """What ``load_audio`` gives, some seconds at a time (samples,), so that memory does not grow.

    Raises as that does, which may be after some blocks: that a file is cut off may show only at its end.
    """
    import soundfile  # not needed to decode, and slow to load

    _check_rate(sample_rate)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no audio file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected audio such as .wav, .flac, .ogg or .mp3")
    done = 0
    try:
        with open(path, "rb", opener=_above_standard) as file:
            streams: Sequence[Part | Path] = parts(file) or [path]
            with _open_stream(file, streams[0]) as first:
                rate = first.samplerate
            with closing(_mixed(file, streams, rate)) as mixed:
                for block in read_blocks(mixed, rate, sample_rate):
                    done += block.shape[1]
                    yield block[0]
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"cannot read {path} as audio: {error.error_string} It may be damaged or of another kind"
        ) from None
    except Incomplete as error:
        raise ValueError(
            f"{path}: {error}. If what is there will do, rewrite it: ffmpeg -i {shlex.quote(str(path))} whole.wav"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not done:
        raise ValueError(f"{path}: audio is empty; expected at least one sample")


def expected_samples(path: str | os.PathLike[str], sample_rate: int) -> int:
    """About how many samples ``load_blocks`` gives, from the headers alone; 0 where they do not say. Never raises."""
    import soundfile

    total = 0.0
    with suppress(OSError, ValueError, soundfile.LibsndfileError), Path(path).open("rb") as file:
        streams: Sequence[Part | Path] = parts(file) or [Path(path)]
        for stream in streams:
            with _open_stream(file, stream) as audio:
                frames = stream.samples or audio.frames * stream.counted if isinstance(stream, Part) else audio.frames
                total += frames * sample_rate / audio.samplerate
    return math.ceil(total)


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

    ffi, library = soundfile._ffi, soundfile._snd

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
    if isinstance(stream, Path) and audio.format in _WALKED:  # by its ending, or behind what else is in front
        audio.close()
        raise Incomplete(f"it is damaged: it does not begin as {audio.format} does, so that its length is unknown")
    return audio


def _mixed(file: BinaryIO, streams: Sequence[Part | Path], rate: int) -> Generator[Float, None, None]:
    """The mean of the channels (n,), taken while reading, so that those of a long file never are in memory together."""
    for stream in streams:
        with _open_stream(file, stream) as audio:
            if audio.samplerate != rate:
                raise Incomplete(f"it holds several recordings, of {rate} and of {audio.samplerate} Hz")
            frames = 0
            for block in _blocks(audio, stream):
                frames += len(block)
                yield block.mean(axis=1)
            promised = audio.frames
            if isinstance(stream, Part):
                promised = stream.most or stream.samples or (promised if stream.counted else 0)
            if frames < promised:
                raise Incomplete(f"it is truncated: its header promises {promised} samples, and it holds {frames}")
            if isinstance(stream, Part) and (left := stream.left(audio.name.tell())):
                raise Incomplete(f"its header promises {promised} samples, and {left} bytes of audio are behind them")


def _blocks(audio: Any, stream: Part | Path) -> Iterator[Float]:
    """Blocks (n, channels) in memory that is used again."""
    import soundfile

    buffer = np.empty((max(1, min(_BLOCK, _VALUES // audio.channels)), audio.channels), np.float32)
    done = 0
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
        given = np.array(block)  # a copy: it is kept for a while, and the caller may fill the same memory again
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
    if (native := given.dtype.newbyteorder("=")) in _FULL_SCALE:
        given = given / np.float32(_FULL_SCALE[native])
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


def _check_rate(sample_rate: int) -> None:
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer):
        raise ValueError(f"sample_rate is {sample_rate!r}, expected an integer in Hz")
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise ValueError(f"sample_rate is {sample_rate}, expected {MIN_RATE} to {MAX_RATE} Hz")


def audio_format(path: str | os.PathLike[str]) -> str:
    """The libsndfile format that a file's ending names, after checking that a file of that name can be written.

    Raises:
        ValueError: an ending that libsndfile does not know, or cannot write whole to one file.
        OSError: as ``check_target`` does.
    """
    import soundfile

    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in soundfile.available_formats() or kind in ("RAW", "SD2"):  # without a header, or with one elsewhere
        raise ValueError(f"{path.name!r} does not end in a known kind of audio file; try .wav or .flac")
    check_target(path)
    return kind


def save_audio(path: str | os.PathLike[str], audio: npt.ArrayLike, sample_rate: int, *, overwrite: bool = True) -> None:
    """Write audio (samples,) to a file of the kind that its ending names: .wav (16-bit), .flac, .ogg, .mp3, ...

    Floats have full scale ±1, and values beyond are clipped; int16 and int32 are written as they are. The file appears
    whole or not at all.

    Raises:
        ValueError: an ending that is not known, a rate that its kind does not have, more than its kind can hold (4 GB
            in .wav), NaN or infinity, another shape or dtype. Nothing is written then.
        FileExistsError: the file exists, and ``overwrite`` is false.
        OSError: as ``audio_format`` does; the file cannot be written, or the disk is full.
    """
    save_blocks(path, [_writable(audio)], sample_rate, overwrite=overwrite)


def save_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[npt.ArrayLike],
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
    _check_rate(sample_rate)
    rates = _RATES.get(kind)
    if rates and sample_rate not in rates:
        known = f"{rates[0]} to {rates[-1]}" if isinstance(rates, range) else ", ".join(map(str, rates))
        raise ValueError(f"{path.name}: sample_rate is {sample_rate}, and {path.suffix} has {known} Hz; try .wav")
    if (second := _PERIODS.get(kind)) and second // (second // sample_rate) != sample_rate:
        raise ValueError(f"{path.name}: sample_rate is {sample_rate}, and {path.suffix} cannot say that; try .wav")
    with (
        whole_file(path, overwrite=overwrite) as partial_file,
        open(partial_file, "wb", buffering=0, opener=_above_standard) as raw,
    ):
        sink = Sink(raw, _MOST.get(kind))

        def attempt(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
            try:
                result = call(*args, **options)
            except soundfile.LibsndfileError as error:
                if sink.error:
                    raise sink.error from None
                raise ValueError(f"cannot write {path} at {sample_rate} Hz: {error.error_string} Try .wav") from None
            except AssertionError:  # of soundfile, if less was written than given
                if sink.error:
                    raise sink.error from None
                raise ValueError(
                    f"cannot write {path} at {sample_rate} Hz: not all of it was taken. Try .wav"
                ) from None
            if sink.error:
                raise sink.error
            return result

        file = attempt(_open, sink, "w", samplerate=int(sample_rate), channels=1, format=kind)
        try:
            if comment:
                with suppress(soundfile.LibsndfileError):  # a format without
                    file.comment = comment
            for block in blocks:
                audio = _writable(block, samples)
                if file.subtype in ("FLOAT", "DOUBLE") and audio.dtype in _FULL_SCALE:  # which soundfile does not scale
                    audio = audio / np.float64(_FULL_SCALE[audio.dtype])
                for start in range(0, len(audio), _SLICE):
                    attempt(file.write, audio[start : start + _SLICE])
                samples += len(audio)
        except BaseException:
            with suppress(BaseException):  # that one is raised already
                file.close()
            raise
        attempt(file.close)
        if not samples and not raw.tell():
            raise ValueError(f"audio is empty, and {path.suffix} cannot hold that; expected at least one sample")
    return samples


def _writable(block: npt.ArrayLike, first: int = 0) -> npt.NDArray[Any]:
    """Audio (n,) as soundfile takes it: contiguous, in native byte order, floats within ±1. Raises ValueError."""
    audio = np.asarray(block)
    if audio.ndim != 1:
        raise ValueError(
            f"audio has shape {audio.shape}, expected (samples,); write each channel to a file of its own, or mix them"
        )
    if audio.dtype.newbyteorder("=") in _FULL_SCALE:
        return np.ascontiguousarray(audio, audio.dtype.newbyteorder("="))
    if not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(
            f"audio has dtype {audio.dtype}, expected floats with full scale ±1, int16 or int32; convert it"
        )
    if not np.isfinite(audio).all():
        bad = first + int(np.argmin(np.isfinite(audio)))
        raise ValueError(f"audio holds NaN or infinity, first at sample {bad}; expected finite values")
    clipped: npt.NDArray[Any] = np.clip(audio, -1, 1).astype(np.float64 if audio.dtype == np.float64 else np.float32)
    return clipped
