"""Real-time streams over the WebSocket of vocos-onnx serve: python benchmarks/service_streams.py

    python benchmarks/service_streams.py [--streams 100] [--minutes 5] [--model M] [--threads 1] [--chunk 8]

Each stream sends a chunk of frames when a microphone or a language model would have it, whether or not the previous one
has been answered, and begins a new sequence about every half a minute. The clients run in one process, on the same
machine as the server. Times count from when a chunk was due. Prints the share of chunks answered within 100 ms,
percentiles, the time to the first audio of sequences, and the CPU time of both processes. Exits with 1 if an answer is
missing or wrong, or if the server's memory grows after the first third.

A virtual machine may be slowed down from outside, for a tenth of a second at a time. A process of real-time priority,
which nothing on the machine itself can slow down, measures when that is so, if it is allowed that priority. Chunks of
all times count; those outside of such phases are a second figure.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import time
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

WITHIN = 0.1  # seconds
GROWTH = 1.1  # the most that resident memory may grow
LENGTHS = (200, 400)  # chunks of a sequence
BIN = 0.02  # seconds
AFTER = 0.25  # seconds after a phase in which the machine was slow until its backlog has been worked off
TICKS = os.sysconf("SC_CLK_TCK")


class Listener(asyncio.Protocol):
    """One client that does as little work as possible: its CPU time is taken from the server.

    latencies: seconds from when a chunk was due to its answer. dues: when these were due. firsts: latencies of the
    chunks that completed the frames which the first audio of a sequence needs. audio: that of the first sequence, if
    ``keeps``.
    """

    def __init__(self, start: bytes, chunks: list[bytes], interval: float, until: float, seed: int, keeps: bool):
        self._start, self._chunks, self._interval, self._until = start, chunks, interval, until
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._due: deque[float] = deque()
        self.latencies: list[float] = []
        self.dues: list[float] = []
        self.firsts: list[float] = []
        self.audio: list[bytes] | None = [] if keeps else None
        self.sent: list[int] = []  # indices of the chunks sent in the first sequence
        self.sequences, self.wrong = 0, ""
        self._is_open = self._has_audio = False
        self._frames = self._bytes = 0
        self.done: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"the connection was lost: {error}")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._fail(bytes(rest or head).decode(errors="replace"))
                return
            self._is_open, self._buffer = True, bytearray(rest)
            self._begin()
        while len(self._buffer) >= 2:
            code, size, first = self._buffer[0] & 15, self._buffer[1], 2
            if size == 126:
                size, first = int.from_bytes(self._buffer[2:4], "big"), 4
            elif size == 127:
                size, first = int.from_bytes(self._buffer[2:10], "big"), 10
            if len(self._buffer) < first + size:
                return
            payload = bytes(self._buffer[first : first + size])
            del self._buffer[: first + size]
            self._receive(code, payload)

    def _receive(self, code: int, payload: bytes) -> None:
        if code == 2:
            self._answered(payload)
        elif code == 1:
            message = json.loads(payload)
            if message["type"] == "started":
                self._next_at(self._loop.time() + self._random.random() * self._interval)
            elif message["type"] == "end":
                self._ended(message)
            else:
                self._fail(message["error"])
        elif code == 8:
            self._fail(f"closed with {payload[2:].decode()}")
        elif code == 9:
            self._transport.write(framed(10, payload))

    def _begin(self) -> None:
        self._left = self._random.randint(*LENGTHS)
        self._has_audio, self._frames, self._bytes = False, 0, 0
        self._transport.write(self._start)

    def _next_at(self, due: float) -> None:
        self._loop.call_at(due, self._push, due)

    def _push(self, due: float) -> None:
        if self.done.done():
            return
        if not self._left or time.monotonic() >= self._until:
            self._due.append(math.nan)  # the end is not a chunk, and is not timed
            self._transport.write(FLUSH)
            return
        self._due.append(due)
        self._left -= 1
        which = self._random.randrange(len(self._chunks))
        if self.audio is not None and not self.sequences:
            self.sent.append(which)
        self._frames += 1
        self._transport.write(self._chunks[which])
        self._next_at(due + self._interval)

    def _answered(self, audio: bytes) -> None:
        due = self._due.popleft()
        took = self._loop.time() - due
        if not math.isnan(took):
            self.latencies.append(took)
            self.dues.append(due)
            if audio and not self._has_audio:
                self._has_audio = True
                self.firsts.append(took)
        self._bytes += len(audio)
        if self.audio is not None and not self.sequences:
            self.audio.append(audio)

    def _ended(self, message: dict[str, Any]) -> None:
        if self._due or message["samples"] * 2 != self._bytes:
            self._fail(f"{len(self._due)} answers are missing, or samples: {message}, {self._bytes} bytes")
            return
        self.sequences += 1
        if time.monotonic() >= self._until:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._begin()

    def _fail(self, why: str) -> None:
        self.wrong = self.wrong or why
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


def framed(code: int, payload: bytes) -> bytes:
    """A client's WebSocket frame, with a mask of zeros."""
    size = len(payload)
    head = struct.pack("!BB", 128 | code, 128 | size) if size < 126 else struct.pack("!BBH", 128 | code, 254, size)
    return head + bytes(4) + payload


FLUSH = framed(1, b'{"type": "flush"}')


def clients(given: dict[str, Any]) -> dict[str, Any]:
    """Runs the clients in their process; returns the report."""
    rng = np.random.default_rng(0)
    chunks = chunks_of(rng, given)
    frames = [framed(2, chunk.tobytes()) for chunk in chunks]
    start = framed(1, json.dumps(given["start"]).encode())

    async def main() -> list[Listener]:
        loop, until = asyncio.get_running_loop(), time.monotonic() + given["seconds"]
        listeners = []
        for number in range(given["streams"]):
            listener = Listener(start, frames, given["interval"], until, number, keeps=not number)
            await loop.create_connection(lambda listener=listener: listener, "127.0.0.1", given["port"])  # type: ignore[misc]
            listeners.append(listener)
        await asyncio.wait([listener.done for listener in listeners], timeout=given["seconds"] + 60)
        return listeners

    listeners = asyncio.run(main())
    return {
        "latencies": [round(one, 5) for listener in listeners for one in listener.latencies],
        "dues": [round(one, 3) for listener in listeners for one in listener.dues],
        "firsts": [round(one, 5) for listener in listeners for one in listener.firsts],
        "sequences": sum(listener.sequences for listener in listeners),
        "wrong": [listener.wrong for listener in listeners if listener.wrong],
        "hanging": sum(not listener.done.done() for listener in listeners),
        "sent": listeners[0].sent,
        "audio": b"".join(listeners[0].audio or []).hex(),
        "cpu": time.process_time(),
    }


def chunks_of(rng: np.random.Generator, given: dict[str, Any]) -> list[np.ndarray]:
    """Random chunks (frames, codebooks or channels), in the layout in which they are sent."""
    shape = (given["chunk"], given["width"])
    if given["start"]["kind"] == "tokens":
        return [rng.integers(1024, size=shape).astype("<u2") for _ in range(50)]
    return [rng.uniform(-8, 2, shape).astype("<f4") for _ in range(50)]


def slow_phases(seconds: float) -> list[float] | None:
    """When the machine ran at less than a third of its usual speed, in bins of BIN seconds of the monotonic clock.

    Measured every 5 ms, with 50 us of work, at real-time priority. None if that is not permitted.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    except (AttributeError, PermissionError):
        return None
    found: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        for _ in range(500):
            pass
        found.append((begun, time.monotonic() - begun))
        time.sleep(0.005)
    usual = sorted(took for _, took in found)[len(found) // 2]
    return sorted({begun // BIN * BIN for begun, took in found if took > 3 * usual})


class Watched:
    """Memory and CPU time of a process, from /proc."""

    def __init__(self, pid: int):
        self._folder = Path(f"/proc/{pid}")

    def memory(self) -> float:
        """Resident memory, in MB."""
        return int(re.search(r"VmRSS:\s*(\d+)", (self._folder / "status").read_text())[1]) / 1024  # type: ignore[index]

    def cpu(self) -> float:
        """CPU seconds of all threads."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def percentiles(seconds: list[float]) -> str:
    values = np.percentile(np.array(seconds or [np.nan]) * 1000, [50, 90, 99, 99.9, 100])
    return " / ".join(f"{value:.0f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="as vocos-onnx serve takes it; by default the bundled codec")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the server's networks")
    parser.add_argument("--chunk", type=int, default=8, help="frames")
    parser.add_argument("--codebooks", type=int, default=8)
    parser.add_argument("--clients", help=argparse.SUPPRESS)
    parser.add_argument("--meter", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.meter:
        json.dump(slow_phases(args.meter), sys.stdout)
        return
    if args.clients:
        json.dump(clients(json.loads(args.clients)), sys.stdout)
        return
    model = [] if args.model is None else ["--model", f"model={args.model}"]
    sizes = ["--streams", str(args.streams), "--connections", str(max(64, 3 * args.streams))]
    command = [sys.executable, "-m", "vocos_onnx", "serve", "--port", "0", "--threads", str(args.threads)]
    server = subprocess.Popen([*command, *model, *sizes], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        ended = measure(server, args)
    finally:
        server.terminate()
        server.wait(30)
    sys.exit(ended)


def measure(server: subprocess.Popen[str], args: argparse.Namespace) -> int:
    """Prints the figures; returns the exit code."""
    assert server.stdout is not None
    line = server.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    if match is None:
        print(line + server.stdout.read())
        return 1
    port = int(match[1])
    description: dict[str, Any] = {}
    while not description.get("loaded"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as answer:
            description = json.load(answer)["models"][0]
        time.sleep(0.05)
    is_codec, seconds = description["kind"] == "tokens", 60 * args.minutes
    width = min(args.codebooks, max(description["codebooks"])) if is_codec else description["channels"]
    given = {
        "start": {"type": "start", "kind": description["kind"], "codebooks" if is_codec else "channels": width},
        "width": width,
        "chunk": args.chunk,
        "interval": args.chunk * description["hop_length"] / description["sample_rate"],
        "streams": args.streams,
        "seconds": seconds,
        "port": port,
    }
    watched = Watched(server.pid)
    cpu, began = watched.cpu(), time.monotonic()
    command = [sys.executable, __file__, "--clients", json.dumps(given)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    meter = subprocess.Popen([sys.executable, __file__, "--meter", str(seconds)], stdout=subprocess.PIPE, text=True)
    memory: list[float] = []
    while time.monotonic() < began + seconds:
        time.sleep(min(1, seconds / 20))
        memory.append(watched.memory())
    report, slow = json.loads(process.communicate()[0]), json.loads(meter.communicate()[0])
    took, cpu = time.monotonic() - began, watched.cpu() - cpu
    latencies, chunks = np.array(report["latencies"]), len(report["latencies"])
    third = memory[len(memory) // 3]
    off = difference(report, given, args.model)
    share = float((latencies <= WITHIN).mean()) if chunks else 0.0
    what = f"{args.streams} streams, chunks of {args.chunk} frames ({1000 * given['interval']:.0f} ms), {took:.0f} s"
    print(f"| {what} | {description['name']}, {description['precision']}, {args.threads} thread(s) |\n|---|---|")
    print(f"| chunks; answered within {1000 * WITHIN:.0f} ms | {chunks}; {100 * share:.3f} % |")
    if slow is not None:
        apart = latencies[is_apart(np.array(report["dues"]), np.array(slow))]
        share, took_slow = float((apart <= WITHIN).mean()) if len(apart) else 0.0, BIN * len(slow) / seconds
        print(f"| time in which the machine was slowed down from outside | {100 * took_slow:.1f} % |")
        what = f"chunks that were due at other times; within {1000 * WITHIN:.0f} ms"
        print(f"| {what} | {len(apart)}; {100 * share:.3f} % |")
    print(f"| ms to the answer: median / 90 % / 99 % / 99.9 % / most | {percentiles(report['latencies'])} |")
    print(f"| ms to the first audio, after the frames it needs | {percentiles(report['firsts'])} |")
    print(f"| memory of the server: start / middle / end / most | {memory[0]:.0f} / {memory[len(memory) // 2]:.0f} / "
          f"{memory[-1]:.0f} / {max(memory):.0f} MB |")  # fmt: skip
    print(f"| cores: server, clients | {cpu / took:.2f}, {report['cpu'] / took:.2f} |")
    print(f"| ms of the server for a chunk, all threads | {1000 * cpu / max(1, chunks):.2f} |")
    print(f"| sequences; steps of 16 bits from decode | {report['sequences']}; {off:.2f} |")
    for wrong in report["wrong"][:5]:
        print(f"a stream failed: {wrong}")
    grown = max(memory[len(memory) // 3 :]) > GROWTH * third + 5
    return int(bool(report["wrong"] or report["hanging"] or not report["sequences"] or off > 1 or grown))


def is_apart(dues: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Which chunks were due neither shortly before, nor during, nor shortly after a phase in which it was slow."""
    return np.searchsorted(slow, dues - AFTER) == np.searchsorted(slow, dues + WITHIN)


def difference(report: dict[str, Any], given: dict[str, Any], model: str | None) -> float:
    """The difference of the first sequence of one stream from ``decode``, in 16-bit steps."""
    from vocos_onnx import VocosONNX

    chunks = chunks_of(np.random.default_rng(0), given)
    whole = np.concatenate([chunks[which] for which in report["sent"]]).T
    vocos = VocosONNX(model, threads=1)
    expected = (vocos.decode(whole.astype(np.int64) if whole.dtype.kind == "u" else whole) * 32768).clip(-32768, 32767)
    audio = np.frombuffer(bytes.fromhex(report["audio"]), "<i2")
    if audio.shape != expected.shape:
        return float("inf")
    return float(np.abs(audio - expected).max(initial=0))


if __name__ == "__main__":
    main()
