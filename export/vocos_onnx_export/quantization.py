"""Converts a float32 .onnx to the same network in int8, for CPUs, or in float16, for GPUs.

int8 applies to the matrix products, nine tenths of the work. Their left operands are outputs of layer norms and GELUs,
whose ranges are measured once on real input and then fixed (8 bits, asymmetric): the audio of a frame does not depend
on what else is decoded with it, and nothing is measured at run time. The weights have 7 bits and one scale per column
(``vocos_onnx.model.precision``). Convolutions, layer norms, GELUs and the head's exp, sin and cos stay in float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vocos_onnx import ModelConfig
from vocos_onnx.convert.calibration import (
    MIN_SNR_DB,
    Decoder,
    Item,
    Range,
    calibration_items,
    cut,
    quality_line,
    quality_of,
    ranges_of,
)
from vocos_onnx.evaluate.metrics import pesq_wb_or_nan
from vocos_onnx.model.bundled import find_model
from vocos_onnx.model.config import Quality
from vocos_onnx.model.onnx_file import CODEBOOKS_NAME
from vocos_onnx.model.precision import column_scales, input_scale, to_int8
from vocos_onnx.model.providers import CPU
from vocos_onnx.model.sherpa import INPUT

from .branches import join, split
from .graph import set_metadata, set_sherpa_metadata
from .istft import PREFIX, add_istft
from .target import Target, save

VARIANTS = ("int8", "float16")
_MICROSOFT = "com.microsoft"


def quantize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str = "int8",
    calibration: Sequence[npt.ArrayLike] | None = None,
    overwrite: bool = True,
    report: Callable[[str], None] = print,
) -> ModelConfig:
    """Writes a float32 model in another precision, and compares the two.

    Args:
        model: path of a file that ``export`` wrote, or the name of a bundled one.
        output: path to write. Unless the comparison passes, nothing is written, and an existing file stays.
        precision: "int8" or "float16".
        calibration: tokens (K, T) or features (C, T) of real audio, as ``VocosONNX.decode`` takes them, to measure the
            int8 ranges and the quality on. By default bundled speech, as mels, as tokens of the bundled codec, or as
            tokens of EnCodec 24 kHz.
        overwrite: whether to replace an existing file.
        report: called with each line of the report.

    Returns:
        The config stored in the file, with the measured quality.

    Raises:
        FileNotFoundError: if the model or the folder of the output does not exist.
        FileExistsError: if the output exists and ``overwrite`` is false.
        ValueError: if the model is not in float32, or has a VocosResNetBackbone (int8 only); if ``precision`` is
            neither of the two; or if the model cannot decode the calibration data, or none is bundled for its codec.
        CheckpointError: if the SNR of the result against the original is less than 10 dB.

    Example:
        >>> quantize("vocos.onnx", "vocos-int8.onnx").quality.snr_db
    """
    target = Target(output, overwrite=overwrite)
    with target.staged() as staged:
        return convert(model, staged, target, precision, calibration, report)


def convert(
    model: str | os.PathLike[str],
    staged: Path,
    target: Target,
    precision: str,
    calibration: Sequence[npt.ArrayLike] | None,
    report: Callable[[str], None],
    polar: onnx.ModelProto | None = None,
) -> ModelConfig:
    """Writes a float32 model in another precision to ``staged``, the staged file of ``target``; see ``quantize``.

    ``polar``: the same network in sherpa-onnx's layout; if given, it is written instead of the model.
    """
    if precision not in VARIANTS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(VARIANTS)}")
    original = Decoder(model)
    if original.config.precision != "float32":
        raise ValueError(f"{model} is in {original.config.precision} already; take the float32 model")
    items = calibration_items(original, calibration)
    proto = onnx.load(find_model(model)) if polar is None else polar
    describe = set_metadata if polar is None else set_sherpa_metadata
    ranges = _ranges(whole(proto), original, items) if precision == "int8" else {}
    config = replace(original.config, precision=precision, quality=Quality(0.0, None, 0.0))
    proto = narrowed(proto, config, ranges)
    describe(proto, config)
    save(proto, staged)
    quality = quality_of(Decoder(staged).decode, items, config.sample_rate, pesq_wb_or_nan)
    report(quality_line(precision, quality))
    if not quality.snr_db >= MIN_SNR_DB:
        raise target.refused(
            f"in {precision} the audio is {quality.snr_db:.1f} dB from that of float32, expected {MIN_SNR_DB:g} dB or "
            "more"
        )
    config = replace(config, quality=quality)
    describe(proto, config)
    save(proto, staged)
    return config


def narrowed(proto: onnx.ModelProto, config: ModelConfig, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Returns a float32 model in the precision of ``config``.

    For int8, ``ranges`` has the minimum and maximum of each product's left operand, by the name of its weight.
    """
    branches = split(_network(proto))
    if config.precision == "int8":
        for branch in branches:
            _quantise(branch, ranges)
    else:
        branches = [_to_float16(branch, config.head) for branch in branches]
    codebooks = [tensor for tensor in proto.graph.initializer if tensor.name == CODEBOOKS_NAME]
    has_audio = any(output.name == "audio" for output in proto.graph.output)
    made = join(*branches) if len(branches) == 2 else branches[0]
    made.graph.initializer.extend(codebooks)
    if has_audio:
        add_istft(made, config)
    set_metadata(made, config)
    return made


def whole(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the network of a model for whole sequences."""
    return split(_network(proto))[0]


def _network(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the codebooks and the inverse transform."""
    network = onnx.ModelProto()
    network.CopyFrom(proto)
    graph = network.graph
    nodes = [node for node in graph.node if not node.name.startswith(PREFIX)]
    tensors = [t for t in graph.initializer if t.name != CODEBOOKS_NAME and not t.name.startswith(PREFIX)]
    outputs = [o for o in graph.output if o.name not in (CODEBOOKS_NAME, "audio")]  # format 4 has the former
    graph.CopyFrom(helper.make_graph(nodes, graph.name, graph.input, outputs, tensors))
    return network


def products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Returns the matrix products whose right operand is a weight."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def _quantise(proto: onnx.ModelProto, ranges: Mapping[str, Range]) -> None:
    """Replaces products with weights by integer products; ``ranges`` are those of the left operands, by weight name."""
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for node in products(graph):
        (add,) = [user for user in graph.node if node.output[0] in user.input]
        assert add.op_type == "Add"
        (bias,) = [name for name in add.input if name != node.output[0]]
        name = node.input[1]
        scale, zero = input_scale(*ranges[name])
        weight = numpy_helper.to_array(weights[name])
        tensors = {
            f"{name}.input_scale": np.float32(scale),
            f"{name}.input_zero": np.uint8(zero),
            f"{name}.int8": to_int8(weight),
            f"{name}.scale": column_scales(weight),
            f"{name}.zero": np.zeros(weight.shape[1], np.int8),
        }
        graph.initializer.remove(weights[name])
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), key) for key, v in tensors.items())
        in_scale, in_zero, w, w_scale, w_zero = tensors
        quantised = f"{node.output[0]}.input"
        replaced[node.output[0]] = [
            helper.make_node("QuantizeLinear", [node.input[0], in_scale, in_zero], [quantised]),
            helper.make_node(
                "MatMulIntegerToFloat",
                [quantised, w, in_scale, w_scale, in_zero, w_zero, bias],
                list(add.output),
                domain=_MICROSOFT,
            ),
        ]
        replaced[add.output[0]] = []
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    proto.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))


def _ranges(proto: onnx.ModelProto, original: Decoder, items: Sequence[Item]) -> dict[str, Range]:
    """The minimum and maximum of each product's left operand over all items, extended to include 0, by weight name."""
    import onnxruntime

    if not original.network.has_state:
        raise ValueError(
            "this model has no state: it has a VocosResNetBackbone, whose work is in convolutions: int8 does nothing "
            "for it; or it was made of another exporter's file, whose graph stays as it is"
        )
    weights = {node.input[0]: node.input[1] for node in products(proto.graph)}
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in weights)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns about the codebooks, which no node uses
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=[CPU])
    stretches = cut(original, items)
    taken = [value.name for value in session.get_inputs()]

    def run(given: Mapping[str, npt.NDArray[Any]]) -> Any:
        bandwidth_id = given.get("bandwidth_id")
        # A file in format 5 or older has a single graph, which also takes a state.
        whole = original.network.inputs(given["features"], None if bandwidth_id is None else int(bandwidth_id))
        whole[INPUT] = given["features"]  # their name in sherpa-onnx's layout
        return session.run([*weights], {name: whole[name] for name in taken})

    outputs = (run(stretch.inputs) for stretch in stretches)
    return ranges_of(stretches, (dict(zip(weights.values(), values, strict=True)) for values in outputs))


def _to_float16(proto: onnx.ModelProto, head: str) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    # In float16 a phase of many radians has no precision left, and exp overflows; a WaveNextHead has neither.
    wide = [] if head == "wavenext" else _after(proto, "head.out")
    half: onnx.ModelProto = convert_float_to_float16(
        proto, keep_io_types=True, node_block_list=wide, disable_shape_infer=False
    )
    OnnxModel(half).topological_sort()
    del half.graph.value_info[:]
    return half


def _after(proto: onnx.ModelProto, name: str) -> list[str]:
    """The names of the nodes that depend on the output of the node with the bias ``name``."""
    reached: set[str] = set()
    after = []
    for i, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
        if reached.intersection(node.input):
            after.append(node.name)
            reached.update(node.output)
        elif any(name in given and given.endswith(".bias") for given in node.input):
            reached.update(node.output)
    assert after
    return after
