"""A hub with checkpoints of the official geometries and names, but random weights."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints import CODEBOOKS, random_weights, write_encoder, write_vocoder
from tests.hub.server import Hub
from vocos_onnx.dsp.stft import hann_window
from vocos_onnx.model.registry import find_known

MEL_22KHZ = """\
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args: {sample_rate: 22050, n_fft: 1024, hop_length: 256, n_mels: 80, padding: same, f_min: 0, f_max: 8000,
    norm: slaney, mel_scale: slaney}
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {input_channels: 80, dim: 512, intermediate_dim: 1536, num_layers: 8}
head:
  class_path: vocos.heads.ISTFTHead
  init_args: {dim: 512, n_fft: 1024, hop_length: 256, padding: same}
"""


def write_mel_22khz(folder: Path) -> Path:
    """Write a checkpoint with the geometry of BSC-LT/vocos-mel-22khz."""
    weights = random_weights("vocos-mel-22khz") | {"head.istft.window": hann_window(1024)}
    assert CODEBOOKS not in weights
    return write_vocoder(folder, weights, MEL_22KHZ)


_MADE = {
    "charactr/vocos-encodec-24khz": write_vocoder,
    "facebook/encodec_24khz": write_encoder,
    "BSC-LT/vocos-mel-22khz": write_mel_22khz,
}


def official(folder: Path) -> Hub:
    """Write the checkpoints into a folder and return a hub that serves them."""
    for name, write in _MADE.items():
        write(folder / name)
    return found(folder)


def found(folder: Path) -> Hub:
    """A hub with the checkpoints in a folder, at the registry's commits, or at a made-up one if it has none."""
    repositories = {}
    for name in _MADE:
        known = find_known(name)
        assert known is not None
        repositories[name] = {known.revision or "b" * 40: folder / name}
    return Hub(repositories, {name: {"main": next(iter(each))} for name, each in repositories.items()})
