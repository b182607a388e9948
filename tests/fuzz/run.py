"""Hostile input at random: python tests/fuzz/run.py [--cases 10000] [--seed 0] [--only onnx]

Every case ends with the right result or with one of the errors that are documented for it; whatever else happens, a
crash of the interpreter too, is a failure, and is printed with what repeats it: its target and number. The cases run in
processes of their own, with 4 GB of address space and a time limit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[1] / "data"
BATCH, SECONDS, MEMORY = 50, 120, 4 << 30
DOCUMENTED = (ValueError, FileNotFoundError, FloatingPointError)
Rng = np.random.Generator


@cache
def model(name: str):
    from vocos_onnx import VocosONNX

    return VocosONNX(DATA / f"{name}.onnx", threads=1)


def any_array(rng: Rng, good: np.ndarray) -> object:
    """Something like the good one: of another type, shape, order, values, or no array at all."""
    kind = rng.integers(12)
    if kind == 0:
        return rng.choice(np.array(["", "tokens", "\x00"])).item()
    if kind == 1:
        return [None, 3, -1.5, {}, [[1, 2], [3]], object(), b"\0", [[[]]], True, np.nan][rng.integers(10)]
    shape = rng.integers(0, 5, rng.integers(0, 5)) if kind < 4 else good.shape
    array = rng.choice(good.reshape(-1), tuple(shape)) if good.size else good
    kinds = ["?", "i1", "u1", "<i2", ">i4", "<u8", "<i8", "<f2", "<f4", ">f8", "c8", "O", "U5", "M8[s]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in (4, 5):
            array = array.astype(kinds[rng.integers(len(kinds))])
    if kind in (6, 7) and array.size:
        array = array.copy()
        special = [-1, 1024, 2**31, -(2**62), np.nan, np.inf, -np.inf, 1e38, 1e-45]
        with contextlib.suppress(ValueError, OverflowError):
            array.reshape(-1)[rng.integers(array.size)] = special[rng.integers(len(special))]
    if kind == 8:
        array = array[..., ::-1][..., :: rng.integers(1, 4)]
    if kind == 9:
        array = np.asfortranarray(array)
    return array.tolist() if kind == 10 else array


def damaged(rng: Rng, data: bytes, same_size: bool = False) -> bytes:
    """Bytes changed, overwritten and, but for the same size, cut off, cut out or repeated, here and there."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 30))
        match rng.integers(3, 6) if same_size else rng.integers(7):
            case 0:
                del out[at:]
            case 1:
                del out[at : at + length]
            case 2:
                out[at:at] = out[at : at + length]
            case 3:
                length = min(length, len(out) - at)
                out[at : at + length] = rng.bytes(length)
            case 4:
                out[at] ^= 1 << int(rng.integers(8))
            case 5:
                out[at] = [0, 255, 127, 128][rng.integers(4)]
            case 6:
                out[at:at] = rng.bytes(length)
    return bytes(out)


def finite(audio: np.ndarray) -> None:
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()


def tokens(rng: Rng, folder: Path) -> None:
    good = rng.integers(1024, size=(2, rng.integers(1, 40)))
    options = {} if rng.random() < 0.7 else {"layout": ["kbt", "bkt", "tkb", None, 3][rng.integers(5)]}
    ids = [] if rng.random() < 0.7 else [[0, 1, 2, -1, 1.0, "1", None, [1], np.array([1]), True][rng.integers(10)]]
    given = any_array(rng, good)
    audio = model("encodec").decode(given, *ids, **options)
    for item in audio if isinstance(audio, list) else [audio]:
        finite(item)
    if given is good:
        assert audio.shape == (good.shape[1] * 320,)


def features(rng: Rng, folder: Path) -> None:
    name = ["mel", "imdct-symexp", "imdct-cos", "mel-int8"][rng.integers(4)]
    good = rng.uniform(-8, 2, (8, rng.integers(1, 40))).astype(np.float32)
    audio = model(name).decode(any_array(rng, good))
    for item in audio if isinstance(audio, list) else [audio]:
        finite(item)


def audio_arrays(rng: Rng, folder: Path) -> None:
    good = rng.uniform(-1, 1, rng.integers(1, 3000)).astype(np.float32)
    rate = [8000, 24000, 44100, 0, -1, 999, 10**9, "8000", None, 24000.0, np.int64(16000)][rng.integers(11)]
    finite(model("mel")(any_array(rng, good), rate))


def chunkings(rng: Rng, folder: Path) -> None:
    """Chunks of any lengths give what decode gives; chunks that are refused leave no trace."""
    vocos = model(["encodec", "mel", "encodec-int8"][rng.integers(3)])
    frames = int(rng.integers(1, 60))
    is_encodec = vocos.config.encodec is not None
    good = rng.integers(1024, size=(2, frames)) if is_encodec else rng.uniform(-8, 2, (8, frames)).astype(np.float32)
    stream, audio, at = vocos.stream(), [], 0
    while at < frames:
        if rng.random() < 0.2:
            bad = any_array(rng, good)
            if isinstance(bad, np.ndarray) and bad.ndim == 2 and (bad.dtype.kind in "iuf"):
                bad = bad[:, :0]
            if not isinstance(bad, list):
                with contextlib.suppress(*DOCUMENTED):
                    stream.push(bad)
                    raise AssertionError(f"{bad!r} was taken")
        size = int(rng.integers(1, 20))
        audio.append(stream.push(good[:, at : at + size]))
        at += size
    audio.append(stream.flush())
    expected = vocos.decode(good)
    given = np.concatenate(audio)
    assert given.shape == expected.shape
    assert not expected.size or np.abs(given - expected).max() <= 1e-5 * max(1e-3, np.abs(expected).max())


def onnx(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncodecONNX, VocosONNX

    name = ["encodec", "mel", "imdct-cos", "encoder", "mel-int8", "mel-istft", "imdct-cos-istft"][rng.integers(7)]
    path = folder / "m.onnx"
    data = (DATA / f"{name}.onnx").read_bytes()
    if rng.random() < 0.7:  # what keeps the lengths right gets further
        # most of it is weights: rather the graph at its start, and the metadata at its end
        start, end = int(rng.choice([0, 0, len(data) - 3000])), len(data)
        end = min(end, start + 30_000)
        data = data[:start] + damaged(rng, data[start:end], same_size=True) + data[end:]
    else:
        data = damaged(rng, data)
    path.write_bytes(data)
    if name == "encoder":
        codes = EncodecONNX(path, threads=1).encode(np.linspace(-1, 1, 1000), 24_000, 0.75)
        assert codes.dtype == np.int64
        return
    vocos = VocosONNX(path, threads=1)
    given = rng.integers(1024, size=(2, 5)) if vocos.config.encodec else rng.uniform(-8, 2, (8, 5)).astype(np.float32)
    finite(vocos.decode(given))


def metadata(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncoderConfig, ModelConfig

    config = model(["encodec", "mel", "mel-int8"][rng.integers(3)]).config
    tree = json.loads(config.to_json())
    values = [None, 0, -1, 2**63, 1.5, 1e999, "", "same", [], [1], {}, {"a": 1}, True, "x" * 1000, [[[]]]]
    for _ in range(rng.integers(1, 4)):
        place = tree
        while True:
            key = list(place)[rng.integers(len(place))]
            if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.3:
                break
            place = place[key]
        match rng.integers(3):
            case 0:
                del place[key]
                if not place:
                    break
            case 1:
                place[key] = values[rng.integers(len(values))]
            case 2:
                place["new"] = 1
    text = json.dumps(tree)
    text = text if rng.random() < 0.7 else damaged(rng, text.encode()).decode("latin1")
    (ModelConfig if rng.random() < 0.8 else EncoderConfig).from_json(text)


def npz(rng: Rng, folder: Path) -> None:
    from vocos_onnx.cli import load_tokens

    buffer, array = io.BytesIO(), np.random.default_rng(0).integers(1024, size=(2, 30))
    match rng.integers(3):
        case 0:
            np.save(buffer, array)
        case 1:
            np.savez(buffer, tokens=array, samples=9000)
        case 2:
            np.savez_compressed(buffer, tokens=array, samples=9000)
    path = folder / "t.npz"
    path.write_bytes(damaged(rng, buffer.getvalue()))
    loaded, _ = load_tokens(path)
    finite(model("encodec").decode(loaded))


@cache
def recordings() -> list[bytes]:
    import soundfile

    noise = np.random.default_rng(0).normal(0, 0.1, (3000, 2))
    files = []
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_24"),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise, 16_000, format=kind, subtype=subtype)
        files.append(buffer.getvalue())
    return files


def audio_files(rng: Rng, folder: Path) -> None:
    from vocos_onnx import load_audio

    path = folder / "a.wav"
    path.write_bytes(damaged(rng, recordings()[rng.integers(5)]))
    audio = load_audio(path, [8000, 16000, 24000][rng.integers(3)])
    finite(audio)
    assert audio.size


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
        "cpu", "cuda", "--help", "--plot", *(str(DATA / f"{name}.onnx") for name in ("encodec", "mel", "encoder")),
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


TARGETS: dict[str, tuple[Callable[[Rng, Path], None], float, tuple[type[Exception], ...]]] = {
    "tokens": (tokens, 2, DOCUMENTED),
    "features": (features, 1.5, DOCUMENTED),
    "audio arrays": (audio_arrays, 1, DOCUMENTED),
    "chunkings": (chunkings, 1, ()),
    "onnx": (onnx, 2, (*DOCUMENTED, RuntimeError, MemoryError)),
    "metadata": (metadata, 2, (ValueError,)),
    "npz": (npz, 1, DOCUMENTED),
    "audio files": (audio_files, 1, DOCUMENTED),
    "command line": (command_line, 0.5, ()),
}


def run_batch(target: str, first: int, last: int, seed: int, pipe: object) -> None:
    """In a process of its own: says before each case which it is, and after it how it ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what the libraries have to say
        os.dup2(null, stream)
    function, _, documented = TARGETS[target]
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, last):
            pipe.send(("case", case))
            rng = np.random.default_rng((seed, list(TARGETS).index(target), case))
            try:
                function(rng, Path(folder))
                outcome = "right"
            except documented as error:
                outcome = "refused" if str(error).strip() else f"{type(error).__name__} without a message"
            except BaseException:
                outcome = traceback.format_exc(limit=-4)
            pipe.send(("end", outcome))
    pipe.send(("done", ""))


def fuzz(target: str, cases: int, seed: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    case = 0
    while case < cases:
        ours, theirs = context.Pipe(duplex=False)
        last = min(case + BATCH * 20, cases)
        process = context.Process(target=run_batch, args=(target, case, last, seed, theirs))
        process.start()
        theirs.close()
        outcome = ""
        while True:
            try:
                if not ours.poll(SECONDS):
                    outcome = f"no end after {SECONDS} s"
                    break
                kind, value = ours.recv()
            except EOFError:
                process.join()
                outcome = f"the interpreter died: exit code {process.exitcode}"
                break
            if kind == "case":
                case = value
            elif kind == "end":
                if value not in ("right", "refused"):
                    print(f"FAILED {target} {case} (seed {seed}): {value}", flush=True)
                    value = "failed"
                outcomes[value] += 1
            else:
                break
        process.kill()
        process.join()
        if outcome:
            print(f"FAILED {target} {case} (seed {seed}): {outcome}", flush=True)
            outcomes["failed"] += 1
        case += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(TARGETS))
    args = parser.parse_args()
    chosen = [args.only] if args.only else list(TARGETS)
    whole = sum(TARGETS[name][1] for name in chosen)
    failed = 0
    print("| input | cases | right | refused | failed | seconds |\n|---|---|---|---|---|---|")
    for name in chosen:
        begun = time.perf_counter()
        outcomes = fuzz(name, round(args.cases * TARGETS[name][1] / whole), args.seed)
        failed += outcomes["failed"]
        counts = [outcomes.total(), outcomes["right"], outcomes["refused"], outcomes["failed"]]
        print(f"| {name} | {' | '.join(map(str, counts))} | {time.perf_counter() - begun:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
