"""Models in folders, and invalid requests; tests/parity/test_pretrained.py tests the hub itself."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DATA
from vocos_onnx import EncodecONNX, VocosONNX

SHA256 = hashlib.sha256((DATA / "encodec.onnx").read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(DATA / "encodec.onnx", tmp_path / "model.onnx")
    shutil.copy(DATA / "encoder.onnx", tmp_path / "encoder.onnx")
    return tmp_path


def test_a_folder(folder: Any) -> None:
    vocos = VocosONNX.from_pretrained(folder, sha256=SHA256.upper(), threads=1, encoder=folder / "encoder.onnx")
    assert vocos.bandwidths == (0.75, 1.5)
    assert EncodecONNX.from_pretrained(str(folder), threads=1).num_codebooks == 4
    assert VocosONNX.from_pretrained(DATA, "mel.onnx").sample_rate == 8000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"sha256": "0" * 64},
            ValueError,
            f"model.onnx has the sha256 {SHA256}, expected {'0' * 64}: it is not loaded",
        ),
        ({"sha256": "0" * 63}, ValueError, "sha256 is '0+', expected 64 hexadecimal digits"),
        ({"sha256": "x" * 64}, ValueError, "expected 64 hexadecimal digits"),
        ({"revision": "main"}, ValueError, "revision is 'main', but .* is a local folder, which has none"),
        ({"filename": "m.onnx"}, FileNotFoundError, r"no m.onnx in the folder .*files there: encoder.onnx, model.onnx"),
        ({"threads": 0}, ValueError, "threads is 0"),
    ],
)
def test_refused(folder: Any, arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        VocosONNX.from_pretrained(folder, **arguments)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"no folder acme/vocos, .* pip install 'vocos-onnx\[hub\]'"):
        VocosONNX.from_pretrained("acme/vocos")
