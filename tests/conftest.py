"""Tiny models with golden tensors (tests/data, made by tests/data/make.py), loaded once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vocos_onnx import VocosONNX
from vocos_onnx.inverse import IMDCT, ISTFT, OverlapAdd

DATA = Path(__file__).parent / "data"

# Who runs the tests in the background may ignore these, and the programs that are started would, too.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)


def altered(tmp_path: Path, old: bytes, new: bytes, name: str = "encodec") -> Path:
    """A tiny model with some bytes of its metadata replaced by as many others."""
    data = (DATA / f"{name}.onnx").read_bytes()
    assert len(old) == len(new)
    assert old in data
    path = tmp_path / "altered.onnx"
    path.write_bytes(data.replace(old, new))
    return path


def istft(spectrum: np.ndarray, n_fft: int, hop: int, padding: str) -> np.ndarray:
    """Spectrum (B, T, n_fft/2 + 1) -> audio (B, samples), all frames at once."""
    return _inverse(OverlapAdd(ISTFT(n_fft), n_fft, hop, padding), spectrum)


def imdct(spectrum: np.ndarray, padding: str) -> np.ndarray:
    """MDCT coefficients (B, T, N) -> audio (B, samples), all frames at once."""
    bins = spectrum.shape[-1]
    return _inverse(OverlapAdd(IMDCT(), 2 * bins, bins, padding), spectrum)


def _inverse(overlap_add: OverlapAdd, spectrum: np.ndarray) -> np.ndarray:
    return np.concatenate([overlap_add.push(spectrum), overlap_add.finish()], axis=1)


@cache
def _tiny(name: str) -> VocosONNX:
    return VocosONNX(DATA / f"{name}.onnx", providers=["CPUExecutionProvider"], threads=1)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], VocosONNX]:
    """tiny("encodec"): a small model; "mel", "imdct-symexp" and "imdct-cos" are the others."""
    return _tiny


@pytest.fixture(scope="session")
def encodec() -> VocosONNX:
    """2 codebooks, 8 channels, bandwidths of 1 and 2 codebooks, hop 320, padding same."""
    return _tiny("encodec")


@pytest.fixture(scope="session")
def mel() -> VocosONNX:
    """8 bands, hop 16, padding center."""
    return _tiny("mel")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(DATA / f"{name}.npz") as archive:
            return dict(archive)

    return load
