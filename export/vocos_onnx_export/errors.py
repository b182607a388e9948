"""The error that exports raise."""

from vocos_onnx.model.checkpoint import CheckpointError

__all__ = ["CheckpointError"]
