"""The systems that the report and the card compare: every model at every bandwidth, to make copies of recordings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.analysis import are_paired
from vocos_onnx.arrays import Float
from vocos_onnx.bandwidths import bandwidth_index
from vocos_onnx.messages import printable
from vocos_onnx.model.bundled import CODEC, MEL, find_model
from vocos_onnx.model.providers import Provider

PathLike = str | os.PathLike[str]


class System(NamedTuple):
    """A model that makes copies of recordings; an encodec model at one bandwidth."""

    model: str
    bandwidth: float | None
    vocos: VocosONNX
    encoder: EncodecONNX | None

    @property
    def features(self) -> str:
        return "mels" if self.bandwidth is None else f"{self.bandwidth:g} kbps"

    def copy(self, audio: Float) -> Float:
        """Audio (N,) at the model's rate -> (M,) at that rate, M <= N: whole frames, truncated to N samples."""
        return self.vocos(audio, self.vocos.sample_rate, bandwidth=self.bandwidth, encoder=self.encoder)[: len(audio)]


def open_systems(
    models: Sequence[PathLike] | None = None,
    encoder: PathLike | None = None,
    bandwidths: Sequence[float] | None = None,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
) -> list[System]:
    """Opens every model at every bandwidth, in order, and tries each on 1 s of silence. Arguments as ``report``.

    Raises ValueError and FileNotFoundError like ``report``.
    """
    given = models or (CODEC, MEL)
    files = [find_model(model) for model in given]
    tokenizer = None if encoder is None else EncodecONNX(encoder, providers=providers, threads=threads)
    systems = []
    for name, model in zip(titles(files, stem=True), given, strict=True):
        vocos = VocosONNX(model, providers=providers, threads=threads)
        if vocos.config.encodec is None:
            systems.append(System(name, None, vocos, None))
            continue
        codebooks = vocos.network.codebooks
        assert codebooks is not None
        fits = tokenizer is not None and are_paired(tokenizer, vocos.config.encodec, codebooks)
        for kbps in dict.fromkeys(bandwidths or vocos.bandwidths):
            index = bandwidth_index(kbps, vocos.bandwidths)
            systems.append(System(name, vocos.bandwidths[index], vocos, tokenizer if fits else None))
    if encoder is not None and not any(system.encoder for system in systems):
        raise ValueError(f"encoder {encoder} has the codebooks of none of the models: {', '.join(map(str, files))}")
    if bandwidths and not any(system.bandwidth for system in systems):
        raise ValueError("bandwidths are given, but all models are mel models, without tokens: leave them out")
    for system in systems:
        system.copy(np.zeros(system.vocos.sample_rate, np.float32))
    return systems


def titles(paths: Sequence[Path], stem: bool = False) -> list[str]:
    """The name of each file, or its whole path if another has the same name; unprintable characters are escaped."""
    names = [path.stem if stem else path.name for path in paths]
    return [printable(str(path) if names.count(name) > 1 else name) for name, path in zip(names, paths, strict=True)]
