"""Tests of the command line, run in this process and in its own."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
import soundfile

import vocos_onnx.encoder as encodec_module
from tests.helpers import DATA, found
from vocos_onnx import EncodecONNX, VocosONNX, demo_tokens, load_audio
from vocos_onnx.bandwidths import DEFAULT_BANDWIDTH
from vocos_onnx.cli import main
from vocos_onnx.cli.console import warnings_as_lines
from vocos_onnx.cli.program import build_parser
from vocos_onnx.io.kinds import kind_of

MODEL = str(DATA / "encodec.onnx")
TOKENS = np.random.default_rng(0).integers(1024, size=(2, 30))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with tokens.npy, the tiny model's tokens."""
    monkeypatch.chdir(tmp_path)
    np.save("tokens.npy", TOKENS)
    return tmp_path


def run(*args: object) -> int:
    return main([str(a) for a in args])


@pytest.mark.parametrize("name", ["tokens.npy", "only.npz", "named.npz", "codes.npz"])
def test_decode(files: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    np.savez("only.npz", whatever=TOKENS)
    np.savez("named.npz", tokens=TOKENS, source="somewhere")
    np.savez("codes.npz", codes=TOKENS, source="somewhere")
    assert run("decode", name, "out.wav", "--model", MODEL) == 0
    assert capsys.readouterr().out == "wrote out.wav: 0.40 s at 24000 Hz\n"
    audio, rate = soundfile.read("out.wav")
    assert (rate, audio.shape, soundfile.info("out.wav").subtype) == (24000, (30 * 320,), "PCM_16")
    expected = VocosONNX(MODEL).decode(TOKENS).clip(-1, 1)
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1 / 32768)
    assert np.abs(audio).max() > 0.1


def test_decode_options(files: Path) -> None:
    assert run("decode", "tokens.npy", "one.wav", "--model", MODEL, "--bandwidth-id", "0", "--threads", "1",
               "--provider", "CPUExecutionProvider") == 0  # fmt: skip
    audio, _ = soundfile.read("one.wav")
    expected = VocosONNX(MODEL).decode(TOKENS, 0).clip(-1, 1)
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1 / 32768)


def test_decode_layout(files: Path) -> None:
    np.save("bkt.npy", TOKENS[None])
    assert run("decode", "bkt.npy", "a.wav", "--model", MODEL, "--layout", "bkt") == 0
    assert run("decode", "tokens.npy", "b.wav", "--model", MODEL) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_decode_features_to_flac(files: Path) -> None:
    np.save("mel.npy", np.random.default_rng(0).standard_normal((8, 20)).astype(np.float32))
    assert run("decode", "mel.npy", "out.flac", "--model", DATA / "mel.onnx") == 0
    assert soundfile.info("out.flac").frames == 19 * 16


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing.npy", "o.wav"], "no token file nothing.npy"),
        (["text.npy", "o.wav"], "cannot read text.npy: it is text, not a .npy file in spite of its name"),
        (
            ["no-frames.npy", "o.wav"],
            "no-frames.npy: the array of tokens is empty, shape (2, 0); expected at least one",
        ),
        (["no-frames.npy", "o.wav", "--bandwidth", "1.5"], "no-frames.npy: the array of tokens is empty, shape (2, 0)"),
        (["short.npz", "o.wav"], "cannot read short.npz: its "),
        (
            ["pickle.npy", "o.wav"],
            "cannot read pickle.npy: its array holds Python objects, which are never loaded",
        ),
        (
            ["many.npz", "o.wav"],
            "the arrays a (2, 30) int64, b (2, 30) int64; name one of them tokens, or choose one with --key NAME",
        ),
        (
            ["tokens", "o.wav"],
            "o.wav is the name of a file, but a folder of inputs needs a folder for its outputs: write o.wav/ if you "
            "mean a folder\n",
        ),
        (["folder.npy", "o.wav"], "the folder folder.npy holds no token files"),
        (["float.npy", "o.wav"], "tokens must be integers, not float64"),
        (["batch.npy", "o.wav"], "batch.npy holds a batch of 3, and o.wav can hold one clip"),
        (["tokens.npy", "o.xyz"], "'o.xyz' does not end in a known kind of audio file"),
        (["tokens.npy", "nowhere/o.wav"], "no folder nowhere to write o.wav to; create it first"),
        (["tokens.npy", "folder.wav"], "folder.wav is a folder; expected the name of a file"),
        (["tokens.npy", "o.wav", "--bandwidth-id", "5"], "bandwidth_id is 5, expected 0 to 1"),
        (["tokens.npy", "o.wav", "--threads", "0"], "threads is 0, expected an integer of 1 or more"),
        (["tokens.npy", "o.wav", "--provider", "X"], "provider 'X' is not in this onnxruntime, which has"),
        (["tokens.npy", "o.wav", "--layout", "tkb"], "layout is 'tkb', expected 'kbt'"),
    ],
)
def test_decode_bad_input(files: Path, capsys: pytest.CaptureFixture[str], args: Any, message: str) -> None:
    Path("text.npy").write_text("hello")
    np.savez("whole.npz", tokens=TOKENS)
    Path("short.npz").write_bytes(Path("whole.npz").read_bytes()[:100])
    np.save("pickle.npy", np.array([{}]), allow_pickle=True)
    np.savez("many.npz", a=TOKENS, b=TOKENS)
    np.save("no-frames.npy", TOKENS[:, :0])
    Path("tokens").mkdir()
    np.save("tokens/a.npy", TOKENS)
    Path("folder.npy").mkdir()
    Path("folder.wav").mkdir()
    np.save("float.npy", TOKENS.astype(float))
    np.save("batch.npy", np.stack([TOKENS] * 3, axis=1))
    before = sorted(p.name for p in files.iterdir())
    assert run("decode", *args, "--model", MODEL) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vocos-onnx: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(p.name for p in files.iterdir()) == before  # nothing written, no temporary left


def test_an_empty_file_among_others(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fails alone."""
    np.save("none.npy", TOKENS[:, :0])
    assert run("decode", "none.npy", "tokens.npy", "out/", "--model", MODEL) == 2
    assert "error: none.npy: the array of tokens is empty, shape (2, 0); expected at" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["tokens.wav"]


def test_a_bundled_model_is_not_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "pull", "vocos-codec-24khz") == 0
    assert capsys.readouterr() == ("vocos-codec-24khz is bundled: there is nothing to download\n", "")
    assert run("models", "pull", "vocos-encodec-24khz") == 2
    assert capsys.readouterr().err.endswith("expected owner/name; did you mean charactr/vocos-encodec-24khz?\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["decode", "tokens.npy", "o.wav", "--model", "no.onnx"], "no model file no.onnx; make one with"),
        (
            ["decode", "tokens.npy", "o.wav", "--model", "tokens.npy"],
            "tokens.npy is a file of tokens or features (int64, 2 x 30), not a model: decode it with: vocos-onnx",
        ),
        (["info", "no.onnx"], "no model file no.onnx"),
        (["info", "tokens.npy"], "tokens.npy is a file of tokens or features (int64, 2 x 30), not a model"),
        (["demo", "o.xyz"], "'o.xyz' does not end in a known kind of audio file"),
    ],
)
def test_bad_model(files: Path, capsys: pytest.CaptureFixture[str], args: Any, message: str) -> None:
    assert run(*args) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("args", [["decode"], ["decode", "a.npy"], ["sing"], ["decode", "a", "b", "--threads", "x"]])
def test_usage(capsys: pytest.CaptureFixture[str], args: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*args)
    assert exit_.value.code == 2
    assert "usage: vocos-onnx" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.wav").write_bytes(b"old")

    def full_disk(*args: Any, **kwargs: Any) -> Never:
        raise OSError("No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", full_disk)
    assert run("decode", "tokens.npy", "out.wav", "--model", MODEL, "--force") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert Path("out.wav").read_bytes() == b"old"
    assert sorted(p.name for p in files.iterdir()) == ["out.wav", "tokens.npy"]


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", MODEL) == 0
    out = capsys.readouterr().out
    for line in ("sample_rate: 24000", "hop_length: 320", "  bandwidths: 0.75, 1.5", "  name: tiny-encodec"):
        assert line + "\n" in out


@pytest.mark.parametrize("json_", [[], ["--json"]])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MODEL, "provider 'NoSuchProvider' is not in this onnxruntime"),
        (str(DATA / "encoder.onnx"), "--provider is for models, and this is an encoder; leave it out"),
    ],
)
def test_info_on_a_provider_that_cannot_be_used_prints_nothing(model: str, message: str, json_: list[str]) -> None:
    assert message in refused(program("info", model, "--provider", "NoSuchProvider", *json_))


def test_info_of_a_model_in_int8(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", DATA / "encodec-int8.onnx") == 0
    out = capsys.readouterr().out
    assert "precision: int8\nquality:\n  snr_db: " in out
    assert "  pesq_wb: 4." in out


def test_info_of_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    assert "  bandwidths: 1.5, 3.0, 6.0, 12.0\n" in capsys.readouterr().out


@pytest.fixture
def recording(files: Path) -> np.ndarray:
    """Writes speech.wav, half a second of stereo noise at 48 kHz; returns it mixed down to mono at 24 kHz."""
    noise = np.random.default_rng(1).normal(0, 0.1, (24_001, 2)).astype(np.float32)
    soundfile.write("speech.wav", noise, 48000, subtype="FLOAT")
    return load_audio("speech.wav", 24000)


ENCODER = str(DATA / "encoder.onnx")
PAIR = ("--model", MODEL, "--encoder", ENCODER, "--bandwidth", "1.5")


def test_encode(recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "speech.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", "3") == 0
    assert capsys.readouterr().out == "wrote out.npz: 4 x 38 tokens, 0.50 s at 3 kbps\n"
    with np.load("out.npz") as archive:
        assert (archive["tokens"].dtype, archive["samples"], archive["sample_rate"]) == (np.int16, 12_001, 24_000)
        assert np.array_equal(archive["tokens"], EncodecONNX(ENCODER).encode(recording, 24000, 3.0))


def test_encode_then_decode_is_resynth(recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "speech.wav", "tokens.npz", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    assert run("decode", "tokens.npz", "decoded.wav", "--model", MODEL) == 0
    assert run("resynth", "speech.wav", "copy.wav", *PAIR) == 0
    assert capsys.readouterr().out.endswith("wrote copy.wav: 0.50 s at 24000 Hz\n")
    assert Path("decoded.wav").read_bytes() == Path("copy.wav").read_bytes()
    audio, rate = soundfile.read("copy.wav")
    assert (rate, audio.shape) == (24000, recording.shape)  # as long as the recording, not whole frames
    expected = VocosONNX(MODEL, encoder=ENCODER)(recording, 24000, bandwidth=1.5)[:12_001].clip(-1, 1)
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1 / 32768)


def test_resynth_with_the_box_and_with_mels(recording: np.ndarray) -> None:
    assert run("resynth", "speech.wav", "bundled.flac") == 0
    assert soundfile.info("bundled.flac").frames == 12_001
    assert run("resynth", "speech.wav", "mel.wav", "--model", DATA / "mel.onnx") == 0
    info = soundfile.info("mel.wav")
    assert (info.samplerate, info.frames) == (8000, 4000)


def test_several_files_into_a_folder(recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").mkdir()
    shutil.copy("speech.wav", "b.speech.wav")
    assert run("resynth", "speech.wav", "b.speech.wav", "a", *PAIR) == 0
    assert run("encode", "speech.wav", "b.speech.wav", "a", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    captured = capsys.readouterr()
    assert captured.out.count("wrote a/") == 4
    assert captured.err == ""  # no bar without a terminal
    names = sorted(p.name for p in Path("a").iterdir())
    assert names == ["b.speech.npz", "b.speech.wav", "speech.npz", "speech.wav"]
    assert run("resynth", "speech.wav", "a", *PAIR, "-y") == 0  # one file into a folder


def test_a_bad_file_does_not_keep_the_others(recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("bad.wav").write_text("hello")
    assert run("resynth", "bad.wav", "missing.wav", "speech.wav", "out", *PAIR) == 2
    captured = capsys.readouterr()
    assert captured.out == "wrote out/speech.wav: 0.50 s at 24000 Hz\n"
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert "cannot read bad.wav as audio" in lines[0]
    assert "no audio file missing.wav" in lines[1]
    assert lines[2] == "vocos-onnx: error: 2 of 3 files failed"
    assert [p.name for p in Path("out").iterdir()] == ["speech.wav"]


@pytest.mark.parametrize("count", [1, 3])
def test_bar_on_a_terminal(
    recording: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    monkeypatch.setattr(encodec_module, "CHUNK", 32)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Path("out").mkdir()
    names = [f"{i}.wav" for i in range(count)]
    for name in names:
        shutil.copy("speech.wav", name)
    assert run("encode", *names, "out", "--encoder", ENCODER, "--bandwidth", "3") == 0
    err = capsys.readouterr().err
    assert f"{1 / count:4.0%} 1/{count} 0.wav" in err
    assert f"100% {count}/{count} {names[-1]}" in err
    assert err.endswith(" \r")  # erased
    assert "\n" not in err


@pytest.mark.parametrize("name", ["p.png", "p.svg"])
def test_plot(recording: np.ndarray, name: str) -> None:
    assert run("resynth", "speech.wav", "copy.wav", "--plot", name, *PAIR) == 0
    picture = Path(name).read_bytes()
    assert len(picture) > 10_000
    assert picture.startswith(b"\x89PNG" if name == "p.png" else b"<?xml")


def test_plot_of_names_that_are_no_formulas(recording: np.ndarray) -> None:
    for name in ("a$\\foo$.wav", os.fsdecode(b"\xff.wav")):
        shutil.copy("speech.wav", name)
        assert run("resynth", name, "copy.wav", "--plot", "p.png", "-y", *PAIR) == 0
        assert Path("p.png").stat().st_size > 10_000


def test_plot_without_matplotlib(
    recording: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("resynth", "speech.wav", "copy.wav", "--plot", "p.png", *PAIR) == 2
    assert "--plot needs matplotlib: pip install 'vocos-onnx[plot]'" in capsys.readouterr().err
    assert not Path("copy.wav").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resynth", "missing.wav", "o.wav", *PAIR], "no audio file missing.wav"),
        (["resynth", "speech.wav", "speech.wav", *PAIR], "speech.wav would be written over itself"),
        (["resynth", "speech.wav", ".", *PAIR], "speech.wav would be written over itself"),
        (["resynth", "speech.wav", "o.xyz", *PAIR], "'o.xyz' does not end in a known kind of audio file"),
        (["resynth", "speech.wav", "nowhere/o.wav", *PAIR], "no folder nowhere to write o.wav to; create it first"),
        (
            ["resynth", "speech.wav", "sub/speech.wav", "nowhere.wav", *PAIR],
            "2 files need a folder to go to, and nowhere.wav is the name of a file: was the ",
        ),
        (["resynth", "speech.wav", "sub/speech.wav", "folder", *PAIR], "speech.wav and sub/speech.wav would both be"),
        (["resynth", "speech.wav", "o.wav", *PAIR, "--bandwidth", "6"], "bandwidth is 6.0, expected one of 0.75, 1.5"),
        (["resynth", "speech.wav", "o.wav", *PAIR[:2], *PAIR[4:]], "tokens of encodec_24khz needs its encoder"),
        (["resynth", "speech.wav", "o.wav", "--encoder", ENCODER], "has other codebooks than this model"),
        (
            ["resynth", "speech.wav", "o.wav", "--model", ENCODER],
            "is an encoder, audio to tokens, and --model takes a model that decodes them: pass it as --encoder",
        ),
        (["resynth", "speech.wav", "o.wav", *PAIR, "--plot", "p.xyz"], "does not end in a kind of picture"),
        (["resynth", "speech.wav", "o.wav", *PAIR, "--plot", "nowhere/p.png"], "no folder nowhere to write p.png to"),
        (
            ["resynth", "speech.wav", "tokens.npy", "folder", *PAIR, "--plot", "p.png"],
            "--plot draws one recording, and 2",
        ),
        (
            ["encode", "speech.wav", "o.npy"],
            "'o.npy' does not end in .npz, the kind of file that tokens are written to",
        ),
        (
            ["encode", "speech.wav", "o.npz", "--bandwidth", "5"],
            "bandwidth is 5.0, expected one of 1.5, 3, 6, 12 (kbps)",
        ),
        (["encode", "speech.wav", "o.npz", "--encoder", MODEL], "is a vocoder, not an encoder: leave --encoder out"),
        (["encode", "speech.wav", "o.npz", "--threads", "0"], "threads is 0, expected an integer of 1 or more"),
        (["encode", "folder", "o.npz"], "the folder folder holds no audio files"),
        (["encode", "tokens.npy", "o.npz"], "cannot read tokens.npy as audio"),
        (
            ["decode", "more.npz", "o.wav", "--model", MODEL],
            "more.npz says that it is of 9601 samples, but 30 frames are",
        ),
        (
            ["decode", "text.npz", "o.wav", "--model", MODEL],
            "cannot read text.npz: samples is 'many'",
        ),
    ],
)
def test_bad_recordings(
    recording: np.ndarray, files: Path, capsys: pytest.CaptureFixture[str], args: Any, message: str
) -> None:
    Path("folder").mkdir()
    Path("sub").mkdir()
    shutil.copy("speech.wav", "sub/speech.wav")
    np.savez("more.npz", tokens=TOKENS, samples=30 * 320 + 1)
    np.savez("text.npz", tokens=TOKENS, samples="many")
    before = sorted(p for p in files.rglob("*"))
    assert run(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vocos-onnx: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(p for p in files.rglob("*")) == before  # nothing written, no temporary left


@pytest.mark.parametrize("args", [["encode", "--encoder", ENCODER], ["resynth", *PAIR]])
def test_what_is_wrong_with_every_file_is_said_once(
    recording: np.ndarray, capsys: pytest.CaptureFixture[str], args: Any
) -> None:
    Path("out").mkdir()
    shutil.copy("speech.wav", "other.wav")
    assert run(args[0], "speech.wav", "other.wav", "out", *args[1:], "--bandwidth", "24") == 2
    assert capsys.readouterr().err.count("bandwidth is 24.0, expected one of") == 1


def test_a_folder_that_cannot_be_written(
    recording: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    assert run("resynth", "speech.wav", "locked", *PAIR) == 2
    assert "cannot write locked/speech.wav: no permission to write to the folder locked\n" in capsys.readouterr().err
    assert run("encode", "speech.wav", "locked/o.npz") == 2
    assert "cannot write locked/o.npz: no permission to write to the folder locked\n" in capsys.readouterr().err


def test_info_of_an_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", ENCODER) == 0
    out = capsys.readouterr().out
    for line in ("codec: encodec_24khz", "input: audio", "bandwidths: 0.75, 1.5, 3.0", "  name: tiny-encoder"):
        assert line + "\n" in out
    assert out.startswith("encoder: ")


class Pipe:
    """Replaces stdin or stdout; yields bytes a few at a time."""

    def __init__(self, data: bytes = b"", sizes: tuple[int, ...] = (1 << 20,)) -> None:
        self.data, self.sizes, self.buffer = data, list(sizes), self
        self.written: list[bytes] = []

    def read1(self, size: int) -> bytes:
        count = min(size, self.sizes[0] if len(self.sizes) == 1 else self.sizes.pop(0))
        data, self.data = self.data[:count], self.data[count:]
        return data

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def flush(self) -> None:
        pass


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[bytes]]]:
    def through(data: bytes, *args: object, sizes: tuple[int, ...] = (1, 7, 100)) -> tuple[int, list[bytes]]:
        out = Pipe()
        monkeypatch.setattr(sys, "stdin", Pipe(data, sizes))
        monkeypatch.setattr(sys, "stdout", out)
        return run("stream", *args), out.written

    return through


def test_stream_of_tokens(pipe: Callable[..., tuple[int, list[bytes]]]) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(2, 100))
    data = tokens.T.astype("<i2").tobytes()
    expected = VocosONNX(MODEL).decode(tokens)
    code, written = pipe(data, "tokens", "--model", MODEL, "--bandwidth", "1.5", "--format", "f32le")
    assert code == 0
    assert len(written) > 3
    np.testing.assert_allclose(np.frombuffer(b"".join(written), "<f4"), expected, rtol=0, atol=1e-5)
    _, written = pipe(data, "tokens", "--model", MODEL, "--bandwidth", "1.5", "--lookahead", "9")
    pcm = np.frombuffer(b"".join(written), "<i2")
    np.testing.assert_allclose(pcm / 32768, expected.clip(-1, 1), rtol=0, atol=1.1 / 32768)


def test_a_stream_of_tokens_says_how_many_codebooks_it_reads(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --bandwidth the number is only assumed: 16 codebooks read as 8 would give twice the length."""
    data = demo_tokens().codes[:8, :20].T.astype("<i2").tobytes()
    assert pipe(data, "tokens")[0] == 0
    assert capsys.readouterr().err == (
        "vocos-onnx: reading 8 codebooks of vocos_onnx_24khz a frame, those of 6 kbps; for another number pass "
        "--bandwidth: 1.5 for 2, "
        "3 for 4, 12 for 16\n"
    )
    assert pipe(data, "tokens", "--bandwidth", "6")[0] == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("frames", [4, 200])
def test_a_stream_of_wider_integers(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], dtype: str, frames: int
) -> None:
    tokens = np.random.default_rng(0).integers(1, 1024, size=(2, frames))
    code, written = pipe(tokens.T.astype(dtype).tobytes(), "tokens", "--model", MODEL, "--bandwidth", "1.5")
    assert (code, written) == (2, [])
    said = f"the numbers on stdin look like {dtype.removeprefix('u')}: as 16-bit integers, which stream tokens takes, "
    assert said in capsys.readouterr().err


def test_a_stream_with_zeros_in_it(pipe: Callable[..., tuple[int, list[bytes]]]) -> None:
    """Zeros in silence or in a few frames are not mistaken for those of wider integers."""
    for tokens in (np.zeros((2, 100), int), np.stack([np.arange(3), np.zeros(3, int)])):
        code, written = pipe(tokens.T.astype("<i2").tobytes(), "tokens", "--model", MODEL, "--bandwidth", "1.5")
        assert code == 0
        assert sum(map(len, written)) == 2 * 320 * tokens.shape[1]


def test_stream_of_features_and_of_audio(pipe: Callable[..., tuple[int, list[bytes]]]) -> None:
    vocos = VocosONNX(DATA / "mel.onnx")
    audio = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    features = vocos.features(audio, 8000)
    model = ("--model", DATA / "mel.onnx", "--format", "f32le")
    code, written = pipe(features.T.astype("<f4").tobytes(), "features", *model)
    assert code == 0
    np.testing.assert_allclose(np.frombuffer(b"".join(written), "<f4"), vocos.decode(features), rtol=0, atol=1e-5)
    code, written = pipe(audio.tobytes(), "audio", *model)
    assert code == 0
    np.testing.assert_allclose(np.frombuffer(b"".join(written), "<f4"), vocos(audio, 8000), rtol=0, atol=1e-4)
    code, written = pipe(np.zeros(4800, "<i2").tobytes(), "audio", "--rate", "48000", "--bandwidth", "1.5")
    assert code == 0
    assert sum(map(len, written)) == 2 * 8 * 320


@pytest.mark.parametrize("kind", ["tokens", "features", "audio"])
def test_nothing_to_stream(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    code, written = pipe(b"", kind)
    assert (code, b"".join(written)) == (2, b"")
    assert f"standard input is empty or closed; expected raw {kind}" in capsys.readouterr().err


@pytest.mark.parametrize("end", [b"\1", b"\0\4\0\4" * 5])
def test_a_stream_plays_what_is_good_before_it_says_what_is_not(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], end: Any
) -> None:
    data = np.random.default_rng(0).integers(1024, size=(100, 2)).astype("<i2").tobytes()
    options = ("--model", MODEL, "--bandwidth", "1.5")
    code, expected = pipe(data, "tokens", *options)
    assert code == 0
    code, written = pipe(data + end, "tokens", *options, sizes=(1 << 20,))
    assert code == 2
    given, whole = (np.frombuffer(b"".join(parts), "<i2").astype(int) for parts in (written, expected))
    assert len(given) == len(whole) and np.abs(given - whole).max() <= 1  # other chunks round differently
    error = capsys.readouterr().err
    assert ("1 bytes of a frame" if len(end) == 1 else "frame 100 holds the token 1024, expected 0 to 1023") in error


@pytest.mark.parametrize("end", [b"\1", np.full(9, np.inf, "<f4").tobytes()])
def test_so_does_a_stream_of_audio_or_features(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], end: Any
) -> None:
    for kind, count in (("audio", 4000), ("features", 800)):
        data = np.random.default_rng(0).normal(-1, 1, count).astype("<f4").tobytes()
        options = (kind, "--model", DATA / "mel.onnx", "--format", "f32le")
        code, expected = pipe(data, *options)
        assert code == 0
        code, written = pipe(data + end, *options, sizes=(1 << 20,))
        assert code == 2
        found, whole = (np.frombuffer(b"".join(blocks), "<f4") for blocks in (written, expected))
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)
        assert capsys.readouterr().err.count("error") == 1


@pytest.mark.parametrize("option", [["--rate", "8000"], ["--chunk", "9"], ["--encoder", ENCODER]])
@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_options_of_stream_audio_alone(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], kind: str, option: Any
) -> None:
    assert pipe(bytes(100), kind, *option)[0] == 2
    assert f"{option[0]} is for stream audio" in capsys.readouterr().err


@pytest.mark.parametrize("wide", ["<i4", "<i8"])
def test_wide_integers_are_no_tokens(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], wide: str
) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(100, 2))
    code, written = pipe(tokens.astype(wide).tobytes(), "tokens", "--model", MODEL, "--bandwidth", "1.5")
    assert (code, b"".join(written)) == (2, b"")
    assert "tokens.T.astype(numpy.int16).tobytes()" in capsys.readouterr().err
    for right in (tokens, tokens * 0):
        assert pipe(right.astype("<i2").tobytes(), "tokens", "--model", MODEL, "--bandwidth", "1.5")[0] == 0


def test_audio_above_full_scale_is_one_line(
    recording: np.ndarray, pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    loud = (100 * recording / np.abs(recording).max() / 10).astype(np.float32)
    soundfile.write("loud.wav", loud, 24000, subtype="FLOAT")
    line = "peaks at 10.0, 20 dB above full scale: the copy will not have that level; lower it, e.g. ffmpeg -i in.wav"
    assert run("resynth", "speech.wav", "p.wav", *PAIR) == 0
    assert capsys.readouterr().err == ""
    for args in (["encode", "loud.wav", "o.npz"], ["resynth", "loud.wav", "o.wav", *PAIR]):
        assert run(*args) == 0
        assert capsys.readouterr().err.startswith(f"vocos-onnx: warning: loud.wav {line}")
    assert pipe(loud.tobytes(), "audio", "--model", DATA / "mel.onnx", "--format", "f32le")[0] == 0
    assert capsys.readouterr().err.startswith("vocos-onnx: warning: standard input peaks at ")


@pytest.mark.parametrize(
    ("data", "args", "message"),
    [
        (b"\0" * 17, ["tokens"], "stdin ended with 1 bytes of a frame of 16; expected whole frames"),
        (b"\0\4" * 16, ["tokens"], "1024"),
        (b"\0" * 4, ["tokens", "--bandwidth", "5"], "bandwidth is 5.0, expected one of 1.5, 3, 6, 12 (kbps)"),
        (b"", ["tokens", "--model", "vocos-mel-24khz-small"], "this is a mel model: it decodes features, not tokens"),
        (b"", ["features", "--model", "vocos-mel-24khz-small", "--bandwidth", "6"], "--bandwidth is given"),
        (b"", ["tokens", "--lookahead", "22"], "lookahead is 22, expected 0 to 21"),
        (b"\0\0", ["audio", "--rate", "10"], "sample_rate is 10"),
        (b"\0\0", ["audio", "--chunk", "0"], "chunk is 0"),
        (b"\0", ["audio"], "stdin ended with 1 bytes of a frame of 2"),
    ],
)
def test_bad_streams(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], data: Any, args: Any, message: str
) -> None:
    code, _ = pipe(data, *args)
    assert code == 2
    assert message in capsys.readouterr().err


def test_stream_for_real() -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(2, 50)).T.astype("<i2").tobytes()
    command = [sys.executable, "-m", "vocos_onnx.cli", "stream", "tokens", "--model", MODEL, "--bandwidth", "1.5"]
    done = subprocess.run(command, input=tokens, capture_output=True)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 50 * 320 * 2, b"")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()  # the reader has gone away
        process.stdin.write(tokens * 100)
        process.stdin.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (1, b"")


@pytest.mark.parametrize(
    ("command", "package"), [("export", "torch"), ("export-encodec", "torch"), ("quantize", "onnx")]
)
def test_export_without_its_packages(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [n for n in sys.modules if n.startswith("vocos_onnx_export")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(command, "somewhere", "-o", "m.onnx") == 2
    install = "onnx" if command == "quantize" else "'vocos-onnx[export]'"  # installs torch
    assert capsys.readouterr().err.endswith(f"error: {command} needs {package}: pip install {install}\n")


def test_started_for_real(files: Path) -> None:
    command = shutil.which("vocos-onnx", path=str(Path(sys.executable).parent))
    assert command, "vocos-onnx is not installed beside this Python"
    good = subprocess.run(
        [command, "decode", "tokens.npy", "out.wav", "--model", MODEL], capture_output=True, text=True
    )
    assert (good.returncode, good.stdout) == (0, "wrote out.wav: 0.40 s at 24000 Hz\n")
    assert good.stderr.startswith("vocos-onnx: warning: tokens.npy names no codec, and is decoded as ")
    assert good.stderr.count("\n") == 1
    bad = subprocess.run([command, "info", "nothing.onnx"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in bad.stderr


def test_no_memory(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def decode_stream(*args: Any, **kwargs: Any) -> Never:
        raise MemoryError("Unable to allocate 7.22 MiB")

    monkeypatch.setattr(VocosONNX, "decode_stream", decode_stream)
    assert run("decode", "tokens.npy", "o.wav", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert error == "vocos-onnx: error: not enough memory: Unable to allocate 7.22 MiB; nothing was written\n"


def test_ctrl_c_in_the_middle(tmp_path: Path) -> None:
    """Exit code 130, no traceback, nothing left behind."""
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000 * 60).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", noise, 24000)
    command = [sys.executable, "-m", "vocos_onnx.cli", "resynth", "long.wav", "copy.wav"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    partial: list[Path] = []
    while process.poll() is None and not partial:  # wait until it has started to write
        partial = [p for p in tmp_path.glob(".vocos-*/copy.wav") if p.stat().st_size > 100_000]
        time.sleep(0.01)
    assert partial, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["long.wav"]


# -- real processes: their input, output and messages --

PROGRAM = [sys.executable, "-m", "vocos_onnx"]
NOISE = np.random.default_rng(2).normal(0, 0.1, 12_000).astype(np.float32)


def program(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "timeout": 60} | options
    if "input" in options:
        del options["stdin"]
    done: Any = subprocess.run([*PROGRAM, *map(str, args)], capture_output=True, **options)
    return done


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """Checks that the command failed without output; returns its message."""
    assert (done.returncode, done.stdout) == (2, b""), done
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


@pytest.fixture
def folder(files: Path) -> Path:
    """A folder rec with two recordings and files that are not, and a folder tok with the tokens of two clips."""
    for name in ("rec", "rec/deeper", "tok"):
        Path(name).mkdir()
    for name in ("rec/b.wav", "rec/a.flac", "in.wav"):
        soundfile.write(name, NOISE, 24_000)
    Path("rec/notes.txt").write_text("no audio")
    Path("rec/._a.wav").write_text("what macOS keeps beside a file")
    os.mkfifo("rec/waits.wav")
    np.save("tok/one.npy", TOKENS)
    np.savez("tok/two.npz", tokens=TOKENS[:, :10])
    return files


def test_alone_it_prints_help() -> None:
    done = program()
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == program("--help").stdout
    assert b"examples:" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "decode",
        "encode",
        "resynth",
        "stream",
        "info",
        "demo",
        "report",
        "export",
        "quantize",
        "export-encodec",
        "train",
    ],
)
def test_no_command_takes_abbreviations(capsys: pytest.CaptureFixture[str], command: str) -> None:
    parser = build_parser().commands[command]
    options = [text for text in parser._option_string_actions if text.startswith("--") and text != "--help"]
    assert options
    for option in options:
        for shorter in (option[:-1], f"{option[:-1]}=1"):
            if option[:-1] in parser._option_string_actions:
                continue
            rest = {"stream": ["tokens"], "report": ["a", "--inputs", "b"], "train": ["a", "--out", "b"]}
            rest |= {name: ["a", "-o", "b"] for name in ("export", "quantize", "export-encodec")}
            known, extra = parser.parse_known_args([*rest.get(command, ["a", "b"]), shorter])
            assert shorter in extra, (option, known)


@pytest.mark.parametrize("command", ["encode", "resynth", "stream"])
def test_help_names_the_default_bandwidth(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    assert f"more sound better (default: {DEFAULT_BANDWIDTH:g})" in " ".join(capsys.readouterr().out.split())


def test_help_describes_each_argument() -> None:
    parsers = list(build_parser().commands.items())
    parsers += [(f"{name} {sub}", inner) for name, parser in parsers for sub, inner in parser.commands.items()]
    silent = [(name, action.dest) for name, parser in parsers for action in parser._actions if not action.help]
    assert silent == [("models", argparse.SUPPRESS)]  # the heading of its subcommands, each with its own help


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["decode", "a", "b", "--band", "3"], "unknown option --band; did you mean --bandwidth or --bandwidth-id?"),
        (["decode", "a", "b", "--bandwith=3"], "unknown option --bandwith; did you mean --bandwidth"),
        (["decode", "a", "b", "--plot", "p.png"], "decode has no option --plot (resynth has one)\n"),
        (["decode", "a", "b", "-o", "c"], "have one); the output is the last argument, without an option before it\n"),
        (["serve", "-o", "c"], "serve has no option -o (convert, export, quantize, export-encodec have one)\n"),
        (["demo", "--model", "m"], "error: demo has no option --model (decode, resynth, batch, stream, "),
        (["stream"], "error: the following arguments are required: {tokens,features,mels,audio}\n"),
        (["decod", "a", "b"], "did you mean decode?"),
        (
            ["encode", "a", "--bandwidth", "3", "b", "c"],
            "unexpected c; this command takes IN OUT: name all files in one",
        ),
        (["encode", "a", "b", "--threads", "abc"], "argument --threads: 'abc' is not a whole number"),
        (["encode", "a", "b", "--threads", "9" * 30], "is not a whole number of up to 18 digits"),
        (["encode", "a", "b", "--bandwidth", "nan"], "'nan' is not a bandwidth in kbps, such as 1.5 or 6"),
        (["encode", "a", "b", "--bandwidth", "-1"], "'-1' is not a bandwidth in kbps"),
        (["resynth", "a", "b", "--bandwidth", "1e999"], "'1e999' is not a bandwidth in kbps"),
        (
            ["stream", "audio", "--format", "s16"],
            "argument --format: 's16' is not one of s16le, f32le; did you mean s16le?",
        ),
        (["--force", "decode", "a", "b"], "options come after the command: vocos-onnx decode --force"),
        (["-v"], "unknown option -v before the command; did you mean --version?"),
        (["--verison"], "unknown option --verison before the command; did you mean --version?"),
        (["version"], "train; did you mean --version?"),
        (["hlep"], "train; did you mean --help?"),
        (["models", "version"], "argument ACTION: 'version' is not one of pull, rm\n"),
        (["stream", "audio", "a.raw", "b.raw"], "stream reads standard input: pass it as < a.raw"),
        (["encode", "-dash.wav", "o.npz"], "'-dash.wav' begins as an option does: a file of that name is ./-dash.wav"),
        (["report", "--inputs", "a.wav", "page.html"], "name it before --inputs, which takes all names that follow it"),
        (["decode", "a", "b", "--provider", "GPU"], "did you mean cuda?"),
        (["info", "--provider", ""], "an empty name, expected cpu, cuda"),
        (["decode", "a", "b", "--format", "exe"], "argument --format: 'exe' is not a kind of audio to write"),
        (["decode", "a", "b", "--format", "raw"], "argument --format: 'raw' is not a kind of audio to write"),
        (["decode", "a\x1b[31m\x9b\u202e", "b", "--x\x1b\n"], "unknown option --x\\x1b\\n"),
        (["\x1b[2J"], "'\\x1b[2J' is not one of decode"),
    ],
)
def test_options_that_are_refused(capsys: pytest.CaptureFixture[str], args: Any, message: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*args)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert not set(error) & set("\x1b\x9b\u202e")


def test_a_bandwidth_decodes_the_first_codebooks(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, tokens in (
        (["--bandwidth", "1.5"], TOKENS),
        (["--bandwidth", "0.75"], TOKENS[:1]),
        ([], TOKENS),
    ):
        assert run("decode", "tokens.npy", "o.wav", "-y", "--model", MODEL, *args) == 0
        audio, _ = soundfile.read("o.wav")
        np.testing.assert_allclose(audio, VocosONNX(MODEL).decode(tokens).clip(-1, 1), rtol=0, atol=1 / 32768)
    capsys.readouterr()
    np.save("one.npy", TOKENS[:1])
    np.save("three.npy", np.tile(TOKENS[:1], (3, 1)))
    np.save("mel.npy", np.zeros((8, 20), np.float32))
    np.save("swapped.npy", np.zeros((20, 8), int))
    for args, message in (
        (["one.npy", "--bandwidth", "1.5", "--model", MODEL], "one.npy has 1 codebooks, but 1.5 kbps needs 2"),
        (["one.npy", "--bandwidth", "5", "--model", MODEL], "bandwidth is 5.0, expected one of 0.75, 1.5"),
        (["one.npy", "--bandwidth", "1.5", "--bandwidth-id", "1", "--model", MODEL], "give one of the two"),
        (
            ["mel.npy", "--bandwidth", "6", "--model", str(DATA / "mel.onnx")],
            "--bandwidth is given, but this is a mel model",
        ),
        (["swapped.npy", "--bandwidth", "1.5"], "tokens of shape (20, 8) have 20 codebooks, expected 1 to 16"),
        (["three.npy"], "three.npy has 3 codebooks, and no bandwidth has as many (1.5 kbps 2, 3 kbps 4"),
    ):
        assert run("decode", args[0], "never.wav", *args[1:]) == 2
        assert message in capsys.readouterr().err
    assert not Path("never.wav").exists()


def test_a_key_chooses_the_array(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("two.npz", a=TOKENS, b=TOKENS[:, :10])
    assert run("decode", "two.npz", "o.wav", "--key", "b", "--model", MODEL) == 0
    assert soundfile.info("o.wav").frames == 10 * 320
    for args in ([], ["--key", "c"]):
        assert run("decode", "two.npz", "p.wav", "--model", MODEL, *args) == 2
        assert "--key NAME" in capsys.readouterr().err


def test_folders_as_inputs_and_new_ones_as_outputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "rec", "new/tokens", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    captured = capsys.readouterr()
    assert [line.split(":")[0] for line in captured.out.splitlines()] == [
        "wrote new/tokens/a.npz", "wrote new/tokens/b.npz"
    ]  # fmt: skip
    assert captured.err == (
        "vocos-onnx: warning: left out of the folder rec, as they are no audio files: deeper/, notes.txt, waits.wav\n"
    )
    assert run("decode", "new/tokens", "audio", "--model", MODEL, "--format", "flac") == 0
    assert run("decode", "tok/one.npy", "single/", "--model", MODEL) == 0
    assert run("resynth", "rec", "tok/../copies/", *PAIR) == 0
    made = ["audio/a.flac", "audio/b.flac", "copies/a.wav", "copies/b.wav", "single/one.wav"]
    assert [str(p) for name in ("audio", "copies", "single") for p in sorted(Path(name).iterdir())] == made
    assert soundfile.info("audio/a.flac").frames == len(NOISE)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["decode", "tok", "text", "o.wav"], "4 files need a folder to go to, and o.wav is the name of a file: was"),
        (
            ["decode", "rec", "o/"],
            "the folder rec holds no token files (files that end in .npz, .npy, .json, .safetensors); it holds a.flac",
        ),
        (["encode", "rec/deeper", "o/"], "the folder rec/deeper holds no audio files"),
        (
            ["decode", "tok/one.npy", "o"],
            "'o' has no ending that says what to write: name a file such as o.wav, a folder",
        ),
        (["decode", "tok/one.npy", "o.wav", "--format", "flac"], "'o.wav' ends in .wav, and --format is flac"),
        (["decode", "tok/one.npy", "o.raw"], "'o.raw' does not end in a known kind of audio file"),
        (["resynth", "in.wav", "o.raw"], "'o.raw' does not end in a known kind of audio file"),
        (["decode", "tok", "in.wav"], "2 files need a folder to go to, and in.wav is not a folder"),
        (["decode", "tok", "-"], "standard output (-) can hold one output, and 2 are to come"),
        (["decode", "-", "-", "o/"], "standard input (-) is given twice"),
        (["resynth", "missing.wav", "text", "o/p/q"], "2 of 2 files failed"),
        (
            ["encode", "in.wav", "o"],
            "'o' does not end in .npz, the kind of file that tokens are written to; a folder is",
        ),
        (
            ["resynth", "in.wav", "-", "--plot", "p.png"],
            "--plot reads the copy again, and standard output is not a file",
        ),
    ],
)
def test_no_folder_is_left_where_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], args: Any, message: str
) -> None:
    Path("text").write_text("hello")
    if args[0] == "decode" and "text" in args:
        args = [*args[:2], "text", "text", *args[3:]]
    before = sorted(folder.rglob("*"))
    assert run(*args, *(["--encoder", ENCODER] if args[0] == "encode" else [])) == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_pipes(folder: Path) -> None:
    assert run("encode", "in.wav", "t.npz", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    assert run("decode", "t.npz", "d.wav", "--model", MODEL) == 0
    tokens = program("encode", "-", "-", "--encoder", ENCODER, "--bandwidth", "1.5", input=Path("in.wav").read_bytes())
    assert tokens.returncode == 0
    with np.load(io.BytesIO(tokens.stdout)) as piped, np.load("t.npz") as plain:
        assert all(np.array_equal(piped[name], plain[name]) for name in plain.files)
    wav = program("decode", "-", "-", "--model", MODEL, input=tokens.stdout)
    assert wav.stdout == Path("d.wav").read_bytes()
    assert wav.stderr == b"wrote standard output: 0.50 s at 24000 Hz\n"
    flac = program("resynth", "-", "-", "--format", "flac", *PAIR, input=Path("in.wav").read_bytes())
    assert soundfile.info(io.BytesIO(flac.stdout)).format == "FLAC"
    found, expected = soundfile.read(io.BytesIO(flac.stdout))[0], soundfile.read("d.wav")[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.5 / 32768)  # the formats round differently
    assert sorted(p.name for p in folder.iterdir()) == ["d.wav", "in.wav", "rec", "t.npz", "tok", "tokens.npy"]


def test_fifos_and_names_without_an_ending(folder: Path) -> None:
    os.mkfifo("in.fifo")
    os.mkfifo("out.fifo")
    assert run("decode", "tok/one.npy", "plain.wav", "--model", MODEL) == 0
    script = 'cat tok/one.npy > in.fifo & cat out.fifo > got & exec "$@"'
    command = [
        "bash",
        "-c",
        script,
        "bash",
        *PROGRAM,
        "decode",
        "in.fifo",
        "out.fifo",
        "--format",
        "wav",
        "--model",
        MODEL,
    ]
    assert subprocess.run(command, timeout=60, stdout=subprocess.DEVNULL).returncode == 0
    while Path("got").stat().st_size < Path("plain.wav").stat().st_size:
        time.sleep(0.01)
    assert Path("got").read_bytes() == Path("plain.wav").read_bytes()
    assert run("decode", "tok/one.npy", "noending", "--format", ".WAV", "--model", MODEL) == 0
    assert Path("noending").read_bytes() == Path("plain.wav").read_bytes()
    assert "'out.fifo' does not end" in refused(program("decode", "tok/one.npy", "out.fifo", "--model", MODEL))


def test_what_is_on_standard_input_is_named_in_messages(files: Path) -> None:
    assert "cannot read standard input as audio" in refused(program("resynth", "-", "o.wav", input=b"hello" * 100))
    assert "cannot read standard input" in refused(program("decode", "-", "o.wav", input=b"\x93NUMPY" * 100))
    assert "standard input is empty or closed" in refused(program("decode", "-", "o.wav"))
    assert [p.name for p in files.iterdir()] == ["tokens.npy"]


@pytest.mark.parametrize("command", [["decode", "tokens.npy", "-"], ["stream", "tokens"], ["resynth", "-", "o.wav"]])
def test_numbers_neither_come_from_a_terminal_nor_go_to_one(files: Path, command: Any) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run([*PROGRAM, *command], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"is a terminal" in done.stderr


def test_the_bar_is_wiped_before_a_message(files: Path) -> None:
    """Each line starts at the left margin of a terminal, where text after a return overwrites what was there."""
    ours, theirs = pty.openpty()
    tokens = np.random.default_rng(0).integers(1024, size=(2, 200))
    for name, high in (("a.npy", 0), ("b.npy", 5000), ("c.npy", 0)):
        np.save(name, tokens + high)
    command = [*PROGRAM, "decode", "a.npy", "b.npy", "c.npy", "out", "--model", MODEL]
    assert subprocess.run(command, stdout=theirs, stderr=theirs, timeout=60).returncode == 2
    os.set_blocking(ours, False)
    lines = os.read(ours, 1 << 16).decode().replace("\r\n", "\n").splitlines(keepends=True)
    os.close(ours)
    os.close(theirs)
    text = "".join(lines)
    assert "1/3 a.npy" in text and "3/3 c.npy" in text
    assert text.count("\n") == 5  # a warning, two outputs, two errors
    for line in text.split("\n"):
        assert re.fullmatch(r"(.*\r)?(vocos-onnx: |wrote ).*|.*\r|", line, re.S), line


def test_decode_has_a_bar(files: Path) -> None:
    ours, theirs = pty.openpty()
    np.save("long.npy", np.random.default_rng(0).integers(1024, size=(2, 5000)))
    done = subprocess.run([*PROGRAM, "decode", "long.npy", "o.wav", "--model", MODEL], stdout=subprocess.PIPE,
                          stderr=theirs, timeout=60)  # fmt: skip
    said = os.read(ours, 1 << 16)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0
    assert b"100% 1/1 long.npy" in said
    assert len(re.findall(rb"\r\[#+\.*\]", said)) >= 3


def _file(kind: str) -> bytes:
    """Returns the first bytes of a file of a kind, as other programs write it."""
    frame = {"mp3": b"\xff\xfb\x90\x44" + bytes(413), "adts": b"\xff\xf1\x50\x80\x17\x7f\xfc" + bytes(180)}
    sounds = {"wav": "WAV", "rf64": "RF64", "aiff": "AIFF", "flac": "FLAC", "ogg": "OGG", "caf": "CAF", "au": "AU",
              "w64": "W64", "voc": "VOC", "mp3 of libsndfile": "MP3", "nist": "NIST"}  # fmt: skip
    if kind in frame:
        return frame[kind] * 8
    if kind in sounds:
        buffer = io.BytesIO()
        soundfile.write(buffer, NOISE, 24_000, format=sounds[kind])
        return buffer.getvalue()
    return {
        "mp4": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0\0\0\0\0moov",
        "webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm",
        "wma": b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel" + bytes(100),
        "id3": b"ID3\x04\0\0\0\0\x02\x01" + bytes(300),
        "rifx": b"RIFX\0\0\x10\0WAVEfmt " + bytes(100),
        "wavpack": b"wvpk\x10\x10\0\0\x10\x04" + bytes(100),
        "midi": b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk" + bytes(100),
        "zip": b"PK\3\4\x14\0\0\0\0\0" + bytes(100),
        "gzip": gzip.compress(NOISE.tobytes()[:1000]),
        "npy": b"\x93NUMPY\1\0v\0{'descr': '<i8'" + bytes(100),
        "json": b"[[123, 45, 6, 789, 1011], [12, 345, 67, 8, 901], [23, 4, 567, 89, 10]]\n",
        "text": b"12 345 678 901 234 56 789\n" * 20,
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["wav", "rf64", "aiff", "flac", "ogg", "caf", "au", "w64", "voc", "nist", "mp3 of libsndfile", "mp3", "adts", "mp4",
     "webm", "wma", "id3", "rifx", "wavpack", "midi", "zip", "gzip", "npy", "json", "text"],
)  # fmt: skip
def test_files_are_not_taken_for_raw_numbers(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    data = _file(kind)
    for what, model in (("audio", "mel"), ("features", "mel"), ("tokens", "encodec")):
        args = (what, "--model", DATA / f"{model}.onnx", *(("--bandwidth", "1.5") if what == "tokens" else ()))
        for sizes in ((1 << 16,), (3,)):
            code, written = pipe(data, *args, sizes=sizes)
            assert (code, written) == (2, [])
            error = capsys.readouterr().err
            assert f"and stream {what} takes raw " in error
            assert error.count("\n") == 1
            assert "vocos-onnx " in error.split(": error: ")[1]  # the remedy


def test_audio_is_not_taken_for_a_file() -> None:
    rng = np.random.default_rng(0)
    slow = np.sin(np.arange(4096) / 700)
    for _ in range(300):
        for samples in (
            rng.integers(-32768, 32768, 4096),
            rng.normal(0, 10 ** rng.uniform(0, 4), 4096).clip(-32768, 32767),
            slow * rng.uniform(0, 32767) * rng.choice([1, -1]),
            np.full(4096, rng.integers(-32768, 32768)),
            rng.choice(rng.integers(-32768, 32768, 2), 4096),
            np.zeros(4096),
        ):
            assert kind_of(samples.astype("<i2").tobytes(), False) == (None, False)
        floats = [rng.normal(0, 0.1, 4096), slow * rng.uniform(0, 1), rng.normal(-5, 3, 4096)]
        assert all(kind_of(each.astype("<f4").tobytes(), False) == (None, False) for each in floats)
    for level in range(-32768, 32768):  # constant samples
        assert kind_of(np.full(40, level, "<i2").tobytes(), False) == (None, False)


def test_the_first_samples_are_not_waited_for(files: Path) -> None:
    """A stream answers the first chunk before more arrives."""
    command = [*PROGRAM, "stream", "audio", "--model", str(DATA / "mel.onnx")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(np.zeros(4000, "<i2").tobytes())
        process.stdin.flush()
        assert len(process.stdout.read(2000)) == 2000
        process.stdin.close()
        process.stdout.read()
    assert process.returncode == 0


def test_numbers_that_are_none_on_a_stream(
    pipe: Callable[..., tuple[int, list[bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    mel = DATA / "mel.onnx"
    nan = np.full((100, 8), np.nan, "<f4").tobytes()
    assert pipe(nan, "features", "--model", mel)[0] == 2
    assert "frame 0 holds NaN or infinite values" in capsys.readouterr().err
    assert pipe(nan, "audio", "--model", mel, "--format", "f32le")[0] == 2
    assert "audio holds NaN or infinity, first at sample 0" in capsys.readouterr().err
    assert pipe(b"", "audio", "--chunk", str(10**12))[0] == 2
    assert "--chunk is 1000000000000, expected 1 to 100000 frames" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["info", MODEL, "--json"], ["decode", "--help"]])
def test_standard_output_that_cannot_be_written_is_an_error(given: Any) -> None:
    for redirection, code in ((">/dev/full", 2), ("<&- >&- 2>&-", 2)):
        command = ["bash", "-c", f'exec "$@" {redirection}', "bash", *PROGRAM, *given]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (code, b"")
        assert done.stderr.count(b"\n") == ("2>&-" not in redirection)
        assert b"error: standard output cannot be written" in done.stderr or "2>&-" in redirection
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*PROGRAM, *given], stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("redirection", ["2>/dev/full >/dev/full", "<&- >&- 2>&-"])
def test_work_is_done_whatever_the_standard_streams_are(folder: Path, redirection: str) -> None:
    encode = ["encode", "rec", "t", "--encoder", ENCODER, "--bandwidth", "1.5"]
    for args, made in (
        (["resynth", "rec", "out", *PAIR], ["out/a.wav", "out/b.wav"]),
        (encode, ["t/a.npz", "t/b.npz"]),
        (["decode", "tok", "d", "--model", MODEL], ["d/one.wav", "d/two.wav"]),
    ):
        command = ["bash", "-c", f'exec "$@" {redirection}', "bash", *PROGRAM, *args]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.returncode == 0, done
        assert [str(p) for p in sorted(Path(args[2]).iterdir())] == made
        assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_the_reader_of_messages_may_go(folder: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*PROGRAM, "resynth", "rec", "out", *PAIR], stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)
    assert done.returncode == 0
    assert len(list(Path("out").iterdir())) == 2


ODD = os.fsdecode(b"b\xff\x1b[31m\xc2\x9b\xe2\x80\xae.wav")
SHOWN = "b\\xff\\x1b[31m\\x9b\\u202e.wav"


@pytest.mark.parametrize("encoding", ["utf-8:strict", "cp1252:strict"])
def test_names_that_would_control_the_terminal(folder: Path, encoding: str) -> None:
    shutil.copy("in.wav", Path("rec") / ODD)
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    for name in ("\u65e5\u672c \u3000.wav", "a\nb.wav"):
        shutil.copy("in.wav", Path("rec") / name)
    done = program("resynth", "rec", "out", *PAIR, env=env)
    assert done.returncode == 0, done
    assert done.stdout.count(b"\n") == 5
    assert f"wrote out/{SHOWN}: ".encode() in done.stdout
    assert b"wrote out/a\\nb.wav: " in done.stdout
    if encoding == "utf-8:strict":
        assert "wrote out/\u65e5\u672c \u3000.wav: ".encode() in done.stdout
    bad = program("resynth", "rec", "out", *PAIR, env=env)  # the outputs exist now
    for text in (done.stdout, done.stderr, bad.stderr):
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae", text)
    for args in (["info", ODD], ["decode", "tokens.npy", f"{ODD}/o.wav"]):
        assert "b\\xff" in refused(program(*args, env=env)), args


def test_the_bar_and_warnings_are_printable(folder: Path) -> None:
    ours, theirs = pty.openpty()
    for name in (ODD, "x" + ODD):
        shutil.copy("in.wav", name)
    command = [*PROGRAM, "resynth", ODD, "x" + ODD, "out", *PAIR]
    assert subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60).returncode == 0
    said = os.read(ours, 1 << 16)
    os.close(ours)
    os.close(theirs)
    assert SHOWN.encode() in said
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae", said)


def test_a_warning_is_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    warnings.simplefilter("always")
    with warnings_as_lines():
        warnings.warn("it sounds\nlike \x1b[31mnoise", stacklevel=1)
        logging.getLogger("vocos_onnx").warning("%s is written in place", "\x1b.wav")
    assert capsys.readouterr().err == (
        "vocos-onnx: warning: it sounds like \\x1b[31mnoise\nvocos-onnx: warning: \\x1b.wav is written in place\n"
    )


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for model, kind in ((MODEL, "model"), (ENCODER, "encoder"), (str(DATA / "mel.onnx"), "model")):
        assert run("info", model, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert run("info", model) == 0
        text = capsys.readouterr().out
        assert (facts["kind"], facts["path"], facts["bytes"]) == (kind, model, Path(model).stat().st_size)
        for line in text.splitlines()[1:]:
            name, _, value = line.partition(": ")
            assert value not in ("None", "") or line.endswith(":")
            if name == "codebooks_sha256" and kind == "encoder":
                assert value == f"{facts[name][-1]} (the last of {len(facts[name])})"
            elif not line.startswith(" ") and value:
                found = facts[name]
                assert value == (", ".join(map(str, found)) if isinstance(found, list) else str(found))
    assert run("info", MODEL, "--json", "--provider", "cpu") == 0
    assert json.loads(capsys.readouterr().out)["placement"]["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["info", "in.wav"],
            "in.wav is a RIFF file, such as .wav, not a model: make tokens of it with: vocos-onnx encode",
        ),
        (["info", "tok/two.npz"], "tok/two.npz is a file of tokens or features (int64, 2 x 10), not a model"),
        (["info", "vocos-codec-24k"], "no bundled model of that name; did you mean vocos-codec-24khz?"),
        (["decode", "tokens.npy", "o.wav", "--model", ENCODER], "encoder.onnx is an encoder, audio to tokens"),
        (
            ["encode", "in.wav", "o.npz", "--encoder", MODEL],
            "encodec.onnx is a vocoder, not an encoder: leave --encoder out",
        ),
        (["encode", "in.wav", "o.npz", "--encoder", "in.wav"], "in.wav is a RIFF file, such as .wav, not an encoder"),
        (
            ["resynth", "in.wav", "o.wav", "--model", MODEL],
            "needs its encoder: pass --encoder facebook/encodec_24khz, which is downloaded, or make it with ",
        ),
        (
            ["resynth", "in.wav", "o.wav", "--model", DATA / "mel.onnx", "--encoder", ENCODER],
            "encoder is given, but this is a mel model",
        ),
    ],
)
def test_what_is_given_in_place_of_a_model(
    folder: Path, capsys: pytest.CaptureFixture[str], args: Any, message: str
) -> None:
    assert run(*args) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob("o.*"))


def test_a_new_folder_goes_with_a_signal(folder: Path) -> None:
    soundfile.write("long.wav", np.tile(NOISE, 100), 24_000)
    process = subprocess.Popen([*PROGRAM, "resynth", "long.wav", "in.wav", "new/one"], stdout=subprocess.PIPE)
    while process.poll() is None and not list(Path("new/one").glob(".vocos-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not Path("new").exists()


def test_advice_names_the_whole_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a b").mkdir()
    soundfile.write("a b/w.wav", NOISE, 24_000)
    shutil.copy("a b/w.wav", "wav_as.npz")
    shutil.copy("a b/w.wav", "a b/-w.npy")
    for name, output in (("a b/w.wav", "a b/w.npz"), ("wav_as.npz", "wav_as_tokens.npz"), ("a b/-w.npy", "a b/-w.npz")):
        assert run("decode", name, "o.wav") == 2
        line = found("vocos-onnx (encode .*) makes tokens", capsys.readouterr().err)[1]
        assert run(*shlex.split(line)) == 0
        assert Path(output).is_file()
        Path(output).unlink()
    np.save("a b/frames.npy", np.tile(TOKENS, 10).T)
    assert run("decode", "a b/frames.npy", "o.wav") == 2
    exec(found(r"numpy.save.*T\)", capsys.readouterr().err)[0], {"numpy": np})
    assert run("decode", "a b/frames_transposed.npy", "o.wav", "--model", MODEL) == 0


def test_advice_for_standard_input(files: Path) -> None:
    raw = np.random.default_rng(0).integers(-3000, 3000, 24_000).astype("<i2").tobytes()
    said = refused(program("resynth", "-", "o.wav", input=raw))
    assert "ffmpeg -f s16le -ar 24000 -ac 1 -i - -f wav - | vocos-onnx resynth - o.wav" in said
    said = refused(program("encode", "-", "-", input=raw))
    assert "ffmpeg -f s16le -ar 24000 -ac 1 -i - -f wav - | vocos-onnx encode - -" in said
    assert "numpy.loadtxt(sys.stdin, " in refused(program("decode", "-", "o.wav", input=b"1 2 3\n" * 40))


def test_the_line_that_streams_a_file_works(files: Path) -> None:
    np.savez("a b.npz", tokens=TOKENS)
    np.save("a b.npy", TOKENS)
    options = ["--model", MODEL, "--bandwidth", "1.5"]
    line = shlex.join([*PROGRAM, "stream", "tokens", *options])
    expected = program("stream", "tokens", *options, input=TOKENS.T.astype("<i2").tobytes()).stdout
    for name in ("a b.npz", "a b.npy"):
        done = subprocess.run(["bash", "-c", f"{line} < '{name}'"], capture_output=True, text=True)
        shown = found("python (-c .*) [|] vocos-onnx (.*)", done.stderr)
        command = f"{sys.executable} {shown[1]} | {shlex.join(PROGRAM)} {shown[2]}"
        assert subprocess.run(["bash", "-c", command], capture_output=True).stdout == expected


@pytest.mark.parametrize("layout", ["kbt", "bkt"])
def test_the_line_that_takes_a_batch_apart_works(files: Path, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    np.save("b.npy", np.stack([TOKENS, TOKENS[::-1]], 1 if layout == "kbt" else 0))
    assert run("decode", "b.npy", "o.wav", "--model", MODEL, "--layout", layout) == 2
    error = capsys.readouterr().err
    line = found("python (-c .*)", error)[1]
    assert subprocess.run(["bash", "-c", f"{sys.executable} {line}"]).returncode == 0
    assert np.array_equal(np.load("item1.npy"), TOKENS[::-1])
    assert run("decode", "item0.npy", "o.wav", "--model", MODEL) == 0


def test_a_batch_whose_axes_are_not_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The order that fits the model is taken for the command; if both fit, the user has to say which."""
    np.save("three.npy", np.zeros((3, 2, 30), int))
    assert run("decode", "three.npy", "o.wav", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert "three.npy holds a batch of 3, and o.wav can hold one clip" in error and "swapaxes" not in error
    np.save("both.npy", np.zeros((4, 2, 30), int))
    assert run("decode", "both.npy", "o.wav", "--model", "vocos-codec-24khz") == 2
    error = capsys.readouterr().err
    assert "both.npy holds a batch of 4 or of 2, by its shape (4, 2, 30): pass --layout bkt if its axes are" in error


def test_a_vocoder_for_encode(recording: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "speech.wav", "o.npz", "--encoder", "vocos-codec-24khz") == 2
    error = capsys.readouterr().err
    assert "is a vocoder, not an encoder: leave --encoder out for the bundled one" in error
    assert "vocos-onnx convert facebook/encodec_24khz -o encodec_24khz.onnx" in error  # needs no torch
    assert "--model" not in error


def test_demo_into_a_folder(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "made/", "--threads", "0") == 2
    assert not Path("made").exists()
    assert run("demo", "made/") == 0
    assert run("demo", "made", "--format", "flac") == 0
    assert sorted(path.name for path in Path("made").iterdir()) == ["demo.flac", "demo.wav"]
    assert run("demo", "made") == 2
    assert "made/demo.wav exists" in capsys.readouterr().err


def test_every_kind_of_token_file_of_a_folder(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed").mkdir()
    Path("mixed/a.json").write_text(json.dumps(TOKENS.tolist()))
    Path("mixed/config.json").write_text(json.dumps({"name": "value"}))
    np.save("mixed/b.npy", TOKENS)
    assert run("decode", "mixed", "out", "--model", MODEL) == 2
    captured = capsys.readouterr()
    assert captured.out.count("wrote ") == 2
    assert "mixed/config.json" in captured.err
    assert Path("out/a.wav").read_bytes() == Path("out/b.wav").read_bytes()


def test_an_ending_in_capitals(recording: np.ndarray) -> None:
    assert run("encode", "speech.wav", "O.NPZ") == 0
    assert run("decode", "O.NPZ", "o.WAV") == 0


@pytest.mark.parametrize("options", [[], ["--bandwidth", "6"]])
def test_the_remedy_for_another_number_of_codebooks_works(
    files: Path, capsys: pytest.CaptureFixture[str], options: Any
) -> None:
    for count in (1, 2, 5, 15):
        np.save("k.npy", np.tile(TOKENS, (8, 1))[:count])
        command = ["decode", "k.npy", "o.wav", "-y"]
        if run(*command, *options) == 0:
            continue
        error = capsys.readouterr().err
        shown = re.search(r"pass (--bandwidth(?:-id)?) ([0-9.]+) to decode", error)
        assert shown or "leave --bandwidth out" in error
        assert run(*command, *(shown.groups() if shown else ())) == 0


def test_errors_speak_of_options(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("o.wav").touch()
    for options in ([], ["--threads", "0", "-y"], ["--bandwidth", "1.5", "--bandwidth-id", "1"]):
        assert run("decode", "tokens.npy", "o.wav", "--model", MODEL, *options) == 2
    error = capsys.readouterr().err
    assert "True" not in error
    assert "None" not in error
    assert "--bandwidth 1.5 decodes the first codebooks, those of 1.5 kbps, and --bandwidth-id 1 decodes all" in error
    assert run("decode", "tokens.npy", "o.wav", "--model", MODEL, "-y", "--provider", "CPU") == 0
