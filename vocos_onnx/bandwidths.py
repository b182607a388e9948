"""Bandwidths: which one a call means, given its kbps, its id, or the number of codebooks of the tokens."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .limits import read_integer
from .messages import shown
from .model.config import ModelConfig
from .once import first_time

DEFAULT_BANDWIDTH = 6.0  # kbps

_log = logging.getLogger("vocos_onnx")


class Bandwidths:
    """The bandwidths of one model, and how its network is conditioned on them.

    kbps: the bandwidths, indexed by id; counts: the number of codebooks of each. Both are empty for a mel model.
    num_ids: how many ids the network knows; 0 if it is not conditioned.
    """

    def __init__(self, config: ModelConfig):
        encodec = config.encodec
        self.kbps = encodec.bandwidths if encodec else ()
        self.counts = encodec.codebooks_per_bandwidth if encodec else ()
        self.num_ids = config.num_bandwidth_ids
        kbps = ", ".join(f"{i} ({kbps:g} kbps)" for i, kbps in enumerate(self.kbps))
        self._names = kbps or f"0 to {self.num_ids - 1}"

    def selected_id(self, bandwidth: float | None, bandwidth_id: Any) -> int:
        """The id of the bandwidth, which is given as kbps or as an id; by default that of 6 kbps.

        Raises ValueError if both are given, or if the model does not have that bandwidth.
        """
        if not self.kbps:
            raise ValueError("bandwidth is given, but this is a mel model, without tokens: leave it out")
        if bandwidth_id is not None:
            if bandwidth is not None:
                raise ValueError(
                    f"bandwidth ({shown(bandwidth)}) and bandwidth_id ({shown(bandwidth_id)}) are given; pass one"
                )
            return _read_id(bandwidth_id, len(self.kbps), self._names)
        bandwidth = DEFAULT_BANDWIDTH if bandwidth is None else bandwidth
        try:
            return bandwidth_index(bandwidth, self.kbps)
        except ValueError as error:
            if isinstance(bandwidth, int) and 0 <= bandwidth < len(self.kbps):
                raise ValueError(f"{error}; if it is an index, pass bandwidth_id={bandwidth}") from None
            raise

    def requested(self, bandwidth: float | None, bandwidth_id: Any) -> tuple[Any, int | None]:
        """The requested bandwidth id, if any, and how many of the first codebooks to decode, None for all.

        An id that was given as such is not checked yet. Raises as ``selected_id``.

        A bandwidth selects codebooks of the tokens; an id conditions the network, as in upstream Vocos.
        """
        if bandwidth is None:
            return bandwidth_id, None
        index = self.selected_id(bandwidth, bandwidth_id)
        return index if self.num_ids else None, self.counts[index]

    def check_enough(self, shape: tuple[int, ...], codebooks: int, layout: str) -> None:
        """Raises ValueError if tokens of shape (K, B, T) have fewer codebooks than the requested bandwidth."""
        if shape[0] >= codebooks:
            return
        index = self.counts.index(codebooks)
        below = [kbps for kbps, count in zip(self.kbps, self.counts, strict=True) if count <= shape[0]]
        remedy = f"pass bandwidth={below[-1]:g}, or leave it out" if below else "leave it out"
        if self.num_ids:
            remedy += f"; bandwidth_id={index} decodes them as if they were of {self.kbps[index]:g} kbps"
        raise ValueError(
            f"bandwidth is {self.kbps[index]:g}, whose tokens have {counted(codebooks)}, and these have {shape[0]} in "
            f"the layout {layout!r}: {remedy}"
        )

    def checked_id(self, bandwidth_id: Any) -> int | None:
        """The id for the network; None if the network takes none.

        Raises ValueError if it is missing or out of range, or if it is given to a network that takes none.
        """
        if not self.num_ids:
            if bandwidth_id is not None:
                raise ValueError(
                    f"bandwidth_id is {shown(bandwidth_id)}, but this model is not conditioned on a bandwidth: leave "
                    "it out"
                )
            return None
        if bandwidth_id is None:
            raise ValueError(f"bandwidth_id is missing, and features do not imply one; pass one of {self._names}")
        try:
            return _read_id(bandwidth_id, self.num_ids, self._names)
        except ValueError as error:
            if isinstance(bandwidth_id, int | float | np.number) and bandwidth_id in self.kbps:
                index = self.kbps.index(float(bandwidth_id))
                raise ValueError(f"{error}; {bandwidth_id:g} kbps is bandwidth_id {index}") from None
            raise

    def id_of_codebooks(self, num_codebooks: int, shape: tuple[int, ...], layout: str) -> int | None:
        """The id of the bandwidth that has ``num_codebooks`` codebooks; ``shape`` and ``layout`` are for messages.

        Raises ValueError if there is none; the message explains what to pass.
        """
        if not self.num_ids:
            return None
        counts = self.counts
        if num_codebooks in counts:
            return counts.index(num_codebooks)
        if len(shape) == 3 and shape[layout == "kbt"] in counts:
            hint = f"layout={'bkt' if layout == 'kbt' else 'kbt'!r} for the other order of the first two axes"
        elif len(shape) == 3 and shape[0] == 1 and shape[2] in counts:
            hint = "tokens[0].T, for they look like (batch, frames, codebooks)"
        elif len(shape) == 3 and shape[1] > max(shape[0], shape[2]) and shape[2] in counts:
            hint = "tokens.transpose(0, 2, 1) with layout='bkt', for they look like (batch, frames, codebooks)"
        else:
            above = [(count, i) for i, count in enumerate(counts) if count > num_codebooks]
            nearest = (
                min(above)[1] if above else self.num_ids - 1
            )  # K codebooks resemble the next higher bandwidth most
            hint = f"bandwidth_id {nearest}, or another of 0 to {self.num_ids - 1}"
            if fewer := [count for count in counts if count < num_codebooks]:
                hint = f"{first_codebooks(max(fewer), shape, layout)} to decode the first ones of them, or {hint}"
            if len(shape) == 2 and shape[1] in counts:
                hint += "; where they are (frames, codebooks) pass tokens.T"
        raise ValueError(
            f"tokens of shape {shape} have {counted(num_codebooks)} in the layout {layout!r}, and no bandwidth has "
            f"as many: they have {', '.join(map(str, counts))}; pass {hint}"
        )

    def check_count(self, shape: tuple[int, ...], axes: int, index: int | None, layout: str) -> None:
        """Compares the codebooks of tokens (K, B, T), which had ``axes`` axes, with those of their bandwidth id.

        Raises ValueError if K belongs to no bandwidth but B would fit this one. If K belongs to another bandwidth, it
        only logs a warning, because that is a way to hear what the condition does.
        """
        counts = self.counts
        expected = counts[index] if index is not None and index < len(counts) else shape[0]
        if shape[0] == expected:
            return
        differ = f"tokens have {counted(shape[0])} in the layout {layout!r}, and bandwidth_id {index} has {expected}"
        if axes == 3 and shape[0] not in counts and shape[1] == expected:
            raise ValueError(
                f"{differ}; pass layout={'bkt' if layout == 'kbt' else 'kbt'!r} for the other order of the first two "
                "axes"
            )
        if shape[0] not in counts:
            return
        remedy = f"leave it out, or pass bandwidth_id={counts.index(shape[0])}"
        if shape[0] > expected:
            given = (shape[1], shape[0], shape[2]) if layout == "bkt" else shape
            remedy += f", or {first_codebooks(expected, given[:axes], layout)}"
        if first_time("bandwidth"):
            _log.warning("%s, so that the audio sounds worse than it could: %s", differ, remedy)


def bandwidth_index(bandwidth: float, bandwidths: tuple[float, ...]) -> int:
    """The index of a bandwidth in kbps. Raises ValueError, which lists them all, if it is not among them."""
    try:
        return bandwidths.index(bandwidth)
    except ValueError:
        known = ", ".join(f"{kbps:g}" for kbps in bandwidths)
        raise ValueError(f"bandwidth is {shown(bandwidth)}, expected one of {known} (kbps)") from None


def may_be_swapped(shape: tuple[int, ...], num_codebooks: int) -> bool:
    """Whether tokens with that 2-D shape are more likely (T, K) than (K, T) with more codebooks than the model has."""
    return shape[0] > num_codebooks >= shape[1]


def counted(codebooks: int) -> str:
    """The number of codebooks as text, singular or plural."""
    return "1 codebook" if codebooks == 1 else f"{codebooks} codebooks"


def first_codebooks(count: int, shape: tuple[int, ...], layout: str) -> str:
    """Python code that takes the first codebooks of tokens of that shape."""
    return f"tokens[:, :{count}]" if len(shape) == 3 and layout == "bkt" else f"tokens[:{count}]"


def _read_id(bandwidth_id: Any, count: int, names: str) -> int:
    return read_integer("bandwidth_id", bandwidth_id, 0, count - 1, names)
