"""Execution providers: their names and options, and the reason if one does not start."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from vocos_onnx.messages import shown

Provider = str | tuple[str, dict[str, Any]]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SHORT = {"cpu": CPU, "cuda": CUDA}
_DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    # By default, onnxruntime searches all cuDNN algorithms again for each input length, allocates memory in powers of
    # two, and computes float32 products with 10 bits of mantissa (TF32).
    CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"},
}
_VERSIONS = {"CUDA": "cuda_version", "cuDNN": "cudnn_version"}
_log = logging.getLogger("vocos_onnx")


def choose_providers(providers: Sequence[Provider] | None, ort: Any) -> list[tuple[str, dict[str, Any]]]:
    """Returns (name, options) pairs for a list of names or pairs; by default CUDA, if onnxruntime has it, and the CPU.

    Raises ValueError if ``providers`` is not such a list, or if onnxruntime lacks one of them.
    """
    available = ort.get_available_providers()
    if providers is None:
        providers = [p for p in (CUDA, CPU) if p in available]
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        hint = f": pass providers=[{_likely(providers)!r}]" if isinstance(providers, str) and providers else ""
        raise ValueError(
            f"providers is {shown(providers)}, expected a list of one or more of {', '.join([*_SHORT, *available])}"
            f"{hint}"
        )
    chosen = []
    for provider in providers:
        pair = (provider, {}) if isinstance(provider, str) else provider
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], dict)):
            raise ValueError(f"providers holds {shown(provider)}, expected a name or a (name, options) pair")
        given, options = pair
        name = _SHORT.get(given, given)
        if name not in available:
            message = f"provider {shown(given)} is not in this onnxruntime, which has {', '.join(available)}"
            if name == CUDA:
                message += f": {_why_no_cuda(ort)}"
            elif (likely := _likely(given)) != given:
                message += f": pass {likely!r}"
            raise ValueError(message)
        chosen.append((name, {**_DEFAULT_OPTIONS.get(name, {}), **options}))
    return chosen


def asks_for_cuda(providers: Sequence[Provider] | None) -> bool:
    """Whether CUDA is among the providers that a caller gave; they are not validated yet."""
    if not isinstance(providers, Sequence):
        return False
    names = [given[0] if isinstance(given, tuple) and given else given for given in providers]
    return "cuda" in names or CUDA in names


def load_libraries(chosen: Sequence[tuple[str, dict[str, Any]]], ort: Any) -> None:
    """Loads CUDA and cuDNN from their wheels, if a provider needs them and the extra [gpu] is installed."""
    if any(name == CUDA for name, _ in chosen) and hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()) as printed:  # stdout may be receiving audio
            ort.preload_dlls()
        _log.debug("preload_dlls: %s", printed.getvalue())


def why_absent(absent: Sequence[str], ort: Any) -> str:
    """Returns the reason why these providers did not start."""
    return _why_no_cuda(ort) if CUDA in absent else "its log above says why"


def _likely(given: str) -> str:
    """Returns the name of the provider that was probably meant, or the given one."""
    known = {name.lower(): name for name in (*_SHORT, *_SHORT.values())}
    return known.get(given.lower(), "cuda" if given.lower() in ("gpu", "nvidia") else given)


def _why_no_cuda(ort: Any) -> str:
    """Returns a text with what is installed, what CUDA lacks, and the remedy."""
    import ctypes
    import importlib.metadata  # slow to load, and needed only here

    names = sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ())))
    installed = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    installed = installed or "no wheel of onnxruntime"
    replace = f"remedy: pip uninstall -y {' '.join(names) or 'onnxruntime'} && pip install 'vocos-onnx[gpu]'"
    if len(names) > 1:
        return f"{installed} are installed, and break each other; {replace}"
    capi = Path(ort.__file__).parent / "capi"
    library = next((path for path in capi.glob("*onnxruntime_providers_cuda.*")), None)
    if library is None:
        return f"{installed} is installed, which has no CUDA; {replace}"
    built = _built_for()
    try:
        for shared in capi.glob("*onnxruntime_providers_shared.*"):
            ctypes.CDLL(str(shared), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return (
            f"{installed} is installed{built}, and its CUDA provider does not load: {error}; remedy: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or the system's CUDA and cuDNN of that version"
        )
    return (
        f"{installed} is installed{built}, and its libraries load; is there an NVIDIA GPU that this process may use, "
        "with a driver for that CUDA (nvidia-smi)? onnxruntime's log says more"
    )


def _built_for() -> str:
    """Returns the versions of CUDA and cuDNN that this onnxruntime was built for, as text."""
    try:
        from onnxruntime.capi import build_and_package_info as info
    except ImportError:
        return ""
    parts = [f"{name} {getattr(info, key)}" for name, key in _VERSIONS.items() if getattr(info, key, None)]
    return f" (built for {', '.join(parts)})" if parts else ""
