"""Tests of the WebSocket /v1/stream: audio equal to that of decode, bad input, and malicious clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect as aconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.helpers import DATA, found
from tests.service.process import Server, rest
from tests.service.test_server import SERVE
from vocos_onnx import VocosONNX

TIMEOUT = 30
OPTIONS: dict[str, Any] = {"open_timeout": TIMEOUT, "close_timeout": 1, "proxy": None}
MODELS: dict[str, Any] = {
    **{name: DATA / f"{name}.onnx" for name in ("encodec", "mel", "mel-istft", "encodec-int8")},
    "unstreamable": DATA / "format-5" / "imdct-cos.onnx",
    "bundled": "vocos-codec-24khz",
}
TOKENS = np.random.default_rng(0).integers(1024, size=(2, 200)).astype("<u2")
MELS = np.random.default_rng(0).uniform(-8, 2, (8, 200)).astype("<f4")
TOKEN = "s3cret.token"
START: dict[str, Any] = {"type": "start", "model": "encodec", "kind": "tokens", "codebooks": 2}


def options() -> list[str]:
    return [*SERVE, *(word for name, path in MODELS.items() for word in ("--model", f"{name}={path}"))]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with room for four streams."""
    with Server(*options(), "--streams", "4", "--connections", "24", OMP_NUM_THREADS="1") as running:
        yield running


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    """A server that waits for a client for at most one second, with room for two streams."""
    times = ("--stream-idle", "1", "--stream-stall", "1")
    with Server(*options(), "--streams", "2", *times, OMP_NUM_THREADS="1") as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with Server(*options(), "--cors", "https://example.org", VOCOS_TOKEN=TOKEN) as running:
        yield running


UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Client:
    """A client with a WebSocket connection."""

    def __init__(self, server: Server, **options: Any) -> None:
        opening = connect(f"ws://127.0.0.1:{server.port}/v1/stream", **{**OPTIONS, **options})
        self.plug: ClientConnection = opening.__enter__()

    def say(self, message: dict[str, Any] | str) -> None:
        self.plug.send(message if isinstance(message, str) else json.dumps(message))

    def heard(self) -> Any:
        """Returns the next message: bytes, or parsed JSON."""
        message = self.plug.recv(TIMEOUT)
        return json.loads(message) if isinstance(message, str) else message

    def start(self, **given: Any) -> Any:
        self.say({**START, **given})
        return self.heard()

    def push(self, chunk: np.ndarray) -> bytes:
        """Sends a chunk (K, t) or (C, t); returns its audio."""
        self.plug.send(chunk.T.tobytes())
        answer = self.heard()
        assert isinstance(answer, bytes), answer
        return answer

    def flush(self) -> tuple[bytes, Any]:
        self.say({"type": "flush"})
        return self.heard(), self.heard()

    def refused(self) -> tuple[int, str]:
        """Returns the code that closes the connection and the error before it; skips audio."""
        while isinstance(message := self.heard(), bytes):
            pass
        assert message["type"] == "error", message
        with pytest.raises(ConnectionClosed) as closed:
            self.plug.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == message["code"]
        assert message["error"].startswith(closed.value.rcvd.reason)
        return closed.value.rcvd.code, message["error"]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.plug.close()


def chunked(whole: np.ndarray, seed: int, most: int = 40) -> list[np.ndarray]:
    rng, chunks, start = np.random.default_rng(seed), [], 0
    while start < whole.shape[1]:
        length = int(rng.integers(0, most))
        chunks.append(whole[:, start : start + length])
        start += length
    return chunks


def check(given: bytes, expected: np.ndarray, format: str) -> None:
    audio = np.frombuffer(given, "<i2" if format == "s16le" else "<f4")
    assert audio.shape == expected.shape
    if format == "s16le":
        assert np.abs(audio - (expected * 32768).clip(-32768, 32767)).max() <= 1
    else:
        assert np.abs(audio - expected).max() <= 1e-5 * np.abs(expected).max()


def open_streams(server: Server) -> int:
    text = server.ask("/metrics", method="GET").body.decode()
    return int(float(found(r"(?m)^vocos_streams_open (\S+)$", text)[1]))


def until_none_is_open(server: Server) -> None:
    end = time.monotonic() + TIMEOUT
    while open_streams(server):
        assert time.monotonic() < end
        time.sleep(0.01)


# The audio


@pytest.mark.parametrize(
    ("model", "given", "more"),
    [
        ("encodec", TOKENS, {}),
        ("encodec", TOKENS[:1], {"format": "s16le"}),
        ("encodec", TOKENS, {"format": "f32le", "bandwidth": 1.5}),
        ("encodec", TOKENS[:1], {"format": "f32le", "bandwidth_id": 0, "codec": "encodec_24khz"}),
        ("encodec-int8", TOKENS, {"format": "f32le"}),
        ("mel", MELS, {"format": "f32le"}),
        ("mel", MELS, {"channels": 8}),
        ("mel", MELS, {"format": "f32le", "mels_from": "mlx"}),
        ("mel-istft", MELS, {"format": "f32le"}),
    ],
)
def test_audio_is_that_of_decode(server: Server, model: str, given: np.ndarray, more: dict[str, Any]) -> None:
    """Every chunk, whatever its length, gets one answer; the flush gets the rest."""
    vocos = VocosONNX(MODELS[model], threads=1)
    is_tokens = given.dtype == np.uint16
    if "codec" in more:
        assert vocos.config.encodec is not None
        more = {**more, "codec": vocos.config.encodec.codec}
    facts = {"kind": "tokens" if is_tokens else "mels", "codebooks": len(given) if is_tokens else None}
    known = {name: more[name] for name in ("bandwidth", "bandwidth_id") if name in more}
    expected = vocos.decode(given, check=None if is_tokens else False, **known)
    stream, hop = vocos.stream(**known), vocos.hop_length
    with Client(server) as client:
        assert client.start(model=model, **facts, **more) == {
            "type": "started",
            "model": model,
            "sample_rate": vocos.sample_rate,
            "hop_length": hop,
            "delay_frames": stream.delay,
            "delay_samples": stream.delay_samples,
            **({} if vocos.config.encodec is None else {"codec": vocos.config.encodec.codec}),
            "codebooks" if is_tokens else "channels": len(given),
            "dtype": given.dtype.name,
            "frame_bytes": len(given) * given.itemsize,
            "frame": f"{len(given)} x {given.dtype.name}, little-endian, frame after frame",
            "format": more.get("format", "s16le"),
        }
        answers, frames, size = [], 0, 4 if more.get("format") == "f32le" else 2
        for chunk in chunked(given, len(model)):
            answers.append(client.push(chunk))
            frames += chunk.shape[1]
            assert sum(map(len, answers)) == size * max(0, frames * hop - stream.delay_samples)
        rest, end = client.flush()
        assert end == {"type": "end", "frames": given.shape[1], "samples": len(expected)}
    check(b"".join([*answers, rest]), expected, more.get("format", "s16le"))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("frames", [1, 30])
def test_wider_integers_of_which_nobody_speaks(server: Server, dtype: str, frames: int) -> None:
    """Read as uint16, every second token, or three of four, are 0, even in chunks of a frame; a dtype is trusted."""
    wide = np.maximum(TOKENS, 1).astype(dtype)
    with Client(server) as client:
        client.start()
        for start in range(0, 32 // wide[:, 0].nbytes, frames):
            client.plug.send(wide[:, start : start + frames].T.tobytes())
        reason = f'these look like {dtype}, and are read as uint16: send uint16, or start with "dtype": "{dtype}"'
        assert client.refused() == (1007, reason)
    with Client(server) as client:
        client.start(dtype="uint16")
        client.push(wide[:, :20])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_numbers_of_other_types(server: Server, dtype: str) -> None:
    """The types of numpy, if the start names them."""
    start, given = (MEL_START, MELS) if dtype.startswith("float") else (START, TOKENS)
    given = given.astype(dtype)
    vocos = VocosONNX(MODELS[start["model"]], threads=1)
    with Client(server) as client:
        started = client.start(**{**start, "dtype": dtype, "format": "f32le"})
        assert started["dtype"] == dtype
        assert started["frame_bytes"] == given[:, :1].nbytes
        audio = b"".join(client.push(chunk) for chunk in chunked(given, 3)) + client.flush()[0]
    check(audio, vocos.decode(given, check=None if given.dtype.kind in "iu" else False), "f32le")


def test_one_stream_after_another(server: Server) -> None:
    """Over one connection, from different models, and one that is empty. Chunks may be sent ahead."""
    encodec, mel = (VocosONNX(MODELS[name], threads=1) for name in ("encodec", "mel"))
    with Client(server) as client:
        for _ in range(2):
            client.start(format="f32le")
            chunks = chunked(TOKENS, 1)
            for chunk in chunks:
                client.plug.send(chunk.T.tobytes())
            client.say({"type": "flush"})
            answers = [client.heard() for _ in range(len(chunks) + 1)]
            check(b"".join(answers), encodec.decode(TOKENS), "f32le")
            assert client.heard()["type"] == "end"
            client.start(model="mel", kind="mels", codebooks=None)
            check(client.push(MELS) + client.flush()[0], mel.decode(MELS, check=False), "s16le")
            client.start()
            assert client.flush() == (b"", {"type": "end", "frames": 0, "samples": 0})


def test_the_default_model_and_one_in_fragments(server: Server) -> None:
    """A message in several WebSocket frames is one chunk."""
    with Client(server) as client:
        client.start(model=None, format="f32le")
        data = TOKENS.T.tobytes()
        client.plug.send([data[:7], data[7:500], data[500:]])
        audio = client.heard() + client.flush()[0]
    check(audio, VocosONNX(MODELS["encodec"]).decode(TOKENS), "f32le")


def test_many_streams_at_once() -> None:
    """Some are paced, some disconnect at random: each gets its own audio, and all places are free at the end."""
    vocos = VocosONNX(MODELS["encodec"], threads=1)

    async def one(port: int, number: int) -> None:
        tokens = np.random.default_rng(number).integers(1024, size=(2, 100)).astype("<u2")
        async with aconnect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None) as plug:
            await plug.send(json.dumps(START | {"format": "f32le"}))
            await plug.recv()
            audio = b""
            for chunk in chunked(tokens, number):
                await plug.send(chunk.T.tobytes())
                audio += bytes(await plug.recv())  # type: ignore[arg-type]
                if number % 5 == 0 and np.random.default_rng(len(audio)).random() < 0.2:
                    plug.transport.abort()
                    return
                await asyncio.sleep(0.01 * (number % 2))
            await plug.send('{"type": "flush"}')
            audio += bytes(await plug.recv())  # type: ignore[arg-type]
        check(audio, vocos.decode(tokens), "f32le")

    async def main(port: int) -> None:
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(one(port, number))

    with Server(*options(), "--streams", "60", OMP_NUM_THREADS="1") as server:
        asyncio.run(main(server.port))
        until_none_is_open(server)


# Refusals

CHUNK = TOKENS[:, :8].T.tobytes()
BUNDLED = START | {"model": "bundled"}
MEL_START = START | {"model": "mel", "kind": "mels", "codebooks": None}


@pytest.mark.parametrize(
    ("messages", "code", "error"),
    [
        # order
        ([CHUNK], 1008, r'^a chunk comes before \{"type": "start"\}$'),
        ([{"type": "flush"}], 1008, r"^flush comes before .*, or twice"),
        ([START, {"type": "flush"}, {"type": "flush"}], 1008, r"^flush comes before .*, or twice"),
        ([START, {"type": "flush"}, CHUNK], 1008, r"^a chunk comes before"),
        ([START, START], 1008, r"^start comes twice: flush the stream"),
        # kind
        ([START, "tokens"], 1007, r"^cannot read a text message as JSON: "),
        ([START, {"type": "chunk"}], 1003, r"""^type is 'chunk', expected "start" or "flush"; chunks are binary"""),
        ([START | {"kind": "mels"}], 1003, r"^kind is 'mels', and encodec decodes tokens of .*: name a model"),
        ([MEL_START | {"kind": "tokens"}], 1003, r"^kind is 'tokens', and mel decodes mels: name a model that "),
        ([START | {"kind": "audio"}], 1007, r"^kind is 'audio', expected tokens or mels$"),
        ([{"type": "start"}], 1007, r"^kind is missing, expected tokens or mels$"),
        (["[1, 2]"], 1007, r"^a text message is \[1, 2\], expected \{"),
        (["[" * 4000], 1007, r"^cannot read a text message as JSON: "),
        (['{"type": "start", "bandwidth": NaN}'], 1007, r"it has the number 'NaN', expected a finite"),
        (["x" * 5000], 1009, r"^a text message has 5000 characters, expected at most 4096$"),
        # fields
        ([START | {"model": "nothing"}], 1008, r"^there is no model 'nothing', expected (one of )?encodec, mel, "),
        ([START | {"model": 5}], 1007, r"^model is 5, expected a text"),
        ([START | {"model": "unstreamable", "kind": "mels", "codebooks": None}], 1008, r"cannot be streamed: send all"),
        ([START | {"codebooks": None}], 1007, r"^codebooks is missing, expected 1 or 2"),
        ([BUNDLED | {"codebooks": 3}], 1007, r"^codebooks is 3, expected 2, 4, 8 or 16: the tokens of a frame$"),
        ([START | {"codebooks": 0}], 1007, r"^codebooks is 0, expected 1 or 2"),
        ([START | {"dtype": "int8"}], 1007, r"^dtype is 'int8', expected uint16, uint8, int16, int32 or int64$"),
        ([START | {"dtype": "uint8"}], 1007, r"^dtype is uint8, which ends at 255, and tokens are 0 to 1023: give a"),
        ([START | {"dtype": "float32"}], 1007, r"^dtype is 'float32', expected uint16, "),
        ([MEL_START | {"dtype": "int64"}], 1007, r"^dtype is 'int64', expected float32, "),
        # tokens of another bandwidth
        ([BUNDLED | {"codebooks": 16, "bandwidth": 6}], 1007, r"^codebooks is 16, and bandwidth is 6, which is of 8 "
            r"codebooks: leave bandwidth out, or send the first 8 codebooks of each frame, and give codebooks as 8$"),
        ([BUNDLED | {"codebooks": 4, "bandwidth": 6}], 1007, r"^codebooks is 4, and bandwidth is 6, which is of 8 "
            r"codebooks: leave bandwidth out, or give 3$"),
        ([BUNDLED | {"codebooks": 16, "bandwidth_id": 0}], 1007, r"^codebooks is 16, and bandwidth_id is 0, which is of"
            r" 2 codebooks: leave bandwidth_id out, or send the first 2 codebooks"),
        ([START | {"bandwidth": 1.5, "bandwidth_id": 1}], 1007, r"^bandwidth \(1\.5\) and bandwidth_id \(1\) are"),
        ([START | {"codebooks": True}], 1007, r"^codebooks is true, expected an integer$"),
        ([START | {"channels": 8}], 1007, r"^channels is 8, and these are tokens: leave it out$"),
        ([MEL_START | {"channels": 80}], 1007, r"^channels is 80, expected 8, as mel has$"),
        ([START | {"bandwidth": 7}], 1007, r"bandwidth is 7.*expected"),
        ([START | {"bandwidth": "6"}], 1007, r"^bandwidth is '6', expected a number$"),
        ([START | {"bandwidth_id": 9}], 1007, r"^bandwidth_id is 9, expected 0 to 1"),
        ([START | {"format": "mp3"}], 1007, r"^format is 'mp3', expected s16le or f32le$"),
        ([START | {"mels_from": "f5"}], 1007, r"^mels_from is 'f5', and these are tokens"),
        ([MEL_START | {"mels_from": "nobody"}], 1007, r"^mels_from is 'nobody', expected one of [^;]*'mlx'$"),
        ([START | {"codeboks": 2}], 1007, r"^start has the key 'codeboks' \(did you mean codebooks\?\), expected"),
        # tokens of another codec
        ([START | {"codec": "other"}], 1007, r"^these are tokens of other, and this .*: no other model of the"),
        ([START | {"codebooks_sha256": "0" * 64}], 1007, r"^these are tokens of another codec, and this model"),
        ([BUNDLED | {"codec": "encodec_24khz"}], 1007, r"^these are tokens of encodec_24khz, and.*: ask for model=enc"),
        ([MEL_START | {"kind": "tokens", "codec": "encodec_24khz"}], 1003, r"and mel decodes mels: ask for model=enc"),
        # texts and numbers that cannot be repeated as they are
        ([START | {"codec": "\ud800"}], 1007, r"^codec is '\\ud800', expected a name of up to 200 printable"),
        ([START | {"codebooks_sha256": "a\n\x1b"}], 1007, r"^codebooks_sha256 is 'a\\n\\x1b', expected a name"),
        ([START | {"codec": ""}], 1007, r"^codec is '', expected a name"),
        ([START | {"model": "\udfff"}], 1007, r"^model is '\\udfff', expected a text"),
        ([START | {"\ud800": 1}], 1007, r"^start has the key '\\ud800', expected one of"),
        ([START | {"type": "\ud800"}], 1003, r"^type is '\\ud800', expected"),
        *(
            ([START | {name: 10**zeros}], 1007, error)
            for name in ("bandwidth", "bandwidth_id", "codebooks", "channels")
            for zeros, error in ((19, r"0000"), (3900, r"JSON: it has an integer of 3901 digits$"))
        ),
        (['{"type": "start", "type": "start"}'], 1007, r"^cannot read a text message as JSON: it has 'type' twice$"),
        # data
        ([START, CHUNK[:-1]], 1007, r"^a message has 31 bytes, expected a multiple of 4: 2 x uint16, little-"),
        ([MEL_START, b"\0" * 20], 1007, r"^a message has 20 bytes, expected a multiple of 32: 8 x float32"),
        ([START, CHUNK, struct.pack("<4H", 1, 2, 3, 1024)], 1007,
            r"^tokens hold the value 1024 \(in codebook 1, frame 9, counted from 0\), expected 0 to 1023"),
        ([START | {"kind": None}], 1007, r"^kind is null, expected tokens or mels$"),
        ([{"kind": "tokens"}], 1003, r"^type is missing, expected"),
        ([MEL_START, struct.pack("<8f", *[0] * 7, np.nan)], 1007, r"^features hold 1 values that are NaN or infinite"),
        ([START, b"\0" * 4 * 376], 1009, r"^a chunk has 376 frames, expected at most 375, which are 5 s"),
    ],
)  # fmt: skip
def test_bad_input(server: Server, messages: list[Any], code: int, error: str) -> None:
    """Each gets its code and a reason, and the stream's place is free again."""
    with Client(server) as client:
        for message in messages[:-1]:
            client.plug.send(message) if isinstance(message, bytes) else client.say(message)
            while isinstance(client.heard(), bytes) and not isinstance(message, bytes):
                pass  # a flush is answered with audio as well
        last = messages[-1]
        client.plug.send(last) if isinstance(last, bytes) else client.say(last)
        found_code, reason = client.refused()
    assert found_code == code, reason
    assert re.search(error, reason), reason
    assert str(DATA) not in reason
    until_none_is_open(server)


def test_messages_that_the_protocol_refuses(server: Server) -> None:
    with Client(server) as client:
        client.start()
        with pytest.raises(ConnectionClosed) as closed:
            client.plug.send(bytes(2 << 20))
            client.plug.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert "524288" in closed.value.rcvd.reason  # the only reason given: no message precedes it
    with Client(server) as client:
        client.start()
        client.plug.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            client.plug.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007
    until_none_is_open(server)


def test_a_request_that_is_no_websocket(server: Server) -> None:
    answer = server.ask("/v1/stream", method="GET")
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    said = answer.json()
    assert "ws://" in said["error"]
    assert str(said["first_message"]["codebooks"]) in said["protocol"]
    with Client(server) as client:
        client.say({**said["first_message"], "model": "bundled"})
        assert client.heard()["type"] == "started"


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v1/streams", 404, "there is no WebSocket at '/v1/streams': connect to /v1/stream"),
        ("/v1/stream/", 404, "there is no WebSocket at '/v1/stream/'"),
        ("/v1/decode", 404, "connect to /v1/stream"),
        ("/", 404, "connect to /v1/stream"),
        ("/v1/stream?model=mel", 400, "the query has 'model', and /v1/stream takes no parameters: the first message"),
        ("/v1/stream?token=x", 400, "the query has 'token', and /v1/stream takes no parameters: send the bearer token"),
    ],
)
def test_wrong_addresses(server: Server, path: str, status: int, error: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}{path}", **OPTIONS).__enter__()
    assert refused.value.response.status_code == status
    assert error in json.loads(refused.value.response.body)["error"]


def test_a_refusal_is_one_line_in_the_log() -> None:
    with Server(*options()) as server:
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{server.port}/v1/nothing%0Ahere", **OPTIONS).__enter__()
        _, _, said = server.stop(signal.SIGTERM)
    assert [line for line in said.splitlines() if "WebSocket" in line] == [
        r"vocos-onnx: warning: a WebSocket to '/v1/nothing\nhere' is refused with 404: there is no WebSocket at "
        r"'/v1/nothing\nhere': connect to /v1/stream"
    ]
    assert "handshake" not in said


# Places


def test_no_more_than_max_streams(server: Server) -> None:
    """One stream too many is refused; when a client disconnects without a close frame, its place is free at once."""
    until_none_is_open(server)
    clients = [Client(server) for _ in range(4)]
    for client in clients:
        assert client.start()["type"] == "started"
        client.push(TOKENS[:, :50])
    with Client(server) as more:
        more.say(START)
        assert more.refused() == (1013, "4 streams are open, as many as --streams allows: try again")
    for client in clients:
        client.plug.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.plug.send(TOKENS[:, 50:].T.tobytes())
        client.plug.socket.shutdown(socket.SHUT_RDWR)
    again = [Client(server) for _ in range(4)]
    for client in again:
        assert client.start()["type"] == "started"
    assert open_streams(server) == 4
    again[0].flush()  # frees the stream's place for others, though the connection stays open
    with Client(server) as other:
        assert other.start()["type"] == "started"
        again[0].say(START)
        assert again[0].refused()[0] == 1013
    for client in clients + again:
        client.plug.close()
    until_none_is_open(server)


def test_no_more_than_so_many_connections(server: Server) -> None:
    """Connections without a stream are bounded too, and refused before they are accepted."""
    until_none_is_open(server)
    clients = []
    with pytest.raises(InvalidStatus) as refused:
        for _ in range(20):
            clients.append(Client(server))
    assert len(clients) == 12
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "1"
    assert b"WebSockets are open" in refused.value.response.body
    for client in clients:
        client.plug.close()


# Slow and silent clients


def reader(server: Server) -> Client:
    """A client with small buffers for what it does not read."""
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plug.connect(("127.0.0.1", server.port))
    return Client(server, sock=plug, max_queue=1)


def test_a_client_that_does_not_read(hasty: Server) -> None:
    """It is closed after the deadline; the code follows what it has not read, and its place is free at once."""
    with reader(hasty) as client:
        client.start(format="f32le")
        for _ in range(8):
            client.plug.send(np.zeros((375, 2), "<u2").tobytes())
        end = time.monotonic() + TIMEOUT
        while open_streams(hasty):
            assert time.monotonic() < end
            time.sleep(0.05)
        code, error = client.refused()
    assert (code, error) == (4408, "the audio has not been read for 1 s")
    others = [Client(hasty), Client(hasty)]
    assert [client.start()["type"] for client in others] == ["started"] * 2
    for client in others:
        client.plug.close()


def test_a_client_that_never_reads_again(hasty: Server) -> None:
    """Its connection is closed as well."""
    client = reader(hasty)
    client.start(format="f32le")
    for _ in range(8):
        client.plug.send(np.zeros((375, 2), "<u2").tobytes())
    end = time.monotonic() + TIMEOUT
    while "\nvocos_websockets_open 0.0" not in hasty.ask("/metrics", method="GET").body.decode():
        assert time.monotonic() < end
        time.sleep(0.1)
    client.plug.close()


@pytest.mark.parametrize("first", [None, "start", "chunk"])
def test_a_client_that_says_nothing(hasty: Server, first: str | None) -> None:
    with Client(hasty) as client:
        if first is not None:
            client.start()
        if first == "chunk":
            client.push(TOKENS)
        assert client.refused() == (4408, "nothing has come for 1 s")
    until_none_is_open(hasty)


def test_pings_without_an_end(hasty: Server) -> None:
    """From a client that reads no pongs: they do not pile up, and others are served."""
    with socket.create_connection(("127.0.0.1", hasty.port)) as plug:
        plug.sendall(UPGRADE)
        assert b"101" in plug.recv(4096)
        before, flood = hasty.memory(), (b"\x89\xfd\0\0\0\0" + b"x" * 125) * 500
        plug.setblocking(False)
        end, sent = time.monotonic() + 3, 0
        while time.monotonic() < end and sent < 40 << 20:
            try:
                sent += plug.send(flood)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break
        assert hasty.health()[1]["status"] == "ok"
        assert hasty.memory() - before < 20


@pytest.mark.parametrize("kind", ["empty chunks", "flush and start"])
def test_messages_that_need_no_network(server: Server, kind: str) -> None:
    """They are limited, since enough of them would take all of the event loop's time."""
    with Client(server) as client:
        client.start()
        for _ in range(101):
            with suppress(ConnectionClosed):
                client.plug.send(b"" if kind == "empty chunks" else json.dumps({"type": "flush"}))
                if kind != "empty chunks":
                    client.say(START)
        heard: Any = b""
        while isinstance(heard, bytes) or heard["type"] != "error":
            heard = client.heard()
        assert heard == {
            "type": "error",
            "code": 1008,
            "error": "100 messages more than chunks with frames have come: send frames, or nothing",
        }
    until_none_is_open(server)


def test_many_short_sequences(server: Server) -> None:
    """One chunk each, over one connection; their number is not limited."""
    tokens = np.zeros((2, 3), np.uint16)
    with Client(server) as client:
        for _ in range(150):
            client.start()
            client.push(tokens)
            assert client.flush()[1]["type"] == "end"


# Access


def test_tokens_of_access(guarded: Server) -> None:
    """In the header or as a subprotocol, which is echoed as browsers require."""
    with Client(guarded, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.start()["type"] == "started"
    with Client(guarded, subprotocols=[f"vocos.bearer.{TOKEN}"]) as client:
        assert client.plug.subprotocol == f"vocos.bearer.{TOKEN}"
        assert client.start()["type"] == "started"
    each: tuple[dict[str, Any], ...] = (
        {},
        {"additional_headers": {"Authorization": "Bearer wrong"}},
        {"subprotocols": ["vocos.bearer.wrong"]},
    )
    for options in each:
        with pytest.raises(InvalidStatus) as refused:
            Client(guarded, **options)
        assert refused.value.response.status_code == 401
        assert "token" in json.loads(refused.value.response.body)["error"]


def test_pages_of_other_origins(guarded: Server, server: Server) -> None:
    subprotocols: Any = [f"vocos.bearer.{TOKEN}"]
    with Client(guarded, origin="https://example.org", subprotocols=subprotocols) as client:
        assert client.start()["type"] == "started"
    with Client(server, origin=f"http://127.0.0.1:{server.port}") as client:  # its own page
        assert client.start()["type"] == "started"
    for running in (guarded, server):
        with pytest.raises(InvalidStatus) as refused:
            Client(running, origin="https://evil.example", subprotocols=subprotocols)
        assert refused.value.response.status_code == 403


# Shutdown


def test_the_code_arrives_while_the_client_still_sends() -> None:
    """What is too long is read to its end: a reset of the connection would lose the code on the way to some clients."""

    def code(server: Server) -> int | None:
        client = Client(server)
        with suppress(ConnectionClosed):
            client.say(START)
            client.plug.send(bytes(2_000_000))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.plug.recv(TIMEOUT)
        return None if closed.value.rcvd is None else closed.value.rcvd.code

    with Server(*options()) as server, ThreadPoolExecutor(12) as threads:
        assert set(threads.map(code, [server] * 300)) == {1009}


def test_a_client_that_keeps_its_side_open() -> None:
    """After a message that is too long; the audio of a chunk before that is dropped, and the connection closed."""

    def framed(code: int, data: bytes, size: int | None = None) -> bytes:
        return struct.pack("!BBQ", 128 | code, 255, len(data) if size is None else size) + bytes(4) + data

    with Server(*SERVE) as server:  # the bundled codec: computing a chunk takes a while
        plugs = []
        for _ in range(10):
            plug = server.connect(UPGRADE)
            assert b"101" in plug.recv(4096)
            plug.sendall(framed(1, json.dumps(START | {"model": "vocos-codec-24khz", "codebooks": 8}).encode()))
            assert b"started" in plug.recv(4096)
            plugs.append(plug)
        for plug in plugs:
            plug.sendall(framed(2, bytes(16 * 375)))
        time.sleep(0.05)  # all have been read, and most are being computed
        for plug in plugs:
            plug.sendall(framed(2, bytes(60_000), 2_000_000))
        for plug in plugs:
            data = rest(plug)
            assert b"\x88" in data[-130:] and struct.pack("!H", 1009) in data[-130:]
        until_none_is_open(server)
        said = server.stop(signal.SIGTERM)[2]
        assert "failed" not in said and "Traceback" not in said, said


def test_the_service_ends() -> None:
    """Every stream is closed with 1012 at once, whatever it is doing, and the exit code is that of SIGTERM."""
    with Server(*options(), OMP_NUM_THREADS="1") as server:
        clients = [Client(server) for _ in range(5)]
        for client in clients[1:]:
            client.start()
        for client in clients[2:]:
            client.push(TOKENS)
        for _ in range(20):
            clients[3].plug.send(TOKENS.T.tobytes())
        os.kill(server.process.pid, signal.SIGTERM)
        for client in clients:
            assert client.refused() == (1012, "the service is ending, try again")
        code, _, said = server.stop(0, TIMEOUT)  # no other signal
        assert code == 143
        assert "Traceback" not in said
