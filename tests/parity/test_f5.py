"""Mels from F5-TTS's own front-end decode to the same audio as our mels of the same recording."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.test_encodec import RATE, recording, recordings
from vocos_onnx import MelConvention, VocosONNX
from vocos_onnx.arrays import Float

CLIP = np.float32(np.log(1e-5))  # of F5-TTS; the model's own is 1e-7
EXACT_TOLERANCE = 2e-6  # of a log-mel of -16, as in test_mel.py; measured: 0
AUDIO_TOLERANCE = 1e-5  # of the peak; measured: 0
# F5-TTS computes in float32, where the FFT rounds bands far below the peak of their frame (see test_mel.py).
AUDIBLE, AUDIBLE_TOLERANCE = 50 / 20 * np.log(10), 1e-4


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """``f5_tts.model.modules``, without the training imports of ``f5_tts.model``."""
    spec = importlib.util.find_spec("f5_tts")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("f5-tts is not installed")
    package = types.ModuleType("f5_tts.model")
    package.__path__ = [str(Path(place) / "model") for place in spec.submodule_search_locations]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(sys.modules, "f5_tts.model", package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # x-transformers uses the deprecated torch.jit.script
            module = importlib.import_module("f5_tts.model.modules")
        yield module


@pytest.fixture(scope="module")
def vocos() -> VocosONNX:
    return VocosONNX("vocos-mel-24khz-small", providers=["CPUExecutionProvider"], threads=1)


def of_f5(modules: Any, audio: Float, dtype: torch.dtype) -> Float:
    """Audio (N,) -> the mels (1, T, 100) of F5-TTS, before it transposes them for its vocoder."""
    modules.vocos_mel_stft_cache.clear()  # its key does not include the dtype
    torch.set_default_dtype(dtype)
    try:
        with torch.inference_mode():
            mels = modules.MelSpec()(torch.from_numpy(audio).to(dtype)[None])
        return mels.permute(0, 2, 1).to(torch.float32).numpy()
    finally:
        torch.set_default_dtype(torch.float32)
        modules.vocos_mel_stft_cache.clear()


@pytest.mark.parametrize("name", recordings())
def test_the_audio_is_that_of_our_mels(name: str, modules: Any, vocos: VocosONNX) -> None:
    """In float64 the two front-ends differ only in the clip; if it changes no mel, the audio is the same."""
    audio = recording(name)
    handed = of_f5(modules, audio, torch.float64)
    ours = vocos.features(audio, RATE)
    clipped = np.maximum(ours, CLIP)
    assert handed.shape == (1, ours.shape[1], 100)
    difference = np.abs(handed[0].T - clipped).max()
    given, expected, unclipped = vocos.decode(handed, mels_from="f5")[0], vocos.decode(clipped), vocos.decode(ours)
    assert given.shape == expected.shape == ((ours.shape[1] - 1) * 256,)
    peak = np.abs(expected).max()
    assert peak > 0.05, "silence proves nothing"
    apart, from_unclipped = (np.abs(given - other).max() / peak for other in (expected, unclipped))
    changed = (ours < CLIP).mean()
    print(f"{name}: mels {difference:.1e}, audio {apart:.1e}; {changed:.1%} clipped, without that {from_unclipped:.1e}")
    assert difference <= EXACT_TOLERANCE
    assert apart <= AUDIO_TOLERANCE
    assert (from_unclipped > AUDIO_TOLERANCE) == (changed > 0)
    stream = vocos.stream(mels_from="f5")
    streamed = np.concatenate([*map(stream.push, np.array_split(handed[0], 7)), stream.flush()])
    assert np.abs(streamed - given).max() <= AUDIO_TOLERANCE * peak


@pytest.mark.parametrize("name", recordings())
def test_its_mels_as_it_computes_them(name: str, modules: Any, vocos: VocosONNX) -> None:
    """In float32 the mels equal ours wherever that precision suffices, and mels_from="f5" only transposes them."""
    audio = recording(name)
    handed = of_f5(modules, audio, torch.float32)
    clipped = np.maximum(vocos.features(audio, RATE), CLIP)
    audible = clipped > np.maximum(clipped.max(axis=0) - AUDIBLE, CLIP)
    assert audible.mean() > 0.3
    difference = np.abs(handed[0].T - clipped)[audible].max()
    given, ours = vocos.decode(handed, mels_from="f5", check=True), vocos.decode(clipped)
    apart = np.abs(given[0] - ours).max() / np.abs(ours).max()
    print(f"{name}: mels {difference:.1e} where audible ({audible.mean():.0%}), audio {apart:.1e}")
    assert difference <= AUDIBLE_TOLERANCE
    assert np.array_equal(given, vocos.decode(handed.transpose(0, 2, 1)))


def test_the_level_of_a_quiet_prompt(modules: Any, vocos: VocosONNX) -> None:
    """As in f5_tts/infer/utils_infer.py, the prompt is raised to an RMS of 0.1 and the audio lowered by that gain."""
    audio = recording(recordings()[0])
    audio *= np.float32(0.03) / np.sqrt(np.mean(np.square(audio)))
    rms = torch.sqrt(torch.mean(torch.square(torch.from_numpy(audio))))
    raised = (torch.from_numpy(audio) * 0.1 / rms).numpy()
    handed = of_f5(modules, raised, torch.float32)
    plain = vocos.decode(handed, mels_from="f5")
    expected = (torch.from_numpy(plain) * rms / 0.1).numpy()
    given = vocos.decode(handed, mels_from=MelConvention.named("f5", prompt_rms=rms))
    assert np.abs(given - expected).max() <= 1e-6 * np.abs(expected).max()
    assert abs(np.sqrt(np.mean(np.square(given))) - 0.03) < 0.01
