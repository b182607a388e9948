"""Weights in the form that models store them: two layers merged into one, and quantisation to int8 and float16.

int8: a product's left side has 8 bits, asymmetric, over a range that was measured once. The weights have 7 bits and one
scale per column: on CPUs without VNNI, two products of 8 and 8 bits are added in 16 bits and saturate; products of up
to 255 · 64 do not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float

WEIGHT_LIMIT = 64  # 2 · 255 · 64 < 2**15
_LEAST, _MOST = 5.96e-08, 65504.0  # the magnitudes of float16


def through(weight: Float, second: Float) -> Float:
    """Merges two layers with nothing between them: the weight (rows, ...) of the first, through ``second`` (out, rows).

    W₂ (W₁ x + b₁) = (W₂ W₁) x + W₂ b₁. It takes a weight or a bias, computes in float64 and rounds once.
    """
    product: Float = (second.astype(np.float64) @ weight.astype(np.float64)).astype(np.float32)
    return product


def input_scale(low: float, high: float) -> tuple[float, int]:
    """Returns the scale and the zero point of an 8-bit quantisation for a range that includes 0."""
    scale = max(high - low, 1e-12) / 255
    return scale, round(-low / scale)


def column_scales(weight: Float) -> Float:
    """Returns the value of one quantisation step in each column of a weight (rows, columns): (columns,)."""
    scales: Float = np.maximum(np.abs(weight).max(axis=0), 1e-12) / WEIGHT_LIMIT
    return scales.astype(np.float32)


def to_int8(weight: Float) -> npt.NDArray[np.int8]:
    """Returns a weight (rows, columns) in steps of its column scales, at most WEIGHT_LIMIT."""
    return np.round(weight / column_scales(weight)).astype(np.int8)


def to_float16(array: Float) -> npt.NDArray[np.float16]:
    """Returns the array in float16, without small values becoming 0 or large ones infinite.

    The result is bit for bit that of ``convert_float_to_float16`` of onnxruntime.transformers.float16.
    """
    magnitude = np.abs(array)
    clipped = np.clip(magnitude, _LEAST, _MOST)
    finite = (magnitude > 0) & (magnitude < np.inf)  # neither 0, infinity nor NaN
    return np.where(finite, np.copysign(clipped, array), array).astype(np.float16)
