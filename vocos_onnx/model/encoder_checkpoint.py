"""EnCodec encoders in the formats of others: Meta's state dict, and the layout of facebook/encodec_24khz."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.limits import MAX_CODEBOOKS, MAX_CONFIG, MAX_CONTEXT, MAX_N_FFT, MAX_RATE, MIN_RATE
from vocos_onnx.messages import first_line, shown

from .checkpoint import CheckpointError
from .config import EncoderConfig, Source, parse_json
from .onnx_file import read_file

T = TypeVar("T")

# The rest of that config: only the values of EnCodec 24 kHz are supported. (48 kHz is normalised and not causal.)
_FIXED: dict[str, Any] = {
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "norm_type": "weight_norm",
    "use_causal_conv": True,
    "pad_mode": "reflect",
}
# The range of a config's values: enough for any EnCodec, and none that would exhaust memory.
_LEAST = {"sampling_rate": MIN_RATE, "codebook_size": 2, "last_kernel_size": 2, "target_bandwidths": 0}
_MOST = {
    "sampling_rate": MAX_RATE,
    "target_bandwidths": 1000,
    "upsampling_ratios": 64,
    "codebook_size": 1 << 16,
    "num_lstm_layers": 8,
    "num_residual_layers": 8,
    "last_kernel_size": 32,  # at most the smallest number of frames that the runtime encodes at once
}


@dataclass(frozen=True)
class Geometry:
    """The fields of transformers' EncodecConfig that shape the encoder; the defaults are those of EnCodec 24 kHz."""

    sampling_rate: int = 24_000
    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    compress: int = 2
    num_lstm_layers: int = 2
    codebook_size: int = 1024
    use_conv_shortcut: bool = True

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def left_context(self) -> int:
        """The number of frames before a frame that the convolutions before the LSTM see, rounded up.

        A convolution sees (kernel_size - 1) · dilation + 1 - stride of its inputs before those of its stride; one input
        spans as many samples as the product of the strides before it.
        """
        reach, step = self.kernel_size - 1, 1
        for stride in reversed(self.upsampling_ratios):
            for j in range(self.num_residual_layers):
                reach += (self.residual_kernel_size - 1) * self.dilation_growth_rate**j * step
            reach += stride * step
            step *= stride
        return -(-reach // self.hop_length)

    @property
    def codebooks_per_bandwidth(self) -> tuple[int, ...]:
        """How many codebooks fit into each of the target bandwidths, in kbps."""
        bits = math.log2(self.codebook_size) * math.ceil(self.sampling_rate / self.hop_length)
        return tuple(max(1, math.floor(b * 1000 / bits)) for b in self.target_bandwidths)

    def described(self, codebooks: Float, source: Source) -> EncoderConfig:
        """The description for the model file, given the codebooks (K, size, C)."""
        return EncoderConfig(
            codec="encodec_24khz",
            input="audio",
            sample_rate=self.sampling_rate,
            n_fft=0,
            hop_length=self.hop_length,
            channels=self.hidden_size,
            left_context=self.left_context,
            right_context=0,
            codebook_size=self.codebook_size,
            bandwidths=self.target_bandwidths,
            codebooks_per_bandwidth=self.codebooks_per_bandwidth,
            codebooks_sha256=fingerprints(codebooks),
            source=source,
        )


def check_name(weights: Path, digest: str) -> None:
    """Raises CheckpointError if the name has another sha256: Meta puts its start there, and encodec checks it too."""
    match = re.fullmatch(r".+-([0-9a-f]{8})\.th", weights.name)
    if match and not digest.startswith(match[1]):
        raise CheckpointError(
            f"{weights} is damaged or not what it is called: its sha256 begins with {digest[:8]}, not {match[1]}"
        )


def read_geometry(path: Path | None) -> Geometry:
    """The geometry that a config describes; that of EnCodec 24 kHz if there is no config."""
    if path is None:
        return Geometry()
    try:
        data = parse_json(read_file(path, MAX_CONFIG, "a config").decode(), finite=False)
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON: {first_line(error)}") from error
    if not isinstance(data, dict) or data.get("model_type") != "encodec":
        found = data.get("model_type") if isinstance(data, dict) else data
        raise CheckpointError(f"{path}: model_type is {shown(found)}, expected 'encodec'")
    for key, expected in _FIXED.items():
        if data.get(key, expected) != expected:
            raise CheckpointError(
                f"{path}: {key} is {shown(data[key])}, expected {expected!r}; of the EnCodec models only "
                "24 kHz is supported"
            )
    given: dict[str, Any] = {}
    for field in fields(Geometry):
        if field.name not in data:
            continue
        value, default = data[field.name], cast(Any, field.default)
        several = isinstance(default, tuple)
        kind: type = type(default[0]) if several else type(default)
        least, most = _LEAST.get(field.name, 1), _MOST.get(field.name, 4096)
        values = value if several and isinstance(value, list) else [value]
        if (
            several != isinstance(value, list)
            or not 1 <= len(values) <= 16
            or not all(_is_within(v, kind, least, most) for v in values)
        ):
            what = f"a list of {kind.__name__}" if several else kind.__name__
            span = "" if kind is bool else f" from {least} to {most}"
            raise CheckpointError(f"{path}: {field.name} is {shown(value)}, expected {what}{span}")
        given[field.name] = tuple(map(kind, value)) if several else value
    if data.get("codebook_dim") not in (None, given.get("hidden_size", Geometry.hidden_size)):
        raise CheckpointError(f"{path}: codebook_dim is {shown(data['codebook_dim'])}, expected that of hidden_size")
    geometry = Geometry(**given)
    if geometry.hop_length > MAX_N_FFT or geometry.left_context > MAX_CONTEXT:
        raise CheckpointError(
            f"{path}: a frame has {geometry.hop_length} samples and sees {geometry.left_context} frames before "
            f"it, expected at most {MAX_N_FFT} and {MAX_CONTEXT}"
        )
    count = max(geometry.codebooks_per_bandwidth)
    if count > MAX_CODEBOOKS:
        bandwidths = geometry.target_bandwidths
        raise CheckpointError(
            f"{path}: target_bandwidths {bandwidths} take {count} codebooks, expected at most {MAX_CODEBOOKS}"
        )
    return geometry


def _is_within(value: Any, kind: type, least: float, most: float) -> bool:
    if kind is bool:
        return type(value) is bool
    return type(value) in (int, kind) and least <= value <= most


# patterns for the parts of a key, in Meta's and transformers' naming -> our naming
_NAMES = (
    (r"encoder\.(?:model|layers)\.", "layers."),
    (r"\.conv\.conv\.", ".conv."),  # Meta wraps each convolution twice
    (r"(\.\d+)\.lstm\.", r"\1."),
    (r"quantizer\.(?:vq\.)?layers\.(\d+)\.(?:_codebook|codebook)\.embed", r"codebooks.\1"),
)


def translate(state: Mapping[str, T]) -> dict[str, T]:
    """Renames the keys that the encoder needs, to layers.N. ... and codebooks.N; drops those of the decoder."""
    translated = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in _NAMES:
            new = re.sub(f"^{pattern}$" if "quantizer" in pattern else pattern, replacement, new, count=1)
        if new.startswith(("layers.", "codebooks.")):
            translated[new] = value
    return translated
