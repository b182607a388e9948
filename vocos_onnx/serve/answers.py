"""Answers with audio as WAV, FLAC, Opus or PCM, either whole or streamed as it is made."""

from __future__ import annotations

import logging
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vocos_onnx.arrays import Float
from vocos_onnx.io.audio import AudioEncoder
from vocos_onnx.io.samples import to_int16
from vocos_onnx.messages import shown

from .bodies import account_of
from .limits import Receive, Refused, Scope, Send
from .metrics import Metrics
from .models import Model
from .wording import said
from .workers import SLICE, Clock, Workers

CHUNK = 75  # frames decoded at once for a streamed answer
BLOCK = 1500  # frames decoded at once for a whole answer: after each block another request may use the worker
UNKNOWN = 0xFFFFFFFF  # both sizes in the header of a streamed WAV, as ffmpeg writes them to a pipe
_log = logging.getLogger("vocos_onnx.serve")
_MOST_WAV = UNKNOWN - 64  # bytes of samples that the header can declare


class Format(NamedTuple):
    """A format of an answer: its content type, and other content types that clients ask for it by."""

    media: str
    also: tuple[str, ...] = ()


FORMATS = {
    "wav": Format("audio/wav", ("audio/x-wav", "audio/wave", "audio/vnd.wave")),
    "flac": Format("audio/flac", ("audio/x-flac",)),
    "opus": Format("audio/ogg", ("audio/opus", "application/ogg")),
    "pcm": Format("audio/pcm"),
}
TOKENS = {
    "npz": Format("application/x-npz", ("application/zip", "application/octet-stream")),
    "json": Format("application/json"),
}


def chosen_format(request: Request, formats: dict[str, Format] = FORMATS) -> str:
    """Returns the format named by the parameter ``format`` or else by the header Accept; by default the first one.

    Raises HTTPException: 400 for an unknown format, 406 if the client accepts none of them.
    """
    known = ", ".join(formats)
    if (given := request.query_params.get("format")) is not None:
        if given not in formats:
            raise HTTPException(400, f"format is {given[:40]!r}, expected one of {known}")
        return given
    accepted = list(_accepted(request.headers.getlist("accept")))
    if not accepted:
        return next(iter(formats))
    best, best_weight = None, 0.0
    for name, one in formats.items():
        weight = _weight(accepted, one)
        if weight > best_weight:
            best, best_weight = name, weight
    if best is None:
        media = ", ".join(one.media for one in formats.values())
        given = shown(", ".join(request.headers.getlist("accept")))
        raise HTTPException(
            406,
            f"the header Accept is {given}, expected some of {media}: send one of these, or name a format in the "
            f"query, as format={next(iter(formats))} (one of {known})",
        )
    return best


def _accepted(values: list[str]) -> Iterator[tuple[str, float]]:
    for part in ",".join(values).split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    weight = 0.0
        if media:
            yield media, weight


def _weight(accepted: list[tuple[str, float]], format: Format) -> float:
    """Returns the client's weight for a format, from the most specific of the media types that match it."""
    for patterns in ((format.media, *format.also), (f"{format.media.partition('/')[0]}/*",), ("*/*",)):
        found = [weight for name, weight in accepted if name in patterns]
        if found:
            return max(found)
    return 0.0


@dataclass
class Work:
    """Audio to be made for an answer.

    model: the model that makes it.
    route: the label of the counters.
    begin: returns an iterator over the blocks (n,) of audio; called in a thread.
    samples: returns how many samples belong in the answer so far; anything beyond them is cut off.
    expected: about how many samples there will be, 0 if unknown. ``exact``: whether that number is certain.
    clock: the time spent computing so far.
    warning: a warning for the client, sent in a header.
    """

    model: Model
    route: str
    begin: Callable[[], Iterator[Float]]
    samples: Callable[[], int]
    expected: int
    exact: bool
    clock: Clock = field(default_factory=Clock)
    warning: str | None = None


class _Encoder(Protocol):
    def encode(self, audio: Float) -> bytes: ...

    def finish(self) -> bytes: ...


class _Pcm:
    """16-bit samples, little-endian."""

    def encode(self, audio: Float) -> bytes:
        return to_int16(audio).astype("<i2").tobytes()

    def finish(self) -> bytes:
        return b""


class _Making:
    """Makes the bytes of an answer, block by block. ``samples``: how many samples it holds so far."""

    def __init__(self, work: Work, format: str, *, whole: bool) -> None:
        self._work, self.samples = work, 0
        rate = work.model.vocos.sample_rate
        self._encoder: _Encoder = _Pcm()
        if format in ("flac", "opus"):
            try:
                self._encoder = AudioEncoder(rate, format, whole=whole)
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
        self._blocks: Iterator[Float] | None = None
        self._finished = False

    def step(self) -> bytes | None:
        """Returns the bytes of the next block, which may be empty, or None after the last. Called in a thread."""
        if self._finished:
            return None
        if self._blocks is None:
            self._blocks = self._work.begin()
        block = next(self._blocks, None)
        if block is None:
            self._finished = True
            return self._encoder.finish()
        block = block[: max(0, self._work.samples() - self.samples)]
        self.samples += len(block)
        return self._encoder.encode(block) if len(block) else b""


class Answers:
    """Makes audio and returns the responses that carry it."""

    def __init__(self, workers: Workers, metrics: Metrics) -> None:
        self._workers, self._metrics = workers, metrics

    async def whole(self, request: Request, work: Work, format: str) -> Response:
        """Returns a response with all of the audio, once it has been made. Raises HTTPException."""
        making = _Making(work, format, whole=True)
        if 0 < work.expected <= BLOCK * work.model.vocos.hop_length:
            parts = await self._made(request, work, making)
        else:
            account_of(request).long()
            async with self._workers.turns:
                parts = await self._made(request, work, making)
        size = sum(map(len, parts))
        if not making.samples and format in ("flac", "opus"):
            raise HTTPException(400, f"there is no audio in this input, and {format} cannot hold that: ask for wav")
        account_of(request).hold(size)
        rate = work.model.vocos.sample_rate
        self._metrics.audio.labels(work.route).inc(making.samples / rate)
        self._metrics.compute.labels(work.route).observe(work.clock.seconds)
        if format == "wav":
            if size > _MOST_WAV:
                raise HTTPException(400, f"a WAV holds {_MOST_WAV} bytes, and this has {size}: ask for flac")
            parts.appendleft(_wav_header(rate, size))
        headers = _headers(work, format, making.samples)
        headers["Content-Length"] = str(sum(map(len, parts)))
        milliseconds = f"{1000 * work.clock.seconds:.1f}"
        headers |= {"X-Vocos-Compute-Ms": milliseconds, "Server-Timing": f"compute;dur={milliseconds}"}
        return StreamingResponse(_given(parts), headers=headers)

    async def _made(self, request: Request, work: Work, making: _Making) -> deque[bytes]:
        """Makes the bytes of all blocks, accounts for their memory, and gives other clients a turn every ``SLICE``."""
        account, parts = account_of(request), deque[bytes]()
        # bytes per sample: 2 as int16, and 4 more if the model cannot be streamed and returns it all as float32
        before, size = account.held, 2 if work.model.vocos.network.is_streamable else 6
        account.hold(before + size * work.expected)

        def some() -> bool:
            """Works for one ``SLICE``. Returns whether there is more to do."""
            end = time.monotonic() + SLICE
            while time.monotonic() < end:
                part = making.step()
                if part is None:
                    return False
                if part:
                    parts.append(part)
            return True

        while await self._workers.run(some, clock=work.clock):
            account.hold(before + max(size * work.expected, 2 * making.samples))
        return parts

    async def streamed(self, request: Request, work: Work, format: str, kept: AsyncExitStack) -> Response:
        """Returns a response that sends audio as it is made and read; ``kept`` is closed when it ends.

        The first audio is made before this returns, so an error in the input can still be reported to the client.
        Raises HTTPException.
        """
        making = _Making(work, format, whole=False)
        rate, audio = work.model.vocos.sample_rate, self._metrics.audio.labels(work.route)

        async def next_part() -> bytes | None:
            before = making.samples
            part = await self._workers.run(making.step, clock=work.clock)
            audio.inc((making.samples - before) / rate)
            return part

        first = b""
        while not making.samples and (part := await next_part()) is not None:
            first += part

        async def parts() -> AsyncGenerator[bytes, None]:
            yield (_wav_header(rate, None) if format == "wav" else b"") + first
            while (part := await next_part()) is not None:
                if part:
                    yield part
            self._metrics.compute.labels(work.route).observe(work.clock.seconds)

        return _Streamed(parts(), kept, _headers(work, format, work.expected if work.exact else None))


class _Streamed(StreamingResponse):
    """An answer that closes its generator and files when it ends, even if the client disconnects."""

    def __init__(self, parts: AsyncGenerator[bytes, None], kept: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(parts, headers=headers)
        self._parts, self._kept = parts, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._kept, aclosing(self._parts):
                await super().__call__(scope, receive, send)
        except HTTPException as error:  # the answer has begun: log the reason and cut the client off
            reason = said(error.detail, scope["app"].state.service.models.names)
            _log.warning("an answer to %s is cut off after its first audio: %s", scope["path"], reason)
            raise Refused(error.status_code, reason) from None


async def _given(parts: deque[bytes]) -> AsyncIterator[bytes]:
    while parts:
        yield parts.popleft()


def _headers(work: Work, format: str, samples: int | None) -> dict[str, str]:
    rate = work.model.vocos.sample_rate
    media = FORMATS[format].media
    if format == "pcm":
        media += f";rate={rate};channels=1;encoding=s16le"
    headers = {"Content-Type": media, "X-Vocos-Model": work.model.name, "Cache-Control": "no-store"}
    if samples is not None:
        headers["X-Vocos-Seconds"] = f"{samples / rate:.4f}".rstrip("0").rstrip(".")
    if work.warning is not None:
        headers["X-Vocos-Warning"] = work.warning
    return headers


def _wav_header(rate: int, size: int | None) -> bytes:
    """Returns the header of a 16-bit mono WAV with ``size`` bytes of samples; None if the size is not known yet."""
    sizes: tuple[Any, Any] = (UNKNOWN, UNKNOWN) if size is None else (size + 36, size)
    fields = b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data"
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", sizes[0], *fields, sizes[1])
