"""Waveform -> log-mel features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float, Progress
from vocos_onnx.background import checkpoint
from vocos_onnx.limits import MAX_CHANNELS, MAX_N_FFT, check_overlap, read_size, require
from vocos_onnx.messages import shown

from .audio_window import AudioWindow
from .stft import PADDINGS, stft

MEL_SCALES = ("htk", "slaney")

MEL_NORMS = ("none", "slaney")

_MAX_FILTERS = 1 << 22  # values of a mel filterbank; 100 bands of an n_fft of 1024 take 51,300


@dataclass(frozen=True)
class MelFeatures:
    """Settings of a log-mel spectrogram of magnitudes, ln(max(mel, clip)); see ``vocos_onnx.dsp.mel.log_mel``.

    A bin's magnitude is sqrt(re² + im² + power_offset). The mel scale is "htk" or "slaney"; the norm is "none"
    (triangles of height 1) or "slaney" (triangles of area 1, with frequencies in Hz).
    """

    n_fft: int
    hop_length: int
    n_mels: int
    padding: str
    f_min: float
    f_max: float
    mel_scale: str = "htk"
    norm: str = "none"
    clip: float = 1e-7
    power_offset: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError if values are out of range."""
        for name, most in (("n_fft", MAX_N_FFT), ("hop_length", MAX_N_FFT), ("n_mels", MAX_CHANNELS)):
            read_size(f"mel {name}", getattr(self, name), most)
        for name in ("f_min", "f_max", "clip", "power_offset"):
            require(math.isfinite(getattr(self, name)), f"mel {name} is {getattr(self, name)}, expected a finite one")
        require(
            self.padding in PADDINGS, f"mel padding is {shown(self.padding)}, expected one of {', '.join(PADDINGS)}"
        )
        require(
            self.mel_scale in MEL_SCALES,
            f"mel_scale is {shown(self.mel_scale)}, expected one of {', '.join(MEL_SCALES)}",
        )
        require(self.norm in MEL_NORMS, f"mel norm is {shown(self.norm)}, expected one of {', '.join(MEL_NORMS)}")
        require(
            0 <= self.f_min < self.f_max,
            f"mel f_min is {self.f_min:g} and f_max {self.f_max:g}, expected 0 <= f_min < f_max",
        )
        require(self.clip > 0, f"mel clip is {self.clip:g}, expected more than 0")
        require(self.power_offset >= 0, f"mel power_offset is {self.power_offset:g}, expected 0 or more")
        require(self.n_fft >= self.hop_length, f"mel n_fft is {self.n_fft}, expected at least {self.hop_length}")
        check_overlap("mel n_fft", self.n_fft, self.hop_length)
        require(
            self.n_mels * (self.n_fft // 2 + 1) <= _MAX_FILTERS,
            f"mel n_mels is {self.n_mels} and n_fft {self.n_fft}, expected filters of at most {_MAX_FILTERS} values",
        )


# The front end of HiFi-GAN and Matcha-TTS at 22,050 Hz: jik876/hifi-gan, meldataset.py; matcha/utils/audio.py.
HIFIGAN = MelFeatures(
    n_fft=1024,
    hop_length=256,
    n_mels=80,
    padding="same",
    f_min=0.0,
    f_max=8000.0,
    mel_scale="slaney",
    norm="slaney",
    clip=1e-5,
    power_offset=1e-9,
)

CHUNK = 1024  # frames transformed at once, so that memory does not grow with the length


def log_mel(
    audio: npt.NDArray[np.floating[Any]],
    sample_rate: int,
    mel: MelFeatures,
    progress: Progress | None = None,
) -> Float:
    """Audio (B, N) at ``sample_rate`` -> log-mel spectrogram (B, n_mels, T), float32.

    It is ln(max(sqrt(|STFT|² + power_offset) · filterbank, clip)) of audio padded by reflection. "center" pads n_fft/2
    on both sides, and T = 1 + N // hop_length; "same" pads (n_fft - hop_length) // 2, and T = N // hop_length if
    n_fft - hop_length is even. It follows ``feature_extractors.MelSpectrogramFeatures`` of vocos 0.1.0, but computes in
    float64: float32 transforms, torch's included, are off by more than 1e-4 in bands 80 dB below the frame's peak.
    ``progress`` is called with the number of frames done and the total.

    Raises:
        ValueError: the audio is too short to be reflected, or for a single frame.
    """
    frames = max(0, frames_of(audio.shape[-1], mel))
    features = np.empty((len(audio), mel.n_mels, frames), np.float32)
    done = 0
    for block in log_mel_blocks(AudioWindow([audio]), sample_rate, mel):
        features[:, :, done : done + block.shape[2]] = block
        done += block.shape[2]
        if progress is not None:
            progress(done, frames)
    return features


def log_mel_blocks(audio: AudioWindow, sample_rate: int, mel: MelFeatures, chunk: int = CHUNK) -> Iterator[Float]:
    """``log_mel``, some frames at a time: yields (B, n_mels, t). Raises as ``log_mel``.

    Frame t begins ``pad`` samples before sample t·hop, so frames start ... stop - 1 take the samples
        first = start·hop - pad  to  last = (stop - 1)·hop - pad + n_fft  (excluding ``last`` itself).
    For N samples of audio, a sample i outside it is a reflection:
        i < 0 is sample -i, which is 1 to pad: at the start, samples up to -first are needed;
        i >= N is sample 2·(N - 1) - i, and i is at most N - 1 + pad: at the end, those from N - 1 - pad on are needed.
    Before the end of the audio, at least ``(start + chunk)·hop + n_fft`` samples are there, and no frame reaches beyond
    them.
    """
    hop, pad = mel.hop_length, _pad(mel)
    bank = filterbank(sample_rate, mel)
    start = 0
    while True:
        checkpoint()
        there = audio.read_until((start + chunk) * hop + mel.n_fft)  # N, once the audio has ended
        if start == 0 and there < (shortest := max(pad + 1, mel.n_fft - 2 * pad)):
            raise ValueError(
                f"audio has {there} samples at {sample_rate} Hz, expected at least {shortest}: these mel "
                f"features reflect {pad} of them at both ends; pad it with zeros"
            )
        stop = min(start + chunk, frames_of(there, mel))
        if stop <= start:
            return
        first, last = start * hop - pad, (stop - 1) * hop - pad + mel.n_fft
        low, high = max(0, min(first, there - 1 - pad)), max(last, 1 - first)
        samples = audio.cut(low, high)
        if first < 0 or last > there:
            index = np.abs(np.arange(first, last))
            samples = samples[:, np.where(index < there, index, 2 * (there - 1) - index) - low]
        else:
            samples = samples[:, first - low : last - low]
        spectrum = stft(samples.astype(np.float64), mel.n_fft, hop)
        if mel.power_offset:
            magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + mel.power_offset)
        else:
            magnitude = np.abs(spectrum)
        features: Float = np.log(np.maximum(magnitude @ bank, mel.clip)).transpose(0, 2, 1).astype(np.float32)
        yield features
        start = stop


def frames_of(samples: int, mel: MelFeatures) -> int:
    """Frames in that many samples: 1 + (samples + 2·padding - n_fft) // hop_length; below 1 if they are too few."""
    return 1 + (samples + 2 * _pad(mel) - mel.n_fft) // mel.hop_length


def _pad(mel: MelFeatures) -> int:
    return mel.n_fft // 2 if mel.padding == "center" else (mel.n_fft - mel.hop_length) // 2


@lru_cache(maxsize=8)
def filterbank(sample_rate: int, mel: MelFeatures) -> npt.NDArray[np.float64]:
    """Triangular filters (n_fft/2 + 1, n_mels), evenly spaced on the mel scale from f_min to f_max.

    Each filter rises from the centre of the previous filter to its own centre, and falls to the centre of the next. The
    norm "slaney" divides by half the distance between those neighbours, in Hz.
    """
    low, high = (_to_mel(f, mel.mel_scale) for f in (mel.f_min, mel.f_max))
    points = _to_hz(np.linspace(low, high, mel.n_mels + 2), mel.mel_scale)
    bins = np.linspace(0, sample_rate // 2, mel.n_fft // 2 + 1)  # as in torchaudio, half of an odd rate is rounded down
    rise, fall = points[1:-1] - points[:-2], points[2:] - points[1:-1]
    up = (bins[:, None] - points[:-2]) / rise
    down = (points[2:] - bins[:, None]) / fall
    bank = np.maximum(0, np.minimum(up, down))
    if mel.norm == "slaney":
        bank *= 2 / (points[2:] - points[:-2])
    bank.flags.writeable = False  # it is cached
    return bank


# Slaney's Auditory Toolbox: linear below 1 kHz (15 mels), and above it 27 mels for each factor of 6.4.
_KNEE, _LINEAR, _LOG = 1000.0, 200 / 3, math.log(6.4) / 27


def _to_mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hz / 700)  # O'Shaughnessy, as in HTK
    return hz / _LINEAR if hz < _KNEE else _KNEE / _LINEAR + math.log(hz / _KNEE) / _LOG


def _to_hz(mels: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mels / 2595) - 1))
    return np.where(mels < _KNEE / _LINEAR, mels * _LINEAR, _KNEE * np.exp(_LOG * (mels - _KNEE / _LINEAR)))
