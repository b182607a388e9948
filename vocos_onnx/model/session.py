"""Opens a model file: its description, its codebooks, and its network in onnxruntime."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.messages import first_line, listed, shown

from .bundled import bundled_name, find_model
from .config import ENCODER_KEY, EXPORT_AGAIN, METADATA_KEY, EncoderConfig, ModelConfig
from .cpus import read_threads
from .foreign import NOTHING, Settings, own_file
from .mistaken import checked_path, folder_message, foreign_vocos, missing_message, other_kind_message
from .onnx_file import STEP, WHOLE, ModelFile, PinnedFile, Value, aligned, parse_model, read_model
from .operators import FLOAT, INT64, TYPE_NAMES
from .providers import CPU, CUDA, Provider, asks_for_cuda, choose_providers, load_libraries, why_absent
from .runtime import calls, import_onnxruntime, never_destroy_in_forks, reserve_blas_memory
from .shapes import Shape

Config = TypeVar("Config", ModelConfig, EncoderConfig)
Shapes = Mapping[str, Shape]  # of inputs or outputs, by name
# A description, and the inputs and outputs that a graph has -> those that it must have.
ExpectedGraph = Callable[[Config, Shapes, Shapes], tuple[Shapes, Shapes]]
_KEYS: dict[type[ModelConfig | EncoderConfig], str] = {ModelConfig: METADATA_KEY, EncoderConfig: ENCODER_KEY}
_log = logging.getLogger("vocos_onnx")


class Session(Generic[Config]):
    """An open model file. It may be used from many threads at once; ``open_model`` makes it.

    On the CPU alone, onnxruntime opens a graph when it is first needed, once per number of threads, because threads
    belong to its sessions. All sessions share the weights. STEP computes the same as WHOLE, only more slowly, so when
    STEP is opened on several threads, WHOLE on as many threads is closed: else memory would grow by its matrices.

    Attributes:
        config: the description stored in the file.
        codebooks: (num_codebooks, codebook_size, channels), or None if the model has none.
        inputs, outputs: the shapes of the graph's inputs and outputs by name, which ``open_model`` has checked.
        threads: how many threads one call uses.
        providers: those that the network runs on, in order of preference.
        has_branches: whether the graphs WHOLE and STEP differ.
        foreign: the inputs and outputs of another exporter's file, such as "mels -> mag, x, y"; "" for our own.
    """

    def __init__(
        self,
        file: ModelFile,
        config: Config,
        codebooks: Float | None,
        inputs: Shapes,
        outputs: Shapes,
        options: _Options,
    ):
        self.config: Config = config
        self.codebooks = codebooks
        self.inputs, self.outputs = inputs, outputs
        self.threads, self.has_branches, self.foreign = options.threads, file.has_branches, file.foreign
        self._file, self._options = file._replace(data=b""), options  # ``weights`` keeps the memory it needs
        self._opening = threading.Lock()
        self._sessions: dict[tuple[str, int], Any] = {}
        self.providers = [name for name, _ in options.providers]
        self._device: tuple[str, int] | None = None
        if self.providers != [CPU]:
            session = self._session(STEP, self.threads)
            self.providers = session.get_providers()
            cuda = session.get_provider_options().get(CUDA)
            self._device = None if cuda is None else ("cuda", int(cuda["device_id"]))

    def run(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        inputs: Mapping[str, Any],
        *,
        graph: str = STEP,
        alone: bool = False,
        keep: bool = False,
    ) -> list[Any]:
        """Returns the outputs with these names and shapes in float32.

        With ``alone``, everything is computed on the calling thread. With ``keep``, all outputs but the first stay on a
        CUDA device, as values of onnxruntime that may be inputs of another call.

        Raises RuntimeError if onnxruntime fails, or if an output has another shape, which onnxruntime does not check;
        MemoryError if there is not enough memory.
        """
        names = list(shapes)
        session = self._session(graph, 1 if alone else self.threads)
        device = self._device if keep else None
        try:
            with calls:
                outputs: list[Any] = (
                    session.run(names, inputs) if device is None else _run_on(session, device, names, inputs)
                )
        except Exception as error:
            # With outputs bound to a device, onnxruntime raises plain RuntimeErrors.
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

    def is_open(self, graph: str) -> bool:
        """Whether onnxruntime has this graph open on ``threads``."""
        return (graph, self.threads) in self._sessions

    def placement(self) -> dict[str, list[str]]:
        """Ends the profile of ``open_model``; returns the operators that ran on each provider, one for each node."""
        nodes: dict[str, list[str]] = {}
        for session in self._sessions.values():
            for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
                if event.get("cat") == "Node" and "provider" in event["args"]:
                    nodes.setdefault(event["args"]["provider"], []).append(event["args"]["op_name"])
        return nodes

    def _session(self, graph: str, threads: int) -> Any:
        key = graph if self.has_branches else STEP, threads
        session = self._sessions.get(key)
        if session is None:
            with self._opening:
                session = self._sessions.get(key)
                if session is None:
                    if key == (STEP, self.threads) and self.threads > 1 and self._options.profile is None:
                        self._sessions.pop((WHOLE, self.threads), None)  # callers keep it while they use it
                    session = self._sessions[key] = _start(self._file, key[0], threads, self._options)
        return session


def _run_on(session: Any, device: tuple[str, int], names: list[str], inputs: Mapping[str, Any]) -> list[Any]:
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


class _Options(NamedTuple):
    """How onnxruntime opens a model; ``profile`` is the prefix of the file name of a profile to write, if any."""

    ort: Any
    providers: list[tuple[str, dict[str, Any]]]
    threads: int
    profile: Path | None


def open_model(
    path: str | os.PathLike[str],
    config_class: type[Config],
    expected_graph: ExpectedGraph[Config],
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    profile: Path | None = None,
    settings: Settings = NOTHING,
) -> Session[Config]:
    """Opens a file, or a bundled model by its name. Raises what VocosONNX raises.

    Args:
        path: the path of the file, or the name of a bundled model.
        config_class: the class of the description that the file must have.
        expected_graph: a function that returns the inputs and outputs that the graph must have according to its
            description, given those that it has. Scalars are int64, and everything else is float32. ``open_model``
            raises ValueError if the function does, or if the graph has other inputs or outputs.
        providers: as for VocosONNX. An int8 model only runs on the CPU, as no other provider has its operators.
        threads: how many threads one call uses, by default as many as this process may use.
        profile: the prefix of the file name under which onnxruntime writes the profile for ``placement``.
        settings: what the caller specifies about another exporter's file.
    """
    ort = import_onnxruntime()
    threads = read_threads(threads)
    file = open_file(path, _KEYS[config_class], settings)
    config = _read_config(file, config_class)
    inputs, outputs = _check_graph(file, config, expected_graph)
    codebooks = _check_codebooks(file, config)
    if isinstance(config, ModelConfig) and config.precision == "int8":
        chosen = _for_int8(file.path, providers, ort)
    else:
        chosen = choose_providers(providers, ort)
    reserve_blas_memory()
    load_libraries(chosen, ort)
    session = Session(file, config, codebooks, inputs, outputs, _Options(ort, chosen, threads, profile))
    absent = [name for name, _ in chosen if name not in session.providers]
    if absent:
        used = ", ".join(session.providers)
        failed = f"onnxruntime could not start {', '.join(absent)}"
        if providers is not None:
            raise RuntimeError(f"{failed} and would run on {used}: {why_absent(absent, ort)}")
        _log.warning("%s: %s", failed, why_absent(absent, ort))
    _log.info("%s runs on %s", file.path, ", ".join(session.providers))
    return session


def open_file(path: str | os.PathLike[str], key: str, settings: Settings = NOTHING) -> ModelFile:
    """Reads and checks a file, given by its path or the name of a bundled model, without loading it in onnxruntime.

    ``key`` is the metadata key that the caller wants, METADATA_KEY or ENCODER_KEY. The remedies in messages depend on
    it, but a file of the other kind is still returned. If a vocoder is wanted, another exporter's file is returned as
    one of ours, which runs its graph in onnxruntime; ``settings`` are what the caller specifies about it.

    Raises FileNotFoundError or ValueError as VocosONNX does, but does not read the description.
    """
    file = stored_file(path, key)
    if key == METADATA_KEY and not file.metadata.keys() & {METADATA_KEY, ENCODER_KEY}:
        return parse_model(file.path, _as_own(file, settings), foreign=_ends(file))
    if settings.said:
        raise ValueError(
            f"{listed(settings.said)} given for {file.path}, which is a model of vocos-onnx and says that itself: "
            f"leave {'it' if len(settings.said) == 1 else 'them'} out"
        )
    return file


def stored_file(path: str | os.PathLike[str], key: str) -> ModelFile:
    """``open_file`` that returns another exporter's file as it is. Raises the same."""
    pinned = path if isinstance(path, PinnedFile) else None
    given, path = path, find_model(checked_path(path, key))
    if not path.exists():
        raise FileNotFoundError(missing_message(given, key))
    if path.is_dir():
        raise ValueError(folder_message(path, key))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected the .onnx file that vocos-onnx convert wrote")
    expected = {} if pinned is None else {"sha256": pinned.sha256, "remedy": pinned.remedy}
    return read_model(path, key, **expected)


def _ends(file: ModelFile) -> str:
    inputs, outputs = (listed(value.name or "unnamed" for value in values) for values in (file.inputs, file.outputs))
    return f"{inputs} -> {outputs}"


def _as_own(file: ModelFile, settings: Settings) -> bytes:
    """Converts another exporter's file to one of ours, see ``foreign.own_file``."""
    ort = import_onnxruntime()
    sessions: list[Any] = []

    def run(given: Float) -> list[npt.NDArray[Any]]:
        if not sessions:
            how = _Options(ort, [(CPU, {})], read_threads(None), None)
            sessions.append(_start(file, STEP, how.threads, how))
        try:
            with calls:
                outputs: list[npt.NDArray[Any]] = sessions[0].run(None, {file.inputs[0].name: given})
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ValueError(f"{file.path}: onnxruntime cannot run it: {first_line(error)}") from error
        return outputs

    return own_file(file, settings, run)


def own_bytes(path: Path, settings: Settings) -> bytes:
    """Converts another exporter's file to one of ours, to be written. Raises as ``open_file``, or if it is ours."""
    file = read_model(path)
    if keys := file.metadata.keys() & {METADATA_KEY, ENCODER_KEY}:
        raise ValueError(f"{path} is a model of vocos-onnx already ({listed(keys)} in its metadata): copy it")
    data = _as_own(file, settings)
    parse_model(path, data)
    return aligned(data)


def _read_config(file: ModelFile, config_class: type[Config]) -> Config:
    """Returns the description in the metadata. Raises ValueError if there is none, or if it is damaged."""
    path, metadata, key = file.path, file.metadata, _KEYS[config_class]
    if key in metadata:
        try:
            return config_class.from_json(metadata[key])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if {METADATA_KEY, ENCODER_KEY} & metadata.keys():
        raise ValueError(other_kind_message(bundled_name(path) or str(path), key))
    if what := foreign_vocos([v.name for v in file.inputs], [v.name for v in file.outputs]):
        raise ValueError(f"{path} {what}, not an encoder: open it with VocosONNX")
    raise ValueError(
        f"{path} is an ONNX model but not one of vocos-onnx: its metadata has no entry {key!r}; "
        f"convert the checkpoint with: vocos-onnx convert CHECKPOINT -o MODEL.onnx"
    )


def _check_graph(file: ModelFile, config: Config, expected_graph: ExpectedGraph[Config]) -> tuple[Shapes, Shapes]:
    """Returns the shapes of the inputs and outputs. Raises ValueError unless they are exactly the expected ones."""
    inputs, outputs = ({value.name: value.shape for value in values} for values in (file.inputs, file.outputs))
    try:
        expected = expected_graph(config, inputs, outputs)
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
    """Returns the shape of an input; None if there is no such input. Raises ValueError if it has another rank."""
    shape = inputs.get(name)
    if shape is not None and len(shape) != rank:
        raise ValueError(
            f"the input {name} of the graph has the shape {shown(list(shape))}, expected {rank} dimensions"
        )
    return shape


def _check_codebooks(file: ModelFile, config: ModelConfig | EncoderConfig) -> Float | None:
    """Returns the codebooks.

    Raises ValueError if they contradict the description, or hold NaN or infinity. The fingerprints in the description
    match encoders with decoders and identify tokens, so the codebooks must have exactly those.
    """
    codebooks = file.codebooks
    expected: tuple[int, ...] | None = None
    said: tuple[str, ...] = ()  # the fingerprints of the first 1, 2, ... codebooks, or only that of all of them
    if isinstance(config, EncoderConfig):
        expected = (config.num_codebooks, config.codebook_size, config.channels)
        said = config.codebooks_sha256
    elif config.encodec is not None:
        expected = (config.encodec.num_codebooks, config.encodec.codebook_size, config.feature_channels)
        said = (config.encodec.codebooks_sha256,)
    shape = None if codebooks is None else codebooks.shape
    if shape != expected:
        raise ValueError(
            f"{file.path}: the metadata contradicts the graph: its codebooks are "
            f"{_shape_text(shape)}, expected {_shape_text(expected)}; {EXPORT_AGAIN}"
        )
    if codebooks is None:
        return None
    if not np.isfinite(codebooks.sum(dtype=np.float64)):  # NaN and infinity carry over to the sum
        raise ValueError("the model's codebooks hold NaN or infinity: the file is damaged, copy or export it again")
    found = fingerprints(codebooks)[-len(said) :]
    if found != said:
        one, other = next(pair for pair in zip(found, said, strict=True) if pair[0] != pair[1])
        raise ValueError(
            f"the model's codebooks have the fingerprint {one}, and its metadata says {other}: the file is damaged, "
            "copy or export it again"
        )
    return codebooks


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"of shape {shape}"


def _for_int8(path: Path, providers: Sequence[Provider] | None, ort: Any) -> list[tuple[str, dict[str, Any]]]:
    """Returns the CPU provider. Raises ValueError if another one was requested."""
    refused = ValueError(
        f"{path} is in int8, for the CPU, and providers is {shown(providers)}; leave it out, or take the model in "
        "float16 or float32"
    )
    if asks_for_cuda(providers):
        raise refused  # even if this onnxruntime has no CUDA: another onnxruntime would not help
    chosen = choose_providers([CPU] if providers is None else providers, ort)
    if any(name != CPU for name, _ in chosen):
        raise refused
    return chosen


def _start(file: ModelFile, graph: str, threads: int, how: _Options) -> Any:
    """Returns an onnxruntime session. Raises ValueError if it cannot load the graph, MemoryError if memory runs out."""
    ort, options = how.ort, _session_options(how.ort, file, threads)
    if how.profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, f"{how.profile}-{graph}"
    try:
        with calls:
            session = ort.InferenceSession(file.graphs[graph], options, providers=how.providers)
    except Exception as error:
        if _is_out_of_memory(error):
            raise MemoryError(f"onnxruntime: {first_line(error)}") from error
        raise ValueError(
            f"onnxruntime cannot load {file.path} ({file.size} bytes): {first_line(error)}. If the file is "
            "truncated or not an ONNX model, copy or export it again"
        ) from error
    # The fallback would load the model again on other providers, and it keeps the model's bytes for that.
    session.disable_fallback()
    session._model_bytes = None  # noqa: SLF001
    never_destroy_in_forks(session)
    return session


def _session_options(ort: Any, file: ModelFile, threads: int) -> Any:
    """Returns the options for a session on a file, including the file's weights."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Otherwise onnxruntime keeps a memory plan for each input shape, which takes 18 MB more for a stream of the bundled
    # codec. Nothing is slower without it.
    options.enable_mem_pattern = False
    # The bytes were checked as ONNX, so onnxruntime must not read them as anything else. It does not read the file
    # again, which may have changed.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Threads must not spin for more work between calls, because numpy and other processes need the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads
    values = [ort.OrtValue.ortvalue_from_numpy(weight) for weight in file.weights.values()]  # without a copy
    options.add_external_initializers(list(file.weights), values)
    return options


def _is_out_of_memory(error: Exception) -> bool:
    return any(words in str(error) for words in ("bad_alloc", "Failed to allocate", "Cannot allocate memory"))


def evaluate(path: Path, inputs: Iterable[Mapping[str, npt.NDArray[Any]]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yields all outputs of a file by name, for each of the inputs; on the CPU, with little memory."""
    ort, file = import_onnxruntime(), read_model(path)
    options = _session_options(ort, file, read_threads(None))
    options.add_session_config_entry("session.disable_prepacking", "1")  # prepacking would copy all matrices
    session = ort.InferenceSession(file.graphs[STEP], options, providers=[CPU])
    never_destroy_in_forks(session)
    names = [output.name for output in session.get_outputs()]
    for given in inputs:
        with calls:
            yield dict(zip(names, session.run(names, dict(given)), strict=True))
