"""Recovers the weights of a model file under their state dict names, by undoing what ``tracing`` did to them.

An export folds the layer scale into the preceding layer, transposes the matrices, makes the convolution kernels
two-dimensional, and numbers the matrices instead of naming them. Everything else keeps its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from vocos_onnx.messages import first_line
from vocos_onnx.model.checkpoint_config import CODEBOOKS
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
from vocos_onnx.model.onnx_file import CODEBOOKS_NAME, read_file

from .branches import split
from .errors import CheckpointError

_MAX_SIZE = 1 << 30  # bytes
_LAYER_SCALE = ".pwconv2.weight"
_PARTS = ("backbone.", "head.", "encoder.")


@dataclass(frozen=True)
class Recovered:
    """The weights of a model file.

    state: for a vocoder, named as in upstream's state dict, including ``feature_extractor.codebook_weights`` (K · size,
        C) if it decodes tokens; for the bundled codec's encoder, named as in ``modules.STFTEncoder``. Constant buffers
        (windows) are not included. Each ``gamma`` is 1 / blocks, see ``recover``.
    is_encoder: whether the file is an encoder.
    """

    state: dict[str, Tensor]
    is_encoder: bool


def recover(path: str | os.PathLike[str]) -> Recovered:
    """Reads the weights of a float32 .onnx exported by vocos-onnx, with a VocosBackbone or the codec's encoder.

    The layer scale of each block is folded into ``pwconv2``: here it is set to the initial value of a fresh network, 1
    / blocks, and ``pwconv2`` is divided by it, so training continues as before. The network's output is the same except
    for rounding, about 1e-7 of the weights.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file was not exported by vocos-onnx, is not in float32, or has another backbone.

    Example:
        >>> recover("models/vocos-codec-24khz.onnx").state["backbone.embed.weight"].shape
        torch.Size([256, 64, 7])
    """
    proto = _read(Path(path))
    keys = {entry.key for entry in proto.metadata_props}
    is_encoder = ENCODER_KEY in keys
    if not keys & {ENCODER_KEY, METADATA_KEY}:
        raise CheckpointError(f"{path} is not a model file of vocos-onnx: expected a file that vocos-onnx export wrote")
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    state = {name: _tensor(tensor) for name, tensor in tensors.items() if name.startswith(_PARTS)}
    state.update(_matrices(split(proto)[0].graph, tensors))
    if not any(name.endswith(_LAYER_SCALE) for name in state):
        raise CheckpointError(f"{path} has no blocks of a VocosBackbone in float32: pass the file in float32")
    state = {name.removeprefix("encoder."): value for name, value in state.items()}
    blocks = [name.removesuffix(_LAYER_SCALE) for name in state if name.endswith(_LAYER_SCALE)]
    for block in blocks:
        scale = 1 / len(blocks)
        state[f"{block}.pwconv2.weight"] /= scale
        state[f"{block}.pwconv2.bias"] /= scale
        state[f"{block}.gamma"] = torch.full_like(state[f"{block}.pwconv2.bias"], scale)
    if CODEBOOKS_NAME in tensors:
        state[CODEBOOKS] = _tensor(tensors[CODEBOOKS_NAME]).flatten(0, 1)
    return Recovered(state, is_encoder)


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    data = read_file(path, _MAX_SIZE, "model")
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own
        raise CheckpointError(f"{path} cannot be read as ONNX: {first_line(error)}") from error


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    """The values of an initializer; kernels (C, D, 1, taps) as (C, D, taps)."""
    array = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    return array[:, :, 0] if array.ndim == 4 and array.shape[2] == 1 else array


def _matrices(graph: onnx.GraphProto, tensors: Mapping[str, onnx.TensorProto]) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of linear layers, named after the biases that are added to their products."""
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        for product, bias in (node.input[:2], node.input[1::-1]) if node.op_type == "Add" else ():
            if product in products and bias.endswith(".bias"):
                yield bias.removesuffix("bias") + "weight", _tensor(tensors[products[product]]).T.contiguous()
