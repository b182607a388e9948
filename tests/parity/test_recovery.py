"""Weights recovered from a model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import DATA
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.model.bundled import default_model
from vocos_onnx_export.errors import CheckpointError
from vocos_onnx_export.modules import ISTFTHead, STFTEncoder, Vocos, VocosBackbone
from vocos_onnx_export.recovery import recover

CODEC = default_model()
ENCODER = CODEC.with_name("vocos-codec-24khz-encoder.onnx")


def bundled() -> Vocos:
    model = Vocos(VocosBackbone(64, 256, 768, 6, None, 4), ISTFTHead(256, 1280, 320)).eval()
    missing, unexpected = model.load_state_dict(recover(CODEC).state, strict=False)
    assert missing == ["head.istft.window"]
    assert unexpected == ["feature_extractor.codebook_weights"]
    return model


def test_the_bundled_codec_decodes_the_same() -> None:
    model, vocos = bundled(), VocosONNX(CODEC)
    assert vocos.network.codebooks is not None
    codes = np.random.default_rng(0).integers(0, 1024, (16, 40))
    table = recover(CODEC).state["feature_extractor.codebook_weights"].view(16, 1024, 64)
    np.testing.assert_array_equal(table.numpy(), vocos.network.codebooks)
    features = sum(table[k, torch.from_numpy(codes[k])] for k in range(16))
    assert isinstance(features, torch.Tensor)
    for bandwidth_id in (0, 3):
        count = (2, 4, 8, 16)[bandwidth_id]
        features = torch.stack([table[k, torch.from_numpy(codes[k])] for k in range(count)]).sum(0)
        with torch.no_grad():
            given = model.to_waveform(model(features.T[None], torch.tensor(bandwidth_id)))[0].numpy()
        expected = vocos.decode(codes[:count], bandwidth_id)
        assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_weights_are_those_of_the_file() -> None:
    """The recovered layer scale is exactly 1/6, and the weights load into the network unchanged."""
    state = recover(CODEC).state
    for i in range(6):
        gamma = state[f"backbone.convnext.{i}.gamma"]
        assert torch.equal(gamma, torch.full((256,), 1 / 6))
    again = bundled()
    for key, value in state.items():
        if key in dict(again.named_parameters()):
            assert torch.equal(again.get_parameter(key), value)


def test_the_encoder_makes_the_same_latents() -> None:
    found = recover(ENCODER)
    assert found.is_encoder
    encoder = STFTEncoder()
    missing, unexpected = encoder.load_state_dict(found.state, strict=False)
    assert set(missing) <= {"window", "norm.num_batches_tracked"}
    assert unexpected == ["feature_extractor.codebook_weights"]
    encoder.eval()
    onnx = EncodecONNX(ENCODER)
    audio = np.random.default_rng(0).normal(0, 0.1, 9600).astype(np.float32)
    with torch.no_grad():
        latents = encoder(torch.from_numpy(audio)[None])[0].T
    expected = onnx.encode(audio, 24_000, 1.5)[0]
    nearest = torch.cdist(latents, torch.from_numpy(onnx.codebooks[0].copy())).argmin(1).numpy()
    assert (nearest == expected).mean() > 0.95


def test_what_cannot_come_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file"):
        recover(tmp_path / "no.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match=r"text\.onnx"):
        recover(tmp_path / "text.onnx")
    for name in ("encodec-int8.onnx", "imdct-cos.onnx"):
        if name == "encodec-int8.onnx":
            with pytest.raises(CheckpointError, match="float32"):
                recover(DATA / name)
    with pytest.raises(CheckpointError, match="vocos-onnx export"):
        recover(DATA / "foreign" / "istft.onnx")
