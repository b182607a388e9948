"""Reads tokens, mels and recordings from request bodies. A declared size is checked before memory is allocated."""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException
from starlette.requests import Request

from vocos_onnx.arrays import Float
from vocos_onnx.bandwidths import counted, may_be_swapped
from vocos_onnx.frames import read_tokens
from vocos_onnx.io.array_files import not_unpacked
from vocos_onnx.io.audio import load_blocks
from vocos_onnx.io.kinds import TEXT, Kind, kind_of
from vocos_onnx.io.tokens import A_NAME, Tokens, cut_codebooks, is_name, read_token_file, shape_of_one
from vocos_onnx.mels import MelConvention
from vocos_onnx.messages import listed, shown

from .limits import Account
from .models import Model
from .settings import Settings
from .wording import SEND, in_json, one_of, unknown, with_place
from .workers import AGAIN, Clock, Workers

MAX_AUDIO_CHANNELS = 32
MOST_NUMBERS = 1_600_000  # values per second of a recording: 32 channels at 48 kHz, 8 at 192 kHz
MAX_ENTRIES = 16  # in an .npz
MAX_ROWS = 1024  # codebooks of tokens, or channels of features
# content types that say nothing about the body; curl sends x-www-form-urlencoded by default
_ANY = ("", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream")
_ARRAYS = ("application/json", "application/zip", "application/x-npz", "application/x-npy", "application/npz")
_KINDS = ("application/npy", "application/vnd.numpy", "application/x-numpy")
_NAMES = ("codec", "codebooks_sha256")
_TOKEN_KEYS = ("tokens", "samples", "sample_rate", *_NAMES)  # in JSON
_OF_QUERY = ("model", "bandwidth", "bandwidth_id", "mels_from", "format", "stream")
_MEANT = {"tokens": ("token", "codes", "code", "audio_codes", "indices"), "mels": ("mel", "features", "spectrogram")}
_JSON = '{{"{}": [[...], ...]}}'
_OF_RECORDINGS = "recordings are for /v1/resynth and /v1/encode"
_OF_ARRAYS = "tokens and mels are for /v1/decode"


def account_of(request: Request) -> Account:
    """Returns the request's account of the memory and the place it holds (see limits.py)."""
    held: Account = request.scope["limits"]
    return held


class Bodies:
    """Reads the bodies of requests. Whatever is wrong with one raises HTTPException with a status and a reason."""

    def __init__(self, settings: Settings, workers: Workers) -> None:
        self._settings, self._workers = settings, workers

    async def arrays(
        self, request: Request, model: Model, convention: MelConvention | None, key: str | None, clock: Clock
    ) -> Tokens:
        """Returns the tokens (K, T) or features (C, T) in the body; features are (T, C) if their convention says so.

        ``key`` names the array in an .npz that holds several. Axes of length one around a single item are dropped.

        The request's account is charged for the array and the body together.

        Raises HTTPException: 400 if the body holds no such array, 413 if the JSON is too large, 415 for a body of
        another kind.
        """
        _check_coding(request)
        kind = _content_type(request)
        if kind not in (*_ANY, *_ARRAYS, *_KINDS):
            audio = f"; {_OF_RECORDINGS}" if kind.startswith(("audio/", "video/")) else ""
            raise _wrong_kind(kind, f"tokens or mels as application/json, or as .npz or .npy{audio}")
        data = await _body(request, "tokens or mels, as .npz, .npy or JSON")
        limits = _Limits(self._settings, model, convention, key)
        run, account = self._workers.run, account_of(request)
        if key is not None and data[:4] != b"PK\3\4":
            raise HTTPException(
                400, f"key is {shown(key)}, and the body is no .npz, whose arrays have names: leave it out"
            )
        if kind == "application/json" or data[:1000].lstrip()[:1] in (b"{", b"["):
            most = self._settings.max_json
            if len(data) > most:
                raise HTTPException(
                    413,
                    f"the JSON has {len(data)} bytes, expected at most {most} (--max-json of the service): send it as "
                    ".npz or .npy",
                )
            async with self._workers.one_json:
                read = await run(limits.read_json, data, clock=clock)
        elif data[:4] == b"PK\3\4":
            account.hold(len(data) + await run(limits.npz_size, data, clock=clock))
            read = await run(limits.read_npz, data, clock=clock)
        else:
            found = _found(data)
            if found is not None and found.group == "audio":
                raise HTTPException(400, f"the body is {found.name}, expected tokens or mels; {_OF_RECORDINGS}")
            try:
                read = Tokens(limits.read_npy(data))  # a view, so no worker is needed
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
        account.hold(len(data) + 8 * read.codes.size)  # decode converts tokens to int64, mels to two float32 arrays
        return read

    @asynccontextmanager
    async def recording(self, request: Request, rate: int, clock: Clock) -> AsyncIterator[Recording]:
        """Yields the recording in the body as a file, which exists inside the ``with`` block.

        Raises HTTPException: 400 if the body is not a recording, 415 for a body of another kind, 503 if there is no
        room for the file.
        """
        _check_coding(request)
        kind = _content_type(request)
        if kind not in (*_ANY, "application/ogg") and not kind.startswith(("audio/", "video/")):
            arrays = f"; {_OF_ARRAYS}" if kind in (*_ARRAYS, *_KINDS) else ""
            raise _wrong_kind(kind, f"a recording, as audio/wav, audio/flac or another kind of audio{arrays}")
        data = await _body(request, "a recording")
        found = _found(data)
        is_json = data[:1000].lstrip()[:1] in (b"{", b"[") and found is not None and found.group == "text"
        if found is not None and (found.group == "array" or is_json):
            raise HTTPException(
                400,
                f"cannot read the body as audio: it is {'JSON' if is_json else found.name}, expected a recording; "
                f"{_OF_ARRAYS}",
            )
        account_of(request).hold(2 * len(data))  # /tmp may be in memory too
        with ExitStack() as stack:
            try:
                # an unnamed file: no recording is left behind, however the process ends
                path = Path(f"/proc/self/fd/{stack.enter_context(tempfile.TemporaryFile()).fileno()}")
                if not path.exists():  # not Linux
                    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vocos-"))) / "body"
            except OSError as error:
                raise _no_file(error) from None
            recording = Recording(path, rate, self._settings.max_seconds)
            stack.callback(recording.close)
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
        read: samples read so far, at the target rate.
        expected: about how many samples there are at the target rate, 0 if unknown.
    """

    def __init__(self, path: Path, rate: int, max_seconds: float) -> None:
        self._path, self._rate, self._max_seconds = path, rate, max_seconds
        self.read = self.expected = 0
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Writes the file and checks its header.

        Raises ValueError if the recording is too long or has too many channels, and HTTPException if the file cannot
        be written.
        """
        import soundfile

        try:
            self._path.write_bytes(data)
        except OSError as error:
            raise _no_file(error) from None
        info = None
        with suppress(soundfile.LibsndfileError):  # load_blocks reports an unreadable file with a better message
            info = soundfile.info(self._path)
        if info is not None and info.channels > MAX_AUDIO_CHANNELS:
            raise ValueError(
                f"the recording has {info.channels} channels, expected at most {MAX_AUDIO_CHANNELS}: send it with fewer"
            )
        if info is not None and info.channels * info.samplerate > MOST_NUMBERS:  # every value takes time to decode
            raise ValueError(
                f"the recording has {info.channels} channels at {info.samplerate} Hz, expected at most "
                f"{MOST_NUMBERS // info.samplerate} channels at this rate, or {MOST_NUMBERS // info.channels} Hz with "
                "as many channels: send it with fewer channels"
            )
        if info is None or not 0 < info.frames < 1 << 40:  # the header of a streamed file may not state the length
            return
        samples = math.ceil(info.frames * self._rate / info.samplerate)
        _check_length(samples, self._rate, self._max_seconds)  # before it is decoded: a small file may hold hours
        self.expected = samples

    def blocks(self) -> Iterator[Float]:
        """Yields the samples (n,), mono and at the target rate.

        Raises ValueError as ``load_blocks`` does, or if the recording turns out to be too long.
        """
        self._file = self._path.open("rb")  # a path would appear in the commands that error messages suggest
        for block in load_blocks(self._file, self._rate):
            self.read += len(block)
            _check_length(self.read, self._rate, self._max_seconds)  # the header may declare less than there is
            yield block

    def close(self) -> None:
        """Closes the file, which would otherwise stay open as long as an iterator over its blocks is referenced."""
        if self._file is not None:
            self._file.close()


class _Limits:
    """Reads tokens or features for one model, within the service's limits. All methods raise ValueError."""

    def __init__(
        self, settings: Settings, model: Model, convention: MelConvention | None, key: str | None = None
    ) -> None:
        self._settings, self._model, self._config, self._key = settings, model, model.vocos.config, key
        self._frames_first = convention is not None and convention.axes == "btc"

    def read_json(self, data: bytes) -> Tokens:
        most_rows = MAX_ROWS
        if self._frames_first:
            most_rows = int(self._settings.max_seconds * self._config.sample_rate / self._config.hop_length) + 1
        # counted before parsing: each would take 30 times its size in memory, and be slow to parse
        for mark, what, most in ((b"[", "lists", most_rows + 1), (b"{", "objects", 16), (b'"', "quotation marks", 64)):
            if (count := data.count(mark)) > most:
                raise ValueError(
                    f"the JSON has {count} {what}, expected at most {most}, as in {_JSON.format('tokens')}: a list for "
                    "each row, of numbers alone"
                )
        if not self._frames_first:
            self._check_frames(data.count(b",") // max(1, data.count(b"[") - 1))
        try:
            given = json.loads(data, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            reason = str(error)
            if isinstance(error, RecursionError):
                reason = f"it is nested too deeply, expected {_JSON.format('tokens')}"
            elif isinstance(error, UnicodeDecodeError):
                reason = f"byte {error.start} is no {error.encoding.upper()}"
            elif "int_max_str_digits" in reason:  # Python's message advises how to raise its limit on digits
                reason = "it has an integer of thousands of digits"
            raise ValueError(f"cannot read the body as JSON with tokens or mels: {reason}") from None
        name = _name_of_rows(given)
        known = _TOKEN_KEYS if name == "tokens" else ("mels",)
        for key in given:
            if key in _OF_QUERY:
                raise ValueError(f"the JSON has the key {key!r}: give it in the query, as /v1/decode?{key}=...")
            if key not in known:
                raise ValueError(f"the JSON with {name} has the key {unknown(key, known)}")
        if name == "mels" and self._config.encodec is not None:
            raise ValueError(
                f"these are mels, and {self._model.name} decodes tokens of {self._config.encodec.codec}: name a mel "
                "model with model=NAME in the query; /v1/models lists those there are"
            )
        array = self._rows(given[name], name)
        codec, sha256 = (given.get(key) for key in _NAMES)
        for key, text in zip(_NAMES, (codec, sha256), strict=True):
            if text is not None and not is_name(text):
                raise ValueError(f"{key} is {in_json(text)}, expected {A_NAME}")
        for key, what in (
            ("samples", "how many samples the recording has, as an integer"),
            ("sample_rate", "Hz, as an integer"),
        ):
            value = given.get(key)
            if value is not None and not (type(value) is int and (key == "sample_rate") <= value < 1 << 62):
                raise ValueError(f"{key} is {in_json(value)}, expected {what}, or leave it out")
        return Tokens(array, given.get("samples"), given.get("sample_rate"), codec, sha256)

    def _rows(self, rows: Any, name: str) -> npt.NDArray[Any]:
        where = f"cannot read the body as JSON with {name}"
        rows = _of_one(rows, name)
        if not isinstance(rows, list):
            raise ValueError(f"{where}: {name} is {in_json(rows)}, expected a list of equal length for each row")
        for i, row in enumerate(rows):
            if not isinstance(row, list):
                raise ValueError(f"{where}: row {i} is {in_json(row)}, expected a list of equal length for each row")
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"{where}: row {i} has {len(row)} numbers, and row 0 has {len(rows[0])}, expected a list of equal "
                    "length for each row"
                )
        if any(isinstance(value, list) for row in rows for value in row):
            raise ValueError(
                f"{where}: it is nested three deep or more, expected {_JSON.format(name)}: send the items of a batch "
                "one by one"
            )
        # checked by type: given one string among numbers, numpy would turn all of them into strings of its length
        types, numbers = ({int}, "integers") if name == "tokens" else ({int, float}, "numbers")
        for i, row in enumerate(rows):
            if not set(map(type, row)) <= types:
                at, value = next((at, value) for at, value in enumerate(row) if type(value) not in types)
                point = ": write it without a point" if isinstance(value, float) and value.is_integer() else ""
                raise ValueError(
                    f"{where}: row {i} has {in_json(value)} at position {at}, both counted from 0, expected {numbers} "
                    f"alone{point}"
                )
        array = np.empty((len(rows), len(rows[0]) if rows else 0), np.int64 if name == "tokens" else np.float32)
        self._check(array.shape, array.dtype)
        with np.errstate(over="ignore"):  # check_values rejects infinities later
            for i, row in enumerate(rows):
                try:
                    array[i] = row
                except OverflowError:
                    at = max(range(len(row)), key=lambda at: abs(row[at]))
                    raise ValueError(
                        f"{where}: row {i} has {shown(row[at])} at position {at}, both counted from 0, expected "
                        f"{numbers} of up to {8 * array.itemsize} bits"
                    ) from None
        return array

    def npz_size(self, data: bytes) -> int:
        """Returns the unpacked size of an .npz in bytes, read from its directory before anything is unpacked."""
        if (count := data.count(b"PK\1\2")) > MAX_ENTRIES:
            raise ValueError(f"the .npz has {count} entries, expected at most {MAX_ENTRIES}: send the array alone")
        try:
            entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
        except Exception:  # on damaged archives zipfile raises whatever struct raises
            raise ValueError(f"cannot read the body as .npz: it is truncated or damaged; {SEND}") from None
        for entry in entries:
            if (reason := not_unpacked(entry)) is not None:
                raise ValueError(f"cannot read the body as .npz: its {shown(entry.filename)} {reason}")
        size, most = sum(entry.file_size for entry in entries), self._settings.max_body
        if size > most:
            raise ValueError(f"the .npz unpacks to {size} bytes, expected at most {most} (--max-body of the service)")
        return size

    def read_npz(self, data: bytes) -> Tokens:
        try:
            read = read_token_file(io.BytesIO(data), self._key)
        except (ValueError, MemoryError):
            raise
        except Exception:  # on damaged bytes numpy and zipfile raise whatever their parsers raise
            raise ValueError(f"cannot read the body as .npz: it is damaged; {SEND}") from None
        self._check(read.codes.shape, read.codes.dtype)
        return read

    def read_npy(self, data: bytes) -> npt.NDArray[Any]:
        """Returns the array in an .npy, a view of ``data`` whose header has been checked."""
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
        except Exception:  # on damaged bytes numpy raises whatever its parsers raise, in words not meant for clients
            if data[:6] == b"\x93NUMPY":
                raise ValueError(f"cannot read the body as .npy: its header is damaged; {SEND}") from None
            found = _found(data)
            is_other = "" if found is None else f", and holds {found.name}" if found is TEXT else f", but {found.name}"
            raise ValueError(f"cannot read the body, which is none of .npz, .npy and JSON{is_other}; {SEND}") from None
        first = file.tell()
        alone = shape_of_one(shape, dtype)
        self._check(alone, dtype, shape)
        size, there = math.prod(shape) * dtype.itemsize, len(data) - first
        if size != there:
            raise ValueError(f"the .npy header promises {size} bytes of numbers, and there are {there}: {SEND}")
        return np.frombuffer(data, dtype, offset=first).reshape(shape, order="F" if fortran else "C").reshape(alone)

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any], given: tuple[int, ...] | None = None) -> None:
        """Raises ValueError if the shape or dtype fits neither tokens nor features.

        ``given`` is the shape in the body, if it differs; messages show it.
        """
        expected = "(frames, channels)" if self._frames_first else "(codebooks or channels, frames)"
        whole = shown(shape if given is None else given)
        if len(shape) != 2:
            remedy = "; send the items of a batch one by one" if len(shape) in (3, 4) else ""
            if len(shape) == 1 and not self._frames_first:
                remedy = f"; one codebook is sent as (1, {shape[0]}), and one frame as ({shape[0]}, 1)"
            raise ValueError(f"the array has shape {whole}, expected {expected}{remedy}")
        if min(shape) < 1:
            raise ValueError(f"the array is empty, with shape {whole}, expected {expected} with at least one of each")
        if dtype.kind not in "iuf":
            raise ValueError(f"the array has dtype {dtype}, expected integers for tokens or floats for mels")
        rows, frames = shape[::-1] if self._frames_first else shape
        self._check_frames(frames)
        if rows > MAX_ROWS:
            raise ValueError(f"the array has shape {shown(shape)}, expected at most {MAX_ROWS} codebooks or channels")

    def _check_frames(self, frames: int) -> None:
        rate = self._config.sample_rate
        _check_length(frames * self._config.hop_length, rate, self._settings.max_seconds)


def codebooks_of_bandwidth(tokens: Tokens, model: Model, bandwidth: float | None) -> Tokens:
    """Returns the codebooks that belong to a bandwidth, the first of tokens (K, T), as the command line does.

    Raises ValueError if the tokens have fewer codebooks, or if the model does not have the bandwidth.
    """
    if bandwidth is None or tokens.codes.dtype.kind == "f":
        return tokens
    index = model.vocos.bandwidths.index(bandwidth)
    codec = model.vocos.config.encodec
    assert codec is not None
    count, found = codec.codebooks_per_bandwidth[index], len(tokens.codes)
    if may_be_swapped(tokens.codes.shape, codec.num_codebooks):
        raise ValueError(
            f"these tokens have {counted(found)}, and {model.name} decodes {codec.num_codebooks} at most; where they "
            "are (frames, codebooks) send them transposed"
        )
    if found < count:
        raise ValueError(
            f"these tokens have {counted(found)}, but {bandwidth:g} kbps needs {count}: leave bandwidth out"
        )
    return cut_codebooks(tokens, count, codec.num_codebooks)


def check_codebooks(tokens: Tokens, model: Model, bandwidth_id: int | None) -> None:
    """Raises ValueError if K of tokens (K, T) fits no bandwidth of the model, or not the bandwidth that is given.

    A model that is not conditioned on the bandwidth accepts any K up to its own number of codebooks.
    """
    codec = model.vocos.config.encodec
    if codec is None or tokens.codes.dtype.kind == "f":
        return
    counts, kbps = codec.codebooks_per_bandwidth, codec.bandwidths
    count, frames = tokens.codes.shape
    rows = f"these tokens have {counted(count)}"
    if model.vocos.config.num_bandwidth_ids and count not in counts:
        fewer = [i for i, one in enumerate(counts) if one < count]
        remedies = ["where they are (frames, codebooks) send them transposed"] if frames in counts else []
        if fewer and count <= codec.num_codebooks:
            remedies.append(f"bandwidth={kbps[fewer[-1]]:g} in the query decodes the first {counts[fewer[-1]]}")
        remedy = f": {'; '.join(remedies)}" if remedies else ""
        raise ValueError(
            f"{rows}, expected {one_of(counts)}, as {one_of(f'{one:g}' for one in kbps)} kbps have{remedy}"
        )
    if bandwidth_id is not None and 0 <= bandwidth_id < len(counts) and count != counts[bandwidth_id]:
        right = f", or give bandwidth_id={counts.index(count)}" if count in counts else ""
        raise ValueError(
            f"{rows}, and bandwidth_id {bandwidth_id} ({kbps[bandwidth_id]:g} kbps) has {counts[bandwidth_id]}: leave "
            f"bandwidth_id out{right}"
        )


def check_values(tokens: Tokens, model: Model) -> None:
    """Raises ValueError for tokens (K, T) out of range or floats that are not finite; the message locates the first.

    The whole array is checked before anything is decoded. A streamed answer would check each chunk only when it is due.
    """
    codes, codec = tokens.codes, model.vocos.config.encodec
    if codes.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(codes.astype(np.float32, copy=False))
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"features hold {np.count_nonzero(~finite)} values that are NaN or infinite in float32, the first in "
                f"row {row} at position {column}, counted from 0; expected finite numbers"
            )
    elif codec is not None and tokens.codec in (None, codec.codec):
        try:
            read_tokens(codes, "kbt", codec.num_codebooks, codec.codebook_size)
        except ValueError as error:
            raise ValueError(with_place(str(error), codes)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object as a dictionary. Raises ValueError for a duplicate key."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} is there twice")
    return made


def _of_one(rows: Any, name: str) -> Any:
    """Returns the rows of a batch of one; anything else is returned unchanged.

    A batch of one is (1, K, T), and for tokens also (1, 1, K, T) or (K, 1, T).
    """
    if isinstance(rows, list) and len(rows) == 1 and isinstance(rows[0], list) and len(rows[0]) == 1:
        inner = rows[0][0]
        if isinstance(inner, list) and inner and all(isinstance(row, list) for row in inner):
            return inner if name == "tokens" else rows
    if not isinstance(rows, list) or not all(isinstance(row, list) and row for row in rows):
        return rows
    if len(rows) == 1 and all(isinstance(row, list) for row in rows[0]):
        return rows[0]
    if name == "tokens" and all(len(row) == 1 and isinstance(row[0], list) for row in rows):
        return [row[0] for row in rows]
    return rows


def _name_of_rows(given: Any) -> str:
    """Returns which of the keys "tokens" and "mels" the JSON has. Raises ValueError if it has neither or both."""
    expected = 'expected {"tokens": [[...]]} or {"mels": [[...]]}'
    if not isinstance(given, dict):
        what = "a list" if isinstance(given, list) else in_json(given)
        raise ValueError(f"cannot read the body as JSON with tokens or mels: it is {what}, {expected}")
    names = [name for name in ("tokens", "mels") if name in given]
    if len(names) == 2:
        raise ValueError(f"cannot read the body as JSON: it has both tokens and mels, {expected}")
    if not names:
        meant = next((meant for key in given for meant in _MEANT if key.lower() in _MEANT[meant]), None)
        hint = f": did you mean {meant}?" if meant else ""
        keys = f"it has the keys {listed(given)}" if given else "it is empty"
        raise ValueError(f"cannot read the body as JSON with tokens or mels: {keys}, {expected}{hint}")
    return names[0]


def _found(data: bytes) -> Kind | None:
    """Returns the kind of file that the body's first bytes indicate, if any."""
    return kind_of(data[:8192], len(data) <= 8192)[0]


async def _body(request: Request, expected: str) -> bytes:
    data = await request.body()
    if not data:
        raise HTTPException(400, f"the body is empty, expected {expected}: {SEND}")
    return data


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_coding(request: Request) -> None:
    """Raises HTTPException if the body has a content encoding, such as gzip."""
    codings = ",".join(request.headers.getlist("content-encoding")).split(",")
    if found := [name for name in map(str.strip, codings) if name.lower() not in ("", "identity")]:
        raise HTTPException(
            415,
            f"the content encoding is {shown(found[0])}, and bodies are not unpacked: send it as it is, without the "
            "header Content-Encoding (.npz and .flac are compressed in themselves)",
            {"Accept-Encoding": "identity"},
        )


def _wrong_kind(kind: str, expected: str) -> HTTPException:
    form = f"; {SEND}" if kind.startswith("multipart/") else ""
    return HTTPException(415, f"the content type is {kind[:60]!r}, expected {expected}{form}")


def _no_file(error: OSError) -> HTTPException:
    return HTTPException(503, f"no temporary file can be written: {error.strerror}", AGAIN)


def _check_length(samples: int, rate: int, most: float) -> None:
    if samples > most * rate:
        seconds = math.ceil(100 * min(samples, 1 << 60) / rate) / 100  # rounded up, to read as more than the limit
        raise ValueError(
            f"there are {seconds:.10g} s of audio, expected at most {most:g} (--max-seconds of the service): send "
            "several requests"
        )
