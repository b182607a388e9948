"""``vocos-onnx info``: a description of a model."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocos_onnx.model.bundled import CODEC, find_model

from . import options
from .console import print_line, writing_stdout
from .mistaken import explained
from .parser import Commands

if TYPE_CHECKING:
    from vocos_onnx import EncodecONNX, VocosONNX


def add(commands: Commands) -> None:
    parser = commands.add(
        "info",
        run,
        "describe a model",
        """
        info
        info model.onnx --json
        info model.onnx --provider cuda
        """,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model or encoder (default: the bundled codec)")
    options.add_provider(parser, "run the model there, and list the operators that are left on the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: Namespace) -> None:
    from vocos_onnx import VocosONNX
    from vocos_onnx.network import placement

    with explained(("info", args.model)):
        path = find_model(args.model or CODEC)
        found = _opened(path)
    if args.provider and not isinstance(found, VocosONNX):
        raise ValueError("--provider is for models, and this is an encoder; leave it out")
    # the operators on each provider: raises where the model cannot run there, before anything is printed
    placed = placement(path, [args.provider]) if args.provider else {}
    facts = _facts(path, found)
    if args.json:
        import json

        lines = [json.dumps({**facts, "placement": placed} if args.provider else facts)]
    else:
        lines = [*_lines(facts), *(_operators(provider, names) for provider, names in placed.items())]
    with writing_stdout():
        for line in lines:
            print_line(sys.stdout, line)


def _opened(path: Path) -> VocosONNX | EncodecONNX:
    """The file as a model or an encoder, depending on its metadata."""
    from vocos_onnx import EncodecONNX, VocosONNX
    from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
    from vocos_onnx.model.session import open_file

    kind = EncodecONNX if ENCODER_KEY in open_file(path, METADATA_KEY).metadata else VocosONNX
    return kind(path, providers=["cpu"])


def _facts(path: Path, found: VocosONNX | EncodecONNX) -> dict[str, Any]:
    from dataclasses import asdict

    from vocos_onnx import VocosONNX

    is_model = isinstance(found, VocosONNX)
    facts = {"kind": "model" if is_model else "encoder", "path": str(path), "bytes": path.stat().st_size}
    facts |= asdict(found.config)
    if isinstance(found, VocosONNX):
        facts["istft_in_graph"] = found.network.makes_audio
    return facts


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts as plain text: one on each line, those of dictionaries indented, without those that are None."""
    facts = dict(facts)
    lines = [f"{facts.pop('kind')}: {facts.pop('path')} ({facts.pop('bytes') / 1e6:.1f} MB)"]
    in_graph = facts.pop("istft_in_graph", False)
    for name, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {inner}: {_text(inner_value)}" for inner, inner_value in value.items()]
        elif value is not None:
            lines.append(f"{name}: {_text(value)}")
    if in_graph:
        lines.append("inverse STFT: in the graph")
    return lines


def _operators(provider: str, names: list[str]) -> str:
    return f"{provider}: {len(names)} nodes ({', '.join(sorted(set(names)))})"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
