"""Check the files of ``tests.foreign.make``: each against torch, and windowed decoding against the whole.

    python -m tests.foreign.play FOLDER

It needs neither torch nor onnx. It prints a table row for each file, in the form of docs/explanation/reliability.md,
and exits with 1 if a file differs from torch by more than 1e-4 of the peak, or in windows by more than 1e-5, or if an
unsupported file is read.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

from vocos_onnx import VocosONNX
from vocos_onnx.model.foreign import NOTHING
from vocos_onnx.model.session import own_bytes
from vocos_onnx.spans import Plan

TORCH, WINDOWS = 1e-4, 1e-5  # of the peak
SETTINGS = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "padding": "center"}


def settings(path: Path, *, n_fft: int, hop_length: int) -> dict[str, object]:
    """Returns the settings that a user must pass because the file lacks them."""
    name = path.name
    sizes = {"n_fft": n_fft, "hop_length": hop_length}
    if name in ("f5-triton.onnx", "istft.onnx", "dynamo-wavenext.onnx", "dynamo-istft.onnx"):
        return {"sample_rate": 24000}
    if name in ("chattts.onnx",) or name.startswith(("transposed", "opset", "dynamo")):
        return {**SETTINGS, **sizes}
    if name in ("three-keys.onnx", "phoonnx.onnx"):
        return {"padding": "center"}
    if name == "vocos-16khz-univ.onnx" and n_fft != 1024:  # the file relies on sherpa-onnx's defaults
        return {"hop_length": hop_length}
    return {"padding": "same"} if name == "vocos-22khz-univ.onnx" else {}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference relative to the expected peak, or infinity if the shapes differ."""
    if found.shape != expected.shape:
        return np.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def to_torch(vocos: VocosONNX, golden: dict[str, np.ndarray]) -> float:
    """Returns the largest difference from torch's audio."""
    worst = 0.0
    for name, mels in golden.items():
        if name.startswith("mels_"):
            audio = golden[name.replace("mels", "audio")]
            worst = max(worst, difference(vocos.decode(mels, check=False), audio))
            for item, expected in zip(mels, audio, strict=True):
                worst = max(worst, difference(vocos.decode(item, check=False), expected))
    return worst


def in_windows(vocos: VocosONNX) -> tuple[float, float]:
    """Returns how far the audio of spans and of streams differs from that of the whole."""
    network, rng = vocos.network, np.random.default_rng(0)
    frames = 3 * network.size // 2 if network.size else 6 * network.reach + 100
    mels = rng.normal(-1, 2, (network.config.feature_channels, frames)).astype(np.float32)
    if network.size:  # it cannot be decoded whole, so compare two ways of splitting it
        whole = np.concatenate([*vocos.decode_stream(np.array_split(mels, 7, axis=1), check=False)])
    else:
        vocos._plan = Plan(network.reach, None)
        whole = vocos.decode(mels, check=False)
        vocos._plan = Plan(network.reach, network.threads or 2, waiting=10.0)
    cut = difference(vocos.decode(mels, check=False), whole)
    chunk = 500 if (network.size or 0) > 500 else 8  # a chunk takes as long as the graph's full length
    streamed = [*vocos.decode_stream((mels[:, i : i + chunk] for i in range(0, frames, chunk)), check=False)]
    return cut, difference(np.concatenate(streamed), whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n-fft", type=int, default=1024)
    parser.add_argument("--hop-length", type=int, default=256)
    args = parser.parse_args()
    failed = False
    print("| layout | to torch | spans | streams |\n|---|---|---|---|")
    for path in sorted(args.folder.rglob("*.onnx")):
        if path.parent.name == "refused":
            continue
        golden = dict(np.load(path.with_suffix(".npz")))
        options = settings(path, n_fft=args.n_fft, hop_length=args.hop_length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vocos = VocosONNX(path, **options)  # type: ignore[arg-type]
            torch, (spans, streams) = to_torch(vocos, golden), in_windows(vocos)
        print(f"| {path.relative_to(args.folder)} | {torch:.1e} | {spans:.1e} | {streams:.1e} |", flush=True)
        failed |= not (torch <= TORCH and spans <= WINDOWS and streams <= WINDOWS)
    for path in sorted((args.folder / "refused").glob("*.onnx")):
        for way in (lambda path=path: VocosONNX(path), lambda path=path: own_bytes(path, NOTHING)):
            try:
                way()
            except ValueError as error:
                message = str(error)
            else:
                message, failed = "it was read, and should not be", True
        print(f"refused: {message}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
