"""Tests of the Ray engine that need no Ray: the to-do list, an actor's work, and errors. The rest: tests/batch_ray/."""

from __future__ import annotations

import errno
import os
import random
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA
from vocos_onnx import save_tokens
from vocos_onnx.batch import ray_engine
from vocos_onnx.batch.job import Settings
from vocos_onnx.batch.journal import FileState, Row
from vocos_onnx.batch.local import Replaced
from vocos_onnx.batch.manifest import Item
from vocos_onnx.batch.ray_engine import Actor, rows, through_ray
from vocos_onnx.version import __version__


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.of("decode", model=DATA / "encodec.onnx")


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Twenty token files; number 5 is damaged."""
    rng, found = np.random.default_rng(0), []
    for index in range(20):
        path = tmp_path / f"{index}.npz"
        save_tokens(path, rng.integers(1024, size=(2, 5 + index)))
        if index == 5:
            path.write_bytes(b"PK" + bytes(100))
        found.append(Item(index, f"item-{index}", path, path.stat().st_size))
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out" / ray_engine.FOLDER).mkdir(parents=True)
    return tmp_path / "out"


def batch(chunk: dict[str, int]) -> dict[str, Any]:
    return {name: np.array([value]) for name, value in chunk.items()}


def received(
    actor: Actor, chunk: dict[str, int], replaced: list[Replaced] | None = None
) -> list[list[tuple[int, Row]]]:
    """The rows of an actor in the portions it returns; notices of actors that died are added to ``replaced``."""
    portions = [list(ray_engine._received(text)) for part in actor(batch(chunk)) for text in part["rows"]]
    if replaced is not None:
        replaced += [found for portion in portions for found in portion if isinstance(found, Replaced)]
    return [[found for found in portion if not isinstance(found, Replaced)] for portion in portions]


def joined(parts: list[list[tuple[int, Row]]]) -> list[tuple[int, Row]]:
    return [pair for part in parts for pair in part]


@pytest.mark.parametrize("count", [0, 1, 2, 31, 33, 1000, 5000])
@pytest.mark.parametrize("wanted", [1, 16, 64])
def test_chunks_are_all_items_in_order(tmp_path: Path, count: int, wanted: int) -> None:
    rng = random.Random(count)
    known = Row("known", "", FileState("0" * 64, 1, 2), "known.wav", FileState("1" * 64, 3, 4), 0.5, ("loud",))
    items = [
        Item(
            index * 2, f"été {index}", Path(f"/no\udcff/{index}.npz"), rng.choice([-1, 0, 9, 10**9]),
            known if index % 7 == 0 else None,
        )
        for index in range(count)
    ]  # fmt: skip
    path = tmp_path / "items"
    chunks = ray_engine._write(items, path, wanted)
    assert len(chunks) <= max(wanted, count // ray_engine.ITEMS_A_CHUNK) + 1
    assert len(chunks) >= min(count, 1)
    assert all(chunk["count"] > 0 for chunk in chunks)
    read = [item for chunk in chunks for item in ray_engine._items(path, chunk["place"], chunk["count"])]
    assert read == items
    firsts = [chunk["first"] for chunk in chunks]
    assert firsts == [sum(chunk["count"] for chunk in chunks[:i]) for i in range(len(chunks))]


def test_chunks_share_the_work(tmp_path: Path) -> None:
    """Chunks hold about equal work, so those of large items have few, and their number stays within Ray's limit."""
    sizes = sorted((2**i for i in range(20) for _ in range(50)), reverse=True)
    items = [Item(index, str(index), Path("/x"), size) for index, size in enumerate(sizes)]
    chunks = ray_engine._write(items, tmp_path / "items", 40)
    for chunk in chunks:
        work = sizes[chunk["first"] : chunk["first"] + chunk["count"]]
        assert sum(work) <= sum(sizes) / 40 + work[0]
    small = (Item(index, str(index), Path("/x"), 100) for index in range(200_000))
    assert len(ray_engine._write(small, tmp_path / "items", 40)) == ray_engine.MAX_CHUNKS


def test_an_actor(settings: Settings, items: list[Item], out: Path) -> None:
    todo = out / ray_engine.FOLDER / "items"
    (chunk,) = ray_engine._write(items, todo, 1)
    parts = received(Actor(settings, str(todo), __version__), chunk)
    assert [len(part) for part in parts] == [8, 8, 4]
    found = joined(parts)
    assert [position for position, _ in found] == list(range(20))
    assert [row.id for _, row in found] == [item.id for item in items]
    assert [row.id for _, row in found if row.error] == ["item-5"]
    for _, row in found:
        if row.error is None:
            assert row.output is not None
            assert row.output.is_of(out / row.name)
            assert FileState.of(out / row.name) == row.output


def test_an_actor_goes_on_where_another_died(settings: Settings, items: list[Item], out: Path) -> None:
    """A new actor returns the same portions without repeating work; an item during which two actors died fails."""
    todo = out / ray_engine.FOLDER / "items"
    (chunk,) = ray_engine._write(items, todo, 1)
    whole = received(Actor(settings, str(todo), __version__), chunk)
    lines = (todo.parent / "0").read_bytes().split(b"\n")
    began = next(i for i, line in enumerate(lines) if b'"position": 9' in line)
    (todo.parent / "0").write_bytes(b"\n".join(lines[: began + 1]) + b'\n{"position": 9, "ro')
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    replaced: list[Replaced] = []
    again = received(Actor(settings, str(todo), __version__), chunk, replaced)
    who = f"a worker ended without a word (process {os.getpid()} of {socket.gethostname()}): the item in work"
    assert replaced == [Replaced(1, f"{who} is tried once more")]
    assert [[position for position, _ in part] for part in again] == [[p for p, _ in part] for part in whole]
    for (_, one), (_, other) in zip(joined(whole), joined(again), strict=True):
        assert (one.id, one.error, one.name) == (other.id, other.error, other.name)
        assert (one.output and one.output.sha256) == (other.output and other.output.sha256)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    assert {name for name in before if before[name] != after[name]} == {f"item-{i}.wav" for i in range(9, 20)}

    (todo.parent / "0").write_bytes(b"\n".join([*lines[: began + 1], lines[began]]) + b"\n")
    replaced = []
    third = joined(received(Actor(settings, str(todo), __version__), chunk, replaced))
    assert replaced == [Replaced(1, f"{who} is tried once more"), Replaced(1, f"{who} has failed")]
    assert [row.id for _, row in third if row.error] == ["item-5", "item-9"]
    error = third[9][1].error or ""
    assert error.startswith(
        "its process ended twice without a word: killed, out of memory, or crashed (at last process "
    )
    assert error.endswith(f" of {socket.gethostname()})")


def test_an_actor_that_cannot_work(settings: Settings, items: list[Item], out: Path) -> None:
    todo = out / ray_engine.FOLDER / "items"
    (chunk,) = ray_engine._write(items, todo, 1)
    elsewhere = out / "elsewhere" / "items"
    assert settings.model is not None
    gone = replace(settings, model=replace(settings.model, pinned=("/nowhere/model.onnx", settings.model.sha256)))
    for actor, message in (
        (Actor(settings, str(todo), "0.0.1"), rf"it has vocos-onnx {__version__}, and the driver 0\.0\.1: install"),
        (Actor(settings, str(elsewhere), __version__), r"it has no .*elsewhere/items: the folder of the outputs must"),
        (Actor(gone, str(todo), __version__), r"/nowhere/model\.onnx"),
    ):
        with pytest.raises(RuntimeError, match=f"^node {socket.gethostname()}: .*{message}"):
            received(actor, chunk)


def test_a_full_disk_stops_the_job(settings: Settings, items: list[Item], out: Path) -> None:
    resource = pytest.importorskip("resource")
    todo = out / ray_engine.FOLDER / "items"
    (chunk,) = ray_engine._write(items, todo, 1)
    actor, before = Actor(settings, str(todo), __version__), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(OSError, match=f"node {socket.gethostname()}: cannot write .*: file too large") as caught:
            received(actor, chunk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert not list(out.glob("*.wav*"))


def test_ray_is_not_installed(settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"--engine ray needs ray: pip install 'vocos-onnx\[ray\]'"):
        next(rows(settings, out, []))
    with pytest.raises(ImportError, match=r"--engine ray needs ray: pip install 'vocos-onnx\[ray\]'"):
        through_ray()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "workers is 0, expected 1 or more"),
        ({"gpus": 0}, "gpus is 0, expected more than 0, and at most 8"),
        ({"gpus": 9}, "gpus is 9, expected more than 0, and at most 8"),
        ({"gpus": 1}, "gpus is 1, and the provider is the CPU: pass provider=.cuda., or leave it out"),
    ],
)
def test_bad_arguments(settings: Settings, out: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(rows(settings, out, [], **given))
