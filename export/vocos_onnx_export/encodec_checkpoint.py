"""Reads EnCodec encoders in other projects' formats into modules."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vocos_onnx import __version__
from vocos_onnx.messages import first_line
from vocos_onnx.model.config import EncoderConfig, Source
from vocos_onnx.model.encoder_checkpoint import check_name, read_geometry, translate
from vocos_onnx.model.sources import Files, source_name

from .errors import CheckpointError
from .seanet import SEANetEncoder
from .sources import find_weights
from .state_dict import check_finite, check_keys, fold_weight_norm
from .weights import read_weights

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def find_encodec(path: Path) -> Files:
    """Returns the files of a local checkpoint; Meta's state dict has no config. Raises FileNotFoundError."""
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
    """Returns modules with their weights, codebooks (K, size, C), and the config of both.

    Raises CheckpointError naming the fields, keys or shapes that are unknown, missing or wrong.
    """
    geometry = read_geometry(files.config)
    state, digest = read_weights(files.weights)
    check_name(files.weights, digest)
    state = translate(fold_weight_norm(state))
    keys = [f"codebooks.{i}" for i in range(max(geometry.codebooks_per_bandwidth))]
    try:
        with torch.device("meta"):  # only shapes: a config must not allocate more memory than the weights take
            codebook = torch.empty(geometry.codebook_size, geometry.hidden_size)
            expected = {**SEANetEncoder(geometry).state_dict(), **dict.fromkeys(keys, codebook)}
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{files.config} is that of no encoder: {first_line(error)}") from error
    # A model may have more codebooks than its bandwidths use.
    state = {key: value for key, value in state.items() if key in expected or not key.startswith("codebooks.")}
    check_keys(state, expected, "is not that of this EnCodec")
    check_finite(state)
    codebooks = torch.stack([state.pop(key).float() for key in keys])
    encoder = SEANetEncoder(geometry).eval()
    encoder.load_state_dict({key: value.float() for key, value in state.items()})
    source = Source(files.name, files.revision, digest, __version__)
    return encoder, codebooks, geometry.described(codebooks.numpy(), source)
