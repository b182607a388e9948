"""Opening the models that the options name."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from vocos_onnx.model.bundled import BUNDLED_CODEC

from .mistaken import explained

if TYPE_CHECKING:
    from vocos_onnx import VocosONNX

ENCODEC = "encodec_24khz"


def open_vocoder(args: Namespace, model: str | None, encoder: str | None = None) -> VocosONNX:
    """The vocoder of --model with the encoder of --encoder, opened with --provider and --threads."""
    from vocos_onnx.vocoder import VocosONNX

    with explained(("--model", model), ("--encoder", encoder)):
        return VocosONNX(model, encoder=encoder, **session_options(args))


def session_options(args: Namespace) -> dict[str, Any]:
    """--provider and --threads as arguments of ``VocosONNX`` and ``EncodecONNX``."""
    return {"providers": [args.provider] if args.provider else None, "threads": args.threads}


def check_encoder(args: Namespace, vocos: VocosONNX) -> None:
    """Raises ValueError if the model's codec is not the bundled one and no --encoder is given."""
    encodec = vocos.config.encodec
    if encodec is not None and args.encoder is None and encodec.codec != BUNDLED_CODEC:
        checkpoint = "facebook/encodec_24khz" if encodec.codec == ENCODEC else "CHECKPOINT"
        raise ValueError(
            f"audio to tokens of {encodec.codec} needs its encoder: make it with vocos-onnx export-encodec "
            f"{checkpoint} -o {encodec.codec}.onnx, and pass --encoder {encodec.codec}.onnx"
        )
