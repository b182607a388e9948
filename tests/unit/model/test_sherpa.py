"""Writing and reading the metadata of sherpa-onnx's layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.helpers import found
from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.limits import MAX_N_FFT, MAX_RATE
from vocos_onnx.model.config import EncodecFeatures, ModelConfig, Quality, Source
from vocos_onnx.model.sherpa import DESCRIPTION_KEY, check_options, settings, sherpa_metadata, spectrum_of

MEL = MelFeatures(1024, 256, 80, "same", 0.0, 8000.0, "slaney", "slaney", 1e-5)
CONFIG = ModelConfig(
    sample_rate=22_050,
    head="istft",
    n_fft=1024,
    hop_length=256,
    padding="same",
    clip_audio=False,
    feature_channels=80,
    num_bandwidth_ids=0,
    reach=27,
    encodec=None,
    mel=MEL,
    source=Source("BSC-LT/vocos-mel-22khz", "main", "0" * 64, "1.0.0"),
)


def test_metadata() -> None:
    metadata = sherpa_metadata(CONFIG)
    assert ModelConfig.from_json(metadata.pop(DESCRIPTION_KEY)) == CONFIG
    assert metadata == {
        "model_type": "vocos",
        "version": "1",
        "sample_rate": "22050",
        "n_fft": "1024",
        "hop_length": "256",
        "win_length": "1024",
        "window_type": "hann",
        "center": "1",
        "pad_mode": "reflect",
        "normalized": "0",
        "num_mels": "80",
    }


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    n_fft = 2 * draw(st.integers(2, MAX_N_FFT // 2))
    hop = draw(st.integers(-(-n_fft // 64), n_fft - 2))
    rate, bands = draw(st.integers(1, MAX_RATE)), draw(st.integers(1, 64))
    padding = draw(st.sampled_from(["same", "center"]))
    mel = replace(MEL, n_fft=n_fft, hop_length=hop, n_mels=bands, padding=padding, f_max=rate / 2)
    int8 = draw(st.booleans())
    return replace(
        CONFIG, sample_rate=rate, n_fft=n_fft, hop_length=hop, padding=padding, feature_channels=bands, mel=mel,
        precision="int8" if int8 else "float32", quality=Quality(40.0, None, 1.0) if int8 else None,
    )  # fmt: skip


@given(configs())
def test_both_ways(config: ModelConfig) -> None:
    metadata = sherpa_metadata(config)
    assert settings(metadata) == (config.sample_rate, config.n_fft, config.hop_length, True)
    assert ModelConfig.from_json(metadata[DESCRIPTION_KEY]) == config


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"mel": None, "encodec": EncodecFeatures("encodec_24khz", 2, 1024, (1.5,), (2,), "")},
            "takes tokens of encodec_24khz, expected mels.* leave --format sherpa out",
        ),
        ({"num_bandwidth_ids": 3}, "takes one of 3 bandwidth ids beside the mels, .* refuses a second input"),
        (
            {"head": "imdct_cos", "n_fft": 512, "hop_length": 256},
            "the head is imdct_cos, expected istft: sherpa-onnx makes audio by an inverse STFT alone",
        ),
    ],
)
def test_what_sherpa_cannot_play(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sherpa_metadata(replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"model_type": "vocos"}, (None, 1024, 256, True)),
        ({"model_type": "matcha-tts vocos", "sample_rate": "16000"}, (16_000, 1024, 256, True)),  # vocos-16khz-univ
        ({"model_type": "vocos", "n_fft": "", "center": ""}, (None, 1024, 256, True)),
        ({"model_type": "vocos", "n_fft": "2048", "win_length": "2048", "hop_length": "512"}, (None, 2048, 512, True)),
        ({}, (None, None, None, None)),
        ({"model_type": "hifigan", "use_eos_bos": "0"}, (None, None, None, None)),
        ({"sample_rate": "24000", "hop_length": "300"}, (24_000, None, 300, None)),
        ({"n_fft": "1280", "center": "1", "pad_mode": "zeros"}, (None, 1280, None, True)),
    ],
)
def test_what_others_write(metadata: dict[str, str], expected: tuple[Any, ...]) -> None:
    assert settings(metadata) == expected


REFUSED = [
    ("center", "0", "center is 0, expected 1: sherpa-onnx does not trim the audio without it"),
    ("center", "true", "center is 'true', expected a whole number from 0 to 1"),
    ("normalized", "1", "normalized is 1, expected 0: the spectrum of a Vocos is not normalised"),
    ("window_type", "povey", "window_type is 'povey', expected 'hann'"),
    ("win_length", "800", "win_length is 800, expected 1024, which is n_fft"),
    ("n_fft", "2048", "win_length is 1024, sherpa-onnx's default where it is missing, expected 2048, which is n_fft"),
    ("n_fft", "1024.0", "n_fft is '1024.0', expected a whole number from 1 to 65536"),
    ("n_fft", "-1024", "n_fft is '-1024', expected a whole number from 1"),
    ("hop_length", "0", "hop_length is '0', expected a whole number from 1"),
    ("sample_rate", "1e5", "sample_rate is '1e5', expected a whole number from 1 to 384000"),
    ("sample_rate", "٢٢٠٥٠", "sample_rate is '٢٢٠٥٠', expected a whole number"),
    ("sample_rate", "9" * 5000, "sample_rate is '9999.*', expected a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "match"), REFUSED)
def test_what_is_refused(key: str, value: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        settings({"model_type": "vocos", key: value})
    found("correct the entry, or convert the checkpoint .* with: vocos-onnx convert", str(error.value))
    assert len(str(error.value)) < 400


def test_a_contradiction_without_defaults() -> None:
    with pytest.raises(ValueError, match="win_length is 1024, expected 2048, which is n_fft"):
        settings({"n_fft": "2048", "win_length": "1024"})


KEYS = ("model_type", "sample_rate", "n_fft", "hop_length", "win_length", "window_type", "center", "normalized")
TEXTS = st.text("0123456789 -+.e_xhanvocs\n", max_size=8)
VALUES = st.one_of(TEXTS, st.integers(-2, 1 << 70).map(str), st.sampled_from(["vocos", "hann", "1", "0"]))


@hypothesis.settings(deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_metadata(metadata: dict[str, str]) -> None:
    """Any metadata gives settings within the limits or raises ValueError."""
    try:
        sample_rate, n_fft, hop_length, center = settings(metadata)
    except ValueError:
        return
    assert sample_rate is None or 1 <= sample_rate <= MAX_RATE
    assert all(size is None or 1 <= size <= MAX_N_FFT for size in (n_fft, hop_length))
    assert center in (None, True)
    assert metadata.get("center") != "0"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("onnx", "numpy", "float32"), "format is 'onnx', expected one of vocos-onnx, sherpa"),
        (("sherpa", "graph", "float32"), "leave one of --istft graph and --format sherpa out"),
        (("sherpa", "numpy", "float16"), "leave one of --fp16 and --format sherpa out"),
    ],
)
def test_options(options: tuple[str, str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_options(*options)
    for precision in "float32", "int8":
        check_options("sherpa", "numpy", precision)
    check_options("vocos-onnx", "graph", "float16")


def test_spectrum() -> None:
    rng = np.random.default_rng(0)
    mag, phase = rng.uniform(0, 9, (2, 5, 3)), rng.uniform(-9, 9, (2, 5, 3))
    outputs = {"mag": mag, "x": np.cos(phase), "y": np.sin(phase)}
    given = spectrum_of({name: value.astype(np.float32) for name, value in outputs.items()})
    assert given.dtype == np.complex64
    np.testing.assert_allclose(given, (mag * np.exp(1j * phase)).transpose(0, 2, 1), rtol=0, atol=1e-5)
