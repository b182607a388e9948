"""Infers the shapes of a graph's values, as far as they are known before it runs.

The rank of every value must be known, and each operator must accept it: onnxruntime's kernels trust the shape check at
load, and write beyond their memory if a rank turns out to be different at run time. The values that onnxruntime
computes from weights alone while loading are bounded too, since a few bytes can expand to terabytes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from .operators import INT64, Constant, FormError, Node, constant_of, require

Size = int | str | None  # of a dimension: a number, the name of a free size of the graph's inputs, or None if unknown
Shape = tuple[Size, ...]
MAX_RANK = 8
UNNAMED = "\0"  # prefix of the names of sizes that do not come from the graph's inputs
MAX_FIXED = 1 << 22  # values that all operators together compute from weights alone; 0 in the exports
_MAX_EXPANDED = 1 << 20  # per item or frame; the inverse transform expands to n_fft, a few thousand
_MAX_RANGE = 1 << 16


class Known(NamedTuple):
    """What is known about a value.

    ``entries`` are its values if it is an integer or a few of them. ``fixed`` values depend on no input of the graph,
    so onnxruntime computes them while loading. All values are below ``most``.
    """

    shape: Shape
    entries: Shape | None = None
    fixed: bool = False
    most: int | None = None

    @classmethod
    def of(cls, constant: Constant) -> Known:
        return cls(constant.shape, constant.values, True)


def output_shapes(node: Node, values: Mapping[str, Known]) -> list[Known]:
    """Returns what is known about an operator's outputs. Raises FormError if its inputs do not fit it or each other.

    ``output_kind`` must have accepted the operator, and ``values`` must have all of its inputs.
    """
    inputs = [values[name] if name else None for name in node.inputs]
    given = [value for value in inputs if value is not None]
    fixed = all(value.fixed for value in given)
    if (constant := constant_of(node, {})) is not None:
        return [Known.of(constant)]
    if not inputs or inputs[0] is None:
        raise FormError(" without its input 0")
    made = _SHAPES[node.operator](node, [value or _NOTHING for value in inputs])
    require(all(len(value.shape) <= MAX_RANK for value in made), f" of more than {MAX_RANK} dimensions")
    if node.operator == "Shape":
        fixed = all(isinstance(size, int) for size in made[0].entries or ())
    if node.operator in ("Conv", "ConvTranspose", "LSTM", "MatMul", "MatMulIntegerToFloat"):
        require(not inputs[0].fixed or not fixed, " of weights alone")
    return [value._replace(fixed=fixed) for value in made]


def frames_seen(node: Node, values: Mapping[str, Known], lengths: Set[Size]) -> tuple[int, int] | None:
    """Returns how many frames before and after a frame an operator sees, at most; None if all, or if it strides.

    ``output_shapes`` must have accepted the operator. Any axis that it convolves or pads may be that of the frames; an
    axis that it sums over is taken as that of the frames if its size is not known or is one of the ``lengths``.
    """
    inputs = [values[name] if name else _NOTHING for name in node.inputs]
    summed: Size = 0
    match node.operator:
        case "Conv":
            kernel = _numbers(inputs[1].shape[2:]) or []
            pads = node.attributes.get("pads", [0] * 2 * len(kernel))[: len(kernel)]
            dilations = node.attributes.get("dilations", [1] * len(kernel))
            after = [dilation * (size - 1) - pad for dilation, size, pad in zip(dilations, kernel, pads, strict=True)]
            return (max(pads), max(after)) if set(node.attributes.get("strides", [1])) == {1} else None
        case "ConvTranspose":
            ((kernel_size, *_), (stride,)) = _numbers(inputs[1].shape[2:]) or [1], node.attributes.get("strides", [1])
            return (overlap := -(-kernel_size // stride)), overlap
        case "Pad":
            return max(_numbers(inputs[1].entries or ()) or [0]), 0
        case "LSTM":
            return None
        case "MatMul":
            summed = inputs[1].shape[-2] if inputs[0].fixed or inputs[1].fixed else None
        case "LayerNormalization":
            summed = inputs[0].shape[-1]
        case "ReduceMean" | "ReduceSum":
            (axis,) = _reduced(node, inputs)
            summed = inputs[0].shape[axis]
    return (0, 0) if isinstance(summed, int) and summed not in lengths else None


def branch_shapes(condition: Known, then: Known, otherwise: Known) -> Known:
    """Returns what is known about the output of an ``If``. Raises FormError if the branches have different ranks."""
    require(len(then.shape) == len(otherwise.shape), " whose branches have several ranks")
    pairs = zip(then.shape, otherwise.shape, strict=True)
    shape = tuple(one if one == other else None for one, other in pairs)
    return Known(shape, fixed=condition.fixed and then.fixed and otherwise.fixed)


def named(shape: Shape) -> Shape:
    """Returns a shape with only the known sizes: numbers, and names from the graph's inputs; else None."""
    return tuple(None if isinstance(size, str) and size.startswith(UNNAMED) else size for size in shape)


def elements(value: Known) -> int | None:
    """Returns how many values it has; None if that is not known."""
    return math.prod(sizes) if (sizes := _numbers(value.shape)) is not None else None


_NOTHING = Known(())
_Inputs = Sequence[Known]


def _same(node: Node, inputs: _Inputs) -> list[Known]:
    keeps = node.operator == "Identity" or node.attributes.get("to") == INT64
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
    return [Known(shape, _computed(node.operator, inputs), most=most)]


def _computed(name: str, inputs: _Inputs) -> Shape | None:
    """Returns the result for a few integers: exporters compute shapes, such as the halves of a split, from others."""
    if name not in _ARITHMETIC or any(value.entries is None or len(value.shape) > 1 for value in inputs):
        return None
    entries = [value.entries or () for value in inputs]
    count = max(map(len, entries))
    if any(len(values) not in (1, count) for values in entries):
        return None
    rows = zip(*[values if len(values) == count else values * count for values in entries], strict=True)
    return tuple(_ARITHMETIC[name](*row) for row in rows)


def _whole(operation: Callable[[int, int], int]) -> Callable[..., Size]:
    """Wraps an operation on integers: None for unknown sizes, and for results that are large or below -1."""

    def result(one: Size, other: Size) -> Size:
        if not isinstance(one, int) or not isinstance(other, int):
            return None
        made = operation(one, other)
        return made if -1 <= made <= _MAX_EXPANDED else None

    return result


def _same_size(one: Size, other: Size) -> Size:
    """Returns whether two sizes are equal; None if that is not known. A named size is never negative."""
    if isinstance(one, int) and isinstance(other, int):
        return int(one == other)
    return 0 if any(isinstance(size, int) and size < 0 for size in (one, other)) and None not in (one, other) else None


def _chosen(condition: Size, one: Size, other: Size) -> Size:
    return one if condition == 1 else other if condition == 0 else None


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
    data, entries = inputs[0], inputs[-1].entries
    if node.operator == "Expand":
        if _keeps(data.shape, entries):
            return [Known(data.shape)]
        require(data.fixed, " whose input 0 is no constant")
        require(elements(data) == 1, " of more than one value")
    require(len(inputs[-1].shape) == 1 and entries is not None and None not in entries, " to a shape that is computed")
    assert entries is not None
    sizes = [size for size in entries if isinstance(size, int)]
    require(min(sizes, default=1) >= 1, " to the shape {}", entries)
    require(len(entries) - len(sizes) <= 1, " to the shape {}", entries)
    require(math.prod(sizes) <= _MAX_EXPANDED, " to the shape {}, of more than {} values", entries, _MAX_EXPANDED)
    if node.operator == "Expand":
        return [Known(_wider(data.shape, entries))]
    value = node.attributes.get("value")
    values = value.values if isinstance(value, Constant) and len(entries) == 1 else None
    few = values * sizes[0] if values is not None and sizes and sizes[0] <= MAX_RANK else None
    return [Known(entries, few)]


def _keeps(shape: Shape, entries: Shape | None) -> bool:
    """Whether an expansion to these sizes changes nothing."""
    if entries is None or None in entries or len(entries) > len(shape):
        return False
    return all(entry in (1, size) for size, entry in zip(shape[len(shape) - len(entries) :], entries, strict=True))


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


def _conv_transpose(node: Node, inputs: _Inputs) -> list[Known]:
    data, weight = inputs[0].shape, _numbers(inputs[1].shape)
    assert weight is not None
    require(len(data) == len(weight), f" of the rank {len(data)} with a kernel of {len(weight)}")
    channels, outputs, kernel = weight
    _equal(data[1], channels)
    (stride,), (before, after) = node.attributes.get("strides", [1]), node.attributes.get("pads", [0, 0])
    length: Size = None
    if isinstance(data[2], int):
        samples = (data[2] - 1) * stride + kernel - before - after
        require(data[2] > 0 and samples > 0, f" of {data[2]} values, of which {samples} are left")
        length = samples
    return [Known((data[0], outputs * node.attributes.get("group", 1), length))]


def _pad(node: Node, inputs: _Inputs) -> list[Known]:
    shape, pads = inputs[0].shape, _numbers(inputs[1].entries or ())
    require(pads is not None and len(pads) == 2 * len(shape), " of the rank {} by {}", len(shape), inputs[1].entries)
    assert pads is not None
    more = [before + after for before, after in zip(pads[: len(shape)], pads[len(shape) :], strict=True)]
    require(len(more) - more.count(0) <= 1, " along several axes, by {}", pads)
    sizes = [size + n if isinstance(size, int) else None if n else size for size, n in zip(shape, more, strict=True)]
    return [Known(tuple(sizes))]


def _tile(node: Node, inputs: _Inputs) -> list[Known]:
    """The number of repeats must be known before the graph runs, except along one axis."""
    shape, repeats = inputs[0].shape, inputs[1].entries
    right = inputs[1].shape == (len(shape),) and repeats is not None and None not in repeats
    require(right, " of unknown repeats")
    assert repeats is not None
    known = [n for n in repeats if isinstance(n, int)]
    right = min(known, default=1) >= 1 and len(repeats) - len(known) <= 1 and math.prod(known) <= _MAX_EXPANDED
    require(right, " with the repeats {}", repeats)
    sizes = [
        size if n == 1 else size * n if isinstance(size, int) and isinstance(n, int) else n if size == 1 else None
        for size, n in zip(shape, repeats, strict=True)
    ]
    return [Known(tuple(sizes))]


def _non_zero(node: Node, inputs: _Inputs) -> list[Known]:
    require(len(inputs[0].shape) > 0, " of a single number")
    # a size with a name of its own, so that values computed from these places are known to have the same size
    return [Known((len(inputs[0].shape), f"{UNNAMED}{node.outputs[0]}"))]


def _scatter(node: Node, inputs: _Inputs) -> list[Known]:
    data, (*count, depth), updates = inputs[0].shape, inputs[1].shape or (None,), inputs[2].shape
    right = isinstance(depth, int) and 1 <= depth <= len(data)
    require(right, " of places in {} of {} dimensions", depth, len(data))
    assert isinstance(depth, int)
    expected = (*count, *data[depth:])
    require(len(updates) == len(expected), " of the rank {}, expected {}", len(updates), len(expected))
    for one, other in zip(updates, expected, strict=True):
        _fit(one, other)
    return [Known(data)]


def _flatten(node: Node, inputs: _Inputs) -> list[Known]:
    shape, axis = inputs[0].shape, node.attributes.get("axis", 1)
    require(type(axis) is int and -len(shape) <= axis <= len(shape), " along the axis {}", axis)
    axis = axis + len(shape) if axis < 0 else axis
    return [Known((elements(Known(shape[:axis])), elements(Known(shape[axis:]))))]


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
    if -1 in entries:  # the size that the others leave; copied sizes need not be known
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


def _reduced(node: Node, inputs: _Inputs) -> set[int]:
    """Returns the axes that an operator reduces; before opset 18 they are an attribute."""
    rank, axes = len(inputs[0].shape), node.attributes.get("axes")
    return _axes(inputs[1], rank) if axes is None else {_axis(axis, rank) for axis in axes}


def _reduce(node: Node, inputs: _Inputs) -> list[Known]:
    shape = inputs[0].shape
    axes = _reduced(node, inputs)
    left = [1] if node.attributes.get("keepdims", 1) else []
    return [Known(tuple(kept for i, size in enumerate(shape) for kept in (left if i in axes else [size])))]


def _range(node: Node, inputs: _Inputs) -> list[Known]:
    require(all(value.shape == () for value in inputs), " of what are no single numbers")
    start, end, _ = (value.entries[0] if value.entries else None for value in inputs)
    most = end if isinstance(end, int) else inputs[1].most
    require(start == 0 and most is not None and most <= _MAX_RANGE, " without an end that is known to be near")
    return [Known((end if isinstance(end, int) and end >= 0 else None,))]


def _fit(one: Size, other: Size) -> Size:
    """Returns the common size of two dimensions, as far as it is known. Raises FormError if the numbers differ."""
    different = isinstance(one, int) and isinstance(other, int) and one != other
    require(not different, " of sizes that do not go together, {} and {}", one, other)
    return one if isinstance(one, int) or one == other else other if isinstance(other, int) else None


def _equal(one: Size, other: Size) -> None:
    """Raises FormError unless both sizes are known and equal; used if one of them is that of a weight."""
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


_ARITHMETIC: dict[str, Callable[..., Size]] = {
    "Add": _whole(operator.add),
    "Sub": _whole(operator.sub),
    "Mul": _whole(operator.mul),
    "Div": _whole(lambda one, other: one // other if one >= 0 and other > 0 else -2),
    "Equal": _same_size,
    "Where": _chosen,
}
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
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "LSTM": _lstm,
    "LayerNormalization": _norm,
    "MatMul": _matmul,
    "MatMulIntegerToFloat": _integer_product,
    "NonZero": _non_zero,
    "Pad": _pad,
    "Range": _range,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
