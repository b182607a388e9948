"""What all sections share: the settings, both versions of the package, and the models."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from benchmarks import versions
from benchmarks.versions import Version


@dataclass(frozen=True)
class Settings:
    """decodes: of random lengths, for the memory. clips: a folder of recordings speech_*.

    quick: few rounds and short input, to see that everything starts; the figures then mean nothing.
    """

    threads: int
    rounds: int
    pause: float
    decodes: int
    clips: Path | None
    quick: bool


class Bench:
    """The models are made when they are first asked for."""

    def __init__(self, settings: Settings, folder: Path):
        self.settings, self.folder = settings, folder
        self.current = versions.current(folder)
        self.old = versions.old(folder)

    def version(self, contender: str) -> Version:
        return self.old if contender.startswith(versions.OLD) else self.current

    @functools.cache  # noqa: B019  it lives as long as the program
    def models(self, geometry: str) -> Path:
        """A folder with a checkpoint, and a folder for each version with its model.onnx and int8.onnx."""
        folder = self.folder / geometry
        self.current.ask("benchmarks.models", "checkpoint", geometry, folder)
        for version in (self.current, self.old):
            version.ask("benchmarks.models", "export", folder, folder / version.name)
        return folder

    def model(self, geometry: str, contender: str) -> Path:
        """The file of a contender of ours."""
        file = "int8.onnx" if "int8" in contender else "model.onnx"
        return self.models(geometry) / self.version(contender).name / file
