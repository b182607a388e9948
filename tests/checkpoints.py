"""Checkpoints of the official geometries with random weights, made without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.torch_bytes import entry, safetensors, saved
from vocos_onnx.arrays import Float
from vocos_onnx.dsp.stft import hann_window
from vocos_onnx.model import skeletons

CODEBOOKS = "feature_extractor.codebook_weights"
ENCODEC_CONFIG = """\
feature_extractor:
  class_path: vocos.feature_extractors.EncodecFeatures
  init_args:
    encodec_model: encodec_24khz
    bandwidths: [1.5, 3.0, 6.0, 12.0]
backbone:
  class_path: vocos.models.VocosBackbone
  init_args:
    input_channels: 128
    dim: 384
    intermediate_dim: 1152
    num_layers: 8
    adanorm_num_embeddings: 4
head:
  class_path: vocos.heads.ISTFTHead
  init_args:
    dim: 384
    n_fft: 1280
    hop_length: 320
    padding: same
"""
# from configs/wavenext.yaml at github.com/wetdog/wavenext_pytorch: the sections and arguments that upstream lacks
WAVENEXT = """
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args:
    sample_rate: 22050
    n_fft: 1024
    hop_length: 256
    n_mels: 80
    padding: same
    f_min: 0
    f_max: 8000
    norm: "slaney"
    mel_scale: "slaney"
    clip_val: 1e-5
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {input_channels: 80, dim: 512, intermediate_dim: 1536, num_layers: 8}
head:
  class_path: vocos.heads.WaveNextHead
  init_args: {dim: 512, n_fft: 1024, hop_length: 256, padding: same}
melspec_loss:
  class_path: vocos.loss.MelSpecReconstructionLoss
  init_args:
    sample_rate: 22050
    n_fft: 1024
    hop_length: 256
    n_mels: 128
    f_min: 0
    f_max: 11025
    norm: "slaney"
    mel_scale: "slaney"
    clip_val: 1e-5
"""


def table() -> Float:
    """The codebooks (32, 1024, 128) of both checkpoints; the vocoder has the first 16."""
    return np.random.default_rng(7).normal(0, 1, (32, 1024, 128)).astype(np.float32)


def random_weights(name: str, seed: int = 0) -> dict[str, Float]:
    """Random weights for every tensor of the geometry, scaled so that each one affects the result."""
    rng = np.random.default_rng(seed)
    weights = {}
    for key, shape in skeletons.load(name).weights.items():
        scale = 0.1 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
        weight = rng.normal(0, scale, shape)
        if "norm" in key and key.endswith("weight") and "shift" not in key:
            weight += 1
        weights[key] = weight.astype(np.float32)
    return weights


def vocoder_state(seed: int = 0) -> dict[str, Float]:
    """The state dict of a checkpoint with the geometry of charactr/vocos-encodec-24khz."""
    codebooks = table()[:16].reshape(-1, 128)
    return {
        CODEBOOKS: codebooks,
        **random_weights("vocos-encodec-24khz", seed),
        "head.istft.window": hann_window(1280),
    }


def write_vocoder(folder: Path, state: dict[str, Float] | None = None, config: str = ENCODEC_CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "pytorch_model.bin").write_bytes(saved(vocoder_state() if state is None else state))
    return folder


def encoder_state() -> dict[str, Float]:
    """The state dict of an encoder in the layout of facebook/encodec_24khz."""
    weights = {f"encoder.{key}": value for key, value in random_weights(skeletons.ENCODEC).items()}
    return weights | {f"quantizer.layers.{k}.codebook.embed": codebook for k, codebook in enumerate(table())}


def write_encoder(folder: Path, state: dict[str, Float] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "encodec"}))
    header, body = {}, []
    at = 0
    for name, array in (encoder_state() if state is None else state).items():
        header[name] = entry("F32", array.shape, at, at + array.nbytes)
        body.append(array.tobytes())
        at += array.nbytes
    (folder / "model.safetensors").write_bytes(safetensors(header, b"".join(body)))
    return folder
