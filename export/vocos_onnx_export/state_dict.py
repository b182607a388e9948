"""State dicts: names and tensors, checked against the modules that will load them."""

from __future__ import annotations

import torch
from torch import Tensor

from vocos_onnx.messages import listed
from vocos_onnx.model import checkpoint
from vocos_onnx.model.skeletons import check_shapes

from .errors import CheckpointError


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Like ``checkpoint.fold_weight_norm``; tensors without weight norm keep their values and types."""
    normed = {key: value.float().numpy() for key, value in state.items() if key.endswith(checkpoint.WEIGHT_NORM)}
    folded = {key: torch.from_numpy(value) for key, value in checkpoint.fold_weight_norm(normed).items()}
    return {**{key: value for key, value in state.items() if key not in normed}, **folded}


def check_keys(state: dict[str, Tensor], expected: dict[str, Tensor], verdict: str) -> None:
    """Raises CheckpointError, "the state dict VERDICT: ...", unless keys and shapes are those of ``expected``."""
    given, wanted = ({key: tuple(value.shape) for key, value in tensors.items()} for tensors in (state, expected))
    check_shapes(given, wanted, verdict)


def check_finite(state: dict[str, Tensor]) -> None:
    """Raises CheckpointError naming the first tensor that holds NaN or infinity."""
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{listed([key])} holds NaN or infinity")
