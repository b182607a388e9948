"""The guarantees of decode: shapes, dtypes, layouts, ids, threads."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import vocos_onnx
from vocos_onnx import VocosONNX

RNG = np.random.default_rng(0)


def tokens_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(1024, size=shape)


def test_public_names() -> None:
    assert sorted(vocos_onnx.__all__) == [
        "EncodecONNX", "EncoderConfig", "MelConvention", "ModelConfig", "Stream", "StreamPool", "Tokens", "VocosONNX",
        "demo_tokens", "load_audio", "load_blocks", "load_tokens", "save_audio", "save_blocks", "save_tokens",
    ]  # fmt: skip
    public = {n for n in dir(VocosONNX) if not n.startswith("_")}
    assert public == {
        "adecode", "adecode_stream", "aresynth", "bandwidths", "codes_to_features", "config", "decode",
        "decode_stream", "delay", "features", "features_stream", "from_pretrained", "hop_length", "num_codebooks",
        "providers", "resynth_stream", "sample_rate", "stream", "stream_pool",
    }  # fmt: skip
    public = {n for n in dir(vocos_onnx.EncodecONNX) if not n.startswith("_")}
    assert public == {
        "aencode", "bandwidths", "embed", "encode", "encode_stream", "from_pretrained", "hop_length", "num_codebooks",
        "providers", "sample_rate",
    }  # fmt: skip


def test_properties(encodec: VocosONNX, mel: VocosONNX) -> None:
    assert (encodec.sample_rate, encodec.hop_length, encodec.num_codebooks) == (24000, 320, 2)
    assert encodec.bandwidths == (0.75, 1.5)
    assert encodec.providers == ["CPUExecutionProvider"]
    assert (mel.sample_rate, mel.hop_length, mel.num_codebooks, mel.bandwidths) == (8000, 16, 0, ())


@pytest.mark.parametrize("frames", [1, 2, 3, 27, 28, 200])
def test_shapes_of_tokens(encodec: VocosONNX, frames: int) -> None:
    tokens = tokens_of(2, frames)
    audio = encodec.decode(tokens)
    assert audio.dtype == np.float32
    assert audio.shape == (frames * 320,)
    batch = encodec.decode(np.stack([tokens] * 3, axis=1))
    assert batch.shape == (3, frames * 320)
    for item in batch:
        np.testing.assert_allclose(item, audio, rtol=0, atol=2e-5 * np.abs(audio).max())


@pytest.mark.parametrize("frames", [1, 2, 28])
def test_shapes_of_features_center(mel: VocosONNX, frames: int) -> None:
    features = RNG.standard_normal((3, 8, frames)).astype(np.float32)
    assert mel.decode(features).shape == (3, (frames - 1) * 16)
    assert mel.decode(features[0]).shape == ((frames - 1) * 16,)


def test_items_of_a_batch_do_not_touch(encodec: VocosONNX) -> None:
    tokens = tokens_of(2, 3, 40)
    batch = encodec.decode(tokens)
    for i in range(3):
        alone = encodec.decode(tokens[:, i])
        np.testing.assert_allclose(batch[i], alone, rtol=0, atol=2e-5 * np.abs(alone).max())


def test_layout_bkt(encodec: VocosONNX) -> None:
    tokens = tokens_of(2, 3, 20)
    bkt = tokens.transpose(1, 0, 2)
    assert np.array_equal(encodec.decode(bkt, layout="bkt"), encodec.decode(tokens))
    assert np.array_equal(encodec.codes_to_features(bkt, layout="bkt"), encodec.codes_to_features(tokens))
    assert np.array_equal(encodec.decode(tokens[:, 0], layout="bkt"), encodec.decode(tokens[:, 0]))


def test_ambiguous_shape_is_taken_as_the_layout_says(encodec: VocosONNX) -> None:
    tokens = tokens_of(2, 2, 20)
    kbt, bkt = encodec.codes_to_features(tokens), encodec.codes_to_features(tokens, layout="bkt")
    assert np.array_equal(kbt[0], encodec.codes_to_features(tokens[:, 0])[0])
    assert np.array_equal(bkt[0], encodec.codes_to_features(tokens[0])[0])
    assert not np.array_equal(kbt, bkt)


def test_codes_to_features_is_a_sum_of_entries(encodec: VocosONNX) -> None:
    tokens = tokens_of(2, 3, 7)
    features = encodec.codes_to_features(tokens)
    table = encodec.network.codebooks
    assert table is not None
    for b in range(3):
        for t in range(7):
            np.testing.assert_array_equal(features[b, :, t], table[0, tokens[0, b, t]] + table[1, tokens[1, b, t]])
    assert features.dtype == np.float32


def test_features_and_tokens_agree(encodec: VocosONNX) -> None:
    tokens = tokens_of(2, 3, 20)
    assert np.array_equal(encodec.decode(tokens), encodec.decode(encodec.codes_to_features(tokens), bandwidth_id=1))


def test_bandwidth_follows_from_the_codebooks(encodec: VocosONNX) -> None:
    tokens = tokens_of(2, 20)
    assert np.array_equal(encodec.decode(tokens), encodec.decode(tokens, bandwidth_id=1))
    assert np.array_equal(encodec.decode(tokens[:1]), encodec.decode(tokens[:1], bandwidth_id=0))
    zero, one = encodec.decode(tokens, 0), encodec.decode(tokens, 1)
    assert np.abs(zero - one).max() > 0.01 * np.abs(one).max()


@pytest.mark.parametrize("one", [1, np.int64(1), np.array(1), np.array([1]), [1]])
def test_bandwidth_id_may_be_what_upstream_takes(encodec: VocosONNX, one: Any) -> None:
    tokens = tokens_of(2, 20)
    assert np.array_equal(encodec.decode(tokens, one), encodec.decode(tokens))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_integer_types(encodec: VocosONNX, dtype: Any) -> None:
    tokens = tokens_of(2, 20) % 100
    assert np.array_equal(encodec.decode(tokens.astype(dtype)), encodec.decode(tokens))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_float_types(mel: VocosONNX, dtype: Any) -> None:
    features = RNG.standard_normal((8, 20)).astype(np.float16)
    assert np.array_equal(mel.decode(features.astype(dtype)), mel.decode(features.astype(np.float32)))


def test_whatever_has_array(encodec: VocosONNX) -> None:
    class Tensor:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.array

    tokens = tokens_of(2, 20)
    assert np.array_equal(encodec.decode(Tensor(tokens)), encodec.decode(tokens))
    assert np.array_equal(encodec.decode(tokens.tolist()), encodec.decode(tokens))
    assert np.array_equal(encodec.decode(np.asfortranarray(tokens)), encodec.decode(tokens))


def test_input_is_not_changed(encodec: VocosONNX, mel: VocosONNX) -> None:
    tokens = tokens_of(2, 20)
    features = RNG.standard_normal((8, 20)).astype(np.float32)
    before = tokens.copy(), features.copy()
    encodec.decode(tokens)
    mel.decode(features)
    assert np.array_equal(tokens, before[0])
    assert np.array_equal(features, before[1])


def test_many_threads_at_once(encodec: VocosONNX) -> None:
    lengths = [1, 2, 3, 27, 28, 90, 150, 200]
    inputs = [tokens_of(2, n) for n in lengths]
    expected = [encodec.decode(t) for t in inputs]
    failures: list[int] = []

    def work() -> None:
        for _ in range(10):
            for n, tokens, audio in zip(lengths, inputs, expected, strict=True):
                if not np.array_equal(encodec.decode(tokens), audio):
                    failures.append(n)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_providers_by_name_and_with_options() -> None:
    from tests.helpers import DATA

    path = DATA / "encodec.onnx"
    tokens = tokens_of(2, 20)
    by_name = VocosONNX(path, providers=["CPUExecutionProvider"])
    with_options = VocosONNX(path, providers=[("CPUExecutionProvider", {})], threads=2)
    assert by_name.providers == with_options.providers == ["CPUExecutionProvider"]
    assert np.array_equal(by_name.decode(tokens), with_options.decode(tokens))
