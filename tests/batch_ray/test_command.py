"""vocos-onnx batch --engine ray, on its own Ray and on a cluster: its messages, and interrupting it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.batch_ray.progress import begun, done, wait_until
from vocos_onnx import VocosONNX, save_tokens
from vocos_onnx.batch import Settings, run

COUNT = 60
COMMAND = [sys.executable, "-m", "vocos_onnx", "batch", "corpus.jsonl", "out", "--engine", "ray"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of tokens of 2 to 12 s, and the local engine's outputs for it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rng, vocos = np.random.default_rng(0), VocosONNX()
    with (tmp_path / "corpus.jsonl").open("w") as manifest:
        for index in range(COUNT):
            save_tokens(tmp_path / f"{index}.npz", rng.integers(1024, size=(8, int(rng.integers(150, 900)))), vocos)
            manifest.write(json.dumps({"path": f"{index}.npz"}) + "\n")
    run(tmp_path / "corpus.jsonl", tmp_path / "expected", Settings.of("decode"), workers=2)
    return tmp_path


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.wav")}


def said(errors: str) -> list[str]:
    """The lines of stderr, without Ray's message about its log level."""
    return [line for line in errors.splitlines() if "RAY_BACKEND_LOG_LEVEL" not in line]


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")  # an ended process that nobody waits for stays as a zombie
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def interrupt(folder: Path, number: int, *options: str) -> tuple[int, str]:
    """Run the command until some items are done, then send it a signal; returns its exit code and stderr.

    Asserts that its actors exit soon after.
    """
    out = folder / "out"
    before = max(done(out), 0)
    process = subprocess.Popen([*COMMAND, *options], cwd=folder, stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: done(out) > before + 4 or process.poll() is not None)
    actors = {entry["process"] for entry in begun(out)}
    assert actors
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert before + 4 < done(out) < COUNT
    assert wait_until(lambda: not any(map(lives, actors)), 30)
    assert outputs(out).items() <= outputs(folder / "expected").items()
    return process.returncode, errors


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no SIGKILL")
def test_killed_ended_and_gone_on_with(folder: Path, cluster: Any) -> None:
    """The first run, with its own Ray, is killed; the second, on a cluster, gets SIGTERM; the third does the rest."""
    code, _ = interrupt(folder, signal.SIGKILL, "--workers", "2")
    assert code == -signal.SIGKILL
    code, errors = interrupt(folder, signal.SIGTERM, "--resume", "--address", cluster.address)
    assert (code, "Traceback" in errors) == (143, False), errors
    before, address = done(folder / "out"), ["--address", cluster.address]
    last = subprocess.run(
        [*COMMAND, "--resume", "--json", *address], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert (last.returncode, said(last.stderr)) == (0, [])
    summary = json.loads(last.stdout)
    assert (summary["items"], summary["done"], summary["before"], summary["failed"]) == (COUNT, COUNT, before, 0)
    assert outputs(folder / "out") == outputs(folder / "expected")
    left = sorted(path.name for path in (folder / "out").iterdir() if path.suffix != ".wav")
    assert left == [".lock", "journal.jsonl"]
