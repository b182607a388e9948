"""A small HTTP service: tokens or audio in, WAV out. python examples/server.py [--host 127.0.0.1] [--port 8000]

    pip install ".[cpu,serve]"    # in a checkout

    POST /decode      tokens as .npz or .npy (K, T), or JSON {"tokens": [[...], ...]}; ?bandwidth_id=  -> audio/wav
    POST /resynth     audio of any kind (wav, flac, ogg, mp3)           ?bandwidth=6           -> audio/wav
    POST /stream      as /decode, answered chunk by chunk as raw 16-bit PCM: audio/L16
    GET  /health      {"status": "ok", ...}; 503 while the queue is full

Bad input is 400 with the reason, a body that is too large 413, one that comes too slowly 408, a queue that is full 429
and memory that is short 503, both with Retry-After. A client that does not read its answer is cut off (see limits.py).
The settings are environment variables: VOCOS_MODEL, VOCOS_THREADS (of one decode), VOCOS_WORKERS (decodes at once),
VOCOS_QUEUE (requests that may wait), VOCOS_MAX_BODY (bytes), VOCOS_MAX_JSON (bytes of a body in JSON, which takes ten
times its size: .npy is for more), VOCOS_MAX_SECONDS (of audio) and VOCOS_MEMORY (bytes of all requests together).

``uvicorn --app-dir examples server:app`` is the same, with uvicorn's own settings beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import math
import os
import re
import struct
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from limits import Account, Limits
from vocos_onnx import Tokens, VocosONNX, load_tokens
from vocos_onnx.io.audio import load_blocks
from vocos_onnx.model.cpus import available_cpus

Result = TypeVar("Result")

MODEL = os.environ.get("VOCOS_MODEL")
THREADS = int(os.environ.get("VOCOS_THREADS", "1"))
WORKERS = int(os.environ.get("VOCOS_WORKERS", str(available_cpus())))
QUEUE = int(os.environ.get("VOCOS_QUEUE", "16"))
MAX_BODY = int(os.environ.get("VOCOS_MAX_BODY", str(10 << 20)))
MAX_JSON = int(os.environ.get("VOCOS_MAX_JSON", "2000000"))
MAX_SECONDS = float(os.environ.get("VOCOS_MAX_SECONDS", "600"))
MEMORY = int(os.environ.get("VOCOS_MEMORY", str(256 << 20)))
CHUNK = 75  # frames of a stream that are decoded at once
BLOCK = 1500  # frames of a whole answer that are: requests take turns at the workers, block by block
SLICE = 0.1  # seconds after which it is the next one's turn
MAX_CHANNELS = 32
AGAIN = {"Retry-After": "1"}
MAX_ENTRIES = 16  # of an .npz
MAX_ROWS = 1024  # codebooks of tokens, channels of features
LONGEST_REASON = 300  # characters of what is said about bad input, which may hold a part of it

vocos: VocosONNX
pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="vocos")
one_json = asyncio.Semaphore(1)  # its lists and numbers take more memory than the text
turns = asyncio.Semaphore(WORKERS)  # of long requests, which would else share the workers, and all end late


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    global vocos
    vocos = VocosONNX(MODEL, threads=THREADS)
    if vocos.config.encodec is not None:  # the encoder is loaded now, and not with the first request
        vocos(np.zeros(vocos.sample_rate), vocos.sample_rate)
    yield
    pool.shutdown(wait=False, cancel_futures=True)


async def work(function: Callable[..., Result], *args: Any) -> Result:
    """In a worker thread; what is wrong with the input is 400."""
    future = pool.submit(function, *args)
    done = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        if not future.cancel():  # files and folders that it uses are closed and removed when it has ended
            while not done.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({done})
            done.exception()
        raise
    except (ValueError, FloatingPointError) as error:
        raise HTTPException(400, str(error)) from None
    except MemoryError:
        raise HTTPException(503, "there is not enough memory for this request", AGAIN) from None
    finally:
        del future, done  # they hold the error, and its traceback this frame: what it has would stay until a collection


def account(request: Request) -> Account:
    """What the request holds, for the bounds on all of them (limits.py)."""
    held: Account = request.scope["limits"]
    return held


async def body(request: Request) -> bytes:
    data = await request.body()
    if not data:
        raise HTTPException(400, "the body is empty")
    return data


async def tokens_of(request: Request) -> Tokens:
    """The tokens (K, T) in the body, accounted for together with it. Those that name a codec are of no other model."""
    data = await body(request)
    as_json = data[:1000].lstrip()[:1] == b"{"
    if as_json and len(data) > MAX_JSON:
        raise HTTPException(413, f"JSON may have {MAX_JSON} bytes, and this has {len(data)}: send tokens as .npy")
    if as_json:
        async with one_json:
            tokens = await work(read_json, data)
    elif data[:4] == b"PK\3\4":
        account(request).hold(len(data) + await work(npz_size, data))
        tokens = await work(read_npz, data)
    else:
        try:
            tokens = Tokens(read_npy(data))  # takes no time: it is a view
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
    account(request).hold(len(data) + 8 * tokens.codes.size)  # decode makes them int64
    return tokens


def read_json(data: bytes) -> Tokens:
    for mark, most in ((b"[", MAX_ROWS + 1), (b"{", 16), (b'"', 64)):  # each would take 30 times its size, and be slow
        if data.count(mark) > most:
            raise ValueError(f"the JSON has more than {most} {mark.decode()}, expected a list for each codebook")
    check_length((data.count(b",") // max(1, data.count(b"[") - 1)) * vocos.hop_length)
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the body as JSON with tokens: {error}") from None
    rows = given.get("tokens") if isinstance(given, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        raise ValueError("cannot read the body as JSON with tokens: expected a list of equal length for each codebook")
    # by type, since numpy would make texts as long as the longest of a text among numbers
    if not all(set(map(type, row)) <= {int} for row in rows):
        raise ValueError("cannot read the body as JSON with tokens: expected integers alone")
    tokens = np.empty((len(rows), len(rows[0]) if rows else 0), np.int64)
    check_tokens(tokens.shape, tokens.dtype, lambda: tokens)
    try:
        for i, row in enumerate(rows):
            tokens[i] = row
    except OverflowError:
        raise ValueError("cannot read the body as JSON with tokens: expected integers of up to 64 bits") from None
    names = {name: given.get(name) for name in ("codec", "codebooks_sha256")}
    if not all(name is None or (isinstance(name, str) and len(name) <= 200) for name in names.values()):
        raise ValueError("codec and codebooks_sha256 are names, expected texts of up to 200 characters")
    return Tokens(tokens, **names)


def npz_size(data: bytes) -> int:
    """What an .npz unpacks to, by its directory, before any of it is unpacked."""
    if data.count(b"PK\1\2") > MAX_ENTRIES:
        raise ValueError(f"the .npz has more than {MAX_ENTRIES} entries")
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except Exception:  # of damaged archives zipfile raises whatever struct does
        raise ValueError("cannot read the body as .npz: its directory is damaged") from None
    size = sum(entry.file_size for entry in entries)
    if size > MAX_BODY or any(e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for e in entries):
        raise ValueError(f"the .npz unpacks to {size} bytes, expected at most {MAX_BODY}, stored or deflated")
    return size


def read_npz(data: bytes) -> Tokens:
    try:
        tokens = load_tokens(io.BytesIO(data))
    except (ValueError, MemoryError):
        raise
    except Exception:  # of damaged bytes numpy and zipfile raise whatever their parsers do
        raise ValueError("cannot read the body as .npz") from None
    check_tokens(tokens.codes.shape, tokens.codes.dtype, lambda: tokens.codes)
    return tokens


def read_npy(data: bytes) -> np.ndarray:
    """The array, whose header is checked before memory is allocated for what it promises."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read[version](file)
        if not all(type(size) is int for size in shape):  # numpy lets True through
            raise ValueError
    except Exception:  # of damaged bytes numpy raises whatever its parsers do, and says what is not the client's
        raise ValueError("cannot read the body as .npy, whose header is damaged, or as JSON with tokens") from None
    first = file.tell()

    def array() -> np.ndarray:
        size, there = math.prod(shape) * dtype.itemsize, len(data) - first
        if size != there:
            raise ValueError(f"the .npy header promises {size} bytes of tokens, and there are {there}")
        return np.frombuffer(data, dtype, offset=first).reshape(shape, order="F" if fortran else "C")

    return check_tokens(shape, dtype, array)


def check_tokens(shape: tuple[int, ...], dtype: np.dtype[Any], array: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of this shape, where tokens may have that."""
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"tokens have shape {shape}, expected (codebooks, frames)")
    if dtype.kind not in "iuf":  # floats are features
        raise ValueError(f"tokens have dtype {dtype}, expected integers")
    check_length(shape[1] * vocos.hop_length)
    if shape[0] > MAX_ROWS:
        raise ValueError(f"tokens have shape {shape}, expected at most {MAX_ROWS} codebooks")
    return array()


def check_length(samples: int) -> None:
    if samples > MAX_SECONDS * vocos.sample_rate:
        seconds = min(samples, 1 << 60) / vocos.sample_rate
        raise ValueError(f"{seconds:.4g} s of audio, expected at most {MAX_SECONDS:g}")


def number(request: Request, name: str, pattern: str, kind: Callable[[str], Result]) -> Result | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch(pattern, text, re.ASCII):
        raise HTTPException(400, f"{name} is {text[:40]!r}, expected a number")
    return kind(text)


def integer(request: Request, name: str) -> int | None:
    return number(request, name, r"[+-]?\d{1,9}", int)


async def wav(
    request: Request, begin: Callable[[], Iterator[np.ndarray]], samples: Callable[[], int], expected: int
) -> Response:
    """The blocks in one file, of so many ``samples``, which are known at the end.

    About so many are ``expected``; 0 where that is not known, and it may be long.
    """
    if 0 < expected <= BLOCK * vocos.hop_length:
        parts = await made(request, begin, samples, expected)
    else:
        account(request).long()
        async with turns:
            parts = await made(request, begin, samples, expected)
    size = sum(map(len, parts))
    account(request).hold(size)
    rate = vocos.sample_rate
    sizes = size + 36, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    parts.appendleft(struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", *sizes))

    async def given() -> AsyncIterator[bytes]:
        while parts:
            yield parts.popleft()

    return StreamingResponse(given(), media_type="audio/wav", headers={"Content-Length": str(size + 44)})


async def made(
    request: Request, begin: Callable[[], Iterator[np.ndarray]], samples: Callable[[], int], expected: int
) -> deque[bytes]:
    """The blocks as 16-bit PCM, block by block: what they take is accounted for, and another client's come between."""
    before, done = account(request).held, 0
    size = 2 if vocos.delay else 6  # bytes of a sample: all of it is there as float32 where it is not streamed
    account(request).hold(before + size * expected)
    parts: deque[bytes] = deque()
    blocks: Iterator[np.ndarray] | None = None

    def some() -> bool:
        """Whether there is more."""
        nonlocal blocks, done
        blocks = begin() if blocks is None else blocks
        end = time.monotonic() + SLICE
        while time.monotonic() < end:
            block = next(blocks, None)
            if block is None:
                return False
            block = block[: max(0, samples() - done)]
            out = io.BytesIO()
            soundfile.write(out, block, vocos.sample_rate, format="RAW", subtype="PCM_16", endian="LITTLE")
            parts.append(out.getvalue())
            done += len(block)
        return True

    while await work(some):
        account(request).hold(before + max(size * expected, 2 * done))
    return parts


def decoded(tokens: Tokens, bandwidth_id: int | None, chunk: int) -> Iterator[np.ndarray]:
    """The audio of tokens, some frames at a time; all at once of a model that cannot be streamed."""
    frames = tokens.codes.shape[1]
    if not vocos.delay or frames <= chunk:
        return iter([vocos.decode(tokens, bandwidth_id)])
    chunks = (replace(tokens, codes=tokens.codes[:, i : i + chunk]) for i in range(0, frames, chunk))
    return vocos.decode_stream(chunks, bandwidth_id)


async def decode(request: Request) -> Response:
    bandwidth_id = integer(request, "bandwidth_id")
    tokens = await tokens_of(request)
    samples = tokens.codes.shape[1] * vocos.hop_length
    return await wav(request, lambda: decoded(tokens, bandwidth_id, BLOCK), lambda: samples, samples)


def no_file(error: OSError) -> HTTPException:
    return HTTPException(503, f"no temporary file can be written: {error.strerror}", AGAIN)


async def resynth(request: Request) -> Response:
    bandwidth = number(request, "bandwidth", r"[+-]?(\d{1,9}\.?\d{0,9}|\.\d{1,9})(e[+-]?\d{1,2})?", float)
    data = await body(request)
    account(request).hold(2 * len(data))  # /tmp may be in memory, too
    with ExitStack() as stack:
        try:
            # a file without a name: however the process ends, no recording stays
            path = Path(f"/proc/self/fd/{stack.enter_context(tempfile.TemporaryFile()).fileno()}")
            if not path.exists():  # not Linux
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vocos-"))) / "body"
        except OSError as error:
            raise no_file(error) from None

        def begin() -> int:
            try:
                path.write_bytes(data)
            except OSError as error:
                raise no_file(error) from None
            info = None
            with suppress(soundfile.LibsndfileError):  # what cannot be read load_blocks says better
                info = soundfile.info(path)
            if info is None or not 0 < info.frames < 1 << 40:  # a stream's header may not know
                return 0
            if info.channels > MAX_CHANNELS:
                raise ValueError(f"{info.channels} channels, expected at most {MAX_CHANNELS}")
            samples: int = math.ceil(info.frames * vocos.sample_rate / info.samplerate)
            check_length(samples)  # before it is decoded: a small file may hold hours
            return samples

        expected = await work(begin)
        read = 0

        def counted() -> Iterable[np.ndarray]:
            nonlocal read
            for block in load_blocks(path, vocos.sample_rate):
                read += len(block)
                check_length(read)  # a header may promise less than there is
                yield block

        def blocks() -> Iterator[np.ndarray]:
            return vocos.resynth_stream(counted(), vocos.sample_rate, bandwidth=bandwidth)

        try:
            return await wav(request, blocks, lambda: read, expected)
        except HTTPException as error:
            error.detail = error.detail.replace(str(path), "the body")
            raise


async def stream(request: Request) -> Response:
    bandwidth_id = integer(request, "bandwidth_id")
    tokens = await tokens_of(request)
    chunks = await work(decoded, tokens, bandwidth_id, CHUNK)
    first = await work(next, chunks, None)  # what is wrong with the tokens shows here, while it can be said

    async def pcm() -> AsyncIterator[bytes]:
        block = first
        while block is not None:
            yield np.round(block * 32768).clip(-32768, 32767).astype(">i2").tobytes()  # L16 is big-endian
            block = await work(next, chunks, None)

    return StreamingResponse(pcm(), media_type=f"audio/L16;rate={vocos.sample_rate};channels=1")


async def health(_: Request) -> Response:
    full = app.working >= app.places
    state = {"status": "full" if full else "ok", "waiting": app.working, "providers": vocos.providers}
    return JSONResponse(state, 503 if full else 200)


async def say(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = re.sub(r" at 0x[0-9a-fA-F]+", "", error.detail)  # where an object is in memory, in a parser's words
    if len(reason) > LONGEST_REASON:
        reason = reason[: LONGEST_REASON - 4] + " ..."
    return JSONResponse({"error": reason}, error.status_code, error.headers)


app = Limits(
    Starlette(
        routes=[
            Route("/decode", decode, methods=["POST"]),
            Route("/resynth", resynth, methods=["POST"]),
            Route("/stream", stream, methods=["POST"]),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: say},
        lifespan=lifespan,
    ),
    places=WORKERS + QUEUE,
    long_places=max(1, WORKERS + QUEUE // 2),
    max_body=MAX_BODY,
    memory=MEMORY,
)


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    settings: dict[str, Any] = {"access_log": False, "server_header": False, "lifespan": "on"}
    server = uvicorn.Server(uvicorn.Config(app, host=args.host, port=args.port, **settings))
    try:
        server.run()  # ends with the signal that it was given
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(143 if server.started else 3)  # the first process of a container, which SIGTERM does not end


if __name__ == "__main__":
    main()
