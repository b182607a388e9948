"""Store what the files of this folder give.

It was run once, with version 0.4.0, the last that wrote format 4, in a checkout of it:
    PYTHONPATH=CHECKOUT python tests/data/format-4/make.py

The files are those of ../ as version 0.4.0 exported them. They stay as they are, and so does results.npz: for each
file the input and what came out, the audio of a model and the embeddings and tokens of an encoder. The audio of
imdct-symexp.onnx, all of which would be clipped, is that before it is clipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from vocos_onnx import EncodecONNX, VocosONNX

HERE = Path(__file__).resolve().parent
FRAMES = 40


def unclipped(path: Path, folder: Path) -> Path:
    """A copy of a model that does not clip."""
    copy = folder / path.name
    copy.write_bytes(path.read_bytes().replace(b'"clip_audio": true', b'"clip_audio":false'))
    return copy


def main(folder: str) -> None:
    rng = np.random.default_rng(0)
    results: dict[str, np.ndarray] = {}
    for path in sorted(HERE.glob("*.onnx")):
        name = path.stem
        if name.startswith("encoder"):
            encoder = EncodecONNX(path, threads=1)
            audio = rng.normal(0, 0.1, 10 * encoder.hop_length + 3).astype(np.float32)
            results[f"{name}.input"] = audio
            results[f"{name}.embeddings"] = encoder.embed(audio, encoder.sample_rate)
            results[f"{name}.tokens"] = encoder.encode(audio, encoder.sample_rate, encoder.bandwidths[-1])
        else:
            vocos = VocosONNX(unclipped(path, Path(folder)), threads=1)
            if vocos.config.encodec is not None:
                given = rng.integers(1024, size=(2, FRAMES // 4))
            else:
                given = (rng.normal(size=(8, FRAMES)) - 1).astype(np.float32)
            results[f"{name}.input"], results[f"{name}.audio"] = given, vocos.decode(given)
    np.savez_compressed(HERE / "results.npz", **results)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
