"""Converts a mel vocoder to the layout of sherpa-onnx, which runs it after Matcha-TTS and ZipVoice.

    pip install "vocos-onnx[cpu,hub]"             # no torch, for the checkpoints that ``vocos-onnx models`` lists
    python export_to_sherpa.py BSC-LT/vocos-mel-22khz vocos-22khz.onnx

This package opens the file too, so you can listen to it before you build an app around it.
"""

import sys
from pathlib import Path

import numpy as np

from vocos_onnx import VocosONNX
from vocos_onnx.cli import main as vocos_onnx


def main(checkpoint: str, target: str) -> None:
    failed = vocos_onnx(["convert", checkpoint, "-o", target, "--format", "sherpa"])
    if failed:
        sys.exit(failed)
    vocos = VocosONNX(Path(target))
    bands = vocos.config.feature_channels
    audio = vocos.decode(np.full((bands, 100), np.log(1e-7), np.float32))  # silence
    print(f"{target}: mels of {bands} bands, {vocos.sample_rate} Hz; 100 frames are {len(audio)} samples")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
