"""The files of a checkpoint: finds the config and the weights in a folder or repository."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path, PurePath

from vocos_onnx.messages import reading

from .config import ENCODER_KEY, METADATA_KEY
from .names import CHECKPOINTS

ONNX = {METADATA_KEY: "model.onnx", ENCODER_KEY: "encoder.onnx"}  # preferred to a checkpoint beside them
CONFIGS = {METADATA_KEY: ("config.yaml", "config.json"), ENCODER_KEY: ("config.json",)}
WEIGHTS = {METADATA_KEY: ("pytorch_model.bin", "model.safetensors"), ENCODER_KEY: ("model.safetensors",)}


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint, the name that a conversion records, and its commit if it is on the hub."""

    config: Path | None
    weights: Path
    name: str
    revision: str = ""


def choose(files: Set[str], key: str) -> tuple[str | None, str] | None:
    """Returns the names of the config and the weights among the files of a folder; None if there is no checkpoint.

    Weights with another name are accepted if they are the only ones and in the safetensors format or, for an encoder,
    Meta's ``.th``. A vocoder may lack its config.
    """
    weights = next((name for name in WEIGHTS[key] if name in files), None)
    config = next((name for name in CONFIGS[key] if name in files), None)
    if weights is None:
        all_weights = [name for name in files if name.lower().endswith(CHECKPOINTS)]
        endings = (".safetensors", ".th") if key == ENCODER_KEY else (".safetensors",)
        if len(all_weights) != 1 or not all_weights[0].endswith(endings) or "/" in all_weights[0]:
            return None
        (weights,) = all_weights
    if key == ENCODER_KEY and (weights.endswith(".th") == (config is not None) or "config.yaml" in files):
        return None  # only Meta's has no config, and a config.yaml belongs to a vocoder
    return config, weights


def in_folder(folder: Path, key: str) -> Files | None:
    """Returns the files of the checkpoint in a folder; None if it has none."""
    with reading(folder):
        chosen = choose({file.name for file in folder.iterdir() if file.is_file()}, key)
    if chosen is None:
        return None
    config, weights = chosen
    return Files(folder / config if config else None, folder / weights, source_name(folder))


def beside(weights: Path, key: str) -> Files | None:
    """Returns the files of the checkpoint with this weight file, including the config beside it.

    Returns None for a file that is not a checkpoint of this kind, or that lacks a config which it needs.
    """
    suffix = weights.suffix.lower()
    places = [weights.with_name(name) for name in CONFIGS[key]]
    config = next((place for place in places if place.is_file()), None)
    if suffix == ".th":
        return Files(None, weights, source_name(weights)) if key == ENCODER_KEY else None
    if suffix not in CHECKPOINTS or (config is None and (suffix != ".safetensors" or key == ENCODER_KEY)):
        return None
    return Files(config, weights, source_name(weights))


def source_name(path: Path) -> str:
    """Returns the name of a file or folder, with unprintable characters replaced by "?"."""
    return "".join(letter if letter.isprintable() else "?" for letter in PurePath(path.resolve()).name)
