"""How type checkers see the interface; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from vocos_onnx import (
    EncodecONNX,
    MelConvention,
    ModelConfig,
    Stream,
    Tokens,
    VocosONNX,
    load_audio,
    load_tokens,
    save_audio,
)

Audio = npt.NDArray[np.float32]


def decode(
    vocos: VocosONNX,
    anything: Any,
    untyped: np.ndarray[Any, Any],
    tokens: npt.NDArray[np.int64],
    features: npt.NDArray[np.float32],
) -> None:
    assert_type(vocos.decode(untyped), Audio)
    assert_type(vocos.decode(tokens, layout="bkt"), Audio)
    assert_type(vocos.decode(features, 2), Audio)
    assert_type(vocos.decode([[1, 2], [3, 4]]), Audio)
    assert_type(vocos.decode([[[1, 2]], [[3, 4]]]), Audio)
    assert_type(vocos.decode(load_tokens("a.npz")), Audio)
    assert_type(vocos.decode([untyped, untyped]), list[Audio])
    assert_type(vocos.decode([tokens for _ in range(3)]), list[Audio])
    assert_type(vocos.decode((features, features)), list[Audio])
    assert_type(vocos.decode([load_tokens("a.npz")]), list[Audio])
    assert_type(vocos.decode(features, mels_from="f5", check=True), Audio)
    assert_type(vocos.decode([features], mels_from="zipvoice"), list[Audio])
    assert_type(vocos.decode(features, mels_from=MelConvention(axes="btc", mean=[1, 2], std=features)), Audio)
    assert_type(vocos.decode(features, lengths=[3, 4]), list[Audio])
    assert_type(vocos.decode(untyped, mels_from="chattts", lengths=tokens), list[Audio])
    audio: Audio = vocos.decode(anything)  # either type is possible
    audio = vocos.decode(np.load("a.npy"))
    save_audio("a.wav", audio, vocos.sample_rate)


def refused(vocos: VocosONNX, tokens: npt.NDArray[np.int64], layout: str) -> None:
    vocos.decode("a.npz")  # type: ignore[arg-type]
    vocos.decode(5)  # type: ignore[call-overload]
    vocos.decode(tokens, layout=layout)  # type: ignore[call-overload]
    vocos.decode(tokens, mels_from=layout)  # type: ignore[call-overload]
    vocos.decode(tokens, lengths=5)  # type: ignore[call-overload]
    MelConvention(axes="tbc")  # type: ignore[arg-type]
    vocos.decode(tokens, layout="btk")  # type: ignore[call-overload]
    vocos.codes_to_features(tokens, layout="btk")  # type: ignore[arg-type]


def others(vocos: VocosONNX, encoder: EncodecONNX, tokens: npt.NDArray[np.int64]) -> None:
    stream = vocos.stream(lookahead=3)
    assert_type(stream, Stream)
    assert_type(stream.push(tokens), Audio)
    assert_type(stream.push_blocks(tokens), Iterator[Audio])
    assert_type(stream.flush(), Audio)
    stream.reset()
    assert_type(vocos.decode_stream([tokens]), Iterator[Audio])
    assert_type(vocos(load_audio("a.wav", 24_000), 24_000, encoder=encoder), Audio)
    assert_type(vocos.config, ModelConfig)
    assert_type(VocosONNX.from_pretrained(Path("a")), VocosONNX)
    assert_type(encoder.encode(load_audio("a.wav", 24_000), 24_000), npt.NDArray[np.int64])
    assert_type(Tokens(tokens).codes, npt.NDArray[Any])


async def awaited(
    vocos: VocosONNX, encoder: EncodecONNX, tokens: npt.NDArray[np.int64], chunks: AsyncIterator[Audio]
) -> None:
    assert_type(await vocos.adecode(tokens), Audio)
    assert_type(await vocos.adecode([tokens, tokens]), list[Audio])
    assert_type(await vocos.aresynth(load_audio("a.wav", 24_000), 24_000), Audio)
    assert_type(await encoder.aencode(load_audio("a.wav", 24_000), 24_000), npt.NDArray[np.int64])
    assert_type(vocos.adecode_stream([tokens]), AsyncIterator[Audio])
    assert_type(vocos.adecode_stream(chunks), AsyncIterator[Audio])
    stream = vocos.stream()
    assert_type(await stream.apush(tokens), Audio)
    assert_type(await stream.aflush(), Audio)
