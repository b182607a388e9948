"""Log-mels: upstream's golden values, analytic ones, and the guaranteed lengths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers import found
from vocos_onnx import VocosONNX, load_tokens
from vocos_onnx.dsp.audio_window import AudioWindow
from vocos_onnx.dsp.mel import HIFIGAN, MelFeatures, filterbank, log_mel, log_mel_blocks
from vocos_onnx.mels import MelConvention, mel_fault
from vocos_onnx.model.bundled import default_model

CENTER = MelFeatures(1024, 256, 100, "center", 0.0, 12000.0)
SAME = replace(CENTER, padding="same")
NOISE = np.random.default_rng(0).normal(0, 0.1, 30_000).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "mel", "rate"), [("center", CENTER, 24000), ("same", SAME, 24000), ("hifigan", HIFIGAN, 22050)]
)
def test_golden(golden: Callable[[str], dict[str, np.ndarray]], name: str, mel: Any, rate: int) -> None:
    tensors = golden("log-mel")
    given = log_mel(tensors["audio"][None], rate, mel)
    assert given.dtype == np.float32
    assert given.shape == (1, *tensors[name].shape)
    np.testing.assert_allclose(given[0], tensors[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [513, 1024, 1279, 1280, 1281, 5000])
def test_lengths(samples: int) -> None:
    audio = NOISE[None, :samples]
    assert log_mel(audio, 24000, CENTER).shape == (1, 100, 1 + samples // 256)
    if samples >= 1024:
        assert log_mel(audio, 24000, SAME).shape == (1, 100, samples // 256)


@pytest.mark.parametrize("mel", [CENTER, SAME])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("block", [100, 5000])
def test_blocks_do_not_show(mel: Any, chunk: int, block: int) -> None:
    for samples in (1024, 1025, 5000, 20000):
        audio = NOISE[None, :samples]
        blocks = np.split(audio, range(block, samples, block), axis=1)
        parts = list(log_mel_blocks(AudioWindow(blocks), 24000, mel, chunk))
        assert np.array_equal(np.concatenate(parts, axis=2), log_mel(audio, 24000, mel))


def test_items_of_a_batch_do_not_touch() -> None:
    batch = NOISE.reshape(3, -1)
    together = log_mel(batch, 24000, CENTER)
    for item, expected in zip(batch, together, strict=True):
        assert np.array_equal(log_mel(item[None], 24000, CENTER)[0], expected)


@pytest.mark.parametrize("mel", [CENTER, SAME])
@pytest.mark.parametrize("frequency", [200.0, 1000.0, 5000.0, 11000.0])
def test_a_tone_is_in_its_band(mel: Any, frequency: float) -> None:
    audio = np.sin(2 * np.pi * frequency * np.arange(12000) / 24000)
    frame = log_mel(audio[None], 24000, mel)[0, :, 20]
    points = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 12000 / 700), 102) / 2595) - 1)
    assert abs(frame.argmax() - np.abs(points[1:-1] - frequency).argmin()) <= 1


def test_silence_is_the_clip() -> None:
    assert np.all(log_mel(np.zeros((1, 5000)), 24000, CENTER) == np.float32(np.log(1e-7)))
    assert np.all(log_mel(np.zeros((1, 5000)), 22050, HIFIGAN) == np.float32(np.log(1e-5)))


def test_ten_times_the_amplitude_adds_ln_10() -> None:
    loud, quiet = (log_mel(scale * NOISE[None].astype(np.float64), 24000, CENTER) for scale in (10, 1))
    np.testing.assert_allclose(loud - quiet, np.log(10), rtol=0, atol=1e-5)


def test_filters_are_triangles_that_add_up_to_one() -> None:
    """They do so between the first and the last centre, where each filter falls as the next one rises."""
    bank = filterbank(24000, MelFeatures(4096, 256, 20, "center", 0.0, 12000.0))
    total = bank.sum(axis=1)
    first, last = bank[:, 0].argmax() + 1, bank[:, -1].argmax() - 1
    np.testing.assert_allclose(total[first:last], 1, rtol=0, atol=1e-12)
    assert total[0] == 0


def test_slaney_filters_have_area_one() -> None:
    mel = replace(HIFIGAN, n_fft=1 << 15, hop_length=512)
    area = filterbank(22050, mel).sum(axis=0) * 22050 / mel.n_fft
    np.testing.assert_allclose(area, 1, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("mel", "shortest"), [(CENTER, 513), (SAME, 385), (replace(SAME, n_fft=1024, hop_length=1000), 1000)]
)
def test_too_short_to_be_reflected(mel: Any, shortest: int) -> None:
    with pytest.raises(
        ValueError, match=rf"audio has {shortest - 1} samples at 24000 Hz, expected at least {shortest}: "
    ):
        log_mel(NOISE[None, : shortest - 1], 24000, mel)
    assert log_mel(NOISE[None, :shortest], 24000, mel).shape[2] >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_fft": 0}, "mel n_fft is 0, expected a positive integer"),
        ({"n_mels": -1}, "mel n_mels is -1, expected a positive integer"),
        ({"padding": "left"}, "mel padding is 'left', expected one of"),
        ({"mel_scale": "bark"}, "mel_scale is 'bark', expected one of"),
        ({"norm": "l2"}, "mel norm is 'l2', expected one of"),
        ({"f_min": 12000.0}, "mel f_min is 12000 and f_max 12000, expected 0 <= f_min < f_max"),
        ({"f_min": -1.0}, "mel f_min is -1 and f_max 12000"),
        ({"clip": 0.0}, "mel clip is 0, expected more than 0"),
        ({"power_offset": -1e-9}, "mel power_offset is -1e-09, expected 0 or more"),
        ({"hop_length": 2048}, "mel n_fft is 1024, expected at least 2048"),
    ],
)
def test_bad_settings(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CENTER, **change)


@pytest.fixture(scope="module")
def speech() -> dict[str, np.ndarray]:
    """Recordings (1, N) in three languages at 24 kHz, decoded from tokens."""
    vocos, folder = VocosONNX(), default_model().parent
    return {path.stem: vocos.decode(load_tokens(path))[None] for path in folder.glob("speech_*.npz")}


KINDS = pytest.mark.parametrize(("mel", "rate"), [(CENTER, 24_000), (HIFIGAN, 22_050)], ids=["vocos", "hifigan"])


def _unit(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


@KINDS
def test_mels_of_recordings_are_not_at_fault(mel: MelFeatures, rate: Any, speech: dict[str, np.ndarray]) -> None:
    seconds = np.arange(48_000) / 24_000
    rng = np.random.default_rng(0)
    sounds = {
        **speech,
        "noise": rng.normal(0, 0.2, (1, 48_000)),
        "tone": 0.5 * np.sin(2 * np.pi * 440 * seconds)[None],
        "sawtooth": 0.5 * (110 * seconds % 1)[None],
        "clicks": (np.arange(48_000) % 6000 == 0)[None].astype(float),
        "silence": np.zeros((1, 48_000)),
    }
    for name, audio in sounds.items():
        for gain in (1, 1e-3, 4, 1e-5):
            features = log_mel((gain * audio).astype(np.float32), rate, mel)
            for some in (features, features[0], features[0, :, :60], np.maximum(features, np.log(1e-5))):
                assert mel_fault(some, mel) is None, (name, gain)
    longest = np.zeros((2, mel.n_mels, 300), np.float32)  # a padded batch
    features = log_mel(speech["speech_en_m_joe_48k_stereo"][:, :40_000], rate, mel)
    longest[0, :, : features.shape[2]] = features[0]
    assert mel_fault(longest, mel) is None
    flat = np.full((mel.n_mels, 100), np.log(mel.clip)) + rng.normal(0, 0.05, (mel.n_mels, 100))
    for silence in (flat, flat + 1, flat.astype(np.float16), flat[:, :0]):  # as predicted by networks
        assert mel_fault(silence, mel) is None


@KINDS
@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (lambda x: 20 / np.log(10) * x, r"look like decibels: pass mels_from=MelConvention\(log='db'\)"),
        (lambda x: 10 / np.log(10) * x, "look like (logarithms of power or )?decibels"),
        (lambda x: np.maximum(8.686 * (x - x.max()), -80), "look like decibels"),
        (
            lambda x: 2 * x,
            r"look like logarithms of power( or decibels)?: pass mels_from=MelConvention\(scale=2\.0\)",
        ),
        (lambda x: x / np.log(10), r"look like log10: pass mels_from=MelConvention\(log=10\)"),
        (lambda x: 0.1 * x, r"are scaled down: pass mels_from=MelConvention\(scale=0\.1\) if they are of ZipVoice"),
        (
            _unit,
            r"are scaled down: .*, mels_from=MelConvention\(mean=MEAN, std=STD\) of that system if of a system that",
        ),
        (lambda x: 2 * _unit(x) - 1, "are scaled down"),
        (lambda x: (x - x.mean()) / x.std(), r"mels_from=MelConvention\(mean=MEAN, std=STD\) of that system"),
        (np.exp, r"look like magnitudes or powers: pass np\.log\(np\.maximum\(magnitudes, 1e-0[57]\)\)"),
        (
            lambda x: np.exp(2 * x),
            r"look like (magnitudes or )?powers: pass .*np\.log\(np\.maximum\(powers, 1e-1[04]\)\) / 2",
        ),
        (lambda x: x + np.log(32768), "audio in the range of int16"),
    ],
    ids=["dB", "10log10", "top_db", "ln power", "log10", "0.1", "0..1", "-1..1", "z", "magnitude", "power", "int16"],
)
def test_mels_of_another_scale(
    mel: MelFeatures, rate: Any, wrong: Callable[[np.ndarray], np.ndarray], cause: str, speech: dict[str, np.ndarray]
) -> None:
    for audio in speech.values():
        features = log_mel(audio, rate, mel)
        for given in (wrong(features), wrong(features[0]), np.concatenate([wrong(features)] * 2)):
            assert re.search(cause, mel_fault(given.astype(np.float32), mel) or "nothing")
        assert mel_fault(wrong(features)[:, :, :49], mel) is None


@KINDS
def test_the_remedies_make_mels_of_them(mel: MelFeatures, rate: Any, speech: dict[str, np.ndarray]) -> None:
    features = log_mel(speech["speech_it_f_paola_48k"], rate, mel)
    for given in (20 / np.log(10) * features, 2 * features, features / np.log(10), np.exp(features), 0.1 * features):
        remedy = found(r"pass (.*?)(, or| if|$)", mel_fault(given, mel))[1].removeprefix("mels_from=")
        names = {"magnitudes": given, "np": np, "MelConvention": MelConvention}
        passed = eval(remedy, names)
        made = passed.magnitudes(given) if isinstance(passed, MelConvention) else passed
        np.testing.assert_allclose(made, features, rtol=0, atol=1e-4)
    for gain in (1, 100):  # powers; loud ones exceed any magnitude
        fault = mel_fault(gain * np.exp(2 * features), mel)
        remedy = found(r"np\.log\(np\.maximum\(powers, \S+\)\) / 2", fault)[0]
        halved = eval(remedy, {"powers": gain * np.exp(2 * features), "np": np})
        np.testing.assert_allclose(halved, features + np.log(gain) / 2, rtol=0, atol=1e-4)
