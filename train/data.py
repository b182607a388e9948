"""Training audio in memory: crops drawn by speaker."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
from scipy.signal import resample_poly

# speeds at which a crop may be played, as (up, down) of the resampler: they add voices to the few there are
SPEEDS = ((8, 9), (9, 10), (15, 16), (1, 1), (1, 1), (1, 1), (16, 15), (10, 9), (9, 8))


class Clips:
    """The clips of one split of ``root/index.csv`` (columns file, split, speaker; 24 kHz mono)."""

    def __init__(self, root: Path, split: str, sample_rate: int):
        with (root / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        if not rows:
            raise ValueError(f"{root / 'index.csv'} lists no clip of split {split!r}")
        self.audio: list[npt.NDArray[np.int16]] = []
        for row in rows:
            audio, rate = sf.read(root / row["file"], dtype="int16")
            if rate != sample_rate or audio.ndim != 1:
                raise ValueError(f"{row['file']}: expected {sample_rate} Hz mono, found {rate} Hz, shape {audio.shape}")
            self.audio.append(audio)
        # A speaker is drawn by the square root of their share of the seconds, then a clip of theirs by its length:
        # one speaker has 44 % of the hours, most of the others ten seconds each.
        lengths = np.array([len(a) for a in self.audio], dtype=np.float64)
        _, speaker = np.unique([row["speaker"] or row["kind"] for row in rows], return_inverse=True)
        seconds = np.bincount(speaker, lengths)
        weight = lengths / np.sqrt(seconds)[speaker]
        self.probability = weight / weight.sum()

    def batch(self, rng: np.random.Generator, size: int, samples: int) -> npt.NDArray[np.float32]:
        """Random crops (size, samples), each at a random speed and a random gain of -12 to +6 dB, never clipped."""
        out = np.zeros((size, samples), np.float32)
        for row, clip in zip(out, rng.choice(len(self.audio), size, p=self.probability), strict=True):
            up, down = SPEEDS[rng.integers(len(SPEEDS))]
            need = samples * down // up + 1
            audio = self.audio[clip]
            start = rng.integers(max(1, len(audio) - need + 1))
            crop = audio[start : start + need].astype(np.float32) / 32768
            crop = (resample_poly(crop, up, down) if up != down else crop)[:samples]
            gain = 10 ** rng.uniform(-12 / 20, 6 / 20)
            row[: len(crop)] = crop * min(gain, 1 / max(float(np.abs(crop).max()), 1e-3))
        return out
