"""Messages for callers who passed something that is not a model: what it is, and the command or code they need.

``key`` is the metadata key of the wanted kind of model: METADATA_KEY for a vocoder, ENCODER_KEY for an encoder.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

from vocos_onnx.messages import listed, shown

from .bundled import CODEC, CODEC_ENCODER, MEL
from .config import ENCODER_KEY
from .names import CHECKPOINTS, looks_like_hub_id
from .registry import ENCODEC, ENCODEC_ENCODER, known_models
from .sources import CONFIGS, ONNX, WEIGHTS

_VOCODERS = (CODEC, MEL)
_WEIGHTS = ("pytorch_model.bin", "model.safetensors")  # beside config.yaml or config.json
_SAFETENSORS = "weights in the format of safetensors", "checkpoint"
_STARTS = {  # first bytes of a file: what it is, and its kind, which determines the remedy
    b"PK\x03\x04": ("a zip archive, as torch.save writes it", "checkpoint"),
    b"\x80\x02": ("a Python pickle", "checkpoint"),
    b"\x80\x03": ("a Python pickle", "checkpoint"),
    b"\x80\x04": ("a Python pickle", "checkpoint"),
    b"\x80\x05": ("a Python pickle", "checkpoint"),
    b"\x1f\x8b": ("compressed with gzip", ""),
    b"version https://git-lfs": ("a pointer of git-lfs, without what it points to", "pointer"),
    b"<": ("a web page or XML", ""),
    b"{": ("JSON", ""),
    b"\x93NUMPY": ("a .npy file of numpy", "tokens"),
    b"RIFF": ("audio (WAV)", "audio"),
    b"fLaC": ("audio (FLAC)", "audio"),
    b"OggS": ("audio (Ogg)", "audio"),
    b"ID3": ("audio (mp3)", "audio"),
}


def checked_path(given: object, key: str) -> str | os.PathLike[str]:
    """Returns a path or a bundled model's name unchanged.

    Raises ValueError for anything else, and FileNotFoundError if the path is too long.
    """
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given and "\0" not in given):
        try:
            Path(given).stat()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise FileNotFoundError(f"no model file {shown(str(given))}: that is too long for a path") from None
        return given
    what = "an encoder" if key == ENCODER_KEY else "a model"
    if isinstance(given, bytes | bytearray | memoryview):
        data = bytes(given[:80])
        if b"\0" not in data and len(given) < 1000:
            raise ValueError(f"{what} is given as the bytes {shown(data)}, expected a path: pass {os.fsdecode(data)!r}")
        raise ValueError(
            f"{what} is given as {len(given)} bytes, expected a path: write them to a file, with "
            "pathlib.Path('model.onnx').write_bytes(DATA), and pass its path"
        )
    if type(given).__name__ in ("EncodecONNX", "VocosONNX"):
        if key == ENCODER_KEY:
            raise ValueError(
                f"{type(given).__name__} is given as an encoder, expected an EncodecONNX or the path of one"
            )
        raise ValueError(
            f"{what} is given as an object of {type(given).__name__}, expected a path; an EncodecONNX is passed to "
            "VocosONNX as encoder="
        )
    raise ValueError(f"{what} is given as {shown(given)}, expected the path of an .onnx file or {_names(key)}")


def missing_message(given: str | os.PathLike[str], key: str) -> str:
    """Returns a message that there is no such file, and what to do."""
    text = given if isinstance(given, str) else Path(given).as_posix()
    of_hub = re.fullmatch(r"(?:https?:/+)?(?:huggingface\.co|hf\.co)/(\w[\w.-]*/\w[\w.-]*)(?:[/?#].*)?", text)
    if of_hub is not None:
        return (
            f"no model file {listed([text])}, which is an address of the Hugging Face hub: pass the id alone, "
            f"{_class(key)}({of_hub[1]!r})"
        )
    if looks_like_hub_id(text):
        return (
            f"no model file {text}. If that is an id on the Hugging Face hub, pass it as text: {_class(key)}({text!r})"
        )
    suffix = Path(text).suffix.lower()
    if suffix in CHECKPOINTS:
        return f"no file {text}, and a checkpoint is not opened as it is: {convert(text, key)}"
    if known := ids_ending_in(text):
        return f"no model file {text}; did you mean {' or '.join(known)}?"
    output = shlex.quote(text) if suffix == ".onnx" else "MODEL.onnx"
    return (
        f"no model file {text}; make one with: vocos-onnx convert CHECKPOINT -o {output}, or name one that is "
        f"bundled: {_names(key)}"
    )


def ids_ending_in(name: str) -> list[str]:
    """Returns the hub ids of known models whose name without the owner is this one."""
    return [model.id for model in known_models() if model.id.lower().endswith(f"/{name.lower()}")]


def folder_message(path: Path, key: str) -> str:
    """Returns a message about a folder that was given instead of a file, and what to do."""
    files = _files(path)
    if onnx := sorted(name for name in files if name.endswith(".onnx")):
        return f"{path} is a folder; pass the path of a file in it: {listed(shown(str(path / name)) for name in onnx)}"
    if holds_checkpoint(files):
        if _is_encoder(str(path), key, files) != (key == ENCODER_KEY):
            return other_kind_message(str(path), key)
        return f"{path} is a folder with a checkpoint, not a file: {convert(str(path), key, files)}"
    return (
        f"the folder {path} holds no model: expected {ONNX[key]}, or a checkpoint, {' or '.join(CONFIGS[key])} and "
        f"{' or '.join(WEIGHTS[key])}"
    )


def not_in_folder_message(path: Path, filename: str, key: str) -> str:
    """Returns a message that a folder has no such file, and what to do."""
    files = _files(path)
    onnx = sorted(name for name in files if name.endswith(".onnx"))
    message = f"no {filename} in the folder {path}; .onnx files there: {listed(onnx) or 'none'}"
    if not onnx and holds_checkpoint(files):
        if _is_encoder(str(path), key, files) != (key == ENCODER_KEY):
            return other_kind_message(str(path), key)
        return f"{message}. A checkpoint is there: {convert(str(path), key, files)}"
    return f"{message}; pass one of them as filename=" if onnx else message


def not_in_repository_message(repo: str, files: set[str], key: str) -> str:
    """Returns what to do if a repository lacks the file; ``files`` are the files it has, empty if unknown."""
    onnx = sorted(name for name in files if name.endswith(".onnx"))
    if onnx:
        return f"it holds {listed(onnx)}: pass one of them as filename="
    if files and not holds_checkpoint(files):
        return "it holds no .onnx file, and no checkpoint"
    return (
        f"{'it' if files else 'if it'} holds a checkpoint, and no exported model: {convert(repo, key, files or None)}"
    )


def holds_checkpoint(files: set[str]) -> bool:
    """Whether a folder or repository with these files holds a checkpoint."""
    return bool(files & {"config.yaml", *_WEIGHTS}) or any(Path(name).suffix in CHECKPOINTS for name in files)


def _files(path: Path) -> set[str]:
    try:
        return {file.name for file in path.iterdir()}
    except OSError:
        return set()


def other_file_message(path: Path, head: bytes, size: int, key: str) -> str | None:
    """Returns a message about a file of a known format other than ONNX, and what to do; None for any other file.

    ``head`` holds the first bytes of the file, and ``size`` is its size in bytes.
    """
    if path.name in ("config.yaml", "config.json"):
        return (
            f"{path} is the config of a checkpoint, not a model: {convert(str(path.parent), key, _files(path.parent))}"
        )
    found = next((found for start, found in _STARTS.items() if head.startswith(start)), None)
    if found is None and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        found = _SAFETENSORS
    if found is None:
        return None
    what, kind = found
    name = shown(str(path))
    match "tokens" if path.suffix == ".npz" and kind != "audio" else kind:
        case "audio":
            remedy = f"Audio is for the object: VocosONNX()(load_audio({name}, 24000), 24000)"
        case "tokens":
            remedy = (
                f"Tokens are for the object: VocosONNX(MODEL).decode(load_tokens({name})), with MODEL {ENCODEC!r} for "
                "EnCodec's tokens"
            )
        case "pointer":
            remedy = "Get what it points to with: git lfs pull"
        case "checkpoint":
            remedy = f"If it is a checkpoint, {convert(str(path), key)}"
        case _:
            remedy = "Convert a checkpoint with: vocos-onnx convert CHECKPOINT -o MODEL.onnx"
    return f"{path} is {what}, not an ONNX model, whatever its name says; nothing in it was run. {remedy}"


def foreign_vocos(inputs: list[str], outputs: list[str]) -> str | None:
    """Returns a description of a Vocos graph from another exporter, told by its names; None for any other graph."""
    if not {"mag", "x", "y"} <= set(outputs) and not (
        len(inputs) == 1 and inputs[0] in ("mels", "mel", "mel_spec") and len(outputs) in (1, 3)
    ):
        return None
    return f"is a Vocos model of another exporter ({listed(inputs)} in, {listed(outputs)} out)"


def other_kind_message(name: str, key: str) -> str:
    """Returns what to do with an encoder where a vocoder is wanted, or the other way round."""
    if key == ENCODER_KEY:
        return (
            f"{name} is a vocoder, tokens or mels to audio, not an encoder: open it with VocosONNX; encoders are "
            f"{CODEC_ENCODER!r} and {ENCODEC_ENCODER!r}"
        )
    return f"{name} is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder="


def convert(checkpoint: str, key: str, files: set[str] | None = None) -> str:
    """Returns the command that converts a checkpoint, and how to use the model if it is not of the wanted kind."""
    path = Path(checkpoint)
    is_encoder = _is_encoder(checkpoint, key, files)
    stem = path.stem if path.suffix.lower() in CHECKPOINTS else path.name
    if stem in ("pytorch_model", "model", "config", "last", "best"):
        stem = path.absolute().parent.name
    output = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model"
    config = ""
    if path.is_file() and not is_encoder and not (path.parent / "config.yaml").is_file():
        config = " --config CONFIG.yaml"
    # Training writes the encoder of our own codec beside its decoder; exporting either of them needs torch.
    is_ours = path.is_dir() and (path / "encoder.safetensors").is_file()
    command = "convert" if not is_ours else "export-encodec" if is_encoder else "export"
    line = f"vocos-onnx {command} {shlex.quote(checkpoint)}{config} -o {output}.onnx"
    if is_encoder and key != ENCODER_KEY:
        return (
            f"an encoder (audio to tokens), as this is one, is converted with: {line} and passed as encoder=; the "
            "vocoder of EnCodec's tokens is made with: vocos-onnx convert charactr/vocos-encodec-24khz -o "
            "vocos-encodec-24khz.onnx"
        )
    if not is_encoder and key == ENCODER_KEY:
        return (
            f"a vocoder (to audio), as this is one, is converted with: {line} and opened with VocosONNX; the "
            "encoder of EnCodec's tokens is made with: vocos-onnx convert facebook/encodec_24khz -o "
            "encodec_24khz.onnx"
        )
    return f"convert it with: {line}"


def quantize(model: str, precision: str | None = None) -> str:
    """Returns the command that quantizes a float32 model to int8 (by default) or float16."""
    option, ending = ("--fp16", "fp16") if precision == "float16" else ("--int8", "int8")
    return f"vocos-onnx quantize {shlex.quote(model)} -o {Path(model).stem}-{ending}.onnx {option}"


def _is_encoder(checkpoint: str, key: str, files: set[str] | None) -> bool:
    """Whether a checkpoint is an encoder, judged by its files, then its name, then the wanted ``key``."""
    path = Path(checkpoint)
    if files is None and path.is_file():
        files = {path.name, *(name for name in ("config.yaml", "config.json") if (path.parent / name).is_file())}
    if files is not None and "config.yaml" in files:
        # Training writes the encoder of our own codec beside its decoder, so one folder is the checkpoint of both.
        return key == ENCODER_KEY and "encoder.safetensors" in files
    name = path.name.lower()
    if path.suffix == ".th" or (files is not None and "config.json" in files):
        return "vocos" not in name
    if "vocos" in name or "wavenext" in name:
        return False
    return "encodec" in name or key == ENCODER_KEY


def _class(key: str) -> str:
    return "EncodecONNX" if key == ENCODER_KEY else "VocosONNX"


def _names(key: str) -> str:
    return repr(CODEC_ENCODER) if key == ENCODER_KEY else " or ".join(map(repr, _VOCODERS))
