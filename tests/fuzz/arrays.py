"""Arrays of tokens, features and audio, also as streams."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.common import DOCUMENTED, Rng, Target, any_array, finite, model
from tests.helpers import DATA
from vocos_onnx import MelConvention


def tokens(rng: Rng, folder: Path) -> None:
    good = rng.integers(1024, size=(2, rng.integers(1, 40)))
    options: dict[str, Any] = {} if rng.random() < 0.7 else {"layout": ["kbt", "bkt", "tkb", None, 3][rng.integers(5)]}
    ids: list[Any] = (
        [] if rng.random() < 0.7 else [[0, 1, 2, -1, 1.0, "1", None, [1], np.array([1]), True][rng.integers(10)]]
    )
    given = any_array(rng, good)
    audio = model("encodec").decode(given, *ids, **options)
    for item in audio if isinstance(audio, list) else [audio]:
        finite(item)
    if given is good:
        assert audio.shape == (good.shape[1] * 320,)


def features(rng: Rng, folder: Path) -> None:
    name = ["mel", "imdct-symexp", "imdct-cos", "wavenext", "mel-int8"][rng.integers(5)]
    good = rng.uniform(-8, 2, (8, rng.integers(1, 40))).astype(np.float32)
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        wrong: list[Any] = ["f5", "mlx", "", 5, None, [1], np.nan, -1, 1e40, "btc", 10, True, np.ones(8), np.zeros(8)]
        fields = ["axes", "scale", "mean", "std", "log", "clip", "bands", "prompt_rms", "clamp"]
        given = {fields[rng.integers(9)]: wrong[rng.integers(14)] for _ in range(rng.integers(3))}
        options["mels_from"] = wrong[rng.integers(14)] if rng.random() < 0.3 else MelConvention(**given)
    if rng.random() < 0.3:
        lengths: list[Any] = [[1], [2, 1], [0], np.array([3]), [1.5], "1", None, [10**20], 1, [[1]], [-1], []]
        options["lengths"] = lengths[rng.integers(12)]
    if rng.random() < 0.3:
        options["check"] = [True, False, None, 1, "yes"][rng.integers(5)]
    audio = model(name).decode(any_array(rng, good), **options)
    for item in audio if isinstance(audio, list) else [audio]:
        finite(item)


def audio_arrays(rng: Rng, folder: Path) -> None:
    good = rng.uniform(-1, 1, rng.integers(1, 3000)).astype(np.float32)
    rate: Any = [8000, 24000, 44100, 0, -1, 999, 10**9, "8000", None, 24000.0, np.int64(16000)][rng.integers(11)]
    finite(model("mel")(any_array(rng, good), rate))


def chunkings(rng: Rng, folder: Path) -> None:
    """Chunks of any lengths give the audio of decode."""
    vocos = model(["encodec", "mel", "encodec-int8"][rng.integers(3)])
    frames = int(rng.integers(1, 60))
    is_encodec = vocos.config.encodec is not None
    good = rng.integers(1024, size=(2, frames)) if is_encodec else rng.uniform(-8, 2, (8, frames)).astype(np.float32)
    stream, audio, at = vocos.stream(), [], 0
    while at < frames:
        size = int(rng.integers(1, 20))
        audio.append(stream.push(good[:, at : at + size]))
        at += size
    audio.append(stream.flush())
    expected = vocos.decode(good)
    given = np.concatenate(audio)
    assert given.shape == expected.shape
    assert not expected.size or np.abs(given - expected).max() <= 1e-5 * max(1e-3, np.abs(expected).max())


def types(rng: Rng, folder: Path) -> None:
    """Every dtype as tokens, features and audio through every method: valid ones work, all others raise ValueError."""
    from vocos_onnx import EncodecONNX, Tokens, load_tokens, save_tokens

    dtypes = [*np.typecodes["All"], *(f"{order}{kind}" for order in "<>" for kind in _SIZED), *_named_types()]
    dtype = np.dtype(dtypes[rng.integers(len(dtypes))])
    tokens = rng.random() < 0.6
    good = rng.integers(100, size=(2, int(rng.integers(1, 30)))) if tokens else rng.uniform(-8, 2, (8, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            given = good.astype(dtype)
        except (TypeError, ValueError):
            given = np.zeros(good.shape, dtype)
    integer, floating = dtype.kind in "iu", np.issubdtype(dtype, np.floating)
    of_others = dtype.isbuiltin == 2  # from ml_dtypes
    vocos = model("encodec" if tokens else "mel")
    how = ["decode", "list", "Tokens", "push", "file", "features", "audio"][rng.integers(7)]
    right = integer if tokens else floating
    try:
        match how:
            case "decode":
                audio = vocos.decode(given)
            case "list":
                (audio,) = vocos.decode([given])
            case "Tokens":
                audio = vocos.decode(Tokens(given))
            case "push":
                stream = vocos.stream()
                audio = np.concatenate([stream.push(given), stream.flush()])
            case "file":
                if tokens and rng.random() < 0.5:
                    save_tokens(folder / "t.npz", given)
                else:
                    np.savez(folder / "t.npz", tokens=given)
                audio = vocos.decode(load_tokens(folder / "t.npz"))
            case "features":
                right = tokens and integer
                features = model("encodec").codes_to_features(given)
                assert np.array_equal(features, model("encodec").codes_to_features(good))
                return
            case "audio":
                encoder = EncodecONNX(DATA / "encoder.onnx", threads=1)
                right = (floating and np.abs(good[0]).max() <= 64) or dtype in (np.int16, np.int32)  # louder: an error
                encoder.encode(given[0] if given.ndim else given, 24_000, encoder.bandwidths[0])
                return
    except ValueError as error:
        assert not right, f"{dtype} by {how} was refused: {error}"
        assert not (of_others and not tokens and how == "decode" and str(error).startswith("tokens")), error
        raise
    assert right or (not tokens and (of_others or dtype.kind == "O")), f"{dtype} was taken by {how}"
    if right:
        expected = vocos.decode(good if tokens else given.astype(np.float32))
        assert audio.shape == expected.shape
        assert not expected.size or np.abs(audio - expected).max() <= 1e-5 * max(1e-3, np.abs(expected).max())


_SIZED = ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "U3", "M8[s]", "m8[ms]")


def _named_types() -> list[object]:
    """Structured dtypes, and those of ml_dtypes if it is installed."""
    kinds: list[object] = [[("a", "i4")], [("a", "f4"), ("b", "O")], "V3", "S4"]
    with contextlib.suppress(ImportError):
        import ml_dtypes

        kinds += [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4]
    return kinds


def streams_after_errors(rng: Rng, folder: Path) -> None:
    """After a failed chunk a stream raises errors until reset, and then gives the audio of a new stream."""
    name = ["encodec", "mel", "mel-int8", "encodec-int8"][rng.integers(4)]
    vocos = model(name)
    is_encodec = vocos.config.encodec is not None
    frames = int(rng.integers(1, 60))
    good = rng.integers(1024, size=(2, frames)) if is_encodec else rng.uniform(-8, 2, (8, frames)).astype(np.float32)
    stream, expected = vocos.stream(), vocos.decode(good)
    for _ in range(rng.integers(1, 4)):
        for _ in range(rng.integers(0, 3)):
            stream.push(good[:, : int(rng.integers(1, frames + 1))])
        bad = any_array(rng, good)
        try:
            stream.push(bad)
        except DOCUMENTED:
            try:
                stream.push(good)
                raise AssertionError(f"a chunk was taken after the error of {bad!r}")
            except ValueError as error:
                assert "reset" in str(error), error
        if rng.random() < 0.3:
            with contextlib.suppress(ValueError):
                stream.flush()
        stream.reset()
        at = int(rng.integers(0, frames))
        audio = [stream.push(part) for part in (good[:, :at], good[:, at:]) if part.shape[1]]
        given = np.concatenate([*audio, stream.flush()])
        assert given.shape == expected.shape
        assert not expected.size or np.abs(given - expected).max() <= 1e-5 * max(1e-3, np.abs(expected).max())
        stream.reset()


TARGETS = {
    "token arrays": Target(tokens, 2, DOCUMENTED),
    "features": Target(features, 1.5, DOCUMENTED),
    "audio arrays": Target(audio_arrays, 1, DOCUMENTED),
    "streams": Target(chunkings, 1),
    "streams after errors": Target(streams_after_errors, 0.5),
    "dtypes": Target(types, 1, DOCUMENTED),
}
