"""Writes a checkpoint of official geometry with random weights, and exports it, in a process of each version.

    python -m benchmarks.models checkpoint GEOMETRY FOLDER
    python -m benchmarks.models export CHECKPOINT FOLDER

0.4.0 and this version have different formats, so each exports its own model files.
"""

from __future__ import annotations

import sys
from pathlib import Path


def make_checkpoint(geometry: str, folder: Path) -> None:
    from tests.parity.upstream import CONFIGS, build, save

    save(build(CONFIGS[geometry]), CONFIGS[geometry], folder)


def export_both(checkpoint: Path, folder: Path) -> None:
    from vocos_onnx_export import export, quantize

    folder.mkdir()
    export(str(checkpoint), folder / "model.onnx", report=lambda line: None)
    quantize(folder / "model.onnx", folder / "int8.onnx", report=lambda line: None)


if __name__ == "__main__":
    task, given, output = sys.argv[1:]
    if task == "checkpoint":
        make_checkpoint(given, Path(output))
    else:
        export_both(Path(given), Path(output))
    print("{}")
