"""One item: its bytes, its warnings and errors, and what happens if it fails."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA, tone
from vocos_onnx import EncodecONNX, VocosONNX, load_audio, load_tokens, once, save_tokens
from vocos_onnx.batch.job import Settings
from vocos_onnx.batch.journal import Row
from vocos_onnx.batch.manifest import Item
from vocos_onnx.batch.work import Worker
from vocos_onnx.cli import main

MODEL, ENCODER, MEL = DATA / "encodec.onnx", DATA / "encoder.onnx", DATA / "mel.onnx"
PAIR: dict[str, Any] = {"model": MODEL, "encoder": ENCODER, "bandwidth": 1.5}


def item(path: Path, **options: Any) -> Item:
    return Item(0, path.stem, path, 1, **options)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.npz"
    codes = np.random.default_rng(0).integers(1024, size=(2, 30))
    save_tokens(path, codes, VocosONNX(MODEL), samples=30 * 320 - 100)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.wav"
    soundfile.write(path, np.stack([tone(440, 16_000), 0.1 * tone(660, 16_000)], axis=1) * 0.5, 16_000)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "ogg", "opus"])
def test_decode_writes_what_the_command_does(tokens: Path, out: Path, format: str) -> None:
    row = Worker(Settings.of("decode", model=MODEL, format=format), out).do(item(tokens))
    single = out / f"single.{format}"
    assert main(["decode", str(tokens), str(single), "--model", str(MODEL), "--threads", "1"]) == 0
    assert (row.error, row.name, row.seconds, row.warnings) == (None, f"tokens.{format}", 9500 / 24_000, ())
    assert row.input is not None and row.output is not None
    assert (row.input.sha256, row.output.sha256) == (digest(tokens), digest(out / row.name))
    if format in ("wav", "flac", "mp3"):
        assert (out / row.name).read_bytes() == single.read_bytes()
    else:  # Ogg has a random serial number
        np.testing.assert_array_equal(load_audio(out / row.name, 24_000), load_audio(single, 24_000))


def test_encode_writes_what_the_command_does(recording: Path, out: Path) -> None:
    row = Worker(Settings.of("encode", encoder=ENCODER, bandwidth=1.5), out).do(item(recording))
    command = ["encode", recording, out / "single.npz", "--encoder", ENCODER, "--bandwidth", "1.5", "--threads", "1"]
    assert main([str(word) for word in command]) == 0
    assert (row.error, row.name, row.seconds) == (None, "recording.npz", 0.5)
    assert (out / "recording.npz").read_bytes() == (out / "single.npz").read_bytes()
    with zipfile.ZipFile(out / "recording.npz") as archive:  # no modification time is stored
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    audio = load_audio(recording, 24_000)
    read = load_tokens(out / "recording.npz")
    np.testing.assert_array_equal(read.codes, EncodecONNX(ENCODER, threads=1).encode(audio, 24_000, 1.5))
    assert read.samples == 12_000


@pytest.mark.parametrize("options", [PAIR, {"model": MEL}], ids=["tokens", "mels"])
def test_resynth_writes_what_the_command_does(recording: Path, out: Path, options: dict[str, Any]) -> None:
    row = Worker(Settings.of("resynth", **options), out).do(item(recording))
    words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    assert main(["resynth", str(recording), str(out / "single.wav"), *words, "--threads", "1"]) == 0
    assert row.error is None
    assert (out / "recording.wav").read_bytes() == (out / "single.wav").read_bytes()
    assert row.seconds == len(load_audio(out / "recording.wav", 24_000)) / 24_000


def test_mels_and_their_conventions(tmp_path: Path, out: Path, mel: VocosONNX) -> None:
    mels = np.random.default_rng(0).normal(-5, 1, (8, 20)).astype(np.float32)
    np.save(tmp_path / "a.npy", mels)
    np.save(tmp_path / "b.npy", mels.T)
    own = Worker(Settings.of("decode", model=MEL), out).do(item(tmp_path / "a.npy"))
    mlx = Worker(Settings.of("decode", model=MEL, mels_from="mlx"), out).do(item(tmp_path / "b.npy"))
    assert own.output is not None and mlx.output is not None
    assert own.output.sha256 == mlx.output.sha256
    assert own.seconds == 19 * 16 / mel.sample_rate


def test_the_first_codebooks(tokens: Path, out: Path) -> None:
    np.save(out / "first.npy", load_tokens(tokens).codes[:1])
    kbps = VocosONNX(MODEL).bandwidths[0]
    one = Worker(Settings.of("decode", model=MODEL), out).do(item(out / "first.npy"))
    worker = Worker(Settings.of("decode", model=MODEL, bandwidth=kbps, format="wav"), out)
    row = worker.do(item(tokens))
    first, whole = (load_audio(out / r.name, 24_000) for r in (one, row))
    np.testing.assert_array_equal(first[: len(whole)], whole)
    assert one.warnings == ("it names no codec, and is decoded as tokens of encodec_24khz",)


def test_tokens_with_one_axis_are_refused_with_a_bandwidth_too(out: Path) -> None:
    np.save(out / "flat.npy", np.zeros(30, int))
    for settings in (Settings.of("decode", model=MODEL), Settings.of("decode", model=MODEL, bandwidth=1.5)):
        error = Worker(settings, out).do(item(out / "flat.npy")).error
        assert error is not None and "shape (30,)" in error


def test_an_item_that_is_the_same_is_not_done_again(tokens: Path, out: Path) -> None:
    """If only the mtimes differ, the sha256 of input and output show that nothing has to be repeated."""
    worker = Worker(Settings.of("decode", model=MODEL), out)
    first = worker.do(item(tokens))
    assert first.output is not None and first.input is not None
    os.utime(tokens, ns=(1, 1))
    os.utime(out / first.name, ns=(2, 2))
    again = worker.do(item(tokens, known=first))
    assert again.output is not None and again.input is not None
    assert (out / first.name).stat().st_mtime_ns == 2
    assert (again.input.modified, again.output.modified) == (1, 2)
    assert (again.input.sha256, again.output.sha256) == (first.input.sha256, first.output.sha256)
    (out / first.name).write_bytes(b"damaged")
    assert worker.do(item(tokens, known=first)).output != again.output
    assert digest(out / first.name) == first.output.sha256


def fails(path: Path, out: Path, task: Any = "decode", **options: Any) -> str:
    """The error of an item that must fail without leaving a file."""
    row = Worker(Settings.of(task, **options), out).do(item(path))
    assert list(out.iterdir()) == []
    assert row.error is not None
    return row.error


def test_items_that_fail(tmp_path: Path, tokens: Path, recording: Path, out: Path) -> None:
    decode: dict[str, Any] = {"model": MODEL}
    np.save(tmp_path / "large.npy", np.full((2, 5), 5000))
    np.save(tmp_path / "batch.npy", np.zeros((2, 3, 5), int))
    np.save(tmp_path / "mels.npy", np.zeros((8, 5), np.float32))
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes(recording.read_bytes()[:2000])
    (tmp_path / "folder.wav").mkdir()
    loud = tmp_path / "nan.wav"
    soundfile.write(loud, np.full(1000, np.nan), 24_000, "FLOAT")
    assert "no file " in fails(tmp_path / "none.npy", out, **decode)
    assert "5000" in fails(tmp_path / "large.npy", out, **decode)
    assert "expected one recording" in fails(tmp_path / "batch.npy", out, **decode)
    assert "mel model" in fails(tokens, out, model=MEL)
    assert "codebooks, but" in fails(first_codebook(tokens), out, model=MODEL, bandwidth=VocosONNX(MODEL).bandwidths[1])
    for name in ("empty.wav", "cut.wav", "nan.wav"):
        assert name in fails(tmp_path / name, out, "encode", encoder=ENCODER, bandwidth=1.5)
    assert "is not a file" in fails(tmp_path / "folder.wav", out, "resynth", **PAIR)


def test_an_input_is_never_written_over(recording: Path, out: Path) -> None:
    """The input is not deleted either, as the output of a failing item would be."""
    for data in (recording.read_bytes(), b"nonsense"):
        (out / "a.wav").write_bytes(data)
        row = Worker(Settings.of("resynth", **PAIR), out).do(item(out / "a.wav"))
        assert row.error == f"its output, {out / 'a.wav'}, would be written over it"
        assert (out / "a.wav").read_bytes() == data


def first_codebook(tokens: Path) -> Path:
    path = tokens.with_name("one.npy")
    np.save(path, load_tokens(tokens).codes[:1])
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_a_pipe_does_not_hang(tmp_path: Path, out: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert "is not a file" in fails(tmp_path / "pipe.wav", out, "resynth", **PAIR)


@pytest.mark.parametrize("change", ["missing", "empty", "damaged", "of another model"])
def test_an_item_that_fails_keeps_the_output_of_an_earlier_run(tokens: Path, out: Path, change: str) -> None:
    """A failing item keeps its earlier output, and is not recomputed once its input is back with another mtime."""
    worker = Worker(Settings.of("decode", model=MODEL), out)
    known = worker.do(item(tokens))
    made, content = (out / known.name).read_bytes(), tokens.read_bytes()
    if change == "missing":
        tokens.unlink()
    elif change == "of another model":
        np.savez(tokens, tokens=np.zeros((2, 5), int) + 5000)
    else:
        tokens.write_bytes(b"" if change == "empty" else content[: len(content) // 2])
    assert worker.do(item(tokens, known=known)).error is not None
    assert [path.name for path in out.iterdir()] == [known.name]
    assert (out / known.name).read_bytes() == made
    tokens.write_bytes(content)
    time = (out / known.name).stat().st_mtime_ns
    again = worker.do(item(tokens, known=known))
    assert (again.error, again.output, (out / known.name).stat().st_mtime_ns) == (None, known.output, time)


@pytest.mark.parametrize("shape", [(2, 0), (0, 0)])
def test_empty_tokens_fail(tmp_path: Path, out: Path, shape: tuple[int, int]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, int))
    error = fails(tmp_path / "a.npy", out, model=MODEL)
    assert error.endswith(f"a.npy: the array of tokens is empty, shape {shape}; expected at least one frame")


@pytest.mark.parametrize("format", ["wav", "flac", "opus"])
def test_empty_mels_fail(tmp_path: Path, out: Path, format: str) -> None:
    """So does a single frame, which gives no samples with this model's padding."""
    np.save(tmp_path / "a.npy", np.zeros((8, 0), np.float32))
    assert "the array of features is empty, shape (8, 0)" in fails(tmp_path / "a.npy", out, model=MEL, format=format)
    np.save(tmp_path / "a.npy", np.zeros((8, 1), np.float32))
    assert "a.npy: it is of 0 samples" in fails(tmp_path / "a.npy", out, model=MEL, format=format)


@pytest.fixture
def long_recording(tmp_path: Path) -> tuple[Path, Any]:
    audio = (20_000 * np.random.default_rng(3).uniform(-1, 1, 5 * 24_000 + 137)).astype(np.int16)
    soundfile.write(tmp_path / "long.flac", audio, 24_000)
    return tmp_path / "long.flac", audio


def test_a_segment_is_as_a_file_of_it(tmp_path: Path, out: Path, long_recording: tuple[Path, Any]) -> None:
    path, audio = long_recording
    worker = Worker(Settings.of("encode", encoder=ENCODER, bandwidth=1.5), out)
    for name, (offset, duration) in {"a": (1.25, 0.7), "b": (0.0, 2.0), "c": (3.3, None), "d": (4.0, 1.3)}.items():
        start = round(offset * 24_000)
        stop = None if duration is None else start + round(duration * 24_000)
        soundfile.write(tmp_path / f"{name}_alone.wav", audio[start:stop], 24_000)
        alone = worker.do(item(tmp_path / f"{name}_alone.wav"))
        row = worker.do(Item(0, name, path, 1, offset=offset, duration=duration))
        assert (row.error, row.seconds) == (None, alone.seconds)
        assert (row.offset, row.duration) == (offset, duration)
        assert (out / row.name).read_bytes() == (out / alone.name).read_bytes()
        assert Row.from_json(row.to_json()) == replace(row, path="")
        assert worker.do(Item(0, name, path, 1, offset=offset, duration=duration, known=row)) == replace(
            row, verified=True
        )
        for other in ((offset + 0.1, duration), (offset, 0.5)):
            again = worker.do(Item(0, name, path, 1, offset=other[0], duration=other[1], known=row))
            assert again.output != row.output


def test_the_duration_of_a_whole_file(out: Path, long_recording: tuple[Path, Any]) -> None:
    """A duration that is the file's, rounded or truncated as in NeMo's manifests, means the whole file."""
    path, _ = long_recording
    worker = Worker(Settings.of("encode", encoder=ENCODER, bandwidth=1.5), out)
    whole = worker.do(item(path))
    for duration in (5.005708333333, 5.0057, 5.006, 5.005, 5.01, 5.0, 5.1, 5.5):
        row = worker.do(Item(0, "x", path, 1, duration=duration))
        assert (row.error, row.seconds) == (None, whole.seconds)
        assert (out / "x.npz").read_bytes() == (out / whole.name).read_bytes()
    assert worker.do(Item(0, "x", path, 1, duration=4.99)).seconds == 4.99


def test_segments_that_there_are_not(out: Path, long_recording: tuple[Path, Any], tokens: Path) -> None:
    path, _ = long_recording
    worker = Worker(Settings.of("encode", encoder=ENCODER, bandwidth=1.5), out)

    def error(offset: float, duration: float | None) -> str:
        row = worker.do(Item(0, "x", path, 1, offset=offset, duration=duration))
        assert list(out.iterdir()) == []
        assert row.to_json().get("offset", 0) == offset
        return row.error or ""

    shortest = worker.do(Item(0, "shortest", path, 1, offset=1, duration=1e-6))  # half a sample or less becomes one
    assert (shortest.error, shortest.seconds) == (None, 1 / 24_000)
    (out / shortest.name).unlink()
    assert error(5.5, None).endswith("its segment begins at 5.5 s, and the file ends at 5.005708333 s")
    assert error(6, 0.1).endswith("its segment begins at 6 s, and the file ends at 5.005708333 s")
    assert error(4, 2).endswith("its segment ends at 6 s, and the file ends at 5.005708333 s")
    assert error(0, 9).endswith("its segment ends at 9 s, and the file ends at 5.005708333 s")


def test_the_duration_of_tokens(tokens: Path, out: Path) -> None:
    """For tokens, a duration equal to that of their audio is ignored; any other is an error."""
    worker = Worker(Settings.of("decode", model=MODEL), out)
    assert worker.do(Item(0, "x", tokens, 1, duration=0.4)).error is None
    (out / "x.wav").unlink()
    row = worker.do(Item(0, "x", tokens, 1, duration=1.0))
    assert row.error is not None
    assert "its duration is 1 s, and it is decoded to 0.3958333333 s: only audio has segments" in row.error
    assert list(out.iterdir()) == []


def test_a_folder_that_is_full_is_no_fault_of_an_item(tokens: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    worker = Worker(Settings.of("decode", model=MODEL), out)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            worker.do(item(tokens))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(out.iterdir()) == []


def test_warnings_are_in_the_row(tmp_path: Path, out: Path) -> None:
    audio = np.stack([tone(440, 24_000), -tone(440, 24_000)], axis=1)
    soundfile.write(tmp_path / "inverted.wav", audio, 24_000, "FLOAT")
    soundfile.write(tmp_path / "loud.wav", 3 * tone(440, 24_000), 24_000, "FLOAT")
    worker = Worker(Settings.of("resynth", **PAIR), out)
    assert "cancel" in worker.do(item(tmp_path / "inverted.wav")).warnings[0]
    assert "3.0 times full scale" in worker.do(item(tmp_path / "loud.wav")).warnings[0]


def test_what_is_warned_of_once_in_a_process_is_in_each_row(
    tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has the warnings and log messages that otherwise appear once per process, or only in checked calls."""
    monkeypatch.setattr(once, "_warned", set())  # other tests of this process may have triggered the warning
    mels = np.random.default_rng(0).normal(-60, 10, (8, 60)).astype(np.float32)  # decibels
    np.save(tmp_path / "decibels.npy", mels)
    np.save(tmp_path / "square.npy", mels[:, :8] / 10)
    worker = Worker(Settings.of("decode", model=MEL), out)
    for _ in range(20):
        (scale,) = worker.do(item(tmp_path / "decibels.npy")).warnings
        (axes,) = worker.do(item(tmp_path / "square.npy")).warnings
    assert scale.endswith("these look like decibels: save vocos_onnx.MelConvention(log='db').magnitudes(mels)")
    assert axes.endswith(
        "are read as (C, T): if they are (T, C), transpose them (mels.T) before they are saved, or name their system "
        "with --mels-from (in Python mels_from=)"
    )
    caplog.clear()
    with pytest.warns(UserWarning, match="check=False silences this"):  # outside a job it still warns once
        VocosONNX(MEL).decode(mels)
    VocosONNX(MEL).decode(mels[:, :8] / 10)
    VocosONNX(MEL).decode(mels[:, :8] / 10)
    assert len(caplog.messages) == 1


def test_reasons_are_for_files(tmp_path: Path, out: Path) -> None:
    """Errors do not name Python arguments only, since users of the command read them too."""
    np.save(tmp_path / "frames.npy", np.zeros((20, 8), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    transposed = (
        "they look like (T, C): transpose them (mels.T) before they are saved, or name their system: --mels-from"
    )
    assert transposed in fails(tmp_path / "frames.npy", out, model=MEL)
    assert fails(tmp_path / "frames.npy", out, model=MEL).endswith('--mels-from mlx (in Python mels_from="mlx")')
    np.save(tmp_path / "bands.npy", np.zeros((8, 20), np.float32))
    assert fails(tmp_path / "bands.npy", out, model=MEL, mels_from="mlx").endswith(
        "as mels of the system that is named; they look like (C, T): transpose them (mels.T) before they are saved, or "
        "leave --mels-from (in Python mels_from=) out"
    )
    np.save(tmp_path / "three.npy", np.zeros((3, 20), int))
    assert fails(tmp_path / "three.npy", out).endswith(
        "they have 2, 4, 8, 16; save tokens[:2] to decode the first ones of them, or take the bandwidth of as many"
    )
    np.save(tmp_path / "one.npy", np.zeros((1, 20), int))
    assert fails(tmp_path / "one.npy", out).endswith("no bandwidth has as many: they have 2, 4, 8, 16")
    assert 'if they are mels, numpy.save("mels.npy", numpy.array(mels' in fails(
        tmp_path / "objects.npy", out, model=MEL
    )


def test_settings_go_to_other_processes() -> None:
    for settings in (Settings.of("decode", model=MODEL), Settings.of("resynth", **PAIR), Settings.of("decode")):
        assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_model_that_has_changed_is_refused(tmp_path: Path, out: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.read_bytes())
    settings = Settings.of("decode", model=model)
    model.write_bytes((DATA / "encodec-int8.onnx").read_bytes())
    with pytest.raises(ValueError, match="sha256"):
        Worker(settings, out)


def test_the_sha256_of_settings_is_that_of_what_decides_the_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(MODEL.read_bytes())
    settings = Settings.of("decode", model=MODEL)
    assert Settings.of("decode", model=copy).sha256 == settings.sha256
    others = [
        Settings.of("decode", model=DATA / "encodec-int8.onnx"),
        Settings.of("decode", model=MODEL, format="flac"),
        Settings.of("decode", model=MODEL, key="codes"),
        Settings.of("decode", model=MODEL, shard_size=10),
        Settings.of("decode", model=MODEL, bandwidth=VocosONNX(MODEL).bandwidths[0]),
        Settings.of("resynth", **PAIR),
    ]
    assert len({settings.sha256, *(other.sha256 for other in others)}) == 1 + len(others)
    assert settings.differences(others[1].described()) == ["format is 'wav' here and 'flac' there"]


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"task": "train"}, "task is 'train', expected decode or resynth or encode"),
    "format": ({"format": "m4a"}, "format is 'm4a', expected wav or flac or mp3 or ogg or opus"),
    "format of encode": ({"task": "encode", "format": "wav"}, "format is 'wav', expected npz: the outputs are tokens"),
    "encoder": ({"encoder": ENCODER}, "encoder is .*tokens or mels to audio takes none"),
    "model": ({"task": "encode", "model": MODEL}, "model is .*audio to tokens takes none"),
    "shard_size": ({"shard_size": 0}, "shard_size is 0, expected 1 to 1,000,000"),
    "bandwidth": ({"bandwidth": 7}, "bandwidth is 7.0, expected one of"),
    "mels_from": ({"mels_from": "f6"}, "mels_from is 'f6', expected f5"),
    "mels of tokens": ({"mels_from": "f5"}, "this model decodes tokens"),
    "bandwidth of mels": ({"model": MEL, "bandwidth": 6}, "this is a mel model"),
    "bandwidth of encode": ({"task": "encode", "encoder": ENCODER, "bandwidth": 7}, "bandwidth is 7.0, expected"),
    "provider": ({"provider": "tpu"}, "provider 'tpu' is not in this onnxruntime"),
    "no encoder": ({"task": "resynth", "model": MODEL}, "needs its encoder"),
    "other codebooks": ({"task": "resynth", "model": MODEL, "encoder": "vocos-codec-24khz-encoder"}, "other codebooks"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_SETTINGS))
def test_settings_that_are_refused(name: str) -> None:
    given, message = BAD_SETTINGS[name]
    options = dict(given)
    with pytest.raises(ValueError, match=message):
        Settings.of(options.pop("task", "decode"), **options)


def test_the_output_is_whole(tokens: Path, out: Path) -> None:
    row = Worker(Settings.of("decode", model=MODEL), out).do(item(tokens))
    assert [path.name for path in out.iterdir()] == [row.name]
    with soundfile.SoundFile(io.BytesIO((out / row.name).read_bytes())) as file:
        assert (file.subtype, file.samplerate, file.frames) == ("PCM_16", 24_000, 9500)
