"""Caches the tokens of whole files in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vocos_onnx import EncodecONNX, save_tokens
from vocos_onnx.io.tokens import read_token_file

from .progress import Heartbeat


class TokenCache:
    """Keeps the tokens of whole files in a folder, so each file is encoded only once.

    A token file is named by the sha256 of the audio and of the encoder's codebooks. Crops start at frame boundaries.
    """

    def __init__(self, folder: Path, encoder: EncodecONNX, num_codebooks: int, report: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.encoder, self.num_codebooks, self.report = folder, encoder, num_codebooks, report
        self.codes: list[npt.NDArray[np.integer[Any]]] = []

    def fill(self, clips: list[npt.NDArray[np.int16]], gains: npt.NDArray[np.floating[Any]]) -> None:
        """Reads the tokens of the clips, which have whole frames; encodes those that are not in the folder.

        ``gains`` (len(clips),) are the factors that scale the samples to audio with full scale ±1, at the level used in
        training.
        """
        new = 0
        beat = Heartbeat(self.report)
        for i, clip in enumerate(clips):
            beat(f"tokens: {i} of {len(clips)} files")
            digest = hashlib.sha256(self.encoder.config.codebooks_sha256[self.num_codebooks - 1].encode())
            digest.update(clip.tobytes())
            path = self.folder / f"{digest.hexdigest()[:32]}.npz"
            codes = _read(path)
            if codes is None:
                codes = encode(self.encoder, clip[None] * np.float32(gains[i]), self.num_codebooks)[:, 0]
                codes = codes.astype(np.int16 if self.encoder.config.codebook_size <= 1 << 15 else np.int32)
                save_tokens(path, codes, self.encoder)
                new += 1
            self.codes.append(codes)
        self.report(f"tokens: {new} files encoded, {len(self.codes) - new} from {self.folder}")

    def crop(
        self, clips: npt.NDArray[np.integer[Any]], frames: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], Tensor]:
        """Draws random crops of the clips with indices (B,): their first frames (B,), and codes (K, B, frames).

        Clips that are too short are repeated.
        """
        starts, codes = [], []
        for i in clips:
            start = int(rng.integers(max(1, self.codes[i].shape[1] - frames + 1)))
            starts.append(start)
            codes.append(np.take(self.codes[i], np.arange(start, start + frames), axis=1, mode="wrap"))
        return np.array(starts), torch.from_numpy(np.stack(codes, axis=1)).long()


def _read(path: Path) -> npt.NDArray[np.integer[Any]] | None:
    """The codes (K, T) of a file; None if the file is missing or damaged, and has to be rewritten."""
    try:
        return read_token_file(path).codes
    except (ValueError, OSError):
        return None


def encode(encoder: EncodecONNX, audio: npt.NDArray[np.floating[Any]], num_codebooks: int) -> npt.NDArray[np.int64]:
    """Audio (B, N) at the encoder's rate -> codes (num_codebooks, B, ceil(N / hop))."""
    counts = encoder.config.codebooks_per_bandwidth
    bandwidth = next(kbps for kbps, count in zip(encoder.bandwidths, counts, strict=True) if count >= num_codebooks)
    return encoder.encode(audio, encoder.sample_rate, bandwidth)[:num_codebooks]
