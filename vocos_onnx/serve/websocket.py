"""The WebSocket /v1/stream: it receives chunks of tokens or mels and sends their audio; see docs/guides/service.md.

All streams of a model share one ``StreamPool``. Everything but the network itself runs in the event loop, in the single
task that the server keeps for each connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route

from vocos_onnx.arrays import Float, wider_type
from vocos_onnx.bandwidths import counted
from vocos_onnx.io.samples import to_int16
from vocos_onnx.io.tokens import A_NAME, Tokens, is_name
from vocos_onnx.mels import MelConvention, convention_of
from vocos_onnx.messages import printable, shown
from vocos_onnx.model.config import parse_json
from vocos_onnx.streams import Stream

from .access import SUBPROTOCOL
from .limits import Receive, Refused, Scope, Send, deny
from .models import Model, Models, NotLoadedError, UnknownModelError
from .wording import in_json, one_of, short, unknown, with_place

if TYPE_CHECKING:
    from .app import Service

WRONG_KIND, BAD_DATA, POLICY, TOO_LARGE, FAILED, ENDING, BUSY, STALLED = 1003, 1007, 1008, 1009, 1011, 1012, 1013, 4408
PATH = "/v1/stream"
MOST_SECONDS = 5  # of audio in one chunk, the most that is computed and kept for a client at once
LINGER = 5.0  # seconds that a client which stopped reading has to read why it is cut off
_MOST_QUICK = 100  # messages without frames, such as empty chunks, that may be in excess of those with frames
_LONGEST_TEXT = 4096  # characters of a JSON message
_LONGEST_CLOSE = 120  # bytes of the reason in the close frame
_FORMATS: dict[str, Callable[[Float], bytes]] = {
    "s16le": lambda audio: to_int16(audio).astype("<i2", copy=False).tobytes(),
    "f32le": lambda audio: audio.astype("<f4", copy=False).tobytes(),
}
_DTYPES = {  # of the numbers in a chunk; the first is the default
    True: ("uint16", "uint8", "int16", "int32", "int64"),  # tokens
    False: ("float32", "float16", "float64"),  # mels
}
_KEYS = (
    *("type", "model", "kind", "codebooks", "channels", "dtype", "bandwidth_id", "bandwidth", "codec"),
    *("codebooks_sha256", "mels_from", "format"),
)
FIRST = {"type": "start", "kind": "tokens", "codebooks": 8, "dtype": "uint16", "format": "s16le"}
PROTOCOL = (
    f"/v1/stream is a WebSocket. The first message is text, JSON such as {json.dumps(FIRST)}; of mels it is "
    '{"type": "start", "kind": "mels"}. The service answers with {"type": "started", ...}, which has the sample rate, '
    "frame_bytes and, in words, what a frame is. Then each binary message of the client is one chunk, of frames one "
    "after another (so of tokens (K, T) the bytes of tokens.T), with up to 5 s, and is answered by one binary message "
    'of audio, which may be empty. The text {"type": "flush"} ends the stream: the service answers with the rest of '
    'the audio, one binary message, and with {"type": "end", "frames": ..., "samples": ...}. Then another start may '
    'follow. What is wrong is answered by {"type": "error", "error": REASON, "code": CODE} and the end of the '
    "connection with that code. The bearer token, where one is needed, is sent in the header Authorization or as the "
    f"subprotocol {SUBPROTOCOL}TOKEN, percent-encoded."
)
_ENDS = "the service is ending, try again"
GUIDE = "docs/guides/service.md, The WebSocket"
_log = logging.getLogger(__name__)


class _Closed(Exception):
    """The connection is to be closed with this code, after a message with this reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, printable(reason)


class _Watch:
    """Cancels the task of a connection when its client takes too long, or when the service shuts down.

    Most messages, of which there can be a thousand a second, leave the timer alone; it is rescheduled when it fires.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._until, self._timer = math.inf, self._loop.call_later(0, lambda: None)
        self._looks_at = math.inf
        self._awaited = ""
        self.over: _Closed | None = None
        """Why the task has been cancelled, if it has."""

    def begin(self, seconds: float, reason: str) -> None:
        """Starts waiting for the client, for at most so many seconds. ``reason``: why it is closed after that."""
        self._awaited, self._until = reason, self._loop.time() + seconds
        if self._until < self._looks_at:
            self._look_at(self._until)

    def end(self) -> None:
        """Stops waiting for the client."""
        self._until = math.inf

    def stop(self, why: _Closed) -> None:
        """Cancels the task, unless it already has been."""
        if self.over is None and self._task is not None:
            self.over = why
            self._task.cancel()

    def close(self) -> None:
        """Stops the timer for good."""
        self._timer.cancel()
        self._looks_at = -math.inf

    def _look_at(self, time: float) -> None:
        self._timer.cancel()
        self._looks_at, self._timer = time, self._loop.call_at(time, self._look)

    def _look(self) -> None:
        self._looks_at = math.inf
        if self._until <= self._loop.time():
            self.stop(_Closed(STALLED, self._awaited))
        elif self._until < math.inf:
            self._look_at(self._until)


class _Open:
    """An open stream, with the formats of its messages."""

    def __init__(self, models: Models, model: Model, start: Mapping[str, Any]) -> None:
        """Opens the stream that the first message asks for. Raises _Closed if anything in that message is wrong."""
        self.model, self._models, config = model, models, model.vocos.config
        kind = _one_of(start, "kind", ("tokens", "mels"))
        self.is_tokens = kind == "tokens"
        if self.is_tokens != model.is_codec:
            decodes = f"tokens of {config.encodec.codec}" if config.encodec else "mels"
            other = models.first(kind)
            remedy = f"name a model that does, {'of those in /v1/models' if other is None else f'such as {other}'}"
            if self.is_tokens and _name(start, "codec") is not None:
                remedy = models.for_codec(self._named(start, 0), model)
            raise _Closed(WRONG_KIND, f"kind is {kind!r}, and {model.name} decodes {decodes}: {remedy}")
        if not model.vocos.network.is_streamable:
            raise _Closed(POLICY, f"{model.name} cannot be streamed: send all of it to /v1/decode")
        self.format = _one_of(start, "format", tuple(_FORMATS), "s16le")
        self._written = _FORMATS[self.format]
        convention = self._convention(start)
        self._frames_first = convention is not None and convention.axes == "btc"
        bandwidth, bandwidth_id = _number(start, "bandwidth"), _integer(start, "bandwidth_id")
        self.width = self._width(start)
        self.dtype = self._read_dtype(start)
        self._head: bytes | None = b"" if self.is_tokens and start.get("dtype") is None else None
        self.frame_bytes = self.width * self.dtype.itemsize
        self._check_bandwidth(bandwidth, bandwidth_id)
        self._most = int(MOST_SECONDS * config.sample_rate / config.hop_length)
        self.frames = self.samples = 0
        try:
            self.stream: Stream = model.pool().open(
                bandwidth_id, bandwidth=bandwidth, mels_from=convention, check=None if self.is_tokens else True
            )
        except ValueError as error:
            raise _Closed(BAD_DATA, _reworded(error)) from None
        try:
            self._check_codec(start)
        except _Closed:
            self.stream.close()
            raise

    def _convention(self, start: Mapping[str, Any]) -> MelConvention | None:
        name = _text(start, "mels_from")
        if name is None:  # passing the default convention states that the axes are known, and avoids a warning
            return None if self.is_tokens else MelConvention()
        if self.is_tokens:
            raise _Closed(BAD_DATA, f"mels_from is {shown(name)}, and these are tokens: leave it out")
        try:
            return convention_of(name, self.model.vocos.config.feature_channels)
        except ValueError as error:
            raise _Closed(BAD_DATA, _reworded(error)) from None

    def _width(self, start: Mapping[str, Any]) -> int:
        """Returns how many numbers a frame has."""
        config = self.model.vocos.config
        name, other = ("codebooks", "channels") if self.is_tokens else ("channels", "codebooks")
        if start.get(other) is not None:
            kind = "tokens" if self.is_tokens else "mels"
            raise _Closed(BAD_DATA, f"{other} is {in_json(start[other])}, and these are {kind}: leave it out")
        given = _integer(start, name)
        if not self.is_tokens:
            channels = config.feature_channels
            if given not in (None, channels):
                raise _Closed(BAD_DATA, f"channels is {shown(given)}, expected {channels}, as {self.model.name} has")
            return channels
        counts = self._counts
        expected = f"{_either(counts)}: the tokens of a frame"
        if given is None:
            raise _Closed(BAD_DATA, f"codebooks is missing, expected {expected}")
        if given not in counts:
            raise _Closed(BAD_DATA, f"codebooks is {shown(given)}, expected {expected}")
        return given

    @property
    def _counts(self) -> Sequence[int]:
        """The numbers of codebooks that tokens may have; if the network is conditioned on a bandwidth, only its own."""
        config = self.model.vocos.config
        if config.encodec is not None and config.num_bandwidth_ids:
            return sorted(set(config.encodec.codebooks_per_bandwidth))
        return range(1, self.model.vocos.num_codebooks + 1)

    def _read_dtype(self, start: Mapping[str, Any]) -> np.dtype[Any]:
        """Returns the type of the numbers in a chunk."""
        known = _DTYPES[self.is_tokens]
        name = _one_of(start, "dtype", known, known[0])
        dtype = np.dtype(name).newbyteorder("<")
        codec = self.model.vocos.config.encodec
        if codec is not None and (most := int(np.iinfo(dtype).max)) < codec.codebook_size - 1:
            reason = f"dtype is {name}, which ends at {most}, and tokens are 0 to {codec.codebook_size - 1}"
            raise _Closed(BAD_DATA, f"{reason}: give a wider one, such as int32")
        return dtype

    def _check_bandwidth(self, bandwidth: float | None, bandwidth_id: int | None) -> None:
        """Raises _Closed if a required bandwidth is missing, or is not that of the codebooks given.

        A value that is no bandwidth of the model is left to ``open``, which rejects it.
        """
        config = self.model.vocos.config
        codec, width = config.encodec, self.width
        if codec is None:
            if config.num_bandwidth_ids and bandwidth_id is None and bandwidth is None:
                last = config.num_bandwidth_ids - 1
                raise _Closed(BAD_DATA, f"bandwidth_id is missing, expected 0 to {last}: mels do not imply one")
            return
        if bandwidth is not None and bandwidth_id is None and bandwidth in codec.bandwidths:
            index, given = codec.bandwidths.index(bandwidth), f"bandwidth is {bandwidth:g}"
        elif bandwidth_id is not None and bandwidth is None and 0 <= bandwidth_id < len(codec.bandwidths):
            index, given = bandwidth_id, f"bandwidth_id is {bandwidth_id}"
        else:
            return
        count = codec.codebooks_per_bandwidth[index]
        if count == width:
            return
        name = given.partition(" ")[0]
        reason = f"codebooks is {width}, and {given}, which is of {counted(count)}"
        if count < width:
            remedy = (
                f"leave {name} out, or send the first {counted(count)} of each frame, and give codebooks as {count}"
            )
        elif width in codec.codebooks_per_bandwidth:
            own = codec.codebooks_per_bandwidth.index(width)
            value = f"{codec.bandwidths[own]:g}" if name == "bandwidth" else f"{own}"
            remedy = f"leave {name} out, or give {value}"
        else:
            remedy = f"leave {name} out"
        raise _Closed(BAD_DATA, f"{reason}: {remedy}")

    def _check_codec(self, start: Mapping[str, Any]) -> None:
        named = self._named(start, self.width)
        if named.codec is not None or named.codebooks_sha256 is not None:
            try:  # pushing zero frames checks the names and computes nothing
                self.stream.push(named)
            except ValueError as error:
                raise _Closed(BAD_DATA, self._models.with_remedy(_reworded(error), named, self.model)) from None

    @staticmethod
    def _named(start: Mapping[str, Any], width: int) -> Tokens:
        """Returns tokens (width, 0) of the codec that the first message names."""
        codec, sha256 = _name(start, "codec"), _name(start, "codebooks_sha256")
        return Tokens(np.empty((width, 0), np.int64), codec=codec, codebooks_sha256=sha256)

    @property
    def facts(self) -> dict[str, Any]:
        """The answer to the first message."""
        return {
            "type": "started",
            "model": self.model.name,
            "sample_rate": self.model.vocos.sample_rate,
            "hop_length": self.model.vocos.hop_length,
            "delay_frames": self.stream.delay,
            "delay_samples": self.stream.delay_samples,
            **({} if self.model.vocos.config.encodec is None else {"codec": self.model.vocos.config.encodec.codec}),
            "codebooks" if self.is_tokens else "channels": self.width,
            "dtype": self.dtype.name,
            "frame_bytes": self.frame_bytes,
            "frame": self._frame,
            "format": self.format,
        }

    @property
    def _frame(self) -> str:
        """The layout of a chunk's bytes, in words."""
        return f"{self.width} x {self.dtype.name}, little-endian, frame after frame"

    async def push(self, data: bytes) -> bytes:
        """Decodes a chunk, frame after frame, and returns the audio as bytes.

        Raises _Closed if its size is wrong, and whatever ``Stream.apush`` raises.
        """
        self._check_numbers(data)
        frames, rest = divmod(len(data), self.frame_bytes)
        if rest:
            reason = f"a message has {len(data)} bytes, expected a multiple of {self.frame_bytes}: {self._frame}"
            raise _Closed(BAD_DATA, f"{reason}; dtype of start names another type")
        if frames > self._most:
            raise _Closed(
                TOO_LARGE,
                f"a chunk has {frames} frames, expected at most {self._most}, which are {MOST_SECONDS} s: send several",
            )
        chunk = np.frombuffer(data, self.dtype).reshape(frames, self.width)
        try:
            audio = await self.stream.apush(chunk if self._frames_first else chunk.T)
        except ValueError as error:
            raise ValueError(with_place(str(error), chunk.T, self.frames)) from None
        self.frames += frames
        self.samples += len(audio)
        return self._written(audio)

    def _check_numbers(self, data: bytes) -> None:
        """Raises _Closed if the start names no dtype and the first numbers look like those of a wider one."""
        if self._head is None:
            return
        numbers = np.frombuffer((head := self._head + data)[: len(head) // 2 * 2], self.dtype)
        name = wider_type(numbers)
        if name is not None:
            raise _Closed(
                BAD_DATA,
                f'these look like {name}, and are read as uint16: send uint16, or start with "dtype": "{name}"',
            )
        self._head = None if numbers.size >= 16 else head

    async def flush(self) -> bytes:
        audio = await self.stream.aflush()
        self.samples += len(audio)
        return self._written(audio)


class Connection:
    """A WebSocket from its acceptance to its end. ``is_gone``: whether its client is past hearing anything."""

    def __init__(self, service: Service, receive: Receive, send: Send) -> None:
        self._service, self._receive, self._send_message = service, receive, send
        settings = service.settings
        self._idle, self._stall = settings.stream_idle, settings.stream_stall
        self._open: _Open | None = None
        self._watch = _Watch()
        self.is_gone = False
        self._quick = 0  # recent messages that needed no network, less three for each that did
        protocol = getattr(receive, "__self__", None)
        if protocol is not None and hasattr(protocol, "on_lost"):  # the protocol of limits.py
            protocol.on_lost = self._leave

    async def _yield(self, message: str | bytes) -> None:
        """Lets other tasks run between messages. Raises _Closed after too many that need no network (empty chunks).

        While the network computed the answer to a message, other tasks have run.
        """
        needs_network = isinstance(message, bytes) and bool(message)  # one makes up for a start and a flush
        self._quick = max(0, self._quick - 3) if needs_network else self._quick + 1
        if self._quick > _MOST_QUICK:
            raise _Closed(
                POLICY, f"{_MOST_QUICK} messages more than chunks with frames have come: send frames, or nothing"
            )
        if not needs_network:
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Serves the connection until it ends. Raises OSError if the client disconnects."""
        try:
            try:
                while (message := await self._next()) is not None:
                    await self._answer(message)
                    await self._yield(message)
            except _Closed as closed:
                self._free()
                await self._say_why(closed.code, closed.reason)
                await self._close(closed.code, closed.reason)
        except asyncio.CancelledError:
            task, why = asyncio.current_task(), self._watch.over
            if why is None or task is None or task.uncancel():
                raise
            self._free()
            await self._cut(why)
        finally:
            self._watch.close()
            self._free()

    async def _next(self) -> Any:
        """Returns the client's next message, text or bytes; None at the end."""
        self._watch.begin(self._idle, f"nothing has come for {self._idle:g} s")
        message = await self._receive()
        self._watch.end()
        if message["type"] != "websocket.receive":
            return None
        data = message.get("bytes")
        return message.get("text") if data is None else data

    async def _answer(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if self._open is None:
                raise _Closed(POLICY, 'a chunk comes before {"type": "start"}')
            await self._send({"type": "websocket.send", "bytes": await self._computed(self._open.push, message)})
            return
        if len(message) > _LONGEST_TEXT:
            raise _Closed(TOO_LARGE, f"a text message has {len(message)} characters, expected at most {_LONGEST_TEXT}")
        given = _read(message)
        kind = given.get("type")
        if kind == "start":
            if self._open is not None:
                raise _Closed(POLICY, "start comes twice: flush the stream, or open another connection")
            self._open = await self._started(given)
            await self._say(self._open.facts)
        elif kind == "flush":
            if self._open is None:
                raise _Closed(POLICY, 'flush comes before {"type": "start"}, or twice')
            rest = await self._computed(self._open.flush)
            frames, samples = self._open.frames, self._open.samples
            self._free()  # others may take its place while the client reads
            await self._send({"type": "websocket.send", "bytes": rest})
            await self._say({"type": "end", "frames": frames, "samples": samples})
        else:
            what = in_json(kind) if "type" in given else "missing"
            raise _Closed(WRONG_KIND, f'type is {what}, expected "start" or "flush"; chunks are binary messages')

    async def _started(self, start: Mapping[str, Any]) -> _Open:
        wrong = next((key for key in start if key not in _KEYS), None)
        if wrong is not None:
            raise _Closed(BAD_DATA, f"start has the key {unknown(wrong, _KEYS)}")
        models = self._service.models
        try:
            model = await models.get(_text(start, "model"))
        except UnknownModelError as error:
            raise _Closed(POLICY, str(error)) from None
        except NotLoadedError as error:
            raise _Closed(BUSY, str(error)) from None
        if self._service.ending:
            raise _Closed(ENDING, _ENDS)
        most = self._service.settings.streams
        if sum(one.open_streams() for one in models.loaded) >= most:
            raise _Closed(BUSY, f"{most} streams are open, as many as --streams allows: try again")
        return _Open(models, model, start)

    async def _computed(self, compute: Callable[..., Any], *given: Any) -> Any:
        """Returns the result of a push or flush. Raises _Closed if it fails, OSError if the client is gone."""
        try:
            computed = await compute(*given)
            if not self.is_gone:
                return computed
        except (ValueError, FloatingPointError) as error:
            raise _Closed(BAD_DATA, _reworded(error)) from None
        except MemoryError:
            raise _Closed(BUSY, "there is not enough memory now, try again") from None
        except RuntimeError as error:
            if self.is_gone:
                raise ConnectionResetError from None
            if self._service.ending:
                raise _Closed(ENDING, _ENDS) from None
            _log.error("a stream has failed: %s", error)
            raise _Closed(FAILED, "the service has failed at this stream") from None
        raise ConnectionResetError

    def _leave(self) -> None:
        """Called when the client has disconnected or was cut off, even while a chunk is being computed."""
        self.is_gone = True
        self._free()

    def _free(self) -> None:
        """Closes the stream, if one is open, and gives back its place."""
        if self._open is not None:
            self._open.stream.close()
            seconds = self._open.samples / self._open.model.vocos.sample_rate
            self._service.metrics.audio.labels(PATH).inc(seconds)
            self._open = None

    async def _say(self, message: Mapping[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(message)})

    async def _say_why(self, code: int, reason: str) -> None:
        await self._say({"type": "error", "error": short(reason), "code": code})

    async def _close(self, code: int, reason: str) -> None:
        short = reason.encode()[:_LONGEST_CLOSE].decode(errors="ignore")
        await self._send({"type": "websocket.close", "code": code, "reason": short})

    async def _send(self, message: dict[str, Any]) -> None:
        """Sends a message; if the client has not read the earlier ones, waits for that until the deadline."""
        self._watch.begin(self._stall, f"the audio has not been read for {self._stall:g} s")
        await self._send_message(message)
        self._watch.end()

    def end(self) -> None:
        """Tells the client that the service is shutting down, and closes the connection."""
        self._watch.stop(_Closed(ENDING, _ENDS))

    async def _cut(self, why: _Closed) -> None:
        """Sends the reason after everything the client has not read yet, with some seconds to read it."""
        protocol = getattr(self._receive, "__self__", None)
        transport, writable = getattr(protocol, "transport", None), getattr(protocol, "writable", None)
        if isinstance(writable, asyncio.Event):  # uvicorn would wait for the client here
            writable.set()
        if isinstance(transport, asyncio.Transport):
            asyncio.get_running_loop().call_later(LINGER, transport.abort)
        self._watch.close()
        async with asyncio.timeout(LINGER):
            await self._say_why(why.code, why.reason)
            await self._close(why.code, why.reason)


class _Sockets(BaseRoute):
    """The route of all WebSockets, whatever their address; only those to /v1/stream are accepted."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["type"] == "websocket" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        service: Service = scope["app"].state.service
        await receive()  # websocket.connect
        refused = service.access.refusal(scope)
        if refused is None:
            refused = _wrong_address(scope)
        if refused is None and service.ending:
            refused = Refused(503, _ENDS, 1)
        if refused is not None:
            await deny(scope, send, refused)
            return
        await send({"type": "websocket.accept", "subprotocol": _subprotocol(scope)})
        connection = Connection(service, receive, send)
        service.sockets.add(connection)
        try:
            await connection.run()
        finally:
            service.sockets.discard(connection)


def _subprotocol(scope: Scope) -> str | None:
    """Returns the subprotocol to accept: the one with the token, which browsers require to be echoed, or None."""
    return next((name for name in scope.get("subprotocols") or [] if unquote(name).startswith(SUBPROTOCOL)), None)


def _wrong_address(scope: Scope) -> Refused | None:
    """Returns the refusal of a WebSocket that is not for /v1/stream or has a query, else None."""
    if scope["path"] != PATH:
        return Refused(404, f"there is no WebSocket at {shown(scope['path'])}: connect to {PATH}")
    if names := [name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)]:
        if names[0] in ("token", "access_token"):
            remedy = f"send the bearer token in the header Authorization, or as the subprotocol {SUBPROTOCOL}TOKEN"
        else:
            remedy = f"the first message has the settings, such as {json.dumps(FIRST)}"
        return Refused(400, f"the query has {shown(names[0])}, and {PATH} takes no parameters: {remedy}")
    return None


async def _upgrade(_: Request) -> Response:
    """Answers an HTTP request for /v1/stream that is not a WebSocket upgrade."""
    said = {
        "error": "this is a WebSocket: connect to it with ws:// or wss://",
        "first_message": FIRST,
        "protocol": PROTOCOL,
        "documentation": GUIDE,
    }
    return JSONResponse(said, 426, {"Upgrade": "websocket", "Connection": "Upgrade"})


def routes() -> list[BaseRoute]:
    """Returns the route of WebSockets, and that of plain HTTP requests to the same address."""
    return [_Sockets(), Route(PATH, _upgrade)]


# Wording

_OF_PYTHON = [  # the Python advice in error messages, and the advice for clients that replaces it
    (re.compile(pattern), new)
    for pattern, new in (
        (r", or a MelConvention for other systems", ""),
        (r"(?:\bpass )?\bmels_from=\"(\w+)\"", r'give "mels_from": "\1" at the start'),
        (r"\bmels_from=(MelConvention\([^()]*\))", r"make them natural with vocos_onnx.\1.magnitudes(mels)"),
        (r"; pass one$", ": give one of them"),
        (r"\bpass bandwidth_id=(\d+)", r"give bandwidth_id as \1"),
    )
]


def _reworded(error: Exception) -> str:
    """Returns an error's message with its advice reworded for clients that send JSON and bytes."""
    text = str(error)
    for pattern, new in _OF_PYTHON:
        text = pattern.sub(new, text)
    return text


def _either(numbers: Sequence[int]) -> str:
    """Formats the numbers that are allowed: "1 to 8", or "2, 4, 8 or 16"."""
    return f"{numbers[0]} to {numbers[-1]}" if isinstance(numbers, range) else one_of(numbers)


# The fields of a message


def _read(text: str) -> dict[str, Any]:
    try:
        given = parse_json(text)
    except ValueError as error:
        raise _Closed(BAD_DATA, f"cannot read a text message as JSON: {error}") from None
    if not isinstance(given, dict):
        raise _Closed(
            BAD_DATA,
            f'a text message is {in_json(given)}, expected {{"type": "start", ...}} or {{"type": "flush"}}; chunks are '
            "binary messages",
        )
    return given


def _one_of(given: Mapping[str, Any], name: str, known: tuple[str, ...], default: str | None = None) -> str:
    value = given.get(name, default)
    if not (isinstance(value, str) and value in known):
        what = in_json(value) if name in given else "missing"
        raise _Closed(BAD_DATA, f"{name} is {what}, expected {one_of(known)}")
    return value


def _field(given: Mapping[str, Any], name: str, fits: Callable[[Any], bool], expected: str) -> Any:
    value = given.get(name)
    if value is not None and not fits(value):
        raise _Closed(BAD_DATA, f"{name} is {in_json(value)}, expected {expected}")
    return value


def _integer(given: Mapping[str, Any], name: str) -> int | None:
    value: int | None = _field(given, name, lambda value: type(value) is int, "an integer")
    return value


def _number(given: Mapping[str, Any], name: str) -> float | None:
    value: float | None = _field(given, name, lambda value: type(value) in (int, float), "a number")
    return value


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value: str | None = _field(given, name, lambda value: value == "" or is_name(value), f"a text, {A_NAME}")
    return value


def _name(given: Mapping[str, Any], name: str) -> str | None:
    value: str | None = _field(given, name, is_name, A_NAME)
    return value
