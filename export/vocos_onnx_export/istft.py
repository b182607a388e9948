"""The inverse transform as part of the graph, for devices where a spectrum takes longer to fetch than to transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from vocos_onnx.dsp.stft import hann_window, imdct_frames, istft_frames, trim_of
from vocos_onnx.model.config import ModelConfig


def add_istft(proto: onnx.ModelProto, config: ModelConfig) -> None:
    """Give the graph the output "audio" (batch, samples): what the runtime makes of its spectrum, within rounding.

    Not clipped: what is not finite shall show. All of it is in one If: where past frames are carried from call to
    call, the spectrum is late and only a part of a sequence, and the audio is empty.
    """
    graph, inputs = proto.graph, [node.name for node in proto.graph.input]
    whole, part, once = _Body("istft.whole"), _Body("istft.part"), _Body("istft.once")
    then = whole.graph(_inverse(whole, config, "mask" in inputs))
    otherwise = part.graph(part.add("Identity", part.constant(np.zeros((1, 0), np.float32))))
    if "past" in inputs:
        condition = once.add("Equal", once.add("Shape", "past", start=2, end=3), once.constant([3]))
    else:
        condition = once.constant([True])
    graph.initializer.extend(once.tensors)
    graph.node.extend(once.nodes)
    graph.node.append(helper.make_node("If", [condition], ["audio"], "istft", then_branch=then, else_branch=otherwise))
    graph.output.append(helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "samples"]))
    onnx.checker.check_model(proto)


def _inverse(body: _Body, config: ModelConfig, masked: bool) -> str:
    """Spectrum -> audio.

    The transform of a frame is one matrix product, which every device is good at. As in ``dsp.stft`` the frames
    are added a hop at a time, and divided by their squared windows; frames of an item that the mask leaves out do not
    count in either.
    """
    hop, n_fft = config.hop_length, config.n_fft
    basis, weight = _basis(config)
    pieces = -(-n_fft // hop)
    rest = pieces * hop - n_fft  # to a whole number of hops
    basis, weight = np.pad(basis, ((0, 0), (0, rest))), np.pad(weight, (0, rest))
    frames = body.add("MatMul", body.add("Reshape", "spectrum", body.constant([0, 0, -1])), body.constant(basis))
    if masked:
        inside = body.add("Unsqueeze", body.add("Gather", "mask", body.constant(0), axis=0), body.constant([2]))
        frames = body.add("Mul", frames, inside)
    else:
        one = body.constant([1])
        count = body.add("Concat", one, body.add("Shape", "spectrum", start=1, end=2), one, axis=0)
        inside = body.add("Expand", body.constant(np.float32(1)), count)
    audio = _overlap_add(body, frames, config, pieces)
    if config.head == "istft":
        weights = _overlap_add(body, body.add("Mul", inside, body.constant(weight)), config, pieces)
        tiny = body.constant(np.finfo(np.float32).tiny)  # where no frame is: 0 / tiny
        audio = body.add("Div", audio, body.add("Max", weights, tiny))
    return audio


def _basis(config: ModelConfig) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The windowed frame (n_fft,) that each number of a spectrum alone becomes, and the squared window."""
    bins = config.n_fft // 2
    if config.head == "istft":
        ones = np.eye(bins + 1)
        units = np.stack([ones, 1j * ones], axis=1).reshape(1, -1, bins + 1)  # real and imaginary parts in turn
        frames = istft_frames(units, config.n_fft)
        return frames[0].astype(np.float32), hann_window(config.n_fft) ** 2
    return imdct_frames(np.eye(bins, dtype=np.float32)[None])[0], np.zeros(config.n_fft, np.float32)


def _overlap_add(body: _Body, frames: str, config: ModelConfig, pieces: int) -> str:
    """Frames (B, T, pieces · hop) -> (B, samples), trimmed."""
    hop, n_fft = config.hop_length, config.n_fft
    trim = trim_of(n_fft, hop, config.padding)
    # not by Pad, which onnxruntime has for CUDA in older opsets only
    size = body.add("Concat", body.add("Shape", frames, end=1), body.constant([pieces - 1, pieces * hop]), axis=0)
    zeros = body.add("Expand", body.constant(np.float32(0)), size)
    padded = body.add("Concat", zeros, frames, zeros, axis=1)
    rows = []
    for j in range(pieces):  # piece j of all frames, j rows further down
        starts, ends = [pieces - 1 - j, j * hop], [-j or np.iinfo(np.int64).max, (j + 1) * hop]
        rows.append(body.add("Slice", padded, *(body.constant(bounds) for bounds in (starts, ends, [1, 2]))))
    flat = body.add("Reshape", body.add("Sum", *rows), body.constant([0, -1]))
    end = n_fft - pieces * hop - trim
    return body.add("Slice", flat, body.constant([trim]), body.constant([end]), body.constant([1]))


class _Body:
    """Nodes and constants of a graph in the making; what a node gives is called as the node is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._name}.{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        name = f"{self._name}.constant.{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def graph(self, output: str) -> GraphProto:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "samples"])
        return helper.make_graph(self.nodes, self._name, [], [result], self.tensors)
