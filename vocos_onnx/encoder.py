"""Waveform -> tokens: the encoder, in an onnxruntime session, and the residual quantiser, in numpy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .analysis import bandwidth_index, check_audio, checked_blocks, read_chunk
from .arrays import Float
from .dsp.audio_window import AudioWindow
from .dsp.quantizer import quantize
from .dsp.stft import stft
from .io.audio import read_blocks, read_waveform
from .limits import MAX_CHANNELS, MAX_LAYERS, read_size
from .model.bundled import CODEC_ENCODER
from .model.config import ENCODER_KEY, EncoderConfig
from .model.cpus import available_cpus
from .model.hub import fetch
from .model.origin import Origin, reopened
from .model.providers import Provider
from .model.session import Shapes, open_model, shape_of
from .model.shapes import Shape

DEFAULT_BANDWIDTH = 6.0  # kbps
CHUNK = 300  # frames encoded at once, 4 s at 75 frames/s: beyond the audio and its codes, memory does not grow
_FIRST = 8  # frames that are encoded first at least: EnCodec's last convolution pads its start with a reflection of 6

_STATE = {"lstm": 1, "history": 0}  # what an encoder of audio carries from call to call, and the axis of its batch


class EncodecONNX:
    """An EnCodec encoder on onnxruntime: audio to tokens. One object may be used from many threads at once.

    Args:
        model: path of a file that ``vocos-onnx export-encodec`` wrote; by default that of the bundled codec.
        providers: execution providers, as ``VocosONNX`` takes them.
        threads: threads of one call on the CPU; by default the CPUs that the process may use (affinity, cgroup quota).

    A pickle names the file, as that of a ``VocosONNX`` does. Raises as that does.

    Example:
        >>> encoder = EncodecONNX()
        >>> tokens = encoder.encode(load_audio("speech.wav", encoder.sample_rate), encoder.sample_rate)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
    ):
        path = CODEC_ENCODER if model is None else model
        self._session = open_model(path, EncoderConfig, _graph, providers, threads)
        self._origin = Origin.of(path, ENCODER_KEY)
        self._options: dict[str, Any] = {"providers": providers, "threads": threads}
        self.config: EncoderConfig = self._session.config
        """The description that the model file carries."""
        self._threads = int(threads or available_cpus())
        assert self._session.codebooks is not None
        self.codebooks = self._session.codebooks
        """The codebooks (num_codebooks, codebook_size, C) of the residual quantiser, float32."""

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | os.PathLike[str],
        filename: str = "encoder.onnx",
        *,
        revision: str | None = None,
        sha256: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> EncodecONNX:
        """An exported encoder of a folder or of the hub, as ``VocosONNX.from_pretrained`` gets a model."""
        path = fetch(repo_or_folder, filename, revision, sha256, local_files_only, cache_dir, ENCODER_KEY)
        return cls(path, **options)

    def __repr__(self) -> str:
        return (
            f"<EncodecONNX {self._origin.name}: {self.config.codec}, {self.sample_rate} Hz, float32, "
            f"{', '.join(self.providers)}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._origin.pinned(), "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        EncodecONNX.__init__(self, reopened(state["model"], "EncodecONNX"), **state["options"])

    def encode(
        self,
        audio: npt.ArrayLike,
        sample_rate: int,
        bandwidth: float = DEFAULT_BANDWIDTH,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Audio to tokens.

        Args:
            audio: (N,), or (B, N) for a batch, each row on its own: the channels of a recording too, which
                ``audio.mean(axis=0)`` would mix. Floats with full scale ±1 (values beyond are taken as they are), or
                int16 or int32.
            sample_rate: of the audio, in Hz. Where it is not the model's, the audio is resampled.
            bandwidth: kbps, one of ``bandwidths``; by default 6.
            progress: called with the frames done and the frames in all, every few seconds of audio.

        Returns:
            int64 codes of 0 ... 1023: (K, T), or (K, B, T) from a batch. K is the codebook count of the bandwidth (for
            EnCodec 24 kHz, 2, 4, 8, 16, 32 for 1.5, 3, 6, 12, 24 kbps) and T = ceil(N / hop_length), for the N samples
            at the model's rate: the last frame is completed as EnCodec does it. Silence has tokens too.

        Raises:
            ValueError: audio that is empty, of another shape or type, or holds NaN or infinity; tokens or mels in its
                place; a sample rate outside 1 to 384 kHz; a bandwidth that the model does not have.
            FloatingPointError: the network gave NaN or infinity.
        """
        check_audio(audio, sample_rate)
        count = self._codebook_count(bandwidth)
        waveform = read_waveform(audio, sample_rate, self.sample_rate)
        frames = -(-waveform.shape[1] // self.hop_length)
        codes = np.empty((count, len(waveform), frames), np.int64)
        done = 0
        for embeddings in self._embeddings(AudioWindow([waveform]), max(32, CHUNK // len(waveform))):
            stop = done + embeddings.shape[1]
            codes[:, :, done:stop] = quantize(embeddings, self.codebooks[:count])
            done = stop
            if progress is not None:
                progress(done, frames)
        return codes[:, 0] if np.ndim(audio) == 1 else codes

    def encode_stream(
        self,
        blocks: Iterable[npt.ArrayLike],
        sample_rate: int,
        bandwidth: float = DEFAULT_BANDWIDTH,
        *,
        chunk: int = CHUNK,
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Tokens while the audio comes in: in all what ``encode`` gives for the blocks in one piece.

        Args:
            blocks: (n,) each, of one recording, as ``encode`` takes it.
            sample_rate: of the audio, in Hz.
            bandwidth: kbps, one of ``bandwidths``; by default 6.
            chunk: frames that are encoded at once, by default 300; at the start at least 8. They come out when they and
                those that the encoder looks ahead (of EnCodec none) have come in; fewer at once cost more, for some
                before them are seen again.

        Returns:
            An iterator of codes (K, t).

        Raises:
            ValueError: as ``encode``; blocks of another shape; chunk below 1.
        """
        count = self._codebook_count(bandwidth)
        chunk = read_chunk(chunk)
        tape = AudioWindow(read_blocks(checked_blocks(blocks, sample_rate), sample_rate, self.sample_rate))
        return (quantize(e, self.codebooks[:count])[:, 0] for e in self._embeddings(tape, chunk))

    def embed(self, audio: npt.ArrayLike, sample_rate: int) -> Float:
        """Audio (N,) or (B, N) -> embeddings (B, C, T) before quantisation; T and what is raised as in ``encode``."""
        check_audio(audio, sample_rate)
        waveform = read_waveform(audio, sample_rate, self.sample_rate)
        return np.concatenate(list(self._embeddings(AudioWindow([waveform]))), axis=1).transpose(0, 2, 1)

    @property
    def sample_rate(self) -> int:
        """Samples in a second of the audio that the network sees."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return self.config.hop_length

    @property
    def num_codebooks(self) -> int:
        """The most codebooks that tokens can have."""
        return self.config.num_codebooks

    @property
    def bandwidths(self) -> tuple[float, ...]:
        """Bandwidths in kbps."""
        return self.config.bandwidths

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session runs on, in order of preference."""
        return list(self._session.providers)

    def _embeddings(self, waveform: AudioWindow, chunk: int = CHUNK) -> Iterator[Float]:
        """Waveform (B, N) -> embeddings (B, t, C), a stretch of frames at a time.

        Each stretch sees as many frames before and after it as its convolutions reach, so that nothing shows where they
        meet; what lies further back (the LSTM) is carried from one to the next.
        """
        config, hop = self.config, self.hop_length
        state: dict[str, Float] = {}
        start = 0
        while True:
            count = chunk if start else max(chunk, _FIRST)
            there = waveform.reach((start + count + config.right_context) * hop + config.n_fft)
            frames = -(-there // hop)  # in all, where the end has come
            stop = min(start + count, frames)
            if stop <= start:
                return
            before = min(config.left_context, start)
            after = min(config.right_context, frames - stop)
            if config.input == "audio":
                stretch = waveform.cut((start - before) * hop, (stop + after) * hop)
                state = state or self._start_state(len(stretch))
                inputs = {**self._split(stretch), "context": np.array(before, np.int64), **state}
                shapes = {"embeddings": (len(stretch), stop - start, config.channels)}
                shapes |= {f"next_{name}": array.shape for name, array in state.items()}
                embeddings, *new = self._session.run(shapes, inputs)
                state = dict(zip(state, new, strict=True))
            else:
                spectrum = self._spectrum(waveform, start - before, stop + after)
                shapes = {"embeddings": (*spectrum.shape[:2], config.channels)}
                (embeddings,) = self._session.run(shapes, {"spectrum": spectrum})
                embeddings = embeddings[:, before : before + stop - start]
            if not np.isfinite(embeddings).all():
                raise FloatingPointError(
                    f"the encoder gave NaN or infinity in frames {start} to {stop}: its weights are damaged, or the "
                    "audio is far beyond full scale"
                )
            yield embeddings
            start = stop

    def _spectrum(self, waveform: AudioWindow, start: int, stop: int) -> Float:
        """The spectrum (B, stop - start, n_fft/2 + 1, 2) of some frames, with zeros around the audio ("same")."""
        n_fft, hop = self.config.n_fft, self.hop_length
        first = start * hop - (n_fft - hop) // 2
        last = (stop - 1) * hop - (n_fft - hop) // 2 + n_fft
        stretch = waveform.cut(max(first, 0), last)
        left = max(-first, 0)
        stretch = np.pad(stretch, ((0, 0), (left, last - first - left - stretch.shape[1])))
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found behind the network
            spectrum = np.ascontiguousarray(stft(stretch, n_fft, hop), np.complex64)
        return spectrum[..., None].view(np.float32)

    def _split(self, stretch: Float) -> dict[str, npt.NDArray[Any]]:
        """A stretch (B, n) in overlapping parts (parts, B, m) for as many threads, and the frames between their starts.

        m is n less a whole number of frames, so that the last part ends with the stretch, wherever that is.
        """
        hop, reach = self.hop_length, self.config.left_context
        frames = -(-stretch.shape[1] // hop)
        parts = max(1, min(self._threads, (frames - reach - 1) // 16))  # of 16 frames or more, but for the overlap
        step = (frames - reach - 1) // parts
        size = stretch.shape[1] - (parts - 1) * step * hop
        starts = range(0, parts * step * hop, step * hop) if parts > 1 else [0]
        return {
            "audio": np.stack([stretch[:, start : start + size] for start in starts]),
            "step": np.array(step, np.int64),
        }

    def _start_state(self, batch: int) -> dict[str, Float]:
        """What an encoder of audio carries from one stretch to the next, all zeros, by the names of its inputs."""
        sizes = {
            name: [size if isinstance(size, int) else batch for size in self._session.inputs[name]] for name in _STATE
        }
        return {name: np.zeros(shape, np.float32) for name, shape in sizes.items()}

    def _codebook_count(self, bandwidth: float) -> int:
        return self.config.codebooks_per_bandwidth[bandwidth_index(bandwidth, self.bandwidths)]


def _graph(config: EncoderConfig, found: Shapes, made: Shapes) -> tuple[Shapes, Shapes]:
    """The inputs and outputs of an encoder; the shapes of its state are its own affair, and not in the metadata."""
    outputs: dict[str, Shape] = {"embeddings": ("batch", "frames", config.channels)}
    if config.input == "spectrum":
        return {"spectrum": ("batch", "frames", config.n_fft // 2 + 1, 2)}, outputs
    inputs: dict[str, Shape] = {"audio": ("parts", "batch", "samples"), "step": (), "context": ()}
    for name, shape in _state_shapes(found).items():
        inputs[name] = outputs[f"next_{name}"] = shape
    return inputs, outputs


def _state_shapes(inputs: Shapes) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, batch in _STATE.items():
        shape = shape_of(inputs, name, 3)
        if shape is None:
            raise ValueError(f"the graph has no input {name}")
        most = (2 * MAX_LAYERS, MAX_CHANNELS) if name == "lstm" else (MAX_CHANNELS, MAX_LAYERS)
        sizes = [size for axis, size in enumerate(shape) if axis != batch]
        for size, limit in zip(sizes, most, strict=True):
            read_size(name, size, limit)
        shapes[name] = (*shape[:batch], "batch", *shape[batch + 1 :])
    return shapes
