"""Mels of other systems: converting them to a model's own, checking whether features can be that, and remedies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .arrays import Array, Float, as_array
from .dsp.mel import MelFeatures, filterbank
from .limits import MAX_CHANNELS, read_integer, require
from .messages import shown
from .model.bundled import MEL
from .once import has_warned, warn_once

AXES = ("bct", "btc")
# the factor that turns a value into the natural logarithm of a magnitude
_LOGS: dict[Literal["e", 10, "db"], float] = {"e": 1.0, 10: math.log(10), "db": math.log(10) / 20}
_SMALLEST, _LARGEST = 1e-30, 1e30  # limits of any field, so that float32 can hold it
_TARGET_RMS = 0.1  # the level to which F5-TTS and ZipVoice raise a quieter prompt
_FEWEST, _MOST = 50, 800  # frames: fewer are not checked, and checking stops after the larger number
_BLOCK = 1024  # frames examined in one step


@dataclass(frozen=True, repr=False)
class MelConvention:
    """How a system represents its mels. ``mels_from`` of ``VocosONNX.decode`` takes one, or the name of a known one.

    Decoding undoes what the system did, in this order and in float32, as the systems compute:

    1. (B, T, C) or (T, C) becomes (B, C, T) or (C, T), if ``axes`` is "btc".
    2. y = (x / scale · std + mean) · k, with k = 1 for the log "e", ln 10 for 10, and ln(10)/20 for "db".
    3. y is raised to at least ln(clip), if ``clip`` is given.

    The model decodes y, and the audio is then

    4. clipped at ±1, if ``clamp`` is true;
    5. multiplied by prompt_rms / 0.1, if ``prompt_rms`` is below 0.1.

    Steps 4 and 5, in this order, are those of ZipVoice (zipvoice/bin/infer_zipvoice.py), and step 5 is that of F5-TTS
    (f5_tts/infer/utils_infer.py): both raise a prompt whose root mean square is below 0.1 to that level before they
    compute its mels, and lower the audio by the same factor. Without ``prompt_rms``, step 5 is skipped.

    Attributes:
        axes: "bct" for (B, C, T) and (C, T), "btc" for (B, T, C) and (T, C).
        scale: the factor that the system multiplied by, such as 0.1 for ZipVoice. Logarithms of powers are those of
            magnitudes times 2, so their scale is 2.
        mean: the mean of the system's normalisation, one number or one per band.
        std: the standard deviation of the same normalisation.
        log: "e" for natural logarithms of magnitudes, 10 for log10, "db" for decibels (20·log10). Other bases differ by
            a factor, which ``scale`` can undo.
        clip: the smallest magnitude, such as 1e-7 for a system whose silence is log10(0 + 1e-10); None for no limit.
        bands: the number of bands; None if it is not known. A model with another number raises ValueError.
        prompt_rms: root mean square of the prompt before it was raised, with samples within ±1.
        clamp: whether the audio is clipped at ±1.

    Raises:
        ValueError: a value is out of range, or the numbers of bands contradict one another.

    Example:
        >>> vocos.decode(mels, mels_from=MelConvention(axes="btc", log=10))
        >>> vocos.decode(mels, mels_from=MelConvention.named("f5", prompt_rms=0.04))
    """

    axes: Literal["bct", "btc"] = "bct"
    scale: float = 1.0
    mean: float | Sequence[float] | Array = 0.0
    std: float | Sequence[float] | Array = 1.0
    log: Literal["e", 10, "db"] = "e"
    clip: float | None = None
    bands: int | None = None
    prompt_rms: float | None = None
    clamp: bool = False

    def __post_init__(self) -> None:
        known = isinstance(self.axes, str) and self.axes in AXES
        require(known, f"axes is {shown(self.axes)}, expected 'bct' for (B, C, T) or 'btc' for (B, T, C)")
        require(
            isinstance(self.log, str | int) and self.log in _LOGS,
            f"log is {shown(self.log)}, expected 'e' (natural logarithms), 10 or 'db' (decibels of magnitudes)",
        )
        require(isinstance(self.clamp, bool), f"clamp is {shown(self.clamp)}, expected True or False")
        values: dict[str, Any] = {
            "scale": _number("scale", self.scale, "what the system multiplied its mels by"),
            "mean": _of_bands("mean", self.mean, "that of the mels, or one for each band", -_LARGEST),
            "std": _of_bands("std", self.std, "the standard deviation of the mels, or one for each band", _SMALLEST),
        }
        if self.clip is not None:
            values["clip"] = _number("clip", self.clip, "the least magnitude, such as 1e-5; or None")
        if self.prompt_rms is not None:
            meaning = "the root mean square of the prompt, whose samples are within ±1; or None"
            values["prompt_rms"] = _number("prompt_rms", self.prompt_rms, meaning, 1.0)
        if self.bands is not None:
            values["bands"] = read_integer("bands", self.bands, 1, MAX_CHANNELS, "how many bands there are; or None")
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if len(set(self._counts.values())) > 1:
            each = ", ".join(f"{name} of {count}" for name, count in self._counts.items())
            raise ValueError(f"the numbers of bands contradict one another: {each}")

    @classmethod
    def named(cls, name: str, **changes: Any) -> MelConvention:
        """A known convention, optionally with some fields changed.

        The name is not case-sensitive, and may end with "-TTS", as in "F5-TTS". Raises ValueError for any other name;
        the message lists the known ones.
        """
        known = known_system(name)
        if known is None:
            names = ", ".join(map(repr, CONVENTIONS))
            raise ValueError(
                f"mels_from is {shown(name)}, expected one of {names}, or a MelConvention for other systems"
            )
        return replace(CONVENTIONS[known], **changes)

    def __repr__(self) -> str:
        """Python code that makes the convention, with the fields that differ from the default."""
        changed = ((field.name, getattr(self, field.name)) for field in fields(self))
        default = {field.name: field.default for field in fields(self)}
        return f"MelConvention({', '.join(f'{name}={value!r}' for name, value in changed if value != default[name])})"

    @property
    def _counts(self) -> dict[str, int]:
        """The number of bands according to each field that implies one."""
        per_band = {name: getattr(self, name) for name in ("mean", "std")}
        counts = {name: len(value) for name, value in per_band.items() if isinstance(value, tuple)}
        return counts if self.bands is None else {"bands": self.bands} | counts

    @property
    def num_bands(self) -> int | None:
        """The number of bands; None if no field implies it."""
        return next(iter(self._counts.values()), None)

    @property
    def keeps_values(self) -> bool:
        """Whether the mels already are natural logarithms, so that at most their axes change."""
        return (self.scale, self.mean, self.std, self.log, self.clip) == (1.0, 0.0, 1.0, "e", None)

    def magnitudes(self, features: Float) -> Float:
        """Features (B, C, T) of the system -> natural logarithms of magnitudes, steps 2 and 3, in float32.

        Raises ValueError if the result is not finite.
        """
        if self.keeps_values:
            return features
        with np.errstate(over="ignore", invalid="ignore"):  # such values raise ValueError below
            values = features / np.float32(self.scale)
            values *= _column(self.std)
            values += _column(self.mean)
            values *= np.float32(_LOGS[self.log])
        if self.clip is not None:
            np.maximum(values, np.float32(math.log(self.clip)), out=values)
        if not np.isfinite(values).all():
            low, high = features.min(), features.max()
            raise ValueError(
                f"features from {low:.3g} to {high:.3g} are infinite in float32 with mels_from={spelled(self)}: check "
                "its scale, std and mean"
            )
        return values

    def finished(self, audio: Float) -> Float:
        """The audio after steps 4 and 5, as the system's own call of the vocoder returns it."""
        if self.clamp:
            audio = audio.clip(-1, 1)
        if self.prompt_rms is not None and self.prompt_rms < _TARGET_RMS:
            audio = audio * np.float32(self.prompt_rms / _TARGET_RMS)
        return audio


def _number(name: str, given: Any, meaning: str, most: float = _LARGEST) -> float:
    """A number above 0. Raises ValueError for anything else."""
    value = _of_bands(name, given, meaning, _SMALLEST, most)
    if isinstance(value, tuple):
        raise ValueError(f"{name} is {shown(given)}, expected one number: {meaning}")
    return value


def _of_bands(name: str, given: Any, meaning: str, above: float, most: float = _LARGEST) -> float | tuple[float, ...]:
    """A number, or one for each band, above a bound. Raises ValueError for anything else."""
    array = as_array(given, name)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or not array.size:
        raise ValueError(f"{name} is {shown(given)}, expected {meaning}")
    values = array.astype(np.float64)
    bad = ~((values > above) & (values <= most))  # NaN is bad, too
    if bad.any():
        raise ValueError(
            f"{name} is {values[bad].flat[0]:g}, expected a number above {above:g} and at most {most:g}: {meaning}"
        )
    return float(values) if not array.ndim else tuple(values.tolist())


def _column(value: float | Sequence[float] | Array) -> Float:
    """Shapes a value to broadcast over features (B, C, T): a number, or (C, 1)."""
    column = np.asarray(value, np.float32)
    return column[:, None] if column.ndim else column


# docs/guides/mels.md has the details of each, with sources.
CONVENTIONS = {
    "f5": MelConvention(axes="btc", bands=100),
    "zipvoice": MelConvention(axes="btc", scale=0.1, bands=100, clamp=True),
    "matcha": MelConvention(bands=80),
    "chattts": MelConvention(bands=100),
    "mlx": MelConvention(axes="btc"),
}
MelsFrom = Literal["f5", "zipvoice", "matcha", "chattts", "mlx"] | MelConvention

_MODELS = {
    80: ", such as VocosONNX('BSC-LT/vocos-mel-22khz') at 22,050 Hz",
    100: f", such as VocosONNX({MEL!r}) or VocosONNX('charactr/vocos-mel-24khz')",
}


def known_system(name: Any) -> str | None:
    """The name of a system in ``CONVENTIONS``, given in any case and perhaps as "F5-TTS"; None if it is unknown."""
    text = name.lower() if isinstance(name, str) else ""
    return next((known for known in (text, text.removesuffix("-tts")) if known in CONVENTIONS), None)


def convention_of(mels_from: Any, bands: int) -> MelConvention:
    """The given convention, or the known one with the given name.

    Raises ValueError if it is neither, or if its number of bands is not the model's; the message then names a model
    with the right number, if one is known.
    """
    convention = mels_from if isinstance(mels_from, MelConvention) else MelConvention.named(mels_from)
    own = bands if convention.num_bands is None else convention.num_bands
    if own != bands:
        raise ValueError(
            f"mels_from={shown(mels_from)} is of {own} bands, and this model decodes {bands}: take a model of {own} "
            f"bands{_MODELS.get(own, '')}, or the mels_from of these mels"
        )
    return convention


def transposed_hint(mels: npt.NDArray[Any], bands: int, convention: MelConvention | None) -> str:
    """A hint for mels whose axes are in another order than expected: what to pass instead."""
    transposed = ".T" if mels.ndim == 2 else ".transpose(0, 2, 1)"
    found, other = ("(T, C)", "(C, T)") if mels.ndim == 2 else ("(B, T, C)", "(B, C, T)")
    if convention is not None and convention.axes == "btc":
        leave = ", or leave mels_from out" if replace(convention, axes="bct", bands=None) == MelConvention() else ""
        return f"; they look like {other}: pass mels{transposed}{leave}"
    if convention is not None:
        return f"; they look like {found}: pass mels{transposed}, or a mels_from with axes='btc'"
    names = [name for name, one in CONVENTIONS.items() if one.axes == "btc" and one.bands in (None, bands)]
    plain = " or ".join(f'"{name}"' for name in names if CONVENTIONS[name].keeps_values)
    scaled = ' ("zipvoice" if they are those of ZipVoice, scaled by 0.1)' if "zipvoice" in names else ""
    if scaled and mels.any() and mels.max() < 0.5 and mels.min() > -2:
        return f'; they look like {found}, scaled by 0.1: pass mels_from="zipvoice", or mels{transposed} / 0.1'
    return f"; they look like {found}: pass mels{transposed}, or mels_from={plain}{scaled}"


class MelCheck:
    """Examines the frames of one call or one stream until it has seen enough of them.

    Frames with the same value in all bands, such as silence and padding, reveal nothing and are skipped. Items of a
    batch or a list are judged separately, but those too short for that are judged together; the chunks of one sequence,
    such as a stream, are judged together.
    """

    def __init__(
        self, mel: MelFeatures, one_sequence: bool, convention: MelConvention | None = None, *, strict: bool = False
    ) -> None:
        """``convention``: the one that the features were read with. ``strict``: whether a fault is an error."""
        self._mel, self._one_sequence, self._convention, self._strict = mel, one_sequence, convention, strict
        self._kept: list[Float] = []
        self._count, self._next = 0, _FEWEST

    def add(self, features: Float) -> None:
        """Examines the next features (B, C, t). Raises ValueError if they are at fault and the check is strict."""
        for item in features:
            if has_warned("mels") and not self._strict:
                return
            if self._one_sequence and self._count >= _MOST:
                return
            blocks = self._telling(item, _MOST - (self._count if self._one_sequence else 0))
            count = sum(block.shape[1] for block in blocks)
            if not count and item.size and item.min() > _HIGHEST:
                self._report(
                    f"all values of {item.shape[1]} frames are {item.min():.3g} and more, expected natural logarithms "
                    "of magnitudes"
                )
            elif not self._one_sequence and count >= _FEWEST:
                self._check(blocks)
            elif self._count < _MOST:
                self._kept += blocks
                self._count += count
                if self._count >= min(self._next, _MOST):
                    self._next = 4 * self._count
                    self._check(self._kept)
        if self._count >= _MOST:
            self._kept.clear()

    @staticmethod
    def _telling(item: Float, most: int) -> list[Float]:
        """Up to ``most`` frames of an item (C, t) whose bands are not all alike, in blocks."""
        kept: list[Float] = []
        for start in range(0, item.shape[1], _BLOCK):
            block = item[:, start : start + _BLOCK]
            differ = block.max(axis=0) > block.min(axis=0) + 1e-6  # a subtraction might overflow
            kept.append(block[:, differ][:, :most].copy())
            most -= kept[-1].shape[1]
            if most <= 0:
                break
        return kept

    def _check(self, blocks: list[Float]) -> None:
        fault = mel_fault(np.concatenate(blocks, axis=1), self._mel, self._convention)
        if fault is not None:
            self._report(fault)

    def _report(self, fault: str) -> None:
        if self._strict:
            raise ValueError(f"{_CANNOT}{fault}")
        warn_once("mels", f"{_CANNOT}{fault} (check=False silences this)")


_CANNOT = "these features cannot be the mels that this model decodes: "
_HIGHEST = 20.0  # no audio has log magnitudes this high; 0 would not do, since batches are padded with it


def mel_fault(
    features: npt.NDArray[np.floating[Any]], mel: MelFeatures, convention: MelConvention | None = None
) -> str | None:
    """Why features (C, T) or (B, C, T) are probably not the model's, with the remedy; None if they may be.

    It tells natural logarithms of magnitudes from other scales by their range and by how much they vary: from frame to
    frame, over time within a band, and overall. Silence, frames of a single value (such as padding), and fewer than 50
    other frames are never at fault. Measured on 300 recordings of speech, singing, music, rain, single sounds, noise
    and tones, as mels of 100 bands and of HiFi-GAN: none of 4,001 excerpts of 60 frames or more is reported, even
    60 dB quieter, 12 dB louder or with a clip of 1e-5, and 98 % of the recordings in another scale are found.
    It does not recognise log2 or log10 of power.

    ``convention``: the one that the features were read with; the remedy keeps its axes.
    """
    x = np.asarray(np.asarray(features)[..., :_JUDGED], np.float64)
    if x.ndim == 3:
        x = x[:8].transpose(1, 0, 2).reshape(x.shape[1], -1)
    if 0 in x.shape:
        return None
    x = x[:, np.ptp(x, axis=0) > 1e-6][:, :_JUDGED]
    if x.shape[1] < _FEWEST:
        return None
    fault = _fault(x, mel, MelConvention() if convention is None else convention)
    if fault is None:
        return None
    look, remedy = fault
    low, _, high = _range(x)
    found = f"mels from {low:.3g} to {high:.3g}, expected natural logarithms of magnitudes, as features() gives"
    if convention is not None and not convention.keeps_values:
        name = _name(convention)
        if name is None:
            fields = f"read with mels_from={shown(convention)}, these look like {look}: its fields are of other mels"
            return f"{found}; {fields}"
        plain = MelConvention(axes=convention.axes)
        fits = _fault(x * convention.scale, mel, plain) is None
        others = [other for other, one in CONVENTIONS.items() if (one.axes, one.keeps_values) == (plain.axes, True)]
        remedy = ": pass mels_from=" + " or ".join(f'"{name}"' for name in others) if fits else ""
        return f"{found}: with mels_from={name!r} they look like {look}, and are not that system's{remedy}"
    return f"{found}; these look like {look}: {remedy}"


def _name(convention: MelConvention) -> str | None:
    """The name of a known convention; None for any other."""
    return next((name for name, one in CONVENTIONS.items() if one == convention), None)


def spelled(convention: MelConvention) -> str:
    """A ``mels_from`` as a caller writes it: the name of a known system, else the fields."""
    name = _name(convention)
    return shown(convention if name is None else name)


def _range(x: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """The 0.1th, 50th and 99.9th percentile."""
    low, middle, high = (float(value) for value in np.percentile(x, (0.1, 50, 99.9)))
    return low, middle, high


def _fault(x: npt.NDArray[np.float64], mel: MelFeatures, convention: MelConvention) -> tuple[str, str] | None:
    """What features (C, T) that are not the model's look like, and the remedy; None if they may be the model's."""
    low, middle, high = _range(x)
    if low >= 0 and middle < 0.1 * high:
        logs = f"np.log(np.maximum(magnitudes, {mel.clip:g}))"
        halved = f"np.log(np.maximum(powers, {mel.clip**2:g})) / 2"
        if high > math.exp(_highest(mel)):  # too high for magnitudes
            return "powers", f"pass {halved}"
        return "magnitudes or powers", f"pass {logs} if they are magnitudes, {halved} if powers"
    if low < min(math.log(mel.clip), _LOWEST) - 2.5:
        return _expanded(float(x.std()), low, convention)
    if high > _highest(mel):
        return "mels of audio in the range of int16", "divide that by 32768"
    x = x[:, ((x > math.log(mel.clip) + 0.1) & (x != x.min())).mean(axis=0) > 0.9]  # values at the floor do not vary
    if x.shape[1] < _FEWEST:
        return None
    mean, spread, over_time = float(x.mean()), float(x.std()), float(np.median(x.std(axis=1)))
    step = float(np.median(np.abs(np.diff(x, axis=1))))
    if spread > 2.5 and 0.5 < step < 0.5 * spread:
        return _expanded(spread, low, convention)
    if abs(mean) < 1.2 and spread < 0.5 and 0.003 < step < 0.12 and over_time > 0.4 * spread:
        return (
            "mels that are scaled down",
            f"pass {_zipvoice(convention, len(x))} if they are of ZipVoice, {_normalised(convention)} if of a system "
            "that normalises its mels",
        )
    if abs(mean) < 0.05 and abs(spread - 1) < 0.05 and step < 0.25 and over_time > 0.3:
        return "mels normalised to mean 0 and deviation 1", f"pass {_normalised(convention)}"
    short = x.shape[1] < 3 * _FEWEST
    log10 = any(
        spread < most and least_time < over_time < most_time and 0.03 < step < most_step
        for most, least_time, most_time, most_step in _LOG10[short]
    )
    if log10 and -5 < mean < 2:
        remedy = f"pass {_written(convention, log=10)}, or {_normalised(convention)} if the system normalises its mels"
        return "log10", remedy
    return None


# Limits for mels in log10, by whether there are few frames: the largest spread, the smallest and largest variation over
# time, and the largest variation from frame to frame. Speech varies more over time than noise of such a spread, and
# less from frame to frame than single sounds do in natural logarithms.
_LOG10 = {
    False: ((1.1, 0.6, 1.15, 0.2), (1.3, 0.35, 1.2, 0.163), (1.5, 0.85, 1.4, 0.145)),
    True: ((1.1, 0.65, 1.15, 0.18), (1.1, 0.35, 1.15, 0.14)),
}

_JUDGED = 4000  # frames at most

_LOWEST = math.log(1e-7)  # the lowest of the clips in use


def _expanded(spread: float, low: float, convention: MelConvention) -> tuple[str, str]:
    decibels, power = _written(convention, log="db"), _written(convention, scale=2.0)
    if spread < 5:
        return "logarithms of power", f"pass {power}"
    if spread < 8 and low > -40:  # decibels of magnitudes bottom out at -140 to -40, natural logarithms at -35
        return "logarithms of power or decibels", f"pass {power}, or {decibels}"
    if spread < 8:
        return "decibels or logarithms of power", f"pass {decibels}, or {power}"
    return "decibels", f"pass {decibels}"


def _written(convention: MelConvention, **changes: Any) -> str:
    """A ``mels_from`` with these fields, and the axes of the given convention."""
    return f"mels_from={MelConvention(axes=convention.axes, **changes)!r}"


def _zipvoice(convention: MelConvention, bands: int) -> str:
    fits = convention.axes == "btc" and bands == CONVENTIONS["zipvoice"].bands
    return 'mels_from="zipvoice"' if fits else _written(convention, scale=0.1)


def _normalised(convention: MelConvention) -> str:
    return _written(convention)[:-1] + f"{', ' if convention.axes != 'bct' else ''}mean=MEAN, std=STD) of that system"


def _highest(mel: MelFeatures) -> float:
    """A level that no band reaches: that of a full-scale sine in every band at once, plus 12 dB."""
    return math.log(mel.n_fft / 2 * _sums(mel)) + math.log(4)


@lru_cache(maxsize=8)
def _sums(mel: MelFeatures) -> float:
    """The largest sum of a band's weights at any sample rate in use; lower rates have more bins per band."""
    rate = 2 * round(max(mel.f_max, 4000))
    return float(filterbank(rate, mel).sum(axis=0).max())
