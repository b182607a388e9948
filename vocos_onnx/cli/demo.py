"""``vocos-onnx demo``: decode the bundled tokens, real recorded speech, to an audio file."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path

from vocos_onnx.io.files import check_target, new_folder
from vocos_onnx.model.bundled import DEMO_TOKENS

from . import options
from .console import check_terminal, report_done
from .jobs import Job, is_folder
from .models import open_vocoder
from .parser import Commands


def add(commands: Commands) -> None:
    parser = commands.add("demo", run, "decode the bundled tokens, real recorded speech", "demo demo.wav")
    options.add_session(parser)
    options.add_audio_format(parser)
    options.add_force(parser)
    parser.add_argument(
        "output",
        type=options.name,
        nargs="?",
        default="demo.wav",
        metavar="OUT",
        help="audio file to write (default: demo.wav)",
    )


def run(args: Namespace) -> None:
    output = Path(args.output)
    if is_folder(args.output):
        with new_folder(output):
            _write(args, output / f"demo.{args.format or 'wav'}")
    else:
        _write(args, None if args.output == "-" else output)


def _write(args: Namespace, output: Path | None) -> None:
    """Decode to the output (None is standard output), and print how long that took."""
    from vocos_onnx import demo_tokens

    from .audio import check_audio, save

    if output is None:
        check_terminal(sys.stdout, "the output is not text")
    job = Job(None, output, check_audio(output, args.format))
    if output is not None:
        check_target(output, overwrite=args.force)
    tokens = demo_tokens()
    began = time.perf_counter()
    vocos = open_vocoder(args, None)
    loaded = time.perf_counter()
    audio = vocos.decode(tokens)
    took = time.perf_counter() - loaded
    save(job, [audio], vocos.sample_rate, args.force)
    seconds = len(audio) / vocos.sample_rate
    report_done(
        output,
        f"wrote {job.target_name}: {seconds:.2f} s of speech at {vocos.sample_rate} Hz, decoded from "
        f"{tokens.codes.shape[0]} x {tokens.codes.shape[1]} tokens of a real recording ({Path(DEMO_TOKENS).stem})",
    )
    report_done(
        output,
        f"loaded the model in {loaded - began:.2f} s and decoded in {took:.3f} s, {seconds / took:.0f} times faster "
        f"than real time, on {vocos.providers[0]}",
    )
