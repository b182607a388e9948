"""Frames -> spans: cuts the work of one call, and decides what goes through the network together, on which threads."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .frames import Frames

LONGEST = 1500  # frames of a span, 20 s at 75 frames/s, so that memory does not grow with the length of the input
ALONE = 500  # frames of a span on one thread; longer ones take more memory, and from 750 on more time per frame
MOST = 64 * LONGEST  # frames of a batch with its padding, so that memory does not grow with the number of items
# The fraction that each thread inside operators, beyond the first, loses because it waits for the others, and because
# the inverse transform runs on one thread; measured on two cores with the official geometries, see
# docs/explanation/performance.md.
WAITING = {"float32": 0.12, "int8": 0.25, "float16": 0.12}


@dataclass(frozen=True, eq=False)
class Span:
    """Frames that go through the network in one call.

    Frames ``start`` to ``stop`` of an item are wanted. Frames ``first`` to ``last`` go in, so that around the wanted
    ones the network sees everything that it would see if the whole item went in.
    """

    item: int  # its index among the items of the call
    frames: Frames
    rows: slice  # of the item's sequences
    start: int
    stop: int
    first: int
    last: int

    @property
    def is_whole(self) -> bool:
        """Whether it spans its sequences completely."""
        return self.start == 0 and self.stop == self.frames.length

    @property
    def batch(self) -> int:
        """The number of sequences."""
        return int(self.rows.stop - self.rows.start)

    def features(self) -> Float:
        """The features (batch, C, last - first) that go in."""
        return self.frames.features(self.first, self.last, self.rows)


class Window(NamedTuple):
    """Frames ``start`` to ``stop`` of a sequence are wanted; for them, frames ``first`` to ``last`` go in."""

    start: int
    stop: int
    first: int
    last: int


def windows(start: int, stop: int, first: int, last: int, reach: int, size: int | None) -> Iterator[Window]:
    """The windows in which frames start to stop go through a network that sees ``reach`` frames to either side.

    Frames ``first`` to ``last`` are available. ``first`` is the start of the sequence or at least ``reach`` frames
    before ``start``; likewise for ``last`` and the end. If the network takes ``size`` frames, more than 2 · reach,
    every window has that many, or all that are available if there are fewer. In a window, all frames at least ``reach``
    from its ends are exact, and so are those next to an end that is an end of the sequence.
    """
    while start < stop:
        if size is None:
            yield Window(start, stop, max(first, start - reach), min(last, stop + reach))
            return
        begin = max(first, min(start - reach, last - size))
        end = min(last, begin + size)
        done = stop if end == last else min(stop, end - reach)
        yield Window(start, done, begin, end)
        start = done


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The output of the network for a span.

    values: for the wanted frames: complex64 (B, T, n_fft/2 + 1), from an IMDCT head float32 (B, T, n_fft/2), from a
        WaveNextHead float32 (B, T, n_fft); None if the graph computed the audio.
    audio: float32 (B, samples), if the inverse transform is in the graph and the span has whole sequences; else None.
    """

    span: Span
    values: npt.NDArray[Any] | None
    audio: Float | None = None


@dataclass(frozen=True, eq=False)
class Work:
    """How the spans of one call are computed.

    batches: lists of spans, each list for one call of the network; the spans of the same sequences are consecutive.
    threads: how many batches are computed at once; 1 if the threads work inside the operators instead.
    alone: whether each batch is computed on the calling thread only.
    """

    batches: Iterator[list[Span]]
    threads: int
    alone: bool


@dataclass(frozen=True)
class Plan:
    """How work is cut for one network.

    reach: frames that the network sees to either side; 0 if a sequence cannot be cut.
    threads: the number that one call uses; None if the network does not run on the CPU alone.
    together: whether short items go through the network as one batch, which suits a GPU; the network must have a mask
        for the ends of the shorter ones.
    waiting: the fraction that each thread after the first loses inside operators, see ``WAITING``.
    size: the number of frames that the network takes; None for any.
    """

    reach: int
    threads: int | None
    together: bool = False
    waiting: float = WAITING["float32"]
    size: int | None = None

    def work(self, items: Sequence[Frames]) -> Work:
        """The spans of all items of one call, and how they are computed.

        On the CPU there are two ways. Threads inside operators wait for one another some 150 times per call. Spans on
        one thread each do not, but where spans of a sequence meet, frames are computed twice, and the last span may run
        alone. With n threads, F frames in all, and m frames on the busiest thread, the first way takes as long as

            F/n · (1 + waiting · (n - 1))

        frames on one thread, and the second as long as m. So two threads share a single sequence as two spans if it has
        2 · reach/waiting frames or more: 450 for the official models in float32.

        Raises ValueError if a sequence is longer than the network takes, and cannot be cut.
        """
        longest = max((frames.length for frames in items), default=0)
        if self.size is not None and longest > self.size and not self.reach:
            raise ValueError(
                f"the input has {longest} frames, and this model takes {self.size} at once: how far it sees is not "
                f"known, so that longer input cannot be cut; decode {self.size} frames or fewer"
            )
        if self.threads is None:
            return Work(self._batches(items), 1, alone=False)
        frames = sum(frames.batch * frames.length for frames in items)
        threads = self.threads
        rounds = max(1, math.ceil(frames / (threads * ALONE)))  # in each round, every thread has one span
        share = max(1, math.ceil(frames / (threads * rounds)))
        if threads > 1:
            share = max(share, 2 * self.reach)  # with shorter ones, more than half of the work would be redundant
            busiest = _busiest([cost for item in items for cost in self._costs(item, share)], threads)
            if busiest > frames / threads * (1 + self.waiting * (threads - 1)):
                return Work(self._batches(items), 1, alone=False)
        # the longest first, so that no thread is left with a long one at the end
        order = sorted(range(len(items)), key=lambda i: -items[i].length)
        return Work(([span] for i in order for span in self._cut(i, items[i], share)), threads, alone=True)

    def _batches(self, items: Sequence[Frames]) -> Iterator[list[Span]]:
        """The spans of all items, grouped by call of the network."""
        short = [i for i, frames in enumerate(items) if self.together and frames.length <= LONGEST]
        # a batch has one bandwidth id, and similar lengths, so that it needs little padding
        short.sort(key=lambda i: (items[i].bandwidth_id or 0, items[i].length))
        batch: list[Span] = []
        rows = 0
        for i in short:
            span = self._span(i, items[i], slice(0, items[i].batch), 0, items[i].length)
            same = not batch or batch[0].frames.bandwidth_id == span.frames.bandwidth_id
            rows += span.batch
            if batch and not (same and rows * span.stop <= MOST):  # every row is padded to this span, the longest
                yield batch
                batch, rows = [], span.batch
            batch.append(span)
        if batch:
            yield batch
        for i, frames in enumerate(items):
            if not self.together or frames.length > LONGEST:
                for span in self._row_spans(i, frames, slice(0, frames.batch), LONGEST):
                    yield [span]

    def _cut(self, item: int, frames: Frames, share: int) -> Iterator[Span]:
        """Spans of about ``share`` frames each, summed over their sequences."""
        groups = min(frames.batch, math.ceil(frames.batch * frames.length / share))
        for group in range(groups):
            rows = slice(group * frames.batch // groups, (group + 1) * frames.batch // groups)
            yield from self._row_spans(item, frames, rows, share)

    def _costs(self, frames: Frames, share: int) -> Iterator[int]:
        """The number of frames that go in for each span of ``_cut``."""
        return (max(span.last - span.first, self.size or 0) * span.batch for span in self._cut(0, frames, share))

    def _row_spans(self, item: int, frames: Frames, rows: slice, longest: int) -> Iterator[Span]:
        """The spans of some sequences, each of up to ``longest`` frames, or of as many as the network takes."""
        length = frames.length
        if self.size is None:
            for start, stop in self._bounds(length, longest):
                yield self._span(item, frames, rows, start, stop)
        else:
            for window in windows(0, length, 0, length, self.reach, self.size):
                yield Span(item, frames, rows, *window)

    def _bounds(self, length: int, longest: int) -> list[tuple[int, int]]:
        """The fewest parts of nearly equal length, each of at most ``longest`` frames; one if it cannot be cut."""
        count = max(1, math.ceil(length / longest)) if self.reach else 1
        return [(i * length // count, (i + 1) * length // count) for i in range(count)]

    def _span(self, item: int, frames: Frames, rows: slice, start: int, stop: int) -> Span:
        return Span(item, frames, rows, start, stop, max(0, start - self.reach), min(frames.length, stop + self.reach))


def _busiest(costs: Sequence[int], threads: int) -> int:
    """The load of the busiest thread, if each thread takes the next span whenever it has finished one."""
    loads = [0] * threads
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(loads, loads[0] + cost)
    return max(loads)


def stacked(spans: Sequence[Span]) -> tuple[Float, list[int] | None]:
    """The features (B, C, T) that go in for all spans, stacked; and how many frames each row has.

    T is the length of the longest; the others end with zeros. The lengths are None if all are equal.
    """
    if len(spans) == 1:
        return spans[0].features(), None
    each = [span.features() for span in spans]
    lengths = [features.shape[2] for features in each for _ in features]
    stack = np.zeros((len(lengths), each[0].shape[1], max(lengths)), np.float32)
    row = 0
    for features in each:
        stack[row : row + len(features), :, : features.shape[2]] = features
        row += len(features)
    return stack, None if len(set(lengths)) == 1 else lengths
