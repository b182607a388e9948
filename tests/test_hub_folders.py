"""The bundled models laid out as hub repositories: each folder opens, and the hub can read its model card."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from tests.helpers import ROOT
from vocos_onnx import EncodecONNX, VocosONNX, demo_tokens

CODEC, MEL = "vocos-codec-24khz", "vocos-mel-24khz-small"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "models").is_dir():
        pytest.skip("the folder models/ is not there: these are the tests of a wheel")
    out = tmp_path_factory.mktemp("hub")
    subprocess.run([sys.executable, str(ROOT / "docs" / "tools" / "hub_folders.py"), str(out)], check=True)
    return out


@pytest.mark.parametrize("name", [CODEC, MEL])
def test_cards(folders: Path, name: str) -> None:
    card = ModelCard.load(folders / name / "README.md")
    facts = card.data.to_dict()
    assert facts["license"] == "mit"
    assert facts["library_name"] == "vocos-onnx"
    assert facts["pipeline_tag"] in ("audio-to-audio", "text-to-speech")
    assert "en" in facts["language"]
    assert "onnx" in facts["tags"]
    assert re.findall(r"\]\((?!https?:)", card.text) == [], "a link to what is not on the hub"
    for heading in ("Use", "Figures", "Data and licences"):
        assert f"\n## {heading}\n" in card.text


def test_codec(folders: Path) -> None:
    tokens = demo_tokens()
    vocos, encoder = VocosONNX(folders / CODEC), EncodecONNX(folders / CODEC)
    audio = vocos.decode(tokens)
    assert np.array_equal(audio, VocosONNX().decode(tokens))
    assert np.array_equal(encoder.encode(audio, 24_000, 6.0), EncodecONNX().encode(audio, 24_000, 6.0))


def test_mel(folders: Path) -> None:
    mels = np.random.default_rng(0).uniform(-8, 2, (100, 50)).astype(np.float32)
    assert np.array_equal(VocosONNX(folders / MEL).decode(mels), VocosONNX(MEL).decode(mels))
