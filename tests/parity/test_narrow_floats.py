"""torch tensors, and float types that numpy lacks, decode as features exactly as their float32 values do."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.helpers import DATA
from vocos_onnx import VocosONNX, load_audio, save_audio

NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.fixture(scope="module")
def mel() -> VocosONNX:
    return VocosONNX(DATA / "mel.onnx", threads=1)


@pytest.fixture(scope="module")
def encodec() -> VocosONNX:
    return VocosONNX(DATA / "encodec.onnx", threads=1)


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-8, 2, (8, 30)).astype(np.float32))


@pytest.mark.parametrize("name", NARROW)
def test_narrow_floats(mel: VocosONNX, encodec: VocosONNX, features: torch.Tensor, name: str) -> None:
    tensor = features.to(getattr(torch, name))
    expected = mel.decode(tensor.float().numpy())
    array = tensor.float().numpy().astype(getattr(ml_dtypes, name))
    for given in (tensor, array):
        assert np.array_equal(mel.decode(given), expected)
        assert np.array_equal(mel.decode(given[None])[0], expected)
        assert np.array_equal(mel.decode([given, given])[1], expected)
        stream = mel.stream()
        audio = np.concatenate([stream.push(given[:, :11]), stream.push(given[:, 11:]), stream.flush()])
        np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        # a codec also reads them as features, never as tokens
        assert np.array_equal(encodec.decode(given, 0), encodec.decode(tensor.float().numpy(), 0))
        with pytest.raises(ValueError, match="bandwidth_id is missing, and features do not imply one"):
            encodec.decode(given)


def test_other_types_of_ml_dtypes(mel: VocosONNX, features: torch.Tensor) -> None:
    for name in ("int4", "uint4", "bcomplex32"):
        if hasattr(ml_dtypes, name):
            with pytest.raises(ValueError, match=f"dtype {name}, expected floats"):
                mel.decode(np.ones((8, 30)).astype(getattr(ml_dtypes, name)))


def test_tensors(mel: VocosONNX, encodec: VocosONNX, features: torch.Tensor) -> None:
    expected = mel.decode(features.numpy())
    for given in (features, features.clone().requires_grad_(), torch.nn.Parameter(features), features.T.contiguous().T):
        assert np.array_equal(mel.decode(given), expected)
    tokens = torch.randint(1024, (2, 30))
    for given in (tokens, tokens.int(), tokens.short()):
        assert np.array_equal(encodec.decode(given), encodec.decode(tokens.numpy()))
    for given, message in (
        (features.to_sparse(), r"tokens or features cannot be read as one array: .*to_dense\(\)"),
        (features.to("meta"), r"cannot be read as one array: "),
        (
            features.to(torch.complex64).conj(),
            r"cannot be read as one array: .*resolve_conj\(\)|complex64, expected floats",
        ),
        (features.T, r"look like \(T, C\): pass mels\.T"),
        (features.bool(), r"dtype bool, expected floats"),
    ):
        with pytest.raises(ValueError, match=message):
            mel.decode(given)


def test_tensors_are_audio(mel: VocosONNX, tmp_path: Path) -> None:
    tensor = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, 4800).astype(np.float32))
    for given in (tensor.clone().requires_grad_(), tensor.bfloat16(), tensor.half()):
        expected = given.detach().float().numpy()
        assert np.array_equal(mel.features(given, mel.sample_rate), mel.features(expected, mel.sample_rate))
        save_audio(tmp_path / "a.wav", given, mel.sample_rate)
        assert np.allclose(load_audio(tmp_path / "a.wav", mel.sample_rate), expected, rtol=0, atol=2**-15)
