"""What every export raises."""

from vocos_onnx.model.checkpoint import CheckpointError

__all__ = ["CheckpointError"]
