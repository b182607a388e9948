"""Infers the shapes of a graph's values, as far as they are known before it runs.

The rank of every value must be known, and each operator must accept it: the kernels of onnxruntime trust the check of
shapes at load, and write beyond their memory if a rank turns out otherwise while they run. The values that onnxruntime
computes from weights alone while it loads are bounded too: a few bytes can stand for terabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .operators import Constant, FormError, Node, require

Size = int | str | None  # of a dimension: a number, the name of a free size of the graph's inputs, or None if unknown
Shape = tuple[Size, ...]
MAX_RANK = 8
MAX_FIXED = 1 << 22  # values that all operators together compute from weights alone; none in the exports
_MAX_EXPANDED = 1 << 20  # for each item or frame; the inverse transform expands to n_fft, a few thousand
_MAX_RANGE = 1 << 16


class Known(NamedTuple):
    """What is known of a value.

    ``entries`` are its values if it is an integer or a few of them. ``fixed`` values depend on no input of the graph,
    so that onnxruntime computes them while it loads. All values are below ``most``.
    """

    shape: Shape
    entries: Shape | None = None
    fixed: bool = False
    most: int | None = None

    @classmethod
    def of(cls, constant: Constant) -> Known:
        return cls(constant.shape, constant.values, True)


def output_shapes(node: Node, values: Mapping[str, Known]) -> list[Known]:
    """Returns what is known of an operator's outputs. Raises FormError if its inputs do not fit it, or each other.

    ``output_kind`` must have accepted the operator, and ``values`` must have all of its inputs.
    """
    inputs = [values[name] if name else None for name in node.inputs]
    given = [value for value in inputs if value is not None]
    fixed = all(value.fixed for value in given)
    if node.operator == "Constant":
        value = node.attributes["value"]
        return [Known.of(value)]
    if not inputs or inputs[0] is None:
        raise FormError(" without its input 0")
    made = _SHAPES[node.operator](node, [value or _NOTHING for value in inputs])
    require(all(len(value.shape) <= MAX_RANK for value in made), f" of more than {MAX_RANK} dimensions")
    if node.operator == "Shape":
        fixed = all(isinstance(size, int) for size in made[0].entries or ())
    if node.operator in ("Conv", "LSTM", "MatMul", "MatMulIntegerToFloat"):
        require(not inputs[0].fixed or not fixed, " of weights alone")
    return [value._replace(fixed=fixed) for value in made]


def branch_shapes(condition: Known, then: Known, otherwise: Known) -> Known:
    """Returns what is known of the output of an ``If``. Raises FormError if the branches have different ranks."""
    require(len(then.shape) == len(otherwise.shape), " whose branches have several ranks")
    pairs = zip(then.shape, otherwise.shape, strict=True)
    shape = tuple(one if one == other else None for one, other in pairs)
    return Known(shape, fixed=condition.fixed and then.fixed and otherwise.fixed)


def elements(value: Known) -> int | None:
    """Returns how many values it has, None if that is not known."""
    return math.prod(sizes) if (sizes := _numbers(value.shape)) is not None else None


_NOTHING = Known(())
_Inputs = Sequence[Known]


def _same(node: Node, inputs: _Inputs) -> list[Known]:
    keeps = node.operator in ("Cast", "Identity")
    for bound in inputs[1:] if node.operator in ("Clip", "QuantizeLinear") else ():
        require(bound.shape == (), " with bounds that are no single numbers")
    return [Known(inputs[0].shape, inputs[0].entries if keeps else None)]


def _norm(node: Node, inputs: _Inputs) -> list[Known]:
    data, axis = inputs[0].shape, 1 if node.operator == "BatchNormalization" else -1
    require(len(data) >= 2, f" of the rank {len(data)}")
    _equal(data[axis], inputs[1].shape[-1])
    return [Known(data)]


def _broadcast(node: Node, inputs: _Inputs) -> list[Known]:
    shape: Shape = ()
    for value in inputs:
        shape = _wider(shape, value.shape)
    most = None
    if node.operator == "Mod" and inputs[1].entries:
        most = max(entry for entry in inputs[1].entries if isinstance(entry, int))
    return [Known(shape, most=most)]


def _wider(one: Shape, other: Shape) -> Shape:
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    sizes: list[Size] = []
    for a, b in pairs:
        if a == b or b == 1:
            sizes.append(a)
        elif a == 1:
            sizes.append(b)
        else:
            _fit(a, b)
            sizes.append(a if isinstance(a, int) else b if isinstance(b, int) else None)
    return tuple(sizes)


def _matmul(node: Node, inputs: _Inputs) -> list[Known]:
    a, b = inputs[0].shape, inputs[1].shape
    require(len(a) >= 2 and len(b) >= 2, f" of the ranks {len(a)} and {len(b)}")
    _equal(a[-1], b[-2])
    batch = _wider(a[:-2], b[:-2])
    return [Known((*batch, a[-2], b[-1]))]


def _concat(node: Node, inputs: _Inputs) -> list[Known]:
    ranks = {len(value.shape) for value in inputs}
    require(len(ranks) == 1, " of the ranks {}", sorted(ranks))
    axis = _axis(node.attributes.get("axis"), len(inputs[0].shape))
    sizes = list(inputs[0].shape)
    for value in inputs[1:]:
        for i, size in enumerate(value.shape):
            if i != axis:
                sizes[i] = _fit(sizes[i], size)
    along = _numbers([value.shape[axis] for value in inputs])
    sizes[axis] = None if along is None else sum(along)
    entries: list[Size] | None = []
    for value in inputs:
        entries = None if entries is None or value.entries is None else [*entries, *value.entries]
    return [Known(tuple(sizes), tuple(entries) if entries is not None and len(sizes) == 1 else None)]


def _expand(node: Node, inputs: _Inputs) -> list[Known]:
    entries = inputs[-1].entries
    require(len(inputs[-1].shape) == 1 and entries is not None and None not in entries, " to a shape that is computed")
    assert entries is not None
    sizes = [size for size in entries if isinstance(size, int)]
    require(min(sizes, default=1) >= 1, " to the shape {}", entries)
    require(len(entries) - len(sizes) <= 1, " to the shape {}", entries)
    require(math.prod(sizes) <= _MAX_EXPANDED, " to the shape {}, of more than {} values", entries, _MAX_EXPANDED)
    return [Known(_wider(inputs[0].shape, entries) if node.operator == "Expand" else entries)]


def _conv(node: Node, inputs: _Inputs) -> list[Known]:
    data, weight = inputs[0].shape, _numbers(inputs[1].shape)
    assert weight is not None
    require(len(data) == len(weight), f" of the rank {len(data)} with a kernel of {len(weight)}")
    outputs, channels, *kernel = weight
    _equal(data[1], channels * node.attributes.get("group", 1))
    count = len(kernel)
    strides, dilations = (node.attributes.get(name, [1] * count) for name in ("strides", "dilations"))
    pads = node.attributes.get("pads", [0] * 2 * count)
    sizes: list[Size] = []
    for i, size in enumerate(data[2:]):
        reach = dilations[i] * (kernel[i] - 1)
        require(max(pads[i], pads[i + count]) <= reach, " with pads of {}, beyond its kernel", pads)
        more = pads[i] + pads[i + count] - reach
        if isinstance(size, int):
            require(size + more > 0, f" of {size} values with a kernel of {reach + 1}")
            sizes.append((size + more - 1) // strides[i] + 1)
        else:
            sizes.append(size if more == 0 and strides[i] == 1 else None)
    return [Known((data[0], outputs, *sizes))]


def _lstm(node: Node, inputs: _Inputs) -> list[Known]:
    data, size = inputs[0].shape, node.attributes["hidden_size"]
    require(len(data) == 3, f" of the rank {len(data)}")
    _equal(data[2], inputs[1].shape[2])
    for state in inputs[5:7]:
        require(len(state.shape) == 3, f" with a state of the rank {len(state.shape)}")
        _fit(state.shape[0], 1)
        _fit(state.shape[1], data[1])
        _fit(state.shape[2], size)
    return [Known((data[0], 1, data[1], size)), *[Known((1, data[1], size))] * 2]


def _integer_product(node: Node, inputs: _Inputs) -> list[Known]:
    data, (rows, columns) = inputs[0].shape, inputs[1].shape
    require(len(data) >= 2, f" of the rank {len(data)}")
    _equal(data[-1], rows)
    return [Known((*data[:-1], columns))]


def _gather(node: Node, inputs: _Inputs) -> list[Known]:
    data, indices = inputs
    axis = _axis(node.attributes.get("axis", 0), len(data.shape))
    size, picked = data.shape[axis], indices.entries
    if picked is not None and isinstance(size, int):
        right = all(not isinstance(index, int) or -size <= index < size for index in picked)
        require(right, " of {} in {}", picked, size)
    entries = None
    if data.entries is not None and len(data.shape) == 1 and picked is not None:
        entries = tuple(data.entries[index] if isinstance(index, int) else None for index in picked)
    return [Known((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), entries)]


def _reshape(node: Node, inputs: _Inputs) -> list[Known]:
    data, (length, *more) = inputs[0], inputs[1].shape or (None,)
    require(isinstance(length, int) and not more, " to a shape of unknown length")
    assert isinstance(length, int)
    require(length <= MAX_RANK, f" to {length} dimensions")
    entries = inputs[1].entries or (None,) * length
    asked = [entry for entry in entries if isinstance(entry, int)]
    wrong = min(asked, default=0) < -1 or asked.count(-1) > 1 or node.attributes.get("allowzero", 0) not in (0, 1)
    require(not wrong, " to the shape {}", entries)
    sizes, copied = list(entries), []
    for i, entry in enumerate(entries):
        if entry == 0 and not node.attributes.get("allowzero", 0):
            require(i < len(data.shape), " to the shape {}", entries)
            sizes[i] = data.shape[i]
            copied.append(i)
    if -1 in entries:  # the others leave this many values; copied sizes need not be known
        last = entries.index(-1)
        left = _numbers([size for i, size in enumerate(data.shape) if i not in copied])
        others = _numbers([size for i, size in enumerate(sizes) if i not in (*copied, last)])
        sizes[last] = None
        if left is not None and others is not None:
            count, rest = math.prod(left), math.prod(others)
            require(rest > 0 and count % rest == 0, " of {} to {}", data.shape, entries)
            sizes[last] = count // rest
    whole = elements(data)
    made = _numbers(sizes)
    require(whole is None or made is None or math.prod(made) == whole, " of {} to {}", whole, entries)
    return [Known(tuple(sizes))]


def _shape(node: Node, inputs: _Inputs) -> list[Known]:
    start, end = node.attributes.get("start", 0), node.attributes.get("end", MAX_RANK)
    entries = inputs[0].shape[start:end]
    return [Known((len(entries),), entries)]


def _slice(node: Node, inputs: _Inputs) -> list[Known]:
    data, starts, ends, *others = inputs
    require(len(starts.shape) == 1 and isinstance(starts.shape[0], int), " from places of unknown number")
    count = starts.shape[0]
    assert isinstance(count, int)
    require(ends.shape == (count,) and all(value.shape == (count,) for value in others), " of other numbers of places")
    axes = _numbers(others[0].entries or ()) if others else list(range(count))
    steps = _numbers(others[1].entries or ()) if len(others) > 1 else [1] * count
    require(axes is not None and steps == [1] * count and len(axes) == count, " whose axes are no constants")
    assert axes is not None
    along = [_axis(axis, len(data.shape)) for axis in axes]
    require(len(set(along)) == count, " of one axis twice")
    sizes, entries = list(data.shape), data.entries
    for i, axis in enumerate(along):
        start, end = ((value.entries or (None,) * count)[i] for value in (starts, ends))
        size = sizes[axis]
        if isinstance(start, int) and isinstance(end, int) and isinstance(size, int):
            sizes[axis] = len(range(size)[start:end])
            entries = entries[start:end] if entries is not None and len(sizes) == 1 else None
        elif not (start == 0 and isinstance(end, int) and end > 1 << 40):
            sizes[axis] = entries = None
    return [Known(tuple(sizes), entries)]


def _split(node: Node, inputs: _Inputs) -> list[Known]:
    data, count = inputs[0], len(node.outputs)
    axis = _axis(node.attributes.get("axis", 0), len(data.shape))
    size = data.shape[axis]
    parts: Sequence[Size] = [None] * count
    if len(inputs) == 2:
        parts = inputs[1].entries or parts
        whole = _numbers(parts)
        require(whole is None or not isinstance(size, int) or sum(whole) == size, " of {} into {}", size, parts)
    elif isinstance(size, int):
        part = -(-size // count)
        last = size - part * (count - 1)
        require(last >= 0, f" of {size} into {count}")
        parts = [part] * (count - 1) + [last]
    made, start = [], 0
    for length in parts:
        entries = None
        if data.entries is not None and len(data.shape) == 1 and isinstance(length, int):
            entries = data.entries[start : start + length]
            start += length
        made.append(Known((*data.shape[:axis], length, *data.shape[axis + 1 :]), entries))
    return made


def _squeeze(node: Node, inputs: _Inputs) -> list[Known]:
    shape = inputs[0].shape
    if len(inputs) == 1:
        sizes = _numbers(shape)
        require(sizes is not None, " without axes")
        axes = {i for i, size in enumerate(sizes or ()) if size == 1}
    else:
        axes = _axes(inputs[1], len(shape))
    for axis in axes:
        _fit(shape[axis], 1)
    return [Known(tuple(size for i, size in enumerate(shape) if i not in axes), inputs[0].entries)]


def _unsqueeze(node: Node, inputs: _Inputs) -> list[Known]:
    data = inputs[0]
    rank = len(data.shape) + len(inputs[1].entries or ())
    axes, sizes = _axes(inputs[1], rank), iter(data.shape)
    return [Known(tuple(1 if i in axes else next(sizes) for i in range(rank)), data.entries)]


def _transpose(node: Node, inputs: _Inputs) -> list[Known]:
    shape, order = inputs[0].shape, node.attributes.get("perm")
    right = isinstance(order, list) and sorted(order) == list(range(len(shape)))
    require(right, " of the rank {} in the order {}", len(shape), order)
    assert isinstance(order, list)
    return [Known(tuple(shape[axis] for axis in order))]


def _reduce(node: Node, inputs: _Inputs) -> list[Known]:
    shape = inputs[0].shape
    axes = _axes(inputs[1], len(shape))
    left = [1] if node.attributes.get("keepdims", 1) else []
    return [Known(tuple(kept for i, size in enumerate(shape) for kept in (left if i in axes else [size])))]


def _range(node: Node, inputs: _Inputs) -> list[Known]:
    require(all(value.shape == () for value in inputs), " of what are no single numbers")
    start, end, _ = (value.entries[0] if value.entries else None for value in inputs)
    most = end if isinstance(end, int) else inputs[1].most
    require(start == 0 and most is not None and most <= _MAX_RANGE, " without an end that is known to be near")
    return [Known((end if isinstance(end, int) and end >= 0 else None,))]


def _fit(one: Size, other: Size) -> Size:
    """Returns the size that two dimensions share. Raises FormError if they are two different numbers."""
    different = isinstance(one, int) and isinstance(other, int) and one != other
    require(not different, " of sizes that do not go together, {} and {}", one, other)
    return one if isinstance(one, int) or one == other else other if isinstance(other, int) else None


def _equal(one: Size, other: Size) -> None:
    """Raises FormError unless both sizes are known and equal; used where one of them is that of a weight."""
    right = isinstance(one, int) and one == other
    require(right, " of sizes that do not go together, {} and {}", one, other)


def _axis(axis: object, rank: int) -> int:
    right = type(axis) is int and -rank <= axis < rank
    require(right, " along the axis {} of {} dimensions", axis, rank)
    assert isinstance(axis, int)
    return axis % rank


def _axes(value: Known, rank: int) -> set[int]:
    numbers = _numbers(value.entries or ())
    require(len(value.shape) == 1 and value.fixed and bool(numbers), " whose axes are no constants")
    axes = [_axis(axis, rank) for axis in numbers or ()]
    require(len(set(axes)) == len(axes), " of one axis twice")
    return set(axes)


def _numbers(sizes: Sequence[Size]) -> list[int] | None:
    numbers = [size for size in sizes if isinstance(size, int)]
    return numbers if len(numbers) == len(sizes) else None


_ALIKE = (
    "Abs", "Cast", "Clip", "Cos", "Erf", "Exp", "Gelu", "Identity", "LeakyRelu", "Log", "Neg", "QuantizeLinear",
    "Reciprocal", "Sign", "Sin", "Sqrt",
)  # fmt: skip
_TOGETHER = (
    "Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Pow", "Sub",
    "Sum", "Where",
)  # fmt: skip
_SHAPES: dict[str, Callable[[Node, _Inputs], list[Known]]] = {
    **dict.fromkeys(_ALIKE, _same),
    **dict.fromkeys(_TOGETHER, _broadcast),
    "BatchNormalization": _norm,
    "Concat": _concat,
    "ConstantOfShape": _expand,
    "Conv": _conv,
    "Expand": _expand,
    "Gather": _gather,
    "LSTM": _lstm,
    "LayerNormalization": _norm,
    "MatMul": _matmul,
    "MatMulIntegerToFloat": _integer_product,
    "Range": _range,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
