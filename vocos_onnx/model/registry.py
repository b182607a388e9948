"""The models that are known by name: models/registry.json, which is data and not code.

What no public source states of a model, such as its licence or the commit of its weights, is empty there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from .bundled import bundled_file
from .config import ENCODER_KEY, METADATA_KEY

ENCODEC, ENCODEC_ENCODER = "charactr/vocos-encodec-24khz", "facebook/encodec_24khz"  # of EnCodec's tokens
KINDS = {METADATA_KEY: "vocoder", ENCODER_KEY: "encoder"}


@dataclass(frozen=True)
class KnownModel:
    """A bundled model or a repository of the hub.

    Attributes:
        id: the name that VocosONNX or EncodecONNX takes.
        kind: "vocoder" or "encoder".
        decodes: what a vocoder decodes, for people to read.
        sample_rate: of the audio, in Hz.
        licence: of the weights, "" if it is not known.
        megabytes: of the download, None if that is not known.
        revision: the commit that is downloaded if the user names none; "" is the newest.
        sha256: of the weights at that commit, "" if it is not known.
    """

    id: str
    kind: str
    decodes: str
    sample_rate: int
    licence: str
    megabytes: float | None
    revision: str
    sha256: str


@cache
def known_models() -> tuple[KnownModel, ...]:
    """Returns all models of the registry."""
    with bundled_file("registry.json").open(encoding="utf-8") as file:
        return tuple(KnownModel(**entry) for entry in json.load(file)["models"])


def find_known(id: str) -> KnownModel | None:
    """Returns the model of this name or hub id, None if the registry has none."""
    return next((model for model in known_models() if model.id.lower() == id.lower()), None)
