"""Modules -> one self-contained .onnx: graph, weights, codebooks, metadata."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vocos_onnx.config import METADATA_KEY, ModelConfig

from .modules import ConvNeXtBlock, Vocos

OPSET = 20  # the first with GELU as one operator, which onnxruntime fuses with the bias before it


def fold_layer_scale(model: Vocos) -> None:
    """Multiply gamma into the layer before it: gamma · (W h + b) = (gamma W) h + gamma b."""
    for block in model.modules():
        if isinstance(block, ConvNeXtBlock) and block.gamma is not None:
            block.pwconv2.weight.data *= block.gamma.data[:, None]
            block.pwconv2.bias.data *= block.gamma.data
            block.gamma = None
    for block in getattr(model.backbone, "resnet", ()):
        for conv, gamma in zip(block.convs2, block.gamma, strict=True):
            conv.weight.data *= gamma.data[:, :, None]
            conv.bias.data *= gamma.data[:, 0]
            gamma.data.fill_(1)


def trace(model: Vocos, config: ModelConfig, codebooks: Tensor | None) -> onnx.ModelProto:
    """Features (batch, C, frames) and a scalar bandwidth_id -> spectrum, for any batch and length.

    The codebooks are a second, constant output: the runtime reads them from there and needs no other ONNX reader.
    """
    features = torch.zeros(2, config.feature_channels, 50)
    inputs: tuple[Tensor, ...] = (features,)
    names = ["features"]
    dynamic: list[dict[int, object] | None] = [{0: torch.export.Dim("batch"), 2: torch.export.Dim("frames")}]
    if config.num_bandwidth_ids:
        inputs += (torch.tensor(0),)
        names.append("bandwidth_id")
        dynamic.append(None)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of torchvision, which has no part in this
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=names,
                output_names=["spectrum"],
                dynamic_shapes=tuple(dynamic),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    proto = program.model_proto
    if codebooks is not None:
        table = numpy_helper.from_array(codebooks.contiguous().numpy(), "codebooks")
        proto.graph.initializer.append(table)
        proto.graph.output.append(helper.make_tensor_value_info("codebooks", TensorProto.FLOAT, codebooks.shape))
    del proto.metadata_props[:]
    helper.set_model_props(proto, {METADATA_KEY: config.to_json()})
    proto.producer_name, proto.producer_version = "vocos-onnx", config.source.exporter
    for node in proto.graph.node:  # where each node stands in this source: of no use to who runs it
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(proto)
    return proto


def write(proto: onnx.ModelProto, path: Path) -> None:
    data = proto.SerializeToString()
    path.write_bytes(data)
