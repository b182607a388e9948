"""The models that are known by name, from models/registry.json.

A field is empty there if no public source states it for a model, such as its licence or the commit of its weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from .bundled import BUNDLED_CODEC, CODEC, bundled_file
from .config import ENCODER_KEY, METADATA_KEY

ENCODEC, ENCODEC_ENCODER = "charactr/vocos-encodec-24khz", "facebook/encodec_24khz"  # for EnCodec's tokens
MODEL_OF_CODEC = {BUNDLED_CODEC: CODEC, "encodec_24khz": ENCODEC}
KINDS = {METADATA_KEY: "vocoder", ENCODER_KEY: "encoder"}


@dataclass(frozen=True)
class KnownModel:
    """A bundled model or a repository of the hub.

    Attributes:
        id: the name that VocosONNX or EncodecONNX takes.
        kind: "vocoder" or "encoder".
        decodes: what a vocoder decodes, as human-readable text.
        sample_rate: of the audio, in Hz.
        licence: of the weights; "" if it is not known.
        megabytes: the size of the download; None if it is not known.
        revision: the commit that is downloaded if the user names none; "" is the newest.
        sha256: of the weights at that commit; "" if it is not known.
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
    """Returns all models in the registry."""
    with bundled_file("registry.json").open(encoding="utf-8") as file:
        return tuple(KnownModel(**entry) for entry in json.load(file)["models"])


def find_known(id: str) -> KnownModel | None:
    """Returns the model with this name or hub id; None if the registry has none."""
    return next((model for model in known_models() if model.id.lower() == id.lower()), None)
