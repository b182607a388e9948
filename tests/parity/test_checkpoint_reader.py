"""The torch-free checkpoint reader reads files of torch, Lightning and safetensors exactly as those libraries do."""

from __future__ import annotations

import io
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.fuzz import checkpoint_reader as hostile
from tests.parity.malice import two_directories
from tests.parity.test_checkpoint import lightning
from tests.parity.upstream import Vocos, build, convnext, head, mel
from vocos_onnx.model.checkpoint import CheckpointError, fold_weight_norm, open_weights, read_state
from vocos_onnx_export import weights as with_torch

DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


@pytest.fixture(scope="module")
def vocos() -> Vocos:
    config = {
        "feature_extractor": mel(16, n_fft=64),
        "backbone": {
            "class_path": "vocos.models.VocosResNetBackbone",
            "init_args": {"input_channels": 8, "dim": 16, "num_blocks": 1},
        },
        "head": head("ISTFTHead", dim=16, n_fft=64, hop_length=16, padding="center"),
    }
    return build(config)


def plain(tensor: Tensor) -> np.ndarray:
    """The values in the form that the reader returns, with floats as float32."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bool:  # a file may hold bytes other than 0 and 1
        return tensor.view(torch.uint8).numpy() != 0
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def same(path: Path, state: dict[str, Tensor]) -> None:
    found = hostile.read_all(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        expected = plain(tensor)
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert np.array_equal(found[name], expected, equal_nan=expected.dtype.kind == "f"), name


@pytest.mark.parametrize("form", ("torch.save", "safetensors"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type(dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = ((3, 4, 5), (7,), (), (0, 2), (1, 1, 1, 1))
    state = {f"a.{i}": (100 * torch.randn(shape)).to(dtype) for i, shape in enumerate(shapes)}
    path = tmp_path / "pytorch_model.bin"
    if form == "torch.save":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path, {"format": "pt"})
    same(path, state)
    with open_weights(path) as weights:
        assert {weights[name].dtype for name in weights} == {str(dtype).removeprefix("torch.")}


def test_every_bfloat16_and_float16(tmp_path: Path) -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    state = {"b": bits.view(torch.bfloat16), "h": bits.clone().view(torch.float16)}
    torch.save(state, tmp_path / "a.bin")
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for name in ("a.bin", "a.safetensors"):
        same(tmp_path / name, state)


def test_views_and_shared_storages(tmp_path: Path) -> None:
    whole = torch.randn(6, 8)
    state = {
        "whole": whole, "transposed": whole.t(), "rows": whole[::2], "columns": whole[:, 1::3], "one": whole[2, 3],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1), "strided": torch.randn(20).as_strided((3, 2), (5, 2), 1),
        "expanded": torch.randn(3, 1).expand(3, 4), "last": torch.randn(100)[-3:], "none": whole[6:],
        "parameter": torch.nn.Parameter(whole.clone()[1:]), "buffer": torch.nn.Parameter(whole, requires_grad=False),
        "complex": torch.randn(3, dtype=torch.complex64).real, "large": torch.randn(1000),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.bin")
    same(tmp_path / "a.bin", state)


def test_numbers_that_share_too_much(tmp_path: Path) -> None:
    """Both this reader and the export, which reads with torch, reject them."""
    path = tmp_path / "a.bin"
    tensor = torch.ones(100_000)
    for state in ({"a": torch.ones(1).expand(100_000)}, {f"a{i}": tensor for i in range(3)}):
        torch.save(state, path)
        for read in (hostile.read_all, with_torch.read_weights):
            with pytest.raises(CheckpointError, match="they repeat or share what is in it"):
                read(path)


@pytest.mark.parametrize("value", (
    torch.ones(2, dtype=torch.complex64), torch.ones(2).to_sparse(), torch.ones(2).to(torch.float8_e4m3fn),
    torch.empty(2, device="meta"), torch.ones(2)._neg_view(), torch.ones(2, dtype=torch.uint16),
    None, 1, [torch.ones(2)],
), ids=lambda value: str(value)[:40])  # fmt: skip
def test_tensors_of_other_kinds(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    torch.save({"a": value, "b": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r"no weights need|not a state dict|negated"):
        hostile.read_all(path)


@pytest.mark.parametrize("protocol", (3, 4, 5))
def test_other_protocols(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    torch.save({"a": torch.ones(2)}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=f"a pickle of protocol {protocol}: save it with torch's default, 2"):
        hostile.read_all(path)


def test_a_module_is_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"calls 'torch\.nn\.modules\.linear\.Linear' in its pickle"):
        hostile.read_all(tmp_path / "a.pt")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jit: Any = torch.jit
        jit.save(jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        hostile.read_all(tmp_path / "a.pt")


def test_legacy_format(tmp_path: Path) -> None:
    """The error message gives a command, and the file that it saves can be read."""
    old, new, state = tmp_path / "old.th", tmp_path / "new.th", {"a": torch.randn(3)}
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch before 1\.6") as caught:
        hostile.read_all(old)
    command = 'import torch; torch.save(torch.load("old.th", weights_only=True), "new-old.th")'
    assert command in str(caught.value)
    torch.save(torch.load(old, weights_only=True), new)
    same(new, state)


def test_without_checksums(tmp_path: Path) -> None:
    state = {"a": torch.randn(3)}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "a.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    same(tmp_path / "a.bin", state)


def test_archives_of_many_members(tmp_path: Path) -> None:
    state = {f"a.{i}": torch.tensor([float(i)]) for i in range(10_000)}
    torch.save(state, tmp_path / "a.bin")
    same(tmp_path / "a.bin", state)


def test_two_directories(tmp_path: Path) -> None:
    """Python's and torch's zip readers see different contents in such an archive, so ours rejects it."""
    path = tmp_path / "a.bin"
    path.write_bytes(two_directories({"a": 5}, {"a": 3}))
    with pytest.raises(CheckpointError, match="its directory is not where its end says"):
        hostile.read_all(path)


# Modules and Lightning files


def test_state_dict_of_a_module(vocos: Vocos, tmp_path: Path) -> None:
    """An OrderedDict with _metadata."""
    state = vocos.state_dict()
    assert isinstance(state, OrderedDict) and hasattr(state, "_metadata")
    torch.save(state, tmp_path / "pytorch_model.bin")
    same(tmp_path / "pytorch_model.bin", state)
    expected, digest = with_torch.read_weights(tmp_path / "pytorch_model.bin")
    same(tmp_path / "pytorch_model.bin", expected)
    with open_weights(tmp_path / "pytorch_model.bin") as weights:
        assert weights.sha256 == digest


def test_checkpoint_of_lightning(vocos: Vocos, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint = lightning(vocos)
    optimizer = torch.optim.SGD(vocos.backbone.parameters(), lr=0.1)
    checkpoint["lr_schedulers"] += [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]).state_dict(),  # a Counter
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict(),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer).state_dict(),
    ]
    checkpoint["rng"] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    torch.save(checkpoint, path)
    expected, _ = with_torch.read_weights(path)
    assert 0 < len(expected) < len(checkpoint["state_dict"])
    same(path, expected)
    state, _ = read_state(path, lambda name: name.startswith(("backbone.", "head.")))
    folded = fold_with_torch(expected)
    assert state.keys() == {name for name in folded if name.startswith(("backbone.", "head."))}


def test_checkpoint_of_lightning_itself(tmp_path: Path) -> None:
    """If Lightning is installed: a checkpoint of its trainer is read despite what it holds beside the weights."""
    pl = pytest.importorskip("pytorch_lightning")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, rate: float = 1e-3, betas: tuple[float, float] = (0.8, 0.9)) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.backbone = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(2, 2, 3))
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, index: int) -> None:
            optimizer = self.optimizers()
            loss = self.backbone(batch).pow(2).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.log("val_loss", loss)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.backbone.parameters(), lr=1e-3)
            return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", save_last=True)
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[saver, pl.callbacks.EarlyStopping("val_loss"), pl.callbacks.Timer()],
        )  # fmt: skip
        module, data = Module(), cast(Any, torch.randn(4, 2, 9))
        trainer.fit(module, torch.utils.data.DataLoader(data))
    same(tmp_path / "last.ckpt", module.state_dict())


# Weight norm


@pytest.mark.parametrize("shape", ((16, 8, 7), (4, 3), (5, 2, 3, 3)))
@pytest.mark.parametrize("newer", (False, True), ids=("weight_g", "original0"))
def test_weight_norm(newer: bool, shape: tuple[int, ...], tmp_path: Path) -> None:
    """The reader's weight equals the one the module computes and the one the export folds."""
    torch.manual_seed(0)
    kinds: dict[int, Callable[[], torch.nn.Module]] = {
        2: lambda: torch.nn.Linear(shape[1], shape[0]),
        3: lambda: torch.nn.Conv1d(shape[1], shape[0], shape[2]),
        4: lambda: torch.nn.Conv2d(shape[1], shape[0], shape[2]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form is deprecated
        wrap = torch.nn.utils.parametrizations.weight_norm if newer else torch.nn.utils.weight_norm
        module = torch.nn.Sequential(wrap(kinds[len(shape)]()))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
        module(torch.zeros(1, *([shape[1]] if len(shape) == 2 else shape[1:])))  # computes the weight
    torch.save(module.state_dict(), tmp_path / "a.bin")
    state, _ = read_state(tmp_path / "a.bin", lambda name: True)
    assert state.keys() == {"0.weight", "0.bias"}
    layer: Any = module[0]
    weight = layer.weight.detach().numpy()
    np.testing.assert_allclose(state["0.weight"], weight, rtol=3e-7, atol=1e-9)
    export = fold_with_torch(dict(module.state_dict()))
    np.testing.assert_allclose(state["0.weight"], export["0.weight"].numpy(), rtol=3e-7, atol=1e-9)


def fold_with_torch(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fold a state dict with torch's own weight norm, in either of its spellings."""
    folded = dict(state)
    for g_name, v_name in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for key in [key for key in state if key.endswith("." + g_name)]:
            prefix = key.removesuffix(g_name)
            folded[prefix + "weight"] = torch._weight_norm(folded.pop(prefix + v_name), folded.pop(key), 0)
    return folded


def test_weight_norm_of_the_network(vocos: Vocos) -> None:
    state = {name: plain(tensor).astype(np.float32) for name, tensor in vocos.state_dict().items()}
    found, expected = fold_weight_norm(state), fold_with_torch(dict(vocos.state_dict()))
    assert found.keys() == expected.keys() != state.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-6, atol=1e-8)


# Both readers of torch's archives


def test_what_both_read_is_the_same(tmp_path: Path) -> None:
    """On mutated archives that both accept, this reader and torch return the same values."""
    both, path = 0, tmp_path / "pytorch_model.bin"
    targets = [hostile.TARGETS[name].run for name in ("pickles, without torch", "archives, without torch")]
    for case in range(1500):
        try:
            targets[case % 2](np.random.default_rng((7, case)), tmp_path)
        except CheckpointError:
            continue
        found = hostile.read_all(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        except Exception:  # torch rejects some archives that this reader accepts
            continue
        state = tree.get("state_dict", tree) if isinstance(tree, dict) else tree
        for name, values in found.items():
            assert np.array_equal(values, plain(state[name]), equal_nan=values.dtype.kind == "f"), (case, name)
        both += 1
    assert both > 30


def test_of_the_librarys_files(tmp_path: Path) -> None:
    """Files of the safetensors library: headers of many lengths, with and without metadata, in the library's order."""
    rng = np.random.default_rng(0)
    for case in range(40):
        state = {
            "x" * int(rng.integers(1, 30)) + f".{i}": torch.randn(tuple(rng.integers(0, 4, rng.integers(4)))).to(
                DTYPES[rng.integers(len(DTYPES))]
            )
            for i in range(rng.integers(1, 8))
        }
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(state, path, {"format": "pt"} if case % 2 else None)
        same_names = hostile.read_all(path)
        loaded = safetensors.torch.load_file(path)
        assert same_names.keys() == loaded.keys()
        for name, tensor in loaded.items():
            assert np.array_equal(same_names[name], plain(tensor), equal_nan=tensor.is_floating_point())


def test_headers_that_the_library_reads_too(tmp_path: Path) -> None:
    """Of mutated headers, the library accepts every one that this reader accepts, and returns the same values."""
    read, path = 0, tmp_path / "pytorch_model.bin"
    for case in range(500):
        try:
            hostile.TARGETS["headers of safetensors"].run(np.random.default_rng((3, case)), tmp_path)
        except CheckpointError:
            continue
        loaded = safetensors.torch.load(path.read_bytes())
        found = hostile.read_all(path)
        assert found.keys() == loaded.keys()
        for name, tensor in loaded.items():
            assert np.array_equal(found[name], plain(tensor), equal_nan=tensor.is_floating_point()), (case, name)
        read += 1
    assert read > 10


def test_convnext_of_upstream(tmp_path: Path) -> None:
    config = {
        "feature_extractor": mel(16, n_fft=64),
        "backbone": convnext(8, num_layers=1, adanorm_num_embeddings=2),
        "head": head("ISTFTHead", dim=16, n_fft=64, hop_length=16, padding="center"),
    }
    state = build(config).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    for name in ("model.safetensors", "pytorch_model.bin"):
        same(tmp_path / name, dict(state))
