"""Explains errors about names that are not models', with remedies for the command line instead of Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vocos_onnx.io.kinds import ARRAYS, kind_of
from vocos_onnx.messages import close_to, in_shell
from vocos_onnx.model.bundled import BUNDLED, find_model
from vocos_onnx.model.mistaken import ids_ending_in

_HEAD = 1 << 13  # bytes that suffice to tell what a file is


@contextmanager
def explained(*given: tuple[str, str | None]) -> Iterator[None]:
    """Wraps the opening of models, each ``given`` as its option (or command) and its name.

    If opening fails, raises ValueError that states what was given instead of a model, if that can be determined, and
    otherwise the original error.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        for option, name in given if not isinstance(error, PermissionError) else ():
            if name is not None and (better := _mistaken(option, name)):
                raise ValueError(better) from error
        raise


def _mistaken(option: str, name: str) -> str | None:
    path, wanted = find_model(name), "an encoder" if option in ("--encoder", "encode") else "a model"
    if not os.path.lexists(path):
        close = close_to(name, BUNDLED, 1, 0.7) if "/" not in name and not ids_ending_in(name) else []
        return f"no model file {name}, and no bundled model of that name; did you mean {close[0]}?" if close else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        kind, _ = kind_of(file.read(_HEAD), True)
    quoted = in_shell(str(path))
    if kind is not None and kind.group == "audio":
        return f"{path} is {kind.name}, not {wanted}: make tokens of it with: vocos-onnx encode {quoted} tokens.npz"
    if path.suffix.lower() in ARRAYS:
        return (
            f"{path} is a file of tokens or features{_array_in(path)}, not {wanted}: decode it with: vocos-onnx decode "
            f"{quoted} out.wav"
        )
    return None if kind is not None or option == "info" else _other_role(path, option)


def _array_in(path: Path) -> str:
    from vocos_onnx.io.tokens import read_token_file

    with suppress(ValueError, OSError):
        codes = read_token_file(path).codes
        return f" ({codes.dtype}, {' x '.join(map(str, codes.shape))})"
    return ""


def _other_role(path: Path, option: str) -> str | None:
    """Returns the message if a model is given as an encoder or an encoder as a model, else None."""
    from vocos_onnx.model.config import ENCODER_KEY, METADATA_KEY
    from vocos_onnx.model.session import open_file

    try:
        metadata = open_file(path, METADATA_KEY).metadata
    except Exception:  # the original error explains it
        return None
    if option == "--model" and ENCODER_KEY in metadata and METADATA_KEY not in metadata:
        return (
            f"{path} is an encoder, audio to tokens, and --model takes a model that decodes them: pass it as --encoder"
        )
    if METADATA_KEY in metadata and ENCODER_KEY not in metadata and option != "--model":
        remedy = "pass it as --model" if option == "--encoder" else "leave --encoder out for the bundled one"
        return (
            f"{path} is a vocoder, not an encoder: {remedy}; encoders of EnCodec's tokens are made with: vocos-onnx "
            "convert facebook/encodec_24khz -o encodec_24khz.onnx"
        )
    return None
