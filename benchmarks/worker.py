"""The process of a contender: the harness starts python -m benchmarks.worker NAME GEOMETRY FOLDER [--threads N]."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.contenders import (
    BANDWIDTH_ID,
    CHUNK,
    CODEBOOKS,
    COMPILED,
    COMPILED_BFLOAT16,
    DYNAMIC,
    EAGER_BFLOAT16,
    GEOMETRIES,
    OPENVINO,
    OPENVINO_INT8,
    OPENVINO_INT8_DEFAULT,
    STREAMING_VOCOS,
    VERSIONS,
)  # fmt: skip
from benchmarks.harness import Case, serve
from benchmarks.versions import FOLDERS


@dataclass(frozen=True)
class Input:
    """Tokens (K, T) or mels (C, T), and how they are cut."""

    values: np.ndarray
    case: Case

    def items(self) -> list[np.ndarray]:
        frames = self.values.shape[1]
        if self.case.cut == "items":
            return np.array_split(self.values, max(1, round(self.case.seconds)), axis=1)
        cuts = np.sort(np.random.default_rng(1).integers(0, frames, frames // 150))
        return [piece for piece in np.split(self.values, cuts, axis=1) if piece.shape[1] > 1]

    def chunks(self) -> Iterator[np.ndarray]:
        return (self.values[:, i : i + CHUNK] for i in range(0, self.values.shape[1], CHUNK))


def make_values(geometry: str, seconds: float) -> np.ndarray:
    rng, frames = np.random.default_rng(0), round(seconds * GEOMETRIES[geometry])
    if geometry == "encodec":
        return rng.integers(1024, size=(CODEBOOKS, frames))
    return rng.uniform(-8, 2, (100, frames)).astype(np.float32)


class Model(Protocol):
    def decode(self, given: Input) -> np.ndarray:
        """The audio (samples,): all items concatenated; of several streams, that of the last."""

    def note(self) -> str: ...


class Torch:
    """Upstream, as its users run it. The items of a list are decoded one by one."""

    def __init__(self, name: str, geometry: str, folder: Path, threads: int):
        import torch

        torch.set_num_threads(threads)
        self._name, self._geometry = name, geometry
        self._model = _upstream(geometry, folder)
        self._bandwidth_id = torch.tensor([BANDWIDTH_ID])
        if name == DYNAMIC:
            for part in ("backbone", "head"):
                quantised = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                    getattr(self._model, part), {torch.nn.Linear}, dtype=torch.qint8
                )
                setattr(self._model, part, quantised)
        self._compiled = name in (COMPILED, COMPILED_BFLOAT16)
        self._bfloat16 = name in (EAGER_BFLOAT16, COMPILED_BFLOAT16)
        self._run = torch.compile(self._network) if self._compiled else self._network

    def decode(self, given: Input) -> np.ndarray:
        if given.case.cut in ("items", "pieces"):
            return np.concatenate([self._one(item) for item in given.items()])
        return self._one(given.values)

    def note(self) -> str:
        import torch

        what = "codes_to_features, backbone, head (with its inverse STFT), inference_mode"
        if self._name == DYNAMIC:
            what += "; torch.ao quantize_dynamic of Linear"
        if self._bfloat16:
            what += "; backbone and head under autocast, the inverse STFT of complex64"
        if self._compiled:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            what += f"; backbone and head by inductor, {graphs} graphs over all lengths"
        return what

    def _one(self, values: np.ndarray) -> np.ndarray:
        import torch

        autocast: AbstractContextManager[Any] = (
            torch.autocast("cpu", dtype=torch.bfloat16) if self._bfloat16 else nullcontext()
        )
        with torch.inference_mode():
            features = _features(self._model, self._geometry, values)
            with autocast:
                audio = self._run(features)
            assert audio.dtype == torch.float32, audio.dtype
            return audio.numpy()[0]

    def _network(self, features: Any) -> Any:
        """The same as Vocos.decode, without its decorator."""
        return self._model.head(self._model.backbone(features, bandwidth_id=self._bandwidth_id))


class StreamingVocos:
    """Decodes chunks with context on either side, by default 24 or 30 frames, which it recomputes for each chunk."""

    def __init__(self, geometry: str, folder: Path, threads: int):
        import torch
        import vocos
        from streaming_vocos import StreamingVocos

        torch.set_num_threads(threads)
        self._geometry, self._model = geometry, _upstream(geometry, folder)
        vocos.Vocos.from_pretrained = lambda repo: self._model  # else it would load it from the hub
        kind, hop = geometry.split("-")[0], 320 if geometry == "encodec" else 256
        self._stream = StreamingVocos(kind, bandwidth_id=BANDWIDTH_ID, chunk_size_ms=CHUNK * hop / 24 + 0.01)

    def decode(self, given: Input) -> np.ndarray:
        import torch

        assert given.case.cut == "chunks"
        with torch.inference_mode():
            features, stream = _features(self._model, self._geometry, given.values), self._stream
            parts = [
                audio for i in range(features.shape[2]) for audio in stream.streaming_decode(features[:, :, i : i + 1])
            ]
            return torch.cat([*parts, stream.decode_caches()], dim=1)[0].numpy()

    def note(self) -> str:
        return f"chunks of {self._stream.chunk_size} frames, and {self._stream.padding} on both sides, computed again"


class OpenVINO:
    """The plain network, converted from torch; this package looks up the tokens and turns the spectra into audio."""

    def __init__(self, name: str, geometry: str, folder: Path, threads: int):
        import openvino as ov
        import torch

        from vocos_onnx import VocosONNX
        from vocos_onnx.inverse import Inverse
        from vocos_onnx_export.checkpoint import build, load

        self._ours = VocosONNX(folder / "vocos-onnx" / "model.onnx", threads=1, providers=["CPUExecutionProvider"])
        self._inverse, self._geometry = Inverse(self._ours.config), geometry
        self._ids = [np.array(BANDWIDTH_ID)] if geometry == "encodec" else []
        channels = self._ours.config.feature_channels
        network = build(load(str(folder)))[0]
        example = (torch.zeros(1, channels, 50), *(torch.from_numpy(i) for i in self._ids))
        graph = ov.convert_model(network, example_input=example)
        self._is_int8 = name in (OPENVINO_INT8, OPENVINO_INT8_DEFAULT)
        if self._is_int8:
            import nncf

            items = nncf.Dataset([self._inputs(make_values(geometry, seconds)) for seconds in (1, 2, 3)])
            # MIXED means symmetric weights and asymmetric activations.
            graph = nncf.quantize(graph, items, preset=nncf.QuantizationPreset.MIXED, subset_size=3)
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if name in (OPENVINO, OPENVINO_INT8):  # by default it uses bfloat16 if the processor can
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = ov.Core().compile_model(graph, "CPU", settings)
        self._precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._request = compiled.create_infer_request()

    def decode(self, given: Input) -> np.ndarray:
        if given.case.cut in ("items", "pieces"):
            return np.concatenate([self._one(item) for item in given.items()])
        return self._one(given.values)

    def note(self) -> str:
        precision = f"int8, the rest in {self._precision}" if self._is_int8 else self._precision
        return f"the plain network from torch, in {precision}; look-up and inverse STFT of vocos_onnx"

    def _inputs(self, values: np.ndarray) -> list[np.ndarray]:
        features = self._ours.codes_to_features(values) if self._geometry == "encodec" else values[None]
        return [features, *self._ids]

    def _one(self, values: np.ndarray) -> np.ndarray:
        spectrum = self._request.infer(self._inputs(values), share_inputs=True, share_outputs=True)[0]
        return self._inverse.overlap_add().push(spectrum.view(np.complex64)[..., 0], last=True)[0]


class Ours:
    """This package, or 0.4.0, whichever the environment provides."""

    def __init__(self, name: str, folder: Path, threads: int):
        import vocos_onnx

        version, precision = name.split()
        imported = Path(vocos_onnx.__file__).parent.parent.name
        assert imported == FOLDERS[version], f"{name} imports the version in {imported}"
        file = folder / version / ("int8.onnx" if precision == "int8" else "model.onnx")
        self._model: Any = vocos_onnx.VocosONNX(file, threads=threads, providers=["CPUExecutionProvider"])
        self._index = BANDWIDTH_ID if self._model.config.num_bandwidth_ids else None
        self._ways: set[str] = set()

    def decode(self, given: Input) -> np.ndarray:
        cut = given.case.cut
        if cut == "pool":
            return self._pool(given)
        if cut == "chunks":
            self._ways.add("decode_stream")
            return np.concatenate(list(self._model.decode_stream(given.chunks(), self._index)))
        self._ways.add("decode")
        if cut == "whole":
            return self._model.decode(given.values, self._index)
        return np.concatenate(self._model.decode(given.items(), self._index))

    def note(self) -> str:
        return f"VocosONNX.{', '.join(sorted(self._ways))}"

    def _pool(self, given: Input) -> np.ndarray:
        if not hasattr(self._model, "stream_pool"):
            raise NotImplementedError("VocosONNX has no stream_pool")
        self._ways.add("stream_pool")
        results: dict[int, np.ndarray] = {}

        def stream(place: int) -> None:
            own = pool.open(bandwidth_id=self._index)
            parts = [own.push(chunk) for chunk in given.chunks()]
            results[place] = np.concatenate([*parts, own.flush()])

        with self._model.stream_pool(max_streams=256, max_wait=0.005) as pool:
            threads = [threading.Thread(target=stream, args=(place,)) for place in range(given.case.streams)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if len(results) < given.case.streams:
            raise RuntimeError(f"{given.case.streams - len(results)} of {given.case.streams} streams failed")
        return results[given.case.streams - 1]


def _upstream(geometry: str, folder: Path) -> Any:
    import torch

    from tests.parity.upstream import CONFIGS, build

    model = build(CONFIGS[geometry])
    model.load_state_dict(torch.load(folder / "pytorch_model.bin"), strict=False)  # it has no encodec weights
    return model


def _features(model: Any, geometry: str, values: np.ndarray) -> Any:
    import torch

    tensor = torch.from_numpy(values)
    return model.codes_to_features(tensor) if geometry == "encodec" else tensor[None]


def load(
    name: str, geometry: str, folder: Path, threads: int
) -> tuple[Callable[[Input], np.ndarray], Callable[[], str]]:
    model: Model
    if name in VERSIONS:
        model = Ours(name, folder, threads)
    elif name.startswith("OpenVINO"):
        model = OpenVINO(name, geometry, folder, threads)
    elif name == STREAMING_VOCOS:
        model = StreamingVocos(geometry, folder, threads)
    else:
        model = Torch(name, geometry, folder, threads)
    return model.decode, model.note


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("geometry", choices=GEOMETRIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    serve(
        lambda: load(args.name, args.geometry, args.folder, args.threads),
        lambda case: Input(make_values(args.geometry, case.seconds), case),
    )


if __name__ == "__main__":
    main()
