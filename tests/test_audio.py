"""Files of every kind come in as mono of the rate wanted, whole; the resampler keeps what fits and folds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vocos_onnx.audio
from vocos_onnx import load_audio, save_audio, save_blocks
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


ODD = [
    (383_999, 24_000), (24_000, 383_999), (383_999, 384_000), (1009, 383_987), (383_987, 1009), (44_101, 24_000),
    (24_001, 44_100), (15_999, 16_000), (47_999, 22_050), (11_027, 11_025),
]  # fmt: skip


def direct(audio: np.ndarray, rate: int, to: int, outputs: np.ndarray) -> np.ndarray:
    """Some samples of the resampled audio, as the sum over its samples that it stands for, in double precision."""
    lower, beta = min(1, to / rate), 0.1102 * (100 - 8.7)
    u = (outputs[:, None] * rate - np.arange(len(audio)) * to) / to * lower
    window = np.i0(beta * np.sqrt(np.maximum(0, 1 - (u / 64) ** 2))) / np.i0(beta) * (abs(u) <= 64)
    return (audio * lower * 0.95 * np.sinc(0.95 * u) * window).sum(axis=1)


@pytest.mark.parametrize(("rate", "to"), [*ODD, *RATES])
@pytest.mark.parametrize("samples", [1, 10, 3001])
def test_any_two_rates_give_the_sum_that_the_filter_is(rate, to, samples):
    audio = RNG.uniform(-1, 1, samples).astype(np.float32)
    resampled = resample(audio, rate, to)
    assert resampled.shape == (-(-samples * to // rate),)
    assert resampled.dtype == np.float32
    some = np.unique(np.linspace(0, len(resampled) - 1, 30).astype(int))
    np.testing.assert_allclose(resampled[some], direct(audio, rate, to, some), rtol=0, atol=2e-5)


def test_polynomials_and_the_polyphase_filter_agree(monkeypatch):
    for rate, to in RATES:
        given = RNG.uniform(-1, 1, (2, 5000)).astype(np.float32)
        expected = resample(given, rate, to)
        with monkeypatch.context() as patch:
            patch.setattr("vocos_onnx.resample._POLYPHASE", 0)
            np.testing.assert_allclose(resample(given, rate, to), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("rate", "to"), ODD)
@pytest.mark.parametrize("block", [1, 999, 20_011])
def test_any_two_rates_block_by_block(rate, to, block):
    audio = RNG.uniform(-1, 1, (2, 500 if block == 1 else min(50_000, 2_000_000 * rate // to))).astype(np.float32)
    parts = list(resample_blocks(np.split(audio, range(block, audio.shape[1], block), axis=1), rate, to))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), resample(audio, rate, to), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "to"), ODD)
def test_any_two_rates_pass_and_stop(rate, to):
    lower = min(rate, to)
    for share in (0.05, 0.45):
        taken = resample(tone(share * lower, rate, 0.6), rate, to)
        assert abs(level(taken) - level(np.sin(2 * np.pi * share * lower * np.arange(len(taken)) / to))) < 0.001, share
    for share in (0.502, 0.6, 1.3):
        if share * to < rate / 2:
            assert level(resample(tone(share * to + 1, rate, 0.6), rate, to)) < -97, share
    if to > 1.1 * rate:  # and nothing above the old band
        middle = resample(RNG.standard_normal(rate).astype(np.float32), rate, to)[to // 4 : to // 4 + to // 2]
        power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
        edge = round(len(power) * rate / to)
        assert 10 * np.log10(power[edge + 10 :].mean() / power[: edge // 2].mean()) < -95


def test_any_two_rates_take_little_time_and_memory():
    """A process may take 1 GB of addresses and 20 s; filters with a phase for each position took 32 s and 2.4 GB."""
    program = """
import resource
import numpy as np
from vocos_onnx.audio import resample, resample_blocks
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for rate in range(383_900, 384_000, 3):
    for to in (1009, 24_000, 44_100, 383_999):
        assert resample(np.ones(10, np.float32), rate, to).shape == (-(-10 * to // rate),)
second = np.zeros((1, 383_999), np.float32)
assert sum(block.shape[1] for block in resample_blocks((second for _ in range(60)), 383_999, 24_000)) == 60 * 24_000
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20, env=environment)


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
    for dtype, full in ((np.int16, 2**15), (np.int32, 2**31), (np.dtype(">i2"), 2**15)):
        waveform = read_waveform(np.array([-full, 0, full // 2], dtype), 24000, 24000)
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, [[-1, 0, 0.5]])


def test_floats_of_any_width_and_a_list():
    for audio in (NOISE.astype(np.float64), NOISE.astype(np.float16), list(map(float, NOISE))):
        np.testing.assert_allclose(read_waveform(audio, 24000, 24000)[0], NOISE, rtol=0, atol=3e-4)


def test_values_beyond_full_scale_are_kept():
    np.testing.assert_array_equal(read_waveform([-3.0, 2.5], 24000, 24000), [[-3, 2.5]])


WRITTEN = ["wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64", "rf64", "mat4", "mat5", "svx", "nist", "voc"]


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_written(suffix, bad, tmp_path):
    for dtype in (np.float16, np.float32, np.float64):
        audio = np.zeros(5000, dtype)
        audio[4321] = bad
        with pytest.raises(ValueError, match=r"audio holds NaN or infinity, first at sample 4321; expected finite"):
            save_audio(tmp_path / f"a.{suffix}", audio, 24000)
        with pytest.raises(ValueError, match=r"first at sample 5321; expected finite values"):
            save_blocks(tmp_path / f"a.{suffix}", [np.zeros(1000), audio], 24000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_is_beyond_full_scale_is_clipped(suffix, tmp_path):
    loud = 3 * tone(440, 24000)
    save_audio(tmp_path / f"a.{suffix}", loud, 24000)
    save_audio(tmp_path / f"b.{suffix}", loud.clip(-1, 1), 24000)
    got = load_audio(tmp_path / f"a.{suffix}", 24000)
    np.testing.assert_array_equal(got, load_audio(tmp_path / f"b.{suffix}", 24000))
    assert len(got) == len(loud)
    assert abs(got).max() <= (1.5 if suffix in ("ogg", "mp3") else 1)


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "flac", "wav"])
def test_long_writes_in_a_small_thread(suffix, tmp_path):
    """In a process of their own: libvorbis takes room on the stack for all that it is given at once."""
    program = """
import sys, threading
import numpy as np
from vocos_onnx import save_audio
noise = (0.1 * np.random.default_rng(0).standard_normal(24000 * 100)).astype(np.float32)
threading.stack_size(128 << 10)
thread = threading.Thread(target=save_audio, args=(sys.argv[1], noise[:24000 * 20], 24000))
thread.start()
thread.join()
save_audio(sys.argv[1], noise, 24000)
"""
    path = tmp_path / f"a.{suffix}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=environment)
    assert len(load_audio(path, 24000)) == 2_400_000


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((1, 5)), r"audio has shape \(1, 5\), expected \(samples,\)"),
        (np.zeros((5, 2)), r"audio has shape \(5, 2\), expected \(samples,\); write each channel to a file of its own"),
        (np.float32(0), r"audio has shape \(\), expected \(samples,\)"),
        (np.zeros(5, np.int64), r"dtype int64, expected floats with full scale ±1, int16 or int32"),
        (np.zeros(5, complex), r"dtype complex128, expected floats"),
        (np.array([0.5, None]), r"dtype object, expected floats"),
        (["a"], r"dtype <U1, expected floats"),
    ],
)
def test_arrays_that_are_not_written(audio, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_audio(tmp_path / "a.wav", audio, 24000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", WRITTEN)
def test_arrays_of_every_type_are_written(suffix, tmp_path):
    path, halves = tmp_path / f"a.{suffix}", 0.5 * tone(300, 24000)
    floats = [halves.astype(dtype) for dtype in ("f2", "f4", ">f4", "f8", ">f8")]
    integers = [(halves * 2**15).astype("i2"), (halves * 2**15).astype(">i2"), (halves * 2**31).astype("i4")]
    for audio in (*floats, *integers, np.repeat(halves, 2)[::2], halves.tolist()):
        save_audio(path, audio, 24000)
        np.testing.assert_allclose(
            load_audio(path, 24000), halves, rtol=0, atol=0.1 if suffix in ("ogg", "mp3") else 1e-3
        )


def test_integers_are_written_as_they_are(tmp_path):
    audio = np.array([-(2**15), -1, 0, 1, 2**15 - 1], np.int16)
    save_audio(tmp_path / "a.wav", audio, 24000)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], audio)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_no_samples_are_a_file_or_an_error(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix in ("flac", "mp3"):
        with pytest.raises(ValueError, match=rf"audio is empty, and \.{suffix} cannot hold that"):
            save_audio(path, np.zeros(0), 24000)
        assert not path.exists()
    else:
        save_audio(path, np.zeros(0), 24000)
        assert soundfile.info(path).frames == 0


@pytest.mark.parametrize(
    ("suffix", "rate", "message"),
    [
        ("mp3", 96_000, r"a\.mp3: sample_rate is 96000, and \.mp3 has 8000, 11025, .*, 48000 Hz; try \.wav"),
        ("mp3", 7350, r"\.mp3 has 8000, "),
        ("ogg", 384_000, r"\.ogg has 1000 to 200000 Hz"),  # which crashed
        ("ogg", 0, r"sample_rate is 0, expected 1000 to 384000 Hz"),  # as did this
        ("opus", 44_100, r"a\.opus: sample_rate is 44100, and \.opus has 8000, 12000, 16000, 24000, 48000 Hz; try"),
        ("flac", 383_999, r"cannot write .*a\.flac at 383999 Hz"),
        ("wav", -1, r"sample_rate is -1, expected"),
        ("wav", 2**40, r"sample_rate is 1099511627776, expected"),
        ("wav", 24_000.0, r"sample_rate is 24000\.0, expected an integer in Hz"),
        ("wav", True, r"sample_rate is True, expected an integer"),
        ("raw", 24_000, r"'a\.raw' does not end in a known kind"),  # has no header
        ("sd2", 24_000, r"'a\.sd2' does not end in a known kind"),  # has it in another file
    ],
)
def test_rates_and_kinds_that_are_not_written(suffix, rate, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_audio(tmp_path / f"a.{suffix}", NOISE, rate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000, np.int64(16_000), np.int32(44_100)])
def test_usual_rates_are_written_in_every_kind(rate, tmp_path):
    for suffix in ("wav", "flac", "ogg", "mp3"):
        save_audio(tmp_path / f"a.{suffix}", NOISE, rate)
        assert soundfile.info(tmp_path / f"a.{suffix}").samplerate == rate


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_full_disk(suffix, tmp_path):
    """Also where only the end does not fit, that libsndfile writes as it closes the file."""
    program = """
import resource, sys
import numpy as np
from vocos_onnx import save_audio
noise = np.random.default_rng(0).uniform(-1, 1, 100_000)
save_audio(sys.argv[1], noise[:3000], 24000)
import os
size = os.path.getsize(sys.argv[1])
os.remove(sys.argv[1])
for limit in (10, size - 1, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for samples in (3000, 100_000):
        try:
            save_audio(sys.argv[1], noise[:samples], 24000)
        except OSError as error:
            assert error.errno, error
            assert not os.listdir()
        else:
            assert limit == size and samples == 3000
            os.remove(sys.argv[1])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, f"a.{suffix}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=r"the folder .* cannot be written, and a\.wav is to go there"):
        save_audio(tmp_path / "a.wav", NOISE, 24000)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_the_rate_that_is_written_comes_back(rate, tmp_path):
    for kind in soundfile.available_formats():
        path = tmp_path / f"a.{kind.lower()}"
        try:
            save_audio(path, NOISE, rate)
        except ValueError:
            continue
        assert soundfile.info(path).samplerate == rate, kind


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "voc", "svx", "avr", "mat5"])
def test_more_than_a_header_can_say(suffix, tmp_path, monkeypatch):
    most = 9000 if suffix != "mat5" else 50_000
    monkeypatch.setitem(vocos_onnx.audio._MOST, suffix.upper(), most)
    save_blocks(tmp_path / f"a.{suffix}", [NOISE[:4000]], 16_000)
    with pytest.raises(ValueError, match=rf"holds {most} bytes; write \.w64 or \.flac"):
        save_blocks(tmp_path / f"b.{suffix}", (NOISE[:500] for _ in range(100)), 16_000)
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


@pytest.mark.parametrize(("suffix", "samples"), [("voc", 1 << 23)])
def test_short_kinds_are_not_written_beyond_what_they_can_say(suffix, samples, tmp_path):
    block = np.zeros(1 << 16, np.int16)
    least = samples // len(block) - 1
    save_blocks(tmp_path / f"a.{suffix}", [block] * least, 24_000)
    assert len(load_audio(tmp_path / f"a.{suffix}", 24_000)) == least * len(block)
    with pytest.raises(ValueError, match="too long for this kind of file"):
        save_blocks(tmp_path / f"b.{suffix}", [block] * (least + 1), 24_000)


@pytest.mark.skipif(sys.platform == "win32", reason="needs descriptors of POSIX")
def test_no_file_becomes_a_standard_stream(tmp_path):
    """C libraries print to them by their numbers, also when they are closed."""
    program = r"""
import os
import numpy as np
from vocos_onnx import load_audio, load_blocks, save_audio, save_blocks
save_audio("a.wav", np.zeros(1000), 24000)
load_audio("a.wav", 24000)
for number in range(3):
    os.close(number)
def blocks():
    for _ in range(2):
        for block in load_blocks("a.wav", 24000):
            for number in range(3):
                try:
                    os.write(number, b"an error message")
                except OSError:
                    pass
            yield block
save_blocks("b.wav", blocks(), 24000)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
    np.testing.assert_array_equal(load_audio(tmp_path / "b.wav", 24_000), np.zeros(2000))


def test_long_blocks_are_resampled_in_pieces():
    """1 kHz to 384 kHz: each second becomes 1.5 MB, of which few are there at a time."""
    seconds = RNG.uniform(-1, 1, (1, 8000)).astype(np.float32)
    blocks = list(resample_blocks([seconds], 1000, 384_000))
    assert max(block.shape[1] for block in blocks) <= 1 << 19
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), resample(seconds, 1000, 384_000), rtol=0, atol=1e-6)
