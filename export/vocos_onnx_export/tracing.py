"""Turns modules into one self-contained .onnx, with torch's exporter."""

from __future__ import annotations

import copy
import logging
import warnings

import onnx
import torch
from torch import Tensor

from vocos_onnx.model.config import EncoderConfig, ModelConfig
from vocos_onnx.model.precision import through
from vocos_onnx.model.sherpa import INPUT, OUTPUTS

from .branches import join
from .graph import OPSET, attach_metadata, strip
from .modules import (
    ConvNeXtBlock,
    Head,
    ISTFTHead,
    STFTEncoder,
    Vocos,
    VocosBackbone,
    VocosResNetBackbone,
    WaveNextHead,
)

Axes = dict[int, object] | None  # the axes of one input whose size may differ between calls


def fold(model: Vocos) -> None:
    """Merges adjacent linear layers: a layer scale with the preceding layer, and the two layers of a WaveNextHead."""
    fold_layer_scale(model)
    head = model.head
    if isinstance(head, WaveNextHead) and head.linear_2 is not None:
        first, second = head.linear_1, head.linear_2.weight.detach().numpy()
        for name, parameter in first.named_parameters():
            folded = torch.from_numpy(through(parameter.detach().numpy(), second))
            setattr(first, name, torch.nn.Parameter(folded))
        head.linear_2 = None


def fold_layer_scale(model: Vocos | STFTEncoder) -> None:
    """Multiplies gamma into the preceding layer: gamma · (W h + b) = (gamma W) h + gamma b."""
    backbone = model.backbone
    if isinstance(backbone, VocosResNetBackbone):
        for block in backbone.blocks:
            for conv, gamma in zip(block.convs2, block.gamma, strict=True):
                assert isinstance(conv, torch.nn.Conv1d) and conv.bias is not None
                conv.weight.data *= gamma.data[:, :, None]
                conv.bias.data *= gamma.data[:, 0]
                gamma.data.fill_(1)
        return
    for layer in backbone.blocks:
        if layer.gamma is not None:
            layer.pwconv2.weight.data *= layer.gamma.data[:, None]
            layer.pwconv2.bias.data *= layer.gamma.data
            layer.gamma = None


def trace(model: Vocos, config: ModelConfig, codebooks: Tensor | None) -> onnx.ModelProto:
    """The graph of features (batch, C, frames) and a scalar bandwidth_id -> spectrum, for any batch and length.

    With a ``VocosBackbone`` the graph also takes and returns a state: it has two branches, see ``branches.join``.
    """
    batch, frames, past = torch.export.Dim("batch"), torch.export.Dim("frames"), torch.export.Dim("past", max=6)
    features, condition = {"features": torch.zeros(2, config.feature_channels, 50)}, {}
    axes: list[Axes] = [{0: batch, 2: frames}]
    no_axes: list[Axes] = []
    if config.num_bandwidth_ids:
        condition["bandwidth_id"] = torch.tensor(0)
        no_axes = [None]
    backbone = model.backbone
    inputs, inputs_axes = {**features, **condition}, axes + no_axes
    if not isinstance(backbone, VocosBackbone):
        return attach_metadata(_trace(model, inputs, ["spectrum"], inputs_axes), config, codebooks)
    _widen(backbone)
    whole = _trace(WholeVocos(backbone, model.head), inputs, ["spectrum"], inputs_axes)
    layers, dim = len(backbone.convnext), backbone.dim
    state = {
        "past_features": torch.zeros(2, config.feature_channels, 4),
        "past": torch.zeros(layers, 2, 4, dim),
        "mask": torch.ones(layers, 2, 50),
    }
    axes += [{0: batch, 2: past}, {1: batch, 2: past}, {1: batch, 2: frames}]
    outputs = ["spectrum", "next_past_features", "next_past"]
    step = _trace(StatefulVocos(backbone, model.head), {**features, **state, **condition}, outputs, axes + no_axes)
    return attach_metadata(join(whole, step), config, codebooks)


def trace_spectrum(model: Vocos) -> onnx.ModelProto:
    """The graph of mels (batch, n_mels, frames) -> mag, x and y, each (batch, n_fft/2 + 1, frames), without a state.

    These are the magnitude, and the cosine and sine of the phase, as other projects export a Vocos with an ISTFTHead.
    If the network is conditioned on a bandwidth, the inputs are features and a scalar bandwidth_id.
    """
    backbone, head = model.backbone, model.head
    assert isinstance(head, ISTFTHead)
    whole: WholeVocos | Vocos = model
    if isinstance(backbone, VocosBackbone):
        backbone = copy.deepcopy(backbone)
        _widen(backbone)
        whole = WholeVocos(backbone, head)
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames")
    inputs = {"features" if backbone.num_bandwidths else INPUT: torch.zeros(2, backbone.input_channels, 50)}
    axes: list[Axes] = [{0: batch, 2: frames}]
    if backbone.num_bandwidths:
        inputs["bandwidth_id"] = torch.tensor(0)
        axes.append(None)
    proto = _trace(PolarVocos(whole, head), inputs, list(OUTPUTS), axes)
    strip(proto.graph)
    return proto


def _widen(backbone: VocosBackbone) -> None:
    """Makes the kernels two-dimensional, for input (B, C, 1, T), an image of height 1.

    onnxruntime's two-dimensional convolutions are faster than its one-dimensional ones.
    """
    for conv in (backbone.embed, *(block.dwconv for block in backbone.blocks)):
        conv.weight = torch.nn.Parameter(conv.weight[:, :, None])


class WholeVocos(torch.nn.Module):
    """A Vocos for whole sequences, which its convolutions pad with zeros; the backbone has been through ``_widen``.

    Between the convolutions everything is (B, 1, T, C), channels last, as the matrix products need it.
    """

    def __init__(self, backbone: VocosBackbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, features: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        """Features (B, C, T) -> spectrum (B, T, ...)."""
        spectrum: Tensor = self.head(self.hidden(features, bandwidth_id))
        return spectrum

    def hidden(self, features: Tensor, bandwidth_id: Tensor | None) -> Tensor:
        """Features (B, C, T) -> hidden states (B, T, dim)."""
        backbone = self.backbone
        x = backbone.norm(_convolve(backbone.embed, features[:, :, None], padding=3), bandwidth_id)
        for block in backbone.blocks:
            x = x + _residual(block, _convolve(block.dwconv, x.permute(0, 3, 1, 2), padding=3), bandwidth_id)
        hidden: Tensor = backbone.final_layer_norm(x)[:, 0]
        return hidden


class PolarVocos(torch.nn.Module):
    """A Vocos, with any backbone, that returns its spectrum as magnitude, and cosine and sine of the phase."""

    def __init__(self, whole: WholeVocos | Vocos, head: ISTFTHead) -> None:
        super().__init__()
        self.whole, self.head = whole, head

    def forward(self, features: Tensor, bandwidth_id: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, C, T) -> three times (B, n_fft/2 + 1, T)."""
        hidden = self.whole.hidden if isinstance(self.whole, WholeVocos) else self.whole.backbone
        mag, x, y = self.head.polar(hidden(features, bandwidth_id))
        return mag.transpose(1, 2), x.transpose(1, 2), y.transpose(1, 2)


class StatefulVocos(torch.nn.Module):
    """A Vocos whose convolutions take the frames on their left from the caller, so that a stream can continue.

    Each convolution has 7 taps: it sees ``past`` (P frames), x (T frames) and 6 - P zeros, and returns T frames.

    - P = 3, all zeros: the ordinary network, zero-padded by 3 frames on both sides.
    - P = 6, the state: the last 6 frames that the same convolution saw in the previous call. There are no zeros, and
      output t is that of frame t - 3: each of the network's convolutions adds 3 frames to the delay of those before it.

    Because of the delay, convolutions also see frames before the start and after the end of a sequence b. Convolution l
    must see zeros there, as with padding: mask[l, b] is 0 for these frames.

    The layout is that of ``WholeVocos``.
    """

    def __init__(self, backbone: VocosBackbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(
        self, features: Tensor, past_features: Tensor, past: Tensor, mask: Tensor, bandwidth_id: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, C, T), state and mask -> spectrum (B, T, ...) and the new state."""
        backbone, frames = self.backbone, features.shape[2]
        seen, next_features = _extend(past_features[:, :, None], features[:, :, None], 3)
        x = backbone.norm(_convolve(backbone.embed, seen), bandwidth_id)
        past, mask = past[:, :, None], mask[:, :, None, :, None]
        state = []
        for i, block in enumerate(backbone.blocks):
            seen, next_past = _extend(past[i], x * mask[i], 2)
            state.append(next_past)
            y = _convolve(block.dwconv, seen.permute(0, 3, 1, 2))
            x = seen.narrow(2, 3, frames) + _residual(block, y, bandwidth_id)
        spectrum = self.head(backbone.final_layer_norm(x)[:, 0])
        return spectrum, next_features[:, :, 0], torch.stack(state)[:, :, 0]


def _extend(past: Tensor, x: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """Past (P frames), x (T) and 6 - P zeros, joined on the time axis; and the last 6 frames of the result."""
    # Unlike slices, narrow has lengths that the tracer can add up, so it knows that each layer returns T frames.
    six = [6 if axis == time else size for axis, size in enumerate(past.shape)]
    zeros = torch.zeros(1, 1, 1, 1).expand(six).narrow(time, 0, 6 - past.shape[time])
    seen = torch.cat([past, x, zeros], dim=time)
    return seen, seen.narrow(time, x.shape[time], 6)


def _convolve(conv: torch.nn.Conv1d, x: Tensor, padding: int = 0) -> Tensor:
    """(B, C, 1, T + 6 - 2 padding) -> (B, 1, T, C)."""
    y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=(0, padding), groups=conv.groups)
    return y.permute(0, 2, 3, 1)


def _residual(block: ConvNeXtBlock, y: Tensor, bandwidth_id: Tensor | None) -> Tensor:
    """What a block adds to its input, computed from its convolution's output (B, 1, T, C)."""
    assert block.gamma is None  # ``fold_layer_scale`` has folded it
    residual: Tensor = block.pwconv2(torch.nn.functional.gelu(block.pwconv1(block.norm(y, bandwidth_id))))
    return residual


def trace_encoder(encoder: STFTEncoder, config: EncoderConfig, codebooks: Tensor) -> onnx.ModelProto:
    """Spectrum (batch, frames, n_fft/2 + 1, 2) -> embeddings (batch, frames, C), for any batch and length."""
    inputs = {"spectrum": torch.zeros(2, 50, config.n_fft // 2 + 1, 2)}
    dynamic: list[Axes] = [{0: torch.export.Dim("batch"), 1: torch.export.Dim("frames")}]
    encoder = copy.deepcopy(encoder)
    fold_layer_scale(encoder)
    return attach_metadata(_trace(_FromSpectrum(encoder), inputs, ["embeddings"], dynamic), config, codebooks)


class _FromSpectrum(torch.nn.Module):
    def __init__(self, encoder: STFTEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrum: Tensor) -> Tensor:
        return self.encoder.encode(spectrum).transpose(1, 2)


def _trace(
    model: torch.nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: list[Axes]
) -> onnx.ModelProto:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about torchvision, which is not needed
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
