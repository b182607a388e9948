"""Frames -> spans: how the work of one call is cut, and what goes through the network together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Float
from .frames import Frames

LONGEST = 1500  # frames of a span, 20 s at 75 frames/s: memory does not grow with the length of the input
MOST = 64 * LONGEST  # frames of a batch, with those that fill up its shorter rows: nor with the number of items


@dataclass(frozen=True, eq=False)
class Span:
    """Frames that go through the network in one call.

    The frames of an item from ``start`` to ``stop`` are wanted; those from ``first`` to ``last`` go in, so that the
    network sees beside the wanted ones all that it would see if the whole item went in.
    """

    item: int  # its place among the items of the call
    frames: Frames
    start: int
    stop: int
    first: int
    last: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its item."""
        return self.start == 0 and self.stop == self.frames.length


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What the network makes of a span.

    values: of the wanted frames, complex64 (B, T, n_fft/2 + 1), from an IMDCT head float32 (B, T, n_fft/2); None if the
        inverse transform is in the graph.
    audio: what that makes of the span, which is a whole item, float32 (B, samples); else None.
    """

    span: Span
    values: npt.NDArray[Any] | None
    audio: Float | None = None


@dataclass(frozen=True)
class Plan:
    """How work is cut for one network.

    reach: frames that the network sees to either side; 0 if a sequence cannot be cut.
    together: whether short items go through the network as one batch, which is what a GPU is fast at. On a CPU one
        after the other is as fast, and nothing is padded.
    """

    reach: int
    together: bool

    def batches(self, items: Sequence[Frames]) -> Iterator[list[Span]]:
        """The spans of all items, those of one call of the network together; those of an item follow one another."""
        together = self.together and self.reach > 0
        short = [i for i, frames in enumerate(items) if together and frames.length <= LONGEST]
        # of one bandwidth id in a batch, and of similar lengths, so that little is filled up
        short.sort(key=lambda i: (items[i].bandwidth_id or 0, items[i].length))
        batch: list[Span] = []
        rows = 0
        for i in short:
            span = Span(i, items[i], 0, items[i].length, 0, items[i].length)
            same = not batch or batch[0].frames.bandwidth_id == span.frames.bandwidth_id
            rows += span.frames.batch
            if batch and not (same and rows * span.stop <= MOST):  # it is the longest, and so many frames has each row
                yield batch
                batch, rows = [], span.frames.batch
            batch.append(span)
        if batch:
            yield batch
        for i, frames in enumerate(items):
            if not together or frames.length > LONGEST:
                for span in self._cut(i, frames):
                    yield [span]

    def _cut(self, item: int, frames: Frames) -> Iterator[Span]:
        """Spans of nearly equal length, the fewest of up to LONGEST frames."""
        length = frames.length
        count = -(-length // LONGEST) if self.reach else 1
        for i in range(count):
            start, stop = i * length // count, (i + 1) * length // count
            yield Span(item, frames, start, stop, max(0, start - self.reach), min(length, stop + self.reach))


def stacked(spans: Sequence[Span]) -> tuple[Float, list[int] | None]:
    """The features (B, C, T) that go in, of all spans one below the other; and how many frames each row has.

    T is the length of the longest: the others end with zeros. The lengths are None if all are equal.
    """
    if len(spans) == 1:
        return spans[0].frames.features(spans[0].first, spans[0].last), None
    each = [span.frames.features(span.first, span.last) for span in spans]
    lengths = [features.shape[2] for features in each for _ in features]
    stack = np.zeros((len(lengths), each[0].shape[1], max(lengths)), np.float32)
    row = 0
    for features in each:
        stack[row : row + len(features), :, : features.shape[2]] = features
        row += len(features)
    return stack, None if len(set(lengths)) == 1 else lengths
