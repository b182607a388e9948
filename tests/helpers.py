"""Helpers shared by the tests: the tiny models (tests/data, made by tests/data/make.py) and files made from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vocos_onnx import VocosONNX
from vocos_onnx.inverse import IMDCT, ISTFT, OverlapAdd
from vocos_onnx.spans import Plan

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
FORKS = "ignore:This process:DeprecationWarning"  # Python 3.12 and later warn about any fork of a process with threads


def altered(tmp_path: Path, old: bytes, new: bytes, name: str = "encodec") -> Path:
    """A copy of a tiny model with some bytes of its metadata replaced by the same number of others."""
    data = (DATA / f"{name}.onnx").read_bytes()
    assert len(old) == len(new)
    assert old in data
    path = tmp_path / "altered.onnx"
    path.write_bytes(data.replace(old, new))
    return path


def found(pattern: str, text: str | None) -> re.Match[str]:
    """The match of the pattern in the text; fails if there is none."""
    match = re.search(pattern, text or "")
    assert match is not None, (pattern, text)
    return match


def tone(frequency: float, rate: int, seconds: float = 0.5) -> npt.NDArray[np.float32]:
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def level(audio: npt.NDArray[np.float32]) -> float:
    """Level of the middle half in dB; a sine of amplitude 1 has 0 dB."""
    middle = audio[len(audio) // 4 : -len(audio) // 4].astype(np.float64)
    return float(10 * np.log10(2 * np.mean(middle**2) + 1e-30))


def istft(spectrum: np.ndarray, n_fft: int, hop: int, padding: str) -> np.ndarray:
    """Spectrum (B, T, n_fft/2 + 1) -> audio (B, samples), all frames at once."""
    return _inverse(OverlapAdd(ISTFT(n_fft), n_fft, hop, padding), spectrum)


def imdct(spectrum: np.ndarray, padding: str) -> np.ndarray:
    """MDCT coefficients (B, T, N) -> audio (B, samples), all frames at once."""
    bins = spectrum.shape[-1]
    return _inverse(OverlapAdd(IMDCT(), 2 * bins, bins, padding), spectrum)


def _inverse(overlap_add: OverlapAdd, spectrum: np.ndarray) -> np.ndarray:
    return np.concatenate([overlap_add.push(spectrum), overlap_add.finish()], axis=1)


def decode_together(vocos: VocosONNX, items: list[np.ndarray], bandwidth_id: int | None = None) -> list[np.ndarray]:
    """Decode as on a GPU, with all items of the same bandwidth in one batch."""
    given = vocos._reader.read(items, bandwidth_id, "kbt")
    batches = list(Plan(vocos.network.reach, None, together=vocos.network.has_state).work(given.items).batches)
    assert not vocos.network.has_state or len(batches) == len({frames.bandwidth_id for frames in given.items})
    sums = [one for batch in batches for one in vocos._inverse.sums(vocos.network.spectra(batch))]
    decoded = given.restore(vocos._inverse.join(sums))
    assert isinstance(decoded, list)
    return decoded
