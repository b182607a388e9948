"""Reads the weights of checkpoints without torch: files that ``torch.save`` wrote, and safetensors.

Nothing in a checkpoint is executed or trusted: sizes are checked before memory is allocated for them, and the file is
read by position, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.messages import first_line, in_python, listed, python_command, shown

from .onnx_file import opened
from .safetensors import is_safetensors, read_safetensors
from .stored import RefusedError, Stored, WeightsFile
from .torch_zip import MAGIC, read_torch

_MAX_WEIGHTS = 8 << 30  # bytes of the file; no checkpoint comes near
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of the magic number of torch before 1.6


class CheckpointError(ValueError):
    """A checkpoint cannot be read or converted; the message explains what is wrong and where."""


class Tensor:
    """A tensor in an open checkpoint: its name, its shape, and its type in the file, such as "bfloat16"."""

    def __init__(self, name: str, stored: Stored, file: WeightsFile, path: Path) -> None:
        self.name, self.shape, self.dtype = name, stored.shape, stored.dtype
        self._stored, self._file, self._path = stored, file, path

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.dtype}, {self.shape})"

    def read(self) -> npt.NDArray[Any]:
        """Reads the values: floats of every width as float32, integers and booleans in their own types.

        Raises CheckpointError if they are damaged.
        """
        try:
            return self._file.tensor(self._stored)
        except ValueError as error:
            raise _damaged(self._path, f"{shown(self.name)}: {first_line(error)}") from error


class Weights(Mapping[str, Tensor]):
    """The tensors of an open checkpoint by name, and the ``size`` of the file in bytes.

    For Lightning checkpoints, these are the tensors of the feature extractor, backbone and head.
    """

    def __init__(self, path: Path, file: WeightsFile, found: dict[str, Stored]) -> None:
        self._file, self.size = file, file.size
        self._tensors = {name: Tensor(name, stored, file, path) for name, stored in found.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the file in hexadecimal digits, computed on first access."""
        return self._file.sha256()


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Opens a weight file for the duration of the context; its first bytes determine the format.

    Raises:
        CheckpointError: the file is damaged, holds anything but names and tensors (or Lightning's state_dict of them),
            calls functions that no weights need, claims to be larger than it is, or changes before the context ends.
        OSError: it cannot be opened or read.

    Example:
        >>> with open_weights(Path("pytorch_model.bin")) as weights:  # doctest: +SKIP
        ...     bias = weights["head.out.bias"].read()
    """
    with ExitStack() as stack:
        try:
            raw, size = stack.enter_context(opened(path, _MAX_WEIGHTS, "weights"))
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        weights = _read(path, WeightsFile(raw, size))
        yield weights
        try:
            stack.close()
        except ValueError as error:
            raise CheckpointError(str(error)) from error


def _read(path: Path, file: WeightsFile) -> Weights:
    try:
        head = file.read(0, min(file.size, 64))
        if not head:
            raise ValueError("it is empty")
        if head.startswith(MAGIC):
            found = read_torch(file)
        elif head.startswith(_LEGACY):
            raise _legacy(path)
        elif is_safetensors(head):
            found = read_safetensors(file)
        elif head.startswith(b"version https://git-lfs"):
            raise RefusedError("is a pointer of Git LFS, not the weights themselves: fetch them with git lfs pull")
        elif path.suffix == ".safetensors":
            raise ValueError("it does not begin with a header")
        else:
            raise RefusedError("is neither what torch.save writes nor safetensors, by how it begins")
        if not found:
            raise RefusedError("holds no tensors")
        if names := [name for name in found if not name.isprintable()]:
            raise RefusedError(f"has the tensor {shown(names[0])}, whose name cannot be printed")
    except RefusedError as error:
        raise CheckpointError(f"{path} {error}") from error
    except ValueError as error:
        raise _damaged(path, first_line(error)) from error
    # the same bytes may serve as many numbers, in one tensor (a stride of 0) or in several
    claimed = sum(stored.nbytes for stored in found.values())
    if claimed > file.size:
        raise CheckpointError(
            f"{path} has {file.size} bytes, and its tensors would take {claimed}: they repeat or share what is in it; "
            "save them as they are, with .clone()"
        )
    return Weights(path, file, found)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is truncated, damaged or no checkpoint ({reason}); copy or download it again")


def _legacy(path: Path) -> RefusedError:
    new = path.with_name(f"new-{path.name}")
    code = f"import torch; torch.save(torch.load({in_python(path.name)}, weights_only=True), {in_python(new.name)})"
    return RefusedError(
        "is in the format of torch before 1.6, which only torch reads. Where torch is installed, save it again with: "
        f"{python_command(code)}, or use vocos-onnx export (of an encoder export-encodec)"
    )


def read_state(path: Path, keep: Callable[[str], bool]) -> tuple[dict[str, Float], str]:
    """Reads the tensors that ``keep`` selects by their names in the file, in float32 and with weight norm folded.

    Also returns the sha256 of the file. Raises as ``open_weights`` and ``fold_weight_norm`` do.
    """
    with open_weights(path) as weights:
        state = {name: weights[name].read().astype(np.float32, copy=False) for name in weights if keep(name)}
        digest = weights.sha256
    return fold_weight_norm(state), digest


def check_finite(state: Mapping[str, Float]) -> None:
    """Raises CheckpointError if a tensor holds NaN or infinity, naming the first one that does."""
    for name, value in state.items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"{listed([name])} holds NaN or infinity")


_WEIGHT_NORM = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


WEIGHT_NORM = tuple(f".{name}" for pair in _WEIGHT_NORM for name in pair)  # the suffixes of their names


def fold_weight_norm(state: dict[str, Float]) -> dict[str, Float]:
    """Replaces weight_g and weight_v (also under torch's newer names) by weight = g · v/|v|, norms over all but axis 0.

    Salimans & Kingma, "Weight Normalization" (arXiv 1602.07868), eq. 2. The result is computed in float64 and rounded
    once.

    Raises CheckpointError if one of the two is missing, if their shapes do not match, or if the weight itself is also
    present.
    """
    folded = dict(state)
    for g_name, v_name in _WEIGHT_NORM:
        for key in [key for key in state if key.endswith("." + g_name)]:
            prefix = key.removesuffix(g_name)
            v = folded.pop(prefix + v_name, None)
            if v is None:
                raise CheckpointError(f"the state dict has {listed([key])} but lacks {listed([prefix + v_name])}")
            g = folded.pop(key)
            if not v.ndim or g.shape not in (v.shape[:1], (v.shape[0], *[1] * (v.ndim - 1))):
                raise CheckpointError(
                    f"{shown(key)} has the shape {shown(g.shape)}, which does not go with the {shown(v.shape)} of "
                    f"{shown(prefix + v_name)}"
                )
            if prefix + "weight" in folded:
                raise CheckpointError(f"the state dict has {listed([key])} and also {listed([prefix + 'weight'])}")
            rows = v.reshape(len(v), -1).astype(np.float64) if v.size else np.empty((len(v), 0))
            with np.errstate(all="ignore"):  # a row of zeros becomes NaN, as in torch
                scale = g.reshape(-1, 1).astype(np.float64) / np.sqrt((rows * rows).sum(axis=1, keepdims=True))
                folded[prefix + "weight"] = (rows * scale).astype(np.float32).reshape(v.shape)
    return folded
