"""python -m tests.converted.make FOLDER: makes checkpoints of every known geometry and layout.

It uses the reference packages vocos, encodec and transformers. Each checkpoint is a folder with random weights and the
expected result of its conversion: expected.onnx, written by the export, and expected.npz, with an input and the
reference package's output; or expected.txt, with the error message if the conversion must fail.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import encodec
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from tests.parity import upstream
from vocos_onnx_export import export, export_encodec


def mels(**args: Any) -> dict[str, Any]:
    return {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": args}


def config(features: dict[str, Any], dim: int, intermediate: int, layers: int, padding: str) -> dict[str, Any]:
    args = features["init_args"]
    backbone = {"input_channels": args["n_mels"], "dim": dim, "intermediate_dim": intermediate, "num_layers": layers}
    head = {"dim": dim, "n_fft": args["n_fft"], "hop_length": args["hop_length"], "padding": padding}
    return {
        "feature_extractor": features,
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": backbone},
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": head},
    }


_STOCK = mels(sample_rate=24_000, n_fft=1024, hop_length=256, n_mels=100, padding="center")
_22K = mels(sample_rate=22_050, n_fft=1024, hop_length=256, n_mels=80, padding="same")
_44K = mels(sample_rate=44_100, n_fft=2048, hop_length=512, n_mels=80, padding="same")
_32K = mels(sample_rate=32_000, n_fft=2048, hop_length=1024, n_mels=128, padding="center")
_FORK = {"f_min": 0, "f_max": 8000, "norm": "slaney", "mel_scale": "slaney"}  # arguments that vocos 0.1.0 lacks
_MELSPEC_LOSS = {  # from the training config of BSC-LT/wavenext-mel
    "class_path": "vocos.loss.MelSpecReconstructionLoss",
    "init_args": {"sample_rate": 22_050, "n_mels": 128, "f_min": 0, "f_max": 11_025, "clip_val": 1e-5},
}
_SMALL = mels(sample_rate=24_000, n_fft=1920, hop_length=480, n_mels=128, padding="same")
CONFIGS = {
    "encodec": upstream.CONFIGS["encodec"],
    "mel": upstream.CONFIGS["mel-center"],
    "44khz": config(_44K, 512, 1536, 8, "same"),
    "22khz": config(_22K, 512, 1536, 8, "same"),
    "32khz": config(_32K, 512, 1536, 8, "center"),
    "malaysian": config(_STOCK, 768, 2304, 12, "center"),
    "chattts": config(_STOCK, 512, 1536, 8, "center"),
    "mlx": config(_STOCK, 512, 1536, 8, "center"),
    "wavenext-mel": upstream.CONFIGS["wavenext-mel"],
    "wavenext-encodec": upstream.CONFIGS["wavenext-encodec"],
    "fork": upstream.CONFIGS["encodec"],  # classes in other modules
    "no-classes": config(_22K, 512, 1536, 8, "same"),
    "tadicodec": config(_SMALL, 64, 256, 3, "same"),  # the layout of TaDiCodec's vocoder, in a smaller size
    "wavtokenizer": upstream.CONFIGS["encodec"],  # plus weights that Vocos lacks
}


def vocoder(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    described = CONFIGS[name]
    model = upstream.build(described)
    upstream.strengthen(model)
    upstream.save(model, described, folder)
    described = copy.deepcopy(described)
    if name == "44khz":
        described["feature_extractor"]["init_args"] |= _FORK
    if name == "wavenext-mel":
        described["feature_extractor"]["init_args"] |= {**_FORK, "clip_val": 1e-5}
        described["melspec_loss"] = _MELSPEC_LOSS
    if name in ("fork", "wavtokenizer"):
        for part in described.values():
            part["class_path"] = part["class_path"].replace("vocos.", "decoder.")
    if name == "no-classes":
        described = {part: {"init_args": section["init_args"]} for part, section in described.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(described))
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    if name == "wavtokenizer":
        torch.save({**state, "backbone.pos_net.2.q.weight": torch.zeros(1)}, folder / "pytorch_model.bin")
        (folder / "expected.txt").write_text("a checkpoint of WavTokenizer, whose decoder is not that of Vocos")
        return
    if name == "tadicodec":
        amphion(described, folder)
        (folder / "expected.txt").write_text("no graph is bundled for this geometry")
    export(str(folder), folder / "expected.onnx", report=quiet)
    rng = np.random.default_rng(0)
    condition = {}
    if described["feature_extractor"].get("class_path", "").endswith("EncodecFeatures"):
        given: Any = rng.integers(1024, size=(8, 60))
        features, condition = model.codes_to_features(torch.from_numpy(given)), {"bandwidth_id": torch.tensor([2])}
    else:
        given = rng.uniform(-8, 2, (described["backbone"]["init_args"]["input_channels"], 60)).astype(np.float32)
        features = torch.from_numpy(given)[None]
    with torch.inference_mode():
        audio = model.decode(features, **condition)[0].numpy()
    np.savez(folder / "expected.npz", given=given, audio=audio)
    if name == "chattts":
        (folder / "pytorch_model.bin").unlink()
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "Vocos.safetensors")
    if name == "mlx":
        (folder / "pytorch_model.bin").unlink()
        (folder / "config.yaml").unlink()
        kept = {k: v for k, v in state.items() if k.startswith(("backbone.", "head.out."))}
        kept = {k: (v.transpose(1, 2) if v.ndim == 3 else v).contiguous() for k, v in kept.items()}
        save_file(kept, folder / "model.safetensors")
        sections = {k: {"init_args": dict(described[k]["init_args"])} for k in described}
        del sections["head"]["init_args"]["padding"]
        (folder / "config.json").write_text(json.dumps(sections))


def amphion(described: dict[str, Any], folder: Path) -> None:
    """Replace the config with one in Amphion's layout."""
    backbone, head, features = (described[part]["init_args"] for part in ("backbone", "head", "feature_extractor"))
    vocos = {**backbone, "n_fft": head["n_fft"], "hop_size": head["hop_length"], "padding": head["padding"]}
    preprocess = {
        "sample_rate": features["sample_rate"], "n_fft": features["n_fft"], "win_size": features["n_fft"],
        "hop_size": features["hop_length"], "num_mels": features["n_mels"], "fmin": 0, "fmax": 12_000,
    }  # fmt: skip
    (folder / "config.yaml").unlink()
    (folder / "config.json").write_text(json.dumps({"preprocess": preprocess, "model": {"vocos": vocos}}))


def encoder(layout: str, folder: Path) -> None:
    folder.mkdir()
    torch.manual_seed(0)
    audio = np.random.default_rng(0).normal(0, 0.1, 12_345).astype(np.float32)
    if layout == "encodec-meta":
        model = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval()
        checkpoint = folder / "encodec_24khz.th"
        torch.save(model.state_dict(), checkpoint)
    else:
        from transformers import EncodecConfig, EncodecModel

        model, checkpoint = EncodecModel(EncodecConfig()).eval(), folder
        model.save_pretrained(folder)
    with torch.inference_mode():
        embeddings = model.encoder(torch.from_numpy(audio)[None, None])[0].numpy()
    np.savez(folder / "expected.npz", given=audio, embeddings=embeddings)
    export_encodec(str(checkpoint), folder / "expected.onnx", report=quiet)


def quiet(line: str) -> None:
    pass


def main(folder: Path) -> None:
    folder.mkdir()
    for name in CONFIGS:
        vocoder(name, folder / name)
    for layout in "encodec-meta", "encodec-transformers":
        encoder(layout, folder / layout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
