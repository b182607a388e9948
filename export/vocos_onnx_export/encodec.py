"""EnCodec encoders to .onnx: Meta's state dict, the layout of facebook/encodec_24khz, and the bundled codec.

Défossez et al., "High Fidelity Neural Audio Compression" (arXiv 2210.13438), as encodec 0.1.1 and transformers define
the encoder (SEANet). Its padding depends on the length of what comes in, at every layer. A trace would freeze that, so
the graph is written operator by operator; ``SEANetEncoder`` is the same in torch, for the verification.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from vocos_onnx import EncodecONNX, __version__
from vocos_onnx.dsp.quantizer import fingerprints
from vocos_onnx.encoder import CHUNK
from vocos_onnx.io.files import check_target, whole_file
from vocos_onnx.io.samples import MIN_RATE
from vocos_onnx.limits import MAX_CONTEXT, MAX_N_FFT, MAX_RATE
from vocos_onnx.messages import first_line, shown
from vocos_onnx.model.bundled import BUNDLED_CODEC
from vocos_onnx.model.config import EncoderConfig, Source, parse_json
from vocos_onnx.model.onnx_file import read_file

from .checkpoint import (
    CODEBOOKS,
    CODECS,
    MAX_CONFIG,
    CheckpointError,
    check_finite,
    check_keys,
    download,
    find_weights,
    fold_weight_norm,
    is_hub_id,
    read_encodec_features,
    read_weights,
    read_yaml,
    source_name,
)
from .graph import OPSET, finish, trace_encoder
from .modules import STFTEncoder
from .verify import Row, finite, relative

ENCODER_WEIGHTS = "encoder.safetensors"  # beside what train/ writes of a decoder

LENGTHS = (1, 319, 320, 321, 2240, 24_001)
BATCHES = (1, 2)
TOLERANCE = 1e-4  # of the embeddings' peak


@dataclass(frozen=True)
class Geometry:
    """What config.json of transformers' EncodecConfig says about the encoder; by default EnCodec 24 kHz."""

    sampling_rate: int = 24_000
    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    compress: int = 2
    num_lstm_layers: int = 2
    codebook_size: int = 1024
    use_conv_shortcut: bool = True

    @property
    def hop_length(self) -> int:
        return math.prod(self.upsampling_ratios)

    @property
    def codebooks_per_bandwidth(self) -> tuple[int, ...]:
        bits = math.log2(self.codebook_size) * math.ceil(self.sampling_rate / self.hop_length)
        return tuple(max(1, math.floor(b * 1000 / bits)) for b in self.target_bandwidths)


# The rest of that config: what is supported is what EnCodec 24 kHz has. (48 kHz is not causal, and normalised.)
_FIXED: dict[str, Any] = {
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "norm_type": "weight_norm",
    "use_causal_conv": True,
    "pad_mode": "reflect",
}
# What a config may say: enough for any EnCodec, and nothing that would fill the memory.
_LEAST = {"sampling_rate": MIN_RATE, "codebook_size": 2, "last_kernel_size": 2, "target_bandwidths": 0}
_MOST = {
    "sampling_rate": MAX_RATE,
    "target_bandwidths": 1000,
    "upsampling_ratios": 64,
    "codebook_size": 1 << 16,
    "num_lstm_layers": 8,
    "num_residual_layers": 8,
    "last_kernel_size": 32,  # no more than the least number of frames that the runtime encodes at once
}
_MOST_CODEBOOKS = 128


class CausalConv(nn.Module):
    """Convolution that is padded by reflection: on the left by what it reaches back, on the right to whole strides."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel_size, stride, dilation=dilation)
        self.left = (kernel_size - 1) * dilation + 1 - stride

    def forward(self, x: Tensor) -> Tensor:
        left, right, length = self.left, -x.shape[-1] % self.conv.stride[0], x.shape[-1]
        # where there is less than the padding, the reference appends zeros, reflects, and cuts as many off the end
        missing = max(0, max(left, right) + 1 - length)
        x = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
        return self.conv(x[..., : left + length + right])


class ResidualBlock(nn.Module):
    def __init__(self, dim: int, hidden: int, kernel_size: int, dilation: int, conv_shortcut: bool) -> None:
        super().__init__()
        # the names of the checkpoint: activations have places in the list too
        self.block = nn.ModuleDict(
            {"1": CausalConv(dim, hidden, kernel_size, dilation=dilation), "3": CausalConv(hidden, dim, 1)}
        )
        self.shortcut = CausalConv(dim, dim, 1) if conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block["3"](F.elu(self.block["1"](F.elu(x))))


class SEANetEncoder(nn.Module):
    """Audio (B, N) -> embeddings (B, C, T), T = ceil(N / hop_length)."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        g, dim = geometry, geometry.num_filters
        layers: list[nn.Module | None] = [CausalConv(1, dim, g.kernel_size)]
        for stride in reversed(g.upsampling_ratios):
            for j in range(g.num_residual_layers):
                dilation = g.dilation_growth_rate**j
                layers.append(
                    ResidualBlock(dim, dim // g.compress, g.residual_kernel_size, dilation, g.use_conv_shortcut)
                )
            layers += [None, CausalConv(dim, 2 * dim, 2 * stride, stride)]
            dim *= 2
        self.lstm_at = len(layers)
        layers += [nn.LSTM(dim, dim, g.num_lstm_layers), None, CausalConv(dim, g.hidden_size, g.last_kernel_size)]
        self.layers = nn.ModuleDict({str(i): layer for i, layer in enumerate(layers) if layer is not None})
        self.hop_length = g.hop_length

    def forward(self, audio: Tensor) -> Tensor:
        x = audio[:, None]
        for layer in self.layers.values():
            if isinstance(layer, nn.LSTM):
                x = x + layer(x.permute(2, 0, 1))[0].permute(1, 2, 0)
            else:
                activated = isinstance(layer, CausalConv) and layer is not self.layers["0"]
                x = layer(F.elu(x) if activated else x)
        return x

    @property
    def left_context(self) -> int:
        """Whole frames that the convolutions before the LSTM reach back."""
        reach, step = 0, 1
        for i, layer in self.layers.items():
            if int(i) < self.lstm_at:
                for conv in (m for m in layer.modules() if isinstance(m, CausalConv)):
                    reach += conv.left * step
                    step *= conv.conv.stride[0]
        return -(-reach // self.hop_length)


class _Graph:
    """The encoder's graph, an operator at a time. Values are called by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, names: list[str] | None = None, **attributes: Any) -> Any:
        names = names or [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value: Any, dtype: Any = None) -> str:
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype)
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def elu(self, x: str) -> str:
        """ELU as max(x, exp(min(x, 0)) - 1): onnxruntime has one kernel for it, which is slower than these four."""
        negative = self.op("Exp", self.op("Clip", x, "", self.constant(0, np.float32)))
        return self.op("Max", x, self.op("Add", negative, self.constant(-1, np.float32)))

    def conv(self, x: str, layer: CausalConv) -> str:
        """A convolution with its padding."""
        pieces, (stride,) = [x], layer.conv.stride
        if layer.left:
            pieces.insert(0, self.reflect_left(x, layer.left))
        if stride > 1:
            pieces.append(self.reflect_right(x, stride))
        return self.convolve(self.op("Concat", *pieces, axis=-1) if len(pieces) > 1 else x, layer.conv)

    def convolve(self, x: str, conv: nn.Conv1d) -> str:
        """In two dimensions, (B, C, 1, T), because onnxruntime has its fastest kernels for those."""
        (stride,), (dilation,) = conv.stride, conv.dilation
        assert conv.bias is not None
        weight, bias = self.constant(conv.weight[:, :, None]), self.constant(conv.bias)
        return self.op("Conv", x, weight, bias, strides=[1, stride], dilations=[1, dilation], pads=[0, 0, 0, 0])

    def reflect_left(self, x: str, count: int) -> str:
        """x[count], ..., x[1], with zeros for those beyond the end."""
        index = self.constant(np.arange(count, 0, -1), np.int64)
        return self.take(x, index, self.op("Less", index, self.length(x)))

    def reflect_right(self, x: str, stride: int) -> str:
        """x[L - 2], x[L - 3], ..., as many as L lacks to a multiple of the stride; zeros where L is less than that."""
        length = self.length(x)
        zero, one, two = (self.constant(i, np.int64) for i in range(3))
        count = self.op("Mod", self.op("Neg", length), self.constant(stride, np.int64))
        index = self.op("Sub", self.op("Sub", length, two), self.op("Range", zero, count, one))
        return self.take(x, index, self.op("Greater", length, self.constant(stride, np.int64)))

    def take(self, x: str, index: str, valid: str) -> str:
        """Elements of the last axis, zero where the index is not valid."""
        last = self.op("Sub", self.length(x), self.constant(1, np.int64))
        index = self.op("Max", self.op("Min", index, last), self.constant(0, np.int64))
        return self.op("Mul", self.op("Gather", x, index, axis=-1), self.op("Cast", valid, to=TensorProto.FLOAT))

    def length(self, x: str) -> str:
        """Size of the last axis, a scalar."""
        return self.op("Squeeze", self.op("Shape", x, start=-1))

    def lstm(self, x: str, layer: nn.LSTM, state: str, next_state: str) -> str:
        """x (B, C, T) -> (B, C, T) with the residual; the state is (h, c) of each layer, (2 · layers, B, C)."""
        x = self.op("Transpose", x, perm=[2, 0, 1])
        y, size, axis = x, layer.hidden_size, self.constant([1], np.int64)
        split = self.op("Split", state, outputs=2 * layer.num_layers, axis=0, num_outputs=2 * layer.num_layers)
        states = []
        for i in range(layer.num_layers):
            weights = [self._gates(getattr(layer, f"weight_{kind}_l{i}")) for kind in ("ih", "hh")]
            bias = torch.cat([self._gates(getattr(layer, f"bias_{kind}_l{i}")) for kind in ("ih", "hh")])
            w, r, b = (self.constant(value[None]) for value in (*weights, bias))
            y, *new = self.op("LSTM", y, w, r, b, "", *split[2 * i : 2 * i + 2], outputs=3, hidden_size=size)
            y = self.op("Squeeze", y, axis)
            states += new
        self.op("Concat", *states, axis=0, names=[next_state])
        return self.op("Transpose", self.op("Add", x, y), perm=[1, 2, 0])

    @staticmethod
    def _gates(value: Tensor) -> Tensor:
        """torch's order of the gates (input, forget, cell, output) in ONNX's (input, output, forget, cell)."""
        i, f, c, o = value.chunk(4)
        return torch.cat([i, o, f, c])


def seanet_graph(encoder: SEANetEncoder, config: EncoderConfig, codebooks: Tensor) -> onnx.ModelProto:
    """Audio (parts, batch, samples) -> embeddings (batch, frames, C) for any length.

    A long recording goes through in stretches. Each brings ``context`` frames of audio before its own, at least
    ``left_context`` unless it is the first, of which the embeddings are left out: they only fill what the convolutions
    reach back. ``lstm`` and ``history`` (the last inputs of the last convolution) are what the stretch before handed on
    in ``next_lstm`` and ``next_history``, zeros at first. Stretches but the last are whole frames.

    A stretch is given in parts, whose convolutions run side by side: with few channels onnxruntime's take no more than
    one thread for each item of a batch. Part j begins ``step`` frames after part j - 1, and all are equally long, so
    that they overlap: by ``left_context`` frames, for what the convolutions reach back, and one more, because the
    last frame of a part may be cut off. With one part, ``step`` does not matter.
    """
    g = _Graph()
    layers = list(encoder.layers.values())
    zero, one, end = (g.constant([i], np.int64) for i in (0, 1, np.iinfo(np.int64).max))
    last_axis, height = g.constant([-1], np.int64), g.constant([2], np.int64)
    parts, batch, samples = g.op("Split", g.op("Shape", "audio"), outputs=3, axis=0, num_outputs=3)
    x = g.op("Reshape", "audio", g.op("Concat", last_axis, one, one, samples, axis=0))
    x = g.conv(x, layers[0])
    for layer in layers[1:-2]:
        if isinstance(layer, ResidualBlock):
            y = g.conv(g.elu(x), layer.block["1"])
            y = g.conv(g.elu(y), layer.block["3"])
            x = g.op("Add", x if isinstance(layer.shortcut, nn.Identity) else g.conv(x, layer.shortcut), y)
        else:
            x = g.conv(g.elu(x), layer)
    # the parts (parts · batch, C, 1, frames), one after another in time (batch, C, frames)
    lstm, last = layers[-2:]
    reach, size = g.constant([config.left_context], np.int64), g.constant([lstm.hidden_size], np.int64)
    x = g.op("Reshape", x, g.op("Concat", parts, batch, size, last_axis, axis=0))
    step = g.op("Unsqueeze", "step", zero)
    middle = g.op("Slice", g.op("Slice", x, zero, last_axis, zero), reach, g.op("Add", reach, step), last_axis)
    count = g.op("Mul", g.op("Sub", parts, one), g.op("Gather", g.op("Shape", middle), g.constant([3], np.int64)))
    shape = g.op("Concat", batch, size, count, axis=0)
    middle = g.op("Reshape", g.op("Transpose", middle, perm=[1, 2, 0, 3]), shape, allowzero=1)
    first_part = g.op("Squeeze", g.op("Slice", x, zero, one, zero), zero)
    last_part = g.op("Squeeze", g.op("Slice", x, last_axis, end, zero), zero)
    head, tail = g.op("Slice", first_part, zero, reach, last_axis), g.op("Slice", last_part, reach, end, last_axis)
    x = g.op("Concat", head, middle, tail, axis=-1)
    x = g.op("Slice", x, g.op("Unsqueeze", "context", zero), end, last_axis)
    x = g.elu(g.lstm(x, lstm, "lstm", "next_lstm"))
    first = g.op("Equal", "context", g.constant(0, np.int64))
    x = g.op("Concat", g.op("Where", first, g.reflect_left(x, last.left), "history"), x, axis=-1)
    g.op("Slice", x, g.constant([-last.left]), end, last_axis, names=["next_history"])
    x = g.op("Squeeze", g.convolve(g.op("Unsqueeze", x, height), last.conv), height)
    g.op("Transpose", x, perm=[0, 2, 1], names=["embeddings"])

    def value(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, shape)

    state = (2 * lstm.num_layers, "batch", lstm.hidden_size)
    history = ("batch", lstm.hidden_size, last.left)
    inputs = [value("audio", "parts", "batch", "samples")]
    inputs += [value(name, dtype=TensorProto.INT64) for name in ("step", "context")]
    inputs += [value("lstm", *state), value("history", *history)]
    outputs = [value("embeddings", "batch", "frames", config.channels)]
    outputs += [value("next_lstm", *state), value("next_history", *history)]
    graph = helper.make_graph(g.nodes, "encoder", inputs, outputs, g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return finish(model, config, codebooks)


def export_encodec(
    checkpoint: str,
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    overwrite: bool = True,
    report: Callable[[str], None] = print,
) -> EncoderConfig:
    """Write an encoder, with its codebooks, as one self-contained .onnx, and verify it against torch.

    Args:
        checkpoint: Meta's encodec_24khz-d7cc33bc.th; a folder or a .safetensors or .bin file with config.json beside it
            in the layout of facebook/encodec_24khz, or its hub id; or the folder of a codec that ``train/`` made.
        output: path to write. Nothing is there, or what was there stays, unless the verification passes.
        revision: branch, tag or commit on the hub.
        overwrite: whether a file that exists is replaced.
        report: called with each line of the report.

    Raises:
        FileNotFoundError: the checkpoint, its config or the output's folder does not exist.
        FileExistsError: the output exists, and ``overwrite`` is false.
        CheckpointError: the checkpoint is not a supported encoder, or the result differs from torch.
    """
    output = Path(output)
    check_target(output, overwrite=overwrite)
    encoder, codebooks, config = _load(checkpoint, revision)
    proto = (
        seanet_graph(encoder, config, codebooks)
        if isinstance(encoder, SEANetEncoder)
        else trace_encoder(encoder, config, codebooks)
    )
    with whole_file(output, overwrite=overwrite) as partial:
        partial.write_bytes(proto.SerializeToString())
        runtime = EncodecONNX(partial, providers=["CPUExecutionProvider"], threads=3)  # so that there are parts
        if not np.array_equal(runtime.codebooks, codebooks.numpy()):
            raise CheckpointError(f"the exported codebooks are not those of {checkpoint}; {output} was not written")
        rows = list(verify(encoder, runtime))
        del runtime
        worst = max(rows, key=lambda row: math.inf if math.isnan(row.difference) else row.difference)
        report(f"largest difference of the embeddings from torch, relative to the peak: {worst.difference:.1e}")
        if not all(row.difference <= TOLERANCE for row in rows):  # not <= where there is a NaN
            raise CheckpointError(
                f"the exported encoder differs from torch by {worst.difference:.1e} (batch {worst.batch}, "
                f"{worst.frames} samples); {output} was not written"
            )
    report(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return config


@torch.inference_mode()
def verify(encoder: nn.Module, runtime: EncodecONNX) -> Iterator[Row]:
    """Compare the embeddings at lengths around every edge, and of audio longer than the runtime encodes at once."""
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        for samples in (*LENGTHS, (CHUNK // batch + 40) * runtime.hop_length + 123):
            audio = rng.normal(0, 0.1, (batch, samples)).astype(np.float32)
            expected = encoder(torch.from_numpy(audio))
            given = finite(lambda: runtime.embed(audio, runtime.sample_rate))  # noqa: B023
            yield Row(None, batch, samples, "embeddings", relative(given, expected))


def _load(checkpoint: str, revision: str | None) -> tuple[nn.Module, Tensor, EncoderConfig]:
    """Modules with their weights, codebooks (K, size, C), and the description of what they are."""
    path = Path(checkpoint)
    found_revision = ""
    if is_hub_id(checkpoint):
        config_path, weights, found_revision = download(checkpoint, revision, "config.json", _WEIGHTS)
        name = checkpoint
    else:
        if revision is not None:
            raise CheckpointError(f"revision {revision!r} is for hub ids; {checkpoint} is not one")
        name = source_name(path)
        if (path / ENCODER_WEIGHTS).is_file():
            return _load_trained(path)
        config_path, weights = _find(path)
    geometry = _read_geometry(config_path)
    state, digest = read_weights(weights)
    _check_name(weights, digest)
    state = _translate(fold_weight_norm(state))
    counts = geometry.codebooks_per_bandwidth
    keys = [f"codebooks.{i}" for i in range(max(counts))]
    try:
        with torch.device("meta"):  # shapes only: a config must not fill the memory with what the weights are not
            codebook = torch.empty(geometry.codebook_size, geometry.hidden_size)
            shapes = SEANetEncoder(geometry)
            expected = {**shapes.state_dict(), **dict.fromkeys(keys, codebook)}
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{config_path} is that of no encoder: {first_line(error)}") from error
    if geometry.hop_length > MAX_N_FFT or shapes.left_context > MAX_CONTEXT:
        raise CheckpointError(
            f"{config_path}: a frame has {geometry.hop_length} samples and sees {shapes.left_context} frames before "
            f"it, expected at most {MAX_N_FFT} and {MAX_CONTEXT}"
        )
    # a model may have more codebooks than its bandwidths use
    state = {key: value for key, value in state.items() if key in expected or not key.startswith("codebooks.")}
    _check_state(state, expected)
    codebooks = torch.stack([state.pop(key).float() for key in keys])
    encoder = SEANetEncoder(geometry).eval()
    encoder.load_state_dict({key: value.float() for key, value in state.items()})
    return (
        encoder,
        codebooks,
        EncoderConfig(
            codec="encodec_24khz",
            input="audio",
            sample_rate=geometry.sampling_rate,
            n_fft=0,
            hop_length=geometry.hop_length,
            channels=geometry.hidden_size,
            left_context=encoder.left_context,
            right_context=0,
            codebook_size=geometry.codebook_size,
            bandwidths=geometry.target_bandwidths,
            codebooks_per_bandwidth=counts,
            codebooks_sha256=fingerprints(codebooks.numpy()),
            source=Source(name, found_revision, digest, __version__),
        ),
    )


_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def _find(path: Path) -> tuple[Path | None, Path]:
    """The config and the weights; a state dict of Meta's has no config."""
    expected = (
        f"Meta's encodec_24khz-d7cc33bc.th, a folder with config.json and {' or '.join(_WEIGHTS)}, or the hub id "
        "facebook/encodec_24khz"
    )
    weights = find_weights(path, _WEIGHTS, expected)
    config = weights.parent / "config.json"
    if path.is_dir() and not config.is_file():
        raise FileNotFoundError(f"no config {config} beside {weights.name}")
    return config if config.is_file() and weights.suffix != ".th" else None, weights


def _check_name(weights: Path, digest: str) -> None:
    """Meta puts the start of the sha256 into the name, and encodec checks it while loading; so do we."""
    match = re.fullmatch(r".+-([0-9a-f]{8})\.th", weights.name)
    if match and not digest.startswith(match[1]):
        raise CheckpointError(
            f"{weights} is damaged or not what it is called: its sha256 begins with {digest[:8]}, not {match[1]}"
        )


def _read_geometry(path: Path | None) -> Geometry:
    if path is None:
        return Geometry()
    try:
        data = parse_json(read_file(path, MAX_CONFIG, "a config").decode(), finite=False)
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON: {first_line(error)}") from error
    if not isinstance(data, dict) or data.get("model_type") != "encodec":
        kind = data.get("model_type") if isinstance(data, dict) else data
        raise CheckpointError(f"{path}: model_type is {shown(kind)}, expected 'encodec'")
    for key, expected in _FIXED.items():
        if data.get(key, expected) != expected:
            raise CheckpointError(
                f"{path}: {key} is {shown(data[key])}, expected {expected!r}; of the EnCodec models only "
                "24 kHz is supported"
            )
    given: dict[str, Any] = {}
    for field in fields(Geometry):
        if field.name not in data:
            continue
        value, default = data[field.name], field.default
        several = isinstance(default, tuple)
        kind = type(default[0]) if several else type(default)
        least, most = _LEAST.get(field.name, 1), _MOST.get(field.name, 4096)
        values = value if several and isinstance(value, list) else [value]
        if (
            several != isinstance(value, list)
            or not 1 <= len(values) <= 16
            or not all(_is_within(v, kind, least, most) for v in values)
        ):
            what = f"a list of {kind.__name__}" if several else kind.__name__
            span = "" if kind is bool else f" from {least} to {most}"
            raise CheckpointError(f"{path}: {field.name} is {shown(value)}, expected {what}{span}")
        given[field.name] = tuple(map(kind, value)) if several else value
    if data.get("codebook_dim") not in (None, given.get("hidden_size", Geometry.hidden_size)):
        raise CheckpointError(f"{path}: codebook_dim is {shown(data['codebook_dim'])}, expected that of hidden_size")
    geometry = Geometry(**given)
    count = max(geometry.codebooks_per_bandwidth)
    if count > _MOST_CODEBOOKS:
        bandwidths = geometry.target_bandwidths
        raise CheckpointError(
            f"{path}: target_bandwidths {bandwidths} take {count} codebooks, expected at most {_MOST_CODEBOOKS}"
        )
    return geometry


def _is_within(value: Any, kind: type, least: float, most: float) -> bool:
    if kind is bool:
        return type(value) is bool
    return type(value) in (int, kind) and least <= value <= most


# Meta's names of a key's parts, and transformers', in our own
_NAMES = (
    (r"encoder\.(?:model|layers)\.", "layers."),
    (r"\.conv\.conv\.", ".conv."),  # Meta wraps each convolution twice
    (r"(\.\d+)\.lstm\.", r"\1."),
    (r"quantizer\.(?:vq\.)?layers\.(\d+)\.(?:_codebook|codebook)\.embed", r"codebooks.\1"),
)


def _translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys that the encoder needs, in our names: layers.N. ... and codebooks.N; the decoder's are left out."""
    translated = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in _NAMES:
            new = re.sub(f"^{pattern}$" if "quantizer" in pattern else pattern, replacement, new, count=1)
        if new.startswith(("layers.", "codebooks.")):
            # the single wrapping of transformers, where ours has the module's own
            translated[new] = value
    return translated


def _check_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    check_keys(state, expected, "is not that of this EnCodec")
    check_finite(state)


def _load_trained(folder: Path) -> tuple[nn.Module, Tensor, EncoderConfig]:
    """What ``train/`` leaves: config.yaml and pytorch_model.bin of the decoder, and encoder.safetensors beside them."""
    for name in ("config.yaml", "pytorch_model.bin"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has an {ENCODER_WEIGHTS} but no {name}, which the training writes too")
    features = read_encodec_features(read_yaml(folder / "config.yaml"))
    if features.codec != BUNDLED_CODEC:
        raise CheckpointError(f"{folder}: the codec is {shown(features.codec)}, expected {BUNDLED_CODEC!r}")
    weights = folder / ENCODER_WEIGHTS
    encoder = STFTEncoder().eval()
    window = encoder.window
    state, digest = read_weights(weights)
    _check_state(state, encoder.state_dict())
    rounding = max(1e-6, torch.finfo(state["window"].dtype).eps)  # in half precision; the exact one is used
    if not (state["window"].float() - window).abs().max() < rounding:
        raise CheckpointError(f"{weights}: the window is not a Hann window of {encoder.n_fft} samples")
    encoder.load_state_dict({k: window if k == "window" else v.float() for k, v in state.items()})
    table, _ = read_weights(folder / "pytorch_model.bin")
    size = (features.num_codebooks * features.codebook_size, encoder.code_dim)
    _check_state({k: v for k, v in table.items() if k == CODEBOOKS}, {CODEBOOKS: torch.empty(size)})
    codebooks = table[CODEBOOKS].float().reshape(features.num_codebooks, features.codebook_size, -1)
    sample_rate, _ = CODECS[features.codec]
    return (
        encoder,
        codebooks,
        EncoderConfig(
            codec=features.codec,
            input="spectrum",
            sample_rate=sample_rate,
            n_fft=encoder.n_fft,
            hop_length=encoder.hop_length,
            channels=codebooks.shape[-1],
            left_context=encoder.context,
            right_context=encoder.context,
            codebook_size=features.codebook_size,
            bandwidths=features.bandwidths,
            codebooks_per_bandwidth=features.codebooks_per_bandwidth,
            codebooks_sha256=fingerprints(codebooks.numpy()),
            source=Source(source_name(folder), "", digest, __version__),
        ),
    )
