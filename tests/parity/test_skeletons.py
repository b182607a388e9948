"""Models filled without torch equal exported ones, and the skeletons are up to date with the export."""

from __future__ import annotations

import io
import lzma
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tests.parity import upstream
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.convert.vocoder import convert_vocoder
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.model.bundled import bundled_file
from vocos_onnx.model.config import ENCODER_KEY, ModelConfig
from vocos_onnx.model.skeletons import ENCODEC, RANGES, SPECTRUM, Geometry, filled, forms, known, load, read
from vocos_onnx.model.sources import Files
from vocos_onnx_export import export
from vocos_onnx_export.skeletons import Traced, compressed, encoder, traced, vocoder
from vocos_onnx_export.target import save

SMALL = (
    Geometry(8, 16, 24, 2, 0, 64, 16, "same"),
    Geometry(16, 24, 40, 3, 2, 96, 48, "center"),
    Geometry(8, 16, 24, 2, 2, 31, 20, "same", "wavenext"),
)


def assert_same(given: onnx.ModelProto, expected: onnx.ModelProto) -> None:
    """Asserts equal nodes, inputs, outputs and, bit for bit, initializers; the order of the initializers may differ."""
    tensors = [
        {t.name: (t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer}
        for model in (given, expected)
    ]
    assert tensors[0].keys() == tensors[1].keys()
    assert [name for name in tensors[0] if tensors[0][name] != tensors[1][name]] == []
    rest = []
    for model in given, expected:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        del copied.graph.initializer[:]
        rest.append(copied.SerializeToString(deterministic=True))
    assert rest[0] == rest[1]


def filled_forms(case: Traced, archive: bytes, folder: Path) -> None:
    """Fill every form with the weights of ``case`` and compare the file and its audio with the traced model."""
    for form, proto in case.forms.items():
        expected = onnx.ModelProto()
        expected.CopyFrom(proto)
        expected.producer_name, expected.producer_version = "vocos-onnx", "1.2.3"
        codebooks = None
        for entry in expected.metadata_props:
            config = ModelConfig.from_json(entry.value)
            if config.encodec:
                codebooks = np.random.default_rng(0).normal(0, 1, (1, 1, config.feature_channels)).astype(np.float32)
                encodec = replace(config.encodec, codebooks_sha256=fingerprints(codebooks)[-1])
                entry.value = replace(config, encodec=encodec).to_json()
                expected.graph.initializer.append(numpy_helper.from_array(codebooks, "codebooks"))
        pieces = filled(
            read(archive, case.name, form),
            case.weights,
            ranges=case.ranges,
            metadata={entry.key: entry.value for entry in expected.metadata_props},
            codebooks=codebooks,
            producer_version="1.2.3",
        )
        path, traced_path = folder / f"{form}.onnx", folder / f"{form}-traced.onnx"
        path.write_bytes(b"".join(pieces))
        assert_same(onnx.load(path), expected)
        if form not in (RANGES, SPECTRUM):
            save(expected, traced_path)
            given, other = VocosONNX(path), VocosONNX(traced_path)
            assert path.stat().st_size == pytest.approx(traced_path.stat().st_size, abs=10_000)
            features = np.random.default_rng(0).uniform(-8, 2, (given.config.feature_channels, 40)).astype(np.float32)
            bandwidth_id = 1 if given.config.num_bandwidth_ids else None
            audio = given.decode(features, bandwidth_id)
            assert np.isfinite(audio).all() and audio.std() > 0
            assert np.array_equal(audio, other.decode(features, bandwidth_id))
            chunks = [features[:, :9], features[:, 9:]]
            stream, expected_stream = (
                np.concatenate(list(vocos.decode_stream(chunks, bandwidth_id))) for vocos in (given, other)
            )
            assert np.array_equal(stream, expected_stream)
            traced_path.unlink()
        path.unlink()


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(archive))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", known())
def test_known_geometry(name: str, tmp_path: Path) -> None:
    """Tracing with other weights than the generator's gives the same skeleton, so it contains no weights."""
    case = traced(name, seed=1)
    archive = bundled_file(f"skeletons/{name}.tar.xz").read_bytes()
    given = members(archive)
    assert set(case.forms) == set(forms(name))
    expected = case.archive()
    assert list(given) == list(expected)
    assert [member for member in given if given[member] != expected[member]] == []
    for form in forms(name):
        skeleton = onnx.load_from_string(given[f"{form}.onnx"])
        constants = [numpy_helper.to_array(tensor) for tensor in skeleton.graph.initializer]
        assert all(array.size <= 1 or (array.dtype == np.int64 and array.size <= 8) for array in constants)
    filled_forms(case, archive, tmp_path)


@pytest.mark.parametrize("geometry", SMALL)
def test_small_geometry(geometry: Geometry, tmp_path: Path) -> None:
    case = vocoder("small", geometry, seed=2)
    archive = compressed(case.archive())
    assert archive == compressed(vocoder("small", geometry, seed=3).archive())
    filled_forms(case, archive, tmp_path)


def test_encoder(tmp_path: Path) -> None:
    case = encoder(seed=1)
    given = members(bundled_file(f"skeletons/{ENCODEC}.tar.xz").read_bytes())
    assert given == case.archive()
    (expected,) = case.forms.values()
    expected.producer_name, expected.producer_version = "vocos-onnx", "0"
    (codebooks,) = (numpy_helper.to_array(t) for t in expected.graph.initializer if t.name == "codebooks")
    metadata = {entry.key: entry.value for entry in expected.metadata_props}
    assert list(metadata) == [ENCODER_KEY]
    pieces = filled(load(ENCODEC), case.weights, metadata=metadata, codebooks=codebooks, producer_version="0")
    (tmp_path / "given.onnx").write_bytes(b"".join(pieces))
    assert_same(onnx.load(tmp_path / "given.onnx"), expected)
    save(expected, tmp_path / "expected.onnx")
    audio = np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32)
    given_embeddings, embeddings = (
        EncodecONNX(tmp_path / f"{name}.onnx").embed(audio, 24_000) for name in ("given", "expected")
    )
    assert np.array_equal(given_embeddings, embeddings)


@pytest.mark.parametrize("precision", ["float32", "int8", "float16"])
def test_real_checkpoint(precision: str, tmp_path: Path) -> None:
    """End to end: converting an upstream checkpoint writes the same model as exporting and quantising it."""
    config = upstream.CONFIGS["encodec"]
    checkpoint = upstream.save(upstream.build(config), config, tmp_path / "checkpoint")
    tokens = np.random.default_rng(0).integers(1024, size=(16, 300))
    export(
        str(checkpoint), tmp_path / "exported.onnx", istft="graph", precision=precision, calibration=[tokens],
        report=silent,
    )  # fmt: skip
    files = Files(checkpoint / "config.yaml", checkpoint / "pytorch_model.bin", "checkpoint")
    convert_vocoder(files, tmp_path / "converted.onnx", precision=precision, istft="graph", calibration=[tokens])
    converted, exported = (onnx.load(tmp_path / f"{name}.onnx") for name in ("converted", "exported"))
    configs = []
    for proto in converted, exported:
        (entry,) = proto.metadata_props
        configs.append(ModelConfig.from_json(entry.value))
        del proto.metadata_props[:]
    assert replace(configs[0], quality=configs[1].quality) == configs[1]
    if precision == "int8":  # the ranges are measured in two graphs that round differently
        given, expected = (
            {t.name: t for t in proto.graph.initializer if t.name.endswith("input_scale")}
            for proto in (converted, exported)
        )
        for name, tensor in given.items():
            scales = numpy_helper.to_array(tensor), numpy_helper.to_array(expected[name])
            np.testing.assert_allclose(*scales, rtol=1e-6)
            tensor.CopyFrom(expected[name])
    assert_same(converted, exported)


def test_spectrum_is_that_of_upstream(tmp_path: Path) -> None:
    config = upstream.CONFIGS["mel-center"]
    model = upstream.build(config)
    weights: dict[str, Any] = {
        k: v.numpy() for k, v in model.state_dict().items() if k.startswith(("backbone.", "head.out."))
    }
    pieces = filled(load("vocos-mel-24khz", SPECTRUM), weights, metadata={}, codebooks=None, producer_version="0")
    session = onnxruntime.InferenceSession(b"".join(pieces), providers=["CPUExecutionProvider"])
    mels = np.random.default_rng(0).uniform(-8, 2, (2, 100, 30)).astype(np.float32)
    mag, x, y = session.run(None, {"mels": mels})
    with torch.inference_mode():
        m, p = model.head.out(model.backbone(torch.from_numpy(mels))).transpose(1, 2).chunk(2, dim=1)
    for given, expected in (mag, m.exp().clip(max=1e2)), (x, p.cos()), (y, p.sin()):
        assert given.shape == (2, 513, 30)
        assert np.abs(given - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())


def silent(line: str) -> None:
    pass
