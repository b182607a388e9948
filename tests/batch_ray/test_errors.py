"""Errors if there is no cluster, or the cluster cannot do the job."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DATA
from vocos_onnx.batch import Settings, run
from vocos_onnx.batch.manifest import Item
from vocos_onnx.batch.ray_engine import rows, through_ray


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.of("decode", model=DATA / "encodec.onnx")


def item(tmp_path: Path) -> list[Item]:
    return [Item(0, "a", tmp_path / "a.npz", 1)]


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (
            "127.0.0.1:1",
            ConnectionError,
            r"no Ray cluster at 127\.0\.0\.1:1 \(.*refused.*\): start it with ray start --head",
        ),
        ("ray://127.0.0.1:1", ConnectionError, r"no Ray cluster at ray://127\.0\.0\.1:1"),
        ("no.such.host.invalid:6379", ConnectionError, r"no Ray cluster at no\.such\.host\.invalid:6379"),
        ("head", ValueError, r"the address of Ray is 'head', expected HOST:PORT, as in 10\.0\.0\.5:6379, or auto"),
        ("head:0", ValueError, r"the address of Ray is 'head:0', expected HOST:PORT"),
    ],
)
def test_no_cluster(
    no_connection: None,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    error: Any,
    message: str,
) -> None:
    """Without a cluster there is an error, and no files are left behind."""
    with pytest.raises(error, match=message):
        next(rows(settings, tmp_path, item(tmp_path), address=address))
    with pytest.raises(error, match=message):
        through_ray(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(error, match=message):
        next(rows(settings, tmp_path, item(tmp_path)))
    (tmp_path / "corpus.csv").write_text("path\na.npz\n")
    with pytest.raises(error, match=message):
        run(tmp_path / "corpus.csv", tmp_path / "out", settings, engine="ray")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.csv"]


def test_none_runs_here(tmp_path: Path) -> None:
    """The command prints the error and leaves no files behind either."""
    (tmp_path / "corpus.csv").write_text("path\na.npz\n")
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path / "ray")}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "vocos_onnx", "batch", "corpus.csv", "out", "--engine", "ray", "--address", "auto"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert found.returncode == 2
    last = found.stderr.splitlines()[-1]
    assert last.startswith("vocos-onnx: error: there is no Ray cluster that runs on this machine (")
    assert last.endswith(
        "): start it with ray start --head, or leave the address out (RAY_ADDRESS, too), and Ray is started on this "
        "machine"
    )
    assert not (tmp_path / "out").exists()


def test_no_gpu(connection: Any, tmp_path: Path, settings: Settings) -> None:
    cuda = replace(settings, provider="cuda")
    message = "an actor needs 1 GPU, and the cluster has 0 in all: start its nodes with --num"
    with pytest.raises(ValueError, match=message):
        next(rows(cuda, tmp_path, item(tmp_path)))
    with pytest.raises(ValueError, match=message):
        through_ray(gpus=1)
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_cannot_open_the_model(connection: Any, tmp_path: Path, settings: Settings) -> None:
    assert settings.model is not None
    gone = replace(settings, model=replace(settings.model, pinned=("/nowhere/model.onnx", settings.model.sha256)))
    with pytest.raises(RuntimeError, match=r"^node .*: .*/nowhere/model\.onnx"):
        next(rows(gone, tmp_path, item(tmp_path)))
    assert list(tmp_path.iterdir()) == []
