"""``vocos-onnx train``: train a Vocos."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from . import options
from .console import report_done
from .jobs import check_model_target
from .parser import Commands


def add(commands: Commands) -> None:
    parser = commands.add("train", run, "train a Vocos from a config in upstream's layout (needs [train])")
    options.add_force(parser)
    parser.add_argument(
        "config", type=options.path, metavar="CONFIG.yaml", help="file, or the name of a bundled config"
    )
    parser.add_argument(
        "--out",
        type=options.path,
        required=True,
        metavar="DIR",
        help="folder of the run; a run that was stopped is resumed",
    )
    parser.add_argument(
        "--train",
        action="append",
        metavar="PATH",
        help="folder, filelist or index.csv, instead of the config's; may be given several times",
    )
    parser.add_argument("--valid", action="append", metavar="PATH", help="the same, for validation")
    parser.add_argument(
        "--steps", type=options.integer, metavar="N", help="steps of the generator, half the config's max_steps"
    )
    parser.add_argument(
        "--encoder", metavar="E.onnx", help="encoder that makes the tokens, for a model of EnCodec tokens"
    )
    parser.add_argument(
        "--token-cache",
        type=options.path,
        metavar="DIR",
        help="encode whole files once, keep their tokens here, and crop those",
    )
    parser.add_argument(
        "--init-from", metavar="CHECKPOINT", help="start with its weights: folder, file, hub id or bundled model"
    )
    options.add_revision(parser)
    parser.add_argument("--device", help="auto, cpu or cuda, instead of the config's accelerator")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--export", metavar="MODEL.onnx", help="export the best weights at the end")


def run(args: Namespace) -> None:
    try:
        from vocos_onnx_train.trainer import train
    except ModuleNotFoundError as error:
        raise ImportError(f"train needs {error.name}: pip install 'vocos-onnx[train]'") from error
    if args.export is not None:
        check_model_target(args.export, [args.config, args.init_from, args.encoder], args.force)
    train(
        args.config,
        args.out,
        train=args.train,
        valid=args.valid,
        steps=args.steps,
        encoder=args.encoder,
        token_cache=args.token_cache,
        checkpoint=args.init_from,
        revision=args.revision,
        device=args.device,
        compile=args.compile,
        model=args.export,
        report=lambda line: report_done(Path(args.out), line),
    )
