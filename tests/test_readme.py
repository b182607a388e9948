"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import vocos_onnx
from vocos_onnx.cli import main
from vocos_onnx.vocoder import default_model

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_each_promise_has_its_test(page):
    """The tests that a page names are there, but for those of the checkout where it is not at hand."""
    text = (README.parent / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+?)::(\w+)`", text)
    assert page != "SECURITY.md" or len(named) > 15
    for file, name in named:
        assert f"def {name}(" in (README.parent / file).read_text(encoding="utf-8"), (file, name)


def test_there_is_an_example():
    assert len(SNIPPETS) == 5


def test_snippets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(default_model().parent)
    main(["demo", "demo.wav"])
    names: dict[str, object] = {}
    for snippet in SNIPPETS:  # a later one may use what an earlier one has made
        exec(snippet, names)
        audio, rough = names["audio"], names["rough"]
        assert isinstance(audio, np.ndarray)
        assert isinstance(rough, np.ndarray)
        assert abs(len(audio) - len(rough)) < 512  # whole frames
        assert audio.dtype == np.float32
        assert audio.std() > 0.01


def test_it_names_what_is_public():
    text = README.read_text(encoding="utf-8")
    for name in vocos_onnx.__all__:
        assert name in text or name.endswith("Config"), name
    for extra in ("cpu", "gpu", "export", "train", "plot", "report", "test"):
        assert f"[{extra}]" in text or f",{extra}]" in text, extra
    assert vocos_onnx.__version__ in (README.parent / "pyproject.toml").read_text(encoding="utf-8")
