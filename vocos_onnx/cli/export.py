"""``vocos-onnx export``: export a Vocos checkpoint; also has functions that other model-making commands share."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from . import options
from .jobs import check_model_target
from .parser import Commands

if TYPE_CHECKING:
    import numpy.typing as npt


def add(commands: Commands) -> None:
    parser = commands.add(
        "export",
        run,
        "trace a Vocos of any geometry to .onnx, with torch (needs [export])",
        """
        export my-vocos -o my-vocos.onnx
        export last.ckpt --config config.yaml -o my-vocos.onnx
        """,
    )
    options.add_checkpoint(parser, "folder, .ckpt file, or hub id (owner/name)")


def run(args: Namespace) -> None:
    check_model_target(args.output, [args.checkpoint, args.config, *(args.calibrate or [])], args.force)
    calibration = read_calibration(args)
    load_export("export")(
        args.checkpoint,
        args.output,
        config=args.config,
        revision=args.revision,
        precision=options.chosen_precision(args) or "float32",
        istft=args.istft,
        format=args.format,
        calibration=calibration,
        overwrite=args.force,
    )


def read_calibration(args: Namespace) -> list[npt.NDArray[Any]] | None:
    """Returns the arrays in the files of --calibrate."""
    from vocos_onnx.io.tokens import read_token_file

    return None if args.calibrate is None else [read_token_file(path).codes for path in args.calibrate]


def load_export(function: str) -> Any:
    """Returns a function of ``vocos_onnx_export``.

    Raises ImportError if it needs packages of the extra [export] that are missing.
    """
    try:
        import vocos_onnx_export

        return getattr(vocos_onnx_export, function)
    except ModuleNotFoundError as error:
        package = "onnx" if function == "quantize" and error.name == "onnx" else "'vocos-onnx[export]'"
        raise ImportError(f"{function.replace('_', '-')} needs {error.name}: pip install {package}") from None
