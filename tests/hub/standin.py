"""Runs the package with stand-in conversions: python -m tests.hub.standin run CASES, or ... cli ARGUMENTS.

A checkpoint is any weights with a config that names a tiny model of tests/data; converting it copies that model. So
everything but the conversion is real, and no test needs torch. Each conversion adds a line to the file $CONVERSIONS.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers import DATA
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY, EncoderConfig, ModelConfig, Source
from vocos_onnx.model.onnx_file import read_model
from vocos_onnx.model.sources import Files


def convert_vocoder(files: Files, output: Path, *, precision: str = "float32", istft: str = "numpy") -> ModelConfig:
    metadata = _copy(files, output, METADATA_KEY, "-int8" if precision == "int8" else "")
    return replace(ModelConfig.from_json(metadata), source=_source(files))


def convert_encoder(files: Files, output: Path) -> EncoderConfig:
    return replace(EncoderConfig.from_json(_copy(files, output, ENCODER_KEY, "")), source=_source(files))


def _copy(files: Files, output: Path, key: str, ending: str) -> str:
    with Path(os.environ["CONVERSIONS"]).open("a", encoding="utf-8") as log:
        log.write(f"{files.name} {files.revision}\n")
    time.sleep(float(os.environ.get("SECONDS_TO_CONVERT", "0")))
    text = "encoder" if files.config is None else files.config.read_text(encoding="utf-8")
    found = re.search(r"tiny: (\w+)", text)
    name = (found[1] if found is not None else "encoder") + ending
    if files.weights.read_bytes().startswith(b"damaged"):
        raise ValueError(f"{files.weights} is damaged")
    half = (DATA / f"{name}.onnx").read_bytes()
    output.write_bytes(half[: len(half) // 2])
    if os.environ.get("DIE_WHILE_CONVERTING"):
        os._exit(9)
    shutil.copyfile(DATA / f"{name}.onnx", output)
    return read_model(output, key).metadata[key]


def _source(files: Files) -> Source:
    digest = hashlib.sha256(files.weights.read_bytes()).hexdigest()
    return Source(files.name, files.revision, digest, "stand-in")


def run(case: dict[str, Any]) -> list[str]:
    """Run one case: "ok" with the repr, the file and the hex of a pickle, or the kind and message of the error."""
    from vocos_onnx import EncodecONNX, VocosONNX

    kind: Any = EncodecONNX if case.pop("encoder", False) else VocosONNX
    try:
        if "pickle" in case:
            opened = pickle.loads(bytes.fromhex(case["pickle"]))
        elif "model" in case:
            opened = kind(case["model"], providers=["cpu"], threads=1)
        else:
            opened = kind.from_pretrained(**case, providers=["cpu"], threads=1)
        return ["ok", repr(opened), str(opened._origin.file), pickle.dumps(opened).hex()]
    except Exception as error:
        return [type(error).__name__, str(error)]


def install() -> None:
    """Replace the conversions with the stand-ins."""
    for name, function in (("", None), (".vocoder", convert_vocoder), (".encoder", convert_encoder)):
        module = sys.modules[f"vocos_onnx.convert{name}"] = types.ModuleType(f"vocos_onnx.convert{name}")
        if function is not None:
            setattr(module, function.__name__, function)


def main() -> int:
    install()
    if sys.argv[1] == "cli":
        from vocos_onnx.__main__ import main as program

        sys.argv = ["vocos-onnx", *sys.argv[2:]]
        return program()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for case in json.loads(sys.argv[2]):
        print(json.dumps(run(case)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
