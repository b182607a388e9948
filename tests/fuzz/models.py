"""Model files: damage, hostile graphs, bytes that no writer produces, races, and metadata."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tests import onnx_bytes as ob
from tests.fuzz.common import DOCUMENTED, Rng, Target, damaged, finite, model
from tests.helpers import DATA
from vocos_onnx.model.onnx_bytes import ByteRange, fields_of

ENDS = (*DOCUMENTED, RuntimeError, MemoryError)


def onnx(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncodecONNX, VocosONNX

    names = ["encodec", "mel", "imdct-cos", "encoder", "encoder-spectrum", "mel-int8", "mel-istft", "imdct-cos-istft"]
    name = names[rng.integers(len(names))]
    path = folder / "m.onnx"
    data = ((DATA / "format-4" if rng.random() < 0.3 else DATA) / f"{name}.onnx").read_bytes()
    if rng.random() < 0.7:  # damage that keeps the lengths intact gets past the parser
        # damage the graph at the start or the metadata at the end, rather than the weights
        start, end = int(rng.choice([0, 0, len(data) - 3000])), len(data)
        end = min(end, start + 30_000)
        data = data[:start] + damaged(rng, data[start:end], same_size=True) + data[end:]
    else:
        data = damaged(rng, data)
    path.write_bytes(data)
    if name.startswith("encoder"):
        encoder = EncodecONNX(path, threads=1)
        codes = encoder.encode(np.linspace(-1, 1, 1000), encoder.sample_rate, encoder.bandwidths[0])
        assert codes.dtype == np.int64
        return
    vocos = VocosONNX(path, threads=1)
    given = rng.integers(1024, size=(2, 5)) if vocos.config.encodec else rng.uniform(-8, 2, (8, 5)).astype(np.float32)
    finite(vocos.decode(given))


FOREIGN = DATA / "foreign"
# message -> its fields that are messages; (message, field) -> its kind
_INSIDE = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
}
_KINDS = {
    ("node", 1): "name", ("attribute", 3): "attribute", ("attribute", 8): "attribute",
    ("tensor", 1): "size", ("tensor", 2): "size",
}  # fmt: skip
Places = dict[str, list[ByteRange]]


def _places(data: bytes, place: ByteRange, message: str, found: Places) -> Places:
    """The positions of names, attributes, weight sizes and short constants."""
    for number, _, content, end in fields_of(data, place):
        if number in _INSIDE.get(message, {}):
            _places(data, (content, end), _INSIDE[message][number], found)
        elif message == "tensor" and number == 9 and end - content <= 64:
            found.setdefault("constant", []).append((content, end))
        elif (message, number) in _KINDS:
            found.setdefault(_KINDS[message, number], []).append((content, end))
    return found


def _altered(rng: Rng, data: bytes) -> bytes:
    """A model of the same size with some numbers changed or values rewired to other operators."""
    out, found = bytearray(data), _places(data, (0, len(data)), "model", {})
    for _ in range(rng.integers(1, 4)):
        kind = ["attribute", "constant", "name", "size"][rng.choice(4, p=[0.4, 0.3, 0.25, 0.05])]
        start, end = found[kind][rng.integers(len(found[kind]))]
        if kind == "name":
            names = [data[a:b] for a, b in found["name"] if b - a == end - start]
            out[start:end] = names[rng.integers(len(names))]
        elif kind == "constant":
            at = start + 8 * int(rng.integers((end - start + 7) // 8))
            number = NUMBERS[rng.integers(len(NUMBERS))].to_bytes(8, "little", signed=True)
            out[at : min(at + 8, end)] = number[: end - at]
        else:
            at = int(rng.integers(start, end))
            out[at] = out[at] & 128 | [0, 1, 2, 3, 7, 16, 64, 127][rng.integers(8)]
    return bytes(out)


def foreign(rng: Rng, folder: Path) -> None:
    """Damaged graphs of other exporters: whatever passes the check, onnxruntime can load and run."""
    from vocos_onnx.model.onnx_file import read_model
    from vocos_onnx.model.session import evaluate

    paths = sorted(path for path in FOREIGN.rglob("*.onnx") if path.parent.name != "refused")
    path, data = folder / "m.onnx", paths[rng.integers(len(paths))].read_bytes()
    data = _altered(rng, data) if rng.random() < 0.9 else damaged(rng, data)
    path.write_bytes(data)
    file = read_model(path)
    sizes = [(value, [size if isinstance(size, int) else 1 for size in value.shape]) for value in file.inputs]
    for value, shape in sizes:
        if len(shape) == 3 and not isinstance(value.shape[-1], int):
            shape[-1] = int(rng.choice([1, 2, 40]))
        if len(shape) == 3 and not isinstance(value.shape[1], int):
            shape[1] = int(rng.choice([1, 2, 40]))
    given = {value.name: rng.uniform(-2, 2, shape).astype(np.float32) for value, shape in sizes}
    try:
        for made in evaluate(path, [given]):
            assert list(made) == [value.name for value in file.outputs]
    except Exception as error:  # evaluate lets onnxruntime's errors through
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise RuntimeError(str(error)) from None


# Sizes, counts and axes: valid, invalid, too large for memory, and overflowing
NUMBERS = [0, 1, 2, 3, 5, 8, 16, -1, -2, -8, 7, 1 << 12, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
# operator -> the types of its inputs (f float32, i int64, b bool, u uint8, s int8, a any; optional ones in capitals)
# and of its outputs
UNARY = "Abs Cos Erf Exp Gelu Identity LeakyRelu Log Neg Reciprocal Sign Sin Sqrt"
BINARY = "Add Concat Div MatMul Max Min Mul Pow Sub Sum"
INTEGERS = "Add Concat Div Max Min Mod Mul Sub Sum"
COMPARISONS = "Equal Greater GreaterOrEqual Less LessOrEqual"
OPERATORS = {
    **dict.fromkeys(UNARY.split(), "f f"), **dict.fromkeys(BINARY.split(), "ff f"),
    **{f"{name} i": "ii i" for name in INTEGERS.split()}, **dict.fromkeys(COMPARISONS.split(), "ff b"),
    "Cast": "a f", "Cast i": "a i", "Clip": "fFF f", "Constant": " f", "ConstantOfShape": "i f",
    "Gather": "fi f", "Gather i": "ii i", "Reshape": "fi f", "Shape": "a i", "Slice": "fiiII f", "Squeeze": "fI f",
    "Squeeze i": "iI i", "Transpose": "f f", "Unsqueeze": "fi f", "Unsqueeze i": "ii i", "Where": "bff f",
    # these need weights of a matching form
    "BatchNormalization": "fffff f", "Conv": "ffF f", "Expand": "fi f", "LSTM": "fffFIFF fff", "Mod": "ii i",
    "Div i": "ii i", "LayerNormalization": "fFF f", "MatMulIntegerToFloat": "usffUSF f", "QuantizeLinear": "ffU u",
    "Range": "iii i", "ReduceSum": "fI f", "Split": "fI fff", "ConvTranspose": "ffF f",
    "Flatten": "f f", "NonZero": "f i", "Pad": "fiF f", "ReduceMean": "fI f", "ScatterND": "fif f", "Tile": "fi f",
    # these are in no model
    "And": "bb b", "DequantizeLinear": "ufU f", "Gemm": "ffF f", "Not": "b b",
}  # fmt: skip
NUMPY = {"f": np.float32, "i": np.int64, "b": np.bool_, "u": np.uint8, "s": np.int8}
SHAPES = [(), (1,), (8,), (16,), (8, 16), (8, 8), (16, 16), (1, 8, 5), (1, 5, 16), (8, 8, 1), (4, 8, 3), (0,), (2, 0)]
ATTRIBUTES: dict[str, dict[str, str]] = {
    "BatchNormalization": {"epsilon": "f", "momentum": "f", "training_mode": "i"},
    "Cast": {"to": "kind"},
    "Concat": {"axis": "i"},
    "Constant": {"value": "t", "value_int": "i", "value_ints": "n"},
    "ConstantOfShape": {"value": "t"},
    "Conv": {"auto_pad": "s", "dilations": "n", "group": "i", "kernel_shape": "n", "pads": "n", "strides": "n"},
    "ConvTranspose": {
        "auto_pad": "s", "dilations": "n", "group": "i", "kernel_shape": "n", "output_padding": "n",
        "output_shape": "n", "pads": "n", "strides": "n",
    },
    "Flatten": {"axis": "i"},
    "Gather": {"axis": "i"},
    "Gelu": {"approximate": "s"},
    "LSTM": {"hidden_size": "i"},
    "LayerNormalization": {"axis": "i", "epsilon": "f", "stash_type": "i"},
    "LeakyRelu": {"alpha": "f"},
    "Mod": {"fmod": "i"},
    "Pad": {"mode": "s"},
    "ReduceMean": {"axes": "n", "keepdims": "i", "noop_with_empty_axes": "i"},
    "ReduceSum": {"keepdims": "i", "noop_with_empty_axes": "i"},
    "Reshape": {"allowzero": "i"},
    "ScatterND": {"reduction": "s"},
    "Shape": {"start": "i", "end": "i"},
    "Split": {"axis": "i", "num_outputs": "i"},
    "Transpose": {"perm": "n"},
}  # fmt: skip
TEXTS = ["", "NOTSET", "SAME_UPPER", "VALID", "constant", "reflect", "edge", "wrap", "none", "tanh", "x" * 300]


def _constant(rng: Rng, kind: str) -> np.ndarray:
    """Integers, mostly plausible as shapes, axes or indices, or other values of mostly suitable shapes."""
    if kind == "i" and rng.random() < 0.9:
        few = NUMBERS[: 8 if rng.random() < 0.7 else len(NUMBERS)]
        return rng.choice(np.array(few, np.int64), [(), *[(n,) for n in range(5)]][rng.integers(6)])
    shape = SHAPES[rng.integers(len(SHAPES))]
    if rng.random() < 0.03:
        return np.zeros(shape, list(ob.KINDS)[rng.integers(len(ob.KINDS))])
    return np.asarray(rng.normal(size=shape) * 3).astype(NUMPY[kind])


def _attribute(rng: Rng, kind: str) -> Any:
    few = NUMBERS[: 8 if rng.random() < 0.8 else len(NUMBERS)]
    match kind:
        case "i":
            return few[rng.integers(len(few))]
        case "f":
            return float(rng.choice([0, 1e-6, -1, 1e30, np.nan]))
        case "n":
            order = rng.permutation(3) if rng.random() < 0.5 else rng.choice(np.array(few, np.int64), rng.integers(6))
            return order.tolist()
        case "s":
            return TEXTS[rng.integers(len(TEXTS))]
        case "t":
            return "t", _constant(rng, "f").reshape(-1)[:1]
    return int(rng.choice([1, 1, 1, 7, 7, 2, 3, 6, 9, 10, 11, 0, 8, 16, 17, 22, 99]))


def _formed(rng: Rng, operator: str) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    """Weights (by input index) and attributes that fit each other, but not necessarily the operator's other input."""

    def floats(*shape: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape)).astype(np.float32)

    n, m, k = (int(rng.choice([1, 2, 5, 8, 16])) for _ in range(3))
    axis = int(rng.integers(-4, 5))
    match operator:
        case "BatchNormalization":
            return dict(enumerate([floats(n) for _ in range(4)], 1)), {}
        case "Conv":
            rank, group = int(rng.integers(1, 3)), int(rng.choice([1, 2, n]))
            kernel = [k] if rank == 1 else [1, k]
            many = {name: rng.integers(1, 9, rank).tolist() for name in ("strides", "dilations")}
            pads = rng.choice([0, 1, 3, 1 << 20], 2 * rank).tolist()
            return {1: floats(n * group, m, *kernel), 2: floats(n * group)}, {"group": group, "pads": pads, **many}
        case "ConvTranspose":
            group, stride = int(rng.choice([1, 2, n])), int(rng.integers(1, k + 1))
            pads = rng.integers(0, k, 2).tolist()
            return {1: floats(m * group, n, k), 2: floats(n * group)}, {
                "group": group, "pads": pads, "strides": [stride],
            }  # fmt: skip
        case "ScatterND":
            places = rng.integers(-2, 4, (m, int(rng.integers(1, 4))))
            return {1: places, **({2: floats(m, n)} if rng.random() < 0.5 else {})}, {}
        case "Pad":
            return {1: rng.choice([0, 0, 1, 3, 4096], 2 * int(rng.choice([1, 2, 3, 3])))}, {}
        case "Tile":
            return {1: rng.choice([1, 1, 2, 16, 4096], int(rng.choice([1, 2, 3, 3])))}, {}
        case "ReduceMean":
            return ({1: np.array([axis])}, {}) if rng.random() < 0.5 else ({}, {"axes": [axis]})
        case "Div" | "Mod":
            return {1: rng.integers(1, 9, [(), (1,), (n,)][rng.integers(3)])}, {}
        case "Expand":
            return {0: floats(*[1] * int(rng.integers(5)))}, {}
        case "LSTM":
            weights = {1: floats(1, 4 * n, m), 2: floats(1, 4 * n, n), 3: floats(1, 8 * n)}
            return weights, {"hidden_size": n}
        case "LayerNormalization":
            return {1: floats(n), 2: floats(n)}, {"axis": -1, "epsilon": 1e-6}
        case "MatMulIntegerToFloat":
            b, zeros = rng.integers(-64, 64, (n, m)).astype(np.int8), np.zeros(m, np.int8)
            return {1: b, 2: floats(), 3: floats(m), 4: np.array(7, np.uint8), 5: zeros, 6: floats(m)}, {}
        case "QuantizeLinear":
            return {1: floats(), 2: np.array(7, np.uint8)}, {}
        case "Range":
            return {0: np.array(0), 2: np.array(1)}, {}
        case "ReduceSum":
            return {1: np.array([axis])}, {"keepdims": int(rng.integers(2))}
        case "Split":
            return {}, {"num_outputs": 3, "axis": axis}
        case "Cast":
            return {}, {"to": int(rng.choice([1, 1, 1, 10, 6, 7, 9]))}
        case "Concat" | "Gather":
            return {}, {"axis": axis}
        case "Transpose":
            return {}, {"perm": rng.permutation(int(rng.choice([2, 3, 3, 3, 4]))).tolist()}
    return {}, {}


def _nodes(rng: Rng, values: list[tuple[str, str]], prefix: str) -> tuple[list[bytes], list[bytes]]:
    nodes, tensors = [], []
    form = rng.choice([0.2, 0.9])
    for i in range(rng.integers(1, 6)):
        key = list(OPERATORS)[rng.integers(len(OPERATORS) - (4 if rng.random() < 0.9 else 0))]
        operator, (takes, makes) = key.split()[0], OPERATORS[key].split(" ")
        formed = rng.random() < form
        weights, attributes = _formed(rng, operator) if formed and key not in ("Div", "Shape") else ({}, {})
        inputs = []
        for j, kind in enumerate(takes * int(operator != "Concat" or rng.integers(1, 9))):
            kind = "fibus"[rng.integers(5)] if kind == "a" or rng.random() < 0.01 else kind
            known = [name for name, of in values if of == kind.lower()]
            if j in weights:
                inputs.append(f"{prefix}c{i}.{j}")
                tensors.append(ob.tensor(inputs[-1], weights[j]))
            elif (kind == "I" and operator in ("LSTM", "ReduceMean", "Split") and formed) or (
                kind.isupper() and rng.random() < 0.4
            ):
                inputs.append("")
            elif known and rng.random() < 0.6:
                inputs.append(known[rng.integers(len(known))])
            else:
                inputs.append(f"{prefix}c{i}.{j}")
                tensors.append(ob.tensor(inputs[-1], _constant(rng, kind.lower())))
        while inputs and not inputs[-1]:
            inputs.pop()
        if not formed or rng.random() < 0.1:
            few = ATTRIBUTES.get(operator, {})
            attributes |= {name: _attribute(rng, kind) for name, kind in few.items() if rng.random() < 0.5}
        if operator == "Constant" and formed:
            attributes = {"value": ("t", _constant(rng, "f"))}
        outputs = [f"{prefix}v{i}.{j}" for j in range(len(makes))]
        domain = "com.microsoft" if operator == "MatMulIntegerToFloat" else ""
        nodes.append(ob.node(operator, inputs, outputs, domain, **attributes))
        if operator == "Cast":
            makes = {1: "f", 7: "i", 9: "b"}.get(attributes.get("to", 0), "?")
        values.extend(zip(outputs, makes, strict=True))
    return nodes, tensors


def graphs(rng: Rng, folder: Path) -> None:
    """Well-formed files of known operators in mostly meaningless combinations."""
    from vocos_onnx import VocosONNX

    values = [("features", "f"), ("weight", "f"), ("turned", "f")]
    nodes, tensors = _nodes(rng, values, "")
    if rng.random() < 0.2:
        branches = []
        for name in ("then", "else"):
            inner = list(values)
            body, constants = _nodes(rng, inner, name)
            result = next(known for known, kind in reversed(inner) if kind == "f")
            body.append(ob.node("Identity", [result], [f"{name}.result"]))
            branches.append(ob.graph(body, constants, [], [ob.value(f"{name}.result", None)]))
        tensors.append(ob.tensor("condition", np.array(rng.random() < 0.5)))
        nodes.append(ob.node("If", ["condition"], ["if"], then_branch=branches[0], else_branch=branches[1]))
        values.append(("if", "f"))
    last, kind = values[-1] if rng.random() < 0.8 else values[rng.integers(len(values))]
    joined = [ob.node("Cast", [last], ["cast"], to=1)] if kind != "f" else [ob.node("Identity", [last], ["cast"])]
    if rng.random() < 0.5:
        tensors += [ob.tensor("row", np.array([-1])), ob.tensor("first", np.array(0))]
        joined.append(ob.node("Reshape", ["cast", "row"], ["flat"]))
        joined.append(ob.node("Gather", ["flat", "first"], ["all"]))
    else:
        joined.append(ob.node("Min", ["cast", "cast"], ["all"]))
    joined += [ob.node("Sub", ["all", "all"], ["zero"]), ob.node("Add", ["product", "zero"], ["spectrum"])]
    turned = ob.node("Transpose", ["features"], ["turned"], perm=[0, 2, 1])
    product = ob.node("MatMul", ["turned", "weight"], ["product"])
    path = folder / "m.onnx"
    opset = int(rng.choice([13, 15, 17, 18, 20, 26])) if rng.random() < 0.5 else 20
    opsets = [("", opset), ("com.microsoft", 1)]
    path.write_bytes(ob.tiny([turned, *nodes], tensors, [product, *joined], opsets=opsets))
    _decode(VocosONNX, path)


def _decode(opened: Any, path: Path) -> None:
    vocos = opened(path, threads=1)
    audio = vocos.decode(np.ones((8, 5), np.float32))
    finite(audio)
    assert audio.shape == (64,)


ELSEWHERE = ob.field(13, ob.field(1, "location"), ob.field(2, "secret")) + ob.field(14, 1)


def _overlong(rng: Rng, number: int, wire: int) -> bytes:
    """A tag that only some readers accept: with bits above 32, or with redundant bytes."""
    tag = ob.varint(number << 3 | wire | int(rng.choice([0, 1 << 32, 3 << 32, 1 << 34, 1 << 35, 1 << 60])))
    for _ in range(rng.choice([0, 0, 1, 3, 6])):
        tag = tag[:-1] + bytes([tag[-1] | 128, 0])
    return tag


def hidden(rng: Rng, folder: Path) -> None:
    """Tensors with data in another file, placed where only some readers see them, are never loaded."""
    from vocos_onnx import VocosONNX

    evil = ob.field(1, 8) + ob.field(1, 16) + ob.field(2, 1) + ob.field(8, "weight")
    evil += ELSEWHERE if rng.random() < 0.5 else ob.field(14, int(rng.choice([1, 2, 1 << 32 | 1, 1 << 63])))
    (folder / "secret").write_bytes(np.full(128, 0.125, np.float32).tobytes())
    good = [ob.field(1, part) for part in ob.NETWORK] + [ob.field(11, ob.FEATURES), ob.field(12, ob.SPECTRUM)]
    constant = ob.node("Constant", [], ["weight"]) + ob.field(5, _constant_of(evil))
    number, content = [(5, evil), (1, constant)][rng.integers(2)]
    way = rng.integers(5)
    inner = b"".join(good) + (_overlong(rng, number, 2) if way == 0 else ob.varint(number << 3 | 2))
    inner += ob.varint(len(content)) + content
    outer, size = _overlong(rng, 7, 2) if way < 2 else ob.varint(7 << 3 | 2), ob.varint(len(inner))
    if way == 2:
        size = size[:-1] + bytes([size[-1] | 128]) + b"\x80" * int(rng.integers(0, 8)) + b"\x00"
    pieces = [ob.field(1, 10) + ob.field(8, ob.field(1, ""), ob.field(2, 20)), outer + size + inner]
    pieces.append(ob.field(14, ob.field(1, "vocos_onnx"), ob.field(2, json.dumps(ob.CONFIG))))
    if way == 3:  # in a second graph, which readers merge with the first
        pieces[1:2] = [ob.field(7, *good), ob.field(7, ob.field(number, content))]
    if way == 4:
        pieces.append([ob.varint(3), ob.varint(7 << 3 | 4), ob.varint(7 << 3 | 7), b"\x00\x00"][rng.integers(4)])
    rng.shuffle(pieces)
    path = folder / "m.onnx"
    path.write_bytes(b"".join(pieces))
    try:
        VocosONNX(path, threads=1)
    except ValueError:
        return
    raise AssertionError("it was loaded")


def _constant_of(tensor: bytes) -> bytes:
    return ob.field(1, "value") + ob.field(5, tensor) + ob.field(20, 4)


def tables(rng: Rng, folder: Path) -> None:
    """Valid and invalid tables of codebooks: a model that opens uses the table that matches the fingerprint."""
    from vocos_onnx import VocosONNX
    from vocos_onnx.dsp.quantizer import fingerprints

    kinds = ["float32"] * 8 + ["float16", "int8", "int64", "float64"]
    shape = [(2, 16, 8)] * 6 + [(1, 16, 8), (2, 16, 9), (2, 128), (0, 16, 8), (256,), ()]
    array = np.asarray(rng.normal(size=shape[rng.integers(len(shape))])).astype(kinds[rng.integers(len(kinds))])
    table = ob.tensor("codebooks", array)
    if rng.random() < 0.3:
        table = table.replace(ob.field(9, array.tobytes()), ob.field(4, array.tobytes()))
    if rng.random() < 0.2:
        table = damaged(rng, table, same_size=True)
    parts = [ob.field(1, part) for part in ob.NETWORK]
    parts += [ob.field(5, ob.WEIGHT), ob.field(11, ob.FEATURES), ob.field(12, ob.SPECTRUM), ob.field(5, table)]
    more = [
        ob.field(12, ob.value("codebooks", array.shape)),
        ob.field(12, ob.value("codebooks", None)),
        ob.field(13, ob.value("codebooks", array.shape)),
        ob.field(11, ob.value("codebooks", array.shape)),
        ob.field(1, ob.node("Abs", ["codebooks"], ["x"])),
        ob.field(1, ob.node("Identity", ["weight"], ["codebooks"])),
        ob.field(5, ob.tensor("codebooks", array)),
    ]
    for extra in more:
        if rng.random() < 0.2:
            parts.insert(int(rng.integers(len(parts))), extra)
    codec: dict[str, Any] = {"codec": "x", "num_codebooks": 2, "codebook_size": 16, "bandwidths": [1.0]}
    codec |= {"codebooks_per_bandwidth": [2], "codebooks_sha256": "0" * 64}
    if array.ndim == 3 and len(array):
        codec["codebooks_sha256"] = fingerprints(array.astype(np.float32))[-1]
    path = folder / "m.onnx"
    path.write_bytes(ob.model(b"".join(parts), json.dumps({**ob.CONFIG, "mel": None, "encodec": codec})))
    vocos = VocosONNX(path, threads=1)
    codes = rng.integers(16, size=(2, 5))
    expected = array[0][codes[0]] + array[1][codes[1]]
    assert np.array_equal(vocos.codes_to_features(codes)[0], expected.T)
    finite(vocos.decode(codes))


def races(rng: Rng, folder: Path) -> None:
    """If the file is cut, overwritten or replaced during a read, the read gives one complete version or an error."""
    from vocos_onnx import VocosONNX
    from vocos_onnx.model.onnx_file import PinnedFile

    path, good = folder / "m.onnx", ob.tiny()
    other = (DATA / "mel.onnx").read_bytes()
    path.write_bytes(good)
    end = threading.Event()
    ways = rng.integers(4, size=200)

    def change() -> None:
        for way in ways:
            if end.is_set():
                return
            match way:
                case 0:
                    os.truncate(path, int(rng.integers(len(good))))
                case 1:
                    path.write_bytes(good)
                case 2:
                    (folder / "new").write_bytes(other if rng.random() < 0.5 else good)
                    (folder / "new").replace(path)
                case 3:
                    with path.open("r+b") as file:
                        file.seek(int(rng.integers(len(good))))
                        file.write(rng.bytes(20))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        import hashlib

        pinned = PinnedFile(path, hashlib.sha256(good).hexdigest(), "copy it again")
        for _ in range(3):
            try:
                _decode(VocosONNX, pinned)  # type: ignore[arg-type]
            except ValueError as error:
                assert "m.onnx" in str(error), error
            try:
                finite(VocosONNX(path, threads=1).decode(np.ones((8, 5), np.float32)))
            except (*ENDS, OSError):
                pass
    finally:
        end.set()
        thread.join()


def metadata(rng: Rng, folder: Path) -> None:
    from vocos_onnx import EncodecONNX, EncoderConfig, ModelConfig, VocosONNX

    which = rng.integers(4)
    if which < 3:
        tree = json.loads(model(["encodec", "mel", "mel-int8"][which]).config.to_json())
    else:
        tree = json.loads(EncodecONNX(DATA / "encoder.onnx", threads=1).config.to_json())
    values: list[Any] = [None, 0, -1, 2**63, 1.5, 1e999, "", "same", [], [1], {}, {"a": 1}, True, "x" * 1000, [[[]]]]
    values += [
        10**400,
        -(10**400),
        float("nan"),
        1e308,
        "\ud800",
        "a\nb",
        "x" * 100_000,
        [1.5] * 100_000,
        ["\0"],
        2**31,
    ]
    for _ in range(rng.integers(1, 4)):
        place = tree
        while True:
            key = list(place)[rng.integers(len(place))]
            if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.3:
                break
            place = place[key]
        match rng.integers(3):
            case 0:
                del place[key]
                if not place:
                    break
            case 1:
                place[key] = values[rng.integers(len(values))]
            case 2:
                place["new"] = 1
    text = json.dumps(tree)
    match rng.integers(8):
        case 0 | 1:
            text = damaged(rng, text.encode()).decode("latin1")
        case 2:
            text = ["[", '{"a":', "1", "-", '"', "[1," * 2][rng.integers(6)] * int(rng.choice([10, 100_000]))
        case 3:  # a duplicate name
            text = text[:-1] + ', "source": 1}'
    try:
        if rng.random() < 0.5:
            (EncoderConfig if which == 3 else ModelConfig).from_json(text)
        else:
            path = folder / "m.onnx"
            path.write_bytes(ob.tiny(metadata=text.encode("utf-8", "replace").decode()))
            VocosONNX(path, threads=1).decode(np.ones((8, 5), np.float32))
    except ValueError as error:
        assert len(str(error)) < 3000, f"a message of {len(str(error))} characters"
        assert type(error) is ValueError, type(error)
        raise


TARGETS = {
    "damaged .onnx files": Target(onnx, 2, ENDS),
    "hostile graphs": Target(graphs, 2, ENDS, seconds=20, memory=2 << 30),
    "graphs of other exporters": Target(foreign, 2, ENDS, seconds=20, memory=2 << 30),
    "hidden weights": Target(hidden, 1, seconds=10, memory=1 << 30),
    "tables of codebooks": Target(tables, 1, ENDS, seconds=10, memory=1 << 30),
    "races of model files": Target(races, 0.1, seconds=20, memory=2 << 30),
    "metadata": Target(metadata, 2, (ValueError,), seconds=5, memory=1 << 30),
}
