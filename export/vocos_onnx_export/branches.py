"""Joins two graphs of one network in one file: one for whole sequences, and one that continues from a state."""

from __future__ import annotations

import onnx
from onnx import GraphProto, TensorProto, ValueInfoProto, helper, numpy_helper

from vocos_onnx.model.onnx_file import STATES, STEP, WHOLE

from .graph import GraphBuilder

_PAST = "past"  # the input whose number of frames chooses between the two
_NOTHING = f"{WHOLE}.state"  # name prefix of the nodes that create the state that ``whole`` returns


def join(whole: onnx.ModelProto, step: onnx.ModelProto) -> onnx.ModelProto:
    """Returns one model that runs ``whole`` if no past frames are given, and ``step`` otherwise.

    Both are branches of an If, and use the initializers of the enclosing graph. Initializers that both models have are
    stored once. Equal initializers within one model are not merged (they are paired in order), so the graph does not
    depend on the values of the weights. The inputs of ``whole`` must be among those of ``step``. The branch of
    ``whole`` returns a state of zeros.
    """
    initializers: dict[str, TensorProto] = {}
    found: dict[tuple[int, tuple[int, ...], bytes], list[str]] = {}  # names, by type, shape and values
    graphs = []
    for model, prefix in (step, STEP), (whole, WHOLE):
        renamed = {output: _within(prefix, output) for node in model.graph.node for output in node.output}
        others = {key: list(names) for key, names in found.items()}  # from the other model
        for tensor in model.graph.initializer:
            key = tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()
            if others.get(key):
                renamed[tensor.name] = others[key].pop(0)
                continue
            name = tensor.name if tensor.name not in initializers else f"{prefix}.{tensor.name}"
            initializers[name] = _named(tensor, name)
            found.setdefault(key, []).append(name)
            renamed[tensor.name] = name
        graphs.append(_renamed(model.graph, prefix, renamed))
    zeros, once = GraphBuilder(_NOTHING), GraphBuilder("network")
    for output in step.graph.output:
        if output.name in [f"next_{name}" for name in STATES]:
            graphs[1].output.append(_zeros(zeros, output))
    graphs[1].node.extend(zeros.nodes)
    is_whole = once.op("Equal", once.op("Shape", _PAST, start=2, end=3), once.constant([0]))
    outputs = [output.name for output in step.graph.output]
    network = helper.make_node("If", [is_whole], outputs, "network", then_branch=graphs[1], else_branch=graphs[0])
    joined = onnx.ModelProto()
    joined.CopyFrom(step)
    del joined.graph.node[:], joined.graph.initializer[:], joined.graph.value_info[:]
    joined.graph.node.extend([*once.nodes, network])
    joined.graph.initializer.extend([*initializers.values(), *zeros.initializers, *once.initializers])
    return joined


def split(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Returns the models ``whole`` and ``step`` passed to ``join``, or the model itself if it was not joined."""
    network = next((node for node in model.graph.node if node.op_type == "If" and "spectrum" in node.output), None)
    if network is None:
        return [model]
    branches = {attribute.name: attribute.g for attribute in network.attribute}
    return [_model(model, branches["then_branch"], WHOLE), _model(model, branches["else_branch"], STEP)]


def _within(prefix: str, name: str) -> str:
    return name if name.startswith(f"{prefix}.") else f"{prefix}.{name}"


def _named(tensor: TensorProto, name: str) -> TensorProto:
    named = TensorProto()
    named.CopyFrom(tensor)
    named.name = name
    return named


def _renamed(graph: GraphProto, prefix: str, names: dict[str, str]) -> GraphProto:
    """Copies the nodes and outputs of a graph, with its values renamed and its node names prefixed."""
    renamed = helper.make_graph(graph.node, prefix, [], graph.output)
    for i, node in enumerate(renamed.node):
        node.name = _within(prefix, node.name or f"{node.op_type}_{i}")
        for values in node.input, node.output:
            values[:] = [names.get(name, name) for name in values]
    for output in renamed.output:
        output.name = names.get(output.name, output.name)
    return renamed


def _zeros(g: GraphBuilder, state: ValueInfoProto) -> ValueInfoProto:
    """Adds zeros in the shape of a state that ``step`` returns."""
    sizes = [
        g.op("Shape", "features", start=0, end=1) if size.dim_param else g.constant([size.dim_value])
        for size in state.type.tensor_type.shape.dim
    ]
    zeros = ValueInfoProto()
    zeros.CopyFrom(state)
    zeros.name = g.op("Expand", g.constant(0, "float32"), g.op("Concat", *sizes, axis=0))
    return zeros


def _model(joined: onnx.ModelProto, branch: GraphProto, prefix: str) -> onnx.ModelProto:
    """Makes a branch a separate model, without the state of zeros."""
    nodes = [node for node in branch.node if not node.name.startswith(f"{_NOTHING}.")]
    made = {name for node in nodes for name in node.output}
    outputs = [output for output in joined.graph.output if f"{prefix}.{output.name}" in made]
    graph = helper.make_graph(nodes, prefix, [], outputs)
    graph = _renamed(graph, prefix, {f"{prefix}.{output.name}": output.name for output in outputs})
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(tensor for tensor in joined.graph.initializer if tensor.name in used)
    graph.input.extend(given for given in joined.graph.input if given.name in used)
    model = onnx.ModelProto()
    model.CopyFrom(joined)
    model.graph.CopyFrom(graph)
    return model
