"""State dicts: names and tensors, as they are checked against the modules that they are to fill."""

from __future__ import annotations

import torch
from torch import Tensor

from vocos_onnx.messages import listed, shown
from vocos_onnx.model.skeletons import check_shapes

from .errors import CheckpointError


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace weight_g and weight_v (also under torch's newer names) by weight = g · v/|v|, norms over all but axis 0.

    Salimans & Kingma, "Weight Normalization" (arXiv 1602.07868), eq. 2.
    """
    folded = dict(state)
    for g_name, v_name in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for key in [k for k in state if k.endswith("." + g_name)]:
            prefix = key.removesuffix(g_name)
            v = folded.pop(prefix + v_name, None)
            if v is None:
                raise CheckpointError(f"the state dict has {listed([key])} but lacks {listed([prefix + v_name])}")
            g = folded.pop(key)
            if not v.ndim or g.shape not in (v.shape[:1], (v.shape[0], *[1] * (v.ndim - 1))):
                raise CheckpointError(
                    f"{shown(key)} has the shape {shown(tuple(g.shape))}, which does not go with the "
                    f"{shown(tuple(v.shape))} of {shown(prefix + v_name)}"
                )
            g, v = g.float().reshape(-1, *[1] * (v.ndim - 1)), v.float()  # half precision would round the product
            norm = v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.ndim - 1))
            folded[prefix + "weight"] = g * v / norm
    return folded


def check_keys(state: dict[str, Tensor], expected: dict[str, Tensor], verdict: str) -> None:
    """Raises CheckpointError, "the state dict VERDICT: ...", unless keys and shapes are those of ``expected``."""
    given, wanted = ({key: tuple(value.shape) for key, value in tensors.items()} for tensors in (state, expected))
    check_shapes(given, wanted, verdict)


def check_finite(state: dict[str, Tensor]) -> None:
    """Raises CheckpointError naming the first tensor that holds NaN or infinity."""
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{listed([key])} holds NaN or infinity")
