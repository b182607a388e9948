"""Each file of examples/ runs as a user would run it, in its own process, if the packages it needs are installed.

With VOCOS_TEST_ALL=1 in the environment nothing is skipped: a missing package is a failure.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_vocoder
from tests.helpers import ROOT, found
from tests.hub.official import write_mel_22khz
from vocos_onnx import VocosONNX, demo_tokens, load_audio, save_audio, save_tokens

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 40  # lines


def needs(*modules: str) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a system library is missing
            if os.environ.get("VOCOS_TEST_ALL"):
                raise
            pytest.skip(f"{name}: {error}")


def run(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | {"HOME": str(cwd)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A folder with two seconds of speech."""
    vocos = VocosONNX()
    folder = tmp_path / "recordings"
    folder.mkdir()
    save_audio(folder / "speech.wav", vocos.decode(demo_tokens())[: 2 * vocos.sample_rate], vocos.sample_rate)
    return folder


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_tells_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert "\n    pip install " in text
    assert path.stem in text.split('"""')[1], "the command that runs it"
    assert f"test_{path.stem}" in globals()
    assert f"examples/{path.name}" in (ROOT / "docs" / "guides" / "examples.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["bark_tokens.py", "export_to_sherpa.py"])
def test_without_arguments_it_prints_how_to_run_it(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and f"python {name} " in done.stderr and "Traceback" not in done.stderr


def test_bark_tokens(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(8, 150))
    np.savez(tmp_path / "speaker.npz", fine_prompt=tokens, coarse_prompt=tokens[:2])
    np.save(tmp_path / "fine.npy", tokens)
    model = write_vocoder(tmp_path / "model")
    for source in ("speaker.npz", "fine.npy"):
        run("bark_tokens.py", source, f"{source}.wav", model, cwd=tmp_path)
        audio = load_audio(tmp_path / f"{source}.wav", 24_000)
        expected = VocosONNX(model).decode(tokens, bandwidth=6.0)
        assert np.abs(audio - expected.clip(-1, 1)).max() < 1e-4


def test_f5_mels(tmp_path: Path, speech: Path) -> None:
    vocos = VocosONNX("vocos-mel-24khz-small")
    mels = vocos.features(load_audio(speech / "speech.wav", 24_000), 24_000)
    np.save(tmp_path / "mels.npy", mels.T)
    run("f5_mels.py", "mels.npy", "out.wav", "vocos-mel-24khz-small", cwd=tmp_path)
    assert np.abs(load_audio(tmp_path / "out.wav", 24_000) - vocos.decode(mels).clip(-1, 1)).max() < 1e-4


def test_f5_mels_as_a_vocoder(tmp_path: Path, speech: Path) -> None:
    needs("torch")
    vocos = VocosONNX("vocos-mel-24khz-small")
    mels = vocos.features(load_audio(speech / "speech.wav", 24_000), 24_000)
    np.save(tmp_path / "mels.npy", mels)
    program = (
        "import numpy, torch, f5_mels; vocoder = f5_mels.Vocoder('vocos-mel-24khz-small');"
        "audio = vocoder.decode(torch.from_numpy(numpy.load('mels.npy'))[None]); numpy.save('audio.npy', audio.numpy())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), *sys.path])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    audio = np.load(tmp_path / "audio.npy")
    assert audio.shape[0] == 1
    assert np.abs(audio[0] - vocos.decode(mels)).max() < 1e-5


def test_sound_card(tmp_path: Path) -> None:
    """Plays to ALSA's null device, since most machines that run tests have no sound card."""
    needs("sounddevice")
    (tmp_path / ".asoundrc").write_text("pcm.!default { type null }\nctl.!default { type null }\n")
    tokens = demo_tokens()
    save_tokens(tmp_path / "tokens.npz", tokens)
    for arguments in ((), ("tokens.npz",)):
        out = run("sound_card.py", *arguments, cwd=tmp_path)
        assert f"played {tokens.codes.shape[1] / 75:.2f} s" in out


def test_fastapi_app(tmp_path: Path) -> None:
    needs("fastapi")
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", "0", "--app-dir", str(ROOT / "examples")]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        url = f"{found('http.*', match and match[0])[0]}/decode"
        file = io.BytesIO()
        save_tokens(file, demo_tokens())
        with urllib.request.urlopen(url, file.getvalue()) as answer:
            audio = load_audio(io.BytesIO(answer.read()), 24_000)
        assert np.abs(audio - VocosONNX().decode(demo_tokens()).clip(-1, 1)).max() < 1e-4
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, b"abc")
        assert refused.value.code == 400
        assert "not a token file" in refused.value.read().decode()
    finally:
        server.terminate()
        server.communicate(timeout=60)


def test_asyncio_streams(tmp_path: Path) -> None:
    out = run("asyncio_streams.py", 3, cwd=tmp_path)
    assert out == f"3 listeners: {[200 * 320] * 3} samples\n"


def test_ray_corpus(tmp_path: Path, speech: Path) -> None:
    needs("ray")
    for seconds in (True, False):
        out = run("ray_corpus.py", speech, tmp_path / "tokens", cwd=tmp_path)
        assert "1 of 1 recordings" in out
        assert ("0.000 hours" not in out) == seconds, "of the second run nothing is left to do"
    assert (tmp_path / "tokens" / "speech.npz").is_file()


def test_fine_tune(tmp_path: Path, speech: Path) -> None:
    needs("torch", "tensorboard")
    run("fine_tune.py", speech, speech, tmp_path / "run", 2, cwd=tmp_path)
    tuned = VocosONNX(tmp_path / "run" / "fine-tuned.onnx")
    audio, before = tuned.decode(demo_tokens()), VocosONNX().decode(demo_tokens())
    assert 0 < np.abs(audio - before).max() < 0.5
    assert np.corrcoef(audio, before)[0, 1] > 0.9, "it has begun with the bundled weights"


def test_export_to_sherpa(tmp_path: Path) -> None:
    write_mel_22khz(tmp_path / "model")
    out = run("export_to_sherpa.py", "model", "out.onnx", cwd=tmp_path)
    assert "mels of 80 bands, 22050 Hz; 100 frames are 25600 samples" in out


def test_compare_models(tmp_path: Path, speech: Path) -> None:
    needs("pesq", "speechmos")
    models = ("vocos-codec-24khz", "vocos-mel-24khz-small")
    rows = run("compare_models.py", speech / "speech.wav", *models, cwd=tmp_path).splitlines()[1:]
    assert [row.split()[0] for row in rows] == [*models]
    for row in rows:
        pesq, stoi, distance, p808, speed = map(float, row.split()[1:])
        assert 1 < pesq < 4.7 and 0.5 < stoi <= 1 and 0 < distance < 3 and 1 < p808 < 5 and speed > 0
