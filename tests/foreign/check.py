"""Checks the tiny files of tests.foreign.make against torch's audio, without the package's own inverse transform."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vocos_onnx.model.onnx_file import read_model
from vocos_onnx.model.operators import FLOAT
from vocos_onnx.model.session import evaluate

SAME = {"mel_spec_22khz_univ", "vocos-22khz-univ"}
N_FFT, HOP, REACH = 64, 16, 9  # three convolutions of 7


def istft(spectrum: np.ndarray, padding: str) -> np.ndarray:
    """(B, N_FFT//2+1, T) -> (B, samples), frame by frame."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    batch, _, frames = spectrum.shape
    audio, square = np.zeros((batch, (frames - 1) * HOP + N_FFT)), np.zeros((frames - 1) * HOP + N_FFT)
    for t in range(frames):
        audio[:, t * HOP : t * HOP + N_FFT] += np.fft.irfft(spectrum[:, :, t], N_FFT) * window
        square[t * HOP : t * HOP + N_FFT] += window**2
    cut = N_FFT // 2 if padding == "center" else (N_FFT - HOP) // 2
    return np.asarray(audio[:, cut:-cut] / square[cut:-cut])


def assert_equals_torch(path: Path) -> None:
    """Asserts that a tiny file passes the check and that onnxruntime's output for its mels gives torch's audio."""
    file, golden = read_model(path), np.load(path.with_suffix(".npz"))
    (features,) = file.inputs
    assert features.type == FLOAT
    is_transposed = "transposed" in path.stem
    _, *sizes = features.shape
    channels, length = reversed(sizes) if is_transposed else sizes
    assert channels == 8
    is_static = isinstance(length, int)
    assert is_static == ("static" in path.stem or path.stem == "chattts")
    assert [out.type for out in file.outputs] == [FLOAT] * len(file.outputs)
    has_istft = path.stem in ("f5-triton", "istft", "dynamo-istft")
    assert file.reach == REACH + 8 * has_istft  # four overlapping frames each for audio and window
    lengths = [int(name.removeprefix("mels_")) for name in golden if name.startswith("mels_")]
    for frames in lengths:
        mels, expected = golden[f"mels_{frames}"], golden[f"audio_{frames}"]
        padded = np.pad(mels, ((0, 0), (0, 0), (0, 64 - frames))) if is_static else mels
        given = [item[None].transpose(0, 2, 1) if is_transposed else item[None] for item in padded]
        made = [list(out.values()) for out in evaluate(path, [{features.name: item} for item in given])]
        if len(file.outputs) == 1:
            audio = np.concatenate([wave for (wave,) in made])
        else:
            spectra = np.concatenate([mag * (x + 1j * y) for mag, x, y in made])
            audio = istft(spectra, "same" if path.stem in SAME else "center")
        audio = audio[:, : expected.shape[1]]
        assert audio.shape == expected.shape
        assert np.abs(audio - expected).max() <= 1e-5 * np.abs(expected).max()
