"""EnCodec encoders as others save them: Meta's state dict, and the layout of facebook/encodec_24khz."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from vocos_onnx import __version__
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.io.samples import MIN_RATE
from vocos_onnx.limits import MAX_CONTEXT, MAX_N_FFT, MAX_RATE
from vocos_onnx.messages import first_line, shown
from vocos_onnx.model.config import EncoderConfig, Source, parse_json
from vocos_onnx.model.onnx_file import read_file

from .errors import CheckpointError
from .seanet import Geometry, SEANetEncoder
from .sources import Files, find_weights, source_name
from .state_dict import check_finite, check_keys, fold_weight_norm
from .weights import read_weights
from .yaml_config import MAX_CONFIG

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# The rest of that config: what is supported is what EnCodec 24 kHz has. (48 kHz is not causal, and normalised.)
_FIXED: dict[str, Any] = {
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "norm_type": "weight_norm",
    "use_causal_conv": True,
    "pad_mode": "reflect",
}
# The values that a config may have: enough for any EnCodec, and none that would fill the memory.
_LEAST = {"sampling_rate": MIN_RATE, "codebook_size": 2, "last_kernel_size": 2, "target_bandwidths": 0}
_MOST = {
    "sampling_rate": MAX_RATE,
    "target_bandwidths": 1000,
    "upsampling_ratios": 64,
    "codebook_size": 1 << 16,
    "num_lstm_layers": 8,
    "num_residual_layers": 8,
    "last_kernel_size": 32,  # no more than the least number of frames that the runtime encodes at once
}
_MOST_CODEBOOKS = 128


def find_encodec(path: Path) -> Files:
    """The files of a local checkpoint; a state dict of Meta's has no config. Raises FileNotFoundError."""
    expected = (
        f"Meta's encodec_24khz-d7cc33bc.th, a folder with {CONFIG} and {' or '.join(WEIGHTS)}, or the hub id "
        "facebook/encodec_24khz"
    )
    weights = find_weights(path, WEIGHTS, expected)
    config = weights.parent / CONFIG
    if path.is_dir() and not config.is_file():
        raise FileNotFoundError(f"no config {config} beside {weights.name}")
    has_config = config.is_file() and weights.suffix != ".th"
    return Files(config if has_config else None, weights, source_name(path))


def load_encodec(files: Files) -> tuple[SEANetEncoder, Tensor, EncoderConfig]:
    """Modules with their weights, codebooks (K, size, C), and the description of both.

    Raises CheckpointError naming the fields, keys or shapes that are unknown, missing or wrong.
    """
    geometry = _read_geometry(files.config)
    state, digest = read_weights(files.weights)
    _check_name(files.weights, digest)
    state = _translate(fold_weight_norm(state))
    counts = geometry.codebooks_per_bandwidth
    keys = [f"codebooks.{i}" for i in range(max(counts))]
    try:
        with torch.device("meta"):  # shapes only: a config must not fill the memory with what the weights are not
            codebook = torch.empty(geometry.codebook_size, geometry.hidden_size)
            shapes = SEANetEncoder(geometry)
            expected = {**shapes.state_dict(), **dict.fromkeys(keys, codebook)}
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{files.config} is that of no encoder: {first_line(error)}") from error
    if geometry.hop_length > MAX_N_FFT or shapes.left_context > MAX_CONTEXT:
        raise CheckpointError(
            f"{files.config}: a frame has {geometry.hop_length} samples and sees {shapes.left_context} frames before "
            f"it, expected at most {MAX_N_FFT} and {MAX_CONTEXT}"
        )
    # a model may have more codebooks than its bandwidths use
    state = {key: value for key, value in state.items() if key in expected or not key.startswith("codebooks.")}
    check_keys(state, expected, "is not that of this EnCodec")
    check_finite(state)
    codebooks = torch.stack([state.pop(key).float() for key in keys])
    encoder = SEANetEncoder(geometry).eval()
    encoder.load_state_dict({key: value.float() for key, value in state.items()})
    description = EncoderConfig(
        codec="encodec_24khz",
        input="audio",
        sample_rate=geometry.sampling_rate,
        n_fft=0,
        hop_length=geometry.hop_length,
        channels=geometry.hidden_size,
        left_context=encoder.left_context,
        right_context=0,
        codebook_size=geometry.codebook_size,
        bandwidths=geometry.target_bandwidths,
        codebooks_per_bandwidth=counts,
        codebooks_sha256=fingerprints(codebooks.numpy()),
        source=Source(files.name, files.revision, digest, __version__),
    )
    return encoder, codebooks, description


def _check_name(weights: Path, digest: str) -> None:
    """Meta puts the start of the sha256 into the name, and encodec checks it while loading; so do we."""
    match = re.fullmatch(r".+-([0-9a-f]{8})\.th", weights.name)
    if match and not digest.startswith(match[1]):
        raise CheckpointError(
            f"{weights} is damaged or not what it is called: its sha256 begins with {digest[:8]}, not {match[1]}"
        )


def _read_geometry(path: Path | None) -> Geometry:
    """The geometry that a config describes; that of EnCodec 24 kHz where there is none."""
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
    count = max(geometry.codebooks_per_bandwidth)
    if count > _MOST_CODEBOOKS:
        bandwidths = geometry.target_bandwidths
        raise CheckpointError(
            f"{path}: target_bandwidths {bandwidths} take {count} codebooks, expected at most {_MOST_CODEBOOKS}"
        )
    return geometry


def _is_within(value: Any, kind: type, least: float, most: float) -> bool:
    if kind is bool:
        return type(value) is bool
    return type(value) in (int, kind) and least <= value <= most


# Meta's names of a key's parts, and transformers', in our own
_NAMES = (
    (r"encoder\.(?:model|layers)\.", "layers."),
    (r"\.conv\.conv\.", ".conv."),  # Meta wraps each convolution twice
    (r"(\.\d+)\.lstm\.", r"\1."),
    (r"quantizer\.(?:vq\.)?layers\.(\d+)\.(?:_codebook|codebook)\.embed", r"codebooks.\1"),
)


def _translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys that the encoder needs, in our names: layers.N. ... and codebooks.N; the decoder's are left out."""
    translated = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in _NAMES:
            new = re.sub(f"^{pattern}$" if "quantizer" in pattern else pattern, replacement, new, count=1)
        if new.startswith(("layers.", "codebooks.")):
            translated[new] = value
    return translated
