"""The encoder of EnCodec 24 kHz (SEANet) in torch, with the names used in a checkpoint's state dict.

Défossez et al., "High Fidelity Neural Audio Compression" (arXiv 2210.13438), as defined by encodec 0.1.1 and
transformers. ``seanet_graph`` writes the same network in ONNX, which is verified against this one.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vocos_onnx.model.encoder_checkpoint import Geometry


class CausalConv(nn.Module):
    """(B, C, T) -> (B, C', ceil(T / stride)): reflect-padded, on the right to whole strides.

    As in the reference, the left padding is the kernel's reach minus the stride: the last input that an output depends
    on is the last one of its stride.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel_size, stride, dilation=dilation)
        self.left = (kernel_size - 1) * dilation + 1 - stride

    def forward(self, x: Tensor) -> Tensor:
        left, right, length = self.left, -x.shape[-1] % self.conv.stride[0], x.shape[-1]
        # If the input is shorter than the padding, the reference appends zeros, reflects, and cuts as many off the end.
        missing = max(0, max(left, right) + 1 - length)
        x = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
        y: Tensor = self.conv(x[..., : left + length + right])
        return y


class ResidualBlock(nn.Module):
    """(B, C, T) -> (B, C, T)."""

    def __init__(self, dim: int, hidden: int, kernel_size: int, dilation: int, conv_shortcut: bool) -> None:
        super().__init__()
        # The names of the checkpoint: activations count in its list too.
        self.block = nn.ModuleDict(
            {"1": CausalConv(dim, hidden, kernel_size, dilation=dilation), "3": CausalConv(hidden, dim, 1)}
        )
        self.shortcut: CausalConv | nn.Identity = CausalConv(dim, dim, 1) if conv_shortcut else nn.Identity()

    @property
    def convolutions(self) -> tuple[CausalConv, CausalConv]:
        """The two convolutions of ``block``, each preceded by an ELU."""
        first, second = self.block["1"], self.block["3"]
        assert isinstance(first, CausalConv) and isinstance(second, CausalConv)
        return first, second

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.convolutions
        y: Tensor = self.shortcut(x) + second(F.elu(first(F.elu(x))))
        return y


class SEANetEncoder(nn.Module):
    """Audio (B, N) -> embeddings (B, C, T), T = ceil(N / hop_length)."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        g, dim = geometry, geometry.num_filters
        layers: list[nn.Module | None] = [CausalConv(1, dim, g.kernel_size)]
        for stride in reversed(g.upsampling_ratios):
            for j in range(g.num_residual_layers):
                dilation = g.dilation_growth_rate**j
                layers.append(
                    ResidualBlock(dim, dim // g.compress, g.residual_kernel_size, dilation, g.use_conv_shortcut)
                )
            layers += [None, CausalConv(dim, 2 * dim, 2 * stride, stride)]
            dim *= 2
        layers += [nn.LSTM(dim, dim, g.num_lstm_layers), None, CausalConv(dim, g.hidden_size, g.last_kernel_size)]
        # None is an activation, which counts in the checkpoint's names too.
        self.layers = nn.ModuleDict({str(i): layer for i, layer in enumerate(layers) if layer is not None})
        self.hop_length = g.hop_length

    @property
    def stages(self) -> list[CausalConv | ResidualBlock]:
        """The layers before the LSTM. Each but the first begins with an ELU."""
        *stages, _ = (layer for layer in self.layers.values() if isinstance(layer, CausalConv | ResidualBlock))
        return stages

    @property
    def lstm(self) -> nn.LSTM:
        """The LSTM, whose output is added to its input."""
        (lstm,) = (layer for layer in self.layers.values() if isinstance(layer, nn.LSTM))
        return lstm

    @property
    def last(self) -> CausalConv:
        """The convolution after the LSTM."""
        *_, last = (layer for layer in self.layers.values() if isinstance(layer, CausalConv))
        return last

    def forward(self, audio: Tensor) -> Tensor:
        x = audio[:, None]
        for i, stage in enumerate(self.stages):
            x = stage(F.elu(x) if i and isinstance(stage, CausalConv) else x)  # a residual block has its own ELU
        x = x + self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)
        embeddings: Tensor = self.last(F.elu(x))
        return embeddings
