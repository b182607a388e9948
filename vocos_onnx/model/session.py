"""A model file -> an onnxruntime session on the providers that were asked for, and the description it carries."""

from __future__ import annotations

import atexit
import logging
import mmap
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vocos_onnx.messages import first_line, listed, shown

from .bundled import find_model
from .config import ENCODER_KEY, METADATA_KEY
from .cpus import available_cpus
from .mistaken import checked_path, foreign_vocos, in_a_folder, missing
from .onnx_file import PinnedFile, read_model

Provider = str | tuple[str, dict[str, Any]]
Config = TypeVar("Config")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SHORT = {"cpu": CPU, "cuda": CUDA}
# Else ORT searches every cuDNN algorithm anew for each input length, takes memory by powers of two, and computes
# float32 products with 10 bits of mantissa (TF32).
_DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
}
_VERSIONS = {"CUDA": "cuda_version", "cuDNN": "cudnn_version"}
_WHEELS = ("onnxruntime", "onnxruntime-gpu")
MAX_THREADS = max(64, 4 * (os.cpu_count() or 1))  # onnxruntime would start as many as it is asked for
_log = logging.getLogger("vocos_onnx")

_FLOAT32, _INT64 = "tensor(float)", "tensor(int64)"
_INTEGERS = ("bandwidth_id", "step", "context")
_HOW_TO_MAKE = {METADATA_KEY: "vocos-onnx export", ENCODER_KEY: "vocos-onnx export-encodec"}


class _Calls:
    """The calls of onnxruntime that are running, for which the end of the interpreter waits.

    A daemon thread that is in one while Python ends is ended there by force, which C++ takes for an error: it aborts.
    """

    def __init__(self) -> None:
        self._changed, self._running, self._ending = threading.Condition(), 0, False
        atexit.register(self._end)

    def __enter__(self) -> None:
        with self._changed:
            while self._ending and threading.current_thread() is not threading.main_thread():
                self._changed.wait()  # until there is no interpreter any more
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._running, timeout=60)

    def in_forked_child(self) -> None:
        """The other threads are not there, nor what they held."""
        self._changed, self._running, self._ending = threading.Condition(), 0, False


_calls = _Calls()


def _read_threads(given: Any) -> int:
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


def open_session(
    path: str | os.PathLike[str],
    providers: Sequence[Provider] | None,
    threads: int | None,
    kind: str,
    profile: Path | None = None,
) -> Any:
    """The onnxruntime session of a file; ``kind`` is the metadata key of what it should be. Raises as VocosONNX.

    ``profile``: how the name of a file begins that ``end_profiling`` of the session writes.
    """
    ort = _onnxruntime()
    threads = None if threads is None else _read_threads(threads)
    pinned = path if isinstance(path, PinnedFile) else None
    given, path = path, find_model(checked_path(path, kind))
    if not path.exists():
        raise FileNotFoundError(missing(given, kind))
    if path.is_dir():
        raise ValueError(in_a_folder(path, kind))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected the .onnx file that {_HOW_TO_MAKE[kind]} wrote")
    _reserve_for_products()
    expected = {} if pinned is None else {"sha256": pinned.sha256, "remedy": pinned.remedy}
    data = read_model(path, kind, **expected)
    wanted = _choose_providers(providers, ort)
    if any(name == CUDA for name, _ in wanted) and hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()) as said:  # stdout may be where the audio goes
            ort.preload_dlls()  # CUDA and cuDNN from the wheels of [gpu], where there are such
        _log.debug("preload_dlls: %s", said.getvalue())
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    options.log_severity_level = 3
    # What was checked is ONNX, and is read as nothing else. In bytes, for the file may be another by now.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Between two calls no thread spins for more work: the cores are numpy's then, or somebody else's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = available_cpus() if threads is None else threads
    try:
        with _calls:
            session = ort.InferenceSession(data, options, providers=wanted)
    except Exception as error:
        if _is_out_of_memory(error):
            raise MemoryError(f"onnxruntime: {first_line(error)}") from error
        raise ValueError(
            f"onnxruntime cannot load {path} ({len(data)} bytes): {first_line(error)}. If the file is truncated or "
            "not an ONNX model, copy or export it again"
        ) from error
    session.disable_fallback()  # which would load the model again, on other providers than were asked for,
    session._model_bytes = None  # and is what these are kept for
    used = session.get_providers()
    absent = [name for name, _ in wanted if name not in used]
    if absent:
        why = _why_no_cuda(ort) if CUDA in absent else "its log above says why"
        failed = f"onnxruntime could not start {', '.join(absent)}"
        if providers is not None:
            raise RuntimeError(f"{failed} and would run on {', '.join(used)}: {why}")
        _log.warning("%s: %s", failed, why)
    _log.info("%s runs on %s", path, ", ".join(used))
    _live.add(session)
    _begun.set()
    return session


_live: weakref.WeakSet[Any] = weakref.WeakSet()  # the sessions of this process
_begun = threading.Event()  # set once there has been a session


def _in_forked_child() -> None:
    """In a child that was forked: let it end.

    onnxruntime's destructors, those of its sessions and those that run at exit, wait for threads that only the parent
    has, for ever. So the sessions are never destroyed here, and what is left of the exit once Python has finished, its
    atexit functions and buffers included, is skipped: on_exit calls _exit with the exit code.
    """
    _calls.in_forked_child()
    if not _begun.is_set():
        return
    import ctypes

    for session in _live:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # of glibc, as the wheels of onnxruntime are
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


@cache
def _reserve_for_products() -> None:
    """Have numpy's OpenBLAS take the 32 MiB that it works in, and keeps, or raise MemoryError.

    It takes them at the first product, and without memory for them (under ulimit -v) it waits for ever (to numpy 2.3.4)
    or ends the process, with what is half-written left behind.
    """
    try:
        mmap.mmap(-1, 64 << 20).close()
    except OSError as error:
        raise MemoryError("matrix products need 64 MiB of address space; raise the limit (ulimit -v)") from error
    np.matmul(np.ones((8, 8), np.float32), np.ones((8, 8), np.float32))


def _is_out_of_memory(error: Exception) -> bool:
    return any(words in str(error) for words in ("bad_alloc", "Failed to allocate", "Cannot allocate memory"))


def _likely(given: str) -> str:
    """The name of the provider that is probably meant, else what was given."""
    known = {name.lower(): name for name in (*_SHORT, *_SHORT.values())}
    return known.get(given.lower(), "cuda" if given.lower() in ("gpu", "nvidia") else given)


def _why_no_cuda(ort: Any) -> str:
    """What is installed, what is missing for CUDA, and the remedy."""
    import ctypes
    import importlib.metadata  # slow to load, and of no use otherwise

    found = {}
    for wheel in _WHEELS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[wheel] = importlib.metadata.version(wheel)
    installed = " and ".join(f"{name} {version}" for name, version in found.items()) or "no wheel of onnxruntime"
    if len(found) == 2:
        return (
            f"{installed} are installed, and break each other; remedy: pip uninstall -y onnxruntime onnxruntime-gpu && "
            "pip install 'vocos-onnx[gpu]'"
        )
    capi = Path(ort.__file__).parent / "capi"
    library = next((path for path in capi.glob("*onnxruntime_providers_cuda.*")), None)
    if library is None:
        return (
            f"{installed} is installed, which has no CUDA; remedy: pip uninstall -y onnxruntime && "
            "pip install 'vocos-onnx[gpu]'"
        )
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
    """The versions of CUDA and cuDNN that this onnxruntime was built for."""
    try:
        from onnxruntime.capi import build_and_package_info as info
    except ImportError:
        return ""
    parts = [f"{name} {getattr(info, key)}" for name, key in _VERSIONS.items() if getattr(info, key, None)]
    return f" (built for {', '.join(parts)})" if parts else ""


def run(
    session: Any,
    shapes: Mapping[str, tuple[int, ...]],
    inputs: dict[str, Any],
    device: tuple[str, int] | None = None,
) -> list[Any]:
    """The outputs of these names and shapes, as onnxruntime computes them.

    With a ``device`` all outputs but the first stay there, as values of onnxruntime that can be inputs again.

    Raises RuntimeError where it cannot, or an output has another shape, which onnxruntime lets pass; MemoryError where
    there is not enough for it.
    """
    names = list(shapes)
    try:
        with _calls:
            outputs: list[Any] = (
                session.run(names, inputs) if device is None else _run_on(session, names, inputs, device)
            )
    except Exception as error:
        # of what is bound to a device onnxruntime raises plain RuntimeErrors
        if not (type(error).__module__.startswith("onnxruntime") or (device and type(error) is RuntimeError)):
            raise
        reason = first_line(error)
        if _is_out_of_memory(error):
            raise MemoryError(f"onnxruntime: {reason}") from error
        raise RuntimeError(f"onnxruntime failed in the network: {reason}. The model file may be damaged") from error
    for (name, expected), output in zip(shapes.items(), outputs, strict=True):
        found = output.shape if isinstance(output, np.ndarray) else output.shape()
        if tuple(found) != expected:
            raise RuntimeError(
                f"the graph made {name} of shape {tuple(found)}, expected {expected}: the file is damaged"
            )
    return outputs


def _run_on(session: Any, names: list[str], inputs: dict[str, Any], device: tuple[str, int]) -> list[Any]:
    binding = session.io_binding()
    for name, value in inputs.items():
        bind = binding.bind_cpu_input if isinstance(value, np.ndarray) else binding.bind_ortvalue_input
        bind(name, value)
    binding.bind_output(names[0])
    for name in names[1:]:
        binding.bind_output(name, *device)
    session.run_with_iobinding(binding)
    first, *rest = binding.get_outputs()
    return [first.numpy(), *rest]


def device_of(session: Any) -> tuple[str, int] | None:
    """Name and number of the GPU that the session runs on; None on the CPU."""
    options = session.get_provider_options().get(CUDA)
    return None if options is None else ("cuda", int(options["device_id"]))


def read_config(session: Any, path: str | os.PathLike[str], kind: str, parse: Callable[[str], Config]) -> Config:
    """The description in the metadata. Raises ValueError where there is none, or it is not the graph's."""
    metadata = session.get_modelmeta().custom_metadata_map
    if kind not in metadata:
        if kind == METADATA_KEY and ENCODER_KEY in metadata:
            raise ValueError(f"{path} is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=")
        if kind == ENCODER_KEY and METADATA_KEY in metadata:
            raise ValueError(
                f"{path} is a vocoder, not an encoder: open it with VocosONNX, and pass no encoder= or another"
            )
        names = [[node.name for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
        if foreign := foreign_vocos(*names):
            raise ValueError(f"{path} {foreign}")
        raise ValueError(
            f"{path} is an ONNX model but not one of vocos-onnx: its metadata has no entry {kind!r}; "
            f"export the checkpoint with: {_HOW_TO_MAKE[kind]} CHECKPOINT -o MODEL.onnx"
        )
    try:
        return parse(metadata[kind])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; export the checkpoint again with this version") from None


def shape_of(session: Any, name: str, rank: int) -> list[Any] | None:
    """The shape of an input, None where there is none of that name. Raises ValueError where it has another rank."""
    shape = next((node.shape for node in session.get_inputs() if node.name == name), None)
    if shape is not None and len(shape) != rank:
        raise ValueError(f"the input {name} of the graph has the shape {shown(shape)}, expected {rank} dimensions")
    return shape


def check_graph(
    session: Any, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
) -> None:
    """Raises ValueError unless the graph has exactly the inputs and outputs that its metadata describes.

    They are float32, but for a few numbers that are int64 and scalars.
    """
    for what, expected, found in (
        ("inputs", inputs, session.get_inputs()),
        ("outputs", outputs, session.get_outputs()),
    ):
        wanted = [(name, _INT64 if name in _INTEGERS else _FLOAT32, list(shape)) for name, shape in expected.items()]
        given = [(node.name, node.type, node.shape) for node in found]
        if sorted(given, key=str) != sorted(wanted, key=str):
            raise ValueError(
                f"the metadata contradicts the graph: its {what} are {listed(given)}, expected {listed(wanted)}"
            )


def _onnxruntime() -> Any:
    """The module, without its telemetry, which writes into the user's home. What the user has set about that stays."""
    imported_before = "onnxruntime" in sys.modules
    chosen = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        if imported_before and chosen == "1":  # by somebody else, before that was set
            onnxruntime.disable_telemetry_events()
        onnxruntime.InferenceSession  # noqa: B018  what a half-removed wheel leaves behind is an empty module
    except (ImportError, AttributeError) as error:
        if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
            raise ImportError(f"onnxruntime is installed, but cannot be loaded: {first_line(error)}") from error
        raise ImportError(
            "onnxruntime is not installed: pip install 'vocos-onnx[cpu]', or 'vocos-onnx[gpu]' for CUDA (not both)"
        ) from error
    return onnxruntime


def _choose_providers(providers: Sequence[Provider] | None, ort: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names or (name, options) pairs as pairs; by default CUDA where onnxruntime has it, and the CPU."""
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
            has = f"provider {shown(given)} is not in this onnxruntime, which has {', '.join(available)}"
            likely = _likely(given)
            raise ValueError(
                f"{has}: {_why_no_cuda(ort)}" if name == CUDA else has if likely == given else f"{has}: pass {likely!r}"
            )
        chosen.append((name, {**_DEFAULT_OPTIONS.get(name, {}), **options}))
    return chosen
