"""The operators of the models of vocos-onnx and of other exporters' Vocos, and the forms in which they are accepted.

Not every graph of these operators is harmless: every onnxruntime so far has kernels that trust the shapes of weights
and the values of attributes, and crash the process if those are hostile (an integer division by zero, a layer norm
without a scale, more outputs than a split has parts). So inputs that are constants in the exports must be constants,
and they must match each other. If the exports get a new operator, add its form here.

Before opset 18, axes were attributes, and a layer norm was several operators. For an inverse STFT in the graph, torch's
exporters write ConvTranspose, NonZero and ScatterND.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vocos_onnx.messages import shown

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 2, 3, 6, 7, 9, 10, 11
TYPE_NAMES = {
    FLOAT: "float", UINT8: "uint8", INT8: "int8", INT32: "int32", INT64: "int64", BOOL: "bool", FLOAT16: "float16",
    DOUBLE: "double",
}  # fmt: skip
_FLOATS = (FLOAT, FLOAT16)
_MAX_SIZE = 1 << 20  # of a kernel, a pad, a stride or an LSTM
_MAX_PAD = 1 << 12  # values that are added before or after others


class FormError(Exception):
    """An operator has a form that no export has; the message continues "the operator X"."""


def require(condition: bool, message: str, *values: Any) -> None:
    """Raises FormError if the condition does not hold; the values replace each ``{}`` in the message."""
    if not condition:
        raise FormError(message.format(*map(shown, values)))


class Constant(NamedTuple):
    """A tensor in the file. ``values`` has the values of a short integer tensor, and is None for any other."""

    kind: int
    shape: tuple[int, ...]
    values: tuple[int, ...] | None


class Node(NamedTuple):
    """An operator: the names of its inputs and outputs, and its attributes: numbers, strings, lists, or a Constant."""

    operator: str
    domain: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]


Constants = Mapping[str, Constant]


class Weights(NamedTuple):
    """The constants in the file, and the tables that values are rows of, both by the names of the values."""

    constants: Constants
    tables: Constants


def output_kind(node: Node, constants: Constants, tables: Constants, kinds: Mapping[str, int]) -> int:
    """Returns the element type of an operator's output. Raises FormError if no export has the operator in that form.

    ``kinds`` has the types of all values before it. The operator must not be ``If``.
    """
    form = _FORMS.get(node.domain, {}).get(node.operator)
    if form is None:
        raise FormError("")
    low, high, attributes, check = form
    if unknown := set(node.attributes).difference(attributes.split()):
        raise FormError(f" with the attribute {shown(min(unknown))}")
    require(low <= len(node.inputs) <= high, f" with {len(node.inputs)} inputs")
    result = check(node, Weights(constants, tables), kinds)
    single = node.operator not in ("Split", "LSTM")
    require(not single or len(node.outputs) == 1, f" with {len(node.outputs)} outputs")
    return result


def _same(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    return _kind(node, kinds, 0)


def _make(kind: int) -> Callable[[Node, Weights, Mapping[str, int]], int]:
    return lambda node, weights, kinds: kind


def _divide(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    kind = _kind(node, kinds, 1)
    if node.operator == "Mod" or kind not in _FLOATS:
        divisor = _constant(node, weights, 1)
        require(divisor.values is not None and min(divisor.values, default=0) > 0, " by what may be zero")
    return kind


def _cast(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    kind = node.attributes.get("to")
    require(kind in (*_FLOATS, INT32, INT64, BOOL), " to the type {}", kind)
    assert isinstance(kind, int)
    return kind


def _where(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    return _kind(node, kinds, 1)


def _value(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    if node.operator == "Constant":
        value = constant_of(node, {})
        require(value is not None, " without a tensor")
    else:
        value = node.attributes.get("value", Constant(FLOAT, (1,), None))
        require(isinstance(value, Constant) and value.shape == (1,), " without a tensor of one value")
    assert value is not None
    return value.kind


def constant_of(node: Node, constants: Constants) -> Constant | None:
    """Returns the constant that an operator passes on unchanged; None if it does not."""
    if node.operator == "Identity" and len(node.inputs) == 1:
        return constants.get(node.inputs[0])
    if node.operator != "Constant" or len(node.attributes) != 1:
        return None
    ((name, value),) = node.attributes.items()
    match name, value:
        case "value", Constant():
            return value
        case "value_float", float():
            return Constant(FLOAT, (), None)
        case "value_int", int():
            return Constant(INT64, (), (value,))
        case "value_ints", [*numbers]:
            return Constant(INT64, (len(numbers),), tuple(numbers))
    return None


def _range(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    start, step = _constant(node, weights, 0), _constant(node, weights, 2)
    require(start.kind == INT64 and step.kind == INT64 and step.values == (1,), " with another step than 1")
    return INT64


def _reduce(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    axes = node.attributes.get("axes")
    if axes is None:
        constant = _constant(node, weights, 1)
        axes = list(constant.values or ()) if len(constant.shape) == 1 else None
    else:
        require(len(node.inputs) == 1, " whose axes come twice")
    require(isinstance(axes, list) and len(axes) == 1, " over several axes")
    _flags(node, "keepdims", "noop_with_empty_axes")
    return _kind(node, kinds, 0)


def _split(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    count = len(node.outputs)
    if len(node.inputs) == 2:
        sizes = _constant(node, weights, 1)
        require(
            sizes.values is not None and sizes.shape == (count,) and min(sizes.values, default=0) >= 0,
            " of other sizes",
        )
    require(count >= 1 and node.attributes.get("num_outputs", count) == count, f" into {count} outputs")
    return _kind(node, kinds, 0)


def _layer_norm(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    require(node.attributes.get("axis", -1) == -1 and node.attributes.get("stash_type", 1) == 1, " over other axes")
    _epsilon(node)
    widths = {_width(node, weights, name) for name in node.inputs[1:]}
    require(len(widths) == 1 and min(widths) > 0, " whose scale and bias are not of one size")
    return _kind(node, kinds, 0)


def _width(node: Node, weights: Weights, name: str) -> int:
    """Returns the size of a scale or bias, which is a constant or a row of one, looked up by the bandwidth id."""
    of = weights.constants.get(name) or weights.tables.get(name)
    rank = 1 if name in weights.constants else 2
    require(of is not None and of.kind in _FLOATS and len(of.shape) == rank, " whose scale and bias are no weights")
    assert of is not None
    return of.shape[-1]


def looked_up(node: Node, constants: Constants, tables: Constants) -> dict[str, Constant]:
    """Returns the table that the outputs are rows of, by their names; empty if they are not rows."""
    table = constants.get(node.inputs[0]) if node.operator == "Gather" and node.inputs else None
    if node.operator == "Cast" and node.inputs:
        table = tables.get(node.inputs[0])
    is_row = table is not None and len(table.shape) == 2 and node.attributes.get("axis", 0) == 0
    if table is None or not is_row:
        return {}
    return {name: table for name in node.outputs}


def _batch_norm(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    require(node.attributes.get("training_mode", 0) == 0, " in training")
    _epsilon(node)
    shapes = {_constant(node, weights, i).shape for i in range(1, 5)}
    (shape, *others) = shapes
    require(not others and len(shape) == 1 and shape[0] > 0, " whose weights are not of one size")
    return _kind(node, kinds, 0)


def _conv(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    weight = _constant(node, weights, 1)
    require(len(weight.shape) in (3, 4) and min(weight.shape) > 0, f" with a kernel of shape {weight.shape}")
    outputs, _, *kernel = weight.shape
    if len(node.inputs) == 3:
        bias = _constant(node, weights, 2)
        require(bias.shape == (outputs,) and bias.kind == weight.kind, f" with a bias of shape {bias.shape}")
    group = node.attributes.get("group", 1)
    require(_is_size(group) and outputs % group == 0, " in {} groups", group)
    require(node.attributes.get("auto_pad", "NOTSET") == "NOTSET", " that pads itself")
    require(node.attributes.get("kernel_shape", kernel) == kernel, " of another kernel than its weight")
    for name, times, least in (("strides", 1, 1), ("dilations", 1, 1), ("pads", 2, 0)):
        sizes = node.attributes.get(name, [least] * times * len(kernel))
        right = isinstance(sizes, list) and len(sizes) == times * len(kernel)
        require(right and all(_is_size(size, least) for size in sizes), f" with {name} of {{}}", sizes)
    return _kind(node, kinds, 0)


def _conv_transpose(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    weight = _constant(node, weights, 1)
    require(len(weight.shape) == 3 and min(weight.shape) > 0, f" with a kernel of shape {weight.shape}")
    channels, outputs, size = weight.shape
    group = node.attributes.get("group", 1)
    require(_is_size(group) and channels % group == 0, " in {} groups", group)
    if len(node.inputs) == 3:
        bias = _constant(node, weights, 2)
        require(bias.shape == (outputs * group,) and bias.kind == weight.kind, f" with a bias of shape {bias.shape}")
    require(node.attributes.get("auto_pad", "NOTSET") == "NOTSET", " that pads itself")
    require(node.attributes.get("kernel_shape", [size]) == [size], " of another kernel than its weight")
    require(node.attributes.get("dilations", [1]) == [1], " that is dilated")
    require(node.attributes.get("output_padding", [0]) == [0], " with padded output")
    # This bounds the output per frame by the size of the weights in the file.
    stride = node.attributes.get("strides", [1])
    right = isinstance(stride, list) and len(stride) == 1 and 1 <= stride[0] <= size
    require(right, " with strides of {}, expected 1 to its kernel's size", stride)
    pads = node.attributes.get("pads", [0, 0])
    right = isinstance(pads, list) and len(pads) == 2 and min(pads) >= 0 and max(pads) < size
    require(right, " with pads of {}, expected less than its kernel", pads)
    return _kind(node, kinds, 0)


def _pad(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    require(node.attributes.get("mode", "constant") == "constant", " in the mode {}", node.attributes.get("mode"))
    pads = _constant(node, weights, 1).values
    require(pads is not None and all(0 <= pad <= _MAX_PAD for pad in pads), " by {}, expected 0 to {}", pads, _MAX_PAD)
    if len(node.inputs) == 3 and node.inputs[2]:
        value = _constant(node, weights, 2)
        require(math.prod(value.shape) == 1 and value.kind == _kind(node, kinds, 0), " with other than one value")
    return _kind(node, kinds, 0)


def _tile(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    require(_kind(node, kinds, 1) == INT64, " whose repeats are no integers")
    return _kind(node, kinds, 0)


def _scatter(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    require(node.attributes.get("reduction", "none") == "none", " with a reduction")
    require(_kind(node, kinds, 1) == INT64, " whose places are no integers")
    return _kind(node, kinds, 0)


def _lstm(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    size = node.attributes.get("hidden_size")
    require(_is_size(size), " of size {}", size)
    assert isinstance(size, int)
    w, r, b = (_constant(node, weights, i) for i in (1, 2, 3))
    right = len(w.shape) == 3 and w.shape[:2] == (1, 4 * size) and w.shape[2] > 0
    right &= r.shape == (1, 4 * size, size) and b.shape == (1, 8 * size)
    require(right and {w.kind, r.kind, b.kind} == {FLOAT}, " whose weights do not fit")
    require(not node.inputs[4] and all(node.inputs[5:7]), " with lengths, or without its state")
    require(len(node.outputs) == 3, f" with {len(node.outputs)} outputs")
    return _kind(node, kinds, 0)


def _quantize(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    scale, zero = (_constant(node, weights, i) for i in (1, 2))
    require(scale.kind == FLOAT and zero.kind == UINT8 and scale.shape == zero.shape == (), " of several scales")
    return UINT8


def _integer_product(node: Node, weights: Weights, kinds: Mapping[str, int]) -> int:
    """Inputs: a (..., K) uint8, b (K, N) int8, their scales, their zero points, and the bias."""
    require(_kind(node, kinds, 0) == UINT8, " of another type")
    b, a_scale, b_scale, a_zero, b_zero, bias = (_constant(node, weights, i) for i in range(1, 7))
    right = b.kind == INT8 and len(b.shape) == 2 and min(b.shape) > 0
    right = right and a_scale.shape == a_zero.shape == () and b_scale.shape == b_zero.shape == bias.shape == b.shape[1:]
    right &= a_scale.kind == b_scale.kind == bias.kind == FLOAT and a_zero.kind == UINT8 and b_zero.kind == INT8
    require(right, " whose weights do not fit")
    return FLOAT


def _epsilon(node: Node) -> None:
    epsilon = node.attributes.get("epsilon", 1e-5)
    require(isinstance(epsilon, float) and 0 <= epsilon < 1, " with an epsilon of {}", epsilon)


def _flags(node: Node, *names: str) -> None:
    for name in names:
        require(node.attributes.get(name, 0) in (0, 1), f" with {name} of {{}}", node.attributes.get(name))


def _is_size(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value <= _MAX_SIZE


def _constant(node: Node, weights: Weights, index: int) -> Constant:
    constant = weights.constants.get(node.inputs[index]) if index < len(node.inputs) else None
    require(constant is not None, f" whose input {index} is no constant")
    assert constant is not None
    return constant


def _kind(node: Node, kinds: Mapping[str, int], index: int) -> int:
    require(index < len(node.inputs) and node.inputs[index] in kinds, f" without its input {index}")
    return kinds[node.inputs[index]]


_Form = tuple[int, int, str, Callable[[Node, Weights, Mapping[str, int]], int]]
_MANY = 256  # inputs; the inverse transform adds at most 64 frames that overlap
# domain -> operator -> the smallest and largest number of inputs, the attributes, and a function that checks the rest.
# Besides the operators of the exports, it has simple ones that other versions of torch's exporter may write instead.
_FORMS: dict[str, dict[str, _Form]] = {
    "": {
        **{
            name: (1, 1, "", _same)
            for name in ("Abs", "Cos", "Erf", "Exp", "Identity", "Log", "Neg", "Reciprocal", "Sign", "Sin", "Sqrt")
        },
        **{name: (2, 2, "", _same) for name in ("Add", "MatMul", "Mul", "Pow", "Sub")},
        **{name: (1, _MANY, "", _same) for name in ("Max", "Min", "Sum")},
        **{name: (2, 2, "", _make(BOOL)) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
        "BatchNormalization": (5, 5, "epsilon momentum training_mode", _batch_norm),
        "Cast": (1, 1, "to", _cast),
        "Clip": (1, 3, "", _same),
        "Concat": (1, _MANY, "axis", _same),
        "Constant": (0, 0, "value value_float value_int value_ints", _value),
        "ConstantOfShape": (1, 1, "value", _value),
        "Conv": (2, 3, "auto_pad dilations group kernel_shape pads strides", _conv),
        "ConvTranspose": (
            2, 3, "auto_pad dilations group kernel_shape output_padding pads strides", _conv_transpose,
        ),
        "Div": (2, 2, "", _divide),
        "Expand": (2, 2, "", _same),
        "Flatten": (1, 1, "axis", _same),
        "Gather": (2, 2, "axis", _same),
        "Gelu": (1, 1, "approximate", _same),
        "LSTM": (7, 7, "hidden_size", _lstm),
        "LayerNormalization": (3, 3, "axis epsilon stash_type", _layer_norm),
        "LeakyRelu": (1, 1, "alpha", _same),
        "Mod": (2, 2, "", _divide),
        "NonZero": (1, 1, "", _make(INT64)),
        "Pad": (2, 3, "mode", _pad),
        "QuantizeLinear": (3, 3, "", _quantize),
        "Range": (3, 3, "", _range),
        "ReduceMean": (1, 2, "axes keepdims noop_with_empty_axes", _reduce),
        "ReduceSum": (2, 2, "keepdims noop_with_empty_axes", _reduce),
        "Reshape": (2, 2, "allowzero", _same),
        "ScatterND": (3, 3, "reduction", _scatter),
        "Shape": (1, 1, "start end", _make(INT64)),
        "Slice": (3, 5, "", _same),
        "Split": (1, 2, "axis num_outputs", _split),
        "Squeeze": (1, 2, "", _same),
        "Tile": (2, 2, "", _tile),
        "Transpose": (1, 1, "perm", _same),
        "Unsqueeze": (2, 2, "", _same),
        "Where": (3, 3, "", _where),
    },
    "com.microsoft": {"MatMulIntegerToFloat": (7, 7, "", _integer_product)},
}  # fmt: skip
DOMAINS = tuple(_FORMS)
