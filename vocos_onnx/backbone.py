"""Features -> spectrum: the network, in an onnxruntime session."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import METADATA_KEY, ModelConfig

Provider = str | tuple[str, dict[str, Any]]

# ORT searches every cuDNN algorithm anew for each input length unless told otherwise.
_DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {"CUDAExecutionProvider": {"cudnn_conv_algo_search": "HEURISTIC"}}


class Backbone:
    """The session of one model file. ``config`` is read from the file, ``providers`` is what the session runs on."""

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[Provider] | None, threads: int | None):
        ort = _onnxruntime()
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise ValueError(f"threads is {threads!r}, expected an integer of 1 or more, or None for all cores")
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no model file {path}; make one with: vocos-onnx export CHECKPOINT -o {path}")
        if not path.is_file():
            raise ValueError(f"{path} is not a file; expected the .onnx file that vocos-onnx export wrote")
        wanted = _choose_providers(providers, ort.get_available_providers())
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"onnxruntime cannot load {path} ({path.stat().st_size} bytes): {reason}. If the file is truncated or "
                "not an ONNX model, copy or export it again"
            ) from error
        self.providers: list[str] = self._session.get_providers()
        if providers is not None:
            absent = [p for p, _ in wanted if p not in self.providers]
            if absent:
                raise RuntimeError(
                    f"onnxruntime could not start {', '.join(absent)} and would run on {', '.join(self.providers)}; "
                    "its log above says why (often a missing CUDA or cuDNN library: pip install 'vocos-onnx[gpu]')"
                )
        self.config = self._read_config(path)

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

    def _read_config(self, path: Path) -> ModelConfig:
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ValueError(
                f"{path} is an ONNX model but not one of vocos-onnx: its metadata has no entry {METADATA_KEY!r}; "
                "export the checkpoint with: vocos-onnx export"
            )
        try:
            config = ModelConfig.from_json(metadata[METADATA_KEY])
            self._check_graph(config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; export the checkpoint again with this version") from None
        return config

    def _check_graph(self, config: ModelConfig) -> None:
        """The graph must be the one that the metadata describes."""
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
        found = {node.name: node.shape for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        if found != expected:
            raise ValueError(f"the metadata contradicts the graph: its inputs and outputs are {found}, not {expected}")


def _onnxruntime() -> Any:
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  what a half-removed wheel leaves behind is an empty module
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "onnxruntime is not installed: pip install 'vocos-onnx[cpu]', or 'vocos-onnx[gpu]' for CUDA (not both)"
        ) from error
    return onnxruntime


def _choose_providers(providers: Sequence[Provider] | None, available: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Names or (name, options) pairs as pairs; by default CUDA where onnxruntime has it, and the CPU."""
    if providers is None:
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    if isinstance(providers, str) or not providers:
        raise ValueError(f"providers is {providers!r}, expected a list of one or more of {', '.join(available)}")
    chosen = []
    for provider in providers:
        pair = (provider, {}) if isinstance(provider, str) else provider
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], dict)):
            raise ValueError(f"providers holds {provider!r}, expected a name or a (name, options) pair")
        name, options = pair
        if name not in available:
            raise ValueError(
                f"provider {name!r} is not in this onnxruntime, which has {', '.join(available)}; "
                "for CUDA install 'vocos-onnx[gpu]' instead of 'vocos-onnx[cpu]'"
            )
        chosen.append((name, {**_DEFAULT_OPTIONS.get(name, {}), **options}))
    return chosen
