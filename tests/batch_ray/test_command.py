"""vocos-onnx batch --engine ray, which starts Ray on this machine: what it prints, and how it is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vocos_onnx import VocosONNX, save_tokens
from vocos_onnx.batch import Settings, run

COUNT = 40
COMMAND = [sys.executable, "-m", "vocos_onnx", "batch", "corpus.jsonl", "out", "--engine", "ray", "--workers", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of tokens of 2 to 12 s."""
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
    """The lines of stderr, without that in which Ray confirms how much it is to log."""
    return [line for line in errors.splitlines() if "RAY_BACKEND_LOG_LEVEL" not in line]


def test_ended_and_gone_on_with(folder: Path) -> None:
    """SIGTERM ends it soon, with nothing half-written; the next run does the rest, and prints the summary alone."""
    process = subprocess.Popen(COMMAND, cwd=folder, stderr=subprocess.PIPE, text=True)
    journal = folder / "out" / "journal.jsonl"
    for _ in range(1200):
        if journal.exists() and journal.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert outputs(folder / "out").items() <= outputs(folder / "expected").items()
    before = journal.read_bytes().count(b"\n") - 1
    assert 4 <= before < COUNT

    done = subprocess.run([*COMMAND, "--resume", "--json"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, said(done.stderr)) == (0, [])
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["done"], summary["before"], summary["failed"]) == (COUNT, COUNT, before, 0)
    assert outputs(folder / "out") == outputs(folder / "expected")
    assert sorted(path.name for path in (folder / "out").iterdir() if path.suffix != ".wav") == [
        ".lock",
        "journal.jsonl",
    ]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no SIGKILL")
def test_a_driver_that_is_killed(folder: Path) -> None:
    """Its Ray ends with it; the next run finds what it left."""
    process = subprocess.Popen(COMMAND, cwd=folder, stderr=subprocess.DEVNULL)
    journal = folder / "out" / "journal.jsonl"
    for _ in range(1200):
        if journal.exists() and journal.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = journal.read_bytes().count(b"\n") - 1
    done = subprocess.run([*COMMAND, "--resume", "--json"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert json.loads(done.stdout)["before"] >= before
    assert outputs(folder / "out") == outputs(folder / "expected")
