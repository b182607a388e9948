"""Resamples audio from one sample rate to another, as a whole or block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float

from .audio_window import AudioWindow

_REACH = 64  # zero crossings of the low-pass on each side
_CUTOFF = 0.95  # relative to the lower rate's Nyquist frequency
_BETA = 0.1102 * (100 - 8.7)  # of the Kaiser window, for 100 dB
_MAX_PHASES = 2048  # the largest factor that gets a polyphase filter, with 128 taps per phase
_DEGREE = 10
_BLOCK = 1 << 16  # samples at the higher rate that are processed at once, roughly


def resample(audio: Float, rate: int, to: int) -> Float:
    """Audio (..., N) from one sample rate in Hz to another: (..., ceil(N · to / rate)) float32.

    It is linear-phase, without delay; the low-pass is a Kaiser-windowed sinc with 64 zero crossings on each side. With
    f the lower of the two rates, it is flat within 0.001 dB up to 0.45 f, and at least 97 dB down from 0.5 f on, so
    nothing aliases (measured; tests/unit/dsp/test_resample.py). Rates in a ratio of small integers use scipy's
    polyphase filter. Others, whose filter would need a phase for each of up to 384,000 positions between two samples,
    use polynomials of the position (see ``_coefficients``). Time and memory are proportional to the audio at any two
    rates. If the rates are equal, it returns the audio as it is.
    """
    rate, to = int(rate), int(to)  # numpy's small integer types would overflow
    if rate == to:
        return audio
    up, down = _ratio(rate, to)
    if max(up, down) > _MAX_PHASES:
        rows = np.asarray(audio, np.float32).reshape(-1, audio.shape[-1])
        whole = np.concatenate([rows[:, :0], *_resample_polynomial([rows], up, down)], axis=1)
        return whole.reshape(*audio.shape[:-1], whole.shape[1])
    from scipy.signal import resample_poly  # takes a second to load

    resampled: Float = resample_poly(audio, up, down, axis=-1, window=_low_pass(max(up, down)))
    return resampled


def resample_blocks(blocks: Iterable[Float], rate: int, to: int) -> Iterator[Float]:
    """What ``resample`` returns for the joined blocks (B, n), block by block.

    Output m is at position m · down / up of the input. With up and down in lowest terms, an input sample whose number
    is a multiple of ``down`` therefore coincides with an output whose number is a multiple of ``up``. If the input is
    cut there, at ``start - before``, resampling the rest gives the same outputs as resampling the whole, from output
    (start - before) / down · up on. The first before / down · up outputs belong to the context, and are dropped. The
    low-pass reaches 64 · max(up, down) / up input samples to both sides; ``context`` is that, rounded up to a multiple
    of ``down``.
    """
    rate, to = int(rate), int(to)
    if rate == to:
        yield from blocks
        return
    up, down = _ratio(rate, to)
    if max(up, down) > _MAX_PHASES:
        yield from _resample_polynomial(blocks, up, down)
        return
    context = -(-_REACH * max(up, down) // (up * down)) * down
    most = max(1, 4 * _BLOCK // max(up, down)) * down  # blocks may be long, and become much longer
    window, start = AudioWindow(blocks), 0
    while True:
        there = window.read_until(start + down + context)
        stop = start + min((there - start - context) // down * down, most)
        if stop <= start:  # the end
            stop = there
        if stop <= start:
            return
        before = min(start, context)
        resampled = resample(window.cut(start - before, stop + context), rate, to)
        yield resampled[:, before // down * up :][:, : -(-(stop - start) * up // down)]
        start = stop


def _ratio(rate: int, to: int) -> tuple[int, int]:
    factor = math.gcd(rate, to)
    return to // factor, rate // factor


@lru_cache(maxsize=8)
def _low_pass(factor: int) -> Float:
    """Low-pass (128 · factor + 1,) for resampling by up / down, the larger of which is ``factor``.

    Kaiser & Schafer 1980: an attenuation of A dB takes beta = 0.1102 (A - 8.7) and a transition band of
    (A - 7.95) / (2.285 · 128 factor) rad, which for A = 100 is 0.1 π/factor: centred on 0.95, it ends at 1.
    """
    from scipy.signal import firwin

    taps: Float = firwin(2 * _REACH * factor + 1, _CUTOFF / factor, window=("kaiser", _BETA)).astype(np.float32)
    return taps


@cache
def _coefficients() -> Float:
    """The coefficients (128, 11) of the low-pass between samples; see ``_resample_polynomial``.

    With time u in samples of the lower rate, the low-pass is p(u) = 0.95 sinc(0.95 u) kaiser(u / 64) for |u| ≤ 64.
    From one integer u to the next it is smooth, and its spectrum ends at half a cycle per sample, so a polynomial can
    replace it: p(63 - i + 1/2 + z) = Σ_d c[i, d] z^d for -1/2 ≤ z < 1/2. A polynomial of degree 10 through 11 Chebyshev
    nodes is off by at most 2 (π/4)^11 / 11! = 4e-9 (168 dB) at any position, so all pairs of rates are equally easy.
    """
    nodes = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1)) / 2

    def low_pass(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (u / _REACH) ** 2)))
        return np.sinc(_CUTOFF * u) * window

    gain = low_pass(np.arange(-_REACH * 64, _REACH * 64 + 1) / 64).sum() / 64
    values = low_pass(_REACH - 0.5 - np.arange(2 * _REACH)[:, None] + nodes) / gain
    return np.linalg.solve(np.vander(nodes, increasing=True), values.T).T.astype(np.float32)


def _resample_polynomial(blocks: Iterable[Float], up: int, down: int) -> Iterator[Float]:
    """Resamples by up / down, any two integers (Farrow 1988, "A continuously variable digital delay element").

    Sample n of the input x and sample m of the output y are at the times n · down^-1 and m · up^-1 of a common clock.
    On the grid of the lower rate, each sample of the higher one has a position s, a cell j = floor(s) and
    z = s - j - 1/2.

    Raising the rate: s = m · down / up, and the low-pass reaches the inputs k = j - 63 to j + 64:
        y[m] = Σ_k x[k] p(s - k) = Σ_i x[j - 63 + i] p(63 - i + 1/2 + z)
             = Σ_d z^d Σ_i c[i, d] x[j - 63 + i]
    So 11 filters run at the lower rate, and each output is a polynomial whose coefficients are their outputs for its
    cell.

    Lowering the rate is the transpose: s = n · up / down, and input n reaches the outputs m = j - 63 to j + 64:
        y[m] = up / down Σ_n x[n] p(m - s) = up / down Σ_i Σ_d c[i, d] M[m + 63 - i, d],
        M[j, d] = Σ of x[n] z^d over the n of cell j
    So the samples of a cell are first summed with 11 weights, and the filters again run at the lower rate.
    """
    lowered = up < down
    reach = -(-_REACH * down // up) + 1 if lowered else _REACH  # samples of the input
    step = max(256, min(4096, _BLOCK * up // down)) if lowered else min(_BLOCK, 4096 * up // down)
    work = _lowered if lowered else _raised
    window, m = AudioWindow(blocks), 0
    while True:
        first, last = max(0, m * down // up - reach), (m + step) * down // up + reach + 1
        there = window.read_until(last)
        end = min(m + step, -(-there * up // down))  # outputs whose position is within the input
        if end > m:
            yield work(window.cut(first, last), first, m, end, up, down)
        if end < m + step:
            return
        m = end


def _raised(x: Float, first: int, m: int, end: int, up: int, down: int) -> Float:
    """Outputs m to end (B, end - m), for input that begins with sample ``first``, at a higher rate."""
    position = np.arange(m, end) * down
    cell, z = _cell(position, up)
    low, high = int(cell[0]) - _REACH + 1, int(cell[-1]) + _REACH + 1
    padded = np.pad(x, ((0, 0), (max(0, first - low), max(0, high - first - x.shape[1]))))
    padded = padded[:, max(0, low - first) :][:, : high - low]
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH, axis=1)
    filtered = np.ascontiguousarray(windows) @ _coefficients()  # (B, cells, 11)
    filtered = filtered[:, cell - int(cell[0])]
    y = filtered[..., _DEGREE]
    for d in reversed(range(_DEGREE)):
        y = y * z + filtered[..., d]
    return y


def _lowered(x: Float, first: int, m: int, end: int, up: int, down: int) -> Float:
    """Outputs m to end (B, end - m), for input that begins with sample ``first``, at a lower rate."""
    cells = end - m + 2 * _REACH - 1  # from m - 64 on
    low = m - _REACH
    cell, z = _cell(np.arange(first, first + x.shape[1]) * up, down)
    inside = slice(*np.searchsorted(cell, [low, low + cells]))
    x, cell, z = x[:, inside], cell[inside] - low, z[inside]
    moments = np.zeros((len(x), cells, _DEGREE + 1))
    if cell.size:
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        power = x.astype(np.float64)
        for d in range(_DEGREE + 1):
            moments[:, cell[starts], d] = np.add.reduceat(power, starts, axis=1)
            power = power * z
    spread = moments.astype(np.float32) @ _coefficients().T  # (B, cells, 128): what cell j adds to m = j - 63 + i
    batch, row, column = spread.strides
    diagonals = np.lib.stride_tricks.as_strided(
        spread[:, 2 * _REACH - 1 :], (len(x), end - m, 2 * _REACH), (batch, row, column - row), writeable=False
    )
    y: Float = diagonals.sum(axis=2) * np.float32(up / down)
    return y


def _cell(position: npt.NDArray[np.int64], whole: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """The cells of positions in units of 1 / ``whole``, and z from -1/2 to 1/2; both the same however audio is cut."""
    cell, part = np.divmod(position, whole)
    return cell, (part / whole - 0.5).astype(np.float32)
