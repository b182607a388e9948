"""Checkpoints: configs in YAML and JSON, and weights. They are read with torch; without it there are no targets."""

from __future__ import annotations

import codecs
import importlib.util
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.common import Rng, Target, damaged

NEEDS = ("torch", "yaml", "safetensors", "onnx", "vocos_onnx_export")
CONFIG: dict[str, Any] = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "n_mels": 8, "padding": "center"},
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {"input_channels": 8, "dim": 8, "intermediate_dim": 16, "num_layers": 1},
    },
    "head": {
        "class_path": "vocos.heads.ISTFTHead",
        "init_args": {"dim": 8, "n_fft": 64, "hop_length": 16, "padding": "center"},
    },
}
TOKENS = {
    "class_path": "vocos.feature_extractors.EncodecFeatures",
    "init_args": {"encodec_model": "encodec_24khz", "bandwidths": [1.5, 3.0]},
}
TRAINING: dict[str, Any] = {
    "seed_everything": 1,
    "data": {
        "class_path": "vocos.dataset.VocosDataModule",
        "init_args": {
            name: {"filelist_path": "x", "sampling_rate": 8000, "num_samples": 1600, "batch_size": 2, "num_workers": 0}
            for name in ("train_params", "val_params")
        },
    },
    "model": {
        "class_path": "vocos.experiment.VocosExp",
        "init_args": {"sample_rate": 8000, "initial_learning_rate": 1e-4, "betas": [0.8, 0.9], **CONFIG},
    },
    "trainer": {"max_steps": 10, "logger": False, "callbacks": [], "precision": 32},
}
ENCODEC = {
    "model_type": "encodec", "sampling_rate": 24_000, "target_bandwidths": [1.5, 3.0], "hidden_size": 8,
    "num_filters": 2, "num_residual_layers": 1, "upsampling_ratios": [8, 5, 4, 2], "kernel_size": 7,
    "last_kernel_size": 7, "residual_kernel_size": 3, "dilation_growth_rate": 2, "compress": 2, "num_lstm_layers": 2,
    "codebook_size": 1024, "use_conv_shortcut": True,
}  # fmt: skip
VALUES: list[Any] = [
    None, 0, -1, 1, 3, 2**31, 10**9, 10**18, 10**30, 10**400, -(10**400), 1.5, 1e300, float("nan"), float("inf"), True,
    "", "64", "same", "x" * 20_000, [], [1], [1.5] * 1000, [[[[]]]], {}, {"a": 1}, {1: 2}, "2001-13-45", "\x00",
    "\u2028",
]  # fmt: skip
LAUGHS = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20))
TEXTS = [
    "a: &a [x, x]\n" + LAUGHS, "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [*a, *a, *a]}}\n" for i in range(100)),
    "a: &a [*a]", "&a {*a : 1}", "? [1]\n: 2", "a: &a\n  b: *a\n", "[" * 30_000, "{a: " * 10_000, "- " * 30_000,
    "a: !!timestamp x", "a: !!int ''", "a: !!bool x", "a: !!float x", "a: !!binary x", "!!set {a, b}", "!!omap [a]",
    "!!pairs [a]", "!!python/object/apply:os.abort []", "a: 0x" + "f" * 60_000, "a: " + "9" * 60_000,
    "a: " + ":".join(["59"] * 10_000), "a: 2001-99-99", "%YAML 9.9\n---\na", "--- a\n--- b\n", "a: *b", "\t",
    "a: " + "x" * 100_000, "# " * 10_000,
]  # fmt: skip


def _spoiled(rng: Rng, tree: Any) -> Any:
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.integers(1, 4)):
        place = tree
        while True:
            key = list(place)[rng.integers(len(place))]
            if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.15:
                break
            place = place[key]
        kind = rng.integers(4)
        if kind == 0 and len(place) > 1:
            del place[key]
        elif kind == 1:
            place[str(rng.choice(["new", "padding", "adanorm_num_embeddings", "clip_audio", "x" * 5000]))] = 1
        else:
            place[key] = VALUES[rng.integers(len(VALUES))]
    return tree


def _short(error: Exception) -> None:
    assert isinstance(error, ValueError) and not isinstance(error, UnicodeError), repr(error)[:300]
    assert len(str(error)) < 3000, f"a message of {len(str(error))} characters"


@cache
def _weights(tokens: bool) -> dict[str, Any]:
    import torch

    from vocos_onnx.model.checkpoint_config import CODEBOOKS
    from vocos_onnx_export.vocos_config import build_modules

    torch.manual_seed(0)
    model, _ = build_modules(CONFIG)
    return {**model.state_dict(), **({CODEBOOKS: torch.randn(4 * 1024, 8)} if tokens else {})}


def configs(rng: Rng, folder: Path) -> None:
    """Configs of checkpoints and of training runs."""
    import yaml

    from vocos_onnx.model.checkpoint_config import read_config
    from vocos_onnx_export.checkpoint import build, load
    from vocos_onnx_train.config import load_config

    path = folder / "config.yaml"
    training, tokens = rng.random() < 0.4, rng.random() < 0.3
    kind = rng.random()
    if kind < 0.25:
        text = TEXTS[rng.integers(len(TEXTS))]
    else:
        tree = TRAINING if training else CONFIG
        tree = {**tree, "feature_extractor": TOKENS} if tokens and not training else tree
        spoiled = _spoiled(rng, tree)
        text = yaml.safe_dump(spoiled, allow_unicode=True) if rng.random() < 0.9 else json.dumps(spoiled)
        if kind > 0.9:
            text = damaged(rng, text.encode()).decode("latin1")
    path.write_bytes(text.encode("utf-8", "replace"))
    try:
        if training:
            load_config(path)
            return
        _save(_weights(tokens), folder / "pytorch_model.bin")
        if rng.random() < 0.2:
            read_config(path)
        build(load(str(folder)))
    except ValueError as error:
        _short(error)
        raise


def _save(state: Any, path: Path, legacy: bool = False) -> None:
    import torch

    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


def _tensor(rng: Rng, good: Any) -> Any:
    """A replacement for a tensor in a state dict."""
    import torch

    shape = list(good.shape)
    match rng.integers(16):
        case 0:  # 40 GB from a few bytes
            return torch.zeros(1).expand([1 << 20, 10_000])
        case 1:
            return good.flatten()[:1].expand(good.numel()).reshape(shape) if good.is_contiguous() else good
        case 2:
            return torch.zeros(8).as_strided([1 << 15, 1 << 15], [0, 0])
        case 3:
            return torch.empty(shape, device="meta")
        case 4:
            return torch.empty([1 << 31, 1 << 10], device="meta")
        case 5:
            return good.to_sparse() if good.ndim else good
        case 6:
            return torch.quantize_per_tensor(good.float(), 0.1, 0, torch.qint8)
        case 7:
            return good.to(torch.complex64)
        case 8:
            return good.to([torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool][rng.integers(5)])
        case 9:
            return [None, 1, "x", [good], {"a": good}, np.zeros(3).tolist()][rng.integers(6)]
        case 10:
            return good * float("nan")
        case 11:
            return torch.zeros([0, *shape])
        case 12:
            return torch.zeros(())
        case 13:
            return torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (1 << 30, 1 << 30))
        case 14:
            return torch.nn.Parameter(good[..., :1].clone()) if good.ndim else good
    return good.to(torch.float8_e4m3fn)


def _lying_header(rng: Rng, state: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    data = save({key: value.contiguous() for key, value in state.items()})
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    key = list(header)[rng.integers(len(header))]
    entry = header[key]
    match rng.integers(7):
        case 0:
            entry["shape"] = [1 << 40]
        case 1:
            entry["shape"] = [1 << 32, 1 << 32]
        case 2:
            entry["data_offsets"] = [0, int(rng.choice([1, 1 << 40, len(body)]))]
        case 3:
            entry["data_offsets"] = [5, 1]
        case 4:
            entry["dtype"] = ["F8_E4M3", "U64", "BOOL", "x", "C64", 3][rng.integers(6)]
        case 5:
            header["x" * 100_000] = entry
        case 6:
            header = [[]]
    text = json.dumps(header).encode()
    claimed = len(text) if rng.random() < 0.7 else int(rng.choice([0, 1, 10**8, 1 << 40, (1 << 63) - 1]))
    return claimed.to_bytes(8, "little") + text + body


def weights(rng: Rng, folder: Path) -> None:
    """Weight files with a matching config: state dicts with non-tensors or wrong tensors, and damaged files."""
    import yaml

    from vocos_onnx_export.checkpoint import build, load

    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    state = dict(_weights(False))
    keys = list(state)
    path = folder / "pytorch_model.bin"
    kind = rng.integers(6)
    if kind < 3:
        for _ in range(rng.integers(1, 3)):
            key = keys[rng.integers(len(keys))]
            state[key] = _tensor(rng, _weights(False)[key])
        match rng.integers(8):
            case 0:
                state[[5, None, ("a",), "x" * 100_000, b"x"][rng.integers(5)]] = state[keys[0]]  # type: ignore[index]
            case 1:
                state[keys[0].removesuffix("weight") + "weight_g"] = state.pop(keys[0])
            case 2:
                state = {"state_dict": state, "epoch": 3}
            case 3:
                state = [state] * 2  # type: ignore[assignment]
        _save(state, path, legacy=rng.random() < 0.3)
    elif kind == 3:
        path = folder / "model.safetensors"
        path.write_bytes(_lying_header(rng, state))
    elif kind == 4:
        buffer = io.BytesIO()
        _save(state, buffer, legacy=rng.random() < 0.5)  # type: ignore[arg-type]
        path.write_bytes(damaged(rng, buffer.getvalue()))
    elif rng.random() < 0.5:  # compressed, so that 40 kB may expand to 40 MB
        buffer = io.BytesIO()
        _save(state, buffer)  # type: ignore[arg-type]
        with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
            for name in stored.namelist():
                deflated.writestr(
                    name, stored.read(name) + bytes(40 << 20) * ("/data/" in name and rng.random() < 0.05)
                )
    else:
        bombs: list[Any] = [[[]] * 1000, {"state_dict": {}}, 10**1000, "x" * 10**6, {"a": {1: [2]}}]
        path.write_bytes(pickle.dumps(bombs[rng.integers(len(bombs))], protocol=2))
    try:
        build(load(str(folder)))
    except ValueError as error:
        _short(error)
        raise


class _Call:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def pickles(rng: Rng, folder: Path) -> None:
    """Pickles with calls that torch allows, and archives with two directories: an error, or just what was checked."""
    import torch

    from tests.parity.malice import two_directories
    from vocos_onnx_export.weights import read_tree, read_weights

    n = int(rng.choice([0, 1, 8, 1 << 20, 1 << 33, 1 << 62]))
    names = {str(key): 1 for key in rng.choice(["get", "items", "keys", "__len__", "_metadata"], 2)}
    tensor = torch.ones(3)
    values: list[Any] = [
        _Call(bytearray, (n,)), _Call(codecs.encode, ("".join(map(chr, range(65_536, 125_536))), "punycode")),
        _Call(OrderedDict, (), names, None, iter({"a": tensor}.items())), _Call(torch.Size, ((n,) * 3,)), {n, 1},
        _Call(torch.zeros, (n,)), _Call(torch.Tensor, (n,)), _Call(torch.nn.Parameter, (tensor,)), b"x" * 100,
        _Call(torch._utils._rebuild_parameter_with_state, (tensor, True, {}, names)), torch.nn.Parameter(tensor),
        _Call(torch._utils._rebuild_meta_tensor_no_storage, (torch.float32, (n,), (1,), False)), tensor._neg_view(),
    ]  # fmt: skip
    value = values[rng.integers(len(values))]
    path = folder / "pytorch_model.bin"
    if rng.random() < 0.2:
        path.write_bytes(two_directories({"a": value}, {"a": 3}))
        assert read_tree(path)[0] == {"a": 3}
        return
    tree = [value, {"a": value}, {"state_dict": {"head.a": value}}, {"state_dict": value}][rng.integers(4)]
    _save(tree, path, legacy=rng.random() < 0.5)
    if rng.random() < 0.3:
        path.write_bytes(damaged(rng, path.read_bytes()))
    state, _ = read_weights(path)
    assert all(type(name) is str and tensor.numpy().size < 100 for name, tensor in state.items())


def encoders(rng: Rng, folder: Path) -> None:
    """Changed configs of EnCodec beside the weights of the original."""
    import torch
    from safetensors.torch import save_file

    from vocos_onnx_export.encodec_checkpoint import find_encodec, load_encodec

    text = json.dumps(_spoiled(rng, ENCODEC))
    match rng.integers(8):
        case 0:
            text = damaged(rng, text.encode()).decode("latin1")
        case 1:
            text = ["[" * 50_000, '{"a": ' * 5000, text[:-1] + ', "compress": 1}', "9" * 6000, "NaN"][rng.integers(5)]
    (folder / "config.json").write_bytes(text.encode("utf-8", "replace"))
    save_file({"encoder.layers.0.conv.weight": torch.ones(2, 1, 7)}, folder / "model.safetensors")
    try:
        load_encodec(find_encodec(folder))
    except ValueError as error:
        _short(error)
        raise


def _there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


MISSING = [name for name in NEEDS if not _there(name)]
TARGETS: dict[str, Target] = {}
if not MISSING:
    TARGETS = {
        "configs of checkpoints": Target(configs, 1, (ValueError,), seconds=20, memory=6 << 30),
        "weights of checkpoints": Target(weights, 1, (ValueError,), seconds=20, memory=6 << 30),
        "pickles of checkpoints": Target(pickles, 0.5, (ValueError,), seconds=20, memory=2 << 30),
        "configs of encoders": Target(encoders, 0.5, (ValueError,), seconds=20, memory=6 << 30),
    }
