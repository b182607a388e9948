"""Training against upstream: the same configs, parameter counts, and module outputs from the same weights."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
import yaml
from vocos.discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.loss import DiscriminatorLoss, FeatureMatchingLoss, GeneratorLoss, MelSpecReconstructionLoss

from tests.checkpoints import WAVENEXT
from tests.parity import upstream
from tests.parity.test_train import ENCODER, data, tree  # noqa: F401
from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.cli import main
from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.model.checkpoint_config import parse_config
from vocos_onnx.model.yaml_config import YamlLoader
from vocos_onnx_export import vocos_config
from vocos_onnx_train import discriminators, losses
from vocos_onnx_train.config import read_config
from vocos_onnx_train.generator import Generator, MelSpectrogram
from vocos_onnx_train.trainer import Trainer

# all keys and values of configs/vocos.yaml and configs/vocos-encodec.yaml at github.com/gemelo-ai/vocos
TRAINER = """
  logger:
    class_path: pytorch_lightning.loggers.TensorBoardLogger
    init_args:
      save_dir: logs/
  callbacks:
    - class_path: pytorch_lightning.callbacks.LearningRateMonitor
    - class_path: pytorch_lightning.callbacks.ModelSummary
      init_args:
        max_depth: 2
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args:
        monitor: val_loss
        filename: vocos_checkpoint_{epoch}_{step}_{val_loss:.4f}
        save_top_k: 3
        save_last: true
    - class_path: vocos.helpers.GradNormCallback
  max_steps: 2000000
  limit_val_batches: 100
  accelerator: gpu
  strategy: ddp
  devices: [0]
  log_every_n_steps: 100
"""


def official(name: str) -> dict[str, Any]:
    """The tree of an official config, read from YAML as upstream's command line does."""
    mel = name == "mel"
    exp, samples, valid, mrd = ("VocosExp", 16384, 48384, 0.1) if mel else ("VocosEncodecExp", 24000, 24000, 1.0)
    files = "filelist_path: '???', sampling_rate: 24000, batch_size: 16, num_workers: 8"
    config = upstream.CONFIGS["mel-center" if mel else "encodec"]
    features = {"bandwidths": [1.5, 3.0, 6.0, 12.0], "train_codebooks": False} if not mel else {}
    model = {
        "feature_extractor": {
            **config["feature_extractor"],
            "init_args": {**config["feature_extractor"]["init_args"], **features},
        },
        "backbone": config["backbone"],
        "head": config["head"],
    }
    text = f"""
seed_everything: 4444
data:
  class_path: vocos.dataset.VocosDataModule
  init_args:
    train_params: {{{files}, num_samples: {samples}}}
    val_params: {{{files}, num_samples: {valid}}}
model:
  class_path: vocos.experiment.{exp}
  init_args:
    sample_rate: 24000
    initial_learning_rate: 5e-4
    mel_loss_coeff: 45
    mrd_loss_coeff: {mrd}
    num_warmup_steps: 0
    pretrain_mel_steps: 0
    evaluate_utmos: true
    evaluate_pesq: true
    evaluate_periodicty: true
trainer: {TRAINER}
"""
    read: dict[str, Any] = yaml.load(text, YamlLoader)
    read["model"]["init_args"] |= model
    return read


def wavenext() -> dict[str, Any]:
    """The tree of the WaveNext config."""
    tree = official("mel")
    for params in tree["data"]["init_args"].values():
        params |= {"filelist_path": "list.txt", "sampling_rate": 22_050}
    tree["model"]["init_args"] |= {"sample_rate": 22_050, "initial_learning_rate": 1e-4, "num_warmup_steps": 500}
    tree["model"]["init_args"] |= yaml.load(WAVENEXT, YamlLoader)
    return tree


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class OfficialEncoder(EncodecONNX):
    """An encoder that claims the official EnCodec size, with codebooks of zeros."""

    def __init__(self) -> None:
        super().__init__(ENCODER)
        object.__setattr__(self.config, "channels", 128)
        object.__setattr__(self.config, "codebooks_sha256", ("",) * 32)
        self.codebooks = torch.zeros(32, 1024, 128).numpy()


@pytest.mark.parametrize("name", ["mel", "encodec"])
def test_official_configs_load_and_make_networks_of_upstream_size(name: str) -> None:
    tree = official(name)
    with pytest.raises(ValueError, match="filelist_path is not filled in"):
        read_config(tree)
    for params in tree["data"]["init_args"].values():
        params["filelist_path"] = "list.txt"
    config = read_config(tree)
    assert config.steps == 1_000_000
    assert config.seed == 4444
    assert config.conditional == (name == "encodec")
    assert config.experiment.initial_learning_rate == 5e-4
    assert config.experiment.mrd_loss_coeff == (0.1 if name == "mel" else 1.0)
    assert asdict(config.train)["num_samples"] == (16384 if name == "mel" else 24000)
    generator = Generator(config, OfficialEncoder() if name == "encodec" else None)
    model = upstream.build(upstream.CONFIGS["mel-center" if name == "mel" else "encodec"])
    assert count(generator) == count(model.backbone) + count(model.head)
    assert count(generator) == (13_531_650 if name == "mel" else 7_984_258)


def upstream_discriminator(kind: str, num_embeddings: int | None) -> torch.nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream uses features that torch has deprecated
        theirs = {"period": MultiPeriodDiscriminator, "resolution": MultiResolutionDiscriminator}[kind](
            num_embeddings=num_embeddings
        )
    for parameter in theirs.parameters():  # fresh embeddings are zero
        parameter.data += 0.02 * torch.randn_like(parameter)
    return theirs


def our_discriminator(kind: str, num_embeddings: int | None, theirs: torch.nn.Module) -> torch.nn.Module:
    name = {"period": "MultiPeriodDiscriminator", "resolution": "MultiResolutionDiscriminator"}[kind]
    ours = getattr(discriminators, name)(num_embeddings)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if ".spec_fn." not in k})
    return ours


@pytest.mark.parametrize("num_embeddings", [None, 4])
@pytest.mark.parametrize("kind", ["period", "resolution"])
def test_discriminators_are_upstreams(kind: str, num_embeddings: int | None) -> None:
    theirs = upstream_discriminator(kind, num_embeddings)
    ours = our_discriminator(kind, num_embeddings, theirs)
    assert count(ours) == count(theirs)
    bandwidth_id = None if num_embeddings is None else torch.tensor([2])
    real, fake = torch.randn(2, 2, 6001) * 0.1
    with torch.no_grad():
        expected = theirs(y=real, y_hat=fake, bandwidth_id=bandwidth_id)
        given = (ours(real, bandwidth_id), ours(fake, bandwidth_id))
    for side in (0, 1):
        for (score, maps), their_score, their_maps in zip(given[side], expected[side], expected[2 + side], strict=True):
            assert score.shape == their_score.shape
            assert len(maps) == len(their_maps)
            for a, b in zip([score, *maps], [their_score, *their_maps], strict=True):
                assert (a.flatten() - b.flatten()).abs().max() <= 1e-5 * b.abs().max()
    if num_embeddings:
        with torch.no_grad():
            each = ours(real, torch.tensor([2, 3]))
        for (score, _), (alone, _) in zip(each, given[0], strict=True):
            assert torch.allclose(score[0], alone[0], atol=1e-5)
            assert (score[1] - alone[1]).abs().max() > 1e-3


def test_losses_are_upstreams() -> None:
    real, fake = torch.randn(2, 2, 8000) * torch.tensor([0.3, 1e-4])[:, None]
    ours = losses.MelLoss(24000)(fake, real)
    assert abs(ours - MelSpecReconstructionLoss(sample_rate=24000)(fake, real)) <= 1e-5 * ours
    theirs = upstream_discriminator("resolution", None)
    discriminator = our_discriminator("resolution", None, theirs)
    with torch.no_grad():
        real_scores, fake_scores, real_maps, fake_maps = theirs(y=real, y_hat=fake)
        given_real, given_fake = discriminator(real), discriminator(fake)
    number = len(real_scores)
    expected = DiscriminatorLoss()(disc_real_outputs=real_scores, disc_generated_outputs=fake_scores)[0] / number
    assert abs(losses.discriminator_loss(given_real, given_fake) - expected) <= 1e-5 * expected
    expected = GeneratorLoss()(disc_outputs=fake_scores)[0] / number
    assert abs(losses.generator_loss(given_fake) - expected) <= 1e-5 * expected
    expected = FeatureMatchingLoss()(fmap_r=real_maps, fmap_g=fake_maps) / number
    assert abs(losses.feature_matching_loss(given_real, given_fake) - expected) <= 1e-5 * expected


@pytest.mark.parametrize("padding", ["center", "same"])
def test_mels_are_upstreams(padding: str) -> None:
    audio = torch.randn(2, 8000) * 0.1
    mel = MelFeatures(1024, 256, 100, padding, f_min=0.0, f_max=12000.0)
    given, expected = MelSpectrogram(mel, 24000)(audio), MelSpectrogramFeatures(padding=padding)(audio)
    assert given.shape == expected.shape
    assert (given - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("conditional", [False, True])
def test_a_step_is_upstreams(conditional: bool, data: Any, tmp_path: Path) -> None:  # noqa: F811
    """The losses of a step equal those of upstream's training_step with upstream's modules on the same batch."""
    task = "tokens" if conditional else "mel"
    changes = {
        "discriminator_width": 1.0,
        "pretrain_mel_steps": 0,
        "initial_learning_rate": 1e-30,
        "mrd_loss_coeff": 0.1,
    }
    config = tree(task, data, **changes, **({"bandwidth_weights": [0, 1]} if conditional else {}))
    ours = Trainer(read_config(config), tmp_path, encoder=ENCODER if conditional else None)
    theirs = {}
    for kind, name in (("period", "multiperioddisc"), ("resolution", "multiresddisc")):
        theirs[kind] = upstream_discriminator(kind, 2 if conditional else None)
        state = {k: v for k, v in theirs[kind].state_dict().items() if ".spec_fn." not in k}
        ours.discriminators[name].load_state_dict(state)
    made: dict[str, torch.Tensor] = {}
    ours.generator.register_forward_hook(
        lambda _, args, output: made.update(audio=args[0], estimate=output[0].detach())
    )
    given = ours.train_step()
    ids = torch.tensor([1]) if conditional else None
    audio, estimate = made["audio"], made["estimate"]
    mel = MelSpecReconstructionLoss(sample_rate=24000)(estimate, audio)
    total, total_d = 45 * mel, 0.0
    for kind, weight in (("period", 1.0), ("resolution", 0.1)):
        with torch.no_grad():
            real_scores, fake_scores, real_maps, fake_maps = theirs[kind](y=audio, y_hat=estimate, bandwidth_id=ids)
        number = len(real_scores)
        d_loss = DiscriminatorLoss()(disc_real_outputs=real_scores, disc_generated_outputs=fake_scores)[0] / number
        g_loss = GeneratorLoss()(disc_outputs=fake_scores)[0] / number
        match = FeatureMatchingLoss()(fmap_r=real_maps, fmap_g=fake_maps) / number
        for name, expected in ((f"d_{kind}", d_loss), (f"g_{kind}", g_loss), (f"match_{kind}", match)):
            assert abs(given[name] - expected) <= 1e-4 * abs(expected)
        total = total + weight * (g_loss + match)
        total_d = total_d + weight * d_loss
    assert total_d > 0
    assert abs(given["total"] - total) <= 1e-4 * total


def test_the_learning_rate_is_upstreams(data: Any, tmp_path: Path) -> None:  # noqa: F811
    """The schedule equals transformers.get_cosine_schedule_with_warmup, which upstream uses."""
    from transformers import get_cosine_schedule_with_warmup

    config = tree("mel", data, num_warmup_steps=5)
    config["trainer"]["max_steps"] = 60
    ours = Trainer(read_config(config), tmp_path)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=30)
    for step in range(30):
        assert ours.learning_rate(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        schedule.step()


def test_a_lightning_checkpoint_brings_its_discriminators(data: Any, tmp_path: Path) -> None:  # noqa: F811
    """Fine-tuning from an upstream training checkpoint keeps the discriminators too, not just the generator."""
    config = tree("mel", data, discriminator_width=1.0)
    parts = {k: config["model"]["init_args"][k] for k in ("feature_extractor", "backbone", "head")}
    model = upstream.build(parts)
    kinds = {"multiperioddisc": "period", "multiresddisc": "resolution"}
    theirs = {name: upstream_discriminator(kind, None) for name, kind in kinds.items()}
    state = {f"{name}.{k}": v for name, module in theirs.items() for k, v in module.state_dict().items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"state_dict": {**model.state_dict(), **state}, "epoch": 3}, tmp_path / "last.ckpt")
    lines: list[str] = []
    ours = Trainer(read_config(config), tmp_path / "run", checkpoint=str(tmp_path / "last.ckpt"), report=lines.append)
    assert lines[0].endswith("last.ckpt, with its discriminators")
    audio = torch.randn(1, 7680) * 0.1
    with torch.no_grad():
        given, expected = ours.generator(audio)[0], model(audio)
        assert (given - expected).abs().max() <= 2e-5 * expected.abs().max()
        for name, module in theirs.items():
            scores = module(y=audio, y_hat=audio)[0]
            for (score, _), their_score in zip(ours.discriminators[name](audio), scores, strict=True):
                assert (score.flatten() - their_score.flatten()).abs().max() <= 1e-5 * their_score.abs().max()
    narrow = tree("mel", data)
    with pytest.raises(ValueError, match=r"discriminators of .*last\.ckpt do not fit the config"):
        Trainer(read_config(narrow), tmp_path / "narrow", checkpoint=str(tmp_path / "last.ckpt"))


def test_the_config_of_wavenext() -> None:
    config = read_config(wavenext())
    generator = Generator(config)
    mel = generator.features
    assert isinstance(mel, MelFeatures)
    assert (mel.clip, mel.f_max, mel.norm, mel.mel_scale, mel.padding) == (1e-5, 8000, "slaney", "slaney", "same")
    assert config.melspec_loss is not None
    rate, of_loss = config.melspec_loss
    assert (rate, of_loss.n_mels, of_loss.clip, of_loss.f_max, of_loss.padding) == (22_050, 128, 1e-5, 11_025, "center")
    model = upstream.build(upstream.CONFIGS["wavenext-mel"])
    assert count(generator) == count(model.backbone) + count(model.head)


def test_the_mel_loss_of_wavenext() -> None:
    """The loss equals MelSpecReconstructionLoss on torchaudio's transform with the config section's arguments."""
    config = read_config(wavenext())
    assert config.melspec_loss is not None
    transform = torchaudio.transforms.MelSpectrogram(
        22_050, 1024, hop_length=256, n_mels=128, f_max=11_025, power=1, norm="slaney", mel_scale="slaney"
    )
    torch.manual_seed(0)
    real, fake = (0.1 * torch.randn(2, 9000) for _ in range(2))
    theirs = torch.nn.functional.l1_loss(*(transform(audio).clip(min=1e-5).log() for audio in (real, fake)))
    ours = losses.MelLoss(*config.melspec_loss)(fake, real)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)


def test_wavenext_trains_goes_on_and_is_exported(data: Path, tmp_path: Path) -> None:  # noqa: F811
    """With a small network: two steps, two more after resuming, and an export that decodes the same audio."""
    tree = wavenext()
    model = tree["model"]["init_args"] | {"discriminator_width": 0.03, "evaluate_pesq": False}
    model["backbone"]["init_args"] |= {"dim": 16, "intermediate_dim": 24, "num_layers": 1}
    model["head"]["init_args"] |= {"dim": 16}
    tree["model"]["init_args"] = model
    for params, split in zip(tree["data"]["init_args"].values(), ("train", "valid"), strict=True):
        params |= {"filelist_path": str(data / "index.csv"), "split": split, "batch_size": 2, "num_workers": 0}
    tree["trainer"] |= {"accelerator": "cpu", "val_check_interval": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "run"
    for steps in (2, 4):
        path = tmp_path / f"{steps}.onnx"
        arguments = ["train", tmp_path / "config.yaml", "--out", out, "--steps", steps, "--export", path]
        assert main([*map(str, arguments)]) == 0
    vocos = VocosONNX(path)
    assert (vocos.config.head, vocos.config.n_fft, vocos.config.hop_length) == ("wavenext", 256, 256)
    tree["trainer"]["max_steps"] = 8
    trained = Trainer(read_config(tree), out)
    assert trained.step == 4
    trained.generator.eval()
    audio = torch.randn(1, 256 * 60) * 0.1
    with torch.no_grad():
        expected = trained.generator(audio)[0][0].numpy()
    given = vocos(audio[0].numpy(), 22_050)
    assert given.shape == expected.shape
    assert 0 < np.abs(given - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["mel-center", "encodec", "imdct-symexp", "imdct-cos", "wavenext-mel"])
def test_fresh_networks_begin_as_upstreams_do(name: str) -> None:
    """The same seed gives the same weights, even in the symmetric exponential head, where they depend on the rate."""
    config = upstream.CONFIGS[name]
    ours = []
    theirs = []
    for part in ("backbone", "head"):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.append(upstream.instantiate_class(args=(), init=config[part]))
        torch.manual_seed(0)
        args = getattr(parse_config(config), part)
        ours.append({**vocos_config.BACKBONES, **vocos_config.HEADS}[type(args)](**asdict(args)))
    for our, their in zip(ours, theirs, strict=True):
        expected = dict(their.named_parameters())
        assert {k for k, _ in our.named_parameters()} == set(expected)
        for key, value in our.named_parameters():
            torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=1e-7)
