"""vocos(audio, sample_rate): resynthesis through tokens or mels, and which encoders a model accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA, altered
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.model.bundled import DEMO_TOKENS, default_model

ENCODER, MODEL = DATA / "encoder.onnx", DATA / "encodec.onnx"
NOISE = np.random.default_rng(0).normal(0, 0.3, 5000).astype(np.float32)


@pytest.fixture(scope="module")
def paired() -> VocosONNX:
    return VocosONNX(MODEL, encoder=ENCODER, threads=1)


@pytest.mark.parametrize("samples", [1, 320, 5000])
def test_it_is_encode_and_decode(paired: VocosONNX, samples: int) -> None:
    encoder = EncodecONNX(ENCODER, threads=1)
    for index, bandwidth in enumerate(paired.bandwidths):
        expected = paired.decode(encoder.encode(NOISE[:samples], 24000, bandwidth))
        given = paired(NOISE[:samples], 24000, bandwidth=bandwidth)
        assert given.shape == (-(-samples // 320) * 320,)
        assert given.dtype == np.float32
        assert np.array_equal(given, expected)
        assert np.array_equal(paired(NOISE[:samples], 24000, bandwidth_id=index), expected)


@pytest.mark.parametrize("encoder", [ENCODER, str(ENCODER), EncodecONNX(ENCODER, threads=1)])
def test_the_encoder_may_come_with_the_call(paired: VocosONNX, encoder: Any) -> None:
    alone = VocosONNX(MODEL, threads=1)
    expected = paired(NOISE, 24000, bandwidth=1.5)
    assert np.array_equal(alone(NOISE, 24000, bandwidth=1.5, encoder=encoder), expected)
    assert np.array_equal(VocosONNX(MODEL, threads=1, encoder=encoder)(NOISE, 24000, bandwidth=1.5), expected)


def test_batches_and_other_rates(paired: VocosONNX) -> None:
    batch = NOISE[:4800].reshape(2, -1)
    audio = paired(batch, 16000, bandwidth=1.5)
    assert audio.shape == (2, 12 * 320)
    for item, expected in zip(batch, audio, strict=True):
        alone = paired(item, 16000, bandwidth=1.5)
        np.testing.assert_allclose(alone, expected, rtol=0, atol=2e-5 * np.abs(alone).max())


def test_mel(mel: VocosONNX) -> None:
    features = mel.features(NOISE, 8000)
    assert features.shape == (8, 1 + 5000 // 16)
    assert np.array_equal(mel(NOISE, 8000), mel.decode(features))
    assert mel(NOISE, 8000).shape == (5000 // 16 * 16,)
    batch = NOISE.reshape(2, -1)
    assert np.array_equal(mel.features(batch, 8000)[1], mel.features(batch[1], 8000))
    assert mel(batch, 24000).shape == (2, -(-2500 // 3) // 16 * 16)


def test_the_box_gives_back_what_it_is_given() -> None:
    """Speech through the encoder and the bundled model keeps its levels, band by band."""
    from tests.unit.model.test_bundled import band_levels

    vocos = VocosONNX()
    with np.load(default_model().with_name(DEMO_TOKENS)) as archive:
        speech = vocos.decode(archive["tokens"])
    given, rough = vocos(speech, 24000, bandwidth=12.0), vocos(speech, 24000, bandwidth=1.5)
    assert given.shape == speech.shape
    levels = band_levels(speech).ravel()
    fine, coarse = (np.corrcoef(levels, band_levels(audio).ravel())[0, 1] for audio in (given, rough))
    assert fine > 0.98
    assert 0.9 < coarse < fine
    assert np.array_equal(vocos(speech, 24000), vocos.decode(EncodecONNX().encode(speech, 24000, 6.0)))


def test_no_click_at_the_ends_of_silence_around_speech() -> None:
    vocos = VocosONNX()
    with np.load(default_model().with_name(DEMO_TOKENS)) as archive:
        speech = vocos.decode(archive["tokens"])[:48_000]
    audio = vocos(np.pad(speech, 4800), 24000)
    for end in (audio[:2400], audio[-2400:]):
        assert np.abs(end).max() < 0.01 * np.abs(audio).max()


def test_a_mismatched_encoder_is_refused(tmp_path: Path) -> None:
    here = r"\(encodec_24khz\) has other codebooks than this model \(vocos_onnx.* here; leave encoder out, for that of"
    with pytest.raises(ValueError, match=here):
        VocosONNX(encoder=ENCODER)
    there = (
        r"other codebooks than .*the fingerprint of 2 codebooks is \w{12} there .*; pass encoder='facebook/encodec_24"
    )
    with pytest.raises(ValueError, match=there):
        VocosONNX(MODEL, encoder=EncodecONNX())
    paired = VocosONNX(MODEL)
    with pytest.raises(ValueError, match=r"would decode its tokens to noise: the fingerprint of 2 codebooks"):
        paired(NOISE, 24000, bandwidth=1.5, encoder=EncodecONNX())
    fingerprint = EncodecONNX(ENCODER).config.codebooks_sha256[1].encode()
    other = altered(tmp_path, fingerprint, b"0" * 64, "encoder")
    with pytest.raises(ValueError, match=rf"fingerprint {fingerprint.decode()}, and its metadata says 0+:"):
        VocosONNX(MODEL, encoder=other)


@pytest.mark.parametrize(("change", "fits"), [(0.5e-6, True), (2e-6, False)])
def test_codebooks_that_differ_by_rounding_are_paired(tmp_path: Path, change: float, fits: bool) -> None:
    """The official model and encoder have tables from two sources, one of which may have been rounded."""
    codebooks = VocosONNX(MODEL, threads=1).network.codebooks
    assert codebooks is not None
    others = codebooks.copy()
    others[1, 7, 3] += change * np.abs(codebooks).max()
    assert not np.array_equal(others, codebooks)
    data = MODEL.read_bytes()
    for old, new in (
        (codebooks.tobytes(), others.tobytes()),
        (fingerprints(codebooks)[-1].encode(), fingerprints(others)[-1].encode()),
    ):
        assert data.count(old) == 1
        data = data.replace(old, new)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    if fits:
        assert VocosONNX(path, encoder=ENCODER, threads=1)(NOISE, 24000, bandwidth=1.5).shape == (5120,)
    else:
        with pytest.raises(ValueError, match="would decode its tokens to noise"):
            VocosONNX(path, encoder=ENCODER, threads=1)


def test_an_encoder_with_too_few_codebooks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the fingerprint of 16 codebooks is only 4 codebooks there"):
        VocosONNX(encoder=ENCODER)


def test_a_model_that_needs_an_encoder_says_so() -> None:
    with pytest.raises(
        ValueError,
        match=r"tokens of encodec_24khz needs its encoder: pass encoder='facebook/encodec_24khz', which is downloaded, "
        r"or make one with vocos-onnx convert facebook/encodec_24khz -o encodec_24khz\.onnx, and pass .* "
        r"encoder='encodec_24khz\.onnx'$",
    ):
        VocosONNX(MODEL)(NOISE, 24000, bandwidth=1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"bandwidth is 6\.0, expected one of 0\.75, 1\.5 \(kbps\)"),
        ({"bandwidth": 3.0}, r"bandwidth is 3\.0, expected one of 0\.75, 1\.5 \(kbps\)"),
        ({"bandwidth": [1.5]}, r"bandwidth is \[1\.5\], expected one of"),
        ({"bandwidth_id": 2}, r"bandwidth_id is 2, expected 0 to 1: 0 \(0\.75 kbps\), 1 \(1\.5 kbps\)"),
        ({"bandwidth_id": "1"}, r"bandwidth_id is '1', expected an integer"),
        ({"bandwidth": 1.5, "bandwidth_id": 1}, r"bandwidth \(1\.5\) and bandwidth_id \(1\) are given; pass one"),
    ],
)
def test_bandwidths(paired: VocosONNX, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired(NOISE, 24000, **options)


def test_progress_of_a_mel_model(mel: VocosONNX) -> None:
    audio, said = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32), []
    assert np.array_equal(mel(audio, 8000, progress=lambda *done: said.append(done)), mel(audio, 8000))
    frames = mel.features(audio, 8000).shape[1]
    assert said[-1] == (frames, frames)
    assert len(said) > 1
    assert [done for done, _ in said] == sorted({done for done, _ in said})


def test_a_mel_model_takes_neither_bandwidth_nor_encoder(mel: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"bandwidth is given, but this is a mel model, without tokens: leave it out"):
        mel(NOISE, 8000, bandwidth=6.0)
    with pytest.raises(ValueError, match=r"bandwidth_id is 1, but this model is not conditioned"):
        mel(NOISE, 8000, bandwidth_id=1)
    with pytest.raises(ValueError, match=r"encoder is given, but this is a mel model"):
        mel(NOISE, 8000, encoder=ENCODER)
    with pytest.raises(ValueError, match=r"encoder is given, but this is a mel model"):
        VocosONNX(DATA / "mel.onnx", encoder=ENCODER)


def test_features_are_for_mel_models(paired: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"this is an encodec model, whose features come from tokens: encode"):
        paired.features(NOISE, 24000)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (NOISE[:0], "audio is empty"),
        (NOISE[:1], r"audio has 1 samples at 8000 Hz, expected at least 33: these mel features reflect 32"),
        (np.full(100, np.nan), "audio holds NaN or infinity"),
    ],
)
def test_bad_audio_for_mels(mel: VocosONNX, audio: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mel(audio, 8000)


def test_the_box_is_whole() -> None:
    assert isinstance(default_model(), Path)
    assert default_model().with_name("vocos-codec-24khz-encoder.onnx").exists()


@pytest.mark.parametrize("name", ["encodec", "mel", "imdct-cos"])
@pytest.mark.parametrize("chunk", [None, 8])
def test_block_by_block(name: str, chunk: int | None) -> None:
    vocos = VocosONNX(DATA / f"{name}.onnx", encoder=DATA / "encoder.onnx" if name == "encodec" else None)
    options: dict[str, Any] = {"bandwidth": 1.5} if name == "encodec" else {}
    audio = np.random.default_rng(0).normal(0, 0.1, 30_000).astype(np.float32)
    expected = vocos(audio, 16_000, **options)
    blocks = np.split(audio, [1, 1, 700, 20_000])
    if chunk is not None:
        options["chunk"] = chunk
    parts = list(vocos.resynth_stream(blocks, 16_000, **options))
    assert sum(part.size for part in parts) == expected.size
    difference = np.abs(np.concatenate(parts) - expected)
    assert np.mean(difference > 1e-5 * np.abs(expected).max()) < 0.02  # rounding may change a token
    if chunk and vocos.delay:
        assert len(parts) > 5


def test_features_block_by_block(mel: VocosONNX) -> None:
    audio = np.random.default_rng(0).normal(0, 0.1, 30_000).astype(np.float32)
    parts = list(mel.features_stream(np.split(audio, 6), 24_000, chunk=100))
    assert all(part.shape[1] <= 100 for part in parts)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), mel.features(audio, 24_000), rtol=0, atol=1e-4)


def test_bad_blocks(mel: VocosONNX, encodec: VocosONNX) -> None:
    call: Callable[[], Iterator[np.ndarray]]
    for call, message in (
        (lambda: mel.features_stream([[0.0]], 24_000), r"audio has 1 samples .* expected at least 33"),
        (lambda: mel.features_stream([[0.0]], 24_000, chunk=0), r"chunk is 0"),
        (lambda: mel.resynth_stream([[0.0]], 24_000, bandwidth=6.0), r"bandwidth is given, but this is a mel model"),
        (lambda: encodec.features_stream([[0.0]], 24_000), r"this is an encodec model"),
        (lambda: encodec.resynth_stream([[0.0]], 24_000, bandwidth=1.5), r"needs its encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            list(call())
