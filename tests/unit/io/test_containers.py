"""An audio file is read completely or raises an error: cut, joined, streamed and mislabelled files of every kind."""

from __future__ import annotations

import io
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vocos_onnx import load_audio, load_blocks, save_audio
from vocos_onnx.io import audio as audio_module
from vocos_onnx.io import containers
from vocos_onnx.io.audio import expected_samples

RATE = 24_000
NOISE = np.random.default_rng(0).uniform(-0.4, 0.4, 20_000).astype(np.float32)
# to libsndfile, Vorbis and Opus are two subtypes of one kind; GSM 6.10 and IMA ADPCM are stored in blocks
KINDS = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("WAV", "G721_32"),
    ("WAV", "NMS_ADPCM_32"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("W64", "MS_ADPCM"),
    ("AIFF", "PCM_16"), ("AIFF", "IMA_ADPCM"), ("AU", "PCM_16"), ("AU", "G721_32"), ("CAF", "PCM_16"),
    ("CAF", "ALAC_24"), ("SVX", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
OLD = [
    ("NIST", "PCM_16"), ("AVR", "PCM_16"), ("VOC", "PCM_16"), ("MAT4", "PCM_16"), ("MAT5", "PCM_16"), ("SDS", "PCM_16"),
    ("MPC2K", "PCM_16"), ("WVE", "ALAW"), ("HTK", "PCM_16"),
]  # fmt: skip
IN_ONE = pytest.mark.parametrize("kind", KINDS, ids="-".join)
ID3V1 = b"TAG" + b"x" * 125
APE = b"".join(  # its size does not count the first 32 bytes
    b"APETAGEX" + struct.pack("<4I8x", 2000, 32 + 9, 1, flags) + item
    for flags, item in ((0xA0000000, b"\1\0\0\0....a"), (0x80000000, b""))
)
ID3V2 = b"ID3\4\0\0\0\0\2\0" + bytes(256)


def written(kind: tuple[str, str], audio: np.ndarray = NOISE, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=kind[0], subtype=kind[1])
    return buffer.getvalue()


def read(folder: Path, data: bytes, rate: int = RATE) -> np.ndarray:
    (folder / "a.bin").write_bytes(data)
    return load_audio(folder / "a.bin", rate)


def mp3_frames(data: bytes) -> list[bytes]:
    """The frames of a mono MPEG-2 layer III file at 24 kHz, as libsndfile writes it."""
    kbps = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    frames, at = [], 0
    while at < len(data):
        assert data[at : at + 2] == b"\xff\xf3"
        size = 72_000 * kbps[data[at + 2] >> 4] // RATE + (data[at + 2] >> 1 & 1)
        frames.append(data[at : at + size])
        at += size
    return frames


MP3 = ("MP3", "MPEG_LAYER_III")
FRAMES = mp3_frames(written(MP3))  # the first frame holds their count


@IN_ONE
@pytest.mark.parametrize("kept", [0.999, 0.6, 0.2])
def test_cut(kind: Any, kept: float, tmp_path: Path) -> None:
    data = written(kind)
    with pytest.raises(ValueError, match=r"a\.bin"):
        read(tmp_path, data[: int(kept * len(data))])


@pytest.mark.parametrize("kind", OLD, ids="-".join)
def test_cut_files_of_old_kinds(kind: Any, tmp_path: Path) -> None:
    data = written(kind)
    assert len(read(tmp_path, data))
    for kept in (0.99, 0.5):
        with pytest.raises(ValueError, match=r"a\.bin"):
            read(tmp_path, data[: int(kept * len(data))])


def test_a_cut_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"truncated: its header promises 40000 bytes of audio, and it holds 29956\. If what is there "
        r"will do, rewrite it: ffmpeg -i .*a\.bin whole\.wav"
    ):  # fmt: skip
        read(tmp_path, written(("WAV", "PCM_16"))[:30_000])


@IN_ONE
def test_tags_and_padding_do_no_harm(kind: Any, tmp_path: Path) -> None:
    data = written(kind)
    whole = read(tmp_path, data)
    assert len(whole) >= len(NOISE)
    for front, behind in (
        (b"", ID3V1),
        (b"", APE),
        (b"", APE + ID3V1),
        (ID3V2, b""),
        (b"", bytes(10_000)),
        (b"", b"?" * 99),
    ):
        np.testing.assert_array_equal(read(tmp_path, front + data + behind), whole)


@IN_ONE
def test_joined(kind: Any, tmp_path: Path) -> None:
    """Two files concatenated, as by cat, with different lengths."""
    one, other = written(kind), written(kind, NOISE[:7000])
    both = np.concatenate([read(tmp_path, one), read(tmp_path, other)])
    try:
        for between in (b"", ID3V1):
            got = read(tmp_path, one + between + other)
            if kind == MP3:  # the second file's first frame counts as audio, and the gaps at the join stay
                assert len(both) < len(got) < len(both) + 4000
                np.testing.assert_array_equal(got[:18_000], both[:18_000])
                assert abs(np.correlate(got, both[-5000:])).argmax() > len(both) - 5000
            else:
                np.testing.assert_array_equal(got, both)
    except ValueError as error:
        assert kind == ("CAF", "ALAC_24"), error  # libsndfile does not tell where its packet chunk ends


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), MP3])
def test_joined_of_other_rates_and_channels(kind: Any, tmp_path: Path) -> None:
    one = written(kind)
    with pytest.raises(ValueError, match=r"24000 .*48000 Hz"):
        read(tmp_path, one + written(kind, NOISE, 48_000))
    stereo = one + written(kind, np.stack([NOISE, NOISE], axis=1))
    if kind == MP3:
        with pytest.raises(ValueError, match="changes from one channel at 24000 Hz to two channels at 24000 Hz"):
            read(tmp_path, stereo)
    else:
        assert len(read(tmp_path, stereo)) == 40_000


@pytest.mark.parametrize("kind", [*KINDS, *OLD[:-2]], ids="-".join)
def test_joined_to_another_kind(kind: Any, tmp_path: Path) -> None:
    """Both files are read completely or there is an error; neither is dropped silently."""
    first = written(kind)
    samples = len(read(tmp_path, first))
    for other in [*KINDS, *OLD[:-2]]:
        second = written(other)
        if other == kind or len(second) < 4096:
            continue
        both = samples + len(read(tmp_path, second))
        try:
            got = len(read(tmp_path, first + second))
        except ValueError as error:
            assert other == MP3 or kind in (MP3, ("CAF", "ALAC_24"), ("WAV", "GSM610"), ("MAT5", "PCM_16")), error
        else:
            assert got == both, other


@pytest.mark.parametrize("kind", OLD, ids="-".join)
def test_old_kinds_joined(kind: Any, tmp_path: Path) -> None:
    rate = {"WVE": 8000}.get(kind[0], RATE)
    one, other = written(kind, rate=rate), written(kind, NOISE[:9000], rate)
    both = np.concatenate([read(tmp_path, one, rate), read(tmp_path, other, rate)])
    try:
        got = read(tmp_path, one + other, rate)
    except ValueError:
        assert kind[0] == "HTK"
    else:
        np.testing.assert_array_equal(got, both)


def test_voc_of_several_blocks(tmp_path: Path) -> None:
    """ffmpeg writes several blocks; libsndfile alone would read the headers between them as audio."""
    data = written(("VOC", "PCM_16"))
    assert (data[26], data[-1]) == (9, 0)
    whole = read(tmp_path, data)
    block = b"\2" + (2000).to_bytes(3, "little") + data[-2001:-1]
    text, silence = b"\5\3\0\0ab\0", b"\3\3\0\0\xff\0\x64"
    for between in (b"", text, text + b"\4\2\0\0\1\0"):
        got = read(tmp_path, between.join([data[:-1], block, block + b"\0"]))
        np.testing.assert_array_equal(got, np.concatenate([whole, whole[-1000:], whole[-1000:]]))
        with pytest.raises(ValueError, match="truncated"):
            read(tmp_path, (between.join([data[:-1], block]))[:-9])
    np.testing.assert_array_equal(read(tmp_path, data[:-1] + data[26:]), np.concatenate([whole, whole]))
    with pytest.raises(ValueError, match="blocks of silence or repetition"):
        read(tmp_path, data[:-1] + silence + block + b"\0")
    with pytest.raises(ValueError, match="goes on with one that is not there"):
        read(tmp_path, data[:26] + block + b"\0")
    short = int.from_bytes(data[27:30], "little") - 8  # the size as sox writes it
    np.testing.assert_array_equal(read(tmp_path, data[:27] + short.to_bytes(3, "little") + data[30:]), whole)


def test_voc_of_more_than_a_block_can_say(tmp_path: Path) -> None:
    """Audio beyond the largest block continues in blocks of the same format, which libsndfile gets a few at a time."""
    data = written(("VOC", "PCM_16"))
    block = np.random.default_rng(0).integers(0, 256, (1 << 24) - 200, np.uint8).tobytes()
    first = data[:27] + (12 + len(block)).to_bytes(3, "little") + data[30:42] + block
    got = read(tmp_path, first + b"\2" + len(block).to_bytes(3, "little") + block + b"\0")
    assert len(got) == len(block)
    np.testing.assert_array_equal(got[:1000], got[len(block) // 2 :][:1000])


def test_xi_that_is_cut(tmp_path: Path) -> None:
    data = bytearray(written(("XI", "DPCM_16"), NOISE, 44_100))
    data[298:302] = struct.pack("<I", len(data) - 338)  # libsndfile leaves this 0
    assert len(read(tmp_path, bytes(data), 44_100)) == 20_000
    with pytest.raises(ValueError, match="truncated: its header promises 40338 bytes of audio, and it holds 30000"):
        read(tmp_path, bytes(data[:30_000]), 44_100)


def test_zeros_without_end_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(written(("WAV", "PCM_16")))
    os.truncate(tmp_path / "a.wav", 1 << 36)  # a sparse file
    with pytest.raises(ValueError, match=r"audio ends at byte 40044, and \d+ more follow"):
        load_audio(tmp_path / "a.wav", RATE)


def test_damaged_sds(tmp_path: Path) -> None:
    """libsndfile prints about the damage; none of that may reach standard output."""
    program = "import sys; from vocos_onnx import load_audio; load_audio(sys.argv[1], 24000)"
    data = bytearray(written(("SDS", "PCM_16")))
    for at in (21, 22, 21 + 127 * 5 + 60, 21 + 127 * 9 + 125):
        damaged = bytearray(data)
        damaged[at] ^= 5
        (tmp_path / "a.sds").write_bytes(damaged)
        done = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "a.sds"], capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert "damaged: its packet" in done.stderr
        assert done.stdout == ""


def test_something_else_behind_the_audio(tmp_path: Path) -> None:
    behind = np.random.default_rng(1).bytes(20_000)
    for kind in (("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), MP3):
        with pytest.raises(
            ValueError, match=r"audio ends at byte \d+, and \d+ more follow|what follows byte \d+ is no mp3"
        ):
            read(tmp_path, written(kind) + behind)


def test_chunks_behind_the_audio(tmp_path: Path) -> None:
    data = bytearray(written(("WAV", "PCM_U8"), NOISE[:9999]))
    whole = read(tmp_path, bytes(data))
    listed = b"LIST" + struct.pack("<I", 9000) + b"INFO" + bytes(range(1, 251)) * 36
    for padding in (b"", b"\0"):  # some writers omit it
        np.testing.assert_array_equal(read(tmp_path, bytes(data[: 44 + 9999]) + padding + listed[:9008]), whole)


@pytest.mark.parametrize("value", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\xf0\xff\x7f", b"\xff\xff\xff\x7f"])
def test_wav_of_a_pipe_or_a_recorder_that_stopped(value: bytes, tmp_path: Path) -> None:
    data = written(("WAV", "PCM_16"))
    for riff in (value, data[4:8]):
        np.testing.assert_array_equal(
            read(tmp_path, data[:4] + riff + data[8:40] + value + data[44:]), read(tmp_path, data)
        )


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [
        ("RF64", 0x1C, bytes(8)),  # as ffmpeg writes it to a pipe
        ("RF64", 0x1C, b"\xff" * 8),
        ("W64", b"data\xf3\xac\xd3\x11", b"\xff" * 7 + b"\x7f"),
        ("W64", b"data\xf3\xac\xd3\x11", bytes(8)),
        ("AIFF", b"SSND", bytes(4)),
        ("AIFF", b"SSND", b"\xff" * 4),
        ("AU", 8, b"\xff" * 4),
        ("AU", 8, bytes(4)),
        ("CAF", b"data", b"\xff" * 8),
    ],
)
def test_lengths_that_were_never_filled_in(kind: str, at: Any, value: Any, tmp_path: Path) -> None:
    data = written((kind, "PCM_16"))
    start = at if isinstance(at, int) else data.index(at) + (16 if kind == "W64" else 4)
    streamed = data[:start] + value + data[start + len(value) :]
    np.testing.assert_array_equal(read(tmp_path, streamed)[: len(NOISE)], read(tmp_path, data))


def test_wav_whose_length_is_too_low(tmp_path: Path) -> None:
    """As left by a recorder that updates its header only now and then."""
    data = written(("WAV", "PCM_16"))
    with pytest.raises(ValueError, match=r"says that its audio ends at byte 10044, and 30000 more follow"):
        read(tmp_path, data[:40] + struct.pack("<I", 10_000) + data[44:])


@pytest.mark.parametrize("subtype", ["GSM610", "DWVW_24"])
def test_aiff_that_counts_too_few(subtype: str, tmp_path: Path) -> None:
    data = written(("AIFF", subtype), np.tile(NOISE, 3))
    at = data.index(b"COMM") + 10
    assert data[at : at + 4] == struct.pack(">I", 60_000)
    with pytest.raises(ValueError, match=r"header promises 100 samples, and \d+ bytes of audio are behind them"):
        read(tmp_path, data[:at] + struct.pack(">I", 100) + data[at + 4 :])


@pytest.mark.parametrize("samples", [0, 1, 100, 19_999, 20_001, 2**36 - 1])
def test_flac_that_lies_about_its_length(samples: Any, tmp_path: Path) -> None:
    data = written(("FLAC", "PCM_16"))
    info = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    lying = data[:18] + info.to_bytes(8, "big") + data[26:]
    if samples > len(NOISE):
        with pytest.raises(ValueError, match=f"header promises {samples} samples, and it holds 20000"):
            read(tmp_path, lying)
    else:
        np.testing.assert_array_equal(read(tmp_path, lying), read(tmp_path, data))


def test_mp3_without_a_count(tmp_path: Path) -> None:
    """Constant and variable bitrates; libsndfile estimates the latter from the first frames, too high or too low."""
    for frames in (
        FRAMES[1:],
        FRAMES[1:] + FRAMES[1:3] * 20,
        sorted(FRAMES[1:], key=len),
        sorted(FRAMES[1:], key=len)[::-1],
    ):
        assert len(read(tmp_path, b"".join(frames))) == 576 * len(frames)
        with pytest.raises(ValueError, match=f"truncated: its last mp3 frame, number {len(frames)}, is cut off"):
            read(tmp_path, b"".join(frames)[:-1])


@pytest.mark.parametrize("first", [1, 30, 99])
@pytest.mark.parametrize("name", ["a.mp3", "a.bin"])
def test_mp3_that_begins_anywhere(first: int, name: str, tmp_path: Path) -> None:
    """The data may start inside a frame or after other bytes; libsndfile's estimate from the first frame is too low."""
    frames = sorted(FRAMES[1:], key=len)[::-1] + [frame for frame in FRAMES[1:] if len(frame) < 200] * 5
    whole = b"".join(frames[1:])
    for data in (frames[0][first:] + whole, b"ID3\4\0\0\0\0\2\0" + bytes(257) + whole, b"?" * first + whole):
        (tmp_path / name).write_bytes(data)
        assert len(load_audio(tmp_path / name, RATE)) == 576 * (len(frames) - 1)
        (tmp_path / name).write_bytes(data[:-1])
        with pytest.raises(ValueError, match=r"its last mp3 frame, number .*, is cut off"):
            load_audio(tmp_path / name, RATE)
    (tmp_path / name).write_bytes(b"?" * 10_000 + whole)
    with pytest.raises(ValueError, match="damaged"):
        load_audio(tmp_path / name, RATE)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_mp3_with_a_tag_behind_its_first_frames(frames: int, tmp_path: Path) -> None:
    whole = read(tmp_path, b"".join(FRAMES[1:]))
    for tag in (ID3V1, ID3V2, APE):
        got = read(tmp_path, b"".join(FRAMES[1 : 1 + frames]) + tag + b"".join(FRAMES[1 + frames :]))
        np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("name", [b"Xing", b"Info"])
@pytest.mark.parametrize("change", [-30, -1, 0, 1, 2, 1000])
def test_mp3_that_lies_about_its_length(name: bytes, change: int, tmp_path: Path) -> None:
    first, rest = FRAMES[0], b"".join(FRAMES[1:])
    assert first[13:17] == b"Xing"
    count = struct.pack(">I", len(FRAMES) - 1 + change)
    lying = first[:13] + name + first[17:21] + count + first[25:] + rest
    if change > 1:  # some encoders also count the first frame
        with pytest.raises(
            ValueError, match=f"promises {len(FRAMES) - 1 + change} mp3 frames, and it holds {len(FRAMES) - 1}"
        ):
            read(tmp_path, lying)
    else:
        whole = read(tmp_path, first + rest)
        np.testing.assert_array_equal(read(tmp_path, lying)[: len(whole)], whole)


def test_mp3_that_is_cut_where_a_frame_ends(tmp_path: Path) -> None:
    """Some encoders also count the first frame, which has no audio; the number of bytes still shows the truncation."""
    whole = written(MP3)
    ends = [match.start() for match in re.finditer(re.escape(whole[:2]), whole)]
    assert len(ends) > 5
    for end in ends[2:]:
        with pytest.raises(ValueError, match="it is truncated"):
            read(tmp_path, whole[:end])


def test_mp3_with_vbri(tmp_path: Path) -> None:
    head = b"\xff\xf3\x84\xc4".ljust(36, b"\0")
    for count in (len(FRAMES) - 1, 3):
        vbri = (head + b"VBRI" + struct.pack(">HHHII", 1, 0, 0, 0, count)).ljust(192, b"\0")
        assert len(read(tmp_path, vbri + b"".join(FRAMES[1:]))) == 576 * (len(FRAMES) - 1)


def test_mp3_in_wav(tmp_path: Path) -> None:
    body = b"".join(FRAMES[1:])
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 96, 1, 1393)
    fact = b"fact" + struct.pack("<II", 4, 123)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + fact + b"data" + struct.pack("<I", len(body)) + body
    data = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    np.testing.assert_array_equal(read(tmp_path, data), read(tmp_path, body))


def test_mp3_with_a_hole(tmp_path: Path) -> None:
    broken = (
        FRAMES[0]
        + b"".join(FRAMES[1:10])
        + b"\xff"
        + FRAMES[10][1:].replace(b"\xff", b"\0")[10:]
        + b"".join(FRAMES[11:])
    )
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        read(tmp_path, broken)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_a_page(subtype: str, tmp_path: Path) -> None:
    audio = np.random.default_rng(2).uniform(-0.4, 0.4, 400_000)
    pages = [b"OggS" + page for page in written(("OGG", subtype), audio).split(b"OggS")[1:]]
    assert len(pages) > 5
    with pytest.raises(ValueError, match="no last page, so that the end is missing"):
        read(tmp_path, b"".join(pages[:-1]))
    with pytest.raises(ValueError, match="pages are missing"):
        read(tmp_path, b"".join(pages[:4] + pages[5:]))
    second = [b"OggS" + page for page in written(("OGG", subtype), audio).split(b"OggS")[1:]]
    with pytest.raises(ValueError, match=r"no last page|is cut off"):
        read(tmp_path, b"".join(pages + second[:4]))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_with_a_damaged_page(subtype: str, tmp_path: Path) -> None:
    data = written(("OGG", subtype), np.tile(NOISE, 10))
    pages = [match.start() for match in re.finditer(b"OggS", data)]
    for page in (pages[2], pages[-2], pages[-1]):
        for at in (page + 8, page + 22, page + 60):
            damaged = bytearray(data)
            damaged[at] ^= 1
            with pytest.raises(ValueError, match=f"damaged: the checksum of its page at byte {page} is wrong"):
                read(tmp_path, bytes(damaged))


def test_ogg_of_two_tracks(tmp_path: Path) -> None:
    """Two tracks with interleaved pages, as in a file with several languages, raise an error."""
    one, other = (
        [b"OggS" + page for page in written(("OGG", subtype)).split(b"OggS")[1:]] for subtype in ("VORBIS", "OPUS")
    )
    with pytest.raises(ValueError, match="several tracks of audio at a time"):
        read(tmp_path, b"".join([one[0], other[0], *one[1:], *other[1:]]))


def test_nothing_that_was_in_memory_comes_out(tmp_path: Path) -> None:
    """Reading a file that is cut anywhere never returns freed memory or earlier data."""
    silence = np.zeros(60_000)
    for kind in (
        MP3,
        ("OGG", "VORBIS"),
        ("FLAC", "PCM_16"),
        ("AIFF", "IMA_ADPCM"),
        ("SDS", "PCM_16"),
        ("W64", "MS_ADPCM"),
    ):
        data = written(kind, silence)
        frames = mp3_frames(data)[1:] if kind == MP3 else []
        for cut in (
            data[: len(data) // 3],
            data[: -len(data) // 10],
            b"".join(frames[: len(frames) // 2]) or data[:-2],
        ):
            tone = [np.full((1 << size, 1), 0.5, np.float32) for size in range(8, 19) for _ in range(3)]
            del tone
            try:
                assert abs(read(tmp_path, cut)).max() < 0.01
            except ValueError as error:
                assert "a.bin" in str(error)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(NOISE, 60), RATE)
    blocks = load_blocks(path, RATE)
    next(blocks)
    os.truncate(path, 1_500_000)
    with pytest.raises(ValueError, match="truncated: its header promises 1200000 samples"):
        list(blocks)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_given_up_halfway_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(NOISE, 60), RATE)

    def is_open() -> bool:
        return any(os.path.realpath(fd) == str(path) for fd in Path("/proc/self/fd").iterdir())

    blocks = load_blocks(path, 16_000)
    next(blocks)
    assert is_open()
    assert isinstance(blocks, Generator)
    blocks.close()
    assert not is_open()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_that_no_one_writes_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_module, "_PATIENCE", 0.1)
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a\.wav is not a file; expected audio .* nothing has come out of this one"):
        load_audio(tmp_path / "a.wav", RATE)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_many_channels_and_hours_in_little_memory(tmp_path: Path) -> None:
    """1024 channels for 3 s and one channel for an hour, at least 295 MB each in float32, are read in under 200 MB."""
    program = r"""
import re, sys
from vocos_onnx import load_blocks
for name in sys.argv[1:]:
    print(sum(len(block) for block in load_blocks(name, 24000)))
print(int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    for name, channels, seconds in (("many.wav", 1024, 3), ("long.wav", 1, 3600)):
        with soundfile.SoundFile(tmp_path / name, "w", 24_000, channels, subtype="PCM_U8") as file:
            for _ in range(seconds):
                file.write(np.zeros((24_000, channels), np.int16))
    done = subprocess.run(
        [sys.executable, "-c", program, "many.wav", "long.wav"], cwd=tmp_path, capture_output=True, check=True,
        text=True,
    )  # fmt: skip
    many, long, megabytes = map(int, done.stdout.split())
    assert (many, long) == (72_000, 86_400_000)
    assert megabytes < 200


def test_expected_samples(tmp_path: Path) -> None:
    assert expected_samples(tmp_path / "missing.wav", RATE) == 0
    for kind in KINDS:
        (tmp_path / "a.bin").write_bytes(written(kind))
        assert expected_samples(tmp_path / "a.bin", 12_000) == pytest.approx(len(NOISE) / 2, rel=0.05)
    (tmp_path / "text").write_bytes(b"hello" * 100)
    assert expected_samples(tmp_path / "text", RATE) == 0


def test_silence_of_one_sample(tmp_path: Path) -> None:
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64"):
        save_audio(tmp_path / f"a.{suffix}", np.zeros(1), RATE)
        assert len(load_audio(tmp_path / f"a.{suffix}", RATE)) == 1


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("raised", [Stopped, KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), MP3], ids="-".join)
def test_what_is_raised_while_a_file_is_read_comes_out(
    kind: Any, raised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, reads, last = written(kind, np.tile(NOISE, 20)), 0, 1 << 60

    def failing(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == last:
            raise raised("stop")
        return original(*args)

    original = containers._read
    monkeypatch.setattr(containers, "_read", failing)
    whole = read(tmp_path, data)
    for place in {1, 2, reads // 2, reads * 3 // 4, reads - 2, reads - 1, reads}:
        reads, last = 0, place
        with pytest.raises(raised, match="stop"):
            read(tmp_path, data)
    reads, last = 0, 1 << 60
    np.testing.assert_array_equal(read(tmp_path, data), whole)


@pytest.mark.parametrize("raised", [Stopped, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_what_is_raised_while_a_file_is_written_comes_out(
    suffix: str, raised: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, last = 0, 1 << 60

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == last:
            raise raised("stop")
        return original(*args)

    original = containers.Sink.write
    monkeypatch.setattr(containers.Sink, "write", failing)
    save_audio(tmp_path / f"a.{suffix}", NOISE, RATE)
    before = (tmp_path / f"a.{suffix}").read_bytes()
    for place in {1, 2, calls // 2, calls - 1, calls} - {0}:
        calls, last = 0, place
        with pytest.raises(raised, match="stop"):
            save_audio(tmp_path / f"a.{suffix}", NOISE / 2, RATE)
        assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]
        assert (tmp_path / f"a.{suffix}").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals of POSIX")
def test_signal_handlers_that_raise_at_any_moment(tmp_path: Path) -> None:
    """A read gives all of the audio or raises the handler's exception; the interpreter never crashes."""
    program = r"""
import random, signal, sys
import numpy as np
from vocos_onnx import load_audio, save_audio
class Stopped(Exception): pass
def stop(*_): raise Stopped
random.seed(1)
audio = np.random.default_rng(0).uniform(-0.1, 0.1, 100_000).astype(np.float32)
for name in ("a.flac", "a.wav", "a.mp3"):
    save_audio(name, audio, 24000)
signal.signal(signal.SIGALRM, stop)
stopped = 0
for turn in range(600):
    name = ("a.flac", "a.wav", "a.mp3")[turn % 3]
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 0.006))
        if turn % 5 == 4:
            save_audio(name, audio, 24000)
        assert len(load_audio(name, 24000)) == 100_000
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stopped:
        stopped += 1
print(stopped)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


PAIRS = [
    (kind, subtype)
    for kind in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(kind)
    if kind not in ("RAW", "SD2")  # they have no header, or one in another file
]


@pytest.mark.parametrize(("kind", "subtype"), PAIRS)
def test_every_kind_that_soundfile_writes_is_read(kind: Any, subtype: Any, tmp_path: Path) -> None:
    """Every sample equals libsndfile's, except that GSM 6.10 in WAV may end without the padding to an even size."""
    rate = {"WVE": 8000, "XI": 44_100}.get(kind, RATE)
    read_some = False
    for channels in (1, 2):
        for samples in (160, 505, 2000, 9999):
            path = tmp_path / "a.bin"
            try:
                soundfile.write(path, np.stack([NOISE[:samples]] * channels, 1), rate, subtype, format=kind)
            except soundfile.LibsndfileError:
                continue  # does not support that many channels
            if not path.stat().st_size:
                continue
            rate = soundfile.info(path).samplerate  # some kinds round it
            ours = load_audio(path, rate)
            if subtype.startswith("DWVW"):  # soundfile reads only a part of it
                assert len(ours) == samples
                np.testing.assert_allclose(ours, NOISE[:samples], rtol=0, atol=2**-15)
                read_some = True
                continue
            theirs = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
            if (kind, subtype) == ("WAV", "GSM610"):
                assert samples <= len(ours) <= samples + 320
                theirs = theirs[: len(ours)]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-7)
            with path.open("rb") as file:
                np.testing.assert_array_equal(load_audio(file, rate), ours)
            read_some = True
    assert read_some or subtype in ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "DWVW_12"), "nothing was tried"


@pytest.mark.parametrize(("kind", "subtype"), PAIRS)
def test_every_kind_cut_is_refused_or_what_is_there(kind: Any, subtype: Any, tmp_path: Path) -> None:
    rate = {"WVE": 8000, "XI": 44_100}.get(kind, RATE)
    try:
        data = written((kind, subtype), rate=rate)
    except (soundfile.LibsndfileError, AssertionError):
        return  # cannot be written; the test above checks which kinds can
    if not data:
        return
    rate = soundfile.info(io.BytesIO(data)).samplerate
    whole = read(tmp_path, data, rate)
    for kept in (0.3, 0.95):
        try:
            got = read(tmp_path, data[: int(kept * len(data))], rate)
        except ValueError as error:
            assert "a.bin" in str(error)
        else:
            assert kind in ("PAF", "PVF", "IRCAM", "XI")
            assert len(got) < len(whole)
            np.testing.assert_array_equal(got[:-600], whole[: len(got) - 600])


@pytest.mark.parametrize("name", ["a.raw", "a.RAW", "a.pcm"])
def test_samples_without_a_header(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((NOISE * 2**15).astype(np.int16).tobytes())
    with pytest.raises(
        ValueError, match=r"samples without a header .*: ffmpeg -f s16le -ar 24000 -ac 1 -i .*whole\.wav"
    ):
        load_audio(tmp_path / name, RATE)
    assert expected_samples(tmp_path / name, RATE) == 0
    (tmp_path / name).write_bytes(written(("WAV", "PCM_16")))  # a WAV file with a wrong name
    assert len(load_audio(tmp_path / name, RATE)) == len(NOISE)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.au", "a.snd", "a.sd2", "a.xi", "a.htk", "a.svx", "a"])
def test_noise_of_any_name(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for data in (np.random.default_rng(0).bytes(30_000), b"\1" * 1000):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=r"cannot read .* as audio: .*not recognised.* ffmpeg -i"):
            load_audio(tmp_path / name, RATE)
        assert expected_samples(tmp_path / name, RATE) == 0
    assert capfd.readouterr() == ("", "")


def test_voc_as_sox_counts_it(tmp_path: Path) -> None:
    """sox leaves the header of a sound block out of its size."""
    data = written(("VOC", "PCM_16"))
    short = int.from_bytes(data[27:30], "little") - 8
    assert len(read(tmp_path, data[:27] + short.to_bytes(3, "little") + data[30:])) == len(NOISE)


FOREIGN = [
    (b"\0\0\0\x1cftypM4A \0\0\2\0", r"MPEG-4 \(\.m4a"),
    (b"\0\0\0\x14ftypisom", "MPEG-4"),
    (b"\0\0\0\x08wide\0\0\1\0mdat", "QuickTime"),
    (b"\x1aE\xdf\xa3\x9fB\x86\x81", r"Matroska or WebM"),
    (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", r"Windows Media \(\.wma"),
    (b"\xff\xf1l@H?\xfc\xde", r"AAC \(\.aac\)"),
    (b"\xff\xf9l@H?\xfc\xde", r"AAC \(\.aac\)"),
    (ID3V2 + b"\xff\xf1l@H?\xfc\xde", r"AAC \(\.aac\)"),
    (b"ADIF" + bytes(8), "AAC"),
    (b"#!AMR\n\x3c", "AMR"),
    (b"#!AMR-WB\n\x3c", "AMR"),
    (b"MAC \x96\x0f", "Monkey's Audio"),
    (b"wvpk\xca\xd9", "WavPack"),
    (b"TTA1\1\0\1\0", "True Audio"),
    (b"DSD \x1c\0\0\0", "DSD"),
    (b"\x0bw\x83\xd2", "AC-3"),
    (b"\x7f\xfe\x80\x01", "DTS"),
    (b".RMF\0\0\0\x12", "RealAudio"),
    (b"RIFF\xc4*\0\0AVI LIST", r"video \(\.avi\)"),
    (b"FLV\1\4\0", "video"),
    (b"\0\0\1\xba!\0\1\0", "MPEG video"),
]


@pytest.mark.parametrize(("start", "name"), FOREIGN)
@pytest.mark.parametrize("behind", [b"", b"".join(FRAMES)], ids=["noise", "mp3"])
def test_what_libsndfile_does_not_read_is_named_and_converted(
    start: Any, name: Any, behind: Any, tmp_path: Path
) -> None:
    """Unsupported files are recognised by content, whatever their ending, and even if mp3 data is inside."""
    if behind and name in ("AC-3", "DTS", r"AAC \(\.aac\)", "AAC"):
        return
    data = start + np.random.default_rng(0).integers(0, 128, 3000, np.uint8).tobytes() + behind
    for path in (tmp_path / "a b.m4a", tmp_path / "a.wav"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"cannot read .* as audio: it (is|looks like) .*{name}") as error:
            load_audio(path, RATE)
        command = str(error.value).split(": ")[-1]
        assert shlex.split(command) == ["ffmpeg", "-i", str(path), "whole.wav"]
        with pytest.raises(ValueError, match=rf"cannot read .*{name}"), path.open("rb") as file:
            load_audio(file, RATE)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "nothing but zeros"),
        (b"hello " * 100, "it holds text"),
        ("Ärger über Öl\n".encode() * 400, "it holds text"),
        (b"<!DOCTYPE html><html>", "a web page: no audio"),
        (b"\n<HTML>", "a web page: no audio"),
        (b"PK\3\4" + bytes(100), "a zip archive"),
        (b"\x93NUMPY\1\0" + bytes(100), "a numpy array .* np.load reads it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x1f\x8b\x08\0" + bytes(100), "compressed: unpack it"),
        (b"%PDF-1.4\n" + bytes(100), "a document or picture"),
        (b"MThd\0\0\0\6", "MIDI: notes"),
    ],
)
def test_what_is_no_audio_is_named(data: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"cannot read .*a\.bin as audio: .*{what}"):
        read(tmp_path, data)


def test_the_command_for_a_file_works_for_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a'b.m4a", "-x.m4a", "a:b.m4a", "$HOME `x`.m4a", "whole.wav", "é\u3042.m4a"):
        Path(name).write_bytes(FOREIGN[0][0])
        with pytest.raises(ValueError, match="convert it: ffmpeg") as error:
            load_audio(name, RATE)
        program, option, given, target = shlex.split(str(error.value).split("convert it: ")[1])
        assert (program, option) == ("ffmpeg", "-i")
        assert Path(given).samefile(name)
        assert not given.startswith("-")
        assert ":" not in given or given.startswith(("./", "/"))
        assert not os.path.lexists(target)


def _streamed(data: bytes) -> bytes:
    """FLAC as written to a pipe, with unknown number of samples and MD5."""
    info = int.from_bytes(data[18:26], "big") >> 36 << 36
    return data[:18] + info.to_bytes(8, "big") + bytes(16) + data[42:]


def _flac_frames(data: bytes) -> list[bytes]:
    """Split mono FLAC at 24 kHz, as libFLAC writes it, into its header and its frames."""
    places = [found.start() for found in re.finditer(rb"\xff\xf8[\x17\xc7\x77\x67][\x08\x0c]", data)]
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


TONES = (0.3 * np.sin(0.05 * np.arange(20_000)) * np.sin(0.001 * np.arange(20_000)) + 0.02 * NOISE).astype(np.float32)


BROKEN = r"damaged|truncated|promises|more follow"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_24", 1), ("PCM_24", 2), ("PCM_S8", 6)])
def test_a_damaged_frame_of_flac_is_never_read_as_silence(
    subtype: str, channels: int, streamed: bool, tmp_path: Path
) -> None:
    quiet = 0.05 * TONES  # in the longer frames of loud audio, libFLAC itself would notice the damage
    data = written(("FLAC", subtype), np.stack([np.roll(quiet, 9 * n) for n in range(channels)], axis=1))
    data = _streamed(data) if streamed else data
    assert len(read(tmp_path, data)) == len(TONES)
    rng = np.random.default_rng(channels)
    audio = data.index(b"\xff\xf8")
    for place in [*rng.integers(audio, len(data) - 50, 20), *range(len(data) - 700, len(data) - 4, 60), len(data) - 2]:
        size = int(rng.choice([1, 2, 50]))
        damage = bytes(
            byte ^ int(change) for byte, change in zip(data[place:][:size], rng.integers(1, 256, size), strict=False)
        )
        with pytest.raises(ValueError, match=BROKEN):
            read(tmp_path, data[:place] + damage + data[place + len(damage) :])
        with pytest.raises(ValueError, match=r"a\.bin"):
            list(load_blocks(tmp_path / "a.bin", RATE))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_frame_of_flac_that_is_missing(streamed: bool, tmp_path: Path) -> None:
    head, *frames = _flac_frames(written(("FLAC", "PCM_16"), TONES))
    assert len(frames) == 5
    head = _streamed(head) if streamed else head
    for missing in range(4):
        with pytest.raises(ValueError, match=BROKEN):
            read(tmp_path, b"".join([head, *frames[:missing], *frames[missing + 1 :]]))
        with pytest.raises(ValueError, match=BROKEN):  # the frame's header is broken
            read(tmp_path, b"".join([head, *frames[:missing], b"\0" + frames[missing][1:], *frames[missing + 1 :]]))
    with pytest.raises(ValueError, match=BROKEN):
        read(tmp_path, b"".join([head, *frames[:4], b"\0" + frames[4][1:]]))
    for twice in range(5):
        with pytest.raises(ValueError, match=BROKEN):
            read(tmp_path, b"".join([head, *frames[: twice + 1], *frames[twice:]]))
    for behind in (b"", bytes(3000), ID3V1, APE):
        assert len(read(tmp_path, b"".join([head, *frames, behind]))) == len(TONES)


def test_flac_whose_header_names_another_rate(tmp_path: Path) -> None:
    data = written(("FLAC", "PCM_16"))
    info = int.from_bytes(data[18:26], "big") & (1 << 44) - 1 | 48_000 << 44
    with pytest.raises(ValueError, match=r"its header says 48000 Hz, and its FLAC frames are of 24000 Hz"):
        read(tmp_path, data[:18] + info.to_bytes(8, "big") + data[26:])


def _ogg_page(packet: bytes, number: int, flags: int) -> bytes:
    lengths = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    page = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, number, 7, number, 0, len(lengths)) + lengths + packet
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x104C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", checksum) + page[26:]


def test_a_damaged_frame_of_flac_in_ogg(tmp_path: Path) -> None:
    """Ogg pages have checksums, but a frame may be damaged before; some libsndfile versions cannot read these files."""
    head, *frames = _flac_frames(written(("FLAC", "PCM_16"), TONES))

    def ogg(frames: list[bytes]) -> io.BytesIO:
        packets = [b"\x7fFLAC\1\0\0\1" + head[:42], b"\x84\0\0\0", *frames]
        flags = [2, *[0] * (len(packets) - 2), 4]
        return io.BytesIO(b"".join(map(_ogg_page, packets, range(len(packets)), flags)))

    assert containers.parts(ogg(frames))
    for which in range(len(frames)):
        damaged = [*frames]
        damaged[which] = frames[which][:-50] + b"\x55" * 30 + frames[which][-20:]
        with pytest.raises(ValueError, match="the checksum of its FLAC frame at byte"):
            containers.parts(ogg(damaged))
        damaged[which] = b"\xff\0" + frames[which][2:]
        with pytest.raises(ValueError, match="no FLAC frame"):
            containers.parts(ogg(damaged))
