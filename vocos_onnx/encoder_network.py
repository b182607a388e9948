"""The network of an encoder: from audio, or its spectrum, to embeddings, some frames at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .arrays import Float
from .dsp.audio_window import AudioWindow
from .dsp.stft import stft
from .limits import MAX_CHANNELS, MAX_LAYERS, read_size
from .model.config import EncoderConfig
from .model.providers import Provider
from .model.session import Session, Shapes, open_model, shape_of
from .model.shapes import Shape

State = dict[str, Any]
_SHORTEST = 16  # frames of a part at least, not counting its overlap with the part before


@dataclass(frozen=True, eq=False)
class AudioSpan:
    """Frames that go through the encoder in one call.

    Frames ``start`` to ``stop`` are wanted. The audio of frames ``first`` to ``last`` goes in: the wanted ones plus as
    many on both sides as the network reaches, as far as they exist. ``samples`` (B, n) is that audio, as the network
    cuts it.
    """

    start: int
    stop: int
    first: int
    last: int
    samples: Float


class EncoderNetwork(Protocol):
    """The graph of an encoder, whatever its input.

    has_state: whether the spans of a recording must be computed one after another.
    """

    @property
    def has_state(self) -> bool: ...

    def cut(self, audio: AudioWindow, first: int, last: int) -> Float:
        """The samples (B, n) from which frames ``first`` to ``last`` are computed."""

    def start(self, batch: int) -> State:
        """The state of recordings before their first frame."""

    def run(self, span: AudioSpan, state: State, *, alone: bool = False) -> tuple[Float, State]:
        """The embeddings (B, stop - start, C) of a span, and the new state.

        ``alone``: whether everything is computed on the calling thread.
        """


class AudioNetwork:
    """A graph that takes audio: causal convolutions, and LSTM layers with a state (EnCodec's SEANet).

    Its convolutions have few channels, and onnxruntime computes those of one batch item on a single thread. So the
    audio of a span is passed as overlapping parts, stacked, as many as there are threads.
    """

    has_state = True

    def __init__(self, session: Session[EncoderConfig], threads: int):
        self._session, self._config, self.threads = session, session.config, threads

    def cut(self, audio: AudioWindow, first: int, last: int) -> Float:
        return audio.cut(first * self._config.hop_length, last * self._config.hop_length)

    def start(self, batch: int) -> State:
        state = _state_shapes(self._session.inputs)
        return {
            name: np.zeros([batch if size == "batch" else int(size or 0) for size in shape], np.float32)
            for name, shape in state.items()
        }

    def run(self, span: AudioSpan, state: State, *, alone: bool = False) -> tuple[Float, State]:
        samples, threads = span.samples, 1 if alone else self.threads
        parts, step = overlapping_parts(samples, threads, self._config.hop_length, self._config.left_context)
        inputs = {
            "audio": parts,
            "step": np.array(step, np.int64),
            "context": np.array(span.start - span.first, np.int64),
            **state,
        }
        shapes = {"embeddings": (len(samples), span.stop - span.start, self._config.channels)}
        shapes |= {f"next_{name}": array.shape for name, array in state.items()}
        embeddings, *new = self._session.run(shapes, inputs, alone=alone)
        return embeddings, dict(zip(state, new, strict=True))


def overlapping_parts(samples: Float, most: int, hop: int, left_context: int) -> tuple[Float, int]:
    """Cuts samples (B, n) into up to ``most`` overlapping parts (parts, B, m); also returns ``step``, in frames.

    ``step`` is the distance from the start of one part to that of the next. A part must see ``left_context`` frames
    before its own. With F = ceil(n / hop):
      part j begins with frame j·step, for j = 0 ... parts - 1;
      each has m = n - (parts - 1)·step·hop samples, so that the last one ends with sample n;
      so each has F - (parts - 1)·step frames, of which the next part repeats all but ``step``: the repeated ones must
      be left_context + 1 or more, since the last frame of a part may be cut off.
    Hence parts·step <= F - left_context - 1. With a single part, ``step`` is 1 and meaningless.
    """
    free = -(-samples.shape[1] // hop) - left_context - 1
    parts = max(1, min(most, free // _SHORTEST))
    step = free // parts if parts > 1 else 1
    size = samples.shape[1] - (parts - 1) * step * hop
    starts = [j * step * hop for j in range(parts)]
    return np.stack([samples[:, start : start + size] for start in starts]), step


class SpectrumNetwork:
    """A graph that takes the spectrum, with a Hann window and ``same`` padding; it has no state."""

    has_state = False

    def __init__(self, session: Session[EncoderConfig]):
        self._session, self._config = session, session.config

    def start(self, batch: int) -> State:
        return {}

    def cut(self, audio: AudioWindow, first: int, last: int) -> Float:
        """The samples of frames ``first`` to ``last``, with zeros beyond the ends of the audio."""
        n_fft, hop = self._config.n_fft, self._config.hop_length
        start = first * hop - (n_fft - hop) // 2
        stop = (last - 1) * hop - (n_fft - hop) // 2 + n_fft
        samples = audio.cut(max(start, 0), stop)
        left = max(-start, 0)
        return np.pad(samples, ((0, 0), (left, stop - start - left - samples.shape[1])))

    def run(self, span: AudioSpan, state: State, *, alone: bool = False) -> tuple[Float, State]:
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are detected after the network
            spectrum = stft(span.samples, self._config.n_fft, self._config.hop_length)
        shapes = {"embeddings": (*spectrum.shape[:2], self._config.channels)}
        inputs = {"spectrum": np.ascontiguousarray(spectrum, np.complex64)[..., None].view(np.float32)}
        (embeddings,) = self._session.run(shapes, inputs, alone=alone)
        return embeddings[:, span.start - span.first : span.stop - span.first], state


def open_encoder(
    path: str | os.PathLike[str], providers: Sequence[Provider] | None, threads: int | None
) -> tuple[Session[EncoderConfig], EncoderNetwork]:
    """Opens an encoder's file: returns the session, and the network that fits the graph's input."""
    session = open_model(path, EncoderConfig, _expected_graph, providers, threads)
    if session.config.input == "spectrum":
        return session, SpectrumNetwork(session)
    return session, AudioNetwork(session, session.threads)


def _state_shapes(inputs: Shapes) -> dict[str, Shape]:
    """Returns the shapes of the state. They are read from the graph's inputs, as the metadata does not have them."""
    shapes: dict[str, Shape] = {}
    for name, batch in (("lstm", 1), ("history", 0)):
        shape = shape_of(inputs, name, 3)
        if shape is None:
            raise ValueError(f"the graph has no input {name}")
        most = (2 * MAX_LAYERS, MAX_CHANNELS) if name == "lstm" else (MAX_CHANNELS, MAX_LAYERS)
        sizes = [size for axis, size in enumerate(shape) if axis != batch]
        for size, limit in zip(sizes, most, strict=True):
            read_size(name, size, limit)
        shapes[name] = (*shape[:batch], "batch", *shape[batch + 1 :])
    return shapes


def _expected_graph(config: EncoderConfig, inputs: Shapes, outputs: Shapes) -> tuple[Shapes, Shapes]:
    """Returns the inputs and outputs that an encoder's graph must have, given those that it has."""
    expected_inputs: dict[str, Shape] = {}
    expected_outputs: dict[str, Shape] = {"embeddings": ("batch", "frames", config.channels)}
    if config.input == "spectrum":
        expected_inputs["spectrum"] = ("batch", "frames", config.n_fft // 2 + 1, 2)
    else:
        expected_inputs["audio"] = ("parts", "batch", "samples")
        expected_inputs["step"] = expected_inputs["context"] = ()
        for name, shape in _state_shapes(inputs).items():
            expected_inputs[name] = expected_outputs[f"next_{name}"] = shape
    return expected_inputs, expected_outputs
