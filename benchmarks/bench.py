"""Shared by all sections: the settings, both versions of the package, and the models."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from benchmarks import versions
from benchmarks.versions import Version


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    decodes: number of decodes of random lengths, to measure memory.
    clips: a folder of recordings speech_*.
    quick: few rounds and short input, to check that everything starts; the figures are meaningless then.
    """

    threads: int
    rounds: int
    pause: float
    decodes: int
    clips: Path | None
    quick: bool


class Bench:
    """Both versions of the package, and the models, which are created on first use."""

    def __init__(self, settings: Settings, folder: Path):
        self.settings, self.folder = settings, folder
        self.current = versions.current(folder)
        self.old = versions.old(folder)

    def version(self, contender: str) -> Version:
        return self.old if contender.startswith(versions.OLD) else self.current

    @functools.cache  # noqa: B019  the object lives as long as the program
    def models(self, geometry: str) -> Path:
        """A folder with a checkpoint, and a folder for each version with its model.onnx and int8.onnx."""
        folder = self.folder / geometry
        self.current.ask("benchmarks.models", "checkpoint", geometry, folder)
        for version in (self.current, self.old):
            version.ask("benchmarks.models", "export", folder, folder / version.name)
        return folder

    def model(self, geometry: str, contender: str) -> Path:
        """The model file of one of our contenders."""
        file = "int8.onnx" if "int8" in contender else "model.onnx"
        return self.models(geometry) / self.version(contender).name / file
