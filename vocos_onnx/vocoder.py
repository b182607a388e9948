"""Decoding: tokens or features -> frames -> spans -> spectra -> audio. Copy-synthesis analyses a recording first."""

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
        model: path of an .onnx file made by vocos-onnx; the name of a bundled model, "vocos-codec-24khz" (the default)
            or "vocos-mel-24khz-small"; the id of a repository on the Hugging Face hub, such as
            "charactr/vocos-encodec-24khz"; or the folder or file of a checkpoint. Checkpoints are converted once and
            cached (docs/guides/official-models.md); ``from_pretrained`` has more options.
        precision: "float32" (the default), "int8" or "float16", for the conversion of a checkpoint. If it is given, an
            .onnx file must have that precision.
        providers: execution providers: "cuda", "cpu", or names or (name, options) pairs as onnxruntime takes them. A
            provider that you name is used, or an error is raised. The default is CUDA if it works, else the CPU; the
            logger "vocos_onnx" reports the choice at INFO, and the ``providers`` property returns it.
        threads: threads per call on the CPU; by default the CPUs that the process may use (affinity, cgroup quota).
        encoder: turns audio into tokens when the object is called: an EncodecONNX, or anything that EncodecONNX takes
            as its model, such as "facebook/encodec_24khz". The bundled codec has its own, loaded on first use.
        sample_rate, n_fft, hop_length, padding: settings, in Hz and samples, for an .onnx file from another exporter
            if neither its metadata nor a config.yaml or config.json beside it specifies them. ``padding`` is "same" or
            "center", as the model was trained; it may be given even if the file specifies it, because files for
            sherpa-onnx always say "center".

    Vocos models exported by other programs (mels in; mag, x and y, or audio out) can be opened, too;
    docs/guides/family.md lists what is known to work. Their graphs keep no state, so streams and long input go through
    them in windows that include the frames the network sees on both sides.

    On the CPU, onnxruntime loads the network at the first decode, which takes some 50 ms more: one graph serves short
    input and streams, and another, with the same weights, serves spans that are computed in parallel.

    A pickle, and therefore a copy or what multiprocessing sends, stores the absolute path of the model's file (for a
    bundled model, its name) and its sha256. Unpickling opens the file again with the same options; it must still be
    there, unchanged. For a model from the hub the pickle stores the id, commit and precision, and the model is
    downloaded if it is not cached.

    Raises:
        FileNotFoundError: there is no such file, or, when unpickling, none at the path in the pickle; for an id, as
            ``from_pretrained``.
        ValueError: ``model`` is not a path; the file is not a model, or its metadata is incomplete or contradictory;
            a file from another exporter has an input or output that no Vocos has, or its settings are missing, out of
            range or contradict the graph; settings are given for a file made by vocos-onnx; the precision is unknown
            or not the file's; this onnxruntime does not have the provider; threads is below 1; the encoder's codebooks
            are not the model's; the file has changed since it was pickled, or since it was opened by the object being
            pickled.
        RuntimeError: a provider that you named did not start. There is no silent fallback.
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
        precision: str | None = None,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        encoder: EncoderOrPath | None = None,
        sample_rate: int | None = None,
        n_fft: int | None = None,
        hop_length: int | None = None,
        padding: str | None = None,
    ):
        wanted = Wanted.of(CODEC if model is None else model, METADATA_KEY, precision)
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
        """Opens a model from a folder or from a repository on the Hugging Face hub, which needs the extra [hub].

        If there is a ``model.onnx``, it is opened. Otherwise the checkpoint (``config.yaml`` or ``config.json`` with
        ``pytorch_model.bin`` or ``model.safetensors``) is converted, and the result is kept in the user's cache
        (docs/guides/official-models.md).

        Args:
            repo_or_folder: a folder or weight file, else an id such as "charactr/vocos-encodec-24khz".
            filename: name of the .onnx file in it; checkpoints are then ignored.
            revision: branch, tag or commit on the hub; by default the commit in ``vocos-onnx models``, else the newest.
            sha256: of the .onnx file or of the checkpoint's weights; a file with a different one is not loaded. Given
                a sha256 or a commit, cached files are used without asking the hub.
            precision: "float32" (the default), "int8" or "float16", for the conversion. If it is given, an .onnx file
                must have that precision.
            local_files_only: download nothing, as with HF_HUB_OFFLINE=1; only earlier downloads are used.
            cache_dir: cache folder of the hub's client, which downloads to a temporary file and renames it.
            options: passed to the constructor.

        Raises:
            FileNotFoundError: no such folder, repository, revision or file; a private or gated repository; or it is
                not cached, and there is no network.
            ValueError: the sha256 or precision differs from the one given; the checkpoint is damaged or cannot be
                converted; a revision is given for a local folder; or as the constructor.
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
            sample_rate: of the audio, in Hz. If it is not the model's, the audio is resampled.
            bandwidth: kbps, one of ``bandwidths``; for encodec models, by default 6.
            bandwidth_id: the same by its index in ``bandwidths``, as upstream Vocos takes it.
            encoder: used in place of the object's for this call.
            progress: called every few seconds of audio with the number of frames encoded (for a mel model, frames
                whose mels are computed) and the total number of frames.

        Returns:
            Audio in float32 at the model's ``sample_rate``, (samples,) or (B, samples). As in upstream Vocos, it is a
            whole number of frames: N samples at the model's rate become ceil(N / hop_length)·hop_length samples from
            tokens, and (N // hop_length)·hop_length from mels.

        Raises:
            ValueError: audio or a sample rate that ``EncodecONNX.encode`` rejects; a bandwidth that the model or the
                encoder does not have, both bandwidth and bandwidth_id, or either for a model that takes none; no
                encoder, or one whose codebooks are not the model's.
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
        """Calling the object, for asyncio: runs on a thread while the event loop continues. Returns the same.

        ``progress`` is called on that thread. Raises what the call raises; for cancellation see ``adecode``.

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
        """Copy-synthesis while the audio arrives; joined, it is what calling the object on the joined blocks returns.

        Args:
            blocks: blocks (n,) of one recording; ``load_blocks`` reads them from a file.
            sample_rate, bandwidth, bandwidth_id, encoder: as when the object is called.
            lookahead: as ``stream`` takes it.
            chunk: frames that go through the networks at once, by default some seconds; as ``encode_stream`` takes it.

        Returns:
            An iterator of the audio (n,) as it becomes complete, empty if there are no samples. Memory does not grow
            with the length, unless the model cannot be streamed (see ``stream``): then all audio is emitted at the end.

        Raises:
            ValueError: as when the object is called, and as ``stream`` and ``encode_stream``.
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

        They use the settings in ``config.mel``, with which the model was trained; ``dsp.mel.log_mel`` has the formula.
        For N samples at the model's rate, T is 1 + N // hop_length with ``center`` padding, and N // hop_length with
        ``same``. Audio at another ``sample_rate`` is resampled.

        Raises:
            ValueError: the model is an encodec model; ``EncodecONNX.encode`` would reject the audio; or the audio is
                too short to be padded by reflection (half of n_fft).
        """
        return self._analysis.features(audio, sample_rate)

    def features_stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, *, chunk: int = CHUNK
    ) -> Iterator[Float]:
        """Log-mels (C, t) while the audio arrives; joined, they are what ``features`` returns for the joined blocks.

        Each block is (n,), and ``chunk`` frames are computed at once. Raises as ``features``, and ValueError for blocks
        of another shape.
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

        For a list of arrays (K, T) or (C, T), whose lengths may differ, it returns a list with the audio of each item
        as if it were decoded alone. On CUDA, items of up to 1,500 frames go through the network in batches. On the CPU,
        the items of a list or batch, and spans of long items, are computed in parallel, each on one thread. Memory
        beyond the input and the audio does not grow with the length.

        Integers are tokens, floats are features. Anything that numpy can read is accepted, as are torch tensors on any
        device. bfloat16 and 8-bit floats, of torch or ml_dtypes, are converted to float32.

        Args:
            tokens_or_features: tokens (K, T) or (K, B, T), or features (C, T) or (B, C, T); or what ``load_tokens``
                returned, whose codec is then checked; or what encodec's ``encode`` returns for one recording,
                [(codes, None)]. Mels may be (T, C) or (B, T, C) if ``mels_from`` says so.
            bandwidth_id: index into ``bandwidths`` that the network is conditioned on. Tokens imply it if K is the
                codebook count of a bandwidth (2, 4, 8, 16 codebooks are ids 0, 1, 2, 3); features never do. If the id
                and K belong to different bandwidths, the id is used, as upstream does, and the logger "vocos_onnx"
                warns once per process.
            bandwidth: kbps, one of ``bandwidths``. If the tokens have more codebooks than it does, only the first ones
                are decoded, as in the command line and the service. For features it is equivalent to the id.
            layout: order of the axes of 3-D tokens. "kbt", the default, is (codebooks, batch, frames), as in upstream
                Vocos; "bkt" is (batch, codebooks, frames), as encodec and transformers return them. Nothing is guessed:
                a shape that fits both, such as (2, 8, T), is read in the given layout; if none is given, the logger
                "vocos_onnx" warns once per process. 2-D tokens are (K, T) in both.
            mels_from: the system that made the mels: "f5", "zipvoice", "matcha", "chattts" or "mlx", or a
                ``MelConvention`` for any other. Its axes, scale and logarithm are undone before decoding, and the audio
                is finished as that system does it (docs/guides/mels.md). By default, mels are natural logarithms
                (C, T) or (B, C, T).
            check: what to do about mels that cannot be the model's (in decibels, or with another logarithm or scale).
                Only 50 or more informative frames can show that. None checks the first calls and some later ones, and
                warns once per process; True checks every call and raises ValueError; False does not check.
            lengths: frames of each item of a padded batch (B, C, T), or of tokens (K, B, T). The audio is then a list,
                with each item as if it were decoded alone, whatever the padding holds.

        Returns:
            Audio in float32, nominally within ±1 and not clipped, at ``sample_rate``: (samples,) from 2-D input,
            (B, samples) from 3-D input, a list of (samples,) with ``lengths``. ``same`` padding gives T·hop_length
            samples, ``center`` padding (T - 1)·hop_length, so a single frame gives none.

        Raises:
            ValueError: tokens that are not integers from 0 to codebook_size - 1 in one of these shapes, or that are
                given to a mel model; features with the wrong channel count, or with NaN or infinity; an array of
                another type, masked values, or something that is not an array, such as a path; fewer codebooks than
                ``bandwidth`` has; an id that is out of range, missing though the network needs one, or given though it
                takes none; ``Tokens`` of another codec; an unknown layout; a ``mels_from`` that is unknown, has another
                number of bands, or is given to a model of tokens; ``lengths`` that are not B integers from 1 to T. The
                message names the value, the allowed range and the remedy. Also, at the first call, a file that
                onnxruntime cannot load.
            FloatingPointError: the audio would not be finite; the message names the stage at fault.
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
        """``decode`` for asyncio: runs on a thread while the event loop continues. Returns and raises the same.

        A process runs at most 32 such calls concurrently, and at most four more than it has CPUs, which is as many as
        asyncio has threads of its own; further calls wait. The arrays must not change until it returns.

        If it is cancelled, including by ``asyncio.timeout``, the task gets CancelledError at once, and the work behind
        it stops after the span being computed (some 20 s of audio, which takes a few hundredths of a second; a model
        whose input cannot be cut computes to the end).

        Raises:
            RuntimeError: also if no asyncio event loop is running; under trio, use ``trio.to_thread.run_sync`` with
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
        """Decodes tokens or features as they arrive: ``push`` chunks of any length, and ``flush`` at the end.

        Args:
            bandwidth_id: as ``decode`` takes it; tokens may imply it, features never do.
            bandwidth: kbps, as ``decode`` takes it: only the first codebooks of the tokens are decoded.
            lookahead: frames that must follow a frame before its audio is emitted. The default and maximum is the
                number of frames that the network sees ahead (``delay``, 27 frames or 360 ms for the official models),
                which gives the audio of ``decode``. With fewer, audio is emitted earlier, is not exactly the same, and
                costs more; docs/guides/streams.md lists by how much.
            mels_from, check: as ``decode`` takes them. Chunks are (t, C) if that is the convention of ``mels_from``.

        Returns:
            A ``Stream``. Beyond the look-ahead, samples wait for the frames that overlap them; its ``delay_samples``
            counts both.

        Raises:
            ValueError: a lookahead outside 0 ... ``delay``; a bandwidth_id or mels_from that ``decode`` rejects; a
                model that cannot be streamed because it is not known how far its network sees, such as a
                VocosResNetBackbone exported by 0.4.0 or older, or another exporter's file with operators that see all
                frames.
        """
        streams = self._streams()
        return streams.make(streams.alone(), bandwidth_id, bandwidth, lookahead, mels_from=mels_from, check=check)

    def stream_pool(self, max_streams: int = 256, max_wait: float = 0.005, *, threads: int | None = None) -> StreamPool:
        """Many streams at once, whose chunks go through the network together; see ``StreamPool``.

        Args:
            max_streams: how many streams may be open at the same time.
            max_wait: the longest, in seconds, that a chunk waits for the chunks of other streams before the network
                runs. It waits only for streams that recently pushed again within that time. Even with 0, chunks
                pushed while the network runs share the next call.
            threads: on the CPU, how many calls of the network run in parallel, each on one thread; by default the
                model's own ``threads``. A service that opens the model with ``threads=1``, because it decodes several
                requests at once, lets its streams share all cores with ``threads=os.cpu_count()``.

        Raises:
            ValueError: max_streams is not an integer from 1 to 65,536; max_wait is negative or not finite; threads is
                out of range; or the model cannot be streamed, see ``stream``.
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
        """The audio of chunks, as it becomes complete; see ``stream``. Raises as ``stream`` and ``Stream.push``.

        An error ends the iterator: nothing after the failing chunk is emitted.
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
        """``decode_stream`` for asyncio: ``async for`` over the audio of chunks. Raises the same.

        ``chunks`` may also be an asynchronous iterable. Any other iterable except a list or tuple is iterated on
        threads, because it may block; while it does, it occupies one of the threads of ``adecode``.

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

        Uses the first K codebooks. B is 1 for 2-D tokens. Raises ValueError as ``decode`` does.
        """
        frames = self._reader.read_codes(tokens, layout)
        return frames.features(0, frames.length)

    @property
    def config(self) -> ModelConfig:
        """The description stored in the model file."""
        return self.network.config

    @property
    def sample_rate(self) -> int:
        """Samples of audio per second."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples of audio from one frame to the next."""
        return self.config.hop_length

    @property
    def num_codebooks(self) -> int:
        """The largest number of codebooks that tokens can have; 0 for a mel model."""
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
    """Raises ValueError unless it is an iterable, and neither a single array nor the path of a file."""
    if isinstance(chunks, str | bytes | os.PathLike):
        as_array(chunks, "chunks")
    if not isinstance(chunks, Tokens | np.ndarray | Iterable):
        raise ValueError(f"chunks is {shown(chunks)}, expected an iterable of chunks (K, t) or (C, t)")
    if isinstance(chunks, Tokens) or getattr(chunks, "ndim", 3) < 3:
        raise ValueError(
            f"chunks is one array of shape {np.asarray(chunks).shape}, expected an iterable of chunks (K, t) or "
            "(C, t): pass [array], or use decode"
        )
