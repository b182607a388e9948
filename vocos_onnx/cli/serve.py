"""``vocos-onnx serve``: serve the models over HTTP."""

from __future__ import annotations

import argparse
import math
import os
from argparse import Namespace
from importlib import import_module

from vocos_onnx.messages import in_shell

from . import options
from .console import tell
from .parser import Commands

_TOKEN = """environment:
  VOCOS_TOKEN  the bearer token that clients have to send; without it the service asks for none"""
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
        serve --host 0.0.0.0                 # for other machines; see VOCOS_TOKEN above
        """,
    )
    parser.description = f"{parser.description}\n\n{_TOKEN}"
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)  # for those who name a model without --model
    parser.add_argument("--token", nargs="?", const="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument(
        "--port",
        type=options.integer,
        default=8000,
        metavar="N",
        help="port to listen on; 0 is any that is free (default: 8000)",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]M",
        help="model to offer, as --model of other commands takes it; repeatable. The first is the default model, which "
        "is loaded at the start. The others are loaded when they are first asked for, and stay (default: the two "
        "bundled ones)",
    )
    parser.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="[NAME=]E",
        help="encoder for the model NAME, which may be left out where there is one model; repeatable",
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--int8", action="store_true", help="models of the hub in int8, for CPUs, as models pull --int8 keeps them"
    )
    precision.add_argument(
        "--fp16", action="store_true", help="models of the hub in half precision, for GPUs; files have their own"
    )
    options.add_provider(parser, "cpu, cuda, or another execution provider of onnxruntime")
    for name, type, metavar, text in (
        ("threads", options.integer, "N", "threads of one decode on the CPU (default: 1)"),
        ("workers", options.integer, "N", "requests that compute at once (default: one for each core)"),
        ("queue", options.integer, "N", "requests that may wait; the next one is answered with 429 (default: 16)"),
        ("streams", options.integer, "N", "WebSocket streams that may be open at once (default: 256)"),
        ("stream-idle", seconds, "S", "seconds after which a silent WebSocket is closed (default: 60)"),
        (
            "stream-stall",
            seconds,
            "S",
            "seconds after which a WebSocket is closed whose client does not read (default: 10)",
        ),
        ("connections", options.integer, "N", "connections of all kinds that may be open at once (default: 768)"),
        ("max-body", megabytes, "MB", "megabytes that the body of a request may have (default: 64)"),
        ("max-json", megabytes, "MB", "megabytes that a body in JSON may have (default: 2)"),
        ("max-seconds", seconds, "S", "seconds of audio that one request may ask for (default: 600)"),
        ("memory", megabytes, "MB", "megabytes that all requests together may take (default: 256)"),
        ("drain", seconds, "S", "seconds that running requests have to end after SIGTERM (default: 8)"),
    ):
        parser.add_argument(f"--{name}", type=type, metavar=metavar, help=text)
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="site whose pages may use the service, such as https://example.org, or * for any; repeatable (default: "
        "none)",
    )
    parser.add_argument("--access-log", action="store_true", help="print a line for each request")


def run(args: Namespace) -> None:
    if args.words:
        models = " ".join(f"--model {in_shell(word)}" for word in args.words)
        raise ValueError(f"unexpected {' '.join(args.words)}: models are named with {models}")
    if args.token is not None:
        raise ValueError(
            "--token is no option, since all users of a machine see the options of a process: set the environment "
            "variable VOCOS_TOKEN"
        )
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            from vocos_onnx.model.names import is_hub_id

            named = [given.rpartition("=")[2] for given in (*args.model, *args.encoder)]
            extras = "hub,serve" if any(map(is_hub_id, named)) else "serve"
            raise ImportError(f"serve needs {error.name or name}: pip install 'vocos-onnx[{extras}]'") from error
    from vocos_onnx.serve.service import run as run_service
    from vocos_onnx.serve.settings import Settings, parse_models

    given = {
        "host": args.host,
        "port": args.port,
        "precision": options.chosen_precision(args),
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
    """A number of megabytes, converted to bytes."""
    return round(1e6 * seconds(text, "megabytes"))


def seconds(text: str, what: str = "seconds") -> float:
    """A finite number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of {what}")
    return value
