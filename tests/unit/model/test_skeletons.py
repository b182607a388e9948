"""Models filled without torch, and errors for weights that do not fit. tests/parity compares them with exports."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.arrays import Float
from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.model.checkpoint import CheckpointError
from vocos_onnx.model.config import (
    ENCODER_KEY,
    METADATA_KEY,
    EncodecFeatures,
    EncoderConfig,
    ModelConfig,
    Quality,
    Source,
)
from vocos_onnx.model.onnx_bytes import ALIGNMENT
from vocos_onnx.model.onnx_file import read_model
from vocos_onnx.model.skeletons import ENCODEC, RANGES, SPECTRUM, Skeleton, filled, find, forms, known, load

SMALLEST = "vocos-encodec-24khz"
SOURCE = Source("", "", "", "0")


def random_weights(skeleton: Skeleton, seed: int = 0) -> dict[str, Float]:
    """Small random values; scales are around 1."""
    rng = np.random.default_rng(seed)
    around_one = ("scale.weight", "norm.weight", "gamma")
    return {
        name: (rng.normal(0, 0.05, shape) + name.endswith(around_one)).astype(np.float32)
        for name, shape in skeleton.weights.items()
    }


def codec(precision: str = "float32") -> tuple[ModelConfig, Float]:
    """The description of a model in the smallest geometry, and random codebooks."""
    codebooks = np.random.default_rng(1).normal(0, 1, (4, 1024, 128)).astype(np.float32)
    features = EncodecFeatures("", 4, 1024, (1.5, 3.0), (2, 4), fingerprints(codebooks)[-1])
    quality = None if precision == "float32" else Quality(30.0, None, 1.0)
    geometry = known()[SMALLEST]
    return ModelConfig(
        24_000, "istft", geometry.n_fft, geometry.hop_length, geometry.padding, False, geometry.input_channels, 4, 27,
        features, None, SOURCE, precision, quality,
    ), codebooks  # fmt: skip


def written(path: Path, form: str, weights: dict[str, Float], ranges: dict[str, tuple[float, float]] | None) -> Path:
    precision = form.removesuffix("-istft")
    config, codebooks = codec(precision if precision in ("int8", "float16") else "float32")
    metadata = {METADATA_KEY: config.to_json()}
    with path.open("wb") as file:
        file.writelines(
            filled(load(SMALLEST, form), weights, ranges=ranges, metadata=metadata, codebooks=codebooks,
                   producer_version="0")
        )  # fmt: skip
    return path


def snr(expected: Float, given: Float) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(given - expected).sum()))


@pytest.mark.parametrize("name", known())
def test_known(name: str) -> None:
    """Each geometry is found; its forms take the same weights, and their skeletons contain none."""
    geometry = known()[name]
    assert find(geometry) == name
    assert find(replace(geometry, n_fft=geometry.n_fft * 2)) is None
    weights = load(name).weights
    if geometry.head == "wavenext":
        assert weights["head.linear_1.weight"] == (geometry.n_fft + 2, geometry.dim)
        assert weights["head.linear_2.weight"] == (geometry.hop_length, geometry.n_fft + 2)
        assert SPECTRUM not in forms(name)
    else:
        assert weights["head.out.weight"] == (geometry.n_fft + 2, geometry.dim)
        assert SPECTRUM in forms(name)
    assert weights["backbone.embed.weight"] == (geometry.dim, geometry.input_channels, 7)
    for form in forms(name):
        skeleton = load(name, form)
        assert (skeleton.name, skeleton.form, skeleton.weights) == (name, form, weights)
        assert len(skeleton.model) < 70_000  # the weights have at least 32 MB
        assert len(skeleton.layers) == (2 * geometry.num_layers + 1 if form.startswith("int8") else 0)


def test_all_forms_decode(tmp_path: Path) -> None:
    """With the same weights, every form gives the same audio, within its precision."""
    skeleton = load(SMALLEST)
    weights = random_weights(skeleton)
    original = VocosONNX(written(tmp_path / "float32.onnx", "float32", weights, None))
    tokens = np.random.default_rng(2).integers(1024, size=(4, 60))
    audio = original.decode(tokens, 1)
    assert audio.shape == (60 * 320,) and audio.std() > 1e-3
    features = original.codes_to_features(tokens)

    watched = onnxruntime.InferenceSession(
        written(tmp_path / "ranges.onnx", RANGES, weights, None).read_bytes(), providers=["CPUExecutionProvider"]
    )
    layers = [output.name for output in watched.get_outputs()]
    assert layers == load(SMALLEST, "int8").layers
    values = watched.run(layers, {"features": features, "bandwidth_id": np.array(1)})
    ranges = {n: (min(0.0, float(v.min())), max(0.0, float(v.max()))) for n, v in zip(layers, values, strict=True)}

    least = {"float32-istft": 110, "int8": 20, "int8-istft": 20, "float16": 40, "float16-istft": 40}
    for form, decibels in least.items():
        path = written(tmp_path / f"{form}.onnx", form, weights, ranges if form.startswith("int8") else None)
        model = VocosONNX(path)
        assert (model.config.precision, model.decode(tokens, 1).shape) == (form.removesuffix("-istft"), audio.shape)
        assert snr(audio, model.decode(tokens, 1)) > decibels, form
        stream = np.concatenate(list(model.decode_stream([tokens[:, :7], tokens[:, 7:]], 1)))
        assert snr(audio, stream) > min(decibels, 100), form

    spectrum = onnxruntime.InferenceSession(
        written(tmp_path / "spectrum.onnx", SPECTRUM, weights, None).read_bytes(), providers=["CPUExecutionProvider"]
    )
    mag, x, y = spectrum.run(["mag", "x", "y"], {"features": features, "bandwidth_id": np.array(1)})
    expected = original.network.spectrum(features, 1).transpose(0, 2, 1)
    assert mag.shape == (1, 641, 60)
    assert np.abs(mag * (x + 1j * y) - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_weights_lie_where_they_can_be_used(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", "float32-istft", random_weights(load(SMALLEST)), None)
    model = read_model(path)
    assert model.codebooks is not None
    arrays = [*model.weights.values(), model.codebooks]
    assert all(array.ctypes.data % ALIGNMENT == 0 and not array.flags.owndata for array in arrays)
    assert np.array_equal(model.codebooks, codec()[1])


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Filling a file of 54 MB one tensor at a time takes less than 32 MB beyond the given weights."""
    skeleton = load("vocos-mel-24khz", "float32-istft")
    weights = random_weights(skeleton)
    metadata = {METADATA_KEY: mel_config().to_json()}
    with (tmp_path / "m.onnx").open("wb") as file:
        pieces = filled(skeleton, weights, metadata=metadata, codebooks=None, producer_version="0")
        tracemalloc.start()
        try:
            file.writelines(pieces)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "m.onnx").stat().st_size > 54e6
    assert peak < 32e6  # mostly the basis of the inverse STFT, computed in double precision
    mels = np.random.default_rng(0).uniform(-8, 2, (100, 20)).astype(np.float32)
    assert VocosONNX(tmp_path / "m.onnx").decode(mels).shape == (19 * 256,)


def mel_config() -> ModelConfig:
    mel = MelFeatures(1024, 256, 100, "center", 0.0, 12_000.0)
    return ModelConfig(24_000, "istft", 1024, 256, "center", False, 100, 0, 27, None, mel, SOURCE)


def test_encoder(tmp_path: Path) -> None:
    skeleton = load(ENCODEC)
    codebooks = np.random.default_rng(1).normal(0, 1, (2, 1024, 128)).astype(np.float32)
    config = EncoderConfig(
        "encodec_24khz", "audio", 24_000, 0, 320, 128, 3, 0, 1024, (1.5,), (2,), fingerprints(codebooks), SOURCE
    )
    pieces = filled(
        skeleton, random_weights(skeleton), metadata={ENCODER_KEY: config.to_json()}, codebooks=codebooks,
        producer_version="0",
    )  # fmt: skip
    (tmp_path / "e.onnx").write_bytes(b"".join(pieces))
    audio = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    assert EncodecONNX(tmp_path / "e.onnx").encode(audio, 24_000, 1.5).shape == (2, 75)


def refused(name: str, form: str, weights: dict[str, Float], **given: dict[str, tuple[float, float]]) -> str:
    with pytest.raises(ValueError) as caught:
        filled(load(name, form), weights, metadata={}, codebooks=None, producer_version="0", **given)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_weights_that_do_not_fit() -> None:
    """The error names every fault, before any of the file is made."""
    weights = random_weights(load(SMALLEST))
    weights.pop("backbone.norm.scale.weight")
    weights["head.istft.window"] = np.zeros(1280, np.float32)
    weights["head.out.weight"] = weights["head.out.weight"].T
    assert refused(SMALLEST, "float32", weights) == (
        "CheckpointError: the state dict does not fit its config: it lacks backbone.norm.scale.weight; has the unknown "
        "key head.istft.window; has head.out.weight of shape (384, 1282), expected (1282, 384)"
    )
    assert issubclass(CheckpointError, ValueError)
    message = refused(ENCODEC, "float32", {})
    assert message.startswith("CheckpointError: the state dict is not that of this EnCodec: it lacks layers.0.conv.wei")
    assert message.endswith("more)")


def test_int8_without_ranges() -> None:
    weights = random_weights(load(SMALLEST))
    some = dict.fromkeys(load(SMALLEST, "int8").layers[1:], (0.0, 1.0))
    message = "ValueError: int8 needs the ranges of the inputs of its layers: they lack backbone.convnext.0.pwconv1"
    assert refused(SMALLEST, "int8", weights, ranges=some) == message


@pytest.mark.parametrize(
    ("name", "form"), [("vocos-mel-24khz", "int4"), ("../x", "float32"), (ENCODEC, "int8"), ("wavenext-mel", SPECTRUM)]
)
def test_no_such_skeleton(name: str, form: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"there is no skeleton '{name}' in the form '{form}'")):
        load(name, form)
