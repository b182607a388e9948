"""Files in sherpa-onnx's layout give the real vocos's magnitudes and phases; unsupported models raise an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tests.parity.test_skeletons import assert_same
from tests.parity.upstream import CONFIGS, SMALL, build, save, strengthen
from vocos_onnx import ModelConfig
from vocos_onnx.cli import main
from vocos_onnx.convert.calibration import Decoder
from vocos_onnx.convert.vocoder import convert_vocoder
from vocos_onnx.model.sherpa import DESCRIPTION_KEY, settings, sherpa_metadata, spectrum_of
from vocos_onnx.model.sources import Files
from vocos_onnx_export import CheckpointError, export
from vocos_onnx_export import vocoder as module
from vocos_onnx_export.tracing import trace_spectrum

NAMES = ("mel-same", "resnet", "hop-300-of-1000", "hop-255-of-1024", "hop-400-of-512-resnet", "tiny")
LENGTHS = (1, 2, 3, 27, 28, 29, 100)


def silent(line: str) -> None:
    pass


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_head_of_upstream(name: str, tmp_path: Path) -> None:
    config = {**CONFIGS, **SMALL}[name]
    model = build(config)
    strengthen(model)
    path = tmp_path / "model.onnx"
    described = export(str(save(model, config, tmp_path / "checkpoint")), path, format="sherpa", report=silent)
    assert metadata_of(path) == sherpa_metadata(described)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["mels"]
    assert [value.name for value in session.get_outputs()] == ["mag", "x", "y"]
    for batch in (1, 3):
        for frames in LENGTHS:
            shape = batch, described.feature_channels, frames
            mels = np.random.default_rng(frames).uniform(-8, 2, shape).astype(np.float32)
            with torch.inference_mode():
                m, p = model.head.out(model.backbone(torch.from_numpy(mels))).transpose(1, 2).chunk(2, dim=1)
            outputs = session.run(None, {"mels": mels})
            for given, expected in zip(outputs, (m.exp().clip(max=1e2), p.cos(), p.sin()), strict=True):
                assert given.shape == (batch, described.n_fft // 2 + 1, frames)
                assert np.abs(given - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())


def test_convert_writes_the_same(tmp_path: Path) -> None:
    config = CONFIGS["mel-center"]
    folder = save(build(config), config, tmp_path / "checkpoint")
    export(str(folder), tmp_path / "exported.onnx", format="sherpa", report=silent)
    files = Files(folder / "config.yaml", folder / "pytorch_model.bin", "checkpoint")
    convert_vocoder(files, tmp_path / "converted.onnx", format="sherpa")
    converted, exported = (onnx.load(tmp_path / f"{name}.onnx") for name in ("converted", "exported"))
    assert {e.key: e.value for e in converted.metadata_props} == {e.key: e.value for e in exported.metadata_props}
    for proto in converted, exported:  # the order of metadata may differ
        del proto.metadata_props[:]
    assert_same(converted, exported)


def test_int8(tmp_path: Path) -> None:
    config = CONFIGS["mel-center"]
    model = build(config)
    strengthen(model)
    folder = str(save(model, config, tmp_path / "checkpoint"))
    lines: list[str] = []
    given = export(folder, tmp_path / "int8.onnx", precision="int8", format="sherpa", report=lines.append)
    assert given.precision == "int8" and given.quality is not None and given.quality.snr_db > 20
    assert any(line.startswith("int8 against float32, ") for line in lines)
    metadata = metadata_of(tmp_path / "int8.onnx")
    assert metadata == sherpa_metadata(given)
    assert ModelConfig.from_json(metadata[DESCRIPTION_KEY]) == given
    assert settings(metadata) == (24_000, 1024, 256, True)
    tensors = onnx.load(tmp_path / "int8.onnx").graph.initializer
    assert sum(numpy_helper.to_array(tensor).dtype == np.int8 for tensor in tensors) >= 17

    export(folder, tmp_path / "ours.onnx", precision="int8", report=silent)
    ours = Decoder(tmp_path / "ours.onnx")
    assert ours.config.quality is not None
    assert given.quality.snr_db == pytest.approx(ours.config.quality.snr_db, abs=0.3)
    mels = np.random.default_rng(0).uniform(-8, 2, (1, 100, 80)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    outputs = dict(zip(("mag", "x", "y"), session.run(None, {"mels": mels}), strict=True))
    with torch.inference_mode():
        audio = model.decode(torch.from_numpy(mels))[0].numpy()
    error = ours.audio(spectrum_of(outputs)) - audio
    assert 10 * np.log10(np.square(audio).sum() / np.square(error).sum()) > 15


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("encodec-plain", {}, "the model takes tokens of encodec_24khz, expected mels"),
    ("mel-adanorm", {}, "takes one of 3 bandwidth ids beside the mels"),
    ("imdct-cos-same", {}, "the head is imdct_cos, expected istft"),
    ("imdct-symexp-center", {}, "the head is imdct_symexp, expected istft"),
    ("tiny", {"istft": "graph"}, "leave one of --istft graph and --format sherpa out"),
    ("tiny", {"precision": "float16"}, "leave one of --fp16 and --format sherpa out"),
    ("hop-400-of-512-resnet", {"precision": "int8"}, "VocosResNetBackbone, .*: int8 does nothing for it"),
]


@pytest.mark.parametrize(("name", "options", "match"), REFUSED)
def test_what_is_refused(name: str, options: dict[str, Any], match: str, tmp_path: Path) -> None:
    folder = save(build(SMALL[name]), SMALL[name], tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=match):
        export(str(folder), tmp_path / "model.onnx", format="sherpa", report=silent, **options)
    assert not (tmp_path / "model.onnx").exists()


def test_a_wrong_graph_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong graph, here with cosines and sines exchanged, fails verification."""

    def exchanged(model: Any) -> onnx.ModelProto:
        proto = trace_spectrum(model)
        for node in proto.graph.node:
            node.op_type = {"Sin": "Cos", "Cos": "Sin"}.get(node.op_type, node.op_type)
        return proto

    monkeypatch.setattr(module, "trace_spectrum", exchanged)
    folder = save(build(SMALL["tiny"]), SMALL["tiny"], tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"differs from torch in \d+ of 30 checks, first in the x by"):
        export(str(folder), tmp_path / "model.onnx", format="sherpa", report=silent)
    assert not (tmp_path / "model.onnx").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(build(SMALL["tiny"]), SMALL["tiny"], tmp_path / "checkpoint")
    path = tmp_path / "model.onnx"
    assert main(["export", str(folder), "-o", str(path), "--format", "sherpa"]) == 0
    head, values, *_ = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["bandwidth_id", "mag", "x", "y"]
    assert max(map(float, values.split()[1:])) <= 1e-4
    assert metadata_of(path)["center"] == "1"
