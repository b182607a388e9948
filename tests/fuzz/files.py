"""Token files, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.audio import recordings
from tests.fuzz.common import DOCUMENTED, Rng, Target, damaged, finite, model
from tests.helpers import DATA


def npz(rng: Rng, folder: Path) -> None:
    from vocos_onnx import load_tokens

    buffer, array = io.BytesIO(), np.random.default_rng(0).integers(1024, size=(2, 30))
    encodec = model("encodec").config.encodec
    assert encodec is not None
    codec: dict[str, Any] = {"codec": "encodec_24khz", "codebooks_sha256": encodec.codebooks_sha256}
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


def layouts(rng: Rng, folder: Path) -> None:
    """Token files of other programs, also damaged, give the right tokens or an error; none advises loading pickles."""
    from vocos_onnx import load_tokens

    codes = rng.integers(1024, size=(2, int(rng.integers(3, 40))))
    batch = rng.integers(2, 4)
    many, long = np.stack([codes] * batch), np.repeat(codes, 80, axis=1)
    right = [codes, codes[None], codes[:, None], codes[None, None]]
    wrong = [many, many.transpose(1, 0, 2), many[None], long.T, long.T[None], codes[0]]
    kind = rng.integers(10)
    ambiguous = bool(kind >= len(right))
    axes = [*right, *wrong][kind]
    integers = ["i2", "u2", "i4", ">i4", "u4", "i8", ">i8", "u8"]
    array = np.asarray(axes, integers[rng.integers(8)], order=("C", "F")[rng.integers(2)])
    names = ["tokens", "codes", "fine_prompt", "audio_tokens", "audio_codes", "anything"]
    name = names[rng.integers(6)]
    key = None
    others: dict[str, Any] = {}
    if rng.random() < 0.5:
        others = {"semantic_prompt": rng.integers(10_000, size=20), "coarse_prompt": codes[:1]}
        key = name if name == "anything" or rng.random() < 0.3 else None
    ending = ["npy", "npz", "json", "safetensors"][rng.integers(4)]
    match ending:
        case "npy":
            key, buffer = None, io.BytesIO()
            np.save(buffer, array)
            data = buffer.getvalue()
        case "npz":
            buffer = io.BytesIO()
            [np.savez, np.savez_compressed][rng.integers(2)](buffer, **others, **{name: array})  # type: ignore[arg-type]
            data = buffer.getvalue()
        case "json":
            nested = {**{other: value.tolist() for other, value in others.items()}, name: array.tolist()}
            if not others and rng.random() < 0.5:
                nested, key = array.tolist(), None
            data = json.dumps(nested, indent=[None, 1][rng.integers(2)]).encode(["utf-8", "utf-16"][rng.integers(2)])
        case "safetensors":
            data = safetensors({**others, name: array})
    path = folder / f"t.{ending if rng.random() < 0.9 else 'dat'}"
    whole = rng.random() < 0.6
    path.write_bytes(data if whole else damaged(rng, data))
    opened = contextlib.nullcontext(path) if rng.random() < 0.7 else path.open("rb")
    try:
        with opened as given:
            tokens = load_tokens(given, key=key if rng.random() < 0.95 else "missing")
        assert isinstance(tokens.codes, np.ndarray)
        audio = model("encodec").decode(tokens)
    except DOCUMENTED as error:
        assert "allow_pickle" not in str(error), error
        assert str(error).isprintable(), error
        assert len(str(error)) < 2000, error
        assert not whole or ambiguous or "missing" in str(error), error
        raise
    finite(audio)
    if whole and not ambiguous:
        assert np.array_equal(audio, model("encodec").decode(codes))


def safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    data = b""
    for name, array in arrays.items():
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        first, data = len(data), data + little.tobytes()
        dtype = f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [first, len(data)]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def foreign(rng: Rng, folder: Path) -> None:
    """Files of any other kind, under any name, raise an error and are never unpickled."""
    from vocos_onnx import load_tokens

    heads = [
        b"", b"ECDC\0", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3\4", b"\xff\xfb\x90\0", b"\0\0\0 ftypM4A ",
        b"PK\3\4", b"PK\5\6", b"\x80\4\x95", b"\x80\2\x8a\nl\xfc\x9cF\xf9", b"\x93NUMPY\1\0", b"\x93NUMPY\3\0",
        b"\x1f\x8b", b"<html>", b"[[", b"{", b"[[1,2],[3", b'{"codes":', b"\xff\xfe[\0", b"\x08\x0a\x12", b"1 2 3\n4 5",
        b"version https://git-lfs", b"hello", b"\x89HDF\r\n", b"\x10\0\0\0\0\0\0\0{", b"\xff\xff\xff\xff\0\0\0\0{",
        bytes(30),
    ]  # fmt: skip
    endings = [
        "npy", "npz", "json", "safetensors", "pt", "pth", "bin", "pkl", "ecdc", "txt", "csv", "wav", "mp3", "onnx",
        "ckpt", "html",
    ]  # fmt: skip
    body = [b"", rng.bytes(int(rng.integers(1, 400))), b"[" * 5000, b" " * 9000, b"1," * 500, b"{}" * 9]
    path = folder / f"t.{endings[rng.integers(len(endings))]}"
    path.write_bytes(heads[rng.integers(len(heads))] + body[rng.integers(len(body))])
    kind = rng.integers(4)
    if kind == 0:  # pickles in numpy's files
        objects = np.array([{"codes": 1}, [1, 2]], dtype=object)
        with path.open("wb") as file:
            if rng.random() < 0.5:
                np.save(file, objects)
            else:
                np.savez(file, **{["tokens", "a", "codec"][rng.integers(3)]: objects, "codes": np.zeros((2, 3), int)})  # type: ignore[arg-type]
    elif kind == 1:
        path.write_bytes(pickle.dumps([1, 2, np.zeros(3)], protocol=int(rng.integers(0, 6))))
    try:
        tokens = load_tokens(path, key=[None, "a"][rng.integers(2)])
    except DOCUMENTED as error:
        said = str(error)
        assert "pickle=" not in said, said
        assert said.isprintable(), said
        assert len(said) < 2000, said
        raise
    assert tokens.codes.dtype.kind != "O"


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
    if rng.random() < 0.5:  # a command that may be valid
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
            assert isinstance(end.code, int)
            code = end.code
    assert code in (0, 1, 2), (args, code)
    assert "Traceback" not in said.getvalue()
    assert not list(folder.glob(".vocos-*"))


def outputs(rng: Rng, folder: Path) -> None:
    """Whatever exists at an output's path stays unless --force is given; inputs and links always stay."""
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
    recordings_stay = {"t.npy"} if args[0] == "decode" else {"a.wav", "b.wav", "t.npy"}  # decode takes no audio
    assert not changed & {str(folder / name) for name in recordings_stay}, (args, changed)
    assert not list(folder.rglob(".vocos-*"))
    if code:
        assert not changed, (args, kind, changed)


TARGETS = {
    "damaged .npy and .npz files": Target(npz, 1, DOCUMENTED),
    "token files of others": Target(layouts, 1, DOCUMENTED),
    "files that hold no tokens": Target(foreign, 1, DOCUMENTED),
    "command lines": Target(command_line, 0.5),
    "outputs": Target(outputs, 0.3),
}
