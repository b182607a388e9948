"""What importing and installing the package loads, and what it must not."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import vocos_onnx
from tests.helpers import DATA

HEAVY = ("torch", "onnx", "onnxscript", "vocos_onnx_export", "vocos_onnx_train", "scipy", "soundfile")
PACKAGE = Path(vocos_onnx.__file__).parent


def loaded_by(code: str) -> set[str]:
    listing = code + "\nimport sys; print('\\n'.join(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    """numpy is imported on first use of a name, so that the command line handles signals before that."""
    modules = loaded_by("import vocos_onnx")
    assert "vocos_onnx" in modules
    assert not modules & {*HEAVY, "onnxruntime", "numpy"}
    modules = loaded_by("from vocos_onnx import VocosONNX, load_audio, save_tokens")
    assert "numpy" in modules
    assert not modules & {*HEAVY, "onnxruntime"}  # onnxruntime is imported by the first model


def test_public_names_are_there() -> None:
    code = "import vocos_onnx; [getattr(vocos_onnx, n) for n in vocos_onnx.__all__]"
    loaded_by(code)
    assert {name for name in dir(vocos_onnx) if not name.startswith("__")} == set(vocos_onnx.__all__)
    assert {"__all__", "__doc__", "__version__"} <= set(dir(vocos_onnx))
    with pytest.raises(AttributeError, match="module 'vocos_onnx' has no attribute 'nonsense'"):
        vocos_onnx.nonsense  # noqa: B018


def test_decoding_needs_neither_torch_nor_scipy() -> None:
    model = DATA / "encodec.onnx"
    modules = loaded_by(f"import vocos_onnx; vocos_onnx.VocosONNX({str(model)!r}).decode([[1, 2], [3, 4]])")
    assert "onnxruntime" in modules
    assert not modules & set(HEAVY)


def test_no_module_of_the_runtime_imports_torch_or_the_export() -> None:
    """Not even in code that is not executed, except that two commands import export and train when they run."""
    hand_over = {PACKAGE / "cli" / "export.py": "vocos_onnx_export", PACKAGE / "cli" / "train.py": "vocos_onnx_train"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for name in (n.split(".")[0] for n in names):
                assert name not in ("torch", "onnx"), f"{path.name} imports {name}"
                is_outside = name in ("vocos_onnx_export", "vocos_onnx_train")
                assert not is_outside or hand_over.get(path) == name, f"{path.name} imports {name}"


def test_requirements() -> None:
    required = [r for r in metadata.requires("vocos-onnx") or [] if "extra ==" not in r]
    assert sorted(r.split(">=")[0] for r in required) == ["numpy", "scipy", "soundfile", "tqdm"]


def test_version() -> None:
    assert metadata.version("vocos-onnx") == vocos_onnx.__version__


def test_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_modules_that_take_time_and_are_not_needed() -> None:
    """numpy.ma, scipy and others are used only if already imported, never imported by decoding or by audio files."""
    code = """
import io, sys
from vocos_onnx import VocosONNX, demo_tokens, load_audio, save_audio
file = io.BytesIO()
save_audio(file, VocosONNX().decode(demo_tokens().codes[:2, :10]), 24_000, format="wav")
file.seek(0)
load_audio(file, 24_000)
print(sorted({"numpy.ma", "numpy.random", "scipy", "argparse", "multiprocessing"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
