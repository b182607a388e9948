"""Vocos without torch: EnCodec tokens or mel spectrograms to audio, and audio to those, with onnxruntime and numpy."""

from .audio import load_audio, load_blocks, save_audio, save_blocks
from .config import EncoderConfig, ModelConfig
from .encodec import EncodecONNX
from .vocoder import VocosONNX

__all__ = [
    "EncodecONNX",
    "EncoderConfig",
    "ModelConfig",
    "VocosONNX",
    "load_audio",
    "load_blocks",
    "save_audio",
    "save_blocks",
]
__version__ = "0.4.0"
