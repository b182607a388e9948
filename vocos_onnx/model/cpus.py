"""How many CPUs this process may use, and on how many threads a call runs."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vocos_onnx.messages import shown

MAX_THREADS = max(64, 4 * (os.cpu_count() or 1))  # onnxruntime would start any number


def available_cpus(root: Path = Path("/")) -> int:
    """Returns how many CPUs this process may use: its affinity, limited by the quota of its control group, rounded up.

    The quota is the smallest of those of its Linux cgroup and all parent groups, v2 (cpu.max) or v1
    (cpu.cfs_quota_us).
    """
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for quota in _quotas(root) if quota > 0]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def read_threads(given: Any) -> int:
    """Returns the threads of one call; None means all CPUs the process may use. Raises ValueError if out of range."""
    if given is None:
        return available_cpus()
    try:
        threads = 0 if isinstance(given, bool | np.bool_) else operator.index(given)
    except TypeError:
        threads = 0
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(
            f"threads is {shown(given)}, expected an integer of 1 or more, {MAX_THREADS} at most, or None for all "
            "that this process may use"
        )
    return threads


def _quotas(root: Path) -> Iterator[float]:
    """Yields the number of CPUs that each control group of this process allows."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        # In a container, the path may be the host's, which does not exist here; the mount itself is then the group.
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield read(folder)
            if folder == mount:
                break


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max", no quota, raises ValueError


def _quota_v1(folder: Path) -> float:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return quota / period  # negative if there is no quota, -1
