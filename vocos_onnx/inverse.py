"""Spectra -> audio: the inverse transform of each frame, and the overlap-add of all frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .dsp.stft import hann_window, imdct_frames, istft_frames, overlap_add, trim_of
from .model.config import ModelConfig
from .spans import Span, Spectrum

AT_ONCE = 128  # frames transformed at once: all windowed frames of a long span would take 8 MB


class Transform(Protocol):
    """The inverse transform of one kind of spectrum.

    weight: (n_fft,); the overlap-added frames are divided by its overlap-added sum. None if there is no division.
    """

    @property
    def weight(self) -> Float | None: ...

    def frames(self, spectrum: npt.NDArray[Any]) -> Float:
        """Spectrum (B, T, F) -> windowed frames (B, T, n_fft)."""

    def __hash__(self) -> int: ...


class ISTFT:
    """The inverse STFT of spectra (B, T, n_fft/2 + 1), with a periodic Hann window; the weight is its square.

    Dividing by the sum of squared windows makes it the least-squares inverse (Griffin & Lim 1984, eq. 6).
    """

    def __init__(self, n_fft: int):
        self._n_fft = n_fft
        self.weight = hann_window(n_fft) ** 2

    def frames(self, spectrum: npt.NDArray[Any]) -> Float:
        return istft_frames(spectrum, self._n_fft)


class IMDCT:
    """The inverse MDCT of coefficients (B, T, n_fft/2), with a sine window, whose overlapping squares add up to one."""

    weight = None

    def frames(self, spectrum: npt.NDArray[Any]) -> Float:
        return imdct_frames(spectrum)


class Samples:
    """The identity: a WaveNext's network returns the samples of each frame, (B, T, n_fft), with n_fft = hop_length."""

    weight = None

    def frames(self, spectrum: npt.NDArray[Any]) -> Float:
        return spectrum


def transform_of(config: ModelConfig) -> Transform:
    """Returns the inverse transform for the output of a model's network."""
    if config.head == "istft":
        return ISTFT(config.n_fft)
    return Samples() if config.head == "wavenext" else IMDCT()


@dataclass(frozen=True, eq=False)
class Sum:
    """The overlap-added frames of a span: its contribution to the audio of its sequences.

    audio: (B, (T - 1)·hop_length + n_fft) for T frames, or (B, samples) for whole sequences if the graph computed it.
    is_audio: whether it is the latter.
    """

    span: Span
    audio: Float
    is_audio: bool


class Tail(NamedTuple):
    """What ``OverlapAdd`` keeps of the frames so far; never modified in place.

    audio: (B, kept), the end of their sum; None if there are no frames yet.
    frames: how many frames there were, capped at the count beyond which it makes no difference.
    """

    audio: Float | None
    frames: int


START = Tail(None, 0)


def _joined(tails: Sequence[Tail]) -> Tail:
    """Joins the tails of several sequences with equally many frames."""
    if len(tails) == 1 or not tails[0].frames:
        return tails[0]
    return Tail(np.concatenate([tail.audio for tail in tails if tail.audio is not None]), tails[0].frames)


def _split(tail: Tail) -> list[Tail]:
    """Splits a tail into one per sequence. They are copies, so that none keeps the others in memory."""
    assert tail.audio is not None
    return [tail] if len(tail.audio) == 1 else [Tail(row[None], tail.frames) for row in _rows(tail.audio)]


def _rows(array: Float) -> list[Float]:
    return [array[0]] if len(array) == 1 else [row.copy() for row in array]


class Inverse:
    """Turns the spectra of one model into audio."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self._transform = transform_of(config)

    def sums(self, spectra: Iterable[Spectrum]) -> list[Sum]:
        """Sums each span by itself, which is most of the work. Raises FloatingPointError if a sum is not finite."""
        return [self._sum(spectrum) for spectrum in spectra]

    def _sum(self, spectrum: Spectrum) -> Sum:
        if spectrum.audio is not None:
            return Sum(spectrum.span, spectrum.audio, True)
        assert spectrum.values is not None
        return Sum(spectrum.span, self.summed(spectrum.values, spectrum.span.start), False)

    def summed(self, spectrum: npt.NDArray[Any], first: int) -> Float:
        """Spectrum (B, t, F) of the frames from ``first`` on -> their sum (B, (t - 1)·hop_length + n_fft), t > 0.

        It depends on nothing else, so many can be computed at once. Raises FloatingPointError if it is not finite.
        """
        return _summed(self._transform, self.config.hop_length, spectrum, first)

    def join(self, sums: Iterable[Sum]) -> list[Float]:
        """The audio (B, samples) of each item, in the order of the items. The sums of a sequence must be consecutive.

        T frames make T·hop_length samples with ``same`` padding (one more if n_fft - hop_length is odd), and
        (T - 1)·hop_length with ``center`` padding.
        """
        audio: dict[int, Float] = {}
        for _, of_rows in itertools.groupby(sums, key=lambda one: (one.span.item, one.span.rows.start)):
            span, found = self._of_rows(of_rows)
            if span.batch == span.frames.batch:
                audio[span.item] = found
            else:
                rows = audio.setdefault(span.item, np.empty((span.frames.batch, found.shape[1]), np.float32))
                rows[span.rows] = found
        return [audio[item] for item in sorted(audio)]

    def _of_rows(self, sums: Iterator[Sum]) -> tuple[Span, Float]:
        """The first span of some sequences, and their audio."""
        first = next(sums)
        config, span = self.config, first.span
        if first.is_audio:
            return span, first.audio.clip(-1, 1) if config.clip_audio else first.audio
        overlap_add = self.overlap_add()
        if span.is_whole:
            return span, overlap_add.add(first.audio, last=True)
        samples = config.samples(span.frames.length)
        audio, done = np.empty((span.batch, samples), np.float32), 0
        for one in itertools.chain([first], sums):
            block = overlap_add.add(one.audio, last=one.span.stop == span.frames.length)
            audio[:, done : done + block.shape[1]] = block
            done += block.shape[1]
        assert done == samples
        return span, audio

    def overlap_add(self, tail: Tail = START) -> OverlapAdd:
        """An ``OverlapAdd`` for one item or stream, from the beginning or continuing from ``tail``."""
        config = self.config
        n_fft, hop, padding = config.n_fft, config.hop_length, config.padding
        return OverlapAdd(self._transform, n_fft, hop, padding, tail, clip=config.clip_audio)

    def go_on(self, spectrum: npt.NDArray[Any], tail: Tail, skip: int, first: int) -> tuple[Float, Tail]:
        """Continues a sequence with a spectrum (t, F); returns its audio (n,), n >= 0, and its new tail.

        The first ``skip`` frames are left out. ``first`` is the number of the first frame, for error messages. Raises
        FloatingPointError if the audio is not finite.
        """
        if skip == len(spectrum):
            return np.zeros(0, np.float32), tail
        overlap_add = self.overlap_add(tail)
        return overlap_add.add(self.summed(spectrum[None, skip:], first + skip))[0], overlap_add.tail

    def go_on_together(
        self, spectrum: npt.NDArray[Any], tails: Sequence[Tail], skips: Sequence[int], firsts: Sequence[int]
    ) -> list[tuple[Float, Tail] | FloatingPointError]:
        """What ``go_on`` returns for each sequence of a spectrum (B, t, F), or the error that it raises.

        Sequences at the same point, the usual case, are computed at once. No result keeps another's data in memory.
        """
        if len(set(skips)) == 1 == len({tail.frames for tail in tails}) and skips[0] < spectrum.shape[1]:
            with suppress(FloatingPointError):  # perhaps only one sequence is at fault
                summed = self.summed(spectrum[:, skips[0] :], 0)
                overlap_add = self.overlap_add(_joined(tails))
                return list(zip(_rows(overlap_add.add(summed)), _split(overlap_add.tail), strict=True))
        each: list[tuple[Float, Tail] | FloatingPointError] = []
        for values, tail, skip, first in zip(spectrum, tails, skips, firsts, strict=True):
            try:
                each.append(self.go_on(values, tail, skip, first))
            except FloatingPointError as error:
                each.append(error)
        return each

    @property
    def delay(self) -> int:
        """Samples by which the audio of a stream lags: after m frames, m·hop_length - delay have been emitted."""
        return self.overlap_add().delay


class OverlapAdd:
    """Spectra to audio, some frames at a time, however they are cut.

    Frame t is added to samples t·hop ... t·hop + n_fft - 1 of a sum, which is trimmed by ``trim`` samples at both ends.
    After m frames, the sum
      - ends at (m - 1)·hop + n_fft;
      - is final before m·hop, where the next frame will begin, n_fft - hop samples before that end;
      - loses its last ``trim`` samples if no frame follows.
    So its last max(n_fft - hop, trim) samples are held back, and all before them are emitted. If ``trim`` is the larger
    of the two, the next frame begins within the samples held back, ``_frame_offset`` samples after their start. If the
    transform has a weight, n_fft - hop is 2 or more (``ModelConfig`` checks it), so no sample is divided by a weight of
    0. Frames of one hop, n_fft = hop, do not overlap: with "same" padding nothing is held back.

    Args:
        transform: of a frame.
        n_fft, hop_length: samples of a frame, and samples from one frame to the next.
        padding: "same" trims (n_fft - hop_length) // 2 samples, "center" n_fft / 2.
        tail: what another ``OverlapAdd`` kept, to continue from there.
        clip: whether the audio is clipped at ±1.
    """

    def __init__(
        self,
        transform: Transform,
        n_fft: int,
        hop_length: int,
        padding: str,
        tail: Tail = START,
        *,
        clip: bool = False,
    ):
        self._transform, self._n_fft, self._hop, self._clip = transform, n_fft, hop_length, clip
        self._trim = trim_of(n_fft, hop_length, padding)
        self._kept = max(n_fft - hop_length, self._trim)
        self._frame_offset = self._kept - (n_fft - hop_length)
        self._most = -(-(n_fft + self._frame_offset) // hop_length)  # frames that the next samples may depend on
        self.tail = tail
        self._frames = 0

    @property
    def delay(self) -> int:
        """Samples by which ``push`` lags: after m frames in all, it has returned max(0, m·hop - delay).

        These are the (m - 1)·hop + n_fft samples of the sum, less those held back and the ``trim`` at the beginning.
        """
        return self._frame_offset + self._trim

    def push(self, spectrum: npt.NDArray[Any], *, last: bool = False) -> Float:
        """Spectrum (B, t, F) of the next frames, t > 0 -> the samples (B, n) that they complete, n >= 0.

        If ``last``, no frame follows, and the rest is emitted too. Raises FloatingPointError if they are not finite.
        """
        summed = _summed(self._transform, self._hop, spectrum, self._frames)
        self._frames += spectrum.shape[1]
        return self.add(summed, last=last)

    def add(self, summed: Float, *, last: bool = False) -> Float:
        """The sum of the next frames, as ``Inverse.summed`` returns it -> what ``push`` returns for these frames."""
        before, count = self.tail.frames, (summed.shape[1] - self._n_fft) // self._hop + 1
        audio = self._added(summed)
        if last:
            return self._finished(audio, before, count, audio.shape[1] - self._trim)
        self.tail = Tail(audio[:, audio.shape[1] - self._kept :].copy(), min(before + count, self._most))
        return self._finished(audio, before, count, audio.shape[1] - self._kept)

    def finish(self) -> Float:
        """The remaining samples (B, n), if no ``push`` was called with ``last``. There must have been one ``push``."""
        audio, frames = self.tail
        assert audio is not None
        return self._finished(audio, frames, 0, self._kept - self._trim)

    def _added(self, added: Float) -> Float:
        """Adds a sum of frames to the kept end of the sum; may change ``added`` in place."""
        kept = self.tail.audio
        if kept is None:
            return added
        if self._frame_offset:
            added = np.concatenate([np.zeros((len(added), self._frame_offset), np.float32), added], axis=1)
        added[:, : self._kept] += kept  # empty if frames do not overlap
        return added

    def _finished(self, audio: Float, before: int, count: int, stop: int) -> Float:
        """The finished samples up to ``stop`` of a sum that begins with the samples kept after ``before`` frames."""
        begin = before * self._hop - self._frame_offset if before else 0
        start = min(max(0, self._trim - begin), stop)
        audio = audio[:, start:stop]
        if self._transform.weight is not None:
            audio = audio / _repeated(self._transform, before + count, self._hop)[:, begin + start : begin + stop]
        return audio.clip(-1, 1) if self._clip else audio


def _summed(transform: Transform, hop: int, spectrum: npt.NDArray[Any], first: int) -> Float:
    count = spectrum.shape[1]
    audio = overlap_add(transform.frames(spectrum[:, :AT_ONCE]), hop)
    if count > AT_ONCE:
        audio = np.pad(audio, ((0, 0), (0, (count - AT_ONCE) * hop)))
        for start in range(AT_ONCE, count, AT_ONCE):
            added = overlap_add(transform.frames(spectrum[:, start : start + AT_ONCE]), hop)
            audio[:, start * hop : start * hop + added.shape[1]] += added
    check_finite(audio, spectrum, first)
    return audio


@lru_cache(maxsize=2)
def _repeated(transform: Transform, count: int, hop: int) -> Float:
    """The weight of a transform, overlap-added ``count`` times: (1, (count - 1)·hop + n_fft). Must not be modified.

    Between the first and the last n_fft/hop frames, all hops are the same.
    """
    weight = transform.weight
    assert weight is not None
    parts = -(-len(weight) // hop)
    few = overlap_add(np.broadcast_to(weight, (1, min(count, 2 * parts), len(weight))), hop)
    if count <= 2 * parts:
        return few
    start = parts * hop  # here and in the hop before, all parts of the weight have been added
    middle = np.tile(few[:, start - hop : start], count - 2 * parts)
    return np.concatenate([few[:, :start], middle, few[:, start:]], axis=1)


def check_finite(audio: Float, spectrum: npt.NDArray[Any], first: int = 0) -> None:
    """Raises FloatingPointError if the audio is not finite; the message names the stage at fault.

    ``first``: the number of the spectrum's first frame in its sequence.
    """
    if np.isfinite(audio).all():
        return
    bad = ~np.isfinite(spectrum).all(axis=-1)
    if bad.any():
        item, frame = (int(i) for i in np.argwhere(bad)[0])
        raise FloatingPointError(
            f"the network gave NaN or infinity in {bad.sum()} of {bad.size} frames, first in frame {first + frame} of "
            f"item {item}: its weights are damaged, or its input is far from what it was trained with"
        )
    raise FloatingPointError(
        f"the inverse transform overflowed: the spectrum reaches {np.abs(spectrum).max():.2g}, and audio is within 1"
    )
