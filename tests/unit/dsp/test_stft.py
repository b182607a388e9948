"""The inverse transforms against analytic results and a naive loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers import imdct, istft
from vocos_onnx.dsp.stft import hann_window, istft_basis, istft_frames, overlap_add

GEOMETRIES = [(1280, 320), (1024, 256), (64, 48), (1000, 300), (16, 14), (64, 17)]


def stft(audio: np.ndarray, n_fft: int, hop: int, trim: int) -> np.ndarray:
    """Forward STFT of one signal in float64, frame by frame."""
    padded = np.pad(audio, (trim, trim + n_fft))
    count = (len(audio) + 2 * trim - n_fft) // hop + 1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.stack([np.fft.rfft(padded[t * hop : t * hop + n_fft] * window) for t in range(count)])


@pytest.mark.parametrize(("n_fft", "hop"), GEOMETRIES)
@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("frames", [1, 2, 3, 27])
def test_naive_loop(n_fft: Any, hop: Any, padding: str, frames: int) -> None:
    rng = np.random.default_rng(0)
    spectrum = rng.standard_normal((3, frames, n_fft // 2 + 1)) + 1j * rng.standard_normal((3, frames, n_fft // 2 + 1))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    total = (frames - 1) * hop + n_fft
    audio, envelope = np.zeros((3, total)), np.zeros(total)
    for t in range(frames):
        audio[:, t * hop : t * hop + n_fft] += np.fft.irfft(spectrum[:, t], n_fft) * window
        envelope[t * hop : t * hop + n_fft] += window**2
    trim = n_fft // 2 if padding == "center" else (n_fft - hop) // 2
    with np.errstate(invalid="ignore"):
        expected = (audio / envelope)[:, trim : total - trim]
    given = istft(spectrum.astype(np.complex64), n_fft, hop, padding)
    assert given.dtype == np.float32
    odd = padding == "same" and (n_fft - hop) % 2
    assert given.shape == (3, frames * hop + odd if padding == "same" else (frames - 1) * hop)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max(initial=0)))


@pytest.mark.parametrize(("n_fft", "hop"), [(1280, 320), (1024, 256), (64, 48)])
@pytest.mark.parametrize("padding", ["same", "center"])
def test_round_trip_of_noise(n_fft: int, hop: int, padding: str) -> None:
    audio = np.random.default_rng(1).standard_normal(hop * 40)
    trim = n_fft // 2 if padding == "center" else (n_fft - hop) // 2
    spectrum = stft(audio, n_fft, hop, trim)[None].astype(np.complex64)
    given = istft(spectrum, n_fft, hop, padding)[0]
    np.testing.assert_allclose(given, audio[: len(given)], rtol=0, atol=5e-6)
    assert len(given) == len(audio)


def test_pure_tone() -> None:
    """One bin whose phase advances with the hop gives a cosine of constant amplitude."""
    n_fft, hop, k, frames = 1280, 320, 40, 30
    spectrum = np.zeros((1, frames, n_fft // 2 + 1), np.complex64)
    # the analysis window gives bin k the coherent gain n_fft/4, and its neighbours k±1 minus half of that
    phase = np.exp(2j * np.pi * k * hop / n_fft * np.arange(frames))
    for bin_, gain in ((k - 1, -n_fft / 8), (k, n_fft / 4), (k + 1, -n_fft / 8)):
        spectrum[0, :, bin_] = gain * phase
    audio = istft(spectrum, n_fft, hop, "same")[0]
    n = np.arange(len(audio)) + (n_fft - hop) // 2
    np.testing.assert_allclose(audio, np.cos(2 * np.pi * k * n / n_fft), rtol=0, atol=2e-6)


@pytest.mark.parametrize("bins", [2, 6, 16, 320])
@pytest.mark.parametrize("padding", ["same", "center"])
def test_imdct_is_its_definition(bins: int, padding: str) -> None:
    spectrum = np.random.default_rng(2).standard_normal((2, 5, bins))
    n, k = np.arange(2 * bins), np.arange(bins)
    basis = np.cos(np.pi / bins * (n[None] + (bins + 1) / 2) * (k[:, None] + 0.5)) * np.sqrt(2 / bins)
    frames = spectrum @ basis * np.sin(np.pi * (n + 0.5) / (2 * bins))
    expected = np.zeros((2, 6 * bins))
    for t in range(5):
        expected[:, t * bins : (t + 2) * bins] += frames[:, t]
    trim = bins if padding == "center" else bins // 2
    given = imdct(spectrum.astype(np.float32), padding)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected[:, trim : 6 * bins - trim], rtol=0, atol=2e-5)


def test_imdct_inverts_mdct() -> None:
    """Time-domain aliasing cancels: the MDCT followed by its inverse is the identity."""
    bins, count = 16, 12
    audio = np.random.default_rng(3).standard_normal((count - 1) * bins)
    n, k = np.arange(2 * bins), np.arange(bins)
    basis = np.cos(np.pi / bins * (n[None] + (bins + 1) / 2) * (k[:, None] + 0.5)) * np.sqrt(2 / bins)
    window = np.sin(np.pi * (n + 0.5) / (2 * bins))
    padded = np.pad(audio, bins)
    spectrum = np.stack([basis @ (padded[t * bins : t * bins + 2 * bins] * window) for t in range(count)])
    given = imdct(spectrum[None].astype(np.float32), "center")[0]
    np.testing.assert_allclose(given, audio, rtol=0, atol=5e-6)


@pytest.mark.parametrize("n_fft", [2, 10, 126, 128, 1280])
def test_the_basis_is_the_inverse_transform(n_fft: int) -> None:
    """Also around the edges of the 64-bin blocks in which the basis is computed."""
    rng = np.random.default_rng(n_fft)
    parts = rng.normal(size=(1, 3, n_fft // 2 + 1, 2)).astype(np.float32)
    expected = istft_frames(parts.view(np.complex64)[..., 0], n_fft)
    given = parts.reshape(1, 3, -1) @ istft_basis(n_fft)
    assert given.shape == expected.shape == (1, 3, n_fft)
    assert np.abs(given - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_overlap_add_of_ones_counts_frames() -> None:
    assert overlap_add(np.ones((1, 4, 5)), 2).tolist() == [[1, 1, 2, 2, 3, 2, 3, 2, 2, 1, 1]]


def test_hann_window_is_periodic() -> None:
    window = hann_window(8)
    assert window.dtype == np.float32
    assert window[0] == 0
    assert window[4] == 1
    np.testing.assert_allclose(window[1:], window[:0:-1], atol=1e-7)
