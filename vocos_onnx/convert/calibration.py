"""Calibration with real input: measures the int8 ranges, and the quality that int8 or float16 costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.mel import log_mel
from vocos_onnx.frames import reader_of
from vocos_onnx.inverse import Inverse
from vocos_onnx.io.samples import read_waveform
from vocos_onnx.model.bundled import BUNDLED_CODEC, CODEC, default_model
from vocos_onnx.model.config import Quality
from vocos_onnx.model.providers import CPU
from vocos_onnx.network import Network

Score = Callable[[npt.NDArray[Any], npt.NDArray[Any], int], float]  # takes a reference, a copy, and their sample rate
Decode = Callable[[npt.NDArray[Any], int | None], Float]  # like ``Decoder.decode``
Range = tuple[float, float]
MIN_SNR_DB = 10.0  # below this, something has gone wrong
_AT_ONCE = 128  # frames


class Decoder:
    """A model that decodes one sequence at a time, on the CPU."""

    def __init__(self, path: str | os.PathLike[str]):
        self.network = Network(path, [CPU])
        self.config = self.network.config
        self._reader = reader_of(self.config, self.network.codebooks)
        self._inverse = Inverse(self.config)

    def read(self, array: npt.NDArray[Any], bandwidth_id: int | None = None) -> tuple[Float, int | None]:
        """Tokens (K, T) or features (C, T) -> features (1, C, T), and the bandwidth id, by default that of the tokens.

        Raises ValueError if the model cannot decode them.
        """
        # Tokens may have fewer codebooks than the bandwidth; that needs no warning here.
        requested = None if np.issubdtype(array.dtype, np.integer) else bandwidth_id
        (frames,) = self._reader.read(array, requested, "kbt", check=False).items
        return frames.features(0, frames.length), frames.bandwidth_id if bandwidth_id is None else bandwidth_id

    def decode(self, array: npt.NDArray[Any], bandwidth_id: int | None = None) -> Float:
        """Tokens (K, T) or features (C, T) -> audio (samples,)."""
        return self.audio(self.network.spectrum(*self.read(array, bandwidth_id)))

    def audio(self, spectrum: npt.NDArray[Any]) -> Float:
        """Spectrum (1, T, F) -> audio (samples,)."""
        audio: Float = self._inverse.overlap_add().add(self._inverse.summed(spectrum, 0), last=True)[0]
        return audio


@dataclass(frozen=True, eq=False)
class Item:
    """Tokens (K, T) or features (C, T), a bandwidth id, and the float32 model's audio (samples,) for it."""

    array: npt.NDArray[Any]
    bandwidth_id: int | None
    audio: Float


def calibration_items(original: Decoder, calibration: Sequence[npt.ArrayLike] | None) -> list[Item]:
    """The calibration data, by default bundled speech, with every bandwidth id.

    Raises ValueError if it is empty, if the model cannot decode it, or if no tokens of the model's codec are bundled.
    """
    config = original.config
    if calibration is None:
        given: Sequence[npt.NDArray[Any]] = _bundled_speech(original)
    elif not len(calibration):
        raise ValueError("calibration is empty, expected one or more arrays of tokens or features")
    else:
        given = [np.asarray(item) for item in calibration]
    ids: list[int | None] = list(range(config.num_bandwidth_ids)) or [None]
    counts = config.encodec.codebooks_per_bandwidth if config.encodec else ()
    items: list[Item] = []
    for array in given:
        if array.ndim != 2:
            raise ValueError(f"calibration has shape {array.shape}, expected tokens (K, T) or features (C, T)")
        for i in ids:
            is_tokens = np.issubdtype(array.dtype, np.integer)
            item = array[: counts[i]] if is_tokens and i is not None and i < len(counts) else array
            items.append(Item(item, i, original.decode(item, i)))
    return items


def _bundled_speech(original: Decoder) -> list[npt.NDArray[Any]]:
    config, folder = original.config, default_model().parent
    speech = [_load(path)["tokens"] for path in sorted(folder.glob("speech_*.npz"))]
    if config.mel is not None:
        codec = Decoder(CODEC)
        rate = codec.config.sample_rate
        audio = [read_waveform(codec.decode(tokens), rate, config.sample_rate) for tokens in speech]
        return [log_mel(one, config.sample_rate, config.mel)[0] for one in audio]
    assert config.encodec is not None
    if config.encodec.codec == BUNDLED_CODEC:
        return speech
    if config.encodec.codec == "encodec_24khz":
        return list(_load(folder / "encodec_24khz_tokens.npz").values())
    raise ValueError(f"no tokens of {config.encodec.codec} are bundled; pass some with --calibrate, or calibration=")


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files if archive[name].ndim == 2}


@dataclass(frozen=True, eq=False)
class Stretch:
    """Inputs of a graph for whole sequences, by name, and the ``rows`` of its outputs to keep.

    The other frames are only context.
    """

    inputs: dict[str, npt.NDArray[Any]]
    rows: slice


def cut(original: Decoder, items: Sequence[Item]) -> list[Stretch]:
    """Splits the items into spans of _AT_ONCE frames: the inputs of all layers take 70 kB per frame."""
    stretches = []
    for item in items:
        features, bandwidth_id = original.read(item.array, item.bandwidth_id)
        reach, frames = original.network.reach, features.shape[2]
        for start in range(0, frames, _AT_ONCE):
            stop, first = min(start + _AT_ONCE, frames), max(0, start - reach)
            inputs: dict[str, npt.NDArray[Any]] = {"features": features[:, :, first : stop + reach]}
            if bandwidth_id is not None:
                inputs["bandwidth_id"] = np.array(bandwidth_id, np.int64)
            stretches.append(Stretch(inputs, slice(start - first, stop - first)))
    return stretches


def ranges_of(stretches: Sequence[Stretch], outputs: Iterable[Mapping[str, npt.NDArray[Any]]]) -> dict[str, Range]:
    """The minimum and maximum of each output (..., frames, channels) over the spans, extended to include 0."""
    ranges: dict[str, Range] = {}
    for stretch, values in zip(stretches, outputs, strict=True):
        for name, value in values.items():
            wanted = value[..., stretch.rows, :]
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(wanted.min())), max(high, float(wanted.max()))
    return ranges


def quality_of(decode: Decode, items: Sequence[Item], sample_rate: int, score: Score | None = None) -> Quality:
    """How close an int8 or float16 model is to the float32 one. ``score``, if given, scores the speech."""
    ratios, scores, seconds = [], [], 0.0
    for item in items:
        expected = item.audio.astype(np.float64)
        given = decode(item.array, item.bandwidth_id).astype(np.float64)
        noise = np.square(given - expected).sum()
        ratios.append(10 * np.log10(np.square(expected).sum() / noise) if noise else 200.0)  # JSON has no infinity
        scores.append(score(expected, given, sample_rate) if score else np.nan)
        seconds += len(expected) / sample_rate
    measured = [value for value in scores if np.isfinite(value)]
    pesq = float(np.mean(measured)) if measured else None
    return Quality(round(float(np.mean(ratios)), 2), None if pesq is None else round(pesq, 3), round(seconds, 1))


def quality_line(precision: str, quality: Quality) -> str:
    """One line that reports the quality."""
    pesq = "not measured" if quality.pesq_wb is None else f"{quality.pesq_wb:.2f} of 4.64"
    return f"{precision} against float32, {quality.seconds:.0f} s of audio: SNR {quality.snr_db:.1f} dB, PESQ-WB {pesq}"
