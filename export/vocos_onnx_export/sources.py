"""Finds a checkpoint: a local folder or file, or a repository on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from vocos_onnx.model import hub
from vocos_onnx.model.names import is_hub_id
from vocos_onnx.model.sources import Files

from .errors import CheckpointError


def local_path(checkpoint: str, revision: str | None) -> Path | None:
    """The path of a checkpoint; None for a hub id. Raises CheckpointError if a path is given a revision."""
    if is_hub_id(checkpoint):
        return None
    if revision is not None:
        raise CheckpointError(f"revision {revision!r} is for hub ids; {checkpoint} is not one")
    return Path(checkpoint)


def find_weights(path: Path, names: tuple[str, ...], expected: str) -> Path:
    """The path itself if it is a file, or the first of the names in the folder. Raises FileNotFoundError."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint {path}: expected {expected}")
    weights = next((path / name for name in names if (path / name).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{path} has neither {' nor '.join(names)}")
    return weights


def download(repo: str, revision: str | None, config_names: tuple[str, ...], weight_names: tuple[str, ...]) -> Files:
    """The first config and the first weights that a hub repository has, from the cache if there is no network.

    Raises FileNotFoundError if they are not available, ImportError if the hub's client is not installed.
    """
    try:
        config = hub.download(repo, *config_names, revision=revision, what=repo)
        weights = hub.download(repo, *weight_names, revision=revision, what=repo)
    except hub.MissingFileError as error:
        raise FileNotFoundError(str(error)) from error
    return Files(config, weights, repo, weights.parent.name)  # the cache keeps files under snapshots/<commit>/
