"""Arrays of tokens, features and audio, and streams of them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from common import DOCUMENTED, Rng, Target, any_array, finite, model


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


TARGETS = {
    "token arrays": Target(tokens, 2, DOCUMENTED),
    "features": Target(features, 1.5, DOCUMENTED),
    "audio arrays": Target(audio_arrays, 1, DOCUMENTED),
    "streams": Target(chunkings, 1),
}
