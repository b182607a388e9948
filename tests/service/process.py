"""A server in its own process, and clients on plain sockets, which can misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.helpers import found


class Answer:
    """The status, headers and body of an answer read from a socket."""

    def __init__(self, data: bytes) -> None:
        self.raw = data
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1]) if data else None
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = _dechunked(self.body)

    def json(self) -> Any:
        return json.loads(self.body)


def _dechunked(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        out, data = out + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return out


def request(path: str, body: bytes = b"", *headers: str, method: str = "POST", length: int | None = None) -> bytes:
    """Returns the bytes of a request; ``length`` replaces the length of the body in its Content-Length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# environment of child processes, which otherwise would import the checkout they are started in
INSTALLED = {"PYTHONSAFEPATH": "1"}


class Server:
    def __init__(self, *command: str, **settings: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._plugs: list[socket.socket] = []  # closed here, so tests need not do so
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port", str(self.port)],
            env={**os.environ, **INSTALLED, **settings},
            stdout=self._log,
            stderr=self._log,
        )
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    if self.ask("/readyz", method="GET").status == 200:
                        return
                except ConnectionError:
                    pass
                assert self.process.poll() is None and time.monotonic() < end, self.stop()
                time.sleep(0.02)
        except BaseException:
            self.__exit__()
            raise

    def connect(self, data: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
        """Returns a connection over which the data has been sent."""
        plug = socket.socket()
        self._plugs.append(plug)
        if receive_buffer is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plug.settimeout(30)
        plug.connect(("127.0.0.1", self.port))
        plug.sendall(data)
        return plug

    def ask(self, path: str, body: bytes = b"", *headers: str, method: str = "POST") -> Answer:
        return self.say(request(path, body, "Connection: close", *headers, method=method))

    def say(self, data: bytes) -> Answer:
        with self.connect(data) as plug:
            return Answer(rest(plug))

    def send(self, data: bytes) -> None:
        """Sends as much as the server accepts over a new connection, without reading."""
        with contextlib.suppress(OSError):
            self.connect(data)

    def health(self, path: str = "/readyz") -> tuple[float, Any]:
        """Returns how long a health check takes, and its answer."""
        begun = time.monotonic()
        answer = self.ask(path, method="GET")
        return time.monotonic() - begun, answer.json()

    def memory(self) -> int:
        """Returns the peak memory of the process, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(found(r"VmHWM:\s*(\d+) kB", status)[1]) >> 10

    def stop(self, number: int = signal.SIGKILL, seconds: float = 30) -> tuple[int, float, str]:
        """Stops the process; returns its exit code, the seconds that took, and its output."""
        begun = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        took = time.monotonic() - begun
        self._log.seek(0)
        return code, took, self._log.read().decode()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for plug in self._plugs:
            plug.close()
        if self.process.poll() is None:
            self.stop()
        self._log.close()


def rest(plug: socket.socket) -> bytes:
    """Returns everything received until the connection is closed."""
    data = b""
    while part := _received(plug):
        data += part
    return data


def _received(plug: socket.socket) -> bytes:
    try:
        return plug.recv(1 << 16)
    except ConnectionResetError:
        return b""


def closed(plug: socket.socket, seconds: float) -> float | None:
    """Returns after how many seconds the server has closed the connection, None if it has not. Reads nothing."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        try:
            plug.sendall(b"")
            state = plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO)
        except OSError:
            return time.monotonic() - begun
        if state != 1:  # the first byte of TCP_INFO is the state; 1 is ESTABLISHED
            return time.monotonic() - begun
        time.sleep(0.02)
    return None
