"""Mels of other systems: each convention restores the model's own mels, and invalid ones raise errors naming the fault.

The inverse of each convention is written here independently, from the systems' documentation (docs/guides/mels.md).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import random_weights
from tests.helpers import found
from tests.torch_bytes import saved
from vocos_onnx import MelConvention, VocosONNX, once
from vocos_onnx.arrays import Float
from vocos_onnx.dsp.stft import hann_window
from vocos_onnx.frames import MelReader, stock_mel
from vocos_onnx.mels import CONVENTIONS, MelsFrom
from vocos_onnx.model.bundled import default_model

BUNDLED = VocosONNX("vocos-mel-24khz-small", threads=1)
SEEDS = st.integers(0, 2**32 - 1)
search = settings(max_examples=25, deadline=None, database=None, derandomize=True)

# Relative to the peak of the audio. Rounding to float32 has a relative error of 6e-8: 6e-7 in a log-mel of -10 for each
# operation of a convention. Measured on 17 recordings: 2e-5 for ZipVoice's scale and for log10, 7e-5 (here up to
# 1.5e-4) for scale, normalisation and another logarithm. It depends on the model's weights.
ROUNDED = 3e-5
ALL_ROUNDED = 3e-4
STREAMED = 1e-5

MATCHA_CONFIG = {  # includes the arguments of its fork
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {
            **{"sample_rate": 22_050, "n_fft": 1024, "hop_length": 256, "n_mels": 80, "padding": "same"},
            **{"f_min": 0, "f_max": 8000, "norm": "slaney", "mel_scale": "slaney"},
        },
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {"input_channels": 80, "dim": 512, "intermediate_dim": 1536, "num_layers": 8},
    },
    "head": {
        "class_path": "vocos.heads.ISTFTHead",
        "init_args": {"dim": 512, "n_fft": 1024, "hop_length": 256, "padding": "same"},
    },
}


@pytest.fixture(scope="module")
def of_matcha(tmp_path_factory: pytest.TempPathFactory) -> VocosONNX:
    """A Vocos of 80 bands at 22,050 Hz with random weights in the geometry of BSC-LT/vocos-mel-22khz."""
    folder = tmp_path_factory.mktemp("vocos-mel-22khz")
    (folder / "config.json").write_text(json.dumps(MATCHA_CONFIG))
    weights = {**random_weights("vocos-mel-22khz"), "head.istft.window": hann_window(1024)}
    (folder / "pytorch_model.bin").write_bytes(saved(weights))
    return VocosONNX(folder, threads=1)


def mels(seed: int, frames: int, *, batch: int | None = None, bands: int = 100) -> Float:
    """Natural logarithms of magnitudes (C, T) or (B, C, T): noise that is smooth over time and bands."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(0, 0.5, (batch or 1, bands, frames)).cumsum(axis=2)
    tilt = np.linspace(1, -5, bands)[:, None] + rng.normal(0, 0.3, (batch or 1, bands, 1))
    made = (np.clip(walk, -4, 2) + tilt).astype(np.float32)
    return made[0] if batch is None else made


def btc(x: Float) -> Float:
    return x.swapaxes(-1, -2)


def tenth(x: Float) -> Float:
    return x.swapaxes(-1, -2) * np.float32(0.1)


def same(x: Float) -> Float:
    return x


HANDED_OVER: dict[Any, Callable[[Float], Float]] = {
    "f5": btc, "zipvoice": tenth, "matcha": same, "chattts": same, "mlx": btc
}  # fmt: skip
EXACT = [name for name in HANDED_OVER if name != "zipvoice"]  # dividing by 0.1 rounds


def joined(stream: Any, chunks: list[Float]) -> Float:
    return np.concatenate([*map(stream.push, chunks), stream.flush()])


def near(given: Float, expected: Float, tolerance: float) -> None:
    assert given.dtype == np.float32
    assert given.shape == expected.shape
    assert np.abs(expected).max() > 0.01, "silence proves nothing"
    assert np.abs(given - expected).max() <= tolerance * np.abs(expected).max()


def test_all_known_conventions_are_tested() -> None:
    assert list(CONVENTIONS) == list(HANDED_OVER)


# Each convention restores the model's mels


@search
@given(name=st.sampled_from([*HANDED_OVER]), seed=SEEDS, frames=st.integers(2, 40), batch=st.none() | st.integers(1, 3))
def test_a_known_convention(name: Any, seed: int, frames: int, batch: int | None) -> None:
    if name == "matcha":  # has 80 bands: tested below with such a model
        return
    given_mels = mels(seed, frames, batch=batch)
    expected = BUNDLED.decode(given_mels)
    audio = BUNDLED.decode(HANDED_OVER[name](given_mels), mels_from=name)
    if name in EXACT:
        assert np.array_equal(audio, expected)
    else:
        near(audio, expected.clip(-1, 1), ROUNDED)


@search
@given(
    name=st.sampled_from(["f5", "zipvoice", "chattts", "mlx"]),
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    pool=st.booleans(),
)
def test_a_stream_of_a_known_convention(name: Any, seed: int, lengths: list[int], pool: bool) -> None:
    given_mels = mels(seed, sum(lengths) + 1)
    handed = HANDED_OVER[name](given_mels)
    axis = 0 if handed.shape[1] == 100 and name not in ("chattts",) else 1
    chunks = np.split(handed, np.cumsum(lengths), axis=axis)
    expected = BUNDLED.decode(handed, mels_from=name)
    if pool:
        with BUNDLED.stream_pool() as streams, streams.open(mels_from=name) as stream:
            audio = joined(stream, chunks)
    else:
        audio = joined(BUNDLED.stream(mels_from=name), chunks)
    near(audio, expected, STREAMED)
    near(np.concatenate([*BUNDLED.decode_stream(chunks, mels_from=name)]), expected, STREAMED)


@search
@given(
    name=st.sampled_from(["f5", "zipvoice", "chattts", "mlx"]),
    seed=SEEDS,
    frames=st.lists(st.integers(2, 40), min_size=1, max_size=3),
)
def test_lists_and_padded_batches(name: Any, seed: int, frames: list[int]) -> None:
    items = [HANDED_OVER[name](mels(seed + i, length)) for i, length in enumerate(frames)]
    alone = [BUNDLED.decode(item, mels_from=name) for item in items]
    for audio, expected in zip(BUNDLED.decode(items, mels_from=name), alone, strict=True):
        assert np.array_equal(audio, expected)
    padded = np.full((len(items), 100, max(frames) + 3), np.nan, np.float32)  # padding may hold anything
    padded = padded if name == "chattts" else padded.swapaxes(1, 2)
    for row, item in zip(padded, items, strict=True):
        row[tuple(slice(size) for size in item.shape)] = item
    for lengths in (frames, np.array(frames, np.int32), tuple(frames)):
        cut = BUNDLED.decode(padded, mels_from=name, lengths=lengths)
        assert isinstance(cut, list)
        for audio, expected in zip(cut, alone, strict=True):
            assert np.array_equal(audio, expected)


def test_matcha(of_matcha: VocosONNX) -> None:
    """Matcha's mels as passed to its vocoder, and before its own denormalisation with LJSpeech's statistics."""
    assert (of_matcha.sample_rate, of_matcha.config.padding) == (22_050, "same")
    padded = mels(0, 60, batch=2, bands=80)
    expected = of_matcha.decode(padded)
    assert np.array_equal(of_matcha.decode(padded, mels_from="matcha"), expected)
    lengths = [60, 31]
    for i, audio in enumerate(of_matcha.decode(padded, mels_from="matcha", lengths=lengths)):
        assert np.array_equal(audio, of_matcha.decode(padded[i, :, : lengths[i]]))
    chunks = np.split(padded[0], [7, 20, 33], axis=1)
    near(joined(of_matcha.stream(mels_from="matcha"), chunks), expected[0], STREAMED)
    normalised = ((padded.astype(np.float64) - -5.536622) / 2.116101).astype(np.float32)
    convention = MelConvention.named("matcha", mean=-5.536622, std=2.116101)
    near(of_matcha.decode(normalised, mels_from=convention), expected, ROUNDED)


PER_BAND = st.booleans()


@search
@given(
    seed=SEEDS,
    axes=st.sampled_from(["bct", "btc"]),
    log=st.sampled_from(["e", 10, "db"]),
    scale=st.floats(0.05, 20),
    per_band=PER_BAND,
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_any_convention(seed: int, axes: Any, log: Any, scale: float, per_band: bool, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    original = mels(seed, sum(lengths) + 1)
    mean = rng.normal(-4, 1, 100) if per_band else float(rng.normal(-4, 1))
    std = rng.uniform(0.5, 3, 100) if per_band else float(rng.uniform(0.5, 3))
    magnitudes = np.exp(original.astype(np.float64))
    logs = {"e": np.log(magnitudes), 10: np.log10(magnitudes), "db": 20 * np.log10(magnitudes)}[log]
    column = [value[:, None] if per_band else value for value in (mean, std)]  # type: ignore[index]
    made = (scale * (logs - column[0]) / column[1]).astype(np.float32)
    handed = made.T if axes == "btc" else made
    convention = MelConvention(axes=axes, log=log, scale=scale, mean=mean, std=std)
    expected = BUNDLED.decode(original)
    near(BUNDLED.decode(handed, mels_from=convention), expected, ALL_ROUNDED)
    near(BUNDLED.decode(handed[None], mels_from=convention)[0], expected, ALL_ROUNDED)
    chunks = np.split(handed, np.cumsum(lengths), axis=0 if axes == "btc" else 1)
    near(joined(BUNDLED.stream(mels_from=convention), chunks), expected, ALL_ROUNDED)


def test_the_clip() -> None:
    """Silence in a system that clips at 1e-10 becomes the model's silence."""
    original = mels(0, 30)
    original[40:, 10:20] = np.log(1e-7)
    magnitudes = np.exp(original.astype(np.float64))
    magnitudes[40:, 10:20] = 0
    handed = np.log10(np.maximum(magnitudes, 1e-10)).astype(np.float32)
    expected = BUNDLED.decode(original)
    near(BUNDLED.decode(handed, mels_from=MelConvention(log=10, clip=1e-7)), expected, ROUNDED)
    without = BUNDLED.decode(handed, mels_from=MelConvention(log=10))
    assert np.abs(without - expected).max() > 100 * ROUNDED * np.abs(expected).max()


# Changes to the audio


def loud(seed: int, frames: int, **options: Any) -> Float:
    return mels(seed, frames, **options) + 4


def test_the_level_of_the_prompt() -> None:
    given_mels = loud(0, 60)
    plain = BUNDLED.decode(given_mels)
    assert np.abs(plain).max() > 1.5, "nothing would be clipped"
    for rms, factor in ((0.04, 0.4), (0.0999, 0.999), (0.1, 1), (0.3, 1), (None, 1)):
        f5 = MelConvention.named("f5", prompt_rms=rms)
        zipvoice = MelConvention.named("zipvoice", prompt_rms=rms)
        near(BUNDLED.decode(given_mels.T, mels_from=f5), plain * np.float32(factor), 1e-6)
        scaled = tenth(given_mels)
        expected = plain.clip(-1, 1) * np.float32(factor)  # in this order
        near(BUNDLED.decode(scaled, mels_from=zipvoice), expected, ROUNDED)
        near(joined(BUNDLED.stream(mels_from=zipvoice), np.split(scaled, [11, 40])), expected, STREAMED)
        with BUNDLED.stream_pool() as pool:
            near(joined(pool.open(mels_from=zipvoice), np.split(scaled, [11, 40])), expected, STREAMED)
        for audio in (
            *BUNDLED.decode(scaled[None], mels_from=zipvoice, lengths=[60]),
            *BUNDLED.decode([scaled], mels_from=zipvoice),
        ):
            near(audio, expected, ROUNDED)
    assert np.array_equal(BUNDLED.decode(given_mels.T, mels_from="f5"), plain), "f5 clips nothing"


def test_empty_chunks() -> None:
    given_mels = btc(mels(0, 20))
    chunks = [given_mels[:0], given_mels[:7], given_mels[:0], given_mels[7:], np.zeros((0, 3), np.float32)]
    near(joined(BUNDLED.stream(mels_from="f5"), chunks), BUNDLED.decode(given_mels, mels_from="f5"), STREAMED)


def test_what_is_given_is_not_changed() -> None:
    given_mels = tenth(mels(0, 20))
    before = given_mels.copy()
    BUNDLED.decode(given_mels, mels_from=MelConvention.named("zipvoice", log=10, clip=1e-3, prompt_rms=0.01))
    assert np.array_equal(given_mels, before)


# Fields


def test_the_repr_can_be_written() -> None:
    for convention in (
        *CONVENTIONS.values(),
        MelConvention(),
        MelConvention("btc", 2, [1, 2.5], np.array([3, 4]), 10, 1e-5, 2, 0.05, True),
    ):
        assert eval(repr(convention)) == convention
        assert hash(eval(repr(convention))) == hash(convention)
    assert repr(MelConvention(axes="btc", scale=0.1)) == "MelConvention(axes='btc', scale=0.1)"
    assert MelConvention(mean=np.array([1, 2], np.float32)).mean == (1.0, 2.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axes": "tbc"}, r"axes is 'tbc', expected 'bct' for \(B, C, T\) or 'btc'"),
        ({"axes": None}, "axes is None, expected"),
        ({"log": 2}, r"log is 2, expected 'e' \(natural logarithms\), 10 or 'db'"),
        ({"log": True}, "log is True, expected"),
        ({"log": []}, r"log is \[\], expected"),
        ({"scale": 0}, "scale is 0, expected a number above 1e-30 and at most 1e.30: what the system multiplied"),
        ({"scale": -0.1}, "scale is -0.1, expected"),
        ({"scale": math.nan}, "scale is nan, expected"),
        ({"scale": math.inf}, "scale is inf, expected"),
        ({"scale": "0.1"}, "scale is '0.1'|the path '0.1' is given"),
        ({"scale": [0.1, 0.2]}, r"scale is \[0\.1, 0\.2\], expected one number"),
        ({"scale": True}, "scale is True, expected"),
        ({"mean": math.nan}, r"mean is nan, expected a number above -1e.30"),
        ({"mean": [1, math.inf]}, "mean is inf, expected"),
        ({"mean": []}, r"mean is \[\], expected that of the mels, or one for each band"),
        ({"mean": [[1, 2]]}, r"mean is \[\[1, 2\]\], expected"),
        ({"mean": None}, "mean: None is given, expected an array"),
        ({"std": 0}, "std is 0, expected a number above 1e-30"),
        ({"std": [1, 0]}, "std is 0, expected"),
        ({"std": [1, -1]}, "std is -1, expected"),
        ({"clip": 0}, "clip is 0, expected .*the least magnitude, such as 1e-5; or None"),
        ({"clip": -11.5}, "clip is -11.5, expected"),
        ({"bands": 0}, "bands is 0, expected 1 to 16384: how many bands there are; or None"),
        ({"bands": 80.0}, "bands is 80.0, expected an integer"),
        ({"prompt_rms": 0}, "prompt_rms is 0, expected .*root mean square of the prompt"),
        ({"prompt_rms": 1200}, "prompt_rms is 1200, expected a number above 1e-30 and at most 1: .*within ±1"),
        ({"clamp": 1}, "clamp is 1, expected True or False"),
        ({"bands": 80, "mean": [1, 2]}, "the numbers of bands contradict one another: bands of 80, mean of 2"),
        ({"mean": [1, 2], "std": [1, 2, 3]}, "contradict one another: mean of 2, std of 3"),
    ],
)
def test_bad_fields(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MelConvention(**fields)


# Invalid arguments


def ways(vocos: VocosONNX, array: Any, **options: Any) -> Iterator[Callable[[], Any]]:
    yield lambda: vocos.decode(array, **options)
    yield lambda: vocos.stream(**options).push(array)
    yield lambda: vocos.stream_pool().open(**options).push(array)
    yield lambda: list(vocos.decode_stream([array], **options))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("F6", "mels_from is 'F6', expected one of 'f5', 'zipvoice', 'matcha', 'chattts', 'mlx', or a MelConvention"),
        ("", "mels_from is '', expected one of 'f5'"),
        (5, "mels_from is 5, expected one of 'f5'"),
        (MelConvention, "mels_from is <class .*MelConvention'>, expected one of 'f5'"),
        (["f5"], r"mels_from is \['f5'\], expected one of 'f5'"),
        (
            "matcha",
            r"mels_from='matcha' is of 80 bands, and this model decodes 100: take a model of 80 ",
        ),
        ("matcha", r"of 80 bands, such as VocosONNX\('BSC-LT/vocos-mel-22khz'\) at 22,050 Hz"),
        (MelConvention(mean=[0, 0]), "is of 2 bands, and this model decodes 100: take a model of 2 bands, or"),
        (MelConvention(std=[1, 1, 1]), "is of 3 bands, and this model decodes 100"),
    ],
)
def test_conventions_that_do_not_fit(name: Any, message: str) -> None:
    for way in ways(BUNDLED, mels(0, 20), mels_from=name):
        with pytest.raises(ValueError, match=message):
            way()


def test_a_model_of_80_bands(of_matcha: VocosONNX) -> None:
    for name in ("f5", "zipvoice", "chattts"):
        with pytest.raises(
            ValueError, match=r"is of 100 bands, and this model decodes 80: .*'charactr/vocos-mel-24khz'"
        ):
            of_matcha.decode(mels(0, 20, bands=80), mels_from=name)
    assert of_matcha.decode(mels(0, 20, bands=80).T, mels_from="mlx").shape == (20 * 256,)


def test_a_model_of_tokens(encodec: VocosONNX) -> None:
    for array in (np.zeros((2, 5), int), np.zeros((8, 5), np.float32)):
        for way in ways(encodec, array, mels_from="f5"):
            with pytest.raises(
                ValueError, match=r"mels_from is 'f5', and this model decodes tokens of .*: leave it out"
            ):
                way()


def test_tokens_as_mels() -> None:
    for way in ways(BUNDLED, np.zeros((4, 100), int), mels_from="f5"):
        with pytest.raises(ValueError, match="this is a mel model: it decodes float features"):
            way()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_mels_that_are_not_finite(value: float) -> None:
    bad = mels(0, 20).T.copy()
    bad[3, 5] = value
    for name in ("f5", "zipvoice", MelConvention(axes="btc", clip=1e-5)):
        for way in ways(BUNDLED, bad, mels_from=name):
            with pytest.raises(ValueError, match="features hold 1 values that are NaN or infinite in float32"):
                way()


def test_a_scale_that_leaves_nothing_finite() -> None:
    with pytest.raises(ValueError, match=r"are infinite in float32 with mels_from=.*: check its scale, std and mean"):
        BUNDLED.decode(np.full((100, 20), 1e20), mels_from=MelConvention(scale=1e-20))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5], r"lengths is \[5\], expected 2 integers: the frames of each item"),
        ([5, 5, 5], "expected 2 integers"),
        ([5.0, 5.0], r"lengths is \[5.0, 5.0\], expected 2 integers"),
        ([True, True], "expected 2 integers"),
        (5, "lengths is 5, expected 2 integers"),
        ([[5, 5]], "expected 2 integers"),
        ([], "expected 2 integers"),
        ([0, 5], "lengths holds 0 for item 0, expected 1 to 9"),
        ([5, 10], "lengths holds 10 for item 1, expected 1 to 9: the batch has as many frames"),
        ([5, -1], "lengths holds -1 for item 1"),
        ("55", "the path '55' is given"),
    ],
)
def test_bad_lengths(lengths: Any, message: str) -> None:
    batch = mels(0, 9, batch=2)
    with pytest.raises(ValueError, match=message):
        BUNDLED.decode(batch, lengths=lengths)
    with pytest.raises(ValueError, match=message):
        BUNDLED.decode(btc(batch), mels_from="f5", lengths=lengths)


def test_lengths_where_there_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"lengths is given, and the array has shape \(100, 9\), expected a batch"):
        BUNDLED.decode(mels(0, 9), lengths=[9])
    with pytest.raises(ValueError, match="the items of a list have their own: leave it out"):
        BUNDLED.decode([mels(0, 9)], lengths=[9])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(2, 9, 100\), expected \(100, T\).*look like \(B, T, C\)"):
        BUNDLED.decode(btc(mels(0, 9, batch=2)), lengths=[300, 9])


def test_lengths_of_tokens(encodec: VocosONNX) -> None:
    """``lengths`` works in both layouts, and with a special token as padding."""
    tokens = np.random.default_rng(0).integers(1024, size=(3, 2, 9))
    lengths = [9, 1, 4]
    for row, length in zip(tokens, lengths, strict=True):
        row[:, length:] = 1024
    expected = [encodec.decode(row[:, :length]) for row, length in zip(tokens, lengths, strict=True)]
    for audio in (
        encodec.decode(tokens, layout="bkt", lengths=lengths),
        encodec.decode(tokens.swapaxes(0, 1), lengths=np.array(lengths)),
    ):
        for one, other in zip(audio, expected, strict=True):
            assert np.array_equal(one, other)
    features = encodec.codes_to_features(tokens % 1024, layout="bkt")
    audio = encodec.decode(features, 1, lengths=[9, 9, 9])
    assert np.array_equal(audio[2], encodec.decode(features[2], 1))


# Axes


@pytest.mark.parametrize("batch", [None, 2])
def test_the_hints_for_axes(batch: int | None) -> None:
    original = mels(0, 20, batch=batch)
    expected = BUNDLED.decode(original)

    def remedies(array: Float, name: Any = None) -> list[dict[str, Any]]:
        with pytest.raises(ValueError) as caught:
            BUNDLED.decode(array, mels_from=name)
        text = str(caught.value)
        assert re.search(r"; they look like \((B, )?(T, C|C, T)\)", text), text
        passed = [{"mels_from": found} for found in re.findall(r'"(\w+)"', text) if found != "zipvoice"]
        return [*passed, {"array": eval(found(r"pass (mels(\.T|\.transpose\(0, 2, 1\)))", text)[1], {"mels": array})}]

    for remedy in (*(plain := remedies(btc(original))), *remedies(btc(original), MelConvention())):
        audio = BUNDLED.decode(remedy.get("array", btc(original)), mels_from=remedy.get("mels_from"))
        assert np.array_equal(audio, expected)
    assert [remedy.get("mels_from") for remedy in plain] == ["f5", "mlx", None]
    others: tuple[tuple[MelsFrom, bool], ...] = (
        ("f5", True), ("zipvoice", False), (MelConvention(axes="btc", log=10), False)
    )  # fmt: skip
    for name, leave in others:
        with pytest.raises(ValueError, match=r"look like .*: pass mels") as caught:
            BUNDLED.decode(original, mels_from=name)
        assert str(caught.value).endswith(", or leave mels_from out") == leave
        written = f"mels_from={name!r}"
        assert f"expected (T, 100) or (B, T, 100) with {written}; " in str(caught.value)


def test_the_hint_for_mels_of_zipvoice() -> None:
    """They are recognised by their range, since their axes alone do not identify them."""
    original = mels(0, 60)
    with pytest.raises(ValueError, match=r'scaled by 0\.1: pass mels_from="zipvoice", or mels\.T / 0\.1$'):
        BUNDLED.decode(tenth(original))
    near(BUNDLED.decode(tenth(original), mels_from="zipvoice"), BUNDLED.decode(original).clip(-1, 1), ROUNDED)


def test_other_numbers_of_bands_have_other_hints(of_matcha: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r'they look like \(T, C\): pass mels\.T, or mels_from="mlx"$'):
        of_matcha.decode(mels(0, 20, bands=80).T)


def square_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> list[str]:
    monkeypatch.setattr(once, "_warned", set())
    caplog.clear()
    with caplog.at_level(logging.WARNING, "vocos_onnx"):
        call()
        call()
    return [record.getMessage() for record in caplog.records]


def test_mels_of_as_many_frames_as_bands(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    square = mels(0, 100)
    for way in (*ways(BUNDLED, square), lambda: BUNDLED.decode([square])):
        (line,) = square_lines(caplog, monkeypatch, way)
        assert "as many frames as bands, 100, and are read as (C, T): if they are (T, C), pass mels_from=" in line
    (line,) = square_lines(caplog, monkeypatch, lambda: BUNDLED.decode(square[None]))
    assert "are read as (B, C, T): if they are (B, T, C)" in line
    silent: list[Callable[[], Any]] = [
        *ways(BUNDLED, square, mels_from="chattts"),
        *ways(BUNDLED, square, mels_from=MelConvention()),
        *ways(BUNDLED, square, check=False),
        *ways(BUNDLED, mels(0, 99)),
        lambda: BUNDLED(np.random.default_rng(0).normal(0, 0.1, 99 * 256).astype(np.float32), 24_000),
    ]
    for way in silent:
        assert not square_lines(caplog, monkeypatch, way)


# Mels that cannot be the model's


@pytest.fixture(scope="module")
def speech() -> Float:
    """Mels (C, T) of the first 200 frames of a recording, decoded from tokens."""
    with np.load(default_model().parent / "speech_it_f_paola_48k.npz") as archive:
        audio = VocosONNX(threads=1).decode(archive["tokens"])
    return BUNDLED.features(audio, 24_000)[:, :200]


def test_check(speech: Float, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    decibels = speech * np.float32(20 / np.log(10))
    fresh = VocosONNX("vocos-mel-24khz-small", threads=1)  # a model that has made calls checks only some
    monkeypatch.setattr(once, "_warned", set())
    for way in ways(BUNDLED, decibels, check=False):
        way()
    for _ in range(40):  # every call is checked
        with pytest.raises(ValueError, match=r"cannot be the mels that this model decodes: .*look like decibels"):
            BUNDLED.decode(decibels, check=True)
    for way in ways(BUNDLED, decibels, check=True):
        with pytest.raises(ValueError, match=r"cannot be the mels that this model decodes: .*look like decibels"):
            way()
    with pytest.raises(ValueError, match="cannot be the mels"):
        BUNDLED.decode([speech, decibels], check=True)
    with pytest.raises(ValueError, match="cannot be the mels"):
        BUNDLED.decode(np.stack([speech, decibels]), check=True, lengths=[60, 60])
    with pytest.raises(ValueError, match="cannot be the mels"):
        BUNDLED.decode(np.full((100, 60), 1e5), check=True)
    for way in ways(BUNDLED, speech, check=True):
        way()
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"look like decibels: .*check=False silences this"):
        fresh.decode(decibels)
    fresh.decode(decibels)  # it warns only once
    with pytest.raises(ValueError, match="cannot be the mels"):  # even after the warning
        BUNDLED.decode(decibels, check=True)
    for check in (1, "yes", 0):
        with pytest.raises(ValueError, match=r"check is .*, expected None"):
            BUNDLED.decode(speech, check=check)  # type: ignore[call-overload]


def test_the_check_is_of_what_the_model_decodes(speech: Float) -> None:
    for name in ("f5", "zipvoice", "chattts", "mlx"):
        near(
            BUNDLED.decode(HANDED_OVER[name](speech), mels_from=name, check=True),
            BUNDLED.decode(speech).clip(-1, 1) if name == "zipvoice" else BUNDLED.decode(speech),
            ROUNDED,
        )
    with pytest.raises(ValueError, match=r'scaled down: pass mels_from="zipvoice" if they are of ZipVoice'):
        BUNDLED.decode(tenth(speech), mels_from="f5", check=True)
    with pytest.raises(
        ValueError,
        match=r"mels from -.*: with mels_from='zipvoice' they look like decibels, and are not "
        r"that system's: pass mels_from=\"f5\" or \"mlx\"$",
    ):
        BUNDLED.decode(btc(speech), mels_from="zipvoice", check=True)
    with pytest.raises(
        ValueError, match=r"read with mels_from=MelConvention\(scale=0.1\), these .*: its fields are of"
    ):
        BUNDLED.decode(speech, mels_from=MelConvention(scale=0.1), check=True)
    with pytest.raises(ValueError, match=r"shape \(100, 60\), expected \(T, 100\) .* with mels_from='f5'"):
        BUNDLED.decode(speech[:, :60], mels_from="f5")


@pytest.mark.parametrize("name", ["F5-TTS", "Matcha-TTS", "ChatTTS", "Zipvoice", "MLX", "f5"])
def test_names_as_the_systems_write_them(name: str) -> None:
    assert MelConvention.named(name) == MelConvention.named(name.lower().removesuffix("-tts"))
    for other in ("tts", "-tts", "chat-tts2", "f", "", None):
        with pytest.raises(ValueError, match=r"mels_from is .*, expected one of 'f5', 'zipvoice', 'matcha', "):
            MelConvention.named(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", ["bct", "btc"])
@pytest.mark.parametrize(
    ("wrong", "first"),
    [
        (lambda x: 20 * x / np.log(10), "log='db'"),
        (lambda x: x / np.log(10), "log=10"),
        (lambda x: 2 * x, r"scale=2\.0.*log='db'|scale=2\.0"),
        (lambda x: 0.1 * x, "scale=0.1|zipvoice"),
    ],
    ids=["decibels", "log10", "powers", "0.1"],
)
def test_the_remedy_is_what_to_pass(axes: Any, wrong: Callable[[Float], Float], first: str, speech: Float) -> None:
    handed = wrong(speech).astype(np.float32)
    handed = handed.T if axes == "btc" else handed
    with pytest.raises(ValueError, match=f"pass mels_from=.*({first})") as caught:
        BUNDLED.decode(handed, mels_from=MelConvention(axes=axes), check=True)
    expected = BUNDLED.decode(speech)
    errors = []
    for written in re.findall(r'mels_from=("\w+"|MelConvention\([^)]*\))', str(caught.value)):
        if "MEAN" not in written:
            audio = BUNDLED.decode(handed, mels_from=eval(written))
            errors.append(np.abs(audio - expected).max() / np.abs(expected).max())
    assert min(errors) <= ROUNDED


def test_a_model_that_does_not_say_how_its_mels_are_made(speech: Float) -> None:
    """For a file of another exporter, the check assumes the settings of most models."""
    stock = stock_mel(BUNDLED.config)
    assert (stock.n_fft, stock.hop_length, stock.n_mels, stock.clip) == (1024, 256, 100, 1e-5)
    assert (stock.f_max, stock.padding) == (12_000, "center")
    reader = MelReader(BUNDLED.config, None)
    assert reader.decodes == "mels"
    (frames,) = reader.read(speech, None, "kbt", check=True).items
    assert np.array_equal(frames.values[0], speech)
    for wrong in (speech * 8.686, np.exp(speech), speech / np.log(10)):
        with pytest.raises(ValueError, match="cannot be the mels that this model decodes"):
            reader.read(wrong.astype(np.float32), None, "kbt", check=True)


# The command line


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vocos_onnx import load_audio
    from vocos_onnx.cli.program import main

    original = mels(3, 50)
    np.save(tmp_path / "mels.npy", original)
    options = ["--model", "vocos-mel-24khz-small", "--threads", "1"]
    assert main(["decode", str(tmp_path / "mels.npy"), str(tmp_path / "expected.wav"), *options]) == 0
    expected = load_audio(tmp_path / "expected.wav", 24_000)
    for name in ("f5", "chattts", "mlx", "zipvoice"):
        for handed in (HANDED_OVER[name](original), HANDED_OVER[name](original)[None]):
            np.save(tmp_path / "handed.npy", handed)
            output = tmp_path / "out.wav"
            assert main(["decode", "-y", str(tmp_path / "handed.npy"), str(output), *options, "--mels-from", name]) == 0
            given_audio = load_audio(output, 24_000)
            assert given_audio.shape == expected.shape
            assert np.abs(given_audio - expected).max() <= 2**-15  # at 16 bits, a sample may round the other way
    capsys.readouterr()
    file = str(tmp_path / "handed.npy")
    for arguments, message in (
        ([*options, "--mels-from", "F6"], "'F6' is not one of f5, zipvoice, matcha, chattts, mlx"),
        ([*options, "--mels-from", "matcha"], "is of 80 bands, and this model decodes 100"),
        (
            ["--mels-from", "f5"],
            "--mels-from is given, but this model decodes tokens of vocos_onnx_24khz: leave it out",
        ),
    ):
        try:
            assert main(["decode", "-y", file, str(tmp_path / "out.wav"), *arguments]) == 2
        except SystemExit as error:
            assert error.code == 2
        assert message in capsys.readouterr().err
