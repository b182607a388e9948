"""Features -> spectrum: the network, in an onnxruntime session."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import METADATA_KEY, ModelConfig
from .session import Provider, check_graph, open_session, read_config


class Backbone:
    """The session of one model file. ``config`` is read from the file, ``providers`` is what the session runs on."""

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[Provider] | None, threads: int | None):
        self._session = open_session(path, providers, threads, METADATA_KEY)
        self.providers: list[str] = self._session.get_providers()
        self.config = read_config(self._session, path, METADATA_KEY, self._parse)

    def spectrum(self, features: npt.NDArray[np.float32], bandwidth_id: int | None) -> npt.NDArray[Any]:
        """Features (B, C, T) -> spectrum (B, T, n_fft/2 + 1) complex64; from an IMDCT head (B, T, n_fft/2) float32."""
        inputs: dict[str, Any] = {"features": features}
        if bandwidth_id is not None:
            inputs["bandwidth_id"] = np.array(bandwidth_id, np.int64)
        spectrum: npt.NDArray[Any]
        (spectrum,) = self._session.run(["spectrum"], inputs)
        # The graph ends with (B, T, F, 2), real and imaginary part side by side, which is complex64 without a copy.
        # exp, cos and sin are in the graph: benchmarks/head.py found that as fast as numpy on two cores, and there
        # they share the session's threads and its device.
        return spectrum.view(np.complex64)[..., 0] if self.config.head == "istft" else spectrum

    def codebooks(self) -> npt.NDArray[np.float32]:
        """The codebooks (num_codebooks, codebook_size, C) that an encodec model carries as a constant output."""
        encodec = self.config.encodec
        assert encodec is not None
        inputs: dict[str, Any] = {"features": np.zeros((1, self.config.feature_channels, 1), np.float32)}
        if self.config.num_bandwidth_ids:
            inputs["bandwidth_id"] = np.array(0, np.int64)
        codebooks: npt.NDArray[np.float32]
        (codebooks,) = self._session.run(["codebooks"], inputs)
        return codebooks

    def _parse(self, metadata: str) -> ModelConfig:
        config = ModelConfig.from_json(metadata)
        bins = config.n_fft // 2
        tail: list[int] = [bins + 1, 2] if config.head == "istft" else [bins]
        expected: dict[str, list[int | str]] = {
            "features": ["batch", config.feature_channels, "frames"],
            "spectrum": ["batch", "frames", *tail],
        }
        if config.num_bandwidth_ids:
            expected["bandwidth_id"] = []
        if config.encodec is not None:
            enc = config.encodec
            expected["codebooks"] = [enc.num_codebooks, enc.codebook_size, config.feature_channels]
        check_graph(self._session, expected)
        return config
