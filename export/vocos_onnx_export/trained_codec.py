"""Reads a trained codec: config.yaml and pytorch_model.bin of the decoder, and the encoder beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vocos_onnx import __version__
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.messages import shown
from vocos_onnx.model.bundled import BUNDLED_CODEC
from vocos_onnx.model.checkpoint_config import CODEBOOKS, CODECS, read_config, read_encodec_features
from vocos_onnx.model.config import EncoderConfig, Source
from vocos_onnx.model.sources import source_name

from .errors import CheckpointError
from .modules import STFTEncoder
from .state_dict import check_finite, check_keys
from .weights import read_weights

ENCODER_WEIGHTS = "encoder.safetensors"


def is_trained(folder: Path) -> bool:
    return (folder / ENCODER_WEIGHTS).is_file()


def load_trained(folder: Path) -> tuple[STFTEncoder, Tensor, EncoderConfig]:
    """Returns modules with their weights, codebooks (K, size, C), and the config of both.

    Raises FileNotFoundError if a file is missing, CheckpointError if a file is not one that training writes.
    """
    for name in ("config.yaml", "pytorch_model.bin"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has an {ENCODER_WEIGHTS} but no {name}, which the training writes too")
    features = read_encodec_features(read_config(folder / "config.yaml"))
    if features.codec != BUNDLED_CODEC:
        raise CheckpointError(f"{folder}: the codec is {shown(features.codec)}, expected {BUNDLED_CODEC!r}")
    weights = folder / ENCODER_WEIGHTS
    encoder = STFTEncoder().eval()
    window = encoder.window
    state, digest = read_weights(weights)
    _check_state(state, encoder.state_dict())
    rounding = max(1e-6, torch.finfo(state["window"].dtype).eps)  # rounded in half precision; the exact one is used
    if not (state["window"].float() - window).abs().max() < rounding:
        raise CheckpointError(f"{weights}: the window is not a Hann window of {encoder.n_fft} samples")
    encoder.load_state_dict({k: window if k == "window" else v.float() for k, v in state.items()})
    table, _ = read_weights(folder / "pytorch_model.bin")
    size = (features.num_codebooks * features.codebook_size, encoder.code_dim)
    _check_state({k: v for k, v in table.items() if k == CODEBOOKS}, {CODEBOOKS: torch.empty(size)})
    codebooks = table[CODEBOOKS].float().reshape(features.num_codebooks, features.codebook_size, -1)
    sample_rate, _ = CODECS[features.codec]
    description = EncoderConfig(
        codec=features.codec,
        input="spectrum",
        sample_rate=sample_rate,
        n_fft=encoder.n_fft,
        hop_length=encoder.hop_length,
        channels=codebooks.shape[-1],
        left_context=encoder.context,
        right_context=encoder.context,
        codebook_size=features.codebook_size,
        bandwidths=features.bandwidths,
        codebooks_per_bandwidth=features.codebooks_per_bandwidth,
        codebooks_sha256=fingerprints(codebooks.numpy()),
        source=Source(source_name(folder), "", digest, __version__),
    )
    return encoder, codebooks, description


def _check_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    check_keys(state, expected, "is not that of this EnCodec")
    check_finite(state)
