"""``vocos-onnx quantize``: convert a float32 model to int8 or half precision."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from . import options
from .console import report_done
from .export import load_export, read_calibration
from .jobs import check_model_target
from .mistaken import explained
from .parser import Commands


def add(commands: Commands) -> None:
    parser = commands.add(
        "quantize",
        run,
        "a float32 .onnx to int8 or half precision (needs onnx: pip install onnx)",
        """
        quantize vocos-codec-24khz -o vocos-codec-24khz-int8.onnx --int8
        quantize model.onnx -o model-fp16.onnx --fp16
        """,
    )
    options.add_precision(parser)
    options.add_force(parser)
    parser.add_argument("model", type=options.name, metavar="MODEL", help=".onnx model, or the name of a bundled one")
    parser.add_argument("-o", "--output", type=options.name, required=True, metavar="OUT.onnx", help="file to write")


def run(args: Namespace) -> None:
    output = Path(args.output)
    check_model_target(args.output, [args.model, *(args.calibrate or [])], args.force)
    precision = options.chosen_precision(args) or "int8"
    calibration = read_calibration(args)
    quantize = load_export("quantize")
    with explained(("--model", args.model)):
        quantize(args.model, output, precision=precision, calibration=calibration, overwrite=args.force)
    report_done(output, f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
