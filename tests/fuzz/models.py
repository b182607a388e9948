"""Model files: damaged ones, and their metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from common import DATA, DOCUMENTED, Rng, Target, damaged, finite, model


def onnx(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncodecONNX, VocosONNX

    name = ["encodec", "mel", "imdct-cos", "encoder", "mel-int8", "mel-istft", "imdct-cos-istft"][rng.integers(7)]
    path = folder / "m.onnx"
    data = (DATA / f"{name}.onnx").read_bytes()
    if rng.random() < 0.7:  # what keeps the lengths right gets further
        # most of it is weights: rather the graph at its start, and the metadata at its end
        start, end = int(rng.choice([0, 0, len(data) - 3000])), len(data)
        end = min(end, start + 30_000)
        data = data[:start] + damaged(rng, data[start:end], same_size=True) + data[end:]
    else:
        data = damaged(rng, data)
    path.write_bytes(data)
    if name == "encoder":
        codes = EncodecONNX(path, threads=1).encode(np.linspace(-1, 1, 1000), 24_000, 0.75)
        assert codes.dtype == np.int64
        return
    vocos = VocosONNX(path, threads=1)
    given = rng.integers(1024, size=(2, 5)) if vocos.config.encodec else rng.uniform(-8, 2, (8, 5)).astype(np.float32)
    finite(vocos.decode(given))


def metadata(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncoderConfig, ModelConfig

    config = model(["encodec", "mel", "mel-int8"][rng.integers(3)]).config
    tree = json.loads(config.to_json())
    values = [None, 0, -1, 2**63, 1.5, 1e999, "", "same", [], [1], {}, {"a": 1}, True, "x" * 1000, [[[]]]]
    for _ in range(rng.integers(1, 4)):
        place = tree
        while True:
            key = list(place)[rng.integers(len(place))]
            if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.3:
                break
            place = place[key]
        match rng.integers(3):
            case 0:
                del place[key]
                if not place:
                    break
            case 1:
                place[key] = values[rng.integers(len(values))]
            case 2:
                place["new"] = 1
    text = json.dumps(tree)
    text = text if rng.random() < 0.7 else damaged(rng, text.encode()).decode("latin1")
    (ModelConfig if rng.random() < 0.8 else EncoderConfig).from_json(text)


TARGETS = {
    "damaged .onnx files": Target(onnx, 2, (*DOCUMENTED, RuntimeError, MemoryError)),
    "metadata": Target(metadata, 2, (ValueError,)),
}
