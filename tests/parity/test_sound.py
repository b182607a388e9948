"""Measures of what PESQ misses, on known signals: the line at the frame rate, harmonicity, levels, and probes."""

from __future__ import annotations

import numpy as np
import pytest

from vocos_onnx import VocosONNX
from vocos_onnx.dsp.resample import resample
from vocos_onnx.evaluate import probes
from vocos_onnx.evaluate.metrics import frame_rate_line, harmonicity, level_error
from vocos_onnx.model.bundled import find_model

RATE = 24_000
TIME = np.arange(4 * RATE) / RATE
NOISE = np.random.default_rng(0).normal(0, 0.1, TIME.shape)
LONG = np.arange(30 * RATE) / RATE


def test_a_buzz_stands_out_at_its_frame_rate_alone() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, LONG.shape)
    weak, strong = (noise * (1 + depth * np.sin(2 * np.pi * 75 * LONG)) for depth in (0.5, 0.9))
    assert abs(frame_rate_line(noise, RATE, 75)) < 3
    assert 10 < frame_rate_line(weak, RATE, 75) < frame_rate_line(strong, RATE, 75)
    assert abs(frame_rate_line(weak, RATE, 93.75)) < 3
    at_48k = resample(weak.astype(np.float32), RATE, 48_000)
    assert frame_rate_line(at_48k, 48_000, 75) == pytest.approx(frame_rate_line(weak, RATE, 75), abs=1)


def test_harmonics_are_told_from_noise_band_by_band() -> None:
    voice = sum(np.sin(2 * np.pi * 150 * k * TIME) for k in range(1, 10)) + NOISE
    assert harmonicity(voice, RATE, 100, 1000) > 0.9
    assert harmonicity(voice, RATE, 2000, 4000) < 0.6  # the voice ends at 1350 Hz
    assert harmonicity(3 * voice, RATE, 100, 1000) == pytest.approx(harmonicity(voice, RATE, 100, 1000))


def test_harmonicity_is_the_median_of_the_normalised_autocorrelation() -> None:
    """Harmonicity equals its definition, computed frame by frame."""
    audio = np.sin(2 * np.pi * 2500 * TIME) * (TIME % 0.4 < 0.2) + 0.5 * NOISE
    from scipy.signal import butter, sosfiltfilt

    banded = sosfiltfilt(butter(4, [2000, 4000], "band", fs=RATE, output="sos"), audio)
    frames = [banded[start : start + 1200] for start in range(0, len(banded) - 1199, 600)]
    loudest = max(float(np.mean(f**2)) for f in frames)
    peaks = []
    for frame in frames:
        if np.mean(frame**2) > 0.03 * loudest:
            x = frame - frame.mean()
            values = [
                np.dot(x[lag:], x[: 1200 - lag]) / np.dot(x, x) / (1 - lag / 1200 + 1e-3) for lag in range(60, 300)
            ]
            peaks.append(max(values))
    assert harmonicity(audio, RATE, 2000, 4000) == pytest.approx(np.median(peaks), abs=1e-4)


def test_levels_by_band() -> None:
    low, high = np.sin(2 * np.pi * 500 * TIME), np.sin(2 * np.pi * 5000 * TIME)
    copy = low + 0.1 * high
    assert level_error(low + high, copy, RATE, 0, 1000) == pytest.approx(0, abs=0.01)
    assert level_error(low + high, copy, RATE, 4000, 8000) == pytest.approx(-20, abs=0.01)
    assert level_error(NOISE, 2 * NOISE, RATE) == pytest.approx(20 * np.log10(2), abs=1e-6)
    assert level_error(NOISE, np.zeros_like(NOISE), RATE) < -100
    assert np.isnan(level_error(np.zeros_like(NOISE), NOISE, RATE))


@pytest.mark.parametrize("samples", [0, 1, 1000])
def test_too_short(samples: int) -> None:
    audio = NOISE[:samples]
    assert np.isnan(frame_rate_line(audio, RATE, 75))
    assert np.isnan(harmonicity(audio, RATE, 100, 1000))
    assert np.isnan(level_error(audio, audio, RATE))


def test_probes_of_a_model_that_halves_what_it_hears() -> None:
    speech = (NOISE * np.sin(2 * np.pi * 3 * TIME)).astype(np.float32)
    found = probes.probe(lambda audio: audio * np.float32(0.5), [speech, speech], RATE)
    assert list(found) == ["440 Hz", "3 kHz", "sweep", "silence", "-40 dBFS", "-60 dBFS", "8 kHz", "16 kHz"]
    assert found.pop("silence") == -200
    assert all(error == pytest.approx(-6.02, abs=0.01) for error in found.values())


def test_versions_are_as_quiet_and_as_narrow_as_they_should() -> None:
    made = probes.versions(NOISE.astype(np.float32), RATE)
    assert np.abs(made["-60 dBFS"]).max() == pytest.approx(1e-3)
    for name, edge in (("8 kHz", 4000), ("16 kHz", 8000)):
        assert made[name].shape == NOISE.shape
        power = np.abs(np.fft.rfft(made[name])) ** 2
        at = round(edge * len(NOISE) / RATE)
        assert power[int(1.05 * at) :].sum() < 1e-4 * power[:at].sum()


def test_probes_of_the_bundled_codec() -> None:
    vocos = VocosONNX(find_model("vocos-codec-24khz"))
    speech = NOISE[:RATE].astype(np.float32)
    found = probes.probe(lambda audio: vocos(audio, RATE, bandwidth=6.0)[: len(audio)], [speech], RATE)
    assert all(np.isfinite(error) for error in found.values())
    assert found["silence"] < -40
