"""``vocos-onnx batch``: process a corpus of tokens, mels or audio in several processes; resumes where it stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vocos_onnx.messages import shown

from . import options
from .console import print_line, report_done, tell, warn, with_options, writing_stdout
from .mistaken import explained
from .parser import Commands
from .progress import Progress

if TYPE_CHECKING:
    from vocos_onnx.batch import Manifest, Settings, Summary
    from vocos_onnx.batch.job import Task
    from vocos_onnx.batch.run import Engine

Handler = Callable[[int, FrameType | None], Any]
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # signals that end a job
_EVERY = 60.0  # seconds between lines if there is no terminal
_REDRAWN = 0.2  # seconds between updates of the bar


def add(commands: Commands) -> None:
    parser = commands.add(
        "batch",
        run,
        "process a corpus of tokens, mels or audio on all cores; --resume goes on after a stop",
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
        help='.jsonl, .ndjson or .json with one {"id": ..., "path": ...} a line (NeMo\'s audio_filepath works), .csv '
        "or .tsv with such columns, or a folder of audio or of .npz and .npy files, with its subfolders. Without an id "
        "it is the file's name; paths are relative to the manifest",
    )
    parser.add_argument(
        "output", type=options.path, metavar="OUT", help="new folder for ID.wav or the like, the journal, errors.jsonl"
    )
    parser.add_argument(
        "--format",
        type=options.ending,
        metavar="F",
        help="wav, flac, mp3, ogg or opus, or npz for tokens (default: of audio npz, of others wav)",
    )
    parser.add_argument(
        "--ids",
        choices=("name", "path"),
        default="name",
        help="of inputs without an id. name: recordings/day1/a17.wav becomes a17; path: day1_a17 (default: name)",
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
    options.add_model(parser, "the bundled codec, for tokens and for audio to audio; mels need one that decodes them")
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
    from vocos_onnx.model.cpus import available_cpus

    manifest = Manifest(args.manifest, ids=args.ids)
    settings = _settings(args, manifest)
    engine = _engine(args)
    if engine == "local" and args.workers is not None and args.workers > available_cpus():
        few = f"{available_cpus()} CPU{'s' if available_cpus() > 1 else ''}"
        tell(f"--workers is {args.workers}, and this process may use {few}: more workers than that take longer")
    with _Report(args.json) as report:
        try:
            summary = run_batch(
                manifest,
                args.output,
                settings,
                engine=engine,
                workers=args.workers,
                resume=args.resume,
                progress=report,
            )
        except Exception:  # the caller prints it; the summary shows how far the job got
            with suppress(OSError):
                report.print_json()
            raise
    if args.json:
        with writing_stdout():
            report.print_json()
    else:
        report_done(args.output, f"{args.output}: {_end(summary)}")
    return _tell_problems(args.output, summary)


def _tell_problems(out: Path, summary: Summary) -> int:
    """Print lines about warnings and failures, if there were any. Returns the exit code."""
    from vocos_onnx.batch.journal import ERRORS, JOURNAL

    if summary.warned:
        have, each = ("has a warning", "it") if summary.warned == 1 else ("have warnings", "each")
        tell(f"{summary.warned:,} of {_items(summary)} {have}: {out / JOURNAL} has {each}")
    if not summary.failed:
        return 0
    assert summary.reason is not None
    alike = f"{'all' if summary.alike == summary.failed else f'{summary.alike:,} of them'} for the same reason: "
    if summary.failed == 1:
        alike = ""
    elif summary.alike == 1:
        alike = "the first is "
    tell(f"{summary.failed:,} of {_items(summary)} failed, {alike}{with_options(summary.reason)}")
    kept = f"; {summary.kept:,} of them keep the output of an earlier run" if summary.kept else ""
    which = "each with its reason" if summary.failed > 1 else "it, too"
    tell(f"{out / ERRORS} has {which}, and --resume tries {'them' if summary.failed > 1 else 'it'} again{kept}")
    return 1


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
    kind, audio = "tokens or mels", ", ".join(FORMATS)
    if manifest.kind == "audio":
        task = "resynth" if args.format in FORMATS else "encode"
        kind = "audio"
    known = FORMATS if task == "decode" else (*FORMATS, "npz")
    if args.format not in (None, *known):
        raise ValueError(f"--format is {shown(args.format)}, expected {', '.join(known)} for inputs that are {kind}")
    for name, tasks in (
        ("model", "decode resynth"),
        ("encoder", "encode resynth"),
        ("mels_from", "decode"),
        ("key", "decode"),
    ):
        given = getattr(args, name)
        if given is not None and task not in tasks.split():
            copies = f", or pass --format {audio} for copies of the audio" if name == "model" else ""
            what = {"decode": f"{kind} to audio", "encode": "audio to tokens", "resynth": "audio to audio"}[task]
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is {shown(given)}, and {what} takes none: leave it out{copies}")
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
    """Shows a bar on a terminal, elsewhere a line a minute; prints the first warning, and the progress at a signal."""

    def __init__(self, is_json: bool) -> None:
        self._bar, self._last, self._is_json = Progress(), 0.0, is_json
        self._first: Summary | None = None  # the summary after the first item
        self._newest: Summary | None = None
        self._before: dict[int, Handler] = {}  # the earlier signal handlers

    def __enter__(self) -> _Report:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                before = signal.getsignal(number)
                if callable(before):  # a signal that is ignored stays so, as under nohup
                    self._before[number] = before
                    signal.signal(number, self._interrupted)
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._bar.__exit__(*error)

    def __call__(self, summary: Summary) -> None:
        if summary.warning is not None and (self._newest is None or self._newest.warning is None):
            warn(with_options(summary.warning))
        if self._first is None and self._newest is not None and summary.share > self._newest.share:
            self._first = summary  # the time before that was spent starting processes
        self._newest = summary
        now = time.monotonic()
        if now - self._last < (_EVERY if self._bar.is_off else _REDRAWN):
            return
        is_first, self._last = not self._last, now
        if not self._bar.is_off:
            self._bar.draw(summary.share, 1.0, *_texts(summary, self._left(summary)))
        elif not is_first:
            tell(f"{summary.share:.0%}  {_texts(summary, self._left(summary))[0]}")

    def print_json(self) -> None:
        """With --json, print the last summary, if there is one."""
        if self._is_json and self._newest is not None:
            print_line(sys.stdout, _json(self._newest))

    def _left(self, summary: Summary) -> float | None:
        """Returns the seconds left, estimated from the pace since the first item; None if unknown."""
        if self._first is None:
            return None
        share, seconds = summary.share - self._first.share, summary.elapsed - self._first.elapsed
        return seconds * (1 - summary.share) / share if share > 0 and summary.share < 1 else None

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """Print how far the job got, then call the earlier handler. Uses no Python streams, which may be in use."""
        if (summary := self._newest) is not None:
            start, end = (b"\n", b"") if not self._bar.is_off else (b"", b"\n")  # go below an unfinished bar
            text = f"vocos-onnx: interrupted: {_done(summary)}; go on with the same command and --resume"
            with suppress(OSError):
                os.write(2, start + text.encode() + end)
            if self._is_json:
                with suppress(OSError):
                    os.write(1, _json(summary).encode() + b"\n")
        self._before[number](number, frame)


def _items(summary: Summary) -> str:
    return f"{summary.items:,} item{'' if summary.items == 1 else 's'}"


def _done(summary: Summary) -> str:
    return f"{summary.done:,} of {_items(summary)} {'is' if summary.items == 1 else 'are'} done"


def _texts(summary: Summary, left: float | None) -> list[str]:
    """What stands behind the bar, from the longest to the shortest. Audio and speed are of this run."""
    count = f"{summary.done:,} of {summary.items:,}"
    now = f", {summary.done - summary.before:,} now" if summary.before else ""
    failed = f"  {summary.failed:,} failed" if summary.failed else ""
    rest = failed + ("" if left is None else f"  {_time(left)} left")
    if not summary.hours:
        return [f"{count}{now}{rest}", f"{count}{rest}", count]
    audio, speed = _audio(summary.hours), f"  {_speed(summary)}"
    return [
        f"{count}{now}  {audio} of audio{speed}{rest}",
        f"{count}{now}  {audio}{speed}{rest}",
        f"{count}  {audio}{speed}{rest}",
        f"{count}{speed}{rest}",
        f"{count}{rest}",
        count,
    ]


def _end(summary: Summary) -> str:
    """The last line of a job."""
    others = ""
    if summary.others:
        are = "other is" if summary.others == 1 else "others are"
        others = f"; {summary.others:,} {are} done that {'is' if summary.others == 1 else 'are'} not in this manifest"
    if summary.before == summary.items:
        what = "the item is" if summary.items == 1 else f"all {summary.items:,} items are"
        return f"nothing to do: {what} done{others}"
    now = summary.done - summary.before
    run = f", {now:,} of them in this run" if summary.before and now else ""
    work = f": {_audio(summary.hours)} of audio in {_time(summary.elapsed)}, {_speed(summary)} real time"
    failed = f"; {summary.failed:,} failed" if summary.failed else ""
    return f"{_done(summary)}{run}{work if now else ''}{failed}{others}"


def _speed(summary: Summary) -> str:
    return f"{summary.speed:,.0f} x" if summary.speed >= 9.95 else f"{summary.speed:.1f} x"


def _audio(hours: float) -> str:
    """Formats a duration of audio in seconds, minutes or hours, whichever is readable."""
    seconds = 3600 * hours
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 357 else f"{hours:,.2f} h"


def _time(seconds: float) -> str:
    """Formats a time as people say it: 8.1 s, 13 s, 12 min, 3 h 05 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"


def _json(summary: Summary) -> str:
    return json.dumps({**asdict(summary), "speed": summary.speed, "errors": summary.errors})
