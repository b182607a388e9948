"""The command line, run in this process but for one real start of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import DATA

from vocos_onnx import VocosONNX
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
        (["pickle.npy", "o.wav"], "cannot read pickle.npy as .npy or .npz: Object arrays cannot be loaded"),
        (["many.npz", "o.wav"], "it holds arrays named a, b; name one of them tokens"),
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
        (["decode", "tokens.npy", "o.wav", "--model", "tokens.npy"], "onnxruntime cannot load tokens.npy"),
        (["info", "no.onnx"], "no model file no.onnx"),
        (["info", "tokens.npy"], "onnxruntime cannot load tokens.npy"),
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

    monkeypatch.setattr(soundfile, "write", full_disk)
    assert run("decode", "tokens.npy", "out.wav", "--model", MODEL) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert Path("out.wav").read_bytes() == b"old"
    assert sorted(p.name for p in files.iterdir()) == ["out.wav", "tokens.npy"]


def test_info(capsys):
    assert run("info", MODEL) == 0
    out = capsys.readouterr().out
    for line in ("sample_rate: 24000", "hop_length: 320", "  bandwidths: 0.75, 1.5", "  name: tiny-encodec"):
        assert line + "\n" in out


def test_info_of_the_model_in_the_box(capsys):
    assert run("info") == 0
    assert "  bandwidths: 1.5, 3.0, 6.0, 12.0\n" in capsys.readouterr().out


def test_export_without_torch(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [n for n in sys.modules if n.startswith("vocos_onnx_export")]:
        monkeypatch.delitem(sys.modules, name)
    assert run("export", "somewhere", "-o", "m.onnx") == 2
    assert "export needs torch: pip install 'vocos-onnx[export]'" in capsys.readouterr().err


def test_started_for_real(files):
    command = shutil.which("vocos-onnx", path=str(Path(sys.executable).parent))
    assert command, "vocos-onnx is not installed beside this Python"
    good = subprocess.run(
        [command, "decode", "tokens.npy", "out.wav", "--model", MODEL], capture_output=True, text=True
    )
    assert (good.returncode, good.stdout, good.stderr) == (0, "wrote out.wav: 0.40 s at 24000 Hz\n", "")
    bad = subprocess.run([command, "info", "nothing.onnx"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in bad.stderr
