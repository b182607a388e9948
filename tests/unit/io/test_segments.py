"""Segments of every kind of file have exactly the right samples, and no more of the file is read than necessary."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vocos_onnx import load_audio, load_blocks
from vocos_onnx.arrays import Float
from vocos_onnx.dsp.resample import resample

RATE = 24_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (8 * RATE + 77, 2)).astype(np.float32)
KINDS = {
    "wav": "PCM_16 PCM_U8 PCM_24 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610",
    "flac": "PCM_16 PCM_24",
    "ogg": "VORBIS OPUS",
    "mp3": "MPEG_LAYER_III",
    "aiff": "PCM_16 FLOAT IMA_ADPCM",
    "caf": "PCM_16 ALAC_16",
    "au": "PCM_16 G723_24",
    "w64": "PCM_16",
    "rf64": "PCM_16",
    "nist": "PCM_16",
    "voc": "PCM_16",
}


def segment(file: Any, rate: int = RATE, **options: Any) -> Float:
    return np.concatenate(list(load_blocks(file, rate, **options)))


@pytest.mark.parametrize(("kind", "subtype"), [(kind, each) for kind in KINDS for each in KINDS[kind].split()])
def test_every_kind(tmp_path: Path, kind: str, subtype: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A segment equals the same samples of the whole file, and libmpg123 prints no errors from seeking."""
    mono = subtype in ("GSM610", "G723_24", "ALAC_16")
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, NOISE[:, 0] if mono else NOISE, RATE, subtype, format=kind.upper())
    whole = load_audio(path, RATE)
    for offset, duration in ((0.5, 1.0), (2.71828, 0.001), (7.9, None), (3.0, 4.5), (1 / RATE, None), (6.5, 1.9)):
        start = round(offset * RATE)
        stop = None if duration is None else start + round(duration * RATE)
        tolerance = 1e-3 if subtype == "OPUS" else 0  # Opus decodes only the 80 ms before the segment
        audio = segment(path, offset=offset, duration=duration)
        np.testing.assert_allclose(audio, whole[start:stop], rtol=0, atol=tolerance)
    assert capfd.readouterr().err == ""


def without_length(data: bytes) -> bytes:
    """FLAC as written to a pipe, without its length."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


JOINED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "FLAC without a length": ("FLAC", without_length),
    "two of FLAC": ("FLAC", lambda data: data + data),
    "two of FLAC without lengths": ("FLAC", lambda data: 2 * without_length(data)),
    "two of WAV": ("WAV", lambda data: data + data),
}


@pytest.mark.parametrize("name", list(JOINED))
def test_several_recordings_in_a_file(tmp_path: Path, name: str) -> None:
    kind, change = JOINED[name]
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE[: 2 * RATE], RATE, format=kind)
    path = tmp_path / "a.bin"
    path.write_bytes(change(buffer.getvalue()))
    whole = load_audio(path, RATE)
    for offset, duration in ((0.5, 1.0), (1.5, 1.0), (1.9, None), (2.0, 0.3), (2.5, 1.0), (3.99, None)):
        if offset * RATE >= len(whole):
            with pytest.raises(ValueError, match=r"its segment begins at .* s, and the file ends at 2 s"):
                segment(path, offset=offset, duration=duration)
            continue
        start = round(offset * RATE)
        stop = None if duration is None else start + round(duration * RATE)
        if stop is not None and stop > len(whole) + RATE // 2:
            continue
        np.testing.assert_array_equal(segment(path, offset=offset, duration=duration), whole[start:stop])


def test_file_objects_and_other_rates(tmp_path: Path) -> None:
    """Samples are counted at the file's rate, and the segment is resampled without its neighbours."""
    soundfile.write(tmp_path / "a.wav", NOISE, RATE, "FLOAT")
    expected = resample(NOISE.mean(axis=1)[None, 30_000:42_000], RATE, 16_000)[0]
    np.testing.assert_array_equal(segment(tmp_path / "a.wav", 16_000, offset=1.25, duration=0.5), expected)
    data = io.BytesIO((tmp_path / "a.wav").read_bytes())
    np.testing.assert_array_equal(segment(data, 16_000, offset=1.25, duration=0.5), expected)


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    for audio in (NOISE, NOISE[: 5 * RATE, :1], NOISE[::2]):
        soundfile.write(path, audio, RATE)
        np.testing.assert_array_equal(segment(path, offset=1.0, duration=2.0), load_audio(path, RATE)[RATE : 3 * RATE])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is read")
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_what_is_before_a_segment_is_not_read_again(tmp_path: Path, kind: str) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    path = tmp_path / f"a.{kind}"
    soundfile.write(path, np.tile(NOISE, (30, 1)), RATE)
    segment(path, offset=1.0, duration=1.0)  # FLAC is checked once
    before = bytes_read()
    for offset in (50.0, 100.0, 200.0, 230.0):
        segment(path, offset=offset, duration=1.0)
    assert bytes_read() - before < path.stat().st_size / 3


def test_the_end_of_a_file(tmp_path: Path) -> None:
    """A truncated WAV file raises an error even for segments before the cut."""
    path = tmp_path / "a.wav"
    soundfile.write(path, NOISE, RATE, "FLOAT")
    path.write_bytes(path.read_bytes()[: 6 * RATE * 8])
    given: list[dict[str, Any]] = [{"duration": 5.9}, {"offset": 1.0, "duration": 1.0}]
    for options in given:
        with pytest.raises(ValueError, match="it is truncated: its header promises"):
            segment(path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": -1}, "offset is -1, expected a number of seconds, 0 or more"),
        ({"offset": None}, "offset is None, expected a number of seconds, 0 or more"),
        ({"offset": True}, "offset is True, expected"),
        ({"duration": 0.0}, "duration is 0.0, expected a number of seconds, more than 0"),
        ({"duration": float("nan")}, "duration is nan, expected"),
        ({"duration": "1"}, "duration is '1', expected"),
        ({"duration": 1e10}, "duration is 10000000000.0, expected"),
    ],
)
def test_bad_segments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, RATE)
    with pytest.raises(ValueError, match=message):
        segment(tmp_path / "a.wav", **options)
    assert len(segment(tmp_path / "a.wav", offset=np.float32(1), duration=np.int64(2))) == 2 * RATE


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_long_ogg_file(tmp_path: Path, subtype: str) -> None:
    """Also in the last page, where libsndfile would seek to a wrong sample of Vorbis."""
    audio = 0.2 * np.sin(np.arange(70 * RATE) * 0.1).astype(np.float32)
    path = tmp_path / "a.ogg"
    with soundfile.SoundFile(path, "w", RATE, 1, subtype, compression_level=0.99) as file:
        for start in range(0, len(audio), 4096):  # libvorbis cannot handle more at once
            file.write(audio[start : start + 4096])
    whole = load_audio(path, RATE)
    for offset in (2.0, 29.9, 31.0, 60.3, 67.0, 69.3, 69.7, 69.99):
        start = round(offset * RATE)
        found = segment(path, offset=offset, duration=0.5)
        np.testing.assert_allclose(found, whole[start : start + RATE // 2], rtol=0, atol=1e-3 * (subtype == "OPUS"))
