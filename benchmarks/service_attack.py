"""Malicious clients against vocos-onnx serve: python benchmarks/service_attack.py [--seconds 5]

Each kind of client runs for SECONDS: clients that send a single byte, do not read, send much JSON, or send nothing.
Meanwhile /readyz must answer within a second, and an honest client must get the right audio; the server, with its
default settings, may take 1 GB. Finally it gets SIGTERM while slow clients are connected. benchmarks/service.py has the
clients that mean well but make mistakes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from vocos_onnx import VocosONNX

STREAM = "/v1/decode?stream=true&format=pcm"


def ask(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_for(url: str) -> None:
    while True:
        with contextlib.suppress(urllib.error.URLError):
            if ask(f"{url}/readyz")[0] == 200:
                return
        time.sleep(0.05)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def post(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


TEN_MINUTES = npy(np.zeros((8, 75 * 600), np.int16))
MUCH_JSON = b'{"tokens": [' + b"[]," * 3_300_000 + b"[]]}"
ALLOWED_JSON = b'{"tokens": [[' + b"1," * 990_000 + b"1]]}"


def one_byte(plug: socket.socket, stop: threading.Event) -> None:
    plug.sendall(post("/v1/decode", 100_000) + b"x")
    stop.wait()


def half_a_body(plug: socket.socket, stop: threading.Event) -> None:
    plug.sendall(post("/v1/decode", 2_000_000) + bytes(1_900_000))
    stop.wait()


def no_reading(plug: socket.socket, stop: threading.Event) -> None:
    data = TEN_MINUTES
    plug.sendall(post("/v1/decode", len(data)) + data)
    stop.wait()


def no_reading_of_a_stream(plug: socket.socket, stop: threading.Event) -> None:
    data = TEN_MINUTES
    plug.sendall(post(STREAM, len(data)) + data)
    stop.wait()


def much_json(plug: socket.socket, stop: threading.Event) -> None:
    data = MUCH_JSON
    plug.sendall(post("/v1/decode", len(data)) + data)
    plug.recv(1000)


def json_as_allowed(plug: socket.socket, stop: threading.Event) -> None:
    data = ALLOWED_JSON
    plug.sendall(post("/v1/decode", len(data)) + data)
    plug.recv(1000)


def tiny_chunks(plug: socket.socket, stop: threading.Event) -> None:
    head = b"POST /v1/decode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    plug.sendall(head + b"1\r\nx\r\n" * 400_000)
    plug.recv(1000)


def nothing(plug: socket.socket, stop: threading.Event) -> None:
    stop.wait()


def half_a_header(plug: socket.socket, stop: threading.Event) -> None:
    plug.sendall(b"POST /v1/decode HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    while not stop.wait(0.5):
        plug.sendall(b"x")


def much_health(plug: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        plug.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)


Client = Callable[[socket.socket, threading.Event], None]
ATTACKS: list[tuple[str, list[tuple[int, Client]]]] = [
    ("18 clients that send one byte", [(18, one_byte)]),
    ("200 clients that send one byte", [(200, one_byte)]),
    ("200 clients that send 1.9 MB of 2", [(200, half_a_body)]),
    ("200 clients that do not read ten minutes of audio", [(200, no_reading)]),
    ("200 clients that do not read a stream", [(200, no_reading_of_a_stream)]),
    ("18 clients with 10 MB of JSON", [(18, much_json)]),
    ("18 clients with 2 MB of JSON", [(18, json_as_allowed)]),
    ("200 clients that say nothing", [(200, nothing)]),
    ("200 clients with headers that do not end", [(200, half_a_header)]),
    ("4 clients that ask for health without reading", [(4, much_health)]),
    ("100 clients with chunks of one byte", [(100, tiny_chunks)]),
    (
        "all of them at once",
        [
            *[(60, one_byte), (30, half_a_body), (40, no_reading), (40, no_reading_of_a_stream), (9, much_json)],
            *[(9, json_as_allowed), (60, nothing), (60, half_a_header), (2, much_health), (9, tiny_chunks)],
        ],
    ),
    ("700 clients that say nothing", [(700, nothing)]),
]


class Attack:
    """Runs the given numbers of clients of each kind inside the ``with``; clients that are cut off reconnect."""

    def __init__(self, port: int, kinds: list[tuple[int, Client]]) -> None:
        self._stop, self._port = threading.Event(), port
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), daemon=True) for n, kind in kinds for _ in range(n)
        ]

    def _run(self, kind: Client) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 10) as plug:
                kind(plug, self._stop)
            self._stop.wait(0.3)

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)


def withstand(port: int, pid: int, seconds: float, tokens: np.ndarray, pcm: np.ndarray) -> None:
    url, data = f"http://127.0.0.1:{port}", npy(tokens)
    print("| attack | honest answers | told to wait | slowest answer | slowest /readyz | peak memory |")
    print("|---|---|---|---|---|---|")
    for name, kinds in ATTACKS:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
        slowest_health, slowest, told, right = 0.0, 0.0, 0, 0
        over = threading.Event()

        def health(over: threading.Event = over) -> None:
            nonlocal slowest_health
            while not over.wait(0.1):
                begun = time.perf_counter()
                with socket.create_connection(("127.0.0.1", port), 30) as plug:
                    plug.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    answer = b"".join(iter(lambda: plug.recv(1000), b""))
                slowest_health = max(slowest_health, time.perf_counter() - begun)
                assert b'"requests"' in answer, answer

        with Attack(port, kinds), ThreadPoolExecutor(1) as asking:
            checked = asking.submit(health)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or not right:
                assert time.perf_counter() < end + 60, f"{name}: no honest client is served"
                begun = time.perf_counter()
                status, answer = ask(url + "/v1/decode", data)
                assert status in (200, 429, 503), (name, status, answer[:100])
                if status == 200:
                    given = soundfile.read(io.BytesIO(answer), dtype="int16")[0]
                    assert np.abs(given.astype(int) - pcm).max() <= 1, "another result"
                    slowest = max(slowest, time.perf_counter() - begun)
                right, told = right + (status == 200), told + (status != 200)
                time.sleep(0.05)
            over.set()
            checked.result()
        peak = memory(pid)
        print(f"| {name} | {right} | {told} | {slowest:.2f} s | {slowest_health:.2f} s | {peak} MB |", flush=True)
        assert slowest_health <= 1 and peak <= 1000, name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="of each kind of client")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tokens = np.random.default_rng(0).integers(1024, size=(8, 75))
    pcm = np.round(VocosONNX(threads=1).decode(tokens) * 32768).clip(-32768, 32767).astype(np.int16)
    server = subprocess.Popen([sys.executable, "-m", "vocos_onnx", "serve", "--port", str(port)])
    try:
        wait_for(f"http://127.0.0.1:{port}")
        withstand(port, server.pid, args.seconds, tokens, pcm)
        with Attack(port, [(1, one_byte), (1, no_reading), (1, no_reading_of_a_stream), (1, half_a_header)]):
            time.sleep(1)
            begun = time.perf_counter()
            server.terminate()
            code = server.wait(30)
            print(f"- from SIGTERM to the end {time.perf_counter() - begun:.1f} s, exit code {code}")
            assert code == 128 + signal.SIGTERM
    finally:
        server.kill()
        server.wait(20)


if __name__ == "__main__":
    main()
