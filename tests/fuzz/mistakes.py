"""Arbitrary objects in place of a model or encoder, and pickles of models whose files have changed."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.common import DOCUMENTED, Rng, Target, damaged, model
from tests.helpers import DATA

_NAMES = (
    "charactr/vocos-encodec-24khz", "facebook/encodec_24khz", "https://hf.co/a/b", "a/b/c", "a/b.ckpt", "", ".", "..",
    "/", "\0", "\ud800", "x" * 300, "vocos-codec-24khz-encoder", "vocos-mel-24khz-small", "model.onnx", "~", "a b/c'd",
)  # fmt: skip
_STARTS = (b"", b"PK\x03\x04", b"\x80\x04", b"RIFF", b"{", b"<", b"\x93NUMPY", b"\x10\0\0\0\0\0\0\0{}", b"---\n")
_FILES = (
    "config.yaml", "config.json", "pytorch_model.bin", "model.safetensors", "encoder.safetensors", "a.ckpt", "a.npz",
    "m.th", "vocos.bin", "model.onnx", "notes",
)  # fmt: skip


def _thing(rng: Rng, folder: Path) -> object:
    """A random object to pass as a path."""
    match rng.integers(8):
        case 0:
            return _NAMES[rng.integers(len(_NAMES))]
        case 1:
            with contextlib.suppress(ValueError):
                return Path(_NAMES[rng.integers(len(_NAMES))])
        case 2:
            return rng.bytes(int(rng.integers(2000)))
        case 3:
            return [5, -1.5, True, {}, [], object(), model("mel"), int, np.zeros(3), memoryview(b"abc")][
                rng.integers(10)
            ]
        case 4:
            data = (DATA / ["encodec.onnx", "encoder.onnx", "mel.onnx"][rng.integers(3)]).read_bytes()
            (folder / "damaged.onnx").write_bytes(damaged(rng, data))
            return folder / "damaged.onnx"
    for name in rng.choice(_FILES, rng.integers(4), replace=False):
        (folder / name).write_bytes(_STARTS[rng.integers(len(_STARTS))] + rng.bytes(int(rng.integers(100))))
    there = [folder, *folder.iterdir()]
    return there[rng.integers(len(there))]


def models(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncodecONNX, VocosONNX

    given: Any = _thing(rng, folder)
    match rng.integers(4):
        case 0:
            VocosONNX(given, threads=1)
        case 1:
            EncodecONNX(given, threads=1)
        case 2:
            VocosONNX(DATA / "encodec.onnx", encoder=given, threads=1)
        case 3:
            if not isinstance(given, str):  # a string could be a name on the hub
                there = given if isinstance(given, Path) and os.path.isdir(given) else folder  # noqa: PTH112
                VocosONNX.from_pretrained(there, ["model.onnx", "a.npz", "nothing"][rng.integers(3)], threads=1)


def pickles(rng: Rng, folder: Path) -> None:
    """Unpickling never opens a changed file in place of the original; a changed or missing file raises an error."""
    from vocos_onnx import VocosONNX

    path = folder / "model.onnx"
    data = (DATA / ["encodec.onnx", "mel.onnx"][rng.integers(2)]).read_bytes()
    path.write_bytes(data)
    vocos = VocosONNX(path, threads=1)
    name, pickled = repr(vocos), pickle.dumps(vocos)
    other = [None, data, damaged(rng, data), (DATA / "mel-int8.onnx").read_bytes()][rng.integers(4)]
    path.unlink()
    if other is not None:
        path.write_bytes(other)
    again = pickle.loads(pickled)
    assert other == data and repr(again) == name


TARGETS = {
    "models by mistake": Target(models, 1, DOCUMENTED),
    "pickles": Target(pickles, 0.2, DOCUMENTED),
}
