"""Perceptual quality of a reconstruction."""

from __future__ import annotations

from math import gcd

import numpy as np
import numpy.typing as npt
from pesq import pesq
from scipy.signal import resample_poly


def pesq_wb(reference: npt.NDArray[np.floating], estimate: npt.NDArray[np.floating], sample_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2, 1.04 to 4.64) of two signals (N,), both resampled to 16 kHz."""
    factor = gcd(16_000, sample_rate)
    up, down = 16_000 // factor, sample_rate // factor
    return float(pesq(16_000, *(resample_poly(x, up, down) for x in (reference, estimate)), "wb"))
