"""Whatever a caller may give -> Frames. This is the only place that reads shapes of tokens and features."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeGuard

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
from .bandwidths import Bandwidths, counted, first_codebooks
from .dsp.mel import MelFeatures
from .dsp.quantizer import fingerprints, lookup
from .io.tokens import Tokens, check_codec
from .limits import MAX_CODEBOOKS
from .mels import MelCheck
from .model.bundled import CODEC, MEL
from .model.config import EncodecFeatures, ModelConfig

Layout = Literal["kbt", "bkt"]
LAYOUTS = ("kbt", "bkt")
_SPECIAL = 4  # different values beyond a codebook that special tokens make at most


@dataclass(frozen=True, eq=False)
class Frames:
    """Sequences of one length, checked: tokens or features, the bandwidth id, and whether their audio has a batch axis.

    values: codes (K, B, T), or features (B, C, T) in float32.
    codebooks: (K or more, codebook_size, C), which the codes index; None for features.
    is_batch: whether the audio is (B, samples), or that of the only sequence, (samples,).
    """

    values: npt.NDArray[Any]
    codebooks: Float | None
    bandwidth_id: int | None
    is_batch: bool

    @property
    def kind(self) -> str:
        """What they are, in words; a stream takes one kind."""
        return "features" if self.codebooks is None else f"tokens of {counted(len(self.values))}"

    @property
    def batch(self) -> int:
        """How many sequences."""
        return int(self.values.shape[0 if self.codebooks is None else 1])

    @property
    def length(self) -> int:
        """Frames of each sequence."""
        return int(self.values.shape[2])

    def features(self, start: int, stop: int, rows: slice = slice(None)) -> Float:
        """The features (B, C, stop - start) of some frames, of all sequences or of some."""
        if self.codebooks is None:
            return self.values[rows, :, start:stop]
        return lookup(self.values[:, rows, start:stop], self.codebooks)

    def part(self, start: int, stop: int) -> Frames:
        """Some of the frames, without a copy."""
        return Frames(self.values[:, :, start:stop], self.codebooks, self.bandwidth_id, self.is_batch)

    def filled_up(self, missing: int) -> Frames:
        """Features with so many frames of zeros after them."""
        assert self.codebooks is None
        return replace(self, values=np.pad(self.values, ((0, 0), (0, 0), (0, missing)))) if missing else self

    def restore(self, audio: Float) -> Float:
        """Audio (B, samples) as the caller's shape asks for it."""
        return audio if self.is_batch else audio[0]


@dataclass(frozen=True, eq=False)
class Given:
    """All that one call is given, in its order."""

    items: tuple[Frames, ...]
    is_list: bool

    def restore(self, audio: Sequence[Float]) -> Float | list[Float]:
        """The audio (B, samples) of each item as the caller's input asks for it."""
        each = [frames.restore(one) for frames, one in zip(self.items, audio, strict=True)]
        return each if self.is_list else each[0]


def features_of(parts: Sequence[Frames]) -> Float:
    """The features (B, C, t) of sequences of one length, one after another; codes of one kind are looked up at once."""
    first = parts[0]
    if len(parts) == 1:
        return np.ascontiguousarray(first.features(0, first.length))
    if first.codebooks is None or len({(len(part.values), id(part.codebooks)) for part in parts}) > 1:
        return np.concatenate([part.features(0, part.length) for part in parts])
    return lookup(np.concatenate([part.values for part in parts], 1, dtype=np.intp, casting="unsafe"), first.codebooks)


class Reader(ABC):
    """Reads what a model decodes. ``MelReader`` and ``TokenReader`` know what that is."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.bandwidths = Bandwidths(config)

    def read(self, given: Any, bandwidth_id: Any, layout: Layout, *, check_mels: bool = True) -> Given:
        """What ``VocosONNX.decode`` takes: one array, or a list of arrays. Raises ValueError as that does.

        ``check_mels``: whether to warn if the features look like another system's mels.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}, expected 'kbt' (codebooks, batch, frames) or 'bkt'")
        mel_check = self.mel_check() if check_mels else None
        if not _is_list(given):
            return Given((self._item(self._array(given), bandwidth_id, layout, mel_check),), is_list=False)
        arrays = [self._array(item) for item in given]
        if len({is_float(array) for array in arrays}) > 1:
            raise ValueError("the list holds tokens (integers) and features (floats); decode them in two calls")
        wrong = next((i for i, array in enumerate(arrays) if array.ndim != 2), None)
        if wrong is not None:
            shape = arrays[wrong].shape
            hint = f"; pass item[0] of those of shape (1, {shape[1]}, T)" if len(shape) == 3 and shape[0] == 1 else ""
            raise ValueError(f"item {wrong} of the list has shape {shape}, expected (K, T) or (C, T){hint}")
        return Given(tuple(self._item(array, bandwidth_id, layout, mel_check) for array in arrays), is_list=True)

    def read_chunk(self, given: Any, bandwidth_id: int | None, mel_check: MelCheck | None) -> Frames:
        """A chunk of a stream: tokens (K, t) or features (C, t), t >= 0. Raises ValueError as ``Stream.push``."""
        array = self._array(given)
        if array.ndim != 2:
            raise ValueError(
                f"a chunk has shape {array.shape}, expected tokens (K, t) or features (C, t){_chunk_hint(array)}"
            )
        if len(array) and not array.size:
            return Frames(np.zeros((1, self.config.feature_channels, 0), np.float32), None, None, is_batch=False)
        return self._item(array, bandwidth_id, "kbt", mel_check)

    def read_codes(self, given: Any, layout: Layout) -> Frames:
        """Tokens (K, T) or (K, B, T) alone, without a bandwidth id. Raises ValueError as ``codes_to_features``."""
        return self._codes(self._array(given), layout)

    def mel_check(self, one_sequence: bool = False) -> MelCheck | None:
        """What looks at the features of one call or stream, if there is anything to see."""
        return None

    @property
    @abstractmethod
    def decodes(self) -> str:
        """What the model decodes, in a word or two."""

    @property
    def num_codebooks(self) -> int:
        """The most codebooks that tokens can have; 0 if the model decodes none."""
        return 0

    def _array(self, given: Any) -> npt.NDArray[Any]:
        """What is given, as an array. Raises ValueError if it names another codec than this model's."""
        if not isinstance(given, Tokens):
            return as_array(unwrapped(given), "tokens or features")
        check_codec(given, self.config, self._fingerprints)
        return as_array(given.codes, "tokens")

    @property
    def _fingerprints(self) -> tuple[str, ...]:
        """Those of the model's first 1, 2, ... codebooks."""
        return ()

    def _item(self, array: npt.NDArray[Any], bandwidth_id: Any, layout: Layout, mel_check: MelCheck | None) -> Frames:
        if is_float(array):
            features = self._features(array)
            bandwidth_id = self.bandwidths.checked_id(bandwidth_id)
            if mel_check is not None:
                mel_check.add(features)
            return Frames(features, None, bandwidth_id, is_batch=array.ndim == 3)
        frames = self._codes(array, layout)
        codes = frames.values
        if bandwidth_id is None:
            bandwidth_id = self.bandwidths.id_of_codebooks(len(codes), array.shape, layout)
        index = self.bandwidths.checked_id(bandwidth_id)
        self.bandwidths.check_count(codes.shape, array.ndim, index, layout)
        return Frames(codes, frames.codebooks, index, frames.is_batch)

    @abstractmethod
    def _codes(self, array: npt.NDArray[Any], layout: Layout) -> Frames:
        """Tokens, checked. Raises ValueError if the array holds none."""

    def _features(self, features: npt.NDArray[Any]) -> Float:
        channels = self.config.feature_channels
        shape = features.shape
        if features.ndim not in (2, 3) or shape[-2] != channels:
            raise ValueError(
                f"features have shape {shape}, expected ({channels}, T) or (B, {channels}, T)" + self._hint(features)
            )
        if features.size == 0:
            raise ValueError(f"features are empty, shape {shape}; expected at least one item and one frame")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            features = np.ascontiguousarray(features.reshape(-1, channels, shape[-1]), np.float32)
        if not np.isfinite(features).all():
            bad = features[~np.isfinite(features)]
            raise ValueError(f"features hold {bad.size} values that are NaN or infinite in float32; expected finite")
        return features

    def _other_floats(self, array: npt.NDArray[Any]) -> ValueError:
        hint = stack_hint(array, "features") or float_hint(array.dtype)
        return ValueError(f"features have dtype {array.dtype}, expected floats{hint}")

    def _hint(self, given: npt.NDArray[Any]) -> str:
        """A hint for floats of the wrong shape: what they may be, and what to pass."""
        channels, shape, last = self.config.feature_channels, given.shape, given.shape[-2:]
        few = len(shape) in (2, 3) and min(shape[:-1]) <= self.num_codebooks
        if few and given.any() and np.array_equal(given, np.rint(given)):
            return (
                f"; tokens must be integers, not {given.dtype}: if they are tokens, pass them as .astype(numpy.int64)"
            )
        if len(shape) in (2, 3) and last[1] == channels:
            axes, transposed = ("(T, C)", ".T") if len(shape) == 2 else ("(B, T, C)", ".transpose(0, 2, 1)")
            return f"; they look like {axes}: pass features{transposed}"
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
    """Reads mels (n_mels, T) or (B, n_mels, T), and knows why anything else is none."""

    def __init__(self, config: ModelConfig, mel: MelFeatures):
        super().__init__(config)
        self._mel = mel
        self._calls = itertools.count(1)  # of decode and stream

    @property
    def decodes(self) -> str:
        return "mels"

    def mel_check(self, one_sequence: bool = False) -> MelCheck | None:
        """What looks at the mels of one call or stream.

        That takes up to a quarter of the time of a short call: the first 16 are looked at, then fewer and fewer.
        """
        number = next(self._calls)
        rarely = number > 16 and number & (number - 1)
        return None if rarely else MelCheck(self._mel, one_sequence)

    def _codes(self, array: npt.NDArray[Any], layout: Layout) -> Frames:
        if not is_integer(array) and not is_float(array):
            raise self._other_floats(array)
        raise ValueError(
            f"this is a mel model: it decodes float features (B, {self.config.feature_channels}, T), not tokens "
            f"of dtype {array.dtype}; tokens need the model of their codec, those of the bundled codec "
            f"VocosONNX({CODEC!r}); features that are integers may be passed as .astype(numpy.float32)"
        )


class TokenReader(Reader):
    """Reads tokens of a codec, (K, T), (K, B, T) or (B, K, T), or the sums of codebook entries that they stand for."""

    def __init__(self, config: ModelConfig, codec: EncodecFeatures, codebooks: Float):
        super().__init__(config)
        self._codec, self._codebooks = codec, codebooks

    @property
    def decodes(self) -> str:
        return self._codec.codec

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
    """The reader of a model, by what it decodes."""
    if config.mel is not None:
        return MelReader(config, config.mel)
    assert config.encodec is not None
    assert codebooks is not None
    return TokenReader(config, config.encodec, codebooks)


# what features of so many channels are for, where they are not this model's
_CHANNELS = {
    64: f"64 channels are those of the features of the bundled codec: VocosONNX({CODEC!r})",
    80: "80 bands are usual at 22,050 Hz (HiFi-GAN, Matcha-TTS): export a Vocos that was trained with such mels: "
    "vocos-onnx convert CHECKPOINT -o MODEL.onnx",
    100: f"100 channels are those of the mels of VocosONNX({MEL!r})",
    128: "128 channels are those of the features of EnCodec, whose codec model is made with: vocos-onnx convert "
    "charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx",
}


def _chunk_hint(given: npt.NDArray[Any]) -> str:
    if given.ndim == 1 and given.size:
        return "; of one frame pass chunk[:, None], of a single codebook chunk[None]"
    if given.ndim == 3 and 1 in given.shape[:2]:
        return "; pass chunk[0]" if len(given) == 1 else "; pass chunk[:, 0]"
    return ""


def _is_list(given: Any) -> TypeGuard[Sequence[Array]]:
    """A list of arrays, each a sequence, and not one array written as a list. Raises ValueError for an empty one."""
    if not isinstance(given, list | tuple):
        return False
    if not given:
        raise ValueError("the list is empty, expected one or more arrays of tokens or features")
    return all(isinstance(item, Tokens) or getattr(item, "ndim", 0) >= 2 for item in given)


def read_tokens(
    tokens: npt.ArrayLike, layout: Layout, num_codebooks: int, codebook_size: int
) -> npt.NDArray[np.integer[Any]]:
    """Check tokens and bring them into the shape (K, B, T).

    Raises ValueError where the layout is unknown or the tokens are not integers, not 2-D or 3-D, empty, of more than
    ``num_codebooks`` codebooks, or outside 0 ... codebook_size - 1.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected 'kbt' (codebooks, batch, frames) or 'bkt'")
    codes = np.asarray(tokens)
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
    if codes.size == 0:
        raise ValueError(f"tokens are empty, shape {shape}; expected at least one codebook, one item and one frame")
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


def _other_order(shape: tuple[int, ...], layout: Layout, most: int) -> str:
    """What to pass for axes that are in another order, where that fits."""
    if len(shape) == 2 and shape[1] <= most:
        return '; they look like (frames, codebooks): pass tokens.T, of a file numpy.save("transposed.npy", tokens.T)'
    if len(shape) == 3 and shape[0] == 1 and shape[2] <= most < shape[1]:
        return "; they look like (batch, frames, codebooks): pass tokens[0].T"
    if len(shape) == 3 and 1 < shape[layout == "kbt"] <= most:  # of one item the order is hardly mistaken
        return f"; for the other order of the first two axes pass layout={'kbt' if layout == 'bkt' else 'bkt'!r}"
    if len(shape) == 3 and shape[2] <= most:  # (B, T, K) is much more frequent than (T, B, K)
        return "; they look like (batch, frames, codebooks): pass tokens.transpose(0, 2, 1) with layout='bkt'"
    return ""
