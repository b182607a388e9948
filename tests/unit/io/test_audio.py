"""Files of every kind are read completely, as mono at the requested rate."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import vocos_onnx.io.audio
from tests.helpers import found, level, tone
from vocos_onnx import EncodecONNX, load_audio, load_blocks, save_audio, save_blocks
from vocos_onnx.dsp.resample import resample, resample_blocks
from vocos_onnx.io.audio import audio_format, expected_samples
from vocos_onnx.io.samples import read_blocks, read_waveform
from vocos_onnx.limits import MAX_RATE, MIN_RATE

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(-0.5, 0.5, 4800).astype(np.float32)
ENCODER = EncodecONNX(threads=1)
LOUD = (3000 * np.random.default_rng(1).standard_normal(24_000)).astype(np.float32)


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
def test_every_sample_type(tmp_path: Path, name: str, subtype: str, tolerance: Any) -> None:
    soundfile.write(tmp_path / name, NOISE, 24000, subtype=subtype)
    audio = load_audio(tmp_path / name, 24000)
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio, NOISE, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_files(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, 0.5 * tone(440, 24000), 24000)
    audio = load_audio(tmp_path / name, 24000)
    assert abs(len(audio) - 12000) <= 2000  # an encoder may add a frame
    assert abs(level(audio) + 6) < 0.5


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_channels_are_mixed_by_their_mean(tmp_path: Path, channels: int) -> None:
    audio = RNG.uniform(-1, 1, (1000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 24000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 24000), audio.mean(axis=1), rtol=0, atol=1e-6)


def test_a_long_file_is_read_in_blocks(tmp_path: Path) -> None:
    audio = RNG.uniform(-1, 1, (1 << 18) + 7).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([audio, audio], axis=1), 24000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 24000), audio)


def test_load_resamples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1000, 44100), 44100, subtype="FLOAT")
    audio = load_audio(tmp_path / "a.wav", 24000)
    assert len(audio) == 12000
    np.testing.assert_allclose(audio[3000:9000], tone(1000, 24000)[3000:9000], rtol=0, atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.flac", NOISE, 24000)
    np.testing.assert_allclose(load_audio(tmp_path / "a.flac", 24000), NOISE, rtol=0, atol=2**-15)


def test_bad_files(tmp_path: Path) -> None:
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
def test_rates_out_of_range(rate: Any) -> None:
    with pytest.raises(ValueError, match=rf"sample_rate is {rate}, expected 1000 to 384000 Hz"):
        read_waveform(NOISE, rate, 24000)


@pytest.mark.parametrize("rate", [24000.0, "24000", None, True])
def test_rates_that_are_no_integers(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"sample_rate is .*, expected an integer in Hz"):
        read_waveform(NOISE, rate, 24000)


@pytest.mark.parametrize("rate", [MIN_RATE, MAX_RATE, np.int64(48000)])
def test_rates_at_the_edges(rate: Any) -> None:
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
def test_bad_arrays(audio: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_waveform(audio, 24000, 24000)


def test_integers_are_scaled_to_full_scale() -> None:
    for dtype, full in ((np.int16, 2**15), (np.int32, 2**31), (np.dtype(">i2"), 2**15)):
        waveform = read_waveform(np.array([-full, 0, full // 2], dtype), 24000, 24000)
        assert waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, [[-1, 0, 0.5]])


def test_floats_of_any_width_and_a_list() -> None:
    for audio in (NOISE.astype(np.float64), NOISE.astype(np.float16), list(map(float, NOISE))):
        np.testing.assert_allclose(read_waveform(audio, 24000, 24000)[0], NOISE, rtol=0, atol=3e-4)


def test_values_beyond_full_scale_are_kept() -> None:
    np.testing.assert_array_equal(read_waveform([-3.0, 2.5], 24000, 24000), [[-3, 2.5]])


WRITTEN = ["wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64", "rf64", "mat4", "mat5", "svx", "nist", "voc"]


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_written(suffix: Any, bad: Any, tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        audio = np.zeros(5000, dtype)
        audio[4321] = bad
        with pytest.raises(ValueError, match=r"audio holds NaN or infinity, first at sample 4321; expected finite"):
            save_audio(tmp_path / f"a.{suffix}", audio, 24000)
        with pytest.raises(ValueError, match=r"first at sample 5321; expected finite values"):
            save_blocks(tmp_path / f"a.{suffix}", [np.zeros(1000), audio], 24000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_is_beyond_full_scale_is_clipped(suffix: Any, tmp_path: Path) -> None:
    loud = 3 * tone(440, 24000)
    save_audio(tmp_path / f"a.{suffix}", loud, 24000)
    save_audio(tmp_path / f"b.{suffix}", loud.clip(-1, 1), 24000)
    got = load_audio(tmp_path / f"a.{suffix}", 24000)
    np.testing.assert_array_equal(got, load_audio(tmp_path / f"b.{suffix}", 24000))
    assert len(got) == len(loud)
    assert abs(got).max() <= (1.5 if suffix in ("ogg", "mp3") else 1)


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "flac", "wav"])
def test_long_writes_in_a_small_thread(suffix: str, tmp_path: Path) -> None:
    """Runs in a subprocess that would crash: libvorbis needs stack space for everything it is given at once."""
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
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert len(load_audio(path, 24000)) == 2_400_000


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((1, 5)), r"audio has shape \(1, 5\), expected \(samples,\)"),
        (np.zeros((5, 2)), r"audio has shape \(5, 2\), expected \(samples,\); write each channel to a file of its own"),
        (np.float32(0), r"audio has shape \(\), expected \(samples,\)"),
        (np.zeros(5, np.int64), r"dtype int64, expected floats with full scale ±1, int16 or int32"),
        (np.zeros(5, complex), r"dtype complex128, expected floats"),
        (np.array([0.5, None]), r"^audio: None is among the values, expected numbers"),
        (["a"], r"dtype <U1, expected floats"),
    ],
)
def test_arrays_that_are_not_written(audio: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_audio(tmp_path / "a.wav", audio, 24000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", WRITTEN)
def test_arrays_of_every_type_are_written(suffix: Any, tmp_path: Path) -> None:
    path, halves = tmp_path / f"a.{suffix}", 0.5 * tone(300, 24000)
    floats = [halves.astype(dtype) for dtype in ("f2", "f4", ">f4", "f8", ">f8")]
    integers = [(halves * 2**15).astype("i2"), (halves * 2**15).astype(">i2"), (halves * 2**31).astype("i4")]
    for audio in (*floats, *integers, np.repeat(halves, 2)[::2], halves.tolist()):
        save_audio(path, audio, 24000)
        np.testing.assert_allclose(
            load_audio(path, 24000), halves, rtol=0, atol=0.1 if suffix in ("ogg", "mp3") else 1e-3
        )


def test_integers_are_written_as_they_are(tmp_path: Path) -> None:
    audio = np.array([-(2**15), -1, 0, 1, 2**15 - 1], np.int16)
    save_audio(tmp_path / "a.wav", audio, 24000)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], audio)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_no_samples_are_a_file_or_an_error(suffix: Any, tmp_path: Path) -> None:
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
        ("ogg", 384_000, r"\.ogg has 1000 to 200000 Hz"),  # used to crash
        ("ogg", 0, r"sample_rate is 0, expected 1000 to 384000 Hz"),  # used to crash too
        ("opus", 44_100, r"a\.opus: sample_rate is 44100, and \.opus has 8000, 12000, 16000, 24000, 48000 Hz; try"),
        ("flac", 383_999, r"multiples of 10 Hz above 65535 Hz"),
        ("wav", -1, r"sample_rate is -1, expected"),
        ("wav", 2**40, r"sample_rate is 1099511627776, expected"),
        ("wav", 24_000.0, r"sample_rate is 24000\.0, expected an integer in Hz"),
        ("wav", True, r"sample_rate is True, expected an integer"),
        ("raw", 24_000, r"'a\.raw' does not end in a known kind"),  # has no header
        ("sd2", 24_000, r"'a\.sd2' does not end in a known kind"),  # its header is in another file
    ],
)
def test_rates_and_kinds_that_are_not_written(suffix: str, rate: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_audio(tmp_path / f"a.{suffix}", NOISE, rate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000, np.int64(16_000), np.int32(44_100)])
def test_usual_rates_are_written_in_every_kind(rate: Any, tmp_path: Path) -> None:
    for suffix in ("wav", "flac", "ogg", "mp3"):
        save_audio(tmp_path / f"a.{suffix}", NOISE, rate)
        assert soundfile.info(tmp_path / f"a.{suffix}").samplerate == rate


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_full_disk(suffix: Any, tmp_path: Path) -> None:
    """Also if only the end does not fit, which libsndfile writes when it closes the file."""
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
    done = subprocess.run([sys.executable, "-c", program, f"a.{suffix}"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=r"^cannot write .*/a\.wav: no permission to write to the folder "):
        save_audio(tmp_path / "a.wav", NOISE, 24000)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_the_rate_that_is_written_comes_back(rate: int, tmp_path: Path) -> None:
    for kind in soundfile.available_formats():
        path = tmp_path / f"a.{kind.lower()}"
        try:
            save_audio(path, NOISE, rate)
        except ValueError:
            continue
        assert soundfile.info(path).samplerate == rate, kind


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "voc", "svx", "avr", "mat5"])
def test_more_than_a_header_can_say(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 9000 if suffix != "mat5" else 50_000
    monkeypatch.setitem(vocos_onnx.io.audio._MOST, suffix.upper(), most)
    save_blocks(tmp_path / f"a.{suffix}", [NOISE[:4000]], 16_000)
    with pytest.raises(ValueError, match=rf"holds {most} bytes; write \.w64 or \.flac"):
        save_blocks(tmp_path / f"b.{suffix}", (NOISE[:500] for _ in range(100)), 16_000)
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


@pytest.mark.parametrize(("suffix", "samples"), [("voc", 1 << 23)])
def test_short_kinds_are_not_written_beyond_what_they_can_say(suffix: str, samples: Any, tmp_path: Path) -> None:
    block = np.zeros(1 << 16, np.int16)
    least = samples // len(block) - 1
    save_blocks(tmp_path / f"a.{suffix}", [block] * least, 24_000)
    assert len(load_audio(tmp_path / f"a.{suffix}", 24_000)) == least * len(block)
    with pytest.raises(ValueError, match="too long for this kind of file"):
        save_blocks(tmp_path / f"b.{suffix}", [block] * (least + 1), 24_000)


@pytest.mark.skipif(sys.platform == "win32", reason="needs descriptors of POSIX")
def test_no_file_becomes_a_standard_stream(tmp_path: Path) -> None:
    """C libraries print to descriptors 0 to 2 even if they were closed, so no audio file may get one of those."""
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
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(load_audio(tmp_path / "b.wav", 24_000), np.zeros(2000))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("peak", [100, 3000, 32_767])
def test_floats_in_the_range_of_int16_are_refused_by_all(peak: int, dtype: str, tmp_path: Path) -> None:
    loud = (peak * tone(440, 24_000)).astype(dtype)
    quiet = np.zeros(5000, dtype)
    message = r"audio reaches [\d.]+ at sample \d+, expected floats with full scale ±1 .*pass audio / 32768"
    for call in (
        lambda: ENCODER.encode(loud, 24_000),
        lambda: ENCODER.encode(np.stack([loud, -loud]), 24_000),
        lambda: list(ENCODER.encode_stream([quiet, loud], 16_000)),
        lambda: save_audio(tmp_path / "a.wav", loud, 24_000),
        lambda: save_blocks(tmp_path / "a.wav", [quiet, loud], 24_000),
        lambda: save_audio(io.BytesIO(), loud, 24_000, format="flac"),
        lambda: list(read_blocks([-loud], 24_000, 24_000)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())
    read_waveform(loud / 32_768, 24_000, 24_000)


def test_where_it_is_too_loud() -> None:
    audio = np.zeros(1000, np.float32)
    audio[700] = -400
    with pytest.raises(ValueError, match="reaches 400 at sample 700"):
        read_waveform(audio, 24_000, 24_000)
    with pytest.raises(ValueError, match="reaches 400 at sample 1700"):
        list(read_blocks([audio[:0], np.zeros(1000), audio], 24_000, 24_000))
    with pytest.raises(ValueError, match=r"audio / 2\*\*23 if it is in the range of 24 bits"):
        read_waveform(audio * 20_000, 24_000, 24_000)
    with pytest.raises(ValueError, match="no audio is in such a range"):
        read_waveform(audio * np.float32(1e12), 24_000, 24_000)
    with pytest.raises(ValueError, match="reaches 100"):
        read_waveform(np.full(1000, 100.0), 24_000, 24_000)  # a constant


@pytest.mark.parametrize("peak", [1.5, 10, 60])
def test_mixes_beyond_full_scale_are_audio(peak: float, tmp_path: Path) -> None:
    audio = peak * tone(440, 24_000)
    soundfile.write(tmp_path / "a.wav", audio, 24_000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 24_000), audio)
    np.testing.assert_array_equal(read_waveform(audio, 24_000, 24_000)[0], audio)
    save_audio(tmp_path / "b.wav", audio, 24_000)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "FLOAT"), ("a.caf", "DOUBLE"), ("a.au", "FLOAT")])
@pytest.mark.parametrize(("scale", "divisor"), [(3000, 32_768), (2**23, 2**31)])
def test_files_of_floats_in_the_range_of_integers(
    name: str, subtype: str, scale: Any, divisor: Any, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / name, scale * NOISE, 24_000, subtype=subtype)
    with pytest.raises(ValueError, match=rf"a\.\w+: audio reaches .*volume=1/{divisor} -c:a pcm_s16le whole\.wav"):
        load_audio(tmp_path / name, 24_000)


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        ("i1", "pass audio / np.float32(128)"),
        ("u1", "pass (audio - 2.0**7) / 2.0**7 where"),
        ("u2", "pass (audio - 2.0**15) / 2.0**15 where"),
        ("u4", "pass (audio - 2.0**31) / 2.0**31 where"),
        ("i8", "pass audio.astype(np.int16) for samples of 16 bits"),
        ("u8", "pass audio.astype(np.int16) for"),
        ("c8", "pass audio.real if"),
        ("O", "pass audio.astype(np.float32)"),
    ],
)
def test_other_types_and_what_to_pass(dtype: str, remedy: str, tmp_path: Path) -> None:
    half = {"u": 2 ** (8 * np.dtype(dtype).itemsize - 1)}.get(dtype[0], 0) if dtype != "u8" else 0
    audio = (np.array([0, 50, -50]) + half).astype(dtype)
    for call in (
        lambda audio: read_waveform(audio, 24_000, 24_000),
        lambda audio: list(read_blocks([audio], 24_000, 24_000)),
        lambda audio: save_audio(tmp_path / "a.wav", audio, 24_000),
    ):
        with pytest.raises(
            ValueError, match="expected floats with full scale ±1, int16 or int32; " + re.escape(remedy)
        ):
            call(audio)
    code = found(r"pass (.*?)( where| for| if|$)", remedy)[1]
    assert read_waveform(eval(code, {"audio": audio, "np": np}), 24_000, 24_000)[0, 0] == 0


@pytest.mark.parametrize("kind", [str, Path])
def test_addresses_are_no_paths(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get = 'download it first, or pass load_audio(urllib.request.urlopen("https://x.org/a.wav"), 16000)'
    with pytest.raises(FileNotFoundError, match=r"no audio file https://x\.org/a\.wav: .*" + re.escape(get)):
        load_audio(kind("https://x.org/a.wav"), 16_000)
    with pytest.raises(FileNotFoundError, match=r"s3://x/a\.wav: it is a URL, expected the path of a local file$"):
        save_audio(kind("s3://x/a.wav"), NOISE, 24_000)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:").mkdir()
    save_audio(kind("take:/a.wav"), NOISE, 24_000)
    assert len(load_audio(kind("take:/a.wav"), 24_000)) == len(NOISE)


def test_columns_of_arrays(tmp_path: Path) -> None:
    """Object arrays, as from parquet and pandas, raise an error whose remedy works verbatim."""
    several, one, ragged = np.empty(2, object), np.empty(1, object), np.empty(2, object)
    several[:], one[0], ragged[:] = [list(NOISE), NOISE], NOISE, [NOISE, NOISE[1:]]
    for audio, shape in ((several, (2, 4800)), (one, (1, 4800)), (NOISE.astype(object), (1, 4800))):
        with pytest.raises(ValueError, match=r"dtype object, expected floats .*pass ") as refused:
            read_waveform(audio, 24_000, 24_000)
        remedy = str(refused.value).rpartition("pass ")[2]
        assert read_waveform(eval(remedy, {"audio": audio, "np": np}), 24_000, 24_000).shape == shape
    with pytest.raises(ValueError, match="its items have different lengths: pass one recording at a time"):
        save_audio(tmp_path / "a.wav", ragged, 24_000)


def test_masked_samples_are_refused_by_all(tmp_path: Path) -> None:
    audio = np.ma.array(NOISE, mask=NOISE > 0.49)
    for call in (
        lambda: ENCODER.encode(audio, 24_000),
        lambda: ENCODER.encode([audio, NOISE], 24_000),
        lambda: list(ENCODER.encode_stream([NOISE, audio], 24_000)),
        lambda: save_audio(tmp_path / "a.wav", audio, 24_000),
        lambda: save_blocks(tmp_path / "a.wav", [NOISE, audio], 24_000),
    ):
        with pytest.raises(ValueError, match=r"audio has \d+ masked samples, .* pass audio\.filled\(0\)"):
            call()
    assert not list(tmp_path.iterdir())
    whole = np.ma.array(NOISE, mask=False)
    np.testing.assert_array_equal(read_waveform(whole, 24_000, 24_000)[0], NOISE)


def test_narrow_floats_are_audio(tmp_path: Path) -> None:
    narrow = NOISE.astype(pytest.importorskip("ml_dtypes").bfloat16)
    expected = narrow.astype(np.float32)
    np.testing.assert_array_equal(read_waveform(narrow, 24_000, 24_000)[0], expected)
    np.testing.assert_array_equal(next(read_blocks([narrow], 24_000, 24_000))[0], expected)
    save_audio(tmp_path / "a.wav", narrow, 24_000)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 24_000), expected, rtol=0, atol=2**-15)


def test_a_file_object_at_its_end() -> None:
    buffer = io.BytesIO()
    save_audio(buffer, NOISE, 24_000, format="wav")
    calls: list[Callable[[], object]] = [lambda: load_audio(buffer, 24_000), lambda: next(load_blocks(buffer, 24_000))]
    for call in calls:
        with pytest.raises(ValueError, match=r"BytesIO object stands at its end .* rewind it with file\.seek\(0\)"):
            call()
    assert expected_samples(buffer, 24_000) == 0
    assert buffer.tell() == len(buffer.getvalue())
    buffer.seek(0)
    assert len(load_audio(buffer, 24_000)) == len(NOISE)


@pytest.mark.parametrize("dtype", ["?", "U3", "S3", "m8[s]", "M8[s]", "V4", "i4,i4"])
def test_types_that_are_no_samples(dtype: str, tmp_path: Path) -> None:
    audio = np.zeros(1000, dtype)
    for call in (lambda: read_waveform(audio, 24_000, 24_000), lambda: save_audio(tmp_path / "a.wav", audio, 24_000)):
        with pytest.raises(ValueError, match=r"audio has dtype .*; these are no samples"):
            call()


@pytest.mark.parametrize("rate", [np.int16(16_000), np.uint16(16_000), np.array(16_000), np.array(16_000, np.int16)])
def test_small_integers_are_rates(rate: Any, tmp_path: Path) -> None:
    audio = np.tile(NOISE, 20)
    expected = read_waveform(audio, 16_000, 24_000)
    np.testing.assert_array_equal(read_waveform(audio, rate, 24_000), expected)
    parts = list(read_blocks([audio[:7], audio[7:]], rate, 24_000))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=0, atol=1e-6)
    assert save_blocks(tmp_path / "a.wav", [audio], rate) == len(audio)
    assert soundfile.info(tmp_path / "a.wav").samplerate == 16_000
    soundfile.write(tmp_path / "b.wav", audio, 44_100)
    samples = -(-len(audio) * 16_000 // 44_100)
    assert len(load_audio(tmp_path / "b.wav", rate)) == expected_samples(tmp_path / "b.wav", rate) == samples
    assert resample(audio, rate, np.int16(24_000)).shape == expected[0].shape  # type: ignore[arg-type]
    assert sum(block.shape[1] for block in resample_blocks([audio[None]], rate, np.int16(24_000))) == expected.shape[1]  # type: ignore[arg-type]
    assert ENCODER.encode(NOISE, rate).shape == ENCODER.encode(NOISE, 16_000).shape


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (24_000.0, r"sample_rate is 24000\.0, expected an integer in Hz: 24000"),
        (np.float32(24_000), r"expected an integer in Hz: 24000"),
        ("24000", r"sample_rate is '24000', expected an integer in Hz: 24000"),
        (22_050.5, r"expected an integer in Hz$"),
        (48.0, r"sample_rate is 48\.0, expected 1000 to 384000 Hz; 48 kHz is 48000$"),
        (44.1, r"sample_rate is 44\.1, expected 1000 to 384000 Hz; 44\.1 kHz is 44100$"),
        (16, r"sample_rate is 16, expected 1000 to 384000 Hz; 16 kHz is 16000$"),
        (float("nan"), r"sample_rate is nan, expected 1000 to 384000 Hz$"),
        (np.True_, r"expected an integer in Hz$"),
        (np.int8(100), "sample_rate is 100, expected 1000 to 384000"),
        (np.uint8(200), "sample_rate is 200, expected 1000 to 384000"),
        (np.array([24_000]), r"sample_rate is ndarray of length 1, expected an integer"),
        (NOISE, r"sample_rate is ndarray of length 4800, expected an integer in Hz$"),
        pytest.param(1 << 16_609, "sample_rate is an integer of 16610 bits, expected 1000 to", id="huge"),
    ],
)
def test_rates_that_are_none(rate: Any, message: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "b.wav", NOISE, 24_000)
    for call in (
        lambda: read_waveform(NOISE, rate, 24_000),
        lambda: read_blocks([NOISE], rate, 24_000),
        lambda: load_audio(tmp_path / "b.wav", rate),
        lambda: save_audio(tmp_path / "a.wav", NOISE, rate),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert expected_samples(tmp_path / "b.wav", rate) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_audio(24_000, "x.wav"), r'file is 24000, expected a path .*: load_audio\("x\.wav", 24000\)'),  # type: ignore[arg-type]
        (lambda: next(load_blocks(24_000, "x.wav")), r'load_blocks\("x\.wav", 24000\)'),  # type: ignore[arg-type]
        (lambda: save_audio(NOISE, "x.wav", 24_000), r'an array of shape .*: save_audio\("a\.wav", audio, 24000\)'),  # type: ignore[arg-type]
        (lambda: save_blocks([NOISE], "x.wav", 24_000), r'save_blocks\("a\.wav", blocks, 24000\)'),  # type: ignore[arg-type]
        (lambda: save_audio("x.wav", 24_000, NOISE), "swapped; audio comes first, and 24000 as its sample rate"),  # type: ignore[arg-type]
        (lambda: ENCODER.encode("x.wav", 24_000), r"the path 'x\.wav', .* pass load_audio\(\"x\.wav\", 24000\)"),
        (lambda: ENCODER.encode(Path("x.wav"), 24_000), r'pass load_audio\("x\.wav", 24000\)'),  # type: ignore[arg-type]
        (lambda: ENCODER.encode_stream("x.wav", 24_000), r'pass load_blocks\("x\.wav", 24000\)'),
        (lambda: ENCODER.encode(24_000, NOISE), "they are swapped; audio comes first"),  # type: ignore[arg-type]
        (lambda: ENCODER.encode_stream(24_000, [NOISE]), "they are swapped; blocks comes first"),  # type: ignore[arg-type]
        (
            lambda: save_audio("x.wav", iter([NOISE]), 24_000),  # type: ignore[arg-type]
            "a list_iterator, expected .* pass its blocks to save_blocks",
        ),
        (lambda: ENCODER.encode((x for x in [NOISE]), 24_000), "a generator, .* encode_stream, or np.concatenate"),  # type: ignore[arg-type]
        (lambda: ENCODER.encode({"audio": NOISE}, 24_000), "audio is a dict, expected an array of samples"),  # type: ignore[arg-type]
        (lambda: ENCODER.encode(None, 24_000), "audio is None, expected an array of samples"),  # type: ignore[arg-type]
        (
            lambda: ENCODER.encode([NOISE, NOISE[1:]], 24_000),
            r"different shapes or lengths; .* one recording at a time",
        ),
        (lambda: save_audio("x.wav", [NOISE, NOISE[1:]], 24_000), r"different .* np\.concatenate\(audio\) for blocks"),
        (lambda: save_audio("x.wav", [NOISE, NOISE], 24_000), r"\(2, 4800\), expected \(samples,\); .*np\.concatenate"),
        (lambda: save_blocks("x.wav", [NOISE], 24_000, comment=3), r"comment is 3, expected text: pass str\(comment\)"),  # type: ignore[arg-type]
        (lambda: save_audio(".", NOISE, 24_000), r"'\.' is a folder, expected a file in it, such as 'out\.wav'"),
        (lambda: save_audio("", NOISE, 24_000), "file is '', an empty path"),
        (lambda: load_audio("", 24_000), r'file is \'\', an empty path.*load_audio\("a\.wav", 24000\)'),
        (lambda: ENCODER.encode((NOISE, 24_000), 24_000), "pass the audio without its sample rate"),  # type: ignore[arg-type]
        (lambda: ENCODER.encode(b"RIFF", 24_000), r"load_audio\(io\.BytesIO\(data\), 24000\)"),
        (lambda: ENCODER.encode(io.BytesIO(), 24_000), r"pass load_audio\(file, 24000\)"),  # type: ignore[arg-type]
        (lambda: ENCODER.encode_stream(NOISE, 24_000), r"shape \(4800,\), .* pass \[audio\]"),
        (lambda: ENCODER.encode_stream(None, 24_000), "blocks is None, expected an iterable"),  # type: ignore[arg-type]
        (lambda: load_audio(b"RIFF", 24_000), r"bytes of 4, expected .* pass io\.BytesIO\(data\)"),  # type: ignore[arg-type]
        (lambda: load_audio(["a.wav", "b.wav"], 24_000), "one path or .*call load_audio once for each file"),  # type: ignore[arg-type]
        (lambda: load_audio(NOISE, 24_000), "file is an array of shape"),  # type: ignore[arg-type]
        (lambda: load_audio(None, 24_000), "file is None, expected a path"),  # type: ignore[arg-type]
        (lambda: save_audio("x.wav", "y.wav", 24_000), r'pass load_audio\("y\.wav", 24000\)'),
        (lambda: save_blocks("x.wav", NOISE, 24_000), r"pass \[audio\]"),
        (lambda: save_audio(b"x.wav", NOISE, 24_000), r"os\.fsdecode\(path\)"),  # type: ignore[arg-type]
        (lambda: save_blocks("x.wav", [NOISE], 24_000, length=-1), "length is -1, expected the number of samples"),
    ],
)
def test_arguments_of_another_kind(call: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((1, 900), "audio[0]"),
        ((900, 1), "audio[:, 0]"),
        ((900, 2), "audio.mean(axis=1)"),
        ((2, 900), "audio.mean(axis=0)"),
        ((1, 1, 900), "audio[0, 0]"),
        ((900, 1, 1), "audio[:, 0, 0]"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_shapes_and_what_to_pass(shape: Any, remedy: str, dtype: Any, tmp_path: Path) -> None:
    audio = np.full(shape, 0.5 if dtype == np.float32 else 1 << 14, dtype)
    if dtype == np.int16:
        remedy = remedy.replace("audio.mean", "(audio / 32768).mean")
    with pytest.raises(ValueError, match=re.escape(remedy)):
        save_audio(tmp_path / "a.wav", audio, 24_000)
    save_audio(tmp_path / "a.wav", eval(remedy, {"audio": audio}), 24_000)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 24_000), np.full(900, 0.5, np.float32))
    if shape[0] == 900 or len(shape) > 2:
        with pytest.raises(ValueError, match=re.escape(remedy)):
            read_waveform(audio, 24_000, 24_000)


def lag(audio: np.ndarray, reference: np.ndarray) -> int:
    return int(np.correlate(audio, reference, "full").argmax()) - len(reference) + 1


@pytest.mark.parametrize("ending", sorted(vocos_onnx.io.audio._KINDS))
def test_every_ending_reads_back_as_it_was_written(ending: Any, tmp_path: Path) -> None:
    lossless = ending not in ("ogg", "oga", "opus", "mp3")
    rates = vocos_onnx.io.audio._RATES.get(vocos_onnx.io.audio._KINDS[ending][1])
    for rate in (8000, 16_000, 22_050, 24_000, 44_100, 48_000):
        if rates and rate not in rates:
            continue
        for samples in (1, 2, 159, 4800) if rate == 24_000 else (4801,):
            path = tmp_path / f"a.{ending.upper() if samples == 159 else ending}"
            audio = np.resize(NOISE, samples)
            save_audio(path, audio, rate)
            assert audio_format(path) == soundfile.info(path).format
            theirs, written_rate = soundfile.read(path)
            assert written_rate == rate
            assert len(theirs) == samples
            ours = load_audio(path, rate)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-7)
            if lossless:
                np.testing.assert_allclose(ours, audio, rtol=0, atol=2**-15)
            elif samples > 4000:
                slow = np.convolve(audio, np.ones(6) / 6, "same") * np.hanning(samples)
                save_audio(path, slow, rate)
                assert lag(load_audio(path, rate), slow) == 0  # nor a delay added
            buffer = io.BytesIO()
            save_audio(buffer, audio, rate, format=ending)
            np.testing.assert_array_equal(load_audio(io.BytesIO(buffer.getvalue()), rate), ours)


@pytest.mark.parametrize(
    "name", ["a.wve", "a.htk", "a.sd2", "a.xi", "a.raw", "a.sds", "a.pcm", "a.txt", "a", "a.", ".wav"]
)
def test_endings_that_are_not_written(name: str, tmp_path: Path) -> None:
    message = r"does not end in a known kind .*try \.wav or \.flac, or \.ogg, \.opus"
    for call in (
        lambda: save_audio(tmp_path / name, NOISE, 8000),
        lambda: save_blocks(tmp_path / name, [NOISE], 8000),
        lambda: audio_format(tmp_path / name),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"'a\.m4a' .* try \.wav or \.flac, then: ffmpeg -i out\.wav .*a\.m4a"):
        audio_format(tmp_path / "a.m4a")


def test_a_format_in_place_of_the_ending(tmp_path: Path) -> None:
    for format in ("flac", ".flac", "FLAC", ".Flac"):
        save_audio(tmp_path / "noending", NOISE, 24_000, format=format)
        assert (tmp_path / "noending").read_bytes()[:4] == b"fLaC"
        assert audio_format(tmp_path / "a.wav", format) == "FLAC"
    wrong: Any
    for wrong in ("raw", "xi", "", "wav ", 5, b"wav", "mpeg"):
        with pytest.raises(ValueError, match=r"format is .*, expected \.wav or \.flac"):
            save_audio(tmp_path / "a.wav", NOISE, 24_000, format=wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["noending"]


@pytest.mark.parametrize("name", ["a.wav", "a.wave"])
def test_wav_of_more_than_its_header_can_say_becomes_rf64(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vocos_onnx.io.audio._MOST, "WAV", 9000)
    save_audio(tmp_path / name, NOISE[:4000], 24_000)
    assert (tmp_path / name).read_bytes()[:4] == b"RIFF"
    save_audio(tmp_path / name, NOISE, 24_000)
    assert (tmp_path / name).read_bytes()[:4] == b"RF64"
    np.testing.assert_allclose(load_audio(tmp_path / name, 24_000), NOISE, rtol=0, atol=2**-15)
    buffer = io.BytesIO()
    length: Any
    for length in (len(NOISE), np.int32(len(NOISE))):
        save_blocks(buffer, np.split(NOISE, 4), 24_000, format="wav", length=length)
        assert buffer.getvalue()[:4] == b"RF64"
    for length in (None, 4000):  # unknown, or wrong
        with pytest.raises(ValueError, match=r"holds 9000 bytes; write \.w64 or \.flac"):
            save_blocks(tmp_path / f"b{name}", np.split(NOISE, 4), 24_000, length=length)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture
def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE, 24_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_file_objects_are_read_from_where_they_stand(wav: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"junk" + wav)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    spooled.write(b"junk" + wav)
    for file in (
        io.BytesIO(b"junk" + wav),
        (tmp_path / "a.wav").open("rb"),
        (tmp_path / "a.wav").open("rb", buffering=0),
        (tmp_path / "a.wav").open("r+b"),
        spooled,
    ):
        with file:
            file.seek(4)
            assert expected_samples(file, 48_000) == 9600
            assert file.tell() == 4
            np.testing.assert_array_equal(load_audio(file, 24_000), NOISE)
            assert not file.closed
            assert file.read() == b""
            file.seek(4)
            np.testing.assert_array_equal(np.concatenate(list(load_blocks(file, 24_000))), NOISE)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of POSIX")
def test_pipes_sockets_and_fifos_are_read(wav: bytes, tmp_path: Path) -> None:
    def send(file: io.IOBase) -> None:
        with file:
            file.write(wav)

    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    os.mkfifo(tmp_path / "a.wav")
    with os.fdopen(reader, "rb") as pipe, ours, ours.makefile("rb") as received:
        for file, sender in ((pipe, lambda: os.fdopen(writer, "wb")), (received, lambda: theirs.makefile("wb"))):
            thread = threading.Thread(target=lambda sender=sender: send(sender()))
            assert expected_samples(file, 24_000) == 0
            thread.start()
            if file is received:
                thread.join()
                theirs.close()
            np.testing.assert_array_equal(load_audio(file, 24_000), NOISE)
            thread.join()
    assert expected_samples(tmp_path / "a.wav", 24_000) == 0
    thread = threading.Thread(target=lambda: send((tmp_path / "a.wav").open("wb")))
    thread.start()
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 24_000), NOISE)
    thread.join()


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="needs /dev/stdin")
@pytest.mark.parametrize("file", ["'/dev/stdin'", "sys.stdin.buffer"])
@pytest.mark.parametrize("piped", [True, False])
def test_standard_input_is_read(file: str, piped: bool, wav: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav)
    program = f"import sys; from vocos_onnx import load_audio; print(load_audio({file}, 24000).shape)"
    command = [sys.executable, "-c", program]
    with (tmp_path / "a.wav").open("rb") as given:
        source: dict[str, Any] = {"input": wav} if piped else {"stdin": given}
        done = subprocess.run(command, **source, capture_output=True, check=True, timeout=60)
    assert done.stdout.strip() == b"(4800,)"


class Dribble(io.RawIOBase):
    """A stream that cannot seek and reads or writes at most 1000 bytes at a time."""

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.at = bytearray(data), 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        some = self.data[self.at : self.at + min(len(buffer), 1000)]
        buffer[: len(some)] = some
        self.at += len(some)
        return len(some)

    def write(self, data: Any) -> int:
        self.data += bytes(data[:1000])
        return min(len(data), 1000)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "w64", "caf"])
def test_file_objects_are_written_where_they_stand(ending: str, tmp_path: Path) -> None:
    save_blocks(tmp_path / f"a.{ending}", np.split(NOISE, 3), 24_000)
    expected = load_audio(tmp_path / f"a.{ending}", 24_000)
    file: Any
    for file in (io.BytesIO(), (tmp_path / "b").open("w+b"), (tmp_path / "b").open("w+b", buffering=0), Dribble()):
        file.write(b"junk")
        assert save_blocks(file, np.split(NOISE, 3), 24_000, format=ending) == len(NOISE)
        assert not file.closed
        if isinstance(file, Dribble):
            written: Any = Dribble(bytes(file.data)[4:])
        else:
            file.seek(0)
            assert file.read(4) == b"junk"
            written = file
        np.testing.assert_array_equal(load_audio(written, 24_000), expected)
        file.close()
    with (tmp_path / f"c.{ending}").open("wb") as file:  # the format comes from the file's name
        save_blocks(file, np.split(NOISE, 3), 24_000)
    np.testing.assert_array_equal(load_audio(tmp_path / f"c.{ending}", 24_000), expected)


def test_nothing_is_written_to_a_file_object_after_an_error(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    bad = np.where(np.arange(4800) == 4000, np.nan, NOISE)
    blocks: Any
    for blocks in ([NOISE, bad], [NOISE, LOUD], [NOISE, None], [NOISE, "a.wav"]):
        with pytest.raises(ValueError, match="audio"):
            save_blocks(buffer, blocks, 24_000, format="wav")
    assert buffer.getvalue() == b""


def test_file_objects_of_another_kind(wav: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav)
    (tmp_path / "closed.wav").write_bytes(wav)
    closed = (tmp_path / "closed.wav").open("rb")
    closed.close()
    with (tmp_path / "a.wav").open("r+") as text, (tmp_path / "b.wav").open("wb") as writes:
        for call, message in (
            (lambda: load_audio(text, 24_000), r'open as text; open it as binary, as in open\(path, "rb"\)'),  # type: ignore[arg-type]
            (lambda: load_audio(io.StringIO("RIFF"), 24_000), "open as text"),  # type: ignore[arg-type]
            (lambda: load_audio(closed, 24_000), "closed"),
            (lambda: load_audio(writes, 24_000), r'b\.wav cannot be read; open it as in open\(path, "rb"\)'),
            (lambda: load_audio(io.BytesIO(), 24_000), "cannot read the BytesIO object as audio: the file is empty"),
            (lambda: load_audio(io.BytesIO(wav[:999]), 24_000), "the BytesIO object: it is truncated"),
            (lambda: save_audio(text, NOISE, 24_000), r'open\(path, "wb"\)'),  # type: ignore[arg-type]
            (lambda: save_audio(io.StringIO(), NOISE, 24_000, format="wav"), "open as text"),  # type: ignore[arg-type]
            (lambda: save_audio(io.BufferedReader(io.BytesIO()), NOISE, 24_000, format="wav"), "cannot be written"),
            (lambda: save_audio(io.BytesIO(), NOISE, 24_000), r'pass format="wav"'),
            (lambda: audio_format(io.BytesIO()), r'pass format="wav"'),
            (lambda: save_audio(io.BytesIO(), NOISE, 24_000, format="raw"), "format is 'raw', expected "),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        assert expected_samples(closed, 24_000) == expected_samples(text, 24_000) == 0  # type: ignore[arg-type]
    assert (tmp_path / "a.wav").read_bytes() == wav


@pytest.mark.parametrize("ending", ["wav", "aiff", "au", "caf", "w64", "flac", "nist", "voc"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_of_16_bits_are_rounded(ending: str, dtype: Any, tmp_path: Path) -> None:
    audio = (np.random.default_rng(0).standard_normal(20_000) * 0.1).astype(dtype)
    save_audio(tmp_path / f"a.{ending}", audio, 24_000)
    error = soundfile.read(tmp_path / f"a.{ending}")[0] * 32768 - audio.astype(float) * 32768
    assert np.abs(error).max() <= 0.5 + 1e-3
    assert abs(error.mean()) < 0.02


@pytest.mark.parametrize("shape", [(24_000, 2), (2, 24_000), (24_000, 16), (1, 24_000)])
def test_one_array_is_no_blocks(shape: Any, tmp_path: Path) -> None:
    audio = np.full(shape, 0.1, np.float32)
    encoder = EncodecONNX()
    for use in (
        lambda: list(encoder.encode_stream(audio, 24_000)),
        lambda: list(read_blocks(audio, 24_000, 24_000)),
        lambda: save_blocks(tmp_path / "a.wav", audio, 24_000),
    ):
        with pytest.raises(ValueError, match=r"one array of shape .*list\(blocks\).*blocks\.mean\(axis=1\)"):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [2, 8, 9, 16, 64])
def test_channels_are_not_samples(channels: int) -> None:
    with pytest.raises(ValueError, match=r"looks like \(samples, channels\).*mean"):
        EncodecONNX().encode(np.full((24_000, channels), 0.1, np.float32), 24_000)


def test_rates_that_flac_has(tmp_path: Path) -> None:
    for rate in (1000, 65_535, 96_000, 192_010):
        save_audio(tmp_path / "a.flac", np.zeros(100), rate)
        assert soundfile.info(tmp_path / "a.flac").samplerate == rate
    for rate in (65_536, 100_003, 262_143):
        with pytest.raises(ValueError, match=f"sample_rate is {rate}, and .flac has multiples of 10 Hz"):
            save_audio(tmp_path / "a.flac", np.zeros(100), rate)


def test_channels_that_cancel_one_another_are_one_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    one = (np.random.default_rng(0).standard_normal(20_000) * 0.1).astype(np.float32)
    other = (np.random.default_rng(1).standard_normal(20_000) * 0.1).astype(np.float32)
    for name, channels in {
        "both": (one, one),
        "apart": (one, other),
        "left": (one, 0 * one),
        "none": (0 * one,) * 2,
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", np.stack(channels, 1), 24_000)
        load_audio(tmp_path / f"{name}.wav", 24_000)
    assert not recwarn.list
    soundfile.write(tmp_path / "anti.wav", np.stack([one, -one], 1), 24_000)
    with pytest.warns(
        UserWarning, match=r"anti\.wav: the channels cancel .* (dB below them|silence): one of them is inv"
    ):
        load_audio(tmp_path / "anti.wav", 16_000)
    command = [sys.executable, "-m", "vocos_onnx", "resynth", "anti.wav", "out.wav"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "anti.wav: the channels cancel" in done.stderr, done


@pytest.mark.parametrize("name", ["._", ".AppleDouble"])
def test_what_libsndfile_takes_for_a_resource_fork(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile looks for a resource fork in the working directory; the error names the file in the way."""
    monkeypatch.chdir(tmp_path)
    soundfile.write(file := io.BytesIO(), np.sin(np.arange(9000) / 9) / 4, 24_000, format="MP3")
    assert len(load_audio(io.BytesIO(file.getvalue()), 24_000)) == 9000
    (tmp_path / name).mkdir() if name == ".AppleDouble" else (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"libsndfile takes {re.escape(name)} in the working directory for a part"):
        load_audio(io.BytesIO(file.getvalue()), 24_000)


def test_the_beginning_of_an_mp3() -> None:
    """libsndfile would report a missing file; our error says that no audio was found."""
    soundfile.write(file := io.BytesIO(), np.sin(np.arange(9000) / 9) / 4, 24_000, format="MP3")
    with pytest.raises(ValueError, match=r"as audio: no audio is found in it\. It is damaged or of another"):
        load_audio(io.BytesIO(file.getvalue()[:20]), 24_000)
