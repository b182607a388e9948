"""Features -> spectrum: the network, in an onnxruntime session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float

from .dsp.stft import trim_of
from .limits import MAX_CHANNELS, MAX_LAYERS, read_size
from .model.config import ModelConfig
from .model.providers import CPU, CUDA, Provider
from .model.session import Shapes, open_model, shape_of
from .model.shapes import Shape

State = dict[str, Any]  # arrays, or what stays on a GPU

REACH = 3  # frames to either side, of a convolution of 7 taps


class Backbone:
    """The session of one model file. ``config`` is read from the file, ``providers`` is what the session runs on."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Sequence[Provider] | None,
        threads: int | None,
        profile: Path | None = None,
    ):
        self._session = open_model(path, ModelConfig, _graph, providers, threads, profile)
        self.config: ModelConfig = self._session.config
        self.providers = self._session.providers
        # It is made for CUDA, and tested on the CPU. Elsewhere the spectrum is fetched: with OpenVINO, onnxruntime 1.24
        # computes the audio of some files of format 4 wrongly, those with an If whose condition is a constant.
        self.has_istft = "audio" in self._session.outputs and self.providers[0] in (CPU, CUDA)
        self._layers, self._dim = _sizes(self._session.inputs)

    @property
    def delay(self) -> int:
        """Frames that the network sees to either side, 3 for each convolution; 0 where it carries none."""
        return REACH * (self._layers + 1) if self._layers else 0

    def start(self, batch: int) -> State:
        """The state before the first frame of sequences."""
        return self._state(batch, 2 * REACH)

    def spectrum(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None
    ) -> npt.NDArray[Any]:
        """Features (B, C, T) -> spectrum (B, T, n_fft/2 + 1) complex64; from an IMDCT head (B, T, n_fft/2) float32.

        ``lengths``: frames of each item; its features from there on are zeros, and its spectrum has no meaning.
        """
        shapes = {"spectrum": self._spectrum_shape(features)}
        spectrum: npt.NDArray[Any]
        (spectrum,) = self._session.run(shapes, self.inputs(features, bandwidth_id, lengths))
        return self._as_complex(spectrum)

    def audio(self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None) -> Float:
        """Features (B, C, T) -> audio (B, samples), where ``has_istft``.

        ``lengths``: as ``spectrum`` takes it; the audio of an item ends with its last frame, and zeros are after it.
        """
        config, (batch, _, frames) = self.config, features.shape
        trim = trim_of(config.n_fft, config.hop_length, config.padding)
        samples = (frames - 1) * config.hop_length + config.n_fft - 2 * trim
        audio: Float
        (audio,) = self._session.run({"audio": (batch, samples)}, self.inputs(features, bandwidth_id, lengths))
        return audio

    def inputs(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """What the graph takes to compute the spectrum in one piece, see ``spectrum``."""
        batch, _, frames = features.shape
        mask = np.ones((self._layers, batch, frames), np.float32)
        if lengths is not None:
            mask *= np.arange(frames) < np.asarray(lengths)[:, None]
        return self._inputs(features, bandwidth_id, self._state(batch, REACH), mask)

    def step(
        self, features: Float, bandwidth_id: int | None, state: State, first: int, end: int | None
    ) -> tuple[npt.NDArray[Any], State]:
        """Go on with sequences, of which frames ``first`` ... ``first`` + T - 1 are given, those from ``end`` on zeros.

        Returns the spectrum, as ``spectrum`` does, of the T frames from ``first - delay`` on, and the new state. Those
        before the first frame and from the end on have no meaning.
        """
        batch, _, frames = features.shape
        # the input of block l is REACH * (l + 1) frames late; what is outside of the sequence there is zero
        late = REACH * np.arange(1, self._layers + 1)[:, None]
        time = first + np.arange(frames) - late
        inside = (time >= 0) if end is None else (time >= 0) & (time < end)
        mask = np.repeat(inside[:, None].astype(np.float32), batch, axis=1)
        shapes = {"spectrum": self._spectrum_shape(features)}
        shapes |= {f"next_{name}": shape for name, shape in self._state_shapes(batch, 2 * REACH).items()}
        inputs = self._inputs(features, bandwidth_id, state, mask)
        spectrum, *new = self._session.run(shapes, inputs, keep=True)
        return self._as_complex(spectrum), dict(zip(state, new, strict=True))

    def _state(self, batch: int, past: int) -> State:
        return {name: np.zeros(shape, np.float32) for name, shape in self._state_shapes(batch, past).items()}

    def _state_shapes(self, batch: int, past: int) -> dict[str, tuple[int, ...]]:
        if not self._layers:
            return {}
        return {
            "past_features": (batch, self.config.feature_channels, past),
            "past": (self._layers, batch, past, self._dim),
        }

    def _spectrum_shape(self, features: Float) -> tuple[int, ...]:
        batch, _, frames = features.shape
        return batch, frames, *_bins(self.config)

    def _inputs(self, features: Float, bandwidth_id: int | None, state: State, mask: Float) -> dict[str, Any]:
        inputs: dict[str, Any] = {"features": features, **state}
        if self._layers:
            inputs["mask"] = mask
        if bandwidth_id is not None:
            inputs["bandwidth_id"] = np.array(bandwidth_id, np.int64)
        return inputs

    def _as_complex(self, spectrum: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # The graph ends with (B, T, F, 2), real and imaginary part side by side, which is complex64 without a copy.
        # exp, cos and sin are in the graph, where they share the session's threads and its device.
        return spectrum.view(np.complex64)[..., 0] if self.config.head == "istft" else spectrum

    @property
    def codebooks(self) -> Float | None:
        """The codebooks (num_codebooks, codebook_size, C) of an encodec model."""
        return self._session.codebooks

    def placement(self) -> dict[str, list[str]]:
        """The operators that have run on each provider, one entry for each node, of one opened with ``profile``."""
        return self._session.placement()


def _graph(config: ModelConfig, found: Shapes, made: Shapes) -> tuple[Shapes, Shapes]:
    """The inputs and outputs of a network; how many convolutions have a state is its own affair, in no metadata."""
    channels = config.feature_channels
    inputs: dict[str, Shape] = {"features": ("batch", channels, "frames")}
    outputs: dict[str, Shape] = {"spectrum": ("batch", "frames", *_bins(config))}
    layers, dim = _sizes(found)
    if layers:
        inputs["past_features"] = ("batch", channels, "past")
        outputs["next_past_features"] = ("batch", channels, 2 * REACH)
        inputs["past"] = (layers, "batch", "past", dim)
        outputs["next_past"] = (layers, "batch", 2 * REACH, dim)
        inputs["mask"] = (layers, "batch", "frames")
    if "audio" in made:
        outputs["audio"] = ("batch", "samples")
    if config.num_bandwidth_ids:
        inputs["bandwidth_id"] = ()
    return inputs, outputs


def _sizes(inputs: Shapes) -> tuple[int, int]:
    """How many convolutions of a network have a state, and of how many channels."""
    past = shape_of(inputs, "past", 4)
    if past is None:
        return 0, 0
    return read_size("layers", past[0], MAX_LAYERS), read_size("dim", past[3], MAX_CHANNELS)


def _bins(config: ModelConfig) -> tuple[int, ...]:
    """The last axes of a spectrum."""
    return (config.n_fft // 2 + 1, 2) if config.head == "istft" else (config.n_fft // 2,)


def placement(path: str | os.PathLike[str], providers: Sequence[Provider] | None) -> dict[str, list[str]]:
    """The operators that ran on each provider, one entry for each node, when a few frames were computed."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(path, providers, None, Path(folder) / "profile")
        frames = np.zeros((1, backbone.config.feature_channels, 32), np.float32)
        backbone.spectrum(frames, 0 if backbone.config.num_bandwidth_ids else None)
        return backbone.placement()
