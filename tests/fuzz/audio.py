"""Audio files."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from common import DOCUMENTED, Rng, Target, damaged, finite


@cache
def recordings() -> list[bytes]:
    import soundfile

    noise = np.random.default_rng(0).normal(0, 0.1, (3000, 2))
    files = []
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_24"),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise, 16_000, format=kind, subtype=subtype)
        files.append(buffer.getvalue())
    return files


def audio_files(rng: Rng, folder: Path) -> None:
    from vocos_onnx import load_audio

    path = folder / "a.wav"
    path.write_bytes(damaged(rng, recordings()[rng.integers(5)]))
    audio = load_audio(path, [8000, 16000, 24000][rng.integers(3)])
    finite(audio)
    assert audio.size


TARGETS = {"damaged audio files": Target(audio_files, 1, DOCUMENTED)}
