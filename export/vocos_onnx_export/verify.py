"""Compares torch with the runtime, stage by stage, on random input: a failure names its stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocos_onnx import VocosONNX
from vocos_onnx.model.session import evaluate
from vocos_onnx.model.sherpa import INPUT, OUTPUTS

from .modules import ISTFTHead, Vocos

LENGTHS = (1, 2, 27, 28, 200)
BATCHES = (1, 3)
# relative to the stage's peak
TOLERANCE = {"features": 1e-6, "spectrum": 1e-4, "waveform": 1e-4, **dict.fromkeys(OUTPUTS, 1e-4)}


@dataclass(frozen=True)
class Row:
    """The largest difference of one stage, relative to the peak of torch's result."""

    bandwidth_id: int | None
    batch: int
    frames: int
    stage: str
    difference: float

    @property
    def ok(self) -> bool:
        return self.difference <= TOLERANCE[self.stage]  # False for NaN


@torch.inference_mode()
def verify(model: Vocos, codebooks: Tensor | None, runtime: VocosONNX) -> Iterator[Row]:
    """Compares features, spectrum and waveform for every bandwidth, several lengths and batch sizes."""
    rng = np.random.default_rng(0)
    config = runtime.config
    for bandwidth_id in range(config.num_bandwidth_ids) if config.num_bandwidth_ids else (None,):
        id_tensor = None if bandwidth_id is None else torch.tensor(bandwidth_id)
        for batch in BATCHES:
            for frames in LENGTHS:
                if config.encodec is not None:
                    assert codebooks is not None
                    counts = config.encodec.codebooks_per_bandwidth
                    k = counts[-1] if bandwidth_id is None else counts[min(bandwidth_id, len(counts) - 1)]
                    codes = rng.integers(config.encodec.codebook_size, size=(k, batch, frames))
                    embedded = [book[torch.from_numpy(c)] for book, c in zip(codebooks, codes, strict=False)]
                    features = torch.stack(embedded).sum(0).transpose(1, 2)
                    looked_up = runtime.codes_to_features(codes, layout="kbt")
                    yield Row(bandwidth_id, batch, frames, "features", relative(looked_up, features))
                else:
                    features = _mels(rng, batch, config.feature_channels, frames)
                spectrum = model(features, id_tensor)
                given = runtime.network.spectrum(features.numpy(), bandwidth_id)
                expected = torch.view_as_complex(spectrum) if config.head == "istft" else spectrum
                yield Row(bandwidth_id, batch, frames, "spectrum", relative(given, expected))
                if config.padding == "center" and frames == 1:
                    continue  # no samples
                waveform = finite(lambda: runtime.decode(features.numpy(), bandwidth_id))  # noqa: B023
                yield Row(bandwidth_id, batch, frames, "waveform", relative(waveform, model.to_waveform(spectrum)))


@torch.inference_mode()
def verify_polar(model: Vocos, path: Path) -> Iterator[Row]:
    """Compares mag, x and y of a file in sherpa-onnx's layout, for several lengths and batch sizes."""
    assert isinstance(model.head, ISTFTHead)
    rng, channels = np.random.default_rng(0), model.backbone.input_channels
    given = [_mels(rng, batch, channels, frames) for batch in BATCHES for frames in LENGTHS]
    for mels, found in zip(given, evaluate(path, ({INPUT: mels.numpy()} for mels in given)), strict=True):
        polar = model.head.polar(model.backbone(mels))
        for name, expected in zip(OUTPUTS, polar, strict=True):
            difference = relative(found[name], expected.transpose(1, 2))
            yield Row(None, mels.shape[0], mels.shape[2], name, difference)


def _mels(rng: np.random.Generator, batch: int, channels: int, frames: int) -> Tensor:
    # log-mels lie between log(1e-7) = -16 and about 4
    return torch.from_numpy(rng.uniform(-16, 4, (batch, channels, frames)).astype(np.float32))


def finite(compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The result; or a NaN, which differs from anything, if the runtime raises FloatingPointError instead."""
    try:
        return compute()
    except FloatingPointError:
        return np.full((), np.nan)


def relative(given: np.ndarray, expected: Tensor) -> float:
    """Largest absolute difference, relative to the expected peak; infinite if the shapes differ."""
    reference = expected.numpy()
    if given.shape != reference.shape:
        return float("inf") if np.isfinite(given).all() else float("nan")
    difference, peak = float(np.abs(given - reference).max()), float(np.abs(reference).max())
    return 0.0 if difference == 0 else difference / peak if peak else float("inf")


def table(rows: list[Row]) -> list[str]:
    """The lines of a table of the worst differences over lengths and batches, by bandwidth and stage."""
    stages = [s for s in TOLERANCE if any(r.stage == s for r in rows)]
    lines = [f"{'bandwidth_id':>12}  " + "  ".join(f"{s:>9}" for s in stages)]
    for bandwidth_id in dict.fromkeys(r.bandwidth_id for r in rows):
        worst = [max(r.difference for r in rows if (r.bandwidth_id, r.stage) == (bandwidth_id, s)) for s in stages]
        lines.append(f"{'-' if bandwidth_id is None else bandwidth_id:>12}  " + "  ".join(f"{w:9.1e}" for w in worst))
    lines.append(f"{'tolerance':>12}  " + "  ".join(f"{TOLERANCE[s]:9.0e}" for s in stages))
    return lines
