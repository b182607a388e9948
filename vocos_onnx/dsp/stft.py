"""The STFT, and for the way back the inverse transforms of frames and their overlap-add.

All are vectorised over batch and frames; the way back is in float32. They follow ``vocos/spectral_ops.py`` of vocos
0.1.0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float

PADDINGS = ("same", "center")


def istft_frames(spectrum: npt.NDArray[np.complex64], n_fft: int) -> Float:
    """Spectrum (B, T, n_fft/2 + 1) complex64 -> frames (B, T, n_fft) float32, windowed with a periodic Hann window.

    As in every inverse real FFT, the imaginary parts of the first and last bins are ignored.
    """
    frames: Any = np.fft.irfft(spectrum, n_fft)  # float32, although numpy's annotations say otherwise
    frames *= hann_window(n_fft)
    windowed: Float = frames
    return windowed


def istft_basis(n_fft: int) -> Float:
    """The inverse transform as a matrix (n_fft + 2, n_fft): frames = spectrum (B, T, n_fft + 2) @ basis.

    Each row is the windowed frame of a spectrum with a single 1: in the real part, then the imaginary part, of each
    bin in turn.
    """
    bins = n_fft // 2 + 1
    basis = np.empty((bins, 2, n_fft), np.float32)
    for first in range(0, bins, 64):  # in blocks, because the computation is in double precision
        ones = np.eye(min(64, bins - first), bins, first)
        basis[first : first + 64] = istft_frames(np.stack([ones, 1j * ones], axis=1), n_fft)
    return basis.reshape(n_fft + 2, n_fft)


def trim_of(n_fft: int, hop_length: int, padding: str) -> int:
    """Samples cut off at each end: n_fft/2 with "center" padding, (n_fft - hop_length) // 2 with "same"."""
    return n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2


def samples_of(frames: int, n_fft: int, hop_length: int, padding: str) -> int:
    """Samples that ``frames`` frames make: (frames - 1)·hop_length + n_fft, less what is trimmed."""
    return (frames - 1) * hop_length + n_fft - 2 * trim_of(n_fft, hop_length, padding)


def stft(
    audio: npt.NDArray[np.floating[Any]], n_fft: int, hop_length: int
) -> npt.NDArray[np.complexfloating[Any, Any]]:
    """Short-time Fourier transform with a periodic Hann window of n_fft samples and no padding.

    Args:
        audio: (B, N), N >= n_fft.

    Returns:
        (B, 1 + (N - n_fft) // hop_length, n_fft/2 + 1), complex in the precision of the audio.
    """
    frames = np.lib.stride_tricks.sliding_window_view(audio, n_fft, axis=-1)[:, ::hop_length]
    return np.fft.rfft(frames * _hann(n_fft).astype(audio.dtype))


def imdct_frames(spectrum: Float) -> Float:
    """MDCT coefficients (B, T, N) float32 -> frames (B, T, 2N), windowed with a sine window.

    With n0 = (N + 1)/2, sample n = 0 ... 2N - 1 of a frame is w[n] √(2/N) Σ_k X[k] cos(π/N (n + n0)(k + ½)). N is even
    in every model, because upstream's output is silent otherwise.
    """
    bins = spectrum.shape[-1]
    n = np.arange(2 * bins)
    n0 = (bins + 1) / 2
    # The cosine is the real part of exp(jπ(n + n0)/2N) · exp(jπ n0 k/N) · exp(j2π nk/2N). The last factor is an inverse
    # FFT of length 2N; the first is applied after it, and the second before it.
    before = np.exp(1j * np.pi * n0 * n[:bins] / bins).astype(np.complex64)
    after = np.exp(1j * np.pi * (n + n0) / (2 * bins)) * np.sin(np.pi * (n + 0.5) / (2 * bins))
    after = (after * (2 * bins) * np.sqrt(2 / bins)).astype(np.complex64)
    frames = np.fft.ifft(spectrum * before, 2 * bins)
    windowed: Float = (frames * after).real
    return windowed


@lru_cache(maxsize=8)
def hann_window(n_fft: int) -> Float:
    """Periodic Hann window (n_fft,): ½ - ½ cos(2π n / n_fft)."""
    window = _hann(n_fft).astype(np.float32)
    window.flags.writeable = False  # it is cached
    return window


def _hann(n_fft: int) -> npt.NDArray[np.float64]:
    window: npt.NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return window


def overlap_add(frames: npt.NDArray[Any], hop_length: int) -> Float:
    """Frames (B, T, n_fft), placed hop_length apart and summed: (B, (T - 1)·hop_length + n_fft) float32.

    Frame t is added to the samples t·hop + i, 0 <= i < n_fft. With i = j·hop + k, 0 <= k < hop, that is sample
    (t + j)·hop + k: in rows of one hop, part j of frame t is added to row t + j. So part j of all frames is added at
    once, j rows down, which takes ceil(n_fft / hop) large additions rather than one per frame.
    """
    batch, count, n_fft = frames.shape
    parts = -(-n_fft // hop_length)
    rows = np.zeros((batch, count + parts - 1, hop_length), np.float32)
    for j in range(parts):
        part = frames[:, :, j * hop_length : (j + 1) * hop_length]
        rows[:, j : j + count, : part.shape[2]] += part  # the last part may be shorter than a hop
    return rows.reshape(batch, -1)[:, : (count - 1) * hop_length + n_fft]
