"""Tests vocos_onnx/serve/limits.py around a small application, with clients that exceed each of its bounds."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.service.process import Answer, Server, closed, request, rest

SHORT = {
    "places": 2, "long_places": 1, "max_body": 100_000, "memory": 4_000_000, "connections": 20, "header_seconds": 0.6,
    "body_seconds": 2.0, "body_rate": 1000, "body_window": 0.5, "answer_seconds": 0.8, "linger": 0.5, "patience": 0.4,
    "end_seconds": 3,
}  # fmt: skip
Start = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(params=["h11", "httptools"])
def protocol(request: pytest.FixtureRequest) -> str:
    assert importlib.util.find_spec(request.param), f"{request.param} is not installed: pip install .[test]"
    return request.param


@pytest.fixture
def start(protocol: str) -> Start:
    def started(log: str = "error", **bounds: float) -> Server:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        command = ["-m", "uvicorn", "small_app:app", "--http", protocol, "--log-level", log, "--no-access-log"]
        return Server(*command, PYTHONPATH=path, BOUNDS=json.dumps({**SHORT, **bounds}))

    return started


@pytest.fixture
def server(start: Start) -> Iterator[Server]:
    with start() as running:
        yield running
        state = running.health()[1]
        deadline = time.monotonic() + 5
        while state["held"] and time.monotonic() < deadline:
            time.sleep(0.05)
            state = running.health()[1]
        assert (state["held"], state["working"], state["long"]) == (0, 0, 0)


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_in_bounds_is_served(server: Server) -> None:
    body = os.urandom(100_000)
    assert server.ask("/echo", body).body == body
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:7], body[7:70_000], body[70_000:])) + b"0\r\n\r\n"
    head = request("/echo", b"", "Transfer-Encoding: chunked", "Connection: close")
    assert server.say(head + chunks).body == body
    assert server.ask("/echo?size=3000000").body == bytes(3_000_000)
    assert server.ask("/echo?pieces=20&size=100000").body == bytes(2_000_000)
    assert server.ask("/echo", method="HEAD").raw.endswith(b"\r\n\r\n")
    assert server.ask("/echo", method="GET").body == b""


def test_body_that_does_not_come(server: Server) -> None:
    plugs = [server.connect(request("/echo", b"x", length=1000)) for _ in range(10)]
    time.sleep(0.2)
    assert server.health()[1]["working"] == 0  # though there are more of them than places
    assert server.ask("/echo", b"honest").body == b"honest"
    for plug in plugs:
        answer = Answer(rest(plug))
        assert answer.status == 408 and "too slowly" in answer.json()["error"]
        assert answer.headers["connection"] == "close"
    assert server.health()[1]["bodies"] == 1


def test_body_that_comes_slowly(server: Server) -> None:
    def pour(size: int, pause: float) -> bytes:
        with server.connect(request("/echo", length=100_000)) as plug:
            with contextlib.suppress(ConnectionError):
                for _ in range(round(6 / pause)):
                    plug.sendall(bytes(size))
                    time.sleep(pause)
                    plug.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        head = plug.recv(1000)
                        plug.settimeout(20)
                        return head + rest(plug)  # the body may arrive separately
                    plug.setblocking(True)
            return rest(plug)

    assert b"too slowly" in pour(10, 0.1)  # 100 bytes/s
    assert b"within 2 s" in pour(200, 0.1)  # 2 kB/s is fast enough, but takes too long in all


def test_body_that_is_too_large(server: Server) -> None:
    answer = server.ask("/echo", bytes(200_000))  # this client reads only after sending everything
    assert answer.status == 413 and "at most 100000" in answer.json()["error"]
    head = request("/echo", b"", "Transfer-Encoding: chunked", "Connection: close")
    assert server.say(head + (b"8000\r\n" + bytes(0x8000) + b"\r\n") * 5 + b"0\r\n\r\n").status == 413
    with server.connect(request("/echo", b"", "Expect: 100-continue", length=200_000)) as plug:
        assert plug.recv(1000).startswith(b"HTTP/1.1 413")
    with server.connect(request("/echo", b"", "Expect: 100-continue", "Connection: close", length=3)) as plug:
        assert plug.recv(1000).startswith(b"HTTP/1.1 100")
        plug.sendall(b"abc")
        assert Answer(rest(plug)).body == b"abc"


UNCERTAIN = [
    ["Content-Length: 3", "Content-Length: 5"],
    ["Content-Length: 3", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: 3"],
    ["Content-Length: -3"],
    ["Content-Length: +3"],
    ["Content-Length: 3_0"],
    ["Content-Length: 0x3"],
    ["Content-Length: \xb2"],
    ["Content-Length: " + "9" * 400],
    ["Transfer-Encoding: chunked, chunked"],
    ["Transfer-Encoding: xchunked"],
    ["Content-Length : 3"],
    ["X: " + "x" * 100_000],
    [*(f"X{i}: {'x' * 1000}" for i in range(100))],
]


def test_request_whose_end_is_uncertain_or_far(server: Server) -> None:
    smuggled = request("/echo?size=7", b"", method="GET")
    for headers in UNCERTAIN:
        lines = "".join(f"{line}\r\n" for line in ["POST /echo HTTP/1.1", "Host: x", *headers])
        with server.connect() as plug:
            with contextlib.suppress(ConnectionError):
                plug.sendall(lines.encode("latin-1") + b"\r\n" + b"0\r\n\r\n" + smuggled)
            data = rest(plug)
        # what follows must not be taken for a request
        assert data.count(b"HTTP/1.1 ") <= 1 and b"HTTP/1.1 2" not in data, (headers[0][:50], data[:300])
        if data:
            assert Answer(data).status in (400, 413, 431, 501), headers[0][:50]


def test_one_connection_for_many_requests(server: Server) -> None:
    last = request("/echo", b"third", "Connection: close")
    data = server.say(request("/echo", b"first") + request("/echo", b"second") + last).raw
    assert [data.find(word) > 0 for word in (b"first", b"second", b"third")] == [True] * 3
    assert data.find(b"first") < data.find(b"second") < data.find(b"third")


def test_answer_that_is_not_read(server: Server) -> None:
    plugs = [server.connect(request("/echo?size=1500000"), receive_buffer=4096) for _ in range(2)]
    until(lambda: server.health()[1]["held"] >= 3_000_000)
    state = server.health()[1]
    assert state["working"] == 0  # sending an answer takes no place
    assert server.ask("/echo?size=500000").status == 200
    until(lambda: server.health()[1]["held"] == 0)  # they are cut off, and their memory is freed
    for plug in plugs:
        assert 0 < len(rest(plug)) < 1_500_000


def test_stream_is_made_as_fast_as_it_is_read(server: Server) -> None:
    with server.connect(request("/echo?pieces=1000&size=60000"), receive_buffer=4096) as plug:
        time.sleep(0.5)
        made = server.health()[1]["pieces"]
        assert made < 20
        for _ in range(400):
            plug.recv(4096)
        until(lambda: server.health()[1]["pieces"] > made)
        assert server.health()[1]["pieces"] < made + 40
        until(lambda: server.health()[1]["cancelled"] == 1)


def test_places(server: Server) -> None:
    busy = [server.connect(request("/echo?sleep=700", b"x", "Connection: close")) for _ in range(2)]
    until(lambda: server.health()[1]["working"] == 2)
    answer = server.ask("/echo", b"x")
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert [Answer(rest(plug)).body for plug in busy] == [b"x"] * 2
    assert server.ask("/echo", b"x").status == 200


def test_long_requests_leave_places(server: Server) -> None:
    with server.connect(request("/echo?sleep=700&long=1", b"x", "Connection: close")) as busy:
        until(lambda: server.health()[1]["long"] == 1)
        assert server.ask("/echo?long=1", b"x").status == 429
        assert server.ask("/echo", b"x").status == 200
        assert Answer(rest(busy)).status == 200


def test_memory(start: Start) -> None:
    with start(answer_seconds=20, body_seconds=20, body_window=20, places=10) as server:
        with server.connect(request("/echo?hold=3500000&sleep=600", b"x", "Connection: close")) as busy:
            until(lambda: server.health()[1]["held"] == 3_500_000)
            answer = server.ask("/echo?hold=1000000", b"x")  # nothing else is slow
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert Answer(rest(busy)).status == 200
        assert server.ask("/echo?hold=5000000", b"x").status == 413  # will never fit
        assert server.ask("/echo?size=5000000", b"x").status == 413  # nor will this undeclared answer
        # slow clients are dropped, the slowest first
        bodies = [server.connect(request("/echo", bytes(90_000), length=95_000)) for _ in range(8)]
        unread = server.connect(request("/echo?size=2000000"), receive_buffer=4096)
        until(lambda: server.health()[1]["held"] > 3_000_000)
        time.sleep(0.5)
        assert server.ask("/echo?hold=1500000", b"x").status == 200
        assert Answer(rest(bodies[0])).status == 503
        assert server.ask("/echo?hold=3900000", b"x").status == 200
        assert len(rest(unread)) < 2_000_000
        assert server.health()[1]["held"] == 0
        for plug in bodies:
            plug.close()


def test_connections(server: Server) -> None:
    silent = [server.connect() for _ in range(30)]
    took, _ = server.health()
    assert took < 1
    assert server.ask("/echo", b"honest").body == b"honest"
    assert closed(silent[0], 0.1) is not None
    slow = [server.connect(request("/echo", b"x", length=1000)) for _ in range(30)]
    time.sleep(0.1)  # they exceed the 20 connections, and one with unread data is not closed for another
    took, _ = server.health()
    assert took < 1
    time.sleep(0.45)  # until they have kept the service waiting for longer than patience
    assert server.ask("/echo", b"honest").body == b"honest"
    for plug in [*silent, *slow]:
        assert closed(plug, 5) is not None
        plug.close()


@pytest.mark.parametrize("length", [1000, 200_000])
def test_bodies_that_do_not_come_give_way_to_who_has_just_connected(start: Start, length: int) -> None:
    """Neither a silent new health check nor a body that keeps arriving is closed for others, or refused."""
    with start(patience=10, body_window=10, linger=10, header_seconds=10) as server:
        comes = server.connect(request("/echo", b"", "Connection: close", length=60_000))
        unfinished = [server.connect(request("/echo", length=length)) for _ in range(14)]  # 413 for the longer ones
        for _ in range(40):
            comes.sendall(bytes(1000))
            time.sleep(0.01)
        check = server.connect()
        silent = []
        for _ in range(10):
            silent.append(server.connect())
            comes.sendall(bytes(1000))
            time.sleep(0.01)
        check.sendall(request("/healthz", b"", "Connection: close", method="GET"))
        assert Answer(rest(check)).status == 200
        assert server.ask("/echo", b"honest").body == b"honest"
        comes.sendall(bytes(10_000))
        assert Answer(rest(comes)).body == bytes(60_000)
        assert [closed(plug, 0.1) is None for plug in silent] == [True] * 10
        assert closed(unfinished[0], 0.1) is not None


def test_burst_of_connections(start: Start) -> None:
    """A client that finds the listen queue full retries only after a second, so the queue must hold a burst."""
    with start(connections=512) as server:
        for _ in range(5):
            plugs = [socket.socket() for _ in range(200)]
            for plug in plugs:
                plug.setblocking(False)
                plug.connect_ex(("127.0.0.1", server.port))
            assert server.health()[0] < 1
            for plug in plugs:
                plug.close()


def test_streams_over_all_connections(start: Start) -> None:
    """/healthz still answers while honest clients read streams on all other connections."""

    def begin(plug: socket.socket) -> bytes:
        try:
            return plug.recv(100)
        except ConnectionResetError:
            return b""

    first = request("/echo?pieces=2000&size=60000", b"x")
    with start(places=30, patience=5, answer_seconds=5) as server, ThreadPoolExecutor(25) as readers:
        plugs = [server.connect(first, receive_buffer=4096) for _ in range(25)]
        starts = list(readers.map(begin, plugs))
        running = [plug for plug, start in zip(plugs, starts, strict=True) if start.startswith(b"HTTP/1.1 200")]
        refused = [start for start in starts if start.startswith(b"HTTP/1.1 503")]
        assert len(running) == 15 and refused  # those beyond 20 connections were closed

        def read(plug: socket.socket) -> int:
            end, count = time.monotonic() + 1.5, 0
            while time.monotonic() < end:
                count += len(plug.recv(1 << 13))
                time.sleep(0.01)
            return count

        counts = [readers.submit(read, plug) for plug in running]
        for _ in range(20):
            assert server.health()[0] < 1
            time.sleep(0.04)
        assert all(count.result() > 0 for count in counts)


@contextlib.contextmanager
def few_files(count: int) -> Iterator[None]:
    """Lowers the limit on open files for processes started inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flood(server: Server, data: bytes, reset: bool, end: float) -> None:
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1) as plug:
            plug.sendall(data)
            if reset:
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("kind", ["nothing", "reset", "pipeline"])
def test_flood_of_connections(start: Start, kind: str) -> None:
    """Connections that are closed at once, more than there are files; each of them could cause a line in the log."""
    data = {"nothing": b"", "reset": request("/echo", b"x"), "pipeline": request("/echo?size=100000", b"x") * 20}[kind]
    with few_files(256):
        running = start(connections=512, log="info")
    with running as server, ThreadPoolExecutor(2) as clients:
        end = time.monotonic() + 2
        floods = [clients.submit(flood, server, data, kind == "reset", end) for _ in range(2)]
        while time.monotonic() < end:
            assert server.health()[0] < 5
            time.sleep(0.05)
        for done in floods:
            done.result()
        said = server.stop(signal.SIGTERM)[2]
    assert said.count("\n") < 60, said[:2000]


def test_trailers_without_end(server: Server) -> None:
    head = request("/echo", b"", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n"
    with server.connect(head) as plug, pytest.raises(ConnectionError):
        for _ in range(500):
            plug.sendall(b"t: y\r\n" * 10_000)
    assert server.memory() < 120


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (request("/echo", b"", "Content-Length: abc"), 400),
        (request("/echo?" + "a" * 60_000, b"x"), 431),
    ],
)
def test_what_is_not_http(server: Server, data: bytes, status: int) -> None:
    answer = server.say(data)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert "HTTP/1.1" in answer.json()["error"]


def test_garbage_in_the_log(start: Start) -> None:
    with start(log="info") as server:
        for _ in range(100):
            server.say(b"garbage\r\n\r\n")
            assert server.ask("/echo?fail=1", b"x").status == 500
        said = server.stop(signal.SIGTERM)[2]
    assert said.count("\n") < 30 and "Traceback" not in said, said[:2000]
    assert "a request failed: ValueError at" in said and "purpose" not in said


def test_headers_that_do_not_come(server: Server) -> None:
    begun = time.monotonic()
    with server.connect() as silent, server.connect(b"GET /healthz HTTP/1.1\r\nX: ") as slow:
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 5 and closed(slow, 0.05) is None:
                slow.sendall(b"x")
        assert time.monotonic() - begun < 3
        assert closed(silent, 1) is not None
    with server.connect(request("/healthz", method="GET")) as again:  # after a valid request
        assert again.recv(1000)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 5 and closed(again, 0.05) is None:
                again.sendall(b"G" if time.monotonic() - begun < 0.02 else b"E")
        assert time.monotonic() - begun < 3


def test_requests_for_health_whose_answers_are_not_read(server: Server) -> None:
    with server.connect(receive_buffer=4096) as greedy:
        greedy.settimeout(0.3)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 10:
                with contextlib.suppress(TimeoutError):
                    greedy.sendall(request("/healthz", method="GET") * 100)
                assert server.health()[0] < 5
        assert time.monotonic() - begun < 10  # it was cut off


def test_requests_that_are_expensive_to_parse(start: Start) -> None:
    """Others are served during chunks of one byte, thousands of headers, and thousands of requests at once."""
    chunks = request("/echo", b"", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 100_000
    headers = request("/echo", b"", *["a:"] * 5000) * 50
    pipeline = request("/echo", method="GET") * 5000
    with start(max_body=1_000_000, memory=40_000_000, connections=200, places=100) as server:
        for data in (chunks, headers, pipeline):
            with ThreadPoolExecutor(30) as clients:
                busy = [clients.submit(server.send, data) for _ in range(30)]
                while not all(done.done() for done in busy):
                    assert server.health()[0] < 5  # half a minute without the bound
                    time.sleep(0.02)
        until(lambda: server.ask("/echo", b"honest").body == b"honest")
        assert server.memory() < 120


def test_health_with_a_body_that_never_ends(server: Server) -> None:
    with server.connect(request("/healthz", b"x", method="GET", length=10**9)) as plug:
        assert plug.recv(1000).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                plug.sendall(bytes(10_000))


def test_work_for_a_client_that_left_is_cancelled(server: Server) -> None:
    with server.connect(request("/echo?sleep=20000", b"x")):
        until(lambda: server.health()[1]["working"] == 1)
    until(lambda: server.health()[1]["cancelled"] == 1)
    assert server.health()[1]["working"] == 0


def test_failure_of_the_application(server: Server) -> None:
    answer = server.ask("/echo?fail=1", b"x")
    assert answer.status == 500 and b"purpose" not in answer.raw
    assert "failed" in answer.json()["error"]


def test_end_with_slow_clients(start: Start) -> None:
    with start(
        answer_seconds=60, end_seconds=20, body_seconds=60, body_window=60, header_seconds=60, places=10
    ) as server:
        slow = [
            server.connect(),
            server.connect(b"GET /heal"),
            server.connect(request("/echo", b"x", length=1000)),
            server.connect(request("/echo?size=2000000"), receive_buffer=4096),
            server.connect(request("/echo?pieces=100&size=60000"), receive_buffer=4096),
            server.connect(request("/healthz", method="GET")),
        ]
        busy = server.connect(request("/echo?sleep=800", b"finished"))
        until(lambda: server.health()[1]["working"] == 1)
        code, took, said = server.stop(signal.SIGTERM)
        assert Answer(rest(busy)).body == b"finished"
        assert code == -signal.SIGTERM
        assert took < 5
        assert "Traceback" not in said
        for plug in [*slow, busy]:
            plug.close()


def test_end_while_the_work_takes_too_long(start: Start) -> None:
    with start(end_seconds=1) as server, server.connect(request("/echo?sleep=60000", b"x")):
        until(lambda: server.health()[1]["working"] == 1)
        code, took, _ = server.stop(signal.SIGTERM)
        assert code == -signal.SIGTERM
        assert took < 6


def speak(server: Server) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/echo", compression=None, proxy=None)


def test_websockets_are_no_requests(server: Server) -> None:
    with speak(server) as one, speak(server) as two:
        for socket_ in (one, two):
            socket_.send("hello")
            assert socket_.recv(5) == "hello"
        state = server.health()[1]
        assert (state["sockets"], state["working"], state["held"]) == (2, 0, 0)
    until(lambda: server.health()[1]["sockets"] == 0)


def test_websockets_beyond_the_bound(start: Start) -> None:
    with start(sockets=2) as server:
        with speak(server), speak(server):
            with pytest.raises(InvalidStatus) as refused, speak(server):
                pass
            assert refused.value.response.status_code == 503
        until(lambda: server.health()[1]["sockets"] == 0)
        with speak(server) as again:
            again.send("hello")
            assert again.recv(5) == "hello"


def test_websockets_are_not_closed_for_others(server: Server) -> None:
    """A connection that has long been silent is closed for others, but only the application closes a WebSocket."""
    with speak(server) as talking:
        silent = [server.connect() for _ in range(40)]
        time.sleep(1)
        assert server.ask("/echo", b"honest").body == b"honest"
        talking.send("hello")
        assert talking.recv(5) == "hello"
        for plug in silent:
            plug.close()


def test_websocket_whose_application_fails(start: Start) -> None:
    with start() as server:
        with speak(server) as one:
            one.send("fail")
            with pytest.raises(ConnectionClosed):
                one.recv(5)
            assert one.close_code == 1011
        said = server.stop(signal.SIGTERM)[2]
    assert "a request failed: ValueError at" in said and "purpose" not in said and "Traceback" not in said


def test_websockets_at_the_end(start: Start) -> None:
    with start(end_seconds=20) as server, speak(server) as one:
        one.send("hello")
        assert one.recv(5) == "hello"
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            one.recv(5)
        assert one.close_code == 1012
        assert server.stop(signal.SIGTERM)[1] < 10


UPGRADE = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@pytest.mark.parametrize(
    ("path", "headers", "method", "status", "word"),
    [
        ("/echo", UPGRADE, "POST", 405, "GET"),
        ("/echo", (*UPGRADE, "Content-Length: 1"), "GET", 400, "body"),
        ("/echo", (*UPGRADE, "Transfer-Encoding: chunked"), "GET", 400, "body"),
        ("/echo", (*UPGRADE, "Cookie: " + "a" * 8200), "GET", 431, "of up to 8206 bytes, expected"),
        ("/echo", (*UPGRADE, *["A: a"] * 200), "GET", 431, "a request for a WebSocket has "),
        ("/echo?" + "a" * 8200, UPGRADE, "GET", 414, " bytes, expected at most 8172 for a WebSocket"),
        ("/echo", UPGRADE[:2] + UPGRADE[3:], "GET", 426, "Sec-WebSocket-Version is missing, expected 13"),
        ("/echo", UPGRADE[:3], "GET", 400, "Key"),
    ],
)
def test_websockets_that_cannot_be_opened(
    server: Server, path: str, headers: tuple[str, ...], method: str, status: int, word: str
) -> None:
    """They are answered, though the WebSocket parser rejects them silently and with no deadline."""
    with server.connect(request(path, b"", *headers, method=method)) as plug:
        answer = Answer(rest(plug))
    assert answer.status == status and word in answer.json()["error"]
    assert server.health()[1]["sockets"] == 0


def test_what_the_parser_of_websockets_does_not_take(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its bounds are stricter than ours, the connection is closed, not kept open forever."""
    monkeypatch.setenv("WEBSOCKETS_MAX_LINE_LENGTH", "100")
    with start() as server:
        greedy = [
            server.connect(request("/echo", b"", *UPGRADE, "Cookie: " + "a" * 200, method="GET")) for _ in range(10)
        ]
        assert server.health()[0] < 2
        for plug in greedy:
            assert closed(plug, 5) is not None


def frame(operation: int, data: bytes, length: int | None = None, end: bool = True) -> bytes:
    """Returns a client's frame with a mask of zeros; ``length`` replaces the length of the data in its header."""
    size = len(data) if length is None else length
    head = bytes([operation | end << 7]) + (bytes([0x80 | size]) if size < 126 else struct.pack(">BQ", 0xFF, size))
    return head + bytes(4) + data


def opened(server: Server, data: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    """Returns an open WebSocket over which the data has been sent."""
    plug = server.connect(request("/echo", b"", *UPGRADE, method="GET"), receive_buffer)
    head = b""
    while b"\r\n\r\n" not in head:
        head += plug.recv(1000)
    assert head.startswith(b"HTTP/1.1 101")
    plug.sendall(data)
    return plug


def test_messages_that_do_not_come_whole(server: Server) -> None:
    """They count toward the memory, and are dropped for clients that are being served."""
    half = frame(1, b"a" * 1_200_000, 1_200_001)
    slow = [opened(server, half) for _ in range(3)]
    until(lambda: server.health()[1]["held"] >= 3_600_000)
    with opened(server, half) as another:  # closed, or the slowest is if one is slow already
        until(lambda: server.health()[1]["held"] <= 4_000_000)
        time.sleep(0.5)
        assert server.ask("/echo?hold=3900000", b"x").status == 200
        assert server.health()[1]["held"] == 0
        for plug in [*slow, another]:
            assert rest(plug)[2:4] == struct.pack(">H", 1013)
    with opened(server, frame(1, b"a" * 4_100_000, 4_100_001)) as large:
        assert rest(large)[2:4] == struct.pack(">H", 1009)  # will never fit


def test_answers_of_websockets_that_are_not_read(server: Server) -> None:
    """They count toward the memory until they are read; the slowest client is dropped for one being served."""
    message = frame(1, b"a" * 900_000)
    one = opened(server, message, 4096)
    until(lambda: 400_000 < server.health()[1]["held"] <= 900_000)
    two = opened(server, message, 4096)
    until(lambda: 900_000 < server.health()[1]["held"] <= 1_800_000)
    assert len(rest_of(one, 900_000)) == 900_000
    until(lambda: 400_000 < server.health()[1]["held"] <= 900_000)
    time.sleep(0.5)
    assert server.ask("/echo?hold=3900000", b"x").status == 200
    assert server.health()[1]["held"] == 0
    assert len(rest(two)) < 900_000
    with opened(server, frame(1, b"a" * 50_000), 4096) as small:  # waits in the transport, below its high-water mark
        assert len(rest_of(small, 50_000)) == 50_000
        until(lambda: server.health()[1]["held"] == 0)


def rest_of(plug: socket.socket, size: int) -> bytes:
    """Returns the text of one message, ``size`` bytes long."""
    left, head, data = size + 2, 0, bytearray()
    while left:
        part = plug.recv(min(left, 1 << 16))
        assert part, len(data)
        data += part
        if not head:
            head = {126: 4, 127: 10}.get(data[1], 2)
            left += head - 2
        left -= len(part)
    return bytes(data[head:])


def test_memory_of_messages_comes_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is freed at once, without waiting for the garbage collector."""
    monkeypatch.setenv("COLLECTS", "")
    with start() as server:
        for _ in range(40):
            with opened(server, frame(1, b"a" * 3_000_000, 3_000_001)):
                until(lambda: server.health()[1]["held"] >= 3_000_000)
            until(lambda: server.health()[1]["held"] == 0)
        assert server.memory() < 90  # 120 more if it waited for the collector


def test_message_in_thousands_of_frames(server: Server) -> None:
    before = server.memory()
    part = b"0123456789abcdef"
    with opened(server, frame(1, part, end=False) + frame(0, part, end=False) * 20_000 + frame(0, b"d")) as plug:
        assert rest_of(plug, 320_017) == part * 20_001 + b"d"
    assert server.memory() < before + 3  # 6 if the frames were not joined


@pytest.mark.parametrize("part", [b"", b"a", b"0123456789abcde"])
def test_message_in_thousands_of_tiny_frames(server: Server, part: bytes) -> None:
    """Each takes as long as a larger frame, so an endless message of them would take all of the time."""
    with opened(server, frame(1, part, end=False) + frame(0, part, end=False) * 2_000) as plug:
        assert rest(plug)[2:4] == struct.pack(">H", 1008)
    with opened(server, frame(1, part, end=False) + frame(0, part, end=False) * 998 + frame(0, part)) as plug:
        assert rest_of(plug, 1000 * len(part)) == part * 1000


def test_text_that_is_not_utf8(start: Start) -> None:
    with start() as server:
        for data in (frame(1, b"\xff"), frame(1, b"a", end=False) + frame(0, b"\xff")):
            with opened(server, data) as plug:
                assert rest(plug)[2:4] == struct.pack(">H", 1007)
        said = server.stop(signal.SIGTERM)[2]
    assert not said, said


@pytest.mark.parametrize("resets", [False, True])
def test_websocket_whose_client_left_behind_messages(server: Server, resets: bool) -> None:
    """While the application is busy, neither its messages nor its end are read."""
    with opened(server, frame(1, b"sleep") + frame(1, b"a") * 3) as plug:
        until(lambda: server.health()[1]["sockets"] == 1)
        time.sleep(0.1)
        if resets:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: server.health()[1]["connections"] == 1)  # the one that asks
