"""Sends mixed requests and faults to vocos-onnx serve: python benchmarks/service.py [--requests 5000] [--clients 24]

Starts the service on this machine with its default limits, and many clients at once: tokens, mels and recordings to
audio in all formats, whole and streamed, recordings to tokens, WebSockets, and the small routes. One request in ten is
invalid in one of the ways below, and must get its error status and reason. Of the others, some are sent slowly or pause
midway, some clients disconnect, and one request in a hundred hangs forever.

Exits with an error unless every request ended with the library's result or with the expected error; /healthz always
answered within a second; the service took at most 600 MB; and nothing is left over in the end: no place, stream, byte,
connection or file descriptor, and no failure in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from vocos_onnx import EncodecONNX, VocosONNX, load_audio, save_tokens
from vocos_onnx.io.tokens import load_tokens
from vocos_onnx.model.bundled import CODEC, MEL, bundled_file

TOKEN = "a-token-of-the-benchmark"
IDLE = 8  # seconds after which an idle WebSocket is closed here; all other limits have their defaults
MOST_MEMORY, MOST_HEALTH = 600, 1.0  # MB, seconds
PATIENCE = 120  # seconds within which a request must end, however often it has to retry
STEPS = 2  # 16-bit steps between the audio of the service and of the library: streams round differently
RATE = 24_000
ENDS = ("right", "refused as due", "cut off as due", "left")  # outcomes of a request
NUMBERS = (  # in /metrics, 0 if nothing is left over
    *("vocos_requests_in_progress", "vocos_calls_waiting", "vocos_held_bytes", "vocos_websockets_open"),
    "vocos_streams_open",
)
Array = npt.NDArray[Any]


class Reply(NamedTuple):
    status: int
    kind: str
    retry_after: float
    body: bytes


@dataclass(frozen=True)
class Request:
    """A request and the check of its answer; ``row`` is its row in the table. It may be sent in any manner."""

    row: str
    path: str
    body: bytes = b""
    check: Callable[[Reply], None] = lambda reply: None
    headers: tuple[str, ...] = ()
    method: str = "POST"
    length: int | None = None  # the Content-Length, if it is not that of the body
    status: int = 200

    def head(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost", "Connection: close", *self.headers]
        if not any(line.startswith("Authorization") for line in self.headers):
            lines.append(f"Authorization: Bearer {TOKEN}")
        if self.method == "POST":
            lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n"


@dataclass(frozen=True)
class Stream:
    """A stream over a WebSocket: the first message, the chunks, and the expected audio."""

    row: str
    start: dict[str, Any]
    chunks: tuple[bytes, ...]
    audio: Array


@dataclass(frozen=True)
class WrongStream:
    """Invalid messages over a WebSocket, the code that it must be closed with, and the reason."""

    row: str
    messages: tuple[dict[str, Any] | bytes | str, ...]
    code: int
    reason: str


# The requests, and the expected answers


class Library:
    """The library's models and inputs, single-threaded like the service, for the expected results."""

    def __init__(self) -> None:
        self.codec, self.mel, self.encoder = VocosONNX(threads=1), VocosONNX(MEL, threads=1), EncodecONNX(threads=1)
        names = ("speech_en_m_joe_48k_stereo", "speech_it_f_paola_48k", "speech_ja_css10_22k")
        speech = [load_audio(bundled_file(f"{name}.flac"), RATE) for name in names]
        rng = np.random.default_rng(0)
        self.audio = [
            speech[i % 3][(begin := int(rng.integers(0, RATE))) : begin + int(RATE * rng.uniform(0.2, 4.5))]
            for i in range(9)
        ]


def requests_of(library: Library) -> tuple[list[Request], list[Stream]]:
    """The valid requests and streams."""
    made: list[Request] = []
    streams: list[Stream] = []
    for i, audio in enumerate(library.audio):
        kind, rate = (("WAV", RATE), ("FLAC", 44_100), ("OGG", 16_000))[i % 3]
        recording = written(audio, kind, rate)
        heard = load_audio(io.BytesIO(recording), RATE)
        bandwidth = (1.5, 3.0, 6.0, 12.0)[i % 4]
        codes = library.encoder.encode(heard, RATE, bandwidth)
        tokens = library.encoder.encode(audio, RATE, bandwidth)
        mels = library.mel.features(audio, RATE)
        format = ("wav", "flac", "opus", "pcm")[i % 4]
        decoded, of_mels = library.codec.decode(tokens), library.mel.decode(mels)
        resynth = library.codec(heard, RATE, bandwidth=bandwidth)[: len(heard)]
        through_mels = library.mel(heard, RATE)[: len(heard)]
        text = json.dumps({"tokens": tokens.tolist()}).encode()
        npz = tokens_file(tokens, library.encoder, len(audio))
        for body in (npy(tokens.astype(np.uint16)), npz, text):
            exact = decoded[: len(audio)] if body is npz else decoded
            made.append(Request("tokens, whole", f"/v1/decode?format={format}", body, sounds(exact)))
            made.append(Request("tokens, streamed", "/v1/decode?stream=true&format=pcm", body, sounds(exact)))
        made += [
            Request("mels, whole", f"/v1/decode?model={MEL}&format={format}", npy(mels), sounds(of_mels)),
            Request("mels, streamed", f"/v1/decode?model={MEL}&stream=1", npy(mels), sounds(of_mels)),
            Request(
                "recording, whole", f"/v1/resynth?bandwidth={bandwidth}&format={format}", recording, sounds(resynth)
            ),
            Request("recording, streamed", f"/v1/resynth?bandwidth={bandwidth}&stream=1", recording, sounds(resynth)),
            Request("recording, whole", f"/v1/resynth?model={MEL}", recording, sounds(through_mels)),
            Request("to tokens", f"/v1/encode?bandwidth={bandwidth}", recording, same_tokens(codes)),
            Request("to tokens", f"/v1/encode?bandwidth={bandwidth}&format=json", recording, same_tokens(codes)),
        ]
        start = {"type": "start", "kind": "tokens", "codebooks": len(tokens)}
        streams.append(Stream("WebSocket, tokens", start, chunks(tokens.astype("<u2"), i), decoded))
        start = {"type": "start", "kind": "mels", "model": MEL, "format": ("s16le", "f32le")[i % 2]}
        streams.append(Stream("WebSocket, mels", start, chunks(mels.astype("<f4"), i), of_mels))
    for path in ("/", "/page/app.js", "/healthz", "/v1/models", "/v1/samples", "/metrics", "/openapi.json"):
        made.append(Request("small routes", path, method="GET"))
    made.append(Request("small routes", "/v1/samples/speech_ja_css10_22k", method="GET"))
    return made, streams


def wrong_ones(library: Library) -> tuple[list[Request], list[WrongStream]]:
    tokens = library.encoder.encode(library.audio[0], RATE, 6.0)
    good, mels = npy(tokens.astype(np.uint16)), npy(library.mel.features(library.audio[0], RATE))
    recording = written(library.audio[0], "FLAC", RATE)
    rows = tokens[:, :40].tolist()
    other = json.dumps({"tokens": rows, "codec": "encodec_24khz"}).encode()
    fingerprint = json.dumps({"tokens": rows, "codebooks_sha256": "0" * 64}).encode()
    decode, resynth, encode = "/v1/decode", "/v1/resynth", "/v1/encode"

    def refused(status: int, reason: str, path: str, body: bytes = b"", *headers: str, **more: Any) -> Request:
        return Request(f"wrong: {status}", path, body, reasoned(reason), headers, status=status, **more)

    made = [
        refused(400, "the body is empty", decode),
        refused(400, "header is damaged", decode, b"\x93NUMPY\x01\x00garbage"),
        refused(400, "cannot read the body", decode, b"\x80\x04K\x01."),
        refused(400, "promises", decode, good[:-20]),
        refused(400, "expected 0 to 1023", decode, npy(tokens + 1024)),
        refused(400, "shape", decode, npy(np.zeros((8, 0), int))),
        refused(400, "expected at most 600", decode, npy(np.zeros((1, 75 * 601), np.uint16))),
        refused(400, "tokens of encodec_24khz", decode, other),
        refused(400, "tokens of another codec", decode, fingerprint),
        refused(400, "", decode, mels),
        refused(400, "", f"{decode}?model={MEL}", good),
        refused(400, "JSON", decode, b'{"tokens": [[1], [2, 3'),
        refused(400, "", decode, b'{"tokens": [[1], [2, 3]]}'),
        refused(400, "bandwidth_id", f"{decode}?bandwidth_id=9", good),
        refused(400, "bandwidth_id is 'x', expected a number", f"{decode}?bandwidth_id=x", good),
        refused(400, "bandwidth is 5", f"{resynth}?bandwidth=5", recording),
        refused(400, "expected one of wav, flac, opus, pcm", f"{decode}?format=mp3", good),
        refused(400, "expected true or false", f"{decode}?stream=maybe", good),
        refused(400, "", resynth, b"no recording, but a text"),
        refused(400, "", encode, recording[: len(recording) // 2]),
        refused(400, "name a codec", f"{encode}?model={MEL}", recording),
        refused(401, "not the bearer token", decode, good, "Authorization: Bearer another"),
        refused(401, "no bearer token", "/v1/models", b"", "Authorization: Basic eDp5", method="GET"),
        refused(403, "--cors", decode, good, "Origin: https://elsewhere.example"),
        refused(404, f"expected one of {CODEC}, {MEL}", f"{decode}?model=other", good),
        refused(404, "", "/v1/decoder", good),
        refused(404, "", "/v1/samples/..%2f..%2fetc%2fpasswd", method="GET"),
        refused(405, "", decode, method="GET"),
        refused(406, "expected some of audio/wav", decode, good, "Accept: text/html"),
        refused(413, "the body has 64000001 bytes", decode, bytes(64_000_001)),
        refused(413, "expected at most 64000000", decode, b"", "Expect: 100-continue", length=1 << 40),
        refused(413, "the JSON has", decode, b'{"tokens": [[' + b"1," * 1_100_000 + b"1]]}"),
        refused(415, "expected a recording", resynth, recording, "Content-Type: text/plain"),
        refused(415, "--data-binary", decode, good, "Content-Type: multipart/form-data; boundary=x"),
        refused(426, "ws://", "/v1/stream", method="GET"),
    ]
    start = {"type": "start", "kind": "tokens", "codebooks": 8}
    chunk = tokens[:, :8].T.astype("<u2").tobytes()

    def closed(code: int, reason: str, *messages: dict[str, Any] | bytes | str) -> WrongStream:
        return WrongStream(f"wrong: closed with {code}", messages, code, reason)

    return made, [
        closed(1003, "decodes tokens", {"type": "start", "kind": "mels"}),
        closed(1003, "chunks are binary", start, {"type": "chunk"}),
        closed(1007, "multiple of 16", start, chunk[:-1]),
        closed(1007, "expected 0 to 1023", start, chunk, b"\xff" * 16),
        closed(1007, "expected 2, 4, 8 or 16", start | {"codebooks": 17}),
        closed(1007, "tokens of encodec_24khz", start | {"codec": "encodec_24khz"}),
        closed(1007, "another codec", start | {"codebooks_sha256": "0" * 64}),
        closed(1007, "NaN", {"type": "start", "kind": "mels", "model": MEL}, np.full(100, np.nan, "<f4").tobytes()),
        closed(1007, "as JSON", "{"),
        closed(1008, "a chunk comes before", chunk),
        closed(1008, "start comes twice", start, chunk, start),
        closed(1008, "there is no model", start | {"model": "other"}),
        closed(1008, "flush comes before", start, {"type": "flush"}, {"type": "flush"}),
        closed(1009, "5 s", start, bytes(16 * 376)),
        closed(1009, "", start, bytes(2_000_000)),
    ]


def npy(array: Array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def written(audio: Array, kind: str, rate: int) -> bytes:
    """A file of this format that declares this rate: the pitch changes, which does not matter here."""
    out = io.BytesIO()
    soundfile.write(out, audio, rate, format=kind)
    return out.getvalue()


def tokens_file(tokens: Array, encoder: EncodecONNX, samples: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_tokens(path := Path(folder) / "tokens.npz", tokens, encoder, samples=samples)
        return path.read_bytes()


def chunks(frames: Array, seed: int) -> tuple[bytes, ...]:
    """The columns in order, in messages of different lengths."""
    cuts = np.cumsum(np.random.default_rng(seed).integers(1, 40, frames.shape[1]))
    return tuple(part.T.tobytes() for part in np.split(frames, cuts[cuts < frames.shape[1]], axis=1))


# Checks


def sounds(expected: Array) -> Callable[[Reply], None]:
    """Checks that the audio is that of the library; for Opus, only its spectrum."""
    steps = np.round(expected * 32768).clip(-32768, 32767).astype(int)

    def check(reply: Reply) -> None:
        if "pcm" in reply.kind:
            given = np.frombuffer(reply.body, "<i2").astype(int)
        else:
            given = soundfile.read(io.BytesIO(reply.body), dtype="int16")[0].astype(int)
        assert given.shape == steps.shape, (reply.kind, given.shape, steps.shape)
        if "ogg" in reply.kind:
            likeness = np.corrcoef(bands(given), bands(steps))[0, 1]
            assert likeness > 0.9, f"the Opus sounds otherwise: {likeness}"
        else:
            off = np.abs(given - steps).max(initial=0)
            assert off <= STEPS, f"{off} steps from the library's audio"

    return check


def bands(audio: Array) -> Array:
    spectra = np.abs(np.fft.rfft(audio[: len(audio) // 480 * 480].reshape(-1, 480) / 32768))
    return np.log(spectra[:, :80].reshape(len(spectra), 20, 4).mean(axis=2) + 0.1).ravel()


def same_tokens(codes: Array) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        if "json" in reply.kind:
            given = np.array(json.loads(reply.body)["tokens"])
        else:
            with tempfile.NamedTemporaryFile(suffix=".npz") as file:
                Path(file.name).write_bytes(reply.body)
                given = load_tokens(file.name).codes
        assert np.array_equal(given, codes), "other tokens than the library's"

    return check


def reasoned(reason: str) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        given = json.loads(reply.body)["error"]
        assert given and reason in given, f"{given!r} does not contain {reason!r}"

    return check


# How requests are sent


class Clients:
    """Clients that send one request after another, and count the outcomes.

    outcomes: for each row of the table, the number of each outcome. seconds: times of the right answers. failures:
    error messages.
    """

    def __init__(self, port: int, library: Library) -> None:
        self._port = port
        self._right, self._streams = requests_of(library)
        self._wrong, self._wrong_streams = wrong_ones(library)
        self._by_row: dict[str, list[Request]] = defaultdict(list)
        for one in self._right:
            self._by_row[one.row].append(one)
        self._long = npy(np.zeros((8, 75 * 600), np.uint16))
        self._lock = threading.Lock()
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []

    def warm_up(self) -> None:
        """Makes the service load the models and open what they need. Raises AssertionError for a wrong answer."""
        for row in self._by_row:
            self._answered(self._by_row[row][0])
        for stream in self._streams[:2]:
            self._streamed(stream, "at once")
        self.outcomes.clear()

    def one(self, number: int) -> None:
        """Sends the request with this number, which alone determines the request and the manner."""
        rng = Random(number)
        begun = time.perf_counter()
        row, outcome = "wrong", "failed"
        try:
            if number % 100 == 50:
                row = "hangs for ever"
                outcome = self._hanging(number // 100 % 5)
            elif number % 10 == 9:
                row, outcome = self._refused(number // 10)
            else:
                leaves = number % 11 == 5
                manner = "slowly" if number % 13 == 7 else "with a rest" if number % 17 == 3 else "at once"
                if number % 5 == 1:
                    stream = rng.choice(self._streams)
                    row = stream.row
                    outcome = self._left_stream(stream) if leaves else self._streamed(stream, manner)
                else:
                    request = rng.choice(self._by_row[rng.choice(list(self._by_row))])
                    row = request.row
                    outcome = self._left(request, rng) if leaves else self._answered(request, manner)
        except Exception as error:  # any error: the request has not ended as it should
            with self._lock:
                self.failures.append(f"request {number}, {row}: {type(error).__name__}: {error}"[:500])
        with self._lock:
            self.outcomes[row][outcome] += 1
            if outcome == "right":
                self.seconds[row].append(time.perf_counter() - begun)

    def _plug(self, **options: Any) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), PATIENCE, **options)

    def _answered(self, request: Request, manner: str = "at once") -> str:
        """Repeats the request until the answer is not to retry later. Raises AssertionError if it is wrong."""
        end = time.monotonic() + PATIENCE
        while True:
            with self._plug() as plug:
                with contextlib.suppress(ConnectionError):  # an early rejection still has a readable reason
                    send(plug, request, manner)
                reply = read(plug, request.method, manner)
            if reply.status not in (429, 503) or request.status == reply.status:
                break
            assert reply.retry_after, "it is not said when to try again"
            with self._lock:
                self.outcomes[request.row]["told to wait"] += 1
            assert time.monotonic() < end, f"still told to wait: {reply.body[:200]!r}"
            time.sleep(reply.retry_after)
        assert reply.status == request.status, f"{request.path}: {reply.status} {reply.body[:200]!r}"
        request.check(reply)
        return "right" if request.status == 200 else "refused as due"

    def _left(self, request: Request, rng: Random) -> str:
        """Disconnects in the headers, in the body, before the answer or within it; half the time with a reset."""
        head, body = request.head(), request.body
        with self._plug() as plug:
            if rng.random() < 0.5:
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            where = rng.randrange(4)
            with contextlib.suppress(ConnectionError):
                plug.sendall((head[:30], head + body[: len(body) // 2], head + body, head + body)[where])
                if where == 3:
                    plug.recv(1)
        return "left"

    def _refused(self, number: int) -> tuple[str, str]:
        among = len(self._wrong) + len(self._wrong_streams)
        if (which := number % among) < len(self._wrong):
            request = self._wrong[which]
            return request.row, self._answered(request)
        stream = self._wrong_streams[which - len(self._wrong)]
        with self._socket() as plug:
            messages = [
                message if isinstance(message, bytes | str) else json.dumps(message) for message in stream.messages
            ]
            with contextlib.suppress(ConnectionClosed):
                for message in messages:
                    plug.send(message)
            code, reason = last_words(plug)
        assert code == stream.code, (stream, code, reason)
        assert stream.reason in reason, (stream, reason)
        return stream.row, "refused as due"

    def _socket(self, **options: Any) -> ClientConnection:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"ws://127.0.0.1:{self._port}/v1/stream"
        return connect(url, additional_headers=headers, compression=None, max_size=None, proxy=None, **options)

    def _streamed(self, stream: Stream, manner: str) -> str:
        with self._socket() as plug:
            plug.send(json.dumps(stream.start))
            started = json.loads(plug.recv(PATIENCE))
            assert started["type"] == "started", started
            audio = []
            for i, chunk in enumerate(stream.chunks):
                if manner == "slowly":
                    time.sleep(0.02)
                elif manner == "with a rest" and i == len(stream.chunks) // 2:
                    time.sleep(1.5)
                plug.send(chunk)
                audio.append(binary(plug.recv(PATIENCE)))
            plug.send('{"type": "flush"}')
            audio.append(binary(plug.recv(PATIENCE)))
            end = json.loads(plug.recv(PATIENCE))
        assert end["samples"] == len(stream.audio), end
        given = np.frombuffer(b"".join(audio), "<i2" if started["format"] == "s16le" else "<f4")
        scale = 32768 if started["format"] == "s16le" else 1
        off = np.abs(given / scale - stream.audio.clip(-1, 1 - 1 / 32768) if scale > 1 else given - stream.audio).max()
        assert 32768 * off <= STEPS, f"{32768 * off} steps from the library's audio"
        return "right"

    def _left_stream(self, stream: Stream) -> str:
        with self._socket() as plug:
            plug.send(json.dumps(stream.start))
            plug.send(stream.chunks[0])
            plug.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            plug.socket.shutdown(socket.SHUT_RDWR)
        return "left"

    def _hanging(self, kind: int) -> str:
        """A client that stops midway: the service ends each kind in its own way."""
        if kind == 0:  # half a body
            request = Request("", "/v1/decode", self._long)
            with self._plug() as plug:
                plug.sendall(request.head() + request.body[:1000])
                reply = read(plug, "POST")
            assert reply.status == 408, reply
            return "refused as due"
        if kind == 1:  # half a header
            with self._plug() as plug:
                plug.sendall(b"POST /v1/decode HTTP/1.1\r\nHost: ")
                plug.recv(1000)  # the server closes the connection, with nothing or a 400
            return "cut off as due"
        if kind == 2:  # a client that does not read the answer
            request = Request("", "/v1/decode?stream=true&format=pcm", self._long)
            while True:
                with self._plug() as plug:
                    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
                    plug.sendall(request.head() + request.body)
                    first = plug.recv(12)
                    if first.endswith(b"200"):
                        time.sleep(40)  # a client must read each 64 kB within 20 s
                        with contextlib.suppress(ConnectionError):
                            rest = sum(map(len, iter(lambda: plug.recv(1 << 16), b"")))
                            assert rest < 2 * 320 * 75 * 600, "a client that does not read got all of it"
                        return "cut off as due"
                    assert first.endswith((b"429", b"503")), first
                time.sleep(1)
        if kind == 3:  # a WebSocket client that does not read
            with socket.socket() as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
                plain.connect(("127.0.0.1", self._port))
                with self._socket(sock=plain, max_queue=1) as plug:
                    plug.send(json.dumps({"type": "start", "kind": "tokens", "codebooks": 8, "format": "f32le"}))
                    for _ in range(8):
                        plug.send(bytes(16 * 375))
                    time.sleep(25)  # --stream-stall is 10 s; 5 s later the close code is given up, too
                    code, reason = last_words(plug)
            assert code == 1006 or (code == 4408 and "has not been read" in reason), (code, reason)
            return "cut off as due"
        with self._socket() as plug:  # a WebSocket client that sends nothing more
            plug.send(json.dumps({"type": "start", "kind": "tokens", "codebooks": 8}))
            code, reason = last_words(plug)
        assert code == 4408 and "nothing has come" in reason, (code, reason)
        return "cut off as due"


def send(plug: socket.socket, request: Request, manner: str) -> None:
    data = request.head() + request.body
    if manner == "at once":
        plug.sendall(data)
        return
    pieces = 8 if manner == "slowly" else 2
    size = -(-len(data) // pieces)
    for first in range(0, len(data), size):
        if first:
            time.sleep(0.05 if manner == "slowly" else 1.5)
        plug.sendall(data[first : first + size])


def read(plug: socket.socket, method: str, manner: str = "at once") -> Reply:
    """Reads the answer. Raises http.client.HTTPException or OSError if it is incomplete."""
    reply = http.client.HTTPResponse(plug, method=method)
    reply.begin()
    if manner == "at once":
        body = reply.read()
    else:
        parts: list[bytes] = []
        while part := reply.read(20_000):
            if manner == "slowly" or not parts:
                time.sleep(0.02 if manner == "slowly" else 1.5)
            parts.append(part)
        body = b"".join(parts)
    # When read in parts, http.client accepts an answer that ends before its Content-Length.
    length = reply.headers.get("content-length")
    assert length is None or int(length) == len(body), f"{len(body)} bytes of {length}"
    return Reply(reply.status, reply.headers.get("content-type", ""), float(reply.headers.get("retry-after", 0)), body)


def binary(message: bytes | str) -> bytes:
    assert isinstance(message, bytes), message
    return message


def last_words(plug: ClientConnection) -> tuple[int, str]:
    """The close code of a WebSocket, and the reason, from the preceding error message if any, since it is longer."""
    reason = ""
    try:
        while True:
            message = plug.recv(PATIENCE)
            if isinstance(message, str) and (given := json.loads(message))["type"] == "error":
                reason = given["error"]
    except ConnectionClosed as closed:
        received = closed.rcvd
        return (received.code, reason or received.reason) if received is not None else (1006, reason)


# The service


class Service:
    """The server's process, monitored while the clients run."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vocos_onnx", "serve", "--port", "0", "--stream-idle", str(IDLE)],
            env={**os.environ, "VOCOS_TOKEN": TOKEN},
            stdout=self._log,
            stderr=self._log,
        )
        while (match := re.search(r"http://127\.0\.0\.1:(\d+)", self.log())) is None:
            assert self._process.poll() is None, self.log()
            time.sleep(0.05)
        self.port = int(match[1])
        while self.get("/readyz")[0] != 200:
            time.sleep(0.05)
        self.slowest_health, self._over = 0.0, threading.Event()

    def get(self, path: str) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", self.port), 30) as plug:
            plug.sendall(Request("", path, method="GET").head())
            reply = read(plug, "GET")
        return reply.status, reply.body

    def files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())

    def memory(self, of: str = "VmHWM") -> int:
        """Resident memory in MB: the peak, or the current value (VmRSS)."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith(of)) * 1024 / 1e6)

    def numbers(self) -> dict[str, float]:
        """The values in /metrics without labels."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[0] != "#")}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Requests /healthz ten times a second. At the end raises AssertionError if an answer was wrong."""

        def ask() -> None:
            while not self._over.wait(0.1):
                begun = time.perf_counter()
                status, body = self.get("/healthz")
                assert (status, body) == (200, b'{"status":"ok"}'), (status, body)
                self.slowest_health = max(self.slowest_health, time.perf_counter() - begun)

        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(ask)
            try:
                yield
            finally:
                self._over.set()
            asked.result()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def end(self) -> int:
        """Sends SIGTERM; returns the exit code."""
        self._process.terminate()
        return self._process.wait(30)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def left_over(service: Service, files: int) -> dict[str, float]:
    """What is still in use after ten seconds."""
    end = time.monotonic() + 10
    while True:
        numbers = service.numbers()
        left = {name: numbers[name] for name in NUMBERS if numbers[name]}
        if numbers["vocos_connections_open"] > 1:  # the one that asks for /metrics
            left["vocos_connections_open"] = numbers["vocos_connections_open"] - 1
        if (more := service.files() - files) > 0:
            left["file descriptors"] = more
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.2)


def table(clients: Clients) -> None:
    ends = (*ENDS, "failed", "told to wait")
    print(f"| request | {' | '.join(ends)} | median, 99 % |\n|---|{'---|' * len(ends)}---|")
    total: Counter[str] = Counter()
    every: list[float] = []
    rows = sorted(clients.outcomes, key=lambda row: (row.startswith(("wrong", "hangs")), row))
    for row in rows:
        total += clients.outcomes[row]
        every += clients.seconds[row]
        print_row(row, ends, clients.outcomes[row], clients.seconds[row])
    print_row("all", ends, total, every)


def print_row(row: str, ends: Sequence[str], outcomes: Counter[str], seconds: list[float]) -> None:
    times = "" if not seconds else " / ".join(f"{1000 * q:.0f}" for q in np.percentile(seconds, [50, 99])) + " ms"
    print(f"| {row} | {' | '.join(str(outcomes[end] or '') for end in ends)} | {times} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=24)
    args = parser.parse_args()
    library = Library()
    with Service() as service:
        clients = Clients(service.port, library)
        clients.warm_up()
        files, at_rest = service.files(), service.memory("VmRSS")
        begun = time.perf_counter()
        with service.watched(), ThreadPoolExecutor(args.clients) as asking:
            list(asking.map(clients.one, range(args.requests)))
        took = time.perf_counter() - begun
        left, most, in_the_end = left_over(service, files), service.memory(), service.memory("VmRSS")
        code, log = service.end(), service.log()
    table(clients)
    print(
        f"\n{args.requests} requests of {args.clients} clients in {took:.0f} s; slowest /healthz "
        f"{service.slowest_health:.2f} s; memory {at_rest} MB at rest, {most} MB at most, {in_the_end} MB in the end; "
        f"left over: {left or 'nothing'}; exit code {code}"
    )
    for failure in clients.failures[:20]:
        print(failure)
    print(log, end="")
    ended = sum(sum(how[end] for end in ENDS) for how in clients.outcomes.values())
    assert not clients.failures and ended == args.requests, f"{len(clients.failures)} failed, {ended} ended"
    assert service.slowest_health <= MOST_HEALTH and most <= MOST_MEMORY and not left
    assert "failed" not in log and "Traceback" not in log and code == 128 + signal.SIGTERM


if __name__ == "__main__":
    main()
