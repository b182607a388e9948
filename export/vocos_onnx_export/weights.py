"""Reads weight files: safetensors, or files written by ``torch.save``, without executing anything in them."""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from vocos_onnx.messages import first_line, shown
from vocos_onnx.model.onnx_file import read_file

from .errors import CheckpointError

# No checkpoint comes near these limits: a file that claims more is damaged, or made to exhaust the memory.
_MAX_WEIGHTS = 8 << 30  # bytes of the file
_MAX_HEADER = 1 << 20  # bytes of a safetensors header, which takes about 100 per tensor
_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_TYPES |= {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns names and tensors of a file. Raises the same errors as ``read_weights``."""
    state, _ = read_weights(path)
    return state


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Returns names and tensors of a file, and its sha256.

    Raises CheckpointError if the file cannot be read, holds anything but names and tensors (or Lightning's state_dict
    of them), or if its tensors would take more memory than the file has bytes.
    """
    state, digest, size = read_tree(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # Lightning files hold discriminators too
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
    # The same storage may be used many times over, in one tensor (a stride of 0) or in several.
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > size:
        raise CheckpointError(
            f"{path} has {size} bytes, and its tensors would take {claimed}: they repeat or share what is in it; save "
            "them as they are, with .clone()"
        )
    return state, digest


def read_tree(path: Path) -> tuple[Any, str, int]:
    """Returns the content of a weight file, whatever it is, and the file's sha256 and size in bytes.

    Raises CheckpointError if it cannot be read without executing code.
    """
    try:
        data = read_file(path, _MAX_WEIGHTS, "weights")
        if path.suffix == ".safetensors":
            header = int.from_bytes(data[:8], "little")
            if header > _MAX_HEADER:
                raise ValueError(f"its header has {header} bytes, expected at most {_MAX_HEADER}")
            tree: Any = dict(sorted(load_safetensors(data).items()))  # safetensors returns them in no fixed order
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
    """Rebuilds an archive as torch.save would write it: zip readers disagree on what malformed archives contain.

    Raises ValueError if its files are larger than the archive (torch stores them uncompressed), if a name occurs twice,
    or if a pickle calls anything that a state dict does not need.
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
    """Applies the same check to a file from before torch 1.6: five pickles, followed by the numbers."""
    stream = io.BytesIO(data)
    for _ in range(5):
        _check_pickle(stream)


# What a pickled state dict is made of, and what Lightning adds. torch allows more calls; of those, bytearray and codecs
# can exhaust the memory or never end.
_GLOBALS = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|torch (\w+Storage|Size|device|(b?float|u?int)\d+|bool|float8_\w+)"
    r"|torch\.storage \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\.serialization _get_layout|(__builtin__|builtins) set"
)
_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


def _check_pickle(stream: io.BytesIO) -> None:
    """Reads a pickle to its end. Raises ValueError if it calls anything that a state dict does not need."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _CALLS or (opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument))):
            called = str(argument).replace(" ", ".") if opcode.name == "GLOBAL" else opcode.name
            raise ValueError(f"it calls {shown(called)}, which no weights need")


def _plain(tree: Any) -> None:
    """Removes instance attributes from dictionaries: they would hide their methods."""
    todo, seen = [tree], set()
    while todo:
        value = todo.pop()
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        if hasattr(value, "__dict__"):
            vars(value).clear()
        todo.extend(value.values() if isinstance(value, dict) else value)
