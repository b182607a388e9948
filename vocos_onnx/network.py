"""Spans -> spectra: runs the network on whole sequences or step by step."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .limits import MAX_CHANNELS, MAX_LAYERS, read_size
from .model.config import ModelConfig
from .model.foreign import NOTHING, Settings
from .model.onnx_file import STEP, WHOLE
from .model.providers import CPU, CUDA, Provider
from .model.session import Shapes, open_model, shape_of
from .model.shapes import Shape
from .once import warn_once
from .spans import Span, Spectrum, stacked, windows

State = dict[str, Any]  # arrays, or values of onnxruntime that stay on a GPU
_BATCH_AXES = {"past_features": 0, "past": 1}  # of the arrays of a state

TAPS = 7  # of each convolution
REACH = TAPS // 2  # frames that one convolution sees to either side
_FAR = np.iinfo(np.int64).max  # the end of a sequence whose end is not known


class Network:
    """The network of one model file, in an onnxruntime session.

    config: read from the file. codebooks: (num_codebooks, codebook_size, C) of a codec's model, else None. providers:
    those that the network runs on. threads: the number that one call uses; None if it does not run on the CPU alone.
    reach: frames that the network sees to either side; 0 if that is not known, and then sequences cannot be cut.
    has_state: whether the graph carries a state from one call to the next, and has a mask. is_streamable: whether
    sequences can go through it some frames at a time. size: the number of frames that the graph takes, None if it takes
    any. foreign: the inputs and outputs of a file from another exporter, "" for our own.

    With a state, each convolution has 7 taps. For T frames it is given the ``past`` frames before them, and appends
    6 - past zeros. With past = 3, all zeros, it is the ordinary network, padded with zeros on both sides. With
    past = 6, the state, it continues from there and lags by 3 frames (docs/reference/format.md).

    Without a state, frames go through the network in windows, together with the frames before and after that it sees.
    The features of earlier frames are then what is kept from one call to the next.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        profile: Path | None = None,
        settings: Settings = NOTHING,
    ):
        self._session = open_model(path, ModelConfig, _expected_graph, providers, threads, profile, settings)
        self.foreign = self._session.foreign
        self.config = self._session.config
        self.codebooks = self._session.codebooks
        self.providers = self._session.providers
        self.threads = self._session.threads if self.providers == [CPU] else None
        self._layers, self._dim = _sizes(self._session.inputs)
        self.has_state = self._layers > 0
        self.reach = _reach(self._layers) if self.has_state else self.config.reach
        self.is_streamable = self.reach > 0
        self._rows, self.size = _fixed_sizes(self._session.inputs)
        # The inverse transform in the graph is meant for CUDA, and tested on the CPU too. Other providers return the
        # spectrum: with OpenVINO, onnxruntime 1.24 computes wrong audio for files of format 4 that have an If with a
        # constant condition.
        self.makes_audio = "audio" in self._session.outputs and self.providers[0] in (CPU, CUDA)
        # Whole sequences have a separate, faster graph. It is used only on the CPU; elsewhere one graph is enough. It
        # is not used in float16: the CPU computes that in float32 and rounds at different points in the two graphs.
        on_cpu = self.providers == [CPU] and self.config.precision != "float16"
        self._has_whole = self._session.has_branches and on_cpu

    def spectra(self, spans: list[Span], *, alone: bool = False) -> list[Spectrum]:
        """The spectra of spans, computed in one call of the network; ``alone`` as ``spectrum`` takes it."""
        features, lengths = stacked(spans)
        bandwidth_id = spans[0].frames.bandwidth_id
        rows = list(itertools.accumulate((span.batch for span in spans), initial=0))
        each = [(span, slice(start, stop)) for span, start, stop in zip(spans, rows[:-1], rows[1:], strict=True)]
        if self.makes_audio and all(span.is_whole for span in spans):
            audio = self.audio(features, bandwidth_id, lengths, alone=alone)
            if np.isfinite(audio).all():  # else the spectrum shows why
                return [Spectrum(span, None, audio[of, : self.config.samples(span.frames.length)]) for span, of in each]
        spectrum = self.spectrum(features, bandwidth_id, lengths, alone=alone)
        return [Spectrum(span, spectrum[of, span.start - span.first : span.stop - span.first]) for span, of in each]

    def spectrum(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None, *, alone: bool = False
    ) -> npt.NDArray[Any]:
        """Features (B, C, T) -> spectrum (B, T, n_fft/2 + 1) complex64; from an IMDCT head (B, T, n_fft/2) float32,
        and from a WaveNextHead the samples of each frame, (B, T, n_fft) float32.

        Args:
            features: whole sequences.
            bandwidth_id: of all of them.
            lengths: frames of each item; beyond that, its features are zeros and its spectrum is meaningless.
            alone: whether everything is computed on the calling thread, not on ``threads``; not with ``lengths``.
        """
        batch, channels, frames = features.shape
        rows, size = self._rows or batch, self.size or frames
        if (rows, size) == (batch, frames):
            shapes = {"spectrum": self._spectrum_shape(features)}
            return self._as_complex(self._whole(shapes, features, bandwidth_id, lengths, alone))
        parts = []
        for row in range(0, batch, rows):
            part = features[row : row + rows]
            filled = np.zeros((rows, channels, size), np.float32)
            filled[: len(part), :, :frames] = part
            parts.append(self.spectrum(filled, bandwidth_id, alone=alone)[: len(part), :frames])
        return np.concatenate(parts)

    def audio(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None, *, alone: bool = False
    ) -> Float:
        """Features (B, C, T) -> audio (B, samples), if ``makes_audio``; not clipped, and perhaps not finite.

        The arguments are those of ``spectrum``. The audio of an item ends with its last frame; zeros follow.
        """
        batch, _, frames = features.shape
        shapes = {"audio": (batch, self.config.samples(frames))}
        return self._whole(shapes, features, bandwidth_id, lengths, alone)

    def inputs(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None, past: int = REACH
    ) -> dict[str, npt.NDArray[Any]]:
        """The inputs of the graph for the spectrum of whole sequences, see ``spectrum``.

        ``past``: frames of zeros before them, REACH for the graph with a state, 0 for that of whole sequences.
        """
        batch, _, frames = features.shape
        mask = np.ones((self._layers, batch, frames), np.float32)
        if lengths is not None:
            mask *= np.arange(frames) < np.asarray(lengths)[:, None]
        return self._inputs(features, bandwidth_id, self._zeros(batch, past), mask)

    def start(self, batch: int) -> State:
        """The state of sequences before their first frame."""
        if self.has_state:
            return self._zeros(batch, 2 * REACH)
        return {"past_features": np.zeros((batch, self.config.feature_channels, self._kept), np.float32)}

    @property
    def _kept(self) -> int:
        """Frames of features that are kept if the graph has no state.

        A window needs twice the reach, or as many frames as the graph takes; in the latter case up to ``reach`` more,
        because frames past the end of the sequence arrive while its last frames are computed some at a time.
        """
        return 2 * self.reach if self.size is None else self.size + self.reach

    def step(
        self,
        features: Float,
        bandwidth_id: int | None,
        state: State,
        first: Sequence[int],
        end: Sequence[int | None],
        *,
        alone: bool = False,
    ) -> tuple[npt.NDArray[Any], State]:
        """Continues sequences: features (B, C, T) are frames first[b] ... first[b] + T - 1 of sequence b.

        ``end``: how many frames a sequence has; features beyond that are zeros. None if it is not known yet.

        Returns the spectrum, in the form of ``spectrum``, of the T frames from first[b] - reach on, and the new state.
        The spectrum of frames before the start and after the end of a sequence is meaningless. On a CUDA device, the
        state of a single sequence stays on the device; that of several consists of arrays, which ``split`` takes.

        ``alone``: whether everything is computed on the calling thread, not on ``threads``.
        """
        if not self.has_state:
            return self._step_in_windows(features, bandwidth_id, state, first, end, alone)
        batch, _, frames = features.shape
        # Each convolution lags by REACH frames: when frame t goes in, the input of block l is that of frame
        # t - REACH · (l + 1). Outside the sequence, frames 0 ... end - 1, that input is zero.
        late = REACH * np.arange(1, self._layers + 1)[:, None, None]
        time = np.asarray(first)[:, None] + np.arange(frames) - late  # (layers, B, T)
        stop = np.array([_FAR if frame is None else frame for frame in end])[:, None]
        mask = ((time >= 0) & (time < stop)).astype(np.float32)
        shapes = {"spectrum": self._spectrum_shape(features)}
        shapes |= {f"next_{name}": shape for name, shape in self._state_shapes(batch, 2 * REACH).items()}
        inputs = self._inputs(features, bandwidth_id, state, mask)
        spectrum, *new = self._session.run(shapes, inputs, alone=alone, keep=batch == 1)
        return self._as_complex(spectrum), dict(zip(state, new, strict=True))

    def _step_in_windows(
        self,
        features: Float,
        bandwidth_id: int | None,
        state: State,
        first: Sequence[int],
        end: Sequence[int | None],
        alone: bool,
    ) -> tuple[npt.NDArray[Any], State]:
        """``step`` for a network without a state."""
        batch, _, frames = features.shape
        bins = _bins(self.config)[0]
        dtype = np.complex64 if self.config.head == "istft" else np.float32
        spectrum = np.zeros((batch, frames, bins), dtype)  # meaningless for frames outside the sequence
        seen = np.concatenate([state["past_features"], features], axis=2)
        # Sequences with equally many known frames go through the network together. From here on, frame 0 is the first
        # of ``features``; frames -before to after - 1 are known.
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (at, stop) in enumerate(zip(first, end, strict=True)):
            before = min(at, self._kept)
            after = frames if stop is None else min(frames, stop - at)
            groups.setdefault((before, after), []).append(row)
        for (before, after), rows in groups.items():
            start, stop = max(-before, -self.reach), min(frames - self.reach, after)
            for span in windows(start, stop, -before, after, self.reach, self.size):
                given = seen[rows, :, self._kept + span.first : self._kept + span.last]
                found = self.spectrum(np.ascontiguousarray(given), bandwidth_id, alone=alone)
                wanted = found[:, span.start - span.first : span.stop - span.first]
                spectrum[rows, span.start + self.reach : span.stop + self.reach] = wanted
        return spectrum, {"past_features": seen[:, :, frames:].copy()}

    def missing(self, frames: int) -> int:
        """Frames of zeros to append to a sequence that is too short for the graph; warns once per process."""
        if self.size is None or frames >= self.size:
            return 0
        warn_once(
            "fixed length",
            f"this model takes {self.size} frames at once: {frames} frames are filled up with zeros, so that the audio "
            f"of the last {min(frames, self.reach or frames)} of them is not that of a model that takes any length; "
            f"{self.size} frames or more are exact",
        )
        return self.size - frames

    def _whole(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        features: Float,
        bandwidth_id: int | None,
        lengths: Sequence[int] | None,
        alone: bool,
    ) -> npt.NDArray[Any]:
        # Without ``lengths``, both graphs compute the same bits; if a stream has opened the stateful one, that is used.
        is_whole = self._has_whole and lengths is None and (alone or not self._session.is_open(STEP))
        graph, past = (WHOLE, 0) if is_whole else (STEP, REACH)
        inputs = self.inputs(features, bandwidth_id, lengths, past)
        output: npt.NDArray[Any]
        (output,) = self._session.run(shapes, inputs, graph=graph, alone=alone)
        return output

    def placement(self) -> dict[str, list[str]]:
        """``Session.placement`` for a network that was opened with a ``profile``."""
        return self._session.placement()

    def _zeros(self, batch: int, past: int) -> State:
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
        # The graph's output is (B, T, F, 2), with real and imaginary part side by side: viewing it as complex64 takes
        # no copy. exp, cos and sin are in the graph, where they run on the session's threads and device.
        return spectrum.view(np.complex64)[..., 0] if self.config.head == "istft" else spectrum


def joined(states: Sequence[State]) -> State:
    """Joins the states of several sequences."""
    if len(states) == 1:
        return states[0]
    arrays = [
        {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in state.items()}
        for state in states
    ]
    return {name: np.concatenate([state[name] for state in arrays], _BATCH_AXES[name]) for name in arrays[0]}


def split(state: State, batch: int) -> list[State]:
    """Splits a state into one per sequence. They are copies, so that none keeps the others in memory."""
    if batch == 1:
        return [state]
    return [{name: array.take([b], _BATCH_AXES[name]) for name, array in state.items()} for b in range(batch)]


def _bins(config: ModelConfig) -> tuple[int, ...]:
    """The last axes of a spectrum, as the graph returns it."""
    if config.head == "istft":
        return (config.n_fft // 2 + 1, 2)
    return (config.n_fft,) if config.head == "wavenext" else (config.n_fft // 2,)


def _reach(layers: int) -> int:
    """How many frames a network with a state sees to either side: each of its convolutions adds REACH."""
    return REACH * (layers + 1)


def _fixed_sizes(found: Shapes) -> tuple[int | None, int | None]:
    """How many sequences and frames the graph takes, None for any number."""
    batch, _, frames = shape_of(found, "features", 3) or (None, None, None)
    return batch if isinstance(batch, int) else None, frames if isinstance(frames, int) else None


def _sizes(found: Shapes) -> tuple[int, int]:
    """How many convolutions have a state, and how many channels it has; (0, 0) if none has one."""
    past = shape_of(found, "past", 4)
    if past is None:
        return 0, 0
    return read_size("layers", past[0], MAX_LAYERS), read_size("dim", past[3], MAX_CHANNELS)


def _expected_graph(config: ModelConfig, inputs: Shapes, outputs: Shapes) -> tuple[Shapes, Shapes]:
    """Returns the inputs and outputs that a model's graph must have, given those that it has.

    The metadata specifies neither the sizes of the state nor whether the inverse transform is in the graph, so both
    are read from the graph.
    """
    channels = config.feature_channels
    layers, dim = _sizes(inputs)
    rows, size = (None, None) if layers else _fixed_sizes(inputs)
    batch, frames = rows or "batch", size or "frames"
    if size is not None and size <= 2 * config.reach:
        raise ValueError(
            f"the graph takes {size} frames, and sees {config.reach} to either side of each: expected "
            f"{2 * config.reach + 1} frames or more"
        )
    expected_inputs: dict[str, Shape] = {"features": (batch, channels, frames)}
    expected_outputs: dict[str, Shape] = {"spectrum": (batch, frames, *_bins(config))}
    if layers:
        if config.reach not in (0, _reach(layers)):
            raise ValueError(f"the metadata contradicts the graph: reach is {config.reach}, expected {_reach(layers)}")
        expected_inputs["past_features"] = ("batch", channels, "past")
        expected_outputs["next_past_features"] = ("batch", channels, 2 * REACH)
        expected_inputs["past"] = (layers, "batch", "past", dim)
        expected_outputs["next_past"] = (layers, "batch", 2 * REACH, dim)
        expected_inputs["mask"] = (layers, "batch", "frames")
    if "audio" in outputs:
        expected_outputs["audio"] = ("batch", "samples")
    if config.num_bandwidth_ids:
        expected_inputs["bandwidth_id"] = ()
    return expected_inputs, expected_outputs


def placement(path: str | os.PathLike[str], providers: Sequence[Provider] | None) -> dict[str, list[str]]:
    """Computes a few frames; returns the operators that ran on each provider, one for each node of each graph."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network(path, providers, profile=Path(folder) / "profile")
        frames = np.zeros((1, network.config.feature_channels, 32), np.float32)
        for alone in (False, True) if network.threads else (False,):  # the graphs used on that provider
            network.spectrum(frames, 0 if network.config.num_bandwidth_ids else None, alone=alone)
        return network.placement()
