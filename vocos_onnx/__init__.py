"""Vocos without torch: EnCodec tokens or mel spectrograms to audio, and audio to those, with onnxruntime and numpy."""

from .audio import load_audio, save_audio
from .config import EncoderConfig, ModelConfig
from .encodec import EncodecONNX
from .vocoder import VocosONNX

__all__ = ["EncodecONNX", "EncoderConfig", "ModelConfig", "VocosONNX", "load_audio", "save_audio"]
__version__ = "0.3.0"
