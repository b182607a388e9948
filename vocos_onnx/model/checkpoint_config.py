"""config.yaml or config.json of a Vocos -> what it describes. Lists the supported classes and arguments."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from vocos_onnx.dsp.mel import HIFIGAN, MelFeatures
from vocos_onnx.limits import (
    MAX_BANDWIDTH_IDS,
    MAX_CHANNELS,
    MAX_CODEBOOKS,
    MAX_CONFIG,
    MAX_KBPS,
    MAX_LAYERS,
    MAX_RATE,
)
from vocos_onnx.messages import first_line, listed, shown

from .bundled import BUNDLED_CODEC
from .checkpoint import CheckpointError
from .config import EncodecFeatures, ModelConfig, Source, parse_json
from .onnx_file import MAX_SIZE, read_file

_MAX_INTEGER = (1 << 31) - 1
_MOST = {
    "input_channels": MAX_CHANNELS,
    "dim": MAX_CHANNELS,
    "intermediate_dim": 4 * MAX_CHANNELS,
    "num_layers": MAX_LAYERS,
    "num_blocks": MAX_LAYERS,
    "adanorm_num_embeddings": MAX_BANDWIDTH_IDS,
    "n_mels": MAX_CHANNELS,
    "sample_rate": MAX_RATE,
    # matrices have the square of these as their size: in the verification, and for an inverse transform in the graph
    "n_fft": 1 << 14,
    "mdct_frame_len": 1 << 14,
    "hop_length": 1 << 14,
}
# codec -> sample rate in Hz, frames per second; all have codebooks of 1024 entries
CODECS = {
    "encodec_24khz": (24_000, 75),
    "encodec_48khz": (48_000, 150),
    BUNDLED_CODEC: (24_000, 75),  # the bundled codec, train/codec.py
}
CODEBOOK_SIZE = 1024
CODEBOOKS = "feature_extractor.codebook_weights"  # the name of the codebooks' stacked table in a state dict

T = TypeVar("T")


@dataclass(frozen=True)
class VocosBackbone:
    """The arguments of upstream's class of this name. Each of its convolutions sees 3 frames to either side."""

    input_channels: int
    dim: int
    intermediate_dim: int
    num_layers: int
    layer_scale_init_value: float | None = None
    adanorm_num_embeddings: int | None = None

    @property
    def num_bandwidths(self) -> int:
        return self.adanorm_num_embeddings or 0

    @property
    def reach(self) -> int:
        return 3 * (1 + self.num_layers)

    @property
    def weights(self) -> int:
        """Approximate number of weights."""
        block = self.dim * (7 + 2 * self.intermediate_dim + 2 * max(1, self.num_bandwidths))
        return self.dim * 7 * self.input_channels + self.num_layers * block


@dataclass(frozen=True)
class VocosResNetBackbone:
    """The arguments of upstream's class of this name. A block reaches 1 + 3 + 5 frames, plus 1 more three times."""

    input_channels: int
    dim: int
    num_blocks: int
    layer_scale_init_value: float | None = None

    num_bandwidths = 0

    @property
    def reach(self) -> int:
        return 1 + 12 * self.num_blocks

    @property
    def weights(self) -> int:
        """Approximate number of weights."""
        return self.dim * 3 * self.input_channels + self.num_blocks * 18 * self.dim**2


@dataclass(frozen=True)
class ISTFTHead:
    """The arguments of upstream's class of this name."""

    dim: int
    n_fft: int
    hop_length: int
    padding: str = "same"

    kind, clip_audio = "istft", False

    @property
    def weights(self) -> int:
        return self.dim * (self.n_fft + 2)


@dataclass(frozen=True)
class _IMDCTHead:
    dim: int
    mdct_frame_len: int
    padding: str = "same"

    @property
    def n_fft(self) -> int:
        return self.mdct_frame_len

    @property
    def hop_length(self) -> int:
        return self.mdct_frame_len // 2


@dataclass(frozen=True)
class IMDCTSymExpHead(_IMDCTHead):
    """The arguments of upstream's class of this name."""

    sample_rate: int | None = None
    clip_audio: bool = False

    kind = "imdct_symexp"

    @property
    def weights(self) -> int:
        return self.dim * self.mdct_frame_len // 2


@dataclass(frozen=True)
class IMDCTCosHead(_IMDCTHead):
    """The arguments of upstream's class of this name."""

    clip_audio: bool = False

    kind = "imdct_cos"

    @property
    def weights(self) -> int:
        return self.dim * self.mdct_frame_len


@dataclass(frozen=True)
class WaveNextHead:
    """The arguments of the class of this name in wetdog/wavenext_pytorch, a fork of upstream.

    It computes the hop_length samples of a frame with two linear layers, with n_fft + 2 values between them. The
    padding has no effect.
    """

    dim: int
    n_fft: int
    hop_length: int
    padding: str = "same"

    kind, clip_audio = "wavenext", True

    @property
    def weights(self) -> int:
        return (self.dim + self.hop_length) * (self.n_fft + 2)


Backbone = VocosBackbone | VocosResNetBackbone
Head = ISTFTHead | IMDCTSymExpHead | IMDCTCosHead | WaveNextHead
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "vocos.models.VocosBackbone": VocosBackbone,
    "vocos.models.VocosResNetBackbone": VocosResNetBackbone,
}
HEADS: dict[str, Callable[..., Head]] = {
    "vocos.heads.ISTFTHead": ISTFTHead,
    "vocos.heads.IMDCTSymExpHead": IMDCTSymExpHead,
    "vocos.heads.IMDCTCosHead": IMDCTCosHead,
    "vocos.heads.WaveNextHead": WaveNextHead,
}


Features = EncodecFeatures | MelFeatures | None  # None: mels, but how they are made is not known
_UNKNOWN_MELS = "vocos_onnx.UnknownMels"  # the class_path of such features
_AMPHION_RATE = 24_000  # Hz


@dataclass(frozen=True)
class VocosConfig:
    """What a config describes. The features lack the fingerprint of the codebooks."""

    backbone: Backbone
    head: Head
    features: Features
    sample_rate: int

    def described(self, features: Features, source: Source) -> ModelConfig:
        """The description for the model file. Raises CheckpointError if features and head contradict each other."""
        head = self.head
        # a frame of a WaveNextHead is one hop of audio, whatever its n_fft and padding
        n_fft, padding = (head.hop_length, "same") if isinstance(head, WaveNextHead) else (head.n_fft, head.padding)
        try:
            return ModelConfig(
                sample_rate=self.sample_rate,
                head=head.kind,
                n_fft=n_fft,
                hop_length=head.hop_length,
                padding=padding,
                clip_audio=head.clip_audio,
                feature_channels=self.backbone.input_channels,
                num_bandwidth_ids=self.backbone.num_bandwidths,
                reach=self.backbone.reach,
                encodec=features if isinstance(features, EncodecFeatures) else None,
                mel=features if isinstance(features, MelFeatures) else None,
                source=source,
            )
        except ValueError as error:
            raise CheckpointError(f"the config contradicts itself: {first_line(error)}") from error


PARTS = ("feature_extractor", "backbone", "head")
# Relatives of Vocos whose decoders are other networks, by what only their configs or only their weights have.
_RELATIVES = {"neucodec": "NeuCodec", "xcodec2": "XCodec2", "wavtokenizer": "WavTokenizer"}
_FOREIGN_KEYS = {"backbone.pos_net.": "WavTokenizer", "generator.backbone.": "NeuCodec or XCodec2"}


def read_config(path: Path) -> dict[str, Any]:
    """Reads the mapping of feature_extractor, backbone and head, each with a class_path and init_args.

    Sections without a class_path, as in the MLX ports, get upstream's usual classes. A training config has the sections
    in its section model. Amphion has the arguments of all three in model.vocos and in preprocess.

    Raises CheckpointError if the file holds none of these.
    """
    config = _read_json(path) if path.suffix == ".json" else _read_yaml(path)
    model = config.get("model") if isinstance(config, dict) else None
    if isinstance(model, dict) and isinstance(model.get("vocos"), dict):
        return _of_amphion(model["vocos"], config.get("preprocess"))
    if isinstance(config, dict) and "model" in config and not any(part in config for part in PARTS):
        config = model.get("init_args", model) if isinstance(model, dict) else model
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no mapping; expected feature_extractor, backbone and head")
    if (relative := _RELATIVES.get(str(config.get("model_type")).lower().replace("_", ""))) is not None:
        raise _unsupported(relative)
    return _with_classes(config)


def check_relatives(weights: Iterable[str]) -> None:
    """Raises CheckpointError if the names of the weights are those of a relative of Vocos, another network."""
    for name in weights:
        for prefix, relative in _FOREIGN_KEYS.items():
            if name.startswith(prefix):
                raise _unsupported(relative)


def _unsupported(relative: str) -> CheckpointError:
    return CheckpointError(
        f"this is a checkpoint of {relative}, whose decoder is not that of Vocos: it has attention, which this version "
        "does not support"
    )


def _read_yaml(path: Path) -> Any:
    try:
        from .yaml_config import load_yaml
    except ModuleNotFoundError:
        raise ImportError(f"reading {path} needs pyyaml: pip install 'vocos-onnx[hub]'") from None
    return load_yaml(path)


def _read_json(path: Path) -> Any:
    try:
        text = read_file(path, MAX_CONFIG, "a config").decode()
        # Amphion's configs are JSON5, with commas before closing brackets, which are removed except within strings
        text = re.sub(r'("(?:[^"\\]|\\.)*")|,(?=\s*[]}])', lambda found: found[1] or "", text)
        return parse_json(text, finite=False)
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON: {first_line(error)}") from error


def _with_classes(config: dict[str, Any]) -> dict[str, Any]:
    """The config with a class_path in each section; sections without one get upstream's usual class.

    The default padding of such a head is "same" for tokens; for mels it is theirs, or "center" if they have none, as in
    vocos-mlx.
    """
    features = _args(config.get("feature_extractor")) or {}
    is_encodec = "encodec_model" in features or "bandwidths" in features
    kind = "EncodecFeatures" if is_encodec else "MelSpectrogramFeatures"
    usual = {
        "feature_extractor": f"vocos.feature_extractors.{kind}",
        "backbone": "vocos.models.VocosBackbone",
        "head": "vocos.heads.ISTFTHead",
    }
    sections: dict[str, Any] = {}
    for name, class_path in usual.items():
        section: Any = config.get(name)
        args = _args(section)
        # a head with an MDCT may be of either of two classes
        if args is not None and "class_path" not in section and "mdct_frame_len" not in args:
            if name == "head":
                args = {"padding": "same" if is_encodec else features.get("padding", "center"), **args}
            section = {"class_path": class_path, "init_args": args}
        sections[name] = section
    return {**config, **sections}


def _args(section: Any) -> dict[str, Any] | None:
    """The arguments in a section of a config: its init_args, or the section itself if it has no class_path either."""
    if not isinstance(section, dict):
        return None
    args = section.get("init_args", {} if "class_path" in section else section)
    return {} if args is None else args if isinstance(args, dict) else None


def _of_amphion(vocos: dict[str, Any], preprocess: Any) -> dict[str, Any]:
    """Turns a config of Amphion (models/codec/amphion_codec/vocos.py) into upstream's layout.

    Its mels are those of HiFi-GAN at another rate (models/codec/melvqgan/melspec.py). If the config does not give their
    settings, or has a mean to subtract from them, as in Amphion's own models, how they are made is not known. All of
    those models run at 24 kHz.
    """
    said: dict[str, Any] = preprocess if isinstance(preprocess, dict) else {}
    is_known = {"sample_rate", "n_fft", "hop_size", "num_mels"} <= said.keys()
    is_known = is_known and not {"mel_mean", "mel_var"} & said.keys()
    vocos = {"adanorm_num_embeddings": None, "padding": "same", **vocos}
    known = {"input_channels", "dim", "intermediate_dim", "num_layers", "adanorm_num_embeddings"}
    head = {"n_fft": "n_fft", "hop_size": "hop_length", "padding": "padding"}
    lacks = [name for name in (*known, *head) if name not in vocos]
    unknown = [name for name in vocos if name not in known and name not in head]
    if lacks or unknown:
        what = f"lacks {listed(sorted(lacks))}" if lacks else f"has the unknown {listed(unknown)}"
        raise CheckpointError(f"model.vocos {what}; its arguments are {', '.join(sorted(known | head.keys()))}")
    features: dict[str, Any] = {
        "class_path": _UNKNOWN_MELS,
        "init_args": {"sample_rate": said.get("sample_rate", _AMPHION_RATE)},
    }
    if is_known:
        win_size = said.get("win_size", said["n_fft"])
        if win_size != said["n_fft"]:
            raise CheckpointError(f"preprocess.win_size is {shown(win_size)}, expected the n_fft, {said['n_fft']}")
        features = {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": {
                "sample_rate": said["sample_rate"],
                "n_fft": said["n_fft"],
                "hop_length": said["hop_size"],
                "n_mels": said["num_mels"],
                "padding": "same",
                "f_min": said.get("fmin", 0),
                "f_max": said.get("fmax"),
                "norm": "slaney",
                "mel_scale": "slaney",
                "clip_val": HIFIGAN.clip,
                "power_offset": HIFIGAN.power_offset,
            },
        }
    return {
        "feature_extractor": features,
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {name: value for name, value in vocos.items() if name in known},
        },
        "head": {
            "class_path": "vocos.heads.ISTFTHead",
            "init_args": {"dim": vocos["dim"]} | {ours: vocos[name] for name, ours in head.items()},
        },
    }


def parse_config(config: dict[str, Any]) -> VocosConfig:
    """Interprets a mapping that ``read_config`` returned.

    Raises CheckpointError if classes or arguments are unknown, missing, wrong, or inconsistent; the message names them.
    """
    backbone = _instantiate(config, "backbone", BACKBONES)
    head = _instantiate(config, "head", HEADS)
    if head.dim != backbone.dim:
        raise CheckpointError(f"head: dim is {head.dim} but the backbone's is {backbone.dim}")
    features, sample_rate = read_features(config)
    if isinstance(features, EncodecFeatures):
        _, frame_rate = CODECS[features.codec]
        if head.hop_length * frame_rate != sample_rate:
            raise CheckpointError(
                f"head: hop_length is {head.hop_length} but {features.codec} has {frame_rate} frames/s at "
                f"{sample_rate} Hz, which is {sample_rate // frame_rate}"
            )
    if (size := 4 * (backbone.weights + head.weights)) > MAX_SIZE:
        raise CheckpointError(
            f"the config is that of a network of {size} bytes, expected at most the {MAX_SIZE} of a model"
        )
    return VocosConfig(backbone, head, features, sample_rate)


def check_table(shape: tuple[int, ...] | None, features: EncodecFeatures, channels: int) -> None:
    """Raises CheckpointError unless ``shape``, None if there is no table, is that of the codebooks' table."""
    if shape is None:
        raise CheckpointError(f"the state dict lacks {CODEBOOKS}")
    expected = (features.num_codebooks * CODEBOOK_SIZE, channels)
    if shape != expected:
        raise CheckpointError(
            f"{CODEBOOKS} has shape {shown(shape)}, expected {expected}: {features.num_codebooks} codebooks of "
            f"{CODEBOOK_SIZE} with the backbone's input_channels"
        )


def read_encodec_features(config: dict[str, Any]) -> EncodecFeatures:
    """The features of an encodec model, without a fingerprint. Raises CheckpointError if it is a mel model's config."""
    features, _ = read_features(config)
    if not isinstance(features, EncodecFeatures):
        raise CheckpointError("the config is that of a mel model: it has no encoder")
    return features


def read_features(config: dict[str, Any]) -> tuple[Features, int]:
    """Features, without a fingerprint, and the sample rate in Hz."""
    functions: dict[str, Callable[..., tuple[Features, int]]] = {
        "vocos.feature_extractors.EncodecFeatures": _encodec,
        "vocos.feature_extractors.MelSpectrogramFeatures": _mel,
    }
    class_path, args = section(config, "feature_extractor")
    if "dowmsamples" in args or "vq_bins" in args:
        raise _unsupported("WavTokenizer")
    is_unknown = class_path == _UNKNOWN_MELS
    function = _unknown_mels if is_unknown else _class_named("feature_extractor", class_path, functions)
    check_args("feature_extractor", class_path, args, function)
    try:
        return function(**args)
    except ValueError as error:
        raise CheckpointError(f"feature_extractor: {error}") from error


def _unknown_mels(sample_rate: int) -> tuple[None, int]:
    return None, sample_rate


def _encodec(
    encodec_model: str = "encodec_24khz", bandwidths: Any = (1.5, 3.0, 6.0, 12.0), train_codebooks: Any = False
) -> tuple[EncodecFeatures, int]:
    """The arguments and defaults are upstream's; the last one only matters for training."""
    if encodec_model not in CODECS:
        raise ValueError(f"encodec_model {shown(encodec_model)} is not one of {', '.join(CODECS)}")
    sample_rate, frame_rate = CODECS[encodec_model]
    kbps: tuple[float, ...] = ()
    if isinstance(bandwidths, list | tuple) and 0 < len(bandwidths) <= MAX_CODEBOOKS:
        numbers = all(type(b) in (int, float) and 0 <= b <= MAX_KBPS for b in bandwidths)
        kbps = tuple(map(float, bandwidths)) if numbers else ()
    if not kbps:
        raise ValueError(f"bandwidths is {shown(bandwidths)}, expected a list of kbps")
    # a code for 1024 entries has 10 bits; upstream rounds down to whole codebooks, at least one
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
    clip_val: float | None = None,
    power_offset: float = 0.0,
) -> tuple[MelFeatures, int]:
    """Four arguments, f_min to mel_scale, come from langtech-bsc/vocos, branch matcha, for the mels of HiFi-GAN.

    There the logarithm clips at 1e-5. wetdog/wavenext_pytorch adds clip_val; power_offset is ours. The defaults are
    torchaudio's.
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
        clip=float(clip_val) if clip_val is not None else 1e-5 if fork else 1e-7,
        power_offset=float(power_offset),
    )
    return mel, sample_rate


def _instantiate(config: dict[str, Any], name: str, classes: dict[str, Callable[..., T]]) -> T:
    class_path, args = section(config, name)
    made = _class_named(name, class_path, classes)
    if name == "head":
        _check_head(args, even=made is not WaveNextHead)
    check_args(name, class_path, args, made)
    for argument, value in args.items():
        least = 0 if argument == "adanorm_num_embeddings" else 1
        if argument in _MOST and type(value) is int and value < least:
            expected = "a positive integer" if least else "0 or more"
            raise CheckpointError(f"{name}: {argument} is {shown(value)}, expected {expected}")
    return made(**args)


def _class_named(name: str, class_path: str, known: dict[str, T]) -> T:
    """The value in ``known`` for a class path, in whatever module: forks have upstream's classes too.

    Raises CheckpointError if there is none.
    """
    for path, found in known.items():
        if path.rpartition(".")[2] == class_path.rpartition(".")[2]:
            return found
    raise CheckpointError(f"{name} class {listed([class_path])} is not supported; supported are {', '.join(known)}")


def _check_head(args: dict[str, Any], even: bool) -> None:
    # upstream's inverse MDCT is silent unless its frame is a multiple of 4, and an inverse real FFT needs even frames
    for name, multiple in (("n_fft", 2 if even else 1), ("mdct_frame_len", 4)):
        frame = args.get(name, multiple)
        if not isinstance(frame, int) or frame < multiple or frame % multiple:
            raise CheckpointError(f"head: {name} is {shown(frame)}, expected a positive multiple of {multiple}")
    if args.get("padding", "same") not in ("same", "center"):
        raise CheckpointError(f"head: padding is {shown(args['padding'])}, expected 'same' or 'center'")


def section(config: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """The class_path and init_args of a section of a config. Raises CheckpointError if there is no class_path."""
    section = config.get(name)
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise CheckpointError(f"the config lacks {name}.class_path")
    args = section.get("init_args") or {}
    if not isinstance(args, dict):
        raise CheckpointError(f"{name}.init_args is {shown(args)}, expected a mapping")
    return section["class_path"], args


def check_args(name: str, class_path: str, args: dict[str, Any], function: Callable[..., Any]) -> None:
    """Raises CheckpointError unless every argument is known, none is missing, and types and sizes are right.

    YAML makes 24000.0 a float and "64" a string; torch would accept these, or fail later without naming the argument.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**args)
    except TypeError as error:
        raise CheckpointError(
            f"{name}: {class_path}: {first_line(error)}; its arguments are {', '.join(signature.parameters)}"
        ) from error
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for argument, value in args.items():
        hint = hints[argument]
        allowed = () if hint is Any else get_args(hint) or (hint,)
        if allowed and not (type(value) in allowed or (float in allowed and type(value) is int)):
            names = " or ".join(t.__name__ for t in allowed)
            raise CheckpointError(f"{name}: {argument} is {shown(value)}, expected {names}")
        most = _MOST.get(argument, _MAX_INTEGER)
        if type(value) is int and abs(value) > most:
            raise CheckpointError(f"{name}: {argument} is {shown(value)}, expected at most {most}")
        if type(value) is float and not math.isfinite(value):
            raise CheckpointError(f"{name}: {argument} is {value}, expected a finite number")
