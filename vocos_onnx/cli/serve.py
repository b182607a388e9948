"""``vocos-onnx serve``: the models as a service over HTTP."""

from __future__ import annotations

import argparse
import math
import os
from argparse import Namespace
from importlib import import_module

from . import options
from .console import tell
from .parser import Commands

_NEEDED = ("starlette", "uvicorn", "websockets", "prometheus_client")


def add(commands: Commands) -> None:
    parser = commands.add(
        "serve",
        run,
        "serve models over HTTP and WebSockets, with a page to try them",
        """
        serve                                # the bundled models, and a page: http://127.0.0.1:8000
        serve --model own=runs/model.onnx --model charactr/vocos-mel-24khz
        serve --model charactr/vocos-encodec-24khz --encoder facebook/encodec_24khz
        serve --host 0.0.0.0                 # for other machines; VOCOS_TOKEN in the environment is asked for
        """,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=options.integer, default=8000, metavar="N", help="default: 8000; 0: any that is free"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]M",
        help="model to offer, as --model of other commands takes it; repeatable, and the first is the default. Others "
        "are loaded when first asked for, and stay (default: the two bundled ones)",
    )
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="[NAME=]E", help="encoder of the model NAME; repeatable"
    )
    options.add_provider(parser, "cpu, cuda, or another execution provider of onnxruntime")
    parser.add_argument("--threads", type=options.integer, metavar="N", help="of one decode on the CPU (default: 1)")
    parser.add_argument("--workers", type=options.integer, metavar="N", help="decodes at once (default: one a core)")
    parser.add_argument(
        "--queue", type=options.integer, metavar="N", help="requests that may wait; more are 429 (default: 16)"
    )
    parser.add_argument("--streams", type=options.integer, metavar="N", help="WebSocket streams at once (default: 256)")
    parser.add_argument(
        "--stream-idle", type=seconds, metavar="S", help="close a WebSocket over which nothing comes (default: 60)"
    )
    parser.add_argument(
        "--stream-stall", type=seconds, metavar="S", help="close one whose client does not read (default: 10)"
    )
    parser.add_argument(
        "--connections", type=options.integer, metavar="N", help="connections at once, of all kinds (default: 512)"
    )
    parser.add_argument("--max-body", type=megabytes, metavar="MB", help="of one body (default: 10)")
    parser.add_argument("--max-json", type=megabytes, metavar="MB", help="of one in JSON (default: 2)")
    parser.add_argument("--max-seconds", type=seconds, metavar="S", help="of audio of one request (default: 600)")
    parser.add_argument("--memory", type=megabytes, metavar="MB", help="of all requests together (default: 268)")
    parser.add_argument("--drain", type=seconds, metavar="S", help="from SIGTERM to the end (default: 8)")
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this site use it, such as https://example.org, or * for any; repeatable (default: none)",
    )
    parser.add_argument("--access-log", action="store_true", help="print a line for each request")


def run(args: Namespace) -> None:
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(f"serve needs {error.name or name}: pip install 'vocos-onnx[serve]'") from error
    from vocos_onnx.serve.service import run as run_service
    from vocos_onnx.serve.settings import Settings, parse_models

    given = {
        "host": args.host,
        "port": args.port,
        "provider": args.provider,
        "threads": args.threads,
        "workers": args.workers,
        "queue": args.queue,
        "streams": args.streams,
        "stream_idle": args.stream_idle,
        "stream_stall": args.stream_stall,
        "connections": args.connections,
        "max_body": args.max_body,
        "max_json": args.max_json,
        "max_seconds": args.max_seconds,
        "memory": args.memory,
        "drain": args.drain,
        "token": os.environ.get("VOCOS_TOKEN"),
    }
    settings = Settings(
        models=parse_models(args.model, args.encoder),
        cors=tuple(args.cors),
        access_log=args.access_log,
        **{name: value for name, value in given.items() if value is not None},
    )
    run_service(settings, tell)


def megabytes(text: str) -> int:
    """A number of megabytes as bytes."""
    return round(1e6 * seconds(text, "megabytes"))


def seconds(text: str, what: str = "seconds") -> float:
    """A number that is finite and not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of {what}")
    return value
