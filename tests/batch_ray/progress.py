"""The progress of a running job, read from its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vocos_onnx.batch.ray_engine import FOLDER


def journal(out: Path) -> list[dict[str, Any]]:
    """The lines of the journal after its header."""
    _, *lines = (out / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def done(out: Path) -> int:
    """The number of items in the journal so far."""
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def begun(out: Path) -> list[dict[str, Any]]:
    """The items that actors have started: the position of each, the process and its node."""
    entries = []
    for path in (out / FOLDER).glob("[0-9]*"):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}") and "process" in (entry := json.loads(line)):
                entries.append(entry)
    return entries


def wait_until(condition: Callable[[], bool], seconds: float = 100.0) -> bool:
    """Returns whether the condition became true within that time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found
