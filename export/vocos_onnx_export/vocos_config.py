"""Builds the modules that a config describes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from vocos_onnx.messages import first_line, shown
from vocos_onnx.model import checkpoint_config
from vocos_onnx.model.checkpoint_config import VocosConfig, parse_config

from .errors import CheckpointError
from .modules import (
    Backbone,
    Head,
    IMDCTCosHead,
    IMDCTSymExpHead,
    ISTFTHead,
    Vocos,
    VocosBackbone,
    VocosResNetBackbone,
    WaveNextHead,
)

BACKBONES: dict[type, type[Backbone]] = {
    checkpoint_config.VocosBackbone: VocosBackbone,
    checkpoint_config.VocosResNetBackbone: VocosResNetBackbone,
}
HEADS: dict[type, type[Head]] = {
    checkpoint_config.ISTFTHead: ISTFTHead,
    checkpoint_config.IMDCTSymExpHead: IMDCTSymExpHead,
    checkpoint_config.IMDCTCosHead: IMDCTCosHead,
    checkpoint_config.WaveNextHead: WaveNextHead,
}


def build_modules(config: dict[str, Any]) -> tuple[Vocos, VocosConfig]:
    """Returns modules with fresh weights, and the parsed config.

    Raises CheckpointError naming classes or arguments that are unknown, missing, wrong, or do not fit together.
    """
    parsed = parse_config(config)
    try:
        backbone = BACKBONES[type(parsed.backbone)](**asdict(parsed.backbone))
        return Vocos(backbone, HEADS[type(parsed.head)](**asdict(parsed.head))), parsed
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"the config is that of no network: {shown(parsed)}: {first_line(error)}") from error


def build_shapes(config: dict[str, Any]) -> tuple[Vocos, VocosConfig]:
    """Like ``build_modules``, but the weights take no memory: a config alone must not be able to exhaust it."""
    with torch.device("meta"):
        return build_modules(config)
