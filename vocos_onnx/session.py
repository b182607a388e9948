"""A model file -> an onnxruntime session on the providers that were asked for, and the description it carries."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from .config import ENCODER_KEY, METADATA_KEY

Provider = str | tuple[str, dict[str, Any]]
Config = TypeVar("Config")

# ORT searches every cuDNN algorithm anew for each input length unless told otherwise.
_DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {"CUDAExecutionProvider": {"cudnn_conv_algo_search": "HEURISTIC"}}

_HOW_TO_MAKE = {METADATA_KEY: "vocos-onnx export", ENCODER_KEY: "vocos-onnx export-encodec"}


CODEC, CODEC_ENCODER, MEL = BOX = ("vocos-codec-24khz", "vocos-codec-24khz-encoder", "vocos-mel-24khz-small")


def find_model(model: str | os.PathLike[str]) -> Path:
    """The path of a model, which may be the name of one in the box: in the installed package, or in a checkout.

    A file or folder of that name in the working directory is not looked at; "./NAME" or a Path is that.
    """
    if not (isinstance(model, str) and model in BOX):
        return Path(model)
    package = Path(__file__).resolve().parent
    places = [folder / "models" / f"{model}.onnx" for folder in (package, package.parent)]
    return next((path for path in places if path.exists()), places[0])


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: those of its affinity, and no more than its control group's quota, rounded up.

    The quota is that of Linux's cgroups, v2 (cpu.max) or v1 (cpu.cfs_quota_us), of the group or any above it.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for quota in _quotas(root) if quota > 0]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each control group of this process allows."""
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
        # in a container the path may be that of the host, where nothing is, and the own group is the mount itself
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield read(folder)
            if folder == mount:
                break


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max" is a ValueError: no quota


def _quota_v1(folder: Path) -> float:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    return quota / period  # -1: no quota


def open_session(
    path: str | os.PathLike[str], providers: Sequence[Provider] | None, threads: int | None, kind: str
) -> Any:
    """The onnxruntime session of a file; ``kind`` is the metadata key of what it should be. Raises as VocosONNX."""
    ort = _onnxruntime()
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise ValueError(
            f"threads is {threads!r}, expected an integer of 1 or more, or None for all that this process may use"
        )
    path = find_model(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no model file {path}; make one with: {_HOW_TO_MAKE[kind]} CHECKPOINT -o {path}, or name one in the box: "
            + ", ".join(BOX)
        )
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected the .onnx file that {_HOW_TO_MAKE[kind]} wrote")
    wanted = _choose_providers(providers, ort.get_available_providers())
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Between two calls no thread spins for more work: the cores are numpy's then, or somebody else's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = available_cpus() if threads is None else threads
    try:
        session = ort.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"onnxruntime cannot load {path} ({path.stat().st_size} bytes): {reason}. If the file is truncated or "
            "not an ONNX model, copy or export it again"
        ) from error
    if providers is not None:
        used = session.get_providers()
        absent = [p for p, _ in wanted if p not in used]
        if absent:
            raise RuntimeError(
                f"onnxruntime could not start {', '.join(absent)} and would run on {', '.join(used)}; "
                "its log above says why (often a missing CUDA or cuDNN library: pip install 'vocos-onnx[gpu]')"
            )
    return session


def read_config(session: Any, path: str | os.PathLike[str], kind: str, parse: Callable[[str], Config]) -> Config:
    """The description in the metadata. Raises ValueError where there is none, or it is not the graph's."""
    metadata = session.get_modelmeta().custom_metadata_map
    if kind not in metadata:
        if kind == METADATA_KEY and ENCODER_KEY in metadata:
            raise ValueError(f"{path} is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=")
        if kind == ENCODER_KEY and METADATA_KEY in metadata:
            raise ValueError(f"{path} is a vocoder, not an encoder: open it with VocosONNX")
        raise ValueError(
            f"{path} is an ONNX model but not one of vocos-onnx: its metadata has no entry {kind!r}; "
            f"export the checkpoint with: {_HOW_TO_MAKE[kind]}"
        )
    try:
        return parse(metadata[kind])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; export the checkpoint again with this version") from None


def check_graph(session: Any, expected: dict[str, list[int | str]]) -> None:
    """Raises ValueError unless the graph has exactly the inputs and outputs that its metadata describes."""
    found = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
    if found != expected:
        raise ValueError(f"the metadata contradicts the graph: its inputs and outputs are {found}, not {expected}")


def _onnxruntime() -> Any:
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  what a half-removed wheel leaves behind is an empty module
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "onnxruntime is not installed: pip install 'vocos-onnx[cpu]', or 'vocos-onnx[gpu]' for CUDA (not both)"
        ) from error
    return onnxruntime


def _choose_providers(providers: Sequence[Provider] | None, available: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Names or (name, options) pairs as pairs; by default CUDA where onnxruntime has it, and the CPU."""
    if providers is None:
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    if isinstance(providers, str) or not providers:
        raise ValueError(f"providers is {providers!r}, expected a list of one or more of {', '.join(available)}")
    chosen = []
    for provider in providers:
        pair = (provider, {}) if isinstance(provider, str) else provider
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], dict)):
            raise ValueError(f"providers holds {provider!r}, expected a name or a (name, options) pair")
        name, options = pair
        if name not in available:
            raise ValueError(
                f"provider {name!r} is not in this onnxruntime, which has {', '.join(available)}; "
                "for CUDA install 'vocos-onnx[gpu]' instead of 'vocos-onnx[cpu]'"
            )
        chosen.append((name, {**_DEFAULT_OPTIONS.get(name, {}), **options}))
    return chosen
