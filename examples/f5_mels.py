"""A vocoder for F5-TTS that needs no torch of its own.

    pip install "vocos-onnx[cpu,hub]"
    python f5_mels.py mels.npy out.wav

In a program that uses F5-TTS, ``F5TTS().vocoder = Vocoder()`` replaces its own vocoder: both have ``decode``. The
command decodes mels (frames, 100) saved as an array.
"""

import sys

import numpy as np

from vocos_onnx import VocosONNX, save_audio


class Vocoder:
    """The vocoder that F5-TTS calls as ``vocoder.decode(mels)``, with a tensor (batch, 100, frames)."""

    def __init__(self, model: str = "charactr/vocos-mel-24khz") -> None:
        self.vocos = VocosONNX(model)

    def decode(self, mels):
        import torch  # F5-TTS requires it

        audio = self.vocos.decode(mels.float().cpu().numpy())
        return torch.from_numpy(audio).to(mels.device)


def main(source: str, target: str, model: str = "charactr/vocos-mel-24khz") -> None:
    vocos = VocosONNX(model)
    audio = vocos.decode(np.load(source), mels_from="f5")
    save_audio(target, audio, vocos.sample_rate)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
