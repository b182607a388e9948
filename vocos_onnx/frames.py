"""Caller input -> Frames. This is the only place that interprets the shapes of tokens and features."""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeGuard, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .arrays import (
    Array,
    Float,
    as_array,
    float_hint,
    is_float,
    is_integer,
    not_tokens_message,
    stack_hint,
    unwrapped,
)
from .bandwidths import Bandwidths, counted, first_codebooks, may_be_swapped
from .dsp.mel import MelFeatures
from .dsp.quantizer import fingerprints, lookup
from .io.tokens import Tokens, check_codec
from .limits import MAX_CODEBOOKS, MAX_N_FFT
from .mels import MelCheck, MelConvention, MelsFrom, convention_of, spelled, transposed_hint
from .messages import shown
from .model.bundled import CODEC, MEL
from .model.config import EncodecFeatures, ModelConfig
from .model.registry import ENCODEC
from .once import first_time, is_watched

T = TypeVar("T")
Layout = Literal["kbt", "bkt"]
LAYOUTS = ("kbt", "bkt")
_SPECIAL = 4  # up to this many distinct values outside the codebook are taken for special tokens

_log = logging.getLogger("vocos_onnx")


@dataclass(frozen=True, eq=False)
class Frames:
    """Checked sequences of equal length: tokens or features, the bandwidth id, and whether the audio has a batch axis.

    values: codes (K, B, T), or features (B, C, T) in float32.
    codebooks: (K or more, codebook_size, C), which the codes index; None for features.
    is_batch: whether the audio is (B, samples), rather than (samples,) for the only sequence.
    convention: of the system that the mels came from; it also determines how the audio is finished.
    """

    values: npt.NDArray[Any]
    codebooks: Float | None
    bandwidth_id: int | None
    is_batch: bool
    convention: MelConvention | None = None

    @property
    def kind(self) -> str:
        """What they are, in words; all chunks of a stream must be of one kind."""
        return "features" if self.codebooks is None else f"tokens of {counted(len(self.values))}"

    @property
    def batch(self) -> int:
        """The number of sequences."""
        return int(self.values.shape[0 if self.codebooks is None else 1])

    @property
    def length(self) -> int:
        """The number of frames of each sequence."""
        return int(self.values.shape[2])

    def features(self, start: int, stop: int, rows: slice = slice(None)) -> Float:
        """The features (B, C, stop - start) of some frames, for all sequences or for some."""
        if self.codebooks is None:
            return self.values[rows, :, start:stop]
        return lookup(self.values[:, rows, start:stop], self.codebooks)

    def part(self, start: int, stop: int) -> Frames:
        """Some of the frames, without a copy."""
        return Frames(self.values[:, :, start:stop], self.codebooks, self.bandwidth_id, self.is_batch, self.convention)

    def filled_up(self, missing: int) -> Frames:
        """The features followed by that many frames of zeros."""
        assert self.codebooks is None
        return replace(self, values=np.pad(self.values, ((0, 0), (0, 0), (0, missing)))) if missing else self

    def restore(self, audio: Float) -> Float:
        """Audio (B, samples), in the shape and convention that the caller expects."""
        if self.convention is not None:
            audio = self.convention.finished(audio)
        return audio if self.is_batch else audio[0]


@dataclass(frozen=True, eq=False)
class Given:
    """All items that one call is given, in order."""

    items: tuple[Frames, ...]
    is_list: bool

    def restore(self, audio: Sequence[Float]) -> Float | list[Float]:
        """The audio (B, samples) of each item, in the form that the caller expects."""
        each = [frames.restore(one) for frames, one in zip(self.items, audio, strict=True)]
        return each if self.is_list else each[0]


def features_of(parts: Sequence[Frames]) -> Float:
    """The features (B, C, t) of sequences of one length, stacked; codes of one kind take a single lookup."""
    first = parts[0]
    if len(parts) == 1:
        return np.ascontiguousarray(first.features(0, first.length))
    if first.codebooks is None or len({(len(part.values), id(part.codebooks)) for part in parts}) > 1:
        return np.concatenate([part.features(0, part.length) for part in parts])
    return lookup(np.concatenate([part.values for part in parts], 1, dtype=np.intp, casting="unsafe"), first.codebooks)


@dataclass(frozen=True)
class Mels:
    """How the mels of one call or stream are read.

    convention: that of their system, if one was given.
    check: checks whether they can be the model's; None if that is not wanted.
    square: whether to warn about mels with as many frames as bands, if the caller did not specify their axes.
    """

    convention: MelConvention | None = None
    check: MelCheck | None = None
    square: bool = False


class Reader(ABC):
    """Reads the input of a model. ``MelReader`` and ``TokenReader`` know what it decodes."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.bandwidths = Bandwidths(config)

    def read(
        self,
        given: Any,
        bandwidth_id: Any,
        layout: Layout | None,
        *,
        mels_from: MelsFrom | None = None,
        check: bool | None = None,
        lengths: Any = None,
        codebooks: int | None = None,
    ) -> Given:
        """Reads what ``VocosONNX.decode`` takes: one array, or a list of arrays. Raises ValueError as that does.

        ``codebooks``: how many of the first codebooks of tokens to decode; None for all.
        """
        axes = _layout_of(layout)
        mels = self.mels(self.convention(mels_from), check)
        item = partial(self._item, bandwidth_id=bandwidth_id, codebooks=codebooks, layout=axes, mels=mels)
        if not _is_list(given):
            array = self._array(given)
            arrays = [array] if lengths is None else self._unpadded(array, lengths, axes, mels.convention)
            items = tuple(map(item, arrays))
            if layout is None and (lengths is None or array.shape[0] == array.shape[1]):  # else lengths settle it
                self._remark_on_layout(array)
            return Given(items, is_list=lengths is not None)
        if lengths is not None:
            raise ValueError("lengths is given, and the items of a list have their own: leave it out")
        arrays = [_of_item(i, self._array, item) for i, item in enumerate(given)]
        if len({is_float(array) for array in arrays}) > 1:
            raise ValueError("the list holds tokens (integers) and features (floats); decode them in two calls")
        wrong = next((i for i, array in enumerate(arrays) if array.ndim != 2), None)
        if wrong is not None:
            shape = arrays[wrong].shape
            expected = f"(K, T) or {_axes(mels.convention)}"
            hint = f"; pass item[0] of those of shape (1, {shape[1]}, T)" if len(shape) == 3 and shape[0] == 1 else ""
            raise ValueError(f"item {wrong} of the list has shape {shape}, expected {expected}{hint}")
        plain = partial(item, mels=replace(mels, check=None))  # the check runs below, on all items
        items = tuple(_of_item(i, plain, array) for i, array in enumerate(arrays))
        if mels.check is not None:
            for frames in items:
                mels.check.add(frames.values)
        return Given(items, is_list=True)

    def _unpadded(
        self, array: npt.NDArray[Any], lengths: Any, layout: Layout, convention: MelConvention | None
    ) -> list[npt.NDArray[Any]]:
        """The items of a padded batch, each without its padding. Raises ValueError if the array is not a batch."""
        if array.ndim != 3:
            raise ValueError(
                f"lengths is given, and the array has shape {array.shape}, expected a batch (B, C, T): leave it out"
            )
        if is_float(array):
            self._check_shape(array, convention)
        items = array.swapaxes(0, 1) if layout == "kbt" and not is_float(array) else array
        in_front = is_float(array) and _is_transposed(convention)
        frames = items.shape[1 if in_front else 2]
        each = zip(items, read_lengths(lengths, len(items), frames), strict=True)
        return [item[:length] if in_front else item[:, :length] for item, length in each]

    def read_chunk(self, given: Any, bandwidth_id: int | None, mels: Mels, codebooks: int | None = None) -> Frames:
        """Reads a chunk of a stream: tokens (K, t) or features (C, t), t >= 0. Raises ValueError as ``Stream.push``."""
        array = self._array(given)
        if array.ndim != 2:
            raise ValueError(
                f"a chunk has shape {array.shape}, expected tokens (K, t) or features "
                f"{_axes(mels.convention, 't')}{_chunk_hint(array)}"
            )
        rows, frames = array.T.shape if _is_transposed(mels.convention) else array.shape
        if rows and not frames:
            return Frames(np.zeros((1, self.config.feature_channels, 0), np.float32), None, None, is_batch=False)
        return self._item(array, bandwidth_id, codebooks, "kbt", mels)

    def read_codes(self, given: Any, layout: Layout | None) -> Frames:
        """Reads tokens (K, T) or (K, B, T), without a bandwidth id. Raises ValueError as ``codes_to_features``."""
        array = self._array(given)
        codes = self._codes(array, _layout_of(layout))
        if layout is None:
            self._remark_on_layout(array)
        return codes

    def _remark_on_layout(self, array: npt.NDArray[Any]) -> None:
        """Warns in the log, once per process, about tokens whose axes may have been meant in another order."""
        if array.ndim != 3 or not is_integer(array):
            return
        counts, (first, second, last) = self.bandwidths.counts, array.shape
        if second > 1 and second in counts:
            other = "if they are (batch, codebooks, frames), pass layout='bkt'"
        elif second > max(first, last) and last in counts:
            other = "if they are (batch, frames, codebooks), pass tokens.transpose(0, 2, 1) with layout='bkt'"
        else:
            return
        if first_time("layout"):
            _log.warning(
                "tokens of shape %s are read as (codebooks, batch, frames), a batch of %d with %s: %s; layout='kbt' "
                "says that this is right",
                array.shape,
                second,
                counted(first),
                other,
            )

    @abstractmethod
    def convention(self, mels_from: MelsFrom | None) -> MelConvention | None:
        """The convention that a caller names or passes. Raises ValueError if the model cannot decode such mels."""

    def mels(self, convention: MelConvention | None, check: bool | None, *, one_sequence: bool = False) -> Mels:
        """How the mels of one call or stream are read; ``check`` is that of ``VocosONNX.decode``."""
        if check is not None and not isinstance(check, bool):
            raise ValueError(
                f"check is {shown(check)}, expected None (a warning if these cannot be the model's mels), True (an "
                "error) or False (neither)"
            )
        return Mels(convention)

    @property
    @abstractmethod
    def decodes(self) -> str:
        """What the model decodes, in a word or two."""

    @property
    def num_codebooks(self) -> int:
        """The largest number of codebooks that tokens can have; 0 if the model decodes no tokens."""
        return 0

    def _array(self, given: Any) -> npt.NDArray[Any]:
        """The input as an array. Raises ValueError if it names another codec than this model's."""
        if not isinstance(given, Tokens):
            return as_array(unwrapped(given), "tokens or features")
        check_codec(given, self.config, self._fingerprints)
        return as_array(given.codes, "tokens")

    @property
    def _fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the model's first 1, 2, ... codebooks."""
        return ()

    def _item(
        self, array: npt.NDArray[Any], bandwidth_id: Any, codebooks: int | None, layout: Layout, mels: Mels
    ) -> Frames:
        if is_float(array):
            features = self._features(array, mels.convention)
            bandwidth_id = self.bandwidths.checked_id(bandwidth_id)
            if mels.square and features.shape[1] == features.shape[2]:
                _remark_on_axes(array)
            if mels.check is not None:
                mels.check.add(features)
            return Frames(features, None, bandwidth_id, array.ndim == 3, mels.convention)
        if codebooks is not None and array.ndim == 2 and not may_be_swapped(array.shape, self.num_codebooks):
            array = array[: self.num_codebooks]  # of a codec with more
        frames = self._codes(array, layout)
        codes = frames.values
        if codebooks is not None:
            self.bandwidths.check_enough(codes.shape, codebooks, layout)
            codes = codes[:codebooks]
        if bandwidth_id is None:
            bandwidth_id = self.bandwidths.id_of_codebooks(len(codes), array.shape, layout)
        index = self.bandwidths.checked_id(bandwidth_id)
        self.bandwidths.check_count(codes.shape, array.ndim, index, layout)
        return Frames(codes, frames.codebooks, index, frames.is_batch)

    @abstractmethod
    def _codes(self, array: npt.NDArray[Any], layout: Layout) -> Frames:
        """Reads and checks tokens. Raises ValueError if the array holds anything else."""

    def _features(self, features: npt.NDArray[Any], convention: MelConvention | None) -> Float:
        if features.size == 0:  # of an empty list numpy makes floats
            if self.num_codebooks and self.config.feature_channels not in features.shape:
                raise empty_tokens(features.shape)
            raise ValueError(f"features are empty, shape {features.shape}; expected at least one item and one frame")
        self._check_shape(features, convention)
        if _is_transposed(convention):
            features = features.swapaxes(-1, -2)
        with np.errstate(over="ignore"):  # values too large for float32 become infinite, and raise ValueError below
            features = np.ascontiguousarray(features.reshape(-1, *features.shape[-2:]), np.float32)
        if not np.isfinite(features).all():
            bad = features[~np.isfinite(features)]
            raise ValueError(f"features hold {bad.size} values that are NaN or infinite in float32; expected finite")
        return features if convention is None else convention.magnitudes(features)

    def _check_shape(self, features: npt.NDArray[Any], convention: MelConvention | None) -> None:
        """Raises ValueError unless these are features, with their axes in the convention's order."""
        channels, shape = self.config.feature_channels, features.shape
        if len(shape) not in (2, 3) or shape[-1 if _is_transposed(convention) else -2] != channels:
            one = _axes(convention).replace("C", str(channels))
            says = "" if convention is None else f" with mels_from={spelled(convention)}"
            raise ValueError(
                f"features have shape {shape}, expected {one} or (B, {one[1:]}{says}{self._hint(features, convention)}"
            )

    def _transposed_hint(self, given: npt.NDArray[Any], convention: MelConvention | None) -> str:
        """A hint for features whose axes are in another order: what to pass instead."""
        axes, transposed = ("(T, C)", ".T") if given.ndim == 2 else ("(B, T, C)", ".transpose(0, 2, 1)")
        return f"; they look like {axes}: pass features{transposed}"

    def _other_floats(self, array: npt.NDArray[Any]) -> ValueError:
        hint = stack_hint(array, "features") or float_hint(array.dtype)
        return ValueError(f"features have dtype {array.dtype}, expected floats{hint}")

    def _hint(self, given: npt.NDArray[Any], convention: MelConvention | None) -> str:
        """A hint for floats of the wrong shape: what they may be, and what to pass instead."""
        channels, shape, last = self.config.feature_channels, given.shape, given.shape[-2:]
        few = len(shape) in (2, 3) and min(shape[:-1]) <= self.num_codebooks
        if few and given.any() and np.array_equal(given, np.rint(given)):
            return (
                f"; tokens must be integers, not {given.dtype}: if they are tokens, pass them as .astype(numpy.int64)"
            )
        if len(shape) in (2, 3) and channels in last:
            return self._transposed_hint(given, convention)
        if len(shape) == 4 and 1 in shape[:2] and channels in last:
            return f"; pass features[{'0' if shape[0] == 1 else ':, 0'}]"
        if shape == (channels,):
            return "; pass one frame as features[:, None]"
        if len(shape) == 1 or (len(shape) == 2 and max(shape) > 1000 > 8 >= min(shape)):
            return "; if it is audio, copy-synthesis is vocos(audio, sample_rate), of samples (N,) or a batch (B, N)"
        known = next((text for size, text in _CHANNELS.items() if size in last), None)
        if len(shape) in (2, 3) and known is not None:
            return f"; {known}"
        return f"; tokens must be integers, not {given.dtype}" if self.num_codebooks else ""


class MelReader(Reader):
    """Reads mels (n_mels, T) or (B, n_mels, T), and explains what is wrong with anything else.

    ``mel``: how they are made; None if the model does not specify it, as in files from other exporters.
    """

    def __init__(self, config: ModelConfig, mel: MelFeatures | None):
        super().__init__(config)
        self._mel = stock_mel(config) if mel is None else mel
        self._calls = itertools.count(1)  # of decode and stream

    @property
    def decodes(self) -> str:
        return "mels"

    def convention(self, mels_from: MelsFrom | None) -> MelConvention | None:
        return None if mels_from is None else convention_of(mels_from, self.config.feature_channels)

    def mels(self, convention: MelConvention | None, check: bool | None, *, one_sequence: bool = False) -> Mels:
        """How the mels of one call or stream are read.

        Checking them takes up to a quarter of the time of a short call, so it checks the first 16 calls and then ever
        fewer; it checks all of them if a fault is an error, or if warnings are ``watched``.
        """
        plain = super().mels(convention, check)
        if check is False:
            return plain
        number = next(self._calls)
        looks = None
        if check or is_watched() or number <= 16 or not number & (number - 1):
            looks = MelCheck(self._mel, one_sequence, convention, strict=bool(check))
        return Mels(convention, looks, square=convention is None)

    def _transposed_hint(self, given: npt.NDArray[Any], convention: MelConvention | None) -> str:
        return transposed_hint(given, self.config.feature_channels, convention)

    def _codes(self, array: npt.NDArray[Any], layout: Layout) -> Frames:
        if not is_integer(array) and not is_float(array):
            raise self._other_floats(array)
        raise ValueError(
            f"this is a mel model: it decodes float features (B, {self.config.feature_channels}, T), not tokens "
            f"of dtype {array.dtype}; tokens need the model of their codec, those of the bundled codec "
            f"VocosONNX({CODEC!r}); features that are integers may be passed as .astype(numpy.float32)"
        )


class TokenReader(Reader):
    """Reads tokens of a codec, (K, T), (K, B, T) or (B, K, T), or the sums of codebook entries that they represent."""

    def __init__(self, config: ModelConfig, codec: EncodecFeatures, codebooks: Float):
        super().__init__(config)
        self._codec, self._codebooks = codec, codebooks

    @property
    def decodes(self) -> str:
        return self._codec.codec

    def convention(self, mels_from: MelsFrom | None) -> MelConvention | None:
        if mels_from is not None:
            raise ValueError(
                f"mels_from is {shown(mels_from)}, and this model decodes tokens of {self._codec.codec}, not mels: "
                f"leave it out, or take a mel model, such as VocosONNX({MEL!r})"
            )
        return None

    @property
    def num_codebooks(self) -> int:
        return self._codec.num_codebooks

    @cached_property
    def _fingerprints(self) -> tuple[str, ...]:
        return fingerprints(self._codebooks)

    def _codes(self, array: npt.NDArray[Any], layout: Layout) -> Frames:
        if array.dtype.kind == "O" and array.shape[-2:-1] == (self.config.feature_channels,):
            raise self._other_floats(array)
        codes = read_tokens(array, layout, self._codec.num_codebooks, self._codec.codebook_size)
        return Frames(codes, self._codebooks, None, is_batch=array.ndim == 3)


def reader_of(config: ModelConfig, codebooks: Float | None) -> Reader:
    """Picks the reader of a model by what it decodes."""
    if config.encodec is None:
        return MelReader(config, config.mel)
    assert codebooks is not None
    return TokenReader(config, config.encodec, codebooks)


def _remark_on_axes(mels: npt.NDArray[Any]) -> None:
    """Warns in the log, once per process: correct programs, such as a stream of square chunks, may well pass these."""
    if first_time("axes"):
        read, other = ("(C, T)", "(T, C)") if mels.ndim == 2 else ("(B, C, T)", "(B, T, C)")
        _log.warning(
            "the mels have as many frames as bands, %d, and are read as %s: if they are %s, pass mels_from= and the "
            "name of their system, or MelConvention(axes='btc'); mels_from=MelConvention() says that they are %s",
            mels.shape[-1],
            read,
            other,
            read,
        )


def stock_mel(config: ModelConfig) -> MelFeatures:
    """The usual mels, for a model that does not specify how its mels are made: natural logarithms, clip 1e-5."""
    hop = config.hop_length
    return MelFeatures(
        n_fft=min(max(config.n_fft, 4 * hop), MAX_N_FFT),  # a head without a transform has n_fft = hop
        hop_length=hop,
        n_mels=config.feature_channels,
        padding=config.padding,
        f_min=0.0,
        f_max=config.sample_rate / 2,
        clip=1e-5,
    )


# what features with that many channels are for, if they are not this model's
_CHANNELS = {
    64: f"64 channels are those of the features of the bundled codec: VocosONNX({CODEC!r})",
    80: "80 bands are those of Matcha-TTS and HiFi-GAN: VocosONNX('BSC-LT/vocos-mel-22khz') decodes them at 22,050 Hz, "
    "VocosONNX('patriotyk/vocos-mel-hifigan-compat-44100khz') at 44,100 Hz",
    100: f"100 channels are those of the mels of VocosONNX({MEL!r})",
    128: f"128 channels are those of the features of EnCodec, which VocosONNX({ENCODEC!r}) decodes, and of mels at "
    "32,000 Hz, for VocosONNX('ZhangRC/vocos-audioset-32khz')",
}


def _is_transposed(convention: MelConvention | None) -> bool:
    """Whether the frames come before the bands."""
    return convention is not None and convention.axes == "btc"


def _axes(convention: MelConvention | None, frames: str = "T") -> str:
    """The axes of one sequence of features."""
    return f"({frames}, C)" if _is_transposed(convention) else f"(C, {frames})"


def _chunk_hint(given: npt.NDArray[Any]) -> str:
    if given.ndim == 1 and given.size:
        return "; of one frame pass chunk[:, None], of a single codebook chunk[None]"
    if given.ndim == 3 and 1 in given.shape[:2]:
        return "; pass chunk[0]" if len(given) == 1 else "; pass chunk[:, 0]"
    return ""


def _of_item(number: int, read: Callable[..., T], *given: Any) -> T:
    """Reads an item of a list. Adds its number to the message of a ValueError."""
    try:
        return read(*given)
    except ValueError as error:
        raise ValueError(f"item {number} of the list: {error}") from None


def _layout_of(given: Any) -> Layout:
    """The given layout, or the default one. Raises ValueError if it is not a layout."""
    if given is None:
        return "kbt"
    if not isinstance(given, str) or given not in LAYOUTS:
        raise ValueError(
            f"layout is {shown(given)}, expected 'kbt' (codebooks, batch, frames) or 'bkt' (batch, codebooks, frames)"
        )
    return cast(Layout, given)


def _is_list(given: Any) -> TypeGuard[Sequence[Array]]:
    """Whether it is a list of arrays, rather than one array written as a list. Raises ValueError if it is empty."""
    if not isinstance(given, list | tuple):
        return False
    if not given:
        raise ValueError("the list is empty, expected one or more arrays of tokens or features")
    return all(isinstance(item, Tokens) or getattr(item, "ndim", 0) >= 2 for item in given)


def read_lengths(lengths: Any, batch: int, frames: int) -> list[int]:
    """The frames of each item of a padded batch. Raises ValueError unless they are ``batch`` integers, 1 to frames."""
    array = as_array(lengths, "lengths")
    if array.ndim != 1 or not is_integer(array) or len(array) != batch:
        raise ValueError(
            f"lengths is {shown(lengths)}, expected {batch} integers: the frames of each item of the batch"
        )
    frames_of: list[int] = array.tolist()
    for i, length in enumerate(frames_of):
        if not 1 <= length <= frames:
            raise ValueError(
                f"lengths holds {length} for item {i}, expected 1 to {frames}: the batch has as many frames"
            )
    return frames_of


def read_tokens(
    tokens: npt.ArrayLike, layout: Layout, num_codebooks: int, codebook_size: int
) -> npt.NDArray[np.integer[Any]]:
    """Checks tokens and brings them into the shape (K, B, T).

    Raises ValueError if the tokens are not integers, not 2-D or 3-D, empty, have more than ``num_codebooks``
    codebooks, or are outside 0 ... codebook_size - 1.
    """
    codes = np.asarray(tokens)
    if codes.size == 0:
        raise empty_tokens(codes.shape)
    if codes.dtype.kind not in "iu":
        raise ValueError(not_tokens_message(codes, codebook_size))
    if codes.ndim not in (2, 3):
        hint = ""
        if codes.ndim == 1 and codes.size:
            hint = "; of a single codebook pass tokens[None], of a single frame tokens[:, None]"
        elif codes.ndim == 4:
            meant = "tokens[0]" if len(codes) == 1 else "numpy.concatenate(tokens, axis=-1)"
            hint = f'; of (chunks, batch, codebooks, frames), as of transformers, pass {meant} with layout="bkt"'
        axes = "1 dimension" if codes.ndim == 1 else f"{codes.ndim} dimensions"
        raise ValueError(
            f"tokens have {axes}, shape {codes.shape}; expected (codebooks, frames) or (codebooks, batch, frames){hint}"
        )
    shape = codes.shape
    if codes.ndim == 2:
        codes = codes[:, None]
    elif layout == "bkt":
        codes = codes.transpose(1, 0, 2)
    if len(codes) > num_codebooks:
        hint = _other_order(shape, layout, num_codebooks)
        if not hint and len(codes) <= MAX_CODEBOOKS:
            first = first_codebooks(num_codebooks, shape, layout)
            hint = f"; if they are residual, their first {num_codebooks} can be decoded alone: pass {first}"
        raise ValueError(
            f"tokens of shape {shape} have {counted(len(codes))}, expected 1 to {num_codebooks} of them{hint}"
        )
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        wrong = np.unique(codes[(codes < 0) | (codes >= codebook_size)])
        raise ValueError(
            f"tokens hold the value {low if low < 0 else high}, expected 0 to {codebook_size - 1}; "
            + (
                "special tokens (padding, end of sequence) must be cut off before decoding"
                if len(wrong) <= _SPECIAL
                else f"{len(wrong)} different values are outside: these are no tokens of this model's codec, or an "
                f"offset was added to them; pass them as their codec has them, to a model of that codec"
            )
        )
    return codes


def empty_tokens(shape: tuple[int, ...]) -> ValueError:
    return ValueError(f"tokens are empty, shape {shape}; expected at least one codebook, one item and one frame")


def _other_order(shape: tuple[int, ...], layout: Layout, most: int) -> str:
    """A hint for axes in another order: what to pass instead; empty if no other order fits."""
    if len(shape) == 2 and shape[1] <= most:
        return "; they look like (frames, codebooks): pass tokens.T"
    if len(shape) == 3 and shape[0] == 1 and shape[2] <= most < shape[1]:
        return "; they look like (batch, frames, codebooks): pass tokens[0].T"
    if len(shape) == 3 and 1 < shape[layout == "kbt"] <= most:  # with one item, this mistake is unlikely
        return f"; for the other order of the first two axes pass layout={'kbt' if layout == 'bkt' else 'bkt'!r}"
    if len(shape) == 3 and shape[2] <= most:  # (B, T, K) is far more common than (T, B, K)
        return "; they look like (batch, frames, codebooks): pass tokens.transpose(0, 2, 1) with layout='bkt'"
    return ""
