"""``vocos-onnx models``: list the bundled, cached and known models; ``models pull`` and ``models rm``."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from vocos_onnx.model.bundled import BUNDLED, BUNDLED_CODEC, find_model

from . import options
from .console import print_line, report_done, writing_stdout
from .models import ENCODEC, open_any
from .parser import Commands

if TYPE_CHECKING:
    from vocos_onnx import EncodecONNX, VocosONNX
    from vocos_onnx.model.cache import Entry


def add(commands: Commands) -> None:
    parser = commands.add(
        "models",
        run,
        "list the models that are bundled, cached or known; download and remove them",
        """
        models
        models pull charactr/vocos-encodec-24khz
        models rm charactr/vocos-encodec-24khz
        """,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    actions = commands.within(parser, "ACTION")
    pull = actions.add(
        "pull",
        run_pull,
        "download a model of the hub and convert it, to use it without a network",
        "models pull charactr/vocos-encodec-24khz --int8",
    )
    pull.add_argument("id", type=options.name, metavar="ID", help="owner/name on the hub")
    options.add_revision(pull)
    options.add_int8_or_fp16(pull)
    remove = actions.add(
        "rm",
        run_remove,
        "remove a converted model from the cache",
        "models rm charactr/vocos-encodec-24khz",
    )
    remove.add_argument("id", type=options.name, metavar="ID", help="owner/name on the hub, or the name in the list")


def run(args: Namespace) -> None:
    rows = [*_bundled(), *_cached(), *_known()]
    if args.json:
        import json

        lines = [json.dumps({"models": rows})]
    else:
        lines = _table(rows)
    with writing_stdout():
        for line in lines:
            print_line(sys.stdout, line)


def run_pull(args: Namespace) -> None:
    from vocos_onnx import EncodecONNX, VocosONNX
    from vocos_onnx.messages import close_to
    from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
    from vocos_onnx.model.mistaken import ids_ending_in
    from vocos_onnx.model.names import is_hub_id
    from vocos_onnx.model.session import open_file

    if args.id in BUNDLED:
        report_done(find_model(args.id), f"{args.id} is bundled: there is nothing to download")
        return
    if not is_hub_id(args.id):
        known = ids_ending_in(args.id) or close_to(args.id, BUNDLED, 1, 0.7)
        hint = f"; did you mean {known[0]}?" if known else ""
        raise ValueError(f"{args.id} is not the id of a repository on the hub, expected owner/name{hint}")
    precision = options.chosen_precision(args)

    def open_model(file: str | os.PathLike[str]) -> VocosONNX | EncodecONNX:
        is_encoder = ENCODER_KEY in open_file(file, METADATA_KEY).metadata
        return EncodecONNX(file, providers=["cpu"]) if is_encoder else VocosONNX(file, providers=["cpu"])

    _, origin = open_any(args.id, open_model, args.revision, precision)
    commit = origin.wanted.revision if origin.wanted is not None else None
    if not origin.file.exists():
        raise OSError(f"{args.id} can be used, but the converted model is not kept: the cache cannot be written")
    report_done(origin.file, f"{args.id} is ready ({origin.size / 1e6:.1f} MB, commit {commit}): {origin.file}")


def run_remove(args: Namespace) -> None:
    from vocos_onnx.model.cache import ModelCache, NoCacheError, cache_folder

    if args.id in BUNDLED:
        raise ValueError(f"{args.id} is bundled, and is not removed")
    try:
        cache = ModelCache(cache_folder())
    except NoCacheError as error:
        raise ValueError(f"there is no cache of converted models: {error}") from None
    found = [entry for entry in cache.entries() if args.id in cache.names(entry)]
    if not found:
        raise FileNotFoundError(f"no {args.id} in the cache {cache.folder}; vocos-onnx models lists what is there")
    for entry in found:
        cache.remove(entry)
    size = sum(entry.size for entry in found)
    report_done(cache.folder, f"removed {args.id}: {len(found)} converted, {size / 1e6:.1f} MB")
    if "/" in args.id:
        report_done(
            cache.folder,
            "the download stays in the cache of the hub's client, which other programs use; it is removed with: "
            f"hf cache rm model/{args.id}",
        )


def _bundled() -> list[dict[str, Any]]:
    from vocos_onnx.model.registry import known_models

    return [
        {**_row("bundled", model.id, model), "megabytes": find_model(model.id).stat().st_size / 1e6}
        for model in known_models()
        if model.id in BUNDLED
    ]


def _cached() -> list[dict[str, Any]]:
    from vocos_onnx.model.cache import ModelCache, NoCacheError, cache_folder

    try:
        cache = ModelCache(cache_folder())
    except NoCacheError:
        return []
    rows = [_cached_row(name, entry) for entry in cache.entries() for name in cache.names(entry)]
    return sorted(rows, key=lambda row: (row["id"], row["precision"], row["revision"]))


def _cached_row(name: str, entry: Entry) -> dict[str, Any]:
    from vocos_onnx.model.registry import find_known

    made = entry.made
    facts = {"precision": made.precision, "revision": made.revision, "sha256": made.weights_sha256}
    known = find_known(name)
    row = _row("cached", name, known, made.kind)
    if known is None:
        row |= _described(entry)
    return {**row, **facts, "megabytes": entry.size / 1e6, "path": str(entry.path)}


def _described(entry: Entry) -> dict[str, Any]:
    """Returns what the file of a cached model states about it, for models that the registry does not know."""
    from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY, EncoderConfig, ModelConfig
    from vocos_onnx.model.session import stored_file

    try:
        metadata = stored_file(entry.path, METADATA_KEY).metadata
        if METADATA_KEY not in metadata:
            return {"sample_rate": EncoderConfig.from_json(metadata[ENCODER_KEY]).sample_rate}
        config = ModelConfig.from_json(metadata[METADATA_KEY])
    except (ValueError, OSError, KeyError):  # reported when the model is opened
        return {}
    decodes = f"{config.feature_channels} mels"
    if config.encodec is not None:
        codec = {ENCODEC: "EnCodec", BUNDLED_CODEC: "the bundled codec"}.get(config.encodec.codec, config.encodec.codec)
        decodes = f"tokens of {codec}"
    return {"decodes": decodes, "sample_rate": config.sample_rate}


def _known() -> list[dict[str, Any]]:
    from vocos_onnx.model.registry import known_models

    return [_row("known", model.id, model) for model in known_models() if model.id not in BUNDLED]


def _row(state: str, name: str, model: Any, kind: str = "") -> dict[str, Any]:
    """Returns a row of the list without unknown values; ``model`` is the registry's entry, or None."""
    row = {"state": state, "id": name, "kind": kind}
    if model is not None:
        row |= {"kind": model.kind, "decodes": model.decodes, "sample_rate": model.sample_rate}
        row |= {"licence": model.licence, "megabytes": model.megabytes, "revision": model.revision}
        row["sha256"] = model.sha256
    return {key: value for key, value in row.items() if value not in ("", None)}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [["", "model", "decodes", "Hz", "licence", "MB"]]
    for row in rows:
        name = row["id"] if row.get("precision", "float32") == "float32" else f"{row['id']} ({row['precision']})"
        what = row.get("decodes") or ("audio to tokens" if row.get("kind") == "encoder" else "")
        size = f"{row['megabytes']:.1f}" if "megabytes" in row else ""
        cells.append([row["state"], name, what, str(row.get("sample_rate", "")), row.get("licence", ""), size])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    numbers = (3, 5)
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
