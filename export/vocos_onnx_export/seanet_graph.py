"""``seanet.SEANetEncoder`` as an ONNX graph.

The padding of every layer depends on the input length. A trace would freeze it at the traced length, so the graph is
written operator by operator.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from vocos_onnx.model.config import EncoderConfig

from .graph import OPSET, GraphBuilder, attach_metadata, value
from .seanet import CausalConv, ResidualBlock, SEANetEncoder


def seanet_graph(encoder: SEANetEncoder, config: EncoderConfig, codebooks: Tensor) -> onnx.ModelProto:
    """Audio (parts, batch, samples) -> embeddings (batch, frames, C) for any length.

    A long recording is processed in spans. The first has a ``context`` of 0. Each later one begins with ``context``
    frames of preceding audio, ``left_context`` or more, which the convolutions see but whose embeddings are dropped.
    ``lstm`` and ``history`` (the last inputs of the last convolution) are the state: zeros at first, and then what the
    previous span returned as ``next_lstm`` and ``next_history``. All spans but the last are whole frames.

    A span is passed in parts, whose convolutions run in parallel: with few channels, onnxruntime's convolutions use
    only one thread per batch item. All parts have the same length, and part j begins ``step`` frames after part j - 1.
    Neighbours overlap by at least ``left_context`` + 1 frames: those that the convolutions see, and one more because
    the last frame of a part may be incomplete. A single part overlaps nothing, and its ``step`` has no effect.
    """
    g = SEANetGraph("encoder")
    parts, batch, samples = g.several("Split", g.op("Shape", "audio"), outputs=3, axis=0, num_outputs=3)
    x = g.op("Reshape", "audio", g.op("Concat", g.constant([-1]), g.constant([1, 1]), samples, axis=0))
    first, *stages = encoder.stages
    assert isinstance(first, CausalConv)
    x = g.conv(x, first)
    for stage in stages:
        x = g.residual(x, stage) if isinstance(stage, ResidualBlock) else g.conv(g.elu(x), stage)
    x = g.join(x, parts, batch, encoder.lstm.hidden_size, config.left_context)
    x = g.slice(x, -1, g.op("Unsqueeze", "context", g.constant([0])))  # drops the context frames
    x = g.elu(g.lstm(x, encoder.lstm, "lstm", "next_lstm"))

    left = encoder.last.left
    is_first = g.op("Equal", "context", g.constant(0))
    x = g.op("Concat", g.op("Where", is_first, g.reflect_left(x, left), "history"), x, axis=-1)
    g.slice(x, -1, g.constant([-left]), name="next_history")
    x = g.op("Squeeze", g.convolve(g.op("Unsqueeze", x, g.constant([2])), encoder.last.conv), g.constant([2]))
    g.op("Transpose", x, perm=[0, 2, 1], name="embeddings")

    size = encoder.lstm.hidden_size
    states = (2 * encoder.lstm.num_layers, "batch", size)
    history = ("batch", size, left)
    inputs = [value("audio", "parts", "batch", "samples")]
    inputs += [value(name, dtype=TensorProto.INT64) for name in ("step", "context")]
    inputs += [value("lstm", *states), value("history", *history)]
    outputs = [value("embeddings", "batch", "frames", config.channels)]
    outputs += [value("next_lstm", *states), value("next_history", *history)]
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(g.graph(inputs, outputs), opset_imports=[opset], ir_version=10)
    return attach_metadata(model, config, codebooks)


class SEANetGraph(GraphBuilder):
    """The layers of the encoder.

    Before ``join``, x is (parts · batch, C, 1, T), where parts · batch is one axis; from there on, (batch, C, T).
    """

    def elu(self, x: str) -> str:
        """ELU as max(x, exp(min(x, 0)) - 1): onnxruntime's own kernel is slower than these four operators."""
        negative = self.op("Exp", self.op("Clip", x, "", self.constant(0, np.float32)))
        return self.op("Max", x, self.op("Add", negative, self.constant(-1, np.float32)))

    def residual(self, x: str, block: ResidualBlock) -> str:
        y = x
        for conv in block.convolutions:
            y = self.conv(self.elu(y), conv)
        return self.op("Add", x if isinstance(block.shortcut, nn.Identity) else self.conv(x, block.shortcut), y)

    def conv(self, x: str, layer: CausalConv) -> str:
        """A convolution with its padding."""
        padded, (stride,) = [x], layer.conv.stride
        if layer.left:
            padded.insert(0, self.reflect_left(x, layer.left))
        if stride > 1:
            padded.append(self.reflect_right(x, stride))
        return self.convolve(self.op("Concat", *padded, axis=-1) if len(padded) > 1 else x, layer.conv)

    def convolve(self, x: str, conv: nn.Conv1d) -> str:
        """A convolution in two dimensions, (B, C, 1, T), for which onnxruntime has its fastest kernels."""
        (stride,), (dilation,) = conv.stride, conv.dilation
        assert conv.bias is not None
        weight, bias = self.constant(conv.weight[:, :, None]), self.constant(conv.bias)
        return self.op("Conv", x, weight, bias, strides=[1, stride], dilations=[1, dilation], pads=[0, 0, 0, 0])

    def reflect_left(self, x: str, count: int) -> str:
        """x[count], ..., x[1], with zeros beyond the end."""
        index = self.constant(np.arange(count, 0, -1), np.int64)
        return self.take(x, index, self.op("Less", index, self.length(x)))

    def reflect_right(self, x: str, stride: int) -> str:
        """x[L - 2], x[L - 3], ..., enough to extend L to a multiple of the stride; zeros unless L > stride."""
        length = self.length(x)
        zero, one, two = (self.constant(i, np.int64) for i in range(3))
        count = self.op("Mod", self.op("Neg", length), self.constant(stride, np.int64))
        index = self.op("Sub", self.op("Sub", length, two), self.op("Range", zero, count, one))
        return self.take(x, index, self.op("Greater", length, self.constant(stride, np.int64)))

    def take(self, x: str, index: str, valid: str) -> str:
        """Elements of the last axis; zero where the index is invalid."""
        last = self.op("Sub", self.length(x), self.constant(1, np.int64))
        index = self.op("Max", self.op("Min", index, last), self.constant(0, np.int64))
        return self.op("Mul", self.op("Gather", x, index, axis=-1), self.op("Cast", valid, to=TensorProto.FLOAT))

    def length(self, x: str) -> str:
        """Size of the last axis, a scalar."""
        return self.op("Squeeze", self.op("Shape", x, start=-1))

    def slice(self, x: str, axis: int, start: str, end: str | None = None, name: str | None = None) -> str:
        """x[start:end] of an axis."""
        end = end or self.constant([np.iinfo(np.int64).max])
        return self.op("Slice", x, start, end, self.constant([axis]), name=name)

    def join(self, x: str, parts: str, batch: str, size: int, left: int) -> str:
        """Parts (parts · batch, size, 1, F) -> frames (batch, size, (parts - 1) · step + F).

        Frame f of part j is frame j · step + f of the span. The first ``left`` frames of a part need audio that
        precedes it: they see padding instead, which is right only at the start of a recording. So of P parts

            part 0                gives its frames [0, left):              [0, left) of the span,
            parts 0 ... P - 2     give their frames [left, left + step):   [left + j · step, left + (j + 1) · step),
            part P - 1            gives its frames [left, F):              [left + (P - 1) · step, (P - 1) · step + F),

        each of which ends where the next begins. Neighbours overlap by F - step >= left + 1 frames, so a part's last
        frame, which padding may have completed, is used only from the last part.
        """
        zero, one, minus_one = (self.constant([i]) for i in (0, 1, -1))
        channels, reach = self.constant([size]), self.constant([left])
        step = self.op("Unsqueeze", "step", zero)
        x = self.op("Reshape", x, self.op("Concat", parts, batch, channels, minus_one, axis=0))  # (P, B, C, F)

        all_but_last = self.slice(x, 0, zero, minus_one)
        middle = self.slice(all_but_last, -1, reach, self.op("Add", reach, step))  # (P - 1, B, C, step)
        frames = self.op("Mul", self.op("Sub", parts, one), step)  # 0 for a single part, whatever its step
        # (B, C, P - 1, step) in memory is (B, C, (P - 1) · step): one part after another
        middle = self.op("Transpose", middle, perm=[1, 2, 0, 3])
        middle = self.op("Reshape", middle, self.op("Concat", batch, channels, frames, axis=0), allowzero=1)

        first = self.op("Squeeze", self.slice(x, 0, zero, one), zero)
        last = self.op("Squeeze", self.slice(x, 0, minus_one), zero)
        return self.op("Concat", self.slice(first, -1, zero, reach), middle, self.slice(last, -1, reach), axis=-1)

    def lstm(self, x: str, layer: nn.LSTM, state: str, next_state: str) -> str:
        """x (B, C, T) -> (B, C, T), with the input added; the state is (h, c) of each layer, (2 · layers, B, C)."""
        x = self.op("Transpose", x, perm=[2, 0, 1])
        y, count, axis = x, 2 * layer.num_layers, self.constant([1])
        split = self.several("Split", state, outputs=count, axis=0, num_outputs=count)
        states = []
        for i in range(layer.num_layers):
            weights = [self._gates(getattr(layer, f"weight_{kind}_l{i}")) for kind in ("ih", "hh")]
            bias = torch.cat([self._gates(getattr(layer, f"bias_{kind}_l{i}")) for kind in ("ih", "hh")])
            w, r, b = (self.constant(value[None]) for value in (*weights, bias))
            before = split[2 * i : 2 * i + 2]
            y, *after = self.several("LSTM", y, w, r, b, "", *before, outputs=3, hidden_size=layer.hidden_size)
            y = self.op("Squeeze", y, axis)
            states += after
        self.op("Concat", *states, axis=0, name=next_state)
        return self.op("Transpose", self.op("Add", x, y), perm=[1, 2, 0])

    @staticmethod
    def _gates(value: Tensor) -> Tensor:
        """Reorders the gates from torch's (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
        i, f, c, o = value.chunk(4)
        return torch.cat([i, o, f, c])
