"""Modules -> one self-contained .onnx: graph, weights, codebooks, metadata."""

from __future__ import annotations

import copy
import logging
import warnings

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vocos_onnx.config import ENCODER_KEY, METADATA_KEY, EncoderConfig, ModelConfig

from .modules import ConvNeXtBlock, STFTEncoder, Vocos

OPSET = 20  # the first with GELU as one operator, which onnxruntime fuses with the bias before it


def fold_layer_scale(model: Vocos | STFTEncoder) -> None:
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
    """Features (batch, C, frames) and a scalar bandwidth_id -> spectrum, for any batch and length."""
    inputs = {"features": torch.zeros(2, config.feature_channels, 50)}
    dynamic: list[dict[int, object] | None] = [{0: torch.export.Dim("batch"), 2: torch.export.Dim("frames")}]
    if config.num_bandwidth_ids:
        inputs["bandwidth_id"] = torch.tensor(0)
        dynamic.append(None)
    return finish(_trace(model, inputs, "spectrum", dynamic), config, codebooks)


def trace_encoder(encoder: STFTEncoder, config: EncoderConfig, codebooks: Tensor) -> onnx.ModelProto:
    """Spectrum (batch, frames, n_fft/2 + 1, 2) -> embeddings (batch, frames, C), for any batch and length."""
    inputs = {"spectrum": torch.zeros(2, 50, config.n_fft // 2 + 1, 2)}
    dynamic: list[dict[int, object] | None] = [{0: torch.export.Dim("batch"), 1: torch.export.Dim("frames")}]
    encoder = copy.deepcopy(encoder)
    fold_layer_scale(encoder)
    return finish(_trace(_FromSpectrum(encoder), inputs, "embeddings", dynamic), config, codebooks)


class _FromSpectrum(torch.nn.Module):
    def __init__(self, encoder: STFTEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrum: Tensor) -> Tensor:
        return self.encoder.encode(spectrum).transpose(1, 2)


def _trace(
    model: torch.nn.Module, inputs: dict[str, Tensor], output: str, dynamic: list[dict[int, object] | None]
) -> onnx.ModelProto:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of torchvision, which has no part in this
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=tuple(dynamic),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto


def finish(proto: onnx.ModelProto, config: ModelConfig | EncoderConfig, codebooks: Tensor | None) -> onnx.ModelProto:
    """Add the codebooks and the metadata, and check the whole.

    The codebooks are a constant output: the runtime reads them from there and needs no other ONNX reader.
    """
    if codebooks is not None:
        table = numpy_helper.from_array(codebooks.contiguous().numpy(), "codebooks")
        proto.graph.initializer.append(table)
        proto.graph.output.append(helper.make_tensor_value_info("codebooks", TensorProto.FLOAT, codebooks.shape))
    del proto.metadata_props[:]
    key = METADATA_KEY if isinstance(config, ModelConfig) else ENCODER_KEY
    helper.set_model_props(proto, {key: config.to_json()})
    proto.producer_name, proto.producer_version = "vocos-onnx", config.source.exporter
    for node in proto.graph.node:  # where each node stands in this source: of no use to who runs it
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(proto)
    return proto
