"""Which Vocos files of other exporters pass the check: tests/data/foreign, made by tests.foreign.make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_bytes as ob
from tests.foreign.check import assert_equals_torch
from tests.helpers import DATA
from tests.onnx_bytes import field, node, tensor, value, varint
from vocos_onnx.model.onnx_file import ModelFile, read_model
from vocos_onnx.model.operators import FLOAT
from vocos_onnx.model.session import evaluate

FOREIGN = DATA / "foreign"
PATHS = sorted(path for path in FOREIGN.rglob("*.onnx") if path.parent.name != "refused")
REMEDY = "which no model that this version reads has; convert the checkpoint with: vocos-onnx convert"


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], ModelFile]:
    def read(data: bytes) -> ModelFile:
        path = tmp_path / "foreign.onnx"
        path.write_bytes(data)
        return read_model(path)

    return read


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_layouts_of_other_exporters(path: Path) -> None:
    assert_equals_torch(path)


def test_names_and_order_are_those_of_the_file() -> None:
    found = {path.stem: read_model(path) for path in PATHS}
    for stem, file in found.items():
        names = [out.name for out in file.outputs]
        if "istft" in stem or "wavenext" in stem or stem == "f5-triton":
            assert names == ["waveform"]
        elif stem == "chattts":
            assert len(names) == 3 and not set(names) & {"mag", "x", "y"}
        else:
            assert names == ["mag", "x", "y"]
    assert found["vocos-16khz-univ"].metadata == {"model_type": "matcha-tts vocos", "sample_rate": "16000"}
    assert found["chattts"].inputs[0].shape == (1, 8, 64)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (
            "f5-decode",
            rf"takes denoised \(float\), ref_signal_len \(int64\), where a Vocos .* mels alone, and has .*, {REMEDY}",
        ),
        (
            "wavtokenizer-decode",
            rf"takes codes \(int64\), where a Vocos takes mels alone, and has the operator 'Softmax', {REMEDY}",
        ),
        (
            "neucodec-decode",
            rf"takes codes \(int32\), where a Vocos takes mels alone, and has the operator 'Softmax', {REMEDY}",
        ),
        (
            "quantized",
            r"has the operator '\w+', which .*; onnxruntime has quantised it: take the file in float32, or conv",
        ),
        ("external", r"takes its weights from other files.*onnx\.save\(onnx\.load\('MODEL\.onnx'\), 'ONE\.onnx'\)"),
    ],
)
def test_layouts_that_are_refused(name: str, what: str) -> None:
    path = FOREIGN / "refused" / f"{name}.onnx"
    with pytest.raises(ValueError, match=what) as caught:
        read_model(path)
    assert str(caught.value).startswith(str(path))


def test_a_vocos_of_another_exporter_is_named(read: Any) -> None:
    with pytest.raises(
        ValueError,
        match=rf"is a Vocos model of another exporter \(mels in, mag, x, y out\), and has the operator 'Det', {REMEDY}",
    ):
        read(foreign([node("Det", ["mels"], ["d"])]))


# Small graphs: mels (batch, 8, frames) -> audio

MELS = value("mels", ["batch", 8, "frames"])
TENSORS = [
    tensor("k7", np.ones((8, 8, 7), np.float32)), tensor("k3", np.ones((8, 8, 3), np.float32)),
    tensor("t4", np.ones((8, 2, 4), np.float32)), tensor("t22", np.ones((8, 2, 2, 2), np.float32)),
    tensor("t0", np.ones((8, 0, 4), np.float32)), tensor("b2", np.ones(2, np.float32)),
    tensor("b3", np.ones(3, np.float32)), tensor("k71", np.ones((8, 8, 7, 1), np.float32)),
    tensor("above2", np.array([0, 2, 0, 0, 1, 0])), tensor("double", np.ones((8, 2, 4))),
    tensor("left6", np.array([0, 0, 6, 0, 0, 0])), tensor("huge", np.array([0, 0, 1 << 40, 0, 0, 0])),
    tensor("sides", np.array([0, 1, 0, 0, 0, 1])), tensor("minus", np.array([0, 0, -1, 0, 0, 0])),
    tensor("short", np.array([0, 1])),
    tensor("last", np.array([-1])), tensor("axis1", np.array([1])), tensor("two", np.array([1, 2])),
    tensor("axis3", np.array([3])), tensor("none", np.zeros(0, np.int64)), tensor("f", np.array(1.0, np.float32)),
    tensor("i", np.array([1])), tensor("repeats", np.array([1, 1, 2])), tensor("many", np.array([1, 1 << 20, 2])),
    tensor("zeros", np.array([0, 1, 1])), tensor("places", np.array([[0, 0], [0, 1]])),
    tensor("deep", np.array([[0, 0, 0, 0]])), tensor("flat", np.zeros((2, 0), np.int64)),
    tensor("updates", np.ones((3, 8), np.float32)), tensor("wide", np.ones((2, 5), np.float32)),
    tensor("weight", np.ones((8, 16), np.float32)), tensor("place32", np.array([[0, 0]], np.int32)),
    tensor("square", np.ones((8, 8), np.float32)),
]  # fmt: skip


def foreign(nodes: list[bytes], outputs: tuple[str, ...] = ("mag", "x", "y"), opset: int = 17, **shapes: Any) -> bytes:
    """A file without our metadata; outputs that no node makes are copies of the mels."""
    made = b"".join(nodes)
    given = [name for name in outputs if field(2, name) not in made]
    nodes = [*nodes, *[node("Identity", ["mels"], [name]) for name in given]]
    declared = [value(name, shapes.get(name, ["batch", 8, "frames"])) for name in outputs]
    return ob.model(ob.graph(nodes, TENSORS, [MELS], declared), "vocos", [("", opset)], key="model_type")


def transposed(**attributes: Any) -> bytes:
    return node("ConvTranspose", ["mels", "t4"], ["audio"], **attributes)


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([transposed(group=0)], "ConvTranspose' in 0 groups"),
        ([transposed(group=3)], "ConvTranspose' in 3 groups"),
        ([transposed(group=-1)], "ConvTranspose' in -1 groups"),
        ([transposed(strides=[0])], r"ConvTranspose' with strides of \[0\], expected 1 to its kernel's size"),
        ([transposed(strides=[5])], r"ConvTranspose' with strides of \[5\]"),
        ([transposed(strides=[1 << 62])], "ConvTranspose' with strides of"),
        ([transposed(strides=[2, 2])], r"ConvTranspose' with strides of \[2, 2\]"),
        ([transposed(strides=2)], "ConvTranspose' with strides of 2"),
        ([transposed(strides=[])], r"ConvTranspose' with strides of \[\]"),
        ([transposed(pads=[-1, 0])], r"ConvTranspose' with pads of \[-1, 0\], expected less than its kernel"),
        ([transposed(pads=[4, 0])], r"ConvTranspose' with pads of \[4, 0\]"),
        ([transposed(pads=[0])], r"ConvTranspose' with pads of \[0\]"),
        ([transposed(dilations=[2])], "ConvTranspose' that is dilated"),
        ([transposed(output_padding=[1])], "ConvTranspose' with padded output"),
        ([transposed(output_shape=[1 << 40])], "ConvTranspose' with the attribute 'output_shape'"),
        ([transposed(kernel_shape=[5])], "ConvTranspose' of another kernel than its weight"),
        ([transposed(auto_pad="SAME_UPPER")], "ConvTranspose' that pads itself"),
        ([node("ConvTranspose", ["mels", "mels"], ["audio"])], "ConvTranspose' whose input 1 is no constant"),
        ([node("ConvTranspose", ["mels", "t22"], ["audio"])], "ConvTranspose' with a kernel of shape"),
        ([node("ConvTranspose", ["mels", "t0"], ["audio"])], "ConvTranspose' with a kernel of shape"),
        ([node("ConvTranspose", ["mels", "t4", "b3"], ["audio"])], "ConvTranspose' with a bias of shape"),
        ([node("ConvTranspose", ["mels", "double", "b2"], ["audio"])], "ConvTranspose' with a bias of shape"),
        ([node("ConvTranspose", ["k7", "t4"], ["audio"])], "ConvTranspose' of weights alone"),
        ([node("ConvTranspose", ["weight", "t4"], ["audio"])], "ConvTranspose' of the rank 2 with a kernel of 3"),
        (
            [node("Transpose", ["mels"], ["turned"], perm=[0, 2, 1]), node("ConvTranspose", ["turned", "t4"], ["a"])],
            "ConvTranspose' of sizes that do not go together",
        ),
        ([node("Pad", ["mels", "huge"], ["a"])], "Pad' by .*, expected 0 to 4096"),
        ([node("Pad", ["mels", "minus"], ["a"])], "Pad' by .*, expected 0 to 4096"),
        ([node("Pad", ["mels", "short"], ["a"])], r"Pad' of the rank 3 by \(0, 1\)"),
        ([node("Pad", ["mels", "sides"], ["a"])], "Pad' along several axes, by"),
        ([node("Pad", ["mels", "none"], ["a"])], r"Pad' of the rank 3 by \(\)"),
        ([node("Pad", ["mels", "left6"], ["a"], mode="reflect")], "Pad' in the mode 'reflect'"),
        ([node("Pad", ["mels", "left6", "b2"], ["a"])], "Pad' with other than one value"),
        ([node("Pad", ["mels", "left6", "i"], ["a"])], "Pad' with other than one value"),
        ([node("Shape", ["mels"], ["s"]), node("Pad", ["mels", "s"], ["a"])], "Pad' whose input 1 is no constant"),
        ([node("ReduceMean", ["mels"], ["a"])], "ReduceMean' whose input 1 is no constant"),
        ([node("ReduceMean", ["mels"], ["a"], axes=[])], "ReduceMean' over several axes"),
        ([node("ReduceMean", ["mels"], ["a"], axes=[1, 2])], "ReduceMean' over several axes"),
        ([node("ReduceMean", ["mels"], ["a"], axes=1)], "ReduceMean' over several axes"),
        ([node("ReduceMean", ["mels"], ["a"], axes=[3])], "ReduceMean' along the axis 3 of 3 dimensions"),
        ([node("ReduceMean", ["mels", "last"], ["a"], axes=[1])], "ReduceMean' whose axes come twice"),
        ([node("ReduceMean", ["mels", "two"], ["a"])], "ReduceMean' over several axes"),
        ([node("ReduceMean", ["mels", "none"], ["a"])], "ReduceMean' over several axes"),
        ([node("ReduceMean", ["mels", "axis3"], ["a"])], "ReduceMean' along the axis 3"),
        ([node("ReduceMean", ["mels"], ["a"], axes=[1], keepdims=2)], "ReduceMean' with keepdims of 2"),
        ([node("Tile", ["mels", "many"], ["a"])], "Tile' with the repeats"),
        ([node("Tile", ["mels", "zeros"], ["a"])], "Tile' with the repeats"),
        ([node("Tile", ["mels", "i"], ["a"])], "Tile' of unknown repeats"),
        ([node("Tile", ["mels", "b3"], ["a"])], "Tile' whose repeats are no integers"),
        (
            [node("Shape", ["mels"], ["s"]), node("Mul", ["s", "s"], ["p"]), node("Tile", ["mels", "p"], ["a"])],
            "Tile' of unknown repeats",
        ),
        ([node("Shape", ["mels"], ["s"]), node("Tile", ["mels", "s"], ["a"])], "Tile' with the repeats"),
        ([node("NonZero", ["f"], ["a"])], "NonZero' of a single number"),
        ([node("NonZero", ["k7"], ["a"])], "NonZero' that makes too much of weights alone"),
        ([node("ScatterND", ["square", "places", "updates"], ["a"])], r"ScatterND' of the rank 2, expected 1"),
        ([node("ScatterND", ["mels", "places", "updates"], ["a"])], "ScatterND' of sizes that do not go together"),
        ([node("ScatterND", ["mels", "places", "wide"], ["a"], reduction="add")], "ScatterND' with a reduction"),
        ([node("ScatterND", ["mels", "deep", "wide"], ["a"])], "ScatterND' of places in 4 of 3 dimensions"),
        ([node("Constant", [], ["a"], value_string="x")], "Constant' with the attribute 'value_string'"),
        ([node("Constant", [], ["a"], value_int=1, value_ints=[1])], "Constant' without a tensor"),
        ([node("Constant", [], ["a"], value_ints=1)], "Constant' without a tensor"),
        ([node("Constant", [], ["a"], value_int=1.0)], "Constant' without a tensor"),
    ],
)  # fmt: skip
def test_operators_of_others_in_forms_that_crash(read: Any, nodes: list[bytes], what: str) -> None:
    with pytest.raises(ValueError, match=rf"has .*{what}.*, {REMEDY}"):
        read(foreign(nodes))


@pytest.mark.parametrize(
    ("nodes", "reach"),
    [
        ([], 0),
        ([node("Conv", ["mels", "k7"], ["audio"], pads=[3, 3])], 3),
        ([node("Conv", ["mels", "k7"], ["audio"], pads=[6, 0])], 6),
        ([node("Conv", ["mels", "k7"], ["audio"], pads=[6, 6], dilations=[2])], 6),
        ([node("Conv", ["mels", "k7"], ["a"], pads=[3, 3]), node("Conv", ["a", "k3"], ["audio"], pads=[2, 0])], 5),
        ([node("Pad", ["mels", "left6"], ["a"]), node("Conv", ["a", "k7"], ["audio"])], 6),
        ([node("Conv", ["mels", "k7"], ["audio"], pads=[3, 3], strides=[2])], None),
        ([transposed(strides=[2])], 2),
        ([transposed(strides=[3])], 2),
        ([transposed(strides=[1])], 4),
        ([node("Pad", ["mels", "above2"], ["a"])], 2),
        ([node("ReduceMean", ["mels"], ["a"], axes=[1])], 0),
        ([node("MatMul", ["square", "mels"], ["a"])], 0),
        ([node("Unsqueeze", ["mels", "axis3"], ["u"]), node("Conv", ["u", "k71"], ["a"], pads=[4, 0, 2, 0])], 4),
        ([node("ReduceMean", ["mels"], ["a"], axes=[-1])], None),
        ([node("ReduceSum", ["mels", "last"], ["a"])], None),
        ([node("Transpose", ["mels"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "weight"], ["a"])], 0),
        ([node("Transpose", ["mels"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "mels"], ["a"])], None),
    ],
)  # fmt: skip
def test_frames_that_the_operators_see(read: Any, nodes: list[bytes], reach: int | None) -> None:
    assert read(foreign(nodes)).reach == reach


def test_a_static_length_may_be_what_is_reduced(read: Any) -> None:
    inputs = [value("mels", [1, 8, 64])]
    for axes, reach in (([1], None), ([2], None)):
        nodes = [node("ReduceMean", ["mels"], ["a"], axes=axes), node("Identity", ["mels"], ["audio"])]
        graph = ob.graph(nodes, [], inputs, [value("audio", [1, 8, 64])])
        assert read(ob.model(graph, "", [("", 17)], key="x")).reach == reach


def test_constants_in_nodes(read: Any) -> None:
    """Constants as torch's exporters write them; an Identity may share a weight between layers."""
    nodes = [
        node("Constant", [], ["shape"], value_ints=[0, -1, 4]),
        node("Constant", [], ["zero"], value_int=0),
        node("Constant", [], ["half"], value_float=0.5),
        node("Reshape", ["mels", "shape"], ["r"]),
        node("Gather", ["r", "zero"], ["g"], axis=2),
        node("Mul", ["g", "half"], ["m"]),
        node("Identity", ["k7"], ["shared"]),
        node("Conv", ["mels", "shared"], ["audio"], pads=[3, 3]),
    ]
    file = read(foreign(nodes, ("audio", "r", "m")))
    shapes = [out.shape for out in file.outputs]
    assert shapes == [("batch", 8, "frames"), ("batch", None, 4), ("batch", None)]


@pytest.mark.parametrize("declared", [["batch", 2, 10**9], [1, 2, 4], ["batch", 2], ["a", "b", "c", "d"], []])
def test_guessed_shapes_of_outputs(read: Any, declared: Any) -> None:
    """Exporters guess shapes from a traced example, so onnxruntime never sees them; our own files' must be right."""
    nodes = [transposed(strides=[4])]
    file = read(foreign(nodes, ("audio",), audio=declared))
    assert [(out.name, out.type, out.shape) for out in file.outputs] == [("audio", FLOAT, ("batch", 2, None))]
    given = {"mels": np.ones((2, 8, 5), np.float32)}
    (made,) = evaluate(file.path, [given])
    assert made["audio"].shape == (2, 2, 20)
    data = ob.model(ob.graph(nodes, TENSORS, [MELS], [value("audio", declared)]))
    with pytest.raises(
        ValueError, match=r"has the value 'audio' of the shape \('batch', 2, None\) that is said to have"
    ):
        read(data)


def test_weights_that_no_operator_uses(read: Any) -> None:
    """They are left out, since onnxruntime drops them and would not find them by name."""
    file = read(foreign([node("Conv", ["mels", "k7"], ["audio"], pads=[3, 3])], ("audio",)))
    assert list(file.weights) == ["k7"]


def test_shapes_that_a_foreign_file_only_says(read: Any) -> None:
    """They are removed before loading, since onnxruntime would trust them."""
    nodes = [node("Abs", ["mels"], ["a"]), node("Identity", ["a"], ["audio"])]
    graph = ob.graph(nodes, [], [MELS], [value("audio", ["b", 8, "t"])]) + field(13, value("a", ["b", 8, 10**9]))
    file = read(ob.model(graph, "", [("", 17)], key="x"))
    assert file.outputs[0].shape == ("batch", 8, "frames")
    assert all(varint(10**9) not in data for data in file.graphs.values())
    (made,) = evaluate(file.path, [{"mels": np.ones((1, 8, 5), np.float32)}])
    assert made["audio"].shape == (1, 8, 5)


def test_the_reach_of_ours_is_in_their_metadata() -> None:
    assert read_model(DATA / "mel.onnx").reach is None


def test_an_input_without_a_name(read: Any) -> None:
    """Such an input is listed, but nodes cannot use it."""
    graph = ob.graph([node("Identity", ["mels"], ["audio"])], [], [MELS, value("", [1, 8, 4])], [value("audio", None)])
    file = read(ob.model(graph, "", [("", 17)], key="x"))
    assert [given.name for given in file.inputs] == ["mels", ""]
    assert file.outputs[0].shape == ("batch", 8, "frames")
