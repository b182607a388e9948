"""Properties that hold for any input; hypothesis searches for counterexamples."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import DATA, istft
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.dsp.mel import log_mel
from vocos_onnx.dsp.quantizer import quantize
from vocos_onnx.dsp.resample import resample, resample_blocks
from vocos_onnx.dsp.stft import stft

ENCODEC = VocosONNX(DATA / "encodec.onnx", threads=1)
ENCODER = EncodecONNX(DATA / "encoder.onnx", threads=1)
SEEDS = st.integers(0, 2**32 - 1)
search = settings(max_examples=50, deadline=None, database=None, derandomize=True)


@search
@given(seed=SEEDS, lengths=st.lists(st.integers(1, 12), min_size=1), lookahead=st.none() | st.integers(0, 9))
def test_a_stream_gives_every_sample_once(seed: Any, lengths: Any, lookahead: Any) -> None:
    tokens = np.random.default_rng(seed).integers(1024, size=(2, sum(lengths)))
    stream = ENCODEC.stream(lookahead=lookahead)
    chunks = np.split(tokens, np.cumsum(lengths)[:-1], axis=1)
    audio = np.concatenate([*(stream.push(chunk) for chunk in chunks), stream.flush()])
    expected = ENCODEC.decode(tokens)
    assert audio.shape == expected.shape
    if lookahead in (None, 9):
        assert np.abs(audio - expected).max() <= 1e-5 * np.abs(expected).max()


@search
@given(seed=SEEDS, frames=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_items_do_not_see_one_another(seed: Any, frames: Any) -> None:
    rng = np.random.default_rng(seed)
    items = [rng.integers(1024, size=(2, t)) for t in frames]
    for audio, item in zip(ENCODEC.decode(items), items, strict=True):
        assert audio.shape == (item.shape[1] * 320,)
        assert np.array_equal(audio, ENCODEC.decode(item))
    batch = rng.integers(1024, size=(2, 3, frames[0]))
    for audio, row in zip(ENCODEC.decode(batch), batch.transpose(1, 0, 2), strict=True):
        np.testing.assert_allclose(audio, ENCODEC.decode(row), rtol=0, atol=1e-6)


@search
@given(seed=SEEDS, count=st.integers(1, 4), frames=st.integers(1, 20))
def test_each_code_is_the_nearest(seed: Any, count: Any, frames: Any) -> None:
    rng = np.random.default_rng(seed)
    codebooks = rng.normal(size=(count, 64, 8)).astype(np.float32)
    embeddings = rng.normal(size=(1, frames, 8)).astype(np.float32)
    residual = embeddings[0].astype(np.float64)
    for codes, book in zip(quantize(embeddings, codebooks), codebooks, strict=True):
        distance = np.square(residual[:, None] - book).sum(axis=2)
        chosen = distance[np.arange(frames), codes[0]]
        assert (chosen <= distance.min(axis=1) + 1e-4).all()
        residual = residual - book[codes[0]]


@search
@given(seed=SEEDS, frames=st.integers(1, 20), quarter=st.integers(2, 40), pieces=st.sampled_from([2, 3, 4, 8]))
def test_the_inverse_undoes_the_transform(seed: Any, frames: Any, quarter: Any, pieces: Any) -> None:
    """STFT, then inverse, restores every sample that all its frames cover."""
    hop = 2 * quarter
    n_fft = hop * pieces
    audio = np.random.default_rng(seed).normal(size=(1, (frames - 1) * hop + n_fft))
    spectrum = stft(audio, n_fft, hop).astype(np.complex64)
    trim = (n_fft - hop) // 2
    back = istft(spectrum, n_fft, hop, "same")
    assert back.shape == (1, frames * hop + (n_fft - hop) % 2)
    # a periodic Hann window begins with a zero, so no frame may cover one sample at the very edge
    np.testing.assert_allclose(back, audio[:, trim : trim + back.shape[1]], rtol=0, atol=1e-3)


@search
@given(
    seed=SEEDS,
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_resampling_in_blocks(seed: Any, rate: Any, cuts: Any) -> None:
    audio = np.random.default_rng(seed).normal(0, 0.1, (1, 3000)).astype(np.float32)
    blocks = np.split(audio, sorted(cuts), axis=1)
    given = np.concatenate(list(resample_blocks(blocks, rate, 24_000)), axis=1)
    np.testing.assert_allclose(given, resample(audio, rate, 24_000), rtol=0, atol=1e-6)


@search
@given(seed=SEEDS, gain=st.floats(0.01, 10), samples=st.integers(1024, 4000))
def test_louder_audio_has_higher_mels(seed: Any, gain: Any, samples: Any) -> None:
    """ln(mel(gain · x)) equals ln(mel(x)) + ln(gain)."""
    from vocos_onnx.dsp.mel import MelFeatures

    mel = MelFeatures(1024, 256, 100, "center", 0.0, 12_000.0, clip=1e-30)
    audio = np.random.default_rng(seed).normal(0, 0.1, (1, samples)).astype(np.float32)
    louder = log_mel((audio * np.float32(gain)).astype(np.float32), 24_000, mel)
    np.testing.assert_allclose(louder, log_mel(audio, 24_000, mel) + np.log(gain), rtol=0, atol=1e-4)


@search
@given(seed=SEEDS, samples=st.integers(1, 5000), chunk=st.integers(1, 40))
def test_encoding_in_blocks(seed: Any, samples: Any, chunk: Any) -> None:
    audio = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    expected = ENCODER.encode(audio, 24_000, 0.75)
    codes = np.concatenate(list(ENCODER.encode_stream([audio], 24_000, 0.75, chunk=chunk)), axis=1)
    assert codes.shape == expected.shape == (1, -(-samples // 320))
    assert np.mean(codes != expected) <= 0.1  # rounding may tip near-ties
