"""Files of every kind come in as mono of the rate wanted, whole; the resampler keeps what fits and folds nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vocos_onnx import load_audio, save_audio
from vocos_onnx.audio import MAX_RATE, MIN_RATE, read_waveform, resample, resample_blocks

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(-0.5, 0.5, 4800).astype(np.float32)
RATES = [(8000, 24000), (16000, 24000), (22050, 24000), (44100, 24000), (48000, 24000), (192000, 24000), (24000, 22050)]


def tone(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def level(audio: np.ndarray) -> float:
    """dB of the middle half, 0 for a sine of amplitude 1."""
    middle = audio[len(audio) // 4 : -len(audio) // 4].astype(np.float64)
    return float(10 * np.log10(2 * np.mean(middle**2) + 1e-30))


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.flac", "PCM_16", 2**-15),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
def test_every_sample_type(tmp_path, name, subtype, tolerance):
    soundfile.write(tmp_path / name, NOISE, 24000, subtype=subtype)
    audio = load_audio(tmp_path / name, 24000)
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio, NOISE, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_files(tmp_path, name):
    soundfile.write(tmp_path / name, 0.5 * tone(440, 24000), 24000)
    audio = load_audio(tmp_path / name, 24000)
    assert abs(len(audio) - 12000) <= 2000  # an encoder may add a frame
    assert abs(level(audio) + 6) < 0.5


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_channels_are_mixed_by_their_mean(tmp_path, channels):
    audio = RNG.uniform(-1, 1, (1000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 24000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 24000), audio.mean(axis=1), rtol=0, atol=1e-6)


def test_a_long_file_is_read_in_blocks(tmp_path):
    audio = RNG.uniform(-1, 1, (1 << 18) + 7).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([audio, audio], axis=1), 24000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 24000), audio)


@pytest.mark.parametrize(("rate", "to"), RATES)
@pytest.mark.parametrize("block", [1, 100, 7777])
def test_resampling_block_by_block(rate, to, block):
    for samples in (1, 2, 441, 5000):
        audio = NOISE[None, :samples]
        parts = list(resample_blocks(np.split(audio, range(block, samples, block), axis=1), rate, to))
        whole = resample(audio, rate, to)
        assert sum(part.shape[1] for part in parts) == whole.shape[1]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "to"), RATES)
@pytest.mark.parametrize("samples", [1, 2, 147, 1000])
def test_length_is_rounded_up(rate, to, samples):
    assert resample(np.zeros((2, samples), np.float32), rate, to).shape == (2, -(-samples * to // rate))


@pytest.mark.parametrize(("rate", "to"), RATES)
def test_pass_band_is_flat(rate, to):
    lower = min(rate, to)
    for share in (0.05, 0.2, 0.4, 0.45):
        given, taken = tone(share * lower, rate), resample(tone(share * lower, rate), rate, to)
        assert abs(level(taken) - level(given)) < (0.001 if (rate, to) != (24000, 22050) else 0.002), share
        expected = np.sin(2 * np.pi * share * lower * np.arange(len(taken)) / to)
        middle = slice(len(taken) // 4, -len(taken) // 4)
        np.testing.assert_allclose(taken[middle], expected[middle], rtol=0, atol=1e-3)  # no delay either


@pytest.mark.parametrize(("rate", "to"), [(48000, 24000), (44100, 24000), (192000, 24000), (24000, 22050)])
def test_stop_band_folds_nothing_back(rate, to):
    for share in (0.5, 0.505, 0.52, 0.6, 0.9, 1.3):
        if share * to < rate / 2:
            assert level(resample(tone(share * to + 1, rate), rate, to)) < (-97 if share == 0.5 else -100), share


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_images_are_removed(rate):
    """Raising the rate adds nothing above the old band."""
    audio = resample(RNG.standard_normal(rate).astype(np.float32), rate, 24000)
    middle = audio[6000:18000] * np.hanning(12000)
    power = np.abs(np.fft.rfft(middle)) ** 2
    above = int(12000 * (rate / 2) / 24000) + 10
    assert 10 * np.log10(power[above:].mean() / power[: above // 2].mean()) < -95


def test_equal_rates_are_left_alone():
    assert resample(NOISE, 24000, 24000) is NOISE


def test_load_resamples(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1000, 44100), 44100, subtype="FLOAT")
    audio = load_audio(tmp_path / "a.wav", 24000)
    assert len(audio) == 12000
    np.testing.assert_allclose(audio[3000:9000], tone(1000, 24000)[3000:9000], rtol=0, atol=1e-4)


def test_save_and_load(tmp_path):
    save_audio(tmp_path / "a.flac", NOISE, 24000)
    np.testing.assert_allclose(load_audio(tmp_path / "a.flac", 24000), NOISE, rtol=0, atol=2**-15)


def test_bad_files(tmp_path):
    (tmp_path / "text.wav").write_text("hello " * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "whole.flac", NOISE, 24000)
    (tmp_path / "short.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:5000])
    soundfile.write(tmp_path / "none.wav", NOISE[:0], 24000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), 24000, subtype="FLOAT")
    soundfile.write(tmp_path / "inf.wav", np.array([0.1, 0.2, np.inf]), 24000, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", NOISE, 999)
    for name, message in (
        ("text.wav", r"cannot read .*text\.wav as audio: .*damaged or of another kind"),
        ("empty.wav", r"cannot read .*empty\.wav as audio"),
        ("folder.wav", r"folder\.wav is not a file; expected audio such as \.wav"),
        ("short.flac", r"cannot read .*short\.flac as audio: .*damaged|short\.flac: it is truncated"),
        ("none.wav", r"none\.wav: audio is empty; expected at least one sample"),
        ("nan.wav", r"nan\.wav: audio holds NaN or infinity, first at sample 1; expected finite"),
        ("inf.wav", r"inf\.wav: audio holds NaN or infinity, first at sample 2"),
        ("slow.wav", r"slow\.wav: sample_rate is 999, expected 1000 to 384000 Hz"),
    ):
        with pytest.raises(ValueError, match=message):
            load_audio(tmp_path / name, 24000)
    with pytest.raises(FileNotFoundError, match=r"no audio file .*missing\.wav"):
        load_audio(tmp_path / "missing.wav", 24000)


@pytest.mark.parametrize("rate", [MIN_RATE - 1, MAX_RATE + 1, 0, -24000])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=rf"sample_rate is {rate}, expected 1000 to 384000 Hz"):
        read_waveform(NOISE, rate, 24000)


@pytest.mark.parametrize("rate", [24000.0, "24000", None, True])
def test_rates_that_are_no_integers(rate):
    with pytest.raises(ValueError, match=r"sample_rate is .*, expected an integer in Hz"):
        read_waveform(NOISE, rate, 24000)


@pytest.mark.parametrize("rate", [MIN_RATE, MAX_RATE, np.int64(48000)])
def test_rates_at_the_edges(rate):
    assert read_waveform(NOISE, rate, 24000).shape == (1, -(-4800 * 24000 // int(rate)))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0), r"audio is empty, shape \(0,\); expected at least one sample"),
        (np.zeros((0, 5)), r"audio is empty, shape \(0, 5\)"),
        (np.zeros((2, 0)), r"audio is empty, shape \(2, 0\)"),
        (np.float32(0), r"audio has shape \(\), expected \(samples,\), or \(batch, samples\)"),
        (np.zeros((1, 1, 5)), r"audio has shape \(1, 1, 5\), expected"),
        (np.zeros((1000, 2)), r"looks like \(samples, channels\): mix it down with audio\.mean\(axis=1\)"),
        (np.array([0, np.nan]), r"audio holds NaN or infinity, first at sample 1; expected finite values"),
        (np.array([[0, 0, 0], [0, 0, -np.inf]]), r"NaN or infinity, first at sample 2"),
        (np.array([1e39, 0]), r"NaN or infinity, first at sample 0"),
        (np.zeros(5, np.int64), r"dtype int64, expected floats with full scale ±1, int16 or int32"),
        (np.zeros(5, np.uint8), r"dtype uint8, expected floats"),
        (np.zeros(5, bool), r"dtype bool, expected floats"),
        (np.zeros(5, complex), r"dtype complex128, expected floats"),
        (["a"], r"dtype <U1, expected floats"),
    ],
)
def test_bad_arrays(audio, message):
    with pytest.raises(ValueError, match=message):
        read_waveform(audio, 24000, 24000)


def test_integers_are_scaled_to_full_scale():
    for dtype, full in ((np.int16, 2**15), (np.int32, 2**31)):
        waveform = read_waveform(np.array([-full, 0, full // 2], dtype), 24000, 24000)
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, [[-1, 0, 0.5]])


def test_floats_of_any_width_and_a_list():
    for audio in (NOISE.astype(np.float64), NOISE.astype(np.float16), list(map(float, NOISE))):
        np.testing.assert_allclose(read_waveform(audio, 24000, 24000)[0], NOISE, rtol=0, atol=3e-4)


def test_values_beyond_full_scale_are_kept():
    np.testing.assert_array_equal(read_waveform([-3.0, 2.5], 24000, 24000), [[-3, 2.5]])


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=r"the folder .* cannot be written, and a\.wav is to go there"):
        save_audio(tmp_path / "a.wav", NOISE, 24000)
