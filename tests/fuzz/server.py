"""The service with slow, silent, greedy, malformed and disconnecting clients, several at once and over many cases."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from tests.fuzz.audio import recordings
from tests.fuzz.common import Rng, Target, any_array, damaged

COMMAND = ("-m", "vocos_onnx", "serve", "--memory", "61", "--max-seconds", "60", "--queue", "6")
OPEN = 150  # connections kept open across cases
MEMORY = 600  # MB
STATUS = {200, 206, 304, 400, 401, 403, 404, 405, 406, 408, 413, 415, 416, 426, 429, 431, 501, 503}
TOKENS = np.random.default_rng(0).integers(1024, size=(8, 20))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    """The service; it exits with the fuzzer's process that started it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.read = 0
        self.process = subprocess.Popen(
            [sys.executable, *COMMAND, "--port", str(self.port)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=self.log,
            stderr=self.log,
            preexec_fn=_end_with_parent,
        )
        end = time.monotonic() + 60
        while True:
            try:
                if self.ask(_request("/readyz", method="GET")).startswith(b"HTTP/1.1 200"):
                    break
            except OSError:
                pass
            assert self.process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        self.open: list[socket.socket] = []
        self.right = self.ask(_request("/v1/decode", _npy(TOKENS)))
        assert self.right.startswith(b"HTTP/1.1 200")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def ask(self, data: bytes) -> bytes:
        with self.connect() as plug:
            plug.sendall(data)
            return b"".join(iter(lambda: plug.recv(1 << 16), b""))

    def check(self) -> None:
        """Check health, an honest client, memory, and that the log has no traceback."""
        begun = time.monotonic()
        assert b'"ok"' in self.ask(_request("/healthz", method="GET"))
        took = time.monotonic() - begun
        assert took <= 1, f"/healthz took {took:.2f} s"
        end = time.monotonic() + 15
        while True:
            answer = self.ask(_request("/v1/decode", _npy(TOKENS)))
            status = int(answer[9:12] or 0)
            assert status in (200, 429, 503), answer[:200]
            if status == 200:
                break
            assert time.monotonic() < end, "an honest client is not served"
            time.sleep(0.05)
        assert answer.partition(b"\r\n\r\n")[2] == self.right.partition(b"\r\n\r\n")[2], "another answer"
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))
        assert peak <= MEMORY, f"{peak} MB"
        self.log.seek(self.read)
        said = self.log.read()
        self.read += len(said)
        assert b"Traceback" not in said, said[-800:].decode()


@cache
def _server() -> Server:
    return Server()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _request(path: str, body: bytes = b"", *headers: str, method: str = "POST", close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if close:
        lines.append("Connection: close")
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _body(rng: Rng) -> bytes:
    match rng.integers(9):
        case 0:
            return _npy(TOKENS)
        case 1:
            return _npy(np.zeros((8, 75 * int(rng.integers(1, 62))), rng.choice(["i1", "<u2", ">i8", "f4"])))
        case 2:
            return damaged(rng, _npy(TOKENS))
        case 3:
            with contextlib.suppress(Exception):
                return _npy(np.asarray(any_array(rng, TOKENS)))
            return b""
        case 4:
            with contextlib.suppress(TypeError):
                return json.dumps({"tokens": any_array(rng, TOKENS)}).encode()
            return damaged(rng, json.dumps({"tokens": TOKENS.tolist()}).encode())
        case 5:
            unit = [b"[],", b"{},", b'{"":1},', b"1,", b"1.5,", b'"a",', b"[1],", b"[", b"null,"][rng.integers(9)]
            return b'{"tokens": [[' + unit * int(rng.integers(1, 200_000)) + b"1]]}"
        case 6:
            sizes = [0, 1, -1, 8, 1000, 2**31, 2**63, 10**30]
            shape = tuple(sizes[i] for i in rng.integers(len(sizes), size=rng.integers(1, 4)))
            kind = ["<i8", "|O", "<U99999", "|V2147483647", "|b1", "<c16", "<i2"][rng.integers(7)]
            text = repr({"descr": kind, "fortran_order": bool(rng.integers(2)), "shape": shape}).encode()
            return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rng.bytes(int(rng.integers(100)))
        case 7:
            return rng.bytes(int(rng.integers(1, 300_000)))
        case _:
            known = recordings()
            return damaged(rng, known[rng.integers(len(known))])


PATHS = (
    *("/v1/decode", "/v1/decode", "/v1/decode", "/v1/decode?stream=true", "/v1/decode?model=vocos-mel-24khz-small"),
    *("/v1/decode?format=flac", "/v1/resynth", "/v1/resynth", "/v1/resynth?stream=true&format=opus", "/v1/encode"),
    *("/v1/encode?format=json", "/v1/stream", "/v1/models", "/healthz", "/readyz", "/metrics", "/", "/page/app.js"),
    *("/page/../healthz", "*"),
)
NAMES = ("bandwidth", "bandwidth_id", "model", "format", "stream", "mels_from", "a")


def _any_request(rng: Rng) -> bytes:
    path = PATHS[rng.integers(len(PATHS))]
    if rng.random() < 0.3:
        value = ["1", "nan", "-inf", "1e400", "9" * 500, "%D9%A3", "%00", "6", "12", "x" * 3000, "1_0"][
            rng.integers(11)
        ]
        path += f"{'&' if '?' in path else '?'}{NAMES[rng.integers(len(NAMES))]}={value}"
    method = ["GET", "HEAD", "PUT", "POST", "BREW"][rng.integers(5)] if rng.random() < 0.2 else "POST"
    body, headers = _body(rng), []
    match rng.integers(12):
        case 0:
            length = [0, 1, len(body) - 1, len(body) + 1, len(body) + 1000, 10**7, 10**12, -1][rng.integers(8)]
            headers.append(f"Content-Length: {length}")
        case 1:
            size = int(rng.choice([1, 2, 1000, 100_000]))
            body = body[:100_000] if size < 1000 else body
            parts = [body[i : i + size] for i in range(0, len(body), size)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            headers.append("Transfer-Encoding: chunked")
            if rng.random() < 0.3:
                headers.append(f"Content-Length: {len(body)}")
        case 2:
            headers.append("Expect: 100-continue")
        case 3:
            headers += [f"X{i}: {'x' * int(rng.integers(200))}" for i in range(rng.integers(300))]
        case 4:
            headers += ["Content-Length: 5", "Content-Length: 7"]
        case 5:
            headers += ["Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Key: eA=="]
    data = _request(path, body, *headers, method=method, close=bool(rng.integers(2)))
    if rng.random() < 0.15:
        end = data.find(b"\r\n\r\n") + 4
        data = damaged(rng, data[:end]) + data[end:]
    return data


def clients(rng: Rng, folder: Path) -> None:
    server = _server()
    listening = []
    for _ in range(rng.integers(1, 9)):
        with contextlib.suppress(ConnectionError, TimeoutError):
            plug = server.connect()
            plug.settimeout(3)
            if rng.random() < 0.3:
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            data = b"".join(_any_request(rng) for _ in range(rng.choice([1, 1, 1, 2, 20])))
            kind = rng.integers(8)
            if kind == 0:
                data = b""
            if kind in (1, 2):  # cut off at any byte
                data = data[: int(rng.integers(len(data)))]
            try:
                plug.sendall(data)
            finally:
                if kind == 3:
                    plug.close()
                elif kind == 4:  # resets the connection
                    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    plug.close()
                elif kind in (5, 6):
                    listening.append(plug)
                else:
                    server.open.append(plug)
    server.check()
    for plug in listening:
        answer = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            plug.settimeout(0.2)
            answer = plug.recv(1 << 16)
        if answer:
            assert answer.startswith(b"HTTP/1.1 ") and int(answer[9:12]) in STATUS | {100}, answer[:300]
        server.open.append(plug)
    rng.shuffle(server.open)
    while len(server.open) > OPEN:
        server.open.pop().close()


TARGETS = {}
if all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn", "websockets", "prometheus_client")):
    TARGETS["clients of the service"] = Target(clients, 0.3, seconds=60, memory=8 << 30)
