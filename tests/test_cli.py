"""The command line, run in this process but for one real start of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import DATA

import vocos_onnx.encodec as encodec_module
from vocos_onnx import EncodecONNX, VocosONNX, load_audio
from vocos_onnx.cli import main

MODEL = str(DATA / "encodec.onnx")
TOKENS = np.random.default_rng(0).integers(1024, size=(2, 30))


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder with tokens.npy, the tiny model's tokens."""
    monkeypatch.chdir(tmp_path)
    np.save("tokens.npy", TOKENS)
    return tmp_path


def run(*args: str) -> int:
    return main([str(a) for a in args])


@pytest.mark.parametrize("name", ["tokens.npy", "only.npz", "named.npz", "codes.npz"])
def test_decode(files, capsys, name):
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


def test_decode_options(files):
    assert run("decode", "tokens.npy", "one.wav", "--model", MODEL, "--bandwidth-id", "0", "--threads", "1",
               "--provider", "CPUExecutionProvider") == 0  # fmt: skip
    audio, _ = soundfile.read("one.wav")
    expected = VocosONNX(MODEL).decode(TOKENS, 0).clip(-1, 1)
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1 / 32768)


def test_decode_layout(files):
    np.save("bkt.npy", TOKENS[None])
    assert run("decode", "bkt.npy", "a.wav", "--model", MODEL, "--layout", "bkt") == 0
    assert run("decode", "tokens.npy", "b.wav", "--model", MODEL) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_decode_features_to_flac(files):
    np.save("mel.npy", np.random.default_rng(0).standard_normal((8, 20)).astype(np.float32))
    assert run("decode", "mel.npy", "out.flac", "--model", DATA / "mel.onnx") == 0
    assert soundfile.info("out.flac").frames == 19 * 16


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing.npy", "o.wav"], "no token file nothing.npy"),
        (["text.npy", "o.wav"], "cannot read text.npy as .npy or .npz"),
        (["short.npz", "o.wav"], "cannot read short.npz as .npy or .npz"),
        (
            ["pickle.npy", "o.wav"],
            "cannot read pickle.npy as .npy or .npz: its array holds Python objects, which are never loaded",
        ),
        (
            ["many.npz", "o.wav"],
            "the arrays a (2, 30) int64, b (2, 30) int64; name one of them tokens, or choose one with --key NAME",
        ),
        (["folder.npy", "o.wav"], "cannot read folder.npy"),
        (["float.npy", "o.wav"], "tokens must be integers, not float64"),
        (["batch.npy", "o.wav"], "batch.npy holds a batch of 3, and o.wav can hold one clip"),
        (["tokens.npy", "o.xyz"], "'o.xyz' does not end in a known kind of audio file; try .wav or .flac"),
        (["tokens.npy", "nowhere/o.wav"], "no folder nowhere to write o.wav to; create it first"),
        (["tokens.npy", "folder.wav"], "folder.wav is a folder; expected the name of a file"),
        (["tokens.npy", "o.wav", "--bandwidth-id", "5"], "bandwidth_id is 5, expected 0 to 1"),
        (["tokens.npy", "o.wav", "--threads", "0"], "threads is 0, expected an integer of 1 or more"),
        (["tokens.npy", "o.wav", "--provider", "X"], "provider 'X' is not in this onnxruntime, which has"),
        (["tokens.npy", "o.wav", "--layout", "tkb"], "layout is 'tkb', expected 'kbt'"),
    ],
)
def test_decode_bad_input(files, capsys, args, message):
    Path("text.npy").write_text("hello")
    np.savez("whole.npz", tokens=TOKENS)
    Path("short.npz").write_bytes(Path("whole.npz").read_bytes()[:100])
    np.save("pickle.npy", np.array([{}]), allow_pickle=True)
    np.savez("many.npz", a=TOKENS, b=TOKENS)
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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["decode", "tokens.npy", "o.wav", "--model", "no.onnx"], "no model file no.onnx; make one with"),
        (
            ["decode", "tokens.npy", "o.wav", "--model", "tokens.npy"],
            "tokens.npy (608 bytes) is truncated, damaged or not an ONNX model",
        ),
        (["info", "no.onnx"], "no model file no.onnx"),
        (["info", "tokens.npy"], "tokens.npy (608 bytes) is truncated, damaged or not an ONNX model"),
        (["demo", "o.xyz"], "'o.xyz' does not end in a known kind of audio file"),
    ],
)
def test_bad_model(files, capsys, args, message):
    assert run(*args) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [[], ["decode"], ["decode", "a.npy"], ["sing"], ["decode", "a", "b", "--threads", "x"]]
)
def test_usage(capsys, args):
    with pytest.raises(SystemExit) as exit_:
        run(*args)
    assert exit_.value.code == 2
    assert "usage: vocos-onnx" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(files, monkeypatch, capsys):
    Path("out.wav").write_bytes(b"old")

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", full_disk)
    assert run("decode", "tokens.npy", "out.wav", "--model", MODEL, "--force") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert Path("out.wav").read_bytes() == b"old"
    assert sorted(p.name for p in files.iterdir()) == ["out.wav", "tokens.npy"]


def test_info(capsys):
    assert run("info", MODEL) == 0
    out = capsys.readouterr().out
    for line in ("sample_rate: 24000", "hop_length: 320", "  bandwidths: 0.75, 1.5", "  name: tiny-encodec"):
        assert line + "\n" in out


def test_info_of_a_model_in_int8(capsys):
    assert run("info", DATA / "encodec-int8.onnx") == 0
    out = capsys.readouterr().out
    assert "precision: int8\nquality:\n  snr_db: " in out
    assert "  pesq_wb: 4." in out


def test_info_of_the_model_in_the_box(capsys):
    assert run("info") == 0
    assert "  bandwidths: 1.5, 3.0, 6.0, 12.0\n" in capsys.readouterr().out


@pytest.fixture
def recording(files: Path) -> np.ndarray:
    """speech.wav, half a second of noise in two channels at 48 kHz; what it is mixed down to, at 24 kHz."""
    noise = np.random.default_rng(1).normal(0, 0.1, (24_001, 2)).astype(np.float32)
    soundfile.write("speech.wav", noise, 48000, subtype="FLOAT")
    return load_audio("speech.wav", 24000)


ENCODER = str(DATA / "encoder.onnx")
PAIR = ("--model", MODEL, "--encoder", ENCODER, "--bandwidth", "1.5")


def test_encode(recording, capsys):
    assert run("encode", "speech.wav", "out.npz", "--encoder", ENCODER, "--bandwidth", "3") == 0
    assert capsys.readouterr().out == "wrote out.npz: 4 x 38 tokens, 0.50 s at 3 kbps\n"
    with np.load("out.npz") as archive:
        assert (archive["tokens"].dtype, archive["samples"], archive["sample_rate"]) == (np.int16, 12_001, 24_000)
        assert np.array_equal(archive["tokens"], EncodecONNX(ENCODER).encode(recording, 24000, 3.0))


def test_encode_then_decode_is_resynth(recording, capsys):
    assert run("encode", "speech.wav", "tokens.npz", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    assert run("decode", "tokens.npz", "decoded.wav", "--model", MODEL) == 0
    assert run("resynth", "speech.wav", "copy.wav", *PAIR) == 0
    assert capsys.readouterr().out.endswith("wrote copy.wav: 0.50 s at 24000 Hz\n")
    assert Path("decoded.wav").read_bytes() == Path("copy.wav").read_bytes()
    audio, rate = soundfile.read("copy.wav")
    assert (rate, audio.shape) == (24000, recording.shape)  # as long as the recording, not whole frames
    expected = VocosONNX(MODEL, encoder=ENCODER)(recording, 24000, bandwidth=1.5)[:12_001].clip(-1, 1)
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1 / 32768)


def test_resynth_with_the_box_and_with_mels(recording):
    assert run("resynth", "speech.wav", "box.flac") == 0
    assert soundfile.info("box.flac").frames == 12_001
    assert run("resynth", "speech.wav", "mel.wav", "--model", DATA / "mel.onnx") == 0
    info = soundfile.info("mel.wav")
    assert (info.samplerate, info.frames) == (8000, 4000)


def test_several_files_into_a_folder(recording, capsys):
    Path("a").mkdir()
    shutil.copy("speech.wav", "b.speech.wav")
    assert run("resynth", "speech.wav", "b.speech.wav", "a", *PAIR) == 0
    assert run("encode", "speech.wav", "b.speech.wav", "a", "--encoder", ENCODER, "--bandwidth", "1.5") == 0
    captured = capsys.readouterr()
    assert captured.out.count("wrote a/") == 4
    assert captured.err == ""  # no bar where there is no terminal
    names = sorted(p.name for p in Path("a").iterdir())
    assert names == ["b.speech.npz", "b.speech.wav", "speech.npz", "speech.wav"]
    assert run("resynth", "speech.wav", "a", *PAIR, "-y") == 0  # one file into a folder


def test_a_bad_file_does_not_keep_the_others(recording, capsys):
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
def test_bar_on_a_terminal(recording, monkeypatch, capsys, count):
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
    assert err.endswith(" \r")  # wiped
    assert "\n" not in err


@pytest.mark.parametrize("name", ["p.png", "p.svg"])
def test_plot(recording, name):
    assert run("resynth", "speech.wav", "copy.wav", "--plot", name, *PAIR) == 0
    picture = Path(name).read_bytes()
    assert len(picture) > 10_000
    assert picture.startswith(b"\x89PNG" if name == "p.png" else b"<?xml")


def test_plot_without_matplotlib(recording, monkeypatch, capsys):
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
            ["resynth", "speech.wav", "speech.wav", "nowhere", *PAIR],
            "2 files need a folder to go to, and nowhere is none",
        ),
        (["resynth", "speech.wav", "sub/speech.wav", "folder", *PAIR], "speech.wav and sub/speech.wav would both be"),
        (["resynth", "speech.wav", "o.wav", *PAIR, "--bandwidth", "6"], "bandwidth is 6.0, expected one of 0.75, 1.5"),
        (["resynth", "speech.wav", "o.wav", *PAIR[:2], *PAIR[4:]], "tokens of encodec_24khz needs its encoder"),
        (["resynth", "speech.wav", "o.wav", "--encoder", ENCODER], "has other codebooks than this model"),
        (
            ["resynth", "speech.wav", "o.wav", "--model", ENCODER],
            "is an encoder, audio to tokens: open it with Encodec",
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
        (["encode", "speech.wav", "o.npz", "--encoder", MODEL], "is a vocoder, not an encoder: open it with VocosONNX"),
        (["encode", "speech.wav", "o.npz", "--threads", "0"], "threads is 0, expected an integer of 1 or more"),
        (["encode", "folder", "o.npz"], "folder is not a file; expected audio such as .wav"),
        (["encode", "tokens.npy", "o.npz"], "cannot read tokens.npy as audio"),
        (
            ["decode", "more.npz", "o.wav", "--model", MODEL],
            "more.npz says that it is of 9601 samples, but 30 frames are",
        ),
        (["decode", "text.npz", "o.wav", "--model", MODEL], "cannot read text.npz as .npy or .npz"),
    ],
)
def test_bad_recordings(recording, files, capsys, args, message):
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
def test_what_is_wrong_with_every_file_is_said_once(recording, capsys, args):
    Path("out").mkdir()
    shutil.copy("speech.wav", "other.wav")
    assert run(args[0], "speech.wav", "other.wav", "out", *args[1:], "--bandwidth", "24") == 2
    assert capsys.readouterr().err.count("bandwidth is 24.0, expected one of") == 1


def test_a_folder_that_cannot_be_written(recording, monkeypatch, capsys):
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    assert run("resynth", "speech.wav", "locked", *PAIR) == 2
    assert "the folder locked cannot be written, and speech.wav is to go there" in capsys.readouterr().err
    assert run("encode", "speech.wav", "locked/o.npz") == 2
    assert "the folder locked cannot be written, and o.npz is to go there" in capsys.readouterr().err


def test_info_of_an_encoder(capsys):
    assert run("info", ENCODER) == 0
    out = capsys.readouterr().out
    for line in ("codec: encodec_24khz", "input: audio", "bandwidths: 0.75, 1.5, 3.0", "  name: tiny-encoder"):
        assert line + "\n" in out
    assert out.startswith("encoder: ")


class Pipe:
    """In place of stdin or stdout: bytes, a few at a time."""

    def __init__(self, data: bytes = b"", sizes: tuple[int, ...] = (1 << 20,)):
        self.data, self.sizes, self.written, self.buffer = data, list(sizes), [], self

    def read1(self, size: int) -> bytes:
        count = min(size, self.sizes[0] if len(self.sizes) == 1 else self.sizes.pop(0))
        data, self.data = self.data[:count], self.data[count:]
        return data

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def flush(self) -> None:
        pass


@pytest.fixture
def pipe(monkeypatch) -> Callable[..., tuple[int, list[bytes]]]:
    def through(data: bytes, *args: object, sizes: tuple[int, ...] = (1, 7, 100)) -> tuple[int, list[bytes]]:
        out = Pipe()
        monkeypatch.setattr(sys, "stdin", Pipe(data, sizes))
        monkeypatch.setattr(sys, "stdout", out)
        return run("stream", *args), out.written

    return through


def test_stream_of_tokens(pipe):
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


def test_stream_of_features_and_of_audio(pipe):
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


def test_nothing_to_stream(pipe):
    assert pipe(b"", "tokens") == (0, [b""])


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
def test_bad_streams(pipe, capsys, data, args, message):
    code, _ = pipe(data, *args)
    assert code == 2
    assert message in capsys.readouterr().err


def test_stream_for_real():
    tokens = np.random.default_rng(0).integers(1024, size=(2, 50)).T.astype("<i2").tobytes()
    command = [sys.executable, "-m", "vocos_onnx.cli", "stream", "tokens", "--model", MODEL, "--bandwidth", "1.5"]
    done = subprocess.run(command, input=tokens, capture_output=True)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 50 * 320 * 2, b"")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # who listened has gone away
        process.stdin.write(tokens * 100)
        process.stdin.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (1, b"")


@pytest.mark.parametrize("command", ["export", "export-encodec", "quantize"])
def test_export_without_torch(files, capsys, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [n for n in sys.modules if n.startswith("vocos_onnx_export")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(command, "somewhere", "-o", "m.onnx") == 2
    assert "export needs torch: pip install 'vocos-onnx[export]'" in capsys.readouterr().err


def test_started_for_real(files):
    command = shutil.which("vocos-onnx", path=str(Path(sys.executable).parent))
    assert command, "vocos-onnx is not installed beside this Python"
    good = subprocess.run(
        [command, "decode", "tokens.npy", "out.wav", "--model", MODEL], capture_output=True, text=True
    )
    assert (good.returncode, good.stdout) == (0, "wrote out.wav: 0.40 s at 24000 Hz\n")
    assert good.stderr.startswith("vocos-onnx: warning: the file names no codec")
    assert good.stderr.count("\n") == 1
    bad = subprocess.run([command, "info", "nothing.onnx"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in bad.stderr


def test_no_memory(files, monkeypatch, capsys):
    def decode_stream(*args, **kwargs):
        raise MemoryError("Unable to allocate 7.22 MiB")

    monkeypatch.setattr(VocosONNX, "decode_stream", decode_stream)
    assert run("decode", "tokens.npy", "o.wav", "--model", MODEL) == 2
    error = capsys.readouterr().err
    assert error == "vocos-onnx: error: not enough memory: Unable to allocate 7.22 MiB; nothing was written\n"


def test_ctrl_c_in_the_middle(tmp_path):
    """Exit code 130, no traceback, nothing left behind."""
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000 * 60).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", noise, 24000)
    command = [sys.executable, "-m", "vocos_onnx.cli", "resynth", "long.wav", "copy.wav"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    partial = []
    while process.poll() is None and not partial:  # until it has begun to write
        partial = [p for p in tmp_path.glob(".vocos-*/copy.wav") if p.stat().st_size > 100_000]
        time.sleep(0.01)
    assert partial, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["long.wav"]
