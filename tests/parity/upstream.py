"""Checkpoints with random weights, of official geometry, made with the real vocos and encodec packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import scipy.signal
import torch
import yaml

if not hasattr(scipy.signal, "cosine"):  # vocos 0.1.0 uses the place where scipy kept it before 1.13
    scipy.signal.cosine = scipy.signal.windows.cosine

import encodec  # noqa: E402
from vocos.pretrained import Vocos, instantiate_class  # noqa: E402

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
MEL_BACKBONE = {
    "class_path": "vocos.models.VocosBackbone",
    "init_args": {"input_channels": 100, "dim": 512, "intermediate_dim": 1536, "num_layers": 8},
}


def _mel(padding: str) -> dict[str, Any]:
    return {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": padding},
    }


def _head(name: str, **args: Any) -> dict[str, Any]:
    return {"class_path": f"vocos.heads.{name}", "init_args": args}


CONFIGS: dict[str, dict[str, Any]] = {
    "encodec": {
        "feature_extractor": ENCODEC,
        "backbone": ADANORM,
        "head": _head("ISTFTHead", dim=384, n_fft=1280, hop_length=320, padding="same"),
    },
    "mel-center": {
        "feature_extractor": _mel("center"),
        "backbone": MEL_BACKBONE,
        "head": _head("ISTFTHead", dim=512, n_fft=1024, hop_length=256, padding="center"),
    },
    "mel-same": {
        "feature_extractor": _mel("same"),
        "backbone": MEL_BACKBONE,
        "head": _head("ISTFTHead", dim=512, n_fft=1024, hop_length=256, padding="same"),
    },
    "resnet": {
        "feature_extractor": _mel("center"),
        "backbone": {
            "class_path": "vocos.models.VocosResNetBackbone",
            "init_args": {"input_channels": 100, "dim": 512, "num_blocks": 3},
        },
        "head": _head("ISTFTHead", dim=512, n_fft=1024, hop_length=256, padding="center"),
    },
    "imdct-symexp": {
        "feature_extractor": ENCODEC,
        "backbone": ADANORM,
        "head": _head("IMDCTSymExpHead", dim=384, mdct_frame_len=640, padding="same", sample_rate=24000),
    },
    "imdct-cos": {
        "feature_extractor": _mel("center"),
        "backbone": MEL_BACKBONE,
        "head": _head("IMDCTCosHead", dim=512, mdct_frame_len=512, padding="center"),
    },
}


def build(config: dict[str, Any], seed: int = 0) -> Vocos:
    """A real vocos.Vocos with random weights that make every part matter, instantiated as upstream does it."""
    torch.manual_seed(seed)
    original = encodec.EncodecModel.encodec_model_24khz
    encodec.EncodecModel.encodec_model_24khz = staticmethod(lambda pretrained=True: original(pretrained=False))
    try:
        parts = {name: instantiate_class(args=(), init=config[name]) for name in config}
    finally:
        encodec.EncodecModel.encodec_model_24khz = original
    model = Vocos(**parts).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("feature_extractor.encodec."):
            continue
        # fresh layer norms are ones, biases, embeddings' shifts and codebooks zeros: such a model would hide swaps
        if parameter.ndim == 1 or name.endswith(("scale.weight", "shift.weight", "codebook_weights", "weight_g")):
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif name == "head.out.weight":
            parameter.data *= 3  # magnitudes over several octaves, phases of several radians
    return model


def save(model: Vocos, config: dict[str, Any], folder: Path) -> Path:
    """Write the model as the official checkpoints are: config.yaml and pytorch_model.bin without encodec's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("feature_extractor.encodec.")}
    torch.save(state, folder / "pytorch_model.bin")
    return folder
