"""Which model files pass the check before onnxruntime sees them; the bytes that are checked are those loaded."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_bytes as ob
from tests.helpers import DATA
from tests.onnx_bytes import field, node, tensor, tiny, value, varint
from vocos_onnx import EncodecONNX, EncoderConfig, ModelConfig, VocosONNX
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.messages import first_line, listed, shown
from vocos_onnx.model.config import METADATA_KEY
from vocos_onnx.model.onnx_file import MAX_NODES, MAX_SIZE, STEP, WHOLE, read_model
from vocos_onnx.model.origin import Wanted
from vocos_onnx.pretrained import opened

FEATURES = np.ones((8, 5), np.float32)
ELSEWHERE = field(13, field(1, "location"), field(2, "../../secret"))
DAMAGED = "truncated, damaged or not an ONNX model"
FOREIGN = "no model that this version reads has; convert the checkpoint with: vocos-onnx convert"
INSIDE = ob.graph([*ob.NETWORK], [ob.WEIGHT], [ob.FEATURES], [ob.SPECTRUM])
HEAD = field(1, 10) + field(8, field(1, ""), field(2, 20))
TAIL = field(14, field(1, "vocos_onnx"), field(2, json.dumps(ob.CONFIG)))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return path

    return write


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def test_the_tiny_model_is_one(write: Any) -> None:
    """The model that the tests below damage decodes when intact."""
    assert VocosONNX(write(tiny())).decode(FEATURES).shape == (64,)
    assert VocosONNX(write(HEAD + field(7, INSIDE) + TAIL)).decode(FEATURES).shape == (64,)


# Protocol Buffers


@pytest.mark.parametrize(
    "spoiled",
    [
        varint(7 << 3 | 2 | 1 << 32) + sized(INSIDE),  # a tag with a bit that readers ignore
        varint(7 << 3 | 2 | 1 << 60) + sized(INSIDE),
        bytes([7 << 3 | 2 | 128, 0]) + sized(INSIDE),  # a tag with a redundant byte
        bytes([7 << 3 | 2 | 128, 128, 128, 128, 128, 0]) + sized(INSIDE),
        field(7, INSIDE) + b"\x00\x00",  # field 0
        field(7, INSIDE) + varint(30 << 3 | 3) + varint(30 << 3 | 4),  # a group
        field(7, INSIDE) + varint(30 << 3 | 6) + b"\0\0",
        field(7, INSIDE) + varint(30 << 3 | 7) + b"\0\0",
        field(7, INSIDE) + field(99, b"new"),
        varint(7 << 3 | 2) + varint(len(INSIDE))[:-1] + bytes([varint(len(INSIDE))[-1] | 128, 0]) + INSIDE,
        varint(7 << 3 | 2) + varint(len(INSIDE) + 1) + INSIDE,
        varint(7 << 3 | 2) + varint(1 << 63) + INSIDE,
        varint(7 << 3) + varint(5),  # a graph that is a number
        varint(7 << 3 | 1) + bytes(8) + field(7, INSIDE),
        b"\xff" * 11,
        b"",  # no graph
        field(7, ob.graph(ob.NETWORK[:1])) + field(7, INSIDE),  # one graph in two fields
        field(7, INSIDE) * 2,
        field(7, INSIDE) + field(1, 9),  # ir_version twice
        field(7, INSIDE) + field(8, field(1, ""), field(2, 19)),
        field(7, INSIDE) + TAIL,  # metadata twice
        field(7, INSIDE + field(5, b"\xff")),
        field(7, INSIDE + field(2, "\udcff".encode("utf-8", "surrogatepass"))),
    ],
)
def test_bytes_that_no_writer_makes(write: Any, spoiled: Any) -> None:
    with pytest.raises(ValueError, match=rf"model\.onnx .*{DAMAGED} \(.+\); copy or export it again"):
        VocosONNX(write(HEAD + spoiled + TAIL))


W = np.ones((8, 16), np.float32)
INITIALIZER = tensor("w", W)


@pytest.mark.parametrize(
    "of",
    [
        tensor("w", W, dims=[8, 17]),  # less data than the shape says
        tensor("w", W, dims=[-8, -16]),
        tensor("w", W, dims=[1 << 32, 1 << 32, 0]),
        tensor("w", W, dims=[1 << 63]),
        tensor("w", W, dims=[128] + [1] * 8),
        tensor("w", W, kind=7),
        INITIALIZER + field(9, W.tobytes()),  # data twice
        INITIALIZER + field(2, 1),
        INITIALIZER + field(4, W.tobytes()),  # data in two fields
        INITIALIZER + field(14, 0) + field(14, 0),
        field(1, 3) + field(2, 7) + field(7, b"\x01\x02") + field(8, "w"),
        field(1, 1) + field(2, 7) + field(7, b"\x01\x82") + field(8, "w"),
    ],
)
def test_tensors_that_are_none(write: Any, of: Any) -> None:
    with pytest.raises(ValueError, match=rf"{DAMAGED} \(.+\)"):
        VocosONNX(write(tiny([], [of])))


@pytest.mark.parametrize("kind", [0, 4, 8, 14, 16, 17, 20, 21, 22, 23, 99, 1 << 32 | 1])
def test_types_of_tensors(write: Any, kind: Any) -> None:
    """Strings, complex numbers, bfloat16, float8, int4 ..."""
    with pytest.raises(ValueError, match=rf"has the tensor 'w' of type {kind}, which {FOREIGN}"):
        VocosONNX(write(tiny([], [tensor("w", W, kind=kind)])))
    inputs = [ob.FEATURES, value("x", [1], kind)]
    with pytest.raises(ValueError, match=rf"has the value 'x' of type {kind}, which {FOREIGN}"):
        VocosONNX(write(ob.model(ob.graph(ob.NETWORK, [ob.WEIGHT], inputs, [ob.SPECTRUM]))))


# Data in other files


@pytest.mark.parametrize(
    "inside",
    [
        field(5, ELSEWHERE),
        field(5, INITIALIZER + field(14, 1)),
        field(5, INITIALIZER + field(14, 1 << 32 | 1)),  # readers take only the low 32 bits
        field(5, INITIALIZER + field(14, 1 << 63)),
        field(1, node("Constant", [], ["x"]) + field(5, field(1, "value") + field(5, ELSEWHERE) + field(20, 4))),
        field(1, field(5, field(10, ELSEWHERE))),
        field(1, field(5, field(6, field(5, ELSEWHERE)))),
        field(1, field(5, field(6, field(1, field(5, field(5, ELSEWHERE)))))),
        field(1, field(5, field(11, field(5, ELSEWHERE)))),
    ],
)
def test_weights_in_other_files(write: Any, inside: Any) -> None:
    message = r"model\.onnx takes its weights from other files, which .* must not"
    with pytest.raises(ValueError, match=message):
        VocosONNX(write(HEAD + field(7, INSIDE + inside) + TAIL))
    with pytest.raises(ValueError, match=message):
        VocosONNX(write(tiny() + field(7, inside)))  # in a second graph, which readers merge with the first


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        (field(20, field(1, field(5, ELSEWHERE))), "field 20 in the model"),  # training
        (field(26, b""), "field 26 in the model"),
        (field(14, field(1, "ort_config"), field(2, "{}")), "options for onnxruntime"),
        (field(25, field(1, "f") + field(7, node("Add", ["a", "b"], ["c"]))), "functions of its own"),
        (field(8, field(1, "ai.onnx.ml"), field(2, 1)), "operators of the domain 'ai.onnx.ml'"),
    ],
)
def test_parts_of_a_model_that_ours_lack(write: Any, extra: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"has {what}.*, which {FOREIGN}"):
        VocosONNX(write(tiny() + extra))


def test_sparse_tensors(write: Any) -> None:
    with pytest.raises(ValueError, match=f"has field 15 in a graph, which {FOREIGN}"):
        VocosONNX(write(HEAD + field(7, INSIDE + field(15, b"")) + TAIL))


def test_the_format_of_onnxruntime(write: Any) -> None:
    """onnxruntime takes a file for one in its own format by bytes 4 to 7 alone."""
    data = field(2, "abORTM") + tiny()
    assert data[4:8] == b"ORTM"
    with pytest.raises(ValueError, match=r"in the format of onnxruntime \(\.ort\), not an ONNX model"):
        VocosONNX(write(data))


# Operators


@pytest.mark.parametrize(
    "operator",
    [
        "Loop", "Scan", "SequenceConstruct", "Optional", "STFT", "RandomNormal", "", "x" * 4000,
        ("com.microsoft", "EPContext"), ("com.microsoft", "Attention"), ("ai.onnx.ml", "TreeEnsemble"),
        ("mine", "Add"), ("com.microsoft.nchwc", "Conv"),
    ],
)  # fmt: skip
def test_unknown_operators(write: Any, operator: Any) -> None:
    domain, name = operator if isinstance(operator, tuple) else ("", operator)
    with pytest.raises(ValueError, match=f"has the operator '.*', which {FOREIGN}") as caught:
        VocosONNX(write(tiny([node(name, ["features"], ["x"], domain)])))
    assert name in str(caught.value) or len(name) > 100
    assert len(str(caught.value)) < 600


def branch(*nodes: bytes, name: str = "y") -> bytes:
    return ob.graph([node("Identity", ["features"], [name]), *nodes], [], [], [value(name, None)])


I0, F0 = tensor("i", np.zeros(3, np.int64)), tensor("f", np.zeros((4, 4), np.float32))
N = tensor("n", np.array([-1, 0, 1]))
LSTM = ["features", "f", "f", "f", "", "f", "f"]


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([node("Div", ["i", "i"], ["x"])], "Div' by what may be zero"),
        ([node("Mod", ["i", "n"], ["x"])], "Mod' by what may be zero"),
        ([node("Shape", ["features"], ["s"]), node("Div", ["i", "s"], ["x"])], "Div' whose input 1 is no constant"),
        ([node("LayerNormalization", ["features", "f", "f"], ["x"])], "LayerNormalization' whose scale and bias"),
        ([node("LayerNormalization", ["features", "i", "i"], ["x"])], "LayerNormalization' whose scale and bias"),
        ([node("LayerNormalization", ["features", "e", "e"], ["x"])], "LayerNormalization' whose scale and bias"),
        ([node("LayerNormalization", ["features", "v", "v"], ["x"], axis=8)], "over other axes"),
        ([node("LayerNormalization", ["features", "v", "v"], ["x"], epsilon=float("nan"))], "with an epsilon of nan"),
        ([node("Split", ["features"], ["x", "y", "z"], num_outputs=2)], "Split' into 3 outputs"),
        ([node("Split", ["features", "i"], ["x", "y"])], "Split' of other sizes"),
        ([node("Conv", ["features", "f"], ["x"])], "Conv' with a kernel of shape"),
        ([node("Conv", ["features", "k"], ["x"], group=0)], "Conv' in 0 groups"),
        ([node("Conv", ["features", "k"], ["x"], group=-(2**63))], "Conv' in -9223372036854775808 groups"),
        ([node("Conv", ["features", "k"], ["x"], pads=[1 << 62, 0])], "Conv' with pads of"),
        ([node("Conv", ["features", "k"], ["x"], strides=[0])], "Conv' with strides of"),
        ([node("Conv", ["features", "k"], ["x"], kernel_shape=3)], "Conv' of another kernel than its weight"),
        ([node("Split", ["features", "none"], [])], "Split' into 0 outputs"),
        ([node("Conv", ["features", "features"], ["x"])], "Conv' whose input 1 is no constant"),
        ([node("LSTM", [*LSTM], ["x", "y", "z"], hidden_size=4)], "weights do not fit"),
        ([node("LSTM", [*LSTM], ["x", "y", "z"], hidden_size=-1)], "LSTM' of size -1"),
        ([node("MatMulIntegerToFloat", ["u", *"ffffff"], ["x"], "com.microsoft")], "weights do not fit"),
        ([node("Expand", ["features", "i"], ["x"])], "Expand' whose input 0 is no constant"),
        ([node("Expand", ["f", "i"], ["x"])], "Expand' of more than one value"),
        ([node("Range", ["s0", "s0", "s0"], ["x"])], "Range' with another step than 1"),
        ([node("Cast", ["features"], ["x"], to=8)], "Cast' to the type 8"),
        ([node("Reshape", ["features", "i"], ["x"], mode=1)], "Reshape' with the attribute 'mode'"),
        ([node("Add", ["features"], ["x"])], "Add' with 1 inputs"),
        ([node("Abs", ["features"], ["x", "y"])], "Abs' with 2 outputs"),
        ([node("Constant", [], ["x"], value=3)], "Constant' without a tensor"),
        ([node("Constant", [], ["x"])], "Constant' without a tensor"),
        ([node("Add", ["y", "y"], ["x"]), node("Add", ["x", "x"], ["y"])], "Add' before what goes into it"),  # a cycle
        ([node("Abs", ["features"], ["x"], graph=ob.graph([]))], "a graph in the attribute 'graph'"),
        ([node("If", ["b"], ["x"], then_branch=branch())], "an operator If with other branches"),
        ([node("Identity", ["features"], [f"x{i}"]) for i in range(MAX_NODES)], f"more than {MAX_NODES} operators"),
    ],
)  # fmt: skip
def test_operators_in_forms_that_crash(write: Any, nodes: Any, what: str) -> None:
    tensors = [
        I0, F0, N, tensor("b", np.array(True)), tensor("s0", np.array(0)), tensor("e", np.zeros(0, np.float32)),
        tensor("v", np.ones(5, np.float32)), tensor("k", np.ones((4, 8, 3), np.float32)),
        tensor("u", np.zeros((1, 4), np.uint8)), tensor("none", np.zeros(0, np.int64)),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=rf"model\.onnx has .*{what}.*, which {FOREIGN}"):
        VocosONNX(write(tiny(nodes, tensors)))


# computes s, a shape whose length is known only at run time
HIDDEN = [
    node("Shape", ["features"], ["batch"], end=1),
    node("Sub", ["batch", "batch"], ["nothing"]),
    node("Add", ["nothing", "three"], ["length"]),
    node("Slice", ["sizes", "zero", "length"], ["s"]),
]


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([node("Squeeze", ["features"], ["x"])], "Squeeze' without axes"),
        ([node("Squeeze", ["features", "batch"], ["x"])], "Squeeze' whose axes are no constants"),
        ([node("Squeeze", ["features", "one"], ["x"])], "Squeeze' of sizes that do not go together"),
        ([node("Squeeze", ["features", "three"], ["x"])], "Squeeze' along the axis 3 of 3 dimensions"),
        ([node("Unsqueeze", ["features", "batch"], ["x"])], "Unsqueeze' whose axes are no constants"),
        ([node("Unsqueeze", ["features", "twice"], ["x"])], "Unsqueeze' of one axis twice"),
        ([node("Reshape", ["features", "s"], ["x"])], "Reshape' to a shape of unknown length"),
        ([node("Reshape", ["features", "zero0"], ["x"])], "Reshape' to a shape of unknown length"),
        ([node("Reshape", ["features", "minus"], ["x"])], r"Reshape' to the shape \(-1, -1\)"),
        ([node("Reshape", ["weight", "three"], ["x"])], r"Reshape' of 128 to \(3,\)"),
        ([node("Expand", ["f", "s"], ["x"])], "Expand' to a shape that is computed"),
        ([node("Expand", ["f", "minus"], ["x"])], r"Expand' to the shape \(-1, -1\)"),
        ([node("Expand", ["f", "large"], ["x"])], "Expand' to the shape .* of more than 1048576 values"),
        ([node("ConstantOfShape", ["s"], ["x"])], "ConstantOfShape' to a shape that is computed"),
        ([node("ConstantOfShape", ["large"], ["x"])], "ConstantOfShape' to the shape .* of more than"),
        ([node("Conv", ["features", "k4"], ["x"])], "Conv' of the rank 3 with a kernel of 4"),
        ([node("Conv", ["features", "k3"], ["x"])], "Conv' of sizes that do not go together, 8 and 16"),
        ([node("Conv", ["features", "k8"], ["x"], pads=[3, 0])], r"Conv' with pads of \[3, 0\], beyond its kernel"),
        ([node("Concat", ["features", "f"], ["x"], axis=0)], r"Concat' of the ranks \[0, 3\]"),
        ([node("Concat", ["features", "features"], ["x"], axis=3)], "Concat' along the axis 3 of 3 dimensions"),
        ([node("Concat", ["features", "features"], ["x"])], "Concat' along the axis None"),
        ([node("Gather", ["features", "zero"], ["x"], axis=3)], "Gather' along the axis 3"),
        ([node("Gather", ["f", "zero"], ["x"])], "Gather' along the axis 0 of 0"),
        ([node("Gather", ["weight", "large"], ["x"])], "Gather' of .* in 8"),
        ([node("MatMul", ["features", "f"], ["x"])], "MatMul' of the ranks 3 and 0"),
        ([node("MatMul", ["weight", "weight"], ["x"])], "MatMul' of sizes that do not go together, 16 and 8"),
        ([node("MatMul", ["weight", "turned_weight"], ["x"])], "MatMul' of weights alone"),
        ([node("LSTM", ["weight", *"wrb", "", *"hh"], ["x", "y", "z"], hidden_size=2)], "LSTM' of the rank 2"),
        ([node("Transpose", ["features"], ["x"], perm=[0, 1])], "Transpose' of the rank 3 in the order"),
        ([node("Transpose", ["features"], ["x"])], "Transpose' of the rank 3 in the order None"),
        ([node("Split", ["features"], ["x", "y"], axis=3)], "Split' along the axis 3"),
        ([node("Slice", ["features", "s", "s"], ["x"])], "Slice' from places of unknown number"),
        ([node("Slice", ["features", "zero", "minus"], ["x"])], "Slice' of other numbers of places"),
        ([node("Slice", ["features", "zero", "one", "batch"], ["x"])], "Slice' whose axes are no constants"),
        ([node("Add", ["weight", "turned_weight"], ["x"])], "Add' of sizes that do not go together, 8 and 16"),
        (
            [node("Squeeze", ["batch"], ["n"]), node("Range", ["zero0", "n", "one0"], ["x"])],
            "Range' without an end that is known to be near",
        ),
        (
            [node("Expand", ["f", "most"], ["e0"])] + [node("Exp", [f"e{i}"], [f"e{i + 1}"]) for i in range(5)],
            "Exp' that makes too much of weights alone",
        ),
    ],
)  # fmt: skip
def test_shapes_that_come_out_too_late(write: Any, nodes: Any, what: str) -> None:
    """Kernels rely on checks at load time, which need known ranks; large products of weights would slow loading."""
    tensors = [
        tensor("f", np.array(1.0, np.float32)), tensor("k4", np.ones((16, 1, 2, 2), np.float32)),
        tensor("k3", np.ones((4, 16, 3), np.float32)), tensor("k8", np.ones((4, 8, 3), np.float32)),
        tensor("w", np.ones((1, 8, 1), np.float32)), tensor("r", np.ones((1, 8, 2), np.float32)),
        tensor("b", np.ones((1, 16), np.float32)), tensor("h", np.ones((1, 1, 2), np.float32)),
        tensor("turned_weight", np.ones((16, 8), np.float32)), tensor("sizes", np.ones(8, np.int64)),
        tensor("zero0", np.array(0)), tensor("one0", np.array(1)), tensor("zero", np.array([0])),
        tensor("one", np.array([1])), tensor("three", np.array([3])), tensor("twice", np.array([1, 1])),
        tensor("minus", np.array([-1, -1])), tensor("large", np.array([1 << 20, 2])),
        tensor("most", np.array([1 << 20])),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=rf"model\.onnx has .*{what}.*, which {FOREIGN}"):
        VocosONNX(write(tiny([*HIDDEN, *nodes], tensors)))


@pytest.mark.parametrize("shape", [["batch", 8, 10**9], [8, 5], [1, 9, "frames"]])
def test_shapes_that_a_file_only_says(write: Any, shape: Any) -> None:
    """onnxruntime trusts declared shapes and would allocate values of that size."""
    inside = field(13, value("x", shape))
    network = ob.graph([node("Abs", ["features"], ["x"]), *ob.NETWORK], [ob.WEIGHT], [ob.FEATURES], [ob.SPECTRUM])
    with pytest.raises(
        ValueError, match=r"has the value 'x' of the shape \('batch', 8, 'frames'\) that is said to have"
    ):
        VocosONNX(write(ob.model(network + inside)))


@pytest.mark.parametrize("name", ["a\0b", "\0row of\0x", "\n", "\x7f"])
def test_names_with_control_characters(write: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{DAMAGED}.*control characters"):
        VocosONNX(write(tiny([node("Abs", ["features"], [name])])))


def test_if(write: Any) -> None:
    """If is allowed only at the top level, and both branches are checked."""
    condition = tensor("c", np.array(True))
    inner = node("If", ["c"], ["z"], then_branch=branch(name="p"), else_branch=branch(name="q"))
    for then, otherwise, what in (
        (branch(), branch(), None),
        (branch(node("Loop", [], ["z"])), branch(), "the operator 'Loop'"),
        (branch(), branch(node("Loop", [], ["z"])), "the operator 'Loop'"),
        (branch(), branch(inner), "an operator If within another"),
    ):
        data = tiny([node("If", ["c"], ["x"], then_branch=then, else_branch=otherwise)], [condition])
        if what is None:
            VocosONNX(write(data))
        else:
            with pytest.raises(ValueError, match=f"has {what}"):
                VocosONNX(write(data))


def test_values_made_twice(write: Any) -> None:
    with pytest.raises(ValueError, match=f"{DAMAGED}.*'turned' is made twice"):
        VocosONNX(write(tiny([node("Abs", ["features"], ["turned"])])))


@pytest.mark.parametrize("version", [0, 1, 12, 27, 1 << 62])
def test_versions_of_operators(write: Any, version: Any) -> None:
    with pytest.raises(ValueError, match=f"has operators of version {version} "):
        VocosONNX(write(tiny(opsets=[("", version)])))


def test_many_fields_end_soon(write: Any) -> None:
    with pytest.raises(ValueError, match=f"{DAMAGED}.*more than 1000000 fields"):
        VocosONNX(write(HEAD + field(7, INSIDE + field(13, b"") * 1_100_000) + TAIL))


# Files


def test_no_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null"), tmp_path):
        expected = "holds no model: expected" if path == tmp_path else "is not a file; expected"
        with pytest.raises(ValueError, match=expected):
            VocosONNX(path)
    for path in (tmp_path / "fifo", Path("/dev/zero")):  # the path may have been replaced after the first check
        expected = "holds no model: expected" if path == tmp_path else "is not a file; expected"
        with pytest.raises(ValueError, match=expected):
            read_model(path)


def test_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(tiny())
    os.truncate(path, MAX_SIZE + 1)
    with pytest.raises(ValueError, match=f"has {MAX_SIZE + 1} bytes, expected at most {MAX_SIZE}"):
        VocosONNX(path)


def test_sha256_is_that_of_what_is_loaded(tmp_path: Path) -> None:
    """The digest is of the bytes that are loaded, even if the file is replaced after the first check."""
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = Wanted(tmp_path, METADATA_KEY, sha256=digest)
    assert VocosONNX(wanted).decode(FEATURES).shape == (64,)

    def load(file: str | os.PathLike[str]) -> VocosONNX:
        path.write_bytes(tiny([node("Abs", ["features"], ["x"])]))
        return VocosONNX(file)

    with pytest.raises(ValueError, match=f"has the sha256 .*, expected {digest}: it is not loaded; copy it again"):
        opened(wanted, load)


def test_files_that_change_while_they_are_read(tmp_path: Path) -> None:
    """Each load gives the complete file or an error, and never crashes the process."""
    path, good = tmp_path / "model.onnx", tiny([], [tensor("padding", np.zeros(1 << 16, np.float32))])
    path.write_bytes(good)
    expected, end = read_model(path), threading.Event()

    def change() -> None:
        while not end.is_set():
            os.truncate(path, len(good) // 2)
            path.write_bytes(good)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            try:
                file = read_model(path)
            except ValueError:
                continue
            assert file.graphs == expected.graphs
            assert np.array_equal(file.weights["padding"], expected.weights["padding"])
    finally:
        end.set()
        thread.join()


def test_bytes_are_released(tmp_path: Path) -> None:
    """A model takes only its weights' memory beyond what onnxruntime takes when it reads the file itself."""
    script = """
import os, sys
import onnxruntime, resource
from pathlib import Path
from vocos_onnx import VocosONNX
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
VocosONNX(sys.argv[2], threads=1)
before = resident()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
if sys.argv[3] == "ours":
    model = VocosONNX(sys.argv[1], threads=1)
else:
    model = onnxruntime.InferenceSession(sys.argv[1], options)
print(resident() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux")
    path = tmp_path / "large.onnx"
    weight = tensor("large", np.random.default_rng(0).normal(size=(8, 1 << 20)).astype(np.float32))  # 32 MiB
    ones = tensor("ones", np.ones((1 << 20, 16), np.float32))
    product = [node("MatMul", ["turned2", "large"], ["l"]), node("MatMul", ["l", "ones"], ["m"])]
    turned = node("Transpose", ["features"], ["turned2"], perm=[0, 2, 1])
    last = [*ob.NETWORK[:1], node("MatMul", ["turned", "weight"], ["p"]), node("Add", ["p", "m"], ["spectrum"])]
    path.write_bytes(tiny([turned, *product], [weight, ones], last))
    size = path.stat().st_size
    found = {}
    for way in ("ours", "theirs"):
        command = [sys.executable, "-c", script, str(path), str(DATA / "mel.onnx"), way]
        found[way] = [
            int(n) for n in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        ]
    (kept, peak), (their_kept, their_peak) = found["ours"], found["theirs"]
    assert kept < their_kept + 1.1 * size, found
    assert peak < their_peak + 1.1 * size, found


# Inputs and outputs of the graph


def test_types_of_outputs(write: Any) -> None:
    """A spectrum of another type has the right shape but would decode to garbage, so it raises an error."""
    product = [ob.NETWORK[0], node("MatMul", ["turned", "weight"], ["p"])]
    for kind in (6, 7, 10):
        nodes = [*product, node("Cast", ["p"], ["spectrum"], to=kind)]
        outputs = [value("spectrum", ["batch", "frames", 16], kind)]
        with pytest.raises(ValueError, match=r"contradicts the graph: its outputs are .*tensor\((int|float)\d+\)"):
            VocosONNX(write(ob.model(ob.graph(nodes, [ob.WEIGHT], [ob.FEATURES], outputs))))
    wide = tensor("weight", np.ones((8, 16)))
    inputs = [value("features", ["batch", 8, "frames"], ob.DOUBLE)]
    outputs = [value("spectrum", ["batch", "frames", 16], ob.DOUBLE)]
    with pytest.raises(ValueError, match=r"contradicts the graph: its inputs are .*tensor\(double\)|cannot load"):
        VocosONNX(write(ob.model(ob.graph(ob.NETWORK, [wide], inputs, outputs))))


@pytest.mark.parametrize("axis", [0, 1])
def test_shapes_while_it_runs(write: Any, axis: int) -> None:
    """onnxruntime does not check that a graph's outputs have their declared shapes; we do."""
    last = [
        *ob.NETWORK[:1],
        node("MatMul", ["turned", "weight"], ["p"]),
        node("Concat", ["p", "p"], ["spectrum"], axis=axis),
    ]
    vocos = VocosONNX(write(tiny([], [], last)))
    with pytest.raises(
        RuntimeError, match=r"the graph made spectrum of shape \(.*\), expected \(1, 5, 16\): the file is"
    ):
        vocos.decode(FEATURES)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([3], r"the input past of the graph has the shape \[3\], expected 4 dimensions"),
        (["a", "batch", "past", "b"], "layers is 'a', expected a positive integer"),
        ([1 << 29, "batch", "past", 8], "layers is 536870912, expected at most 256"),
        ([1, "batch", "past", 1 << 30], "dim is 1073741824, expected at most 16384"),
    ],
)
def test_state_of_hostile_sizes(write: Any, shape: Any, message: str) -> None:
    data = ob.model(ob.graph(ob.NETWORK, [ob.WEIGHT], [ob.FEATURES, value("past", shape)], [ob.SPECTRUM]))
    with pytest.raises(ValueError, match=message):
        VocosONNX(write(data))


ENCODER = json.loads(EncodecONNX(DATA / "encoder.onnx", threads=1).config.to_json())


def encoder(lstm: list[int | str], history: list[int | str]) -> bytes:
    channels, entries = ENCODER["channels"], ENCODER["codebook_size"]
    shape = (len(ENCODER["codebooks_sha256"]), entries, channels)
    inputs = [value("audio", ["parts", "batch", "samples"]), value("step", [], 7), value("context", [], 7)]
    inputs += [value("lstm", lstm), value("history", history)]
    outputs = [value("embeddings", ["batch", "frames", channels])]
    outputs += [value("next_lstm", lstm), value("next_history", history)]
    nodes = [node("Identity", [a], [b]) for a, b in (("history", "next_history"), ("lstm", "next_lstm"))]
    nodes.append(node("Slice", ["audio", "start", "end", "axis"], ["embeddings"]))
    tensors = [tensor("codebooks", np.zeros(shape, np.float32))]
    tensors += [tensor(name, np.array([n])) for name, n in (("start", 0), ("end", 8), ("axis", 2))]
    said = {**ENCODER, "codebooks_sha256": fingerprints(np.zeros(shape, np.float32))}
    return ob.model(ob.graph(nodes, tensors, inputs, outputs), json.dumps(said), key="vocos_onnx_encoder")


@pytest.mark.parametrize(
    ("lstm", "history", "message"),
    [
        ([4, "batch", 1 << 30], ["batch", 8, 6], "lstm is 1073741824, expected at most"),
        ([1 << 30, "batch", 8], ["batch", 8, 6], "lstm is 1073741824, expected at most"),
        ([4, "batch", 8], ["batch", 8, 1 << 30], "history is 1073741824, expected at most"),
        ([4, "batch"], ["batch", 8, 6], "the input lstm of the graph has the shape .* expected 3 dimensions"),
    ],
)
def test_encoders_of_hostile_sizes(write: Any, lstm: Any, history: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncodecONNX(write(encoder(lstm, history)))


def test_shapes_of_an_encoder_while_it_runs(write: Any) -> None:
    with pytest.raises(RuntimeError, match=r"the graph made embeddings of shape .*, expected \(1, 4, 8\): the file"):
        EncodecONNX(write(encoder([4, "batch", 8], ["batch", 8, 6]))).encode(np.ones(1000, np.float32), 24_000, 0.75)


@pytest.mark.parametrize(("name", "kind"), [("encodec", VocosONNX), ("encoder", EncodecONNX)])
def test_codebooks_are_those_that_the_metadata_says(write: Any, name: str, kind: Any) -> None:
    """The metadata's fingerprint pairs models with encoders and names tokens, so it must match the codebooks."""
    data = (DATA / f"{name}.onnx").read_bytes()
    codebooks = EncodecONNX(DATA / "encoder.onnx", threads=1).codebooks
    for place in (codebooks[0], codebooks[-1] if name == "encoder" else codebooks[1]):
        row = place[500].tobytes()
        assert data.count(row) == 1
        other = data.replace(row, (place[500] + 1).tobytes())
        with pytest.raises(ValueError, match=r"the model's codebooks have the fingerprint .*, and its metadata says"):
            kind(write(other), threads=1)
    row = codebooks[0][500].tobytes()
    with pytest.raises(ValueError, match="codebooks hold NaN"):
        kind(write(data.replace(row, row[:-4] + np.float32("nan").tobytes())), threads=1)


# Metadata


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 5' + "0" * 400 + "}",
        '{"format": 5, "n_fft": ' + "9" * 5000 + "}",
        '{"format": 5, "n_fft": 1e999}',
        '{"format": 5, "n_fft": 1.' + "0" * 400 + "}",
        '{"format": 5, "n_fft": NaN}',
        '{"format": 5, "n_fft": -Infinity}',
        '{"format": 5, "format": 5}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '"' + "x" * (1 << 20) + '"',
        "",
    ],
)
def test_json_that_is_none(write: Any, text: Any) -> None:
    for read in (ModelConfig.from_json, EncoderConfig.from_json, lambda text: VocosONNX(write(tiny(metadata=text)))):
        with pytest.raises(ValueError, match=f"the metadata is not JSON: .+|{DAMAGED}") as caught:
            read(text)
        assert type(caught.value) is ValueError
        assert len(str(caught.value)) < 500


def changed(tree: dict[str, Any], path: str, new: object) -> str:
    tree = json.loads(json.dumps(tree))
    *place, key = path.split(".")
    inner = tree
    for name in place:
        inner = inner[name]
    inner[key] = new
    return json.dumps(tree)


CODEC = json.loads(VocosONNX(DATA / "encodec.onnx", threads=1).config.to_json())


SPECTRUM = {**ENCODER, "input": "spectrum", "n_fft": 1280, "right_context": 2}
# a filterbank of 2 GB
WIDE = {**ob.CONFIG, "mel": {**ob.CONFIG["mel"], "n_mels": 16_384, "n_fft": 1024}}


@pytest.mark.parametrize("new", [10**19, 2**62, 2**31, 10**9, 0, -1, True, 1.5, "1", None, [1], {}])
@pytest.mark.parametrize(
    ("tree", "path"),
    [
        *((ob.CONFIG, name) for name in ("sample_rate", "n_fft", "hop_length", "feature_channels")),
        *((ob.CONFIG, f"mel.{name}") for name in ("n_fft", "hop_length", "n_mels")),
        *((CODEC, f"encodec.{name}") for name in ("num_codebooks", "codebook_size")),
        *((ENCODER, name) for name in ("sample_rate", "hop_length", "channels", "codebook_size")),
    ],
)
def test_sizes_have_bounds(tree: Any, path: Any, new: Any) -> None:
    kind = EncoderConfig if tree is ENCODER else ModelConfig
    kind.from_json(json.dumps(tree))
    with pytest.raises(ValueError, match=r".+ (is|has|of) .*expected|at least one"):
        kind.from_json(changed(tree, path, new))


@pytest.mark.parametrize(
    ("tree", "path", "new"),
    [
        (CODEC, "num_bandwidth_ids", 1 << 40),
        (CODEC, "encodec.bandwidths", [1e300, 1.5]),
        (CODEC, "encodec.bandwidths", [-1.5, 1.5]),
        (CODEC, "encodec.bandwidths", [1.5] * 100_000),
        (CODEC, "encodec.codebooks_per_bandwidth", [1, 1 << 62]),
        (CODEC, "encodec.codebooks_sha256", "0" * 63),
        (CODEC, "encodec.codec", "x" * 100_000),
        (CODEC, "encodec.codec", "a\nb"),
        (CODEC, "encodec.codec", "\0"),
        (CODEC, "source.name", "\ud800"),
        (CODEC, "source.name", "\x1b[2J"),
        (CODEC, "head", "x" * 100_000),
        (CODEC, "x" * 100_000, 1),
        (ob.CONFIG, "mel.f_max", 1e308),
        (ob.CONFIG, "mel.clip", 0),
        (ob.CONFIG, "mel.n_fft", 16 * 65),
        ({**ob.CONFIG, "head": "istft"}, "n_fft", 16 * 65),
        (SPECTRUM, "hop_length", 19),
        (SPECTRUM, "left_context", 4000),
        (WIDE, "feature_channels", 16_384),
        (ENCODER, "left_context", 1 << 40),
        (ENCODER, "right_context", 1),  # an encoder of audio has no look-ahead
        (ENCODER, "n_fft", 1 << 40),
        (ENCODER, "codebooks_sha256", ["0" * 64] * 129),
        (ENCODER, "codebooks_sha256", ["x"]),
    ],
)  # fmt: skip
def test_other_values_have_bounds(tree: Any, path: Any, new: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|unknown") as caught:
        (EncoderConfig if "input" in tree else ModelConfig).from_json(changed(tree, path, new))
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


# Messages


def test_values_in_messages_are_short() -> None:
    circle: list[Any] = []
    circle.append(circle)
    values = [
        10**5000,
        "x" * 10**6,
        b"x" * 10**6,
        [1] * 10**6,
        {i: i for i in range(1000)},
        [[[[[[1]]]]]],
        circle,
        "\ud800",
    ]
    for long in values:
        assert 0 < len(shown(long)) <= 200
    assert shown(-(10**5000)) == "an integer of 16610 bits"
    assert (shown("same"), shown(320), shown([1.5, 3])) == ("'same'", "320", "[1.5, 3]")
    assert listed(["a", "b"]) == "a, b"
    assert listed("x" * 1000 for _ in range(1000)).endswith(" and 990 more")
    assert len(listed("x" * 1000 for _ in range(1000))) < 1000
    assert len(first_line(ValueError("x" * 10**6 + "\ny"))) < 400
    assert first_line(KeyError()) == "KeyError"


# The network's If, which is replaced by one of its branches


def _branch_of(nodes: list[bytes], *outputs: str) -> bytes:
    return ob.graph(nodes, outputs=[value(name, ["batch", "frames", 16]) for name in outputs])


def _reordered(operator: str, given: str, made: str) -> bytes:
    """A node whose fields, including a name and a doc_string, are not in the order of their numbers."""
    return field(6, "text") + field(4, operator) + field(2, made) + field(3, f"node of {made}") + field(1, given)


@pytest.mark.parametrize(
    ("then", "otherwise", "outputs"),
    [
        (_branch_of([node("Neg", ["p"], ["a"])], "a"), _branch_of([node("Abs", ["p"], ["b"])], "b"), ["spectrum"]),
        (
            _branch_of([node("Neg", ["p"], ["a"])], "a", "a"),  # returned twice
            _branch_of([node("Abs", ["p"], ["b"]), node("Neg", ["b"], ["d"])], "b", "d"),  # b is also used inside
            ["spectrum", "more"],
        ),
        (
            _branch_of([_reordered("Neg", "p", "a"), _reordered("Abs", "a", "e"), _reordered("Neg", "e", "f")], "f"),
            _branch_of([_reordered("Abs", "p", "b")], "b"),
            ["spectrum"],
        ),
        (_branch_of([], "n"), _branch_of([node("Abs", ["p"], ["b"])], "b"), ["spectrum"]),  # a value from outside
        (
            ob.graph([node("Mul", ["p", "m"], ["a"])], [tensor("m", np.float32(-1))], [], [value("a", None)]),
            ob.graph([node("Mul", ["p", "m"], ["b"])], [tensor("m", np.float32(1))], [], [value("b", None)]),
            ["spectrum"],
        ),
    ],
    ids=["plain", "twice", "reordered", "outside", "initializers"],
)
def test_branches_of_the_network(write: Any, then: bytes, otherwise: bytes, outputs: list[str]) -> None:
    """Each branch replaces the If correctly, even if a name means different values in the two."""
    nodes = [
        node("Transpose", ["features"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["turned", "weight"], ["q"]),
        node("Abs", ["q"], ["p"]),
        node("Neg", ["p"], ["n"]),
        node("If", ["c"], outputs, then_branch=then, else_branch=otherwise),
    ]
    made = ob.graph(nodes, [ob.WEIGHT, tensor("c", np.ones(1, bool))], [ob.FEATURES], [ob.SPECTRUM])
    vocos = VocosONNX(write(ob.model(made)), threads=2, providers=["cpu"])
    features = np.random.default_rng(0).normal(size=(2, 8, 30)).astype(np.float32)
    expected = np.abs(features.transpose(0, 2, 1) @ np.ones((8, 16), np.float32))
    for graph, sign in ((WHOLE, -1), (STEP, 1)):
        (found,) = vocos.network._session.run({"spectrum": (2, 30, 16)}, {"features": features}, graph=graph)
        assert np.allclose(found, sign * expected, rtol=1e-6)
