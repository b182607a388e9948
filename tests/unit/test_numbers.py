"""Extreme numbers: the audio is finite, or an error names the stage that made it non-finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import DATA
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.inverse import check_finite


@pytest.mark.parametrize("name", ["encodec", "encodec-int8"])
def test_nan_in_the_codebooks(name: str, tmp_path: Path) -> None:
    table = VocosONNX(DATA / "encodec.onnx").network.codebooks
    assert table is not None
    entry = table[0, 0]
    data = (DATA / f"{name}.onnx").read_bytes()
    assert data.count(entry.tobytes()) == 1
    path = tmp_path / "nan.onnx"
    path.write_bytes(data.replace(entry.tobytes(), np.full_like(entry, np.nan).tobytes()))
    with pytest.raises(ValueError, match=r"the model's codebooks hold NaN or infinity: the file is damaged"):
        VocosONNX(path)


@pytest.mark.parametrize("name", ["encodec", "mel-istft"])
def test_nan_in_the_weights(name: str, tmp_path: Path) -> None:
    data = (DATA / f"{name}.onnx").read_bytes()
    bias = data.index(b"backbone.embed.bias\x4a\x20") + len(b"backbone.embed.bias\x4a\x20")  # 8 floats
    path = tmp_path / "nan.onnx"
    path.write_bytes(data[:bias] + np.float32(np.nan).tobytes() + data[bias + 4 :])
    vocos = VocosONNX(path)
    tokens = np.ones((2, 100), int) if vocos.config.encodec else np.ones((8, 100), np.float32)
    with pytest.raises(
        FloatingPointError, match=r"the network gave NaN .* in 100 of 100 frames, first in frame 0 of item"
    ):
        vocos.decode(tokens)
    with pytest.raises(FloatingPointError, match=r"the network gave NaN"):
        list(vocos.decode_stream([tokens]))


@pytest.mark.parametrize(
    "name", ["encodec", "mel", "imdct-symexp", "imdct-cos", "wavenext", "encodec-int8", "mel-int8", "mel-istft"]
)
@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1.0, 1e4, 1e10, 1e20, 1e30, 3e38])
def test_features_of_any_size(name: str, scale: float) -> None:
    """Features may be denormal, overflow in exp, or overflow when squared."""
    vocos = VocosONNX(DATA / f"{name}.onnx")
    rng = np.random.default_rng(0)
    features = (rng.uniform(-1, 1, (vocos.config.feature_channels, 40)) * scale).astype(np.float32)
    try:
        audio = vocos.decode(features, 0 if vocos.config.num_bandwidth_ids else None)
    except FloatingPointError as error:
        assert scale >= 1e10
        assert "the network gave NaN" in str(error)
    else:
        assert np.isfinite(audio).all()
        # magnitudes are at most 100, in 641 bins; four frames add up in each sample
        assert np.abs(audio).max() < 1e4


def test_audio_of_any_size() -> None:
    encoder = EncodecONNX(DATA / "encoder.onnx")
    noise = np.random.default_rng(0).uniform(-1, 1, 3000)
    for scale in (0.0, 1e-45, 1e-38, 1.0, 60.0, 100.0, 1e10, 3e38):
        for one in (encoder, EncodecONNX()):
            try:
                codes = one.encode((noise * scale).astype(np.float32), 24_000, one.bandwidths[0])
            except ValueError as error:
                assert scale >= 100
                assert "expected floats with full scale ±1" in str(error)
            else:
                assert scale < 100
                assert 0 <= codes.min() <= codes.max() <= 1023


def test_each_stage_is_named() -> None:
    audio = np.array([[0.0, np.inf]], np.float32)
    with pytest.raises(FloatingPointError, match=r"the inverse transform overflowed: the spectrum reaches 2"):
        check_finite(audio, np.full((1, 2, 3), 2.0))
    with pytest.raises(FloatingPointError, match=r"in 1 of 2 frames, first in frame 1 of item 0: its weights are"):
        check_finite(audio, np.array([[[1.0], [np.nan]]]))
