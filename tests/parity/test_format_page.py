"""The program on the file format page decodes a file without vocos-onnx and gives our audio."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vocos_onnx import VocosONNX
from vocos_onnx.model.bundled import CODEC, find_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "format.md"


def test_the_program_decodes_as_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(find_model(CODEC).parent)
    tokens = np.random.default_rng(0).integers(1024, size=(8, 50))
    np.save("tokens.npy", tokens)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, str(PAGE), "exec"), names)
    expected = VocosONNX().decode(tokens)
    assert names["audio"].shape == expected.shape
    assert np.abs(names["audio"] - expected).max() <= 1e-5 * np.abs(expected).max()
