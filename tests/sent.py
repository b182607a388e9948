"""Models that tests send to other processes, and the results expected from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import DATA
from vocos_onnx import EncodecONNX, VocosONNX

MODELS = (
    "bundled",
    "bundled mels",
    "by path",
    "with options",
    "with an encoder",
    "bundled encoder",
    "encoder by path",
    "encoder with options",
)


@dataclass(frozen=True)
class Sent:
    """A model, the bound method that another process calls, its arguments, and the result in this process.

    Only bound methods are sent: another process can import a function of a test module only where the tests are.
    """

    model: VocosONNX | EncodecONNX
    method: Callable[..., npt.NDArray[Any]]
    given: npt.NDArray[Any]
    options: dict[str, Any]
    expected: npt.NDArray[Any]

    @staticmethod
    @cache
    def of(name: str) -> Sent:
        rng = np.random.default_rng(0)
        tokens, mels = rng.integers(1024, size=(2, 40)), rng.normal(-3, 2, (100, 40)).astype(np.float32)
        audio = rng.normal(0, 0.1, 8000).astype(np.float32)
        path, encoder = DATA / "encodec.onnx", DATA / "encoder.onnx"
        given: npt.NDArray[Any] = tokens
        options: dict[str, Any] = {}
        model: VocosONNX | EncodecONNX
        match name:
            case "bundled":
                model, given = VocosONNX(), np.concatenate([tokens] * 4)
            case "bundled mels":
                model, given = VocosONNX("vocos-mel-24khz-small"), mels
            case "by path":
                model = VocosONNX(path)
            case "with options":
                model = VocosONNX(path, providers=[("cpu", {})], threads=1)
            case "with an encoder":
                model, given = VocosONNX(path, threads=1, encoder=EncodecONNX(encoder, threads=1)), audio
                options = {"sample_rate": 24_000, "bandwidth_id": 1}
            case "bundled encoder":
                model, given, options = EncodecONNX(), audio, {"sample_rate": 24_000}
            case "encoder by path":
                model, given, options = EncodecONNX(encoder), audio, {"sample_rate": 24_000, "bandwidth": 1.5}
            case "encoder with options":
                model, given = EncodecONNX(encoder, providers=["cpu"], threads=1), audio
                options = {"sample_rate": 24_000, "bandwidth": 1.5}
            case _:
                raise AssertionError(name)
        if isinstance(model, EncodecONNX):
            method: Callable[..., npt.NDArray[Any]] = model.encode
        else:
            method = model.__call__ if name == "with an encoder" else model.decode
        return Sent(model, method, given, options, method(given, **options))
