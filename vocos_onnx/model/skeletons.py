"""Models of known geometries without torch: fills a graph that was traced earlier with the tensors of a checkpoint.

The graph of a geometry never changes, only the weights do. A *skeleton* is such a graph without its tensors, in one of
several forms, plus a list of these tensors: their names, types and shapes, and the steps that compute each of them from
the weights of a checkpoint. ``python -m vocos_onnx_export.skeletons`` writes skeletons; ``filled`` writes the model.

The skeletons of a geometry are in one archive (.tar.xz) in models/skeletons/:

- ``weights.json``: the names and shapes of the checkpoint's weights;
- ``FORM.onnx``: the model without metadata and without these tensors;
- ``FORM.json``: the tensors, each as [name, type, shape, steps].

A step is an operator and its arguments. The first step of a tensor makes an array, each further step transforms it, and
finally it gets the tensor's shape:

    ["weight", NAME]             a weight of the checkpoint
    ["gates", NAME, ...]         weights or biases of an LSTM, stacked, with their gates in the order of ONNX
    ["zeros"]                    zeros
    ["input_scale", LAYER]       int8: the scale of a product's left side, from the range of this layer's input
    ["input_zero", LAYER]        int8: its zero point
    ["istft_basis", N_FFT]       the inverse STFT of one frame as a matrix, ``dsp.stft.istft_basis``
    ["squared_window", N_FFT]    the squared Hann window
    ["times", NAME]              multiplies the first axis by a weight, to fold the layer scale
    ["through", NAME]            the product of a weight and this array, ``precision.through``: merges two layers
    ["transpose"]                transposes a matrix
    ["float16"], ["int8"], ["column_scales"]    as in ``precision``
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.stft import hann_window, istft_basis
from vocos_onnx.messages import listed, shown

from .bundled import bundled_file
from .checkpoint import CheckpointError
from .onnx_bytes import SMALL, field, fields_of, number_field, padding_of, varint
from .onnx_file import CODEBOOKS_NAME
from .operators import FLOAT, FLOAT16, INT8, UINT8
from .precision import column_scales, input_scale, through, to_float16, to_int8

Step = tuple[Any, ...]  # the name of an operator, and its arguments
Array = npt.NDArray[Any]
Range = tuple[float, float]  # the smallest and the largest value, with 0 between them


@dataclass(frozen=True)
class Geometry:
    """What shapes the graph of a Vocos: arguments of VocosBackbone and of the head, under upstream's names.

    adanorm_num_embeddings is 0 if the config has none. The head is an ISTFTHead, "istft", or a WaveNextHead,
    "wavenext", on which the padding has no effect, so it is "same".
    """

    input_channels: int
    dim: int
    intermediate_dim: int
    num_layers: int
    adanorm_num_embeddings: int
    n_fft: int
    hop_length: int
    padding: str
    head: str = "istft"


# The float32 graph for whole sequences whose outputs are the inputs of the matrix-product layers, under the layers'
# names. Their ranges on real features are the ranges that int8 needs.
RANGES = "ranges"
# mels (B, n_mels, T) -> mag, x and y, each (B, n_fft/2 + 1, T): magnitude, and cosine and sine of the phase, without a
# state, as others export a Vocos with an ISTFTHead. With adanorm_num_embeddings, the inputs are features and
# bandwidth_id.
SPECTRUM = "spectrum"
FORMS = ("float32", "float32-istft", "int8", "int8-istft", "float16", "float16-istft", RANGES, SPECTRUM)

ENCODEC = "encodec_24khz"  # the encoder of EnCodec 24 kHz, whose only form is "float32"
_KNOWN = {
    "vocos-encodec-24khz": Geometry(128, 384, 1152, 8, 4, 1280, 320, "same"),
    "vocos-mel-24khz": Geometry(100, 512, 1536, 8, 0, 1024, 256, "center"),  # also ChatTTS and the MLX port
    "vocos-mel-22khz": Geometry(80, 512, 1536, 8, 0, 1024, 256, "same"),  # BSC-LT/vocos-mel-22khz
    "vocos-mel-32khz": Geometry(128, 512, 1536, 8, 0, 2048, 1024, "center"),  # ZhangRC/vocos-audioset-32khz
    "vocos-mel-44khz": Geometry(80, 512, 1536, 8, 0, 2048, 512, "same"),  # patriotyk/vocos-mel-hifigan-compat-44100khz
    "vocos-mel-24khz-768": Geometry(100, 768, 2304, 12, 0, 1024, 256, "center"),  # mesolitica/malaysian-vocos-mel-24khz
    "wavenext-mel": Geometry(80, 512, 1536, 8, 0, 1024, 256, "same", "wavenext"),  # BSC-LT/wavenext-mel
    "wavenext-encodec": Geometry(128, 384, 1152, 8, 4, 1280, 320, "same", "wavenext"),  # BSC-LT/wavenext-encodec
}

_TYPES = {"float32": FLOAT, "float16": FLOAT16, "int8": INT8, "uint8": UINT8}
# Fields of ModelProto, of GraphProto, of TensorProto and of StringStringEntryProto, by their names in onnx.proto.
_PRODUCER_NAME, _PRODUCER_VERSION, _GRAPH, _METADATA = 2, 3, 7, 14
_INITIALIZER = 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_KEY, _VALUE = 1, 2


class TensorRecipe(NamedTuple):
    """A tensor of a model: its name, numpy's name of its type, its shape, and the steps that compute it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def made(self, weights: Mapping[str, Float], ranges: Mapping[str, Range] | None = None) -> Array:
        """Computes the tensor from weights and ranges."""
        array: Array = np.zeros(0)
        for operator, *arguments in self.steps:
            array = _applied(operator, arguments, array, self.shape, weights, ranges or {})
        return np.ascontiguousarray(array.reshape(self.shape), np.dtype(self.dtype).newbyteorder("<"))


@dataclass(frozen=True)
class Skeleton:
    """A model without its tensors, in one form, and what is needed to fill it."""

    name: str
    form: str
    model: bytes
    tensors: tuple[TensorRecipe, ...]
    weights: Mapping[str, tuple[int, ...]]  # the shapes of the checkpoint's weights

    @property
    def layers(self) -> list[str]:
        """The layers whose input ranges int8 needs; empty for all other forms."""
        return [step[1] for tensor in self.tensors for step in tensor.steps if step[0] == "input_scale"]


def known() -> dict[str, Geometry]:
    """Returns the geometries that have skeletons, by name."""
    return dict(_KNOWN)


def find(geometry: Geometry) -> str | None:
    """Returns the name of the skeletons of a geometry, or None if there are none."""
    return next((name for name, other in _KNOWN.items() if other == geometry), None)


def forms(name: str) -> tuple[str, ...]:
    """Returns the forms of the skeletons with this name; empty if it is unknown."""
    if name == ENCODEC:
        return FORMS[:1]
    if name not in _KNOWN:
        return ()
    return FORMS if _KNOWN[name].head == "istft" else tuple(form for form in FORMS if form != SPECTRUM)


def load(name: str, form: str = "float32") -> Skeleton:
    """Returns the skeleton of a known geometry, or of ENCODEC, in a form.

    Raises:
        ValueError: there is no such skeleton.

    Example:
        >>> load("vocos-mel-24khz", "int8")
    """
    if form not in forms(name):
        raise ValueError(f"there is no skeleton {shown(name)} in the form {shown(form)}")
    return read(bundled_file(f"skeletons/{name}.tar.xz").read_bytes(), name, form)


def read(archive: bytes, name: str, form: str) -> Skeleton:
    """Reads a skeleton from an archive that ``vocos_onnx_export.skeletons`` wrote."""
    import io
    import lzma
    import tarfile

    files: dict[str, bytes] = {}
    # decompressed at once, because seeking back in a compressed archive decompresses it again
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(archive)), mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            files[member.name] = content.read()
    weights = {key: tuple(shape) for key, shape in json.loads(files["weights.json"]).items()}
    tensors = [
        TensorRecipe(tensor, dtype, tuple(shape), tuple(map(tuple, steps)))
        for tensor, dtype, shape, steps in json.loads(files[f"{form}.json"])
    ]
    return Skeleton(name, form, files[f"{form}.onnx"], tuple(tensors), weights)


def filled(
    skeleton: Skeleton,
    weights: Mapping[str, Float],
    *,
    ranges: Mapping[str, Range] | None = None,
    metadata: Mapping[str, str],
    codebooks: Float | None,
    producer_version: str,
) -> Iterator[bytes]:
    """Yields a model file piece by piece; the pieces one after another are the file.

    Only one tensor is in memory at a time. The tensors are bit for bit those of an export of the same weights, and the
    larger ones begin at multiples of 64 bytes, as in every file of this package.

    Args:
        weights: the network's weights (float32) under the names of the state dict, which are the keys of
            ``skeleton.weights``. Weight norm is folded; the layer scale (gamma) is not. For an encoder: layers.N. ....
        ranges: for int8, the smallest and largest input value of each layer in ``skeleton.layers``, with 0 between
            them.
        metadata: the entries of the model's metadata.
        codebooks: (num_codebooks, codebook_size, channels), which become the initializer that no node uses; or None.
        producer_version: the version of vocos-onnx.

    Raises:
        CheckpointError: weights are missing, have another shape, or are unexpected.
        ValueError: ``ranges`` lacks layers.

    Example:
        >>> with open("model.onnx", "wb") as file:
        ...     file.writelines(filled(load("vocos-mel-24khz"), weights, metadata=metadata, codebooks=None,
        ...                            producer_version="0.4.0"))
    """
    verdict = "is not that of this EnCodec" if skeleton.name == ENCODEC else "does not fit its config"
    check_shapes({name: tuple(np.shape(weight)) for name, weight in weights.items()}, skeleton.weights, verdict)
    missing = [layer for layer in skeleton.layers if layer not in (ranges or {})]
    if missing:
        raise ValueError(f"int8 needs the ranges of the inputs of its layers: they lack {listed(missing)}")
    return _pieces(skeleton, weights, ranges, metadata, codebooks, producer_version)


def check_shapes(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], verdict: str) -> None:
    """Raises CheckpointError, "the state dict VERDICT: ...", unless names and shapes are the expected ones."""
    problems = [f"lacks {name}" for name in expected if name not in given]
    problems += [f"has the unknown key {listed([name])}" for name in given if name not in expected]
    problems += [
        f"has {name} of shape {shown(given[name])}, expected {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"the state dict {verdict}: it {'; '.join(problems[:5])}{more}")


def _pieces(
    skeleton: Skeleton,
    weights: Mapping[str, Float],
    ranges: Mapping[str, Range] | None,
    metadata: Mapping[str, str],
    codebooks: Float | None,
    producer_version: str,
) -> Iterator[bytes]:
    tensors = skeleton.tensors
    if codebooks is not None:
        tensors = (*tensors, TensorRecipe(CODEBOOKS_NAME, "float32", codebooks.shape, (("weight", CODEBOOKS_NAME),)))
        weights = {**weights, CODEBOOKS_NAME: codebooks}
    head, graph, tail = _parts(skeleton.model, metadata, producer_version)
    heads, length, size = [b""], 0, 0
    while size != len(varint(length)):  # which determines where the graph begins
        size = len(varint(length))
        begin, length, heads = len(head) + 1 + size, len(graph), []
        for tensor in tensors:
            heads.append(_tensor_head(tensor, begin + length))
            length += len(heads[-1]) + tensor.size
    yield head + bytes([_GRAPH << 3 | 2]) + varint(length) + graph
    for tensor, tensor_head in zip(tensors, heads, strict=True):
        yield tensor_head
        yield tensor.made(weights, ranges).tobytes()
    yield tail


def _parts(model: bytes, metadata: Mapping[str, str], producer_version: str) -> tuple[bytes, bytes, bytes]:
    """Returns the bytes before the graph, the fields of the graph, and the bytes after it."""
    head: list[bytes] = []
    tail: list[bytes] = []
    graph = b""
    for number, start, content, end in fields_of(model, (0, len(model))):
        if number == _GRAPH:
            graph = model[content:end]
        else:
            (head if number < _GRAPH else tail).append(model[start:end])
    head += [field(_PRODUCER_NAME, b"vocos-onnx"), field(_PRODUCER_VERSION, producer_version.encode())]
    for key, value in metadata.items():
        tail.append(field(_METADATA, field(_KEY, key.encode()) + field(_VALUE, value.encode())))
    return b"".join(head), graph, b"".join(tail)


def _tensor_head(tensor: TensorRecipe, at: int) -> bytes:
    """Returns the beginning of an initializer's field at byte ``at`` of the file, up to its values."""
    contents = b"".join(
        [
            *[number_field(_DIMS, size) for size in tensor.shape],
            number_field(_DATA_TYPE, _TYPES[tensor.dtype]),
            field(_NAME, tensor.name.encode()),
            bytes([_RAW_DATA << 3 | 2]) + varint(tensor.size),
        ]
    )
    if tensor.size > SMALL or tensor.name == CODEBOOKS_NAME:
        contents = padding_of(at, len(contents), len(contents) + tensor.size) + contents
    return bytes([_INITIALIZER << 3 | 2]) + varint(len(contents) + tensor.size) + contents


def _applied(
    operator: str,
    arguments: Sequence[Any],
    array: Array,
    shape: tuple[int, ...],
    weights: Mapping[str, Float],
    ranges: Mapping[str, Range],
) -> Array:
    match operator:
        case "weight":
            return weights[arguments[0]]
        case "gates":
            return np.concatenate([_gates(weights[name]) for name in arguments])
        case "zeros":
            return np.zeros(shape)
        case "input_scale":
            return np.array(input_scale(*ranges[arguments[0]])[0], np.float32)
        case "input_zero":
            return np.array(input_scale(*ranges[arguments[0]])[1], np.uint8)
        case "istft_basis":
            return istft_basis(arguments[0])
        case "squared_window":
            return hann_window(arguments[0]) ** 2
        case "times":
            return array * weights[arguments[0]].reshape(-1, *[1] * (array.ndim - 1))
        case "through":
            return through(array, weights[arguments[0]])
        case "transpose":
            return array.T
        case "float16":
            return to_float16(array)
        case "int8":
            return to_int8(array)
        case "column_scales":
            return column_scales(array)
    raise ValueError(f"the skeleton has the unknown operator {shown(operator)}")


def _gates(weight: Float) -> Float:
    """Reorders gates from torch's order (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    i, f, c, o = np.split(weight, 4)
    return np.concatenate([i, o, f, c])
