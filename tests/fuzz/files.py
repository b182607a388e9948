"""Token files, and the command line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy as np
from audio import recordings
from common import DATA, DOCUMENTED, Rng, Target, damaged, finite, model


def npz(rng: Rng, folder: Path) -> None:
    from vocos_onnx import load_tokens

    buffer, array = io.BytesIO(), np.random.default_rng(0).integers(1024, size=(2, 30))
    codec = {"codec": "encodec_24khz", "codebooks_sha256": model("encodec").config.encodec.codebooks_sha256}
    match rng.integers(3):
        case 0:
            np.save(buffer, array)
        case 1:
            np.savez(buffer, tokens=array, samples=9000, **codec)
        case 2:
            np.savez_compressed(buffer, tokens=array, samples=9000, sample_rate=24_000, **codec)
    path = folder / "t.npz"
    path.write_bytes(damaged(rng, buffer.getvalue()))
    finite(model("encodec").decode(load_tokens(path)))


def command_line(rng: Rng, folder: Path) -> None:
    from vocos_onnx.cli import main

    os.chdir(folder)
    Path("a.wav").write_bytes(recordings()[0])
    np.save("t.npy", np.zeros((2, 5), int))
    Path("text").write_text("hello")
    Path("folder").mkdir(exist_ok=True)
    words = [
        "decode", "encode", "resynth", "info", "stream", "demo", "tokens", "audio", "a.wav", "t.npy", "text", "folder",
        "out.wav", "out.npz", "out.xyz", "no/out.wav", "missing", "", "-", "--model", "--encoder", "--bandwidth",
        "--bandwidth-id", "--layout", "--threads", "--provider", "--lookahead", "1", "0", "-1", "1.5", "6", "nan",
        "cpu", "cuda", "--help", "--plot", "--format", "flac",
        "--json", "new/", "folder/", *(str(DATA / f"{name}.onnx") for name in ("encodec", "mel", "encoder")),
    ]  # fmt: skip
    args = [words[rng.integers(6)], *(words[i] for i in rng.integers(0, len(words), rng.integers(0, 8)))]
    if rng.random() < 0.5:  # one that may be right
        args = [
            ["decode", "t.npy", "out.wav", "--model", str(DATA / "encodec.onnx")],
            ["resynth", "a.wav", "out.wav", "--model", str(DATA / "mel.onnx")],
            ["encode", "a.wav", "out.npz", "--encoder", str(DATA / "encoder.onnx"), "--bandwidth", "1.5"],
        ][rng.integers(3)] + args[2:4]
    sink, sys.stdin = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO(rng.bytes(100)))
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(args)
        except SystemExit as end:
            code = end.code
    assert code in (0, 1, 2), (args, code)
    assert "Traceback" not in said.getvalue()
    assert not list(folder.glob(".vocos-*"))


def outputs(rng: Rng, folder: Path) -> None:
    """Whatever an output is: what was there stays unless its replacement is asked for, inputs and links always."""
    from vocos_onnx.cli import main

    os.chdir(folder)
    for name in ("a.wav", "b.wav"):
        Path(name).write_bytes(recordings()[0])
    np.save("t.npy", np.zeros((2, 5), int))
    Path("folder").mkdir()
    name = ["out.wav", "out.npz", "out.flac", "folder/b.wav", "folder/a.npz", "b.wav"][rng.integers(6)]
    path = Path(name)
    kind = ["nothing", "file", "link", "chain", "lost", "loop", "hard link", "folder", "device", "audio"][
        rng.integers(10)
    ]
    if name != "b.wav":
        match kind:
            case "file":
                path.write_bytes(b"old")
            case "link" | "chain" | "hard link":
                Path("target").write_bytes(b"old")
                if kind == "chain":
                    Path("middle").symlink_to(folder / "target")
                if kind == "hard link":
                    path.hardlink_to("target")
                else:
                    path.symlink_to(folder / ("middle" if kind == "chain" else "target"))
            case "lost":
                path.symlink_to(folder / "nowhere" / "x")
            case "loop":
                path.symlink_to(folder / name)
            case "folder":
                path.mkdir()
            case "device":
                path.symlink_to("/dev/null")
            case "audio":
                path.write_bytes(recordings()[1])
    given = "folder" if name.startswith("folder") else name
    encodec, encoder, mel = (str(DATA / f"{m}.onnx") for m in ("encodec", "encoder", "mel"))
    args = [
        ["decode", "t.npy", name, "--model", encodec],
        ["resynth", "a.wav", given, "--model", mel],
        ["resynth", "a.wav", "b.wav", given, "--model", mel],
        ["encode", "a.wav", given, "--encoder", encoder, "--bandwidth", "1.5"],
        ["encode", "a.wav", "b.wav", given, "--encoder", encoder, "--bandwidth", "1.5"],
    ][rng.integers(5)]
    force = bool(rng.random() < 0.5)
    links = {str(p): os.readlink(p) for p in folder.rglob("*") if p.is_symlink()}  # noqa: PTH115
    before = {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main([*args, *(["--force"] if force else [])])
    assert code in (0, 2), code
    assert "Traceback" not in said.getvalue()
    assert links.items() <= {str(p): os.readlink(p) for p in folder.rglob("*") if p.is_symlink()}.items()  # noqa: PTH115
    changed = {p for p, data in before.items() if Path(p).read_bytes() != data}
    assert not changed or force, (args, kind, changed)
    recordings_stay = {"t.npy"} if args[0] == "decode" else {"a.wav", "b.wav", "t.npy"}  # decode has no audio as input
    assert not changed & {str(folder / name) for name in recordings_stay}, (args, changed)
    assert not list(folder.rglob(".vocos-*"))
    if code:
        assert not changed, (args, kind, changed)


TARGETS = {
    "damaged .npy and .npz files": Target(npz, 1, DOCUMENTED),
    "command lines": Target(command_line, 0.5),
    "outputs": Target(outputs, 0.3),
}
