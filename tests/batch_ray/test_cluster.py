"""Jobs on a real local cluster of two nodes: what the local engine makes, whatever is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vocos_onnx import save_tokens
from vocos_onnx.batch import Settings, Summary, run
from vocos_onnx.batch.ray_engine import FOLDER, through_ray

COUNT = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of tokens of 2 to 12 s, one of 80 s, which is done first, and a damaged file."""
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
    """What the local engine makes."""
    out = tmp_path_factory.mktemp("local") / "out"
    run(corpus, out, settings, workers=2)
    return out


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one CPU, which notices soon that a node is gone."""
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
    )
    yield cluster
    cluster.shutdown()


def run_with_ray(corpus: Path, out: Path, settings: Settings, cluster: Any) -> Summary:
    return run(corpus, out, settings, engine=through_ray(cluster.address))


def journal(out: Path) -> list[dict[str, Any]]:
    _, *lines = (out / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def check(out: Path, expected: Path, failed: tuple[str, ...] = ("bad",)) -> None:
    """The same outputs, each once in the journal, and nothing else in the folder."""
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
    """Do something as soon as a condition holds, in a thread."""

    def wait() -> None:
        for _ in range(2000):
            if condition():
                action()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def done(out: Path) -> int:
    """How many items are in the journal so far."""
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def begun(out: Path) -> list[dict[str, Any]]:
    """What the actors have begun."""
    entries = []
    for path in (out / FOLDER).glob("[0-9]*"):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}") and "process" in (entry := json.loads(line)):
                entries.append(entry)
    return entries


def test_a_node_dies(cluster: Any, corpus: Path, settings: Settings, expected: Path, tmp_path: Path) -> None:
    out, node = tmp_path / "out", cluster.add_node(num_cpus=1)
    killed: list[int] = []

    def kill() -> None:
        killed.append(done(out))
        cluster.remove_node(node, allow_graceful=False)

    def both_work() -> bool:
        """Whether the actors of both nodes have begun something, and something is done."""
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
    """Whoever begins the longest item is killed."""
    out, killed = tmp_path / "out", list[int]()

    def kill() -> None:
        for _ in range(4000):
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
    assert (summary.done, summary.failed) == (COUNT - 1, 2)
    summary = run(corpus, out, settings, workers=1, resume=True)  # the local engine tries it again
    assert (summary.before, summary.done, summary.failed) == (COUNT - 1, COUNT, 1)
    check(out, expected)
