"""Spectrum -> waveform: inverse transform of every frame, windowed overlap-add, normalisation, trim; and the STFT.

Vectorised over batch and frames, the way back in float32. It follows vocos 0.1.0, ``vocos/spectral_ops.py``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float

PADDINGS = ("same", "center")


def istft(spectrum: npt.NDArray[np.complex64], n_fft: int, hop_length: int, padding: str) -> Float:
    """Inverse STFT with a periodic Hann window of n_fft samples.

    Args:
        spectrum: (B, T, n_fft/2 + 1) complex64. As in every inverse real FFT, the imaginary parts of the first and
            the last bin do not count.
        padding: "same" trims (n_fft - hop_length) // 2 samples from both ends, so T frames give T·hop_length samples
            (one more where n_fft - hop_length is odd); "center" trims n_fft/2, so they give (T - 1)·hop_length, and
            one frame gives an empty waveform.

    Returns:
        (B, samples) float32: the windowed frames, overlap-added and divided by the overlap-added squared window,
        which makes it the least-squares inverse (Griffin & Lim 1984, eq. 6).
    """
    frames, envelope = istft_frames(spectrum, n_fft)
    trim = trim_of(n_fft, hop_length, padding)
    audio = overlap_add(frames, hop_length, trim)
    audio /= overlap_add(np.broadcast_to(envelope, (1, *frames.shape[1:])), hop_length, trim)
    return audio


def istft_frames(spectrum: npt.NDArray[np.complex64], n_fft: int) -> tuple[Float, Float]:
    """Spectrum (B, T, n_fft/2 + 1) -> windowed frames (B, T, n_fft), and the squared window (n_fft,)."""
    window = hann_window(n_fft)
    frames: Any = np.fft.irfft(spectrum, n_fft)  # float32, which numpy's annotations do not know
    frames *= window
    return frames, window * window


def trim_of(n_fft: int, hop_length: int, padding: str) -> int:
    """Samples that are cut off both ends."""
    return n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2


def stft(
    audio: npt.NDArray[np.floating[Any]], n_fft: int, hop_length: int
) -> npt.NDArray[np.complexfloating[Any, Any]]:
    """Short-time Fourier transform with a periodic Hann window of n_fft samples, and no padding.

    Args:
        audio: (B, N), N >= n_fft.

    Returns:
        (B, 1 + (N - n_fft) // hop_length, n_fft/2 + 1), complex in the precision of the audio.
    """
    frames = np.lib.stride_tricks.sliding_window_view(audio, n_fft, axis=-1)[:, ::hop_length]
    return np.fft.rfft(frames * _hann(n_fft).astype(audio.dtype))


def imdct(spectrum: Float, padding: str) -> Float:
    """Inverse MDCT with a sine window, hop N.

    Args:
        spectrum: (B, T, N) float32 MDCT coefficients of frames of 2N samples.
        padding: "same" trims N/2 samples from both ends, so T frames give T·N samples; "center" trims N, so they give
            (T - 1)·N, and one frame gives an empty waveform. N is even in every model: upstream is silent where not.

    Returns:
        (B, samples) float32. With n0 = (N + 1)/2, frame sample n of 0 ... 2N - 1 is
        w[n] √(2/N) Σ_k X[k] cos(π/N (n + n0)(k + ½)); the squared sine window sums to one, so nothing is divided.
    """
    bins = spectrum.shape[-1]
    return overlap_add(imdct_frames(spectrum), bins, trim_of(2 * bins, bins, padding))


def imdct_frames(spectrum: Float) -> Float:
    """MDCT coefficients (B, T, N) -> windowed frames (B, T, 2N)."""
    bins = spectrum.shape[-1]
    n = np.arange(2 * bins)
    n0 = (bins + 1) / 2
    # The cosine is the real part of exp(jπ(n + n0)/2N) · exp(jπ n0 k/N) · exp(j2π nk/2N): the last factor is an
    # inverse FFT of length 2N, the others are multiplied in after and before it.
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


def overlap_add(frames: npt.NDArray[Any], hop_length: int, trim: int) -> Float:
    """Frames (B, T, n_fft), laid hop_length apart and summed: (B, (T - 1)·hop_length + n_fft - 2·trim) float32.

    Every frame is cut into n_fft/hop_length pieces of one hop. Piece j of all frames at once is added to the output
    seen as rows of one hop, j rows further down: a few large additions instead of one for each frame.
    """
    batch, count, n_fft = frames.shape
    pieces = -(-n_fft // hop_length)
    rows = np.zeros((batch, count + pieces - 1, hop_length), np.float32)
    for j in range(pieces):
        piece = frames[:, :, j * hop_length : (j + 1) * hop_length]
        rows[:, j : j + count, : piece.shape[2]] += piece
    length = (count - 1) * hop_length + n_fft
    return rows.reshape(batch, -1)[:, trim : length - trim]


def check_finite(audio: Float, spectrum: npt.NDArray[Any]) -> Float:
    """The audio as it is. Raises FloatingPointError, which says which stage made NaN or infinity of it."""
    if np.isfinite(audio).all():
        return audio
    bad = ~np.isfinite(spectrum).all(axis=-1)
    if bad.any():
        item, frame = np.argwhere(bad)[0]
        raise FloatingPointError(
            f"the network gave NaN or infinity in {bad.sum()} of {bad.size} frames, first in frame {frame} of item "
            f"{item}: its weights are damaged, or its input is far from what it was trained with"
        )
    raise FloatingPointError(
        f"the inverse transform overflowed: the spectrum reaches {np.abs(spectrum).max():.2g}, and audio is within 1"
    )
