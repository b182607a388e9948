"""A few steps of training: it learns, goes on where it stopped, and what it writes can be exported."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import vocos_onnx_train.__main__ as training
from vocos_onnx import VocosONNX
from vocos_onnx.vocoder import default_model
from vocos_onnx_export import export
from vocos_onnx_train.codec import CODEBOOKS_OF, Codec, nearest


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Speech, as the model in the box decodes it: one clip to train on, one to validate with."""
    folder = tmp_path_factory.mktemp("data")
    vocos = VocosONNX()
    rows = []
    for path, split in zip(sorted(default_model().parent.glob("*.npz")), ("train", "valid"), strict=False):
        with np.load(path) as archive:
            audio = vocos.decode(archive["tokens"]).clip(-1, 1)
        soundfile.write(folder / f"{path.stem}.wav", audio, vocos.sample_rate)
        rows.append({"file": f"{path.stem}.wav", "split": split, "speaker": path.stem, "kind": "speech"})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def train(data: Path, out: Path, steps: int, **changes) -> None:
    training.train(
        data, out, **{"steps": steps, "peak": 8e-4, "save_every": 2, "seed": 0, "bfloat16": False, **changes}
    )


def test_the_loss_falls(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "validate", lambda codec, valid: [1.0] * 4)
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    monkeypatch.setattr(training, "WARMUP", 5)
    train(data, tmp_path, 30, save_every=30)
    losses = [
        float(line.split("mel ")[1].split()[0]) for line in capsys.readouterr().out.splitlines() if "mel " in line
    ]
    assert len(losses) == 3
    assert losses[2] < losses[0]


def test_going_on_is_the_same_as_not_having_stopped(data, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    monkeypatch.setattr(training, "validate", lambda codec, valid: [1.0] * 4)
    train(data, whole, 4)

    def stop(codec, valid):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "validate", stop)
        train(data, parts, 4)
    train(data, parts, 4)
    one, other = (torch.load(p / "state.pt", weights_only=True) for p in (whole, parts))
    assert one["step"] == other["step"] == 4
    for key, value in one["codec"].items():
        torch.testing.assert_close(value, other["codec"][key], rtol=0, atol=1e-6)


def test_the_checkpoint_exports_and_decodes_like_the_codec(data, tmp_path):
    train(data, tmp_path, 2)
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.reader(file)
    assert row[0] == "2"
    assert all(1 <= float(score) <= 4.65 for score in row[2:])
    config = export(str(tmp_path / "checkpoint"), tmp_path / "model.onnx")
    assert config.encodec is not None
    assert config.encodec.codec == "vocos_onnx_24khz"
    assert config.encodec.codebooks_per_bandwidth == CODEBOOKS_OF
    codec = Codec()
    codec.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)["codec"])
    codec.eval()
    codes = codec.encode(torch.randn(2, 20 * 320 + 1) * 0.1)
    assert codes.shape == (16, 2, 21)
    vocos = VocosONNX(tmp_path / "model.onnx")
    for k in CODEBOOKS_OF:
        expected = codec.decode(codes[:k]).numpy()
        given = vocos.decode(codes[:k])
        assert given.shape == expected.shape == (2, 21 * 320)
        assert np.abs(given - expected).max() <= 2e-5 * np.abs(expected).max()


def test_nearest_is_the_nearest():
    vectors, codebook = torch.randn(50, 64), torch.randn(1024, 64)
    assert torch.equal(nearest(vectors, codebook), torch.cdist(vectors, codebook).argmin(1))


def test_no_clips(tmp_path):
    (tmp_path / "index.csv").write_text("file,split,speaker,kind\n")
    with pytest.raises(ValueError, match="lists no clip of split 'train'"):
        train(tmp_path, tmp_path / "out", 2)
