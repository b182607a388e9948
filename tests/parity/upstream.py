"""Checkpoints with random weights, of official geometry, made with the real vocos and encodec packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import scipy.signal
import torch
import yaml

if not hasattr(scipy.signal, "cosine"):  # vocos 0.1.0 uses its location before scipy 1.13
    scipy.signal.cosine = scipy.signal.windows.cosine

import encodec
import vocos.heads
from vocos.pretrained import Vocos as Vocos
from vocos.pretrained import instantiate_class as instantiate_class


class WaveNextHead(torch.nn.Module):
    """The head of an upstream fork, written from its description: two linear layers, then clipping."""

    def __init__(self, dim: int, n_fft: int, hop_length: int, padding: str = "same") -> None:
        super().__init__()
        self.linear_1 = torch.nn.Linear(dim, n_fft + 2)
        self.linear_2 = torch.nn.Linear(n_fft + 2, hop_length, bias=False)
        torch.nn.init.trunc_normal_(self.linear_1.weight, std=0.02)
        torch.nn.init.trunc_normal_(self.linear_2.weight, std=0.02)
        self.clip_audio = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        audio = self.linear_2(self.linear_1(x)).reshape(len(x), -1)
        return audio.clip(-1, 1) if self.clip_audio else audio


vocos.heads.WaveNextHead = WaveNextHead  # the class path in configs

ENCODEC = {"class_path": "vocos.feature_extractors.EncodecFeatures", "init_args": {"encodec_model": "encodec_24khz"}}
ADANORM = {
    "class_path": "vocos.models.VocosBackbone",
    "init_args": {
        "input_channels": 128,
        "dim": 384,
        "intermediate_dim": 1152,
        "num_layers": 8,
        "adanorm_num_embeddings": 4,
    },
}
MEL_BACKBONE: dict[str, Any] = {
    "class_path": "vocos.models.VocosBackbone",
    "init_args": {"input_channels": 100, "dim": 512, "intermediate_dim": 1536, "num_layers": 8},
}


def mel(
    hop_length: int, n_fft: int = 1024, n_mels: int = 8, padding: str = "center", sample_rate: int = 24000
) -> dict[str, Any]:
    args = {"sample_rate": sample_rate, "n_fft": n_fft, "hop_length": hop_length, "n_mels": n_mels, "padding": padding}
    return {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": args}


def convnext(input_channels: int, **args: Any) -> dict[str, Any]:
    small = {"input_channels": input_channels, "dim": 16, "intermediate_dim": 24, "num_layers": 2}
    return {"class_path": "vocos.models.VocosBackbone", "init_args": {**small, **args}}


def head(name: str, **args: Any) -> dict[str, Any]:
    return {"class_path": f"vocos.heads.{name}", "init_args": args}


CONFIGS: dict[str, dict[str, Any]] = {
    "encodec": {
        "feature_extractor": ENCODEC,
        "backbone": ADANORM,
        "head": head("ISTFTHead", dim=384, n_fft=1280, hop_length=320, padding="same"),
    },
    "mel-center": {
        "feature_extractor": mel(256, n_mels=100, padding="center"),
        "backbone": MEL_BACKBONE,
        "head": head("ISTFTHead", dim=512, n_fft=1024, hop_length=256, padding="center"),
    },
    "mel-same": {
        "feature_extractor": mel(256, n_mels=100, padding="same"),
        "backbone": MEL_BACKBONE,
        "head": head("ISTFTHead", dim=512, n_fft=1024, hop_length=256, padding="same"),
    },
    "resnet": {
        "feature_extractor": mel(256, n_mels=100, padding="center"),
        "backbone": {
            "class_path": "vocos.models.VocosResNetBackbone",
            "init_args": {"input_channels": 100, "dim": 512, "num_blocks": 3},
        },
        "head": head("ISTFTHead", dim=512, n_fft=1024, hop_length=256, padding="center"),
    },
    "imdct-symexp": {
        "feature_extractor": ENCODEC,
        "backbone": ADANORM,
        "head": head("IMDCTSymExpHead", dim=384, mdct_frame_len=640, padding="same", sample_rate=24000),
    },
    "imdct-cos": {
        "feature_extractor": mel(256, n_mels=100, padding="center"),
        "backbone": MEL_BACKBONE,
        "head": head("IMDCTCosHead", dim=512, mdct_frame_len=512, padding="center"),
    },
    "wavenext-mel": {
        "feature_extractor": mel(256, n_mels=80, padding="same", sample_rate=22_050),
        "backbone": {**MEL_BACKBONE, "init_args": {**MEL_BACKBONE["init_args"], "input_channels": 80}},
        "head": head("WaveNextHead", dim=512, n_fft=1024, hop_length=256, padding="same"),
    },
    "wavenext-encodec": {
        "feature_extractor": ENCODEC,
        "backbone": ADANORM,
        "head": head("WaveNextHead", dim=384, n_fft=1280, hop_length=320, padding="same"),
    },
}


# Small networks for all other config options; the names say what is special.
SMALL: dict[str, dict[str, Any]] = {
    "imdct-symexp-center": {
        "feature_extractor": mel(256),
        "backbone": convnext(8),
        "head": head("IMDCTSymExpHead", dim=16, mdct_frame_len=512, padding="center"),
    },
    "imdct-cos-same": {
        "feature_extractor": mel(320),
        "backbone": convnext(8),
        "head": head("IMDCTCosHead", dim=16, mdct_frame_len=640, padding="same"),
    },
    "imdct-symexp-clip": {
        "feature_extractor": mel(256, padding="same"),
        "backbone": convnext(8),
        "head": head("IMDCTSymExpHead", dim=16, mdct_frame_len=512, padding="same", clip_audio=True),
    },
    "imdct-cos-clip": {
        "feature_extractor": mel(256),
        "backbone": convnext(8),
        "head": head("IMDCTCosHead", dim=16, mdct_frame_len=512, padding="center", clip_audio=True),
    },
    "imdct-frame-12": {
        "feature_extractor": mel(6, n_fft=64),
        "backbone": convnext(8),
        "head": head("IMDCTCosHead", dim=16, mdct_frame_len=12, padding="same"),
    },
    "hop-300-of-1000": {
        "feature_extractor": mel(300, n_fft=1000, padding="same"),
        "backbone": convnext(8),
        "head": head("ISTFTHead", dim=16, n_fft=1000, hop_length=300, padding="same"),
    },
    "hop-300-of-1000-center-no-layer-scale": {
        "feature_extractor": mel(300, n_fft=1000),
        "backbone": convnext(8, layer_scale_init_value=-1.0),
        "head": head("ISTFTHead", dim=16, n_fft=1000, hop_length=300, padding="center"),
    },
    "hop-255-of-1024": {  # T hops and one more sample
        "feature_extractor": mel(255, padding="same"),
        "backbone": convnext(8, layer_scale_init_value=0.7),
        "head": head("ISTFTHead", dim=16, n_fft=1024, hop_length=255, padding="same"),
    },
    "hop-400-of-512-resnet": {
        "feature_extractor": mel(400),
        "backbone": {
            "class_path": "vocos.models.VocosResNetBackbone",
            "init_args": {"input_channels": 8, "dim": 16, "num_blocks": 2, "layer_scale_init_value": 0.4},
        },
        "head": head("ISTFTHead", dim=16, n_fft=512, hop_length=400, padding="center"),
    },
    "wavenext-odd-center": {  # the padding has no effect
        "feature_extractor": mel(255),
        "backbone": convnext(8, layer_scale_init_value=0.7),
        "head": head("WaveNextHead", dim=16, n_fft=301, hop_length=255, padding="center"),
    },
    "wavenext-resnet": {
        "feature_extractor": mel(160, n_fft=512, sample_rate=16_000),
        "backbone": {
            "class_path": "vocos.models.VocosResNetBackbone",
            "init_args": {"input_channels": 8, "dim": 16, "num_blocks": 1},
        },
        "head": head("WaveNextHead", dim=16, n_fft=512, hop_length=160),
    },
    "tiny": {
        "feature_extractor": mel(4, n_fft=16, n_mels=3, sample_rate=8000),
        "backbone": convnext(3, dim=5, intermediate_dim=7),
        "head": head("ISTFTHead", dim=5, n_fft=16, hop_length=4),
    },
    "mel-adanorm": {
        "feature_extractor": mel(16, n_fft=64),
        "backbone": convnext(8, adanorm_num_embeddings=3),
        "head": head("ISTFTHead", dim=16, n_fft=64, hop_length=16, padding="center"),
    },
    "encodec-plain": {
        "feature_extractor": ENCODEC,
        "backbone": convnext(128),
        "head": head("ISTFTHead", dim=16, n_fft=1280, hop_length=320, padding="same"),
    },
    "encodec-bandwidths": {  # out of order, and one more embedding than bandwidths
        "feature_extractor": {**ENCODEC, "init_args": {"encodec_model": "encodec_24khz", "bandwidths": [6.0, 1.5]}},
        "backbone": convnext(128, adanorm_num_embeddings=3),
        "head": head("ISTFTHead", dim=16, n_fft=1280, hop_length=320),
    },
    "encodec-48khz": {
        "feature_extractor": {**ENCODEC, "init_args": {"encodec_model": "encodec_48khz"}},
        "backbone": convnext(128, adanorm_num_embeddings=4),
        "head": head("ISTFTHead", dim=16, n_fft=1280, hop_length=320, padding="same"),
    },
}


@contextmanager
def random_encodec() -> Iterator[None]:
    """Within this context, upstream's feature extractor uses a random EnCodec and downloads nothing."""
    names = ("encodec_model_24khz", "encodec_model_48khz")
    originals = {name: getattr(encodec.EncodecModel, name) for name in names}
    try:
        for name, original in originals.items():
            setattr(encodec.EncodecModel, name, staticmethod(partial(_without_weights, original)))
        yield
    finally:
        for name, original in originals.items():
            setattr(encodec.EncodecModel, name, staticmethod(original))


def _without_weights(original: Callable[..., Any], pretrained: bool = True) -> Any:
    return original(pretrained=False)


def build(config: dict[str, Any], seed: int = 0) -> Vocos:
    """A real vocos.Vocos, instantiated as upstream does, with random weights in which every tensor matters."""
    torch.manual_seed(seed)
    with random_encodec(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream uses features that torch and torchaudio have deprecated
        parts = {name: instantiate_class(args=(), init=config[name]) for name in config}
    model = Vocos(**parts).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("feature_extractor.encodec."):
            continue
        # fresh layer norms are one; biases, embedding shifts and codebooks are zero, which would hide swapped tensors
        if parameter.ndim == 1 or name.endswith(("scale.weight", "shift.weight", "codebook_weights", "weight_g")):
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif name == "head.out.weight":
            parameter.data *= 3  # magnitudes over several octaves, phases of several radians
    return model


def strengthen(model: Vocos) -> None:
    """Scale the weights so that every operation affects the audio by more than the tests' tolerance.

    Upstream initialises them so small that a residual branch adds almost nothing: an approximate GELU, for example,
    would change no more than rounding does. A layer norm's eps matters only for small inputs.
    """
    gains = {"embed": 0.02, "dwconv": 0.1, "pwconv1": 2.0}
    for name, parameter in model.backbone.named_parameters():
        module, _, kind = name.rpartition(".")
        gain = gains.get(module.split(".")[-1], 1.0)
        if ".gamma." in name:  # the residual network's layer scales, all equal when fresh
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif kind == "bias" and gain < 1:
            parameter.data *= 0.1
        elif kind == "weight" and parameter.ndim > 1 and "norm" not in module:
            torch.nn.init.normal_(parameter, std=gain / parameter[0].numel() ** 0.5)


def save(model: Vocos, config: dict[str, Any], folder: Path) -> Path:
    """Write the model like an official checkpoint: config.yaml, and pytorch_model.bin without encodec's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("feature_extractor.encodec.")}
    torch.save(state, folder / "pytorch_model.bin")
    return folder
