"""Spans: split anywhere, on any number of threads, the audio is that of the whole; and the thread pool itself."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import DATA, FORKS
from vocos_onnx import EncodecONNX, VocosONNX, spans
from vocos_onnx.frames import Frames
from vocos_onnx.model.cpus import available_cpus
from vocos_onnx.model.onnx_file import STEP, WHOLE
from vocos_onnx.spans import Plan
from vocos_onnx.workers import AHEAD, in_order

MODELS = sorted(path.stem for path in DATA.glob("*.onnx") if not path.stem.startswith("encoder"))
OLDER = [f"format-{version}/{name}" for version in (4, 5) for name in ("encodec", "encodec-int8", "imdct-symexp")]
SPAN = 60  # frames; replaces ALONE in these tests


def random_input(vocos: VocosONNX, frames: int, batch: int | None = None, seed: int = 0) -> Any:
    rng = np.random.default_rng((seed, frames))
    if vocos.config.encodec is None:
        return rng.normal(-3, 1, (*([batch] if batch else []), 8, frames)).astype(np.float32)
    return rng.integers(16, size=(2, *([batch] if batch else []), frames))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert not found.size or np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def opened(name: str, threads: int) -> VocosONNX:
    return VocosONNX(DATA / f"{name}.onnx", threads=threads, providers=["cpu"])


def cut_anyway(vocos: VocosONNX) -> VocosONNX:
    """Make the model split everything that is long enough, even where that is not faster."""
    vocos._plan = dataclasses.replace(vocos._plan, waiting=10.0)
    return vocos


def with_threads_inside(vocos: VocosONNX) -> VocosONNX:
    """Make the model compute whole items in one call, as on other providers."""
    vocos._plan = Plan(vocos._plan.reach, None)
    return vocos


# Any split gives the same audio


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", [*MODELS, *OLDER])
def test_lengths_at_the_boundaries(monkeypatch: pytest.MonkeyPatch, name: str, threads: int) -> None:
    """Lengths at which one more span begins or at which threads inside operators suffice, and one around each."""
    monkeypatch.setattr(spans, "ALONE", SPAN)
    vocos, whole = cut_anyway(opened(name, threads)), with_threads_inside(opened(name, 1))
    reach = vocos.network.reach
    edges = {1, 2, 3, reach, 2 * reach, *(SPAN * n for n in (1, 2, 3, 4)), *(reach * n for n in (4, 8, 16, 17))}
    for length in sorted({edge + more for edge in edges for more in (-1, 0, 1)} - {-1, 0}):
        item = random_input(vocos, length)
        bandwidth_id = 0 if vocos.config.num_bandwidth_ids else None
        assert_close(vocos.decode(item, bandwidth_id), whole.decode(item, bandwidth_id))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_call(name: str, data: st.DataObject) -> None:
    """Arrays, batches and lists, on 1 to 4 threads, with any span length."""
    vocos = opened(name, data.draw(st.integers(1, 4)))
    if data.draw(st.booleans()):
        cut_anyway(vocos)
    longest = data.draw(st.integers(1, 80))
    lengths = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=6))
    batch = data.draw(st.integers(1, 5))
    whole = with_threads_inside(opened(name, 1))
    bandwidth_id = 0 if vocos.config.num_bandwidth_ids else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "ALONE", longest)
        items = [random_input(vocos, length, seed=i) for i, length in enumerate(lengths)]
        for found, expected in zip(vocos.decode(items, bandwidth_id), whole.decode(items, bandwidth_id), strict=True):
            assert_close(found, expected)
        stack = random_input(vocos, lengths[0], batch)
        assert_close(vocos.decode(stack, bandwidth_id), whole.decode(stack, bandwidth_id))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_again_the_same_bits(monkeypatch: pytest.MonkeyPatch, name: str, threads: int) -> None:
    """For a given number of threads the audio is bit-identical, for another object and for concurrent callers too."""
    monkeypatch.setattr(spans, "ALONE", SPAN)
    vocos, other = (cut_anyway(opened(name, threads)) for _ in range(2))
    bandwidth_id = 0 if vocos.config.num_bandwidth_ids else None
    items = [random_input(vocos, length) for length in (400, 7, 90, 130)]
    expected = vocos.decode(items, bandwidth_id)
    found: list[Any] = []
    callers = [
        threading.Thread(target=lambda: found.append(vocos.decode(items, bandwidth_id)), daemon=True) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(found) == 4
    for again in (*found, other.decode(items, bandwidth_id)):
        assert all(np.array_equal(one, two) for one, two in zip(again, expected, strict=True))


@pytest.mark.parametrize("name", ["encodec", "encodec-int8", "imdct-symexp"])
def test_both_branches_are_the_same_network(name: str) -> None:
    """The branch for whole sequences, which has fewer operators, gives the results of the one that takes a state."""
    vocos, stepwise = opened(name, 2), opened(name, 2)
    network = vocos.network
    bandwidth_id = 1 if vocos.config.num_bandwidth_ids else None
    stepwise.stream(bandwidth_id).push(random_input(stepwise, 5))
    for length in (1, 5, 50):
        shape = (3, network.config.feature_channels, length)
        features = np.random.default_rng(length).normal(size=shape).astype(np.float32)
        whole = [network.spectrum(features, bandwidth_id, alone=alone) for alone in (False, True)]
        step = stepwise.network.spectrum(features, bandwidth_id)
        assert all(np.array_equal(one, step) for one in whole)


def test_sessions_open_when_they_are_needed() -> None:
    """A stream's session replaces that for short input, whose results stay bit-identical."""
    vocos = opened("encodec", 2)
    item = random_input(vocos, 6)
    sessions = vocos.network._session._sessions
    assert not sessions
    audio = vocos.decode(item, 1)
    assert set(sessions) == {(WHOLE, 2)}
    vocos.decode(random_input(vocos, 2000), 1)
    assert set(sessions) == {(WHOLE, 2), (WHOLE, 1)}
    vocos.stream(1).push(item)
    assert set(sessions) == {(STEP, 2), (WHOLE, 1)}
    assert np.array_equal(vocos.decode(item, 1), audio)
    assert set(sessions) == {(STEP, 2), (WHOLE, 1)}


@pytest.mark.parametrize("name", ["encoder-spectrum", "encoder"])
def test_encoders(name: str) -> None:
    one, several = (EncodecONNX(DATA / f"{name}.onnx", threads=threads) for threads in (1, 3))
    rng, bandwidth = np.random.default_rng(0), one.bandwidths[-1]
    for frames in (1, 8, 31, 32, 33, 95, 96, 97, 400):
        for shape in ((frames * one.hop_length - 5,), (3, frames * one.hop_length)):
            audio = 0.1 * rng.standard_normal(shape).astype(np.float32)
            expected = one.embed(audio, one.sample_rate)
            assert_close(several.embed(audio, one.sample_rate), expected)
            blocks = [audio[i : i + 999] for i in range(0, len(audio), 999)] if len(shape) == 1 else []
            if blocks:
                streamed = np.concatenate(list(one.encode_stream(blocks, one.sample_rate, bandwidth)), axis=1)
                assert np.array_equal(several.encode(audio, one.sample_rate, bandwidth), streamed)


# What is computed in parallel


def _frames(length: int, batch: int = 1) -> Frames:
    return Frames(np.zeros((batch, 8, length), np.float32), None, None, is_batch=False)


@pytest.mark.parametrize(
    ("items", "threads", "precision", "count"),
    [
        ([_frames(75)], 2, "float32", None),  # too short: threads inside operators
        ([_frames(750)], 2, "float32", 2),
        ([_frames(400)], 2, "float32", None),
        ([_frames(400)], 2, "int8", 2),
        ([_frames(750)], 4, "float32", 4),
        ([_frames(4500)], 2, "float32", 10),
        ([_frames(1501)], 2, "float32", 4),  # an even number for the two threads
        ([_frames(75)] * 10, 2, "float32", 10),
        ([_frames(75, 10)], 2, "float32", 2),  # the rows of a batch
        ([_frames(75), _frames(75)], 2, "float32", 2),
        ([_frames(750), _frames(20)], 2, "float32", 3),
        ([_frames(75)], 1, "float32", 1),
        ([_frames(1500)], 1, "float32", 3),
        ([], 2, "float32", 0),
    ],
)
def test_what_goes_side_by_side(items: list[Frames], threads: int, precision: str, count: int | None) -> None:
    work = Plan(27, threads, waiting=spans.WAITING[precision]).work(items)
    batches = list(work.batches)
    assert work.alone == (count is not None)
    assert len(batches) == (count if work.alone else len(items))
    assert work.threads == (threads if work.alone else 1)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 4)), max_size=8),
    threads=st.integers(1, 64),
    reach=st.integers(0, 40),
    waiting=st.sampled_from([0.0, 0.12, 0.25, 2.0]),
)
def test_spans_cover_everything_once(sizes: list[tuple[int, int]], threads: int, reach: int, waiting: float) -> None:
    items = [_frames(length, batch) for length, batch in sizes]
    seen = [np.zeros((batch, length), int) for length, batch in sizes]
    for batch in Plan(reach, threads, waiting=waiting).work(items).batches:
        for span in batch:
            seen[span.item][span.rows, span.start : span.stop] += 1
            assert span.first == max(0, span.start - reach)
            assert span.last == min(span.frames.length, span.stop + reach)
            assert reach == 0 or span.stop - span.start <= spans.LONGEST
    assert all((one == 1).all() for one in seen)


def test_threads_of_a_process_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With eight concurrent calls of two spans each, no more spans are in the network than there are CPUs."""
    monkeypatch.setattr(spans, "ALONE", SPAN)
    vocos = cut_anyway(opened("mel", 2))
    running, most, lock = 0, 0, threading.Lock()
    spectrum = vocos.network.spectrum

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        try:
            return spectrum(*args, **options)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(vocos.network, "spectrum", counted)
    item = random_input(vocos, 1000)
    callers = [threading.Thread(target=vocos.decode, args=(item,), daemon=True) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not any(caller.is_alive() for caller in callers)
    assert 1 < most <= max(2, available_cpus())


# The thread pool


def test_order_and_bound() -> None:
    """Results come in order, and items are consumed only a bounded number ahead of the results."""
    taken, done, running, most = 0, 0, 0, 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(40):
            taken += 1
            assert taken <= done + AHEAD * 3
            yield i

    def same(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05 if i % 20 == 0 else 0.002 * (i % 3))
        with lock:
            running -= 1
        return i

    for i, result in enumerate(in_order(same, items(), 3)):
        assert result == i
        done += 1
    assert done == 40
    assert most <= 3


def test_a_long_item_keeps_no_thread_idle() -> None:
    """While it runs, another thread processes the items after it."""
    first, others = threading.Event(), []

    def item(i: int) -> int:
        if i == 0:
            assert first.wait(30)
        else:
            others.append(i)
            if len(others) == 2 * AHEAD - 1:
                first.set()
        return i

    assert list(in_order(item, range(20), 2)) == list(range(20))


def test_the_first_error_ends_it() -> None:
    started: list[int] = []

    def fails(i: int) -> int:
        started.append(i)
        time.sleep(0.01)
        if i in (3, 4):
            raise ValueError(f"item {i}")
        return i

    results = in_order(fails, itertools.count(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(results)
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count <= 6
    assert next(results, None) is None


def test_closed_early() -> None:
    """Once the iterator is closed, none of its work is running."""
    running = threading.Semaphore(0)

    def slow(i: int) -> int:
        time.sleep(0.05)
        running.release()
        return i

    results = in_order(slow, range(100), 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    count = running._value
    time.sleep(0.1)
    assert running._value == count <= 3


def _run(code: str, tmp_path: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", FORKS, "-c", code, str(DATA / "mel.onnx")],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=tmp_path,
        check=False,
    )


START = """
import atexit, os, sys, threading
import numpy as np
from vocos_onnx import VocosONNX
vocos = VocosONNX(sys.argv[1], threads=2)
features = np.random.default_rng(0).normal(size=(8, 5000)).astype(np.float32)
"""


def test_at_the_exit_of_the_interpreter(tmp_path: Path) -> None:
    """When no more threads can start, the calling thread does the work."""
    code = (
        START
        + """
expected = vocos.decode(features) if len(sys.argv) > 2 else None
@atexit.register
def last():
    print(vocos.decode(features).shape, flush=True)
"""
    )
    for ready in ("", "vocos.decode(features)\n"):
        done = _run(code + ready, tmp_path)
        assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["(79984,)"])


def test_a_thread_that_decodes_while_the_interpreter_exits(tmp_path: Path) -> None:
    code = (
        START
        + """
def forever():
    while True:
        vocos.decode(features)
threading.Thread(target=forever, daemon=True).start()
import time; time.sleep(0.5)
"""
    )
    done = _run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork(tmp_path: Path) -> None:
    """A forked child gets its own thread pool instead of its parent's."""
    code = (
        START
        + """
expected = vocos.decode(features)
child = os.fork()
if not child:
    again = VocosONNX(sys.argv[1], threads=2).decode(features)
    print(np.array_equal(again, expected), flush=True)
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert np.array_equal(vocos.decode(features), expected)
"""
    )
    done = _run(code, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "True\n")


def test_threads_start_when_they_are_needed(tmp_path: Path) -> None:
    """Neither the import nor a short decode starts the pool; a long one starts at most as many threads as CPUs."""
    code = (
        START
        + """
names = lambda: [t.name for t in threading.enumerate() if t.name.startswith("vocos-onnx")]
vocos.decode(features[:, :20])
print(len(names()))
for _ in range(5):
    vocos.decode(features)
print(len(names()))
"""
    )
    done = _run(code, tmp_path)
    short, long = map(int, done.stdout.split())
    assert short == 0, done.stderr
    assert 1 <= long <= available_cpus()


def test_an_error_in_a_span_is_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "ALONE", SPAN)
    vocos = cut_anyway(opened("mel", 2))
    spectra = vocos.network.spectra

    def damaged(batch: list[Any], **options: Any) -> Any:
        made = spectra(batch, **options)
        if batch[0].start <= 700 < batch[0].stop:
            values = made[0].values
            assert values is not None
            values[:, 700 - batch[0].start] = np.nan
        return made

    with monkeypatch.context() as patch:
        patch.setattr(vocos.network, "spectra", damaged)
        with pytest.raises(FloatingPointError, match=r"in 1 of \d+ frames, first in frame 700 of item 0"):
            vocos.decode(random_input(vocos, 1000))
    assert np.isfinite(vocos.decode(random_input(vocos, 1000))).all()
