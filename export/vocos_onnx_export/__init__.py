"""Checkpoints to .onnx, each verified before it is there. Torch is needed here, and nowhere in ``vocos_onnx``."""

from __future__ import annotations

from .encodec import export_encodec
from .errors import CheckpointError
from .quantization import quantize
from .vocoder import export

__all__ = ["CheckpointError", "export", "export_encodec", "quantize"]
