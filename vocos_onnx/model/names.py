"""What the name of a model means: a bundled model, a path, or a repository of the Hugging Face hub.

=====================================  ==================================================================
given                                  means
=====================================  ==================================================================
a ``Path``                             that path
the name of a bundled model            the bundled model, whatever the working directory holds
the path of something that exists      that path
``owner/name``: one "/", no leading    the repository of that id on the hub
".", no ending of a file
anything else                          a path where there is nothing: FileNotFoundError, without a request
=====================================  ==================================================================
"""

from __future__ import annotations

import re
from pathlib import Path

from .bundled import BUNDLED

CHECKPOINTS = (".ckpt", ".bin", ".pt", ".pth", ".th", ".safetensors")
_FILES = (*CHECKPOINTS, ".onnx", ".ort", ".yaml", ".yml", ".json", ".npz", ".npy", ".wav", ".flac", ".mp3", ".ogg")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"  # the hub's rule for names of users and repositories


def is_hub_id(given: object) -> bool:
    """Whether this is the id of a repository on the hub.

    Example:
        >>> is_hub_id("charactr/vocos-mel-24khz"), is_hub_id("runs/last.ckpt"), is_hub_id(Path("runs/last"))
        (True, False, False)
    """
    return (
        isinstance(given, str) and given not in BUNDLED and looks_like_hub_id(given) and not Path(given).exists()
    )  # fmt: skip


def looks_like_hub_id(text: str) -> bool:
    """Whether a text has the form owner/name and does not look like a file name. It may exist as a local path."""
    return (
        re.fullmatch(f"{_PART}/{_PART}", text) is not None
        and not text.lower().endswith(_FILES)
        and "--" not in text
        and ".." not in text
    )
