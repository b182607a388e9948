"""Conversion to sherpa-onnx's layout without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import random_weights, write_vocoder
from tests.unit.convert.test_convert import no_transposition, rewritten
from vocos_onnx import ModelConfig, VocosONNX
from vocos_onnx.cli import main
from vocos_onnx.convert.vocoder import convert_vocoder
from vocos_onnx.model.checkpoint import CheckpointError
from vocos_onnx.model.onnx_file import read_model
from vocos_onnx.model.operators import FLOAT
from vocos_onnx.model.session import evaluate
from vocos_onnx.model.sherpa import DESCRIPTION_KEY, settings, sherpa_metadata, spectrum_of
from vocos_onnx.model.sources import Files

pytest.importorskip("yaml")

CONFIG = """\
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args: {sample_rate: 22050, n_fft: 1024, hop_length: 256, n_mels: 80, padding: same}
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {input_channels: 80, dim: 512, intermediate_dim: 1536, num_layers: 8}
head:
  class_path: vocos.heads.ISTFTHead
  init_args: {dim: 512, n_fft: 1024, hop_length: 256, padding: same}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sherpa") / "vocos-22khz"
    return write_vocoder(folder, dict(random_weights("vocos-mel-22khz")), CONFIG)


def test_graph_and_metadata(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = tmp_path / "ours.onnx", tmp_path / "theirs.onnx"
    assert main(["convert", str(checkpoint), "-o", str(ours)]) == 0
    capsys.readouterr()
    assert main(["convert", str(checkpoint), "-o", str(theirs), "--format", "sherpa"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("largest difference of the spectrum from float64 arithmetic, relative to the peak:")
    assert lines[1].startswith(f"wrote {theirs}")

    file, vocos = read_model(theirs), VocosONNX(ours)
    assert [tuple(value) for value in file.inputs] == [("mels", FLOAT, ("batch", 80, "frames"))]
    assert [tuple(value) for value in file.outputs] == [
        (name, FLOAT, ("batch", 513, "frames")) for name in ("mag", "x", "y")
    ]
    assert dict(file.metadata) == sherpa_metadata(vocos.config)
    assert settings(file.metadata) == (22_050, 1024, 256, True)
    assert ModelConfig.from_json(file.metadata[DESCRIPTION_KEY]) == vocos.config

    mels = np.random.default_rng(0).uniform(-8, 2, (2, 80, 60)).astype(np.float32)
    (outputs,) = evaluate(theirs, [{"mels": mels}])
    expected = vocos.network.spectrum(mels, None)
    np.testing.assert_allclose(spectrum_of(outputs), expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
    np.testing.assert_allclose(outputs["x"] ** 2 + outputs["y"] ** 2, 1, rtol=0, atol=1e-6)
    assert outputs["mag"].min() > 0


def test_wrong_weights_are_seen(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(no_transposition, monkeypatch)
    files = Files(checkpoint / "config.yaml", checkpoint / "pytorch_model.bin", "vocos-22khz")
    with pytest.raises(CheckpointError, match=r"of vocos-22khz differs from its weights by .* of the spectrum's peak"):
        convert_vocoder(files, tmp_path / "model.onnx", format="sherpa")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "sherpa", "--istft", "graph"], "leave one of --istft graph and --format sherpa out"),
        (["--format", "sherpa", "--fp16"], "leave one of --fp16 and --format sherpa out"),
        (["--format", "sherpa", "--int8"], "vocos-onnx export CHECKPOINT -o model.onnx --int8 --format sherpa"),
    ],
)
def test_contradictions(
    options: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "model.onnx"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_models_that_it_cannot_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_vocoder(tmp_path / "encodec")
    output = tmp_path / "model.onnx"
    output.write_bytes(b"before")
    assert main(["convert", str(folder), "-o", str(output), "--format", "sherpa", "--force"]) == 2
    assert "the model takes tokens of encodec_24khz, expected mels" in capsys.readouterr().err
    assert output.read_bytes() == b"before"


def test_an_encoder_has_no_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.checkpoints import write_encoder

    folder = write_encoder(tmp_path / "encoder")
    assert main(["convert", str(folder), "-o", str(tmp_path / "model.onnx"), "--format", "sherpa"]) == 2
    assert "is an encoder, which is in float32 alone: leave the options out" in capsys.readouterr().err


def test_unknown_format(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", str(checkpoint), "-o", str(tmp_path / "model.onnx"), "--format", "sherpa-onnx"])
    assert "'sherpa-onnx' is not one of vocos-onnx, sherpa; did you mean" in capsys.readouterr().err
    files = Files(checkpoint / "config.yaml", checkpoint / "pytorch_model.bin", "vocos-22khz")
    with pytest.raises(ValueError, match="format is 'onnx', expected one of vocos-onnx, sherpa"):
        convert_vocoder(files, tmp_path / "model.onnx", format="onnx")
