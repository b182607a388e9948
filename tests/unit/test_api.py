"""The Python interface: errors name a wrong argument and its remedy; any dtype; warnings, repr and pickles."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_bytes as ob
from tests.helpers import DATA, ROOT, found
from vocos_onnx import EncodecONNX, Tokens, VocosONNX, load_audio, load_tokens, once, save_audio, save_tokens

MEL_MODEL = "VocosONNX('vocos-mel-24khz-small')"
CODEC_MODEL = "VocosONNX('vocos-codec-24khz')"
TO_VOCODER = "vocos-onnx convert charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx"
TO_ENCODER = "vocos-onnx convert facebook/encodec_24khz -o encodec_24khz.onnx"


@pytest.fixture(scope="module")
def bundled_mel() -> VocosONNX:
    return VocosONNX("vocos-mel-24khz-small", threads=1)


@pytest.fixture(scope="module")
def codec() -> VocosONNX:
    return VocosONNX(threads=1)


@pytest.fixture(scope="module")
def encoder() -> EncodecONNX:
    return EncodecONNX(threads=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with checkpoints of all kinds that have only the right file names and first bytes."""
    monkeypatch.chdir(tmp_path)
    torch_zip, safetensors = b"PK\x03\x04" + bytes(60), (2).to_bytes(8, "little") + b"{}" + bytes(8)
    for name, data in {
        "official/config.yaml": b"feature_extractor: {}\n",
        "official/pytorch_model.bin": torch_zip,
        "ours/config.yaml": b"feature_extractor: {}\n",
        "ours/pytorch_model.bin": torch_zip,
        "ours/encoder.safetensors": safetensors,
        "meta/config.json": b'{"model_type": "encodec"}',
        "meta/model.safetensors": safetensors,
        "alone/my run.ckpt": torch_zip,
        "pickled.bin": pickle.dumps({"state_dict": {}}),
        "encodec_24khz-d7cc33bc.th": torch_zip,
        "empty/notes.txt": b"nothing",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data)
    return tmp_path


# arguments in place of a model

HUB = r"no model file .*\. If that is an id on the Hugging Face hub, pass it as text: {}\('{}'\)"
AS_VOCODER = r"a vocoder \(to audio\), as this is one, is converted with: {} and opened with VocosONNX; .*" + TO_ENCODER


@pytest.mark.parametrize(
    ("given", "as_model", "as_encoder"),
    [
        (
            "https://huggingface.co/charactr/vocos-encodec-24khz/tree/main",
            r"^no model file https://hugg\S+/tree/main, which is .* id alone, VocosONNX\('charactr/vocos-encodec-24k",
            r"pass the id alone, EncodecONNX\('charactr/vocos-encodec-24khz'\)$",
        ),
        (
            "vocos-encodec-24khz",
            r"24khz; did you mean charactr/vocos-encodec-24khz\?$",
            r"did you mean charactr/vocos-e",
        ),
        (
            "encodec_24khz",
            r"no model file encodec_24khz; did you mean facebook/encodec_24khz\?$",
            "mean facebook/encod",
        ),
        (Path("acme/speech"), HUB.format("VocosONNX", "acme/speech"), HUB.format("EncodecONNX", "acme/speech")),
        (
            "official",
            None,  # it is converted
            r"^official is a vocoder, tokens or mels to audio, not an encoder: open it with VocosONNX; encoders are '",
        ),
        ("ours", None, r"convert it with: vocos-onnx export-encodec ours -o ours\.onnx$"),
        ("meta", r"^meta is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=$", None),
        (
            "empty",
            r"the folder empty holds no model: expected model\.onnx, or a checkpoint, config\.yaml or config\.json and",
            r"the folder empty holds no model: expected encoder\.onnx, or a checkpoint, config\.json and model\.safe",
        ),
        (
            "official/pytorch_model.bin",
            None,
            r"a zip archive, as torch\.save writes it.*nothing in it was run\. If it is a checkpoint, .*"
            r"vocos-onnx convert official/pytorch_model\.bin -o official\.onnx and opened with VocosONNX",
        ),
        (
            "official/config.yaml",
            r"is the config of a checkpoint, not a model: convert it with: vocos-onnx convert official -o offici",
            r"is the config of a checkpoint, .*vocos-onnx convert official -o official\.onnx and opened",
        ),
        (
            "meta/model.safetensors",
            r"model\.safetensors is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=$",
            None,
        ),
        (
            "alone/my run.ckpt",
            r"convert it with: vocos-onnx convert 'alone/my run\.ckpt' --config CONFIG\.yaml -o my-run\.onnx$",
            r"vocos-onnx convert 'alone/my run\.ckpt' -o my-run\.onnx$",
        ),
        (
            "encodec_24khz-d7cc33bc.th",
            r"convert encodec_24khz-d7cc33bc\.th -o encodec_24khz-d7cc33bc\.onnx and passed as encoder=",
            None,
        ),
        ("pickled.bin", r"a Python pickle.*nothing in it was run\..* convert pickled\.bin", r"a Python pickle"),
        (
            "absent.safetensors",
            r"no file absent\.safetensors, and a checkpoint is not opened as it is: .* convert absent",
            "no file",
        ),
        (
            "absent.onnx",
            r"make one with: vocos-onnx convert CHECKPOINT -o absent\.onnx, or .* 'vocos-codec-24khz' or",
            "convert",
        ),
        (
            "absent.npz",
            r"make one with: vocos-onnx convert CHECKPOINT -o MODEL\.onnx",
            r"convert CHECKPOINT -o MODEL\.onnx",
        ),
        (
            b"official.onnx",
            r"a model is given as the bytes b'official\.onnx', expected a path: pass 'official\.onnx'",
            "an encoder is",
        ),
        (bytes(5000), r"given as 5000 bytes, expected a path: .*write_bytes", r"given as 5000 bytes, expected a path"),
        (
            5,
            r"a model is given as 5, expected the path of an \.onnx file or 'vocos-codec-24khz'",
            "encoder is given as 5",
        ),
        ("", "a model is given as '', expected the path", "an encoder is given as ''"),
        ("x" * 5000, "no model file 'xxx.*: that is too long for a path", "too long for a path"),
        ("a\0b", "a model is given as 'a.x00b', expected the path", "an encoder is given as"),
        ({"a": 1}, "a model is given as {'a': 1}, expected the path", "an encoder is given as"),
        (
            "vocos-codec-24khz-encoder",
            r"is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=",
            None,
        ),
        (
            "vocos-codec-24khz",
            None,
            r"^vocos-codec-24khz is a vocoder, .*, not an encoder: open it with VocosONNX; enco",
        ),
    ],
)
def test_where_a_model_belongs(folder: Path, codec: VocosONNX, given: Any, as_model: Any, as_encoder: Any) -> None:
    ways: list[tuple[Any, Callable[[], object]]] = [(as_model, lambda: VocosONNX(given))]
    ways += [(as_encoder, lambda: EncodecONNX(given)), (as_encoder, lambda: VocosONNX(encoder=given))]
    if isinstance(given, str) and given and "\0" not in given:
        ways.append((as_model, lambda: VocosONNX(Path(given) if "://" not in given else given)))
    if as_encoder is not None and not isinstance(given, Path):
        ways.append((as_encoder, lambda: codec(np.zeros(1000), 24_000, encoder=given)))
    for expected, way in ways:
        if expected is not None and not (
            isinstance(given, str) and given.startswith("vocos-codec") and way is ways[-1][1]
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=expected):
                way()


@pytest.mark.parametrize("given", ["official", "ours", "official/pytorch_model.bin"])
def test_a_checkpoint_that_is_converted(folder: Path, given: str) -> None:
    """The fixture's checkpoints are recognised by names and first bytes, so their conversion starts and fails."""
    pytest.importorskip("vocos_onnx.convert.vocoder")
    ways: list[Callable[[], object]] = [lambda: VocosONNX(given), lambda: VocosONNX(Path(given))]
    ways.append(lambda: VocosONNX.from_pretrained(given))
    for way in ways:
        with pytest.raises(ValueError, match=r"official|ours|pytorch_model"):
            way()


def test_ids_of_the_hub_without_its_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    ways: list[Callable[[], object]] = [lambda: VocosONNX("acme/speech"), lambda: EncodecONNX("acme/speech")]
    ways += [lambda: VocosONNX.from_pretrained("acme/speech"), lambda: VocosONNX("charactr/vocos-encodec-24khz")]
    for way in ways:
        with pytest.raises(
            ImportError, match=r"downloads from the hub need huggingface-hub: pip install 'vocos-onnx"
        ) as e:
            way()
        assert len(traceback.format_exception(e.value)) < 20  # one exception, without a chain
        assert "another exception" not in "".join(traceback.format_exception(e.value))


def test_objects_where_paths_belong(codec: VocosONNX, encoder: EncodecONNX) -> None:
    for given in (codec, encoder):
        with pytest.raises(ValueError, match=r"a model is given as an object of .*, expected a path; .*as encoder="):
            VocosONNX(given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"VocosONNX is given as an encoder, expected an EncodecONNX or the path"):
        VocosONNX(encoder=codec)  # type: ignore[arg-type]


def test_from_pretrained(folder: Path) -> None:
    for given, message in (
        (
            "meta",
            r"^meta is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=$",
        ),
        ("pickled.bin", "pickled.bin is a file without a config: put config.yaml or config.json beside it"),
        (
            "empty/notes.txt",
            r"is a file, not a folder or a repository: pass it to the class itself, VocosONNX\('empty/",
        ),
        ("empty", r"no model\.onnx in the folder empty; \.onnx files there: none$"),
        (DATA, r"no model\.onnx in the folder .*pass one of them as filename="),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            VocosONNX.from_pretrained(given)
    with pytest.raises(FileNotFoundError, match=r"no encoder\.onnx in the folder ours; .*export-encodec ours -o ours"):
        EncodecONNX.from_pretrained("ours")
    with pytest.raises(ValueError, match="a model is given as 300 bytes"):
        VocosONNX.from_pretrained(bytes(300))  # type: ignore[arg-type]


def test_bundled_models_from_pretrained() -> None:
    """Bundled models open by name; other options raise an error, which says how to get another precision."""
    for name, model in (("vocos-codec-24khz", VocosONNX), ("vocos-codec-24khz-encoder", EncodecONNX)):
        opened = model.from_pretrained(name, threads=1)
        assert f" {name}: " in repr(opened)
        assert repr(pickle.loads(pickle.dumps(opened))) == repr(opened)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"precision": "int8"}, r"is 'int8', and vocos-codec-24khz is in float32: leave precision out, or make one "
            r"with: vocos-onnx quantize vocos-codec-24khz -o vocos-codec-24khz-int8\.onnx --int8$"),
        ({"precision": "float16"}, r"quantize vocos-codec-24khz -o vocos-codec-24khz-fp16\.onnx --fp16$"),
        ({"revision": "main"}, "^revision is 'main', and vocos-codec-24khz is bundled, one file: leave it out$"),
        ({"filename": "a.onnx"}, r"^filename is 'a\.onnx', and vocos-codec-24khz is bundled"),
        ({"sha256": "0" * 64}, "has the sha256 .*, expected 0+: .*leave sha256 out"),
    )  # fmt: skip
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            VocosONNX.from_pretrained("vocos-codec-24khz", **options)
    int8 = str(DATA / "encodec-int8.onnx")
    with pytest.raises(
        FileNotFoundError, match=r"which opens it as it is; vocos-onnx quantize \S*encodec-int8\.onnx -o "
    ):
        VocosONNX.from_pretrained(int8, precision="float16")


def test_the_precision_that_the_constructor_takes() -> None:
    int8 = str(DATA / "encodec-int8.onnx")
    opened = VocosONNX(int8, precision="int8")
    assert repr(pickle.loads(pickle.dumps(opened))) == repr(opened) == repr(VocosONNX(int8))
    refused: tuple[tuple[str | None, str, str], ...] = (
        (
            int8,
            "float32",
            r"is 'float32', and \S*encodec-int8\.onnx is in int8: leave precision out, or name ",
        ),
        (None, "int8", r"and vocos-codec-24khz is in float32: .* vocos-onnx quantize vocos-codec-24khz -o \S* --int8$"),
        (None, "int4", "^precision is 'int4', expected one of float32, int8, float16$"),
    )
    for model, precision, message in refused:
        with pytest.raises(ValueError, match=message):
            VocosONNX(model, precision=precision)


def test_other_files_where_a_model_belongs(folder: Path) -> None:
    save_audio("a.wav", np.zeros(100), 24_000)
    save_audio("a.flac", np.zeros(100), 24_000)
    np.save("t.npy", np.zeros((2, 5), int))
    save_tokens("t.npz", np.zeros((2, 5), int))
    for name, message in (
        ("a.wav", r"a.wav is audio \(WAV\), .*VocosONNX\(\)\(load_audio\('a.wav', 24000\), 24000\)"),
        ("a.flac", r"a.flac is audio \(FLAC\)"),
        ("t.npy", r"t.npy is a \.npy file of numpy, .*VocosONNX\(MODEL\)\.decode\(load_tokens\('t.npy'\)\)"),
        ("t.npz", r"t.npz is a zip archive.*VocosONNX\(MODEL\)\.decode\(load_tokens\('t.npz'\)\)"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            VocosONNX(name)
        if name.startswith("a."):
            code = found(r"VocosONNX\(\).*\)$", str(caught.value))[0]
            assert eval(code, {"VocosONNX": VocosONNX, "load_audio": load_audio}).dtype == np.float32


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize("outputs", [("mag", "x", "y"), ("1", "2", "3"), ("waveform",)])
def test_a_vocos_of_another_exporter(tmp_path: Path, opset: int, outputs: Any) -> None:
    """The error fits both files with operators too old for the check and files that pass it."""
    sizes: list[int | str] = ["batch", 100, "frames"]
    nodes = [ob.node("Identity", ["mels"], [name]) for name in outputs]
    graph = ob.graph(nodes, [], [ob.value("mels", sizes)], [ob.value(name, sizes) for name in outputs])
    path = tmp_path / "mel_spec_22khz_univ.onnx"
    path.write_bytes(ob.model(graph, "vocos", opsets=[("", opset)], key="model_type"))
    what = r"is a Vocos model of another exporter \(mels in, .* out\), "
    too_old = rf"{what}and has operators of version 11 .*vocos-onnx convert"
    ways: list[tuple[Any, str]] = [
        (VocosONNX, too_old if opset == 11 else r"does not say its sample_rate, .*: pass sample_rate="),
        (EncodecONNX, too_old if opset == 11 else rf"{what}not an encoder: open it with VocosONNX"),
    ]
    for make, message in ways:
        with pytest.raises(ValueError, match=message):
            make(path)


# arguments of decode


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "bundled_mel",
            np.zeros((20, 100)),
            r"shape \(20, 100\), expected \(100, T\) .*look like \(T, C\): pass mels\.T, or "
            r'mels_from="f5" or "mlx" \("zipvoice" if they are those of ZipVoice, scaled by 0\.1\)$',
        ),
        (
            "bundled_mel",
            np.zeros((3, 20, 100)),
            r'look like \(B, T, C\): pass mels\.transpose\(0, 2, 1\), or mels_from="f5" or "mlx"',
        ),
        ("bundled_mel", np.zeros((1, 1, 100, 20)), r"; pass features\[0\]$"),
        ("bundled_mel", np.zeros(100), r"; pass one frame as features\[:, None\]$"),
        ("bundled_mel", np.zeros((128, 20)), r"EnCodec, which VocosONNX\('charactr/vocos-encodec-24khz'\) d"),
        ("bundled_mel", np.zeros((64, 20)), "64 channels are .* the bundled codec: " + re.escape(CODEC_MODEL)),
        (
            "bundled_mel",
            np.zeros((2, 80, 20)),
            r"VocosONNX\('BSC-LT/vocos-mel-22khz'\) decodes them at 22,050 Hz, VocosONNX\('patriotyk",
        ),
        ("bundled_mel", np.zeros(24_000), r"if it is audio, copy-synthesis is vocos\(audio, sample_rate\)"),
        ("bundled_mel", np.zeros((2, 24_000)), r"if it is audio, copy-synthesis is vocos\(audio, sample_rate\)"),
        ("bundled_mel", np.zeros((20, 100), int).T, rf"mel model.*tokens need .*{re.escape(CODEC_MODEL)}"),
        (
            "bundled_mel",
            np.zeros((100, 20), complex),
            r"dtype complex128, expected floats; log-mels are real, and a complex spectrum",
        ),
        ("bundled_mel", np.zeros((100, 20), object), r"dtype object, expected floats; .*\.astype\(numpy\.float32\)"),
        ("codec", np.full((100, 20), 0.5), "100 channels are those of the mels of " + re.escape(MEL_MODEL)),
        ("codec", np.full((20, 100), 0.5), "100 channels are those of the mels of " + re.escape(MEL_MODEL)),
        ("codec", np.zeros((100, 20)), "100 channels are those of the mels of " + re.escape(MEL_MODEL)),
        ("codec", np.zeros((3, 20, 100)), "100 channels are those of the mels of " + re.escape(MEL_MODEL)),
        ("codec", np.zeros((20, 64)), r"look like \(T, C\): pass features\.T$"),
        (
            "codec",
            np.full((64, 20), 0.5, object),
            r"features have dtype object, expected floats; .*astype\(numpy\.float32\)",
        ),
        ("codec", np.full((20, 64), 0.5), r"look like \(T, C\): pass features\.T$"),
        (
            "codec",
            np.full((8, 2000), 7.0),
            r"tokens must be integers, not float64: if they are tokens, .*astype\(numpy\.int64\)",
        ),
        ("codec", np.full(5000, 0.5), r"if it is audio, copy-synthesis is vocos\(audio, sample_rate\)"),
        ("bundled_mel", np.zeros((100, 20), "m8[ns]"), r"dtype timedelta64\[ns\], expected floats"),
        ("bundled_mel", np.zeros((100, 20), "M8[s]"), r"dtype datetime64\[s\], expected floats"),
        ("bundled_mel", np.zeros((100, 20), [("a", int)]), r"dtype \[\('a', '<i8'\)\], expected floats"),
        (
            "bundled_mel",
            np.zeros((100, 20), "V2"),
            r"dtype \|V2, .*\.view\(ml_dtypes\.bfloat16\)\.astype\(numpy\.float32\)",
        ),
        ("bundled_mel", np.zeros((100, 20), "S3"), r"dtype \|S3, expected floats$"),
        ("bundled_mel", np.zeros((100, 20), bool), r"dtype bool, expected floats"),
        ("codec", "tokens.npz", r"the path 'tokens\.npz' is given, .*pass load_tokens\('tokens\.npz'\)"),
        ("codec", Path("tokens.npz"), r"pass load_tokens\('tokens\.npz'\)"),
        ("codec", b"\x93NUMPY....", r"bytes are given \(10 of them\), .*load_tokens\(io\.BytesIO\(DATA\)\)"),
        ("codec", [[1, 2], [3]], r"cannot be read as one array: its items have different shapes or lengths"),
        (
            "codec",
            np.ma.array(np.zeros((8, 20), int), mask=[[True] + [False] * 19] * 8),
            r"masked values",
        ),
    ],
)
def test_what_decode_is_given(request: pytest.FixtureRequest, name: str, given: Any, message: Any) -> None:
    vocos = request.getfixturevalue(name)
    with pytest.raises(ValueError, match=message):
        vocos.decode(given)
    if getattr(given, "ndim", 0) == 2:
        ways: list[Callable[[], object]] = [lambda: vocos.decode([given, given]), lambda: vocos.stream().push(given)]
        ways.append(lambda: list(vocos.decode_stream([given])))
        for way in ways:
            with pytest.raises(ValueError, match=message):
                way()


def test_the_hints_work(bundled_mel: VocosONNX) -> None:
    features = np.random.default_rng(0).uniform(-8, 1, (2, 100, 20)).astype(np.float32)
    expected = bundled_mel.decode(features)
    for given in (features.transpose(0, 2, 1), features.transpose(0, 2, 1)[0], features[None]):
        with pytest.raises(ValueError) as caught:
            bundled_mel.decode(given)
        remedy = str(caught.value).rpartition("pass ")[2].partition(", or")[0]
        meant = eval(remedy, {"features": given, "mels": given})
        assert np.array_equal(
            bundled_mel.decode(meant), expected if meant.ndim == 3 else bundled_mel.decode(features[0])
        )


@pytest.mark.parametrize("given", [6.0, 6, 1.5, np.float32(12), np.int64(6)])
def test_kbps_given_as_the_id(codec: VocosONNX, given: Any) -> None:
    tokens = np.zeros((8, 20), int)
    index = codec.bandwidths.index(float(given))
    for way in (
        lambda: codec.decode(tokens, given),
        lambda: codec.stream(given),
        lambda: codec.decode([tokens], given),
    ):
        with pytest.raises(ValueError, match=rf"bandwidth_id is .*; {given:g} kbps is bandwidth_id {index}$"):
            way()


def test_the_id_given_as_kbps(codec: VocosONNX) -> None:
    for call in (
        lambda: codec(np.zeros(5000), 24_000, bandwidth=2),
        lambda: codec.resynth_stream([], 24_000, bandwidth=2),
    ):
        with pytest.raises(
            ValueError, match=r"bandwidth is 2, expected one of .*if it is an index, pass bandwidth_id=2$"
        ):
            call()


def test_the_bandwidth_in_kbps(codec: VocosONNX) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(8, 20))
    features, expected = codec.codes_to_features(tokens)[0], codec.decode(tokens)
    assert np.array_equal(codec.decode(features, bandwidth=6), expected)
    assert np.array_equal(codec.decode([tokens], bandwidth=6.0)[0], expected)
    for audio in (
        list(codec.decode_stream([features], bandwidth=6)),
        [(s := codec.stream(bandwidth=6)).push(features), s.flush()],
    ):
        np.testing.assert_allclose(np.concatenate(audio), expected, rtol=0, atol=1e-5)
    for way in (codec.decode, codec.decode_stream):
        with pytest.raises(ValueError, match=r"bandwidth is 7, expected one of 1\.5, 3, 6, 12 \(kbps\)"):
            way([tokens], bandwidth=7)
        with pytest.raises(ValueError, match=r"bandwidth \(6\) and bandwidth_id \(2\) are given; pass one"):
            way([tokens], 2, bandwidth=6)


def test_a_bandwidth_selects_the_first_codebooks(codec: VocosONNX, tmp_path: Path) -> None:
    """``bandwidth`` does so in every method, as in the command and the service; an id only conditions the network."""
    tokens = np.random.default_rng(0).integers(1024, size=(8, 3, 20))
    expected = codec.decode(tokens[:2, 0])
    assert not np.allclose(codec.decode(tokens[:, 0], 0), expected, atol=1e-3)
    for audio in (
        codec.decode(tokens[:, 0], bandwidth=1.5),
        codec.decode([tokens[:, 0]], bandwidth=1.5)[0],
        codec.decode(tokens, bandwidth=1.5)[0],
        codec.decode(tokens.swapaxes(0, 1), bandwidth=1.5, layout="bkt")[0],
        codec.decode(tokens, bandwidth=1.5, lengths=[20, 3, 4])[0],
        np.concatenate(list(codec.decode_stream([tokens[:, 0, :7], tokens[:, 0, 7:]], bandwidth=1.5))),
        asyncio.run(codec.adecode(tokens[:, 0], bandwidth=1.5)),
    ):
        np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5)
    with codec.stream_pool() as pool:
        stream = pool.open(bandwidth=1.5)
        audio = np.concatenate([stream.push(tokens[:, 0]), stream.flush()])
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5)
    for few, remedy in ((tokens[:4, 0], "pass bandwidth=3, or leave it out"), (tokens[:1, 0], "leave it out")):
        for way in (codec.decode, lambda given, bandwidth: codec.stream(bandwidth=bandwidth).push(given)):
            with pytest.raises(
                ValueError,
                match=rf"bandwidth is 12, whose tokens have 16 codebooks, and these have {len(few)} in the layout "
                rf"'kbt': {remedy}; bandwidth_id=3 decodes them as if they were of 12 kbps",
            ):
                way(few, bandwidth=12)


def test_an_id_of_another_number_of_codebooks_is_one_line_in_the_log(
    codec: VocosONNX, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An id that does not match the codebooks is decoded as upstream does, but logged."""
    tokens = np.random.default_rng(0).integers(1024, size=(16, 20))
    for way in (
        lambda: codec.decode(tokens, 0),
        lambda: codec.decode([tokens[:4], tokens], 1),
        lambda: codec.decode(tokens[None], 0, layout="bkt"),
        lambda: list(codec.decode_stream([tokens[:2]], 3)),
        lambda: codec.stream(0).push(tokens),
    ):
        monkeypatch.setattr(once, "_warned", set())
        caplog.clear()
        way()
        way()
        (line,) = caplog.messages
        assert re.search(r"tokens have \d+ codebooks .*, and bandwidth_id \d has \d+, .*: leave", line)
    monkeypatch.setattr(once, "_warned", set())
    caplog.clear()
    codec.decode(tokens[:12], 3)  # the next larger bandwidth is the best match
    codec.decode(codec.codes_to_features(tokens), 0)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, r"have 1 codebook .*: they have 2, 4, 8, 16; pass bandwidth_id 0, or another of 0 to 3$"),
        (3, r"pass tokens\[:2\] to decode the first ones of them, or bandwidth_id 1, or another of 0 to 3$"),
        (9, r"pass tokens\[:8\] to decode the first ones of them, or bandwidth_id 3, or another"),
        (12, r"pass tokens\[:8\] to decode the first ones of them, or bandwidth_id 3, or another"),
        (32, r"32 codebooks, expected 1 to 16 of them; .*: pass tokens\[:16\]$"),
    ],
)
def test_codebooks_of_no_bandwidth(codec: VocosONNX, count: int, message: str) -> None:
    tokens = np.zeros((count, 50), int)
    for way in (lambda: codec.decode(tokens), lambda: codec.decode([tokens]), lambda: codec.stream().push(tokens)):
        with pytest.raises(ValueError, match=message):
            way()
    if count > 2:
        with pytest.raises(ValueError, match=r"pass tokens\[:, :\d+\]"):
            codec.decode(tokens[None], layout="bkt")


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint8, np.float32, "list", "Tokens"])
def test_tokens_given_as_audio(codec: VocosONNX, bundled_mel: VocosONNX, encoder: EncodecONNX, kind: Any) -> None:
    codes = np.random.default_rng(0).integers(250 if kind is np.uint8 else 1024, size=(8, 300))
    given = codes.tolist() if kind == "list" else Tokens(codes) if kind == "Tokens" else codes.astype(kind)
    for call in (codec, bundled_mel, bundled_mel.features, encoder.encode, encoder.embed):
        with pytest.raises(
            ValueError, match=r"audio (is Tokens|has shape \(8, 300\) and whole numbers) .*vocos\.decode"
        ):
            call(given, 24_000)
    for stream in (
        codec.resynth_stream,
        bundled_mel.resynth_stream,
        bundled_mel.features_stream,
        encoder.encode_stream,
    ):
        with pytest.raises(ValueError, match=r"vocos\.decode\(tokens\)"):
            list(stream(iter([given]), 24_000))
    with pytest.raises(ValueError, match=r"vocos\.decode\(tokens\)"):
        list(encoder.encode_stream(Tokens(codes), 24_000))  # type: ignore[arg-type]


def test_mels_given_as_audio(codec: VocosONNX, bundled_mel: VocosONNX, encoder: EncodecONNX) -> None:
    mels = np.random.default_rng(0).uniform(-11, 2, (100, 700)).astype(np.float32)
    for call in (codec, bundled_mel, bundled_mel.features, encoder.encode):
        with pytest.raises(ValueError, match=r"audio has shape \(100, 700\) .* look like mels .*vocos\.decode\(mels\)"):
            call(mels, 24_000)


def test_audio_that_looks_a_little_like_tokens_or_mels(encoder: EncodecONNX) -> None:
    rng = np.random.default_rng(0)
    for audio in (
        np.zeros((8, 600), np.int16),
        np.full((2, 600), 3, np.int16),
        rng.normal(0, 300, (2, 600)).astype(np.int16),
        rng.integers(0, 1024, 600).astype(np.int16),
        rng.normal(0, 0.3, (100, 400)).astype(np.float32),
        rng.uniform(0, 1, (8, 600)),
    ):
        assert encoder.encode(audio, 24_000).shape[-1] == 2


def test_audio_and_rate_swapped(codec: VocosONNX, bundled_mel: VocosONNX, encoder: EncodecONNX) -> None:
    audio = np.zeros(24_000, np.float32)
    ways: list[Any] = [codec, bundled_mel, codec.resynth_stream, bundled_mel.resynth_stream]
    ways += [encoder.encode, encoder.embed, encoder.encode_stream]
    for call in [*ways, bundled_mel.features, bundled_mel.features_stream]:
        for rate, given in ((24_000, audio), (44_100.0, audio.tolist()), (np.int64(8000), "a.wav")):
            with pytest.raises(
                ValueError, match=rf"(audio|blocks) is {rate}, .*they are swapped; .* and {rate} as its sample rate"
            ):
                call(rate, given)


# dtypes


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f2", ">f4", ">f8"])
def test_every_float_type_is_features(mel: VocosONNX, dtype: str) -> None:
    features = np.random.default_rng(0).uniform(-8, 2, (8, 60)).astype(np.float16)
    expected = mel.decode(features.astype(np.float32))
    assert np.array_equal(mel.decode(features.astype(dtype)), expected)
    assert np.array_equal(mel.decode(np.asfortranarray(features.astype(dtype))[:, ::1]), expected)
    stream = mel.stream()
    audio = [stream.push(features[:, :30].astype(dtype)), stream.push(features[:, 30:]), stream.flush()]
    np.testing.assert_allclose(np.concatenate(audio), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_masked_arrays_and_subclasses(mel: VocosONNX, encodec: VocosONNX) -> None:
    features = np.random.default_rng(0).uniform(-8, 2, (8, 20)).astype(np.float32)
    assert np.array_equal(mel.decode(np.ma.array(features)), mel.decode(features))  # no element is masked
    assert np.array_equal(mel.decode(features.view(np.recarray)), mel.decode(features))
    assert np.array_equal(encodec.decode(np.ma.array([[1, 2], [3, 4]])), encodec.decode([[1, 2], [3, 4]]))


# mels that cannot be the model's

WARNS = """
import sys, warnings, numpy as np
from vocos_onnx import VocosONNX
vocos = VocosONNX("vocos-mel-24khz-small", threads=1)
audio = np.random.default_rng(0).normal(0, 0.1, 24_000) * (1 + np.sin(np.arange(24_000) / 2000))
good = vocos.features(audio, 24_000)
bad = good * 8.686
silence = np.full((100, 200), np.log(1e-7), np.float32)
def pieces(x, n):
    return [x[:, i:i + n] for i in range(0, x.shape[1], n)]
def push(chunks):
    stream = vocos.stream()
    return [stream.push(chunk) for chunk in chunks] + [stream.flush()]
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    vocos.decode(good); vocos.decode(silence); vocos.decode(bad[:, :40]); push([good, silence])
    vocos(audio, 24_000); list(vocos.resynth_stream([audio], 24_000)); vocos.decode([good[:, :60], silence])
    push(pieces(bad[:, :40], 8))
    assert not seen, seen[0].message
    WAY
    assert len(seen) == 1, seen
    vocos.decode(bad); push([bad]); vocos.decode([bad])
    assert len(seen) == 1, seen
assert seen[0].category is UserWarning
assert seen[0].filename == "<string>" and seen[0].lineno == 20, (seen[0].filename, seen[0].lineno)
assert "cannot be the mels that this model decodes: " in str(seen[0].message), seen[0].message
"""


@pytest.mark.parametrize(
    "way",
    [
        "vocos.decode(bad)",
        "vocos.decode(np.stack([silence[:, :90], bad[:, :90]]))",
        "vocos.decode([bad[:, :30], bad[:, 30:60]])",
        "vocos.decode(np.concatenate([silence] * 20 + [bad], axis=1))",
        "push([silence]); s = vocos.stream(); [s.push(c) for c in pieces(bad, 1)]",
        "list(vocos.decode_stream(pieces(bad, 7)))",
        "list(vocos.decode_stream([silence] + pieces(bad, 7)))",
        "s = vocos.stream(); s.push(bad[:, :40]); s.reset(); s.push(good); s.reset(); s.push(bad)",
        "vocos.decode([good, good, bad])",
        "vocos.decode(np.stack([good] * 8 + [bad]))",
        "vocos.decode(np.full((100, 50), 1e10))",
    ],
)
def test_one_warning_of_mels(way: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))}
    code = WARNS.replace("WAY", way)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr


# repr and pickles


def test_repr(codec: VocosONNX, bundled_mel: VocosONNX, encoder: EncodecONNX, tmp_path: Path) -> None:
    assert repr(codec) == "<VocosONNX vocos-codec-24khz: vocos_onnx_24khz, 24000 Hz, float32, CPUExecutionProvider>"
    assert repr(bundled_mel) == "<VocosONNX vocos-mel-24khz-small: mels, 24000 Hz, float32, CPUExecutionProvider>"
    assert repr(encoder) == (
        "<EncodecONNX vocos-codec-24khz-encoder: vocos_onnx_24khz, 24000 Hz, float32, CPUExecutionProvider>"
    )
    int8 = VocosONNX(DATA / "encodec-int8.onnx", threads=1)
    assert repr(int8) == "<VocosONNX encodec-int8.onnx: encodec_24khz, 24000 Hz, int8, CPUExecutionProvider>"
    name = "mo\ndel\x1b[31m.onnx" if os.name == "posix" else "model.onnx"
    shutil.copy(DATA / "mel.onnx", tmp_path / name)
    assert repr(VocosONNX(tmp_path / name)).isprintable()


def test_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encodec: VocosONNX) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(2, 30))
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "encodec.onnx", "model.onnx")
    shutil.copy(DATA / "encoder.onnx", "encoder.onnx")
    options: dict[str, Any] = {"providers": [("cpu", {})], "threads": 1}
    encoder = EncodecONNX("encoder.onnx", threads=2)
    vocos = VocosONNX("model.onnx", encoder=encoder, **options)
    data = pickle.dumps(vocos)
    assert str(tmp_path / "model.onnx").encode() in data  # the path, not the model
    assert len(data) < 2000
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for again in (
        pickle.loads(data),
        copy.deepcopy(vocos),
        copy.copy(vocos),
        pickle.loads(pickle.dumps(pickle.loads(data))),
    ):
        assert np.array_equal(again.decode(tokens), encodec.decode(tokens))
        assert again._options == options
        assert repr(again) == repr(vocos)
        audio = np.random.default_rng(0).normal(0, 0.1, 3000)
        assert np.array_equal(again(audio, 24_000, bandwidth_id=1), vocos(audio, 24_000, bandwidth_id=1))
        assert isinstance(again._analysis.encoder, EncodecONNX)
        assert again._analysis.encoder._options == {"providers": None, "threads": 2}
    codes = encoder.encode(audio, 24_000, 1.5)
    assert np.array_equal(pickle.loads(pickle.dumps(encoder)).encode(audio, 24_000, 1.5), codes)


def test_pickles_of_bundled_models(codec: VocosONNX, encoder: EncodecONNX) -> None:
    """They are pickled by name, since their path differs between installations."""
    for given in (codec, encoder, pickle.loads(pickle.dumps(codec))):
        data = pickle.dumps(given)
        assert b"vocos-codec-24khz" in data
        assert os.fsencode(ROOT) not in data
        assert repr(pickle.loads(data)) == repr(given)


def test_a_pickle_of_what_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(DATA / "encodec.onnx", path)
    vocos = VocosONNX(path, threads=1)
    data = pickle.dumps(vocos)
    shutil.copy(DATA / "mel.onnx", path)
    with pytest.raises(
        ValueError, match=r"model\.onnx has the sha256 .* not loaded; it has changed since the VocosONNX was p"
    ):
        pickle.loads(data)
    with pytest.raises(ValueError, match=r"model\.onnx has changed since it was opened, .*open the file anew"):
        pickle.dumps(vocos)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"VocosONNX was pickled with the path of its model, .*model\.onnx, and there"
    ):
        pickle.loads(data)
    with pytest.raises(FileNotFoundError, match=r"model\.onnx is gone since it was opened"):
        copy.deepcopy(vocos)


def test_another_process(encodec: VocosONNX) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(2, 30))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        name = pool.apply_async(repr, (encodec,)).get(timeout=120)
        audio = pool.apply_async(encodec.decode, (tokens,)).get(timeout=120)
    assert name == repr(encodec)
    assert np.array_equal(audio, encodec.decode(tokens))


def test_tokens_of_a_file_are_decoded_as_before(tmp_path: Path, codec: VocosONNX) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(8, 30))
    save_tokens(tmp_path / "t.npz", tokens, codec)
    assert np.array_equal(codec.decode(load_tokens(tmp_path / "t.npz")), codec.decode(tokens))
