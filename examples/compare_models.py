"""Compares two or more models on one recording: how much quality they lose, and how fast they are.

    pip install "vocos-onnx[cpu,report]"
    python compare_models.py speech.wav vocos-codec-24khz vocos-mel-24khz-small

``vocos-onnx report`` writes a page with this comparison, with sound and spectrograms.
"""

import sys
import time

from vocos_onnx import VocosONNX, load_audio
from vocos_onnx.evaluate.metrics import compare

FIGURES = ("pesq_wb", "stoi", "mel_distance", "p808")


def main(recording: str, *models: str) -> None:
    print(f"{'':24}" + "".join(f"{name:>14}" for name in (*FIGURES, "x real time")))
    for name in models:
        vocos = VocosONNX(name)  # a codec of the hub: VocosONNX(name, encoder="facebook/encodec_24khz")
        audio = load_audio(recording, vocos.sample_rate)
        vocos(audio, vocos.sample_rate)  # the first call loads what it needs
        start = time.perf_counter()
        copy = vocos(audio, vocos.sample_rate)
        speed = len(audio) / vocos.sample_rate / (time.perf_counter() - start)
        figures = compare(audio, copy[: len(audio)], vocos.sample_rate)
        print(f"{name:24}" + "".join(f"{figures[key]:14.2f}" for key in FIGURES) + f"{speed:14.0f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
