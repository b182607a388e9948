"""How a model name is resolved, which files form a checkpoint, and the registry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vocos_onnx.model.bundled import BUNDLED
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
from vocos_onnx.model.names import is_hub_id
from vocos_onnx.model.registry import find_known, known_models
from vocos_onnx.model.sources import beside, choose

OFFICIAL = {"README.md", "config.yaml", "pytorch_model.bin"}


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [
        "charactr/vocos-encodec-24khz",
        "facebook/encodec_24khz",
        "a/b",
        "A1/b.v2",
        "_a/b",
        "owner/onnx",
        "a" * 96 + "/b",
    ]
    others: list[object] = [
        *BUNDLED, "model.onnx", "a/b.onnx", "a/B.ONNX", "a/last.ckpt", "a/m.pt", "a/x.th", "a/config.yaml", "a/c.json",
        "./a/b", "../a", ".a/b", "a/.b", "/a/b", "a/b/c", "a/", "/a", "a//b", "a", "", "a b/c", "a/b\n", "é/b",
        "a/b--c", "a/b..c", "-a/b", "a/b.", "a\\b", "https://huggingface.co/a/b", "a" * 97 + "/b",
        Path("a/b"), None, 5, b"a/b",
    ]  # fmt: skip
    assert [given for given in ids if not is_hub_id(given)] == []
    assert [given for given in others if is_hub_id(given)] == []
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not is_hub_id("a/b")  # an existing path is local
    assert is_hub_id("a/c")


@pytest.mark.parametrize(
    ("files", "as_vocoder", "as_encoder"),
    [
        (OFFICIAL, ("config.yaml", "pytorch_model.bin"), None),
        ({*OFFICIAL, "model.safetensors"}, ("config.yaml", "pytorch_model.bin"), None),
        ({"config.yaml", "model.safetensors"}, ("config.yaml", "model.safetensors"), None),
        ({"config.json", "model.safetensors"}, *[("config.json", "model.safetensors")] * 2),
        ({"config.yaml", "config.json", "pytorch_model.bin"}, ("config.yaml", "pytorch_model.bin"), None),
        ({*OFFICIAL, "encoder.safetensors"}, ("config.yaml", "pytorch_model.bin"), None),
        ({"Vocos.safetensors"}, (None, "Vocos.safetensors"), None),
        ({"config.yaml", "Vocos.safetensors", "other.pt"}, None, None),
        ({"config.yaml", "asset/Vocos.safetensors"}, None, None),
        ({"config.yaml", "last.ckpt"}, None, None),
        ({"encodec_24khz-d7cc33bc.th"}, None, (None, "encodec_24khz-d7cc33bc.th")),
        ({"model.safetensors"}, (None, "model.safetensors"), None),
        ({"config.yaml"}, None, None),
        (set(), None, None),
    ],
)  # fmt: skip
def test_the_files_of_a_checkpoint(files: set[str], as_vocoder: object, as_encoder: object) -> None:
    assert choose(files, METADATA_KEY) == as_vocoder
    assert choose(files, ENCODER_KEY) == as_encoder


def test_the_config_beside_a_file(tmp_path: Path) -> None:
    for name in ("config.yaml", "config.json", "last.ckpt", "model.safetensors", "x.th", "model.onnx"):
        (tmp_path / name).write_bytes(b"")
    found = beside(tmp_path / "last.ckpt", METADATA_KEY)
    assert found is not None
    assert (found.config, found.name) == (tmp_path / "config.yaml", "last.ckpt")
    found = beside(tmp_path / "model.safetensors", ENCODER_KEY)
    assert found is not None
    assert found.config == tmp_path / "config.json"
    found = beside(tmp_path / "x.th", ENCODER_KEY)
    assert found is not None
    assert found.config is None
    assert beside(tmp_path / "x.th", METADATA_KEY) is None
    assert beside(tmp_path / "model.onnx", METADATA_KEY) is None
    for name in ("config.yaml", "config.json"):
        (tmp_path / name).unlink()
    assert beside(tmp_path / "last.ckpt", METADATA_KEY) is None
    assert beside(tmp_path / "model.safetensors", ENCODER_KEY) is None


def test_the_registry() -> None:
    models = known_models()
    ids = [model.id for model in models]
    assert len({id.lower() for id in ids}) == len(ids)
    assert set(BUNDLED) <= set(ids)
    for model in models:
        assert model.id in BUNDLED or is_hub_id(model.id)
        assert model.kind in ("vocoder", "encoder")
        assert (model.decodes == "") == (model.kind == "encoder")
        assert re.fullmatch("([0-9a-f]{40})?", model.revision)
        assert re.fullmatch("([0-9a-f]{64})?", model.sha256)
        assert model.revision or not model.sha256  # the sha256 is of the weights at that commit
    assert find_known("Charactr/Vocos-Mel-24kHz") == next(m for m in models if m.id == "charactr/vocos-mel-24khz")
    assert find_known("acme/absent") is None
