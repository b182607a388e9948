"""config.yaml -> features and modules: every class and argument that is supported is named here, and looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.limits import MAX_CODEBOOKS, MAX_KBPS
from vocos_onnx.messages import first_line, listed, shown
from vocos_onnx.model.bundled import BUNDLED_CODEC
from vocos_onnx.model.config import EncodecFeatures
from vocos_onnx.model.onnx_file import MAX_SIZE

from .errors import CheckpointError
from .modules import (
    Backbone,
    Head,
    IMDCTCosHead,
    IMDCTSymExpHead,
    ISTFTHead,
    Vocos,
    VocosBackbone,
    VocosResNetBackbone,
)
from .yaml_config import check_args, section

T = TypeVar("T")

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "vocos.models.VocosBackbone": VocosBackbone,
    "vocos.models.VocosResNetBackbone": VocosResNetBackbone,
}
HEADS: dict[str, Callable[..., Head]] = {
    "vocos.heads.ISTFTHead": ISTFTHead,
    "vocos.heads.IMDCTSymExpHead": IMDCTSymExpHead,
    "vocos.heads.IMDCTCosHead": IMDCTCosHead,
}
# codec -> sample rate in Hz, frames per second; all have codebooks of 1024 entries
CODECS = {
    "encodec_24khz": (24_000, 75),
    "encodec_48khz": (48_000, 150),
    BUNDLED_CODEC: (24_000, 75),  # the bundled codec, train/codec.py
}
CODEBOOK_SIZE = 1024


def build_modules(config: dict[str, Any]) -> tuple[Vocos, EncodecFeatures | MelFeatures, int]:
    """Modules with fresh weights, the features without a fingerprint, and the sample rate in Hz.

    Raises CheckpointError naming classes or arguments that are unknown, missing, wrong, or do not fit together.
    """
    build_shapes(config)
    return _modules(config)


def build_shapes(config: dict[str, Any]) -> tuple[Vocos, EncodecFeatures | MelFeatures, int]:
    """The same with weights that take no memory: a config must not fill it before there are weights of that size."""
    with torch.device("meta"):
        model, features, sample_rate = _modules(config)
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    if size > MAX_SIZE:
        raise CheckpointError(
            f"the config is that of a network of {size} bytes, expected at most the {MAX_SIZE} of a model"
        )
    return model, features, sample_rate


def _modules(config: dict[str, Any]) -> tuple[Vocos, EncodecFeatures | MelFeatures, int]:
    backbone = _instantiate(config, "backbone", BACKBONES)
    head = _instantiate(config, "head", HEADS)
    if head.out.in_features != backbone.dim:
        raise CheckpointError(f"head: dim is {head.out.in_features} but the backbone's is {backbone.dim}")
    features, sample_rate = read_features(config)
    if isinstance(features, EncodecFeatures):
        _, frame_rate = CODECS[features.codec]
        if head.hop_length * frame_rate != sample_rate:
            raise CheckpointError(
                f"head: hop_length is {head.hop_length} but {features.codec} has {frame_rate} frames/s at "
                f"{sample_rate} Hz, which is {sample_rate // frame_rate}"
            )
    return Vocos(backbone, head), features, sample_rate


def read_encodec_features(config: dict[str, Any]) -> EncodecFeatures:
    """The features of an encodec model, without a fingerprint. Raises CheckpointError if it is a mel model's config."""
    features, _ = read_features(config)
    if not isinstance(features, EncodecFeatures):
        raise CheckpointError("the config is that of a mel model: it has no encoder")
    return features


def read_features(config: dict[str, Any]) -> tuple[EncodecFeatures | MelFeatures, int]:
    """Features, without a fingerprint, and the sample rate in Hz."""
    functions: dict[str, Callable[..., tuple[EncodecFeatures | MelFeatures, int]]] = {
        "vocos.feature_extractors.EncodecFeatures": _encodec,
        "vocos.feature_extractors.MelSpectrogramFeatures": _mel,
    }
    class_path, args = section(config, "feature_extractor")
    if class_path not in functions:
        raise CheckpointError(
            f"feature_extractor class {listed([class_path])} is not supported; supported are {', '.join(functions)}"
        )
    check_args("feature_extractor", class_path, args, functions[class_path])
    try:
        return functions[class_path](**args)
    except ValueError as error:
        raise CheckpointError(f"feature_extractor: {error}") from error


def _encodec(
    encodec_model: str = "encodec_24khz", bandwidths: Any = (1.5, 3.0, 6.0, 12.0), train_codebooks: Any = False
) -> tuple[EncodecFeatures, int]:
    """The arguments and defaults are upstream's; the last one matters to a training only."""
    if encodec_model not in CODECS:
        raise ValueError(f"encodec_model {shown(encodec_model)} is not one of {', '.join(CODECS)}")
    sample_rate, frame_rate = CODECS[encodec_model]
    kbps: tuple[float, ...] = ()
    if isinstance(bandwidths, list | tuple) and 0 < len(bandwidths) <= MAX_CODEBOOKS:
        numbers = all(type(b) in (int, float) and 0 <= b <= MAX_KBPS for b in bandwidths)
        kbps = tuple(map(float, bandwidths)) if numbers else ()
    if not kbps:
        raise ValueError(f"bandwidths is {shown(bandwidths)}, expected a list of kbps")
    # a code of 1024 is 10 bits; upstream rounds down to whole codebooks, at least one
    counts = tuple(max(1, int(b * 1000 // (10 * frame_rate))) for b in kbps)
    if max(counts) > MAX_CODEBOOKS:
        raise ValueError(f"bandwidths {shown(kbps)} take {max(counts)} codebooks, expected at most {MAX_CODEBOOKS}")
    return EncodecFeatures(encodec_model, max(counts), CODEBOOK_SIZE, kbps, counts, ""), sample_rate


def _mel(
    sample_rate: int = 24_000,
    n_fft: int = 1024,
    hop_length: int = 256,
    n_mels: int = 100,
    padding: str = "center",
    f_min: float | None = None,
    f_max: float | None = None,
    norm: str | None = None,
    mel_scale: str | None = None,
) -> tuple[MelFeatures, int]:
    """The last four arguments are those of langtech-bsc/vocos, branch matcha, for the mels of HiFi-GAN.

    There the logarithm clips at 1e-5. The defaults are torchaudio's.
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate is {sample_rate}, expected a positive integer")
    fork = any(value is not None for value in (f_min, f_max, norm, mel_scale))
    mel = MelFeatures(
        n_fft,
        hop_length,
        n_mels,
        padding,
        f_min=float(f_min or 0),
        f_max=float(f_max or sample_rate // 2),
        mel_scale=mel_scale or "htk",
        norm=norm or "none",
        clip=1e-5 if fork else 1e-7,
    )
    return mel, sample_rate


def _instantiate(config: dict[str, Any], name: str, classes: dict[str, Callable[..., T]]) -> T:
    class_path, args = section(config, name)
    if class_path not in classes:
        raise CheckpointError(
            f"{name} class {listed([class_path])} is not supported; supported are {', '.join(classes)}"
        )
    if name == "head":
        _check_head(args)
    check_args(name, class_path, args, classes[class_path])
    try:
        return classes[class_path](**args)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{name}: {class_path} does not accept {shown(args)}: {first_line(error)}") from error


def _check_head(args: dict[str, Any]) -> None:
    # upstream's inverse MDCT is silent unless its frame divides by 4, and an inverse real FFT needs even frames
    for name, multiple in (("n_fft", 2), ("mdct_frame_len", 4)):
        frame = args.get(name, multiple)
        if not isinstance(frame, int) or frame < multiple or frame % multiple:
            raise CheckpointError(f"head: {name} is {shown(frame)}, expected a positive multiple of {multiple}")
    if args.get("padding", "same") not in ("same", "center"):
        raise CheckpointError(f"head: padding is {shown(args['padding'])}, expected 'same' or 'center'")
