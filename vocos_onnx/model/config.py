"""Descriptions of models and encoders: frozen dataclasses, stored as JSON in the metadata of the .onnx file.

The export writes them with ``to_json``; the runtime reads them with ``from_json``. Every key is required and no other
is allowed, so a damaged file is rejected rather than half understood. Files of format 4 and later stay readable:
``UPGRADES`` converts the metadata of each format to the next. docs/reference/format.md is the specification.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.dsp.stft import PADDINGS, samples_of
from vocos_onnx.limits import (
    MAX_BANDWIDTH_IDS,
    MAX_CHANNELS,
    MAX_CODEBOOK_SIZE,
    MAX_CODEBOOKS,
    MAX_CONTEXT,
    MAX_KBPS,
    MAX_N_FFT,
    MAX_RATE,
    check_overlap,
    read_size,
    require,
)
from vocos_onnx.messages import first_line, listed, shown

METADATA_KEY = "vocos_onnx"
ENCODER_KEY = "vocos_onnx_encoder"
FORMAT = 6
# format -> a function that converts its metadata, without the entry "format", to the next format
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    4: lambda metadata: metadata,  # format 5 only stores the codebooks elsewhere
    5: lambda metadata: {**metadata, "reach": 0} if "feature_channels" in metadata else metadata,
}
_OLDEST = min(UPGRADES)
HEADS = ("istft", "imdct_symexp", "imdct_cos", "wavenext")
ENCODER_INPUTS = ("audio", "spectrum")
PRECISIONS = ("float32", "int8", "float16")
_MAX_REACH = 1 << 22  # samples of the frames around a span; the bundled encoder has 38,400
EXPORT_AGAIN = "export the checkpoint again with this version"
_MAX_JSON, _MAX_STRING = 1 << 20, 1024


@dataclass(frozen=True)
class EncodecFeatures:
    """Tokens of a residual vector quantiser.

    ``codebooks_per_bandwidth[i]`` codebooks of ``codebook_size`` entries make up ``bandwidths[i]`` kbps. The
    fingerprint is the sha256 of the codebooks (num_codebooks, codebook_size, channels), little-endian float32.
    """

    codec: str
    num_codebooks: int
    codebook_size: int
    bandwidths: tuple[float, ...]
    codebooks_per_bandwidth: tuple[int, ...]
    codebooks_sha256: str


@dataclass(frozen=True)
class Quality:
    """How close an int8 or float16 model is to its float32 original, on the input that it was calibrated with.

    snr_db: the power of the original's waveform over that of the difference. pesq_wb: PESQ with the original as the
    reference (at best 4.64), or None if it was not measured. seconds: how much audio was compared.
    """

    snr_db: float
    pesq_wb: float | None
    seconds: float


@dataclass(frozen=True)
class Source:
    """The origin of the weights."""

    name: str
    revision: str
    sha256: str
    exporter: str


@dataclass(frozen=True)
class ModelConfig:
    """Everything that the runtime must know about a model besides its graph.

    ``num_bandwidth_ids`` is 0 if the network is not conditioned on a bandwidth. ``reach`` is how many frames the
    network sees to either side of one; it is 0 if that is not known, as for files of format 5 or older. At most one of
    ``encodec`` and ``mel`` is given; neither is given if the model takes mels but how they are made is not known, as
    with other exporters' files. ``precision`` is that of the network; ``quality`` is what int8 or float16 costs.
    """

    sample_rate: int
    head: str
    n_fft: int
    hop_length: int
    padding: str
    clip_audio: bool
    feature_channels: int
    num_bandwidth_ids: int
    reach: int
    encodec: EncodecFeatures | None
    mel: MelFeatures | None
    source: Source
    precision: str = "float32"
    quality: Quality | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if values are out of range or contradict one another."""
        require(self.head in HEADS, f"head is {shown(self.head)}, expected one of {', '.join(HEADS)}")
        require(self.padding in PADDINGS, f"padding is {shown(self.padding)}, expected one of {', '.join(PADDINGS)}")
        for name, most in (
            ("sample_rate", MAX_RATE),
            ("n_fft", MAX_N_FFT),
            ("hop_length", MAX_N_FFT),
            ("feature_channels", MAX_CHANNELS),
        ):
            read_size(name, getattr(self, name), most)
        check_overlap("n_fft", self.n_fft, self.hop_length)
        multiple = {"istft": 2, "wavenext": 1}.get(self.head, 4)
        require(self.n_fft % multiple == 0, f"n_fft is {self.n_fft}, expected a multiple of {multiple}")
        if self.head == "istft":
            require(
                self.hop_length <= self.n_fft - 2,
                f"hop_length is {self.hop_length}, expected at most n_fft - 2 = {self.n_fft - 2}: frames must overlap",
            )
        elif self.head == "wavenext":
            require(
                self.hop_length == self.n_fft,
                f"hop_length is {self.hop_length}, expected n_fft, {self.n_fft}: each frame is one hop of audio",
            )
        else:
            require(
                self.hop_length * 2 == self.n_fft,
                f"hop_length is {self.hop_length}, expected half the MDCT frame of {self.n_fft}",
            )
        require(
            self.precision in PRECISIONS,
            f"precision is {shown(self.precision)}, expected one of {', '.join(PRECISIONS)}",
        )
        require(
            (self.quality is None) == (self.precision == "float32"),
            f"precision is {self.precision} and quality {self.quality}: only int8 and float16 models have a quality, "
            "and all of them do",
        )
        require(
            0 <= self.num_bandwidth_ids <= MAX_BANDWIDTH_IDS,
            f"num_bandwidth_ids is {shown(self.num_bandwidth_ids)}, expected 0 or more, and at most "
            f"{MAX_BANDWIDTH_IDS}",
        )
        require(
            0 <= self.reach <= MAX_CONTEXT,
            f"reach is {shown(self.reach)}, expected 0 or more, and at most {MAX_CONTEXT}",
        )
        require(self.encodec is None or self.mel is None, "not both encodec and mel features can be given")
        if self.mel is not None:
            mel = self.mel
            require(
                mel.n_mels == self.feature_channels,
                f"mel features have {mel.n_mels} bands but the network takes {self.feature_channels} channels",
            )
            require(
                mel.hop_length == self.hop_length,
                f"mel hop_length is {mel.hop_length} but the head's is {self.hop_length}: they must be equal",
            )
            require(
                mel.f_max <= self.sample_rate / 2,
                f"mel f_max is {mel.f_max:g}, expected at most half the sample rate, {self.sample_rate / 2:g}",
            )
        if self.encodec is not None:
            enc = self.encodec
            _check_bandwidths(enc.num_codebooks, enc.codebook_size, enc.bandwidths, enc.codebooks_per_bandwidth)
            if enc.codebooks_sha256:  # empty for a network in training
                _check_fingerprint(enc.codebooks_sha256)
            require(
                self.num_bandwidth_ids == 0 or self.num_bandwidth_ids >= len(enc.bandwidths),
                f"{len(enc.bandwidths)} bandwidths but only {self.num_bandwidth_ids} bandwidth embeddings",
            )

    def samples(self, frames: int) -> int:
        """The number of audio samples that ``frames`` frames make."""
        return samples_of(frames, self.n_fft, self.hop_length, self.padding)

    def to_json(self) -> str:
        """The description as JSON, in the form stored in the metadata of a file (docs/reference/format.md)."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Reads what ``to_json`` wrote. Raises ValueError if a value is missing, unknown, mistyped or contradictory."""
        return _from_json(cls, text)


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that the runtime must know about an encoder besides its graph.

    The graph takes "audio" (batch, samples) or its "spectrum" (batch, frames, n_fft/2 + 1, 2), with a Hann window and
    ``same`` padding; n_fft is 0 for audio. To encode a span exactly, it must also see ``left_context`` frames before it
    and ``right_context`` frames after it. ``codebooks_sha256[k - 1]`` is the sha256 of the first k codebooks,
    little-endian float32: a decoder with k codebooks and that fingerprint understands the tokens.
    """

    codec: str
    input: str
    sample_rate: int
    n_fft: int
    hop_length: int
    channels: int
    left_context: int
    right_context: int
    codebook_size: int
    bandwidths: tuple[float, ...]
    codebooks_per_bandwidth: tuple[int, ...]
    codebooks_sha256: tuple[str, ...]
    source: Source

    def __post_init__(self) -> None:
        """Raises ValueError if values are out of range or contradict one another."""
        require(
            self.input in ENCODER_INPUTS, f"input is {shown(self.input)}, expected one of {', '.join(ENCODER_INPUTS)}"
        )
        for name, most in (("sample_rate", MAX_RATE), ("hop_length", MAX_N_FFT), ("channels", MAX_CHANNELS)):
            read_size(name, getattr(self, name), most)
        if self.input == "spectrum":
            require(
                self.hop_length <= self.n_fft <= MAX_N_FFT and self.n_fft % 2 == 0,
                f"n_fft is {shown(self.n_fft)}, expected a multiple of 2, at least the hop_length, {self.hop_length}, "
                f"and at most {MAX_N_FFT}",
            )
            check_overlap("n_fft", self.n_fft, self.hop_length)
        else:
            require(self.n_fft == 0, f"n_fft is {shown(self.n_fft)}, expected 0 where audio is the input")
        for name, most in (
            ("left_context", MAX_CONTEXT),
            ("right_context", MAX_CONTEXT if self.input == "spectrum" else 0),
        ):
            value = getattr(self, name)
            require(0 <= value <= most, f"{name} is {shown(value)}, expected 0 or more, and at most {most}")
        reach = (self.left_context + self.right_context) * max(self.n_fft, self.hop_length)
        require(
            reach <= _MAX_REACH,
            f"left_context and right_context are {self.left_context} and {self.right_context} frames of up to "
            f"{max(self.n_fft, self.hop_length)} samples, expected at most {_MAX_REACH} samples in all",
        )
        for sha256 in self.codebooks_sha256:
            _check_fingerprint(sha256)
        _check_bandwidths(self.num_codebooks, self.codebook_size, self.bandwidths, self.codebooks_per_bandwidth)

    @property
    def num_codebooks(self) -> int:
        """The largest number of codebooks that its tokens can have."""
        return len(self.codebooks_sha256)

    def to_json(self) -> str:
        """The description as JSON, in the form stored in the metadata of a file (docs/reference/format.md)."""
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> EncoderConfig:
        """Reads what ``to_json`` wrote. Raises ValueError if a value is missing, unknown, mistyped or contradictory."""
        return _from_json(cls, text)


_T = TypeVar("_T")


def _to_json(config: Any) -> str:
    return json.dumps({"format": FORMAT, **asdict(config)})


def _from_json(cls: type[_T], text: str) -> _T:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"the metadata is not JSON: {error}; {EXPORT_AGAIN}") from None
    if newer := _newer(data):
        raise ValueError(newer)
    try:
        require(isinstance(data, dict), "the metadata is not a JSON object")
        version = data.pop("format", None)
        if type(version) is not int or version < _OLDEST:
            raise ValueError(
                f"the metadata has format {shown(version)}, and this version reads formats {_OLDEST} to {FORMAT}"
            )
        for older in range(version, FORMAT):
            data = UPGRADES[older](data)
        return _read(cls, data, "")
    except ValueError as error:
        raise ValueError(f"{error}; {EXPORT_AGAIN}") from None


def newer_format(text: str) -> str | None:
    """The error message for metadata of a newer format than this version reads; None for any other."""
    try:
        return _newer(parse_json(text))
    except ValueError:
        return None


def _newer(data: Any) -> str | None:
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version <= FORMAT:
        return None
    return (
        f"the metadata has format {shown(version)}, and this version of vocos-onnx reads formats {_OLDEST} to "
        f"{FORMAT}: upgrade it with pip install --upgrade vocos-onnx"
    )


def parse_json(text: str, finite: bool = True) -> Any:
    """Parses JSON from an untrusted source.

    Raises ValueError if it is not JSON, has a duplicate name, an integer of many digits, or a number that is NaN or
    infinite. If ``finite`` is false, NaN and infinity are read as in Python's json.
    """
    require(len(text) <= _MAX_JSON, f"it has {len(text)} characters, expected at most {_MAX_JSON}")
    try:
        numbers: dict[str, Any] = {"parse_float": _float, "parse_constant": _no_number} if finite else {}
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object, **numbers)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(first_line(error)) from None


def _integer(digits: str) -> int:
    require(len(digits) <= 20, f"it has an integer of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= 100 else math.inf
    return value if math.isfinite(value) else _no_number(digits)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it has the number {shown(text)}, expected a finite one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it has {shown(twice)} twice")
    return names


def _check_fingerprint(sha256: str) -> None:
    require(
        re.fullmatch("[0-9a-f]{64}", sha256) is not None,
        f"codebooks_sha256 is {shown(sha256)}, expected 64 hexadecimal digits",
    )


def _check_bandwidths(
    num_codebooks: int, codebook_size: int, bandwidths: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    require(num_codebooks > 0 and codebook_size > 0, "encodec features need at least one codebook")
    require(
        num_codebooks <= MAX_CODEBOOKS and codebook_size <= MAX_CODEBOOK_SIZE,
        f"{shown(num_codebooks)} codebooks of {shown(codebook_size)} entries, expected at most {MAX_CODEBOOKS} of "
        f"{MAX_CODEBOOK_SIZE}",
    )
    require(len(bandwidths) == len(counts) > 0, f"{len(bandwidths)} bandwidths but {len(counts)} codebook counts")
    require(
        all(1 <= k <= num_codebooks for k in counts),
        f"codebooks_per_bandwidth is {shown(counts)}, expected 1 to {num_codebooks} each",
    )
    require(
        all(0 <= kbps <= MAX_KBPS for kbps in bandwidths),
        f"bandwidths is {shown(bandwidths)}, expected 0 to {MAX_KBPS:g} kbps each",
    )


def _read(cls: type[_T], data: Any, where: str) -> _T:
    require(isinstance(data, dict), f"{where or 'the metadata'} is {shown(data)}, expected an object")
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    missing, unknown = sorted(set(names) - set(data)), sorted(set(data) - set(names))
    require(not missing, f"the metadata lacks {listed(where + n for n in missing)}")
    require(not unknown, f"the metadata has unknown keys {listed(where + n for n in unknown)}")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], data[name], where + name) for name in names})


def _value(hint: Any, value: Any, name: str) -> Any:
    for nested in (EncodecFeatures, MelFeatures, Quality, Source):
        if hint in (nested, nested | None):
            return None if value is None and hint is not nested else _read(nested, value, name + ".")
    if hint in (tuple[int, ...], tuple[float, ...], tuple[str, ...]):
        require(isinstance(value, list), f"{name} is {shown(value)}, expected a list")
        require(len(value) <= MAX_CODEBOOKS, f"{name} has {len(value)} entries, expected at most {MAX_CODEBOOKS}")
        (element, _) = get_args(hint)
        return tuple(_value(element, v, name) for v in value)
    if hint == float | None:
        hint = type(None) if value is None else float
    if hint is float and type(value) is int:
        value = float(value)
    require(type(value) is hint, f"{name} is {shown(value)}, expected {hint.__name__}")
    if hint is str:
        require(len(value) <= _MAX_STRING, f"{name} has {len(value)} characters, expected at most {_MAX_STRING}")
        # neither control characters nor surrogates can be printed
        require(
            not any(unicodedata.category(character) in ("Cc", "Cs") for character in value),
            f"{name} is {shown(value)}, expected text without control characters",
        )
    return value
