"""Every bad input raises an error that names the value, the allowed range and the remedy."""

from __future__ import annotations

import builtins
import gzip
import importlib.metadata
import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.helpers import DATA, altered
from vocos_onnx import EncodecONNX, ModelConfig, Tokens, VocosONNX
from vocos_onnx.once import watched

MODEL = DATA / "encodec.onnx"


# model files


def test_model_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model file .*nothing\.onnx; make one with: vocos-onnx convert"):
        VocosONNX(tmp_path / "nothing.onnx")


def test_model_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the folder .* holds no model: expected model\.onnx, or a"):
        VocosONNX(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99, 0.999])
def test_model_truncated(tmp_path: Path, kept: float) -> None:
    data = MODEL.read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"short\.onnx.*(is empty|truncated|not one of vocos-onnx)"):
        VocosONNX(path)


def test_model_is_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("hello " * 100)
    with pytest.raises(ValueError, match=r"text\.onnx \(600 bytes\) is truncated, damaged or not an ONNX model"):
        VocosONNX(path)


def test_model_is_not_vocos(tmp_path: Path) -> None:
    path = altered(tmp_path, b"\x0avocos_onnx", b"\x0aother_onnx")
    with pytest.raises(
        ValueError, match=r"no Vocos model that this version reads: it takes 5 inputs, features \(float"
    ):
        VocosONNX(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'{"format": 6', b'{"format": 3', r"has format 3, and this version reads formats 4 to 6"),
        (b'{"format": 6', b'["format": 6', r"is not JSON"),
        (b'"n_fft": 1280', b'"n_fff": 1280', r"lacks n_fft"),
        (b'"codec": "', b'"codek": "', r"lacks encodec\.codec"),
        (b'"padding": "same"', b'"padding": "sane"', r"padding is 'sane', expected one of same, center"),
        (b'"head": "istft"', b'"head": "istff"', r"head is 'istff', expected one of"),
        (b'"n_fft": 1280', b'"n_fft": 12.5', r"n_fft is 12\.5, expected int"),
        (b'"n_fft": 1280', b'"n_fft": 1281', r"n_fft is 1281, expected a multiple of 2"),
        (b'"n_fft": 1280', b'"n_fft": 1278', r"contradicts the graph"),
        (b'"feature_channels": 8', b'"feature_channels": 9', r"contradicts the graph"),
        (b'"num_bandwidth_ids": 2', b'"num_bandwidth_ids": 0', r"contradicts the graph"),
        (b'"num_bandwidth_ids": 2', b'"num_bandwidth_ids": 1', r"2 bandwidths but only 1 bandwidth embeddings"),
        (b'"num_codebooks": 2', b'"num_codebooks": 3', r"contradicts the graph"),
        (b'"num_codebooks": 2', b'"num_codebooks": 1', r"codebooks_per_bandwidth is \(1, 2\), expected 1 to 1"),
        (b'"hop_length": 320', b'"hop_length": 0  ', r"hop_length is 0, expected a positive integer"),
    ],
)
def test_model_metadata(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=r"altered\.onnx: .*" + message + ".*export the checkpoint again"):
        VocosONNX(altered(tmp_path, old, new))


def test_a_newer_format(tmp_path: Path) -> None:
    """The error says to upgrade: the reader is too old, so exporting again would not help."""
    with pytest.raises(ValueError, match=r"altered\.onnx: .*has format 7, and this .* formats 4 to 6: upgrade it with"):
        VocosONNX(altered(tmp_path, b'{"format": 6', b'{"format": 7'))


CONFIG = json.loads(VocosONNX(MODEL, providers=["CPUExecutionProvider"]).config.to_json())
MEL = json.loads(VocosONNX(DATA / "mel.onnx", providers=["CPUExecutionProvider"]).config.to_json())
COS = json.loads(VocosONNX(DATA / "imdct-cos.onnx", providers=["CPUExecutionProvider"]).config.to_json())


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (CONFIG, {"colour": 1}, "unknown keys colour"),
        (CONFIG, {"mel": MEL["mel"]}, "not both encodec and mel features can be given"),
        (CONFIG, {"source": None}, "source. is None, expected an object"),
        (CONFIG, {"hop_length": 1280}, "hop_length is 1280, expected at most n_fft - 2 = 1278"),
        (CONFIG, {"num_bandwidth_ids": -1}, "num_bandwidth_ids is -1, expected 0 or more"),
        (CONFIG, {"clip_audio": 1}, "clip_audio is 1, expected bool"),
        (CONFIG, {"encodec": {**CONFIG["encodec"], "bandwidths": 6}}, "encodec.bandwidths is 6, expected a list"),
        (CONFIG, {"encodec": {**CONFIG["encodec"], "bandwidths": [6]}}, "1 bandwidths but 2 codebook counts"),
        (CONFIG, {"encodec": {**CONFIG["encodec"], "num_codebooks": 0}}, "at least one codebook"),
        (CONFIG, {"encodec": {**CONFIG["encodec"], "num_codebooks": 129}}, "129 codebooks of 1024 entries, expected"),
        (
            CONFIG,
            {"encodec": {**CONFIG["encodec"], "codebook_size": 65537}},
            "of 65537 entries, expected at most 128 of",
        ),
        (CONFIG, {"n_fft": 1 << 17}, "n_fft is 131072, expected at most 65536"),
        (MEL, {"feature_channels": 9}, "8 bands but the network takes 9 channels"),
        (MEL, {"mel": {**MEL["mel"], "hop_length": 15}}, "mel hop_length is 15 but the head's is 16"),
        (MEL, {"mel": {**MEL["mel"], "padding": "left"}}, "mel padding is 'left'"),
        (MEL, {"mel": {**MEL["mel"], "n_fft": 8}}, "mel n_fft is 8, expected at least 16"),
        (COS, {"n_fft": 34, "hop_length": 17}, "n_fft is 34, expected a multiple of 4"),
        (COS, {"hop_length": 8}, "hop_length is 8, expected half the MDCT frame of 32"),
    ],
)
def test_metadata(base: Any, change: Any, message: str) -> None:
    assert ModelConfig.from_json(json.dumps(base)).to_json() == json.dumps(base)
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_json(json.dumps({**base, **change}))


def test_metadata_is_no_object() -> None:
    with pytest.raises(ValueError, match="is not a JSON object"):
        ModelConfig.from_json("[1]")


# providers and threads


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        (["TpuExecutionProvider"], r"provider 'TpuExecutionProvider' is not in this onnxruntime, which has .*CPU"),
        ([("TpuExecutionProvider", {})], r"provider 'TpuExecutionProvider' is not in this onnxruntime"),
        ([], r"providers is \[\], expected a list of one or more of .*CPUExecutionProvider"),
        ("CPUExecutionProvider", r"providers is 'CPUExecutionProvider', expected a list"),
        ("cuda", r"providers is 'cuda', expected a list .*: pass providers=\['cuda'\]$"),
        ("GPU", r"providers is 'GPU', expected a list .*: pass providers=\['cuda'\]$"),
        (5, r"providers is 5, expected a list"),
        (["CPU"], r"provider 'CPU' is not in this onnxruntime, .*: pass 'cpu'$"),
        (["gpu"], r"provider 'gpu' is not in this onnxruntime, .*: pass 'cuda'$"),
        ([("cpuexecutionprovider", {})], r": pass 'CPUExecutionProvider'$"),
        ([([], {})], r"providers holds .*, expected a name"),
        ([1], r"providers holds 1, expected a name or a \(name, options\) pair"),
    ],
)
def test_provider(providers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VocosONNX(MODEL, providers=providers)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**9, 1.5, True, "2"])
def test_threads(threads: Any) -> None:
    with pytest.raises(ValueError, match=rf"threads is {threads!r}, expected an integer of 1 or more"):
        VocosONNX(MODEL, threads=threads)


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_threads_as_an_integer_of_numpy(kind: Any) -> None:
    assert VocosONNX(MODEL, threads=kind(1)).decode(np.zeros((2, 5), int)).size
    assert EncodecONNX(DATA / "encoder.onnx", threads=kind(1)).encode(np.zeros(5000), 24_000, 1.5).size


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An onnxruntime that claims CUDA and silently falls back to the CPU, as it does with a broken CUDA."""
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    original = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda p, o, providers: original(p, o, providers=["CPUExecutionProvider"])
    )
    return onnxruntime


@pytest.mark.parametrize("name", ["cuda", "CUDAExecutionProvider"])
def test_cuda_that_does_not_start(
    fake_cuda: ModuleType,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """onnxruntime falls back to the CPU silently; we raise an error if CUDA was requested, and warn otherwise."""
    monkeypatch.setattr(fake_cuda, "preload_dlls", lambda: print("Failed to load libcudart.so"), raising=False)
    message = r"could not start CUDAExecutionProvider and would run on CPUExecutionProvider: .*; remedy: pip "
    with pytest.raises(RuntimeError, match=message):
        VocosONNX(MODEL, providers=[name])
    with caplog.at_level("INFO", "vocos_onnx"):
        assert VocosONNX(MODEL).providers == ["CPUExecutionProvider"]  # the default uses what is available, and logs it
    warning, info = caplog.records
    assert (warning.levelname, info.levelname) == ("WARNING", "INFO")
    assert "could not start CUDAExecutionProvider: " in warning.message
    assert info.message.endswith("encodec.onnx runs on CPUExecutionProvider")
    assert capsys.readouterr().out == ""  # stdout may carry raw audio


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For each way CUDA can be missing, the error says what is installed, what is missing, and the remedy."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ValueError, match=r"provider 'cuda' is not in this onnxruntime, .* has no CUDA; remedy: pip"):
        VocosONNX(MODEL, providers=["cuda"])

    def installed(*wheels: str) -> None:
        monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"onnxruntime": list(wheels)})
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.30.0")

    installed("onnxruntime", "onnxruntime-gpu")
    with pytest.raises(
        ValueError, match=r"onnxruntime 1.30.0 and onnxruntime-gpu 1.30.0 are installed, and break each"
    ):
        VocosONNX(MODEL, providers=["cuda"])
    installed("onnxruntime-gpu")
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(
        ValueError, match=r"onnxruntime-gpu 1.30.0 is installed.* its CUDA provider does not load: .*so"
    ):
        VocosONNX(MODEL, providers=["cuda"])


@pytest.fixture
def says_cuda(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """An onnxruntime whose sessions run on the CPU but claim a GPU; returns the providers they were created with."""
    import onnxruntime

    original, made = onnxruntime.InferenceSession, []

    class OnCuda:
        def __init__(self, path: Any, options: Any, providers: Any) -> None:
            made.append(providers)
            self._session, self._providers = original(path, options, providers=["CPUExecutionProvider"]), providers

        def get_providers(self) -> list[str]:
            return [name for name, _ in self._providers]

        def get_provider_options(self) -> dict[str, dict[str, str]]:
            return {name: {"device_id": "0", **options} for name, options in self._providers}

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCuda)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    return made


def test_int8_is_for_the_cpu(says_cuda: list[object]) -> None:
    assert VocosONNX(DATA / "encodec-int8.onnx", providers=["cpu"]).providers == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match=r"encodec-int8.onnx is in int8, for the CPU, and providers is \['cuda'\]"):
        VocosONNX(DATA / "encodec-int8.onnx", providers=["cuda"])
    assert VocosONNX(DATA / "encodec-int8.onnx").providers == ["CPUExecutionProvider"]
    assert VocosONNX(MODEL).providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("providers", [["cuda"], ["CUDAExecutionProvider", "cpu"], [("cuda", {}), "cpu"]])
def test_int8_needs_no_other_installation(providers: Any) -> None:
    """An int8 model on CUDA gets the same error even if CUDA is missing; other models get the remedy for that."""
    import onnxruntime

    with pytest.raises(ValueError, match=r"encodec-int8.onnx is in int8, for the CPU, and providers is .*cuda|CUDA"):
        VocosONNX(DATA / "encodec-int8.onnx", providers=providers)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ValueError, match="remedy: pip"):
            VocosONNX(MODEL, providers=providers)


def test_options_of_cuda(says_cuda: list[object]) -> None:
    """By default there is no algorithm search at every length, no memory growth by powers of two, and no TF32."""
    options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
    assert VocosONNX(MODEL, providers=["cuda"]).network._session._device == ("cuda", 0)
    vocos = VocosONNX(MODEL, providers=[("cuda", {"device_id": "1", "use_tf32": "1"}), "cpu"])
    assert vocos.network._session._device == ("cuda", 1)
    given = {"device_id": "1", "use_tf32": "1"}
    assert says_cuda == [
        [("CUDAExecutionProvider", options)],
        [("CUDAExecutionProvider", {**options, **given}), ("CPUExecutionProvider", {})],
    ]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PK\x03\x04" + bytes(100), "a zip archive, as torch.save writes it"),
        (pickle.dumps({"a": 1}), "a Python pickle"),
        (gzip.compress(b"model", mtime=0), "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of git-lfs"),
        (b"<!DOCTYPE html><html>", "a web page or XML"),
        (b'{"error": "not found"}', "JSON"),
    ],
)
def test_other_files_called_onnx(tmp_path: Path, data: Any, what: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"model.onnx is {what}.* not an ONNX model"):
        VocosONNX(path)


def _sized(data: bytes) -> bytes:
    size, length = len(data), []
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([*length, size]) + data


def test_graphs_without_end(tmp_path: Path) -> None:
    data = b""
    for _ in range(40):  # nested graphs: a node's attribute is a graph with a node ...
        data = b"\x0a" + _sized(b"\x2a" + _sized(b"\x32" + _sized(data)))
    for _ in range(6):
        data = data + data
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + _sized(data))
    with pytest.raises(ValueError, match=r"model.onnx .*truncated, damaged or not an ONNX model"):
        VocosONNX(path)


def test_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'vocos-onnx\[cpu\]', or 'vocos-onnx\[gpu\]'"):
        VocosONNX(MODEL)


# tokens


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.full((2, 5), -1), r"the value -1, expected 0 to 1023"),
        (np.full((2, 5), 1024), r"the value 1024, expected 0 to 1023; special tokens .* must be cut off"),
        (np.full((2, 5), 2**63, np.uint64), r"the value 9223372036854775808, expected 0 to 1023"),
        (None, r"^tokens or features: None is given, expected an array$"),
        ([None], r"^tokens or features: None is among the values, expected numbers$"),
        (np.full((2, 5), None), r"None is among the values, expected numbers"),
        (np.full((2, 5), object()), r"dtype object, expected integers of 0 to 1023"),
        ([[]], r"^tokens are empty, shape \(1, 0\); expected at least one codebook, one item and one frame$"),
        (np.full((2, 5), "1"), r"dtype <U1, expected integers"),
        (np.ones((2, 5), bool), r"dtype bool, expected integers"),
        (np.ones((2, 5), complex), r"dtype complex128, expected integers"),
        (np.zeros((2, 0), int), r"tokens are empty, shape \(2, 0\)"),
        (np.zeros((0, 5), int), r"tokens are empty, shape \(0, 5\)"),
        (np.zeros((2, 0, 5), int), r"tokens are empty, shape \(2, 0, 5\)"),
        (np.zeros(5, int), r"1 dimension, shape \(5,\); expected \(codebooks, frames\)"),
        (np.int64(5), r"0 dimensions, shape \(\)"),
        (np.zeros((1, 2, 5, 1), int), r"4 dimensions, shape \(1, 2, 5, 1\)"),
        (
            np.zeros((3, 5), int),
            r"tokens of shape \(3, 5\) have 3 codebooks, expected 1 to 2 of them; .*: pass tokens\[:2\]$",
        ),
        (np.zeros((3, 1, 5), int), r"3 codebooks, expected 1 to 2 of them; .*: pass tokens\[:2\]$"),
        (np.arange(2000).reshape(2, -1), r"the value 1999, expected 0 to 1023; 976 different values are outside: "),
        (-np.arange(20).reshape(2, -1), r"the value -19, expected 0 to 1023; 19 different values are outside: "),
        (np.zeros((100, 2), int), r"100 codebooks, expected 1 to 2 .*like \(frames, codebooks\): pass tokens\.T"),
        (np.zeros((4, 2, 5), int), r"4 codebooks, expected 1 to 2 .*pass layout='bkt'"),
    ],
)
def test_tokens(encodec: VocosONNX, tokens: Any, message: str) -> None:
    for method in (encodec.decode, encodec.codes_to_features):
        with pytest.raises(ValueError, match=message):
            method(tokens)


def test_a_bad_item_of_a_list_is_numbered(encodec: VocosONNX, mel: VocosONNX) -> None:
    good = np.zeros((2, 5), int)
    for bad, message in (
        (np.full((2, 5), 1024), "item 1 of the list: tokens hold the value 1024"),
        (np.zeros((3, 5), int), r"item 1 of the list: tokens of shape \(3, 5\) have 3 codebooks"),
        (np.zeros((2, 0), int), "item 1 of the list: tokens are empty"),
        (Tokens(good, codec="other"), "item 1 of the list: these are tokens of other"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            encodec.decode([good, bad, good])
    with pytest.raises(ValueError, match=r"^item 2 of the list: features hold 40 values that are NaN"):
        mel.decode([np.zeros((8, 5)), np.zeros((8, 5)), np.full((8, 5), np.nan)])


def test_float_tokens(encodec: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"dtype float64, expected integers of 0 to 1023; .*astype"):
        encodec.codes_to_features(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"shape \(2, 5\), expected \(8, T\) .*tokens must be integers, not float64"):
        encodec.decode(np.zeros((2, 5)))


def test_layout(encodec: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"layout is 'btk', expected 'kbt' .* or 'bkt'"):
        encodec.decode(np.zeros((2, 5), int), layout="btk")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"have 4 codebooks, .*pass layout='kbt'"):
        encodec.decode(np.zeros((2, 4, 5), int), layout="bkt")


@pytest.mark.parametrize(
    ("shape", "read", "other"),
    [
        ((2, 8, 30), "a batch of 8 with 2 codebooks", "(batch, codebooks, frames), pass layout='bkt'"),
        ((8, 8, 30), "a batch of 8 with 8 codebooks", "(batch, codebooks, frames), pass layout='bkt'"),
        ((2, 30, 8), "a batch of 30 with 2 codebooks", "pass tokens.transpose(0, 2, 1) with layout='bkt'"),
        ((2, 5, 30), "", ""),
        ((8, 1, 30), "", ""),
        ((8, 3, 2), "", ""),
    ],
)
def test_tokens_whose_layout_is_not_certain(
    caplog: pytest.LogCaptureFixture, shape: tuple[int, ...], read: str, other: str
) -> None:
    """One log message appears if no layout is given and another order of the axes is equally plausible."""
    codec, tokens = VocosONNX(threads=1), np.zeros(shape, int)
    for call in (codec.decode, codec.codes_to_features):
        caplog.clear()
        with watched():
            for _ in range(2):
                call(tokens)
        assert len(caplog.messages) == bool(read)
        for message in caplog.messages:
            assert f"tokens of shape {shape} are read as (codebooks, batch, frames), {read}: if " in message
            assert message.endswith(f"{other}; layout='kbt' says that this is right")
    caplog.clear()
    with watched():
        codec.decode(tokens, layout="kbt")
        if shape[0] != shape[1]:
            codec.decode(tokens, lengths=[1] * shape[1])
        codec.decode([tokens[:, 0], tokens[:, 0]])
    assert not caplog.messages


def test_an_unknown_layout_is_refused_for_any_input(encodec: VocosONNX, mel: VocosONNX) -> None:
    """It is rejected even where it makes no difference, since it may for the next input."""
    tokens, features = np.zeros((2, 5), int), np.zeros((8, 5), np.float32)
    for vocos, given in (
        (encodec, tokens),
        (encodec, [tokens, tokens]),
        (encodec, features),
        (mel, features),
        (mel, features[None]),
        (mel, [features]),
    ):
        for layout in ("nonsense", "KBT", "", 3):
            with pytest.raises(ValueError, match=r"layout is .*, expected 'kbt' .* or 'bkt'"):
                vocos.decode(given, 0 if vocos is encodec else None, layout=layout)  # type: ignore[call-overload]
        for right in ("kbt", "bkt", None):
            vocos.decode(given, 0 if vocos is encodec else None, layout=right)


def test_codebooks_that_are_no_bandwidth(tmp_path: Path) -> None:
    """No bandwidth of this model has K = 1, so an id must be given."""
    model = VocosONNX(altered(tmp_path, b'bandwidth": [1, 2]', b'bandwidth": [2, 2]'))
    tokens = np.zeros((1, 5), int)
    with pytest.raises(
        ValueError,
        match=r"shape \(1, 5\) have 1 codebook in the layout 'kbt', and no bandwidth has as many: they have 2, 2; "
        r"pass bandwidth_id 0, or another of 0 to 1$",
    ):
        model.decode(tokens)
    with pytest.raises(ValueError, match=r"2, 2; pass layout='bkt' for the other order"):
        model.decode(np.zeros((1, 2, 5), int))
    with pytest.raises(ValueError, match=r"2, 2; pass layout='kbt' for the other order"):
        model.decode(np.zeros((2, 1, 5), int), layout="bkt")
    assert model.decode(tokens, 0).shape == (5 * 320,)


@pytest.mark.parametrize("bandwidth_id", [-1, 2, 100, np.int64(2)])
def test_bandwidth_id_out_of_range(encodec: VocosONNX, bandwidth_id: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"bandwidth_id is {bandwidth_id}, expected 0 to 1: 0 \(0\.75 kbps\), 1 \(1\.5 kbps\)"
    ):
        encodec.decode(np.zeros((2, 5), int), bandwidth_id)


@pytest.mark.parametrize("bandwidth_id", ["1", 1.0, True, [0, 1], object()])
def test_bandwidth_id_is_no_integer(encodec: VocosONNX, bandwidth_id: Any) -> None:
    with pytest.raises(ValueError, match=r"bandwidth_id is .*, expected an integer: 0 \(0\.75 kbps\)"):
        encodec.decode(np.zeros((2, 5), int), bandwidth_id)


def test_bandwidth_id_for_a_model_without(mel: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"bandwidth_id is 1, but this model is not conditioned .*leave it out"):
        mel.decode(np.zeros((8, 5), np.float32), 1)


def test_bandwidth_id_missing(encodec: VocosONNX) -> None:
    with pytest.raises(ValueError, match=r"bandwidth_id is missing, and features do not imply one; pass one of 0 \("):
        encodec.decode(np.zeros((8, 5), np.float32))


# features


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((7, 5), r"shape \(7, 5\), expected \(8, T\) or \(B, 8, T\)$"),
        ((5, 8), r"shape \(5, 8\), expected \(8, T\)"),
        ((8,), r"shape \(8,\), expected"),
        ((1, 1, 8, 5), r"shape \(1, 1, 8, 5\), expected"),
        ((), r"shape \(\), expected"),
        ((8, 0), r"features are empty, shape \(8, 0\)"),
        ((0, 8, 5), r"features are empty, shape \(0, 8, 5\)"),
    ],
)
def test_features_of_wrong_shape(mel: VocosONNX, shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mel.decode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_features_not_finite(mel: VocosONNX, value: Any) -> None:
    features = np.zeros((8, 5))
    features[3, 2] = value
    with pytest.raises(ValueError, match=r"features hold 1 values that are NaN or infinite in float32"):
        mel.decode(features)


def test_tokens_for_a_mel_model(mel: VocosONNX) -> None:
    for method in (mel.decode, mel.codes_to_features):
        with pytest.raises(ValueError, match=r"mel model: it decodes float features \(B, 8, T\), not tokens of .*int"):
            method(np.zeros((2, 5), int))
