"""Adds the checkpoint's name to the errors of a conversion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vocos_onnx.model.checkpoint import CheckpointError
from vocos_onnx.model.sources import Files


@contextmanager
def naming(files: Files) -> Iterator[None]:
    """Prefixes a CheckpointError with the checkpoint's name if it names neither the checkpoint nor one of its files."""
    try:
        yield
    except CheckpointError as error:
        message = str(error)
        if any(str(name) in message for name in (files.name, files.weights, files.config)):
            raise
        raise CheckpointError(f"{files.name}: {message}") from error
