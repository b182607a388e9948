"""A small HTTP service: tokens or audio in, WAV out. uvicorn --app-dir examples server:app

    pip install "vocos-onnx[cpu]" starlette uvicorn

    POST /decode      tokens as .npy (K, T), or JSON {"tokens": [[...], ...]}; ?bandwidth_id=  -> audio/wav
    POST /resynth     audio of any kind (wav, flac, ogg, mp3)           ?bandwidth=6           -> audio/wav
    POST /stream      as /decode, answered chunk by chunk as raw 16-bit PCM: audio/L16
    GET  /health      {"status": "ok", ...}; 503 while the queue is full

Bad input is 400 with the reason, a body that is too large 413, a queue that is full 429 with Retry-After. The settings
are environment variables: VOCOS_MODEL, VOCOS_THREADS (of one decode), VOCOS_WORKERS (decodes at once), VOCOS_QUEUE
(requests that may wait), VOCOS_MAX_BODY (bytes) and VOCOS_MAX_SECONDS (of audio).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vocos_onnx import VocosONNX, load_audio
from vocos_onnx.session import available_cpus

Result = TypeVar("Result")

MODEL = os.environ.get("VOCOS_MODEL")
THREADS = int(os.environ.get("VOCOS_THREADS", "1"))
WORKERS = int(os.environ.get("VOCOS_WORKERS", str(available_cpus())))
QUEUE = int(os.environ.get("VOCOS_QUEUE", "16"))
MAX_BODY = int(os.environ.get("VOCOS_MAX_BODY", str(10 << 20)))
MAX_SECONDS = float(os.environ.get("VOCOS_MAX_SECONDS", "600"))
LINGER = 10.0  # seconds that the rest of a refused body may take
CHUNK = 75  # frames of a stream that are decoded at once

vocos: VocosONNX
pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="vocos")
waiting = 0  # requests that are decoded or wait for it


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    global vocos
    vocos = VocosONNX(MODEL, threads=THREADS)
    if vocos.config.encodec is not None:  # the encoder is loaded now, and not with the first request
        vocos(np.zeros(vocos.sample_rate), vocos.sample_rate)
    yield


@asynccontextmanager
async def place() -> AsyncIterator[None]:
    """A place in the queue, or 429."""
    global waiting
    if waiting >= WORKERS + QUEUE:
        raise HTTPException(429, f"{waiting} requests are waiting, try again", {"Retry-After": "1"})
    waiting += 1
    try:
        yield
    finally:
        waiting -= 1


async def body(request: Request) -> bytes:
    """The body. What is too large is refused as soon as that shows, and not kept."""
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > MAX_BODY:
        raise HTTPException(413, f"the body may have {MAX_BODY} bytes, and {announced} are announced")
    data = bytearray()
    request.scope["body"] = "begun"
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"the body may have {MAX_BODY} bytes")
    request.scope["body"] = "read"
    if not data:
        raise HTTPException(400, "the body is empty")
    return bytes(data)


async def work(function: Callable[..., Result], *args: Any) -> Result:
    """In a worker thread; what is wrong with the input is 400."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
    except (ValueError, FloatingPointError) as error:
        raise HTTPException(400, str(error)) from None
    except MemoryError:
        raise HTTPException(503, "there is not enough memory for this request") from None


def read_tokens(data: bytes) -> np.ndarray:
    try:
        if data.lstrip()[:1] == b"{":
            tokens = np.asarray(json.loads(data)["tokens"])
        else:
            tokens = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # of damaged bytes numpy raises whatever its parsers do
        raise ValueError(f"cannot read the body as .npy or as JSON with tokens: {error}") from None
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 2:
        raise ValueError(f"tokens have shape {getattr(tokens, 'shape', None)}, expected (codebooks, frames)")
    check_length(tokens.shape[1] * vocos.hop_length)
    return tokens


def check_length(samples: int) -> None:
    if samples > MAX_SECONDS * vocos.sample_rate:
        raise ValueError(f"{samples / vocos.sample_rate:.0f} s of audio, expected at most {MAX_SECONDS:g}")


def number(request: Request, name: str, kind: Callable[[str], Result]) -> Result | None:
    text = request.query_params.get(name)
    try:
        return None if text is None else kind(text)
    except ValueError:
        raise HTTPException(400, f"{name} is {text!r}, expected a number") from None


def wav(audio: np.ndarray) -> Response:
    out = io.BytesIO()
    soundfile.write(out, audio, vocos.sample_rate, format="WAV", subtype="PCM_16")
    return Response(out.getvalue(), media_type="audio/wav")


async def decode(request: Request) -> Response:
    bandwidth_id = number(request, "bandwidth_id", int)
    async with place():
        data = await body(request)
        return await work(lambda: wav(vocos.decode(read_tokens(data), bandwidth_id)))


async def resynth(request: Request) -> Response:
    bandwidth = number(request, "bandwidth", float)

    def run(data: bytes) -> Response:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "body"
            path.write_bytes(data)
            with suppress(soundfile.LibsndfileError):  # what cannot be read load_audio says better
                # before it is decoded: a small file may hold hours
                check_length(round(soundfile.info(path).duration * vocos.sample_rate))
            audio = load_audio(path, vocos.sample_rate)
        return wav(vocos(audio, vocos.sample_rate, bandwidth=bandwidth)[: len(audio)])

    async with place():
        return await work(run, await body(request))


async def stream(request: Request) -> Response:
    bandwidth_id = number(request, "bandwidth_id", int)
    entered = place()
    await entered.__aenter__()
    try:
        data = await body(request)
        tokens = await work(read_tokens, data)
        chunks: Iterator[np.ndarray] = vocos.decode_stream(
            (tokens[:, i : i + CHUNK] for i in range(0, tokens.shape[1], CHUNK)), bandwidth_id
        )
        first = await work(next, chunks, None)  # what is wrong with the tokens shows here, while it can be said
    except BaseException:
        await entered.__aexit__(None, None, None)
        raise

    async def pcm() -> AsyncIterator[bytes]:
        block = first
        while block is not None:
            yield np.round(block * 32768).clip(-32768, 32767).astype(">i2").tobytes()  # L16 is big-endian
            block = await work(next, chunks, None)

    answer = _InItsPlace(pcm(), media_type=f"audio/L16;rate={vocos.sample_rate};channels=1")
    answer.place = entered
    return answer


class _InItsPlace(StreamingResponse):
    """Gives its place in the queue back when it has been sent, or cannot be: also to a client that has gone away."""

    place: AbstractAsyncContextManager[None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.place.__aexit__(None, None, None)


async def discard(request: Request) -> None:
    """The rest of a refused body, up to a bound: who is cut off while sending gets an error, not the answer.

    Nothing of one that the client asks leave for (Expect: 100-continue): to read it would be to give that.
    """
    begun = request.scope.get("body")
    more = begun != "read" and (begun == "begun" or request.headers.get("expect", "").lower() != "100-continue")
    left = 8 * MAX_BODY
    while more and left > 0:
        message = await request.receive()
        more, left = message.get("more_body", False), left - len(message.get("body", b""))


async def health(request: Request) -> Response:
    full = waiting >= WORKERS + QUEUE
    state = {"status": "full" if full else "ok", "waiting": waiting, "providers": vocos.providers}
    return JSONResponse(state, 503 if full else 200)


async def say(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(discard(request), LINGER)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


app = Starlette(
    routes=[
        Route("/decode", decode, methods=["POST"]),
        Route("/resynth", resynth, methods=["POST"]),
        Route("/stream", stream, methods=["POST"]),
        Route("/health", health),
    ],
    exception_handlers={HTTPException: say},
    lifespan=lifespan,
)
