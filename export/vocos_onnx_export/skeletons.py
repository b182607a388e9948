"""Writes the skeletons of the known geometries: ``python -m vocos_onnx_export.skeletons [FOLDER [NAME ...]]``.

``vocos_onnx.model.skeletons`` defines their format, and fills them. Each geometry is traced with random weights, like
an export. Then each tensor is looked up among everything that the operators of the format can make from these weights.
As the weights are random, no two results are equal; a tensor that matches none raises an error.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, numpy_helper

from vocos_onnx.arrays import Float
from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.model import encoder_checkpoint, skeletons
from vocos_onnx.model.config import EncodecFeatures, ModelConfig, Quality, Source
from vocos_onnx.model.onnx_bytes import SMALL
from vocos_onnx.model.onnx_file import CODEBOOKS_NAME
from vocos_onnx.model.skeletons import ENCODEC, RANGES, SPECTRUM, Geometry, Range, Step, TensorRecipe

from . import seanet
from .graph import value
from .istft import add_istft
from .modules import ISTFTHead, Vocos, VocosBackbone, WaveNextHead
from .quantization import narrowed, products, whole
from .seanet_graph import seanet_graph
from .tracing import fold, trace, trace_spectrum

FOLDER = Path(__file__).resolve().parents[2] / "models" / "skeletons"
_SOURCE = Source("", "", "", "")


@dataclass(frozen=True)
class Traced:
    """A geometry with random weights: the weights, made-up ranges by layer, and the models as an export makes them."""

    name: str
    weights: Mapping[str, Float]
    ranges: Mapping[str, Range]
    forms: Mapping[str, onnx.ModelProto]

    def archive(self) -> dict[str, bytes]:
        """Returns the members of the archive of skeletons."""
        recipes = _Recipes(self.weights, self.ranges)
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        models, tensors = {}, {}
        for form, proto in self.forms.items():
            model, made = recipes.skeleton(proto)
            models[f"{form}.onnx"], tensors[f"{form}.json"] = model, _json(made)
        return {"weights.json": _json(shapes), **tensors, **models}


def vocoder(name: str, geometry: Geometry, seed: int = 0) -> Traced:
    """Returns a vocoder of this geometry with random weights, in all forms."""
    g, random = geometry, torch.Generator().manual_seed(seed)
    backbone = VocosBackbone(g.input_channels, g.dim, g.intermediate_dim, g.num_layers, None, g.adanorm_num_embeddings)
    head = ISTFTHead if g.head == "istft" else WaveNextHead
    model = Vocos(backbone, head(g.dim, g.n_fft, g.hop_length, g.padding)).eval()
    weights = _randomised(model, random)
    config = _config(geometry, backbone.reach)
    fold(model)
    spectrum = {SPECTRUM: trace_spectrum(model)} if g.head == "istft" else {}
    plain = trace(model, config, None)
    with_istft = _copy(plain)
    add_istft(with_istft, config)

    recipes = _Recipes(weights, {})
    layers = {
        tensor.name: str(steps[0][1]).removesuffix(".weight")
        for tensor in plain.graph.initializer
        if (steps := recipes.steps(tensor))
    }
    used = [layers[node.input[1]] for node in products(whole(plain).graph)]
    ranges = {layer: _range(i) for i, layer in enumerate(used)}
    by_weight = {weight: ranges[layer] for weight, layer in layers.items() if layer in ranges}

    forms = {"float32": plain, "float32-istft": with_istft}
    for precision in "int8", "float16":
        narrow = replace(config, precision=precision, quality=Quality(0.0, None, 0.0))
        for suffix in "", "-istft":
            forms[precision + suffix] = narrowed(forms[f"float32{suffix}"], narrow, by_weight)
    forms |= {RANGES: _watched(whole(plain), layers), **spectrum}
    return Traced(name, weights, ranges, forms)


def encoder(seed: int = 0) -> Traced:
    """Returns EnCodec's encoder with random weights."""
    geometry = encoder_checkpoint.Geometry()
    model = seanet.SEANetEncoder(geometry).eval()
    weights = _randomised(model, torch.Generator().manual_seed(seed))
    count = max(geometry.codebooks_per_bandwidth)
    codebooks = torch.zeros(count, geometry.codebook_size, geometry.hidden_size)
    proto = seanet_graph(model, geometry.described(codebooks.numpy(), _SOURCE), codebooks)
    return Traced(ENCODEC, weights, {}, {"float32": proto})


class _Recipes:
    """Everything that the operators of the format can make from weights and ranges."""

    def __init__(self, weights: Mapping[str, Float], ranges: Mapping[str, Range]) -> None:
        self._weights, self._ranges = weights, ranges
        self._found: dict[tuple[str, bytes], tuple[Step, ...]] = {}  # by dtype and sha256
        for name, weight in weights.items():
            for steps in _of_a_weight(name, weight, weights):
                self._add(steps)
        for layer in ranges:
            self._add((("input_scale", layer),))
            self._add((("input_zero", layer),))

    def _add(self, steps: tuple[Step, ...]) -> None:
        recipe = TensorRecipe("", _type_of(steps), (-1,), steps)
        key = _key(recipe.made(self._weights, self._ranges))
        if key in self._found:
            raise ValueError(f"{steps} and {self._found[key]} make the same of these weights")
        self._found[key] = steps

    def steps(self, tensor: TensorProto) -> tuple[Step, ...] | None:
        """Returns the steps that make a tensor; None if it is a constant of the graph.

        Raises ValueError if it is neither.
        """
        array = numpy_helper.to_array(tensor)
        steps = self._found.get(_key(array)) or _constant(array)
        if steps is None and not (array.size <= 1 or (array.dtype.kind == "i" and array.nbytes <= SMALL)):
            raise ValueError(f"no recipe makes the tensor {tensor.name} {array.dtype} {array.shape}")
        return steps

    def skeleton(self, proto: onnx.ModelProto) -> tuple[bytes, list[TensorRecipe]]:
        """Returns a model without its tensors, and their recipes. Raises ValueError if a tensor has no recipe."""
        onnx.checker.check_model(proto)
        model, tensors = _copy(proto), []
        for field in "metadata_props", "producer_name", "producer_version":
            model.ClearField(field)
        del model.graph.initializer[:]
        for tensor in proto.graph.initializer:
            if tensor.name == CODEBOOKS_NAME:
                continue
            steps = self.steps(tensor)
            if steps is None:
                constant = model.graph.initializer.add()
                constant.CopyFrom(tensor)
                constant.ClearField("doc_string")
            else:
                dtype = str(numpy_helper.to_array(tensor).dtype)
                tensors.append(TensorRecipe(tensor.name, dtype, tuple(tensor.dims), steps))
        used = {argument for tensor in tensors for step in tensor.steps for argument in step[1:]}
        if unused := self._weights.keys() - used:
            raise ValueError(f"the graph does not use {sorted(unused)}")
        return model.SerializeToString(deterministic=True), tensors


def _of_a_weight(name: str, weight: Float, weights: Mapping[str, Float]) -> Iterator[tuple[Step, ...]]:
    """Yields the steps of everything that may be made from a weight."""
    if ".weight_" in name or ".bias_" in name:  # an LSTM
        if ".weight_" in name:
            yield (("gates", name),)
        elif ".bias_ih" in name:
            yield (("gates", name, name.replace("bias_ih", "bias_hh")),)
        return
    layer, _, kind = name.rpartition(".")
    gamma = f"{layer.rpartition('.')[0]}.gamma"
    if kind == "gamma" or layer == "head.linear_2":  # these are folded into others
        return
    steps: tuple[Step, ...] = (("weight", name),)
    if layer.endswith(".pwconv2") and gamma in weights:
        steps = (*steps, ("times", gamma))
    if layer == "head.linear_1":
        steps = (*steps, ("through", "head.linear_2.weight"))
    if weight.ndim == 2 and not layer.endswith((".scale", ".shift")):  # those are tables
        steps = (*steps, ("transpose",))
        yield (*steps, ("int8",))
        yield (*steps, ("column_scales",))
    yield steps
    yield (*steps, ("float16",))


def _constant(array: npt.NDArray[Any]) -> tuple[Step, ...] | None:
    """Returns the steps of tensors that depend on no weight: zero points, the inverse STFT."""
    if array.dtype == np.int8 and not array.any():
        return (("zeros",),)
    if array.dtype != np.float32 or array.ndim == 0:
        return None
    n_fft = array.shape[-1]
    candidates: list[Step] = []
    if array.ndim == 1 and array.size > 1:
        candidates = [("squared_window", n_fft)]
    if array.shape == (n_fft + 2, n_fft):
        candidates = [("istft_basis", n_fft)]
    for step in candidates:
        if _key(TensorRecipe("", "float32", array.shape, (step,)).made({})) == _key(array):
            return (step,)
    return None


def _type_of(steps: Sequence[Step]) -> str:
    types = {"input_zero": "uint8", "int8": "int8", "float16": "float16"}
    return types.get(steps[-1][0], "float32")


def _key(array: npt.NDArray[Any]) -> tuple[str, bytes]:
    return str(array.dtype), hashlib.sha256(array.tobytes()).digest()


def _randomised(model: torch.nn.Module, random: torch.Generator) -> dict[str, Float]:
    """Gives a network random weights; returns them."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02, generator=random)
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def _range(i: int) -> Range:
    """A range with a unique scale and zero point."""
    width = 1 + i / 16
    low = -width * (3 + 7 * i) / 255
    return low, low + width


def _config(geometry: Geometry, reach: int) -> ModelConfig:
    """A config whose graph-shaping fields match the geometry."""
    g = geometry
    mel = MelFeatures(g.n_fft, g.hop_length, g.input_channels, g.padding, 0.0, 12_000.0, "htk", "none", 1e-7)
    return ModelConfig(
        sample_rate=24_000,
        head=g.head,
        n_fft=g.n_fft if g.head == "istft" else g.hop_length,
        hop_length=g.hop_length,
        padding=g.padding,
        clip_audio=g.head == "wavenext",
        feature_channels=g.input_channels,
        num_bandwidth_ids=g.adanorm_num_embeddings,
        reach=reach,
        encodec=EncodecFeatures("", 1, 1, (0.0,), (1,), "") if g.adanorm_num_embeddings else None,
        mel=None if g.adanorm_num_embeddings else mel,
        source=_SOURCE,
    )


def _watched(network: onnx.ModelProto, layers: Mapping[str, str]) -> onnx.ModelProto:
    """Returns the network with the left operands of its products as outputs, named after the layers."""
    names = {node.input[0]: layers[node.input[1]] for node in products(network.graph)}
    rows = {layers[tensor.name]: tensor.dims[0] for tensor in network.graph.initializer if tensor.name in layers}
    watched = _copy(network)
    for node in watched.graph.node:
        for values in node.input, node.output:
            values[:] = [names.get(name, name) for name in values]
    del watched.graph.output[:]
    for name in names.values():
        axes = ("batch", "frames") if name.startswith("head.") else ("batch", 1, "frames")
        watched.graph.output.append(value(name, *axes, rows[name]))
    return watched


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def compressed(members: Mapping[str, bytes]) -> bytes:
    """Returns a reproducible archive of these files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return lzma.compress(archive.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def traced(name: str, seed: int = 0) -> Traced:
    """Returns the geometry of this name with random weights."""
    return encoder(seed) if name == ENCODEC else vocoder(name, skeletons.known()[name], seed)


def main(folder: Path = FOLDER, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names or (*skeletons.known(), ENCODEC):
        archive = compressed(traced(name).archive())
        (folder / f"{name}.tar.xz").write_bytes(archive)
        print(f"{name}: {len(archive)} bytes", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FOLDER, *sys.argv[2:])
