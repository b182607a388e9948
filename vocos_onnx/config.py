"""What a model or an encoder is: a frozen description, kept as JSON in the metadata of the .onnx file.

The export writes it with ``to_json``; the runtime reads it with ``from_json``. Every key is required and no other is
allowed, so a file of another version, or a damaged one, is refused instead of half understood.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from .messages import first_line, listed, shown

METADATA_KEY = "vocos_onnx"
ENCODER_KEY = "vocos_onnx_encoder"
FORMAT = 4
HEADS = ("istft", "imdct_symexp", "imdct_cos")
PADDINGS = ("same", "center")
MEL_SCALES = ("htk", "slaney")
MEL_NORMS = ("none", "slaney")
ENCODER_INPUTS = ("audio", "spectrum")
PRECISIONS = ("float32", "int8", "float16")
# No model comes near: what claims more is damaged, or made to fill the memory.
MAX_RATE = 384_000  # Hz, as audio is read and written
MAX_CODEBOOKS, MAX_CODEBOOK_SIZE, MAX_N_FFT = 128, 1 << 16, 1 << 16
MAX_CHANNELS, MAX_LAYERS, MAX_BANDWIDTH_IDS = 1 << 14, 256, 1 << 12
MAX_CONTEXT = 1 << 12  # frames
MAX_OVERLAP = 64  # frames that lie over each other: n_fft over hop_length; networks have 4, sometimes 8 or 16
_MAX_FILTERS = 1 << 22  # values of a mel filterbank; 100 bands of an n_fft of 1024 take 51,300
_MAX_REACH = 1 << 22  # samples of the frames around a stretch; the bundled encoder has 38,400
MAX_KBPS = 1e6
_MAX_JSON, _MAX_STRING = 1 << 20, 1024


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
    """Log-mel spectrogram of magnitudes, ln(max(mel, clip)); see ``vocos_onnx.mel.log_mel``.

    A bin's magnitude is sqrt(re² + im² + power_offset). The mel scale is "htk" or "slaney"; the norm "none" (triangles
    of height 1) or "slaney" (of area 1, with frequencies in Hz).
    """

    n_fft: int
    hop_length: int
    n_mels: int
    padding: str
    f_min: float
    f_max: float
    mel_scale: str = "htk"
    norm: str = "none"
    clip: float = 1e-7
    power_offset: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError where values are out of range."""
        for name, most in (("n_fft", MAX_N_FFT), ("hop_length", MAX_N_FFT), ("n_mels", MAX_CHANNELS)):
            read_size(f"mel {name}", getattr(self, name), most)
        for name in ("f_min", "f_max", "clip", "power_offset"):
            _require(math.isfinite(getattr(self, name)), f"mel {name} is {getattr(self, name)}, expected a finite one")
        _require(self.padding in PADDINGS, f"mel padding is {shown(self.padding)}, expected one of {PADDINGS}")
        _require(self.mel_scale in MEL_SCALES, f"mel_scale is {shown(self.mel_scale)}, expected one of {MEL_SCALES}")
        _require(self.norm in MEL_NORMS, f"mel norm is {shown(self.norm)}, expected one of {MEL_NORMS}")
        _require(
            0 <= self.f_min < self.f_max,
            f"mel f_min is {self.f_min:g} and f_max {self.f_max:g}, expected 0 <= f_min < f_max",
        )
        _require(self.clip > 0, f"mel clip is {self.clip:g}, expected more than 0")
        _require(self.power_offset >= 0, f"mel power_offset is {self.power_offset:g}, expected 0 or more")
        _require(self.n_fft >= self.hop_length, f"mel n_fft is {self.n_fft}, expected at least {self.hop_length}")
        _check_overlap("mel n_fft", self.n_fft, self.hop_length)
        _require(
            self.n_mels * (self.n_fft // 2 + 1) <= _MAX_FILTERS,
            f"mel n_mels is {self.n_mels} and n_fft {self.n_fft}, expected filters of at most {_MAX_FILTERS} values",
        )


@dataclass(frozen=True)
class Quality:
    """How near a model of less than float32 comes to its float32 original, on the input it was calibrated with.

    snr_db: of the waveforms, the original's power over that of the difference. pesq_wb: with the original as the
    reference (the best there is is 4.64), None where it was not measured. seconds: of audio.
    """

    snr_db: float
    pesq_wb: float | None
    seconds: float


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
    ``mel`` is given. ``precision`` is that of the network; ``quality`` says what less than float32 costs.
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
    precision: str = "float32"
    quality: Quality | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where values are out of range or contradict one another."""
        _require(self.head in HEADS, f"head is {shown(self.head)}, expected one of {HEADS}")
        _require(self.padding in PADDINGS, f"padding is {shown(self.padding)}, expected one of {PADDINGS}")
        for name, most in (
            ("sample_rate", MAX_RATE),
            ("n_fft", MAX_N_FFT),
            ("hop_length", MAX_N_FFT),
            ("feature_channels", MAX_CHANNELS),
        ):
            read_size(name, getattr(self, name), most)
        _check_overlap("n_fft", self.n_fft, self.hop_length)
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
        _require(self.precision in PRECISIONS, f"precision is {shown(self.precision)}, expected one of {PRECISIONS}")
        _require(
            (self.quality is None) == (self.precision == "float32"),
            f"precision is {self.precision} and quality {self.quality}: exactly the others have one",
        )
        _require(
            0 <= self.num_bandwidth_ids <= MAX_BANDWIDTH_IDS,
            f"num_bandwidth_ids is {shown(self.num_bandwidth_ids)}, expected 0 or more, and at most "
            f"{MAX_BANDWIDTH_IDS}",
        )
        _require((self.encodec is None) != (self.mel is None), "exactly one of encodec and mel features must be given")
        if self.mel is not None:
            mel = self.mel
            _require(
                mel.n_mels == self.feature_channels,
                f"mel features have {mel.n_mels} bands but the network takes {self.feature_channels} channels",
            )
            _require(
                mel.hop_length == self.hop_length,
                f"mel hop_length is {mel.hop_length} but the head's is {self.hop_length}: they must be equal",
            )
            _require(
                mel.f_max <= self.sample_rate / 2,
                f"mel f_max is {mel.f_max:g}, expected at most half the sample rate, {self.sample_rate / 2:g}",
            )
        if self.encodec is not None:
            enc = self.encodec
            _check_bandwidths(enc.num_codebooks, enc.codebook_size, enc.bandwidths, enc.codebooks_per_bandwidth)
            if enc.codebooks_sha256:  # which a network in training has none of
                _check_fingerprint(enc.codebooks_sha256)
            _require(
                self.num_bandwidth_ids == 0 or self.num_bandwidth_ids >= len(enc.bandwidths),
                f"{len(enc.bandwidths)} bandwidths but only {self.num_bandwidth_ids} bandwidth embeddings",
            )

    def to_json(self) -> str:
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what ``to_json`` wrote. Raises ValueError naming what is missing, unknown, mistyped or contradictory."""
        return _from_json(cls, text)


@dataclass(frozen=True)
class EncoderConfig:
    """What the runtime must know about an encoder beside its graph.

    The graph takes "audio" (batch, samples) or its "spectrum" (batch, frames, n_fft/2 + 1, 2), of a Hann window and
    ``same`` padding; n_fft is 0 for audio. To encode a stretch of audio exactly it must also see ``left_context``
    frames before it and ``right_context`` frames after it. ``codebooks_sha256[k - 1]`` is the sha256 of the first k
    codebooks, little-endian float32: a decoder of k codebooks whose fingerprint it is understands the tokens.
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
        """Raises ValueError where values are out of range or contradict one another."""
        _require(self.input in ENCODER_INPUTS, f"input is {shown(self.input)}, expected one of {ENCODER_INPUTS}")
        for name, most in (("sample_rate", MAX_RATE), ("hop_length", MAX_N_FFT), ("channels", MAX_CHANNELS)):
            read_size(name, getattr(self, name), most)
        if self.input == "spectrum":
            _require(
                self.hop_length <= self.n_fft <= MAX_N_FFT and self.n_fft % 2 == 0,
                f"n_fft is {shown(self.n_fft)}, expected a multiple of 2, at least the hop_length, {self.hop_length}, "
                f"and at most {MAX_N_FFT}",
            )
            _check_overlap("n_fft", self.n_fft, self.hop_length)
        else:
            _require(self.n_fft == 0, f"n_fft is {shown(self.n_fft)}, expected 0 where audio is the input")
        for name, most in (
            ("left_context", MAX_CONTEXT),
            ("right_context", MAX_CONTEXT if self.input == "spectrum" else 0),
        ):
            value = getattr(self, name)
            _require(0 <= value <= most, f"{name} is {shown(value)}, expected 0 or more, and at most {most}")
        reach = (self.left_context + self.right_context) * max(self.n_fft, self.hop_length)
        _require(
            reach <= _MAX_REACH,
            f"left_context and right_context are {self.left_context} and {self.right_context} frames of up to "
            f"{max(self.n_fft, self.hop_length)} samples, expected at most {_MAX_REACH} samples in all",
        )
        for sha256 in self.codebooks_sha256:
            _check_fingerprint(sha256)
        _check_bandwidths(self.num_codebooks, self.codebook_size, self.bandwidths, self.codebooks_per_bandwidth)

    @property
    def num_codebooks(self) -> int:
        return len(self.codebooks_sha256)

    def to_json(self) -> str:
        return _to_json(self)

    @classmethod
    def from_json(cls, text: str) -> EncoderConfig:
        """Read what ``to_json`` wrote. Raises ValueError naming what is missing, unknown, mistyped or contradictory."""
        return _from_json(cls, text)


_T = TypeVar("_T")


def _to_json(config: Any) -> str:
    return json.dumps({"format": FORMAT, **asdict(config)})


def _from_json(cls: type[_T], text: str) -> _T:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"the metadata is not JSON: {error}") from None
    _require(isinstance(data, dict), "the metadata is not a JSON object")
    version = data.pop("format", None)
    _require(version == FORMAT, f"the metadata has format {shown(version)}, this version reads format {FORMAT}")
    return _read(cls, data, "")


def parse_json(text: str, finite: bool = True) -> Any:
    """JSON from outside. Raises ValueError, also where a name comes twice, or an integer has many digits.

    Other numbers must be ``finite``, or may be NaN and infinity, as Python's JSON has them.
    """
    _require(len(text) <= _MAX_JSON, f"it has {len(text)} characters, expected at most {_MAX_JSON}")
    try:
        numbers: dict[str, Any] = {"parse_float": _float, "parse_constant": _no_number} if finite else {}
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object, **numbers)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(first_line(error)) from None


def _integer(digits: str) -> int:
    _require(len(digits) <= 20, f"it has an integer of {len(digits)} digits")
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


def read_size(name: str, value: Any, most: int) -> int:
    """A size from outside. Raises ValueError unless it is an integer from 1 to ``most``."""
    _require(type(value) is int and value > 0, f"{name} is {shown(value)}, expected a positive integer")
    _require(value <= most, f"{name} is {shown(value)}, expected at most {most}")
    return int(value)


def _check_overlap(name: str, n_fft: int, hop_length: int) -> None:
    _require(
        n_fft <= MAX_OVERLAP * hop_length,
        f"{name} is {n_fft}, expected at most {MAX_OVERLAP} times the hop_length, {hop_length}",
    )


def _check_fingerprint(sha256: str) -> None:
    _require(
        re.fullmatch("[0-9a-f]{64}", sha256) is not None,
        f"codebooks_sha256 is {shown(sha256)}, expected 64 hexadecimal digits",
    )


def _check_bandwidths(
    num_codebooks: int, codebook_size: int, bandwidths: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    _require(num_codebooks > 0 and codebook_size > 0, "encodec features need at least one codebook")
    _require(
        num_codebooks <= MAX_CODEBOOKS and codebook_size <= MAX_CODEBOOK_SIZE,
        f"{shown(num_codebooks)} codebooks of {shown(codebook_size)} entries, expected at most {MAX_CODEBOOKS} of "
        f"{MAX_CODEBOOK_SIZE}",
    )
    _require(len(bandwidths) == len(counts) > 0, f"{len(bandwidths)} bandwidths but {len(counts)} codebook counts")
    _require(
        all(1 <= k <= num_codebooks for k in counts),
        f"codebooks_per_bandwidth is {shown(counts)}, expected 1 to {num_codebooks} each",
    )
    _require(
        all(0 <= kbps <= MAX_KBPS for kbps in bandwidths),
        f"bandwidths is {shown(bandwidths)}, expected 0 to {MAX_KBPS:g} kbps each",
    )


def _read(cls: type[_T], data: Any, where: str) -> _T:
    _require(isinstance(data, dict), f"{where or 'the metadata'} is {shown(data)}, expected an object")
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    missing, unknown = sorted(set(names) - set(data)), sorted(set(data) - set(names))
    _require(not missing, f"the metadata lacks {listed(where + n for n in missing)}")
    _require(not unknown, f"the metadata has unknown keys {listed(where + n for n in unknown)}")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], data[name], where + name) for name in names})


def _value(hint: Any, value: Any, name: str) -> Any:
    for nested in (EncodecFeatures, MelFeatures, Quality, Source):
        if hint in (nested, nested | None):
            return None if value is None and hint is not nested else _read(nested, value, name + ".")
    if hint in (tuple[int, ...], tuple[float, ...], tuple[str, ...]):
        _require(isinstance(value, list), f"{name} is {shown(value)}, expected a list")
        _require(len(value) <= MAX_CODEBOOKS, f"{name} has {len(value)} entries, expected at most {MAX_CODEBOOKS}")
        (element, _) = get_args(hint)
        return tuple(_value(element, v, name) for v in value)
    if hint == float | None:
        hint = type(None) if value is None else float
    if hint is float and type(value) is int:
        value = float(value)
    _require(type(value) is hint, f"{name} is {shown(value)}, expected {hint.__name__}")
    if hint is str:
        _require(len(value) <= _MAX_STRING, f"{name} has {len(value)} characters, expected at most {_MAX_STRING}")
        # control characters, and halves of characters, of which neither can be printed
        _require(
            not any(unicodedata.category(character) in ("Cc", "Cs") for character in value),
            f"{name} is {shown(value)}, expected text without control characters",
        )
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
