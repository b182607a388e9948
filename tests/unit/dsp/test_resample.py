"""The resampler keeps the passband, does not alias, and leaves no seams between blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.helpers import level, tone
from vocos_onnx.dsp.resample import resample, resample_blocks

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(-0.5, 0.5, 4800).astype(np.float32)
RATES = [(8000, 24000), (16000, 24000), (22050, 24000), (44100, 24000), (48000, 24000), (192000, 24000), (24000, 22050)]


@pytest.mark.parametrize(("rate", "to"), RATES)
@pytest.mark.parametrize("block", [1, 100, 7777])
def test_resampling_block_by_block(rate: Any, to: Any, block: int) -> None:
    for samples in (1, 2, 441, 5000):
        audio = NOISE[None, :samples]
        parts = list(resample_blocks(np.split(audio, range(block, samples, block), axis=1), rate, to))
        whole = resample(audio, rate, to)
        assert sum(part.shape[1] for part in parts) == whole.shape[1]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "to"), RATES)
@pytest.mark.parametrize("samples", [1, 2, 147, 1000])
def test_length_is_rounded_up(rate: Any, to: Any, samples: int) -> None:
    assert resample(np.zeros((2, samples), np.float32), rate, to).shape == (2, -(-samples * to // rate))


@pytest.mark.parametrize(("rate", "to"), RATES)
def test_pass_band_is_flat(rate: Any, to: Any) -> None:
    lower = min(rate, to)
    for share in (0.05, 0.2, 0.4, 0.45):
        given, taken = tone(share * lower, rate), resample(tone(share * lower, rate), rate, to)
        assert abs(level(taken) - level(given)) < (0.001 if (rate, to) != (24000, 22050) else 0.002), share
        expected = np.sin(2 * np.pi * share * lower * np.arange(len(taken)) / to)
        middle = slice(len(taken) // 4, -len(taken) // 4)
        np.testing.assert_allclose(taken[middle], expected[middle], rtol=0, atol=1e-3)  # also without delay


@pytest.mark.parametrize(("rate", "to"), [(48000, 24000), (44100, 24000), (192000, 24000), (24000, 22050)])
def test_stop_band_folds_nothing_back(rate: int, to: int) -> None:
    for share in (0.5, 0.505, 0.52, 0.6, 0.9, 1.3):
        if share * to < rate / 2:
            assert level(resample(tone(share * to + 1, rate), rate, to)) < (-97 if share == 0.5 else -100), share


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_images_are_removed(rate: int) -> None:
    """Raising the rate adds nothing above the old band."""
    audio = resample(RNG.standard_normal(rate).astype(np.float32), rate, 24000)
    middle = audio[6000:18000] * np.hanning(12000)
    power = np.abs(np.fft.rfft(middle)) ** 2
    above = int(12000 * (rate / 2) / 24000) + 10
    assert 10 * np.log10(power[above:].mean() / power[: above // 2].mean()) < -95


ODD = [
    (383_999, 24_000), (24_000, 383_999), (383_999, 384_000), (1009, 383_987), (383_987, 1009), (44_101, 24_000),
    (24_001, 44_100), (15_999, 16_000), (47_999, 22_050), (11_027, 11_025),
]  # fmt: skip


def direct(audio: np.ndarray, rate: int, to: int, outputs: np.ndarray) -> np.ndarray:
    """Selected samples of the resampled audio, computed as a direct sum in double precision."""
    lower, beta = min(1, to / rate), 0.1102 * (100 - 8.7)
    u = (outputs[:, None] * rate - np.arange(len(audio)) * to) / to * lower
    window = np.i0(beta * np.sqrt(np.maximum(0, 1 - (u / 64) ** 2))) / np.i0(beta) * (abs(u) <= 64)
    return (audio * lower * 0.95 * np.sinc(0.95 * u) * window).sum(axis=1)


@pytest.mark.parametrize(("rate", "to"), [*ODD, *RATES])
@pytest.mark.parametrize("samples", [1, 10, 3001])
def test_any_two_rates_give_the_sum_that_the_filter_is(rate: Any, to: Any, samples: int) -> None:
    audio = RNG.uniform(-1, 1, samples).astype(np.float32)
    resampled = resample(audio, rate, to)
    assert resampled.shape == (-(-samples * to // rate),)
    assert resampled.dtype == np.float32
    some = np.unique(np.linspace(0, len(resampled) - 1, 30).astype(int))
    np.testing.assert_allclose(resampled[some], direct(audio, rate, to, some), rtol=0, atol=2e-5)


def test_polynomials_and_the_polyphase_filter_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for rate, to in RATES:
        given = RNG.uniform(-1, 1, (2, 5000)).astype(np.float32)
        expected = resample(given, rate, to)
        with monkeypatch.context() as patch:
            patch.setattr("vocos_onnx.dsp.resample._MAX_PHASES", 0)
            np.testing.assert_allclose(resample(given, rate, to), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("rate", "to"), ODD)
@pytest.mark.parametrize("block", [1, 999, 20_011])
def test_any_two_rates_block_by_block(rate: Any, to: Any, block: int) -> None:
    audio = RNG.uniform(-1, 1, (2, 500 if block == 1 else min(50_000, 2_000_000 * rate // to))).astype(np.float32)
    parts = list(resample_blocks(np.split(audio, range(block, audio.shape[1], block), axis=1), rate, to))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), resample(audio, rate, to), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "to"), ODD)
def test_any_two_rates_pass_and_stop(rate: Any, to: Any) -> None:
    lower = min(rate, to)
    for share in (0.05, 0.45):
        taken = resample(tone(share * lower, rate, 0.6), rate, to)
        assert abs(level(taken) - level(np.sin(2 * np.pi * share * lower * np.arange(len(taken)) / to))) < 0.001, share
    for share in (0.502, 0.6, 1.3):
        if share * to < rate / 2:
            assert level(resample(tone(share * to + 1, rate, 0.6), rate, to)) < -97, share
    if to > 1.1 * rate:  # nothing above the old band
        middle = resample(RNG.standard_normal(rate).astype(np.float32), rate, to)[to // 4 : to // 4 + to // 2]
        power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
        edge = round(len(power) * rate / to)
        assert 10 * np.log10(power[edge + 10 :].mean() / power[: edge // 2].mean()) < -95


def test_any_two_rates_take_little_time_and_memory() -> None:
    """The process gets 1 GB of address space and 20 s; a filter phase for each position took 32 s and 2.4 GB."""
    program = """
import resource
import numpy as np
from vocos_onnx.dsp.resample import resample, resample_blocks
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for rate in range(383_900, 384_000, 3):
    for to in (1009, 24_000, 44_100, 383_999):
        assert resample(np.ones(10, np.float32), rate, to).shape == (-(-10 * to // rate),)
second = np.zeros((1, 383_999), np.float32)
assert sum(block.shape[1] for block in resample_blocks((second for _ in range(60)), 383_999, 24_000)) == 60 * 24_000
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20, env=environment)


def test_equal_rates_are_left_alone() -> None:
    assert resample(NOISE, 24000, 24000) is NOISE


def test_long_blocks_are_resampled_in_pieces() -> None:
    """From 1 kHz to 384 kHz each second grows to 1.5 MB, so the output is split into blocks of bounded size."""
    seconds = RNG.uniform(-1, 1, (1, 8000)).astype(np.float32)
    blocks = list(resample_blocks([seconds], 1000, 384_000))
    assert max(block.shape[1] for block in blocks) <= 1 << 19
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), resample(seconds, 1000, 384_000), rtol=0, atol=1e-6)
