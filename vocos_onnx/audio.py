"""Waveform -> file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy.typing as npt


def audio_format(path: str | os.PathLike[str]) -> str:
    """The libsndfile format that a file's ending names, after checking that a file of that name can be written.

    Raises:
        ValueError: an ending that libsndfile does not know.
        FileNotFoundError, IsADirectoryError: the folder does not exist, or the path is a folder itself.
    """
    import soundfile  # not needed to decode, and slow to load

    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in soundfile.available_formats():
        raise ValueError(f"{path.name!r} does not end in a known kind of audio file; try .wav or .flac")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; create it first")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected the name of a file")
    return kind


def save_audio(path: str | os.PathLike[str], audio: npt.NDArray[Any], sample_rate: int) -> None:
    """Write audio (samples,) to a file of the kind that its ending names: .wav (16-bit), .flac, .ogg, .mp3, ...

    Values beyond ±1 are clipped. The file appears whole or not at all. Raises as ``audio_format`` does, and OSError
    where the folder cannot be written.
    """
    import soundfile

    path = Path(path)
    kind = audio_format(path)
    with tempfile.TemporaryDirectory(prefix=".vocos-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        soundfile.write(partial, audio, sample_rate, format=kind)
        partial.replace(path)
