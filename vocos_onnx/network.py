"""Spans -> spectra: the network, as a whole or step by step."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .dsp.stft import samples_of
from .limits import MAX_CHANNELS, MAX_LAYERS, read_size
from .model.config import ModelConfig
from .model.providers import CPU, CUDA, Provider
from .model.session import Session, Shapes, open_model, shape_of
from .model.shapes import Shape
from .spans import Span, Spectrum, stacked

State = dict[str, Any]  # arrays, or values of onnxruntime that stay on a GPU
_BATCH_AXES = {"past_features": 0, "past": 1}  # of the arrays of a state

TAPS = 7  # of each convolution
REACH = TAPS // 2  # frames that one convolution sees to either side
_FAR = np.iinfo(np.int64).max  # the end of a sequence whose end is not known


class Network:
    """The network of one model file, in an onnxruntime session.

    config: read from the file. codebooks: (num_codebooks, codebook_size, C) of a codec's model, else None. providers:
    what the session runs on. reach: frames that the network sees to either side; 0 if that is not known. is_streamable:
    whether it has a state, so that sequences can be cut and streamed.

    Each convolution has 7 taps. Of T frames it is given ``past`` frames before them, and adds 6 - past zeros behind
    them: with past = 3, and zeros, it is the ordinary network, padded with zeros on both sides; with past = 6, the
    state, it goes on from there and is 3 frames late (docs/format.md).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        profile: Path | None = None,
    ):
        self._path, self._given_providers = path, providers
        self._opening = threading.Lock()
        self._narrow: Session[ModelConfig] | None = None  # opened when calls first run side by side
        self._session = open_model(path, ModelConfig, _expected_graph, providers, threads, profile)
        self.config = self._session.config
        self.codebooks = self._session.codebooks
        self.providers = self._session.providers
        self._layers, self._dim = _sizes(self._session.inputs)
        self.is_streamable = self._layers > 0
        self.reach = REACH * (self._layers + 1) if self.is_streamable else 0
        # The inverse transform in the graph is meant for CUDA, and tested on the CPU too. Elsewhere the spectrum is
        # fetched: with OpenVINO, onnxruntime 1.24 computes the audio of some files of format 4 wrongly, those with an
        # If whose condition is a constant.
        self.makes_audio = "audio" in self._session.outputs and self.providers[0] in (CPU, CUDA)

    @property
    def side_by_side(self) -> int:
        """How many calls should run at the same time where there is work for several: one for each thread of a CPU."""
        return self._session.threads if self.providers[0] == CPU else 1

    def _one_thread(self) -> Session[ModelConfig]:
        """For calls that run at the same time: of threads within an operator, each would wait for the others'."""
        with self._opening:
            if self._narrow is None:
                self._narrow = open_model(self._path, ModelConfig, _expected_graph, self._given_providers, 1)
            return self._narrow

    def spectra(self, batches: Iterable[list[Span]]) -> Iterator[Spectrum]:
        """The spectra of spans, those of a list in one call."""
        for spans in batches:
            yield from self._of_batch(spans)

    def _of_batch(self, spans: list[Span]) -> Iterator[Spectrum]:
        features, lengths = stacked(spans)
        bandwidth_id = spans[0].frames.bandwidth_id
        audio = None
        if self.makes_audio and all(span.is_whole for span in spans):
            audio = self.audio(features, bandwidth_id, lengths)
            if not np.isfinite(audio).all():  # the spectrum says why
                audio = None
        spectrum = None if audio is not None else self.spectrum(features, bandwidth_id, lengths)
        row = 0
        for span in spans:
            rows = slice(row, row := row + span.frames.batch)
            if audio is not None:
                yield Spectrum(span, None, audio[rows, : self._samples(span.frames.length)])
            else:
                assert spectrum is not None
                yield Spectrum(span, spectrum[rows, span.start - span.first : span.stop - span.first])

    def spectrum(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None
    ) -> npt.NDArray[Any]:
        """Features (B, C, T) -> spectrum (B, T, n_fft/2 + 1) complex64; from an IMDCT head (B, T, n_fft/2) float32.

        ``lengths``: frames of each item; its features from there on are zeros, and its spectrum has no meaning.
        """
        shapes = {"spectrum": self._spectrum_shape(features)}
        (spectrum,) = self._session.run(shapes, self.inputs(features, bandwidth_id, lengths))
        return self._as_complex(spectrum)

    def audio(self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None) -> Float:
        """Features (B, C, T) -> audio (B, samples), if ``makes_audio``; not clipped, and perhaps not finite.

        ``lengths``: as ``spectrum`` takes them; the audio of an item ends with its last frame, and zeros are after it.
        """
        batch, _, frames = features.shape
        shapes = {"audio": (batch, self._samples(frames))}
        audio: Float
        (audio,) = self._session.run(shapes, self.inputs(features, bandwidth_id, lengths))
        return audio

    def inputs(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """The inputs of the graph that give the spectrum of whole sequences, see ``spectrum``."""
        batch, _, frames = features.shape
        mask = np.ones((self._layers, batch, frames), np.float32)
        if lengths is not None:
            mask *= np.arange(frames) < np.asarray(lengths)[:, None]
        return self._inputs(features, bandwidth_id, self._zeros(batch, REACH), mask)

    def start(self, batch: int) -> State:
        """The state of sequences before their first frame."""
        return self._zeros(batch, 2 * REACH)

    def step(
        self,
        features: Float,
        bandwidth_id: int | None,
        state: State,
        first: Sequence[int],
        end: Sequence[int | None],
        *,
        beside: bool = False,
    ) -> tuple[npt.NDArray[Any], State]:
        """Go on with sequences: features (B, C, T) are frames first[b] ... first[b] + T - 1 of sequence b.

        ``end``: how many frames a sequence has; the features from there on are zeros. None if that is not known yet.

        Returns the spectrum, as ``spectrum`` does, of the T frames from first[b] - reach on, and the new state. The
        spectrum of frames before the first and from the end on has no meaning. On a CUDA device, the state of a single
        sequence stays there; that of several is arrays, which ``split`` takes.

        ``beside``: whether other calls run at the same time, up to ``side_by_side`` of them, each on one thread.
        """
        batch, _, frames = features.shape
        # Each convolution is REACH frames late: when frame t goes in, the input of block l is that of frame
        # t - REACH · (l + 1). Outside of the sequence, frames 0 ... end - 1, that input is zero.
        late = REACH * np.arange(1, self._layers + 1)[:, None, None]
        time = np.asarray(first)[:, None] + np.arange(frames) - late  # (layers, B, T)
        stop = np.array([_FAR if frame is None else frame for frame in end])[:, None]
        mask = ((time >= 0) & (time < stop)).astype(np.float32)
        shapes = {"spectrum": self._spectrum_shape(features)}
        shapes |= {f"next_{name}": shape for name, shape in self._state_shapes(batch, 2 * REACH).items()}
        inputs = self._inputs(features, bandwidth_id, state, mask)
        session = self._one_thread() if beside and self.side_by_side > 1 else self._session
        spectrum, *new = session.run(shapes, inputs, keep=batch == 1)
        return self._as_complex(spectrum), dict(zip(state, new, strict=True))

    def placement(self) -> dict[str, list[str]]:
        """As ``Session.placement``, of a network that was opened with a ``profile``."""
        return self._session.placement()

    def _samples(self, frames: int) -> int:
        config = self.config
        return samples_of(frames, config.n_fft, config.hop_length, config.padding)

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
        # The graph ends with (B, T, F, 2), real and imaginary part side by side, which is complex64 without a copy.
        # exp, cos and sin are in the graph, where they share the session's threads and its device.
        return spectrum.view(np.complex64)[..., 0] if self.config.head == "istft" else spectrum


def joined(states: Sequence[State]) -> State:
    """The state of several sequences, given that of each."""
    if len(states) == 1:
        return states[0]
    arrays = [
        {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in state.items()}
        for state in states
    ]
    return {name: np.concatenate([state[name] for state in arrays], axis) for name, axis in _BATCH_AXES.items()}


def split(state: State, batch: int) -> list[State]:
    """The state of each of so many sequences, copied: none keeps those of the others in memory."""
    if batch == 1:
        return [state]
    return [{name: state[name].take([b], axis) for name, axis in _BATCH_AXES.items()} for b in range(batch)]


def _bins(config: ModelConfig) -> tuple[int, ...]:
    """The last axes of a spectrum, as the graph has them."""
    return (config.n_fft // 2 + 1, 2) if config.head == "istft" else (config.n_fft // 2,)


def _sizes(found: Shapes) -> tuple[int, int]:
    """How many convolutions have a state, and of how many channels; (0, 0) if none has."""
    past = shape_of(found, "past", 4)
    if past is None:
        return 0, 0
    return read_size("layers", past[0], MAX_LAYERS), read_size("dim", past[3], MAX_CHANNELS)


def _expected_graph(config: ModelConfig, inputs: Shapes, outputs: Shapes) -> tuple[Shapes, Shapes]:
    """Returns the inputs and outputs that the graph of a model must have, given those that it has.

    The metadata says neither the sizes of the state nor whether the inverse transform is in the graph: both are taken
    from the graph.
    """
    channels = config.feature_channels
    expected_inputs: dict[str, Shape] = {"features": ("batch", channels, "frames")}
    expected_outputs: dict[str, Shape] = {"spectrum": ("batch", "frames", *_bins(config))}
    layers, dim = _sizes(inputs)
    if layers:
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
    """The operators that ran on each provider, one entry for each node, when a few frames were computed."""
    with tempfile.TemporaryDirectory() as folder:
        network = Network(path, providers, profile=Path(folder) / "profile")
        frames = np.zeros((1, network.config.feature_channels, 32), np.float32)
        network.spectrum(frames, 0 if network.config.num_bandwidth_ids else None)
        return network.placement()
