"""How the commands read, cut and write audio files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.io.audio import LOUD, MADE_BY, audio_format, expected_samples, load_blocks, save_blocks
from vocos_onnx.io.files import check_target

from .console import warn
from .jobs import Job
from .progress import Progress


def check_audio(target: Path | None, format: str | None) -> str | None:
    """Returns the format of an output, from --format or "wav" for standard output; None if its name implies it.

    Raises ValueError or OSError if the audio cannot be written there.
    """
    if target is None:
        return format or "wav"
    if format is None:
        if not target.suffix:
            others = "" if target.exists() else f"name a file such as {target}.wav, a folder as {target}/, or "
            raise ValueError(
                f"the name {target.name!r} has no ending that says what to write: {others}add --format wav"
            )
        audio_format(target)
        return None
    try:
        kind = audio_format(target)
    except ValueError:  # its ending is not that of a format
        check_target(target)
        return format
    if kind != audio_format(target, format):
        raise ValueError(f"{target.name!r} ends in {target.suffix}, and --format is {format}: give one of the two")
    return None


def save(job: Job, blocks: Iterable[Float], rate: int, overwrite: bool) -> int:
    """Write blocks (n,) of audio to the job's output. Returns the number of samples."""
    return save_blocks(job.output, blocks, rate, format=job.format, overwrite=overwrite, comment=MADE_BY)


class Recording:
    """The blocks (n,) of a file, resampled to ``rate``; warns if they are too loud. ``samples``: how many were read."""

    def __init__(self, path: Path, name: str, rate: int, progress: Progress) -> None:
        self.path, self.name, self.rate, self.progress, self.samples = path, name, rate, progress, 0

    def __iter__(self) -> Iterator[Float]:
        peak = 0.0
        for block in load_blocks(self.path, self.rate):
            yield block
            peak = max(peak, float(np.abs(block).max(initial=0)))
            self.samples += len(block)
            self.progress(self.samples, max(self.samples, self._expected))
        if peak > LOUD:
            warn_of_level(self.name, peak)

    @cached_property
    def _expected(self) -> int:
        return expected_samples(self.path, self.rate)


def warn_of_level(name: str, peak: float) -> None:
    """Print a warning on stderr about audio that is too loud for the codec to keep its level."""
    decibels = math.ceil(20 * math.log10(peak))
    warn(
        f"{name} peaks at {peak:.1f}, {decibels} dB above full scale: the copy will not have that level; lower it, "
        f"e.g. ffmpeg -i in.wav -af volume=-{decibels}dB out.wav"
    )
