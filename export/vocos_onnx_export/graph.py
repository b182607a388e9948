"""Builds ONNX graphs operator by operator, and finishes every exported model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from vocos_onnx.arrays import Array
from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY, EncoderConfig, ModelConfig
from vocos_onnx.model.onnx_file import CODEBOOKS_NAME
from vocos_onnx.model.sherpa import sherpa_metadata

OPSET = 20  # the first with GELU as a single operator, which onnxruntime fuses with the preceding bias


class GraphBuilder:
    """A graph under construction. Values are referred to by name, prefixed with the graph's name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Adds an operator with one output; returns the output's name, which is ``name`` if given."""
        (output,) = self._node(kind, inputs, [name or self._name(kind)], attributes)
        return output

    def several(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Adds an operator with several outputs; returns their names."""
        name = self._name(kind)
        return self._node(kind, inputs, [f"{name}.{i}" for i in range(outputs)], attributes)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a number, list, array or torch tensor; returns its name."""
        array = np.asarray(value.detach() if hasattr(value, "detach") else value, dtype)
        name = f"{self.name}.constant.{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def graph(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        return helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)

    def _name(self, kind: str) -> str:
        return f"{self.name}.{kind}.{len(self.nodes)}"

    def _node(self, kind: str, inputs: Sequence[str], outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        self.nodes.append(helper.make_node(kind, inputs, outputs, self._name(kind), **attributes))
        return outputs


def value(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, dtype, shape)


def attach_metadata(
    proto: onnx.ModelProto, config: ModelConfig | EncoderConfig, codebooks: Array | None
) -> onnx.ModelProto:
    """Adds the metadata and the codebooks (K, size, C); returns the same model.

    The codebooks are an initializer that no node uses and that is not an output: the runtime reads it from the file,
    and every execution provider drops it.
    """
    if codebooks is not None:
        proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(codebooks), CODEBOOKS_NAME))
    set_metadata(proto, config)
    proto.producer_name, proto.producer_version = "vocos-onnx", config.source.exporter
    strip(proto.graph)
    return proto


def strip(graph: GraphProto) -> None:
    """Removes what is not needed to run the graph: the nodes' source locations, and inferred shapes."""
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                strip(attribute.g)


def named(proto: onnx.ModelProto, metadata: Mapping[str, str], config: ModelConfig) -> onnx.ModelProto:
    """Sets the metadata and the producer of a model; returns the same model."""
    helper.set_model_props(proto, dict(metadata))
    proto.producer_name, proto.producer_version = "vocos-onnx", config.source.exporter
    return proto


def set_metadata(proto: onnx.ModelProto, config: ModelConfig | EncoderConfig) -> None:
    """Replaces the metadata of a model with its config."""
    key = METADATA_KEY if isinstance(config, ModelConfig) else ENCODER_KEY
    del proto.metadata_props[:]
    helper.set_model_props(proto, {key: config.to_json()})


def set_sherpa_metadata(proto: onnx.ModelProto, config: ModelConfig) -> None:
    """Like ``set_metadata``, for a model in sherpa-onnx's layout. Raises ValueError if sherpa-onnx cannot run it."""
    named(proto, sherpa_metadata(config), config)
