"""The files of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint, the name that a model file keeps of it, and its commit where it is on the hub."""

    config: Path | None
    weights: Path
    name: str
    revision: str = ""
