"""Audio -> what a model decodes: mels, or the tokens of its codec's encoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .arrays import Float, Progress
from .bandwidths import Bandwidths
from .dsp.audio_window import AudioWindow
from .dsp.mel import CHUNK, MelFeatures, log_mel, log_mel_blocks
from .encoder import EncodecONNX
from .io.samples import read_blocks, read_chunk, read_waveform
from .model.bundled import BUNDLED_CODEC
from .model.config import EncodecFeatures, ModelConfig
from .model.registry import ENCODEC_ENCODER

_ROUNDING = 1e-6  # relative to the largest value of the codebooks
EncoderOrPath = EncodecONNX | str | os.PathLike[str]


class Choice(NamedTuple):
    """The options of a copy-synthesis call, as ``VocosONNX`` takes them."""

    bandwidth: float | None
    bandwidth_id: Any
    encoder: EncoderOrPath | None


class Analysis(Protocol):
    """Makes the input of one model from audio.

    encoder: the one that the model was opened with, if any.
    """

    @property
    def encoder(self) -> EncodecONNX | None: ...

    def analyse(
        self, audio: npt.ArrayLike, sample_rate: int, choice: Choice, progress: Progress | None
    ) -> tuple[npt.NDArray[Any], int | None]:
        """Audio (N,) or (B, N) -> mels or tokens, as ``VocosONNX.decode`` takes them, and the bandwidth id."""

    def stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, choice: Choice, chunk: int | None
    ) -> tuple[Iterator[npt.NDArray[Any]], int | None]:
        """Blocks (n,) of audio -> chunks of mels or tokens, as a stream takes them, and the bandwidth id."""

    def features(self, audio: npt.ArrayLike, sample_rate: int, progress: Progress | None = None) -> Float:
        """Audio (N,) or (B, N) -> mels (C, T) or (B, C, T). Raises ValueError if the model decodes tokens."""

    def features_stream(self, blocks: Iterable[npt.ArrayLike], sample_rate: int, chunk: int | None) -> Iterator[Float]:
        """Blocks (n,) of audio -> mels (C, t). Raises as ``features``."""


class MelAnalysis:
    """Makes log-mels with the settings that the model was trained with."""

    encoder = None

    def __init__(self, config: ModelConfig, mel: MelFeatures):
        self._sample_rate, self._mel = config.sample_rate, mel
        self._bandwidths = Bandwidths(config)

    def analyse(
        self, audio: npt.ArrayLike, sample_rate: int, choice: Choice, progress: Progress | None
    ) -> tuple[npt.NDArray[Any], int | None]:
        _refuse_token_options(choice.bandwidth, choice.encoder)
        return self.features(audio, sample_rate, progress), self._bandwidths.checked_id(choice.bandwidth_id)

    def stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, choice: Choice, chunk: int | None
    ) -> tuple[Iterator[npt.NDArray[Any]], int | None]:
        _refuse_token_options(choice.bandwidth, choice.encoder)
        return self.features_stream(blocks, sample_rate, chunk), self._bandwidths.checked_id(choice.bandwidth_id)

    def features(self, audio: npt.ArrayLike, sample_rate: int, progress: Progress | None = None) -> Float:
        waveform = read_waveform(audio, sample_rate, self._sample_rate)
        features = log_mel(waveform, self._sample_rate, self._mel, progress)
        return features[0] if np.ndim(audio) == 1 else features

    def features_stream(self, blocks: Iterable[npt.ArrayLike], sample_rate: int, chunk: int | None) -> Iterator[Float]:
        frames = CHUNK if chunk is None else read_chunk(chunk)
        window = AudioWindow(read_blocks(blocks, sample_rate, self._sample_rate))
        return (mels[0] for mels in log_mel_blocks(window, self._sample_rate, self._mel, frames))


class NoAnalysis:
    """For a model that takes mels but does not say how they are made: every method raises ValueError."""

    encoder = None

    def analyse(
        self, audio: npt.ArrayLike, sample_rate: int, choice: Choice, progress: Progress | None
    ) -> tuple[npt.NDArray[Any], int | None]:
        raise _unknown_mels_error()

    def stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, choice: Choice, chunk: int | None
    ) -> tuple[Iterator[npt.NDArray[Any]], int | None]:
        raise _unknown_mels_error()

    def features(self, audio: npt.ArrayLike, sample_rate: int, progress: Progress | None = None) -> Float:
        raise _unknown_mels_error()

    def features_stream(self, blocks: Iterable[npt.ArrayLike], sample_rate: int, chunk: int | None) -> Iterator[Float]:
        raise _unknown_mels_error()


class TokenAnalysis:
    """Makes tokens of the model's codec with an encoder whose codebooks are the model's.

    Args:
        config: of the model.
        codec: describes its tokens.
        codebooks: of the model.
        encoder: makes the tokens; by default the bundled codec's, if the tokens are of that codec.
        options: for opening encoders.
    """

    def __init__(
        self,
        config: ModelConfig,
        codec: EncodecFeatures,
        codebooks: Float,
        encoder: EncoderOrPath | None,
        options: dict[str, Any],
    ):
        self._codec, self._codebooks, self._options = codec, codebooks, options
        self._bandwidths = Bandwidths(config)
        self.encoder = None if encoder is None else self._open(encoder)
        self._bundled: EncodecONNX | None = None

    def analyse(
        self, audio: npt.ArrayLike, sample_rate: int, choice: Choice, progress: Progress | None
    ) -> tuple[npt.NDArray[Any], int | None]:
        index, opened = self._chosen(choice)
        tokens = opened.encode(audio, sample_rate, self._bandwidths.kbps[index], progress=progress)
        return tokens, index if self._bandwidths.num_ids else None

    def stream(
        self, blocks: Iterable[npt.ArrayLike], sample_rate: int, choice: Choice, chunk: int | None
    ) -> tuple[Iterator[npt.NDArray[Any]], int | None]:
        index, opened = self._chosen(choice)
        options = {} if chunk is None else {"chunk": chunk}
        chunks = opened.encode_stream(blocks, sample_rate, self._bandwidths.kbps[index], **options)
        return chunks, index if self._bandwidths.num_ids else None

    def features(self, audio: npt.ArrayLike, sample_rate: int, progress: Progress | None = None) -> Float:
        raise _mels_error()

    def features_stream(self, blocks: Iterable[npt.ArrayLike], sample_rate: int, chunk: int | None) -> Iterator[Float]:
        raise _mels_error()

    def _chosen(self, choice: Choice) -> tuple[int, EncodecONNX]:
        """The bandwidth id and the encoder of a call."""
        index = self._bandwidths.selected_id(choice.bandwidth, choice.bandwidth_id)
        if choice.encoder is not None:
            return index, self._open(choice.encoder)
        return index, self.encoder or self._bundled_encoder()

    def _bundled_encoder(self) -> EncodecONNX:
        """The bundled codec's encoder, opened on first use. Raises ValueError if the model's codec is another."""
        codec = self._codec.codec
        if codec != BUNDLED_CODEC:
            checkpoint = ENCODEC_ENCODER if codec == "encodec_24khz" else "CHECKPOINT"
            output = f"{codec}.onnx"
            hub = f"pass encoder={checkpoint!r}, which is downloaded, or " if checkpoint != "CHECKPOINT" else ""
            raise ValueError(
                f"audio to tokens of {codec} needs its encoder: {hub}make one with vocos-onnx convert "
                f"{checkpoint} -o {output}, and pass its path as encoder={output!r}"
            )
        if self._bundled is None:
            self._bundled = self._open(EncodecONNX(**self._options))
        return self._bundled

    def _open(self, encoder: EncoderOrPath) -> EncodecONNX:
        """Opens the encoder if need be. Raises ValueError if its codebooks are not the model's."""
        if not isinstance(encoder, EncodecONNX):
            encoder = EncodecONNX(encoder, **self._options)
        codec, known, needed = self._codec, encoder.config.codebooks_sha256, self._codec.num_codebooks
        if not are_paired(encoder, codec, self._codebooks):
            found = known[needed - 1][:12] if len(known) >= needed else f"only {len(known)} codebooks"
            right = "export the encoder that the model was trained with"
            if codec.codec == BUNDLED_CODEC != encoder.config.codec:
                right = "leave encoder out, for that of the bundled codec"
            elif codec.codec == "encodec_24khz" != encoder.config.codec:
                right = f"pass encoder={ENCODEC_ENCODER!r}"
            raise ValueError(
                f"the encoder ({encoder.config.codec}) has other codebooks than this model ({codec.codec}), which "
                f"would decode its tokens to noise: the fingerprint of {needed} codebooks is {found} there and "
                f"{codec.codebooks_sha256[:12]} here; {right}"
            )
        return encoder


def are_paired(encoder: EncodecONNX, codec: EncodecFeatures, codebooks: Float) -> bool:
    """Whether an encoder makes the tokens of the model that has these ``codebooks`` (K, size, C).

    It does if the codebooks have the same fingerprint or differ only by rounding: EnCodec's are published twice, with
    the official vocoder and with the encoder.
    """
    known, needed = encoder.config.codebooks_sha256, codec.num_codebooks
    if len(known) >= needed and known[needed - 1] == codec.codebooks_sha256:
        return True
    others = encoder.codebooks[:needed]
    return others.shape == codebooks.shape and bool(
        np.abs(others - codebooks).max() <= _ROUNDING * np.abs(codebooks).max()
    )


def analysis_of(
    config: ModelConfig, codebooks: Float | None, encoder: EncoderOrPath | None, options: dict[str, Any]
) -> Analysis:
    """Picks the analysis of a model by what it decodes; ``codebooks`` are the model's."""
    if config.mel is not None:
        _refuse_token_options(None, encoder)
        return MelAnalysis(config, config.mel)
    if config.encodec is None:
        _refuse_token_options(None, encoder)
        return NoAnalysis()
    assert codebooks is not None
    return TokenAnalysis(config, config.encodec, codebooks, encoder, options)


def _refuse_token_options(bandwidth: float | None, encoder: EncoderOrPath | None) -> None:
    if bandwidth is not None or encoder is not None:
        name = "bandwidth" if bandwidth is not None else "encoder"
        raise ValueError(f"{name} is given, but this is a mel model, without tokens: leave it out")


def _unknown_mels_error() -> ValueError:
    return ValueError(
        "this model does not say how its mels are made of audio, so that only decode can be used, with mels of the "
        "system that it is for. If it is a file from another exporter, put the config.yaml of its checkpoint beside it"
    )


def _mels_error() -> ValueError:
    return ValueError(
        "this is an encodec model, whose features come from tokens: encode the audio with EncodecONNX, "
        "then codes_to_features"
    )
