"""What examples/server.py holds: python examples/load_test.py [--clients 32] [--requests 2000]

Starts the server on this machine, and many clients at once, each with one request after the other: tokens of 1 to 5 s,
one in ten of them wrong. Who is told to wait (429) asks again. Every answer must be what the library gives, or 400 for
what is wrong; some clients go away in the middle of an answer.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from vocos_onnx import VocosONNX

HERE = Path(__file__).resolve().parent


def ask(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "server:app", "--port", str(port)]
    settings = {"VOCOS_MAX_BODY": "2000000", "VOCOS_MAX_SECONDS": "60"}
    server = subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, **settings})
    try:
        begun = time.perf_counter()
        while True:
            try:
                status, body = ask(f"{url}/health")
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        print(f"- up after {time.perf_counter() - begun:.1f} s: {body.decode()}")
        vocos = VocosONNX(threads=1)
        tokens = [np.random.default_rng(i).integers(1024, size=(8, 75 * (1 + i % 5))) for i in range(20)]
        pcm = [np.round(vocos.decode(t) * 32768).clip(-32768, 32767).astype(np.int16) for t in tokens]

        turned_away = 0

        def one(i: int) -> tuple[str, float]:
            nonlocal turned_away
            bad, path = i % 10 == 0, "/decode" if i % 3 else "/stream"
            data = npy(tokens[i % 20] + (1024 if bad else 0))
            if i % 23 == 0:
                with socket.create_connection(("127.0.0.1", port)) as gone:
                    head = f"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
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
            if path == "/decode":
                given = soundfile.read(io.BytesIO(answer), dtype="int16")[0]
            else:
                given = np.frombuffer(answer, ">i2")
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
            "too large": ("/decode", bytes(3_000_000), 413),
            "six times too large": ("/decode", bytes(12_000_000), 413),
            "too long": ("/decode", npy(np.zeros((2, 75 * 61), int)), 400),
            "empty": ("/decode", b"", 400),
            "damaged": ("/decode", b"\x93NUMPY\x01\x00garbage", 400),
            "a pickle": ("/decode", b"\x80\x04K\x01.", 400),
            "JSON": ("/decode", json.dumps({"tokens": tokens[0][:2].tolist()}).encode(), 200),
            "bad JSON": ("/decode", b'{"tokens": [[1], [2, 3]]}', 400),
            "bad id": ("/decode?bandwidth_id=9", npy(tokens[0]), 400),
            "no number": ("/decode?bandwidth_id=x", npy(tokens[0]), 400),
            "audio": ("/resynth?bandwidth=1.5", recording.getvalue(), 200),
            "no audio": ("/resynth", b"hello", 400),
            "bad bandwidth": ("/resynth?bandwidth=5", recording.getvalue(), 400),
            "no such path": ("/other", b"x", 404),
        }
        with socket.create_connection(("127.0.0.1", port)) as polite:  # asks before it sends the body
            polite.sendall(
                b"POST /decode HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert polite.recv(100).startswith(b"HTTP/1.1 413"), "the body was let in before it was refused"
        for name, (path, data, expected) in wrong.items():
            status, answer = ask(url + path, data)
            assert status == expected, (name, status, answer[:200])
        print(
            f"- {len(wrong)} single requests, {sum(e >= 400 for _, _, e in wrong.values())} of them wrong: as expected"
        )
        status, body = ask(f"{url}/health")
        assert json.loads(body) == {"status": "ok", "waiting": 0, "providers": vocos.providers}, body
        print(f"- in the end {body.decode()}, peak memory {memory(server.pid)} MB")
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
