"""Plays tokens on the loudspeaker, chunk by chunk, as a language model would produce them.

The tokens are those of the bundled codec, by default its demo.

    pip install "vocos-onnx[cpu]" sounddevice     # on Linux also: apt install libportaudio2
    python sound_card.py [tokens.npz]
"""

import sys
from collections.abc import Iterator

import numpy as np
import sounddevice

from vocos_onnx import Tokens, VocosONNX, demo_tokens, load_tokens


def chunks(tokens: Tokens) -> Iterator[np.ndarray]:
    """Yields 8 frames at a time, (codebooks, 8)."""
    for start in range(0, tokens.codes.shape[1], 8):
        yield tokens.codes[:, start : start + 8]


def main(*source: str) -> None:
    tokens = load_tokens(source[0]) if source else demo_tokens()
    vocos = VocosONNX()  # the bundled codec, which these tokens belong to
    played = 0
    # write() blocks while the card's buffer is full, so audio is decoded as fast as it is played.
    with sounddevice.OutputStream(vocos.sample_rate, channels=1, dtype="float32", latency="high") as card:
        for audio in vocos.decode_stream(chunks(tokens)):
            card.write(audio)
            played += len(audio)
    print(f"played {played / vocos.sample_rate:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
