"""The inverse transform in the graph gives the audio of the runtime's and of upstream's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.helpers import DATA, decode_together
from tests.parity.upstream import CONFIGS, SMALL, build, save
from vocos_onnx import VocosONNX
from vocos_onnx.cli import main
from vocos_onnx.spans import Plan
from vocos_onnx_export import CheckpointError, export, quantize
from vocos_onnx_export import istft as module

NAMES = (
    "encodec", "imdct-symexp-center", "imdct-cos-same", "imdct-symexp-clip", "imdct-frame-12",
    "hop-300-of-1000", "hop-300-of-1000-center-no-layer-scale", "hop-255-of-1024", "hop-400-of-512-resnet",
    "wavenext-encodec", "wavenext-odd-center", "wavenext-resnet",
)  # fmt: skip
LENGTHS = (1, 2, 3, 26, 27, 28, 55, 200)


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real vocos, its export without and with the inverse transform, and the path of the latter."""
    config = {**CONFIGS, **SMALL}[request.param]
    model = build(config)
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = str(save(model, config, folder / "checkpoint"))
    path = folder / "graph.onnx"
    export(checkpoint, path, istft="graph", report=silent)
    proto = onnx.load(path)
    for part in (proto.graph.node, proto.graph.initializer):
        for found in [found for found in part if found.name.startswith("istft")]:
            part.remove(found)
    (audio,) = (output for output in proto.graph.output if output.name == "audio")
    proto.graph.output.remove(audio)
    onnx.save(proto, folder / "plain.onnx")
    return model, VocosONNX(folder / "plain.onnx"), VocosONNX(path), path


def features_of(vocos: VocosONNX, batch: int, frames: int) -> np.ndarray:
    rng = np.random.default_rng(frames)
    if vocos.config.encodec:
        return vocos.codes_to_features(rng.integers(1024, size=(4, batch, frames)))
    return rng.uniform(-8, 2, (batch, vocos.config.feature_channels, frames)).astype(np.float32)


def peak_of(vocos: VocosONNX, audio: np.ndarray) -> float:
    """The peak of the audio; a model that clips gets 10, since its overlap-add sums larger values before clipping."""
    is_clipped = vocos.config.clip_audio and vocos.config.head != "wavenext"
    return 10.0 if is_clipped else float(np.abs(audio).max(initial=0))


def test_equals_numpy_and_upstream(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, graph, _ = case
    bandwidth_id = 1 if plain.config.num_bandwidth_ids else None
    graph._plan = Plan(plain.network.reach, None)  # no spans: their audio would be computed in numpy
    for batch in (1, 3):
        for frames in LENGTHS:
            features = features_of(plain, batch, frames)
            expected = plain.decode(features, bandwidth_id)
            with monkeypatch.context() as patch:
                patch.setattr("vocos_onnx.inverse.OverlapAdd", None)
                given = graph.decode(features, bandwidth_id)
            assert given.dtype == expected.dtype
            assert given.shape == expected.shape
            peak = peak_of(plain, expected)
            assert np.abs(given - expected).max(initial=0) <= 1e-5 * peak
            if given.size and not (
                plain.config.clip_audio and "imdct" in plain.config.head
            ):  # upstream clips the coefficients instead of the audio
                with torch.inference_mode():
                    upstream = model.decode(torch.from_numpy(features), bandwidth_id=torch.tensor([bandwidth_id or 0]))
                assert given.shape == tuple(upstream.shape)
                assert np.abs(given - upstream.numpy()).max() <= 1e-4 * peak


def test_items_of_a_batch_end_where_they_end(case: Any) -> None:
    _, plain, graph, _ = case
    if not plain.delay:
        pytest.skip("a network without a mask decodes one by one")
    bandwidth_id = 1 if plain.config.num_bandwidth_ids else None
    items = [features_of(plain, 1, frames)[0] for frames in LENGTHS]
    for given, item in zip(decode_together(graph, items, bandwidth_id), items, strict=True):
        expected = plain.decode(item, bandwidth_id)
        peak = peak_of(plain, expected)
        assert given.shape == expected.shape
        assert np.abs(given - expected).max(initial=0) <= 1e-5 * peak


def test_the_steps_of_a_stream_compute_no_audio(case: Any) -> None:
    _, plain, graph, path = case
    if not plain.network.has_state:
        pytest.skip("no state")
    bandwidth_id = 1 if plain.config.num_bandwidth_ids else None
    features = features_of(plain, 1, 40)
    inputs = dict(graph.network.inputs(features, bandwidth_id))
    for name in ("past", "past_features"):  # a whole decode starts with 3 frames of zeros, a stream with 6
        inputs[name] = np.repeat(inputs[name], 2, axis=2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (audio,) = session.run(["audio"], inputs)
    assert audio.shape == (1, 0)
    stream = graph.stream(bandwidth_id)
    parts = [stream.push(features[0, :, i : i + 9]) for i in range(0, 40, 9)]
    expected = plain.decode(features[0], bandwidth_id)
    peak = peak_of(plain, expected)
    assert np.abs(np.concatenate([*parts, stream.flush()]) - expected).max() <= 1e-5 * peak


def test_only_operators_that_cuda_has(case: Any) -> None:
    """The list is for opset 20, from onnxruntime's docs/OperatorKernels.md; any other operator would run on the CPU."""
    _, _, _, path = case
    proto = onnx.load(path)
    nodes = [node for node in proto.graph.node if node.name.startswith("istft.whole")]
    for inverse in (node for node in proto.graph.node if node.op_type == "If" and "audio" in node.output):
        nodes += next(a.g for a in inverse.attribute if a.name == "else_branch").node
    assert nodes
    has = {"Concat", "Div", "Expand", "Gather", "MatMul", "Max", "Mul", "Reshape", "Shape", "Slice", "Sum"}
    assert {node.op_type for node in nodes} <= has | {"Unsqueeze"}


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_other_precisions(precision: str, tmp_path: Path) -> None:
    """The inverse transform stays in float32, whether the model is quantised during export or later."""
    name = "hop-300-of-1000"
    checkpoint = str(save(build(SMALL[name]), SMALL[name], tmp_path / name))
    paths = [tmp_path / f"{istft}.onnx" for istft in ("numpy", "graph")]
    for path in paths:
        export(checkpoint, path, precision=precision, istft=path.stem, report=silent)
    later = tmp_path / "later.onnx"
    export(checkpoint, later, istft="graph", report=silent)
    quantize(later, later, precision=precision, report=silent)
    plain, *graphs = (VocosONNX(path) for path in (*paths, later))
    features = features_of(plain, 2, 100)
    expected = plain.decode(features)
    for path in (paths[1], later):
        assert "audio" in {output.name for output in onnx.load(path).graph.output}
    for graph in graphs:
        given = graph.decode(features)
        assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()
    graph_of_later = onnx.load(later).graph
    (inverse,) = (node for node in graph_of_later.node if "audio" in node.output)
    assert not [tensor for branch in inverse.attribute for tensor in branch.g.initializer]
    tensors = [tensor for tensor in graph_of_later.initializer if tensor.name.startswith("istft.")]
    assert max(len(tensor.raw_data) for tensor in tensors) > 4_000_000  # the basis
    assert not [t for t in tensors if t.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)]


def test_half_precision_of_a_network_without_a_state(tmp_path: Path) -> None:
    """Without a state the inverse transform is in the main graph, not in a branch; it stays in float32 there too."""
    original, half = DATA / "imdct-cos-istft.onnx", tmp_path / "half.onnx"
    quantize(original, half, precision="float16", calibration=[np.zeros((8, 50), np.float32)], report=silent)
    proto = onnx.load(half)
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds.values()
    inverse = [kind for name, kind in kinds.items() if name.startswith("istft")]
    assert onnx.TensorProto.FLOAT in inverse
    assert onnx.TensorProto.FLOAT16 not in inverse
    given = np.random.default_rng(0).uniform(-8, 2, (8, 60)).astype(np.float32)
    expected = VocosONNX(original).decode(given)
    assert np.abs(VocosONNX(half).decode(given) - expected).max() <= 1e-2 * np.abs(expected).max()


def test_a_wrong_basis_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export verifies the graph's own audio: a basis with a wrong window fails, and no file is written."""
    basis = module._basis
    monkeypatch.setattr(module, "_basis", lambda config: (basis(config)[0] * np.float32(1.001), basis(config)[1]))
    checkpoint = save(build(SMALL["tiny"]), SMALL["tiny"], tmp_path / "tiny")
    with pytest.raises(CheckpointError, match=r"differs from torch in \d+ of \d+ checks, first in the waveform"):
        export(str(checkpoint), tmp_path / "m.onnx", istft="graph", report=silent)
    assert not (tmp_path / "m.onnx").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save(build(SMALL["tiny"]), SMALL["tiny"], tmp_path / "tiny")
    output = tmp_path / "m.onnx"
    assert main(["export", str(checkpoint), "-o", str(output), "--istft", "graph"]) == 0
    assert VocosONNX(output).network.makes_audio
    assert main(["info", str(output)]) == 0
    assert "inverse STFT: in the graph" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"istft is 'torch', expected one of numpy, graph"):
        export(str(checkpoint), Path("m.onnx"), istft="torch")
