"""The commands for the official models, starting from an empty cache: real conversions, without torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_vocoder
from tests.helpers import DATA, ROOT
from tests.hub.official import official as hub_of
from tests.hub.server import Hub
from tests.hub.test_hub import User
from vocos_onnx import load_audio, save_audio
from vocos_onnx.model.registry import find_known

pytest.importorskip("huggingface_hub")
pytest.importorskip("platformdirs")
pytest.importorskip("yaml")

PROGRAM = "import sys; from vocos_onnx.__main__ import main; sys.argv = ['vocos-onnx', *{!r}]; sys.exit(main())"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return hub_of(tmp_path_factory.mktemp("official"))


@pytest.fixture
def user(official: Hub, tmp_path: Path) -> Iterator[User]:
    official.requests.clear()
    with official.serve() as url:
        yield User(tmp_path / "user", url)


def command(folder: Path, output: str) -> list[str]:
    """The command on the official models' page, with its files in a folder."""
    page = (ROOT / "docs" / "guides" / "official-models.md").read_text(encoding="utf-8")
    line = re.search(r"^vocos-onnx (resynth speech\.wav copy\.wav --model .*)$", page, re.M)
    assert line is not None
    names = {"speech.wav": str(folder / "speech.wav"), "copy.wav": str(folder / output)}
    return [names.get(word, word) for word in line[1].split()]


def run(user: User, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return user.start("-c", PROGRAM.format(list(arguments)), **variables)


def finish(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def test_the_command_of_the_page(official: Hub, user: User, tmp_path: Path) -> None:
    """The command works twice concurrently from an empty cache, with a warm cache, and without a network."""
    rng = np.random.default_rng(0)
    save_audio(tmp_path / "speech.wav", rng.normal(0, 0.1, 30_000).astype(np.float32), 24_000)
    both = [run(user, *command(tmp_path, f"cold-{i}.wav")) for i in range(2)]
    for process in both:
        finish(process)
    assert len(user.models()) == 2  # model and encoder, whichever process converted them
    official.requests.clear()
    finish(run(user, *command(tmp_path, "warm.wav")))
    assert not official.requests
    finish(run(user, *command(tmp_path, "offline.wav"), HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"))
    first = (tmp_path / "cold-0.wav").read_bytes()
    for name in "cold-1", "warm", "offline":
        assert (tmp_path / f"{name}.wav").read_bytes() == first
    audio = load_audio(tmp_path / "warm.wav", 24_000)
    assert len(audio) == 30_000  # the command trims the padding of the last frame
    assert audio.std() > 1e-3


def test_convert_by_id(user: User, tmp_path: Path) -> None:
    """``convert`` writes the same file that the cache keeps."""
    for name, file in ("charactr/vocos-encodec-24khz", "vocoder.onnx"), ("facebook/encodec_24khz", "encoder.onnx"):
        finish(run(user, "convert", name, "-o", str(tmp_path / file)))
        finish(run(user, "models", "pull", name))
    kept = {path.read_bytes() for path in user.models()}
    assert kept == {(tmp_path / file).read_bytes() for file in ("vocoder.onnx", "encoder.onnx")}
    finish(run(user, "models", "pull", "charactr/vocos-encodec-24khz", "--fp16"))
    assert len(user.models()) == 3


def test_convert_checks_the_sha256_of_the_registry(tmp_path: Path) -> None:
    """Weights with another sha256 than the registry's are not converted, and nothing is written."""
    known = find_known("charactr/vocos-mel-24khz")
    assert known is not None and known.sha256
    folder = write_vocoder(tmp_path / "other")
    with Hub({known.id: {known.revision: folder}}, {known.id: {"main": known.revision}}).serve() as url:
        process = run(User(tmp_path / "user", url), "convert", known.id, "-o", str(tmp_path / "model.onnx"))
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"expected {known.sha256}: it is not converted" in err
    assert not (tmp_path / "model.onnx").exists()


def test_the_config_beside_another_exporters_file(tmp_path: Path) -> None:
    """The config is downloaded with the file, from the same commit, and is found offline too."""
    repository, commit = tmp_path / "repository", "a" * 40
    shutil.copytree(DATA / "foreign" / "bsc", repository / "onnx", ignore=shutil.ignore_patterns("*.npz"))
    code = """
from vocos_onnx import VocosONNX
vocos = VocosONNX.from_pretrained("acme/vocos", "onnx/mel_spec_22khz_univ.onnx", providers=["cpu"])
print(vocos.config.padding, vocos.sample_rate, vocos.config.mel.n_mels)
"""
    with Hub({"acme/vocos": {commit: repository}}, {"acme/vocos": {"main": commit}}).serve() as url:
        user = User(tmp_path / "user", url)
        for variables in {}, {"HF_HUB_OFFLINE": "1"}:
            process = user.start("-c", code, **variables)
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert out.split() == ["same", "22050", "8"]
