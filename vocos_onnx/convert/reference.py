"""The networks in numpy, in float64, on the weights as stored in a checkpoint, to check converted files against.

They share nothing with the graph: neither folded weights nor their order. A weight that is transposed, permuted, folded
wrongly or swapped with another makes a difference as large as the output itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.model.encoder_checkpoint import Geometry

Double = npt.NDArray[np.float64]
Weights = Mapping[str, Float]

MAX_MAGNITUDE = 1e2  # upstream's clip of exp(m)


def relative_difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference, relative to the expected peak; infinite if it is not finite."""
    difference, peak = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    relative = 0.0 if difference == 0 else difference / peak if peak else math.inf
    return relative if math.isfinite(relative) else math.inf


def vocos_spectrum(weights: Weights, features: Float, bandwidth_id: int | None) -> npt.NDArray[Any]:
    """A VocosBackbone and its head: features (C, T) -> spectrum; for an ISTFTHead complex (T, n_fft/2 + 1).

    For a WaveNextHead (head.linear_1 and head.linear_2 of wetdog/wavenext_pytorch), it returns the samples of the
    frames, (T, hop_length).

    Siuzdak, "Vocos" (arXiv 2306.00814), as implemented in models.py, modules.py and heads.py of vocos 0.1.0.
    """
    x = _conv(features, weights["backbone.embed.weight"], weights["backbone.embed.bias"]).T  # (T, dim)
    x = _norm(x, weights, "backbone.norm", bandwidth_id)
    layer = 0
    while (name := f"backbone.convnext.{layer}") + ".dwconv.weight" in weights:
        kernel, bias = weights[f"{name}.dwconv.weight"], weights[f"{name}.dwconv.bias"]
        y = (_windows(x.T, kernel.shape[2]) * kernel.astype(np.float64)).sum(2).T + bias
        y = _norm(y, weights, f"{name}.norm", bandwidth_id)
        y = _linear(_gelu(_linear(y, weights, f"{name}.pwconv1")), weights, f"{name}.pwconv2")
        x = x + y * weights.get(f"{name}.gamma", np.float32(1))
        layer += 1
    x = _norm(x, weights, "backbone.final_layer_norm", None)
    if "head.linear_2.weight" in weights:
        return _linear(x, weights, "head.linear_1") @ weights["head.linear_2.weight"].T.astype(np.float64)
    m, p = np.split(_linear(x, weights, "head.out"), 2, axis=1)
    spectrum: npt.NDArray[np.complex128] = np.minimum(np.exp(m), MAX_MAGNITUDE) * np.exp(1j * p)
    return spectrum


def _norm(x: Double, weights: Weights, name: str, bandwidth_id: int | None) -> Double:
    """Layer norm of (T, C); its scale and shift are looked up if there is a bandwidth id."""
    x = x - x.mean(1, keepdims=True)
    x = x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-6)
    if bandwidth_id is None:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    else:
        scale, shift = weights[f"{name}.scale.weight"][bandwidth_id], weights[f"{name}.shift.weight"][bandwidth_id]
    normalised: Double = x * scale + shift
    return normalised


def _linear(x: Double, weights: Weights, name: str) -> Double:
    return x @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]


def _gelu(x: Double) -> Double:
    return x / 2 * (1 + _erf(x / np.sqrt(2)))


def _erf(x: Double) -> Double:
    """Elementwise erf; scipy's would take longer to import."""
    return np.array([*map(math.erf, x.ravel().tolist())]).reshape(x.shape)


def _windows(x: npt.NDArray[Any], taps: int) -> Double:
    """(C, T) -> (C, T, taps): what the kernel sees at each frame, zero-padded on both sides."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (taps // 2, taps // 2)))
    windows: Double = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=1)
    return windows


def _conv(x: npt.NDArray[Any], weight: Float, bias: Float) -> Double:
    """(C, T) -> (C', T)."""
    windows = _windows(x, weight.shape[2]).transpose(1, 0, 2).reshape(x.shape[1], -1)
    return (windows @ weight.reshape(len(weight), -1).T.astype(np.float64) + bias).T


def encodec_embeddings(weights: Weights, geometry: Geometry, audio: Float) -> Double:
    """EnCodec's encoder: audio (N,) -> embeddings (T, C), T = ceil(N / hop_length).

    Défossez et al., "High Fidelity Neural Audio Compression" (arXiv 2210.13438), as implemented in modules/seanet.py of
    encodec 0.1.1. ``weights`` have weight norm folded in, and names as from ``encoder_checkpoint.translate``.
    """
    layer = 0

    def following() -> str:
        nonlocal layer
        layer += 1
        return f"layers.{layer - 1}"

    x = _causal(audio[None].astype(np.float64), weights, following())
    for stride in reversed(geometry.upsampling_ratios):
        for j in range(geometry.num_residual_layers):
            name = following()
            y = _causal(_elu(x), weights, f"{name}.block.1", dilation=geometry.dilation_growth_rate**j)
            y = _causal(_elu(y), weights, f"{name}.block.3")
            x = (_causal(x, weights, f"{name}.shortcut") if geometry.use_conv_shortcut else x) + y
        following()  # an activation, which counts in the names too
        x = _causal(_elu(x), weights, following(), stride=stride)
    x = x + _lstm(x.T, weights, following(), range(geometry.num_lstm_layers)).T
    following()
    return _causal(_elu(x), weights, following()).T


def _elu(x: Double) -> Double:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _causal(x: Double, weights: Weights, name: str, stride: int = 1, dilation: int = 1) -> Double:
    """(C, T) -> (C', ceil(T / stride)), reflect-padded, on the right to whole strides.

    Input shorter than the padding is extended with zeros before the reflection, and cut off again.
    """
    weight, bias = weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"]
    taps, length = weight.shape[2], x.shape[1]
    left, right = (taps - 1) * dilation + 1 - stride, -length % stride
    missing = max(0, max(left, right) + 1 - length)
    padded = np.pad(np.pad(x, ((0, 0), (0, missing))), ((0, 0), (left, right)), mode="reflect")
    padded = padded[:, : left + length + right]
    count = -(-length // stride)
    index = np.arange(count)[:, None] * stride + np.arange(taps) * dilation
    seen = padded[:, index].transpose(1, 0, 2).reshape(count, -1)  # (T', C · taps)
    return (seen @ weight.reshape(len(weight), -1).T.astype(np.float64) + bias).T


def _lstm(x: Double, weights: Weights, name: str, layers: Iterable[int]) -> Double:
    """(T, C) -> (T, C); gates in torch's order: input, forget, cell, output."""
    for layer in layers:
        of = {kind: weights[f"{name}.{kind}_l{layer}"].astype(np.float64) for kind in _LSTM}
        gates = x @ of["weight_ih"].T + of["bias_ih"] + of["bias_hh"]
        h = c = np.zeros(x.shape[1])
        rows = []
        for row in gates:
            i, f, g, o = np.split(row + of["weight_hh"] @ h, 4)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            rows.append(h)
        x = np.stack(rows)
    return x


_LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _sigmoid(x: Double) -> Double:
    sigmoid: Double = 1 / (1 + np.exp(-x))
    return sigmoid
