"""Conversion without torch: what the check of a converted file detects, and which checkpoints raise an error."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import (
    CODEBOOKS,
    ENCODEC_CONFIG,
    encoder_state,
    random_weights,
    vocoder_state,
    write_encoder,
    write_vocoder,
)
from vocos_onnx import EncodecONNX, VocosONNX, once
from vocos_onnx.arrays import Float
from vocos_onnx.cli import main
from vocos_onnx.convert.encoder import convert_encoder
from vocos_onnx.convert.reference import vocos_spectrum
from vocos_onnx.convert.vocoder import convert_vocoder
from vocos_onnx.model import precision, skeletons
from vocos_onnx.model.checkpoint import CheckpointError
from vocos_onnx.model.onnx_file import read_model
from vocos_onnx.model.skeletons import Skeleton, Step
from vocos_onnx.model.sources import Files

pytest.importorskip("yaml")

State = dict[str, Float]
Steps = tuple[Step, ...]


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = write_vocoder(tmp_path_factory.mktemp("vocoder") / "checkpoint")
    return Files(folder / "config.yaml", folder / "pytorch_model.bin", "vocoder")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = write_encoder(tmp_path_factory.mktemp("encoder") / "checkpoint")
    return Files(folder / "config.json", folder / "model.safetensors", "encoder")


# The check


def rewritten(change: Callable[[str, Steps], Steps], monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch the skeletons' steps; ``change`` gets the name of the first step's weight and all steps of a tensor."""
    load = skeletons.load

    def changed(name: str, form: str = "float32") -> Skeleton:
        skeleton = load(name, form)
        tensors, count = [], 0
        for tensor in skeleton.tensors:
            first = str(tensor.steps[0][1]) if len(tensor.steps[0]) > 1 else ""
            steps = change(first, tensor.steps)
            count += steps != tensor.steps
            tensors.append(tensor._replace(steps=steps))
        assert count
        return replace(skeleton, tensors=tuple(tensors))

    monkeypatch.setattr(skeletons, "load", changed)


def unfolded(first: str, steps: Steps) -> Steps:
    return tuple(step for step in steps if step != ("times", "backbone.convnext.3.gamma"))


def other_layer(first: str, steps: Steps) -> Steps:
    names = {"backbone.convnext.3.pwconv1.bias": "backbone.convnext.4.pwconv1.bias"}
    return (("weight", names[first]), *steps[1:]) if first in names else steps


def other_norm(first: str, steps: Steps) -> Steps:
    names = {"backbone.final_layer_norm.weight": "backbone.final_layer_norm.bias"}
    return (("weight", names[first]), *steps[1:]) if first in names else steps


def swapped_bandwidths(first: str, steps: Steps) -> Steps:
    names = {"backbone.norm.scale.weight": "backbone.convnext.0.norm.scale.weight"}
    return (("weight", names[first]), *steps[1:]) if first in names else steps


def no_transposition(first: str, steps: Steps) -> Steps:
    return tuple(step for step in steps if step != ("transpose",)) if first == "head.out.weight" else steps


@pytest.mark.parametrize("change", [unfolded, other_layer, other_norm, swapped_bandwidths, no_transposition])
def test_wrong_weights_in_a_vocoder(
    change: Callable[[str, Steps], Steps], vocoder: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(change, monkeypatch)
    with pytest.raises(CheckpointError, match=r"differs from its weights by .* of the spectrum's peak"):
        convert_vocoder(vocoder, tmp_path / "model.onnx")


def order_of_torch(first: str, steps: Steps) -> Steps:
    return (("weight", first), *steps[1:]) if first.endswith("weight_ih_l1") else steps


def other_kernel(first: str, steps: Steps) -> Steps:
    names = {"layers.1.block.3.conv.bias": "layers.1.shortcut.conv.bias"}
    return (("weight", names[first]), *steps[1:]) if first in names else steps


@pytest.mark.parametrize("change", [order_of_torch, other_kernel])
def test_wrong_weights_in_an_encoder(
    change: Callable[[str, Steps], Steps], encoder: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(change, monkeypatch)
    with pytest.raises(CheckpointError, match=r"differs from its weights by .* of the embeddings' peak"):
        convert_encoder(encoder, tmp_path / "model.onnx")


# Converted models


def test_files_and_folders(vocoder: Files, encoder: Files, tmp_path: Path) -> None:
    """The class and the command give the same model, from a folder or from a weight file."""
    assert vocoder.config is not None
    folder = vocoder.weights.parent
    made = []
    for i, name in enumerate((folder, vocoder.weights)):
        assert main(["convert", str(name), "-o", str(tmp_path / f"{i}.onnx")]) == 0
        made.append(VocosONNX(tmp_path / f"{i}.onnx"))
    made.append(VocosONNX(folder))
    tokens = np.random.default_rng(0).integers(1024, size=(4, 40))
    audio = [vocos.decode(tokens) for vocos in made]
    assert audio[0].std() > 0
    assert all(np.array_equal(one, audio[0]) for one in audio[1:])
    assert main(["convert", str(encoder.weights), "-o", str(tmp_path / "encoder.onnx")]) == 0
    recording = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
    one, other = EncodecONNX(tmp_path / "encoder.onnx"), EncodecONNX(encoder.weights.parent)
    assert np.array_equal(one.encode(recording, 24_000), other.encode(recording, 24_000))
    copy = VocosONNX(folder, encoder=one)(recording, 24_000, bandwidth=3.0)
    assert copy.shape == (16 * 320,)


@pytest.mark.parametrize(("option", "precision", "snr_db"), [("--int8", "int8", 25), ("--fp16", "float16", 45)])
def test_other_precisions(option: str, precision: str, snr_db: float, vocoder: Files, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(1024, size=(16, 60))
    np.save(tmp_path / "tokens.npy", tokens)
    command = ["convert", str(vocoder.weights.parent), "-o", str(tmp_path / "narrow.onnx"), option]
    assert main([*command, "--calibrate", str(tmp_path / "tokens.npy"), "--istft", "graph"]) == 0
    narrow, wide = VocosONNX(tmp_path / "narrow.onnx"), VocosONNX(vocoder.weights.parent)
    assert narrow.config.precision == precision
    assert narrow.config.quality is not None and narrow.config.quality.snr_db > snr_db
    given, expected = narrow.decode(tokens), wide.decode(tokens)
    assert 10 * np.log10((expected**2).sum() / ((given - expected) ** 2).sum()) > snr_db


def test_half_precision_checkpoint(vocoder: Files, tmp_path: Path) -> None:
    state: dict[str, Any] = {key: value.astype(np.float16) for key, value in vocoder_state().items()}
    folder = write_vocoder(tmp_path / "half", state)
    tokens = np.random.default_rng(0).integers(1024, size=(4, 40))
    given, expected = VocosONNX(folder).decode(tokens), VocosONNX(vocoder.weights.parent).decode(tokens)
    assert 0 < np.abs(given - expected).max() <= 0.02 * np.abs(expected).max()


def test_layout_of_mlx(tmp_path: Path) -> None:
    """MLX checkpoints have channels-last kernels, no window, and a config without classes."""
    state = {k: v for k, v in vocoder_state().items() if k != "head.istft.window"}
    plain = write_vocoder(tmp_path / "plain", state)
    turned = {k: np.ascontiguousarray(v.transpose(0, 2, 1)) if v.ndim == 3 else v for k, v in state.items()}
    folder = write_vocoder(tmp_path / "mlx", turned)
    import yaml

    config = yaml.safe_load(ENCODEC_CONFIG)
    (folder / "config.yaml").unlink()
    (folder / "config.json").write_text(json.dumps({k: {"init_args": v["init_args"]} for k, v in config.items()}))
    tokens = np.random.default_rng(0).integers(1024, size=(4, 40))
    assert np.array_equal(VocosONNX(folder).decode(tokens), VocosONNX(plain).decode(tokens))


WAVENEXT_CONFIG = ENCODEC_CONFIG.replace("ISTFTHead", "WaveNextHead")


def wavenext_state() -> State:
    """Weights whose audio has a standard deviation of about 1, so that some samples need clipping."""
    return {CODEBOOKS: vocoder_state()[CODEBOOKS], **random_weights("wavenext-encodec")}


@pytest.fixture(scope="module")
def wavenext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocoder(tmp_path_factory.mktemp("wavenext") / "checkpoint", wavenext_state(), WAVENEXT_CONFIG)


def test_wavenext(wavenext: Path) -> None:
    """The file merges the head's two layers into one; the audio equals that of both."""
    vocos = VocosONNX(wavenext)
    assert (vocos.config.head, vocos.config.n_fft, vocos.hop_length) == ("wavenext", 320, 320)
    state = wavenext_state()
    tokens = np.random.default_rng(0).integers(1024, size=(8, 50))
    codebooks = state[CODEBOOKS].reshape(16, 1024, 128)
    features = np.sum([codebooks[k][tokens[k]] for k in range(8)], axis=0).T
    expected = vocos_spectrum(state, features, 2).reshape(-1)
    audio = vocos.decode(tokens)
    assert audio.shape == (50 * 320,)
    assert 0.01 < (np.abs(audio) == 1).mean() < 0.9
    assert np.abs(audio - expected.clip(-1, 1)).max() <= 1e-5 * np.abs(expected).max()
    stream = np.concatenate(list(vocos.decode_stream([tokens[:, :9], tokens[:, 9:]])))
    assert np.abs(stream - audio).max() <= 1e-5
    assert "head.linear_2.weight" not in read_model(Path(str(convert_to(wavenext)))).weights


def convert_to(folder: Path, *options: str) -> Path:
    output = folder.parent / f"model{''.join(options)}.onnx"
    assert main(["convert", str(folder), "-o", str(output), *options]) == 0
    return output


@pytest.mark.parametrize(("options", "snr_db"), [(["--int8"], 15), (["--fp16"], 40), (["--istft", "graph"], 100)])
def test_wavenext_in_other_forms(options: list[str], snr_db: float, wavenext: Path) -> None:
    given, expected = VocosONNX(convert_to(wavenext, *options)), VocosONNX(wavenext)
    for codes in np.random.default_rng(0).integers(1024, size=(2, 4, 60)):
        audio, other = given.decode(codes), expected.decode(codes)
        assert np.square(audio - other).sum() < 10 ** (-snr_db / 10) * np.square(other).sum()


def test_a_wrong_fold_is_seen(wavenext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check computes both layers separately, so it detects a fold with the second layer's rows reversed."""
    flipped = lambda weight, second: precision.through(weight, second[::-1])  # noqa: E731
    monkeypatch.setattr(skeletons, "through", flipped)
    files = Files(wavenext / "config.yaml", wavenext / "pytorch_model.bin", "wavenext")
    with pytest.raises(CheckpointError, match=r"differs from its weights by \d\.\de[+-]\d+ of the spectrum's peak"):
        convert_vocoder(files, tmp_path / "model.onnx")


def test_layout_of_a_fork(vocoder: Files, tmp_path: Path) -> None:
    """Configs with the same class names in other modules, or without classes, are converted alike."""
    import yaml

    tokens = np.random.default_rng(0).integers(1024, size=(4, 40))
    expected = VocosONNX(vocoder.weights.parent).decode(tokens)
    sections = {k: {"init_args": v["init_args"]} for k, v in yaml.safe_load(ENCODEC_CONFIG).items()}
    for name, config in (
        ("fork", ENCODEC_CONFIG.replace("class_path: vocos.", "class_path: decoder.")),
        ("no-classes", yaml.safe_dump(sections)),
    ):
        folder = write_vocoder(tmp_path / name, config=config)
        assert np.array_equal(VocosONNX(folder).decode(tokens), expected)


# Checkpoints that raise an error


def test_relatives(tmp_path: Path) -> None:
    """Related models are recognised by the names of their weights, whatever the config says."""
    for name, key in (("WavTokenizer", "backbone.pos_net.2.q.weight"), ("NeuCodec", "generator.backbone.embed.weight")):
        state = {**vocoder_state(), key: np.zeros(3, np.float32)}
        folder = write_vocoder(tmp_path / name, state)
        with pytest.raises(CheckpointError, match=f"this is a checkpoint of {name}.*, whose decoder is not that of V"):
            VocosONNX(folder)


def test_a_geometry_of_amphion_needs_torch(tmp_path: Path) -> None:
    folder = write_vocoder(tmp_path / "tadicodec", {"head.out.bias": np.zeros(3, np.float32)})
    (folder / "config.yaml").unlink()
    vocos = {"input_channels": 128, "dim": 1024, "intermediate_dim": 4096, "num_layers": 30, "n_fft": 1920}
    vocos |= {"hop_size": 480}
    preprocess = {"sample_rate": 24000, "n_fft": 1920, "hop_size": 480, "num_mels": 128}
    for config in {"model": {"vocos": vocos}, "preprocess": preprocess}, {"model": {"vocos": vocos}}:
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            CheckpointError, match=r"no graph is bundled for this geometry: .*num_layers 30.*, and vocos-on"
        ):
            VocosONNX(folder)


def spoiled(change: Callable[[State], object]) -> State:
    state = vocoder_state()
    change(state)
    return state


BROKEN: list[tuple[Callable[[State], object], str]] = [
    (lambda s: s.pop("head.out.bias"), r"the state dict does not fit its config: it lacks head\.out\.bias"),
    (lambda s: s.update({"head.out.bias": np.zeros(9, np.float32)}), r"head\.out\.bias of shape \(9,\), expected \("),
    (lambda s: s.update({"backbone.extra": np.zeros(9, np.float32)}), r"has the unknown key backbone\.extra"),
    (lambda s: s.pop(CODEBOOKS), "the state dict lacks feature_extractor.codebook_weights"),
    (lambda s: s.update({CODEBOOKS: s[CODEBOOKS][:2048]}), r"has shape \(2048, 128\), expected \(16384, 128\)"),
    (lambda s: s["backbone.norm.shift.weight"].fill(np.nan), r"backbone\.norm\.shift\.weight'? holds NaN or infinity"),
    (lambda s: s.update({"head.istft.window": np.ones(1280, np.float32)}), "is not the Hann window of 1280 samples"),
    (lambda s: s.update({"head.istft.window": np.ones(1024, np.float32)}), "has 1024 samples, but n_fft is 1280"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "match"), BROKEN)
def test_broken_weights(change: Callable[[State], object], match: str, tmp_path: Path) -> None:
    folder = write_vocoder(tmp_path / "checkpoint", spoiled(change))
    with pytest.raises(CheckpointError, match=match):
        VocosONNX(folder)
    assert main(["convert", str(folder), "-o", str(tmp_path / "model.onnx")]) != 0
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            "num_layers: 8",
            "num_layers: 9",
            "no graph is bundled for this geometry: .*num_layers 9,.*onnx export",
        ),
        ("vocos.heads.ISTFTHead", "vocos.heads.FourierHead", "head class vocos.heads.FourierHead is not supported"),
        ("hop_length: 320", "hop_length: 256", "hop_length is 256 but encodec_24khz has 75 frames/s"),
        ("dim: 384\n    n_fft", "dim: 512\n    n_fft", "head: dim is 512 but the backbone's is 384"),
        ("[1.5, 3.0, 6.0, 12.0]", "[1.5, 3.0, 6.0]", r"has shape \(16384, 128\), expected \(8192, 128\)"),
        ("adanorm_num_embeddings: 4", "adanorm_num_embeddings: 2", "no graph is bundled for this geometry"),
    ],
)
def test_config_of_another_model(old: str, new: str, match: str, vocoder: Files, tmp_path: Path) -> None:
    assert old in ENCODEC_CONFIG
    config = tmp_path / "config.yaml"
    config.write_text(ENCODEC_CONFIG.replace(old, new))
    with pytest.raises(CheckpointError, match=match):
        convert_vocoder(replace(vocoder, config=config), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_broken_encoder(encoder: Files, tmp_path: Path) -> None:
    state = encoder_state()
    state.pop("quantizer.layers.31.codebook.embed")
    folder = write_encoder(tmp_path / "lacks", state)
    with pytest.raises(CheckpointError, match=r"it lacks codebooks\.31"):
        EncodecONNX(folder)
    state = encoder_state()
    state.pop("encoder.layers.0.conv.bias")
    with pytest.raises(CheckpointError, match=r"it lacks layers\.0\.conv\.bias"):
        EncodecONNX(write_encoder(tmp_path / "bias", state))
    (tmp_path / "config.json").write_text('{"model_type": "encodec", "num_filters": 64}')
    with pytest.raises(CheckpointError, match="num_filters is 64, and a graph is bundled for 32 alone"):
        convert_encoder(replace(encoder, config=tmp_path / "config.json"), tmp_path / "model.onnx")


def test_a_conversion_is_told_and_listed(
    vocoder: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The command line reports a conversion once, and ``models`` lists the cached file with what it decodes."""
    monkeypatch.setenv("VOCOS_ONNX_CACHE", str(tmp_path / "cache"))
    folder = str(vocoder.weights.parent)
    assert main(["info", folder]) == 0
    printed = capsys.readouterr()
    name = vocoder.weights.parent.name
    assert printed.err == f"vocos-onnx: converting {name} to float32, which may take some seconds\n"
    assert main(["info", folder]) == 0
    assert capsys.readouterr().err == ""
    assert main(["models"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cached")]
    assert re.search(rf"^cached +{re.escape(name)} +tokens of EnCodec +24000 ", line), line
    monkeypatch.setenv("VOCOS_ONNX_CACHE", str(tmp_path / "other"))
    with caplog.at_level("INFO", "vocos_onnx"):  # the log already shows the message
        assert main(["info", folder]) == 0
    assert capsys.readouterr().err == ""
    assert any(message.startswith(f"converting {name} to float32") for message in caplog.messages)


def test_weights_without_a_config(vocoder: Files, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(vocoder.weights, tmp_path / "alone" / "pytorch_model.bin")
    expected = (
        r"alone has no config, .*: expected config\.yaml or config\.json in .*/alone/; copy it from the page of the"
    )
    with pytest.raises(CheckpointError, match=expected):
        VocosONNX(tmp_path / "alone")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nowhere"], "no checkpoint nowhere: expected a folder, a weight file, or a hub id"),
        (
            ["vocos-codec-24khz", "--int8"],
            "is a bundled model, .*: vocos-onnx quantize vocos-codec-24khz -o vocos-codec-",
        ),
        (["README.md"], "is no weight file"),
        (["empty"], "holds no checkpoint"),
        (["empty", "--revision", "main"], "is not a hub id: leave it out"),
        (["encoder", "--int8"], "is an encoder, which is in float32 alone"),
    ],
)
def test_arguments(
    arguments: list[str], match: str, encoder: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "encoder").symlink_to(encoder.weights.parent)
    assert main(["convert", *arguments, "-o", "model.onnx"]) == 2
    assert re.search(match, capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "empty", "encoder"]


def test_no_word_of_the_cache_where_the_conversion_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be converted is not "converted at each start"."""
    monkeypatch.setattr(once, "_warned", set())
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOCOS_ONNX_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "config.yaml").write_text("[]")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError):
        VocosONNX(tmp_path)
    assert "not kept" not in caplog.text
