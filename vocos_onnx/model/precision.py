"""Weights as models hold them: two layers as one, and the numbers of int8 and float16.

int8: a product's left side has 8 bits, asymmetric, over a range that was measured once. The weights have 7 bits and a
scale for each column: on CPUs without VNNI, two products of 8 and 8 bits are added in 16 bits and saturate; those of
255 · 64 do not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float

WEIGHT_LIMIT = 64  # 2 · 255 · 64 < 2**15
_LEAST, _MOST = 5.96e-08, 65504.0  # the magnitudes of float16


def through(weight: Float, second: Float) -> Float:
    """Returns the weight (rows, ...) of one layer in place of two with nothing between them; ``second`` is (out, rows).

    W₂ (W₁ x + b₁) = (W₂ W₁) x + W₂ b₁: of a weight or a bias, in float64 and rounded once.
    """
    product: Float = (second.astype(np.float64) @ weight.astype(np.float64)).astype(np.float32)
    return product


def input_scale(low: float, high: float) -> tuple[float, int]:
    """Returns the scale and the zero point of 8 bits for a range that includes 0."""
    scale = max(high - low, 1e-12) / 255
    return scale, round(-low / scale)


def column_scales(weight: Float) -> Float:
    """Returns what a step of 1 in each column of a weight (rows, columns) stands for: (columns,)."""
    scales: Float = np.maximum(np.abs(weight).max(axis=0), 1e-12) / WEIGHT_LIMIT
    return scales.astype(np.float32)


def to_int8(weight: Float) -> npt.NDArray[np.int8]:
    """Returns a weight (rows, columns) in steps of its column scales, at most WEIGHT_LIMIT."""
    return np.round(weight / column_scales(weight)).astype(np.int8)


def to_float16(array: Float) -> npt.NDArray[np.float16]:
    """Returns the array in float16: small values do not become 0, and large ones not infinite.

    Bit for bit what ``convert_float_to_float16`` of onnxruntime.transformers.float16 makes of float32.
    """
    magnitude = np.abs(array)
    clipped = np.clip(magnitude, _LEAST, _MOST)
    finite = (magnitude > 0) & (magnitude < np.inf)  # neither 0, infinity nor NaN
    return np.where(finite, np.copysign(clipped, array), array).astype(np.float16)
