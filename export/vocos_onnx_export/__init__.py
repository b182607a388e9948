"""Exports checkpoints to .onnx; each file is verified before it appears. Needs torch, except for ``quantize``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encodec import export_encodec
    from .errors import CheckpointError
    from .quantization import quantize
    from .vocoder import export

__all__ = ["CheckpointError", "export", "export_encodec", "quantize"]

# Names are imported on first use, so torch is loaded only where it is needed.
_MODULES = {"CheckpointError": "errors", "export": "vocoder", "export_encodec": "encodec", "quantize": "quantization"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
