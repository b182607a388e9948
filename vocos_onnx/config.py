"""What a model is: a frozen description, kept as JSON in the metadata of the .onnx file.

The export writes it with ``to_json``; the runtime reads it with ``from_json``. Every key is required and no other is
allowed, so a file of another version, or a damaged one, is refused instead of half understood.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

METADATA_KEY = "vocos_onnx"
FORMAT = 1
HEADS = ("istft", "imdct_symexp", "imdct_cos")
PADDINGS = ("same", "center")


@dataclass(frozen=True)
class EncodecFeatures:
    """Tokens of a residual vector quantiser.

    ``codebooks_per_bandwidth[i]`` codebooks of ``codebook_size`` entries make ``bandwidths[i]`` kbps. The fingerprint
    is the sha256 of the codebooks (num_codebooks, codebook_size, channels), little-endian float32.
    """

    codec: str
    num_codebooks: int
    codebook_size: int
    bandwidths: tuple[float, ...]
    codebooks_per_bandwidth: tuple[int, ...]
    codebooks_sha256: str


@dataclass(frozen=True)
class MelFeatures:
    """Log-mel spectrogram: HTK scale, magnitudes (power 1), natural logarithm of values clipped at 1e-7."""

    n_fft: int
    hop_length: int
    n_mels: int
    padding: str


@dataclass(frozen=True)
class Source:
    """Where the weights came from."""

    name: str
    revision: str
    sha256: str
    exporter: str


@dataclass(frozen=True)
class ModelConfig:
    """Everything the runtime must know about a model beside its graph.

    ``num_bandwidth_ids`` is 0 where the network is not conditioned on a bandwidth. Exactly one of ``encodec`` and
    ``mel`` is given.
    """

    sample_rate: int
    head: str
    n_fft: int
    hop_length: int
    padding: str
    clip_audio: bool
    feature_channels: int
    num_bandwidth_ids: int
    encodec: EncodecFeatures | None
    mel: MelFeatures | None
    source: Source

    def __post_init__(self) -> None:
        """Raises ValueError where values are out of range or contradict one another."""
        _require(self.head in HEADS, f"head is {self.head!r}, expected one of {HEADS}")
        _require(self.padding in PADDINGS, f"padding is {self.padding!r}, expected one of {PADDINGS}")
        for name in ("sample_rate", "n_fft", "hop_length", "feature_channels"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, expected a positive integer")
        multiple = 2 if self.head == "istft" else 4
        _require(self.n_fft % multiple == 0, f"n_fft is {self.n_fft}, expected a multiple of {multiple}")
        if self.head == "istft":
            _require(
                self.hop_length <= self.n_fft - 2,
                f"hop_length is {self.hop_length}, expected at most n_fft - 2 = {self.n_fft - 2}: frames must overlap",
            )
        else:
            _require(
                self.hop_length * 2 == self.n_fft,
                f"hop_length is {self.hop_length}, expected half the MDCT frame of {self.n_fft}",
            )
        _require(self.num_bandwidth_ids >= 0, f"num_bandwidth_ids is {self.num_bandwidth_ids}, expected 0 or more")
        _require((self.encodec is None) != (self.mel is None), "exactly one of encodec and mel features must be given")
        if self.mel is not None:
            mel = self.mel
            _require(mel.padding in PADDINGS, f"mel padding is {mel.padding!r}, expected one of {PADDINGS}")
            _require(
                mel.n_mels == self.feature_channels,
                f"mel features have {mel.n_mels} bands but the network takes {self.feature_channels} channels",
            )
            _require(
                mel.hop_length == self.hop_length,
                f"mel hop_length is {mel.hop_length} but the head's is {self.hop_length}: they must be equal",
            )
            _require(mel.n_fft >= mel.hop_length, f"mel n_fft is {mel.n_fft}, expected at least {mel.hop_length}")
        if self.encodec is not None:
            enc = self.encodec
            _require(enc.num_codebooks > 0 and enc.codebook_size > 0, "encodec features need at least one codebook")
            _require(
                len(enc.bandwidths) == len(enc.codebooks_per_bandwidth) > 0,
                f"{len(enc.bandwidths)} bandwidths but {len(enc.codebooks_per_bandwidth)} codebook counts",
            )
            _require(
                all(1 <= k <= enc.num_codebooks for k in enc.codebooks_per_bandwidth),
                f"codebooks_per_bandwidth is {enc.codebooks_per_bandwidth}, expected 1 to {enc.num_codebooks} each",
            )
            _require(
                self.num_bandwidth_ids == 0 or self.num_bandwidth_ids >= len(enc.bandwidths),
                f"{len(enc.bandwidths)} bandwidths but only {self.num_bandwidth_ids} bandwidth embeddings",
            )

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what ``to_json`` wrote. Raises ValueError naming what is missing, unknown, mistyped or contradictory."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the metadata is not JSON: {error}") from None
        _require(isinstance(data, dict), "the metadata is not a JSON object")
        version = data.pop("format", None)
        _require(version == FORMAT, f"the metadata has format {version!r}, this version reads format {FORMAT}")
        return _read(cls, data, "")


_T = TypeVar("_T")


def _read(cls: type[_T], data: Any, where: str) -> _T:
    _require(isinstance(data, dict), f"{where or 'the metadata'} is {data!r}, expected an object")
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    missing, unknown = sorted(set(names) - set(data)), sorted(set(data) - set(names))
    _require(not missing, f"the metadata lacks {', '.join(where + n for n in missing)}")
    _require(not unknown, f"the metadata has unknown keys {', '.join(where + n for n in unknown)}")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], data[name], where + name) for name in names})


def _value(hint: Any, value: Any, name: str) -> Any:
    for nested in (EncodecFeatures, MelFeatures, Source):
        if hint in (nested, nested | None):
            return None if value is None and hint is not nested else _read(nested, value, name + ".")
    if hint in (tuple[int, ...], tuple[float, ...]):
        _require(isinstance(value, list), f"{name} is {value!r}, expected a list")
        element = int if hint == tuple[int, ...] else float
        return tuple(_value(element, v, name) for v in value)
    if hint is float and type(value) is int:
        value = float(value)
    _require(type(value) is hint, f"{name} is {value!r}, expected {hint.__name__}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
