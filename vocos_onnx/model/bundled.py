"""The bundled models and tokens."""

from __future__ import annotations

import os
from pathlib import Path

CODEC, CODEC_ENCODER, MEL = BUNDLED = ("vocos-codec-24khz", "vocos-codec-24khz-encoder", "vocos-mel-24khz-small")
BUNDLED_CODEC = "vocos_onnx_24khz"  # the codec whose tokens the bundled models make and decode
DEMO_TOKENS = "speech_en_m_joe_48k_stereo.npz"


def find_model(model: str | os.PathLike[str]) -> Path:
    """Returns the path of a model; a bundled name is looked up in the installed package or in a checkout.

    A bundled name never refers to a file or folder in the working directory: pass "./NAME" or a Path for that.
    """
    if not (isinstance(model, str) and model in BUNDLED):
        return Path(model)
    return bundled_file(f"{model}.onnx")


def bundled_name(path: str | os.PathLike[str]) -> str | None:
    """Returns the name of the bundled model whose file this is; None for any other file."""
    return next((name for name in BUNDLED if find_model(name) == Path(path)), None)


def bundled_file(name: str) -> Path:
    """Returns the path of a file in the folder models/, in the installed package or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    places = [folder / "models" / name for folder in (package, package.parent)]
    return next((path for path in places if path.exists()), places[0])


def default_model() -> Path:
    """Returns the path of the bundled codec's model."""
    return find_model(CODEC)
