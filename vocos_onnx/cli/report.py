"""``vocos-onnx report``: write one HTML page to compare models by ear and by metrics."""

from __future__ import annotations

from argparse import Namespace

from vocos_onnx.io.kinds import AUDIO

from . import options
from .console import STDIN, complain, report_done, tell
from .jobs import check_output, expand
from .mistaken import explained
from .models import session_options
from .parser import Commands
from .progress import Progress


def add(commands: Commands) -> None:
    parser = commands.add(
        "report",
        run,
        "one HTML page to compare models by ear and by metrics (needs [report])",
        "report page.html --inputs recordings/",
    )
    options.add_session(parser)
    options.add_force(parser)
    parser.add_argument("output", type=options.path, metavar="OUT.html", help="page to write; it needs no other file")
    parser.add_argument(
        "--inputs",
        type=options.name,
        nargs="+",
        required=True,
        metavar="IN",
        help="audio files of any kind, or folders",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="M",
        help="models, as --model of decode takes them (default: all bundled ones)",
    )
    options.add_encoder(parser, "encoder for the models that share its codebooks")
    parser.add_argument("--bandwidths", type=options.kbps, nargs="+", metavar="KBPS", help="default: all of each model")


def run(args: Namespace) -> None:
    from vocos_onnx.evaluate.report import report  # raises ImportError if the extra [report] is missing

    if "-" in args.inputs:
        raise ValueError(f"report reads its inputs more than once: name files, not {STDIN} (-)")
    inputs = [path for path in expand(args.inputs, AUDIO, "audio files") if path is not None]
    models = args.model or []
    check_output(args.output, [*inputs, *models, args.encoder], True)
    errors: list[Exception] = []

    def on_error(error: Exception) -> None:
        complain(error)
        errors.append(error)

    with Progress([str(path) for path in inputs]) as bar:
        bar.begin(0)

        def progress(index: int, done: int, copies: int) -> None:
            bar.select(index)
            bar(done, copies)
            if bar.is_off and done == copies:  # a recording takes up to a minute
                tell(f"{index + 1} of {len(inputs)}: {inputs[index]} is measured")

        with explained(*(("--model", model) for model in models), ("--encoder", args.encoder)):
            report(
                args.output,
                inputs,
                args.model,
                args.encoder,
                args.bandwidths,
                progress,
                on_error if len(inputs) > 1 else None,
                overwrite=args.force,
                **session_options(args),
            )
    count = len(inputs)
    size = f", {args.output.stat().st_size / 1e6:.1f} MB" if args.output.is_file() else ""
    report_done(args.output, f"wrote {args.output}: {count - len(errors)} of {count} files{size}")
    if errors:
        raise ValueError(f"{len(errors)} of {count} files failed")
