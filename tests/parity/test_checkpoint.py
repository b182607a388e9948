"""Reading checkpoints: every supported form gives the same model; anything else raises an error naming the fault."""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import io
import os
import pickle
import random
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor

import vocos_onnx_export.vocoder
from tests.hub.server import Hub
from tests.parity import upstream
from tests.parity.hub import in_a_process
from tests.parity.malice import BOMBS, Call, Payload, deflated, safetensors_file, two_directories, zipped
from vocos_onnx import ModelConfig, VocosONNX
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.inverse import Inverse
from vocos_onnx_export import CheckpointError, export
from vocos_onnx_export.checkpoint import build, load
from vocos_onnx_export.tracing import fold, trace
from vocos_onnx_export.weights import read_tree, read_weights

Config = dict[str, Any]
State = dict[str, Tensor]

MEL: Config = {
    "feature_extractor": upstream.mel(16, n_fft=64),
    "backbone": upstream.convnext(8, num_layers=1),
    "head": upstream.head("ISTFTHead", dim=16, n_fft=64, hop_length=16, padding="center"),
}
ENCODEC: Config = {
    "feature_extractor": {
        **upstream.ENCODEC,
        "init_args": {"encodec_model": "encodec_24khz", "bandwidths": [0.75, 1.5]},
    },
    "backbone": upstream.convnext(128, num_layers=1, adanorm_num_embeddings=2),
    "head": upstream.head("ISTFTHead", dim=16, n_fft=640, hop_length=320, padding="same"),
}
RESNET: Config = {
    "feature_extractor": upstream.mel(16, n_fft=64),
    "backbone": {
        "class_path": "vocos.models.VocosResNetBackbone",
        "init_args": {"input_channels": 8, "dim": 16, "num_blocks": 1},
    },
    "head": upstream.head("IMDCTCosHead", dim=16, mdct_frame_len=32, padding="center"),
}
CODEBOOKS = "feature_extractor.codebook_weights"
COMMIT_1, COMMIT_2 = "1" * 40, "2" * 40


@pytest.fixture(scope="session")
def models() -> dict[str, upstream.Vocos]:
    return {"mel": upstream.build(MEL), "encodec": upstream.build(ENCODEC), "resnet": upstream.build(RESNET)}


@pytest.fixture(scope="session")
def folders(models: dict[str, upstream.Vocos], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as upstream publishes them; tests only read these."""
    root = tmp_path_factory.mktemp("checkpoints")
    configs = {"mel": MEL, "encodec": ENCODEC, "resnet": RESNET}
    return {name: upstream.save(models[name], config, root / name) for name, config in configs.items()}


@pytest.fixture
def change(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Copies a checkpoint after the given functions have changed its config and state dict in place."""

    def make(
        name: str, config: Callable[[Config], Any] = lambda c: None, state: Callable[[State], Any] = lambda s: None
    ) -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        new_config = yaml.safe_load((folders[name] / "config.yaml").read_text())
        new_state = torch.load(folders[name] / "pytorch_model.bin")
        config(new_config)
        state(new_state)
        (folder / "config.yaml").write_text(yaml.safe_dump(new_config))
        torch.save(new_state, folder / "pytorch_model.bin")
        return folder

    return make


def quiet_export(checkpoint: str | Path, output: Path, **kwargs: Any) -> ModelConfig:
    return export(str(checkpoint), output, report=lambda line: None, **kwargs)


def refused(
    checkpoint: str | Path, match: str, folder: Path, error: type[Exception] = CheckpointError, **kwargs: Any
) -> str:
    """Asserts that the export raises exactly this error, with a matching message, and writes nothing; returns it."""
    output = folder / "output" / "model.onnx"
    output.parent.mkdir()
    with pytest.raises(error) as caught:
        quiet_export(checkpoint, output, **kwargs)
    assert type(caught.value) is error
    message = str(caught.value)
    assert re.search(match, message), message
    assert list(output.parent.iterdir()) == []
    return message


def weights(checkpoint: str | Path, config: str | Path | None = None) -> dict[str, np.ndarray]:
    """Every weight of the modules built from a checkpoint, codebooks included."""
    model, _, codebooks = build(load(str(checkpoint), str(config) if config else None))
    state = dict(model.state_dict())
    if codebooks is not None:
        state["codebooks"] = codebooks
    return {key: value.numpy() for key, value in state.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def args_of(section: str) -> Callable[[Config], dict[str, Any]]:
    return lambda config: config[section]["init_args"]


# The forms of a checkpoint


@pytest.mark.parametrize("name", ("mel", "encodec"))
def test_saved_checkpoint_is_one_for_upstream(
    name: str, models: dict[str, upstream.Vocos], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints of these tests are realistic: upstream's own ``from_pretrained`` reads them."""
    monkeypatch.setattr("vocos.pretrained.hf_hub_download", lambda filename, **_: str(folders[name] / filename))
    with upstream.random_encodec(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = upstream.Vocos.from_pretrained("owner/name")
    features = torch.randn(1, models[name].backbone.input_channels, 10)
    id_ = {"bandwidth_id": torch.tensor([1])} if name == "encodec" else {}
    assert torch.equal(model.decode(features, **id_), models[name].decode(features, **id_))


def test_mel_checkpoint_holds_upstreams_mel_buffers(folders: dict[str, Path]) -> None:
    """The official one has them too; they only repeat the config, so the reader drops them."""
    state = torch.load(folders["mel"] / "pytorch_model.bin")
    assert any(key.startswith("feature_extractor.mel_spec.") for key in state)
    assert all(key.startswith(("backbone.", "head.")) for key in weights(folders["mel"]))


def test_bin_and_safetensors_give_the_same_model(folders: dict[str, Path], tmp_path: Path) -> None:
    bin_folder, folder = folders["encodec"], tmp_path / "safe"
    folder.mkdir()
    safetensors.torch.save_file(torch.load(bin_folder / "pytorch_model.bin"), folder / "model.safetensors")
    (folder / "config.yaml").write_bytes((bin_folder / "config.yaml").read_bytes())
    assert same(weights(bin_folder), weights(folder))
    one = quiet_export(bin_folder, tmp_path / "bin.onnx")
    other = quiet_export(folder, tmp_path / "safe.onnx")
    assert one.source.sha256 == hashlib.sha256((bin_folder / "pytorch_model.bin").read_bytes()).hexdigest()
    assert other.source.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (one.source.name, other.source.name) == ("encodec", "safe")
    assert one.encodec == other.encodec
    tokens = np.random.default_rng(0).integers(1024, size=(2, 3, 20))
    audio = VocosONNX(tmp_path / "bin.onnx").decode(tokens)
    assert np.array_equal(audio, VocosONNX(tmp_path / "safe.onnx").decode(tokens))


def test_fingerprint_of_the_codebooks(folders: dict[str, Path]) -> None:
    table = torch.load(folders["encodec"] / "pytorch_model.bin")[CODEBOOKS].numpy()
    _, config, _ = build(load(str(folders["encodec"])))
    assert config.encodec is not None
    assert config.encodec.codebooks_sha256 == hashlib.sha256(table.astype("<f4").tobytes()).hexdigest()


def test_weight_file_with_its_config_beside_it_or_given(folders: dict[str, Path], tmp_path: Path) -> None:
    expected = weights(folders["mel"])
    assert same(weights(folders["mel"] / "pytorch_model.bin"), expected)
    elsewhere = tmp_path / "any name.pt"
    elsewhere.write_bytes((folders["mel"] / "pytorch_model.bin").read_bytes())
    assert same(weights(elsewhere, folders["mel"] / "config.yaml"), expected)


def lightning(model: upstream.Vocos) -> dict[str, Any]:
    """A checkpoint of upstream's training: the model with discriminators, losses and optimiser state."""
    state = dict(model.state_dict())  # includes feature_extractor.encodec.*
    state["multiperioddisc.discriminators.0.convs.0.weight_g"] = torch.ones(32, 1, 1, 1)
    state["multiresddisc.discriminators.0.band_convs.0.0.bias"] = torch.ones(32)
    state["melspec_loss.mel_spec.spectrogram.window"] = torch.ones(1024)
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=5e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return {
        "epoch": 1,
        "global_step": 100,
        "pytorch-lightning_version": "1.8.6",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2, "completed": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(1.5)}},
        "optimizer_states": [optimizer.state_dict(), optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"sample_rate": 24000, "initial_learning_rate": 5e-4, "evaluate_utmos": True},
    }


def training_config(config: Config) -> Config:
    """The config that upstream's training reads, and writes beside its checkpoints."""
    init_args = {"sample_rate": 24000, "initial_learning_rate": 5e-4, "mel_loss_coeff": 45, **config}
    return {
        "seed_everything": 4444,
        "data": {"class_path": "vocos.dataset.VocosDataModule", "init_args": {"train_params": {"batch_size": 16}}},
        "model": {"class_path": "vocos.experiment.VocosExp", "init_args": init_args},
        "trainer": {"max_steps": 1000000, "callbacks": [{"class_path": "pytorch_lightning.callbacks.ModelSummary"}]},
    }


@pytest.mark.parametrize("name", ("mel", "encodec"))
def test_lightning_checkpoint(
    name: str, models: dict[str, upstream.Vocos], folders: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = lightning(models[name])
    has_codec = any(key.startswith("feature_extractor.encodec.") for key in checkpoint["state_dict"])
    assert has_codec == (name == "encodec")
    expected, config = weights(folders[name]), yaml.safe_load((folders[name] / "config.yaml").read_text())
    path = tmp_path / "vocos_checkpoint_epoch=1.ckpt"
    torch.save(checkpoint, path)
    for text in (training_config(config), {"model": config}, config):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(text))
        assert same(weights(path), expected)
    (tmp_path / "config.yaml").rename(tmp_path / "vocos.yaml")
    assert same(weights(path, tmp_path / "vocos.yaml"), expected)
    if name == "mel":
        return
    written = quiet_export(path, tmp_path / "model.onnx", config=str(tmp_path / "vocos.yaml"))
    assert written.source.name == path.name
    assert written.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_defaults_of_upstream(change: Callable[..., Path], folders: dict[str, Path]) -> None:
    """Omitted arguments, and absent or empty init_args, take upstream's defaults."""

    def leave_out(config: Config) -> None:
        config["feature_extractor"]["init_args"] = None
        config["head"]["init_args"] |= {"n_fft": 1280, "hop_length": 320}
        config["backbone"]["init_args"]["adanorm_num_embeddings"] = 4
        del config["head"]["init_args"]["padding"]

    def resize(state: State) -> None:
        state["head.out.weight"], state["head.out.bias"] = torch.ones(1282, 16), torch.ones(1282)
        state["head.istft.window"] = torch.hann_window(1280)
        state[CODEBOOKS] = torch.randn(16 * 1024, 128)
        norms = [key for key in state if key.endswith((".scale.weight", ".shift.weight"))]
        state.update({key: torch.cat([state[key], state[key]]) for key in norms})

    model, config, _ = build(load(str(change("encodec", leave_out, resize))))
    features = config.encodec
    assert features is not None
    assert features.codec == "encodec_24khz"
    assert features.bandwidths == (1.5, 3.0, 6.0, 12.0)
    assert features.codebooks_per_bandwidth == (2, 4, 8, 16)
    assert config.sample_rate == 24000
    assert model.head.padding == "same"


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16), ids=str)
def test_other_precisions(dtype: torch.dtype, change: Callable[..., Path], folders: dict[str, Path]) -> None:
    """Weights stored in another float type are read as the same weights, rounded."""

    def convert(state: State) -> None:
        state.update({key: value.to(dtype) for key, value in state.items()})

    expected = weights(folders["encodec"])
    found = weights(change("encodec", state=convert))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if not key.endswith("window"):
            assert np.array_equal(found[key], torch.from_numpy(value).to(dtype).float().numpy())


# Weight norm


def test_weight_norm_in_its_newer_form(folders: dict[str, Path], change: Callable[..., Path]) -> None:
    """torch.nn.utils.parametrizations only renames weight_g and weight_v."""
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = []

    def rename(state: State) -> None:
        for key in list(state):
            prefix, _, last = key.rpartition(".")
            if last in new:
                renamed.append(key)
                state[f"{prefix}.{new[last]}"] = state.pop(key)

    assert same(weights(change("resnet", state=rename)), weights(folders["resnet"]))
    assert len(renamed) == 2 * 7


@pytest.mark.parametrize("parametrize", (True, False), ids=("newer form", "removed"))
def test_weight_norm_as_torch_itself_converts_it(
    parametrize: bool, folders: dict[str, Path], tmp_path: Path, models: dict[str, upstream.Vocos]
) -> None:
    model = upstream.build(RESNET)
    model.load_state_dict(models["resnet"].state_dict())
    for module in model.modules():
        if hasattr(module, "weight_g"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the old form is deprecated
                torch.nn.utils.remove_weight_norm(module)
            if parametrize:
                torch.nn.utils.parametrizations.weight_norm(module)
    found = weights(upstream.save(model, RESNET, tmp_path))
    for key, value in weights(folders["resnet"]).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("lost", "match"),
    (
        ("weight_v", r"has backbone\.embed\.weight_g but lacks backbone\.embed\.weight_v"),
        ("weight_g", r"lacks backbone\.embed\.weight; has the unknown key backbone\.embed\.weight_v"),
    ),
)
def test_half_of_a_weight_norm(lost: str, match: str, change: Callable[..., Path], tmp_path: Path) -> None:
    refused(change("resnet", state=lambda s: s.pop(f"backbone.embed.{lost}")), match, tmp_path)


# The hub


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """acme/vocos-mel has two commits, acme/safe has only safetensors, acme/empty has no weights."""
    root = tmp_path_factory.mktemp("hub")
    first = folders["mel"]
    second = upstream.save(upstream.build(MEL, seed=2), MEL, root / "second")
    safe, empty = root / "safe", root / "empty"
    for folder in (safe, empty):
        folder.mkdir()
        (folder / "config.yaml").write_bytes((first / "config.yaml").read_bytes())
    safetensors.torch.save_file(torch.load(first / "pytorch_model.bin"), safe / "model.safetensors")
    return Hub(
        {
            "acme/vocos-mel": {COMMIT_1: first, COMMIT_2: second},
            "acme/safe": {COMMIT_1: safe},
            "acme/empty": {COMMIT_1: empty},
        },
        {
            "acme/vocos-mel": {"main": COMMIT_2, "v1": COMMIT_1},
            "acme/safe": {"main": COMMIT_1},
            "acme/empty": {"main": COMMIT_1},
        },
    )


def test_hub_then_its_cache(hub: Hub, folders: dict[str, Path], tmp_path: Path) -> None:
    home, output = tmp_path / "home", tmp_path / "outputs" / "model.onnx"
    output.parent.mkdir()

    def expected(name: str, commit: str, file: str = "pytorch_model.bin") -> list[str]:
        digest = hashlib.sha256((hub.repositories[name][commit] / file).read_bytes()).hexdigest()
        return [name, commit, digest]

    tag = {"checkpoint": "acme/vocos-mel", "revision": "v1"}
    export_tag = {**tag, "output": str(output)}
    main, safe = {"checkpoint": "acme/vocos-mel"}, {"checkpoint": "acme/safe"}
    absent = {"checkpoint": "acme/absent", "output": str(output.with_name("absent.onnx"))}
    wrong_revision = {**main, "revision": "v9", "output": str(output.with_name("v9.onnx"))}
    with hub.serve() as url:
        cases = [export_tag, main, safe, absent, wrong_revision, {"checkpoint": "acme/empty"}]
        found = in_a_process("export", cases, home, HF_ENDPOINT=url)
    of_tag = expected("acme/vocos-mel", COMMIT_1)
    of_main = expected("acme/vocos-mel", COMMIT_2)
    of_safe = expected("acme/safe", COMMIT_1, "model.safetensors")
    assert of_tag[2] != of_main[2]
    assert found[:3] == [of_tag, of_main, of_safe]
    for (kind, message), match in zip(
        found[3:],
        (
            r"cannot get acme/absent from the hub \(RepositoryNotFoundError: .*If you meant a local folder",
            r"cannot get acme/vocos-mel at revision v9 from the hub \(RevisionNotFoundError: ",
            r"cannot get acme/empty from the hub \(\w*EntryNotFoundError: ",
        ),
        strict=True,
    ):
        assert kind == "FileNotFoundError"
        assert re.match(match, message), message
    assert list(output.parent.iterdir()) == [output]
    source = VocosONNX(output).config.source
    assert [source.name, source.revision, source.sha256] == of_tag
    assert same(weights(folders["mel"]), weights(hub.repositories["acme/vocos-mel"][COMMIT_1]))
    quiet_export(folders["mel"], tmp_path / "local.onnx")
    features = torch.rand(1, 8, 20) * 20 - 16
    local = VocosONNX(tmp_path / "local.onnx").decode(features)
    assert np.array_equal(VocosONNX(output).decode(features), local)

    # the server has stopped: downloads come from the cache
    asked = len(hub.requests)
    output.unlink()
    by_commit = {**main, "revision": COMMIT_2}
    found = in_a_process(
        "export", [export_tag, main, by_commit, safe, absent], home, HF_ENDPOINT=url, HF_HUB_OFFLINE="1"
    )
    assert found[:4] == [of_tag, of_main, of_main, of_safe]
    kind, message = found[4]
    assert kind == "FileNotFoundError"
    assert re.match("cannot get acme/absent from the hub .*vocos-onnx models pull acme/absent where", message), message
    assert list(output.parent.iterdir()) == [output]
    source = VocosONNX(output).config.source
    assert [source.name, source.revision, source.sha256] == of_tag
    assert np.array_equal(VocosONNX(output).decode(features), local)
    # the same without HF_HUB_OFFLINE
    assert in_a_process("export", [tag, main, by_commit], home, HF_ENDPOINT=url) == [of_tag, of_main, of_main]
    assert len(hub.requests) == asked


def test_config_given_for_a_hub_id_is_not_ignored(hub: Hub, tmp_path: Path) -> None:
    """It replaces the repository's config or raises an error; it must not be silently ignored."""
    with hub.serve() as url:
        case = {"checkpoint": "acme/vocos-mel", "config": str(tmp_path / "absent.yaml")}
        (found,) = in_a_process("export", [case], tmp_path / "home", HF_ENDPOINT=url)
    assert found[0] in ("FileNotFoundError", "CheckpointError"), found
    assert "config" in found[1]


# Nothing in a checkpoint is executed


@pytest.mark.parametrize("name", ("pytorch_model.bin", "model.ckpt", "model.pt"))
@pytest.mark.parametrize("dump", (zipped, pickle.dumps), ids=("torch.save", "pickle"))
@pytest.mark.parametrize("where", ("whole", "hyper_parameters", "beside the weights"))
def test_malicious_pickle_is_not_run(
    where: str, dump: Callable[[Any], bytes], name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    payload = Payload(f"touch {proof}")
    state = torch.load(folders["mel"] / "pytorch_model.bin")
    data = dump(
        {
            "whole": payload,
            "hyper_parameters": {"state_dict": state, "hyper_parameters": {"optimizer": payload}},
            "beside the weights": {**state, "head.out.scale": payload},
        }[where]
    )
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "checkpoint" / name
    path.write_bytes(data)
    torch.load(path, weights_only=False) if dump is zipped else pickle.loads(data)
    assert proof.exists(), "the payload should work where it is let"
    proof.unlink()
    (path.parent / "config.yaml").write_bytes((folders["mel"] / "config.yaml").read_bytes())
    refused(path, "cannot read .* as weights only, and a checkpoint is not allowed to run code: .+", tmp_path)
    assert not proof.exists()


def test_malicious_yaml_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"head: !!python/object/apply:os.system ['touch {tmp_path / 'proof'}']")
    refused(folders["mel"], r"config\.yaml is not readable YAML: could not determine", tmp_path, config=str(config))
    assert not (tmp_path / "proof").exists()


def test_class_of_another_package_is_not_imported(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", lambda c: c["head"].update(class_path="os.system", init_args={"command": "touch proof"}))
    refused(folder, r"head class os\.system is not supported", tmp_path)


# Files that are missing or damaged


@pytest.mark.parametrize(
    ("checkpoint", "match"),
    (
        ("no-such-folder", "no checkpoint no-such-folder: expected a folder with config.yaml and pytorch_model.bin"),
        ("no/such/folder", "no checkpoint no/such/folder: expected a folder"),
        ("/no-such-folder", "no checkpoint /no-such-folder: expected a folder"),
        ("folder/no-such.ckpt", r"no checkpoint folder/no-such\.ckpt: expected a folder"),
        ("./no-such-folder", "no-such-folder"),
        ("../no-such-folder", "no-such-folder"),
        ("no--such/folder", "no--such/folder"),
    ),
)
def test_nothing_there(checkpoint: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(checkpoint, match, tmp_path, FileNotFoundError)


def test_missing_weights(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, r"checkpoint has neither pytorch_model\.bin nor model\.safetensors", tmp_path, FileNotFoundError)


def test_missing_config(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    (folder / "config.yaml").unlink()
    match = r"no config .*config\.yaml: put config\.yaml beside pytorch_model\.bin, or pass --config"
    refused(folder, match, tmp_path, FileNotFoundError)


def test_missing_config_that_was_given(folders: dict[str, Path], tmp_path: Path) -> None:
    refused(
        folders["mel"], r"no config .*other\.yaml", tmp_path, FileNotFoundError, config=str(tmp_path / "other.yaml")
    )


def test_revision_of_a_local_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    refused(folders["mel"], "revision 'main' is for hub ids; .*mel is not one", tmp_path, revision="main")


def test_missing_output_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write model\.onnx to"):
        quiet_export(folders["mel"], tmp_path / "nowhere" / "model.onnx")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    (
        (b"head: [1, 2", r"config\.yaml is not readable YAML: while parsing"),
        (b"\xff\xfe\x00\x01", r"config\.yaml is not readable YAML: "),
        (b"", r"config\.yaml holds no mapping; expected feature_extractor, backbone and head"),
        (b"- a list", r"config\.yaml holds no mapping"),
        (b"just words", r"config\.yaml holds no mapping"),
        (b"model: null", r"config\.yaml holds no mapping"),
        (b"{}", r"the config lacks backbone\.class_path"),
        (b"backbone: VocosBackbone", r"the config lacks backbone\.class_path"),
        (b"model: {class_path: vocos.experiment.VocosExp}", r"the config lacks backbone\.class_path"),
    ),
)
def test_config_that_is_none(text: bytes, match: str, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    (folder / "config.yaml").write_bytes(text)
    refused(folder, match, tmp_path)


@pytest.mark.parametrize(
    "keep", (0, 1, 2, 10, 0.3, 0.9, 0.999), ids=lambda k: f"{k} bytes" if isinstance(k, int) else f"{k:.1%}"
)
@pytest.mark.parametrize("form", ("zip", "legacy", "safetensors"))
def test_truncated_weights(form: str, keep: float, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    path = folder / "pytorch_model.bin"
    if form == "safetensors":
        state = torch.load(path)
        path.unlink()
        path = folder / "model.safetensors"
        safetensors.torch.save_file(state, path)
    elif form == "legacy":
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    refused(path, f"cannot read .*{path.name} as weights only", tmp_path)


def test_damaged_weights_never_raise_anything_else(folders: dict[str, Path], tmp_path: Path) -> None:
    """A randomly damaged file raises CheckpointError or reads as another state dict; no other error escapes."""
    state = torch.load(folders["mel"] / "pytorch_model.bin")
    small = {key: value.flatten()[:1].clone() for key, value in state.items()}
    legacy = io.BytesIO()
    torch.save(small, legacy, _use_new_zipfile_serialization=False)
    refusals, rng = 0, random.Random(0)
    (tmp_path / "config.yaml").write_bytes((folders["mel"] / "config.yaml").read_bytes())
    for name, data in (
        ("a.bin", zipped(small)),
        ("b.bin", legacy.getvalue()),
        ("c.safetensors", safetensors.torch.save(small)),
    ):
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 3, 30))):
                damaged[rng.randrange(len(data))] = rng.randrange(256)
            cut = rng.choice((len(data), rng.randrange(len(data))))
            (tmp_path / name).write_bytes(damaged[:cut])
            try:
                load(str(tmp_path / name))
            except CheckpointError as error:
                refusals += 1
                assert f"{name} " in str(error)
    assert refusals > 60


@pytest.mark.parametrize(
    "value",
    ({}, [], {"a": 1}, {"state_dict": {}}, {"state_dict": {"other.weight": torch.ones(1)}}, torch.ones(3)),
    ids=("empty", "list", "number", "empty Lightning", "another Lightning model", "tensor"),
)
def test_weights_that_are_no_state_dict(value: Any, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    torch.save(value, folder / "pytorch_model.bin")
    refused(folder, r"pytorch_model\.bin is not a state dict: expected names and tensors", tmp_path)


# Configs that are unsupported or contradict themselves


@pytest.mark.parametrize("section", ("feature_extractor", "backbone", "head"))
def test_unknown_class(section: str, change: Callable[..., Path], tmp_path: Path) -> None:
    message = refused(
        change("mel", lambda c: c[section].update(class_path="acme.models.Fancy")),
        rf"{section} class acme\.models\.Fancy is not supported; supported are vocos\.",
        tmp_path,
    )
    known = {"feature_extractor": "MelSpectrogramFeatures", "backbone": "VocosResNetBackbone", "head": "IMDCTCosHead"}
    assert known[section] in message


@pytest.mark.parametrize("section", ("feature_extractor", "backbone", "head"))
def test_missing_section(section: str, change: Callable[..., Path], tmp_path: Path) -> None:
    refused(change("mel", lambda c: c.pop(section)), rf"the config lacks {section}\.class_path", tmp_path)


@pytest.mark.parametrize("section", ("feature_extractor", "backbone", "head"))
def test_missing_class_path(section: str, change: Callable[..., Path], tmp_path: Path) -> None:
    """A section without a class path means the default class."""
    folder = change("mel", lambda c: c[section].pop("class_path"))
    quiet_export(folder, tmp_path / "model.onnx")
    frames = np.zeros((VocosONNX(tmp_path / "model.onnx").config.feature_channels, 9), np.float32)
    assert VocosONNX(tmp_path / "model.onnx").decode(frames).size


@pytest.mark.parametrize("section", ("feature_extractor", "backbone", "head"))
def test_unknown_argument(section: str, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", lambda c: c[section]["init_args"].update(use_magic=True))
    refused(folder, rf"{section}: vocos\.\S+ got an unexpected keyword argument 'use_magic'; its arguments", tmp_path)


@pytest.mark.parametrize(("section", "name"), (("backbone", "dim"), ("backbone", "num_layers"), ("head", "hop_length")))
def test_missing_argument(section: str, name: str, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", lambda c: c[section]["init_args"].pop(name))
    refused(folder, rf"{section}: vocos\.\S+ missing a required argument: '{name}'; its arguments are", tmp_path)


@pytest.mark.parametrize("args", ([1, 2], "words", 3))
def test_arguments_that_are_no_mapping(args: Any, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", lambda c: c["head"].update(init_args=args))
    refused(folder, r"head\.init_args is .*, expected a mapping", tmp_path)


@pytest.mark.parametrize(
    ("name", "section", "args", "match"),
    (
        ("mel", "head", {"n_fft": 65}, "head: n_fft is 65, expected a positive multiple of 2"),
        ("mel", "head", {"n_fft": 0}, "head: n_fft is 0, expected a positive multiple of 2"),
        ("mel", "head", {"n_fft": "64"}, "head: n_fft is '64', expected a positive multiple of 2"),
        ("mel", "head", {"n_fft": None}, "head: n_fft is None, expected a positive multiple of 2"),
        ("resnet", "head", {"mdct_frame_len": 31}, "head: mdct_frame_len is 31, expected a positive multiple of 4"),
        ("resnet", "head", {"mdct_frame_len": 30}, "head: mdct_frame_len is 30, expected a positive multiple of 4"),
        ("mel", "head", {"padding": "valid"}, "head: padding is 'valid', expected 'same' or 'center'"),
        ("mel", "feature_extractor", {"padding": "valid"}, "mel padding is 'valid', expected one of .*same.*center"),
        ("mel", "head", {"hop_length": 8}, "mel hop_length is 16 but the head's is 8: they must be equal"),
        ("mel", "head", {"hop_length": 64}, "hop_length is 64, expected at most n_fft - 2 = 62"),
        ("mel", "head", {"hop_length": 0}, "hop_length is 0, expected a positive integer"),
        ("mel", "feature_extractor", {"n_mels": 9}, "mel features have 9 bands but the network takes 8 channels"),
        ("mel", "feature_extractor", {"sample_rate": 0}, "sample_rate is 0, expected a positive integer"),
        ("mel", "backbone", {"dim": 24}, "head: dim is 16 but the backbone's is 24"),
        ("mel", "backbone", {"num_layers": 0}, "backbone: num_layers is 0, expected a positive integer"),
        ("mel", "backbone", {"dim": -1}, "backbone: dim is -1, expected a positive integer"),
        ("mel", "backbone", {"dim": "16"}, "backbone: dim is '16', expected int"),
        ("encodec", "feature_extractor", {"encodec_model": "dac"}, "encodec_model 'dac' is not one of encodec_24khz, "),
        ("encodec", "feature_extractor", {"bandwidths": []}, r"bandwidths is \[\], expected a list of kbps"),
        ("encodec", "feature_extractor", {"bandwidths": 6.0}, r"bandwidths is 6\.0, expected a list of kbps"),
        ("encodec", "feature_extractor", {"bandwidths": ["x"]}, r"bandwidths is \['x'\], expected a list of kbps"),
        ("encodec", "head", {"hop_length": 160}, "hop_length is 160 but encodec_24khz has 75 frames/s .* which is 320"),
        ("encodec", "backbone", {"input_channels": 64}, r"has shape \(2048, 128\), expected \(2048, 64\): 2 "),
        ("encodec", "feature_extractor", {"bandwidths": [3.0]}, r"shape \(2048, 128\), expected \(4096, 128\): 4 code"),
    ),
)  # fmt: skip
def test_bad_argument(
    name: str, section: str, args: Config, match: str, change: Callable[..., Path], tmp_path: Path
) -> None:
    refused(change(name, lambda c: c[section]["init_args"].update(args)), match, tmp_path)


def test_more_bandwidths_than_embeddings(change: Callable[..., Path], tmp_path: Path) -> None:
    def one(state: State) -> None:
        state.update({k: v[:1] for k, v in state.items() if k.endswith((".scale.weight", ".shift.weight"))})

    folder = change("encodec", lambda c: c["backbone"]["init_args"].update(adanorm_num_embeddings=1), one)
    refused(folder, "the config contradicts itself: 2 bandwidths but only 1 bandwidth embeddings", tmp_path)


@pytest.mark.parametrize(
    ("name", "section", "argument", "value"),
    (
        ("mel", "feature_extractor", "sample_rate", "24000"),
        ("mel", "feature_extractor", "sample_rate", 24000.0),
        ("mel", "feature_extractor", "sample_rate", None),
        ("mel", "feature_extractor", "n_fft", "64"),
        ("mel", "feature_extractor", "n_fft", 64.0),
        ("mel", "feature_extractor", "n_fft", None),
        ("mel", "feature_extractor", "hop_length", 16.0),
        ("mel", "feature_extractor", "n_mels", 8.0),
        ("mel", "head", "hop_length", 16.0),
        ("encodec", "head", "hop_length", 320.0),
        ("encodec", "head", "hop_length", None),
        ("encodec", "feature_extractor", "encodec_model", ["encodec_24khz"]),
        ("resnet", "head", "clip_audio", 1),
    ),
)
def test_argument_of_the_wrong_type(
    name: str, section: str, argument: str, value: Any, change: Callable[..., Path], tmp_path: Path
) -> None:
    """Raises CheckpointError naming the argument, rather than whatever error happens first."""
    message = refused(change(name, lambda c: c[section]["init_args"].update({argument: value})), argument, tmp_path)
    assert "export the checkpoint again" not in message


# State dicts that do not fit


def test_missing_extra_and_misshapen_keys_are_all_named(change: Callable[..., Path], tmp_path: Path) -> None:
    def spoil(state: State) -> None:
        del state["backbone.norm.weight"]
        del state["head.istft.window"]
        state["backbone.extra.weight"] = torch.ones(1)
        state["head.out.bias"] = torch.ones(5)
        state["backbone.embed.weight"] = state["backbone.embed.weight"][..., :3]

    message = refused(change("mel", state=spoil), "the state dict does not fit its config: it ", tmp_path)
    for part in (
        "lacks backbone.norm.weight",
        "lacks head.istft.window",
        "has the unknown key backbone.extra.weight",
        "has head.out.bias of shape (5,), expected (66,)",
        "has backbone.embed.weight of shape (16, 8, 3), expected (16, 8, 7)",
    ):
        assert part in message
    assert "more)" not in message


def test_many_problems_are_counted(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", state=lambda s: s.update({f"backbone.extra{i}": torch.ones(1) for i in range(9)}))
    refused(folder, r"unknown key backbone\.extra0; .*unknown key backbone\.extra4 \(and 4 more\)", tmp_path)


def test_deeper_network_than_the_config_says(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", lambda c: c["backbone"]["init_args"].update(num_layers=2))
    refused(folder, r"lacks backbone\.convnext\.1\.gamma", tmp_path)


def test_adanorm_weights_without_adanorm(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("encodec", lambda c: c["backbone"]["init_args"].pop("adanorm_num_embeddings"))
    refused(folder, r"lacks backbone\.norm\.weight", tmp_path)


def test_discriminators_without_lightning(change: Callable[..., Path], tmp_path: Path) -> None:
    """Only Lightning files may hold other networks; elsewhere an unknown key is an error."""
    folder = change("mel", state=lambda s: s.update({"multiperioddisc.x": torch.ones(1)}))
    refused(folder, r"has the unknown key multiperioddisc\.x", tmp_path)


def test_missing_codebooks(change: Callable[..., Path], tmp_path: Path) -> None:
    refused(change("encodec", state=lambda s: s.pop(CODEBOOKS)), f"the state dict lacks {CODEBOOKS}", tmp_path)


@pytest.mark.parametrize("shape", ((2047, 128), (2048, 127), (2, 1024, 128)))
def test_codebooks_of_the_wrong_shape(shape: tuple[int, ...], change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("encodec", state=lambda s: s.update({CODEBOOKS: torch.ones(shape)}))
    match = rf"codebook_weights has shape {re.escape(str(shape))}, expected \(2048, 128\): 2 codebooks of 1024"
    refused(folder, match, tmp_path)


@pytest.mark.parametrize("value", (float("nan"), float("inf"), float("-inf")))
@pytest.mark.parametrize("key", ("head.out.bias", "backbone.convnext.0.gamma", "backbone.norm.shift.weight", CODEBOOKS))
def test_weights_that_are_not_finite(key: str, value: float, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("encodec", state=lambda s: s[key].flatten()[-1:].fill_(value))
    assert not torch.isfinite(torch.load(folder / "pytorch_model.bin")[key]).all()
    refused(folder, rf"{re.escape(key)} holds NaN or infinity", tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    (
        ("mel", "head.istft.window", torch.hann_window(64, periodic=False)),
        ("mel", "head.istft.window", torch.hamming_window(64)),
        ("mel", "head.istft.window", torch.full((64,), float("nan"))),
        ("resnet", "head.imdct.window", torch.hann_window(32)),
        ("resnet", "head.imdct.pre_twiddle", torch.ones(32, 2)),
        ("resnet", "head.imdct.post_twiddle", torch.ones(32, 2)),
    ),
    ids=("symmetric", "hamming", "nan", "mdct window", "pre_twiddle", "post_twiddle"),
)
def test_altered_constants(name: str, key: str, value: Tensor, change: Callable[..., Path], tmp_path: Path) -> None:
    """Upstream loads these constants from the checkpoint, while our transforms compute them, so they must agree."""
    refused(change(name, state=lambda s: s.update({key: value})), rf"{key} differs by .* from what vocos", tmp_path)


# A failed export leaves nothing behind


def test_failure_leaves_an_existing_output(change: Callable[..., Path], tmp_path: Path) -> None:
    folder, output = change("mel", state=lambda s: s.pop("head.out.bias")), tmp_path / "model.onnx"
    output.write_bytes(b"what was there")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError):
        quiet_export(folder, output)
    assert output.read_bytes() == b"what was there"
    assert sorted(tmp_path.iterdir()) == before


def test_success_replaces_an_existing_output(folders: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    output.write_bytes(b"what was there")
    lines: list[str] = []
    export(str(folders["mel"]), output, report=lines.append)
    assert VocosONNX(output).config.source.name == "mel"
    assert list(tmp_path.iterdir()) == [output]
    assert not [line for line in lines if "\n" in line]
    text = "\n".join(lines)
    for word in ("spectrum", "waveform", "tolerance", f"wrote {output}"):
        assert word in text


def _wrong_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(model: Any) -> None:
        fold(model)
        model.backbone.convnext[0].pwconv2.weight.data[0, 0] += 1

    monkeypatch.setattr(vocos_onnx_export.vocoder, "fold", corrupt)


def _wrong_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(model: Any) -> None:
        fold(model)
        model.backbone.norm.shift.weight.data[1, 0] += 1  # one channel: the next layer norm would undo a shift of all

    monkeypatch.setattr(vocos_onnx_export.vocoder, "fold", corrupt)


def _wrong_codebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swaps in wrong codebooks with a matching fingerprint, so that the fingerprint does not give them away."""

    def wrong(model: Any, config: Any, books: Any) -> Any:
        flipped = books.flip(0)
        digest = fingerprints(flipped.numpy())[-1]
        config = dataclasses.replace(config, encodec=dataclasses.replace(config.encodec, codebooks_sha256=digest))
        return trace(model, config, flipped)

    monkeypatch.setattr(vocos_onnx_export.vocoder, "trace", wrong)


def _wrong_waveform(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Inverse.join
    monkeypatch.setattr(Inverse, "join", lambda *args: [audio * np.float32(1.001) for audio in run(*args)])


def _wrong_length(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Inverse.join
    monkeypatch.setattr(Inverse, "join", lambda *args: [audio[:, 1:] for audio in run(*args)])


def _nan_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(model: Any) -> None:
        fold(model)
        model.head.out.weight.data[0, 0] = float("nan")

    monkeypatch.setattr(vocos_onnx_export.vocoder, "fold", corrupt)


@pytest.mark.parametrize(
    ("spoil", "match"),
    (
        (_wrong_codebook, r"differs from torch in \d+ of \d+ checks, first in the features by .*\(bandwidth_id 0, "),
        (_wrong_weight, r"first in the spectrum by .*\(bandwidth_id 0, batch 1, 1 frames\)"),
        (_wrong_embedding, r"first in the spectrum by .*\(bandwidth_id 1, batch 1, 1 frames\)"),
        (_nan_spectrum, "first in the spectrum by nan"),
        (_wrong_waveform, r"first in the waveform by .*e-03"),
        (_wrong_length, "first in the waveform by inf"),
    ),
)  # fmt: skip
def test_verification_that_fails(
    spoil: Callable[[pytest.MonkeyPatch], None],
    match: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch)
    output = tmp_path / "model.onnx"
    output.write_bytes(b"what was there")
    with pytest.raises(CheckpointError, match=match) as caught:
        quiet_export(folders["encodec"], output)
    assert "model.onnx was not written" in str(caught.value)
    assert output.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [output]


# Files that claim to be larger than they are must be rejected before memory is allocated


@pytest.fixture(autouse=True)
def bounded() -> Any:
    """Every test of this file may use only 4 GB more address space than now, so no false size can be allocated."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_bombs(name: str, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    (folder / "config.yaml").write_text(BOMBS[name])
    message = refused(folder, r"config\.yaml is not readable YAML: |the config lacks backbone", tmp_path)
    assert len(message) < 500


def test_aliases_that_repeat_little(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text("x: &x [1, 2]\ny: [*x, *x]\n" + text)
    quiet_export(folder, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("name", "section", "args"),
    (
        ("mel", "backbone", {"num_layers": 10**9}),
        ("mel", "backbone", {"num_layers": -(10**9)}),
        ("mel", "backbone", {"dim": 10**9}),
        ("mel", "backbone", {"dim": 10**30}),
        ("mel", "backbone", {"dim": 16_384, "intermediate_dim": 65_536, "num_layers": 256}),
        ("mel", "backbone", {"intermediate_dim": 10**9}),
        ("mel", "backbone", {"input_channels": 10**9}),
        ("mel", "backbone", {"num_layers": True}),
        ("mel", "backbone", {"layer_scale_init_value": float("nan")}),
        ("mel", "backbone", {"layer_scale_init_value": float("inf")}),
        ("encodec", "backbone", {"adanorm_num_embeddings": 10**9}),
        ("resnet", "backbone", {"num_blocks": 10**9}),
        ("mel", "head", {"n_fft": 10**9}),
        ("mel", "head", {"n_fft": "x" * 50_000}),
        ("mel", "head", {"hop_length": 10**400}),
        ("resnet", "head", {"mdct_frame_len": 1 << 20}),
        ("mel", "feature_extractor", {"n_mels": 10**9}),
        ("mel", "feature_extractor", {"sample_rate": 10**9}),
        ("mel", "feature_extractor", {"f_max": float("inf")}),
        ("encodec", "feature_extractor", {"bandwidths": [1e300]}),
        ("encodec", "feature_extractor", {"bandwidths": [float("nan")]}),
        ("encodec", "feature_extractor", {"bandwidths": [-1.5]}),
        ("encodec", "feature_extractor", {"bandwidths": [True]}),
        ("encodec", "feature_extractor", {"bandwidths": [1.5] * 1000}),
        ("encodec", "feature_extractor", {"encodec_model": "x" * 50_000}),
    ),
)  # fmt: skip
def test_sizes_without_bounds(
    name: str, section: str, args: Config, change: Callable[..., Path], tmp_path: Path
) -> None:
    message = refused(change(name, lambda c: c[section]["init_args"].update(args)), ".", tmp_path)
    assert len(message) < 1000


def test_long_names_are_shortened(change: Callable[..., Path], tmp_path: Path) -> None:
    long = "x" * 30_000
    for i, spoil in enumerate(
        (
            lambda c: c["head"].update(class_path=long),
            lambda c: c["head"].update(init_args=[long]),
            lambda c: c["head"]["init_args"].update({long: 1}),
            lambda c: c["head"]["init_args"].update(padding=long),
            lambda c: c["feature_extractor"].update(class_path=long),
        )
    ):
        folder = change("mel", spoil)
        (tmp_path / str(i)).mkdir()
        assert len(refused(folder, "x", tmp_path / str(i))) < 1000
        folder.rename(tmp_path / f"done {i}")
    folder = change("mel", state=lambda s: s.update({f"backbone.{long}": torch.ones(1)}))
    assert len(refused(folder, "has the unknown key backbone", tmp_path)) < 1000


def _expanded(state: State) -> None:
    state["head.out.weight"] = torch.zeros(1).expand(1 << 20, 10_000)  # 40 GB, from 4 bytes


def _shared(state: State) -> None:
    large = torch.zeros(1 << 20)
    state.update({f"backbone.extra{i}": large for i in range(100)})


@pytest.mark.parametrize("form", ("zip", "legacy"))
@pytest.mark.parametrize("spoil", (_expanded, _shared))
def test_tensors_that_repeat_their_numbers(
    spoil: Callable[[State], None], form: str, change: Callable[..., Path], tmp_path: Path
) -> None:
    folder = change("mel", state=spoil)
    path = folder / "pytorch_model.bin"
    if form == "legacy":
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert path.stat().st_size < 10_000_000
    refused(folder, r"has \d+ bytes, and its tensors would take \d+: they repeat or share .*\.clone\(\)", tmp_path)


@pytest.mark.parametrize(
    "value",
    (
        torch.empty(1 << 40, device="meta"),
        torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (66, 16), check_invariants=True),
        torch.zeros(66, 16, dtype=torch.complex64),
        torch.zeros(66, 16).to(torch.float8_e4m3fn),
    ),
    ids=("meta", "sparse", "complex", "float8"),
)
def test_tensors_of_other_kinds(value: Tensor, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel", state=lambda s: s.update({"head.out.weight": value}))
    refused(
        folder, r"'head\.out\.weight' is no tensor of plain numbers in memory: |it calls 'torch\._utils\._re", tmp_path
    )


CALLS = {
    "bytearray": Call(bytearray, (3 * 10**9,)),
    "encode": Call(codecs.encode, ("".join(map(chr, range(65_536, 125_536))), "punycode")),
    "sparse": torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True),  # type: ignore[arg-type]
    "system": Call(os.system, ("true",)),
    "attributes of a parameter": Call(torch._utils._rebuild_parameter_with_state, (torch.ones(1), 0, {}, {"numel": 1})),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("form", ("zip", "legacy", "beside the data"))
def test_pickles_that_call_what_torch_lets(form: str, name: str, tmp_path: Path) -> None:
    """Calls that torch's weights-only loader allows can fill memory or take minutes; the reader rejects them."""
    path = tmp_path / "pytorch_model.bin"
    if form == "beside the data":
        buffer = io.BytesIO(zipped({"a": torch.ones(3)}))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("archive/Data.PKL", pickle.dumps(Call(bytearray, (3,)), 2))
        path.write_bytes(buffer.getvalue())
        match = "it calls|comes twice"
    else:
        value = {"state_dict": {"a": torch.ones(3)}, "other": CALLS[name]}
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
        match = "it calls '.+', which no weights need"
    with pytest.raises(CheckpointError, match=match):
        read_weights(path)


def test_archives_that_readers_take_for_different_ones(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(two_directories({"a": bytearray(300)}, {"a": 3}))
    with zipfile.ZipFile(path) as archive:
        assert pickle.loads(archive.read("archive/data.pkl")) == {"a": 3}
    assert read_tree(path)[0] == {"a": 3}, "what was checked is not what was loaded"
    data = zipped({"a": torch.ones(3)})
    path.write_bytes(b"PK" + data)  # all offsets are shifted, which Python corrects
    assert read_weights(path)[0]["a"].tolist() == [1, 1, 1]


def test_attributes_of_dictionaries(tmp_path: Path) -> None:
    """Attributes named like dictionary methods would shadow them; the weights are read all the same."""
    path = tmp_path / "pytorch_model.bin"
    attributes = dict.fromkeys(("get", "items", "keys", "values", "_metadata"), 1)
    for value in (
        Call(OrderedDict, (), attributes, None, iter({"a": torch.ones(1)}.items())),
        {"state_dict": Call(OrderedDict, (), attributes, None, iter({"head.a": torch.ones(1)}.items()))},
    ):
        torch.save(value, path)
        state, _ = read_weights(path)
        assert [float(tensor) for tensor in state.values()] == [1]


def test_parameters_and_views_that_are_not_numbers_yet(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.nn.Parameter(torch.ones(1)), "b": torch.ones(1)._neg_view()}, path)
    state, _ = read_weights(path)
    assert {key: tensor.numpy().tolist() for key, tensor in state.items()} == {"a": [1], "b": [-1]}


@pytest.mark.parametrize("key", (5, None, ("a", "b"), b"x"))
def test_names_that_are_no_text(key: Any, change: Callable[..., Path], tmp_path: Path) -> None:
    for lightning in (False, True):
        folder = change("mel")
        state = {**torch.load(folder / "pytorch_model.bin"), key: torch.ones(1)}
        torch.save({"state_dict": {key: torch.ones(1)}} if lightning else state, folder / "pytorch_model.bin")
        (tmp_path / str(lightning)).mkdir()
        refused(folder, "is not a state dict: expected names and tensors|it calls", tmp_path / str(lightning))
        folder.rename(tmp_path / f"done {lightning}")


def test_weight_norm_of_other_shapes(change: Callable[..., Path], tmp_path: Path) -> None:
    """Multiplying weight_g and weight_v of mismatched shapes would fill memory, so they are rejected first."""

    def spoil(state: State) -> None:
        del state["backbone.embed.weight"]
        state["backbone.embed.weight_g"] = torch.ones(100_000, 1)
        state["backbone.embed.weight_v"] = torch.ones(1, 100_000)

    refused(change("mel", state=spoil), r"weight_g' has the shape \(100000, 1\), which does not go with", tmp_path)


def test_compressed_archives(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    state = torch.load(folder / "pytorch_model.bin")
    data = deflated(state, 100 << 20)
    assert len(data) < 1_000_000
    (folder / "pytorch_model.bin").write_bytes(data)
    refused(folder, "its files are compressed, or larger than the archive", tmp_path)


@pytest.mark.parametrize(
    "data",
    (
        safetensors_file({}, claimed=100 << 20),
        safetensors_file({}, claimed=1 << 63),
        safetensors_file({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_file({"a": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}}, bytes(4)),
        safetensors_file({k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}, bytes(4)),
        safetensors_file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, bytes(4)),
        safetensors_file([]),
        b"\x00" * 7,
    ),
)
def test_safetensors_that_lie(data: bytes, change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change("mel")
    (folder / "model.safetensors").write_bytes(data)
    refused(folder / "model.safetensors", r"cannot read .*model\.safetensors as weights only", tmp_path)


@pytest.mark.parametrize("name", ("pytorch_model.bin", "model.safetensors"))
def test_weights_cut_while_they_are_read(name: str, change: Callable[..., Path], tmp_path: Path) -> None:
    """Reading gives the original weights or an error; it never kills the process, as a truncated mapped file would."""
    import os
    import threading

    from vocos_onnx_export.weights import read_state

    folder = change("mel")
    state = torch.load(folder / "pytorch_model.bin")
    path = folder / name
    if name == "model.safetensors":
        safetensors.torch.save_file(state, path)
    data, end = path.read_bytes(), threading.Event()

    def cut() -> None:
        while not end.is_set():
            os.truncate(path, len(data) // 2)
            path.write_bytes(data)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        for _ in range(50):
            try:
                read = read_state(path)
            except CheckpointError:
                continue
            assert all(torch.equal(read[key], value) for key, value in state.items())
    finally:
        end.set()
        thread.join()


def test_name_that_cannot_be_printed(folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder name may contain any bytes; the source recorded in the model is printable."""
    folder = tmp_path / "a\x1b[2Jb\udcff"
    folder.mkdir()
    for file in folders["mel"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert quiet_export(folder, tmp_path / "model.onnx").source.name == "a?[2Jb?"
