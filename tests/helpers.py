"""What the tests share: the tiny models (tests/data, made by tests/data/make.py) and files made from them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
EXAMPLES = ROOT / "examples"


def altered(tmp_path: Path, old: bytes, new: bytes, name: str = "encodec") -> Path:
    """A tiny model with some bytes of its metadata replaced by as many others."""
    data = (DATA / f"{name}.onnx").read_bytes()
    assert len(old) == len(new)
    assert old in data
    path = tmp_path / "altered.onnx"
    path.write_bytes(data.replace(old, new))
    return path
