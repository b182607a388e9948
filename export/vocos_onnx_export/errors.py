"""What every export raises; the readers of checkpoints that need no torch raise it too."""

from __future__ import annotations

from vocos_onnx.model.checkpoint import CheckpointError

__all__ = ["CheckpointError"]
