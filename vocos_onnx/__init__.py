"""Vocos without torch: EnCodec tokens or mel spectrograms to audio, with onnxruntime and numpy."""

from .config import ModelConfig
from .vocoder import VocosONNX

__all__ = ["ModelConfig", "VocosONNX"]
__version__ = "0.1.0"
