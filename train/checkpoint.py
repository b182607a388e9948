"""What a training run leaves on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from vocos_onnx.audio import whole_file

from .codec import BANDWIDTHS, CODE_DIM, NUM_CODEBOOKS, Codec


def save(state: Any, path: Path) -> None:
    with whole_file(path) as partial:
        torch.save(state, partial)


def write_checkpoint(codec: Codec, folder: Path) -> None:
    """The decoder in the layout of the official checkpoints, and the encoder beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {
        "class_path": "vocos.feature_extractors.EncodecFeatures",
        "init_args": {"encodec_model": "vocos_onnx_24khz", "bandwidths": list(BANDWIDTHS)},
    }
    with (folder / "config.yaml").open("w") as file:
        yaml.safe_dump({"feature_extractor": features, **codec.decoder_config}, file, sort_keys=False)
    weights = codec.decoder.state_dict()
    weights["feature_extractor.codebook_weights"] = codec.quantizer.codebooks.reshape(-1, CODE_DIM)
    assert len(weights["feature_extractor.codebook_weights"]) == NUM_CODEBOOKS * 1024
    save(weights, folder / "pytorch_model.bin")
    save_file({k: v.contiguous() for k, v in codec.encoder.state_dict().items()}, folder / "encoder.safetensors")
