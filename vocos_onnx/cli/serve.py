"""``vocos-onnx serve``: the models as a service over HTTP."""

from __future__ import annotations

import os
from argparse import Namespace

from . import options
from .parser import Commands


def add(commands: Commands) -> None:
    parser = commands.add(
        "serve",
        run,
        "serve models over HTTP and WebSockets, with a page to try them",
        """
        serve                                          # the bundled models, at http://127.0.0.1:8000
        serve --model own=model.onnx --port 9000
        VOCOS_TOKEN=secret vocos-onnx serve --host 0.0.0.0
        """,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=options.integer, default=8000, metavar="N", help="default: 8000; 0: a free one")
    parser.add_argument("--model", action="append", default=[], metavar="[NAME=]M", help="model to offer; repeatable")


def run(args: Namespace) -> None:
    try:
        from vocos_onnx.serve.service import run as run_service
    except ImportError as error:
        raise ImportError(f"serve needs {error.name}: pip install 'vocos-onnx[serve]'") from error
    from vocos_onnx.serve.settings import Settings, parse_models

    token = os.environ.get("VOCOS_TOKEN")
    run_service(Settings(models=parse_models(args.model), host=args.host, port=args.port, token=token))
