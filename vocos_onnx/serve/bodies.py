"""Bodies of requests -> tokens, mels or recordings. What one claims to be is checked before memory is given to it."""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException
from starlette.requests import Request

from vocos_onnx.arrays import Float
from vocos_onnx.io.audio import load_blocks
from vocos_onnx.io.tokens import Tokens, read_token_file
from vocos_onnx.mels import MelConvention

from .limits import Account
from .models import Model
from .settings import Settings
from .workers import AGAIN, Clock, Workers

MAX_AUDIO_CHANNELS = 32
MAX_ENTRIES = 16  # of an .npz
MAX_ROWS = 1024  # codebooks of tokens, channels of features
_ANY = ("", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream")  # curl's, too
_ARRAYS = ("application/json", "application/zip", "application/x-npz", "application/x-npy", "application/npz")
_KINDS = ("application/npy", "application/vnd.numpy", "application/x-numpy")
_NAMES = ("codec", "codebooks_sha256")


def account_of(request: Request) -> Account:
    """What the request holds, for the bounds on all of them (limits.py)."""
    held: Account = request.scope["limits"]
    return held


class Bodies:
    """Reads the bodies of requests. All of what is wrong with one is an HTTPException with its status and reason."""

    def __init__(self, settings: Settings, workers: Workers) -> None:
        self._settings, self._workers = settings, workers

    async def arrays(self, request: Request, model: Model, convention: MelConvention | None, clock: Clock) -> Tokens:
        """The tokens (K, T) or features (C, T) in the body; (T, C) where the convention of the mels has them so.

        They are accounted for together with the body. Those that name a codec are of no other model.

        Raises HTTPException: 400 for what they are not, 413 for too much JSON, 415 for a body of another kind.
        """
        kind = _content_type(request)
        if kind not in (*_ANY, *_ARRAYS, *_KINDS):
            audio = "; recordings are for /v1/resynth and /v1/encode" if kind.startswith(("audio/", "video/")) else ""
            raise _wrong_kind(kind, f"tokens or mels as application/json, or as .npz or .npy{audio}")
        data = await _body(request)
        limits = _Limits(self._settings, model, convention)
        run, account = self._workers.run, account_of(request)
        if kind == "application/json" or data[:1000].lstrip()[:1] == b"{":
            most = self._settings.max_json
            if len(data) > most:
                raise HTTPException(413, f"JSON may have {most} bytes, and this has {len(data)}: send it as .npy")
            async with self._workers.one_json:
                read = await run(limits.read_json, data, clock=clock)
        elif data[:4] == b"PK\3\4":
            account.hold(len(data) + await run(limits.npz_size, data, clock=clock))
            read = await run(limits.read_npz, data, clock=clock)
        else:
            try:
                read = Tokens(limits.read_npy(data))  # takes no time: it is a view
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
        account.hold(len(data) + 8 * read.codes.size)  # decode makes them int64, or float32 and their mels
        return read

    @asynccontextmanager
    async def recording(self, request: Request, rate: int, clock: Clock) -> AsyncIterator[Recording]:
        """The recording in the body, as a file which is there inside the ``with``.

        Raises HTTPException: 400 for what is no recording, 415 for a body of another kind, 503 where there is no room.
        """
        kind = _content_type(request)
        if kind not in (*_ANY, "application/ogg") and not kind.startswith(("audio/", "video/")):
            raise _wrong_kind(kind, "a recording, as audio/wav, audio/flac or another kind of audio")
        data = await _body(request)
        account_of(request).hold(2 * len(data))  # /tmp may be in memory, too
        with ExitStack() as stack:
            try:
                # a file without a name: however the process ends, no recording stays
                path = Path(f"/proc/self/fd/{stack.enter_context(tempfile.TemporaryFile()).fileno()}")
                if not path.exists():  # not Linux
                    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vocos-"))) / "body"
            except OSError as error:
                raise _no_file(error) from None
            recording = Recording(path, rate, self._settings.max_seconds)
            try:
                await self._workers.run(recording.write, data, clock=clock)
                del data
                yield recording
            except HTTPException as error:
                error.detail = error.detail.replace(str(path), "the body")
                raise


class Recording:
    """A recording in a file.

    Attributes:
        read: samples at the rate that is wanted that have been read so far.
        expected: about how many there are, 0 where that is not known.
    """

    def __init__(self, path: Path, rate: int, max_seconds: float) -> None:
        self._path, self._rate, self._max_seconds = path, rate, max_seconds
        self.read = self.expected = 0

    def write(self, data: bytes) -> None:
        """Make the file, and look at its header. Raises ValueError for one that is too long, HTTPException for room."""
        import soundfile

        try:
            self._path.write_bytes(data)
        except OSError as error:
            raise _no_file(error) from None
        info = None
        with suppress(soundfile.LibsndfileError):  # what cannot be read load_blocks says better
            info = soundfile.info(self._path)
        if info is None or not 0 < info.frames < 1 << 40:  # a stream's header may not know
            return
        if info.channels > MAX_AUDIO_CHANNELS:
            raise ValueError(f"{info.channels} channels, expected at most {MAX_AUDIO_CHANNELS}")
        samples = math.ceil(info.frames * self._rate / info.samplerate)
        _check_length(samples, self._rate, self._max_seconds)  # before it is decoded: a small file may hold hours
        self.expected = samples

    def blocks(self) -> Iterator[Float]:
        """Its samples (n,), mono and at the rate that is wanted. Raises ValueError as ``load_blocks`` does."""
        for block in load_blocks(self._path, self._rate):
            self.read += len(block)
            _check_length(self.read, self._rate, self._max_seconds)  # a header may promise less than there is
            yield block


class _Limits:
    """Reads tokens or features for one model, within what the service allows. All methods raise ValueError."""

    def __init__(self, settings: Settings, model: Model, convention: MelConvention | None) -> None:
        self._settings, self._config = settings, model.vocos.config
        self._frames_first = convention is not None and convention.axes == "btc"

    def read_json(self, data: bytes) -> Tokens:
        most_rows = MAX_ROWS
        if self._frames_first:
            most_rows = int(self._settings.max_seconds * self._config.sample_rate / self._config.hop_length) + 1
        # each would take 30 times its size, and be slow
        for mark, most in ((b"[", most_rows + 1), (b"{", 16), (b'"', 64)):
            if data.count(mark) > most:
                raise ValueError(f"the JSON has more than {most} {mark.decode()}, expected a list for each row")
        if not self._frames_first:
            self._check_frames(data.count(b",") // max(1, data.count(b"[") - 1))
        try:
            given = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"cannot read the body as JSON with tokens or mels: {error}") from None
        names = [name for name in ("tokens", "mels") if isinstance(given, dict) and name in given]
        if len(names) != 1:
            raise ValueError('cannot read the body as JSON: expected {"tokens": [[...]]} or {"mels": [[...]]}')
        name = names[0]
        if name == "mels" and self._config.encodec is not None:
            raise ValueError(f"these are mels, and this model decodes tokens of {self._config.encodec.codec}")
        array = self._rows(given[name], name)
        codec, sha256 = (given.get(key) for key in _NAMES)
        if not all(text is None or (isinstance(text, str) and len(text) <= 200) for text in (codec, sha256)):
            raise ValueError("codec and codebooks_sha256 are names, expected texts of up to 200 characters")
        return Tokens(array, codec=codec, codebooks_sha256=sha256)

    def _rows(self, rows: Any, name: str) -> npt.NDArray[Any]:
        where = f"cannot read the body as JSON with {name}"
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
            raise ValueError(f"{where}: expected a list of equal length for each row")
        # by type, since numpy would make texts as long as the longest of a text among numbers
        types, numbers = ({int}, "integers") if name == "tokens" else ({int, float}, "numbers")
        if not all(set(map(type, row)) <= types for row in rows):
            raise ValueError(f"{where}: expected {numbers} alone")
        array = np.empty((len(rows), len(rows[0]) if rows else 0), np.int64 if name == "tokens" else np.float32)
        self._check(array.shape, array.dtype)
        try:
            with np.errstate(over="ignore"):  # infinity is refused where it is decoded
                for i, row in enumerate(rows):
                    array[i] = row
        except OverflowError:
            raise ValueError(f"{where}: expected integers of up to 64 bits") from None
        return array

    def npz_size(self, data: bytes) -> int:
        """What an .npz unpacks to, by its directory, before any of it is unpacked."""
        if data.count(b"PK\1\2") > MAX_ENTRIES:
            raise ValueError(f"the .npz has more than {MAX_ENTRIES} entries")
        try:
            entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
        except Exception:  # of damaged archives zipfile raises whatever struct does
            raise ValueError("cannot read the body as .npz: its directory is damaged") from None
        size, most = sum(entry.file_size for entry in entries), self._settings.max_body
        if size > most or any(e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for e in entries):
            raise ValueError(f"the .npz unpacks to {size} bytes, expected at most {most}, stored or deflated")
        return size

    def read_npz(self, data: bytes) -> Tokens:
        try:
            read = read_token_file(io.BytesIO(data))
        except (ValueError, MemoryError):
            raise
        except Exception:  # of damaged bytes numpy and zipfile raise whatever their parsers do
            raise ValueError("cannot read the body as .npz") from None
        self._check(read.codes.shape, read.codes.dtype)
        return read

    def read_npy(self, data: bytes) -> npt.NDArray[Any]:
        """The array, whose header is checked before memory is allocated for what it promises."""
        file = io.BytesIO(data)
        try:
            version = np.lib.format.read_magic(file)
            read: dict[Any, Callable[..., Any]] = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, fortran, dtype = read[version](file)
            if not all(type(size) is int for size in shape):  # numpy lets True through
                raise ValueError
        except Exception:  # of damaged bytes numpy raises whatever its parsers do, and says what is not the client's
            reason = "cannot read the body as .npy, whose header is damaged, nor as .npz or JSON"
            raise ValueError(reason) from None
        first = file.tell()
        self._check(shape, dtype)
        size, there = math.prod(shape) * dtype.itemsize, len(data) - first
        if size != there:
            raise ValueError(f"the .npy header promises {size} bytes of numbers, and there are {there}")
        return np.frombuffer(data, dtype, offset=first).reshape(shape, order="F" if fortran else "C")

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Raises ValueError where neither tokens nor features may have that shape."""
        expected = "(frames, channels)" if self._frames_first else "(codebooks or channels, frames)"
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"the array has shape {shape}, expected {expected}")
        if dtype.kind not in "iuf":
            raise ValueError(f"the array has dtype {dtype}, expected integers for tokens or floats for mels")
        rows, frames = shape[::-1] if self._frames_first else shape
        self._check_frames(frames)
        if rows > MAX_ROWS:
            raise ValueError(f"the array has shape {shape}, expected at most {MAX_ROWS} codebooks or channels")

    def _check_frames(self, frames: int) -> None:
        rate = self._config.sample_rate
        _check_length(frames * self._config.hop_length, rate, self._settings.max_seconds)


def first_codebooks(tokens: Tokens, model: Model, bandwidth: float | None) -> Tokens:
    """The codebooks of a bandwidth, of tokens (K, T) that have as many or more; as the command line has it.

    Raises ValueError if they have fewer, or the model has not that bandwidth.
    """
    if bandwidth is None or tokens.codes.dtype.kind == "f":
        return tokens
    index = model.vocos.bandwidths.index(bandwidth)
    codec = model.vocos.config.encodec
    assert codec is not None
    count, found = codec.codebooks_per_bandwidth[index], len(tokens.codes)
    if found < count:
        raise ValueError(
            f"these tokens have {found} codebooks, and {bandwidth:g} kbps are {count}: leave bandwidth out"
        )
    return replace(tokens, codes=tokens.codes[:count])


async def _body(request: Request) -> bytes:
    data = await request.body()
    if not data:
        raise HTTPException(400, "the body is empty")
    return data


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _wrong_kind(kind: str, expected: str) -> HTTPException:
    form = "; send the file itself as the body (curl --data-binary @FILE)" if kind.startswith("multipart/") else ""
    return HTTPException(415, f"the content type is {kind[:60]!r}, expected {expected}{form}")


def _no_file(error: OSError) -> HTTPException:
    return HTTPException(503, f"no temporary file can be written: {error.strerror}", AGAIN)


def _check_length(samples: int, rate: int, most: float) -> None:
    if samples > most * rate:
        seconds = min(samples, 1 << 60) / rate
        raise ValueError(f"{seconds:.4g} s of audio, expected at most {most:g}")
