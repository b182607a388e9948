"""Errors of a conversion name the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vocos_onnx.model.checkpoint import CheckpointError
from vocos_onnx.model.sources import Files


@contextmanager
def naming(files: Files) -> Iterator[None]:
    """Inside it, a CheckpointError that names neither the checkpoint nor one of its files begins with its name."""
    try:
        yield
    except CheckpointError as error:
        message = str(error)
        if any(str(name) in message for name in (files.name, files.weights, files.config)):
            raise
        raise CheckpointError(f"{files.name}: {message}") from error
