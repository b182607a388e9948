"""Audio -> tokens: the encoder's network and the residual quantiser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .arrays import Float, Progress
from .background import checkpoint, in_background
from .bandwidths import DEFAULT_BANDWIDTH, bandwidth_index
from .dsp.audio_window import AudioWindow
from .dsp.quantizer import quantize
from .encoder_network import AudioSpan, State, open_encoder
from .io.samples import read_blocks, read_chunk, read_waveform
from .model.bundled import CODEC_ENCODER
from .model.config import ENCODER_KEY
from .model.origin import Wanted, reopened
from .model.providers import CPU, Provider
from .pretrained import opened
from .workers import in_order

Part = TypeVar("Part")
CHUNK = 300  # frames encoded at once, 4 s at 75 frames/s, so that memory beyond the audio and its codes does not grow
_FEWEST = 32  # frames encoded at once, at least; large batches and parallel spans use fewer than CHUNK
_FIRST = 8  # frames encoded first, at least: EnCodec's last convolution pads its start with a reflection of 6


class EncodecONNX:
    """An EnCodec encoder on onnxruntime: audio to tokens. One object may be used from many threads at once.

    Args:
        model: path of an .onnx file made by vocos-onnx, by default the bundled codec's; an id on the Hugging Face hub,
            such as "facebook/encodec_24khz"; or a checkpoint: a folder as transformers saves an EnCodec, or Meta's
            ``.th`` file. Checkpoints are converted once and cached.
        providers: execution providers, as ``VocosONNX`` takes them.
        threads: threads per call on the CPU; by default the CPUs that the process may use (affinity, cgroup quota).

    A pickle stores a reference to the file, as for ``VocosONNX``. Raises as ``VocosONNX``.

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
        wanted = Wanted.of(CODEC_ENCODER if model is None else model, ENCODER_KEY)
        (self._session, self._network), self._origin = opened(
            wanted, lambda file: open_encoder(file, providers, threads)
        )
        self._options: dict[str, Any] = {"providers": providers, "threads": threads}
        self.config = self._session.config
        """The description that the model file carries."""
        assert self._session.codebooks is not None
        self.codebooks = self._session.codebooks
        """The codebooks (num_codebooks, codebook_size, C) of the residual quantiser, float32."""

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | os.PathLike[str],
        filename: str | None = None,
        *,
        revision: str | None = None,
        sha256: str | None = None,
        precision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> EncodecONNX:
        """Opens an encoder from a folder, a file or the hub, as ``VocosONNX.from_pretrained`` opens a model.

        It opens ``encoder.onnx`` if there is one, and otherwise converts either ``config.json`` and
        ``model.safetensors``, as transformers saves an EnCodec, or Meta's ``.th`` file. ``precision`` can only be
        "float32".

        Example:
            >>> encoder = EncodecONNX.from_pretrained("facebook/encodec_24khz")
        """
        wanted = Wanted(repo_or_folder, ENCODER_KEY, filename, revision, sha256, precision, local_files_only, cache_dir)
        return cls(wanted, **options)

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
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """Audio to tokens.

        Args:
            audio: (N,), or (B, N) for a batch. Each row is encoded on its own, even if the rows are the channels of one
                recording; mix those with ``audio.mean(axis=0)``. Floats with full scale ±1 (larger values are used as
                they are), or int16 or int32.
            sample_rate: of the audio, in Hz. If it is not the model's, the audio is resampled.
            bandwidth: kbps, one of ``bandwidths``; by default 6.
            progress: called every few seconds of audio with the number of frames done and the total.

        Returns:
            int64 codes from 0 to codebook_size - 1: (K, T), or (K, B, T) from a batch. K is the codebook count of the
            bandwidth (for EnCodec 24 kHz, 2, 4, 8, 16, 32 for 1.5, 3, 6, 12, 24 kbps) and T = ceil(N / hop_length) for
            N samples at the model's rate; the last frame is completed as in EnCodec. Silence has tokens too.

        Raises:
            ValueError: the audio is empty, has another shape or type, or holds NaN or infinity; tokens or mels were
                given in its place; the sample rate is outside 1 to 384 kHz; or the model does not have the bandwidth.
            FloatingPointError: the network gave NaN or infinity.
        """
        codebooks = self.codebooks[: self._codebook_count(bandwidth)]
        waveform = read_waveform(audio, sample_rate, self.sample_rate)
        frames = -(-waveform.shape[1] // self.hop_length)
        codes = np.empty((len(codebooks), len(waveform), frames), np.int64)
        done = 0
        for part in self._each(waveform, lambda embeddings: quantize(embeddings, codebooks)):
            stop = done + part.shape[2]
            codes[:, :, done:stop] = part
            done = stop
            if progress is not None:
                progress(done, frames)
        return codes[:, 0] if np.ndim(audio) == 1 else codes

    async def aencode(
        self,
        audio: npt.ArrayLike,
        sample_rate: int,
        bandwidth: float = DEFAULT_BANDWIDTH,
        *,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """``encode`` for asyncio: runs on a thread while the event loop continues. Returns and raises the same.

        ``progress`` is called on that thread. If it is cancelled, the task gets CancelledError at once, and the work
        behind it stops after some seconds of audio, see ``VocosONNX.adecode``.

        Example:
            >>> tokens = await encoder.aencode(recording, sample_rate)
        """
        return await in_background(partial(self.encode, audio, sample_rate, bandwidth, progress=progress))

    def encode_stream(
        self,
        blocks: Iterable[npt.ArrayLike],
        sample_rate: int,
        bandwidth: float = DEFAULT_BANDWIDTH,
        *,
        chunk: int = CHUNK,
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Encodes audio as it arrives; joined, the tokens are what ``encode`` returns for the joined blocks.

        Args:
            blocks: blocks (n,) of one recording, as ``encode`` takes it.
            sample_rate: of the audio, in Hz.
            bandwidth: kbps, one of ``bandwidths``; by default 6.
            chunk: frames encoded at once, by default 300; the first chunk has at least 8. Codes are emitted once their
                frames and those of the encoder's look-ahead (EnCodec has none) have arrived. Smaller chunks cost more,
                because the network sees some of the frames before each chunk again.

        Returns:
            An iterator of codes (K, t); empty if there are no samples.

        Raises:
            ValueError: as ``encode``; also for blocks of another shape, and for a chunk below 1.
        """
        count = self._codebook_count(bandwidth)
        chunk = read_chunk(chunk)
        window = AudioWindow(read_blocks(blocks, sample_rate, self.sample_rate))
        return (quantize(e, self.codebooks[:count])[:, 0] for e in self._embeddings(window, chunk))

    def embed(self, audio: npt.ArrayLike, sample_rate: int) -> Float:
        """Audio (N,) or (B, N) -> embeddings (B, C, T) before quantisation. T and errors are those of ``encode``."""
        waveform = read_waveform(audio, sample_rate, self.sample_rate)
        parts = self._each(waveform, lambda embeddings: embeddings)
        return np.concatenate(list(parts), axis=1).transpose(0, 2, 1)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that the network sees."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return self.config.hop_length

    @property
    def num_codebooks(self) -> int:
        """The largest number of codebooks that tokens can have."""
        return self.config.num_codebooks

    @property
    def bandwidths(self) -> tuple[float, ...]:
        """Bandwidths in kbps."""
        return self.config.bandwidths

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session runs on, in order of preference."""
        return list(self._session.providers)

    def _each(self, waveform: Float, function: Callable[[Float], Part]) -> Iterator[Part]:
        """Applies a function to the embeddings (B, t, C) of each span of whole recordings (B, N), in order.

        On the CPU, if the network has no state, the spans are computed in parallel, each on one thread. That is faster
        even for one second of audio, because the STFT and the quantiser would otherwise run on a single thread.
        """
        window, chunk = AudioWindow([waveform]), max(_FEWEST, CHUNK // len(waveform))
        if self._network.has_state or self.providers != [CPU]:
            return map(function, self._embeddings(window, chunk))
        frames, threads = -(-waveform.shape[1] // self.hop_length), self._session.threads
        chunk = min(chunk, max(_FEWEST, -(-frames // threads)))

        def of_span(span: AudioSpan) -> Part:
            embeddings, _ = self._network.run(span, {}, alone=True)
            return function(_checked(embeddings, span))

        return in_order(of_span, self._spans(window, chunk), threads)

    def _embeddings(self, audio: AudioWindow, chunk: int) -> Iterator[Float]:
        """Audio (B, N) -> embeddings (B, t, C), some frames at a time."""
        state: State | None = None
        for span in self._spans(audio, chunk):
            state = self._network.start(audio.batch) if state is None else state
            embeddings, state = self._network.run(span, state)
            yield _checked(embeddings, span)

    def _spans(self, audio: AudioWindow, chunk: int) -> Iterator[AudioSpan]:
        """Spans of some frames, each as soon as its audio has arrived.

        Each span includes as many frames before and after its own as the convolutions reach, so the seams between spans
        leave no trace; what lies further back (for an LSTM) is in the state.
        """
        config, hop = self.config, self.hop_length
        start = 0
        while True:
            checkpoint()
            count = chunk if start else max(chunk, _FIRST)
            there = audio.read_until((start + count + config.right_context) * hop + config.n_fft)
            frames = -(-there // hop)  # the total, once the audio has ended
            stop = min(start + count, frames)
            if stop <= start:
                return
            first, last = max(0, start - config.left_context), min(frames, stop + config.right_context)
            yield AudioSpan(start, stop, first, last, self._network.cut(audio, first, last))
            start = stop

    def _codebook_count(self, bandwidth: float) -> int:
        return self.config.codebooks_per_bandwidth[bandwidth_index(bandwidth, self.bandwidths)]


def _checked(embeddings: Float, span: AudioSpan) -> Float:
    """Returns the embeddings. Raises FloatingPointError if they are not finite."""
    if not np.isfinite(embeddings).all():
        raise FloatingPointError(
            f"the encoder gave NaN or infinity in frames {span.start} to {span.stop}: its weights are damaged, or the "
            "audio is far beyond full scale"
        )
    return embeddings
