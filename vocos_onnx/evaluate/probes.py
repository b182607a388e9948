"""Probes that recordings do not cover: how a model handles tones, silence, and quiet and narrow-band audio."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.resample import resample

from .metrics import level_error

SECONDS, PEAK = 3.0, 0.5  # of the signals
TONES = {"440 Hz": 440.0, "3 kHz": 3000.0}
SWEEP = (100.0, 8000.0)  # Hz, logarithmic
QUIET = {"-40 dBFS": -40.0, "-60 dBFS": -60.0}  # peak of a recording
RATES = {"8 kHz": 8000, "16 kHz": 16000}  # that a recording is resampled to, and back


def signals(sample_rate: int) -> dict[str, Float]:
    """Signals (N,) of 3 s, by name: two tones and a sweep, with peaks of 0.5."""
    time = np.arange(round(SECONDS * sample_rate)) / sample_rate
    frequency = SWEEP[0] * (SWEEP[1] / SWEEP[0]) ** (time / SECONDS)
    phases = {name: hertz * time for name, hertz in TONES.items()} | {"sweep": np.cumsum(frequency) / sample_rate}
    return {name: (PEAK * np.sin(2 * np.pi * phase)).astype(np.float32) for name, phase in phases.items()}


def versions(recording: Float, sample_rate: int) -> dict[str, Float]:
    """Versions (N,) of a recording (N,), by name: quiet ones, and ones as if recorded at low sample rates."""
    peak = np.abs(recording).max()
    quiet = {name: (recording * (10 ** (db / 20) / peak)).astype(np.float32) for name, db in QUIET.items()}
    narrow = {
        name: resample(resample(recording, sample_rate, rate), rate, sample_rate)[: len(recording)]
        for name, rate in RATES.items()
    }
    return {**quiet, **narrow}


def probe(copy: Callable[[Float], Float], recordings: list[Float], sample_rate: int) -> dict[str, float]:
    """The level error of a model's output for each probe, in dB; for ``silence`` the output level, in dBFS.

    Args:
        copy: makes a copy (M,), M <= N, of audio (N,) at the sample rate.
        recordings: (N,) each, none silent; the errors of their versions are averaged.
        sample_rate: sample rate of all audio, in Hz.

    Example:
        >>> probe(lambda audio: vocos(audio, 24_000)[: len(audio)], [speech], 24_000)["440 Hz"]
    """

    def error(audio: Float) -> float:
        made = copy(audio)
        return level_error(audio[: len(made)], made, sample_rate)

    errors = {name: error(audio) for name, audio in signals(sample_rate).items()}
    silence = copy(np.zeros(round(SECONDS * sample_rate), np.float32)).astype(np.float64)
    errors["silence"] = float(10 * np.log10(np.mean(silence**2) + 1e-20))
    each = [{name: error(audio) for name, audio in versions(audio, sample_rate).items()} for audio in recordings]
    return errors | {name: float(np.nanmean([row[name] for row in each])) for name in (*QUIET, *RATES)}
