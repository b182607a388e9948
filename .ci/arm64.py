"""Compares the bundled models' results on the bundled tokens between two processors.

``python arm64.py FILE`` writes the results to FILE if it does not exist. Otherwise it compares with them, and exits
with 1 if any tokens differ, or anything else by more than TOLERANCE (audio from mels: MEL_TOLERANCE) of its peak.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx import EncodecONNX, VocosONNX, load_tokens
from vocos_onnx.model.bundled import CODEC_ENCODER, MEL, default_model

TOLERANCE = 1e-5  # measured, x86-64 against arm64: audio 1.2e-6, embeddings 5.3e-6
# Measured: 2.9e-5. x86-64 itself is 2.1e-5 from float64 in one frame, and changes in the mels' last bits move it by
# 1.5e-5.
MEL_TOLERANCE = 1e-4
MEL_AUDIO = "mels: decoded"
CHUNK = 7  # frames of a stream's chunk
Array = npt.NDArray[Any]


def results(speech: Array | None) -> Iterator[tuple[str, Array]]:
    """Yields names and results; the encoder and the mel model get `speech` (N,), by default the first result."""
    codec, encoder, mel = VocosONNX(), EncodecONNX(CODEC_ENCODER), VocosONNX(MEL)
    rate = codec.sample_rate
    for path in sorted(default_model().parent.glob("speech_*.npz")):
        codes = load_tokens(path).codes
        audio = codec.decode(codes)
        speech = audio if speech is None else speech
        yield f"{path.stem}: decoded", audio
        chunks = np.split(codes, range(CHUNK, codes.shape[1], CHUNK), axis=1)
        yield f"{path.stem}: decoded as a stream", np.concatenate(list(codec.decode_stream(chunks)))
    assert speech is not None
    yield "embeddings", encoder.embed(speech, rate)
    yield "tokens", encoder.encode(speech, rate, max(encoder.bandwidths))
    yield "tokens of 16 kHz audio", encoder.encode(speech, 16_000, max(encoder.bandwidths))
    mels = mel.features(speech, rate)
    yield "mels", mels
    yield MEL_AUDIO, mel.decode(mels)


def main(file: Path) -> int:
    names = ("numpy", "scipy", "soundfile", "onnxruntime")
    print(platform.machine(), "Python", platform.python_version(), *(f"{name} {version(name)}" for name in names))
    if not file.exists():
        np.savez(file, allow_pickle=False, **dict(results(None)))
        return 0
    with np.load(file) as archive:
        expected = dict(archive)
    wrong = 0
    for name, given in results(next(iter(expected.values()))):
        other = expected.pop(name)
        if given.dtype != other.dtype or given.shape != other.shape:
            wrong += 1
            print(f"{name}: {given.dtype} {given.shape}, expected {other.dtype} {other.shape}")
        elif given.dtype.kind == "i":
            differing = int((given != other).sum())
            wrong += differing > 0
            print(f"{name}: {differing} of {given.size} differ")
        else:
            difference = float(np.abs(given - other).max() / np.abs(other).max())
            wrong += not difference <= (MEL_TOLERANCE if name == MEL_AUDIO else TOLERANCE)
            print(f"{name}: {difference:.1e} of the peak")
    assert not expected, f"no results for {list(expected)}"
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
