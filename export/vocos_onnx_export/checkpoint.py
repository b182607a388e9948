"""Reads a Vocos checkpoint: config and state dict -> modules with its weights.

Nothing in a checkpoint is executed: YAML is read with a safe loader, weights as safetensors or with
``torch.load(weights_only=True)``, and classes are looked up by name in tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocos_onnx import __version__
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.model import sources
from vocos_onnx.model.checkpoint_config import CODEBOOK_SIZE, CODEBOOKS, check_relatives, check_table, read_config
from vocos_onnx.model.config import METADATA_KEY, EncodecFeatures, ModelConfig, Source
from vocos_onnx.model.sources import Files, source_name

from .errors import CheckpointError
from .modules import Vocos
from .sources import download, find_weights, local_path
from .state_dict import check_finite, check_keys, fold_weight_norm
from .vocos_config import build_modules, build_shapes
from .weights import read_weights

CONFIGS = sources.CONFIGS[METADATA_KEY]
WEIGHTS = sources.WEIGHTS[METADATA_KEY]

# constants of upstream's feature extractors and losses, which a state dict holds besides the networks
_IGNORED = ("feature_extractor.encodec.", "feature_extractor.mel_spec.", "melspec_loss.")


@dataclass(frozen=True)
class Checkpoint:
    """Config and weights as found, and their origin: a name, the commit on the hub, the sha256 of the weights."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    name: str
    revision: str
    sha256: str


def load(checkpoint: str, config: str | None = None, revision: str | None = None) -> Checkpoint:
    """Reads a folder, a weight file with its config, or a hub id.

    Args:
        checkpoint: a folder with config.yaml or config.json, and pytorch_model.bin or model.safetensors; or a .ckpt,
            .bin, .pt or .safetensors file, with the config beside it or given; or owner/name on the Hugging Face hub.
        config: path of the config if it is not beside the weights.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: if there is no such folder, file or hub repository.
        CheckpointError: if it cannot be read as a Vocos checkpoint.
    """
    path = local_path(checkpoint, revision)
    if path is not None:
        files = _find(path, config)
    elif config is None:
        files = download(checkpoint, revision, CONFIGS, WEIGHTS)
    else:
        raise CheckpointError(f"config {config} is for local weights; {checkpoint} on the hub brings its own")
    assert files.config is not None
    state, digest = read_weights(files.weights)
    check_relatives(state)
    return Checkpoint(read_config(files.config), state, files.name, files.revision, digest)


def build(checkpoint: Checkpoint) -> tuple[Vocos, ModelConfig, Tensor | None]:
    """Returns modules with the checkpoint's weights, the config of the model file, and codebooks (K, 1024, C) or None.

    Raises CheckpointError naming classes, arguments, keys or shapes that are unknown, missing or wrong.
    """
    state = fold_weight_norm(checkpoint.state)
    shapes, config = build_shapes(checkpoint.config)
    features, codebooks = config.features, None
    if isinstance(features, EncodecFeatures):
        table = state.get(CODEBOOKS)
        check_table(None if table is None else tuple(table.shape), features, config.backbone.input_channels)
        assert table is not None
        codebooks = table.float().reshape(features.num_codebooks, CODEBOOK_SIZE, -1)
        features = replace(features, codebooks_sha256=fingerprints(codebooks.numpy())[-1])
    check_keys(_own(state), shapes.state_dict(), "does not fit its config")
    model, _ = build_modules(checkpoint.config)
    _load_state(model, state)
    source = Source(checkpoint.name, checkpoint.revision, checkpoint.sha256, __version__)
    return model.eval(), config.described(features, source), codebooks


def _find(path: Path, config: str | None) -> Files:
    expected = (
        f"a folder with {CONFIGS[0]} and {' or '.join(WEIGHTS)}, a .ckpt file, or a hub id such as "
        "charactr/vocos-encodec-24khz"
    )
    weights = find_weights(path, WEIGHTS, expected)
    beside = [weights.with_name(name) for name in CONFIGS]
    config_path = Path(config) if config else next((path for path in beside if path.is_file()), beside[0])
    if not config_path.is_file():
        raise FileNotFoundError(f"no config {config_path}: put {CONFIGS[0]} beside {weights.name}, or pass --config")
    return Files(config_path, weights, source_name(path))


def _own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights and constants."""
    return {k: v for k, v in state.items() if k != CODEBOOKS and not k.startswith(_IGNORED)}


def _load_state(model: Vocos, state: dict[str, Tensor]) -> None:
    """Loads a state whose names and shapes were checked. Raises CheckpointError if a constant is not upstream's."""
    given = _own(state)
    constants = dict(model.named_buffers())
    for key, constant in constants.items():
        # In a half-precision checkpoint they are rounded; our exact ones are used instead.
        rounding = torch.finfo(given[key].dtype).eps if given[key].is_floating_point() else 0
        # Upstream computes the phases of the MDCT's twiddle factors, up to pi/2 n_fft, in float32.
        tolerance = 1e-4 if key.endswith("window") else 1e-6 * model.head.n_fft
        difference = float((given[key].float() - constant).abs().max())
        if not difference < max(tolerance, rounding):
            raise CheckpointError(f"{key} differs by {difference:.2g} from what vocos 0.1.0 computes for this config")
    weights = {k: v for k, v in state.items() if k in given or k == CODEBOOKS}
    check_finite(weights)
    model.load_state_dict({k: constants.get(k, v.float()) for k, v in given.items()})
