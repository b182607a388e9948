"""Coroutines give the results of the blocking methods, can be cancelled, and do not block the event loop."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA, FORKS, ROOT
from vocos_onnx import EncodecONNX, Stream, StreamPool, Tokens, VocosONNX, background, save_audio, save_blocks
from vocos_onnx.model.cpus import available_cpus

TIMEOUT = 60  # seconds after which a test counts as hanging


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(TIMEOUT):
            return await coroutine

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def tokens_of(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1024, size=(2, frames))


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def vocos(request: pytest.FixtureRequest) -> VocosONNX:
    return VocosONNX(DATA / "encodec.onnx", threads=request.param, encoder=DATA / "encoder.onnx")


class Gate:
    """Wraps a function; calls wait until the gate is opened."""

    def __init__(self, function: Callable[..., Any]):
        self._function, self._open = function, threading.Event()
        self.entered = self.left = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.entered += 1
        assert self._open.wait(TIMEOUT)
        try:
            return self._function(*args, **options)
        finally:
            self.left += 1

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(vocos: VocosONNX, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Gates at the network's entry for whole decodes and for streams."""
    shut = Gate(vocos.network.spectra)
    monkeypatch.setattr(vocos.network, "spectra", shut)
    stepping = Gate(vocos.network.step)
    stepping._open = shut._open
    monkeypatch.setattr(vocos.network, "step", stepping)
    shut.steps = stepping  # type: ignore[attr-defined]
    yield shut
    shut.open()


def equal(given: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return len(given) == len(expected) and all(map(equal, given, expected))
    return given.dtype == expected.dtype and np.array_equal(given, expected)


# the same results


def test_whole_calls(vocos: VocosONNX) -> None:
    """Results are bit-identical, also for lists, batches and long input."""
    long, audio = tokens_of(1200), np.random.default_rng(1).normal(0, 0.1, 30_000).astype(np.float32)
    features = vocos.codes_to_features(long[:, :50])
    encoder = EncodecONNX(DATA / "encoder.onnx")

    async def main() -> None:
        assert equal(await vocos.adecode(long), vocos.decode(long))
        assert equal(await vocos.adecode([long, long[:, :9]], 1), vocos.decode([long, long[:, :9]], 1))
        assert equal(await vocos.adecode(features, bandwidth=1.5), vocos.decode(features, 1))
        batch = np.stack([long, long[:, ::-1]])
        assert equal(await vocos.adecode(batch, layout="bkt"), vocos.decode(batch, layout="bkt"))
        padded = await vocos.adecode(batch, layout="bkt", lengths=[7, 1200])
        assert equal(padded, vocos.decode(batch, layout="bkt", lengths=[7, 1200]))
        steps: list[int] = []
        copied = await vocos.aresynth(audio, 24_000, bandwidth=0.75, progress=lambda done, _: steps.append(done))
        assert equal(copied, vocos(audio, 24_000, bandwidth=0.75))
        codes = await encoder.aencode(audio, 24_000, 1.5, progress=lambda done, _: steps.append(done))
        assert equal(codes, encoder.encode(audio, 24_000, 1.5))
        assert steps

    run(main())


def test_mels(mel: VocosONNX) -> None:
    features = np.random.default_rng(0).uniform(-8, 2, (40, 8)).astype(np.float32)

    async def main() -> None:
        from_rows = await mel.adecode(features, mels_from="mlx", check=False)
        assert equal(from_rows, mel.decode(features, mels_from="mlx", check=False))
        streamed = [audio async for audio in mel.adecode_stream([features[:9], features[9:]], mels_from="mlx")]
        assert equal(
            np.concatenate(streamed),
            np.concatenate([*mel.decode_stream([features[:9], features[9:]], mels_from="mlx")]),
        )

    run(main())


@pytest.mark.parametrize("lookahead", [None, 2])
def test_streams(vocos: VocosONNX, lookahead: int | None) -> None:
    """Chunks of any size, and two sequences with ``reset`` between them."""
    tokens = tokens_of(4000)
    chunks = np.split(tokens, [1, 9, 9, 40, 3990], axis=1)
    stream = vocos.stream(lookahead=lookahead)
    expected = [*(stream.push(chunk) for chunk in chunks), stream.flush()]

    async def main() -> None:
        for _ in range(2):
            stream.reset()
            assert equal([*[await stream.apush(chunk) for chunk in chunks], await stream.aflush()], expected)
        stream.reset()
        blocks = [audio for chunk in chunks for audio in [block async for block in stream.apush_blocks(chunk)]]
        assert len(blocks) > len(chunks), "the long chunk comes in blocks"
        assert equal(np.concatenate([*blocks, stream.flush()]), np.concatenate(expected))

    run(main())


def test_iterables_of_chunks(vocos: VocosONNX) -> None:
    chunks = np.split(tokens_of(100), range(8, 100, 8), axis=1)
    expected = [*vocos.decode_stream(chunks)]

    async def coming() -> AsyncIterator[np.ndarray]:
        for chunk in chunks:
            await asyncio.sleep(0)
            yield chunk

    async def main() -> None:
        each: tuple[Any, ...] = (chunks, tuple(chunks), iter(chunks), (chunk for chunk in chunks), coming())
        for given in each:
            assert equal([audio async for audio in vocos.adecode_stream(given)], expected), given
        assert equal([audio async for audio in vocos.adecode_stream([])], [*vocos.decode_stream([])])

    run(main())


def test_an_iterable_that_blocks_does_not_block_the_loop(vocos: VocosONNX) -> None:
    go_on = threading.Event()

    def blocking() -> Iterator[np.ndarray]:
        assert go_on.wait(TIMEOUT)
        yield tokens_of(20)

    async def main() -> None:
        given = vocos.adecode_stream(blocking())
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        assert (await anext(given)).size

    run(main())


# the same errors


def test_errors(vocos: VocosONNX, mel: VocosONNX) -> None:
    tokens, encoder = tokens_of(20), EncodecONNX(DATA / "encoder.onnx")
    silence = np.zeros(100, np.float32)
    each: tuple[tuple[Callable[..., Any], Callable[..., Awaitable[Any]], tuple[Any, ...]], ...] = (
        (vocos.decode, vocos.adecode, (tokens + 1024,)),
        (vocos.decode, vocos.adecode, (tokens, 7)),
        (vocos.decode, vocos.adecode, ("tokens.npz",)),
        (mel.decode, mel.adecode, (tokens,)),
        (vocos, vocos.aresynth, (silence * np.nan, 24_000)),
        (encoder.encode, encoder.aencode, (silence, 24_000, 7.0)),
        (vocos.stream().push, vocos.stream().apush, (tokens[0],)),
        (vocos.stream().push, vocos.stream().apush, ("tokens.npz",)),
    )

    async def main() -> None:
        for blocking, coroutine, given in each:
            with pytest.raises(ValueError) as expected:
                blocking(*given)
            with pytest.raises(ValueError) as found:
                await coroutine(*given)
            assert str(found.value) == str(expected.value)
        for chunks in (None, 5, "t.npz", tokens, Tokens(tokens)):
            with pytest.raises(ValueError) as expected:
                vocos.decode_stream(chunks)  # type: ignore[arg-type]
            with pytest.raises(ValueError) as found:
                vocos.adecode_stream(chunks)  # type: ignore[arg-type]
            assert str(found.value) == str(expected.value)
        audio = vocos.adecode_stream([tokens, tokens + 1024, tokens])
        assert (await anext(audio)).size
        with pytest.raises(ValueError, match="expected 0 to 1023"):
            await anext(audio)
        assert [block async for block in audio] == []

    run(main())


def test_errors_leave_nothing_in_memory(vocos: VocosONNX) -> None:
    """The input is freed at once, without a garbage collection: an error that holds its own traceback would keep it."""

    async def main() -> None:
        for make in (vocos.adecode, vocos.stream().apush, vocos.stream_pool().open().apush):
            given = tokens_of(200_000) + 1024
            alive = weakref.ref(given)
            with pytest.raises(ValueError, match="expected 0 to 1023") as error:
                await make(given)
            del given, error
            await asyncio.sleep(0)
            assert alive() is None, make

    gc.collect()
    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_without_an_event_loop(vocos: VocosONNX) -> None:
    tokens = tokens_of(20)
    for coroutine in (vocos.adecode(tokens), vocos.stream().apush(tokens), vocos.stream_pool().open().apush(tokens)):
        with pytest.raises(
            RuntimeError, match=r"no running event loop of asyncio: await this within asyncio\.run; .*trio"
        ):
            coroutine.send(None)


def test_two_tasks_on_one_stream(vocos: VocosONNX, gate: Gate) -> None:
    async def main() -> None:
        for stream in (vocos.stream(), vocos.stream_pool().open()):
            first = asyncio.create_task(stream.apush(tokens_of(20)))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match=r"^two tasks use one stream at the same time: await"):
                await stream.apush(tokens_of(20))
            for call in (stream.flush, stream.reset):
                with pytest.raises(RuntimeError, match=r"^two tasks use one stream at the same time"):
                    call()
            gate.open()
            assert (await first).size

    run(main())


def test_await_is_forgotten(vocos: VocosONNX, tmp_path: Path) -> None:
    """Errors point out a forgotten await, alone or in a list, and the remedy for an asynchronous iterable."""
    encoder, tokens = EncodecONNX(DATA / "encoder.onnx"), tokens_of(20)
    silence = np.zeros(5000, np.float32)

    async def blocks() -> AsyncIterator[np.ndarray]:
        yield silence

    def file(given: Any) -> None:
        save_audio(tmp_path / "x.wav", given, 24_000)

    async def main() -> None:
        uses: tuple[tuple[Callable[[Any], Any], Callable[[], Coroutine[Any, Any, Any]]], ...] = (
            (file, lambda: vocos.adecode(tokens)),
            (lambda given: vocos(given, 24_000, bandwidth=1.5), lambda: vocos.adecode(tokens)),
            (lambda given: encoder.encode(given, 24_000, 1.5), lambda: vocos.adecode(tokens)),
            (lambda given: [*vocos.resynth_stream(given, 24_000, bandwidth=1.5)], lambda: vocos.adecode(tokens)),
            (lambda given: save_blocks(tmp_path / "y.wav", given, 24_000), lambda: vocos.adecode(tokens)),
            (vocos.decode, lambda: encoder.aencode(silence, 24_000, 1.5)),
            (vocos.codes_to_features, lambda: encoder.aencode(silence, 24_000, 1.5)),
            (vocos.stream().push, lambda: encoder.aencode(silence, 24_000, 1.5)),
            (vocos.decode_stream, lambda: encoder.aencode(silence, 24_000, 1.5)),
            (vocos.adecode_stream, lambda: encoder.aencode(silence, 24_000, 1.5)),
            (Tokens, lambda: encoder.aencode(silence, 24_000, 1.5)),
        )
        for use, make in uses:
            for given in (make(), asyncio.create_task(make())):
                for wrapped in (given, [given]):
                    with pytest.raises(ValueError, match=r"is a (coroutine|Task), .*: await it first"):
                        use(wrapped)
                given.close() if isinstance(given, Coroutine) else await given
        remedies: tuple[tuple[Callable[[Any], Any], str], ...] = (
            (vocos.decode_stream, "use adecode_stream"),
            (vocos.decode, "collect its items first"),
            (file, r"np\.concatenate\(\[block async for block in audio\]\)"),
            (lambda given: vocos.resynth_stream(given, 24_000, bandwidth=1.5), r"\[block async for block in blocks\]"),
        )
        for use, remedy in remedies:
            with pytest.raises(ValueError, match=rf"is an asynchronous iterable \(async_generator\): .*{remedy}"):
                use(blocks())

    run(main())
    assert not list(tmp_path.iterdir())


# the loop keeps running, and abandoned work ends


def test_the_loop_goes_on(vocos: VocosONNX, gate: Gate) -> None:
    """The awaited work can finish only if the loop keeps running, since the loop opens the gate."""

    async def main() -> None:
        tokens = tokens_of(30)
        pool = vocos.stream_pool()
        work = [vocos.adecode(tokens), vocos.stream().apush(tokens), pool.open().apush(tokens)]
        tasks = [asyncio.create_task(one) for one in work]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
        gate.open()
        for audio in await asyncio.gather(*tasks):
            assert audio.size

    run(main())


def test_a_long_decode_is_cancelled(vocos: VocosONNX, gate: Gate) -> None:
    """Cancelling or a timeout takes effect at once: no more spans, the input is freed, and the model stays usable."""

    async def main() -> None:
        long = tokens_of(100_000)
        alive = weakref.ref(long)
        task = asyncio.create_task(vocos.adecode(long))
        del long
        await until(lambda: bool(gate.entered))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.left == 0, "before the network has returned"
        del task
        gate.open()
        await until(lambda: gate.left == gate.entered)
        await until(lambda: alive() is None)
        assert gate.left <= 8, "of hundreds of spans"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await vocos.adecode(tokens_of(1_000_000))
        short = tokens_of(20)
        assert equal(await vocos.adecode(short), vocos.decode(short))

    run(main())


def test_a_long_encode_and_mels_are_cancelled(vocos: VocosONNX, mel: VocosONNX) -> None:
    """The thread stops too, as ``progress`` shows."""
    encoder = EncodecONNX(DATA / "encoder.onnx")
    audio = np.zeros(24_000 * 60, np.float32)

    async def main() -> None:
        makes: tuple[Callable[..., Coroutine[Any, Any, Any]], ...] = (
            partial(vocos.aresynth, bandwidth=1.5),
            partial(encoder.aencode, bandwidth=1.5),
            mel.aresynth,
        )
        for make in makes:
            went_on = threading.Event()
            done: list[int] = []

            def progress(frames: int, _: int, went_on: threading.Event = went_on, done: list[int] = done) -> None:
                done.append(frames)
                assert went_on.wait(TIMEOUT)

            task = asyncio.create_task(make(audio, 24_000, progress=progress))
            await until(lambda done=done, task=task: bool(done) or task.done())  # type: ignore[misc]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            went_on.set()
            await asyncio.sleep(0.1)
            assert len(done) <= 2, make

    run(main())


def test_what_waits_for_a_thread_is_never_begun_if_it_is_cancelled(vocos: VocosONNX, gate: Gate) -> None:
    """A call cancelled while it waits for a thread never starts, and concurrent calls use a limited number of them."""

    async def main() -> None:
        tasks = [asyncio.create_task(vocos.adecode(tokens_of(20))) for _ in range(background.MOST + 50)]
        await until(lambda: gate.entered == background.MOST)
        await asyncio.sleep(0.01)
        assert gate.entered == background.MOST
        assert sum(thread.name == "vocos-onnx-async" for thread in threading.enumerate()) <= background.MOST
        for task in tasks[10:]:
            task.cancel()
        await asyncio.sleep(0)  # cancellation is delivered on the loop's next iteration
        gate.open()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        kept = max(10, background.MOST)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [False] * 10 + [True] * (len(tasks) - 10)
        assert gate.entered == kept

    run(main())


def test_threads_end(vocos: VocosONNX, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE", 0.01)

    async def main() -> None:
        await asyncio.gather(*(vocos.adecode(tokens_of(20)) for _ in range(20)))
        monkeypatch.setattr(background, "IDLE", 5)
        await asyncio.sleep(0)

    before = set(threading.enumerate())
    run(main())
    end = time.monotonic() + TIMEOUT
    while any(t.name == "vocos-onnx-async" for t in set(threading.enumerate()) - before):
        assert time.monotonic() < end
        time.sleep(0.01)
    run(main())


@pytest.mark.parametrize("pooled", [False, True])
def test_a_push_is_cancelled(vocos: VocosONNX, gate: Gate, pooled: bool) -> None:
    """A cancelled push stops the stream and frees its place; ``reset`` works even while the network still runs."""
    tokens = tokens_of(30)
    pool = vocos.stream_pool(1)

    async def main() -> None:
        stream = pool.open() if pooled else vocos.stream()
        pushing: tuple[Callable[[], Coroutine[Any, Any, Any]], ...] = (lambda: stream.apush(tokens), stream.aflush)
        for method in pushing:
            gate._open.set()
            await stream.apush(tokens)
            gate._open.clear()
            steps = gate.steps  # type: ignore[attr-defined]
            entered = steps.entered
            task = asyncio.create_task(method())
            await until(lambda steps=steps, entered=entered: steps.entered > entered)  # type: ignore[misc]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(pool) == 0
            for call in pushing:
                with pytest.raises(ValueError, match=r"earlier error \(CancelledError\).*call reset\(\)"):
                    await call()
            stream.reset()
            gate._open.set()
            expected = vocos.stream()
            assert equal(await stream.apush(tokens), expected.push(tokens))
            assert equal(await stream.aflush(), expected.flush())
            stream.reset()

    run(main())


def test_an_iteration_that_is_left(vocos: VocosONNX) -> None:
    """Leaving apush_blocks early stops the stream, as with ``push_blocks``; ``break`` out of adecode_stream ends it."""

    async def main() -> None:
        stream = vocos.stream()
        blocks = stream.apush_blocks(tokens_of(4000))
        await anext(blocks)
        with pytest.raises(RuntimeError, match=r"^an iterator of apush_blocks is not at its end: .*aclose\(\)"):
            await stream.apush(tokens_of(8))
        await blocks.aclose()
        with pytest.raises(ValueError, match="apush_blocks was given up"):
            await stream.apush(tokens_of(8))
        async for _ in vocos.adecode_stream([tokens_of(4000)]):
            break

    run(main())


# pools


async def pushed(stream: Stream, chunks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*[await stream.apush(chunk) for chunk in chunks], await stream.aflush()])


def check(given: np.ndarray, expected: np.ndarray) -> None:
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()


def test_hundreds_of_streams_on_one_loop(vocos: VocosONNX, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share calls of the network, and use no threads beyond those of the span pool."""
    step, sizes, threads = vocos.network.step, [], []

    def noting(features: np.ndarray, *args: Any, **options: Any) -> Any:
        sizes.append(len(features))
        threads.append(threading.current_thread().name)
        return step(features, *args, **options)

    monkeypatch.setattr(vocos.network, "step", noting)

    async def main() -> None:
        with vocos.stream_pool(300) as pool:
            streams = [pool.open() for _ in range(300)]
            before = threading.active_count()
            rng = np.random.default_rng(0)
            cuts = [np.sort(rng.integers(0, 60, 4)) for _ in streams]
            work = [pushed(s, np.split(tokens_of(60, i), cuts[i], axis=1)) for i, s in enumerate(streams)]
            audio = await asyncio.gather(*work)
            assert threading.active_count() <= before + available_cpus()
            assert len(pool) == 0
        for i in range(0, 300, 23):
            check(audio[i], vocos.decode(tokens_of(60, i)))

    run(main())
    assert max(sizes) > 10
    assert len(sizes) < 0.5 * 300 * 6
    assert all(name.startswith("vocos-onnx") for name in threads)


def test_async_with(vocos: VocosONNX) -> None:
    """``async with`` closes pools and streams, as ``with`` does."""

    async def main() -> None:
        async with vocos.stream_pool() as pool:
            async with pool.open() as stream, vocos.stream() as alone:
                assert equal(await stream.apush(tokens_of(20)), await alone.apush(tokens_of(20)))
                assert len(pool) == 1
            assert len(pool) == 0
            for closed in (stream, alone):
                with pytest.raises(RuntimeError, match="the stream is closed"):
                    await closed.apush(tokens_of(20))
        with pytest.raises(RuntimeError, match="the pool is closed"):
            pool.open()

    run(main())


def test_tasks_and_threads_in_one_pool(vocos: VocosONNX) -> None:
    """They can share a pool, also with ``max_wait`` and several event loops."""
    results: dict[int, np.ndarray] = {}

    def blocking(i: int) -> None:
        with pool.open() as stream:
            results[i] = np.concatenate(
                [*(stream.push(c) for c in np.split(tokens_of(60, i), 6, axis=1)), stream.flush()]
            )

    async def some(numbers: range) -> None:
        work = [pushed(pool.open(), np.split(tokens_of(60, i), 10, axis=1)) for i in numbers]
        results.update(zip(numbers, await asyncio.gather(*work), strict=True))

    with vocos.stream_pool(max_wait=0.002) as pool:
        threads = [threading.Thread(target=blocking, args=(i,), daemon=True) for i in range(10)]
        threads += [threading.Thread(target=run, args=(some(range(a, a + 10)),), daemon=True) for a in (10, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert not any(thread.is_alive() for thread in threads)
    assert len(results) == 30
    for i, audio in results.items():
        check(audio, vocos.decode(tokens_of(60, i)))


def test_cancelled_pushes_hold_up_nobody(vocos: VocosONNX) -> None:
    """Pushes cancelled at random times never block others, even if they had started the shared call."""
    rng = np.random.default_rng(0)

    async def one(pool: StreamPool, i: int) -> np.ndarray:
        return await pushed(pool.open(), np.split(tokens_of(60, i), 6, axis=1))

    async def main() -> None:
        with vocos.stream_pool(200, max_wait=0.002) as pool:
            tasks = []
            for i in range(200):
                tasks.append(asyncio.create_task(one(pool, i)))
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.random() * 0.002)
                tasks[rng.integers(len(tasks))].cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert len(pool) == 0
        cancelled = [isinstance(one, asyncio.CancelledError) for one in done]
        assert any(cancelled)
        assert not all(cancelled)
        for i, audio in enumerate(done):
            if not isinstance(audio, BaseException):
                check(audio, vocos.decode(tokens_of(60, i)))
            else:
                assert isinstance(audio, asyncio.CancelledError), audio

    run(main())


def test_what_waits_ends_with_an_error(vocos: VocosONNX, gate: Gate) -> None:
    """A waiting push gets an error if the stream or pool is closed, from the loop or from another thread."""

    async def main() -> None:
        async def waiting(stream: Stream) -> asyncio.Task[np.ndarray]:
            task = asyncio.create_task(stream.apush(tokens_of(20)))
            await asyncio.sleep(0.01)
            assert not task.done()
            return task

        pool = vocos.stream_pool()
        stream = pool.open()
        task = await waiting(stream)
        stream.close()
        with pytest.raises(RuntimeError, match="the stream was closed while its chunk was waiting"):
            await task
        task = await waiting(pool.open())
        await asyncio.to_thread(pool.close)
        with pytest.raises(RuntimeError, match="the pool is closed"):
            await task
        with pytest.raises(RuntimeError, match="the pool is closed"):
            pool.open()
        gate.open()

    run(main())


def test_the_network_fails(vocos: VocosONNX, monkeypatch: pytest.MonkeyPatch) -> None:
    step = vocos.network.step

    def failing(*args: Any, **options: Any) -> Any:
        raise MemoryError("no more")

    async def main() -> None:
        with vocos.stream_pool() as pool:
            monkeypatch.setattr(vocos.network, "step", failing)
            work = [pushed(pool.open(), [tokens_of(20)]) for _ in range(20)]
            for error in await asyncio.gather(*work, return_exceptions=True):
                assert isinstance(error, MemoryError)
                assert str(error) == "no more"
            monkeypatch.setattr(vocos.network, "step", step)
            assert len(pool) == 0
            check(await pushed(pool.open(), [tokens_of(20)]), vocos.decode(tokens_of(20)))

    run(main())


def test_a_loop_that_is_closed_in_the_middle(vocos: VocosONNX, gate: Gate) -> None:
    """Closing a loop without cancelling its tasks does not affect other users of the pool and the model."""
    pool = vocos.stream_pool()
    loop = asyncio.new_event_loop()
    streams = [pool.open(), pool.open(), vocos.stream()]
    coroutines = [*(stream.apush(tokens_of(20)) for stream in streams), vocos.adecode(tokens_of(20))]
    tasks = [loop.create_task(coroutine) for coroutine in coroutines]
    loop.run_until_complete(asyncio.sleep(0.05))
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    results: list[np.ndarray] = []
    other = threading.Thread(target=lambda: results.append(pool.open().push(tokens_of(40))), daemon=True)
    other.start()
    gate.open()
    other.join(TIMEOUT)
    assert results[0].size
    alive = [weakref.ref(task) for task in tasks]
    del tasks, task, coroutines
    end = time.monotonic() + TIMEOUT
    while any(task() is not None for task in alive):  # until the threads computing for them finish
        gc.collect()
        assert time.monotonic() < end
        time.sleep(0.01)

    async def main() -> None:
        check(await pushed(pool.open(), [tokens_of(20)]), vocos.decode(tokens_of(20)))
        for stream in streams:
            stream.reset()
            check(await pushed(stream, [tokens_of(20)]), vocos.decode(tokens_of(20)))

    run(main())


# processes

FORK = """
import asyncio, os, sys, numpy as np
from vocos_onnx import VocosONNX
def work():
    vocos = VocosONNX(sys.argv[1], threads=2)
    async def main():
        pool = vocos.stream_pool()
        tokens = np.ones((2, 2000), int)
        return (await asyncio.gather(vocos.adecode(tokens), vocos.stream().apush(tokens), pool.open().apush(tokens)))[0]
    return asyncio.run(main())
audio = work()
child = os.fork()
if not child:
    os._exit(7 if np.array_equal(work(), audio) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("done")
"""
PENDING = """
import asyncio, sys, numpy as np
from vocos_onnx import VocosONNX
vocos = VocosONNX(sys.argv[1])
loop = asyncio.new_event_loop()
tokens = np.ones((2, 75 * 3600 * 10), int)
pool = vocos.stream_pool()
tasks = [loop.create_task(c) for c in (vocos.adecode(tokens), vocos.stream().apush(tokens), pool.open().apush(tokens))]
loop.run_until_complete(asyncio.sleep(0.3))
assert not any(task.done() for task in tasks)
for task in tasks:
    task._log_destroy_pending = False
{end}
print("done")
"""
INTERRUPTED = """
import asyncio, os, signal, sys, numpy as np
from vocos_onnx import VocosONNX
vocos = VocosONNX(sys.argv[1])
async def main():
    asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGINT)
    await vocos.adecode(np.ones((2, 75 * 3600 * 10), int))
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("done")
"""


@pytest.mark.parametrize(
    "program", [FORK, PENDING.format(end=""), PENDING.format(end="loop.close()"), INTERRUPTED],
    ids=["fork", "pending", "closed", "interrupted"],
)  # fmt: skip
def test_a_process_ends(program: str) -> None:
    """A process exits cleanly after a fork, with hours of abandoned work, and with its loop closed or not."""
    command = [sys.executable, "-W", FORKS, "-c", program, str(DATA / "encodec.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_warnings_are_at_the_line_that_awaits(tmp_path: Path) -> None:
    """Or, on a thread that has no line of the program, at the function that was called; never at asyncio's threads."""
    code = f"""
import asyncio, warnings, numpy as np
from vocos_onnx import VocosONNX, load_tokens
np.save("t.npy", np.zeros((2, 30), int))
mel = VocosONNX({str(DATA / "mel.onnx")!r})

async def main():
    await asyncio.to_thread(load_tokens, "t.npy")
    await mel.adecode(np.full((8, 60), 40, np.float32))

with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    asyncio.run(main())
    codec, mels = seen
    assert "names no codec, so decode" in str(codec.message) and codec.filename.endswith("tokens.py"), codec
    assert "cannot be the mels" in str(mels.message) and (mels.filename, mels.lineno) == ("<string>", 9), mels
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
