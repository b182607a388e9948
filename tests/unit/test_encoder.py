"""Audio to tokens: EnCodec's golden values, the quantiser against a naive one, and the guarantees of encode."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vocos_onnx.encoder as encodec_module
from tests.helpers import DATA, altered
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.dsp.quantizer import quantize
from vocos_onnx.dsp.resample import resample
from vocos_onnx.encoder_network import overlapping_parts

SAMPLES = (1, 319, 320, 321, 2500, 13000)
NOISE = np.random.default_rng(0).normal(0, 0.3, 40_000).astype(np.float32)


@pytest.fixture(scope="session")
def encoder() -> EncodecONNX:
    """4 codebooks of 8 channels, bandwidths of 1, 2 and 4; the first two are those of the tiny encodec model."""
    return EncodecONNX(DATA / "encoder.onnx", providers=["CPUExecutionProvider"], threads=1)


@pytest.fixture(scope="session")
def bundled() -> EncodecONNX:
    return EncodecONNX(providers=["CPUExecutionProvider"], threads=1)


def naive(embeddings: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Codes (K, T) of embeddings (T, C), from every single distance in float64."""
    codes = np.zeros((len(codebooks), len(embeddings)), int)
    for t, vector in enumerate(embeddings.astype(np.float64)):
        for k, codebook in enumerate(codebooks.astype(np.float64)):
            codes[k, t] = np.sum((vector - codebook) ** 2, axis=1).argmin()
            vector = vector - codebook[codes[k, t]]
    return codes


@pytest.mark.parametrize("samples", SAMPLES)
def test_golden(encoder: EncodecONNX, golden: Callable[[str], dict[str, np.ndarray]], samples: Any) -> None:
    tensors = golden("encoder")
    audio, expected = tensors[f"audio_{samples}"], tensors[f"embeddings_{samples}"]
    given = encoder.embed(audio, 24000)
    assert given.dtype == np.float32
    assert given.shape == (1, *expected.shape)
    np.testing.assert_allclose(given[0], expected, rtol=0, atol=5e-6 * np.abs(expected).max())
    assert np.array_equal(encoder.encode(audio, 24000, 3.0), tensors[f"tokens_{samples}"])


@pytest.mark.parametrize("size", [1024, 64, 63, 96, 1])
@pytest.mark.parametrize("product", [500_000, 10_000, 1])
def test_quantize_takes_the_nearest(monkeypatch: pytest.MonkeyPatch, size: int, product: int) -> None:
    monkeypatch.setattr("vocos_onnx.dsp.quantizer._PRODUCT", product)
    rng = np.random.default_rng(0)
    codebooks = (rng.standard_normal((5, size, 8)) * 0.6 ** np.arange(5)[:, None, None]).astype(np.float32)
    embeddings = rng.standard_normal((2, 31, 8)).astype(np.float32)
    before = embeddings.copy()
    codes = quantize(embeddings, codebooks)
    assert codes.dtype == np.int64
    assert codes.shape == (5, 2, 31)
    for b in range(2):
        assert np.array_equal(codes[:, b], naive(embeddings[b], codebooks))
    assert np.array_equal(embeddings, before)
    assert len(np.unique(codes)) > 0.6 * min(size, 300)


def test_of_equally_near_entries_the_first_is_taken() -> None:
    codebook = np.ones((1, 4, 2), np.float32)
    assert np.array_equal(quantize(np.ones((1, 3, 2), np.float32), codebook), np.zeros((1, 1, 3)))


@pytest.mark.parametrize("name", ["encoder", "bundled"])
@pytest.mark.parametrize("samples", [1, 2, 319, 320, 321, 640, 12_345, 40_000])
def test_shapes(name: str, samples: int, request: pytest.FixtureRequest) -> None:
    codec = request.getfixturevalue(name)
    frames = -(-samples // 320)
    for bandwidth, count in zip(codec.bandwidths, codec.config.codebooks_per_bandwidth, strict=True):
        tokens = codec.encode(NOISE[:samples], 24000, bandwidth)
        assert (tokens.dtype, tokens.shape) == (np.int64, (count, frames))
        assert tokens.min() >= 0
        assert tokens.max() < 1024
    assert codec.encode(NOISE[None, :samples], 24000, bandwidth).shape == (count, 1, frames)


@pytest.mark.parametrize("name", ["encoder", "bundled"])
@pytest.mark.parametrize("chunk", [32, 33, 41])
def test_stretches_do_not_show(
    name: str, chunk: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding in chunks leaves no seams, also with an incomplete last frame in a chunk of its own."""
    codec = request.getfixturevalue(name)
    audio = NOISE[: 123 * 320 + 17]
    monkeypatch.setattr(encodec_module, "CHUNK", 1000)
    whole = codec.embed(audio, 24000)
    monkeypatch.setattr(encodec_module, "CHUNK", chunk)
    given = codec.embed(audio, 24000)
    np.testing.assert_allclose(given, whole, rtol=0, atol=2e-6 * np.abs(whole).max())
    tokens = codec.encode(audio, 24000, codec.bandwidths[-1])
    expected = quantize(np.ascontiguousarray(whole.transpose(0, 2, 1)), codec.codebooks)[:, 0]
    assert np.mean(tokens == expected) > 0.99  # rounding may tip a near-tie


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("samples", [1, 320, 10_240, 10_241, 15_000, 16_001, 40_000])
def test_parts_do_not_show(encoder: EncodecONNX, monkeypatch: pytest.MonkeyPatch, threads: int, samples: int) -> None:
    """With several threads, the convolutions process a span in parts, which leave no seams."""
    for batch in (NOISE[:samples], np.stack([NOISE[:samples], NOISE[-samples:]])):
        monkeypatch.setattr(encoder._network, "threads", 1)
        whole = encoder.embed(batch, 24000)
        monkeypatch.setattr(encoder._network, "threads", threads)
        np.testing.assert_allclose(encoder.embed(batch, 24000), whole, rtol=0, atol=2e-6 * np.abs(whole).max())


@pytest.mark.parametrize("reach", [0, 2, 14, 60])
def test_parts_cover_the_span(reach: int) -> None:
    assert overlapping_parts(NOISE[None], 7, 320, 12)[0].shape[0] == 7
    for threads in (1, 2, 3, 64):
        for samples in (1, 320, 16 * 320, 40 * 320 + 1, 64 * 320, 125 * 320 - 1):
            given, frames = overlapping_parts(np.arange(samples, dtype=np.float32)[None], threads, 320, reach)
            parts, step = given[:, 0], frames * 320
            assert parts[0, 0] == 0
            assert parts[-1, -1] == samples - 1
            for one, following in itertools.pairwise(parts):
                assert following[0] == one[0] + step
                assert one[-1] // 320 * 320 >= following[0] + reach * 320  # whole frames, and the overlap after them
            assert len(parts) <= threads


@pytest.mark.parametrize("name", ["encoder", "bundled"])
def test_items_of_a_batch_do_not_touch(name: str, request: pytest.FixtureRequest) -> None:
    codec = request.getfixturevalue(name)
    batch = NOISE[:36_000].reshape(3, -1)
    together = codec.embed(batch, 24000)
    for item, given in zip(batch, together, strict=True):
        alone = codec.embed(item, 24000)[0]
        np.testing.assert_allclose(given, alone, rtol=0, atol=5e-6 * np.abs(alone).max())


@pytest.mark.parametrize("name", ["encoder", "bundled"])
def test_fewer_codebooks_are_the_first_ones(name: str, request: pytest.FixtureRequest) -> None:
    codec = request.getfixturevalue(name)
    full = codec.encode(NOISE, 24000, codec.bandwidths[-1])
    for bandwidth in codec.bandwidths:
        tokens = codec.encode(NOISE, 24000, bandwidth)
        assert np.array_equal(tokens, full[: len(tokens)])


def test_audio_of_another_rate_is_resampled(encoder: EncodecONNX) -> None:
    audio = NOISE[:16_000]
    assert np.array_equal(encoder.encode(audio, 16000, 3.0), encoder.encode(resample(audio, 16000, 24000), 24000, 3.0))
    assert encoder.encode(NOISE[:8000], 8000, 3.0).shape == (4, 75)
    assert encoder.encode(NOISE, 192_000, 3.0).shape == (4, 16)


def test_integers_are_the_same_audio(encoder: EncodecONNX) -> None:
    integers = (NOISE.clip(-1, 1) * 32767).astype(np.int16)
    expected = encoder.encode(integers / 32768, 24000, 3.0)
    assert np.array_equal(encoder.encode(integers, 24000, 3.0), expected)


@pytest.mark.parametrize("name", ["encoder", "bundled"])
@pytest.mark.parametrize("audio", [np.zeros(5000), np.full(5000, 1.0), np.full(5000, -3.0), 1e-30 * NOISE[:5000]])
def test_silence_and_clipped_audio_have_tokens(name: str, audio: Any, request: pytest.FixtureRequest) -> None:
    tokens = request.getfixturevalue(name).encode(audio, 24000, 1.5)
    assert tokens.shape[1] == 16
    assert 0 <= tokens.min() <= tokens.max() < 1024


def test_channels_as_a_batch(encoder: EncodecONNX) -> None:
    seven = NOISE[:35_000].reshape(7, 5000)
    tokens = encoder.encode(seven, 24000, 3.0)
    assert tokens.shape == (4, 7, 16)
    assert np.array_equal(tokens[:, 4], encoder.encode(seven[4], 24000, 3.0))


def test_progress(encoder: EncodecONNX, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodec_module, "CHUNK", 50)
    seen = []
    encoder.encode(NOISE, 24000, 1.5, progress=lambda done, frames: seen.append((done, frames)))
    assert seen == [(50, 125), (100, 125), (125, 125)]


def test_threads(encoder: EncodecONNX) -> None:
    expected = encoder.encode(NOISE, 24000, 3.0)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(encoder.encode(NOISE, 24000, 3.0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(tokens, expected) for tokens in results)


def test_properties(encoder: EncodecONNX, bundled: EncodecONNX) -> None:
    assert (encoder.sample_rate, encoder.hop_length, encoder.num_codebooks) == (24000, 320, 4)
    assert encoder.bandwidths == (0.75, 1.5, 3.0)
    assert encoder.providers == ["CPUExecutionProvider"]
    assert (encoder.config.codec, encoder.config.input) == ("encodec_24khz", "audio")
    assert (bundled.config.codec, bundled.config.input) == ("vocos_onnx_24khz", "spectrum")
    assert bundled.bandwidths == VocosONNX().bandwidths


@pytest.mark.parametrize("bandwidth", [6, 2.0, 0, -1.5, "1.5", None, [1.5], np.array([1.5, 3.0])])
def test_bandwidths_that_it_has_not(encoder: EncodecONNX, bandwidth: Any) -> None:
    with pytest.raises(ValueError, match=r"bandwidth is .*, expected one of 0\.75, 1\.5, 3 \(kbps\)"):
        encoder.encode(NOISE, 24000, bandwidth)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (NOISE[:0], 24000, r"audio is empty"),
        (np.full(100, np.nan), 24000, r"audio holds NaN or infinity, first at sample 0"),
        (np.full(100, np.inf), 24000, r"audio holds NaN or infinity"),
        (NOISE[None, None], 24000, r"audio has shape \(1, 1, 40000\), expected \(samples,\), or \(batch, samples\)"),
        (NOISE[:100].astype(np.int64), 24000, r"dtype int64"),
        (NOISE, 500, r"sample_rate is 500, expected 1000 to 384000 Hz"),
    ],
)
def test_bad_audio(encoder: EncodecONNX, audio: Any, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode(audio, rate, 3.0)
    with pytest.raises(ValueError, match=message):
        encoder.embed(audio, rate)


def test_a_vocoder_is_no_encoder() -> None:
    with pytest.raises(
        ValueError, match=r"encodec\.onnx is a vocoder, tokens or mels to audio, not an encoder: open it with VocosONNX"
    ):
        EncodecONNX(DATA / "encodec.onnx")
    with pytest.raises(ValueError, match=r"encoder\.onnx is an encoder, audio to tokens: open it with EncodecONNX"):
        VocosONNX(DATA / "encoder.onnx")


def test_files_that_are_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.onnx \(5 bytes\) is truncated, damaged or not an ONNX model"):
        EncodecONNX(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match=r"no model file .*; make one with: vocos-onnx convert C"):
        EncodecONNX(tmp_path / "missing.onnx")
    with pytest.raises(ValueError, match=r"threads is 0, expected an integer of 1 or more"):
        EncodecONNX(threads=0)
    with pytest.raises(ValueError, match=r"provider 'X' is not in this onnxruntime"):
        EncodecONNX(providers=["X"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format": 6', b'"format": 3', "the metadata has format 3, and this version reads formats 4 to 6"),
        (b'"channels": 8', b'"channels": 9', "the metadata contradicts the graph"),
        (b'"input": "audio"', b'"input": "radio"', r"input is 'radio', expected one of audio, spectrum"),
        (b'"hop_length": 320', b'"hop_length": -20', "hop_length is -20, expected a positive integer"),
        (b'"left_context": 2', b'"left_context":-2', "left_context is -2, expected 0 or more"),
        (
            b'bandwidth": [1, 2, 4]',
            b'bandwidth": [1, 2, 5]',
            r"per_bandwidth is \(1, 2, 5\), expected 1 to 4",
        ),
        (b'"n_fft"', b'"m_fft"', "the metadata lacks n_fft"),
    ],
)
def test_metadata(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncodecONNX(altered(tmp_path, old, new, "encoder"))


# streams


@pytest.mark.parametrize("model", [DATA / "encoder.onnx", None])
@pytest.mark.parametrize("chunk", [1, 8, 300])
def test_blocks_of_audio_give_the_same_tokens(model: Any, chunk: int) -> None:
    encoder = EncodecONNX(model)
    rng = np.random.default_rng(chunk)
    for samples in (1, 319, 320, 321, 9000) if chunk == 1 else (1, 50_000):
        audio = rng.normal(0, 0.1, samples).astype(np.float32)
        expected = encoder.encode(audio, 24_000, encoder.bandwidths[0])
        for blocks in ([audio], np.split(audio, np.sort(rng.integers(0, samples, 30)))):
            codes = list(encoder.encode_stream(blocks, 24_000, encoder.bandwidths[0], chunk=chunk))
            assert all(c.shape[1] <= max(chunk, 8) for c in codes)
            # but for near-ties, which rounding may tip
            assert np.mean(np.concatenate(codes, axis=1) != expected) < 0.01


def test_bad_streams() -> None:
    encoder = EncodecONNX(DATA / "encoder.onnx")
    arguments: Any
    options: Any
    for arguments, options, message in (
        (
            (np.zeros((2, 2, 5)), 24_000),
            {"bandwidth": 1.5},
            r"a block of audio has shape \(2, 5\), expected \(samples,\)",
        ),
        (([np.zeros(3), [1.0, np.nan]], 24_000), {"bandwidth": 1.5}, r"NaN or infinity, first at sample 4"),
        (([np.zeros(3)], 24_000), {"bandwidth": 5.0}, r"bandwidth is 5.0, expected one of"),
        (([np.zeros(3)], 1), {"bandwidth": 1.5}, r"sample_rate is 1, expected 1000 to 384000"),
        (([np.zeros(3)], 24_000), {"bandwidth": 1.5, "chunk": 0}, r"chunk is 0, expected 1 or more frames"),
    ):
        with pytest.raises(ValueError, match=message):
            list(encoder.encode_stream(*arguments, **options))
    assert list(encoder.encode_stream([], 24_000, 1.5)) == []
