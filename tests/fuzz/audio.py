"""Audio files: damaged, cut, joined or with false headers; rates; and written files."""

from __future__ import annotations

import io
import struct
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.common import DOCUMENTED, Rng, Target, damaged, finite

TONE = np.float32(np.pi / 4)  # a value in freed memory that no file contains
KINDS = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("RF64", "PCM_16"), ("W64", "PCM_24"),
    ("AIFF", "PCM_24"), ("AIFF", "ULAW"), ("AU", "PCM_16"), ("AU", "G721_32"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("NIST", "PCM_16"),
    ("SVX", "PCM_16"), ("AVR", "PCM_16"), ("VOC", "PCM_16"), ("MAT4", "DOUBLE"), ("MAT5", "PCM_16"), ("SDS", "PCM_16"),
    ("MPC2K", "PCM_16"),
]  # fmt: skip


@cache
def recording(kind: int, samples: int = 6000, channels: int = 1) -> bytes:
    import soundfile

    noise = np.random.default_rng(samples).uniform(-0.4, 0.4, (samples, channels))
    buffer = io.BytesIO()
    name, subtype = KINDS[kind]
    soundfile.write(buffer, noise, 16_000, format=name, subtype=subtype)
    return buffer.getvalue()


@cache
def without_count(kind: int) -> bytes:
    """The mp3 without the frame that holds the frame count."""
    data = recording(kind)
    return data[data.index(data[:2], 4) :]


@cache
def recordings() -> list[bytes]:
    return [recording(kind, 3000, 2) for kind in (0, 1, 12, 13, 6)]


def read(folder: Path, data: bytes) -> np.ndarray:
    """Run ``load_audio`` after freeing memory with a marker, and check that none of it is in the result."""
    from vocos_onnx import load_audio

    path = folder / "a.bin"
    path.write_bytes(data)
    strangers = [np.full(1 << size, TONE) for size in (8, 12, 14, 16, 18) for _ in range(3)]
    del strangers
    audio = load_audio(path, 16_000)
    finite(audio)
    assert audio.size
    assert np.count_nonzero(audio == TONE) < 20, "audio that was in memory"
    return audio


def audio_files(rng: Rng, folder: Path) -> None:
    kind = int(rng.integers(len(KINDS)))
    data = without_count(kind) if KINDS[kind][0] == "MP3" and rng.random() < 0.5 else recording(kind)
    read(folder, damaged(rng, data))


def whole_or_error(rng: Rng, folder: Path) -> None:
    """Files with known content are read completely or raise an error; good ones never raise."""
    kind = int(rng.integers(len(KINDS)))
    name, _ = KINDS[kind]
    counted = name != "MP3" or rng.random() < 0.5
    data = recording(kind) if counted else without_count(kind)
    whole = read(folder, data)
    tags = [
        b"TAG" + bytes(125),
        b"APETAGEX" + struct.pack("<4I8x", 2000, 32, 0, 0),
        b"\0" * int(rng.integers(9000)),
        rng.integers(1, 200, int(rng.integers(1, 300)), np.uint8).tobytes(),
    ]
    match rng.integers(7):
        case 0:  # cut
            got = read(folder, data[: int(rng.integers(len(data)))])
            if not counted:  # if cut at the end of a frame, nothing shows that more followed
                whole = whole[: len(got)]
        case 1:  # joined
            other = recording(kind, 4000)
            got = read(folder, data + tags[rng.integers(2)] * int(rng.integers(2)) + other)
            if not (name == "MP3" and len(got) > 10_000):
                np.testing.assert_array_equal(got, np.concatenate([whole, read(folder, other)]))
            return
        case 2:  # tags before, tags and padding after
            front = b"ID3\4\0\0\0\0\2\0" + bytes(256) if rng.random() < 0.3 else b""
            try:
                got = read(folder, front + data + tags[rng.integers(4)])
            except ValueError as error:
                raise AssertionError(f"a good {name} was refused: {error}") from error
        case 5:  # joined to another kind
            next_kind = int(rng.integers(len(KINDS)))
            second = recording(next_kind, 6000)
            if next_kind == kind or len(second) <= 4096 or "MP3" in (name, KINDS[next_kind][0]):
                return
            got = read(folder, data + second)
            np.testing.assert_array_equal(got, np.concatenate([whole, read(folder, second)]))
            return
        case 6:  # a flipped bit where there are checksums, or an mp3 that begins anywhere
            if name == "OGG":
                at = int(rng.integers(len(data)))
                got = read(folder, data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :])
            elif name == "MP3":
                got = read(folder, data[int(rng.integers(1, 600)) :])
                assert len(got) > len(whole) - 3000
                return
            else:
                return
        case 3:  # a changed number in the header
            out, at = bytearray(data), int(rng.integers(4, min(120, len(data) - 8)))
            value = [0, 1, 2**31 - 1, 2**32 - 1, len(data) // 2, 2 * len(data)][rng.integers(6)]
            out[at : at + 4] = struct.pack("<>"[rng.integers(2)] + "I", value)
            read(folder, bytes(out))  # the right result is not known
            return
        case _:  # lengths that were never filled in
            places = {"WAV": b"data", "RF64": b"ds64", "AIFF": b"SSND", "AU": b".snd", "CAF": b"data"}
            if name not in places:
                return
            at = data.index(places[name]) + {"RF64": 16, "AU": 8}.get(name, 4)
            width = 8 if name in ("RF64", "CAF") else 4
            filler = [b"\0", b"\xff"][0 if name == "RF64" else rng.integers(2)]
            got = read(folder, data[:at] + filler * width + data[at + width :])
            if len(got) != len(whole):  # later chunks may be read as audio
                got = got[: len(whole)]
    np.testing.assert_array_equal(got, whole)


def rates(rng: Rng, folder: Path) -> None:
    from vocos_onnx.io.samples import read_blocks, read_waveform

    rate, to = (int(np.exp(rng.uniform(np.log(1000), np.log(384_000)))) for _ in range(2))
    if rng.random() < 0.3:
        to = [16_000, 22_050, 24_000, 44_100, 48_000][rng.integers(5)]
    audio = rng.uniform(-1, 1, int(rng.integers(1, 3000))).astype(np.float32)
    whole = read_waveform(audio, rate, to)[0]
    assert len(whole) == -(-len(audio) * to // rate)
    finite(whole)
    cuts = np.sort(rng.integers(0, len(audio), int(rng.integers(5))))
    blocks = np.concatenate(list(read_blocks(np.split(audio, cuts), rate, to)), axis=1)[0]
    np.testing.assert_allclose(blocks, whole, rtol=0, atol=1e-6)
    # selected samples as direct sums
    lower, beta = min(1, to / rate), 0.1102 * (100 - 8.7)
    for m in rng.integers(0, len(whole), 3):
        u = (int(m) * rate - np.arange(len(audio)) * to) / to * lower
        window = np.i0(beta * np.sqrt(np.maximum(0, 1 - (u / 64) ** 2))) / np.i0(beta) * (abs(u) <= 64)
        assert abs((audio * lower * 0.95 * np.sinc(0.95 * u) * window).sum() - whole[m]) < 3e-5


def written(rng: Rng, folder: Path) -> None:
    """Write every kind in a thread with a small stack: a complete file, or an error and no file."""
    from vocos_onnx import load_audio, save_audio

    kinds = ["wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64", "rf64", "mat5", "svx", "nist", "opus", "aif"]
    path = folder / f"a.{kinds[rng.integers(len(kinds))]}"
    usual = [8000, 16_000, 22_050, 24_000, 44_100, 48_000]
    rate = usual[rng.integers(6)] if rng.random() < 0.8 else [0, -1, 999, 7350, 96_000, 383_999, 384_000, 2**40][
        rng.integers(8)
    ]  # fmt: skip
    length = int(rng.integers(300)) if rng.random() < 0.6 else int(np.exp(rng.uniform(0, np.log(2_000_000))))
    audio = rng.normal(0, rng.choice([0.1, 1.0, 10.0]), length).astype(rng.choice(["f4", "f8", ">f4", "f2"]))
    bad = length and rng.random() < 0.3
    if bad:
        audio[rng.integers(length)] = [np.nan, np.inf, -np.inf][rng.integers(3)]
    if rng.random() < 0.1:
        audio = (np.nan_to_num(audio).clip(-1, 1) * 32_000).astype(np.int16)
        bad = False
    errors: list[BaseException] = []

    def save() -> None:
        try:
            save_audio(path, audio, rate)
        except BaseException as error:
            errors.append(error)

    threading.stack_size(128 << 10)
    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    threading.stack_size(0)
    if errors:
        assert not list(folder.iterdir())
        raise errors[0]
    assert not bad
    assert not length or audio.dtype == np.int16 or abs(audio).max() <= 64
    if length:
        got = load_audio(path, rate)
        assert len(got) == length
        assert abs(got).max() <= 1 or path.suffix in (".ogg", ".mp3", ".opus")


class Dribble(io.RawIOBase):
    """A file object that reads and writes random amounts and cannot seek."""

    def __init__(self, rng: Rng, data: bytes = b"") -> None:
        self.rng, self.data, self.at = rng, bytearray(data), 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        some = self.data[self.at : self.at + min(len(buffer), int(self.rng.integers(1, 5000)))]
        buffer[: len(some)] = some
        self.at += len(some)
        return len(some)

    def write(self, data: Any) -> int:
        count = min(len(data), int(self.rng.integers(1, 5000)))
        self.data += bytes(data[:count])
        return count


def outcome(call: Any) -> tuple[str, object]:
    try:
        return "done", call()
    except DOCUMENTED as error:
        return "refused", type(error)


def objects(rng: Rng, folder: Path) -> None:
    """File objects, whole or damaged, read and write the same as files."""
    from vocos_onnx import load_audio, load_blocks, save_audio
    from vocos_onnx.io.audio import expected_samples

    kind = int(rng.integers(len(KINDS)))
    data = recording(kind)
    if rng.random() < 0.5:
        data = damaged(rng, data)
    path, front = folder / "a.bin", rng.bytes(int(rng.integers(100)))
    path.write_bytes(data)
    expected = outcome(lambda: load_audio(path, 16_000))
    file: Any
    for file in (io.BytesIO(front + data), Dribble(rng, data)):
        if file.seekable():
            file.seek(len(front))
            assert expected_samples(file, 16_000) == expected_samples(path, 16_000)
            assert file.tell() == len(front)
        got = outcome(lambda file=file: np.concatenate(list(load_blocks(file, 16_000))))
        assert got[0] == expected[0], (got, expected)
        if got[0] == "done":
            np.testing.assert_array_equal(got[1], expected[1])
            assert not file.closed
    ending = ["wav", "flac", "ogg", "opus", "mp3", "aiff", "caf", "au", "w64", "rf64", "voc"][rng.integers(11)]
    audio = rng.uniform(-1, 1, int(rng.integers(1, 5000))).astype(np.float32)
    save_audio(folder / f"b.{ending}", audio, 16_000)
    for file in (io.BytesIO(), Dribble(rng)):
        save_audio(file, audio, 16_000, format=rng.choice([ending, f".{ending}", ending.upper()]).item())
        written = bytes(file.data) if isinstance(file, Dribble) else file.getvalue()
        np.testing.assert_array_equal(
            load_audio(io.BytesIO(written), 16_000), load_audio(folder / f"b.{ending}", 16_000)
        )


DTYPES = ["?", *"bhilqBHILQefdgFDG", "O", "S4", "U4", "M8[s]", "m8[s]", "V4", ">i2", ">i4", ">f4", ">f8", "i4,f4"]


def levels(rng: Rng, folder: Path) -> None:
    """Every dtype and level, and rates of every type: all methods keep the samples, or all raise an error."""
    import soundfile

    from vocos_onnx import load_audio, save_audio, save_blocks
    from vocos_onnx.io.samples import read_blocks, read_waveform

    dtype = np.dtype(DTYPES[rng.integers(len(DTYPES))] if rng.random() < 0.5 else "f4")
    peak = float(np.exp(rng.uniform(np.log(1e-3), np.log(1e10))))
    wave = rng.uniform(-1, 1, 2000)
    wave[rng.integers(2000)] = rng.choice([-1, 1])
    with np.errstate(all="ignore"):
        if dtype.kind in "fc":
            audio = (peak * wave).astype(dtype)
        elif dtype.kind in "iu":
            audio = (wave.clip(0 if dtype.kind == "u" else -1, 1) * min(peak, np.iinfo(dtype).max)).astype(dtype)
        else:
            audio = np.zeros(2000, dtype)
    native = dtype.newbyteorder("=")
    taken = native in (np.int16, np.int32) or (dtype.kind == "f" and abs(audio.astype(np.float64)).max() <= 64)
    rate = rng.choice([16_000, 24_000]).item()
    kinds: list[Any] = [int, np.int16, np.uint16, np.int32, np.int64, np.uint64, np.array]
    of = kinds[rng.integers(7)](rate)
    cut = int(rng.integers(1, 2000))
    ways = [
        lambda: read_waveform(audio, of, 24_000)[0],
        lambda: np.concatenate(list(read_blocks([audio[:cut], audio[cut:]], of, 24_000)), axis=1)[0],
        lambda: save_audio(folder / "a.wav", audio, of),
        lambda: save_blocks(folder / "b.wav", [audio[:cut], audio[cut:]], of),
    ]
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        subtype = "FLOAT" if dtype.itemsize == 4 else "DOUBLE"
        soundfile.write(folder / "c.wav", audio.astype(native), rate, subtype=subtype)
        ways.append(lambda: load_audio(folder / "c.wav", np.int16(24_000)))  # type: ignore[arg-type]
    results = [outcome(way) for way in ways]
    assert {result for result, _ in results} == {"done" if taken else "refused"}, results
    if taken:
        expected: Any = results[0][1]
        assert len(expected) == -(-2000 * 24_000 // rate)
        got: Any
        for _, got in (results[1], *results[4:]):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
        assert soundfile.info(folder / "a.wav").samplerate == soundfile.info(folder / "b.wav").samplerate == rate
        assert results[3][1] == soundfile.info(folder / "b.wav").frames == 2000


TARGETS = {
    "damaged audio files": Target(audio_files, 1, DOCUMENTED, seconds=5, memory=1 << 30),
    "cut, joined and lying audio files": Target(whole_or_error, 2, DOCUMENTED, seconds=5, memory=1 << 30),
    "rates": Target(rates, 1, DOCUMENTED, seconds=3, memory=3 << 29),
    "audio in file objects": Target(objects, 1, DOCUMENTED, seconds=5, memory=1 << 30),
    "levels and types of audio": Target(levels, 1, DOCUMENTED, seconds=5, memory=1 << 30),
    "audio files written": Target(written, 0.5, DOCUMENTED, seconds=10, memory=1 << 30),
}
