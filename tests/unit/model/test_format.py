"""The file format: files of every version are read, including their codebooks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_bytes as ob
from tests.helpers import DATA
from tests.onnx_bytes import field, node, tensor, value
from vocos_onnx import EncodecONNX, EncoderConfig, ModelConfig, VocosONNX
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.model.config import FORMAT
from vocos_onnx.model.onnx_bytes import ALIGNMENT
from vocos_onnx.model.onnx_file import STEP, WHOLE, read_model

CPU = ["CPUExecutionProvider"]
FORMAT_4 = DATA / "format-4"
FILES_4 = sorted(path.stem for path in FORMAT_4.glob("*.onnx"))
OLD = [(version, path.stem) for version in (4, 5) for path in sorted((DATA / f"format-{version}").glob("*.onnx"))]
CURRENT = sorted([*DATA.glob("*.onnx")])
NETWORK = ob.graph([*ob.NETWORK], [ob.WEIGHT], [ob.FEATURES], [ob.SPECTRUM])


@pytest.fixture(scope="module")
def results() -> dict[str, np.ndarray]:
    """Inputs and outputs of version 0.4.0; tests/data/format-4/make.py stored them."""
    with np.load(FORMAT_4 / "results.npz") as archive:
        return dict(archive)


def close(given: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    assert (given.dtype, given.shape) == (expected.dtype, expected.shape)
    return bool(np.abs(given - expected).max() <= tolerance * np.abs(expected).max())


def test_there_is_a_file_of_each_kind() -> None:
    assert {path.stem for path in CURRENT} == {*FILES_4, "wavenext"}  # no older format has wavenext
    kinds = {key for name in FILES_4 for key in read_model(FORMAT_4 / f"{name}.onnx").metadata}
    assert kinds == {"vocos_onnx", "vocos_onnx_encoder"}


@pytest.mark.parametrize(("version", "name"), OLD)
def test_files_of_older_formats(tmp_path: Path, results: dict[str, np.ndarray], version: int, name: str) -> None:
    path = DATA / f"format-{version}" / f"{name}.onnx"
    (text,) = read_model(path).metadata.values()
    assert json.loads(text)["format"] == version
    given = results[f"{name}.input"]
    if name.startswith("encoder"):
        encoder = EncodecONNX(path, providers=CPU, threads=1)
        assert close(encoder.embed(given, encoder.sample_rate), results[f"{name}.embeddings"], 1e-6)
        tokens = encoder.encode(given, encoder.sample_rate, encoder.bandwidths[-1])
        assert np.array_equal(tokens, results[f"{name}.tokens"])
    else:
        unclipped = tmp_path / "model.onnx"
        unclipped.write_bytes(path.read_bytes().replace(b'"clip_audio": true', b'"clip_audio":false'))
        vocos = VocosONNX(unclipped, providers=CPU, threads=1)
        assert close(vocos.decode(given), results[f"{name}.audio"], 1e-5 if name.endswith("int8") else 1e-6)


@pytest.mark.parametrize(("version", "name"), OLD)
def test_the_current_format_is_the_same_network(version: int, name: str) -> None:
    """The description and the weights are the same; an older file has one graph, and its reach is unknown."""
    old, new = (read_model(folder / f"{name}.onnx") for folder in (DATA / f"format-{version}", DATA))
    ((key, text),) = new.metadata.items()
    assert json.loads(text)["format"] == FORMAT
    kind = EncoderConfig if key == "vocos_onnx_encoder" else ModelConfig
    found, expected = kind.from_json(text), kind.from_json(old.metadata[key])
    assert kind.from_json(text).to_json() == text
    expected = dataclasses.replace(expected, source=found.source)
    if isinstance(found, ModelConfig):
        assert isinstance(expected, ModelConfig)
        assert (found.reach > 0, expected.reach) == (True, 0)
        expected = dataclasses.replace(expected, reach=found.reach)
        quality = None if found.quality is None else dataclasses.replace(found.quality, snr_db=0.0, pesq_wb=None)
        found, expected = (dataclasses.replace(config, quality=quality) for config in (found, expected))
    assert found == expected
    assert not old.has_branches
    assert old.graphs[WHOLE] == old.graphs[STEP]
    assert new.has_branches == (key == "vocos_onnx" and not name.startswith("imdct-cos"))
    if old.codebooks is None:
        assert new.codebooks is None
    else:
        assert new.codebooks is not None
        assert np.array_equal(old.codebooks, new.codebooks)
        assert old.codebooks.tobytes() not in old.graphs[STEP]
        assert "codebooks" not in old.weights


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.stem)
def test_weights_are_aligned(path: Path) -> None:
    """Aligned weights need no copy."""
    found = read_model(path)
    arrays = [*found.weights.values(), *([] if found.codebooks is None else [found.codebooks])]
    assert arrays or path.stem == "imdct-cos"  # whose weights are all small
    assert all(array.ctypes.data % ALIGNMENT == 0 and not array.flags.owndata for array in arrays)


# The table of codebooks in a tiny token model


TABLE = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
CODES = np.array([[1, 2, 3], [4, 5, 6]])
CONFIG = {
    **ob.CONFIG,
    "mel": None,
    "encodec": {
        "codec": "tiny", "num_codebooks": 2, "codebook_size": 16, "bandwidths": [1.0, 2.0],
        "codebooks_per_bandwidth": [1, 2], "codebooks_sha256": fingerprints(TABLE)[-1],
    },
}  # fmt: skip
RAW = tensor("codebooks", TABLE)


def write(folder: Path, *more: bytes, config: dict[str, Any] = CONFIG) -> Path:
    """Write a model with extra fields in its graph."""
    path = folder / "model.onnx"
    path.write_bytes(ob.model(NETWORK + b"".join(more), json.dumps(config)))
    return path


def floats(array: np.ndarray) -> bytes:
    """A tensor with its values in a packed field of floats."""
    sizes = b"".join(field(1, size) for size in array.shape)
    return sizes + field(2, ob.FLOAT) + field(4, array.tobytes()) + field(8, "codebooks")


@pytest.mark.parametrize("table", [RAW, floats(TABLE)])
@pytest.mark.parametrize("output", [b"", field(12, value("codebooks", TABLE.shape))])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_where_the_codebooks_are(tmp_path: Path, table: bytes, output: bytes, at_the_end: bool) -> None:
    path = write(tmp_path, field(5, table), output)
    if not at_the_end:
        path.write_bytes(ob.model(output + field(5, table) + NETWORK, json.dumps(CONFIG)))
    file = read_model(path)
    assert file.codebooks is not None
    assert np.array_equal(file.codebooks, TABLE)
    assert file.graphs[STEP] == ob.model(NETWORK, json.dumps(CONFIG))
    assert not file.weights  # this network's weights are all small
    vocos = VocosONNX(path)
    expected = TABLE[0][CODES[0]] + TABLE[1][CODES[1]]
    assert np.array_equal(vocos.codes_to_features(CODES)[0], expected.T)
    assert np.array_equal(vocos.decode(CODES), vocos.decode(expected.T))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((field(5, RAW), field(5, RAW)), "'codebooks' is made twice"),
        ((field(5, RAW), field(1, node("Abs", ["features"], ["codebooks"])), field(12, value("codebooks", [2, 16, 8]))),
         "'codebooks' is made twice"),
        ((field(5, RAW), field(1, node("Abs", ["codebooks"], ["x"]))), "'Abs' before what goes into it, 'codebooks'"),
        ((field(5, tensor("codebooks", TABLE.astype(np.float16))),), "has codebooks of type float16, which no model"),
        ((field(5, tensor("codebooks", TABLE.astype(np.int8))),), "has codebooks of type int8, which no model"),
        ((field(5, tensor("codebooks", TABLE[:1])),), r"its codebooks are of shape \(1, 16, 8\), expected of"),
        ((field(5, tensor("codebooks", TABLE.ravel())),), r"its codebooks are of shape \(256,\), expected of shape"),
        ((field(5, tensor("codebooks", TABLE, [2, 16, 9])),), "of the shape .* has 256 values"),
        ((field(5, tensor("codebooks", TABLE + 1)),), "the model's codebooks have the fingerprint"),
        ((), "its codebooks are none, expected of shape"),
        ((field(5, tensor("table", TABLE)), field(1, node("Identity", ["table"], ["codebooks"])),
          field(12, value("codebooks", [2, 16, 8]))), "its outputs are .*codebooks"),
    ],
)  # fmt: skip
def test_codebooks_that_no_export_writes(tmp_path: Path, more: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.onnx.* {message}|^{message}"):
        VocosONNX(write(tmp_path, *more))


def test_codebooks_of_single_floats(tmp_path: Path) -> None:
    """Unpacked floats, which no writer of this version of Protocol Buffers produces, raise an error."""
    one = field(1, 1) + field(1, 2) + field(1, 1) + field(2, ob.FLOAT) + field(4, 1.0) + field(4, 2.0)
    with pytest.raises(ValueError, match="has codebooks whose values are not in one piece, which no model"):
        VocosONNX(write(tmp_path, field(5, one + field(8, "codebooks"))))


def test_codebooks_of_a_mel_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contradicts the graph: its codebooks are of shape .*, expected none"):
        VocosONNX(write(tmp_path, field(5, RAW), config=ob.CONFIG))


@pytest.mark.parametrize(
    "data",
    [
        ob.model(NETWORK, json.dumps({**ob.CONFIG, "format": FORMAT + 1})),
        ob.model(NETWORK, json.dumps({"format": FORMAT + 1, "new": 1})),
        ob.tiny([node("New", ["features"], ["x"])], metadata=json.dumps({"format": FORMAT + 1})),
        ob.tiny(metadata=json.dumps({"format": FORMAT + 1})) + field(26, b""),
    ],
)
def test_files_of_a_newer_format(tmp_path: Path, data: bytes) -> None:
    """Even if such a file has unknown content, the error says to upgrade, not to export again."""
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    message = rf"model\.onnx: the metadata has format {FORMAT + 1}, and this version of vocos-onnx reads formats 4 to "
    with pytest.raises(ValueError, match=message + rf"{FORMAT}: upgrade it with pip install --upgrade vocos-onnx$"):
        VocosONNX(path)


def test_the_encoder_of_a_spectrum() -> None:
    encoder = EncodecONNX(DATA / "encoder-spectrum.onnx", providers=CPU, threads=1)
    with np.load(DATA / "encoder-spectrum.npz") as golden:
        for samples in (1, 15, 16, 17, 2500):
            embeddings = encoder.embed(golden[f"audio_{samples}"], encoder.sample_rate)[0]
            assert close(embeddings, golden[f"embeddings_{samples}"], 1e-5)
