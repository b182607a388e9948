"""``vocos-onnx info``: describe a model."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from vocos_onnx.model.bundled import CODEC

from . import options
from .console import print_line, writing_stdout
from .mistaken import explained
from .models import open_any
from .parser import Commands

if TYPE_CHECKING:
    from vocos_onnx import EncodecONNX, VocosONNX
    from vocos_onnx.model.origin import Origin


def add(commands: Commands) -> None:
    parser = commands.add(
        "info",
        run,
        "describe a model",
        """
        info
        info charactr/vocos-encodec-24khz     # and where its weights came from
        info model.onnx --json
        info model.onnx --provider cuda
        """,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="model or encoder, as --model takes it (default: the bundled codec)"
    )
    options.add_provider(parser, "run the model there, and list the operators that are left on the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: Namespace) -> None:
    from vocos_onnx import VocosONNX
    from vocos_onnx.network import placement

    placed: dict[str, list[str]] = {}

    def open_model(file: str | os.PathLike[str]) -> VocosONNX | EncodecONNX:
        found = _opened(file)
        if args.provider and not isinstance(found, VocosONNX):
            raise ValueError("--provider is for models, and this is an encoder; leave it out")
        if args.provider:  # raises, before anything is printed, if the model cannot run there
            placed.update(placement(file, [args.provider]))
        return found

    with explained(("info", args.model)):
        found, origin = open_any(args.model or CODEC, open_model)
    facts = _facts(origin, found)
    if args.json:
        import json

        lines = [json.dumps({**facts, "placement": placed} if args.provider else facts)]
    else:
        lines = [*_lines(facts), *(_operators(provider, names) for provider, names in placed.items())]
    with writing_stdout():
        for line in lines:
            print_line(sys.stdout, line)


def _opened(file: str | os.PathLike[str]) -> VocosONNX | EncodecONNX:
    """Opens the file as a model or an encoder, depending on its metadata."""
    from vocos_onnx import EncodecONNX, VocosONNX
    from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
    from vocos_onnx.model.session import stored_file

    kind = EncodecONNX if ENCODER_KEY in stored_file(file, METADATA_KEY).metadata else VocosONNX
    return kind(file, providers=["cpu"])


def _facts(origin: Origin, found: VocosONNX | EncodecONNX) -> dict[str, Any]:
    from dataclasses import asdict

    from vocos_onnx import VocosONNX

    is_model = isinstance(found, VocosONNX)
    facts: dict[str, Any] = {
        "kind": "model" if is_model else "encoder", "path": str(origin.file), "bytes": origin.size
    }  # fmt: skip
    if origin.wanted is not None:  # from the hub or a checkpoint
        facts["origin"] = {"name": origin.model, "commit": origin.wanted.revision, "sha256": origin.wanted.sha256}
    facts |= asdict(found.config)
    if isinstance(found, VocosONNX):
        facts["istft_in_graph"] = found.network.makes_audio
        facts["foreign_graph"] = found.network.foreign or None
        facts["frames_at_once"] = found.network.size
    return facts


def _lines(facts: dict[str, Any]) -> list[str]:
    """Formats the facts as plain text, one a line. Indents the entries of dictionaries; omits what is None or empty."""
    facts = dict(facts)
    lines = [f"{facts.pop('kind')}: {facts.pop('path')} ({facts.pop('bytes') / 1e6:.1f} MB)"]
    in_graph = facts.pop("istft_in_graph", False)
    foreign, size = facts.pop("foreign_graph", None), facts.pop("frames_at_once", None)
    for name, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {inner}: {_text(inner, each)}" for inner, each in value.items() if not _is_empty(each)]
        elif not _is_empty(value):
            lines.append(f"{name}: {_text(name, value)}")
    if in_graph:
        lines.append("inverse STFT: in the graph")
    if foreign is not None:
        lines.append(f"graph: of another exporter, {foreign}")
    if size is not None:
        lines.append(f"frames at once: {size}; shorter input is filled up with zeros")
    return lines


def _operators(provider: str, names: list[str]) -> str:
    return f"{provider}: {len(names)} nodes ({', '.join(sorted(set(names)))})"


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == ()


def _text(name: str, value: Any) -> str:
    if isinstance(value, tuple) and name == "codebooks_sha256":  # one hash for the first codebook, first two, ...
        return f"{value[-1]} (the last of {len(value)})"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
