"""Plots the spectrograms of recordings one above the other (needs the extra [plot])."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.stft import stft

from .files import check_target, whole_file

N_FFT, COLUMNS, RANGE_DB = 1024, 2000, 90


def check_plot(path: Path) -> None:
    """Raises ImportError without matplotlib, ValueError for an unknown extension, OSError for an unwritable file."""
    known = _figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"{path.name!r} does not end in a kind of picture that matplotlib writes; try .png or .svg")
    check_target(path)


def save_plot(path: Path, titled: dict[str, Float], sample_rate: int, *, overwrite: bool = True) -> None:
    """Plot the spectrograms of recordings (samples,) under their titles, on a shared decibel scale."""
    figure = _figure()
    longest = max(len(audio) for audio in titled.values())
    hop = max(N_FFT // 4, longest // COLUMNS)
    levels = {title: spectrogram(audio, hop) for title, audio in titled.items()}
    top = max(float(level.max()) for level in levels.values())
    axes = figure.subplots(len(titled), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, level) in zip(axes, levels.items(), strict=True):
        image = draw_spectrogram(axis, level, hop, sample_rate, top)
        axis.set_title(title)
    axes[-1].set_xlabel("s")
    figure.colorbar(image, ax=list(axes), label="dB")
    with whole_file(path, overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=120)


def spectrogram(audio: Float, hop: int) -> Float:
    """Audio (N,) -> dB (n_fft/2 + 1, 1 + N // hop), frames centred on multiples of the hop."""
    padded = np.pad(audio[None], ((0, 0), (N_FFT // 2, N_FFT // 2)))
    level: Float = 20 * np.log10(np.abs(stft(padded, N_FFT, hop)[0].T) + np.float32(1e-6))
    return level


def draw_spectrogram(axis: Any, level: Float, hop: int, sample_rate: int, top: float) -> Any:
    """Draw a spectrogram (F, T) with the given hop on a matplotlib axis, over the 90 dB below ``top``."""
    extent = (0, level.shape[1] * hop / sample_rate, 0, sample_rate / 2000)
    axis.set_ylabel("kHz")
    return axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=top - RANGE_DB, vmax=top, cmap="magma")


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ImportError("--plot needs matplotlib: pip install 'vocos-onnx[plot]'") from None
    return Figure(figsize=(10, 7), layout="constrained")
