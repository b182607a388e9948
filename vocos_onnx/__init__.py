"""Vocos without torch: EnCodec tokens or mel spectrograms to audio and back, with onnxruntime and numpy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .encoder import EncodecONNX
    from .io.audio import load_audio, load_blocks, save_audio, save_blocks
    from .io.tokens import Tokens, demo_tokens, load_tokens, save_tokens
    from .mels import MelConvention
    from .model.config import EncoderConfig, ModelConfig
    from .stream_pool import StreamPool
    from .streams import Stream
    from .vocoder import VocosONNX

__all__ = [
    "EncodecONNX",
    "EncoderConfig",
    "MelConvention",
    "ModelConfig",
    "Stream",
    "StreamPool",
    "Tokens",
    "VocosONNX",
    "demo_tokens",
    "load_audio",
    "load_blocks",
    "load_tokens",
    "save_audio",
    "save_blocks",
    "save_tokens",
]

# Each name is imported on first access: the command line must be ready for Ctrl-C before numpy is loaded.
_MODULES = {
    "io.audio": ("load_audio", "load_blocks", "save_audio", "save_blocks"),
    "model.config": ("EncoderConfig", "ModelConfig"),
    "encoder": ("EncodecONNX",),
    "stream_pool": ("StreamPool",),
    "streams": ("Stream",),
    "io.tokens": ("Tokens", "demo_tokens", "load_tokens", "save_tokens"),
    "mels": ("MelConvention",),
    "vocoder": ("VocosONNX",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
