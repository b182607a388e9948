"""Mel features: vocos_onnx.dsp.mel against the real vocos with torchaudio, librosa, and HiFi-GAN's formula."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from tests.parity import upstream
from tests.parity.test_encodec import RATE, recording, recordings
from vocos_onnx import ModelConfig, VocosONNX
from vocos_onnx.dsp.mel import HIFIGAN, MelFeatures, filterbank, log_mel
from vocos_onnx.dsp.resample import resample
from vocos_onnx_export import export

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vocos.feature_extractors import MelSpectrogramFeatures

TOLERANCE = 1e-4  # of a log-mel; measured: 8e-5 on real audio, nearly all from rounding in upstream's filters
EXACT_TOLERANCE = 2e-6  # where upstream computes in float64 throughout; a log-mel of -16 has a rounding error of 1e-6
# torch's float32 FFT rounds every bin to about 1e-7 of its frame's peak. For a bin 50 dB below the peak that is a
# relative error of 3e-5, which the logarithm turns into an absolute one; still lower bins need float64 to compare.
AUDIBLE = 50 / 20 * np.log(10)
LINEAR_TOLERANCE = 1e-5  # of the largest mel value of a clip; measured: 5e-6
AUDIO_TOLERANCE = 2e-5  # of the peak; measured: 4e-6


def vocos_mel(padding: str, n_fft: int = 1024, hop_length: int = 256, n_mels: int = 100) -> MelFeatures:
    """Our settings for upstream's mel models: HTK's scale up to half the rate, triangles of height 1."""
    return MelFeatures(n_fft, hop_length, n_mels, padding, f_min=0.0, f_max=RATE / 2)


def reference(padding: str, double: bool = False, **args: Any) -> nn.Module:
    """Upstream's feature extractor in float32, or in float64 with an exact window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more filters than bins leave some empty
        module = MelSpectrogramFeatures(padding=padding, **args)
    if double:
        module = module.double()
        module.mel_spec.spectrogram.window = torch.hann_window(module.mel_spec.n_fft, dtype=torch.float64)
    return module


def exact_reference(padding: str) -> nn.Module:
    """Upstream's extractor entirely in float64, even the filters, which torchaudio computes in the default type."""
    torch.set_default_dtype(torch.float64)
    try:
        return reference(padding)
    finally:
        torch.set_default_dtype(torch.float32)


def compute(module: nn.Module, audio: np.ndarray, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """Audio (B, N) -> upstream's features (B, C, T)."""
    with torch.inference_mode():
        return module(torch.from_numpy(audio).to(dtype)).numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[-1]).normal(0, 0.1, shape).astype(np.float32)


# Upstream's features


@pytest.mark.parametrize("padding", ("center", "same"))
@pytest.mark.parametrize("name", recordings())
def test_recordings_in_float64(name: str, padding: str) -> None:
    audio = recording(name)[None]
    given = log_mel(audio, RATE, vocos_mel(padding))
    expected = compute(reference(padding, double=True), audio, torch.float64)
    assert given.dtype == np.float32
    assert given.shape == expected.shape
    assert np.ptp(expected) > 5, "silence proves nothing"
    difference = np.abs(given - expected).max()
    exact = np.abs(given - compute(exact_reference(padding), audio, torch.float64)).max()
    print(f"{name} {padding}: {difference:.1e}, with exact filters {exact:.1e}")
    assert difference <= TOLERANCE
    assert exact <= EXACT_TOLERANCE


@pytest.mark.parametrize("padding", ("center", "same"))
@pytest.mark.parametrize("name", recordings())
def test_recordings_in_float32(name: str, padding: str) -> None:
    """Unmodified upstream gives the same features wherever float32 is precise enough to compare."""
    audio = recording(name)[None]
    given, expected = log_mel(audio, RATE, vocos_mel(padding)), compute(reference(padding), audio)
    assert given.shape == expected.shape
    audible = expected > expected.max(axis=1, keepdims=True) - AUDIBLE
    assert audible.mean() > 0.5
    difference = np.abs(given - expected)[audible].max()
    linear = np.abs(np.exp(given.astype(np.float64)) - np.exp(expected.astype(np.float64))).max()
    linear /= np.exp(expected.max())
    print(f"{name} {padding}: {difference:.1e} where audible ({audible.mean():.0%}), linear {linear:.1e} of the peak")
    assert difference <= TOLERANCE
    assert linear <= LINEAR_TOLERANCE


GEOMETRIES = (
    (1024, 256, 100),
    (1024, 256, 80),
    (1024, 255, 20),  # padding "same" has an odd number of samples to pad
    (1000, 300, 16),
    (512, 400, 40),
    (400, 160, 80),  # some filters are empty
    (320, 320, 8),
    (255, 64, 8),  # an odd frame length
    (64, 16, 8),
    (16, 4, 3),
)


@pytest.mark.parametrize("padding", ("center", "same"))
@pytest.mark.parametrize(("n_fft", "hop_length", "n_mels"), GEOMETRIES)
def test_lengths_and_geometries(n_fft: int, hop_length: int, n_mels: int, padding: str) -> None:
    mel = vocos_mel(padding, n_fft, hop_length, n_mels)
    module = reference(padding, sample_rate=RATE, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels)
    for samples in (513, 514, 1023, 1024, 1025, 1279, 1280, 1281, 5000):
        audio = noise(2, samples)
        given, expected = log_mel(audio, RATE, mel), compute(module, audio)
        assert given.shape == expected.shape
        np.testing.assert_allclose(np.exp(given), np.exp(expected), rtol=0, atol=1e-5 * np.exp(expected.max()))
    assert given.max() > -3, "silence proves nothing"


@pytest.mark.parametrize(("padding", "shortest"), (("center", 513), ("same", 385)))
def test_shortest_audio(padding: str, shortest: int) -> None:
    """We and upstream reject audio that is too short to reflect at exactly the same length."""
    module, mel = reference(padding), vocos_mel(padding)
    assert log_mel(noise(1, shortest), RATE, mel).shape == compute(module, noise(1, shortest)).shape
    with pytest.raises(ValueError, match=f"audio has {shortest - 1} samples at 24000 Hz, expected at least {shortest}"):
        log_mel(noise(1, shortest - 1), RATE, mel)
    with pytest.raises(RuntimeError, match="Padding size should be less than"):
        compute(module, noise(1, shortest - 1))


@pytest.mark.parametrize("padding", ("center", "same"))
def test_number_of_frames(padding: str) -> None:
    """The documented lengths as literals, so that upstream and we cannot share an error."""
    for samples, hops in ((513, 2), (1024, 4), (1279, 4), (1280, 5), (1281, 5), (5000, 19)):
        frames = log_mel(noise(1, samples), RATE, vocos_mel(padding)).shape[2]
        assert frames == (1 + hops if padding == "center" else hops)


@pytest.mark.parametrize("padding", ("center", "same"))
def test_silence(padding: str) -> None:
    """Silence gives ln 1e-7, as upstream."""
    audio = np.zeros((1, 5000), np.float32)
    given = log_mel(audio, RATE, vocos_mel(padding))
    assert np.array_equal(given, compute(reference(padding), audio))
    assert np.allclose(given, np.log(1e-7))


def test_long_audio_is_transformed_in_parts_that_do_not_show() -> None:
    """A small hop gives more frames than are transformed at once; the seams must not show."""
    mel = vocos_mel("center", 64, 16, 8)
    audio = noise(1, 16 * 2500)
    given = log_mel(audio, RATE, mel)
    expected = compute(reference("center", n_fft=64, hop_length=16, n_mels=8), audio)
    assert given.shape == expected.shape == (1, 8, 2501)
    np.testing.assert_allclose(np.exp(given), np.exp(expected), rtol=0, atol=1e-5 * np.exp(expected.max()))


# Filters


def slaney(sample_rate: int, mel: MelFeatures) -> np.ndarray:
    return librosa.filters.mel(
        sr=sample_rate, n_fft=mel.n_fft, n_mels=mel.n_mels, fmin=mel.f_min, fmax=mel.f_max, dtype=np.float64
    )


def of_torchaudio(sample_rate: int, mel: MelFeatures) -> np.ndarray:
    norm = "slaney" if mel.norm == "slaney" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more filters than bins leave some empty
        return torchaudio.functional.melscale_fbanks(
            mel.n_fft // 2 + 1, mel.f_min, mel.f_max, mel.n_mels, sample_rate, norm, mel.mel_scale
        ).numpy()


def test_filters_of_hifigan() -> None:
    expected = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000, dtype=np.float64)
    given = filterbank(22050, HIFIGAN)
    assert given.shape == (513, 80)
    assert expected.max() > 0.01
    np.testing.assert_allclose(given.T, expected, rtol=0, atol=1e-9)


SCALES = tuple(itertools.product(("htk", "slaney"), ("none", "slaney")))
CASES = [
    pytest.param(rate, dict(n_fft=n_fft, n_mels=n_mels, f_min=f_min, f_max=f_max), id=f"{rate} {n_mels} {f_max}")
    for rate, n_fft, n_mels, f_min, f_max in (
        (22050, 1024, 80, 0.0, 8000.0),
        (24000, 1024, 100, 0.0, 12000.0),
        (16000, 512, 40, 60.0, 7600.0),
        (16000, 1024, 80, 0.0, 8000.0),
        (44100, 2048, 128, 0.0, float(44100 // 2)),
        (44100, 1024, 80, 20.0, 16000.0),
        (48000, 400, 128, 0.0, 24000.0),  # some filters are empty
        (8000, 200, 23, 1200.0, 3800.0),  # all above the knee of Slaney's scale
        (8000, 256, 8, 0.0, 900.0),  # all below
    )
]  # fmt: skip


def mel_of(args: dict[str, Any], scale: str, norm: str) -> MelFeatures:
    return MelFeatures(hop_length=100, padding="same", mel_scale=scale, norm=norm, **args)


@pytest.mark.filterwarnings("ignore:Empty filters detected")
@pytest.mark.parametrize(("scale", "norm"), SCALES)
@pytest.mark.parametrize(("rate", "args"), CASES)
def test_filters_of_librosa(rate: int, args: dict[str, Any], scale: str, norm: str) -> None:
    expected = librosa.filters.mel(
        sr=rate,
        n_fft=args["n_fft"],
        n_mels=args["n_mels"],
        fmin=args["f_min"],
        fmax=args["f_max"],
        htk=scale == "htk",
        norm=None if norm == "none" else "slaney",
        dtype=np.float64,
    )
    given = filterbank(rate, mel_of(args, scale, norm))
    assert given.T.shape == expected.shape
    assert given.max() > (0.5 if norm == "none" else 1e-3)
    np.testing.assert_allclose(given.T, expected, rtol=0, atol=1e-9)


ODD = [
    pytest.param(22255, dict(n_fft=1024, n_mels=80, f_min=0.0, f_max=8000.0), id="22255"),
    pytest.param(22255, dict(n_fft=1024, n_mels=100, f_min=0.0, f_max=11127.0), id="22255 whole"),
    pytest.param(11025, dict(n_fft=512, n_mels=40, f_min=0.0, f_max=5512.0), id="11025"),
]


@pytest.mark.parametrize(("scale", "norm"), SCALES)
@pytest.mark.parametrize(("rate", "args"), CASES + ODD)
def test_filters_of_torchaudio(rate: int, args: dict[str, Any], scale: str, norm: str) -> None:
    """In float32 (measured: 1.2e-5 of the peak); at odd rates, the last bin is at half the rate rounded down."""
    mel = mel_of(args, scale, norm)
    given, expected = filterbank(rate, mel), of_torchaudio(rate, mel)
    assert given.shape == expected.shape
    peak = np.abs(expected).max()
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-5 * peak)


# HiFi-GAN


def hifigan(audio: np.ndarray) -> Tensor:
    """meldataset.py of HiFi-GAN, and audio.py of Matcha, at 22,050 Hz, in float64: audio (B, N) -> (B, 80, T)."""
    n_fft, hop = 1024, 256
    basis = torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=n_fft, n_mels=80, fmin=0, fmax=8000, dtype=np.float64))
    y = torch.from_numpy(audio.astype(np.float64))[:, None]
    y = torch.nn.functional.pad(y, ((n_fft - hop) // 2, (n_fft - hop) // 2), mode="reflect")[:, 0]
    spectrum = torch.stft(
        y,
        n_fft,
        hop_length=hop,
        win_length=n_fft,
        window=torch.hann_window(n_fft, dtype=torch.float64),
        center=False,
        pad_mode="reflect",
        normalized=False,
        onesided=True,
        return_complex=True,
    )
    magnitude = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-9)
    return torch.log(torch.clamp(basis @ magnitude, min=1e-5))


@pytest.mark.parametrize("samples", (385, 1023, 1024, 1279, 1280, 5000, 300_000))
def test_hifigan(samples: int) -> None:
    """Noise that swells from silence, so that both the power offset and the clip matter."""
    audio = noise(2, samples) * np.linspace(0, 1, samples, dtype=np.float32) ** 8
    given, expected = log_mel(audio, 22050, HIFIGAN), hifigan(audio).numpy()
    assert given.shape == expected.shape == (2, 80, samples // 256)
    np.testing.assert_allclose(given, expected, rtol=0, atol=EXACT_TOLERANCE)


@pytest.mark.parametrize("name", recordings())
def test_hifigan_of_recordings(name: str) -> None:
    audio = resample(recording(name), RATE, 22050)[None]
    given, expected = log_mel(audio, 22050, HIFIGAN), hifigan(audio).numpy()
    assert given.shape == expected.shape
    difference = np.abs(given - expected).max()
    print(f"{name}: {difference:.1e}")
    assert difference <= EXACT_TOLERANCE


@pytest.mark.parametrize("change", ({"power_offset": 0.0}, {"clip": 1e-7}, {"norm": "none"}, {"mel_scale": "htk"}))
def test_every_setting_of_hifigan_matters(change: dict[str, Any]) -> None:
    """A negative control: with any one setting changed, the tests above would fail by far."""
    samples = 5000
    audio = noise(2, samples) * np.linspace(0, 1, samples, dtype=np.float32) ** 8
    if change == {"clip": 1e-7}:
        change = {**change, "power_offset": 0.0}  # the offset alone keeps the mels above the clip
    given = log_mel(audio, 22050, dataclasses.replace(HIFIGAN, **change))
    assert np.abs(given - hifigan(audio).numpy()).max() > 1000 * EXACT_TOLERANCE


# Mel models


@pytest.fixture(scope="session", params=("mel-center", "mel-same"))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[upstream.Vocos, VocosONNX]:
    """A Vocos of official size with random weights: upstream's model and its export."""
    folder, config = tmp_path_factory.mktemp(request.param), upstream.CONFIGS[request.param]
    vocos = upstream.build(config)
    upstream.strengthen(vocos)
    upstream.save(vocos, config, folder)
    with pytest.MonkeyPatch.context() as monkeypatch:  # verifying a large model is slow
        monkeypatch.setattr(sys.modules["vocos_onnx_export.verify"], "LENGTHS", (2,))
        export(str(folder), folder / "model.onnx", report=lambda line: None)
    return vocos, VocosONNX(folder / "model.onnx", providers=["CPUExecutionProvider"], threads=1)


def test_features_of_a_model(model: tuple[upstream.Vocos, VocosONNX]) -> None:
    """On noise, with no silent band, features equal upstream's in float64, and its float32 up to rounding (1.0e-4)."""
    vocos, ours = model
    double = exact_reference(vocos.feature_extractor.padding)
    for samples in (513, 5000, 24_001):
        audio = noise(2, samples)
        single, expected = compute(vocos.feature_extractor, audio), compute(double, audio, torch.float64)
        rounded = np.abs(single - expected).max()
        assert rounded < 2 * TOLERANCE
        given = ours.features(audio, RATE)
        assert given.dtype == np.float32
        assert given.shape == single.shape
        np.testing.assert_allclose(given, expected, rtol=0, atol=EXACT_TOLERANCE)
        np.testing.assert_allclose(given, single, rtol=0, atol=rounded + EXACT_TOLERANCE)
        alone = ours.features(audio[1], RATE)
        assert alone.shape == expected.shape[1:]
        np.testing.assert_allclose(alone, expected[1], rtol=0, atol=EXACT_TOLERANCE)


@pytest.mark.parametrize("rate", (16_000, 44_100))
def test_features_of_audio_at_another_rate(rate: int, model: tuple[upstream.Vocos, VocosONNX]) -> None:
    vocos, ours = model
    audio = noise(1, rate // 2)
    expected = compute(
        reference(vocos.feature_extractor.padding, double=True), resample(audio, rate, RATE), torch.float64
    )
    np.testing.assert_allclose(ours.features(audio, rate), expected, rtol=0, atol=TOLERANCE)


def test_copy_synthesis(model: tuple[upstream.Vocos, VocosONNX]) -> None:
    vocos, ours = model
    for samples in (513, 5000, 24_001):
        audio = noise(2, samples)
        with torch.inference_mode():
            expected = vocos(torch.from_numpy(audio)).numpy()
        given = ours(audio, RATE)
        assert given.dtype == np.float32
        assert given.shape == expected.shape == (2, samples // 256 * 256)
        assert np.abs(given - expected).max() <= AUDIO_TOLERANCE * np.abs(expected).max()


# The fork of langtech-bsc, branch matcha, which adds the arguments f_min, f_max, norm and mel_scale


def export_fork(folder: Path, **args: Any) -> tuple[ModelConfig, VocosONNX]:
    """Export a small model of 80 bands at 22,050 Hz whose feature extractor has these extra arguments."""
    extractor = upstream.mel(256, n_mels=80, padding="same", sample_rate=22050)
    config = {
        "feature_extractor": extractor,
        "backbone": upstream.convnext(80),
        "head": upstream.head("ISTFTHead", dim=16, n_fft=1024, hop_length=256, padding="same"),
    }
    model = upstream.build(config)
    extractor["init_args"] |= args
    upstream.save(model, config, folder)
    written = export(str(folder), folder / "model.onnx", report=lambda line: None)
    return written, VocosONNX(folder / "model.onnx", providers=["CPUExecutionProvider"], threads=1)


def test_arguments_of_the_fork(tmp_path: Path) -> None:
    written, ours = export_fork(tmp_path, f_min=0, f_max=8000, norm="slaney", mel_scale="slaney")
    assert written.mel == ours.config.mel
    assert written.mel == dataclasses.replace(HIFIGAN, power_offset=0.0)
    assert (written.mel.mel_scale, written.mel.norm, written.mel.clip) == ("slaney", "slaney", 1e-5)
    audio = noise(1, 5000)
    expected = torchaudio.transforms.MelSpectrogram(
        22050, 1024, hop_length=256, n_mels=80, f_max=8000, power=1, center=False, norm="slaney", mel_scale="slaney"
    )(torch.nn.functional.pad(torch.from_numpy(audio), (384, 384), mode="reflect"))
    expected = expected.clip(min=1e-5).log().numpy()
    given = ours.features(audio, 22050)
    assert given.shape == expected.shape == (1, 80, 19)
    np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE)


def test_without_the_forks_arguments(tmp_path: Path) -> None:
    """Without those arguments upstream's settings apply: half the rate, HTK, triangles of height 1, a clip at 1e-7."""
    written, _ = export_fork(tmp_path)
    assert written.mel == MelFeatures(1024, 256, 80, "same", f_min=0.0, f_max=11025.0)
    assert (written.mel.mel_scale, written.mel.norm, written.mel.clip) == ("htk", "none", 1e-7)
