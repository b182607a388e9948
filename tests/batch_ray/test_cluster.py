"""Jobs on a real local cluster of two nodes give the local engine's outputs, whatever is killed during the run."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.batch_ray.progress import begun, done, journal, wait_until
from vocos_onnx import save_tokens
from vocos_onnx.batch import Settings, Summary, run
from vocos_onnx.batch.ray_engine import through_ray

COUNT = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of tokens of 2 to 12 s, one item of 80 s, which runs first, and a damaged file."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    with (folder / "corpus.jsonl").open("w") as manifest:
        for index in range(COUNT):
            path = folder / f"{index}.npz"
            save_tokens(path, rng.integers(1024, size=(8, int(rng.integers(150, 900)) if index else 6000)))
            manifest.write(json.dumps({"id": f"item-{index}", "path": path.name}) + "\n")
        (folder / "bad.npz").write_bytes(b"PK" + bytes(100))
        manifest.write(json.dumps({"id": "bad", "path": "bad.npz"}) + "\n")
    return folder / "corpus.jsonl"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.of("decode")


@pytest.fixture(scope="module")
def expected(corpus: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of the local engine."""
    out = tmp_path_factory.mktemp("local") / "out"
    run(corpus, out, settings, workers=2)
    return out


def run_with_ray(corpus: Path, out: Path, settings: Settings, cluster: Any) -> Summary:
    return run(corpus, out, settings, engine=through_ray(cluster.address))


def check(out: Path, expected: Path, failed: tuple[str, ...] = ("bad",)) -> None:
    """Asserts equal outputs, each in the journal once, and no other files in the folder."""
    ids = [row["id"] for row in journal(out)]
    assert len(ids) == len(set(ids))
    assert sorted([*ids, *failed]) == sorted(["bad", *(f"item-{i}" for i in range(COUNT))])
    errors = [json.loads(line)["id"] for line in (out / "errors.jsonl").read_text().splitlines()]
    assert sorted(errors) == sorted(failed)
    for row in journal(out):
        assert (out / row["output"]["name"]).read_bytes() == (expected / row["output"]["name"]).read_bytes(), row["id"]
    left = {path.name for path in out.iterdir()} - {row["output"]["name"] for row in journal(out)}
    assert left == {"journal.jsonl", "errors.jsonl", ".lock"}


def meanwhile(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """In a thread, run the action as soon as the condition holds."""

    def wait() -> None:
        if wait_until(condition):
            action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_node_dies(cluster: Any, corpus: Path, settings: Settings, expected: Path, tmp_path: Path) -> None:
    out, node = tmp_path / "out", cluster.add_node(num_cpus=1)
    killed: list[int] = []

    def kill() -> None:
        killed.append(done(out))
        cluster.remove_node(node, allow_graceful=False)

    def both_work() -> bool:
        """Whether actors on both nodes have started an item and at least 8 items are done."""
        return done(out) >= 8 and len({entry["process"] for entry in begun(out)}) == 2

    thread = meanwhile(both_work, kill)
    summary = run_with_ray(corpus, out, settings, cluster)
    thread.join()
    assert 8 <= killed[0] < COUNT - 8
    check(out, expected)
    assert (summary.items, summary.done, summary.failed) == (COUNT + 1, COUNT, 1)


def test_an_actor_is_killed(cluster: Any, corpus: Path, settings: Settings, expected: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        killed.append(begun(out)[-1]["process"])
        os.kill(killed[0], signal.SIGKILL)

    thread = meanwhile(lambda: done(out) >= 8, kill)
    summary = run_with_ray(corpus, out, settings, cluster)
    thread.join()
    assert killed
    check(out, expected)
    assert (summary.done, summary.failed) == (COUNT, 1)


def test_an_item_that_ends_its_process_twice(
    cluster: Any, corpus: Path, settings: Settings, expected: Path, tmp_path: Path
) -> None:
    """An item during which two processes are killed, here the longest one, fails; a resumed run tries it again."""
    out, killed = tmp_path / "out", list[int]()

    def kill() -> None:
        for _ in range(8000):
            for entry in begun(out):
                if entry["position"] == 0 and entry["process"] not in killed:
                    os.kill(entry["process"], signal.SIGKILL)
                    killed.append(entry["process"])
            if len(killed) == 2:
                return
            time.sleep(0.005)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    summary = run_with_ray(corpus, out, settings, cluster)
    thread.join()
    assert len(killed) == 2
    check(out, expected, ("bad", "item-0"))
    errors = {row["id"]: row["error"] for row in map(json.loads, (out / "errors.jsonl").read_text().splitlines())}
    assert errors["item-0"] == (
        "its process ended twice without a word: killed, out of memory, or crashed (at last process "
        f"{killed[1]} of {socket.gethostname()})"
    )
    assert (summary.done, summary.failed, summary.replaced) == (COUNT - 1, 2, 2)
    summary = run(corpus, out, settings, workers=1, resume=True)  # the local engine tries it again
    assert (summary.before, summary.done, summary.failed) == (COUNT - 1, COUNT, 1)
    check(out, expected)
