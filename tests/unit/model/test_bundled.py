"""The bundled model and tokens are intact, and decode to the recordings that they were made from.

``python -m tests.unit.model.test_bundled FOLDER`` writes tests/data/recordings.npz from the recordings in the folder.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA
from vocos_onnx import VocosONNX, demo_tokens, load_tokens, save_tokens
from vocos_onnx.cli import main
from vocos_onnx.model.bundled import BUNDLED as BOX_MODELS
from vocos_onnx.model.bundled import DEMO_TOKENS, MEL, default_model

BUNDLED = default_model().parent
RECORDINGS = DATA / "recordings.npz"
EDGES = np.array([100, 300, 500, 800, 1200, 1800, 2600, 3800, 5600])  # Hz
TOKENS = sorted(BUNDLED.glob("speech_*.npz"))


def band_levels(audio: np.ndarray, sample_rate: int = 24_000) -> np.ndarray:
    """Levels (8, blocks) in dB of 8 bands in blocks of 40 ms, enough detail to tell words apart."""
    block = sample_rate // 25
    blocks = audio[: len(audio) // block * block].reshape(-1, block) * np.hanning(block)
    power = np.abs(np.fft.rfft(blocks)) ** 2
    bins = (EDGES * block / sample_rate).astype(int)
    bands = np.stack([power[:, a:b].mean(axis=1) for a, b in itertools.pairwise(bins)])
    return 10 * np.log10(bands + 1e-3)


@pytest.mark.parametrize("name", BOX_MODELS)
def test_sha256_is_the_one_in_the_card(name: Any) -> None:
    digest = hashlib.sha256((BUNDLED / f"{name}.onnx").read_bytes()).hexdigest()
    assert digest in (BUNDLED / "README.md").read_text(encoding="utf-8")


def test_geometry_is_that_of_vocos_encodec_24khz() -> None:
    vocos = VocosONNX()
    assert (vocos.sample_rate, vocos.hop_length, vocos.num_codebooks) == (24_000, 320, 16)
    assert vocos.bandwidths == (1.5, 3.0, 6.0, 12.0)
    assert vocos.config.encodec is not None
    assert vocos.config.encodec.codebooks_per_bandwidth == (2, 4, 8, 16)
    assert (vocos.config.n_fft, vocos.config.padding) == (1280, "same")
    assert vocos.config.source.sha256


def test_the_mel_model_takes_the_mels_of_vocos_mel_24khz() -> None:
    vocos = VocosONNX(MEL)
    assert (vocos.sample_rate, vocos.hop_length, vocos.config.n_fft, vocos.config.padding) == (
        24_000,
        256,
        1024,
        "center",
    )
    mel = vocos.config.mel
    assert mel is not None
    assert (mel.n_fft, mel.hop_length, mel.n_mels, mel.padding) == (1024, 256, 100, "center")
    assert (mel.f_min, mel.f_max, mel.mel_scale, mel.norm, mel.clip) == (0, 12_000, "htk", "none", 1e-7)


def test_the_mel_model_gives_back_what_it_was_given() -> None:
    """Speech resynthesised through the mel model keeps its words, and differs from another recording."""
    vocos = VocosONNX(MEL)
    speech = [VocosONNX().decode(np.load(path)["tokens"]) for path in TOKENS[:2]]
    levels = [band_levels(audio) for audio in speech]
    given = band_levels(vocos(speech[0], vocos.sample_rate))
    n = min(given.shape[1], *(level.shape[1] for level in levels))
    same, other = (np.corrcoef(level[:, :n].ravel(), given[:, :n].ravel())[0, 1] for level in levels)
    assert same > 0.97
    assert other < 0.7


def test_what_lies_in_the_working_directory_is_not_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in BOX_MODELS[:2]:
        Path(name).write_text("not a model")
    Path(MEL).mkdir()  # a checkpoint folder may have this name
    assert VocosONNX().bandwidths == (1.5, 3.0, 6.0, 12.0)
    assert VocosONNX(MEL).config.mel is not None
    for path in (f"./{MEL}", Path(MEL)):
        with pytest.raises(ValueError, match="holds no model: expected model"):
            VocosONNX(path)


def test_the_box_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 60e6


def test_there_are_tokens_of_a_few_recordings() -> None:
    assert len(TOKENS) >= 3
    assert BUNDLED / DEMO_TOKENS in TOKENS
    for path in TOKENS:
        assert path.stat().st_size < 20_000
        with np.load(path) as archive:
            assert archive["tokens"].shape[0] == 16
            assert len(str(archive["source"])) > 10


@pytest.mark.parametrize("path", TOKENS, ids=lambda p: p.stem)
def test_tokens_decode_to_their_recording(path: Any) -> None:
    with np.load(path) as archive, np.load(RECORDINGS) as recordings:
        tokens, expected = archive["tokens"], recordings[path.stem].astype(float)
        others = [recordings[name].astype(float) for name in recordings.files if name != path.stem]
    vocos = VocosONNX()

    def correlation(levels: np.ndarray) -> float:
        n = min(levels.shape[1], given.shape[1])
        return float(np.corrcoef(levels[:, :n].ravel(), given[:, :n].ravel())[0, 1])

    for k in (2, 16):
        given = band_levels(vocos.decode(tokens[:k]))
        assert correlation(expected) > 0.9
        assert max(map(correlation, others)) < 0.7  # this recording, not just any speech


def test_noise_is_not_taken_for_the_recording() -> None:
    """Random tokens decode to something, but not to the recording."""
    with np.load(RECORDINGS) as recordings:
        expected = recordings[Path(DEMO_TOKENS).stem].astype(float)
    audio = VocosONNX().decode(np.random.default_rng(0).integers(1024, size=(16, 600)))
    given = band_levels(audio)
    n = min(expected.shape[1], given.shape[1])
    assert np.corrcoef(expected[:, :n].ravel(), given[:, :n].ravel())[0, 1] < 0.7


def test_demo_tokens_know_their_codec(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    tokens = demo_tokens()
    assert (tokens.codes.shape, tokens.sample_rate, tokens.codec) == ((16, 631), 24_000, "vocos_onnx_24khz")
    assert not tokens.anonymous
    audio = VocosONNX().decode(tokens)
    assert np.array_equal(audio, VocosONNX().decode(tokens.codes))
    with pytest.raises(ValueError, match=r"these are tokens of vocos_onnx_24khz"):
        VocosONNX(MEL).decode(tokens)
    save_tokens(tmp_path / "t.npz", tokens)
    assert load_tokens(tmp_path / "t.npz").codebooks_sha256 == tokens.codebooks_sha256
    assert not recwarn.list


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import soundfile

    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    audio, rate = soundfile.read("demo.wav")
    out = capsys.readouterr().out
    assert out.startswith(f"wrote demo.wav: {len(audio) / 24_000:.2f} s of speech at 24000 Hz")
    assert "times faster than real time" in out
    assert rate == 24_000
    with np.load(RECORDINGS) as recordings:
        expected = recordings[Path(DEMO_TOKENS).stem].astype(float)
    given = band_levels(audio)
    n = min(expected.shape[1], given.shape[1])
    assert np.corrcoef(expected[:, :n].ravel(), given[:, :n].ravel())[0, 1] > 0.9


def write_recordings(folder: Path) -> None:
    import soundfile
    from scipy.signal import resample_poly

    levels: dict[str, Any] = {}
    for path in TOKENS:
        audio, rate = soundfile.read(folder / f"{path.stem}.flac", always_2d=True)
        levels[path.stem] = band_levels(resample_poly(audio.mean(axis=1), 24_000, rate)).round().astype(np.int8)
    np.savez_compressed(RECORDINGS, **levels)


if __name__ == "__main__":
    write_recordings(Path(sys.argv[1]))
