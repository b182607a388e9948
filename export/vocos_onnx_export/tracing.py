"""Modules -> one self-contained .onnx: graph, weights, codebooks, metadata."""

from __future__ import annotations

import copy
import logging
import warnings

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY, EncoderConfig, ModelConfig

from .modules import ConvNeXtBlock, STFTEncoder, Vocos, VocosBackbone

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
    """Features (batch, C, frames) and a scalar bandwidth_id -> spectrum, for any batch and length; see ``Carrying``."""
    batch, frames, past = torch.export.Dim("batch"), torch.export.Dim("frames"), torch.export.Dim("past", max=6)
    inputs = {"features": torch.zeros(2, config.feature_channels, 50)}
    dynamic: list[dict[int, object] | None] = [{0: batch, 2: frames}]
    outputs, traced = ["spectrum"], model
    if isinstance(model.backbone, VocosBackbone):
        layers, dim = len(model.backbone.convnext), model.backbone.dim
        inputs["past_features"] = torch.zeros(2, config.feature_channels, 4)
        inputs["past"] = torch.zeros(layers, 2, 4, dim)
        inputs["mask"] = torch.ones(layers, 2, 50)
        dynamic += [{0: batch, 2: past}, {1: batch, 2: past}, {1: batch, 2: frames}]
        outputs += ["next_past_features", "next_past"]
        traced = Carrying(model)
    if config.num_bandwidth_ids:
        inputs["bandwidth_id"] = torch.tensor(0)
        dynamic.append(None)
    return finish(_trace(traced, inputs, outputs, dynamic), config, codebooks)


class Carrying(torch.nn.Module):
    """A Vocos whose convolutions take what they reach to the left from the caller, so that it can go on from there.

    Each convolution has 7 taps and sees past (P frames), x (T) and 6 - P zeros: T frames come out. With P = 3 zeros
    that is the ordinary network, zero-padded on both sides. With P = 6, the last frames of the call before, frame t
    comes out when frame t + 3 is there: each of the network's convolutions is 3 frames late. Frames that such a delay
    puts before the start or after the end of a sequence b are zeros to convolution l: those where mask[l, b] is 0.

    Everything is (B, 1, T, C), an image of height 1 with the channels last: that is what the matrix products want, and
    onnxruntime has faster convolutions in two dimensions than in one. Takes the Vocos over, and changes its kernels.
    """

    def __init__(self, vocos: Vocos) -> None:
        super().__init__()
        self.vocos = vocos
        for conv in (vocos.backbone.embed, *(block.dwconv for block in vocos.backbone.convnext)):
            conv.weight = torch.nn.Parameter(conv.weight[:, :, None])

    def forward(
        self, features: Tensor, past_features: Tensor, past: Tensor, mask: Tensor, bandwidth_id: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        backbone, frames = self.vocos.backbone, features.shape[2]
        seen, next_features = _extend(past_features[:, :, None], features[:, :, None], 3)
        x = backbone.norm(_convolve(backbone.embed, seen), bandwidth_id)
        past, mask = past[:, :, None], mask[:, :, None, :, None]
        carried = []
        for i, block in enumerate(backbone.convnext):
            seen, next_past = _extend(past[i], x * mask[i], 2)
            carried.append(next_past)
            y = block.norm(_convolve(block.dwconv, seen.permute(0, 3, 1, 2)), bandwidth_id)
            assert block.gamma is None  # it is folded
            x = seen.narrow(2, 3, frames) + block.pwconv2(torch.nn.functional.gelu(block.pwconv1(y)))
        spectrum = self.vocos.head(backbone.final_layer_norm(x)[:, 0])
        return spectrum, next_features[:, :, 0], torch.stack(carried)[:, :, 0]


def _extend(past: Tensor, x: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """Past (P frames) and x (T) -> both and 6 - P zeros, joined on the axis of time; and the last 6 frames of that."""
    # narrow, unlike slices, has lengths that the tracer can add up: it knows that T frames come out of each layer
    six = [6 if axis == time else size for axis, size in enumerate(past.shape)]
    zeros = torch.zeros(1, 1, 1, 1).expand(six).narrow(time, 0, 6 - past.shape[time])
    seen = torch.cat([past, x, zeros], dim=time)
    return seen, seen.narrow(time, x.shape[time], 6)


def _convolve(conv: torch.nn.Conv1d, x: Tensor) -> Tensor:
    """(B, C, 1, T + 6) -> (B, 1, T, C)."""
    return torch.nn.functional.conv2d(x, conv.weight, conv.bias, groups=conv.groups).permute(0, 2, 3, 1)


def trace_encoder(encoder: STFTEncoder, config: EncoderConfig, codebooks: Tensor) -> onnx.ModelProto:
    """Spectrum (batch, frames, n_fft/2 + 1, 2) -> embeddings (batch, frames, C), for any batch and length."""
    inputs = {"spectrum": torch.zeros(2, 50, config.n_fft // 2 + 1, 2)}
    dynamic: list[dict[int, object] | None] = [{0: torch.export.Dim("batch"), 1: torch.export.Dim("frames")}]
    encoder = copy.deepcopy(encoder)
    fold_layer_scale(encoder)
    return finish(_trace(_FromSpectrum(encoder), inputs, ["embeddings"], dynamic), config, codebooks)


class _FromSpectrum(torch.nn.Module):
    def __init__(self, encoder: STFTEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrum: Tensor) -> Tensor:
        return self.encoder.encode(spectrum).transpose(1, 2)


def _trace(
    model: torch.nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: list[dict[int, object] | None]
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
                output_names=outputs,
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
