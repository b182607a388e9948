"""Decodes Bark's tokens to audio, without Bark's own codec, torch or a GPU.

    pip install "vocos-onnx[cpu,hub]"
    python bark_tokens.py v2_en_speaker_6.npz out.wav

The file is a Bark prompt, which has an array "fine_prompt" with 8 codebooks, or an array returned by its fine model.
"""

import sys

import numpy as np

from vocos_onnx import VocosONNX, save_audio


def fine_tokens(path: str) -> np.ndarray:
    """Reads the tokens (8, frames) of a file."""
    file = np.load(path)
    return file if isinstance(file, np.ndarray) else file["fine_prompt"]


def main(source: str, target: str, model: str = "charactr/vocos-encodec-24khz") -> None:
    vocos = VocosONNX(model)
    audio = vocos.decode(fine_tokens(source), bandwidth=6.0)  # 8 codebooks are 6 kbps
    save_audio(target, audio, vocos.sample_rate)
    print(f"{target}: {len(audio) / vocos.sample_rate:.2f} s")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
