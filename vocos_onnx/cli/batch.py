"""``vocos-onnx batch``: a corpus of tokens, mels or audio, in several processes, which goes on where it stopped."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from vocos_onnx.messages import shown

from . import options
from .console import print_line, report_done, tell, warn, writing_stdout
from .mistaken import explained
from .parser import Commands
from .progress import Progress

if TYPE_CHECKING:
    from vocos_onnx.batch import Manifest, Settings, Summary
    from vocos_onnx.batch.job import Task
    from vocos_onnx.batch.run import Engine

_EVERY = 60.0  # seconds from one line to the next where there is no terminal
_REDRAWN = 0.2  # seconds from one bar to the next


def add(commands: Commands) -> None:
    parser = commands.add(
        "batch",
        run,
        "a corpus of tokens, mels or audio, in several processes; it goes on where it stopped",
        """
        batch corpus.jsonl audio/                        # tokens or mels to .wav files
        batch recordings/ tokens/ --bandwidth 3          # audio to tokens
        batch recordings/ copies/ --format flac          # audio to audio, through the codec
        batch corpus.csv shards/ --format opus --shard-size 1000
        batch corpus.jsonl audio/ --resume               # go on after an interruption, or with more items
        """,
    )
    parser.add_argument(
        "manifest",
        type=options.path,
        metavar="MANIFEST",
        help='.jsonl with one {"id": ..., "path": ...} a line (NeMo\'s audio_filepath works), .csv or .tsv with such '
        "columns, or a folder of audio or of .npz and .npy files, with its subfolders. Without an id it is the file's "
        "name; paths are relative to the manifest",
    )
    parser.add_argument(
        "output", type=options.path, metavar="OUT", help="new folder for ID.wav or the like, the journal, errors.jsonl"
    )
    parser.add_argument(
        "--format",
        metavar="F",
        help="wav, flac, mp3, ogg or opus, or npz for tokens (default: of audio npz, else wav)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the job in OUT; what failed is tried again")
    parser.add_argument(
        "--shard-size",
        type=options.integer,
        metavar="N",
        help="write tar files of N items each, as webdataset has them",
    )
    parser.add_argument(
        "--workers", type=options.integer, metavar="N", help="processes, of one thread each (default: one a core)"
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: on a cluster of Ray (needs [ray])"
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of --engine ray: the head of a cluster, or auto for the one that runs here (default: RAY_ADDRESS, else "
        "Ray is started for this job)",
    )
    parser.add_argument(
        "--gpus",
        type=options.share,
        metavar="N",
        help="of --engine ray with --provider cuda: GPUs of each worker; 0.5 lets two share one (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options.add_model(parser)
    options.add_encoder(parser)
    options.add_bandwidth(
        parser, "of audio: default 6; of tokens: if they have more codebooks, the first ones are decoded"
    )
    parser.add_argument(
        "--mels-from",
        type=options.mels_from,
        metavar="NAME",
        help="system whose mels these are: f5, zipvoice, matcha, chattts or mlx (default: as the model has them)",
    )
    parser.add_argument("--key", metavar="NAME", help="name of the array, in files that hold several")
    options.add_provider(parser, "cpu, cuda, or another execution provider of onnxruntime (default: cpu)")


def run(args: Namespace) -> int:
    from vocos_onnx.batch import Manifest
    from vocos_onnx.batch import run as run_batch
    from vocos_onnx.batch.journal import ERRORS, JOURNAL

    manifest = Manifest(args.manifest)
    settings = _settings(args, manifest)
    with _Report() as report:
        summary = run_batch(
            manifest,
            args.output,
            settings,
            engine=_engine(args),
            workers=args.workers,
            resume=args.resume,
            progress=report,
        )
    if args.json:
        with writing_stdout():
            print_line(sys.stdout, json.dumps(_as_json(summary)))
    else:
        report_done(args.output, f"{args.output}: {_line(summary)}")
    if summary.warned:
        others = f", and {summary.warned - 1:,} others have warnings" if summary.warned > 1 else ""
        warn(f"{summary.warning}{others}: {args.output / JOURNAL} has them")
    if summary.failed:
        failed = f"{summary.failed:,} of {summary.items:,} items failed"
        tell(f"{failed}: {args.output / ERRORS} has each with its reason, and --resume tries them again")
        return 1
    return 0


def _engine(args: Namespace) -> str | Engine:
    if args.engine == "ray":
        from vocos_onnx.batch.ray_engine import through_ray

        return through_ray(args.address, gpus=args.gpus)
    for name, given in (("--address", args.address), ("--gpus", args.gpus)):
        if given is not None:
            raise ValueError(f"{name} is {shown(given)}, and the engine is local: pass --engine ray, or leave it out")
    return str(args.engine)


def _settings(args: Namespace, manifest: Manifest) -> Settings:
    from vocos_onnx.batch import Settings
    from vocos_onnx.batch.job import FORMATS

    task: Task = "decode"
    if manifest.kind == "audio":
        task = "resynth" if args.format in FORMATS else "encode"
        known = (*FORMATS, "npz")
        if args.format not in (None, *known):
            raise ValueError(f"--format is {shown(args.format)}, expected {', '.join(known)}")
    with explained(("--model", args.model), ("--encoder", args.encoder)):
        return Settings.of(
            task,
            format=args.format,
            model=args.model,
            encoder=args.encoder,
            provider=args.provider or "cpu",
            bandwidth=args.bandwidth,
            mels_from=args.mels_from,
            key=args.key,
            shard_size=args.shard_size,
        )


class _Report:
    """The bar on a terminal, and elsewhere a line a minute."""

    def __init__(self) -> None:
        self._bar, self._last = Progress(), 0.0

    def __enter__(self) -> _Report:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def __call__(self, summary: Summary) -> None:
        now = time.monotonic()
        if now - self._last < (_EVERY if self._bar.is_off else _REDRAWN):
            return
        first, self._last = not self._last, now
        if not self._bar.is_off:
            self._bar.draw(summary.share, 1.0, _line(summary))
        elif not first:
            tell(f"{summary.share:.0%}, {_line(summary)}")


def _line(summary: Summary) -> str:
    before = f" ({summary.before:,} before)" if summary.before else ""
    failed = f", {summary.failed:,} failed" if summary.failed else ""
    speed = f"{summary.hours:.2f} h in {_time(summary.elapsed)}, {summary.speed:.0f} x real time"
    return f"{summary.done:,} of {summary.items:,} done{before}{failed}, {speed}"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _as_json(summary: Summary) -> dict[str, str | float | int | None]:
    return {**asdict(summary), "speed": summary.speed, "errors": summary.errors}
