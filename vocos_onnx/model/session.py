"""A model file -> an open model: its description, its codebooks, and its network in onnxruntime."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.quantizer import check_codebooks
from vocos_onnx.messages import first_line, listed, shown

from .bundled import find_model
from .config import ENCODER_KEY, EXPORT_AGAIN, METADATA_KEY, EncoderConfig, ModelConfig
from .cpus import read_threads
from .mistaken import checked_path, export_command, foreign_vocos, in_a_folder, missing
from .onnx_file import ModelFile, PinnedFile, Value, read_model
from .operators import FLOAT, INT64, TYPE_NAMES
from .providers import CPU, CUDA, Provider, asks_for_cuda, choose_providers, load_libraries, why_absent
from .runtime import calls, import_onnxruntime, keep_in_children, reserve_for_products
from .shapes import Shape

Config = TypeVar("Config", ModelConfig, EncoderConfig)
Shapes = Mapping[str, Shape]  # of inputs or outputs, by name
Graph = Callable[[Config, Shapes, Shapes], tuple[Shapes, Shapes]]
_KEYS: dict[type[ModelConfig | EncoderConfig], str] = {ModelConfig: METADATA_KEY, EncoderConfig: ENCODER_KEY}
_log = logging.getLogger("vocos_onnx")


class Session(Generic[Config]):
    """An open model file. It may be used from many threads at once; ``open_model`` makes it.

    Attributes:
        config: the description that the file carries.
        codebooks: (num_codebooks, codebook_size, channels); None of a model without.
        inputs, outputs: the shapes of what the graph takes and makes, by name, which ``open_model`` has checked.
        providers: what the network runs on, in order of preference.
    """

    def __init__(self, config: Config, codebooks: Float | None, inputs: Shapes, outputs: Shapes, session: Any):
        self.config: Config = config
        self.codebooks = codebooks
        self.inputs, self.outputs = inputs, outputs
        self._session = session
        self.providers: list[str] = session.get_providers()
        cuda = session.get_provider_options().get(CUDA)
        self._device = None if cuda is None else ("cuda", int(cuda["device_id"]))

    def run(self, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Any], *, keep: bool = False) -> list[Any]:
        """The outputs of these names and shapes, float32, as onnxruntime computes them.

        ``keep``: on CUDA all outputs but the first stay there, as values of onnxruntime that can be inputs again.

        Raises RuntimeError if it cannot, or if an output has another shape, which onnxruntime lets pass; MemoryError if
        there is not enough for it.
        """
        names = list(shapes)
        device = self._device if keep else None
        try:
            with calls:
                outputs: list[Any] = (
                    self._session.run(names, inputs) if device is None else self._run_on(device, names, inputs)
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

    def _run_on(self, device: tuple[str, int], names: list[str], inputs: Mapping[str, Any]) -> list[Any]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            bind = binding.bind_cpu_input if isinstance(value, np.ndarray) else binding.bind_ortvalue_input
            bind(name, value)
        binding.bind_output(names[0])
        for name in names[1:]:
            binding.bind_output(name, *device)
        self._session.run_with_iobinding(binding)
        first, *rest = binding.get_outputs()
        return [first.numpy(), *rest]

    def placement(self) -> dict[str, list[str]]:
        """The operators that have run on each provider, one entry for each node. Ends the profile of ``open_model``."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        nodes: dict[str, list[str]] = {}
        for event in events:
            if event.get("cat") == "Node" and "provider" in event["args"]:
                nodes.setdefault(event["args"]["provider"], []).append(event["args"]["op_name"])
        return nodes


def open_model(
    path: str | os.PathLike[str],
    kind: type[Config],
    graph: Graph[Config],
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    profile: Path | None = None,
) -> Session[Config]:
    """Open a file, or a bundled model by its name. Raises as VocosONNX.

    Args:
        path: of the file.
        kind: the class of the description that it must carry.
        graph: the inputs and outputs that a graph of such a description must have, given those that it has. Scalars
            are int64, and all else is float32. If it raises ValueError, or the graph has others, the file is refused.
        providers: as VocosONNX takes them. What is in int8 runs on the CPU, for nothing else has its operators.
        threads: of one call, by default all that this process may use.
        profile: how the name of the file begins that onnxruntime writes for ``placement``.
    """
    ort = import_onnxruntime()
    threads = read_threads(threads)
    file = open_file(path, _KEYS[kind])
    config = _read_config(file, kind)
    inputs, outputs = _check_graph(file, config, graph)
    codebooks = _check_table(file, config)
    if isinstance(config, ModelConfig) and config.precision == "int8":
        chosen = _for_int8(file.path, providers, ort)
    else:
        chosen = choose_providers(providers, ort)
    reserve_for_products()
    session = _start(ort, file, chosen, threads, profile)
    used = session.get_providers()
    absent = [name for name, _ in chosen if name not in used]
    if absent:
        failed = f"onnxruntime could not start {', '.join(absent)}"
        if providers is not None:
            raise RuntimeError(f"{failed} and would run on {', '.join(used)}: {why_absent(absent, ort)}")
        _log.warning("%s: %s", failed, why_absent(absent, ort))
    _log.info("%s runs on %s", file.path, ", ".join(used))
    return Session(config, codebooks, inputs, outputs, session)


def open_file(path: str | os.PathLike[str], key: str) -> ModelFile:
    """The file of a path or of the name of a bundled model, read and checked; ``key`` of its metadata is looked for.

    Raises as VocosONNX, but for what onnxruntime or the description would be refused for.
    """
    pinned = path if isinstance(path, PinnedFile) else None
    given, path = path, find_model(checked_path(path, key))
    if not path.exists():
        raise FileNotFoundError(missing(given, key))
    if path.is_dir():
        raise ValueError(in_a_folder(path, key))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected the .onnx file that {export_command(key)} wrote")
    expected = {} if pinned is None else {"sha256": pinned.sha256, "remedy": pinned.remedy}
    return read_model(path, key, **expected)


def _read_config(file: ModelFile, kind: type[Config]) -> Config:
    """The description in the metadata. Raises ValueError if there is none."""
    path, metadata, key = file.path, file.metadata, _KEYS[kind]
    if key in metadata:
        try:
            return kind.from_json(metadata[key])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if key == METADATA_KEY and ENCODER_KEY in metadata:
        raise ValueError(f"{path} is an encoder, audio to tokens: open it with EncodecONNX, or pass it as encoder=")
    if key == ENCODER_KEY and METADATA_KEY in metadata:
        raise ValueError(
            f"{path} is a vocoder, not an encoder: open it with VocosONNX, and pass no encoder= or another"
        )
    if foreign := foreign_vocos([v.name for v in file.inputs], [v.name for v in file.outputs]):
        raise ValueError(f"{path} {foreign}")
    raise ValueError(
        f"{path} is an ONNX model but not one of vocos-onnx: its metadata has no entry {key!r}; "
        f"export the checkpoint with: {export_command(key)} CHECKPOINT -o MODEL.onnx"
    )


def _check_graph(file: ModelFile, config: Config, graph: Graph[Config]) -> tuple[Shapes, Shapes]:
    """The shapes of its inputs and outputs. Raises ValueError unless they are exactly those that are expected."""
    inputs, outputs = ({value.name: value.shape for value in values} for values in (file.inputs, file.outputs))
    try:
        expected = graph(config, inputs, outputs)
        for what, found, wanted in (("inputs", file.inputs, expected[0]), ("outputs", file.outputs, expected[1])):
            right = [Value(name, FLOAT if shape else INT64, tuple(shape)) for name, shape in wanted.items()]
            if sorted(found, key=str) != sorted(right, key=str):
                raise ValueError(
                    f"the metadata contradicts the graph: its {what} are {_described(found)}, expected "
                    f"{_described(right)}"
                )
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}; {EXPORT_AGAIN}") from None
    return inputs, outputs


def _described(values: Sequence[Value]) -> str:
    return listed(
        (value.name, f"tensor({TYPE_NAMES.get(value.type, value.type)})", list(value.shape)) for value in values
    )


def shape_of(inputs: Shapes, name: str, rank: int) -> Shape | None:
    """The shape of an input, None if there is none of that name. Raises ValueError if it has another rank."""
    shape = inputs.get(name)
    if shape is not None and len(shape) != rank:
        raise ValueError(
            f"the input {name} of the graph has the shape {shown(list(shape))}, expected {rank} dimensions"
        )
    return shape


def _check_table(file: ModelFile, config: ModelConfig | EncoderConfig) -> Float | None:
    """The codebooks. Raises ValueError unless they are those of the description."""
    table = file.codebooks
    expected: tuple[int, ...] | None = None
    fingerprints: tuple[str, ...] = ()
    if isinstance(config, EncoderConfig):
        expected = (config.num_codebooks, config.codebook_size, config.channels)
        fingerprints = config.codebooks_sha256
    elif config.encodec is not None:
        expected = (config.encodec.num_codebooks, config.encodec.codebook_size, config.feature_channels)
        fingerprints = (config.encodec.codebooks_sha256,)
    found = None if table is None else table.shape
    if found != expected:
        raise ValueError(
            f"{file.path}: the metadata contradicts the graph: its codebooks are "
            f"{_table_text(found)}, expected {_table_text(expected)}; {EXPORT_AGAIN}"
        )
    return None if table is None else check_codebooks(table, fingerprints)


def _table_text(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"of shape {shape}"


def _for_int8(path: Path, providers: Sequence[Provider] | None, ort: Any) -> list[tuple[str, dict[str, Any]]]:
    """The CPU. Raises ValueError if another provider is asked for."""
    refused = ValueError(
        f"{path} is in int8, for the CPU, and providers is {shown(providers)}; leave it out, or take the model in "
        "float16 or float32"
    )
    if asks_for_cuda(providers):
        raise refused  # whether or not this onnxruntime has it: no other would change that
    chosen = choose_providers([CPU] if providers is None else providers, ort)
    if any(name != CPU for name, _ in chosen):
        raise refused
    return chosen


def _start(
    ort: Any, file: ModelFile, chosen: list[tuple[str, dict[str, Any]]], threads: int, profile: Path | None
) -> Any:
    """The session of onnxruntime. Raises ValueError if it cannot load the file, MemoryError if there is not enough."""
    load_libraries(chosen, ort)
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    options.log_severity_level = 3
    # What was checked is ONNX, and is read as nothing else. In bytes, for the file may be another by now.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Between two calls no thread spins for more work: the cores are numpy's then, or somebody else's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads
    try:
        with calls:
            session = ort.InferenceSession(file.data, options, providers=chosen)
    except Exception as error:
        if _is_out_of_memory(error):
            raise MemoryError(f"onnxruntime: {first_line(error)}") from error
        raise ValueError(
            f"onnxruntime cannot load {file.path} ({file.size} bytes): {first_line(error)}. If the file is truncated "
            "or not an ONNX model, copy or export it again"
        ) from error
    session.disable_fallback()  # which would load the model again, on other providers than were asked for,
    session._model_bytes = None  # noqa: SLF001 and is what these are kept for
    keep_in_children(session)
    return session


def _is_out_of_memory(error: Exception) -> bool:
    return any(words in str(error) for words in ("bad_alloc", "Failed to allocate", "Cannot allocate memory"))
