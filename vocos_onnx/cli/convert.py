"""``vocos-onnx convert``: a checkpoint of a known geometry to a model, without torch."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from . import options
from .console import report_done
from .export import read_calibration
from .jobs import check_model_target
from .parser import Commands


def add(commands: Commands) -> None:
    parser = commands.add(
        "convert",
        run,
        "convert a Vocos or EnCodec checkpoint to .onnx, without torch",
        """
        convert charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx
        convert charactr/vocos-mel-24khz -o vocos-mel-24khz-int8.onnx --int8
        convert facebook/encodec_24khz -o encodec_24khz.onnx
        convert BSC-LT/vocos-mel-22khz -o vocos-22khz.onnx --format sherpa
        """,
    )
    options.add_checkpoint(parser, "folder, weight file, or hub id (owner/name)")


def run(args: Namespace) -> None:
    from vocos_onnx.convert.encoder import convert_encoder
    from vocos_onnx.convert.vocoder import convert_vocoder
    from vocos_onnx.evaluate.metrics import pesq_wb_or_nan
    from vocos_onnx.io.files import whole_file
    from vocos_onnx.model.config import ENCODER_KEY
    from vocos_onnx.pretrained import find_checkpoint

    check_model_target(args.output, [args.checkpoint, args.config, *(args.calibrate or [])], args.force)
    calibration = read_calibration(args)
    config = None if args.config is None else Path(args.config)
    files, kind = find_checkpoint(args.checkpoint, args.revision, config)
    output = Path(args.output)
    lines: list[str] = []
    with whole_file(output, overwrite=args.force) as written:
        if kind == ENCODER_KEY:
            is_plain = args.istft == "numpy" and args.format == "vocos-onnx"
            if options.chosen_precision(args) or args.calibrate or not is_plain:
                raise ValueError(f"{args.checkpoint} is an encoder, which is in float32 alone: leave the options out")
            convert_encoder(files, written, report=lines.append)
        else:
            convert_vocoder(
                files,
                written,
                precision=options.chosen_precision(args) or "float32",
                istft=args.istft,
                format=args.format,
                calibration=calibration,
                score=pesq_wb_or_nan,
                report=lines.append,
            )
    for line in (*lines, f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)"):
        report_done(output, line)
