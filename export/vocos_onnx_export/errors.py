"""What every export raises."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be exported; the message names what is wrong and where."""
