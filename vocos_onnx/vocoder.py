"""Decoding: tokens or features -> frames -> spans -> spectra -> audio; a recording is analysed first."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .analysis import Choice, EncoderOrPath, analysis_of
from .arrays import Array, EncodecFrames, Float, Progress, as_array, check_awaited
from .background import each, in_background
from .dsp.mel import CHUNK
from .frames import Given, Layout, reader_of
from .inverse import Inverse, Sum
from .io.samples import check_audio
from .io.tokens import Tokens
from .mels import MelsFrom
from .messages import shown
from .model.bundled import CODEC
from .model.config import METADATA_KEY, ModelConfig
from .model.foreign import Settings
from .model.origin import Wanted, reopened
from .model.providers import CUDA, Provider
from .network import Network
from .pretrained import opened
from .spans import WAITING, Plan, Span
from .stream_pool import StreamPool
from .streams import Stream, Streams
from .workers import in_order

Ragged = Sequence[Array]
Nested = Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]
Lengths = Array | Sequence[int]


class VocosONNX:
    """A Vocos model on onnxruntime. One object may be used from many threads at once.

    Args:
        model: path of an .onnx file of vocos-onnx; the name of a bundled one, "vocos-codec-24khz" (the default) or
            "vocos-mel-24khz-small"; the id of a repository on the Hugging Face hub, such as
            "charactr/vocos-encodec-24khz"; or a folder or file of a checkpoint. Checkpoints are converted to float32
            once and kept (docs/guides/official-models.md); ``from_pretrained`` has more options.
        providers: execution providers: "cuda", "cpu", names or (name, options) pairs as onnxruntime takes them. A
            provider that is asked for is used, or an error is raised. By default CUDA if it works, else the CPU; the
            logger "vocos_onnx" reports it at INFO, and ``providers`` of the object returns it.
        threads: threads of one call on the CPU; by default the CPUs that the process may use (affinity, cgroup quota).
        encoder: what makes tokens of audio when the object is called: an EncodecONNX, or what that takes as its model,
            such as "facebook/encodec_24khz". The bundled codec has its own, which is loaded when it is needed.
        sample_rate, n_fft, hop_length, padding: of an .onnx file of another exporter, in Hz and samples, where neither
            its metadata nor a config.yaml or config.json beside it says them. ``padding`` is "same" or "center", as the
            model was trained; it may be given although the file says it, since files for sherpa-onnx always say
            "center".

    A Vocos that another program has exported (mag, x and y, or audio, of mels) is opened, too; docs/guides/family.md
    has what is known to work. Its graph keeps no state, so that streams and long input go through it in windows: with
    the frames on both sides that it sees.

    On the CPU, onnxruntime opens the network at the first decode, which takes some 50 ms more: one graph for short
    input and streams, and another, with the same weights, for what is computed side by side.

    A pickle, and so a copy or what multiprocessing sends, names the model's file by its absolute path (a bundled one by
    its name) and its sha256, and opens it again with the same options: it must be there, and be the same. A model from
    the hub is named by its id, commit and precision, and is downloaded where it is not in the cache.

    Raises:
        FileNotFoundError: there is no such file; unpickled, there is none at the path that the pickle names; of an id,
            as ``from_pretrained``.
        ValueError: ``model`` is not a path; the file is no model, or its metadata is incomplete or contradictory; of
            another exporter's file, settings that are missing, out of range, or contradict the graph, or an input or
            output that no Vocos has; settings that are given for a file of vocos-onnx; a provider that this onnxruntime
            does not have; threads below
            1; an encoder with other codebooks than the model's; a file that has changed since it was pickled, or since
            the object that is to be pickled opened it.
        RuntimeError: a provider that was asked for did not start. There is no silent fall-back.
        ImportError: neither onnxruntime nor onnxruntime-gpu is installed.

    Example:
        >>> vocos = VocosONNX()
        >>> vocos
        <VocosONNX vocos-codec-24khz: vocos_onnx_24khz, 24000 Hz, float32, CPUExecutionProvider>
        >>> audio = vocos.decode(load_tokens("speech.npz"))
        >>> save_audio("speech.wav", audio, vocos.sample_rate)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        encoder: EncoderOrPath | None = None,
        sample_rate: int | None = None,
        n_fft: int | None = None,
        hop_length: int | None = None,
        padding: str | None = None,
    ):
        wanted = Wanted.of(CODEC if model is None else model, METADATA_KEY)
        options: dict[str, Any] = {"providers": providers, "threads": threads}
        settings = Settings(sample_rate, n_fft, hop_length, padding)
        self.network, self._origin = opened(wanted, lambda file: Network(file, providers, threads, settings=settings))
        """Features to spectra, without what is before and behind it; for those who measure or verify a model."""
        wanted.check_precision(self.config.precision)
        self._options = options | settings.said
        self._reader = reader_of(self.config, self.network.codebooks)
        self._analysis = analysis_of(self.config, self.network.codebooks, encoder, options)
        together = CUDA in self.providers and self.network.has_state
        waiting = WAITING[self.config.precision]
        self._plan = Plan(self.network.reach, self.network.threads, together, waiting, self.network.size)
        self._inverse = Inverse(self.config)

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
    ) -> VocosONNX:
        """A model of a folder, or of a repository of the Hugging Face hub, which needs the extra [hub].

        If it has a ``model.onnx``, that is opened; else its checkpoint is converted, and the result is kept in the
        cache of the user (docs/guides/official-models.md): ``config.yaml`` or ``config.json`` with
        ``pytorch_model.bin`` or ``model.safetensors``.

        Args:
            repo_or_folder: a folder or a file of weights, else an id such as "charactr/vocos-encodec-24khz".
            filename: of the .onnx file in it; then no checkpoint is looked for.
            revision: branch, tag or commit on the hub; by default the commit in ``vocos-onnx models``, else the newest.
            sha256: of the .onnx file or of the checkpoint's weights; what has another is not loaded. With it, and with
                a commit, the hub is not asked for what is in the cache.
            precision: "float32", "int8" or "float16" of what is converted, by default float32. An .onnx file must have
                that precision if one is given.
            local_files_only: nothing is downloaded, as with HF_HUB_OFFLINE=1; what was downloaded before is used.
            cache_dir: of the hub's client, which downloads to a temporary file and renames it.
            options: as the class itself takes them.

        Raises:
            FileNotFoundError: no such folder, repository, revision or file; a repository that is private or gated; or
                it is not in the cache, and there is no network.
            ValueError: another sha256 or precision than was asked for; a checkpoint that is damaged or cannot be
                converted; a revision of a local folder; as the class itself does.
            OSError: the disk is full.
            ImportError: huggingface-hub is not installed.

        Example:
            >>> vocos = VocosONNX.from_pretrained("charactr/vocos-encodec-24khz", precision="int8")
        """
        wanted = Wanted(
            repo_or_folder, METADATA_KEY, filename, revision, sha256, precision, local_files_only, cache_dir
        )
        return cls(wanted, **options)

    def __repr__(self) -> str:
        return (
            f"<VocosONNX {self._origin.name}: {self._reader.decodes}, {self.sample_rate} Hz, {self.config.precision}, "
            f"{', '.join(self.providers)}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._origin.pinned(), "options": self._options, "encoder": self._analysis.encoder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = reopened(state["model"], "VocosONNX")
        VocosONNX.__init__(self, model, encoder=state["encoder"], **state["options"])

    def __call__(
        self,
        audio: npt.ArrayLike,
        sample_rate: int,
        *,
        bandwidth: float | None = None,
        bandwidth_id: Any = None,
        encoder: EncoderOrPath | None = None,
        progress: Progress | None = None,
    ) -> Float:
        """Copy-synthesis: audio through tokens (encodec models) or mels (mel models), and back.

        Args:
            audio: (N,), or (B, N) for a batch, as ``EncodecONNX.encode`` takes it.
            sample_rate: of the audio, in Hz. Where it is not the model's, the audio is resampled.
            bandwidth: kbps, one of ``bandwidths``; for encodec models, by default 6.
            bandwidth_id: the same by its index in ``bandwidths``, as upstream Vocos takes it.
            encoder: in place of the object's, for this call.
            progress: called with the frames encoded (of a mel model, those whose mels are computed) and the frames in
                all, every few seconds of audio.

        Returns:
            Audio in float32 at ``sample_rate`` of the model, (samples,) or (B, samples). As upstream's, it is a whole
            number of frames: of N samples at the model's rate, T·hop_length with T = ceil(N / hop_length) from tokens;
            from mels with ``same`` padding T = N // hop_length, with ``center`` (N // hop_length)·hop_length samples.

        Raises:
            ValueError: audio or a sample rate as ``EncodecONNX.encode`` refuses them; a bandwidth that the model or the
                encoder does not have, both bandwidth and bandwidth_id, or either for a model without; an encoder that
                is missing, or whose codebooks are not those of the model.
        """
        check_audio(audio, sample_rate)
        choice = Choice(bandwidth, bandwidth_id, encoder)
        given, index = self._analysis.analyse(audio, sample_rate, choice, progress)
        decoded = self._decode(self._reader.read(given, index, "kbt", check=False))
        assert not isinstance(decoded, list)
        return decoded

    async def aresynth(
        self,
        audio: npt.ArrayLike,
        sample_rate: int,
        *,
        bandwidth: float | None = None,
        bandwidth_id: Any = None,
        encoder: EncoderOrPath | None = None,
        progress: Progress | None = None,
    ) -> Float:
        """What calling the object returns, for asyncio: computed on a thread while the event loop goes on.

        ``progress`` is called in that thread. Raises as the call does; about cancelling see ``adecode``.

        Example:
            >>> copy = await vocos.aresynth(recording, sample_rate, bandwidth=6.0)
        """
        options: dict[str, Any] = {"bandwidth": bandwidth, "bandwidth_id": bandwidth_id, "encoder": encoder}
        return await in_background(partial(self, audio, sample_rate, progress=progress, **options))

    def resynth_stream(
        self,
        blocks: Iterable[npt.ArrayLike],
        sample_rate: int,
        *,
        bandwidth: float | None = None,
        bandwidth_id: Any = None,
        encoder: EncoderOrPath | None = None,
        lookahead: int | None = None,
        chunk: int | None = None,
    ) -> Iterator[Float]:
        """Copy-synthesis while the audio comes in: joined, what calling the object returns for the joined blocks.

        Args:
            blocks: (n,) each, of one recording; ``load_blocks`` reads a file so.
            sample_rate, bandwidth, bandwidth_id, encoder: as when the object is called.
            lookahead: as ``stream`` takes it.
            chunk: frames that go through the networks at once, by default some seconds; as ``encode_stream`` takes it.

        Returns:
            An iterator of the audio (n,) as it becomes complete; of no samples, it is empty. Memory does not grow with
            the length, unless the model cannot be streamed (see ``stream``): then all audio is emitted at the end.

        Raises:
            ValueError: as when the object is called; as ``stream`` and ``encode_stream``.
        """
        choice = Choice(bandwidth, bandwidth_id, encoder)
        chunks, index = self._analysis.stream(blocks, sample_rate, choice, chunk)
        if self.network.is_streamable:
            streams = self._streams()
            stream = streams.make(streams.alone(), index, None, lookahead, check=False)
            return _stream_through(chunks, stream)
        return self._decode_at_the_end(chunks, index)

    def _decode_at_the_end(self, chunks: Iterator[npt.NDArray[Any]], bandwidth_id: int | None) -> Iterator[Float]:
        if whole := list(chunks):
            given = self._reader.read(np.concatenate(whole, axis=1), bandwidth_id, "kbt", check=False)
            decoded = self._decode(given)
            assert not isinstance(decoded, list)
            yield decoded

    def features(self, audio: npt.ArrayLike, sample_rate: int) -> Float:
        """Audio (N,) or (B, N) to the log-mel features (C, T) or (B, C, T) that this mel model decodes.

        They have the settings of ``config.mel``, with which the model was trained; ``dsp.mel.log_mel`` has the formula.
        Of N samples at the model's rate, T is 1 + N // hop_length with ``center`` padding, and N // hop_length with
        ``same``. Audio of another ``sample_rate`` is resampled.

        Raises:
            ValueError: an encodec model; audio as ``EncodecONNX.encode`` refuses it, or too short to be padded by
                reflection (half of n_fft).
        """
        return self._analysis.features(audio, sample_rate)

    def features_stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, *, chunk: int = CHUNK
    ) -> Iterator[Float]:
        """Log-mels (C, t) while the audio comes in: joined, what ``features`` returns for the joined blocks (n,).

        ``chunk`` frames are computed at once. Raises as ``features``, and ValueError for blocks of another shape.
        """
        return self._analysis.features_stream(blocks, sample_rate, chunk)

    @overload
    def decode(
        self,
        tokens_or_features: Array | Nested | EncodecFrames,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: None = None,
    ) -> Float: ...

    @overload
    def decode(
        self,
        tokens_or_features: Ragged,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: None = None,
    ) -> list[Float]: ...

    @overload
    def decode(
        self,
        tokens_or_features: Array | Nested,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: Lengths,
    ) -> list[Float]: ...

    def decode(
        self,
        tokens_or_features: Array | Nested | EncodecFrames | Ragged,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: Lengths | None = None,
    ) -> Float | list[Float]:
        """Tokens or features to audio.

        A list of arrays (K, T) or (C, T) of different lengths gives a list: the audio of each as if it were alone. On
        CUDA, those of up to 1,500 frames go through the network in batches. On the CPU, the items of a list or a batch,
        and spans of long ones, are computed side by side, each on one thread. Memory beyond the input and the audio
        does not grow with the length.

        Integers are tokens, floats are features. Anything that numpy can read is accepted, and torch tensors of any
        device. bfloat16 and floats of 8 bits, of torch or ml_dtypes, become float32.

        Args:
            tokens_or_features: tokens (K, T) or (K, B, T); features (C, T) or (B, C, T). Or what ``load_tokens`` read,
                whose codec is checked then; or what encodec's ``encode`` returns of one recording, [(codes, None)].
                Mels may be (T, C) or (B, T, C) if ``mels_from`` says so.
            bandwidth_id: index into ``bandwidths`` that the network is conditioned on. Tokens imply it where K is the
                codebook count of a bandwidth (2, 4, 8, 16 codebooks are ids 0, 1, 2, 3); features never do. An id of
                another bandwidth than K is of is used, as upstream, with one line in a process in the log "vocos_onnx".
            bandwidth: kbps, one of ``bandwidths``. Of tokens with more codebooks than it has, the first are decoded, as
                by the command line and the service. For features it is the same as the id.
            layout: order of the axes of 3-D tokens. "kbt", the default, is (codebooks, batch, frames), as in upstream
                Vocos; "bkt" is (batch, codebooks, frames), as encodec and transformers return them. Nothing is guessed:
                a shape that fits both, such as (2, 8, T), is taken as the layout says, and where none is given, one
                line in a process in the log "vocos_onnx" says so. 2-D tokens are (K, T) in both.
            mels_from: the system that made the mels: "f5", "zipvoice", "matcha", "chattts" or "mlx", or a
                ``MelConvention`` for another one. Its axes, scale and logarithm are undone first, and its audio is made
                of the model's (docs/guides/mels.md). By default they are natural logarithms (C, T) or (B, C, T).
            check: what happens with mels that cannot be the model's (in decibels, of another logarithm or scale), of
                which 50 frames or more show something: None warns once in a process and looks at the first calls and
                some later ones, True looks at each and raises ValueError, False does not look.
            lengths: frames of each item of a padded batch (B, C, T), or of tokens (K, B, T): the audio is a list, of
                each item as if it were decoded alone, whatever the padding holds.

        Returns:
            Audio in float32, nominally within ±1 and not clipped, at ``sample_rate``: (samples,) from 2-D input,
            (B, samples) from 3-D input, a list of (samples,) with ``lengths``. ``same`` padding gives T·hop_length
            samples, ``center`` padding (T - 1)·hop_length, so that there one frame gives none.

        Raises:
            ValueError: tokens that are not integers from 0 to codebook_size - 1 in one of these shapes, or given to a
                mel model; features of another channel count or with NaN or infinity; an array of another type, masked
                values, or what is no array, such as a path; fewer codebooks than ``bandwidth`` has; an id out of range,
                missing where the network needs one, or given where it takes none; ``Tokens`` of another codec; an
                unknown layout; a ``mels_from`` that is unknown, of another number of bands, or given to a model of
                tokens; ``lengths`` that are not B integers from 1 to T. The message names the value, the allowed range
                and the remedy. Also, at the first call, a file that onnxruntime cannot load.
            FloatingPointError: the audio would not be finite; the message says which stage made it so.
            RuntimeError: onnxruntime failed, for example because the model file is damaged.
            MemoryError: there is not enough.
        """
        bandwidth_id, codebooks = self._reader.bandwidths.requested(bandwidth, bandwidth_id)
        how: dict[str, Any] = {"mels_from": mels_from, "check": check, "lengths": lengths, "codebooks": codebooks}
        given = self._reader.read(tokens_or_features, bandwidth_id, layout, **how)
        return self._decode(given)

    @overload
    async def adecode(
        self,
        tokens_or_features: Array | Nested | EncodecFrames,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: None = None,
    ) -> Float: ...

    @overload
    async def adecode(
        self,
        tokens_or_features: Ragged,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: None = None,
    ) -> list[Float]: ...

    @overload
    async def adecode(
        self,
        tokens_or_features: Array | Nested,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: Lengths,
    ) -> list[Float]: ...

    async def adecode(
        self,
        tokens_or_features: Array | Nested | EncodecFrames | Ragged,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: Lengths | None = None,
    ) -> Float | list[Float]:
        """``decode`` for asyncio: computed on a thread while the event loop goes on. Returns and raises as that.

        In a process, as many such calls are in progress as asyncio has threads of its own, four more than there are
        CPUs and at most 32; others wait. The arrays must not change until it returns.

        If it is cancelled, also by ``asyncio.timeout``, the task gets CancelledError at once, and the work behind it
        ends after the span that is being computed (some 20 s of audio, which take a few hundredths of a second; a model
        whose input cannot be cut computes to its end).

        Raises:
            RuntimeError: also, no event loop of asyncio is running: of trio, use ``trio.to_thread.run_sync`` and
                ``decode``.

        Example:
            >>> async with asyncio.timeout(10):
            ...     audio = await vocos.adecode(tokens)
        """
        options: dict[str, Any] = {"bandwidth": bandwidth, "layout": layout, "mels_from": mels_from}
        options |= {"check": check, "lengths": lengths}
        decoded: Float | list[Float] = await in_background(
            partial(self.decode, tokens_or_features, bandwidth_id, **options)
        )
        return decoded

    def _decode(self, given: Given) -> Float | list[Float]:
        items = given.items
        if self.network.size is not None:
            items = tuple(frames.filled_up(self.network.missing(frames.length)) for frames in items)
        work = self._plan.work(items)

        def sums(spans: list[Span]) -> list[Sum]:
            return self._inverse.sums(self.network.spectra(spans, alone=work.alone))

        each = in_order(sums, work.batches, work.threads)
        audio = self._inverse.join(itertools.chain.from_iterable(each))
        if self.network.size is not None:
            lengths = (self.config.samples(frames.length) for frames in given.items)
            audio = [one[:, :length] for one, length in zip(audio, lengths, strict=True)]
        return given.restore(audio)

    def stream(
        self,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        lookahead: int | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
    ) -> Stream:
        """Decode while tokens or features come in: ``push`` chunks of any length, and ``flush`` at the end.

        Args:
            bandwidth_id: as ``decode`` takes it; tokens may imply it, features never do.
            bandwidth: kbps, as ``decode`` takes it: the first codebooks of tokens are decoded.
            lookahead: frames that must follow a frame before its audio is emitted. By default, and at most, as many as
                the network sees ahead (``delay``, 27 frames or 360 ms for the official models), so that the audio is
                that of ``decode``. With fewer, audio is emitted earlier, is not exactly that, and costs more;
                docs/guides/streams.md lists by how much.
            mels_from, check: as ``decode`` takes them. With them chunks are (t, C) where that is the convention.

        Returns:
            A ``Stream``. Beyond the look-ahead, samples wait for the frames that overlap them; its ``delay_samples``
            counts both.

        Raises:
            ValueError: lookahead outside 0 ... ``delay``; a bandwidth_id or mels_from as ``decode`` refuses it; a model
                that cannot be streamed, since how far its network sees is not known: of a VocosResNetBackbone exported
                by 0.4.0 or older, or of another exporter's with operators that see all frames.
        """
        streams = self._streams()
        return streams.make(streams.alone(), bandwidth_id, bandwidth, lookahead, mels_from=mels_from, check=check)

    def stream_pool(self, max_streams: int = 256, max_wait: float = 0.005, *, threads: int | None = None) -> StreamPool:
        """Many streams at once, whose chunks go through the network together; see ``StreamPool``.

        Args:
            max_streams: the most streams that are open at the same time.
            max_wait: the most seconds that a chunk waits for those of other streams before the network runs. It waits
                only for streams that have lately pushed again within that time. With 0, what is pushed while the
                network runs still goes together in the next call.
            threads: on the CPU, how many calls of the network run side by side, each on one thread; by default as many
                as the model's own ``threads``. A service that opens the model with ``threads=1``, since it decodes
                several requests at once, has its streams share all cores with ``threads=os.cpu_count()``.

        Raises:
            ValueError: max_streams is not an integer from 1 to 65,536; max_wait is negative or not finite; threads is
                out of range; a model that cannot be streamed, see ``stream``.
        """
        return StreamPool(self._streams(), max_streams, max_wait, threads)

    def _streams(self) -> Streams:
        return Streams(self._reader, self.network, self._inverse)

    def decode_stream(
        self,
        chunks: Iterable[npt.ArrayLike | EncodecFrames],
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        lookahead: int | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
    ) -> Iterator[Float]:
        """The audio of chunks, as it becomes complete; see ``stream``. Raises as that and ``Stream.push``.

        With an error the iterator is at its end: nothing of what follows the chunk is emitted.
        """
        check_awaited(chunks, "chunks", "use adecode_stream, which takes one")
        _check_chunks(chunks)
        stream = self.stream(bandwidth_id, bandwidth=bandwidth, lookahead=lookahead, mels_from=mels_from, check=check)
        return _stream_through(chunks, stream)

    def adecode_stream(
        self,
        chunks: Iterable[npt.ArrayLike | EncodecFrames] | AsyncIterable[npt.ArrayLike | EncodecFrames],
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        lookahead: int | None = None,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
    ) -> AsyncIterator[Float]:
        """``decode_stream`` for asyncio: ``async for`` over the audio of chunks. Raises as that.

        ``chunks`` may be an asynchronous iterable, too. Another one, unless it is a list or tuple, is iterated on
        threads, since it may block; it takes one of the threads of ``adecode`` as long as it does.

        Example:
            >>> async for audio in vocos.adecode_stream(chunks):
            ...     await websocket.send(audio.tobytes())
        """
        if not isinstance(chunks, AsyncIterable):
            check_awaited(chunks, "chunks")
            _check_chunks(chunks)
        stream = self.stream(bandwidth_id, bandwidth=bandwidth, lookahead=lookahead, mels_from=mels_from, check=check)
        return _astream_through(chunks, stream)

    @property
    def delay(self) -> int:
        """Frames that the network sees ahead: the default and largest ``lookahead`` of a stream; 0 if it has none."""
        return self.network.reach

    def codes_to_features(self, tokens: Array | Nested, *, layout: Layout | None = None) -> Float:
        """Tokens (K, T) or (K, B, T) -> features (B, C, T) in float32: the sum of one entry from each codebook.

        The first K codebooks are used. B is 1 for 2-D tokens. Raises ValueError as ``decode`` does.
        """
        frames = self._reader.read_codes(tokens, layout)
        return frames.features(0, frames.length)

    @property
    def config(self) -> ModelConfig:
        """The description that the model file carries."""
        return self.network.config

    @property
    def sample_rate(self) -> int:
        """Samples of audio in a second."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples of audio from one frame to the next."""
        return self.config.hop_length

    @property
    def num_codebooks(self) -> int:
        """The most codebooks that tokens can have; 0 for a mel model."""
        return self._reader.num_codebooks

    @property
    def bandwidths(self) -> tuple[float, ...]:
        """Bandwidths in kbps, by bandwidth id; empty for a mel model."""
        return self._reader.bandwidths.kbps

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session runs on, in order of preference."""
        return list(self.network.providers)


def _stream_through(chunks: Iterable[npt.ArrayLike | EncodecFrames], stream: Stream) -> Iterator[Float]:
    for chunk in chunks:
        for audio in stream.push_blocks(chunk):
            if audio.size:
                yield audio
    yield stream.flush()


async def _astream_through(
    chunks: Iterable[npt.ArrayLike | EncodecFrames] | AsyncIterable[npt.ArrayLike | EncodecFrames], stream: Stream
) -> AsyncGenerator[Float, None]:
    async with aclosing(each(chunks)) as given:
        async for chunk in given:
            async with aclosing(stream.apush_blocks(chunk)) as blocks:
                async for audio in blocks:
                    if audio.size:
                        yield audio
    yield await stream.aflush()


def _check_chunks(chunks: Any) -> None:
    """Raises ValueError unless it is an iterable, and neither one array nor the path of a file."""
    if isinstance(chunks, str | bytes | os.PathLike):
        as_array(chunks, "chunks")
    if not isinstance(chunks, Tokens | np.ndarray | Iterable):
        raise ValueError(f"chunks is {shown(chunks)}, expected an iterable of chunks (K, t) or (C, t)")
    if isinstance(chunks, Tokens) or getattr(chunks, "ndim", 3) < 3:
        raise ValueError(
            f"chunks is one array of shape {np.asarray(chunks).shape}, expected an iterable of chunks (K, t) or "
            "(C, t): pass [array], or use decode"
        )
