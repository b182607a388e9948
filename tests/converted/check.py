"""python -m tests.converted.check FOLDER: the checkpoints of tests.converted.make, converted without torch.

Run in an environment that has neither torch nor onnx. Each checkpoint is converted by ``vocos-onnx convert`` in a
process of its own. The weights in the file must be those of the export bit by bit, its audio or embeddings within 1e-6
of the peak of what the export's file makes, and within 1e-4 of what the reference package makes.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.model.config import METADATA_KEY
from vocos_onnx.model.session import open_file


def relative(given: np.ndarray, expected: np.ndarray) -> float:
    assert given.shape == expected.shape, (given.shape, expected.shape)
    return float(np.abs(given - expected).max() / np.abs(expected).max())


def converted(checkpoint: Path, *options: str) -> tuple[Path, float, int]:
    """The converted file, the seconds that it took, and the peak memory of the process in MB."""
    output = checkpoint.parent / "converted.onnx"
    output.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "vocos_onnx", "convert", str(checkpoint), "-o", str(output), *options]
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, checkpoint
    return output, time.perf_counter() - started, used.ru_maxrss * 1024 // 1_000_000


def weights_of(path: Path) -> dict[str, bytes]:
    file = open_file(path, METADATA_KEY)
    return {name: array.tobytes() for name, array in file.weights.items()}


def check(folder: Path) -> None:
    meta = folder / "encodec_24khz.th"
    path, seconds, megabytes = converted(meta if meta.exists() else folder)
    assert weights_of(path) == weights_of(folder / "expected.onnx") != {}, folder
    with np.load(folder / "expected.npz") as expected:
        if "embeddings" in expected:
            given, theirs = expected["given"], expected["embeddings"]
            ours, exported = (EncodecONNX(p).embed(given, 24_000) for p in (path, folder / "expected.onnx"))
        else:
            given, theirs = expected["given"], expected["audio"]
            ours, exported = (VocosONNX(p).decode(given) for p in (path, folder / "expected.onnx"))
    to_export, to_theirs = relative(ours, exported), relative(ours, theirs)
    assert to_export <= 1e-6 and to_theirs <= 1e-4, (folder, to_export, to_theirs)
    print(f"| {folder.name} | {to_export:.1e} | {to_theirs:.1e} | {seconds:.1f} | {megabytes} |", flush=True)


def main(folder: Path) -> None:
    assert not importlib.util.find_spec("torch") and not importlib.util.find_spec("onnx")
    print("| checkpoint | to the export | to the reference | s | MB |\n|---|---|---|---|---|")
    for checkpoint in sorted(folder.iterdir()):
        check(checkpoint)
    for precision in "int8", "fp16":
        path, seconds, megabytes = converted(folder / "encodec", f"--{precision}")
        with np.load(folder / "encodec" / "expected.npz") as expected:
            ours, theirs = VocosONNX(path).decode(expected["given"]), expected["audio"]
        snr = 10 * np.log10((theirs**2).sum() / ((ours - theirs) ** 2).sum())
        assert snr > 15, (precision, snr)
        print(f"| encodec, {precision} | – | SNR {snr:.1f} dB | {seconds:.1f} | {megabytes} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
