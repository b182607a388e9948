"""Streams that share the network give the audio of streams alone, and none can block another."""

from __future__ import annotations

import copy
import gc
import itertools
import linecache
import opcode
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import DATA, FORKS, ROOT
from vocos_onnx import Stream, StreamPool, VocosONNX, stream_pool

TIMEOUT = 60  # seconds after which a thread counts as hanging
NAMES = ("encodec", "mel", "imdct-symexp", "wavenext", "encodec-int8", "mel-int8", "mel-istft")
MODELS = {name: VocosONNX(DATA / f"{name}.onnx", threads=2) for name in NAMES}
search = settings(max_examples=25, deadline=None, database=None, derandomize=True)


class Thread(threading.Thread):
    """Runs a function; ``result`` returns its result or raises its exception."""

    def __init__(self, function: Callable[[], Any]):
        super().__init__(daemon=True)
        self._function = function
        self._error: BaseException | None = None
        self._result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join(TIMEOUT)
        assert not self.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
        return self._result


def together(*functions: Callable[[], Any]) -> list[Any]:
    return [thread.result() for thread in [Thread(function) for function in functions]]


def random_input(vocos: VocosONNX, frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if vocos.config.encodec:
        return rng.integers(1024, size=(2, frames))
    return rng.uniform(-8, 2, (vocos.config.feature_channels, frames)).astype(np.float32)


def push_all(stream: Stream, chunks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*(stream.push(chunk) for chunk in chunks), stream.flush()])


def check(given: np.ndarray, expected: np.ndarray, vocos: VocosONNX) -> None:
    assert given.dtype == np.float32
    assert given.shape == expected.shape
    peak = (
        100 if vocos.config.head == "imdct_symexp" else np.abs(expected).max(initial=0)
    )  # before clipping, see test_streams
    assert np.abs(given - expected).max(initial=0) <= 1e-5 * peak


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(scope="module")
def narrow() -> VocosONNX:
    """A model on one thread, so that streams wait for each other; on two, two chunks would go in separate calls."""
    return VocosONNX(DATA / "encodec.onnx", threads=1)


@pytest.fixture(params=NAMES)
def vocos(request: pytest.FixtureRequest) -> VocosONNX:
    return MODELS[request.param]


@pytest.fixture
def encodec() -> VocosONNX:
    return MODELS["encodec"]


# a random plan for a stream: chunk lengths, look-ahead, and how it ends
PLANS = st.tuples(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.none() | st.integers(0, 9),
    st.sampled_from(["flush", "flush", "reset", "bad", "close", "abandon"]),
)


@search
@given(
    name=st.sampled_from(NAMES),
    plans=st.lists(PLANS, min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    max_wait=st.sampled_from([0.0, 0.002]),
    threads=st.integers(1, 4),
    frames=st.sampled_from([1, 16, 256]),
    side_by_side=st.sampled_from([None, 1, 3]),
)
def test_random_streams(
    name: str, plans: Any, seed: int, max_wait: float, threads: int, frames: int, side_by_side: int | None
) -> None:
    """With streams joining, leaving and failing at random in several threads, the audio is that of a stream alone."""
    vocos = MODELS[name]
    jobs = list(enumerate(plans))

    def one(pool: StreamPool, number: int, lengths: list[int], lookahead: int | None, end: str) -> None:
        bandwidth_id = number % 2 if vocos.bandwidths else None
        whole = random_input(vocos, sum(lengths), seed + number)
        chunks = np.split(whole, np.cumsum(lengths)[:-1], axis=1)
        expected = push_all(vocos.stream(bandwidth_id, lookahead=lookahead), chunks)
        stream = pool.open(bandwidth_id, lookahead=lookahead)
        if end != "flush":
            audio = [stream.push(chunk) for chunk in chunks]
            check(np.concatenate(audio), expected[: sum(map(len, audio))], vocos)
        if end == "bad":
            with pytest.raises(ValueError, match="expected"):
                stream.push(np.full((3, 3), np.nan))
        if end in ("reset", "bad"):
            stream.reset()
        if end in ("flush", "reset", "bad"):
            check(push_all(stream, chunks), expected, vocos)
        if end == "close":
            stream.close()

    def work(pool: StreamPool) -> None:
        while jobs:
            try:
                number, plan = jobs.pop()
            except IndexError:
                return
            one(pool, number, *plan)

    old = stream_pool.FRAMES
    stream_pool.FRAMES = frames
    try:
        with vocos.stream_pool(threads, max_wait, threads=side_by_side) as pool:
            together(*[lambda: work(pool)] * threads)
            gc.collect()
            assert len(pool) == 0
    finally:
        stream_pool.FRAMES = old


@pytest.mark.parametrize("name", NAMES)
def test_chunks_go_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting chunks share one call, and of 16 streams each frame is computed once."""
    vocos = VocosONNX(DATA / f"{name}.onnx", threads=1)  # one call at a time
    calls: list[tuple[int, int]] = []
    step = vocos.network.step

    def counted(features: Any, *args: Any, **options: Any) -> Any:
        calls.append((features.shape[0], features.shape[2]))
        return step(features, *args, **options)

    monkeypatch.setattr(vocos.network, "step", counted)
    tokens = random_input(vocos, 20, 0)
    with vocos.stream_pool(max_wait=1e6) as pool:
        stream, other = pool.open(), pool.open()
        waiting = waiting_push(pool, stream, other, tokens)
        other.push(tokens[:, :12])
        stream.close()  # 8 of its frames may still be waiting
        with suppress(RuntimeError):
            waiting.result()
        assert calls[:4] == [(1, 20)] * 3 + [(2, 12)]
    calls.clear()
    whole = [random_input(vocos, 80, i) for i in range(16)]
    with vocos.stream_pool() as pool:
        streams = [pool.open() for _ in whole]
        chunked = [[given[:, i : i + 8] for i in range(0, 80, 8)] for given in whole]
        audio = together(*(lambda s=s, c=c: push_all(s, c) for s, c in zip(streams, chunked, strict=True)))
    assert sum(batch * frames for batch, frames in calls) == 16 * (80 + vocos.delay)
    for each, expected in zip(audio, whole, strict=True):
        check(each, vocos.decode(expected), vocos)


def test_threads_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on one thread makes exactly as many concurrent calls as its pool has threads."""
    vocos = VocosONNX(DATA / "encodec.onnx", threads=1)
    inside: list[int] = []
    gate = threading.Event()
    step = vocos.network.step

    def gated(features: Any, *args: Any, **options: Any) -> Any:
        inside.append(len(features))
        assert gate.wait(TIMEOUT)
        return step(features, *args, **options)

    monkeypatch.setattr(vocos.network, "step", gated)
    tokens = random_input(vocos, 20, 0)
    expected = vocos.decode(tokens)
    with vocos.stream_pool(max_wait=0, threads=2) as pool:
        streams = [pool.open() for _ in range(8)]
        threads = [Thread(lambda s=s: push_all(s, [tokens])) for s in streams]  # type: ignore[misc]
        wait_until(lambda: len(pool._calls._waiting) == 8 and len(inside) == 2)
        time.sleep(0.05)
        assert len(inside) == 2
        gate.set()
        for thread in threads:
            check(thread.result(), expected, vocos)


def test_calls_take_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call takes its share of all waiting and running streams: beside a call of 4, 6 waiting ones go as 5, then 1."""
    vocos = VocosONNX(DATA / "encodec.onnx", threads=2)
    calls: list[int] = []
    gates = {batch: threading.Event() for batch in (1, 3, 4)}
    step = vocos.network.step

    def gated(features: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(features))
        if len(calls) <= 3:
            assert gates[len(features)].wait(TIMEOUT)
        return step(features, *args, **options)

    monkeypatch.setattr(vocos.network, "step", gated)
    tokens = random_input(vocos, 20, 0)
    with vocos.stream_pool(max_wait=0) as pool:
        streams = [pool.open() for _ in range(14)]

        def push(some: list[Stream]) -> list[Thread]:
            return [Thread(lambda s=s: s.push(tokens)) for s in some]  # type: ignore[misc]

        threads = push(streams[:1])
        wait_until(lambda: calls == [1])
        threads += push(streams[1:8])
        wait_until(lambda: len(pool._calls._waiting) == 8)
        gates[1].set()
        wait_until(lambda: sorted(calls) == [1, 3, 4])
        threads += push(streams[8:])
        wait_until(lambda: len(pool._calls._waiting) == 13)
        gates[3].set()
        wait_until(lambda: len(calls) >= 4)
        assert calls[3] == 5
        gates[4].set()
        expected = vocos.stream().push(tokens)
        for thread in threads:
            check(thread.result(), expected, vocos)


def test_chunks_of_any_lengths(vocos: VocosONNX) -> None:
    lengths = (1, 2, 3, 5, 8, 13, 100, 400, 1700)
    whole = [random_input(vocos, 1700, i) for i in range(len(lengths))]

    def one(pool: StreamPool, given: np.ndarray, length: int) -> np.ndarray:
        with pool.open() as stream:
            return push_all(stream, [given[:, i : i + length] for i in range(0, 100 if length < 100 else 1700, length)])

    with vocos.stream_pool() as pool:
        audio = together(*(lambda g=g, n=n: one(pool, g, n) for g, n in zip(whole, lengths, strict=True)))
        assert len(pool) == 0
    for each, expected, length in zip(audio, whole, lengths, strict=True):
        frames = 1700 if length >= 100 else -(-100 // length) * length
        check(each, vocos.decode(expected[:, :frames]), vocos)


def test_a_long_chunk_does_not_hold_up_a_short_one(encodec: VocosONNX) -> None:
    long, short = random_input(encodec, 20_000, 0), random_input(encodec, 8, 1)
    with encodec.stream_pool() as pool:
        slow, quick = pool.open(), pool.open()
        ended: list[str] = []

        def push_long() -> None:
            check(push_all(slow, [long]), encodec.decode(long), encodec)
            ended.append("long")

        thread = Thread(push_long)
        wait_until(lambda: slow._decoder is not None)
        for _ in range(10):
            quick.push(short)
        ended.append("short")
        thread.result()
    assert ended == ["short", "long"]


def test_push_blocks(encodec: VocosONNX) -> None:
    given = random_input(encodec, 3000, 0)
    with encodec.stream_pool() as pool:
        pool_streams = [pool.open() for _ in range(2)]
        blocks = together(*(lambda s=s: [*s.push_blocks(given), s.flush()] for s in pool_streams))
    for each in blocks:
        assert len(each) == 3
        check(np.concatenate(each), encodec.decode(given), encodec)


# places


def test_no_more_than_max_streams(encodec: VocosONNX) -> None:
    full = r"2 streams are open in the pool, as many as max_streams allows: close one, or .* larger max_streams"
    tokens = random_input(encodec, 5, 0)

    def fail(stream: Stream) -> None:
        with pytest.raises(ValueError, match="expected 0 to 1023"):
            stream.push(tokens + 1024)

    with encodec.stream_pool(max_streams=2) as pool:
        kept = pool.open()
        ends: list[Callable[[Stream], object]] = [Stream.flush, Stream.close, fail]
        for end in ends:
            stream = pool.open()
            with pytest.raises(RuntimeError, match=full):
                pool.open()
            stream.push(tokens)
            stream.reset()  # keeps its place
            end(stream)
            assert len(pool) == 1
            third = pool.open()
            with pytest.raises(RuntimeError, match=rf"{full}|the stream is closed"):
                stream.reset()
            third.close()
            if end != Stream.close:
                stream.reset()
                assert len(pool) == 2
                stream.close()
        stream = pool.open()
        del stream  # abandoned
        cycle: list[Any] = [pool.open()]
        cycle.append(cycle)
        del cycle
        stream = pool.open()
        iterator = stream.push_blocks(tokens)
        del iterator
        assert len(pool) == 1
        assert kept.push(tokens).size == 0


def test_a_closed_stream(encodec: VocosONNX) -> None:
    tokens = random_input(encodec, 5, 0)
    with encodec.stream_pool() as pool:
        for stream in (pool.open(), encodec.stream()):
            with stream:
                stream.push(tokens)
            stream.close()
            uses: list[Callable[[], object]] = [lambda: stream.push(tokens), stream.flush, stream.reset]  # noqa: B023
            for use in uses:
                with pytest.raises(RuntimeError, match=r"the stream is closed: make another one"):
                    use()


def test_a_closed_pool(encodec: VocosONNX) -> None:
    tokens = random_input(encodec, 5, 0)
    with encodec.stream_pool() as pool:
        stream = pool.open()
        stream.push(tokens)
    pool.close()
    uses: list[Callable[[], object]] = [lambda: stream.push(tokens), stream.flush, stream.reset, pool.open]
    for use in uses:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"the pool is closed: make another one with VocosONNX\.stream_pool"):
                use()
    stream.close()


def waiting_push(pool: StreamPool, stream: Stream, other: Stream, tokens: np.ndarray) -> Thread:
    """A push to ``stream`` that waits for ``other``, which has just pushed several times without a pause."""
    for _ in range(3):
        other.push(tokens)
    waiting = Thread(lambda: stream.push(tokens))
    wait_until(lambda: any(call.awaited for call in pool._calls._leaders.values()))
    assert waiting.is_alive()
    return waiting


@pytest.mark.parametrize("what", ["pool", "stream", "other", "flush"])
def test_waiting_pushes_end(narrow: VocosONNX, what: str) -> None:
    """A waiting push gets an error if its stream or the pool closes, and continues if the other stream ends."""
    tokens = random_input(narrow, 20, 0)
    with narrow.stream_pool(max_wait=1e6) as pool:
        stream, other = pool.open(), pool.open()
        waiting = waiting_push(pool, stream, other, tokens)
        if what == "other":
            other.close()
            assert waiting.result().size
        elif what == "flush":
            assert other.flush().size  # both
            assert waiting.result().size
        else:
            closed: Any = pool if what == "pool" else stream
            closed.close()
            with pytest.raises(RuntimeError, match=r"the pool is closed|closed while its chunk was waiting"):
                waiting.result()


def test_one_that_stalls_is_waited_for_once(narrow: VocosONNX) -> None:
    tokens = random_input(narrow, 5, 0)
    with narrow.stream_pool(max_wait=0.5) as pool:
        streams = [pool.open(), pool.open()]
        for _ in range(3):
            streams[1].push(tokens)
        took = []
        for _ in range(10):
            begun = time.monotonic()
            streams[0].push(tokens)
            took.append(time.monotonic() - begun)
        assert 0.3 < max(took) < TIMEOUT
        assert sum(took) < 5 * 0.5, took
        assert sorted(took)[-3] < 0.25, took


# errors


@pytest.mark.parametrize(
    "error", [MemoryError("no more"), RuntimeError("broken"), UnicodeDecodeError("a", b"", 0, 1, "b")]
)
def test_the_network_fails(encodec: VocosONNX, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stream in the failing call gets the error; the pool stays usable."""
    tokens = random_input(encodec, 50, 0)
    step = encodec.network.step
    is_broken = threading.Event()

    def failing(*args: Any, **options: Any) -> Any:
        if is_broken.is_set():
            raise error
        return step(*args, **options)

    monkeypatch.setattr(encodec.network, "step", failing)
    with encodec.stream_pool() as pool:
        streams = [pool.open() for _ in range(6)]
        is_broken.set()

        def fail(stream: Stream) -> BaseException:
            with pytest.raises(type(error), match=str(error)) as caught:
                stream.push(tokens)
            with pytest.raises(ValueError, match=rf"earlier error \({type(error).__name__}: .*reset\(\)"):
                stream.push(tokens)
            return caught.value

        errors = together(*(lambda s=s: fail(s) for s in streams))
        assert len({id(each) for each in errors}) == 6
        assert len(pool) == 0
        is_broken.clear()
        for stream in streams:
            stream.reset()
        for audio in together(*(lambda s=s: push_all(s, [tokens]) for s in streams)):
            check(audio, encodec.decode(tokens), encodec)


def test_audio_that_is_not_finite(encodec: VocosONNX, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream with a non-finite spectrum fails alone, even if others are in the same calls."""
    tokens = [random_input(encodec, 60, i) for i in range(5)]
    bad = np.full((encodec.config.feature_channels, 20), 12345, np.float32)
    step = encodec.network.step

    def overflowing(features: Any, *args: Any, **options: Any) -> Any:
        spectrum, state = step(features, *args, **options)
        spectrum[(features == 12345).any(axis=(1, 2))] = np.nan
        return spectrum, state

    monkeypatch.setattr(encodec.network, "step", overflowing)

    def overflow(pool: StreamPool) -> None:
        for _ in range(5):
            with pool.open(1) as stream:
                with pytest.raises(FloatingPointError, match="the network gave NaN or infinity"):
                    stream.push(bad)
                assert len(pool) <= 5

    with encodec.stream_pool(max_wait=0.05) as pool:
        functions = [lambda t=t: push_all(pool.open(), np.split(t, 10, axis=1)) for t in tokens]
        *audio, _ = together(*functions, lambda: overflow(pool))
    for each, expected in zip(audio, tokens, strict=True):
        check(each, encodec.decode(expected), encodec)


def test_two_threads_on_one_stream(narrow: VocosONNX) -> None:
    tokens = random_input(narrow, 20, 0)
    with narrow.stream_pool(max_wait=1e6) as pool:
        stream, other = pool.open(), pool.open()
        waiting = waiting_push(pool, stream, other, tokens)
        uses: list[Callable[[], object]] = [lambda: stream.push(tokens), stream.flush, stream.reset]
        for use in uses:
            with pytest.raises(RuntimeError, match=r"two threads use one stream"):
                use()
        other.push(tokens)
        assert waiting.result().size


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that this thread runs in stream_pool.py, as Ctrl-C could.

    Skips ``with`` lines, where the trace function is also called on exit, when Python handles no signals. Also skips
    the end of a comprehension's iteration: in Python 3.12 and 3.13 an exception raised there by a trace function
    bypasses the surrounding ``with``, which no signal does.
    """

    def __init__(self, number: int):
        self._lines, self.is_raised = number, False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith("stream_pool.py"):
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        turns = opcode.opname[frame.f_code.co_code[frame.f_lasti]].startswith("JUMP_BACKWARD")
        if event == "line" and not self.is_raised and not turns and not line.strip().startswith("with "):
            self._lines -= 1
            if not self._lines:
                self.is_raised = True
                raise KeyboardInterrupt(f"at line {frame.f_lineno}")
        return self

    def __enter__(self) -> Interrupt:
        sys.settrace(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)


@pytest.mark.parametrize(("cpus", "of_pool"), [(1, None), (2, None), (1, 2)])
def test_an_interrupted_thread_holds_up_nobody(encodec: VocosONNX, cpus: int, of_pool: int | None) -> None:
    """After an interrupt at any line of the shared code, other streams still finish with correct audio."""
    vocos = VocosONNX(DATA / "encodec.onnx", threads=cpus)
    tokens = random_input(encodec, 30, 0)
    chunks = np.split(tokens, 3, axis=1)
    expected = vocos.decode(tokens)

    def interrupted(pool: StreamPool, number: int) -> bool:
        stream = pool.open()
        with Interrupt(number) as interrupt:
            try:
                for chunk in itertools.cycle(chunks):
                    stream.push(chunk)
                    if interrupt.is_raised or number > 1000:
                        break
            except KeyboardInterrupt:
                pass
        return interrupt.is_raised

    tracing = sys.gettrace()
    try:
        for number in range(1, 150):
            with vocos.stream_pool(max_wait=0.001, threads=of_pool) as pool:
                streams = [pool.open() for _ in range(3)]
                first, *rest = together(
                    lambda: interrupted(pool, number),  # noqa: B023
                    *(lambda s=s: push_all(s, chunks) for s in streams),
                )
                assert first
                for audio in rest:
                    check(audio, expected, vocos)
                check(push_all(pool.open(), chunks), expected, vocos)
                assert not pool._calls._waiting
                assert not pool._calls._leaders
    finally:
        sys.settrace(tracing)


# bad input


@pytest.mark.parametrize("max_streams", [0, -1, 1.5, True, "3", None, 1 << 20])
def test_bad_max_streams(encodec: VocosONNX, max_streams: Any) -> None:
    with pytest.raises(ValueError, match=r"max_streams is .*, expected (1 to 65536|an integer): streams that are open"):
        encodec.stream_pool(max_streams)


@pytest.mark.parametrize("max_wait", [-1, -1e-9, float("nan"), float("inf"), "1", None, True, 10**400, [1, 2]])
def test_bad_max_wait(encodec: VocosONNX, max_wait: Any) -> None:
    with pytest.raises(ValueError, match=r"max_wait is .*, expected seconds, 0 or more: .*; 0 waits for none"):
        encodec.stream_pool(max_wait=max_wait)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 1 << 20])
def test_bad_threads(encodec: VocosONNX, threads: Any) -> None:
    with pytest.raises(ValueError, match=r"threads is .*, expected an integer of 1 or more, \d+ at most"):
        encodec.stream_pool(threads=threads)


def test_bad_arguments_of_open(encodec: VocosONNX) -> None:
    with encodec.stream_pool(max_streams=1) as pool:
        for options, message in (
            ({"bandwidth_id": 2}, "bandwidth_id is 2, expected 0 to 1"),
            ({"lookahead": 10}, "lookahead is 10, expected 0 to 9"),
            ({"bandwidth": 7.0}, "bandwidth is 7"),
        ):
            with pytest.raises(ValueError, match=message):
                pool.open(**options)
        stream = pool.open()  # the failed calls keep no place
        stream.push(random_input(encodec, 5, 0))
        with pytest.raises(
            ValueError, match="this chunk is tokens of 1 codebook, and those before it were tokens of 2"
        ):
            stream.push([[1, 2, 3]])


def test_a_network_of_unknown_reach_has_no_pool() -> None:
    with pytest.raises(ValueError, match=r"how far its network sees is not known: use decode"):
        VocosONNX(DATA / "format-5" / "imdct-cos.onnx").stream_pool()


def test_a_pool_is_not_pickled(encodec: VocosONNX) -> None:
    with encodec.stream_pool() as pool:
        for given in (pool, pool.open()):
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=r"cannot be pickled or copied"):
                    attempt(given)


# processes

FORK = """
import os, sys, threading, numpy as np
from vocos_onnx import VocosONNX
vocos = VocosONNX(sys.argv[1], threads=1)
pool = vocos.stream_pool()
stream = pool.open()
stream.push([[1], [2]])
pool._calls._lock.acquire()  # as another thread may, at the fork
child = os.fork()
if not child:
    for use in (lambda: stream.push([[1], [2]]), pool.open, stream.reset):
        try:
            use()
        except RuntimeError as error:
            assert "another process" in str(error), error
        else:
            raise AssertionError
    stream.close()
    pool.close()
    sys.exit(7)
pool._calls._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert stream.push(np.ones((2, 20), int)).size
print("done")
"""
DAEMONS = """
import sys, threading, time, numpy as np
from vocos_onnx import VocosONNX
vocos = VocosONNX(sys.argv[1])
pool = vocos.stream_pool()
def work():
    stream = pool.open()
    while True:
        stream.push(np.ones((2, 50), int))
for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
print("done")
"""


@pytest.mark.parametrize("program", [FORK, DAEMONS])
def test_a_process_ends(program: str) -> None:
    """A forked child gets errors instead of hanging, and an interpreter exits cleanly while daemon threads push."""
    command = [sys.executable, "-W", FORKS, "-c", program, str(DATA / "encodec.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
