"""int8 and half precision: their loss of quality, their limits, and the errors for bad input."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_np_to_float16

from tests.helpers import DATA
from tests.parity.upstream import CONFIGS, build, save
from vocos_onnx import VocosONNX
from vocos_onnx.cli import main
from vocos_onnx.evaluate.metrics import pesq_wb
from vocos_onnx.model.bundled import CODEC, MEL, default_model
from vocos_onnx.model.precision import to_float16
from vocos_onnx.spans import Plan
from vocos_onnx_export import CheckpointError, export, quantization, quantize


def snr(expected: np.ndarray, given: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(expected.astype(np.float64) ** 2) / np.sum((given - expected) ** 2.0)))


@pytest.fixture(scope="module", params=["int8", "float16"])
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("variant") / "model.onnx"
    quantize(CODEC, path, precision=request.param, report=lambda line: None)
    return request.param, path


def test_speech_of_the_bundled_codec(variant: tuple[str, Path]) -> None:
    """Quantised decoding stays close to float32 and, more importantly, loses almost no PESQ against the best audio."""
    precision, path = variant
    original, vocos = VocosONNX(), VocosONNX(path)
    assert vocos.config.precision == precision
    quality = vocos.config.quality
    assert quality is not None and quality.pesq_wb is not None
    losses, ratios = [], []
    for file in sorted(default_model().parent.glob("speech_*.npz")):
        tokens = np.load(file)["tokens"]
        best = original.decode(tokens)
        for k in (2, 4, 8, 16):
            expected, given = original.decode(tokens[:k]), vocos.decode(tokens[:k])
            ratios.append(snr(expected, given))
            losses.append(pesq_wb(best, expected, 24_000) - pesq_wb(best, given, 24_000) if k < 16 else 0)
    assert np.mean(ratios) == pytest.approx(quality.snr_db, abs=0.02)
    assert np.mean(ratios) > (27 if precision == "int8" else 50)
    assert np.mean(losses) < 0.02
    assert quality.pesq_wb > (4.5 if precision == "int8" else 4.6)
    assert path.stat().st_size < 0.7 * default_model().stat().st_size


def test_a_product_of_two_pairs_never_saturates(variant: tuple[str, Path]) -> None:
    """CPUs without VNNI add two products of an input (0 ... 255) and a weight in 16 bits; the sum must fit."""
    precision, path = variant
    weights = [
        numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8
    ]
    if precision == "float16":
        assert not weights
        return
    matrices = [w.astype(int) for w in weights if w.ndim == 2]
    assert len(matrices) == 13  # two in each of six blocks, and the head
    worst = max(255 * (np.abs(w[0::2]) + np.abs(w[1::2])).max() for w in matrices)
    assert 2**14 < worst < 2**15


@pytest.mark.parametrize("name", ["mel-center", "imdct-symexp", "resnet", "wavenext-mel"])
@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_export_of_other_networks(name: str, precision: str, tmp_path: Path) -> None:
    folder = save(build(CONFIGS[name]), CONFIGS[name], tmp_path / name)
    output = tmp_path / "m.onnx"
    if (name, precision) == ("resnet", "int8"):
        with pytest.raises(ValueError, match=r"VocosResNetBackbone, whose work is in convolutions"):
            export(str(folder), output, precision=precision, report=lambda line: None)
        assert not output.exists()
        return
    config = export(str(folder), output, precision=precision, report=lambda line: None)
    vocos = VocosONNX(output)
    assert vocos.config == config
    assert config.quality is not None
    assert config.quality.snr_db > (15 if precision == "int8" else 40)


def test_streams_and_lists_in_int8(tmp_path: Path) -> None:
    quantize(MEL, tmp_path / "m.onnx", report=lambda line: None)
    vocos, original = VocosONNX(tmp_path / "m.onnx"), VocosONNX(MEL)
    audio = VocosONNX().decode(np.load(next(default_model().parent.glob("speech_*.npz")))["tokens"])
    mels = original.features(audio, 24_000)
    expected = vocos.decode(mels)
    chunks = [mels[:, i : i + 7] for i in range(0, mels.shape[1], 7)]
    given = np.concatenate(list(vocos.decode_stream(chunks)))
    assert np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max()
    (alone, _) = vocos.decode([mels[:, :100], mels])
    assert np.abs(alone - vocos.decode(mels[:, :100])).max() <= 1e-6
    assert snr(original.decode(mels), expected) > 15


def test_own_calibration(tmp_path: Path) -> None:
    features = np.random.default_rng(0).uniform(-8, 2, (8, 50)).astype(np.float32)
    config = quantize(DATA / "mel.onnx", tmp_path / "m.onnx", calibration=[features], report=lambda line: None)
    assert config.quality is not None
    assert config.quality.seconds == pytest.approx(49 * 16 / 8000, abs=0.05)
    assert config.quality.snr_db > 20


@pytest.mark.parametrize("precision", ["int8", "float16"])
@pytest.mark.parametrize("source", ["encodec.onnx", "format-4/encodec.onnx"])
def test_the_codebooks_stay(source: str, precision: str, tmp_path: Path) -> None:
    """The codebooks stay bit for bit, in a table that no node uses and that is no output, for every source format."""
    tokens = np.random.default_rng(0).integers(1024, size=(2, 50))
    quantize(DATA / source, tmp_path / "m.onnx", precision=precision, calibration=[tokens], report=lambda line: None)
    given, graph = (onnx.load(path).graph for path in (DATA / source, tmp_path / "m.onnx"))
    (before,), (after,) = ([t for t in g.initializer if t.name == "codebooks"] for g in (given, graph))
    assert after.data_type == onnx.TensorProto.FLOAT
    assert np.array_equal(numpy_helper.to_array(after), numpy_helper.to_array(before))
    assert not [node.name for node in graph.node if "codebooks" in (*node.input, *node.output)]
    assert not [output.name for output in graph.output if output.name == "codebooks"]
    features = VocosONNX(DATA / source).codes_to_features(tokens)
    assert np.array_equal(VocosONNX(tmp_path / "m.onnx").codes_to_features(tokens), features)


def test_it_needs_no_torch(tmp_path: Path) -> None:
    """Quantising in a process that cannot import torch writes the same file as in one that can."""
    features = np.random.default_rng(0).uniform(-8, 2, (8, 50)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    code = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("torch is not here", name="torch")
sys.meta_path.insert(0, NoTorch())
import numpy
from vocos_onnx_export import quantize
model, features, *outputs = sys.argv[1:]
for output in outputs:
    precision = output.removesuffix(".onnx").split("-")[-1]
    quantize(model, output, precision=precision, calibration=[numpy.load(features)], report=lambda line: None)
"""
    outputs = [tmp_path / f"without-{precision}.onnx" for precision in ("int8", "float16")]
    command = [sys.executable, "-c", code, str(DATA / "mel.onnx"), str(tmp_path / "features.npy"), *map(str, outputs)]
    subprocess.run(command, check=True)
    for output in outputs:
        expected = tmp_path / output.name.replace("without", "with")
        precision = expected.stem.split("-")[-1]
        quantize(DATA / "mel.onnx", expected, precision=precision, calibration=[features], report=lambda line: None)
        assert output.read_bytes() == expected.read_bytes()


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32)))
@example(np.array([0.0, -0.0, 1e-45, -1e-45, 5.96e-8, 65504, 65519, 1e30, np.inf, -np.inf, np.nan], np.float32))
def test_float16_is_that_of_the_conversion(array: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = convert_np_to_float16(array)
    assert to_float16(array).tobytes() == np.asarray(expected).tobytes()


def test_a_range_that_does_not_fit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with float32 catches wrong ranges: a hundredth of the range raises an error and writes nothing."""
    ranges = quantization._ranges
    monkeypatch.setattr(
        quantization, "_ranges", lambda *a: {k: (0.01 * x, 0.01 * y) for k, (x, y) in ranges(*a).items()}
    )
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(CheckpointError, match=r"in int8 the audio is .* dB from that of float32, expected 10 dB"):
        quantize(CODEC, tmp_path / "m.onnx", report=lambda line: None)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_input(tmp_path: Path) -> None:
    tokens = np.zeros((2, 5), int)
    output = tmp_path / "m.onnx"
    for arguments, options, error, message in (
        ((CODEC, output), {"precision": "int4"}, ValueError, r"precision is 'int4', expected one of int8, float16"),
        ((CODEC, tmp_path / "no" / "m.onnx"), {}, FileNotFoundError, r"no folder .*no to write m.onnx to"),
        (("nothing.onnx", output), {}, FileNotFoundError, r"no model file nothing.onnx"),
        ((DATA / "encodec-int8.onnx", output), {}, ValueError, r"is in int8 already; take the float32 model"),
        ((CODEC, output), {"calibration": []}, ValueError, r"calibration is empty"),
        ((CODEC, output), {"calibration": [tokens[0]]}, ValueError, r"calibration has shape \(5,\), expected tokens"),
        ((CODEC, output), {"calibration": [tokens + 1024]}, ValueError, r"expected 0 to 1023"),
        ((MEL, output), {"calibration": [tokens]}, ValueError, r"this is a mel model"),
        ((CODEC + "-encoder", output), {}, ValueError, r"is an encoder"),
    ):
        with pytest.raises(error, match=message):
            quantize(*arguments, report=lambda line: None, **options)
    assert not output.exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    assert main(["quantize", str(DATA / "encodec.onnx"), "-o", str(output), "--int8"]) == 0
    out = capsys.readouterr().out
    assert "int8 against float32, 36 s of audio: SNR " in out
    assert f"wrote {output} (0.1 MB)" in out
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(1024, size=(2, 30)))
    args = [
        "quantize",
        str(DATA / "encodec.onnx"),
        "-o",
        str(output),
        "--fp16",
        "--calibrate",
        str(tmp_path / "tokens.npy"),
    ]
    before = output.read_bytes()
    assert main(args) == 2
    assert "exists, and is only replaced if you ask for that" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main([*args, "--force"]) == 0
    assert main(["info", str(output)]) == 0
    out = capsys.readouterr().out
    assert "precision: float16" in out
    folder = save(build(CONFIGS["mel-same"]), CONFIGS["mel-same"], tmp_path / "mel")
    assert main(["export", str(folder), "-o", str(output), "--int8"]) == 2
    assert main(["export", str(folder), "-o", str(output), "--int8", "-y"]) == 0
    assert VocosONNX(output).config.precision == "int8"
    with pytest.raises(SystemExit):
        main(["quantize", "m.onnx", "-o", "n.onnx", "--int8", "--fp16"])


@pytest.mark.parametrize("precision", ["float32", "int8", "float16"])
@pytest.mark.parametrize("name", ["encodec", "mel"])
def test_both_branches(name: str, precision: str, tmp_path: Path) -> None:
    """Both branches of the graph share their weights, which the file stores once, and compute the same audio."""
    path, rng = DATA / f"{name}.onnx", np.random.default_rng(0)
    given = rng.integers(1024, size=(2, 300)) if name == "encodec" else rng.normal(-3, 1, (8, 300)).astype(np.float32)
    if precision != "float32":
        path = tmp_path / "m.onnx"
        quantize(DATA / f"{name}.onnx", path, precision=precision, calibration=[given], report=lambda line: None)
    proto = onnx.load(path)
    (network,) = (node for node in proto.graph.node if node.op_type == "If")
    assert not [attribute.name for attribute in network.attribute if attribute.g.initializer]
    whole, step = (set(_used(attribute.g)) for attribute in network.attribute)
    values = [
        (tensor.name, tensor.data_type, numpy_helper.to_array(tensor).tobytes()) for tensor in proto.graph.initializer
    ]
    large = {name for name, _, data in values if len(data) > 100 and name != "codebooks"}
    assert large
    assert large & whole == large & step == large
    assert len({data for name, _, data in values if name in large}) == len(large)
    if precision != "float32":
        kind = onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT16
        assert [kind for _, found, _ in values if found == kind]
    inside = VocosONNX(path, threads=2, providers=["cpu"])
    inside._plan = Plan(inside.network.reach, None)
    expected = inside.decode(given, 0 if name == "encodec" else None)
    for threads in (1, 2, 3):
        vocos = VocosONNX(path, threads=threads, providers=["cpu"])
        vocos._plan = Plan(vocos.network.reach, threads, waiting=10.0)  # always split into spans
        found = vocos.decode(given, 0 if name == "encodec" else None)
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def _used(graph: onnx.GraphProto) -> list[str]:
    return [name for node in graph.node for name in node.input]
