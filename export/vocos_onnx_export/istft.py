"""Adds the inverse transform to the graph, for devices where copying a spectrum takes longer than transforming it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from vocos_onnx.dsp.stft import hann_window, imdct_frames, istft_basis, trim_of
from vocos_onnx.model.config import ModelConfig

from .graph import GraphBuilder, value

PREFIX = "istft"  # prefix of the names of all its nodes and constants


def add_istft(proto: onnx.ModelProto, config: ModelConfig) -> None:
    """Adds the output "audio" (batch, samples): the same as the runtime computes from the spectrum, up to rounding.

    The audio is not clipped, so non-finite values stay visible. If the network has a state, the transform is inside an
    If: in a stream, a call returns a delayed part of the spectrum, and the audio is empty.
    """
    graph, inputs = proto.graph, [node.name for node in proto.graph.input]
    whole = GraphBuilder(f"{PREFIX}.whole")
    masked = "mask" in inputs
    audio = _samples(whole, masked) if config.head == "wavenext" else _inverse(whole, config, masked)
    if "past" in inputs:
        step, once = GraphBuilder(f"{PREFIX}.step"), GraphBuilder(f"{PREFIX}.once")
        nothing = step.op("Identity", step.constant(np.zeros((1, 0), np.float32)))
        then, otherwise = (
            helper.make_graph(branch.nodes, branch.name, [], [value(output, "batch", "samples")])
            for branch, output in ((step, nothing), (whole, audio))
        )
        goes_on = once.op("Equal", once.op("Shape", "past", start=2, end=3), once.constant([6]))
        last = helper.make_node("If", [goes_on], ["audio"], PREFIX, then_branch=then, else_branch=otherwise)
        # All constants belong to the enclosing graph: the runtime uses the larger ones in place.
        graph.initializer.extend([*once.initializers, *step.initializers, *whole.initializers])
        graph.node.extend([*once.nodes, last])
    else:
        graph.initializer.extend(whole.initializers)
        graph.node.extend([*whole.nodes, helper.make_node("Identity", [audio], ["audio"], PREFIX)])
    graph.output.append(value("audio", "batch", "samples"))


def _samples(g: GraphBuilder, masked: bool) -> str:
    """The samples (B, T, hop_length) of frames that do not overlap -> audio; 0 in masked frames."""
    samples = "spectrum"
    if masked:
        inside = g.op("Unsqueeze", g.op("Gather", "mask", g.constant(0), axis=0), g.constant([2]))
        samples = g.op("Mul", samples, inside)
    return g.op("Reshape", samples, g.constant([0, -1]))


def _inverse(g: GraphBuilder, config: ModelConfig, masked: bool) -> str:
    """Spectrum -> audio.

    The transform of a frame is one matrix product, which is fast on every device. As in ``dsp.stft``, the frames are
    added hop by hop and divided by their overlap-added squared windows. Masked frames contribute to neither.
    """
    basis, weight = _basis(config)
    hops = -(-config.n_fft // config.hop_length)
    rest = hops * config.hop_length - config.n_fft  # zeros that make a frame a whole number of hops
    basis, weight = np.pad(basis, ((0, 0), (0, rest))), np.pad(weight, (0, rest))
    frames = g.op("MatMul", g.op("Reshape", "spectrum", g.constant([0, 0, -1])), g.constant(basis))
    if masked:
        inside = g.op("Unsqueeze", g.op("Gather", "mask", g.constant(0), axis=0), g.constant([2]))
        frames = g.op("Mul", frames, inside)
    else:
        one = g.constant([1])
        count = g.op("Concat", one, g.op("Shape", "spectrum", start=1, end=2), one, axis=0)
        inside = g.op("Expand", g.constant(np.float32(1)), count)
    audio = _overlap_add(g, frames, config, hops)
    if config.head == "istft":
        weights = _overlap_add(g, g.op("Mul", inside, g.constant(weight)), config, hops)
        tiny = g.constant(np.finfo(np.float32).tiny)  # 0 / tiny where there is no frame
        audio = g.op("Div", audio, g.op("Max", weights, tiny))
    return audio


def _basis(config: ModelConfig) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The windowed frame (n_fft,) for each unit value of a spectrum, and the squared window (zeros for an MDCT)."""
    bins = config.n_fft // 2
    if config.head == "istft":
        return istft_basis(config.n_fft), hann_window(config.n_fft) ** 2
    return imdct_frames(np.eye(bins, dtype=np.float32)[None])[0], np.zeros(config.n_fft, np.float32)


def _overlap_add(g: GraphBuilder, frames: str, config: ModelConfig, hops: int) -> str:
    """Frames (B, T, hops · hop_length) -> (B, samples), trimmed.

    With P hops per frame, T frames take T + P - 1 hops of audio. Frame t begins at hop t, so its hop p falls on

        hop r = t + p of the audio:    audio[r] = sum over p = 0 ... P - 1 of frame[r - p][p],

    where frames before the first and after the last are zeros. With P - 1 frames of zeros on both sides, frame t is row
    P - 1 + t, and the term of p, over all r = 0 ... T + P - 2, is a slice:

        rows     P - 1 - p  to  T + 2 (P - 1) - p,    the p-th from the end, or the end itself if p is 0;
        columns  p · hop_length  to  (p + 1) · hop_length.

    The sum (B, T + P - 1, hop_length) is the audio row by row. It ends with P · hop_length - n_fft zeros more than the
    sum of frames of n_fft samples; these are cut off together with the trim. (The end index is never 0, which would
    leave no audio: frames overlap, so the trim is at least 1.)
    """
    hop, n_fft = config.hop_length, config.n_fft
    trim = trim_of(n_fft, hop, config.padding)
    # Pad would not do: onnxruntime supports it on CUDA only in older opsets.
    size = g.op("Concat", g.op("Shape", frames, end=1), g.constant([hops - 1, hops * hop]), axis=0)
    zeros = g.op("Expand", g.constant(np.float32(0)), size)
    padded = g.op("Concat", zeros, frames, zeros, axis=1)
    terms = []
    for p in range(hops):
        starts, ends = [hops - 1 - p, p * hop], [-p or np.iinfo(np.int64).max, (p + 1) * hop]
        terms.append(g.op("Slice", padded, *(g.constant(bounds) for bounds in (starts, ends, [1, 2]))))
    flat = g.op("Reshape", g.op("Sum", *terms), g.constant([0, -1]))
    end = n_fft - hops * hop - trim  # from the end, so negative
    return g.op("Slice", flat, g.constant([trim]), g.constant([end]), g.constant([1]))
