"""Every stage against values that the real vocos package computed from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers import imdct, istft
from vocos_onnx import VocosONNX

# relative to the peak; measured differences are at most a tenth of these
TOLERANCE = 1e-5
NAMES = ["encodec", "mel", "imdct-symexp", "imdct-cos", "wavenext"]


def tolerance_of(name: str) -> float:
    """Tolerance of the waveform; where clipping limits the peak to 1, rounding errors are those of values near 70."""
    return 1e-4 if name == "imdct-symexp" else TOLERANCE


def assert_close(given: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert given.dtype == expected.dtype
    assert given.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    assert np.abs(given - expected).max() <= tolerance * np.abs(expected).max()


def test_features(encodec: VocosONNX, golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    tensors = golden("encodec")
    assert_close(encodec.codes_to_features(tensors["tokens"]), tensors["features"], 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_spectrum(tiny: Callable[[str], VocosONNX], golden: Callable[[str], dict[str, np.ndarray]], name: Any) -> None:
    tensors = golden(name)
    bandwidth_id = 1 if name == "encodec" else None
    assert_close(tiny(name).network.spectrum(tensors["features"], bandwidth_id), tensors["spectrum"])


@pytest.mark.parametrize("name", NAMES)
def test_inverse_transform(
    tiny: Callable[[str], VocosONNX], golden: Callable[[str], dict[str, np.ndarray]], name: Any
) -> None:
    tensors, config = golden(name), tiny(name).config
    if config.head == "istft":
        audio = istft(tensors["spectrum"], config.n_fft, config.hop_length, config.padding)
    elif config.head == "wavenext":
        audio = tensors["spectrum"].reshape(len(tensors["spectrum"]), -1)
    else:
        audio = imdct(tensors["spectrum"], config.padding)
    audio = audio.clip(-1, 1) if config.clip_audio else audio
    assert_close(audio, tensors["waveform"], tolerance_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_waveform(tiny: Callable[[str], VocosONNX], golden: Callable[[str], dict[str, np.ndarray]], name: Any) -> None:
    tensors = golden(name)
    bandwidth_id = 1 if name == "encodec" else None
    audio = tiny(name).decode(tensors["features"], bandwidth_id)
    assert_close(audio, tensors["waveform"], tolerance_of(name))


@pytest.mark.parametrize("name", ["mel", "imdct-cos"])
def test_inverse_transform_in_the_graph(
    tiny: Callable[[str], VocosONNX],
    golden: Callable[[str], dict[str, np.ndarray]],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors, vocos = golden(name), tiny(f"{name}-istft")
    monkeypatch.setattr("vocos_onnx.inverse.OverlapAdd", None)
    assert_close(vocos.decode(tensors["features"]), tensors["waveform"])


def test_tokens_to_waveform(encodec: VocosONNX, golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    tensors = golden("encodec")
    assert_close(encodec.decode(tensors["tokens"]), tensors["waveform"])
