"""The story: tokens -> features -> spectrum -> waveform; from a recording, first audio -> tokens or features."""

from __future__ import annotations

import itertools
import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, TypeGuard, overload

import numpy as np
import numpy.typing as npt

from .analysis import bandwidth_index, check_audio, checked_blocks, read_chunk
from .arrays import Array, Float, Frames, as_array, is_float, is_integer, stack_hint, to_floats, unwrapped
from .dsp.audio_window import AudioWindow
from .dsp.mel import CHUNK as MEL_CHUNK
from .dsp.mel import MelFeatures, log_mel, log_mel_blocks
from .dsp.quantizer import fingerprints, lookup
from .dsp.stft import check_finite, imdct, istft, trim_of
from .encoder import DEFAULT_BANDWIDTH, EncodecONNX
from .frames import counted, first_codebooks, read_tokens
from .io.audio import read_blocks, read_waveform
from .io.tokens import Tokens, check_codec
from .mels import MelJudge
from .messages import shown
from .model.bundled import BUNDLED_CODEC, CODEC, MEL
from .model.config import METADATA_KEY, ModelConfig
from .model.hub import fetch
from .model.origin import Origin, reopened
from .model.providers import Provider
from .network import Backbone
from .once import first
from .streams import BLOCK, Decoder, Stream, decode_in_blocks

Encoder = EncodecONNX | str | os.PathLike[str]
Layout = Literal["kbt", "bkt"]


_log = logging.getLogger("vocos_onnx")
Ragged = Sequence[Array]
Nested = Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]
Read = tuple[Callable[[int, int], Float], tuple[int, int], int | None]


class VocosONNX:
    """A Vocos model on onnxruntime. One object may be used from many threads at once.

    Args:
        model: path of a file that ``vocos-onnx export`` wrote, or the name of a bundled one: "vocos-codec-24khz" (the
            default) or "vocos-mel-24khz-small". A checkpoint, or its id on the Hugging Face hub, is converted first:
            ``vocos-onnx export charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx``.
        providers: execution providers: "cuda", "cpu", names or (name, options) pairs as onnxruntime takes them. What is
            asked for is used, or there is an error. By default CUDA where it works, else the CPU, which the logger
            "vocos_onnx" says at INFO; ``providers`` of the object says it too.
        threads: threads of one call on the CPU; by default the CPUs that the process may use (affinity, cgroup quota).
        encoder: what makes tokens of audio when the object is called: an EncodecONNX, or the path of a file that
            ``vocos-onnx export-encodec`` wrote. The bundled codec has its own, which is loaded when it is needed.

    A pickle, and so a copy or what multiprocessing sends, names the model's file by its absolute path (a bundled one by
    its name) and its sha256, and opens it again with the same options: it must be there, and be the same.

    Raises:
        FileNotFoundError: there is no such file; unpickled, there is none at the path that the pickle names.
        ValueError: ``model`` is not a path; the file is not a vocos-onnx model (a checkpoint, another exporter's), or
            its metadata is incomplete or contradictory; a provider that this onnxruntime does not have; threads below
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
        encoder: Encoder | None = None,
    ):
        self._backbone = Backbone(CODEC if model is None else model, providers, threads)
        self._codebooks = self._backbone.codebooks
        self._calls = itertools.count(1)  # of decode and stream
        self._origin = Origin.of(CODEC if model is None else model, METADATA_KEY)
        self._options: dict[str, Any] = {"providers": providers, "threads": threads}
        self._encoder = self._given_encoder = None if encoder is None else self._open_encoder(encoder)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | os.PathLike[str],
        filename: str = "model.onnx",
        *,
        revision: str | None = None,
        sha256: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> VocosONNX:
        """An exported model of a folder, or of a repository of the Hugging Face hub (needs the extra [hub]).

        Args:
            repo_or_folder: a folder, else an id such as "owner/name".
            filename: of the .onnx file in it.
            revision: branch, tag or commit on the hub.
            sha256: of the file; what has another is not loaded. With it the hub is not asked for what is in the cache.
            local_files_only: nothing is downloaded, as with HF_HUB_OFFLINE=1; what was downloaded before is used.
            cache_dir: of the hub's client, which downloads to a temporary file and renames it.
            options: as the class itself takes them.

        Raises:
            FileNotFoundError: no such folder, repository, revision or file, also where there is a checkpoint that
                must be converted first; or it is not in the cache, and there is no network.
            ValueError: another sha256 than was asked for; a revision of a local folder; as the class itself does.
            ImportError: huggingface-hub is not installed.
        """
        path = fetch(repo_or_folder, filename, revision, sha256, local_files_only, cache_dir, METADATA_KEY)
        return cls(path, **options)

    def __repr__(self) -> str:
        kind = "mels" if self.config.encodec is None else self.config.encodec.codec
        return (
            f"<VocosONNX {self._origin.name}: {kind}, {self.sample_rate} Hz, {self.config.precision}, "
            f"{', '.join(self.providers)}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._origin.pinned(), "options": self._options, "encoder": self._given_encoder}

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
        encoder: Encoder | None = None,
        progress: Callable[[int, int], None] | None = None,
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
        if self.config.encodec is None:
            self._no_tokens(bandwidth, encoder)
            return self._decode(self._features(audio, sample_rate, progress), bandwidth_id, "kbt", None)
        index = self._bandwidth_index(bandwidth, bandwidth_id)
        tokenizer = self._open_encoder(encoder) if encoder is not None else self._own_encoder()
        tokens = tokenizer.encode(audio, sample_rate, self.bandwidths[index], progress=progress)
        return self.decode(tokens, index if self.config.num_bandwidth_ids else None)

    def resynth_stream(
        self,
        blocks: Iterable[npt.ArrayLike],
        sample_rate: int,
        *,
        bandwidth: float | None = None,
        bandwidth_id: Any = None,
        encoder: Encoder | None = None,
        lookahead: int | None = None,
        chunk: int | None = None,
    ) -> Iterator[Float]:
        """Copy-synthesis while the audio comes in: in all what calling the object gives for the blocks in one piece.

        Args:
            blocks: (n,) each, of one recording; ``load_blocks`` reads a file so.
            sample_rate, bandwidth, bandwidth_id, encoder: as when the object is called.
            lookahead: as ``stream`` takes it.
            chunk: frames that go through the networks at once, by default some seconds; as ``encode_stream`` takes it.

        Returns:
            An iterator of the audio (n,) as it becomes complete. Memory does not grow with the length, unless the
            model has a VocosResNetBackbone: then all of it comes at the end.

        Raises:
            ValueError: as when the object is called; as ``stream`` and ``encode_stream``.
        """
        blocks = checked_blocks(blocks, sample_rate)
        frames: Iterator[npt.NDArray[Any]]
        at_once = {} if chunk is None else {"chunk": chunk}
        if self.config.encodec is None:
            self._no_tokens(bandwidth, encoder)
            index = self._read_bandwidth_id(bandwidth_id)
            frames = self.features_stream(blocks, sample_rate, **at_once)
        else:
            index = self._bandwidth_index(bandwidth, bandwidth_id)
            tokenizer = self._open_encoder(encoder) if encoder is not None else self._own_encoder()
            frames = tokenizer.encode_stream(blocks, sample_rate, self.bandwidths[index], **at_once)
            index = index if self.config.num_bandwidth_ids else None
        if self._backbone.delay:
            return self._decode_stream(frames, self._stream(index, lookahead, None))
        return iter([self._decode(np.concatenate(list(frames), axis=1), index, "kbt", None)])

    def features(self, audio: npt.ArrayLike, sample_rate: int) -> Float:
        """Audio (N,) or (B, N) to the log-mel features (C, T) or (B, C, T) that this mel model decodes.

        With the settings of ``config.mel``, as the model was trained with; see ``mel.log_mel`` for the formula. Of N
        samples at the model's rate, T is 1 + N // hop_length with ``center`` padding and N // hop_length with ``same``.
        Audio of another ``sample_rate`` is resampled.

        Raises:
            ValueError: an encodec model; audio as ``EncodecONNX.encode`` refuses it, or too short to be padded by
                reflection (half of n_fft).
        """
        return self._features(audio, sample_rate, None)

    def _features(self, audio: npt.ArrayLike, sample_rate: int, progress: Callable[[int, int], None] | None) -> Float:
        mel = self._mel()
        check_audio(audio, sample_rate)
        waveform = read_waveform(audio, sample_rate, self.sample_rate)
        if progress is None:
            features = log_mel(waveform, self.sample_rate, mel)
        else:
            pad = mel.n_fft // 2 if mel.padding == "center" else (mel.n_fft - mel.hop_length) // 2
            frames, done = 1 + (waveform.shape[1] + 2 * pad - mel.n_fft) // mel.hop_length, 0
            blocks = []
            for block in log_mel_blocks(AudioWindow([waveform]), self.sample_rate, mel):
                blocks.append(block)
                done += block.shape[2]
                progress(done, frames)
            features = np.concatenate(blocks, axis=2)
        return features[0] if np.ndim(audio) == 1 else features

    def features_stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, *, chunk: int = MEL_CHUNK
    ) -> Iterator[Float]:
        """Log-mels (C, t) while the audio comes in: in all what ``features`` gives for the blocks (n,) in one piece.

        ``chunk`` frames are computed at once. Raises as ``features``, and ValueError for blocks of another shape.
        """
        mel = self._mel()
        chunk = read_chunk(chunk)
        blocks = checked_blocks(blocks, sample_rate)
        tape = AudioWindow(read_blocks(blocks, sample_rate, self.sample_rate))
        return (features[0] for features in log_mel_blocks(tape, self.sample_rate, mel, chunk))

    @overload
    def decode(
        self,
        tokens_or_features: Array | Nested | Frames,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout = "kbt",
    ) -> Float: ...

    @overload
    def decode(
        self,
        tokens_or_features: Ragged,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout = "kbt",
    ) -> list[Float]: ...

    def decode(
        self,
        tokens_or_features: Array | Nested | Frames | Ragged,
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        layout: Layout = "kbt",
    ) -> Float | list[Float]:
        """Tokens or features to audio.

        A list of arrays (K, T) or (C, T) of different lengths gives a list: the audio of each as if it were alone. On
        CUDA those of up to 1,500 frames are one batch for each bandwidth. Memory beyond the input and the audio does
        not grow with the length.

        Integers are tokens, floats are features. Anything that numpy can read is accepted, and torch tensors of any
        device. bfloat16 and floats of 8 bits, of torch or ml_dtypes, become float32.

        Mels that cannot be the model's (in decibels, of another logarithm or scale) give one warning in a process.

        Args:
            tokens_or_features: tokens (K, T) or (K, B, T); features (C, T) or (B, C, T). Or what ``load_tokens`` read,
                whose codec is checked then; or what encodec's ``encode`` returns of one recording, [(codes, None)].
            bandwidth_id: index into ``bandwidths`` that the network is conditioned on. Tokens imply it where K is the
                codebook count of a bandwidth (2, 4, 8, 16 codebooks are ids 0, 1, 2, 3); features never do. An id of
                another bandwidth than K is of is used, as upstream, with one line in a process in the log "vocos_onnx".
            bandwidth: the same in kbps, one of ``bandwidths``.
            layout: order of the axes of 3-D tokens. "kbt" is (codebooks, batch, frames), as in upstream Vocos; "bkt"
                is (batch, codebooks, frames), as encodec and transformers return them. A shape that fits both, such
                as (2, 2, T), is taken as the layout says: nothing is guessed. 2-D tokens are (K, T) in both.

        Returns:
            Audio in float32, nominally within ±1 and not clipped, at ``sample_rate``: (samples,) from 2-D input,
            (B, samples) from 3-D input. ``same`` padding gives T·hop_length samples, ``center`` padding
            (T - 1)·hop_length, so that there one frame gives none.

        Raises:
            ValueError: tokens that are not integers of 0 ... 1023 in one of these shapes, or given to a mel model;
                features of another channel count or with NaN or infinity; an array of another type, masked values, or
                what is no array, as a path; an id out of range, missing where the network needs one, or given where it
                takes none; ``Tokens`` of another codec. The message names the value, the allowed range and the remedy.
            FloatingPointError: the audio would not be finite; the message says which stage made it so.
            RuntimeError: onnxruntime failed, as of a damaged model file that it loads none the less.
            MemoryError: there is not enough.
        """
        bandwidth_id, judge = self._chosen(bandwidth, bandwidth_id), self._judge()
        if _is_ragged(tokens_or_features):
            return self._decode_each([self._array(item) for item in tokens_or_features], bandwidth_id, judge)
        return self._decode(self._array(tokens_or_features), bandwidth_id, layout, judge)

    def _decode(self, given: npt.NDArray[Any], bandwidth_id: Any, layout: str, judge: MelJudge | None = None) -> Float:
        features_of, shape, bandwidth_id = self._read(given, bandwidth_id, layout, judge)
        batch, frames = shape
        if frames <= BLOCK or not self._backbone.delay:
            features = features_of(0, frames)
            audio = self._in_graph(features, bandwidth_id)
            if audio is None:
                audio = self._to_waveform(self._backbone.spectrum(features, bandwidth_id))
        else:
            decoder = Decoder(self._backbone, bandwidth_id, batch)
            audio = np.empty((batch, self._samples(frames)), np.float32)
            done = 0
            for block in decode_in_blocks(decoder, features_of, frames):
                audio[:, done : done + block.shape[1]] = block
                done += block.shape[1]
            assert done == audio.shape[1]
        return audio[0] if given.ndim == 2 else audio

    def stream(
        self, bandwidth_id: Any = None, *, bandwidth: float | None = None, lookahead: int | None = None
    ) -> Stream:
        """Decode while tokens or features come in: ``push`` chunks of any length, and ``flush`` at the end.

        Args:
            bandwidth_id: as ``decode`` takes it; tokens may imply it, features never do.
            bandwidth: the same in kbps.
            lookahead: frames that must have come after one for it to come out. By default, and at most, as many as the
                network sees ahead (``delay``, 27 frames or 360 ms for the official models), so that the audio is that
                of ``decode``. With fewer it comes earlier, is not exactly that, and costs more: README has by how much.

        Returns:
            A ``Stream``. Beside the network, samples wait for the frames that overlap them: n_fft - hop_length of them.

        Raises:
            ValueError: lookahead outside 0 ... ``delay``; a bandwidth_id as ``decode`` refuses it; a model whose
                backbone cannot be streamed (VocosResNetBackbone).
        """
        return self._stream(self._chosen(bandwidth, bandwidth_id), lookahead, lambda: self._judge(one_sequence=True))

    def _stream(self, bandwidth_id: Any, lookahead: int | None, judge: Callable[[], MelJudge | None] | None) -> Stream:
        delay = self._backbone.delay
        if not delay:
            raise ValueError("this model has a VocosResNetBackbone, which cannot be streamed: use decode")
        if lookahead is not None:
            lookahead = _read_integer("lookahead", lookahead, 0, delay, "frames; by default all that the network sees")
        if bandwidth_id is not None:
            bandwidth_id = self._read_bandwidth_id(bandwidth_id)

        def reader() -> Callable[[npt.ArrayLike | Frames], tuple[Callable[[int, int], Float], int, int | None, str]]:
            judge_of_this = None if judge is None else judge()

            def read(chunk: npt.ArrayLike | Frames) -> tuple[Callable[[int, int], Float], int, int | None, str]:
                given = self._array(chunk)
                if given.ndim != 2:
                    raise ValueError(
                        f"a chunk has shape {given.shape}, expected tokens (K, t) or features (C, t)"
                        f"{_chunk_hint(given)}"
                    )
                if len(given) and not given.size:
                    return lambda a, b: np.zeros((1, self.config.feature_channels, 0), np.float32), 0, None, ""
                features_of, (_, frames), implied = self._read(given, bandwidth_id, "kbt", judge_of_this)
                return features_of, frames, implied, _kind(given)

            return read

        return Stream(reader, lambda implied: Decoder(self._backbone, implied, 1, lookahead))

    def decode_stream(
        self,
        chunks: Iterable[npt.ArrayLike | Frames],
        bandwidth_id: Any = None,
        *,
        bandwidth: float | None = None,
        lookahead: int | None = None,
    ) -> Iterator[Float]:
        """The audio of chunks, as it becomes complete; see ``stream``. Raises as that and ``Stream.push``.

        With an error the iterator is at its end: nothing of what follows the chunk is emitted.
        """
        if isinstance(chunks, str | bytes | os.PathLike):
            as_array(chunks, "chunks")
        if not isinstance(chunks, Tokens | np.ndarray | Iterable):
            raise ValueError(f"chunks is {shown(chunks)}, expected an iterable of chunks (K, t) or (C, t)")
        if isinstance(chunks, Tokens) or getattr(chunks, "ndim", 3) < 3:
            raise ValueError(
                f"chunks is one array of shape {np.asarray(chunks).shape}, expected an iterable of chunks (K, t) or "
                "(C, t): pass [array], or use decode"
            )
        return self._decode_stream(chunks, self.stream(bandwidth_id, bandwidth=bandwidth, lookahead=lookahead))

    @staticmethod
    def _decode_stream(chunks: Iterable[npt.ArrayLike | Frames], stream: Stream) -> Iterator[Float]:
        for chunk in chunks:
            for audio in stream.push_blocks(chunk):
                if audio.size:
                    yield audio
        yield stream.flush()

    @property
    def delay(self) -> int:
        """Frames that the network sees ahead, and a stream is late by; 0 where it cannot be streamed."""
        return self._backbone.delay

    def _judge(self, one_sequence: bool = False) -> MelJudge | None:
        """What looks at the features of one call or stream; tokens and a codec's features are not looked at.

        It takes up to a tenth of the time of a short call: all of the first 64 are looked at, then fewer and fewer.
        """
        number = next(self._calls)
        rarely = number > 64 and number & (number - 1)
        return None if self.config.mel is None or rarely else MelJudge(self.config.mel, one_sequence)

    def _array(self, given: Any) -> npt.NDArray[Any]:
        """What was given, as an array; of a token file, made sure that it is of this model's codec."""
        if not isinstance(given, Tokens):
            return as_array(unwrapped(given), "tokens or features")
        check_codec(given, self.config, self._fingerprints)
        return as_array(given.codes, "tokens")

    @cached_property
    def _fingerprints(self) -> tuple[str, ...]:
        return () if self._codebooks is None else fingerprints(self._codebooks)

    def _read(self, given: npt.NDArray[Any], bandwidth_id: Any, layout: str, judge: MelJudge | None = None) -> Read:
        """Tokens or features -> what gives the features (B, C, t) from one frame to another, (B, T), bandwidth id."""
        if is_float(given):
            features = self._read_features(given)
            shape = features.shape[0], features.shape[2]
            bandwidth_id = self._read_bandwidth_id(bandwidth_id)
            if judge is not None:
                judge.see(features)
            return lambda a, b: features[:, :, a:b], shape, bandwidth_id
        like_features = given.dtype.kind == "O" and given.shape[-2:-1] == (self.config.feature_channels,)
        if (self.config.encodec is None or like_features) and not is_integer(given):
            hint = stack_hint(given, "features") or to_floats(given.dtype)
            raise ValueError(f"features have dtype {given.dtype}, expected floats{hint}")
        codes = self._read_tokens(given, layout)
        if bandwidth_id is None:
            bandwidth_id = self._imply_bandwidth_id(len(codes), given.shape, layout)
        index = self._read_bandwidth_id(bandwidth_id)
        self._check_count(codes.shape, given.ndim, index, layout)
        return lambda a, b: self._lookup(codes[:, :, a:b]), codes.shape[1:], index

    def _decode_each(
        self, given: list[npt.NDArray[Any]], bandwidth_id: Any, judge: MelJudge | None = None
    ) -> list[Float]:
        """Sequences of different lengths, each (K, T) or (C, T), to their audio; each as if it were alone."""
        kinds = {"features" if is_float(item) else "tokens" for item in given}
        if len(kinds) > 1:
            raise ValueError("the list holds tokens (integers) and features (floats); decode them in two calls")
        wrong = next((i for i, item in enumerate(given) if item.ndim != 2), None)
        if wrong is not None:
            shape = given[wrong].shape
            hint = f"; pass item[0] of those of shape (1, {shape[1]}, T)" if len(shape) == 3 and shape[0] == 1 else ""
            raise ValueError(f"item {wrong} of the list has shape {shape}, expected (K, T) or (C, T){hint}")
        # on the CPU the network is as fast for one after the other, and nothing is padded
        together = "CUDAExecutionProvider" in self.providers and self._backbone.delay
        short = [i for i, item in enumerate(given) if together and item.shape[1] <= BLOCK]
        audio = dict(zip(short, self._decode_together([given[i] for i in short], bandwidth_id, judge), strict=True))
        return [
            audio[i] if i in audio else self._decode(item, bandwidth_id, "kbt", judge) for i, item in enumerate(given)
        ]

    def _decode_together(
        self, given: list[npt.NDArray[Any]], bandwidth_id: Any, judge: MelJudge | None = None
    ) -> list[Float]:
        """As one batch for each bandwidth id, zero-padded at the end, which the network is told of."""
        read = [self._read(item, bandwidth_id, "kbt", judge) for item in given]
        audio: list[Float] = [np.zeros(0, np.float32)] * len(read)
        for group in {implied for _, _, implied in read}:
            members = [i for i, (_, _, implied) in enumerate(read) if implied == group]
            lengths = [read[i][1][1] for i in members]
            features = np.zeros((len(members), self.config.feature_channels, max(lengths)), np.float32)
            for row, i, length in zip(features, members, lengths, strict=True):
                row[:, :length] = read[i][0](0, length)[0]
            whole = self._in_graph(features, group, lengths)
            if whole is not None:
                each = [row[: self._samples(n)].copy() for row, n in zip(whole, lengths, strict=True)]
            else:
                spectrum = self._backbone.spectrum(features, group, lengths)
                each = [self._to_waveform(row[None, :n])[0] for row, n in zip(spectrum, lengths, strict=True)]
            for i, item in zip(members, each, strict=True):
                audio[i] = item
        return audio

    def _in_graph(
        self, features: Float, bandwidth_id: int | None, lengths: Sequence[int] | None = None
    ) -> Float | None:
        """Features (B, C, T) -> audio (B, samples), where the graph makes it; of the ``lengths`` see Backbone.audio.

        None where it is not finite: the way over the spectrum says why.
        """
        if not self._backbone.has_istft:
            return None
        audio = self._backbone.audio(features, bandwidth_id, lengths)
        if not np.isfinite(audio).all():
            return None
        return audio.clip(-1, 1) if self.config.clip_audio else audio

    def _samples(self, frames: int) -> int:
        config = self.config
        trim = trim_of(config.n_fft, config.hop_length, config.padding)
        return (frames - 1) * config.hop_length + config.n_fft - 2 * trim

    def codes_to_features(self, tokens: Array | Nested, *, layout: Layout = "kbt") -> Float:
        """Tokens (K, T) or (K, B, T) -> features (B, C, T) in float32: the sum of one entry from each codebook.

        The first K codebooks are used. B is 1 for 2-D tokens. Raises ValueError as ``decode`` does.
        """
        return self._lookup(self._read_tokens(self._array(tokens), layout))

    @property
    def config(self) -> ModelConfig:
        """The description that the model file carries."""
        return self._backbone.config

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
        return self.config.encodec.num_codebooks if self.config.encodec else 0

    @property
    def bandwidths(self) -> tuple[float, ...]:
        """Bandwidths in kbps, by bandwidth id; empty for a mel model."""
        return self.config.encodec.bandwidths if self.config.encodec else ()

    @property
    def network(self) -> Backbone:
        """The network alone: features to spectrum."""
        return self._backbone

    @property
    def providers(self) -> list[str]:
        """The execution providers that the session runs on, in order of preference."""
        return list(self._backbone.providers)

    def _mel(self) -> MelFeatures:
        if self.config.mel is None:
            raise ValueError(
                "this is an encodec model, whose features come from tokens: encode the audio with EncodecONNX, "
                "then codes_to_features"
            )
        return self.config.mel

    @staticmethod
    def _no_tokens(bandwidth: float | None, encoder: Encoder | None) -> None:
        if bandwidth is not None or encoder is not None:
            name = "bandwidth" if bandwidth is not None else "encoder"
            raise ValueError(f"{name} is given, but this is a mel model, without tokens: leave it out")

    def _chosen(self, bandwidth: float | None, bandwidth_id: Any) -> Any:
        """The bandwidth id that is given in one way or the other, or in none."""
        if bandwidth is None:
            return bandwidth_id
        if self.config.encodec is None:
            self._no_tokens(bandwidth, None)
        index = self._bandwidth_index(bandwidth, bandwidth_id)
        return index if self.config.num_bandwidth_ids else None

    def _bandwidth_index(self, bandwidth: float | None, bandwidth_id: Any) -> int:
        if bandwidth_id is not None:
            if bandwidth is not None:
                raise ValueError(f"bandwidth ({bandwidth!r}) and bandwidth_id ({bandwidth_id!r}) are given; pass one")
            return _read_index(bandwidth_id, len(self.bandwidths), self._names())
        bandwidth = DEFAULT_BANDWIDTH if bandwidth is None else bandwidth
        try:
            return bandwidth_index(bandwidth, self.bandwidths)
        except ValueError as error:
            if isinstance(bandwidth, int) and 0 <= bandwidth < len(self.bandwidths):
                raise ValueError(f"{error}; if it is an index, pass bandwidth_id={bandwidth}") from None
            raise

    def _own_encoder(self) -> EncodecONNX:
        if self._encoder is None:
            encodec = self.config.encodec
            assert encodec is not None
            if encodec.codec != BUNDLED_CODEC:
                checkpoint = "facebook/encodec_24khz" if encodec.codec == "encodec_24khz" else "CHECKPOINT"
                output = f"{encodec.codec}.onnx"
                raise ValueError(
                    f"audio to tokens of {encodec.codec} needs its encoder: make one with vocos-onnx export-encodec "
                    f"{checkpoint} -o {output}, and pass its path as encoder={output!r}"
                )
            self._encoder = self._open_encoder(EncodecONNX(**self._options))
        return self._encoder

    def _open_encoder(self, encoder: Encoder) -> EncodecONNX:
        """The encoder, made sure that its codebooks are those that this model decodes."""
        encodec = self.config.encodec
        if encodec is None:
            raise ValueError("encoder is given, but this is a mel model, without tokens: leave it out")
        if not isinstance(encoder, EncodecONNX):
            encoder = EncodecONNX(encoder, **self._options)
        known, needed = encoder.config.codebooks_sha256, encodec.num_codebooks
        if len(known) < needed or known[needed - 1] != encodec.codebooks_sha256:
            found = known[needed - 1][:12] if len(known) >= needed else f"only {len(known)} codebooks"
            raise ValueError(
                f"the encoder ({encoder.config.codec}) has other codebooks than this model ({encodec.codec}), which "
                f"would decode its tokens to noise: the fingerprint of {needed} codebooks is {found} there and "
                f"{encodec.codebooks_sha256[:12]} here; export the encoder that the model was trained with"
            )
        return encoder

    def _read_tokens(self, tokens: npt.NDArray[Any], layout: str) -> npt.NDArray[np.integer[Any]]:
        encodec = self.config.encodec
        if encodec is None:
            raise ValueError(
                f"this is a mel model: it decodes float features (B, {self.config.feature_channels}, T), not tokens "
                f"of dtype {tokens.dtype}; tokens need the model of their codec, those of the bundled codec "
                f"VocosONNX({CODEC!r}); features that are integers may be passed as .astype(numpy.float32)"
            )
        return read_tokens(tokens, layout, encodec.num_codebooks, encodec.codebook_size)

    def _lookup(self, codes: npt.NDArray[np.integer[Any]]) -> Float:
        assert self._codebooks is not None
        return lookup(codes, self._codebooks)

    def _read_features(self, features: npt.NDArray[Any]) -> Float:
        channels = self.config.feature_channels
        shape = features.shape
        if features.ndim not in (2, 3) or shape[-2] != channels:
            raise ValueError(
                f"features have shape {shape}, expected ({channels}, T) or (B, {channels}, T)" + self._hint(features)
            )
        if features.size == 0:
            raise ValueError(f"features are empty, shape {shape}; expected at least one item and one frame")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            features = np.ascontiguousarray(features.reshape(-1, channels, shape[-1]), np.float32)
        if not np.isfinite(features).all():
            bad = features[~np.isfinite(features)]
            raise ValueError(f"features hold {bad.size} values that are NaN or infinite in float32; expected finite")
        return features

    def _hint(self, given: npt.NDArray[Any]) -> str:
        """What floats of another shape than features may be, and what to do with them."""
        channels, shape, last = self.config.feature_channels, given.shape, given.shape[-2:]
        few = len(shape) in (2, 3) and min(shape[:-1]) <= self.num_codebooks
        if few and given.any() and np.array_equal(given, np.rint(given)):
            return (
                f"; tokens must be integers, not {given.dtype}: if they are tokens, pass them as .astype(numpy.int64)"
            )
        if len(shape) in (2, 3) and last[1] == channels:
            axes, transposed = ("(T, C)", ".T") if len(shape) == 2 else ("(B, T, C)", ".transpose(0, 2, 1)")
            return f"; they look like {axes}: pass features{transposed}"
        if len(shape) == 4 and 1 in shape[:2] and channels in last:
            return f"; pass features[{'0' if shape[0] == 1 else ':, 0'}]"
        if shape == (channels,):
            return "; pass one frame as features[:, None]"
        if len(shape) == 1 or (len(shape) == 2 and max(shape) > 1000 > 8 >= min(shape)):
            return "; if it is audio, copy-synthesis is vocos(audio, sample_rate), of samples (N,) or a batch (B, N)"
        known = next((text for size, text in _CHANNELS.items() if size in last), None)
        if len(shape) in (2, 3) and known is not None:
            return f"; {known}"
        return f"; tokens must be integers, not {given.dtype}" if self.config.encodec else ""

    def _imply_bandwidth_id(self, num_codebooks: int, shape: tuple[int, ...], layout: str) -> int | None:
        encodec, ids = self.config.encodec, self.config.num_bandwidth_ids
        assert encodec is not None
        if not ids:
            return None
        counts = encodec.codebooks_per_bandwidth
        if num_codebooks in counts:
            return counts.index(num_codebooks)
        if len(shape) == 3 and shape[layout == "kbt"] in counts:
            hint = f"layout={'bkt' if layout == 'kbt' else 'kbt'!r} for the other order of the first two axes"
        elif len(shape) == 3 and shape[0] == 1 and shape[2] in counts:
            hint = "tokens[0].T, for they look like (batch, frames, codebooks)"
        else:
            above = [(count, i) for i, count in enumerate(counts) if count > num_codebooks]
            nearest = min(above)[1] if above else ids - 1  # of K codebooks the next bandwidth has the most in common
            hint = f"bandwidth_id {nearest}, or another of 0 to {ids - 1}"
            if fewer := [count for count in counts if count < num_codebooks]:
                hint = f"{first_codebooks(max(fewer), shape, layout)} to decode the first ones of them, or {hint}"
            if len(shape) == 2 and shape[1] in counts:
                hint += "; where they are (frames, codebooks) pass tokens.T"
        raise ValueError(
            f"tokens of shape {shape} have {counted(num_codebooks)} in the layout {layout!r}, and no bandwidth has "
            f"as many: they have {', '.join(map(str, counts))}; pass {hint}"
        )

    def _check_count(self, shape: tuple[int, ...], axes: int, index: int | None, layout: str) -> None:
        """Tokens (K, B, T) of which K is not what the bandwidth says.

        Raises ValueError if B is that, and K is of no bandwidth. Logged if K is of another: that sounds worse.
        """
        assert self.config.encodec is not None
        counts = self.config.encodec.codebooks_per_bandwidth
        expected = counts[index] if index is not None and index < len(counts) else shape[0]
        if shape[0] == expected:
            return
        differ = f"tokens have {counted(shape[0])} in the layout {layout!r}, and bandwidth_id {index} has {expected}"
        if axes == 3 and shape[0] not in counts and shape[1] == expected:
            raise ValueError(
                f"{differ}; pass layout={'bkt' if layout == 'kbt' else 'kbt'!r} for the other order of the first two "
                "axes"
            )
        if shape[0] not in counts:
            return
        remedy = f"leave it out, or pass bandwidth_id={counts.index(shape[0])}"
        if shape[0] > expected:
            given = (shape[1], shape[0], shape[2]) if layout == "bkt" else shape
            remedy += f", or {first_codebooks(expected, given[:axes], layout)}"
        if first("bandwidth"):  # in the log: it is a way to listen to what the condition does
            _log.warning("%s, so that the audio sounds worse than it could: %s", differ, remedy)

    def _read_bandwidth_id(self, bandwidth_id: Any) -> int | None:
        ids = self.config.num_bandwidth_ids
        if not ids:
            if bandwidth_id is not None:
                raise ValueError(
                    f"bandwidth_id is {bandwidth_id!r}, but this model is not conditioned on a bandwidth: leave it out"
                )
            return None
        names = self._names()
        if bandwidth_id is None:
            raise ValueError(f"bandwidth_id is missing, and features do not imply one; pass one of {names}")
        try:
            return _read_index(bandwidth_id, ids, names)
        except ValueError as error:
            if isinstance(bandwidth_id, int | float | np.number) and bandwidth_id in self.bandwidths:
                index = self.bandwidths.index(float(bandwidth_id))
                raise ValueError(f"{error}; {bandwidth_id:g} kbps is bandwidth_id {index}") from None
            raise

    def _names(self) -> str:
        kbps = ", ".join(f"{i} ({kbps:g} kbps)" for i, kbps in enumerate(self.bandwidths))
        return kbps or f"0 to {self.config.num_bandwidth_ids - 1}"

    def _to_waveform(self, spectrum: npt.NDArray[Any]) -> Float:
        config = self.config
        if config.head == "istft":
            return check_finite(istft(spectrum, config.n_fft, config.hop_length, config.padding), spectrum)
        audio = check_finite(imdct(spectrum, config.padding), spectrum)
        return audio.clip(-1, 1) if config.clip_audio else audio


# what features of so many channels are for, where they are not this model's
_CHANNELS = {
    64: f"64 channels are those of the features of the bundled codec: VocosONNX({CODEC!r})",
    80: "80 bands are usual at 22,050 Hz (HiFi-GAN, Matcha-TTS): export a Vocos that was trained with such mels: "
    "vocos-onnx export CHECKPOINT -o MODEL.onnx",
    100: f"100 channels are those of the mels of VocosONNX({MEL!r})",
    128: "128 channels are those of the features of EnCodec, whose codec model is made with: vocos-onnx export "
    "charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx",
}


def _kind(given: npt.NDArray[Any]) -> str:
    return "features" if is_float(given) else f"tokens of {counted(len(given))}"


def _chunk_hint(given: npt.NDArray[Any]) -> str:
    if given.ndim == 1 and given.size:
        return "; of one frame pass chunk[:, None], of a single codebook chunk[None]"
    if given.ndim == 3 and 1 in given.shape[:2]:
        return "; pass chunk[0]" if len(given) == 1 else "; pass chunk[:, 0]"
    return ""


def _is_ragged(given: Any) -> TypeGuard[Ragged]:
    """A list of arrays, each a sequence, and not one array written as a list. Raises ValueError for an empty one."""
    if not isinstance(given, list | tuple):
        return False
    if not given:
        raise ValueError("the list is empty, expected one or more arrays of tokens or features")
    return all(isinstance(item, Tokens) or getattr(item, "ndim", 0) >= 2 for item in given)


def _read_index(bandwidth_id: Any, count: int, names: str) -> int:
    return _read_integer("bandwidth_id", bandwidth_id, 0, count - 1, names)


def _read_integer(name: str, given: Any, low: int, high: int, meaning: str) -> int:
    try:
        array = np.asarray(given)
        if array.dtype == bool:
            raise TypeError
        value = operator.index(array.item() if array.size == 1 else given)  # upstream passes tensor([2])
    except TypeError:
        raise ValueError(f"{name} is {shown(given)}, expected an integer: {meaning}") from None
    if not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, expected {low} to {high}: {meaning}")
    return value
