"""Measures the seconds and peak memory of a command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Runs in a small process of its own: a process inherits the peak of its parent.
_WATCHER = """
import resource, subprocess, sys, time
begun = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def watched(command: list[str], environment: Mapping[str, str], folder: Path) -> tuple[float, float]:
    """Returns seconds and MiB. Raises RuntimeError, with the command's last output, if it fails."""
    watcher = [sys.executable, "-S", "-c", _WATCHER, *command]
    done = subprocess.run(watcher, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "CalledProcessError" not in line]
        raise RuntimeError("\n".join(lines[-30:]))
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak
