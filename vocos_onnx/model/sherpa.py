"""Models in sherpa-onnx's layout: writes and reads their metadata.

Such a graph takes mels (batch, n_mels, frames) and nothing else, and returns mag, x and y, each (batch, n_fft/2 + 1,
frames): the magnitude, and the cosine and sine of the phase. sherpa-onnx computes the audio with an inverse STFT that
the metadata describes (sherpa-onnx/csrc/vocos-vocoder.cc). Files made by vocos-onnx also have their full description,
under DESCRIPTION_KEY.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vocos_onnx.limits import MAX_N_FFT, MAX_RATE, require
from vocos_onnx.messages import shown

from .config import ModelConfig

SHERPA = "sherpa"
FORMATS = ("vocos-onnx", SHERPA)  # the formats that convert and export write
DESCRIPTION_KEY = "vocos_onnx_spectrum"  # the entry that holds ``ModelConfig.to_json()``
INPUT, OUTPUTS = "mels", ("mag", "x", "y")
MODEL_TYPES = ("vocos", "matcha-tts vocos")  # the entry model_type of a Vocos
# sherpa-onnx's defaults for entries that are missing or empty.
_DEFAULTS = {
    "n_fft": "1024",
    "hop_length": "256",
    "win_length": "1024",
    "window_type": "hann",
    "center": "1",
    "normalized": "0",
}
_PLAIN = "leave --format sherpa out, to use the model with vocos-onnx"


def check_options(format: str, istft: str, precision: str) -> None:
    """Raises ValueError if the format is unknown, or if it does not support these options of convert or export."""
    require(format in FORMATS, f"format is {shown(format)}, expected one of {', '.join(FORMATS)}")
    if format == SHERPA:
        require(
            istft == "numpy",
            "istft is 'graph' and format 'sherpa', which contradict each other: sherpa-onnx computes the inverse STFT "
            "itself; leave one of --istft graph and --format sherpa out",
        )
        require(
            precision != "float16",
            "precision is 'float16', for GPUs, and format 'sherpa', expected float32 or int8: leave one of --fp16 and "
            "--format sherpa out",
        )


def sherpa_metadata(config: ModelConfig) -> dict[str, str]:
    """Returns the metadata of a model in sherpa-onnx's layout.

    ``center`` is 1 whatever the padding of the model: otherwise sherpa-onnx does not trim the audio, and its ends blow
    up. So T frames give (T - 1)·hop_length samples. A model with ``same`` padding, which makes T·hop_length samples,
    loses hop_length / 2 of them at each end.

    Raises ValueError if sherpa-onnx cannot run the model: if it takes tokens or a bandwidth id, or if its head does not
    end in an inverse STFT.

    Example:
        >>> sherpa_metadata(config)["n_fft"]
        '1024'
    """
    if config.encodec is not None:
        raise ValueError(
            f"the model takes tokens of {config.encodec.codec}, expected mels, which are all that sherpa-onnx gives a "
            f"vocoder; {_PLAIN}"
        )
    require(
        config.num_bandwidth_ids == 0,
        f"the model takes one of {config.num_bandwidth_ids} bandwidth ids beside the mels, and sherpa-onnx refuses a "
        f"second input; {_PLAIN}",
    )
    require(
        config.head == "istft",
        f"the head is {config.head}, expected istft: sherpa-onnx makes audio by an inverse STFT alone; {_PLAIN}",
    )
    return {
        "model_type": MODEL_TYPES[0],
        "version": "1",
        "sample_rate": str(config.sample_rate),
        "n_fft": str(config.n_fft),
        "hop_length": str(config.hop_length),
        "win_length": str(config.n_fft),
        "window_type": "hann",
        "center": "1",
        "pad_mode": "reflect",
        "normalized": "0",
        "num_mels": str(config.feature_channels),
        DESCRIPTION_KEY: config.to_json(),
    }


def spectrum_of(outputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.complex64]:
    """Returns the spectrum (B, T, n_fft/2 + 1), mag · (x + jy), from mag, x and y, each (B, n_fft/2 + 1, T)."""
    mag, x, y = (outputs[name].transpose(0, 2, 1) for name in OUTPUTS)
    spectrum = np.empty(mag.shape, np.complex64)
    spectrum.real, spectrum.imag = mag * x, mag * y
    return spectrum


class Settings(NamedTuple):
    """The inverse STFT that metadata states: rate in Hz, sizes in samples, and whether it is centred; None if unstated.

    ``center`` is True, or None if the metadata does not state it; 0 raises ValueError.
    """

    sample_rate: int | None
    n_fft: int | None
    hop_length: int | None
    center: bool | None


def settings(metadata: Mapping[str, str]) -> Settings:
    """Returns what the metadata of a foreign model states in sherpa-onnx's entries.

    If model_type is that of a Vocos in sherpa-onnx, missing entries get its defaults, except for sample_rate, which
    sherpa-onnx does not read. Empty entries count as missing.

    Raises ValueError if an entry is not a number or is out of range, or if the entries do not describe the inverse STFT
    of a Vocos, because its window is not a Hann window of n_fft samples, or it is normalised or not centred.

    Example:
        >>> settings({"model_type": "matcha-tts vocos", "sample_rate": "16000"})
        Settings(sample_rate=16000, n_fft=1024, hop_length=256, center=True)
    """
    given = {key: value for key, value in metadata.items() if value}
    entries = {**_DEFAULTS, **given} if given.get("model_type") in MODEL_TYPES else given
    n_fft = _number(entries, "n_fft", 1, MAX_N_FFT)
    win_length = _number(entries, "win_length", 1, MAX_N_FFT)
    if None not in (n_fft, win_length) and win_length != n_fft:
        missing = "" if "win_length" in given else ", sherpa-onnx's default where it is missing"
        raise _refused(f"win_length is {win_length}{missing}", f"{n_fft}, which is n_fft")
    window = entries.get("window_type", "hann")
    if window != "hann":
        raise _refused(f"window_type is {shown(window)}", "'hann'")
    if _number(entries, "normalized", 0, 1):
        raise _refused("normalized is 1", "0: the spectrum of a Vocos is not normalised")
    center = _number(entries, "center", 0, 1)
    if center == 0:
        raise _refused("center is 0", "1: sherpa-onnx does not trim the audio without it, and its ends explode")
    return Settings(
        _number(entries, "sample_rate", 1, MAX_RATE),
        n_fft,
        _number(entries, "hop_length", 1, MAX_N_FFT),
        None if center is None else True,
    )


def _number(entries: Mapping[str, str], key: str, least: int, most: int) -> int | None:
    """Returns an entry; None if it is missing. Raises ValueError if it is not a number within the range."""
    text = entries.get(key)
    if text is None:
        return None
    if not (re.fullmatch("[0-9]{1,9}", text) and least <= int(text) <= most):
        raise _refused(f"{key} is {shown(text)}", f"a whole number from {least} to {most}")
    return int(text)


def _refused(found: str, expected: str) -> ValueError:
    return ValueError(
        f"in the metadata, {found}, expected {expected}; correct the entry, or convert the checkpoint that the file "
        "was made of with: vocos-onnx convert CHECKPOINT -o MODEL.onnx"
    )
