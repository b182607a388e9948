"""What vocos-onnx serve holds: python benchmarks/load_test.py [--clients 32] [--requests 2000] [--attack 5]

Starts the server on this machine, and many clients at once, each with one request after the other: tokens of 1 to 5 s,
one in ten of them wrong. Who is told to wait (429) asks again. Every answer must be what the library gives, or 400 for
what is wrong; some clients go away in the middle of an answer.

Then come clients that mean no good, ``--attack`` seconds of each kind: a single byte, no reading, much JSON, nothing at
all. Meanwhile /readyz must answer within a second, and an honest client must get the right audio; the server may take
1 GB. In the end SIGTERM, with slow clients there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from vocos_onnx import VocosONNX

STREAM = "/v1/decode?stream=true&format=pcm"
SERVE = [sys.executable, "-m", "vocos_onnx", "serve"]


def ask(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_for(url: str) -> bytes:
    while True:
        with contextlib.suppress(urllib.error.URLError):
            status, body = ask(f"{url}/readyz")
            if status == 200:
                return body
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
    """So many clients of some kinds, for as long as the ``with`` lasts: who is cut off comes back."""

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
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak from here on
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
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--attack", type=float, default=5, help="seconds of each kind; 0 for none")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([*SERVE, "--port", str(port), "--max-body", "2", "--max-seconds", "60"])
    try:
        begun = time.perf_counter()
        body = wait_for(url)
        print(f"- up after {time.perf_counter() - begun:.1f} s: {body.decode()}")
        vocos = VocosONNX(threads=1)
        tokens = [np.random.default_rng(i).integers(1024, size=(8, 75 * (1 + i % 5))) for i in range(20)]
        pcm = [np.round(vocos.decode(t) * 32768).clip(-32768, 32767).astype(np.int16) for t in tokens]

        turned_away = 0

        def one(i: int) -> tuple[str, float]:
            nonlocal turned_away
            bad, path = i % 10 == 0, "/v1/decode" if i % 3 else STREAM
            data = npy(tokens[i % 20] + (1024 if bad else 0))
            if i % 23 == 0:
                with socket.create_connection(("127.0.0.1", port)) as gone:
                    head = f"POST {STREAM} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
                    gone.sendall(head.encode() + data)
                return "went away", 0.0
            start, status = time.perf_counter(), 429
            while status == 429:
                status, answer = ask(url + path, data)
                if status == 429:
                    turned_away += 1
                    time.sleep(0.02)
            took = time.perf_counter() - start
            if bad:
                assert status == 400 and "expected 0 to 1023" in json.loads(answer)["error"], (status, answer[:100])
                return "400, with the reason", took
            assert status == 200, (status, answer[:200])
            if path == "/v1/decode":
                given = soundfile.read(io.BytesIO(answer), dtype="int16")[0]
            else:
                given = np.frombuffer(answer, "<i2")
            # a stream rounds otherwise in the last bit of float32
            assert np.abs(given.astype(int) - pcm[i % 20]).max() <= 1, "another result"
            return "200, right", took

        begun = time.perf_counter()
        with ThreadPoolExecutor(args.clients) as clients:
            results = list(clients.map(one, range(args.requests)))
        took = time.perf_counter() - begun
        counts = Counter(kind for kind, _ in results)
        served = sorted(seconds for kind, seconds in results if kind.startswith("200"))
        audio = (
            sum(len(pcm[i % 20]) for i, (kind, _) in enumerate(results) if kind.startswith("200")) / vocos.sample_rate
        )
        print(
            f"- {args.clients} clients, {args.requests} requests in {took:.1f} s: "
            + ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items()))
            + f"; told to wait {turned_away} times"
        )
        print(
            f"- {len(served) / took:.0f} answers/s, {audio / took:.0f} s of audio in a second; latency median "
            f"{1e3 * statistics.median(served):.0f} ms, 99 % {1e3 * served[int(0.99 * len(served))]:.0f} ms"
        )
        recording = io.BytesIO()
        soundfile.write(recording, pcm[4] / 32768, 24_000, format="FLAC")
        wrong = {
            "too large": ("/v1/decode", bytes(3_000_000), 413),
            "six times too large": ("/v1/decode", bytes(12_000_000), 413),
            "too long": ("/v1/decode", npy(np.zeros((2, 75 * 61), int)), 400),
            "empty": ("/v1/decode", b"", 400),
            "damaged": ("/v1/decode", b"\x93NUMPY\x01\x00garbage", 400),
            "a pickle": ("/v1/decode", b"\x80\x04K\x01.", 400),
            "JSON": ("/v1/decode", json.dumps({"tokens": tokens[0][:2].tolist()}).encode(), 200),
            "bad JSON": ("/v1/decode", b'{"tokens": [[1], [2, 3]]}', 400),
            "bad id": ("/v1/decode?bandwidth_id=9", npy(tokens[0]), 400),
            "no number": ("/v1/decode?bandwidth_id=x", npy(tokens[0]), 400),
            "audio": ("/v1/resynth?bandwidth=1.5", recording.getvalue(), 200),
            "no audio": ("/v1/resynth", b"hello", 400),
            "bad bandwidth": ("/v1/resynth?bandwidth=5", recording.getvalue(), 400),
            "no such path": ("/other", b"x", 404),
        }
        with socket.create_connection(("127.0.0.1", port)) as polite:  # asks before it sends the body
            polite.sendall(
                b"POST /v1/decode HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert polite.recv(100).startswith(b"HTTP/1.1 413"), "the body was let in before it was refused"
        for name, (path, data, expected) in wrong.items():
            status, answer = ask(url + path, data)
            assert status == expected, (name, status, answer[:200])
        print(
            f"- {len(wrong)} single requests, {sum(e >= 400 for _, _, e in wrong.values())} of them wrong: as expected"
        )
        status, body = ask(f"{url}/readyz")
        assert json.loads(body) == {"status": "ok", "requests": 0, "held_bytes": 0}, body
        print(f"- in the end {body.decode()}, peak memory {memory(server.pid)} MB")
        server.terminate()
        server.wait(20)
        if args.attack:  # with the settings that it has by default
            server = subprocess.Popen([*SERVE, "--port", str(port)])
            wait_for(url)
            withstand(port, server.pid, args.attack, tokens[0], pcm[0])
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
