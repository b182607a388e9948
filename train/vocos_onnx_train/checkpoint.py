"""Writes the results of a training run, and loads the weights that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from vocos_onnx.io.files import whole_file
from vocos_onnx.model.bundled import find_model
from vocos_onnx.model.checkpoint_config import CODEBOOKS
from vocos_onnx.model.config import EncodecFeatures
from vocos_onnx_export.checkpoint import load
from vocos_onnx_export.errors import CheckpointError
from vocos_onnx_export.recovery import recover
from vocos_onnx_export.state_dict import check_finite, check_keys, fold_weight_norm
from vocos_onnx_export.trained_codec import ENCODER_WEIGHTS
from vocos_onnx_export.weights import read_state, read_tree

from .config import TrainConfig
from .generator import FrozenCodec, Generator, TrainableCodec

DISCRIMINATORS = ("multiperioddisc.", "multiresddisc.")


def save(state: Any, path: Path) -> None:
    """Write a state atomically. Raises OSError, such as for a full disk; an existing file then stays as it was."""
    try:
        with whole_file(path) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        kept = "what was there is whole" if path.exists() else "nothing was written"
        raise OSError(f"cannot save {path} ({' '.join(str(error).split())}); {kept}") from error


def write_checkpoint(generator: Generator, config: TrainConfig, folder: Path) -> None:
    """Write config and weights in the layout of the official checkpoints, and the encoder if that is trained too."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, encoder = generator.checkpoint()
    with whole_file(folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(config.model, sort_keys=False), encoding="utf-8")
    save(weights, folder / "pytorch_model.bin")
    if encoder:
        with whole_file(folder / ENCODER_WEIGHTS) as partial:
            save_file(encoder, partial)


def init_from(generator: Generator, discriminators: nn.Module, checkpoint: str, revision: str | None = None) -> bool:
    """Load initial weights of the same geometry.

    ``checkpoint`` is a folder, a Lightning .ckpt with its config, a hub id, a model file (.onnx), the name of a bundled
    model, or a file from ``write_weights`` (.safetensors).

    The discriminators' weights are loaded too if the file has them. Returns whether it does.

    Raises FileNotFoundError, or a ValueError that names the weights that do not fit.
    """
    found = find_model(checkpoint)
    suffix = found.suffix
    if suffix == ".onnx":
        state = recover(found).state
    elif suffix == ".safetensors":
        state = read_state(found)
    else:
        state = fold_weight_norm(load(checkpoint, None, revision).state)
    constants = dict(generator.named_buffers())
    expected = {
        k: v for k, v in fold_weight_norm(generator.state_dict()).items() if k.startswith(("backbone.", "head."))
    }
    given = {k: v for k, v in state.items() if k.startswith(("backbone.", "head."))}
    if suffix in (".onnx", ".safetensors"):  # these lack the constants
        given = {**{k: v for k, v in expected.items() if k in constants}, **given}
    check_keys(given, expected, f"of {checkpoint} is of another geometry than the config")
    check_finite(given)
    _load_folded(generator, {k: v.float() for k, v in given.items() if k not in constants})
    if isinstance(generator.features, EncodecFeatures):
        _init_features(generator, checkpoint, state)
    if suffix == ".safetensors":
        return _load_small(checkpoint, state, discriminators)
    return load_discriminators(Path(checkpoint), discriminators)


def _load_small(checkpoint: str, state: dict[str, Tensor], discriminators: nn.Module) -> bool:
    prefix = "discriminators."
    found = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
    if not found:
        return False
    check_keys(found, discriminators.state_dict(), f"of the discriminators of {checkpoint} does not fit the config")
    discriminators.load_state_dict(found)
    return True


def write_weights(average: Generator, discriminators: nn.Module, path: Path) -> None:
    """Write the weights for another run to start from, in half precision, including those of the discriminators.

    The codebooks and a codec's encoder are not included: the bundled model files have them.
    """
    constants = dict(average.named_buffers())
    weights = {k: v for k, v in average.checkpoint()[0].items() if k.startswith(("backbone.", "head."))}
    state = {k: v.half() for k, v in weights.items() if k not in constants}
    state |= {f"discriminators.{k}": v.detach().cpu().half() for k, v in discriminators.state_dict().items()}
    with whole_file(path) as partial:
        save_file(state, partial)


def _load_folded(generator: Generator, weights: dict[str, Tensor]) -> None:
    """Set weights, through weight norm if there is one."""
    with torch.no_grad():
        for key, value in weights.items():
            path, _, name = key.rpartition(".")
            module = generator.get_submodule(path)
            if nn.utils.parametrize.is_parametrized(module, name):
                setattr(module, name, value)  # sets magnitude and direction
            else:
                getattr(module, name).copy_(value)


def _init_features(generator: Generator, checkpoint: str, state: dict[str, Tensor]) -> None:
    extractor = generator.feature_extractor
    codebooks = state.get(CODEBOOKS)
    if codebooks is None and isinstance(extractor, FrozenCodec) and Path(checkpoint).suffix == ".safetensors":
        return  # written by ``write_weights``
    if codebooks is None:
        raise CheckpointError(f"{checkpoint} lacks {CODEBOOKS}")
    if isinstance(extractor, FrozenCodec):
        expected = extractor.codebook_weights
        if codebooks.shape != expected.shape or not torch.equal(codebooks.float(), expected.cpu()):
            raise CheckpointError(
                f"the codebooks of {checkpoint} are not those of the encoder: its tokens would mean something else"
            )
    elif isinstance(extractor, TrainableCodec):
        encoder = _read_encoder(Path(checkpoint), extractor)
        check_finite(encoder)
        extractor.encoder.load_state_dict(encoder)
        extractor.quantizer.load_codebooks(codebooks.float().view_as(extractor.quantizer.codebooks))


def _read_encoder(checkpoint: Path, extractor: TrainableCodec) -> dict[str, Tensor]:
    """The codec's encoder, from a folder that training wrote, or from the .onnx beside the decoder's."""
    expected = extractor.encoder.state_dict()
    if checkpoint.suffix == ".onnx":
        path = checkpoint.with_name(f"{checkpoint.stem}-encoder.onnx")
        encoder = recover(path).state
        encoder.pop(CODEBOOKS, None)
        encoder = {**{k: v for k, v in expected.items() if k in ("window", "norm.num_batches_tracked")}, **encoder}
    else:
        path = checkpoint / ENCODER_WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: expected a folder that training wrote, with the codec's encoder")
        encoder = read_state(path)
    check_keys(encoder, expected, f"of {path} is of another geometry than the config")
    return encoder


def load_discriminators(path: Path, discriminators: nn.Module) -> bool:
    """Load the discriminators' weights from a Lightning .ckpt. Returns whether it has any."""
    if path.suffix != ".ckpt" or not path.is_file():
        return False
    tree, _, _ = read_tree(path)
    inner = tree.get("state_dict") if isinstance(tree, dict) else None
    names = inner.items() if isinstance(inner, dict) else ()
    state = {k: v for k, v in names if isinstance(k, str) and k.startswith(DISCRIMINATORS)}
    # Drop the constants of torchaudio, which is not used here.
    state = {k: v for k, v in state.items() if ".spec_fn." not in k}
    if not state:
        return False
    try:
        discriminators.load_state_dict(state)  # weight norm's parametrisation reads weight_g and weight_v
    except RuntimeError as error:
        raise CheckpointError(f"the discriminators of {path} do not fit the config: {error}") from None
    return True
