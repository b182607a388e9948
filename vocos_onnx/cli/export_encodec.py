"""``vocos-onnx export-encodec``: export the encoder of an EnCodec checkpoint to .onnx."""

from __future__ import annotations

from argparse import Namespace

from . import options
from .export import load_export
from .jobs import check_model_target
from .parser import Commands


def add(commands: Commands) -> None:
    parser = commands.add(
        "export-encodec",
        run,
        "trace an EnCodec encoder to .onnx, with torch (needs [export])",
        "export-encodec facebook/encodec_24khz -o encodec_24khz.onnx",
    )
    options.add_force(parser)
    parser.add_argument(
        "checkpoint",
        type=options.name,
        metavar="CHECKPOINT",
        help="Meta's .th file, folder, or facebook/encodec_24khz",
    )
    parser.add_argument(
        "-o", "--output", type=options.name, required=True, metavar="ENCODER.onnx", help="file to write"
    )
    options.add_revision(parser)


def run(args: Namespace) -> None:
    check_model_target(args.output, [args.checkpoint], args.force)
    load_export("export_encodec")(args.checkpoint, args.output, revision=args.revision, overwrite=args.force)
