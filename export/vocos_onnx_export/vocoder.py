"""Exports Vocos checkpoints to .onnx."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy.typing as npt

from vocos_onnx import ModelConfig, VocosONNX
from vocos_onnx.model.providers import CPU
from vocos_onnx.model.sherpa import SHERPA, check_options, sherpa_metadata

from .checkpoint import build, load
from .graph import named
from .istft import add_istft
from .modules import Vocos
from .quantization import convert
from .target import Target, save
from .tracing import fold, trace, trace_spectrum
from .verify import table, verify, verify_polar

if TYPE_CHECKING:
    import onnx

ISTFTS = ("numpy", "graph")


def export(
    checkpoint: str,
    output: str | os.PathLike[str],
    *,
    config: str | None = None,
    revision: str | None = None,
    precision: str = "float32",
    istft: str = "numpy",
    format: str = "vocos-onnx",
    calibration: Sequence[npt.ArrayLike] | None = None,
    overwrite: bool = True,
    report: Callable[[str], None] = print,
) -> ModelConfig:
    """Writes a checkpoint as one self-contained .onnx, and verifies it against torch.

    Args:
        checkpoint: a folder, a weight file or a hub id; see ``checkpoint.load``.
        output: path to write. Nothing is written, and an existing file stays, unless the verification passes.
        config: path of the config if it is not beside the weights.
        revision: branch, tag or commit on the hub.
        precision: "float32"; or "int8" or "float16", to which the verified model is converted as in ``quantize``.
        istft: where the runtime turns a spectrum into audio: "numpy"; or "graph", which adds that to the graph, for
            batches on a GPU. Even then, streams and inputs of more than 1,500 frames use numpy.
        format: "vocos-onnx"; or "sherpa", for sherpa-onnx: a graph of mels (batch, n_mels, frames) -> mag, x and y,
            each (batch, n_fft/2 + 1, frames), of a mel model with an ISTFTHead, in float32 or int8
            (docs/guides/sherpa.md).
        calibration: see ``quantize``.
        overwrite: whether to replace an existing file.
        report: called with each line of the report.

    Returns the config stored in the file.

    Raises:
        ValueError: if ``istft`` or ``format`` is neither of the two, or they contradict each other; if sherpa-onnx
            cannot run the model; or as ``quantize``, if ``precision`` is not "float32".
        FileNotFoundError: if the checkpoint, its config or the output's folder does not exist.
        FileExistsError: if the output exists and ``overwrite`` is false.
        CheckpointError: if the checkpoint is not a supported Vocos, or the result differs from torch.

    Example:
        >>> export("charactr/vocos-encodec-24khz", "vocos.onnx", precision="int8")
    """
    if istft not in ISTFTS:
        raise ValueError(f"istft is {istft!r}, expected one of {', '.join(ISTFTS)}")
    check_options(format, istft, precision)
    target = Target(output, overwrite=overwrite)
    found = load(checkpoint, config, revision)
    model, model_config, codebooks = build(found)
    folded = copy.deepcopy(model)
    fold(folded)
    polar = _sherpa_graph(folded, model_config) if format == SHERPA else None
    with target.staged() as written:
        if polar is not None:
            save(polar, written)
            rows = list(verify_polar(model, written))
        else:
            proto = trace(folded, model_config, codebooks)
            if istft == "graph":
                add_istft(proto, model_config)
            save(proto, written)
            rows = list(verify(model, codebooks, VocosONNX(written, providers=[CPU])))
        report("largest difference from torch, relative to the peak:")
        for line in table(rows):
            report(line)
        bad = [row for row in rows if not row.ok]
        if bad:
            first = bad[0]
            raise target.refused(
                f"the exported model differs from torch in {len(bad)} of {len(rows)} checks, first in the "
                f"{first.stage} by {first.difference:.1e} (bandwidth_id {first.bandwidth_id}, batch {first.batch}, "
                f"{first.frames} frames)"
            )
        if precision != "float32":
            if polar is not None:  # the calibration data is decoded with our own layout
                save(trace(folded, model_config, None), written)
            model_config = convert(written, written, target, precision, calibration, report, polar)
    report(target.wrote)
    return model_config


def _sherpa_graph(model: Vocos, config: ModelConfig) -> onnx.ModelProto:
    """The graph in sherpa-onnx's layout. Raises ValueError if sherpa-onnx cannot run the model."""
    metadata = sherpa_metadata(config)
    return named(trace_spectrum(model), metadata, config)
