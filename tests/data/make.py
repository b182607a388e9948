"""Make the tiny models of this folder and their golden tensors, with the real vocos and transformers packages.

Run in an environment with the extras [export] and the packages vocos, encodec, torchaudio and transformers:
    python -m tests.data.make [NAME ...]
which makes all, or the models of these names alone.

Each NAME.onnx is an export of random weights, NAME-int8.onnx the same in int8, and NAME-istft.onnx the same with the
inverse transform in the graph; NAME.npz holds what upstream computes from them: the input (tokens or features), and
where there are tokens the features, the spectrum that reaches the inverse transform, the waveform.

encoder.onnx is an EnCodec encoder whose first two codebooks are those of encodec.onnx; its golden tensors are audio of
several lengths, the embeddings and the tokens. encoder-spectrum.onnx is one of a spectrum, as the bundled encoder is.
log-mel.npz holds audio and upstream's features of it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from transformers import EncodecConfig, EncodecModel
from vocos.feature_extractors import MelSpectrogramFeatures

from tests.helpers import DATA
from tests.parity.upstream import Vocos, WaveNextHead, build, head, save, strengthen
from vocos_onnx import EncoderConfig, __version__
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.model.config import Source
from vocos_onnx_export import export, export_encodec, quantize
from vocos_onnx_export.modules import STFTEncoder
from vocos_onnx_export.target import save as write
from vocos_onnx_export.tracing import trace_encoder

FRAMES, BATCH = 12, 2
_MEL: dict[str, Any] = {
    "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
    "init_args": {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "n_mels": 8, "padding": "center"},
}
_BACKBONE = {"input_channels": 8, "dim": 8, "intermediate_dim": 16, "num_layers": 2}
_PLAIN = {"class_path": "vocos.models.VocosBackbone", "init_args": _BACKBONE}
CONFIGS = {
    "encodec": {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.EncodecFeatures",
            "init_args": {"encodec_model": "encodec_24khz", "bandwidths": [0.75, 1.5]},
        },
        "backbone": {**_PLAIN, "init_args": {**_BACKBONE, "adanorm_num_embeddings": 2}},
        "head": head("ISTFTHead", dim=8, n_fft=1280, hop_length=320, padding="same"),
    },
    "mel": {
        "feature_extractor": _MEL,
        "backbone": _PLAIN,
        "head": head("ISTFTHead", dim=8, n_fft=64, hop_length=16, padding="center"),
    },
    "imdct-symexp": {
        "feature_extractor": _MEL,
        "backbone": _PLAIN,
        "head": head("IMDCTSymExpHead", dim=8, mdct_frame_len=32, padding="same", clip_audio=True),
    },
    "imdct-cos": {
        "feature_extractor": _MEL,
        "backbone": {
            "class_path": "vocos.models.VocosResNetBackbone",
            "init_args": {"input_channels": 8, "dim": 8, "num_blocks": 1},
        },
        "head": head("IMDCTCosHead", dim=8, mdct_frame_len=32, padding="center"),
    },
    "wavenext": {
        "feature_extractor": {**_MEL, "init_args": {**_MEL["init_args"], "padding": "same"}},
        "backbone": _PLAIN,
        "head": head("WaveNextHead", dim=8, n_fft=64, hop_length=16),
    },
}  # fmt: skip


def golden(model: Vocos, is_encodec: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Any] = {}
    if is_encodec:
        tensors["tokens"] = torch.randint(1024, (2, BATCH, FRAMES), generator=generator)
        features = tensors["features"] = model.codes_to_features(tensors["tokens"])
    else:
        features = tensors["features"] = torch.randn((BATCH, 8, FRAMES), generator=generator) * 2
    if isinstance(model.head, WaveNextHead):
        model.head.linear_2.register_forward_hook(lambda _, args, samples: tensors.update(spectrum=samples.clone()))
    else:
        inverse = model.head.istft if hasattr(model.head, "istft") else model.head.imdct
        inverse.register_forward_pre_hook(lambda _, args: tensors.update(spectrum=args[0].clone()))
    if isinstance(model.head, WaveNextHead):
        tensors["waveform"] = model.decode(features)
    elif getattr(model.head, "clip_audio", False):  # upstream clips, and returns, the coefficients instead of the audio
        model.head.clip_audio = False
        tensors["waveform"] = model.decode(features).clip(-1, 1)
    else:
        tensors["waveform"] = model.decode(features, bandwidth_id=torch.tensor([1]))
    if hasattr(model.head, "istft"):
        tensors["spectrum"] = tensors["spectrum"].transpose(1, 2)
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def make_encoder(codebooks: torch.Tensor) -> None:
    """A tiny EnCodec in the layout of facebook/encodec_24khz, with four codebooks of which the first are given."""
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=2, hidden_size=8, target_bandwidths=[0.75, 1.5, 3.0])
    model = EncodecModel(config).eval()
    for name, parameter in model.encoder.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif "lstm" in name:
            parameter.data *= 3
    model.encoder.layers[-1].conv.parametrizations.weight.original0.data *= 20  # embeddings as large as the codebooks
    for i, layer in enumerate(model.quantizer.layers):
        scale = 0.5**i
        entries = codebooks[i] if i < len(codebooks) else torch.randn(1024, 8) * scale
        layer.codebook.embed.copy_(entries)
    tensors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        model.save_pretrained(folder)
        (Path(folder) / "tiny-encoder").mkdir()
        for file in Path(folder).glob("*.*"):
            file.rename(Path(folder) / "tiny-encoder" / file.name)
        export_encodec(str(Path(folder) / "tiny-encoder"), DATA / "encoder.onnx")
        for samples in (1, 319, 320, 321, 2500, 13000):
            audio = 0.3 * torch.randn(samples)
            embeddings = model.encoder(audio[None, None])
            tensors[f"audio_{samples}"] = audio.numpy()
            tensors[f"embeddings_{samples}"] = embeddings[0].numpy()
            tensors[f"tokens_{samples}"] = model.encode(audio[None, None], bandwidth=3.0).audio_codes[0, 0].numpy()
    np.savez_compressed(DATA / "encoder.npz", **tensors)


class TinyEncoder(STFTEncoder):
    n_fft, hop_length, code_dim = 64, 16, 8


def make_spectrum_encoder() -> None:
    torch.manual_seed(0)
    encoder = TinyEncoder(dim=8, num_layers=1).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    codebooks = torch.randn(2, 256, 8) * torch.tensor([1.0, 0.5])[:, None, None]
    config = EncoderConfig(
        codec="tiny",
        input="spectrum",
        sample_rate=8000,
        n_fft=encoder.n_fft,
        hop_length=encoder.hop_length,
        channels=encoder.code_dim,
        left_context=encoder.context,
        right_context=encoder.context,
        codebook_size=codebooks.shape[1],
        bandwidths=(4.0, 8.0),
        codebooks_per_bandwidth=(1, 2),
        codebooks_sha256=fingerprints(codebooks.numpy()),
        source=Source("tiny-encoder-spectrum", "", "", __version__),
    )
    proto = trace_encoder(encoder, config, codebooks)
    write(proto, DATA / "encoder-spectrum.onnx")
    tensors = {}
    with torch.inference_mode():
        for samples in (1, 15, 16, 17, 2500):
            audio = 0.3 * torch.randn(samples)
            tensors[f"audio_{samples}"] = audio.numpy()
            tensors[f"embeddings_{samples}"] = encoder(audio[None])[0].numpy()
    np.savez_compressed(DATA / "encoder-spectrum.npz", **tensors)  # type: ignore[arg-type]


def make_log_mel() -> None:
    """Log-mels of half a second as upstream computes them, and, with its fork's arguments, those of HiFi-GAN."""
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(12_000) * torch.linspace(0, 1, 12_000)
    tensors: dict[str, Any] = {"audio": audio.numpy()}
    for padding in ("center", "same"):
        tensors[padding] = MelSpectrogramFeatures(padding=padding)(audio[None])[0].numpy()
    hifigan = torchaudio.transforms.MelSpectrogram(
        22050, 1024, hop_length=256, n_mels=80, f_max=8000, power=1, center=False, norm="slaney", mel_scale="slaney"
    )
    padded = torch.nn.functional.pad(audio[None], (384, 384), mode="reflect")
    spectrum = torch.stft(padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
    tensors["hifigan"] = hifigan.mel_scale(magnitude).clip(1e-5).log()[0].numpy()
    np.savez_compressed(DATA / "log-mel.npz", **tensors)


def main(*wanted: str) -> None:
    for seed, (name, config) in enumerate(CONFIGS.items()):
        if wanted and name not in wanted:
            continue
        is_encodec = name == "encodec"
        model = build(config, seed)
        if name != "imdct-symexp":  # clipped to a peak of 1, it would be judged by rounding errors of values near 100
            strengthen(model)
        if name == "wavenext":  # so loud that some of the samples need clipping
            model.head.linear_2.weight.data *= 30
        if is_encodec:  # codebooks of 8 channels instead of 128
            weights = torch.randn(2 * 1024, 8, generator=torch.Generator().manual_seed(seed))
            model.feature_extractor.codebook_weights = torch.nn.Parameter(weights)
            make_encoder(weights.reshape(2, 1024, 8))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = str(save(model, config, Path(folder) / f"tiny-{name}"))
            export(checkpoint, DATA / f"{name}.onnx")
            if name in ("mel", "imdct-cos"):
                export(checkpoint, DATA / f"{name}-istft.onnx", istft="graph")
        np.savez_compressed(DATA / f"{name}.npz", **golden(model, is_encodec))
    if wanted:
        return
    make_spectrum_encoder()
    make_log_mel()
    for name in ("encodec", "mel"):
        quantize(DATA / f"{name}.onnx", DATA / f"{name}-int8.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
