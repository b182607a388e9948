"""Measures how close a copy is to its recording, and how good speech sounds (needs the extra [report], no torch).

Every metric takes mono audio (N,) with full scale ±1 at any sample rate, and resamples it to the rate that the metric
is defined at. A figure that is undefined, such as that of silence, is nan.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.mel import MelFeatures, log_mel
from vocos_onnx.dsp.resample import resample

Audio = npt.NDArray[np.floating[Any]]

MEL_RATE = 24_000
MEL = MelFeatures(n_fft=1024, hop_length=256, n_mels=100, padding="center", f_min=0.0, f_max=MEL_RATE / 2)
PESQ_LONGEST = 20  # s
DNSMOS_RATE, DNSMOS_SHORTEST = 16_000, 0.25  # Hz, s
BUZZ_BAND = (2_500, 6_000)  # Hz, the band whose envelope ``frame_rate_line`` analyses
HARMONIC_BANDS = {"harmonicity": (100, 1_000), "harmonicity_1k": (1_000, 2_000), "harmonicity_2k": (2_000, 4_000)}
LEVEL_BANDS = {
    "level_0k": (0, 1_000),
    "level_1k": (1_000, 4_000),
    "level_4k": (4_000, 8_000),
    "level_8k": (8_000, 12_000),
}
FRAME, STEP = 1200, 600  # samples at 24 kHz, for ``harmonicity``


def pesq_wb(reference: Audio, estimate: Audio, sample_rate: int) -> float:
    """Wide-band PESQ of a copy, at 16 kHz: predicted mean opinion score, 1.04 (bad) to 4.64 (the same).

    ITU-T P.862.2, as the package pesq computes it. P.862 is not meant for more than 20 s: for longer audio the result
    is the mean over equal segments of at most 20 s.

    Returns:
        nan if either is silent, no speech is found in the reference, or they are shorter than 1/4 s.

    Raises:
        ValueError: if reference and estimate are not both (N,).
        ImportError: if the package pesq is not installed.
    """
    pesq = require("pesq")
    pair = _pair(reference, estimate, sample_rate, 16_000)
    if pair is None:
        return np.nan
    # The package has room for 50 utterances and checks no bounds: more of them crash it. One takes 0.4 s with its
    # pause.
    segments = -(-len(pair[0]) // (PESQ_LONGEST * 16_000))
    scores = []
    for one, other in zip(*(np.array_split(audio, segments) for audio in pair), strict=True):
        if one.any() and other.any():
            with suppress(pesq.NoUtterancesError, pesq.BufferTooShortError):
                scores.append(pesq.pesq(16_000, one, other, "wb"))
    return float(np.mean(scores)) if scores else np.nan


def pesq_wb_or_nan(reference: Audio, estimate: Audio, sample_rate: int) -> float:
    """Like ``pesq_wb``, but nan without the package."""
    try:
        return pesq_wb(reference, estimate, sample_rate)
    except ImportError:
        return np.nan


def stoi(reference: Audio, estimate: Audio, sample_rate: int) -> float:
    """Short-time objective intelligibility of a copy, at 10 kHz: a correlation, about 0 (bad) to 1 (the same).

    Taal, Hendriks, Heusdens & Jensen 2011, as the package pystoi computes it.

    Returns:
        nan if the reference is silent, or has less than 0.4 s (30 frames) within 40 dB of its loudest frame.

    Raises:
        ValueError: if reference and estimate are not both (N,).
        ImportError: if the package pystoi is not installed.
    """
    pystoi = require("pystoi")
    pair = _pair(reference, estimate, sample_rate, 10_000)
    if pair is None:
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # for too few frames pystoi warns, and returns 1e-5
        try:
            return float(pystoi.stoi(*pair, 10_000))
        except (RuntimeWarning, np.exceptions.AxisError):  # AxisError: no frame at all
            return np.nan


def mel_distance(reference: Audio, estimate: Audio, sample_rate: int) -> float:
    """Mean absolute difference of log-mel spectrograms, at 24 kHz: nepers, 0 (the same) and up; 1 neper is 8.7 dB.

    The mels are those of vocos-mel-24khz (100 bands, n_fft 1024, hop 256, HTK scale, magnitudes of 1e-7 and up), so
    this is the mel loss that vocos 0.1.0 is trained with (``loss.MelSpecReconstructionLoss``).

    Returns:
        nan if the reference is silent, or both are too short for one frame: up to 512 samples at 24 kHz.

    Raises:
        ValueError: if reference and estimate are not both (N,).
    """
    pair = _pair(reference, estimate, sample_rate, MEL_RATE)
    if pair is None or len(pair[0]) <= MEL.n_fft // 2:
        return np.nan
    one, other = log_mel(np.stack(pair), MEL_RATE, MEL)
    return float(np.abs(one - other).mean(dtype=np.float64))


def dnsmos(audio: Audio, sample_rate: int) -> dict[str, float]:
    """Quality of speech without a reference, at 16 kHz: predicted mean opinion scores, 1 (bad) to 5 (excellent).

    Microsoft's DNSMOS P.835 (Reddy, Gopal & Cutler 2022), as the package speechmos computes it. Its networks take 9.01
    s: shorter audio is repeated; longer audio is scored in windows of that length, one starting at each whole second,
    and the scores are averaged. Values beyond ±1 are clipped.

    Returns:
        ``ovrl`` overall, ``sig`` the speech itself, ``bak`` the background, and ``p808``, the overall score of the
        P.808 network (Reddy et al. 2021). All are nan for silence and for audio shorter than 1/4 s.

    Raises:
        ValueError: if audio is not (N,).
        ImportError: if the package speechmos is not installed, or librosa or requests, which it needs but does not
            declare.
    """
    networks = require("speechmos.dnsmos")
    names = ("ovrl", "sig", "bak", "p808")
    pair = _pair(audio, audio, sample_rate, DNSMOS_RATE)
    if pair is None or len(pair[0]) < DNSMOS_SHORTEST * DNSMOS_RATE:
        return dict.fromkeys(names, np.nan)
    scores = networks.run(pair[0].clip(-1, 1), DNSMOS_RATE)
    return {name: float(scores[f"{name}_mos"]) for name in names}


def frame_rate_line(audio: Audio, sample_rate: int, frame_rate: float) -> float:
    """Prominence of the frame rate in the envelope of 2.5 to 6 kHz, at 24 kHz: dB, about 0 in recordings.

    The power of the envelope's spectrum within 0.3 Hz of ``frame_rate`` (the vocoder's frames per second), over the
    power 1 to 8 Hz away from it. Neighbouring frames that contradict one another are heard as a buzz, which measures
    more than 2 dB.

    Returns:
        nan if the audio is silent, or shorter than 2 s.

    Raises:
        ValueError: if audio is not (N,).
        ImportError: if scipy, which the package pystoi depends on, is not installed.
    """
    pair = _pair(audio, audio, sample_rate, MEL_RATE)
    if pair is None or len(pair[0]) < 2 * MEL_RATE:
        return np.nan
    signal = require("scipy.signal")
    envelope = np.abs(_band(pair[0], *BUZZ_BAND))
    power = np.abs(np.fft.rfft((envelope - envelope.mean()) * signal.windows.hann(len(envelope)))) ** 2
    away = np.abs(np.fft.rfftfreq(len(envelope), 1 / MEL_RATE) - frame_rate)
    beside = power[(away > 1) & (away < 8)].mean()
    return float(10 * np.log10(power[away < 0.3].mean() / beside)) if beside else np.nan


def harmonicity(audio: Audio, sample_rate: int, low: float, high: float) -> float:
    """How periodic a voice is in a band of ``low`` to ``high`` Hz, at 24 kHz: 0 (noise) to about 1.

    The highest normalised autocorrelation at lags of 2.5 to 12.5 ms (pitches of 80 to 400 Hz): the median over the 50
    ms frames with at least 3 % of the loudest one's energy.

    Returns:
        nan if the audio is silent, or shorter than 50 ms.

    Raises:
        ValueError: if audio is not (N,).
        ImportError: if scipy, which the package pystoi depends on, is not installed.
    """
    pair = _pair(audio, audio, sample_rate, MEL_RATE)
    if pair is None or len(pair[0]) < FRAME:
        return np.nan
    frames = np.lib.stride_tricks.sliding_window_view(_band(pair[0], low, high), FRAME)[::STEP]
    energy = (frames**2).mean(1)
    frames = frames[energy > energy.max() * 0.03]
    frames = frames - frames.mean(1, keepdims=True)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * FRAME)) ** 2)[:, :FRAME]
    correlation /= correlation[:, :1] + 1e-12
    correlation /= 1 - np.arange(FRAME) / FRAME + 1e-3  # the larger the lag, the fewer samples overlap
    return float(np.median(correlation[:, MEL_RATE // 400 : MEL_RATE // 80].max(1)))


def level_error(
    reference: Audio, estimate: Audio, sample_rate: int, low: float = 0, high: float | None = None
) -> float:
    """How much louder a copy is than its recording between ``low`` and ``high`` Hz, by default at all frequencies: dB.

    Returns:
        nan if the reference has no energy there, or is shorter than 50 ms.

    Raises:
        ValueError: if reference and estimate are not both (N,).
    """
    if _pair(reference, estimate, sample_rate, sample_rate) is None or 20 * len(reference) < sample_rate:
        return np.nan
    frequency = np.fft.rfftfreq(len(reference), 1 / sample_rate)
    inside = (frequency >= low) & (frequency <= (sample_rate if high is None else high))
    one, other = ((np.abs(np.fft.rfft(audio.astype(np.float64))) ** 2)[inside].sum() for audio in (reference, estimate))
    return float(10 * np.log10((other + 1e-18) / one)) if one else np.nan


def _band(audio: Float, low: float, high: float) -> npt.NDArray[np.float64]:
    """Band-pass filters audio (N,) at 24 kHz, without delay."""
    signal = require("scipy.signal")
    filtered: npt.NDArray[np.float64] = signal.sosfiltfilt(
        signal.butter(4, [low, high], "band", fs=MEL_RATE, output="sos"), audio.astype(np.float64)
    )
    return filtered


def compare(reference: Audio, estimate: Audio, sample_rate: int, frame_rate: float | None = None) -> dict[str, float]:
    """Computes all figures of a copy, by name.

    These are ``pesq_wb``, ``stoi``, ``mel_distance``; those that ``dnsmos`` returns; ``harmonicity`` (100 Hz to 1 kHz),
    ``harmonicity_1k`` (to 2 kHz) and ``harmonicity_2k`` (to 4 kHz); ``level_0k``, ``level_1k``, ``level_4k`` and
    ``level_8k``, the level errors up to 1, 4, 8 and 12 kHz; and, if the vocoder's frame rate in Hz is given, ``line``,
    by how many dB the copy's frame rate line exceeds the recording's.

    A vocoder outputs whole frames, so a copy (M,) may be longer or shorter than its recording (N,): the first min(M, N)
    samples of both are compared.

    Example:
        >>> compare(audio, vocos(audio, 24_000)[: len(audio)], 24_000)["pesq_wb"]
    """
    length = min(len(reference), len(estimate))
    reference, estimate = reference[:length], estimate[:length]
    figures = {metric.__name__: metric(reference, estimate, sample_rate) for metric in (pesq_wb, stoi, mel_distance)}
    figures |= alone(estimate, sample_rate)
    figures |= {name: level_error(reference, estimate, sample_rate, *band) for name, band in LEVEL_BANDS.items()}
    if frame_rate is not None:
        lines = [frame_rate_line(audio, sample_rate, frame_rate) for audio in (estimate, reference)]
        figures["line"] = lines[0] - lines[1]
    return figures


def alone(audio: Audio, sample_rate: int) -> dict[str, float]:
    """The figures of ``compare`` that need no reference: those of ``dnsmos``, and the harmonicities."""
    harmonicities = {name: harmonicity(audio, sample_rate, *band) for name, band in HARMONIC_BANDS.items()}
    return {**dnsmos(audio, sample_rate), **harmonicities}


def require(package: str) -> Any:
    """Imports a module of the extra [report]. Raises ImportError, naming the extra, if it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ImportError(f"the report and its metrics need {error.name}: pip install 'vocos-onnx[report]'") from None


def _pair(reference: Audio, estimate: Audio, sample_rate: int, to: int) -> tuple[Float, Float] | None:
    """Resamples both to the rate ``to``; None if the reference is silent or empty. Raises ValueError."""
    if reference.ndim != 1 or reference.shape != estimate.shape:
        raise ValueError(
            f"reference and estimate have shapes {reference.shape} and {estimate.shape}, expected (N,) each: "
            "cut both to the shorter length"
        )
    if not reference.any():
        return None
    one, other = (resample(audio.astype(np.float32), sample_rate, to) for audio in (reference, estimate))
    return one, other
