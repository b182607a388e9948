"""A checkpoint on disk or on the hub -> config and state dict -> modules with its weights.

Nothing in a checkpoint is executed: YAML is read with a safe loader, weights as safetensors or with
``torch.load(weights_only=True)``, and classes are looked up by name in the tables below.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import yaml
from safetensors.torch import load as load_safetensors
from torch import Tensor

from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.limits import MAX_BANDWIDTH_IDS, MAX_CHANNELS, MAX_CODEBOOKS, MAX_KBPS, MAX_LAYERS, MAX_RATE
from vocos_onnx.messages import first_line, listed, shown
from vocos_onnx.model.bundled import BUNDLED_CODEC
from vocos_onnx.model.config import EncodecFeatures, ModelConfig, Source
from vocos_onnx.model.onnx_file import MAX_SIZE, read_file

from .modules import IMDCTCosHead, IMDCTSymExpHead, ISTFTHead, Vocos, VocosBackbone, VocosResNetBackbone

BACKBONES = {
    "vocos.models.VocosBackbone": VocosBackbone,
    "vocos.models.VocosResNetBackbone": VocosResNetBackbone,
}
HEADS = {
    "vocos.heads.ISTFTHead": ISTFTHead,
    "vocos.heads.IMDCTSymExpHead": IMDCTSymExpHead,
    "vocos.heads.IMDCTCosHead": IMDCTCosHead,
}
# codec -> sample rate, frames per second; all have codebooks of 1024 entries
CODECS = {
    "encodec_24khz": (24_000, 75),
    "encodec_48khz": (48_000, 150),
    BUNDLED_CODEC: (24_000, 75),  # the bundled codec, train/codec.py
}
CODEBOOK_SIZE = 1024
WEIGHTS = ("pytorch_model.bin", "model.safetensors")

CODEBOOKS = "feature_extractor.codebook_weights"
# what a state dict holds beside the networks: constants of upstream's feature extractors
_IGNORED = ("feature_extractor.encodec.", "feature_extractor.mel_spec.")


# No checkpoint comes near: what claims more is damaged, or made to fill the memory.
_MAX_WEIGHTS = 8 << 30  # bytes of the file
_MAX_HEADER = 1 << 20  # bytes of the header of a safetensors file, 100 for each tensor
MAX_CONFIG = 1 << 16  # bytes
_MAX_NODES = 10_000  # of YAML, aliases counted as what they stand for
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
    # the square of these is the size of matrices, in the verification and where the inverse transform is in the graph
    "n_fft": 1 << 14,
    "mdct_frame_len": 1 << 14,
    "hop_length": 1 << 14,
}
_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_TYPES |= {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


class CheckpointError(ValueError):
    """A checkpoint that cannot be exported; the message says what is wrong and where."""


@dataclass(frozen=True)
class Checkpoint:
    """Config and weights as they were found, and where."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    name: str
    revision: str
    sha256: str


def load(checkpoint: str, config: str | None = None, revision: str | None = None) -> Checkpoint:
    """Read a folder, a weight file with its config, or a hub id.

    Args:
        checkpoint: a folder with config.yaml and pytorch_model.bin or model.safetensors; or a .ckpt, .bin, .pt or
            .safetensors file, with config.yaml beside it or given; or owner/name on the Hugging Face hub.
        config: path of the config where it is not beside the weights.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: there is no such folder, file or hub repository.
        CheckpointError: it is there but cannot be read as a Vocos checkpoint.
    """
    path = Path(checkpoint)
    if is_hub_id(checkpoint):
        if config is not None:
            raise CheckpointError(f"config {config} is for local weights; {checkpoint} on the hub brings its own")
        config_path, weights_path, found_revision = download(checkpoint, revision, "config.yaml", WEIGHTS)
        name = checkpoint
    else:
        if revision is not None:
            raise CheckpointError(f"revision {revision!r} is for hub ids; {checkpoint} is not one")
        config_path, weights_path = _find(path, config)
        name, found_revision = source_name(path), ""
    state, digest = read_weights(weights_path)
    return Checkpoint(read_yaml(config_path), state, name, found_revision, digest)


def build(checkpoint: Checkpoint) -> tuple[Vocos, EncodecFeatures | MelFeatures, Tensor | None, int]:
    """Modules with the checkpoint's weights, its features, codebooks (K, 1024, C) or None, and sample rate in Hz.

    Raises CheckpointError naming classes, arguments, keys or shapes that are unknown, missing or wrong.
    """
    state = fold_weight_norm(checkpoint.state)
    model, features, sample_rate = _shapes(checkpoint.config)
    codebooks = None
    if isinstance(features, EncodecFeatures):
        codebooks = state.get(CODEBOOKS)
        if codebooks is None:
            raise CheckpointError(f"the state dict lacks {CODEBOOKS}")
        expected = (features.num_codebooks * CODEBOOK_SIZE, model.backbone.input_channels)
        if tuple(codebooks.shape) != expected:
            raise CheckpointError(
                f"{CODEBOOKS} has shape {shown(tuple(codebooks.shape))}, expected {expected}: {features.num_codebooks} "
                f"codebooks of {CODEBOOK_SIZE} with the backbone's input_channels"
            )
        codebooks = codebooks.float().reshape(features.num_codebooks, CODEBOOK_SIZE, -1)
        features = replace(features, codebooks_sha256=fingerprints(codebooks.numpy())[-1])
    check_keys(_own(state), model.state_dict(), "does not fit its config")
    model, _, _ = _modules(checkpoint.config)
    _load_state(model, state)
    return model.eval(), features, codebooks, sample_rate


def build_modules(config: dict[str, Any]) -> tuple[Vocos, EncodecFeatures | MelFeatures, int]:
    """Modules with fresh weights, the features without a fingerprint, and the sample rate in Hz.

    Raises CheckpointError naming classes or arguments that are unknown, missing, wrong, or do not fit together.
    """
    _shapes(config)
    return _modules(config)


def _shapes(config: dict[str, Any]) -> tuple[Vocos, EncodecFeatures | MelFeatures, int]:
    """The same without weights, in no memory: a config must not fill it with what there are no weights for."""
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
    features, sample_rate, frame_rate = _features(config)
    if isinstance(features, EncodecFeatures) and head.hop_length * frame_rate != sample_rate:
        raise CheckpointError(
            f"head: hop_length is {head.hop_length} but {features.codec} has {frame_rate} frames/s at "
            f"{sample_rate} Hz, which is {sample_rate // frame_rate}"
        )
    return Vocos(backbone, head), features, sample_rate


def describe(model: Vocos, features: EncodecFeatures | MelFeatures, sample_rate: int, source: Source) -> ModelConfig:
    """What the exported model is. Raises CheckpointError where features and head contradict one another."""
    head, is_encodec = model.head, isinstance(features, EncodecFeatures)
    try:
        return ModelConfig(
            sample_rate=sample_rate,
            head=head.kind,
            n_fft=head.n_fft,
            hop_length=head.hop_length,
            padding=head.padding,
            clip_audio=head.clip_audio,
            feature_channels=model.backbone.input_channels,
            num_bandwidth_ids=model.backbone.num_bandwidths,
            encodec=features if is_encodec else None,
            mel=None if is_encodec else features,
            source=source,
        )
    except ValueError as error:
        raise CheckpointError(f"the config contradicts itself: {first_line(error)}") from error


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace weight_g and weight_v (also under torch's newer names) by weight = g · v/|v|, norms over all but axis 0.

    Salimans & Kingma, "Weight Normalization" (arXiv 1602.07868), eq. 2.
    """
    folded = dict(state)
    for g_name, v_name in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for key in [k for k in state if k.endswith("." + g_name)]:
            prefix = key.removesuffix(g_name)
            v = folded.pop(prefix + v_name, None)
            if v is None:
                raise CheckpointError(f"the state dict has {listed([key])} but lacks {listed([prefix + v_name])}")
            g = folded.pop(key)
            if not v.ndim or g.shape not in (v.shape[:1], (v.shape[0], *[1] * (v.ndim - 1))):
                raise CheckpointError(
                    f"{shown(key)} has the shape {shown(tuple(g.shape))}, which does not go with the "
                    f"{shown(tuple(v.shape))} of {shown(prefix + v_name)}"
                )
            g, v = g.float().reshape(-1, *[1] * (v.ndim - 1)), v.float()  # half precision would round the product
            norm = v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.ndim - 1))
            folded[prefix + "weight"] = g * v / norm
    return folded


def _find(path: Path, config: str | None) -> tuple[Path, Path]:
    expected = (
        f"a folder with config.yaml and {' or '.join(WEIGHTS)}, a .ckpt file, or a hub id such as "
        "charactr/vocos-encodec-24khz"
    )
    weights = find_weights(path, WEIGHTS, expected)
    config_path = Path(config) if config else weights.parent / "config.yaml"
    if not config_path.is_file():
        raise FileNotFoundError(f"no config {config_path}: put config.yaml beside {weights.name}, or pass --config")
    return config_path, weights


def find_weights(path: Path, names: tuple[str, ...], expected: str) -> Path:
    """The file, or the first of the names that there is in the folder. Raises FileNotFoundError."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint {path}: expected {expected}")
    weights = next((path / name for name in names if (path / name).is_file()), None)
    if weights is None:
        raise FileNotFoundError(f"{path} has neither {' nor '.join(names)}")
    return weights


def is_hub_id(checkpoint: str) -> bool:
    """owner/name, where that is neither a path nor looks like a file's."""
    path = Path(checkpoint)
    looks_like_file = path.suffix in (".ckpt", ".bin", ".pt", ".th", ".safetensors", ".onnx", ".yaml")
    return not path.exists() and not looks_like_file and bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", checkpoint))


def download(
    repo_id: str, revision: str | None, config_name: str, weight_names: tuple[str, ...]
) -> tuple[Path, Path, str]:
    """Config, weights and commit of a hub repository, from the cache where there is no network."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ImportError("hub downloads need huggingface-hub: pip install 'vocos-onnx[hub]'") from error
    at = f" at revision {revision}" if revision else ""
    try:
        config = Path(hf_hub_download(repo_id, config_name, revision=revision))
        for name in weight_names:
            try:
                weights = Path(hf_hub_download(repo_id, name, revision=revision))
                break
            except EntryNotFoundError:
                if name == weight_names[-1]:
                    raise
    except Exception as error:  # of the client, and of what it uses for HTTP
        raise FileNotFoundError(
            f"cannot get {repo_id}{at} from the hub ({type(error).__name__}: {first_line(error)}). If you meant a "
            "local folder, there is none of that name; without a network, pass a folder downloaded before"
        ) from error
    return config, weights, weights.parent.name  # the cache keeps files under snapshots/<commit>/


class YamlLoader(yaml.SafeLoader):
    """YAML of bounded size: what aliases repeat counts each time, since 1 kB of them can stand for terabytes."""

    def get_single_node(self) -> Any:
        root = super().get_single_node()
        weights: dict[int, int | None] = {}

        def weigh(node: Any) -> int:
            known = weights.get(id(node), 0)
            if known is None:
                raise yaml.YAMLError("it contains itself")
            if known:
                return known
            weights[id(node)] = None
            children = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in children for child in pair]
            total = 1 + sum(map(weigh, children))
            if total > _MAX_NODES:
                raise yaml.YAMLError(f"it has more than {_MAX_NODES} values")
            weights[id(node)] = total
            return total

        if root is not None:
            weigh(root)
        return root


def load_yaml(path: Path, loader: type[YamlLoader] = YamlLoader) -> Any:
    """What is in a file of YAML. Raises CheckpointError where that is none, or too much."""
    try:
        return yaml.load(read_file(path, MAX_CONFIG, "a config").decode(), loader)
    except RecursionError:
        raise CheckpointError(f"{path} is not readable YAML: it is nested too deeply") from None
    except OSError:
        raise
    except Exception as error:  # the package lets many out, for dates, integers and tags that are none
        raise CheckpointError(f"{path} is not readable YAML: {first_line(error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    config = load_yaml(path)
    if isinstance(config, dict) and "model" in config:  # a training config: the model's arguments are nested
        model = config["model"]
        config = model.get("init_args", model) if isinstance(model, dict) else model
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no mapping; expected feature_extractor, backbone and head")
    return config


def read_state(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a file. Raises CheckpointError where there are none, or other things too."""
    state, _ = read_weights(path)
    return state


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Names and tensors of a file, and its sha256. Raises CheckpointError where there are none, or other things too."""
    state, digest, size = read_tree(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # Lightning: discriminators are beside it
        parts = ("feature_extractor.", "backbone.", "head.")
        state = {k: v for k, v in state["state_dict"].items() if isinstance(k, str) and k.startswith(parts)}
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise CheckpointError(f"{path} is not a state dict: expected names and tensors, or both under 'state_dict'")
    for key, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in _TYPES:
            kind = f"{value.layout}, {value.dtype}, {value.device.type}".replace("torch.", "")
            raise CheckpointError(f"{path}: {shown(key)} is no tensor of plain numbers in memory: {kind}")
    state = {key: value.detach().resolve_conj().resolve_neg() for key, value in state.items()}
    # the same numbers may stand for many, in one tensor (a stride of 0) or in several
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > size:
        raise CheckpointError(
            f"{path} has {size} bytes, and its tensors would take {claimed}: they repeat or share what is in it; save "
            "them as they are, with .clone()"
        )
    return state, digest


def read_tree(path: Path) -> tuple[Any, str, int]:
    """What is in a file of weights, whatever that is; the file's sha256 and size. Raises CheckpointError."""
    try:
        data = read_file(path, _MAX_WEIGHTS, "weights")
        if path.suffix == ".safetensors":
            header = int.from_bytes(data[:8], "little")
            if header > _MAX_HEADER:
                raise ValueError(f"its header has {header} bytes, expected at most {_MAX_HEADER}")
            tree: Any = dict(sorted(load_safetensors(data).items()))  # which has them in no order
        else:
            archive = _rebuilt(data) if data.startswith(b"PK") else data
            if archive is data:
                _check_legacy(data)
            tree = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
            _plain(tree)
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"cannot read {path} as weights only, and a checkpoint is not allowed to run code: "
            f"{first_line(error)}. If you trust it, load it yourself and save its state dict"
        ) from error
    return tree, hashlib.sha256(data).hexdigest(), len(data)


def _rebuilt(data: bytes) -> bytes:
    """An archive of the same files as torch.save writes it: readers of zip differ in what they find in strange ones.

    Raises ValueError where its files are larger than it (torch stores them as they are), come twice, or are pickles
    that no state dict makes.
    """
    built = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(built, "w") as out:
        files = archive.infolist()
        if sum(file.file_size for file in files) > len(data) or any(file.compress_type for file in files):
            raise ValueError("its files are compressed, or larger than the archive")
        if len({file.filename.casefold() for file in files}) < len(files):
            raise ValueError("a file comes twice in it")
        for file in files:
            content = archive.read(file)
            if file.filename.casefold().endswith(".pkl"):
                _check_pickle(io.BytesIO(content))
            out.writestr(file.filename, content)
    return built.getvalue()


def _check_legacy(data: bytes) -> None:
    """The same for what torch wrote before 1.6: five pickles, and numbers after them."""
    stream = io.BytesIO(data)
    for _ in range(5):
        _check_pickle(stream)


# What a state dict is made of, in a pickle, and what Lightning puts beside it. torch lets more be called, of which
# bytearray and codecs fill the memory, or never end.
_GLOBALS = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|torch (\w+Storage|Size|device|(b?float|u?int)\d+|bool|float8_\w+)"
    r"|torch\.storage \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\.serialization _get_layout|(__builtin__|builtins) set"
)
_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


def _check_pickle(stream: io.BytesIO) -> None:
    """Reads to the end of a pickle. Raises ValueError where it calls what no state dict does."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _CALLS or (opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument))):
            called = str(argument).replace(" ", ".") if opcode.name == "GLOBAL" else opcode.name
            raise ValueError(f"it calls {shown(called)}, which no weights need")


def _plain(tree: Any) -> None:
    """Dictionaries lose the attributes of their own, which would go before their methods."""
    todo, seen = [tree], set()
    while todo:
        value = todo.pop()
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        if hasattr(value, "__dict__"):
            vars(value).clear()
        todo.extend(value.values() if isinstance(value, dict) else value)


def source_name(path: Path) -> str:
    """The name of a file or folder, as it can be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in path.resolve().name)


def section(config: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    section = config.get(name)
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise CheckpointError(f"the config lacks {name}.class_path")
    args = section.get("init_args") or {}
    if not isinstance(args, dict):
        raise CheckpointError(f"{name}.init_args is {shown(args)}, expected a mapping")
    return section["class_path"], args


def _instantiate(config: dict[str, Any], name: str, classes: dict[str, Any]) -> Any:
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


def check_args(name: str, class_path: str, args: dict[str, Any], function: Callable[..., Any]) -> None:
    """Every argument known, none missing, each of its type: YAML makes 24000.0 a float and "64" a string."""
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


def _check_head(args: dict[str, Any]) -> None:
    # upstream's inverse MDCT is silent unless its frame divides by 4, and an inverse real FFT needs even frames
    for name, multiple in (("n_fft", 2), ("mdct_frame_len", 4)):
        frame = args.get(name, multiple)
        if not isinstance(frame, int) or frame < multiple or frame % multiple:
            raise CheckpointError(f"head: {name} is {shown(frame)}, expected a positive multiple of {multiple}")
    if args.get("padding", "same") not in ("same", "center"):
        raise CheckpointError(f"head: padding is {shown(args['padding'])}, expected 'same' or 'center'")


def _encodec(
    encodec_model: str = "encodec_24khz", bandwidths: Any = (1.5, 3.0, 6.0, 12.0), train_codebooks: Any = False
):
    return encodec_model, bandwidths


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
    """The last four are not upstream's: langtech-bsc/vocos, branch matcha, has them, for the mels of HiFi-GAN.

    There the logarithm clips at 1e-5. What is not given is as torchaudio has it.
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


def _features(config: dict[str, Any]) -> tuple[EncodecFeatures | MelFeatures, int, int]:
    """Features, sample rate in Hz and frames per second (0 for mel features, whose hop says it)."""
    functions = {
        "vocos.feature_extractors.EncodecFeatures": _encodec,
        "vocos.feature_extractors.MelSpectrogramFeatures": _mel,
    }
    class_path, args = section(config, "feature_extractor")
    if class_path not in functions:
        raise CheckpointError(
            f"feature_extractor class {listed([class_path])} is not supported; supported are {', '.join(functions)}"
        )
    check_args("feature_extractor", class_path, args, functions[class_path])
    if functions[class_path] is _mel:
        try:
            mel, sample_rate = _mel(**args)
        except ValueError as error:
            raise CheckpointError(f"feature_extractor: {error}") from error
        return mel, sample_rate, 0
    features = _encodec_features(args)
    sample_rate, frame_rate = CODECS[features.codec]
    return features, sample_rate, frame_rate


def read_encodec_features(config: dict[str, Any]) -> EncodecFeatures:
    """The features of a config that must be an encodec model's, without a fingerprint."""
    features, _, _ = _features(config)
    if not isinstance(features, EncodecFeatures):
        raise CheckpointError("the config is that of a mel model: it has no encoder")
    return features


def _encodec_features(args: dict[str, Any]) -> EncodecFeatures:
    codec, bandwidths = _encodec(**args)
    if codec not in CODECS:
        raise CheckpointError(f"feature_extractor: encodec_model {shown(codec)} is not one of {', '.join(CODECS)}")
    _, frame_rate = CODECS[codec]
    kbps: tuple[float, ...] = ()
    if isinstance(bandwidths, list | tuple) and 0 < len(bandwidths) <= MAX_CODEBOOKS:
        numbers = all(type(b) in (int, float) and 0 <= b <= MAX_KBPS for b in bandwidths)
        kbps = tuple(map(float, bandwidths)) if numbers else ()
    if not kbps:
        raise CheckpointError(f"feature_extractor: bandwidths is {shown(bandwidths)}, expected a list of kbps")
    # a code of 1024 is 10 bits; upstream rounds down to whole codebooks, at least one
    counts = tuple(max(1, int(b * 1000 // (10 * frame_rate))) for b in kbps)
    if max(counts) > MAX_CODEBOOKS:
        raise CheckpointError(
            f"feature_extractor: bandwidths {shown(kbps)} take {max(counts)} codebooks, expected at most "
            f"{MAX_CODEBOOKS}"
        )
    return EncodecFeatures(codec, max(counts), CODEBOOK_SIZE, kbps, counts, "")


def _own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights and constants of the network."""
    return {k: v for k, v in state.items() if k != CODEBOOKS and not k.startswith(_IGNORED)}


def _load_state(model: Vocos, state: dict[str, Tensor]) -> None:
    """Copy the weights in, whose names and shapes are the network's; every constant must be as expected."""
    given = _own(state)
    constants = dict(model.named_buffers())
    for key, constant in constants.items():
        # in a half-precision checkpoint they are rounded; ours are exact, and ours are used
        rounding = torch.finfo(given[key].dtype).eps if given[key].is_floating_point() else 0
        # upstream computes the phases of the MDCT's twiddle factors, up to pi/2 n_fft, in float32
        tolerance = 1e-4 if key.endswith("window") else 1e-6 * model.head.n_fft
        difference = float((given[key].float() - constant).abs().max())
        if not difference < max(tolerance, rounding):
            raise CheckpointError(f"{key} differs by {difference:.2g} from what vocos 0.1.0 computes for this config")
    weights = {k: v for k, v in state.items() if k in given or k == CODEBOOKS}
    check_finite(weights)
    model.load_state_dict({k: constants.get(k, v.float()) for k, v in given.items()})


def check_keys(state: dict[str, Tensor], expected: dict[str, Tensor], verdict: str) -> None:
    """Every key must be there, none left over, every shape equal; else CheckpointError: the state dict VERDICT."""
    problems = [f"lacks {key}" for key in expected if key not in state]
    problems += [f"has the unknown key {listed([key])}" for key in state if key not in expected]
    problems += [
        f"has {key} of shape {shown(tuple(state[key].shape))}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"the state dict {verdict}: it {'; '.join(problems[:5])}{more}")


def check_finite(state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{listed([key])} holds NaN or infinity")
