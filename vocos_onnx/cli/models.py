"""Opens the models that the options name."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vocos_onnx.model.bundled import BUNDLED_CODEC

from .mistaken import explained

if TYPE_CHECKING:
    from vocos_onnx import EncodecONNX, VocosONNX
    from vocos_onnx.model.origin import Origin

ENCODEC = "encodec_24khz"
OpenFile = Callable[[str | os.PathLike[str]], "VocosONNX | EncodecONNX"]


def open_vocoder(args: Namespace, model: str | None, encoder: str | None = None) -> VocosONNX:
    """Opens the vocoder of --model and the encoder of --encoder, with --provider and --threads."""
    from vocos_onnx.vocoder import VocosONNX

    with explained(("--model", model), ("--encoder", encoder)):
        return VocosONNX(model, encoder=encoder, **session_options(args))


def open_any(
    name: str, open_file: OpenFile, revision: str | None = None, precision: str | None = None
) -> tuple[VocosONNX | EncodecONNX, Origin]:
    """Finds a vocoder or an encoder by name; returns what ``open_file`` returns for its .onnx file, and its origin.

    A repository or folder does not state which of the two it holds, so an encoder is tried if there is no vocoder.
    """
    from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
    from vocos_onnx.model.origin import Wanted
    from vocos_onnx.model.registry import find_known
    from vocos_onnx.pretrained import opened

    def wanted(key: str) -> Wanted:
        return Wanted(name, key, revision=revision, precision=precision, is_path=True)

    known = find_known(name)
    if known is not None and known.kind == "encoder":
        return opened(wanted(ENCODER_KEY), open_file)
    try:
        return opened(wanted(METADATA_KEY), open_file)
    except (ValueError, FileNotFoundError):
        try:
            return opened(wanted(ENCODER_KEY), open_file)
        except (ValueError, FileNotFoundError):
            pass
        raise


def session_options(args: Namespace) -> dict[str, Any]:
    """Returns --provider and --threads as arguments of ``VocosONNX`` and ``EncodecONNX``."""
    return {"providers": [args.provider] if args.provider else None, "threads": args.threads}


def check_encoder(args: Namespace, vocos: VocosONNX) -> None:
    """Raises ValueError if the model's codec is not the bundled one and no --encoder is given."""
    encodec = vocos.config.encodec
    if encodec is not None and args.encoder is None and encodec.codec != BUNDLED_CODEC:
        checkpoint = "facebook/encodec_24khz" if encodec.codec == ENCODEC else "CHECKPOINT"
        hub = f"pass --encoder {checkpoint}, which is downloaded, or " if checkpoint != "CHECKPOINT" else ""
        raise ValueError(
            f"audio to tokens of {encodec.codec} needs its encoder: {hub}make it with vocos-onnx convert "
            f"{checkpoint} -o {encodec.codec}.onnx, and pass --encoder {encodec.codec}.onnx"
        )
