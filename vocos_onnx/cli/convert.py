"""``vocos-onnx convert``: make a model from a checkpoint or another exporter's file, without torch."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from . import options
from .console import report_done
from .export import read_calibration
from .jobs import check_model_target
from .parser import Commands

if TYPE_CHECKING:
    from vocos_onnx.model.foreign import Settings


def add(commands: Commands) -> None:
    parser = commands.add(
        "convert",
        run,
        "convert a Vocos or EnCodec checkpoint, or another exporter's .onnx file, without torch",
        """
        convert charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx
        convert charactr/vocos-mel-24khz -o vocos-mel-24khz-int8.onnx --int8
        convert facebook/encodec_24khz -o encodec_24khz.onnx
        convert BSC-LT/vocos-mel-22khz -o vocos-22khz.onnx --format sherpa
        convert vocos-22khz-univ.onnx -o vocos-22khz.onnx --padding same    # another exporter's
        """,
    )
    options.add_checkpoint(parser, "folder, weight file, hub id (owner/name), or another exporter's .onnx file")
    options.add_settings(parser)


def run(args: Namespace) -> None:
    from vocos_onnx.convert.encoder import convert_encoder
    from vocos_onnx.convert.vocoder import convert_vocoder
    from vocos_onnx.evaluate.metrics import pesq_wb_or_nan
    from vocos_onnx.io.files import whole_file
    from vocos_onnx.model.config import ENCODER_KEY
    from vocos_onnx.model.foreign import Settings
    from vocos_onnx.pretrained import find_checkpoint

    check_model_target(args.output, [args.checkpoint, args.config, *(args.calibrate or [])], args.force)
    config = None if args.config is None else Path(args.config)
    settings = {name: getattr(args, name) for name in options.SETTINGS}
    if args.checkpoint.lower().endswith(".onnx"):
        _convert_foreign(args, Settings(**settings, config=config))
        return
    if given := [name for name, value in settings.items() if value is not None]:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for another exporter's .onnx file, and {args.checkpoint} is a "
            "checkpoint, whose config says it: leave it out"
        )
    calibration = read_calibration(args)
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


def _convert_foreign(args: Namespace, settings: Settings) -> None:
    """Convert another exporter's file to one of ours."""
    from vocos_onnx.io.files import whole_file
    from vocos_onnx.model.session import own_bytes

    chosen = {
        "--int8 or --fp16": options.chosen_precision(args),
        "--calibrate": args.calibrate,
        "--istft graph": args.istft != "numpy",
        "--format sherpa": args.format != "vocos-onnx",
        "--revision": args.revision,
    }
    if given := [name for name, value in chosen.items() if value]:
        raise ValueError(
            f"{given[0]} is for checkpoints, and {args.checkpoint} is an .onnx file, whose graph stays as it is: leave "
            "it out, or convert the checkpoint that it was made of"
        )
    source, output = Path(args.checkpoint), Path(args.output)
    if not source.is_file():
        raise FileNotFoundError(f"no file {source}")
    try:
        made = own_bytes(source, settings)
    except ValueError as error:  # it advises running this command
        advice = r"\bpass [^:]*, or convert it once with: .* -o MODEL\.onnx (?=--)"
        raise ValueError(re.sub(advice, "give ", str(error))) from None
    with whole_file(output, overwrite=args.force) as written:
        written.write_bytes(made)
    report_done(output, f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
